"""PEFT adapters around a reward model, and 4-bit weights: load, save, fold in.

    peft_model = load_peft_model(RewardModel, "my-adapter", is_trainable=True); save_adapter(peft_model, "again")

Adapters and head are float32 whatever the base's dtype or quantisation. `reward_model.json` beside an adapter says
what PEFT's own files cannot: our extras, the base's dtype and quantisation. What makes a model takes its class.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoTokenizer, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from ..data.encoding import num_embeddings
from . import checkpoint

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

logger = logging.getLogger(__name__)

SIDE_FILE = "reward_model.json"  # beside a PEFT adapter: what its folder cannot say about the reward model
QUANTIZATION_ATTRIBUTES = (
    "hf_quantizer",
    "is_quantized",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
    "quantization_method",
)
HEAD_IN_ADAPTER = "base_model.model.score."
TEXT_IN_ADAPTER = "base_model.model.model.language_model."
PEFT_WITHOUT_SCORES = {  # PEFT's methods (names of `peft.PeftType`) that give no score of a text alone
    "POLY": "asks for the task of every row, which a reward model is not told",
    "LILY": "weighs its experts by averages over a whole batch, so that a score would depend on the other texts",
    "XLORA": "mixes adapters that are trained already, and trains no head",
    "ADAPTION_PROMPT": "trains no head, and its prompts cannot be merged",
}
PEFT_NEVER_MERGED = {  # methods that can be scored, and that no plain model can hold
    "SHADOW": "runs a network beside the base, which cannot be merged into it",
    "BEFT": "trains biases, which cannot be merged into layers without one",
    "TRAINABLE_TOKENS": "trains no head; lora_config(trainable_token_indices=[…]) trains both",
}
PEFT_ON_PLAIN_WEIGHTS = {  # methods that fail over 4-bit and 8-bit layers (peft 0.21)
    "ADAMSS", "DEFT", "DELORA", "FROD", "GLORA", "HRA", "LOHA", "LOKR", "OSF", "PEANUT", "PSOFT", "SUPERTUNING",
    "TINYLORA",
}  # fmt: skip
LORA_NEVER_MERGED = ("alora_invocation_tokens", "layer_replication", "lora_bias")  # options that no plain model holds
# Initialisations that change the base at random, or by data: whoever opens the adapter gets another base.
LORA_NEVER_REPEATED = ("pissa_niter_", "corda", "lora_ga")


# ------------------------------------------------------------------------------------------------------------- methods


def check_peft_method(peft_config: PeftConfig, to_train: bool = False, quantized: bool = False) -> None:
    """
    Refuse a PEFT method that a reward model cannot use.

    Args:
        peft_config (`PeftConfig`): of the adapter.
        to_train (`bool`): also refuse what trains no head, or could not be merged into a plain model.
        quantized (`bool`): also refuse what needs plain weights.

    Raises:
        ValueError: such a method; docs/peft.md lists all methods.
    """
    name = getattr(peft_config.peft_type, "value", peft_config.peft_type)
    start = str(getattr(peft_config, "init_lora_weights", None))
    options = [option for option in LORA_NEVER_MERGED if getattr(peft_config, option, None)]
    reason = (PEFT_WITHOUT_SCORES | (PEFT_NEVER_MERGED if to_train else {})).get(name)
    if peft_config.is_prompt_learning:
        reason = "puts learned tokens before the text, where a RewardModel has none"
    elif start.startswith(LORA_NEVER_REPEATED):
        reason = (
            f"with init_lora_weights={start!r} changes the base in a way that cannot be repeated where the adapter is "
            "opened; use 'pissa', 'olora' or True, or convert the adapter with PEFT"
        )
    elif options and (to_train or "alora_invocation_tokens" in options):
        reason = f"with {options[0]} cannot be merged into a plain model"
    elif quantized and name in PEFT_ON_PLAIN_WEIGHTS:
        reason = "does not work over a quantised base (peft 0.21); leave quantization_config out"
    elif reason is None and to_train and not hasattr(peft_config, "modules_to_save"):
        reason = "trains no head (it has no modules_to_save)"
    if reason is not None:
        raise ValueError(f"{type(peft_config).__name__} {reason}; or use lora_config()")


def nf4_config(compute_dtype: torch.dtype = torch.bfloat16, double_quant: bool = True) -> BitsAndBytesConfig:
    """
    4-bit NormalFloat quantisation of the backbone's linear layers; the head stays float32.

    Args:
        compute_dtype (`torch.dtype`, *optional*, defaults to `torch.bfloat16`): of the products with 4-bit weights.
        double_quant (`bool`, *optional*, defaults to `True`): whether scales are quantised, too (0.4 bits per weight).

    Returns:
        `BitsAndBytesConfig`: the `quantization_config` of a trainer or of `from_pretrained`.

    Source: Dettmers et al. 2023 (QLoRA, arXiv 2305.14314).

    Example:

    ```python
    options = {"quantization_config": nf4_config(), "peft_config": lora_config()}
    PairwiseRewardTrainer("Qwen/Qwen3-0.6B", args, train_dataset=rows, **options).train()
    ```
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it warns of kernels that are not used here
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute_dtype,
        bnb_4bit_use_double_quant=double_quant,
    )


