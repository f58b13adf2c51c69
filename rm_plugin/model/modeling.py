"""`RewardModel`: a transformer that reads prompt + completion, and a linear head that makes its last token one scalar.

    r(x, y) = w · h_last(x ‖ y)          h_last: hidden state of the last real token, w: (hidden,), float32

Registered with transformers' Auto classes. Whatever it writes is the standard layout that plain transformers, TRL,
rewardbench and vLLM open without this package; whatever it opens has a trained head.

    RewardModel.from_pretrained("Skywork/Skywork-Reward-V2-Qwen3-0.6B")(input_ids, attention_mask).logits

Shapes: `N` rows (or completions of a packed row), `L` padded length, `T` tokens of a packed row, `H` hidden size.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import cached_file, can_return_tuple
from transformers.utils.hub import extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from ..data.encoding import EncodedGroup, num_embeddings, template_hash, trim_template_tail
from .attention import IMPLEMENTATION, SharedPrefixLayout
from .cards import READING
from .packing import pack, pad

logger = logging.getLogger(__name__)

WHERE_ON_HUB = ("revision", "token", "cache_dir", "local_files_only")
HUB_ARGUMENTS = (*WHERE_ON_HUB, "force_download", "subfolder", "proxies")
QUANTIZATION_ATTRIBUTES = (
    "hf_quantizer",
    "is_quantized",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
    "quantization_method",
)
SIDE_FILE = "reward_model.json"  # beside a PEFT adapter: what its folder cannot say about the reward model
VALUE_HEAD_FILES = ("value_head.safetensors", "value_head.bin")  # LLaMA-Factory's head, beside model or adapter
HEAD_NAMES = ("score", "value_head", "v_head.summary")  # of transformers, of OpenRLHF, of TRL and LLaMA-Factory
POOLS_BY_MASK = ("RewardModel", "CriticModel", "LLMForSequenceRegression")  # OpenRLHF's classes read the last token
HARMLESS = re.compile(r"(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")  # buffers of older checkpoints
_HAS_LINEAR_HEAD: dict[type, bool] = {}  # by sequence classifier class: is its head a linear `score` without bias?


class RewardModelConfig(PreTrainedConfig):
    """
    The backbone's own config, and what a reward model needs besides.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`):
            Config of the decoder without a head.
        reasoning (`str`, *optional*, defaults to `"keep"`):
            What happens to `<think>…</think>` in completions: `"keep"`, `"strip"` or `"error"`.
        reward_mean (`float`, *optional*):
            Mean score on held-out completions; used only where a caller asks for normalised scores.
        reward_std (`float`, *optional*):
            Their standard deviation, with `reward_mean`.
        tie_threshold (`float`, *optional*):
            η of a model trained with ties (Rao & Kupper 1967).
        template_hash (`str`, *optional*):
            Names the chat template and special tokens that the model was trained with.
        base_model (`str`, *optional*):
            The model that training started from.
        base_revision (`str`, *optional*):
            Its commit on the hub.
        pooling (`str`, *optional*, defaults to `"last_token"`):
            The token that the head reads: `"last_token"`, or `"last_non_pad"`, the last one other than
            `pooling_pad_token_id`, as transformers' `*ForSequenceClassification` pool.
        pooling_pad_token_id (`int`, *optional*):
            The pad token of `"last_non_pad"`; `trailing_pad_id` reads it.
        head_bias (`bool`, *optional*, defaults to `False`):
            Whether the head has a bias, as that of a model trained elsewhere may.
    """

    model_type = "reward_model"
    sub_configs = {"backbone_config": AutoConfig}
    EXTRAS = (
        "reasoning",
        "reward_mean",
        "reward_std",
        "tie_threshold",
        "template_hash",
        "base_model",
        "base_revision",
        "pooling",
    )

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict | None = None,
        reasoning: str = "keep",
        reward_mean: float | None = None,
        reward_std: float | None = None,
        tie_threshold: float | None = None,
        template_hash: str | None = None,
        base_model: str | None = None,
        base_revision: str | None = None,
        pooling: str = "last_token",
        pooling_pad_token_id: int | None = None,
        head_bias: bool = False,
        **kwargs,
    ):
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.reasoning = reasoning
        self.reward_mean = reward_mean
        self.reward_std = reward_std
        self.tie_threshold = tie_threshold
        self.template_hash = template_hash
        self.base_model = base_model
        self.base_revision = base_revision
        self.pooling = pooling
        self.pooling_pad_token_id = pooling_pad_token_id
        self.head_bias = head_bias
        if kwargs.setdefault("num_labels", 1) != 1:
            raise ValueError(f"num_labels={kwargs['num_labels']}, a reward model has 1; load with num_labels=1")
        super().__init__(**kwargs)

    @classmethod
    def from_backbone_config(cls, backbone_config: PreTrainedConfig, has_trained_head: bool = False):
        """
        Around a backbone's config, or around that of a standard checkpoint, whose extras it takes over.

        A trained head keeps reading what it was trained on: without our block, or where the pad token is no longer the
        block's, that is what transformers pools, the last token other than the pad token.
        """
        backbone_config = copy.deepcopy(backbone_config)
        block = backbone_config.__dict__.pop("reward_model", None) or {}
        extras = {name: block[name] for name in cls.EXTRAS if name in block} if has_trained_head else {}
        config = cls(backbone_config, **extras)
        if has_trained_head:
            pad_token_id = config.pad_token_id
            ours = bool(block) and block.get("pad_token_id", pad_token_id) == pad_token_id
            config.set_pooling(config.pooling if ours else "last_non_pad", pad_token_id)
        for name in ("quantization_config", "dtype", "_name_or_path"):
            if getattr(backbone_config, name, None):
                setattr(config, name, getattr(backbone_config, name))
        backbone_config.__dict__.pop("quantization_config", None)
        return config

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Also around a base model's config: PEFT reads the base's `config.json` with the class of what it saves."""
        model_type = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)[0].get("model_type")
        if model_type == cls.model_type:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        kwargs["return_unused_kwargs"], wants_unused = True, kwargs.get("return_unused_kwargs", False)
        config, unused = AutoConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
        config = cls.from_backbone_config(config)
        return (config, unused) if wants_unused else config

    def set_pooling(self, pooling: str, pad_token_id: int | None = None) -> None:
        """Say which token the head reads; a pad token that no text can hold leaves the last one."""
        readable = pad_token_id is not None and 0 <= pad_token_id < (self.vocab_size or math.inf)
        self.pooling = pooling if readable else "last_token"
        self.pooling_pad_token_id = pad_token_id if self.pooling == "last_non_pad" else None

    @property
    def trailing_pad_id(self) -> int | None:
        """The id that is cut from the end of every text before the last token is read, or `None`."""
        return self.pooling_pad_token_id if self.pooling == "last_non_pad" else None

    @property
    def extras(self) -> dict[str, Any]:
        """What the block `"reward_model"` of a saved standard config, or `reward_model.json`, holds."""
        extras = {name: getattr(self, name) for name in self.EXTRAS if getattr(self, name) is not None}
        pad_token_id = self.pad_token_id if self.trailing_pad_id is None else self.trailing_pad_id
        return extras if pad_token_id is None else {**extras, "pad_token_id": pad_token_id}


