"""The fields that `PairwiseRewardConfig` adds to TRL's: a plain dataclass, so that a command's help needs no TRL.

[(f.name, f.metadata["help"]) for f in dataclasses.fields(PairwiseRewardFields)]
"""

from __future__ import annotations

from dataclasses import dataclass, field


def _option(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class PairwiseRewardFields:
    """What shared-prefix preference training needs besides TRL's fields."""

    learning_rate: float | None = _option(
        None, "Initial learning rate for AdamW. Unset: 1e-4 for LoRA, 5e-6 for full training."
    )
    truncation_mode: str = _option(
        "drop",
        "What to do with a completion over `max_length`: 'drop' it (TRL's way), 'keep_end' (cut the start of the "
        "prompt) or 'error'.",
    )
    reasoning: str = _option(
        "keep", "What to do with <think>…</think> in completions: 'keep', 'strip' or 'error'. Stored in the model."
    )
    trim_template_tail: bool = _option(
        True,
        "Let the chat template of a model with a fresh head end at its last special token, as generated text does.",
    )
    on_bad_row: str = _option(
        "error", "What to do with a row that is not a comparison: 'error' or 'skip' (counted and listed)."
    )
    shared_prefix: str = _option(
        "auto",
        "'auto' computes what completions share once, where a check shows that the model allows it; 'off' pads.",
    )
    max_tokens_per_microbatch: int | None = _option(
        None, "Split a device's batch into micro-batches of at most so many tokens; the gradients are the same."
    )
    tie_threshold: float | None = _option(
        None, "η > 0 of the Rao-Kupper loss, which reads equal ranks as ties. Unset: Bradley-Terry."
    )
