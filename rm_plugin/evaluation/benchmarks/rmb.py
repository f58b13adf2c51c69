"""RMB (Zhou et al. 2024, arXiv 2410.09893): pairs and best-of-n lists in 49 helpfulness and 12 harmlessness scenarios.

    a list is right only if its best completion scores strictly higher than every other
    score = mean of four accuracies: pairwise and best-of-n, helpfulness and harmlessness

Source: the table of results; process_final_result.py of github.com/RM-R1-UIUC/RM-R1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ...data.comparison import Comparison
from .base import Benchmark, Means, Row, average, best_beats_all, grouped_items, plain_messages

KINDS = {"Pairwise_set": "Pairwise", "BoN_set": "BoN"}
SETS = [f"{kind} {goal}" for kind in KINDS.values() for goal in ("Helpfulness", "Harmlessness")]


def rmb(row: Row, origin: str) -> Comparison:
    """Pairwise rows (`chosen`, `reject`) and best-of-n rows (`bon_best`, `loser_list`)."""
    prompt, path = plain_messages(row["conversation_input"]), row["category_path"]
    if "/" not in path or path.split("/")[0] not in KINDS:
        raise ValueError(f"category_path is {path!r}, RMB has 'Pairwise_set/...' and 'BoN_set/...'; give its files")
    if row.get("bon_best"):
        answers = [row["bon_best"]["answer"], *(loser["answer"] for loser in row["loser_list"])]
        key = f"bon/{row.get('bon_uid')}"
    else:
        answers, key = [row["chosen"]["answer"], row["reject"]["answer"]], f"pair/{row.get('pair_uid')}"
    return Comparison(prompt, chosen=answers[:1], rejected=answers[1:], id=key, subset=path)


def set_and_scenario(comparison: Comparison) -> list[str]:
    kind, goal, *_ = comparison.subset.split("/")
    return [f"{KINDS[kind]} {goal}", comparison.subset]


def rmb_formula(means: Means) -> dict[str, Any]:
    """The mean of the four sets."""
    return {"score": average(means, SETS), **{name: means[name] for name in SETS if name in means}}


BENCHMARKS = {
    "rmb": Benchmark(
        rmb,
        formula=rmb_formula,
        items=partial(grouped_items, groups=set_and_scenario, credit=best_beats_all),
        level=lambda name: "scenario" if "/" in name else "set",
        files="github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark (folder RMB_dataset)",
        num_rows=17131 + 3786,  # pairs + best-of-n: huggingface.co/datasets/dd101bb/RMB_dataset/commit/8ca9894
        notes="mean of pairwise and best-of-n, helpfulness and harmlessness",
    ),
}