def _of_text_backbone(name: str) -> property:
    """An attribute that TRL, PEFT and DeepSpeed expect on the model's config and that belongs to the backbone's."""

    def get(self):
        return getattr(self.backbone_config.get_text_config(), name, None)

    def set(self, value):
        setattr(self.backbone_config.get_text_config(), name, value)

    return property(get, set)


for _name in ("hidden_size", "vocab_size", "pad_token_id", "eos_token_id", "bos_token_id", "initializer_range"):
    setattr(RewardModelConfig, _name, _of_text_backbone(_name))


class RewardHead(nn.Linear):
    """Linear hidden → 1, float32 (float64 for a float64 backbone) however the model is cast, autocast or quantised."""

    def __init__(self, hidden_size: int, bias: bool = False):
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        super().__init__(hidden_size, 1, bias=bias, dtype=dtype)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return super().forward(hidden_states.to(self.weight.dtype))

    def share(self, linear: nn.Linear) -> RewardHead:
        """Take the weight of another head: the parameter itself, or a float32 copy of a 16-bit one."""
        if not linear.weight.is_floating_point():
            raise ValueError(
                "the head `score` is quantised, a RewardModel's is float32; load the model with "
                "llm_int8_skip_modules=['score'] in its quantization_config"
            )
        if linear.weight.dtype in (torch.float32, torch.float64):
            self.weight = linear.weight
        else:
            copied = linear.weight.detach().to(self.weight.dtype)
            self.weight = nn.Parameter(copied, requires_grad=linear.weight.requires_grad)
        return self

    def _apply(self, fn, recurse=True):
        def keep_precision(tensor):
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, recurse)