# ------------------------------------------------------------------------------------------------------------- loading


def load_peft_model(
    model_class: type[PreTrainedModel], path: str | os.PathLike, is_trainable: bool = False, **kwargs
) -> PeftModel:
    """
    A PEFT adapter folder as a `PeftModel` around a `RewardModel`; adapters and head are float32.

    Args:
        model_class (`type`): `RewardModel`.
        path (`str` or `os.PathLike`): folder or hub id; one of plain PEFT, TRL or LLaMA-Factory has no side file.
        is_trainable (`bool`, *optional*, defaults to `False`): whether adapters and head can be trained.
        kwargs: for the base, instead of the dtype and quantisation that `reward_model.json` records.

    Raises:
        ValueError: neither the adapter nor its base holds a trained head, weights are missing, or nothing reads them.
    """
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel

    path, hub = os.fspath(path), checkpoint.hub_arguments(kwargs)
    peft_config = PeftConfig.from_pretrained(path, **hub)
    check_peft_method(peft_config)
    weights, pools_by_mask = _load_weights(path, peft_config, hub)
    file = checkpoint.find_file(path, SIDE_FILE, hub)
    side = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    base, config, kwargs = _base_of(path, peft_config, side, kwargs)
    base_is_trained = checkpoint.find_head(base, config, **kwargs) is not None
    if not base_is_trained and not any(re.search(r"\bscore\.(base_layer\.)?weight$", name) for name in weights):
        raise ValueError(
            f"{path}: neither the adapter nor its base {base} holds a trained reward head (score.weight); "
            "train it with modules_to_save=['score']"
        )
    model = (model_class.from_pretrained if base_is_trained else model_class.from_backbone)(
        base, config=config, **kwargs
    )
    model.has_fresh_head = False
    if side.get("vocab_size", 0) > num_embeddings(model):
        model.resize_token_embeddings(side["vocab_size"])
    if side:
        model.config.take_over(side)
    elif pools_by_mask:
        model.config.set_pooling("last_token")
    elif (pad_token_id := _own_pad_token(path, config, hub)) is not None or not base_is_trained:
        model.config.pad_token_id = model.config.pad_token_id if pad_token_id is None else pad_token_id
        model.config.set_pooling("last_non_pad", model.config.pad_token_id)
    if f"{HEAD_IN_ADAPTER}bias" in weights:
        model.score.bias, model.config.head_bias = nn.Parameter(model.score.weight.new_zeros(1)), True
    peft_config.inference_mode = not is_trainable
    peft_model = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(peft_config.task_type, PeftModel)(model, peft_config)
    _set_weights(peft_model, weights, path, base)
    if not base_is_trained and hasattr(model.score, "modules_to_save"):
        # The fresh head that PEFT keeps aside: random, another in every process, in use where adapters are disabled.
        model.score.original_module.load_state_dict(model.score.modules_to_save["default"].state_dict())
    adapters_to_float32(peft_model)
    return with_side_file(peft_model).train(is_trainable)


def _base_of(
    path: str, peft_config: PeftConfig, side: dict, kwargs: dict[str, Any]
) -> tuple[str, PreTrainedConfig, dict]:
    """The base of an adapter, its config, and how to load it: as recorded, except where `kwargs` say otherwise."""
    base = peft_config.base_model_name_or_path
    if not base:
        raise ValueError(
            f"{path}: the adapter names no base model; set base_model_name_or_path in adapter_config.json"
        )
    kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}  # the adapter's
    if (revision := peft_config.revision or side.get("base_revision")) is not None:
        kwargs["revision"] = revision
    if side.get("dtype") is not None and {kwargs.get("dtype"), kwargs.pop("torch_dtype", None)} <= {None, "auto"}:
        kwargs["dtype"] = side["dtype"]
    config, kwargs = checkpoint.load_config(base, kwargs)
    if side.get("quantization_config") and getattr(config, "quantization_config", None) is None:
        kwargs.setdefault("quantization_config", BitsAndBytesConfig.from_dict(side["quantization_config"]))
    return base, config, kwargs


