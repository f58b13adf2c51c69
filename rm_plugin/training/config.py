"""`PairwiseRewardConfig`: TRL's fields, and those of shared-prefix preference training.

PairwiseRewardConfig("my-reward-model", per_device_train_batch_size=8, tie_threshold=0.5)
"""

from __future__ import annotations

import math
import os
from dataclasses import MISSING, dataclass, fields

import torch
from trl import RewardConfig

from ..data.encoding import REASONING_MODES, TRUNCATION_MODES
from ..messages import check_choice
from .fields import PairwiseRewardFields
from .losses import check_eta, check_label_smoothing

LEARNING_RATES = {"LoRA": 1e-4, "full": 5e-6}


@dataclass
class PairwiseRewardConfig(PairwiseRewardFields, RewardConfig):
    """
    [`trl.RewardConfig`] and what shared-prefix preference training needs besides; each field's help says what it does.

    TRL's fields keep their names, defaults and meaning, except `learning_rate`: unset, it is 1e-4 for LoRA and
    5e-6 for full training, and the log says so. `label_smoothing_factor` is the ε of the pairwise loss.

    Raises:
        ValueError: a field that cannot be used, saying what it takes.

    Example:

    ```python
    args = PairwiseRewardConfig("my-reward-model", per_device_train_batch_size=8, tie_threshold=0.5)
    ```
    """

    def __post_init__(self):
        if self.deepspeed and self.learning_rate is None:
            raise ValueError(
                "learning_rate is unset, and DeepSpeed's config is filled in before it is chosen; set it, such as "
                f"{LEARNING_RATES['LoRA']:g} for LoRA or {LEARNING_RATES['full']:g} for full training"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # or accelerate 1.x takes the processes for as many worlds of one
        super().__post_init__()
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it is a finite number")
        check_choice("truncation_mode", self.truncation_mode, TRUNCATION_MODES)
        check_choice("reasoning", self.reasoning, REASONING_MODES)
        check_choice("on_bad_row", self.on_bad_row, ("error", "skip"))
        check_choice("shared_prefix", self.shared_prefix, ("auto", "off"))
        check_label_smoothing(self.label_smoothing_factor)
        for name in ("max_length", "max_tokens_per_microbatch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} leaves no token; give at least 1, or null for no limit")
        if self.tie_threshold is not None:
            check_eta(self.tie_threshold)
            if self.label_smoothing_factor:
                raise ValueError(
                    f"label_smoothing_factor={self.label_smoothing_factor} with tie_threshold, the loss with ties has "
                    "no smoothing; set one of them"
                )

    @classmethod
    def from_reward_config(cls, args: RewardConfig) -> PairwiseRewardConfig:
        """A copy of `args` (`RewardConfig` or ours); fields that TRL's lacks are at their defaults."""
        ours = cls.__new__(cls)
        ours.__dict__.update({f.name: f.default for f in fields(cls) if f.default is not MISSING} | args.__dict__)
        return ours