class RewardModel(PreTrainedModel):
    """
    A reward model r(prompt, completion) → scalar on any transformers decoder.

    Made by [`RewardModel.from_backbone`] (a fresh head, to train) or [`RewardModel.from_pretrained`] (a trained one).

    Args:
        config ([`RewardModelConfig`]): the model's config.
        backbone (`PreTrainedModel`, *optional*): a decoder without head to build on; made from the config if absent.
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
        standard_class = _sequence_classifier(config.backbone_config)[0]
        self.base_model_prefix = (standard_class or backbone).base_model_prefix or type(self).base_model_prefix
        setattr(self, self.base_model_prefix, backbone)
        backbone.register_forward_pre_hook(_watch_ppo, with_kwargs=True)
        text_config = config.backbone_config.get_text_config()  # OPT may end in a projection to another size
        hidden_size = getattr(text_config, "word_embed_proj_dim", None) or config.hidden_size
        self.score = RewardHead(hidden_size, bias=config.head_bias)
        self._peft_model = None  # the PeftModel around a model whose adapters were loaded; not a submodule
        self._has_fresh_head = False  # drawn at random, and no training has begun
        self._shared_prefix_refusal: str | None = None
        self._shared_prefix_checked = False
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: transformers 5.23 would leave buffers that a backbone fills for its layers unset (`FalconH1Model`)."""
        return False

    @property
    def model(self) -> PreTrainedModel:
        """The backbone, whatever its architecture calls it."""
        return super().__getattr__(self.base_model_prefix)

    # --------------------------------------------------------------------------------------------------------- forward

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        completion_ends: torch.LongTensor | None = None,
        shared_prefix_layout: SharedPrefixLayout | None = None,
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
            completion_ends (`torch.LongTensor`, *optional*): (N,), places in the packed row that the head reads.
            shared_prefix_layout (`SharedPrefixLayout`, *optional*): where the packed row's groups lie.

        Returns:
            `SequenceClassifierOutputWithPast`: `logits` (N, 1) in the head's dtype; `hidden_states` where asked for.
        """
        if shared_prefix_layout is not None:
            # A mask of four dimensions is handed through by transformers untouched; the layout says who sees whom.
            attention_mask = torch.empty(1, 1, 1, 1, device=input_ids.device)
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
        if completion_ends is not None:
            pooled_NH = hidden_NLH[0, completion_ends]
        else:
            ends_N = self._ends(input_ids, attention_mask, hidden_NLH)
            pooled_NH = hidden_NLH[torch.arange(len(ends_N), device=hidden_NLH.device), ends_N]
        return SequenceClassifierOutputWithPast(
            logits=self.score(pooled_NH),
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _ends(self, input_ids, attention_mask, hidden_NLH: torch.Tensor) -> torch.Tensor:
        """(N,) index of the token that the head reads in every row; the first real one where all are pads."""
        device, pad_token_id = hidden_NLH.device, self.config.trailing_pad_id
        real_NL = torch.ones(hidden_NLH.shape[:2], dtype=torch.bool, device=device)
        if attention_mask is not None:
            real_NL = attention_mask.to(device) != 0
        positions_L = torch.arange(real_NL.shape[1], device=device)
        if pad_token_id is None or input_ids is None:
            return (positions_L * real_NL).argmax(-1)
        read_NL = real_NL & (input_ids.to(device) != pad_token_id)
        return torch.maximum((positions_L * read_NL).argmax(-1), real_NL.int().argmax(-1))

    # ----------------------------------------------------------------------------------------------- the shared prefix

    @property
    def rope_switch(self) -> int | None:
        """Length at which the rotary frequencies of longrope and dynamic rope change for a whole batch, or `None`.

        Texts on both sides of it must not share a call, or a score would depend on its company.
        """
        config = self.config.backbone_config.get_text_config()
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") not in ("longrope", "dynamic"):
            return None
        return rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", config.max_position_embeddings
        )

    @torch.no_grad()
    def supports_shared_prefix(self) -> bool:
        """
        Whether packed rows give this model's true scores. Checked once, by computing one small group both ways.

        Where they do not (state-space and hybrid layers, custom attention, …) one log line says why, and callers pad.
        """
        if self._shared_prefix_checked:
            return self._shared_prefix_refusal is None
        self._shared_prefix_checked = True
        before = self.model.config._attn_implementation
        try:
            self._shared_prefix_refusal = self._why_not_shared_prefix(before)
        except Exception as error:  # an architecture that cannot take the row at all; its own words are the reason
            self._shared_prefix_refusal = f"{type(error).__name__}: {error}".splitlines()[0]
        if self._shared_prefix_refusal is not None:
            if self.model.config._attn_implementation != before:
                self.model.set_attn_implementation(before)
            logger.warning("shared-prefix computation is off, batches are padded: %s", self._shared_prefix_refusal)
        return self._shared_prefix_refusal is None

    def _why_not_shared_prefix(self, before: str | None) -> str | None:
        config = self.config.backbone_config.get_text_config()
        if before not in (IMPLEMENTATION, "sdpa", "eager"):
            return f"attn_implementation={before!r} was asked for; leave it unset to share prefixes"
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
            return f"{type(self.model).__name__} has layers of kind {', '.join(sorted(unknown))}"
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, config.vocab_size, (40,), generator=generator).tolist()
        pad_token_id = self.config.trailing_pad_id  # at an end it would be cut
        ids = [(i + 1) % config.vocab_size if i == pad_token_id else i for i in ids]
        sequences = [ids[:24], ids[:17] + ids[24:33], ids[:17] + ids[33:40], ids[:18]]
        was_training, device = self.training, self.device
        self.eval()
        try:
            padded = self._hidden_ends(pad(sequences), device)
            self.model.set_attn_implementation(IMPLEMENTATION)
            batch = pack([EncodedGroup(sequences[:3]), EncodedGroup(sequences[3:])])
            seen = batch["shared_prefix_layout"].seen_windows = []
            packed = self._hidden_ends(batch, device)
        finally:
            self.train(was_training)
        window = getattr(config, "sliding_window", None)
        hidden_window = (
            window is not None
            and window < (getattr(config, "max_position_embeddings", None) or window)
            and getattr(config, "layer_types", None) is None
            and all(w is None for w in seen)
        )
        if hidden_window:
            return f"{type(self.model).__name__} has a window of {window} that it does not hand to its attention"
        if len(seen) != len(kinds) or sum(w is not None for w in seen) < kinds.count("sliding_attention"):
            return f"{type(self.model).__name__} does not hand the layout to the attention of all its layers"
        difference = ((packed - padded).norm() / padded.norm().clamp_min(1e-30)).item()
        # Wrong attention is off by tenths; the rest is rounding of the dtype that the layers compute in.
        tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(self._compute_dtype, 0.05)
        if not difference <= tolerance:
            return f"{type(self.model).__name__} gives other results packed than padded (relative {difference:.2g})"
        return None

    @property
    def _compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if getattr(self, "is_loaded_in_4bit", False) else self.model.dtype

    def _hidden_ends(self, batch: dict, device: torch.device) -> torch.Tensor:
        pooled = []
        handle = self.score.register_forward_pre_hook(lambda _, args: pooled.append(args[0].double()))
        try:
            self(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
        finally:
            handle.remove()
        return pooled[0]

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

        Raises:
            ValueError: not a decoder, or a model that has a head already.
        """
        if isinstance(model, PreTrainedModel):
            if kwargs:
                raise ValueError(f"{', '.join(kwargs)} cannot be applied to a model in memory; give its id or folder")
            has_head = isinstance(model, cls) or type(model).__name__.endswith("ForSequenceClassification")
            _check_headless_decoder("the model", type(model).__name__, model.config, has_head)
            backbone = getattr(model, model.base_model_prefix, model)
            made = cls._around(backbone, RewardModelConfig.from_backbone_config(model.config))
            made._has_fresh_head = True
            return made
        path = os.fspath(model)
        config = kwargs.pop("config", None)
        if config is None:
            config, kwargs = _load_config(path, kwargs)
        has_head = find_head(path, config, **kwargs) is not None
        _check_headless_decoder(path, (config.architectures or [config.model_type])[0], config, has_head)
        wrapped = RewardModelConfig.from_backbone_config(config)
        wrapped.base_model = path
        wrapped.base_revision = _commit(path, kwargs)
        model, info = cls._load(path, wrapped, fresh_head=True, **kwargs)
        missing = _missing(info)
        if "score.weight" not in missing:  # in a pickle, whose names are not read beforehand
            _check_headless_decoder(path, type(model.model).__name__, config, has_head=True)
        if missing := missing - {"score.weight"}:
            raise ValueError(
                f"{path}: weights are missing ({', '.join(sorted(missing)[:3])}); "
                f"is it a decoder of type {config.model_type}?"
            )
        _check_all_is_read(path, config, info["unexpected_keys"])
        model._has_fresh_head = True
        return model

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

        Raises:
            ValueError: no trained head, more than one label, not a decoder, or weights that nothing reads.
        """
        path = os.fspath(pretrained_model_name_or_path)
        if (num_labels := kwargs.pop("num_labels", 1)) != 1:
            raise ValueError(f"num_labels={num_labels}, a reward model has 1; load with num_labels=1")
        config = kwargs.pop("config", None)
        if config is None:
            if find_adapter_config_file(path, **_hub_arguments(kwargs, without="proxies")):
                return load_adapter(path, **kwargs)
            config, kwargs = _load_config(path, kwargs)
        head = find_head(path, config, **kwargs)
        _check_trained_head(path, config, head)
        own_config = config
        if not isinstance(config, RewardModelConfig):
            config = RewardModelConfig.from_backbone_config(config, has_trained_head=True)
            config.head_bias = head.has_bias
            if head.reads_last_token:
                config.set_pooling("last_token")
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = cls._load(path, config, fresh_head=head.file is not None, **kwargs)
        model._has_fresh_head = config.base_model is not None and config.template_hash is None  # saved untrained
        missing = _missing(info)
        if head.file is not None:
            model.score.load_state_dict(head.tensors())
            missing -= {"score.weight", "score.bias"}
        for name, shape, _ in info["mismatched_keys"]:
            if name == "score.weight" and shape[0] != 1:
                raise ValueError(f"{path}: num_labels={shape[0]}, a reward model has 1; choose a one-label checkpoint")
        if missing:
            raise ValueError(
                f"{path}: no weights for {', '.join(sorted(missing, reverse=True)[:3])}, so it is no trained reward "
                "model; RewardModel.from_backbone puts a fresh head on a causal or base model"
            )
        _check_all_is_read(path, own_config, info["unexpected_keys"])
        if model.score.bias is not None and not model.score.bias.any():
            model.score.bias, model.config.head_bias = None, False
        return (model, info) if wants_info else model

    @classmethod
    def _load(cls, path: str, config: RewardModelConfig, fresh_head: bool, **kwargs) -> tuple[RewardModel, dict]:
        """transformers' loading of `path` into a `RewardModel`, and its report; heads come by any name of theirs."""
        kwargs = {k: v for k, v in kwargs.items() if v is not None}
        if hasattr(
            kwargs.get("quantization_config"), "llm_int8_skip_modules"
        ):  # saved, and heeded by whoever loads it
            quantization = kwargs["quantization_config"] = copy.deepcopy(kwargs["quantization_config"])
            quantization.llm_int8_skip_modules = [*(quantization.llm_int8_skip_modules or ["lm_head"]), "score"]
        loading = logging.getLogger("transformers.modeling_utils")
        if fresh_head:  # transformers would report the head as missing; it is meant to be
            loading.addFilter(_only_errors)
        try:
            kwargs |= {"config": config, "output_loading_info": True, "ignore_mismatched_sizes": True}
            names = "|".join(map(re.escape, _head_names(config.backbone_config)[1:]))
            model, info = super().from_pretrained(path, key_mapping={rf"^({names})\.": "score."}, **kwargs)
        finally:
            loading.removeFilter(_only_errors)
        model._weight_conversions = [  # transformers would give the head its old name when it saves
            conversion for conversion in model._weight_conversions or [] if "score." not in conversion.target_patterns
        ]
        _use_trainable_4bit_kernels(model)
        return model, info

    @classmethod
    def _around(
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
        _copy_attributes(backbone, model, *QUANTIZATION_ATTRIBUTES, "hf_device_map")
        _use_trainable_4bit_kernels(model)
        return model.train(backbone.training)

    @classmethod
    def from_sequence_classifier(cls, model: PreTrainedModel) -> RewardModel:
        """A decoder's `*ForSequenceClassification` in memory as a `RewardModel`.

        Backbone and head are shared, so what trains one trains the other; a 16-bit head is copied into float32.
        """
        if isinstance(model, cls):
            return model
        if not type(model).__name__.endswith("ForSequenceClassification"):
            raise ValueError(
                f"{type(model).__name__} has no trained reward head; RewardModel.from_backbone puts a fresh one on it"
            )
        if model.config.num_labels != 1:
            raise ValueError(f"num_labels={model.config.num_labels}, a reward model has 1; load with num_labels=1")
        if not isinstance(getattr(model, "score", None), nn.Linear) or model.score.bias is not None:
            raise ValueError(
                f"{type(model).__name__} has no linear head named `score` without bias, a RewardModel has; "
                "RewardScorer takes such classifiers as they are"
            )
        backbone = getattr(model, model.base_model_prefix)
        _copy_attributes(model, backbone, *QUANTIZATION_ATTRIBUTES, "hf_device_map")
        config = RewardModelConfig.from_backbone_config(model.config, has_trained_head=True)
        return cls._around(backbone, config, model.score)

    # ---------------------------------------------------------------------------------------------------------- saving

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args,
        format: str = "standard",
        state_dict: dict[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> None:
        """
        Write the model so that anyone can open it.

        Args:
            save_directory (`str` or `os.PathLike`): the folder.
            format (`str`, *optional*, defaults to `"standard"`):
                `"standard"`: the architecture's own `*ForSequenceClassification` checkpoint, or the PEFT folder where
                adapters were loaded. `"native"`: `model_type: reward_model`, which needs this package.
            state_dict (`dict`, *optional*): weights under this model's names, where a launcher gathered them.
            kwargs: as for `save_pretrained` of transformers, `push_to_hub` included.
        """
        if format not in ("standard", "native"):
            raise ValueError(f"format={format!r} is not known; use 'standard' or 'native'")
        if hasattr(self, "peft_config"):  # PEFT's mark on a model that holds adapters
            if format == "native":
                raise ValueError("format='native' has no place for adapters; merge() them first")
            if kwargs.pop("push_to_hub", False):
                raise ValueError("push_to_hub=True while saving adapters is not supported; call push_to_hub(repo_id)")
            is_main_process = args[0] if args else kwargs.get("is_main_process", True)
            self._wrapper("save it").save_pretrained(save_directory, is_main_process=is_main_process)
            return
        standard = self.to_sequence_classifier() if format == "standard" else None
        if standard is not None:
            self._warn_about_padding()
            standard.save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
            return
        if format == "standard":
            logger.warning(
                "%s: saved as model_type reward_model, which needs rm_plugin to load", self._why_not_standard()
            )
        super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)

    def _warn_about_padding(self) -> None:
        pad, eos = self.config.pad_token_id, self.config.eos_token_id
        if self.config.trailing_pad_id is not None:
            return
        if pad is None or pad == eos or (isinstance(eos, list) and pad in eos):
            logger.warning(
                "pad_token_id=%s is saved (EOS is %s): plain transformers refuses padded batches or scores the wrong "
                "token; call rm_plugin.data.encoding.ensure_pad_token(tokenizer, model) before saving",
                pad,
                eos,
            )

    def to_sequence_classifier(self) -> PreTrainedModel | None:
        """
        The architecture's own `*ForSequenceClassification`, sharing this model's modules.

        Its config carries our extras in the block `"reward_model"`. `None` where transformers has no such class, or
        none whose head has a bias.
        """
        standard_class = _sequence_classifier(self.config.backbone_config)[0]
        if standard_class is None or self.config.head_bias:
            return None
        config = copy.deepcopy(self.config.backbone_config)
        config.num_labels = 1
        config.reward_model = self.config.extras
        if self.config.trailing_pad_id is not None:
            config.get_text_config().pad_token_id = self.config.trailing_pad_id
        if getattr(self.config, "quantization_config", None) is not None:
            config.quantization_config = self.config.quantization_config
        if config._attn_implementation == IMPLEMENTATION:  # which the other class need not know
            config._attn_implementation_internal = None
        with torch.device("meta"), no_init_weights():
            standard = standard_class(config)
        setattr(standard, standard.base_model_prefix, self.model)
        standard.score = self.score
        _copy_attributes(self, standard, *QUANTIZATION_ATTRIBUTES, "hf_device_map")
        return standard.train(self.training)

    def _why_not_standard(self) -> str | None:
        """What no standard checkpoint can hold of this model."""
        standard_class = _sequence_classifier(self.config.backbone_config)[0]
        if standard_class is None:
            return f"transformers has no sequence classifier for {self.config.backbone_config.model_type}"
        return f"the head has a bias, {standard_class.__name__} has none" if self.config.head_bias else None

    def merge(self, dtype: torch.dtype | None = None) -> RewardModel:
        """
        This model as a plain one, changed in place: adapters folded into the weights, nothing quantised.

        A quantised base is de-quantised first: folding into NF4 would quantise again and move every score.

        Args:
            dtype (`torch.dtype`, *optional*): of the backbone's weights; the model's own if absent.
        """
        if hasattr(self, "peft_config"):
            return merge_adapter(self._wrapper("merge it with rm_plugin.model.modeling.merge_adapter"), dtype)
        dtype = dtype or self.dtype
        return (_dequantize(self, dtype) if _is_quantized(self) else self).to(dtype)

    def _wrapper(self, advice: str):
        if self._peft_model is None:
            raise ValueError(
                f"this RewardModel holds adapters of a PeftModel around it; take that PeftModel and {advice}"
            )
        return self._peft_model

    def export(
        self, save_directory: str | os.PathLike, processing_class: Any, dtype: torch.dtype | None = None
    ) -> RewardModel:
        """
        Write a merged standard checkpoint with its tokenizer and a README that says how other tools load it.

        Args:
            save_directory (`str` or `os.PathLike`): the folder.
            processing_class (`PreTrainedTokenizerBase`):
                The reward model's tokenizer; gets the pad token of the model's config, and both one that is not EOS
                unless the model was trained with another.
            dtype (`torch.dtype`, *optional*): of the backbone's weights; the model's own if absent.

        Returns:
            [`RewardModel`]: this model, merged (see [`RewardModel.merge`]).

        Raises:
            ValueError: transformers has no class for such a model, so no other tool could open it.
        """
        from ..data.encoding import ensure_pad_token

        if (reason := self._why_not_standard()) is not None:
            raise ValueError(
                f"{reason}, so no other tool could open it; merge().save_pretrained(folder, format='native') keeps it "
                "for rm_plugin"
            )
        model = self.merge(dtype)
        ensure_pad_token(processing_class, model)
        model.save_pretrained(save_directory)
        processing_class.save_pretrained(save_directory)
        folder = Path(save_directory)
        ids = EXPORT_IDS[processing_class.chat_template is not None]
        if self.config.trailing_pad_id is not None:
            ids += f"\nids = ids[: max(i for i, t in enumerate(ids) if t != {self.config.trailing_pad_id}) + 1]"
        readme = EXPORT_README.format(name=folder.name, ids=ids, reading=READING)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        return model


EXPORT_IDS = {  # how the README makes token ids: {has a chat template: lines}
    True: """\
messages = [{"role": "user", "content": "Which country owns Antarctica?"}, {"role": "assistant", "content": "None."}]
ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]""",
    False: """\
ids = tokenizer("Which country owns Antarctica? None." + tokenizer.eos_token)["input_ids"]""",
}

EXPORT_README = """\
---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, rm_plugin]
---

# {name}

A reward model: one scalar for a prompt and its completion; higher is better. It is a plain
`*ForSequenceClassification` checkpoint with one label.
{reading}

With rm_plugin (long texts, batches, shared prefixes):

```python
from rm_plugin import RewardScorer

scorer = RewardScorer("{name}")
scorer.score(["Which country owns Antarctica?"], ["None: the Antarctic Treaty System governs it."])
```

With plain transformers (do not use `pipeline`: it applies a sigmoid to a single label):

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}", dtype="auto")
{ids}
with torch.no_grad():
    print(model(torch.tensor([ids])).logits)
```

With vLLM, the same token ids (raw scores need the activation off):

```python
from vllm import LLM, PoolingParams

llm = LLM("{name}", runner="pooling")
raw = PoolingParams(use_activation=False)
print(llm.encode([{{"prompt_token_ids": ids}}], pooling_task="classify", pooling_params=raw)[0].outputs.data)
```

With SGLang: `python -m sglang.launch_server --model-path {name} --is-embedding`, then POST the rendered text to
`/classify` as `{{"model": "{name}", "text": …}}`; the score is `["embedding"][0]` of the answer.
"""


# ------------------------------------------------------------------------------------------------------------ adapters


def load_peft_model(path: str | os.PathLike, is_trainable: bool = False, **kwargs):
    """A PEFT adapter folder as a `PeftModel` around a `RewardModel`; adapters and head are float32.

    The base is loaded as `reward_model.json` records it (dtype, quantisation), but for what `kwargs` say; a folder of
    plain PEFT or TRL has no such file.

    Raises:
        ValueError: neither the adapter nor its base holds a trained head, weights are missing, or nothing reads them.
    """
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel, set_peft_model_state_dict

    path = os.fspath(path)
    hub = _hub_arguments(kwargs)
    kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}  # the adapter's
    peft_config = PeftConfig.from_pretrained(path, **hub)
    weights, pools_by_mask = _load_adapter_weights(path, peft_config, hub)
    side = _read_side_file(path, hub)
    base = peft_config.base_model_name_or_path
    if not base:
        raise ValueError(
            f"{path}: the adapter names no base model; set base_model_name_or_path in adapter_config.json"
        )
    if (revision := peft_config.revision or side.get("base_revision")) is not None:
        kwargs["revision"] = revision
    if side.get("dtype") is not None and {kwargs.get("dtype"), kwargs.get("torch_dtype")} <= {None, "auto"}:
        kwargs = {name: value for name, value in kwargs.items() if name != "torch_dtype"}
        kwargs["dtype"] = getattr(torch, side["dtype"])
    config, kwargs = _load_config(base, kwargs)
    if side.get("quantization_config") and getattr(config, "quantization_config", None) is None:
        from transformers import BitsAndBytesConfig

        kwargs.setdefault("quantization_config", BitsAndBytesConfig.from_dict(side["quantization_config"]))
    base_is_trained = find_head(base, config, **kwargs) is not None
    if not base_is_trained and not any(re.search(r"\bscore\.(base_layer\.)?weight$", name) for name in weights):
        raise ValueError(
            f"{path}: neither the adapter nor its base {base} holds a trained reward head (score.weight); "
            "train it with modules_to_save=['score']"
        )
    load = RewardModel.from_pretrained if base_is_trained else RewardModel.from_backbone
    model = load(base, config=config, **kwargs)
    model._has_fresh_head = False
    for name in RewardModelConfig.EXTRAS:
        if name in side:
            setattr(model.config, name, side[name])
    if side.get("vocab_size", 0) > num_embeddings(model):
        model.resize_token_embeddings(side["vocab_size"])
    if side:
        if side.get("pad_token_id") is not None:
            model.config.pad_token_id = side["pad_token_id"]
        model.config.set_pooling(side.get("pooling", "last_token"), side.get("pad_token_id"))
    elif pools_by_mask:
        model.config.set_pooling("last_token")
    elif (pad_token_id := _own_pad_token(path, config, hub)) is not None or not base_is_trained:
        model.config.pad_token_id = model.config.pad_token_id if pad_token_id is None else pad_token_id
        model.config.set_pooling("last_non_pad", model.config.pad_token_id)
    if any(name.endswith("score.bias") for name in weights):
        model.score.bias, model.config.head_bias = nn.Parameter(model.score.weight.new_zeros(1)), True
    peft_config.inference_mode = not is_trainable
    peft_model = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(peft_config.task_type, PeftModel)(model, peft_config)
    try:
        report = set_peft_model_state_dict(peft_model, weights)
    except KeyError as error:  # a module to be saved that is not in the file
        report = SimpleNamespace(missing_keys=[f"{error.args[0]}.default"], unexpected_keys=[])
    # PEFT's name for the adapter loaded
    if missing := {name for name in report.missing_keys if "default" in name.split(".")}:
        raise ValueError(f"{path}: no weights for {_first(missing)}; is {base} the base the adapter was trained on?")
    if unexpected := set(report.unexpected_keys):
        raise ValueError(
            f"{path}: adapter_config.json and the base {base} have no module for the weights {_first(unexpected)}, so "
            "scores would not be those that it was trained to give; correct the config, or name the base that the "
            "adapter was trained on"
        )
    if not base_is_trained and hasattr(model.score, "modules_to_save"):
        # The fresh head that PEFT keeps aside: random, another in every process, in use where adapters are disabled.
        model.score.original_module.load_state_dict(model.score.modules_to_save["default"].state_dict())
    adapters_to_float32(peft_model)
    return with_side_file(peft_model).train(is_trainable)


