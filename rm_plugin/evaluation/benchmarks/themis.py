"""Themis-CodeRewardBench (Paul et al. 2026, arXiv 2605.00754): pairs of code by five aspects, in eight languages.

score = accuracy over all pairs, a tie is wrong; beside it by aspect, language and data set of origin

The aspect (readability, speed, …) says which code is better and is not in the prompt: a general reward model
guesses it, Themis' own models are told it by a system prompt.
"""

from __future__ import annotations

from functools import partial

from ...data.comparison import Comparison
from .base import Benchmark, Part, Row, accuracy_with_groups, grouped_items

ASPECTS = (
    "Functional_Correctness",
    "Runtime_Efficiency",
    "Memory_Efficiency",
    "Readability_Maintainability",
    "Security_Hardness",
)


def themis(row: Row, origin: str) -> Comparison:
    """A pair; its subset here is the aspect, and its own `subset` the data set that it is from."""
    metadata = {"language": row["language"], "source": row["subset"]}
    about = {"id": row.get("id"), "subset": row["aspect"], "metadata": metadata}
    return Comparison(row["prompt"], chosen=[row["chosen"]], rejected=[row["rejected"]], **about)


def themis_groups(comparison: Comparison) -> list[str]:
    found = {"aspect": comparison.subset, **{name: comparison.metadata[name] for name in ("language", "source")}}
    return ["all", *(f"{level}/{name}" for level, name in found.items())]


BENCHMARKS = {
    "themis-coderewardbench": Benchmark(
        themis,
        formula=accuracy_with_groups,
        items=partial(grouped_items, groups=themis_groups),
        level=lambda name: None if name == "all" else name.partition("/")[0],
        parts=(Part("project-themis/Themis-CodeRewardBench", "Full", config="Full"),),
        licence="apache-2.0",
        num_rows=8866,
        subsets=ASPECTS,
        notes="micro accuracy over pairs of code; by aspect, language and source beside it",
    ),
}