def _load_weights(path: str, peft_config: PeftConfig, hub: dict) -> tuple[dict[str, torch.Tensor], bool]:
    """
    The weights of an adapter, whose head is called `score` here, and whether its class pools by the attention mask.

    `peft_config` is changed where the adapter was trained around another class: a language model (LLaMA-Factory, the
    head in a file beside it), or one with a head of another name (OpenRLHF).
    """
    from peft.utils import load_peft_weights

    loaded = load_peft_weights(path, device="cpu", **hub)
    others = "|".join(map(re.escape, checkpoint.HEAD_NAMES[1:]))
    weights = {re.sub(rf"^base_model\.model\.({others})\.", HEAD_IN_ADAPTER, name): t for name, t in loaded.items()}
    pools_by_mask = weights.keys() != loaded.keys()
    if any(name.startswith(TEXT_IN_ADAPTER) for name in weights):  # trained around a multimodal model
        of_text = (name for name in weights if name.startswith((TEXT_IN_ADAPTER, HEAD_IN_ADAPTER)))
        weights = {name.replace(TEXT_IN_ADAPTER, "base_model.model.model.", 1): weights[name] for name in of_text}
    if (head := checkpoint.find_value_head_file(path, hub)) is not None:
        weights = {name: tensor for name, tensor in weights.items() if ".lm_head." not in name}
        weights |= {f"{HEAD_IN_ADAPTER}{name}": tensor for name, tensor in head.tensors().items()}
        pools_by_mask = True
    if peft_config.task_type == "CAUSAL_LM" or pools_by_mask:
        peft_config.task_type = "SEQ_CLS" if f"{HEAD_IN_ADAPTER}weight" in weights else None
        kept = getattr(peft_config, "modules_to_save", None)
        if kept:
            peft_config.modules_to_save = [name for name in kept if name not in (*checkpoint.HEAD_NAMES, "lm_head")]
    return weights, pools_by_mask


def _own_pad_token(path: str, config: PreTrainedConfig, hub: dict) -> int | None:
    """The pad token of the tokenizer in an adapter's folder, with which TRL trains, or `None`."""
    if checkpoint.find_file(path, "tokenizer_config.json", hub) is None:
        return None
    return AutoTokenizer.from_pretrained(path, config=config, **hub).pad_token_id


def _set_weights(peft_model: PeftModel, weights: dict[str, torch.Tensor], path: str, base: str) -> None:
    """Raise unless every weight of the adapter has its module, and every module of the adapter its weight."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    written = get_peft_model_state_dict(peft_model, save_embedding_layers=False)  # some parameters never are
    missing, unread, problem = written.keys() - weights.keys(), set(), None
    try:
        unread = set(set_peft_model_state_dict(peft_model, weights).unexpected_keys)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
    if missing or unread:
        what = "no weights for" if missing else "the adapter's config and its base have no module for the weights"
        problem = f"{what} {checkpoint.first_names(missing or unread)}"
    if problem:
        raise ValueError(f"{path}: {problem}; is {base} the base that the adapter was trained on?")


# -------------------------------------------------------------------------------------------------------------- saving


def with_side_file(peft_model: PeftModel) -> PeftModel:
    """Let a `PeftModel` around a `RewardModel` write `reward_model.json` too, whoever calls its `save_pretrained`."""
    peft_model.save_pretrained = functools.partial(save_adapter, peft_model)  # copies and pickles with the model
    return peft_model


def save_adapter(
    peft_model: PeftModel, save_directory: str | os.PathLike, *, is_main_process: bool = True, **kwargs
) -> None:
    """The standard PEFT folder, and in it `reward_model.json`: our extras and how the base was loaded.

    Arguments are those of `PeftModel.save_pretrained`.
    """
    type(peft_model).save_pretrained(peft_model, save_directory, is_main_process=is_main_process, **kwargs)
    if not is_main_process:
        return
    model = peft_model.get_base_model()
    if model.is_text_tower:
        logger.warning(
            "the adapter belongs to the text tower of %s and opens with rm_plugin only; %s",
            model.config.base_model,
            model.why_not_standard() or "rm-plugin export makes a model of it that all can open",
        )
    if model.config.head_bias:
        logger.warning("the head has a bias, which plain PEFT drops when it loads: scores there are off by it")
    side = {
        **model.config.extras,
        "dtype": str(model.dtype).removeprefix("torch."),
        "vocab_size": num_embeddings(model),
    }
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None:
        side["quantization_config"] = quantization if isinstance(quantization, dict) else quantization.to_dict()
    for name in kwargs.get("selected_adapters") or peft_model.peft_config:  # PEFT's folders
        folder = save_directory if name == "default" else Path(save_directory, name)
        Path(folder, SIDE_FILE).write_text(json.dumps(side, indent=2) + "\n", encoding="utf-8")


def merge_adapter(peft_model: PeftModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """
    Fold the active adapter of a `PeftModel` around a `RewardModel` into its base, de-quantising first.

    Args:
        peft_model (`PeftModel`): changed in place; what it wraps becomes the merged model.
        dtype (`torch.dtype`, *optional*): of the backbone's weights; the model's own if absent.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    model = peft_model.get_base_model()
    dtype = dtype or model.dtype
    wider = torch.promote_types(model.dtype, dtype)  # added up in the wider of the two, rounded once
    if is_quantized(model):
        # PEFT's layers differ over quantised and plain ones: take the adapter off, de-quantise, put it on again.
        name = peft_model.active_adapter
        peft_config = copy.deepcopy(peft_model.peft_config[name])
        weights = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
        weights = {key: tensor.detach().clone() for key, tensor in weights.items()}
        model.is_loaded_in_4bit = model.is_loaded_in_8bit = False  # or IA3 refuses to be taken off (peft 0.21)
        model = dequantize(_unloaded(peft_model, merge=False), wider)
        peft_config.inference_mode = False
        peft_model = get_peft_model(model, peft_config)
        set_peft_model_state_dict(peft_model, weights)
    else:
        model.to(wider)
    try:
        merged = _unloaded(peft_model, merge=True)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"PEFT cannot merge the adapter: {error}; score with the adapter as it is") from None
    object.__setattr__(merged, "peft_model", None)
    merged.requires_grad_(True)
    return merged.to(dtype).eval()


