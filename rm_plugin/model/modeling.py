"""`RewardModel`: a transformer that reads prompt + completion, and a linear head that makes its last token one scalar.

    r(x, y) = w · h_last(x ‖ y)          h_last: hidden state of the last real token, w: (hidden,), float32

Registered with transformers' Auto classes. Whatever it writes is the standard layout that plain transformers, TRL,
rewardbench and vLLM open without this package; whatever it opens has a trained head.

    RewardModel.from_pretrained("Skywork/Skywork-Reward-V2-Qwen3-0.6B")(input_ids, attention_mask).logits

Shapes: `N` rows (or completions of a packed row), `L` padded length, `T` tokens of a packed row, `H` hidden size.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from ..data.encoding import ensure_pad_token
from ..data.reference import TURNS, reference_ids, write_reference
from ..messages import check_choice
from . import adapters, checkpoint
from .attention import IMPLEMENTATION, SharedPrefixLayout
from .cards import export_card, inherited
from .config import RewardModelConfig, check_one_label, sequence_classifier, text_config
from .first_use import best_form
from .head import RewardHead, head_in_use
from .packing import Call
from .sharding import gathered_to_compute, whole_models, without_weights

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Names of the weights that read text: in a multimodal checkpoint, and in a checkpoint of that part alone.
TEXT_TOWER = {r"^language_model\.": "", r"^model\.language_model\.": "model."}


def text_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The backbone of a model with a head; of a multimodal one, the part that reads text."""
    backbone = getattr(model, model.base_model_prefix, model)
    return backbone if text_config(model.config) is model.config else backbone.get_decoder()


