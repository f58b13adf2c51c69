"""The fields that `PairwiseRewardConfig` adds to TRL's: a plain dataclass, so that a command's help needs no TRL.

[(f.name, f.metadata["help"]) for f in dataclasses.fields(PairwiseRewardFields)]
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class PairwiseRewardFields:
    """What shared-prefix preference training needs besides TRL's fields."""

    learning_rate: float | None = field(
        default=None,
        metadata={"help": "Initial learning rate for AdamW. Unset: 1e-4 for LoRA, 5e-6 for full training."},
    )
    truncation_mode: str = field(
        default="drop",
        metadata={
            "help": "What to do with a completion over `max_length`: 'drop' it (TRL's way), 'keep_end' (cut the start "
            "of the prompt) or 'error'."
        },
    )
    reasoning: str = field(
        default="keep",
        metadata={
            "help": "What to do with <think>…</think> in completions: 'keep', 'strip' or 'error'. Stored in the model."
        },
    )
    trim_template_tail: bool = field(
        default=True,
        metadata={
            "help": "Let the chat template of a model with a fresh head end at its last special token, as generated "
            "text does."
        },
    )
    on_bad_row: str = field(
        default="error",
        metadata={"help": "What to do with a row that is not a comparison: 'error' or 'skip' (counted and listed)."},
    )
    shared_prefix: str = field(
        default="auto",
        metadata={
            "help": "'auto' computes what completions share once, where a check shows that the model allows it; 'off' "
            "pads."
        },
    )
    max_tokens_per_microbatch: int | None = field(
        default=None,
        metadata={
            "help": "Split a device's batch into micro-batches of at most so many tokens; the gradients are the same."
        },
    )
    tie_threshold: float | None = field(
        default=None,
        metadata={"help": "η > 0 of the Rao-Kupper loss, which reads equal ranks as ties. Unset: Bradley-Terry."},
    )