def _unloaded(peft_model: PeftModel, merge: bool) -> PreTrainedModel:
    """What a `PeftModel` wraps, without its adapters."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    model = peft_model.merge_and_unload() if merge else peft_model.unload()
    for name, module in list(model.named_modules()):  # LNTuning leaves the head wrapped (peft 0.21)
        if isinstance(module, AuxiliaryTrainingWrapper):
            model.set_submodule(name, module.unload_and_optionally_merge_module(merge, False, None))
    return model


def peft_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of each of PEFT's layers; what they have as a value, a model has as a method."""
    return ((name, m) for name, m in model.named_modules() if isinstance(getattr(m, "disable_adapters", None), bool))


def adapters_to_float32(peft_model: PeftModel) -> None:
    """Adapters train and score in float32 whatever the base's dtype, as the head does; float64 ones stay.

    So do the copies of normalisation layers that LNTuning trains: their output must have the dtype of the base.
    """
    from peft.tuners.ln_tuning.layer import LNTuningLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in peft_model.modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, LNTuningLayer):
            for name in module.adapter_layer_names:
                for parameter in getattr(module, name).parameters():
                    if parameter.dtype in (torch.float16, torch.bfloat16):
                        parameter.data = parameter.data.float()
        for rank in getattr(module, "ranknum", {}).values():  # AdaLoRA's divisor, never saved; PEFT 0.21 makes it
            rank.requires_grad_(False)  # trainable where it casts it


# ------------------------------------------------------------------------------------------------------------ 4-bit


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether bitsandbytes holds its weights."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def dequantize(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Plain weights of one dtype instead of bitsandbytes', in place."""
    model.dequantize(dtype)
    for config in (model.config, model.config.backbone_config, model.model.config):
        config.__dict__.pop("quantization_config", None)
    for name in QUANTIZATION_ATTRIBUTES:
        model.__dict__.pop(name, None)
        model.model.__dict__.pop(name, None)
    return model.to(dtype)


def use_trainable_4bit_kernels(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16, and undo it where it has happened.

    The first forward in eval mode would repack them in place, and later training would go through `gemv_4bit`, which
    has no autograd: LoRA gradients up to 94 % wrong (bitsandbytes 0.50). To go when its repacked kernel can train.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        import bitsandbytes as bnb

        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False
                if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                    module.state_dict()  # unpacks in place


def copy_quantization(source: nn.Module, target: nn.Module) -> None:
    """What transformers marks a quantised or placed model with."""
    for name in (*QUANTIZATION_ATTRIBUTES, "hf_device_map"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))