def _load_adapter_weights(path: str, peft_config: Any, hub: dict) -> tuple[dict[str, torch.Tensor], bool]:
    """
    The weights of an adapter, whose head is called `score` here, and whether its class pools by the attention mask.

    `peft_config` is changed where the adapter was trained around another class: a language model (LLaMA-Factory, the
    head in a file beside it), or one with a head of another name (OpenRLHF).
    """
    from peft.utils import load_peft_weights

    weights, kept = {}, list(getattr(peft_config, "modules_to_save", None) or [])
    foreign = rf"^base_model\.model\.({'|'.join(map(re.escape, HEAD_NAMES[1:]))})\."
    loaded = load_peft_weights(path, device="cpu", **hub)
    for name, tensor in loaded.items():
        weights[re.sub(foreign, "base_model.model.score.", name)] = tensor
    pools_by_mask = weights.keys() != loaded.keys()
    if (head := _find_value_head_file(path, hub)) is not None:
        weights = {name: tensor for name, tensor in weights.items() if ".lm_head." not in name}
        weights |= {f"base_model.model.score.{name}": tensor for name, tensor in head.tensors().items()}
        pools_by_mask = True
    if pools_by_mask:
        peft_config.task_type = "SEQ_CLS"
        if kept:
            peft_config.modules_to_save = [name for name in kept if name not in (*HEAD_NAMES, "lm_head")] + ["score"]
    elif peft_config.task_type == "CAUSAL_LM":
        peft_config.task_type = "SEQ_CLS" if "base_model.model.score.weight" in weights else None
    return weights, pools_by_mask


