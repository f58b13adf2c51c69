"""RewardMATH (Kim et al. 2024, arXiv 2410.01729): one right solution of a problem among nine wrong ones.

    score = share of problems whose right solution scores above all nine, strictly (chance 10 %)
    MRR   = mean of 1 / rank of the right solution, where a wrong one of equal score ranks before it
    pairs = share of the nine pairs won, which flatters: a model that wins 76 % of them may find 37 % of the solutions

Source: src/evaluation/eval.py and the rows of dataset/benchmark/RewardMATH_direct.json of
github.com/kimsh0507/RewardMATH_official: one solution per row, as a list of steps, the ten of a problem in succession.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ...data.comparison import Comparison
from ...messages import check_choice
from .base import Benchmark, Item, Part, Row, Scored, accuracy_with_groups, best_beats_all, pair_credit


def by_problem(rows: Iterable[Row]) -> Iterator[Row]:
    """The solutions of one problem in one row."""
    for _, solutions in groupby(rows, key=lambda row: row.get("problem_id", object())):
        solutions = list(solutions)
        yield Row(solutions[0], solutions=solutions)


def rewardmath(row: Row, origin: str) -> Comparison:
    """The right solution first, then the wrong ones; their steps are lines."""
    texts: dict[str, list[str]] = {"chosen": [], "rejected": []}
    for solution in row["solutions"]:
        check_choice("solution_type", solution["solution_type"], texts)
        texts[solution["solution_type"]].append("\n".join(solution["eval_solution"]))
    if len(texts["chosen"]) != 1 or not texts["rejected"]:
        found = f"{len(texts['chosen'])} right and {len(texts['rejected'])} wrong solutions in succession"
        raise ValueError(f"problem {row['problem_id']!r} has {found}; give the whole file in its order")
    return Comparison(row["problem"], **texts, id=str(row["problem_id"]), subset=row.get("subject"))


def rewardmath_items(scored: Sequence[Scored]) -> list[Item]:
    """Top-1 in `all` and by subject; MRR and the share of pairs over all."""
    items = []
    for comparison, scores in scored:
        groups = ["all", comparison.subset] if comparison.subset else ["all"]
        items += [Item(comparison, group, best_beats_all(comparison, scores)) for group in groups]
        rank = 1 + int((scores[1:] >= scores[0]).sum())
        items.append(Item(comparison, "MRR", 0.0 if scores[0] != scores[0] else 1 / rank))
        items.append(Item(comparison, "pairs", pair_credit(comparison, scores)))
    return items


def level(name: str) -> str | None:
    return None if name == "all" else "metric" if name in ("MRR", "pairs") else "subject"


BENCHMARKS = {
    "rewardmath": Benchmark(
        rewardmath,
        formula=accuracy_with_groups,
        items=rewardmath_items,
        level=level,
        parts=(Part("RewardMATH/RewardMATH", "train"),),
        licence="mit",
        num_rows=4830,
        regroup=by_problem,
        notes="right above all nine wrong ones, chance 10 %; ten rows are one problem",
    ),
}
