"""How a reward model is adapted: configurations of PEFT under which its head is trained and kept.

PairwiseRewardTrainer(model, peft_config=lora_config(r=16))
"""

from __future__ import annotations

import copy

from peft import LoraConfig, PeftConfig, PeftType, TaskType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)

from ..model.adapters import check_peft_method


def lora_config(
    r: int = 16, lora_alpha: int | None = None, target_modules: str | list[str] = "all-linear", **kwargs
) -> LoraConfig:
    """
    A LoRA configuration for a reward model: every linear layer of the backbone, and the head trained in full.

    Args:
        r (`int`): rank.
        lora_alpha (`int`, *optional*): scale numerator; 2r if absent.
        target_modules (`str` or `list[str]`): layers to adapt.
        kwargs:
            More fields of [`peft.LoraConfig`], such as `use_dora` (weight-decomposed LoRA) and `lora_dropout`, which
            TRL's `disable_dropout` sets to 0.

    Returns:
        `LoraConfig`: the `peft_config` of a trainer.

    Source: Hu et al. 2021 (arXiv 2106.09685).

    Example:
        >>> config = lora_config(r=8)
        >>> config.lora_alpha, config.modules_to_save
        (16, ['score'])
    """
    lora_alpha = 2 * r if lora_alpha is None else lora_alpha
    return reward_peft_config(LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=target_modules, **kwargs))


def reward_peft_config(peft_config: PeftConfig, model_type: str | None = None, quantized: bool = False) -> PeftConfig:
    """
    A copy of a PEFT configuration under which the reward head is trained and saved.

    Without `task_type="SEQ_CLS"` or `modules_to_save=["score"]` PEFT freezes the head and does not save it.

    Args:
        peft_config (`PeftConfig`): any; it is not changed.
        model_type (`str`, *optional*): of the backbone, for PEFT's choice of layers where none are named.
        quantized (`bool`): whether the backbone's weights are.

    Raises:
        ValueError: a method that cannot train a reward model, or layers that neither the configuration nor PEFT names.
    """
    check_peft_method(peft_config, to_train=True, quantized=quantized)
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type = TaskType.SEQ_CLS
    kept = [name for name in peft_config.modules_to_save or [] if name != "lm_head"]
    peft_config.modules_to_save = kept if "score" in kept else [*kept, "score"]
    if model_type is not None:
        _name_layers(peft_config, model_type)
    if getattr(peft_config, "target_modules", None) == "all-linear" and hasattr(peft_config, "exclude_modules"):
        peft_config.exclude_modules = peft_config.exclude_modules or "score"
    return peft_config


def _name_layers(peft_config: PeftConfig, model_type: str) -> None:
    """Fill in the layers that PEFT adapts by default in an architecture, which it does not find under our own type."""
    if getattr(peft_config, "feedforward_modules", "") is None:  # IA3's, which has tables of its own
        known = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model_type)
        peft_config.feedforward_modules = None if known is None else set(known)
    if getattr(peft_config, "target_modules", "") is not None or getattr(peft_config, "target_parameters", None):
        return
    if peft_config.peft_type == PeftType.IA3:
        layers = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    else:
        layers = getattr(PEFT_TYPE_TO_TUNER_MAPPING[peft_config.peft_type], "target_module_mapping", None)
    if not layers:
        return  # the method finds its layers itself
    known = layers.get(model_type)
    if known is None and peft_config.peft_type in (PeftType.IA3, PeftType.LN_TUNING):  # not for all linear layers
        raise ValueError(
            f"{type(peft_config).__name__} names no target_modules, and PEFT has none for {model_type}; set "
            "target_modules (and IA3's feedforward_modules) to names of its layers"
        )
    peft_config.target_modules = "all-linear" if known is None else set(known)
