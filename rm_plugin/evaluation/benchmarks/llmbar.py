"""LLMBar (Zeng et al. 2023, arXiv 2310.07641): which of two outputs follows the instruction, in five sets.

score = mean of five sets; beside it the mean of the adversarial four, and micro accuracy
"""

from __future__ import annotations

from typing import Any

from ...data.comparison import Comparison
from ...messages import check_choice
from .base import Benchmark, Means, Row, average, beside, preferred

ADVERSARIAL = ("Neighbor", "GPTInst", "GPTOut", "Manual")


def llmbar(row: Row, origin: str) -> Comparison:
    """Label 1 or 2 is the better output; the file or its folder names the set."""
    check_choice("label", row["label"], (1, 2))
    by, subset = (1 if row["label"] == 1 else -1), origin.removeprefix("Adversarial_") or "LLMBar"
    return preferred(row["input"], row["output_1"], row["output_2"], by, subset=subset)


def llmbar_formula(means: Means) -> dict[str, Any]:
    """The mean of the sets, of the adversarial ones alone, and over all pairs."""
    sets = beside(means)
    return {"score": average(sets), "adversarial": average(sets, ADVERSARIAL), "micro": means["all"], **sets}


BENCHMARKS = {
    "llmbar": Benchmark(
        llmbar,
        formula=llmbar_formula,
        level=lambda name: None if name in ("all", "micro", "adversarial") else "set",
        # The copy on the hub (princeton-nlp/LLMBar) is a loading script, which datasets >= 4 refuses.
        files="github.com/princeton-nlp/LLMBar (folder Dataset/LLMBar)",
        licence="mit",
        num_rows=419,
        subsets=("Natural", *ADVERSARIAL),
        subset_in_file_name=True,
        notes="mean of five sets",
    ),
}