def _own_pad_token(path: str, config: PreTrainedConfig, hub: dict) -> int | None:
    """The pad token of the tokenizer in an adapter's folder, with which TRL trains, or `None`."""
    if _cached_file(path, "tokenizer_config.json", hub) is None:
        return None
    return AutoTokenizer.from_pretrained(path, config=config, **hub).pad_token_id


def load_adapter(path: str | os.PathLike, **kwargs) -> RewardModel:
    """A PEFT adapter folder as a `RewardModel` with its adapters injected."""
    peft_model = load_peft_model(path, **kwargs)
    model = peft_model.get_base_model()
    object.__setattr__(model, "_peft_model", peft_model)  # past nn.Module: the wrapper contains this model
    return model


def with_side_file(peft_model):
    """Let a `PeftModel` around a `RewardModel` write `reward_model.json` too, whoever calls its `save_pretrained`."""
    peft_model.save_pretrained = _SaveAdapter(peft_model)
    return peft_model


class _SaveAdapter:
    """[`save_adapter`] of one model; copies and pickles go with those of the model, which a closure would not."""

    def __init__(self, peft_model):
        self.peft_model = peft_model

    def __call__(self, *args, **kwargs) -> None:
        save_adapter(self.peft_model, *args, **kwargs)


def save_adapter(
    peft_model,
    save_directory: str | os.PathLike,
    safe_serialization: bool = True,
    selected_adapters: list[str] | None = None,
    save_embedding_layers: str | bool = "auto",
    is_main_process: bool = True,
    **kwargs,
) -> None:
    """The standard PEFT folder, and in it `reward_model.json`: our extras and how the base was loaded.

    Arguments are those of `PeftModel.save_pretrained`.
    """
    type(peft_model).save_pretrained(
        peft_model,
        save_directory,
        safe_serialization,
        selected_adapters,
        save_embedding_layers,
        is_main_process,
        **kwargs,
    )
    if is_main_process:
        if peft_model.get_base_model().config.head_bias:
            logger.warning("the head has a bias, which plain PEFT drops when it loads: scores there are off by it")
        for name in selected_adapters or peft_model.peft_config:  # PEFT's folders
            _write_side_file(peft_model, save_directory if name == "default" else Path(save_directory, name))


