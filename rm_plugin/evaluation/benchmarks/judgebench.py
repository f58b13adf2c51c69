"""JudgeBench (Tan et al. 2024, arXiv 2410.12784): pairs of responses of one model, one of them objectively right.

score = micro = accuracy over all pairs, a tie is wrong
macro = mean of the four categories, which papers also quote
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...data.comparison import Comparison
from ...messages import check_choice
from .base import Benchmark, Means, Part, Row, accuracy, average, beside, preferred

CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


def judgebench(row: Row, origin: str) -> Comparison:
    """The label says which response is right; the four categories of the paper are the subsets."""
    label, source = row["label"], row["source"]
    check_choice("label", label, ("A>B", "B>A"))
    category = next((name for prefix, name in CATEGORIES.items() if source.startswith(prefix)), source)
    about = {"id": row["pair_id"], "subset": category, "metadata": {"source": source}}
    return preferred(row["question"], row["response_A"], row["response_B"], 1 if label == "A>B" else -1, **about)


def judgebench_formula(means: Means) -> dict[str, Any]:
    """Micro, macro and the categories."""
    categories = beside(means)
    return {**accuracy(means), "micro": means["all"], "macro": average(categories), **categories}


GPT = Benchmark(
    judgebench,
    formula=judgebench_formula,
    level=lambda name: None if name in ("all", "micro", "macro") else "category",
    parts=(Part("ScalerLab/JudgeBench", "gpt"),),
    licence="mit",
    num_rows=350,
    subsets=tuple(CATEGORIES.values()),
    notes="micro accuracy over pairs of GPT-4o responses; macro beside it",
)
BENCHMARKS = {
    "judgebench": GPT,
    "judgebench-claude": replace(
        GPT,
        parts=(Part("ScalerLab/JudgeBench", "claude"),),
        num_rows=270,
        notes="micro accuracy over pairs of Claude 3.5 Sonnet responses; macro beside it",
    ),
}