class RewardModel(PreTrainedModel):
    """
    A reward model r(prompt, completion) → scalar on any transformers decoder.

    Made by [`RewardModel.from_backbone`] (a fresh head, to train) or [`RewardModel.from_pretrained`] (a trained one).

    Args:
        config ([`RewardModelConfig`]): the model's config.
        backbone (`PreTrainedModel`, *optional*): a decoder without head to build on; made from the config if absent.

    Example:

    ```python
    model = RewardModel.from_pretrained("Skywork/Skywork-Reward-V2-Qwen3-0.6B")
    model(input_ids, attention_mask).logits  # (N, 1), float32
    ```
    """

    config_class = RewardModelConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The head is made float32 and keeps itself so; these tell quantisers, and versions that cast what they load.
    _keep_in_fp32_modules = ["^score"]
    _keep_in_fp32_modules_strict = ["^score"]

    def __init__(self, config: RewardModelConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        if backbone is None:
            backbone = AutoModel.from_config(config.backbone_config)
        # Weights are named as the architecture names them ("model", "transformer", …), so every folder fits as it is.
        standard_class = sequence_classifier(config.backbone_config)
        self.base_model_prefix = (standard_class or backbone).base_model_prefix or type(self).base_model_prefix
        setattr(self, self.base_model_prefix, backbone)
        backbone_text = config.backbone_config.get_text_config()  # OPT may end in a projection to another size
        hidden_size = getattr(backbone_text, "word_embed_proj_dim", None) or config.hidden_size
        self.score = RewardHead(hidden_size, bias=config.head_bias)
        self.peft_model = None  # the PeftModel around a model whose adapters were loaded; not a submodule
        self.has_fresh_head = False  # drawn at random, and no training has begun
        self.is_text_tower = False  # of a multimodal model, whose name adapters would give as their base
        self._forms: dict[int, tuple[str, str, str | None]] = {}  # by state of the model, as `best_form` gives them
        self._own_attention: str | None = None  # the implementation that the backbone came with
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: transformers 5.23 would leave buffers that a backbone fills for its layers unset (`FalconH1Model`)."""
        return False

    @property
    def model(self) -> PreTrainedModel:
        """The backbone, whatever its architecture calls it."""
        return super().__getattr__(self.base_model_prefix)

    @property
    def device(self) -> torch.device:
        """Where inputs go: of weights that lie on disk or elsewhere, the device that computes with them."""
        device = super().device
        if device.type == "meta":
            # accelerate leaves its hooks in this attribute and has no public function that reads them.
            hooks = (getattr(module, "_hf_hook", None) for module in self.modules())
            known = (getattr(hook, "execution_device", None) for hook in hooks)
            device = next((torch.device(found) for found in known if found is not None), device)
        return device

    # --------------------------------------------------------------------------------------------------------- forward

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        shared_prefix_layout: SharedPrefixLayout | None = None,
        calls: list[Call] | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor`): (N, L), or the packed row (1, T).
            attention_mask (`torch.Tensor`, *optional*):
                (N, L), 1 for real tokens; padding may be left or right. Without it every token counts as real. The
                head reads the last real token, other than `config.trailing_pad_id` where that is set.
            position_ids (`torch.LongTensor`, *optional*): as `input_ids`; counted along the mask if absent.
            inputs_embeds (`torch.Tensor`, *optional*): (N, L, H), instead of `input_ids`.
            shared_prefix_layout (`SharedPrefixLayout`, *optional*): where the packed row's groups lie.
            calls (`list[Call]`, *optional*): which rows each call of the backbone computes; then `logits` alone come.

        Returns:
            `SequenceClassifierOutputWithPast`: `logits` (N, 1) in the head's dtype; `hidden_states` where asked for.

        Raises:
            ValueError: `labels`, since no loss is computed here.
        """
        if calls is not None:
            return self._forward_in_calls(input_ids, attention_mask, calls, **kwargs)
        if shared_prefix_layout is not None:
            # A mask of four dimensions is handed through by transformers untouched; the layout says who sees whom.
            attention_mask = torch.empty(1, 1, 1, 1, device=input_ids.device)
            # transformers has a public setter of the implementation (`set_attn_implementation`) and no public getter.
            implementation = self.model.config._attn_implementation
            assert implementation == IMPLEMENTATION, f"{implementation} attention would swallow the layout"
            kwargs["shared_prefix_layout"] = shared_prefix_layout
        elif position_ids is None and attention_mask is not None and not attention_mask[:, 0].all():
            # Left padding. Rotary positions are relative, but learned ones (GPT-2) and long-context rope are not.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
        if kwargs.pop("labels", None) is not None:  # PEFT always hands the name over
            raise ValueError(
                "labels are given, a RewardModel computes no loss; use rm_plugin.training.losses on its logits"
            )
        kwargs.setdefault("use_cache", False)  # nothing is generated, keys and values would be kept for nothing
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden_NLH = outputs.last_hidden_state
        if shared_prefix_layout is not None:
            pooled_NH = hidden_NLH[0, shared_prefix_layout.completion_ends(hidden_NLH.device)]
        else:
            ends_N = self._ends(input_ids, attention_mask, hidden_NLH)
            pooled_NH = hidden_NLH[torch.arange(len(ends_N), device=hidden_NLH.device), ends_N]
        return SequenceClassifierOutputWithPast(
            logits=self.score(pooled_NH),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _forward_in_calls(self, input_ids, attention_mask, calls: list[Call], **kwargs):
        """Rows of similar lengths by themselves, and what shares a prefix from copies of its cache."""
        assert not self.training or not any(call.prefix for call in calls), "no gradient flows through a cache"
        name = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"
        logits = []
        for call in calls:
            cached = {}
            if call.prefix:
                cache = DynamicCache(config=self.model.config)
                cached = {name: cache, "use_cache": True}
                self.model(input_ids=input_ids[call.rows[:1], : call.prefix], **cached)
                cache.reorder_cache(torch.zeros(len(call.rows), dtype=torch.int64, device=input_ids.device))
                cached["position_ids"] = torch.arange(call.prefix, call.length, device=input_ids.device)[None]
            ids_NL, mask_NL = input_ids[call.rows, call.prefix : call.length], attention_mask[call.rows, : call.length]
            logits.append(self(input_ids=ids_NL, attention_mask=mask_NL, **{**kwargs, **cached}).logits)
        order = torch.tensor([row for call in calls for row in call.rows]).argsort()
        return SequenceClassifierOutputWithPast(logits=torch.cat(logits)[order.to(input_ids.device)])

    def _ends(self, input_ids, attention_mask, hidden_NLH: torch.Tensor) -> torch.Tensor:
        """(N,) index of the token that the head reads in every row; the first real one where all are pads."""
        device, pad_token_id = hidden_NLH.device, self.config.trailing_pad_id
        real_NL = torch.ones(hidden_NLH.shape[:2], dtype=torch.bool, device=device)
        if attention_mask is not None:
            real_NL = attention_mask.to(device)[:, -hidden_NLH.shape[1] :] != 0  # of a mask that counts a cache, too
        positions_L = torch.arange(real_NL.shape[1], device=device)
        if pad_token_id is None or input_ids is None:
            return (positions_L * real_NL).argmax(-1)
        read_NL = real_NL & (input_ids.to(device) != pad_token_id)
        return torch.maximum((positions_L * read_NL).argmax(-1), real_NL.int().argmax(-1))

    # ----------------------------------------------------------------------------------------------- the shared prefix

    @property
    def rope_switch(self) -> int | None:
        """Length at which the rotary frequencies of longrope and dynamic rope change for a whole batch, or `None`.

        Texts on both sides of it must not share a call, or a score would depend on the other texts.
        """
        config = self.config.backbone_config.get_text_config()
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") not in ("longrope", "dynamic"):
            return None
        return rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", config.max_position_embeddings
        )

    @torch.no_grad()
    def batch_form(self, with_gradients: bool = False, agree: Callable[[T], T] = lambda found: found) -> str:
        """
        The form of [`rm_plugin.model.packing.collate`] that gives this model's true scores with the least work.

        Checked once for each state of its adapters and attention, by computing one small group both ways. Where rows
        cannot be packed (state-space and hybrid layers, custom attention, …) one log line says why.

        Args:
            with_gradients (`bool`, *optional*, defaults to `False`): a form that gradients flow through, to train.
            agree (`Callable`, *optional*): what one process has found ► what all take.

        Returns:
            `str`: one of `rm_plugin.model.packing.FORMS`.
        """
        # As in `forward`: no public getter.
        if (attention := self.model.config._attn_implementation) != IMPLEMENTATION:
            self._own_attention = attention
        own = self._own_attention or attention
        layers = adapters.peft_layers(self.model)
        state = hash((own, *((type(layer), *layer.active_adapters, layer.disable_adapters) for _, layer in layers)))
        if state not in self._forms:
            known = [reason for *_, reason in self._forms.values()]
            with eval_mode(self), gathered_to_compute(self):
                found = best_form(self, own)
            to_score, to_train, reason = self._forms[state] = agree(found)
            if reason is not None and reason not in known:
                rows = "rows share no prefix" if to_train == "apart" else "rows are not packed"
                what = "shared-prefix computation is off, batches are padded"
                if to_score != "sorted":
                    what = f"{rows}, scoring continues from the cache of a prompt" if to_score == "continued" else rows
                logger.warning("%s: %s", what, reason)
        to_score, to_train, _ = self._forms[state]
        wanted = IMPLEMENTATION if to_train in ("packed", "apart") else own  # without a layout it is sdpa's
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)
        return to_train if with_gradients else to_score

    # ---------------------------------------------------------------------------------------------------------- making

    @classmethod
    def from_backbone(cls, model: str | os.PathLike | PreTrainedModel, **kwargs) -> RewardModel:
        """
        A fresh head on a causal or base model; it must be trained before its scores mean anything.

        Args:
            model (`str`, `os.PathLike` or `PreTrainedModel`):
                Hub id, folder, or a model in memory (its weights are shared).
            kwargs:
                As for `from_pretrained` of transformers: `dtype`, `quantization_config`, `device_map`, `revision`, …

        Returns:
            [`RewardModel`]: with a head drawn at random.

        Raises:
            ValueError: not a decoder, or a model that has a head already.

        Example:

        ```python
        model = RewardModel.from_backbone("Qwen/Qwen3-0.6B", dtype="bfloat16")
        ```
        """
        if isinstance(model, PreTrainedModel):
            if kwargs:
                raise ValueError(f"{', '.join(kwargs)} cannot be applied to a model in memory; give its id or folder")
            has_head = isinstance(model, cls) or type(model).__name__.endswith("ForSequenceClassification")
            checkpoint.check_headless_decoder("the model", type(model).__name__, model.config, has_head)
            made = cls.around(text_tower(model), RewardModelConfig.from_backbone_config(model.config))
            made.has_fresh_head = True
            return made
        path = os.fspath(model)
        config, kwargs = checkpoint.load_config(path, kwargs)
        has_head = checkpoint.find_head(path, config, **kwargs) is not None
        checkpoint.check_headless_decoder(path, (config.architectures or [config.model_type])[0], config, has_head)
        return cls._load(path, config, None, **kwargs)[0]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *model_args, **kwargs) -> RewardModel:
        """
        A trained reward model, always as a `RewardModel`.

        Weights are safetensors, or where a repository has none a pickle that is read with `weights_only=True`, which
        runs no code. Code from a repository is not run.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or folder: what [`RewardModel.save_pretrained`] writes, any decoder `*ForSequenceClassification`
                checkpoint with one label, what OpenRLHF (`value_head.weight`) or LLaMA-Factory
                (`value_head.safetensors`) write, or a PEFT adapter (its base in the dtype and quantisation recorded).
            kwargs:
                As for `from_pretrained` of transformers: `dtype`, `quantization_config`, `device_map`, `revision`, …

        Returns:
            [`RewardModel`]: in evaluation mode, an adapter injected.

        Raises:
            ValueError: no trained head, more than one label, not a decoder, or weights that nothing reads.

        Example:

        ```python
        model = RewardModel.from_pretrained("Skywork/Skywork-Reward-V2-Qwen3-0.6B", dtype="bfloat16")
        ```
        """
        path = os.fspath(pretrained_model_name_or_path)
        check_one_label(kwargs.pop("num_labels", 1))
        if kwargs.get("config") is None and checkpoint.is_adapter(path, kwargs):
            peft_model = adapters.load_peft_model(cls, path, **kwargs)
            model = peft_model.get_base_model()
            object.__setattr__(model, "peft_model", peft_model)  # past nn.Module: the wrapper contains this model
            return model
        wants_info = kwargs.pop("output_loading_info", False)
        config, kwargs = checkpoint.load_config(path, kwargs)
        head = checkpoint.find_head(path, config, **kwargs)
        checkpoint.check_trained_head(path, config, head)
        model, info = cls._load(path, config, head, **kwargs)
        if head.file is not None:
            model.score.load_state_dict(head.tensors())
        if model.score.bias is not None and not model.score.bias.any():
            model.score.bias, model.config.head_bias = None, False
        return (model, info) if wants_info else model

    @classmethod
    def _load(
        cls, path: str, config: PreTrainedConfig, head: checkpoint.TrainedHead | None, **kwargs
    ) -> tuple[RewardModel, dict]:
        """transformers' loading of `path` with its head, whatever its name, fresh where `None`; and the report."""
        wrapped = config
        if not isinstance(config, RewardModelConfig):
            wrapped = RewardModelConfig.from_backbone_config(config, has_trained_head=head is not None)
        if head is None:
            wrapped.base_model, wrapped.base_revision = path, checkpoint.commit_of(path, kwargs)
        else:
            wrapped.head_bias = head.has_bias
            if head.reads_last_token:
                wrapped.set_pooling("last_token")
        kwargs = {k: v for k, v in kwargs.items() if v is not None}
        if hasattr(kwargs.get("quantization_config"), "llm_int8_skip_modules"):  # saved, and heeded by all who load it
            quantization = kwargs["quantization_config"] = copy.deepcopy(kwargs["quantization_config"])
            quantization.llm_int8_skip_modules = [*(quantization.llm_int8_skip_modules or ["lm_head"]), "score"]
        kwargs |= {"config": wrapped, "output_loading_info": True, "ignore_mismatched_sizes": True}
        names = "|".join(map(re.escape, checkpoint.head_names(wrapped.backbone_config)[1:]))
        loading = logging.getLogger("transformers.modeling_utils")
        loading.addFilter(_only_errors)  # its report of the weights; what matters of it is an error here
        try:
            mapping = {rf"^({names})\.": "score.", **TEXT_TOWER}
            model, info = super().from_pretrained(path, key_mapping=mapping, **kwargs)
        finally:
            loading.removeFilter(_only_errors)
        set_otherwise = {"score.weight", "score.bias"} if head is None or head.file is not None else set()
        checkpoint.check_nothing_is_missing(path, info, but=set_otherwise)
        checkpoint.check_all_is_read(path, config, info["unexpected_keys"])
        # transformers would give the head its old name when it saves; it has no public way to drop a conversion.
        model._weight_conversions = [
            conversion for conversion in model._weight_conversions or [] if "score." not in conversion.target_patterns
        ]
        model.has_fresh_head = wrapped.base_model is not None and wrapped.template_hash is None
        model.is_text_tower = text_config(config) is not config
        adapters.use_trainable_4bit_kernels(model)
        return model, info

    @classmethod
    def around(
        cls, backbone: PreTrainedModel, config: RewardModelConfig, head: nn.Linear | None = None
    ) -> RewardModel:
        """A reward model that shares the modules of a model in memory, and the weight of its head where precise."""
        with no_init_weights():
            model = cls(config, backbone=backbone)
        model.score.to(backbone.device)
        if backbone.dtype == torch.float64:
            model.score.double()
        if head is None:
            nn.init.normal_(model.score.weight, std=config.initializer_range or 0.02)
        else:
            model.score.share(head)
        adapters.copy_quantization(backbone, model)
        adapters.use_trainable_4bit_kernels(model)
        return model.train(backbone.training)

    @classmethod
    def from_sequence_classifier(cls, model: PreTrainedModel) -> RewardModel:
        """
        A decoder's `*ForSequenceClassification` in memory as a `RewardModel`.

        Backbone and head are shared, so what trains one trains the other; a 16-bit head is copied into float32.

        Args:
            model (`PreTrainedModel`): the classifier, with one label and a linear head `score` without bias.

        Returns:
            [`RewardModel`]

        Raises:
            ValueError: no such head, or more than one label.
        """
        if isinstance(model, cls):
            return model
        if not type(model).__name__.endswith("ForSequenceClassification"):
            raise ValueError(
                f"{type(model).__name__} has no trained reward head; RewardModel.from_backbone puts a fresh one on it"
            )
        check_one_label(model.config.num_labels)
        head = head_in_use(getattr(model, "score", None))
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise ValueError(
                f"{type(model).__name__} has no linear head named `score` without bias, a RewardModel has; "
                "RewardScorer takes such classifiers as they are"
            )
        backbone = text_tower(model)
        adapters.copy_quantization(model, backbone)
        config = RewardModelConfig.from_backbone_config(model.config, has_trained_head=True)
        return cls.around(backbone, config, head)

    # ---------------------------------------------------------------------------------------------------------- saving

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *,
        format: str = "standard",
        is_main_process: bool = True,
        **kwargs,
    ) -> None:
        """
        Write the model so that anyone can open it.

        Args:
            save_directory (`str` or `os.PathLike`): the folder.
            format (`str`, *optional*, defaults to `"standard"`):
                `"standard"`: the architecture's own `*ForSequenceClassification` checkpoint, or the PEFT folder where
                adapters were loaded. `"native"`: `model_type: reward_model`, which needs this package.
            is_main_process (`bool`, *optional*, defaults to `True`): other processes write nothing.
            kwargs:
                As for `save_pretrained` of transformers: `push_to_hub`, or `state_dict`, weights under this model's
                names where a launcher gathered them.

        Raises:
            ValueError: an unknown format; adapters with `format="native"`, or with `push_to_hub`.
        """
        check_choice("format", format, ("standard", "native"))
        if hasattr(self, "peft_config"):  # PEFT's mark on a model that holds adapters
            if format == "native":
                raise ValueError("format='native' holds no adapters; merge() them first")
            if kwargs.pop("push_to_hub", False):
                raise ValueError("push_to_hub=True while saving adapters is not supported; call push_to_hub(repo_id)")
            self._wrapper("save it").save_pretrained(save_directory, is_main_process=is_main_process)
            return
        kwargs["is_main_process"] = is_main_process
        reason = self.why_not_standard()
        if format == "standard" and reason is not None:
            logger.warning("%s: saved as model_type reward_model, which needs rm_plugin to load", reason)
        if format == "native" or reason is not None:
            super().save_pretrained(save_directory, **kwargs)
            return
        pad, eos = self.config.pad_token_id, self.config.eos_token_id
        if self.config.trailing_pad_id is None and pad in (None, *(eos if isinstance(eos, list) else [eos])):
            logger.warning(
                "pad_token_id=%s is saved (EOS is %s): plain transformers refuses padded batches or scores the wrong "
                "token; call rm_plugin.data.encoding.ensure_pad_token(tokenizer, model) before saving",
                *(pad, eos),
            )
        self.to_sequence_classifier().save_pretrained(save_directory, **kwargs)

    def to_sequence_classifier(self) -> PreTrainedModel:
        """
        The architecture's own `*ForSequenceClassification`, sharing this model's modules, where there is one.

        Returns:
            `PreTrainedModel`: its config carries our extras in the block `"reward_model"`.
        """
        config = copy.deepcopy(self.config.backbone_config)
        config.num_labels = 1
        config.problem_type = "regression"  # pipelines and servers then return the score, not its sigmoid
        config.reward_model = self.config.extras
        if self.config.trailing_pad_id is not None:
            config.get_text_config().pad_token_id = self.config.trailing_pad_id
        if getattr(self.config, "quantization_config", None) is not None:
            config.quantization_config = self.config.quantization_config
        # The other class need not know our implementation; a config without a model has no public setter.
        if config._attn_implementation == IMPLEMENTATION:
            config._attn_implementation_internal = None
        with without_weights():
            standard = sequence_classifier(config)(config)
        setattr(standard, standard.base_model_prefix, self.model)
        standard.score = self.score
        adapters.copy_quantization(self, standard)
        return standard.train(self.training)

    def why_not_standard(self) -> str | None:
        """What no standard checkpoint can hold of this model, or `None`: then all but adapters are saved as one."""
        standard_class = sequence_classifier(self.config.backbone_config)
        if standard_class is None:
            return f"transformers has no sequence classifier for {self.config.backbone_config.model_type}"
        return f"the head has a bias, {standard_class.__name__} has none" if self.config.head_bias else None

    def library(self, as_adapter: bool = False) -> str:
        """
        What opens the folder of this model: `"transformers"`, `"peft"`, or `"rm_plugin"` where nothing else does.

        Args:
            as_adapter (`bool`, *optional*, defaults to `False`): the folder holds an adapter.
        """
        if self.why_not_standard() is not None or (as_adapter and self.is_text_tower):
            return "rm_plugin"
        return "peft" if as_adapter else "transformers"

    def merge(self, dtype: torch.dtype | None = None) -> RewardModel:
        """
        This model as a plain one, changed in place: adapters folded into the weights, nothing quantised.

        A quantised base is de-quantised first: folding into NF4 would quantise again and move every score.

        Args:
            dtype (`torch.dtype`, *optional*): of the backbone's weights; the model's own if absent.

        Returns:
            [`RewardModel`]: this model.

        Raises:
            ValueError: adapters that PEFT cannot merge, or that belong to a `PeftModel` around this model.
        """
        if hasattr(self, "peft_config"):
            return adapters.merge_adapter(self._wrapper("merge it with rm_plugin.model.adapters.merge_adapter"), dtype)
        dtype = dtype or self.dtype
        return (adapters.dequantize(self, dtype) if adapters.is_quantized(self) else self).to(dtype)

    def _wrapper(self, advice: str):
        if self.peft_model is None:
            raise ValueError(
                f"this RewardModel holds adapters of a PeftModel around it; take that PeftModel and {advice}"
            )
        return self.peft_model

    def export(
        self, save_directory: str | os.PathLike, processing_class: Any, dtype: torch.dtype | None = None
    ) -> RewardModel:
        """
        Write a merged standard checkpoint with its tokenizer, a README that says how other tools load it, and the
        scores of eight texts by which [`RemoteRewardScorer`] knows whether a server gives this model's scores. What no
        standard checkpoint can hold is written as `save_pretrained` writes it, for rm_plugin, with one line.

        Args:
            save_directory (`str` or `os.PathLike`): the folder.
            processing_class (`PreTrainedTokenizerBase`):
                The reward model's tokenizer; gets the pad token of the model's config, and both one that is not EOS
                unless the model was trained with another.
            dtype (`torch.dtype`, *optional*): of the backbone's weights; the model's own if absent.

        Returns:
            [`RewardModel`]: this model, merged (see [`RewardModel.merge`]).

        Raises:
            ValueError: adapters that cannot be merged, or weights that are not finite.
        """
        header = inherited(self.config.name_or_path)
        model = self.merge(dtype)
        if broken := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
            raise ValueError(
                f"{len(broken)} weights are not finite ({broken[0]}, …): training has diverged, or {model.dtype} is "
                "too narrow; export an earlier checkpoint, or in float32"
            )
        ensure_pad_token(processing_class, model)
        model.save_pretrained(save_directory)
        processing_class.save_pretrained(save_directory)
        folder = Path(save_directory)
        conversational = processing_class.chat_template is not None
        card = export_card(
            folder.name,
            library=model.library(),
            metadata=header,
            conversational=conversational,
            trailing_pad_id=model.config.trailing_pad_id,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        model.save_reference(folder, processing_class)
        return model

    @torch.no_grad()
    def save_reference(self, save_directory: str | os.PathLike, processing_class: Any) -> None:
        """
        Write the ids and scores of eight texts, each alone in its row, by which [`RemoteRewardScorer`] knows whether a
        server gives this model's scores.

        Args:
            save_directory (`str` or `os.PathLike`): the folder of its weights.
            processing_class (`PreTrainedTokenizerBase`): the reward model's tokenizer.
        """
        config = self.config

        def score(ids: list[int]) -> float:
            return self(input_ids=torch.tensor([ids], device=self.device)).logits.item()

        texts = [{"input_ids": ids} for ids in reference_ids(processing_class, config.trailing_pad_id)]
        with eval_mode(self), torch.autocast(self.device.type, enabled=False):
            for text, turns in zip(texts, TURNS, strict=True):
                pair = processing_class("\n".join(turns[:-1]), turns[-1])["input_ids"]
                read = {"score": text["input_ids"], "as_pair": pair}
                if text["input_ids"][0] == processing_class.bos_token_id:
                    read["bos_twice"] = [processing_class.bos_token_id, *text["input_ids"]]
                longest = config.max_position_embeddings or math.inf
                text |= {name: score(ids) for name, ids in read.items() if len(ids) <= longest}
        dtype = str(config.dtype or self.dtype).removeprefix("torch.")
        write_reference(save_directory, dtype, texts)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """No dropout; afterwards every module is in the mode it was in."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def load_any(name: str, **kwargs) -> PreTrainedModel:
    """
    The reward model of a name, on the machine's accelerator: a `RewardModel`, or what is none, an encoder's classifier
    or, with `trust_remote_code`, a class that lies in its repository.

    Args:
        name (`str`): folder or hub id of a full checkpoint or an adapter.
        kwargs:
            As for [`RewardModel.from_pretrained`], and `load_in_4bit`; `device_map` places the model elsewhere.

    Raises:
        ValueError: as [`RewardModel.from_pretrained`].
    """
    if kwargs.pop("load_in_4bit", False):
        kwargs["quantization_config"] = adapters.nf4_config()
    with whole_models():
        other_class = None if checkpoint.is_adapter(name, kwargs) else checkpoint.other_class(name, kwargs)
        if other_class is None:
            model = RewardModel.from_pretrained(name, **kwargs)
        else:  # its weights say how many labels it has, not its config
            kwargs = {"num_labels": 1, **kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
            model, info = other_class.from_pretrained(name, **kwargs)
            checkpoint.check_nothing_is_missing(name, info)
            checkpoint.check_all_is_read(name, model.config, info["unexpected_keys"])
    if torch.accelerator.is_available() and "device_map" not in kwargs and not adapters.is_quantized(model):
        model = model.to(torch.accelerator.current_accelerator())
    return model


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


AutoModel.register(RewardModelConfig, RewardModel)
AutoModelForSequenceClassification.register(RewardModelConfig, RewardModel)