def _write_side_file(peft_model, folder: str | os.PathLike) -> None:
    """Write `reward_model.json` into an adapter's folder: what its own files cannot say about the reward model."""
    model = peft_model.get_base_model()
    side = dict(model.config.extras)
    side["dtype"] = str(model.dtype).removeprefix("torch.")
    side["vocab_size"] = num_embeddings(model)
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None:
        side["quantization_config"] = quantization if isinstance(quantization, dict) else quantization.to_dict()
    Path(folder, SIDE_FILE).write_text(json.dumps(side, indent=2) + "\n", encoding="utf-8")


def merge_adapter(peft_model, dtype: torch.dtype | None = None) -> RewardModel:
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
    if _is_quantized(model):
        # PEFT's layers differ over quantised and plain ones: take the adapter off, de-quantise, put it on again.
        name = peft_model.active_adapter
        peft_config = copy.deepcopy(peft_model.peft_config[name])
        weights = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
        weights = {key: tensor.detach().clone() for key, tensor in weights.items()}
        model = _dequantize(peft_model.unload(), wider)
        peft_config.inference_mode = False
        peft_model = get_peft_model(model, peft_config)
        set_peft_model_state_dict(peft_model, weights)
    else:
        model.to(wider)
    merged = peft_model.merge_and_unload()
    object.__setattr__(merged, "_peft_model", None)
    merged.requires_grad_(True)
    return merged.to(dtype).eval()


