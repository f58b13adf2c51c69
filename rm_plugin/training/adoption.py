"""What a trainer trains: a model by name or in memory as a `RewardModel`, and its values past TRL's constructor.

model = as_reward_model(classifier); before = TrainedValues(model); …; before.restore(model)
"""

from __future__ import annotations

import logging

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from trl import RewardConfig

from ..model.adapters import adapters_to_float32, check_peft_method, is_quantized, load_peft_model
from ..model.checkpoint import find_head, is_adapter, load_config
from ..model.head import RewardHead, head_in_use
from ..model.modeling import RewardModel
from ..model.sharding import as_split, gathered

logger = logging.getLogger(__name__)


def load_to_train(path: str, args: RewardConfig, quantization_config) -> RewardModel | PeftModel:
    """A model by name, in float32 (TRL's default) or an adapter's own dtype unless `model_init_kwargs` name one."""
    given = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    kwargs = {name: value for name, value in given.items() if value is not None and name != "num_labels"}
    if quantization_config is not None:
        if "quantization_config" in kwargs:
            raise ValueError(
                "quantization_config is set twice, as an argument and in model_init_kwargs; set one of them"
            )
        kwargs["quantization_config"] = quantization_config
    if "quantization_config" in kwargs and torch.cuda.is_available():
        kwargs.setdefault("device_map", {"": PartialState().local_process_index})
    if is_adapter(path, kwargs):
        model = load_peft_model(RewardModel, path, is_trainable=True, **kwargs)
        check_peft_method(model.active_peft_config, to_train=True)
        return model
    kwargs.setdefault("dtype", torch.float32)
    config, kwargs = load_config(path, kwargs)
    load = RewardModel.from_backbone if find_head(path, config, **kwargs) is None else RewardModel.from_pretrained
    return load(path, config=config, **kwargs)


def as_reward_model(model: PreTrainedModel | PeftModel) -> RewardModel | PeftModel:
    """A model in memory as a `RewardModel`, or a `PeftModel` around one, ready to be trained."""
    if isinstance(model, RewardModel) and model.peft_model is not None:
        model = model.peft_model
    if not isinstance(model, PeftModel):
        return RewardModel.from_sequence_classifier(model)
    check_peft_method(model.active_peft_config, to_train=True)
    if not any(parameter.requires_grad for parameter in model.parameters()):  # loaded to score with
        model.set_adapter(model.active_adapter)
    base = model.get_base_model()
    head = base.score
    if not hasattr(head, "modules_to_save") or not head_in_use(head).weight.requires_grad:
        raise ValueError(
            "the head `score` of the PeftModel is frozen and would not be saved; give the model itself and "
            "peft_config, or make the PeftModel with modules_to_save=['score']"
        )
    if not isinstance(base, RewardModel):
        wrapped = RewardModel.from_sequence_classifier(base)
        base.score = wrapped.score = head
        head.original_module = _reward_head(head.original_module)
        for name, linear in head.modules_to_save.items():
            head.modules_to_save[name] = _reward_head(linear)
        model.base_model.model = wrapped
    return model


def _reward_head(linear: nn.Linear) -> RewardHead:
    return RewardHead(linear.in_features).share(linear)


class TrainedValues:
    """What is trained of a quantised model, as it was before TRL's constructor casts it to bf16, the head included."""

    def __init__(self, model: RewardModel | PeftModel):
        trained = [p for p in model.parameters() if p.requires_grad] if is_quantized(model) else []
        self.values = {parameter: parameter.detach().clone() for parameter in trained}
        head = _head(model)
        with gathered(head.parameters()):
            self.head = {name: value.detach().clone() for name, value in head.named_parameters()}

    def restore(self, model: RewardModel | PeftModel) -> None:
        for parameter, value in self.values.items():
            parameter.data = value.to(parameter.device)
        if isinstance(model, PeftModel):
            adapters_to_float32(model)
            for name, parameter in _head(model).named_parameters():  # perhaps a copy of PEFT's
                if not hasattr(parameter, "ds_id"):
                    parameter.data = self.head[name].to(parameter.device)
            as_split(model)


def _head(model: RewardModel | PeftModel) -> nn.Module:
    return head_in_use((model.get_base_model() if isinstance(model, PeftModel) else model).score)


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Say what a ready optimizer leaves as it is: a head in float32, adapters, embeddings that have grown."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if left := [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]:
        logger.warning(
            "the optimizer given does not hold %d of the parameters to train (%s, …), which stay as they are; make it "
            "from the parameters of a RewardModel, or give optimizer_cls_and_kwargs",
            *(len(left), ", ".join(left[-3:])),
        )


def attention_dropout(model: RewardModel) -> str | None:
    """The backbone's field that drops attention weights, such as `"attention_dropout=0.1"`."""
    config = model.config.backbone_config.get_text_config().to_dict()
    for name, value in config.items():
        if "drop" in name and "att" in name and isinstance(value, float) and value > 0:
            return f"{name}={value}"
    return None


def disable_attention_dropout(model: RewardModel) -> None:
    """`disable_dropout` for the rates that decoders keep as a number, where TRL looks at modules only."""
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def check_supported(args: RewardConfig, data_collator, preprocess_logits_for_metrics) -> None:
    """TRL's options that have no meaning here are refused, or, where nothing is lost, named in the log."""
    refused = {
        "data_collator": (data_collator, "batches are packed here"),
        "preprocess_logits_for_metrics": (preprocess_logits_for_metrics, "compute_metrics gets scores of pairs"),
        "batch_eval_metrics": (args.batch_eval_metrics, "metrics are over all pairs at once"),
        "include_for_metrics": (args.include_for_metrics, "compute_metrics gets scores of pairs and their rows"),
    }
    for name, (value, why_not) in refused.items():
        if value:
            raise ValueError(f"{name} is given, but {why_not}; leave it unset")
    without_effect = {
        "length_column_name": ("length", "lengths are those of our tokens"),
        "pad_to_multiple_of": (None, "batches are packed"),
    }
    for name, (default, why) in without_effect.items():
        if getattr(args, name) != default:
            logger.warning("%s=%s has no effect: %s", name, getattr(args, name), why)
            setattr(args, name, default)
    if args.train_sampling_strategy == "batch_rebalance" and args.world_size > 1:
        logger.warning("train_sampling_strategy=batch_rebalance has no effect: processes share each batch by tokens")
        args.train_sampling_strategy = "random"
