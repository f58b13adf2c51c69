"""`RewardModelConfig`, and what can be read off a config alone: the standard class that fits, the pooling rule.

config = RewardModelConfig.from_backbone_config(AutoConfig.from_pretrained("Qwen/Qwen3-0.6B"))
"""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..data.encoding import pooling_of
from .sharding import without_weights

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

    Raises:
        ValueError: `num_labels` other than 1.
    """

    model_type = "reward_model"
    sub_configs = {"backbone_config": AutoConfig}
    EXTRAS = {  # what the block `"reward_model"` of a standard config and `reward_model.json` hold, and the defaults
        "reasoning": "keep",
        "reward_mean": None,
        "reward_std": None,
        "tie_threshold": None,
        "template_hash": None,
        "base_model": None,
        "base_revision": None,
        "pooling": "last_token",
    }

    def __init__(self, backbone_config: PreTrainedConfig | dict | None = None, **kwargs):
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        for name, default in {**self.EXTRAS, "pooling_pad_token_id": None, "head_bias": False}.items():
            setattr(self, name, kwargs.pop(name, default))
        check_one_label(kwargs.setdefault("num_labels", 1))
        super().__init__(**kwargs)

    @classmethod
    def from_backbone_config(cls, backbone_config: PreTrainedConfig, has_trained_head: bool = False):
        """
        A config around a backbone's, or around that of a standard checkpoint, whose extras it takes over.

        Args:
            backbone_config (`PreTrainedConfig`): it is copied; of a multimodal model, the part that reads text counts.
            has_trained_head (`bool`, *optional*, defaults to `False`):
                Whether the head keeps reading the token that it was trained on ([`pooling_of`]).

        Returns:
            [`RewardModelConfig`]

        Example:

        ```python
        config = RewardModelConfig.from_backbone_config(AutoConfig.from_pretrained("Qwen/Qwen3-0.6B"))
        ```
        """
        outer = copy.deepcopy(backbone_config)
        block = outer.__dict__.pop("reward_model", None) or {}
        backbone_config = text_config(outer)
        extras = {name: block[name] for name in cls.EXTRAS if name in block} if has_trained_head else {}
        config = cls(backbone_config, **extras)
        if has_trained_head:
            config.set_pooling(pooling_of(block, config.pad_token_id), config.pad_token_id)
        for name in ("quantization_config", "dtype", "name_or_path"):
            if getattr(outer, name, None):
                setattr(config, name, getattr(outer, name))
        backbone_config.__dict__.pop("quantization_config", None)
        return config

    @classmethod
    def get_config_dict(cls, *args, **kwargs):
        """Also of a base model: PEFT reads the base's `config.json` with the class of what it saves."""
        config, kwargs = super().get_config_dict(*args, **kwargs)
        return config if config.get("model_type") == cls.model_type else {"backbone_config": config}, kwargs

    def set_pooling(self, pooling: str, pad_token_id: int | None = None) -> None:
        """Say which token the head reads; a pad token that no text can hold leaves the last token."""
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

    def take_over(self, extras: dict[str, Any]) -> None:
        """Set what an adapter's `reward_model.json` holds."""
        for name in self.EXTRAS.keys() & extras:
            setattr(self, name, extras[name])
        if extras.get("pad_token_id") is not None:
            self.pad_token_id = extras["pad_token_id"]
        self.set_pooling(pooling_of(extras, extras.get("pad_token_id")), extras.get("pad_token_id"))


def check_one_label(num_labels: int) -> None:
    """Refuse a classifier of several classes."""
    if num_labels != 1:
        raise ValueError(f"num_labels={num_labels}, a reward model has 1; load with num_labels=1")


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the part of a multimodal model that reads text; else the config itself."""
    return config if config.is_encoder_decoder else config.get_text_config()


def _of_text_backbone(name: str) -> property:
    """An attribute that TRL, PEFT and DeepSpeed expect on the model's config and that belongs to the backbone's."""

    def get(self):
        return getattr(self.backbone_config.get_text_config(), name, None)

    def set(self, value):
        setattr(self.backbone_config.get_text_config(), name, value)

    return property(get, set)


for _name in (
    *("hidden_size", "vocab_size", "pad_token_id", "eos_token_id", "bos_token_id"),
    *("initializer_range", "max_position_embeddings"),
):
    setattr(RewardModelConfig, _name, _of_text_backbone(_name))


def sequence_classifier(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """transformers' one-label decoder classifier for a config, if its head is a linear `score` without bias."""
    # Here: its module, once imported, imports modeling.py (see `rm_plugin/__init__.py`), which needs this one whole.
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    standard_class = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if standard_class is None or isinstance(config, RewardModelConfig):
        return None
    if standard_class not in _HAS_LINEAR_HEAD:  # seen from an instance without memory, which costs milliseconds
        config = copy.deepcopy(config)
        config.num_labels = 1
        with without_weights():
            head = getattr(standard_class(config), "score", None)
        _HAS_LINEAR_HEAD[standard_class] = isinstance(head, nn.Linear) and head.bias is None
    return standard_class if _HAS_LINEAR_HEAD[standard_class] else None


AutoConfig.register("reward_model", RewardModelConfig, exist_ok=True)  # known by name since `import rm_plugin`