def adapters_to_float32(peft_model) -> None:
    """Adapters train and score in float32 whatever the base's dtype, as the head does; float64 ones stay."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in peft_model.modules():
        if isinstance(module, BaseTunerLayer):
            for name in module.adapter_layer_names:
                for parameter in getattr(module, name).parameters():
                    if parameter.dtype in (torch.float16, torch.bfloat16):
                        parameter.data = parameter.data.float()


def _is_quantized(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def _dequantize(model: RewardModel, dtype: torch.dtype) -> RewardModel:
    """Plain weights of one dtype instead of bitsandbytes', in place."""
    model.dequantize(dtype)
    for config in (model.config, model.config.backbone_config, model.model.config):
        config.__dict__.pop("quantization_config", None)
    for name in QUANTIZATION_ATTRIBUTES:
        model.__dict__.pop(name, None)
        model.model.__dict__.pop(name, None)
    return model.to(dtype)


def _use_trainable_4bit_kernels(model: nn.Module) -> None:
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


def load_tokenizer(model: Any, config: PreTrainedConfig, **kwargs) -> PreTrainedTokenizerBase:
    """
    The tokenizer that belongs to a model.

    Args:
        model (`str` or `PreTrainedModel`): folder or hub id, or a model in memory.
        config (`PreTrainedConfig`): the model's; it names where a model in memory, or an adapter's base, came from.
        kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `trust_remote_code`.

    Raises:
        ValueError: the model was trained with another chat template or special tokens than what is found.
    """
    place, hub = getattr(config, "_name_or_path", ""), _hub_arguments(kwargs)
    if isinstance(model, str) and model != place:  # an adapter: most have a tokenizer of their own
        file = cached_file(model, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False, **hub)
        place = model if file else place
    if not place:
        raise ValueError("the model does not say where its tokenizer is; give processing_class")
    if place != model:  # `revision` is that of the adapter
        kwargs["revision"] = config.base_revision if getattr(config, "base_model", None) == place else None
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    # The config is at hand; an adapter's repository has none.
    tokenizer = AutoTokenizer.from_pretrained(place, config=getattr(config, "backbone_config", config), **kwargs)
    wanted = getattr(config, "template_hash", None)
    if place == model or wanted is None or getattr(model, "_has_fresh_head", False):
        return tokenizer
    if template_hash(tokenizer) != wanted:
        trim_template_tail(tokenizer)  # as training does by default
    if template_hash(tokenizer) != wanted:
        raise ValueError(
            f"the tokenizer of {place} has another chat template or special tokens than the reward model was trained "
            "with; give the one it was trained with as processing_class"
        )
    return tokenizer


# ------------------------------------------------------------------------------------------------------------- helpers


def _hub_arguments(kwargs: dict, without: str = "") -> dict:
    """Those of `kwargs` that say where a repository is and how to reach it."""
    return {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None and name != without}


def _watch_ppo(backbone: PreTrainedModel, args: tuple, kwargs: dict[str, Any]) -> None:
    """
    Warn once where TRL's PPO reads rewards at tokens that end no text.

    PPO calls backbone and head past `forward`, masks what equals the policy's pad token, and reads the last token
    before the response's pads (`get_reward` in TRL 1.12). With pad == EOS that is the token before EOS, and every end
    token of the prompt is masked too. Only the calls themselves show that to a reward model that was handed over as it
    is: a policy may say pad itself now and then, but 16 texts of which none is read at its end are no accident.

    That is all that the calls show. Another chat template or vocabulary of the policy's tokenizer is told of by
    [`RewardScoringCallback`], which sees both.
    """
    mask_NL, misread = kwargs.get("attention_mask"), getattr(backbone, "_ppo_misread", 0)
    if not (kwargs.get("output_hidden_states") and isinstance(mask_NL, torch.Tensor) and mask_NL.dtype == torch.bool):
        return
    if misread is None or backbone.training or torch.is_grad_enabled() or mask_NL.dim() != 2:
        return  # decided, or a value model, which is read at every token and learns what it reads
    length = mask_NL.shape[1]
    first_N = mask_NL.int().argmax(-1)
    last_N = (torch.arange(length, device=mask_NL.device) * mask_NL).argmax(-1)
    holes_N = mask_NL.sum(-1) != last_N - first_N + 1
    ended_N = last_N < length - 1
    ends = torch.tensor(backbone.config.get_text_config().eos_token_id or [], device=mask_NL.device)
    if ends.numel() == 0:
        return
    right_N = ended_N & ~holes_N & torch.isin(kwargs["input_ids"].gather(1, last_N[:, None])[:, 0], ends)
    backbone._ppo_misread = None if right_N.any() else misread + int((holes_N | ended_N).sum())
    if backbone._ppo_misread is not None and backbone._ppo_misread >= 16:
        backbone._ppo_misread = None
        logger.warning(
            "PPO reads the reward at tokens that end no text: the policy's pad token is its EOS, or its end token is "
            "another than the reward model's; hand over "
            "rm_plugin.as_ppo_reward_model(RewardScorer(...), policy_tokenizer) instead"
        )


def _load_config(path: str, kwargs: dict) -> tuple[PreTrainedConfig, dict]:
    """The config of a folder or hub id, changed as `kwargs` ask, and what remains of `kwargs` for the weights."""
    # A nested config forgets the implementation that it was given, so loading has to hand it on.
    names = ("dtype", "torch_dtype", "quantization_config", "attn_implementation", "experts_implementation")
    for_weights = {name: kwargs[name] for name in names if name in kwargs}
    for_config = {name: value for name, value in kwargs.items() if name not in for_weights and value is not None}
    config, unused = AutoConfig.from_pretrained(path, return_unused_kwargs=True, **for_config)
    return config, {**_hub_arguments(kwargs), **unused, **for_weights}


def _commit(path: str, kwargs: dict) -> str | None:
    """The commit of a hub id that its config was read at; `None` for a folder."""
    file = cached_file(path, "config.json", _raise_exceptions_for_missing_entries=False, **_hub_arguments(kwargs))
    return extract_commit_hash(file, None)


