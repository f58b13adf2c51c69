"""Plan-RewardBench (Wang et al. 2026, arXiv 2604.08178): pairs of whole tool-use trajectories, in seven splits.

    score = mean of the accuracies of the splits; scores that differ by at most 0.0001 tie, and a tie counts ½

A trajectory is shown as the official script shows it to a scalar reward model: tools and query in the user's first
message, calls and responses of tools as lines of the assistant. So no chat template has to know tools; one that wants
user and assistant to alternate, such as Gemma's, refuses it there and here. The two trajectories may diverge anywhere;
what they share is the longest common beginning. Several rows have one query and are drawn together.

Source: eval/evaluate_benchmark_final.py of github.com/wyy-1112/Plan-RewardBench.
"""

from __future__ import annotations

import json
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np

from ...data.comparison import Comparison, text_key
from ...messages import check_choice
from .base import Benchmark, Means, Part, Row, average, grouped_items

SPLITS = {  # number of pairs
    "planning_single_easy": 144,
    "planning_single_hard": 158,
    "planning_multi_easy": 109,
    "planning_multi_hard": 73,
    "robust_recovery": 361,
    "safety_refusal": 51,
    "tool_irrelevance": 275,
}
BUCKETS = {  # as rows call splits that are not called as their files are
    "planning_robustness": "robust_recovery",
    "refusal": "safety_refusal",
    "irrelevance_unavailable": "tool_irrelevance",
}
TIE = 1e-4


def plan_rewardbench(row: Row, origin: str) -> Comparison:
    """`chosen` and `reject` are whole trajectories; `_lcp_bucket`, else the file, names the split."""
    bucket, query = row.get("_lcp_bucket") or origin, row["query"]
    subset = next((name for name in (BUCKETS.get(bucket, bucket), origin) if name in SPLITS), bucket)
    check_choice("split", subset, SPLITS)
    tools = json.dumps(row.get("tools") or [], ensure_ascii=False, indent=2)
    header = f"<tool_environment>\n{tools}\n</tool_environment>\n<user_query>\n{query}\n</user_query>"
    start = [{"role": "user", "content": header}]
    better, worse = (start + [as_message(turn) for turn in row[side]["messages"]] for side in ("chosen", "reject"))
    shared = len([*takewhile(lambda both: both[0] == both[1], zip(better[:-1], worse[:-1], strict=False))])
    about = {"id": f"{subset}/{row['uuid']}", "subset": subset, "metadata": {"cluster": text_key(query)}}
    return Comparison(better[:shared], chosen=[better[shared:]], rejected=[worse[shared:]], **about)


def as_message(turn: dict[str, Any]) -> dict[str, str]:
    """A turn as a message of user or assistant, the two roles that every template knows."""
    role, content = turn["role"], turn["content"]
    if role in ("user", "assistant"):
        return {"role": role, "content": content}
    name = f" name={turn['name']}" if turn.get("name") else ""
    return {"role": "assistant", "content": f"[{role.upper()}{name}] {content}"}


def credit(comparison: Comparison, scores: np.ndarray) -> float:
    """Right, wrong, or ½ for a tie; an unscored text is wrong."""
    margin = scores[0] - scores[1]
    return 0.5 if abs(margin) <= TIE else float(margin > 0)


def plan_rewardbench_formula(means: Means) -> dict[str, Any]:
    """The plain mean of the splits."""
    return {"score": average(means), **means}


BENCHMARKS = {
    "plan-rewardbench": Benchmark(
        plan_rewardbench,
        formula=plan_rewardbench_formula,
        items=partial(grouped_items, groups=lambda comparison: [comparison.subset], credit=credit),
        level=lambda name: "split",
        parts=(Part("wyy1112/Plan-RewardBench", "train"),),
        licence="cc-by-4.0",
        num_rows=sum(SPLITS.values()),
        subsets=tuple(SPLITS),
        subset_in_file_name=True,
        notes="mean of seven splits; a tie counts ½, and scores within 0.0001 tie",
    ),
}
