"""PPE (Frick et al. 2024, arXiv 2410.14872): votes of Chatbot Arena; 32 responses to questions with a known answer.

    human preference: accuracy over the votes that are no tie
    best-of-K:        accuracy on the sampled pairs of a right and a wrong response; beside it AUC within the question
                      (equal scores one half), and the share of right ones among the responses with the highest score

Source: benchmarks/base.py of github.com/lmarena/PPE: split train, 32 responses, sampled_conflict_pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...data.comparison import Comparison
from ...messages import check_choice
from .base import Benchmark, Item, Means, Part, Row, Scored, preferred

WINNERS = {"model_a": 1, "model_b": -1, "tie": 0, "tie (bothbad)": 0}


def human_preference(row: Row, origin: str) -> Comparison | None:
    """A vote; ties are no preference."""
    check_choice("winner", row["winner"], WINNERS)
    ids = {"id": row.get("question_id"), "subset": row.get("language")}
    return preferred(row["prompt"], row["response_1"], row["response_2"], WINNERS[row["winner"]], **ids)


def best_of_k(row: Row, origin: str) -> Comparison:
    """32 responses, right or wrong. The official pairs are a sample of those that differ."""
    for score in row["scores"]:
        check_choice("scores", score, (True, False))
    right = [bool(score) for score in row["scores"]]
    completions = [row[f"response_{i + 1}"] for i in range(len(right))]
    pairs = row.get("sampled_conflict_pairs") or row.get("conflict_pairs")
    metadata = {}
    if pairs:
        metadata["pairs"] = [(i, j) if right[i] else (j, i) for i, j in pairs if right[i] != right[j]]
    ranks = [int(not one) for one in right]
    return Comparison(row["prompt"], completions, ranks, id=row.get("question_id"), metadata=metadata)


def best_of_k_items(scored: Sequence[Scored]) -> list[Item]:
    """Pairs, AUC and best-of-k of every question, and what a random and a perfect choice would get."""
    items = []
    for comparison, scores in scored:
        right = np.array(comparison.ranks) == 0
        pairs = (comparison.metadata or {}).get("pairs") or comparison.pairs()
        items += [Item(comparison, "pairwise", float(scores[i] > scores[j])) for i, j in pairs]
        if right.any() and not right.all():
            margins = scores[right][:, None] - scores[~right]
            items.append(Item(comparison, "auc", float(np.mean((margins > 0) + 0.5 * (margins == 0)))))
        best = 0.0 if np.isnan(scores).any() else float(right[scores == scores.max()].mean())
        items.append(Item(comparison, "best_of_k", best))
        items.append(Item(comparison, "random", float(right.mean())))
        items.append(Item(comparison, "oracle", float(right.any())))
    return items


def best_of_k_formula(means: Means) -> dict[str, Any]:
    """Accuracy on the pairs, and all the rest beside it."""
    return {"score": means.get("pairwise", float("nan")), **means}


def best_of_k_benchmark(name: str, num_rows: int) -> Benchmark:
    return Benchmark(
        best_of_k,
        formula=best_of_k_formula,
        items=best_of_k_items,
        best_of_k=True,
        level=lambda name: None if name in ("random", "oracle") else "metric",
        parts=(Part(f"lmarena-ai/PPE-{name}-Best-of-K", "train"),),
        num_rows=num_rows,
        notes="score: accuracy on the conflict pairs; AUC is within each question",
    )


BENCHMARKS = {
    "ppe-human-preference": Benchmark(
        human_preference,
        parts=(Part("lmarena-ai/PPE-Human-Preference-V1", "test"),),
        num_rows=16038,
        notes="votes for a tie are no preference",
    ),
    "ppe-mmlu-pro": best_of_k_benchmark("MMLU-Pro", 512),
    "ppe-math": best_of_k_benchmark("MATH", 512),
    "ppe-gpqa": best_of_k_benchmark("GPQA", 512),
    "ppe-mbpp-plus": best_of_k_benchmark("MBPP-Plus", 507),
    "ppe-ifeval": best_of_k_benchmark("IFEval", 512),
}