def _missing(info: dict) -> set[str]:
    """Names of weights that a checkpoint did not hold, or held in another shape."""
    return set(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]}


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _copy_attributes(source: nn.Module, target: nn.Module, *names: str) -> None:
    for name in names:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def _sequence_classifier(config: PreTrainedConfig) -> tuple[type[PreTrainedModel] | None, str | None]:
    """transformers' one-label decoder classifier for a config and the name of its backbone, or `(None, None)`."""
    standard_class = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if standard_class is None or standard_class is RewardModel:
        return None, None
    if standard_class not in _HAS_LINEAR_HEAD:  # seen from an instance without memory, which costs milliseconds
        config = copy.deepcopy(config)
        config.num_labels = 1
        with torch.device("meta"), no_init_weights():
            head = getattr(standard_class(config), "score", None)
        _HAS_LINEAR_HEAD[standard_class] = isinstance(head, nn.Linear) and head.bias is None
    return (standard_class, standard_class.base_model_prefix) if _HAS_LINEAR_HEAD[standard_class] else (None, None)


@dataclass
class FoundHead:
    """The trained head of a checkpoint: its name there, or the file beside it that holds it."""

    name: str = "score"
    has_bias: bool = False
    reads_last_token: bool = False  # whatever the pad token, as those do that pool by the attention mask
    file: str | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """`weight` (1, H), and `bias` (1,) where the file has one."""
        if self.file.endswith(".safetensors"):
            tensors = load_file(self.file)
        else:
            tensors = torch.load(self.file, map_location="cpu", weights_only=True)
        parts = [name.rpartition(".")[2] for name in sorted(tensors)]
        if parts not in (["weight"], ["bias", "weight"]):
            raise ValueError(
                f"{self.file} holds {', '.join(sorted(tensors)) or 'nothing'}, a linear head has a weight and a bias; "
                "fold other layers into one, or train the head anew without this file"
            )
        return {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}


def find_head(path: str, config: PreTrainedConfig, **kwargs) -> FoundHead | None:
    """
    The trained reward head of a full checkpoint, whoever wrote it; `None` where it has none.

    Args:
        path (`str`): folder or hub id.
        config (`PreTrainedConfig`): its config.
        kwargs: `revision`, `token`, `cache_dir`, …; others are not read.
    """
    if isinstance(config, RewardModelConfig):
        return FoundHead(has_bias=config.head_bias)
    hub, architecture = _hub_arguments(kwargs), (config.architectures or [""])[0]
    weights = _weight_names(path, hub)
    for name in _head_names(config):
        if f"{name}.weight" in weights:
            reads_last_token = name != "score" or architecture in POOLS_BY_MASK
            return FoundHead(name, f"{name}.bias" in weights, reads_last_token)
    if (head := _find_value_head_file(path, hub)) is not None:
        return head
    return FoundHead() if architecture.endswith("ForSequenceClassification") else None


def _head_names(config: PreTrainedConfig) -> list[str]:
    own = getattr(config, "value_head_prefix", None)  # OpenRLHF's option
    return list(dict.fromkeys([*HEAD_NAMES, *([own] if own else [])]))


def _find_value_head_file(path: str, hub: dict) -> FoundHead | None:
    for file_name in VALUE_HEAD_FILES:
        if file := _cached_file(path, file_name, hub):
            head = FoundHead(file_name, reads_last_token=True, file=file)
            head.has_bias = "bias" in head.tensors()
            return head
    return None


def _weight_names(path: str, hub: dict) -> set[str]:
    """Names of the tensors of a checkpoint; none of a pickle, which only loading reads."""
    for file_name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if file := _cached_file(path, file_name, hub):
            return set(json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"])
    if file := _cached_file(path, "model.safetensors", hub):
        with safe_open(file, framework="pt") as weights:
            return set(weights.keys())
    return set()


def _cached_file(path: str, file_name: str, hub: dict) -> str | None:
    """A file of a folder or hub id, or `None` where there is none."""
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(path, file_name, **quiet, **hub)


def _check_all_is_read(path: str, config: PreTrainedConfig, unexpected: set[str]) -> None:
    """Raise where a checkpoint holds weights that its own class neither has nor ignores: scores would be others."""
    unexpected = {name for name in unexpected if not HARMLESS.search(name)}
    own_class = getattr(transformers, (config.architectures or [""])[0], None)
    own_class = own_class or MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if unexpected and own_class is not None:  # a language head is read by its own class
        with torch.device("meta"), no_init_weights():
            own = own_class(copy.deepcopy(config))
        ignored = [re.compile(pattern) for pattern in own._keys_to_ignore_on_load_unexpected or ()]
        known = own.state_dict().keys()
        unexpected = {name for name in unexpected - known if not any(pattern.search(name) for pattern in ignored)}
    if unexpected:
        raise ValueError(
            f"{path} holds weights that nothing reads ({_first(unexpected)}), so its scores would not be those that "
            "it was trained to give; correct config.json (architectures, number of layers), or remove these weights"
        )


def _first(names: set[str]) -> str:
    more = f", … {len(names)} in all" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def _check_headless_decoder(path: str, name: str, config: PreTrainedConfig, has_head: bool) -> None:
    if has_head:
        raise ValueError(
            f"{path} is a {name} with a head of its own; RewardModel.from_pretrained loads a one-label head, and "
            "from_backbone(AutoModel.from_pretrained(…)) puts a fresh one on its backbone"
        )
    if config.is_encoder_decoder or type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(
            f"{path} is a {name}, a RewardModel needs a decoder; RewardScorer takes trained encoder classifiers as "
            "they are"
        )


def _check_trained_head(path: str, config: PreTrainedConfig, head: FoundHead | None) -> None:
    architecture = (config.architectures or [config.model_type])[0]
    if head is None:
        raise ValueError(
            f"{path} is a {architecture}, which has no trained reward head; "
            "RewardModel.from_backbone puts a fresh one on it, to be trained"
        )
    is_classifier = architecture.endswith("ForSequenceClassification")
    if not isinstance(config, RewardModelConfig) and is_classifier and _sequence_classifier(config)[0] is None:
        raise ValueError(
            f"{path} is a {architecture}, not a decoder with a linear head `score`; "
            "RewardScorer takes it as it is (AutoModelForSequenceClassification)"
        )


def _read_side_file(path: str, hub: dict) -> dict:
    file = _cached_file(path, SIDE_FILE, hub)
    return json.loads(Path(file).read_text(encoding="utf-8")) if file else {}


AutoConfig.register("reward_model", RewardModelConfig, exist_ok=True)  # known by name since `import rm_plugin`
AutoModel.register(RewardModelConfig, RewardModel)
AutoModelForSequenceClassification.register(RewardModelConfig, RewardModel)
