"""`scores.jsonl`: one line per completion, from which every metric can be recomputed without a model.

    {"id": "q7", "index": 0, "role": "chosen", "score": 1.25, "subset": "math"}

Anyone's published scores can be converted to it; `read_scores` takes them by comparison.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.comparison import Comparison
from ..files import json_line, json_number, read_jsonl
from ..messages import located
from ..metrics.preference import agreement


def score_rows(comparisons: Sequence[Comparison], scores: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    """All rows of `scores.jsonl`, in the order of the data."""
    for comparison, values in zip(comparisons, scores, strict=True):
        subset = {} if comparison.subset is None else {"subset": comparison.subset}
        for index, (role, value) in enumerate(zip(_roles(comparison), values, strict=True)):
            yield {"id": comparison.id, "index": index, "role": role, "score": json_number(value), **subset}


def scores_checksum(comparisons: Sequence[Comparison], scores: Sequence[np.ndarray]) -> str:
    """SHA-256 of `scores.jsonl` as it is written."""
    lines = "".join(map(json_line, score_rows(comparisons, scores)))
    return hashlib.sha256(lines.encode(errors="backslashreplace")).hexdigest()


def _roles(comparison: Comparison) -> list[str]:
    """`chosen` for the best rank, `rejected` for all worse ones (and where all are wrong)."""
    ranks = comparison.ranks or [0] * len(comparison.completions)
    best = 0 if len(set(ranks)) == 1 else min(ranks)
    return ["chosen" if rank == best else "rejected" for rank in ranks]


def read_scores(
    path: str | os.PathLike, comparisons: Sequence[Comparison], *, allow_others: bool = False
) -> list[np.ndarray]:
    """
    Scores of a file, by comparison.

    A line is `{"id", "index", "role": "chosen" | "rejected", "score"}`, with score `null` for a text that was not
    scored. `index` counts the completions of a comparison from 0, as the harness writes it (in a pair the chosen is 0
    and the rejected 1), or those of a role; the lines of one comparison keep to one of the two.

    Args:
        path (`str` or `os.PathLike`): the file.
        comparisons (`Sequence[Comparison]`): with their ids.
        allow_others (`bool`, *optional*, defaults to `False`): pass over lines of other comparisons.

    Returns:
        `list[np.ndarray]`: for each comparison the scores of its completions (K,), NaN = unscored.

    Raises:
        ValueError: for a line that is malformed or belongs nowhere, two lines for one completion, or none.
    """
    path = Path(path)
    known = {comparison.id for comparison in comparisons}
    found: dict[str, dict[tuple[str, int], float]] = {}
    for number, record in read_jsonl(path):
        with located(f"{path} line {number}"):
            if missing := [name for name in ("id", "index", "role", "score") if name not in record]:
                raise ValueError(f'it lacks {", ".join(missing)}; a line is {{"id", "index", "role", "score"}}')
            key, role, index, score = str(record["id"]), record["role"], record["index"], record["score"]
            if key not in known:
                if allow_others:
                    continue
                fix = "use the ids of the data set (or the row number where it has none)"
                raise ValueError(f"no comparison has the id {key!r}, they are such as {comparisons[0].id!r}; {fix}")
            if role not in ("chosen", "rejected") or type(index) is not int:
                raise ValueError("role is chosen or rejected and index a number from 0")
            if score is not None and not (type(score) in (int, float) and math.isfinite(score)):  # true is no number
                raise ValueError(f"score is {score!r}; it is a finite number, or null")
            if (role, index) in found.setdefault(key, {}):
                raise ValueError(f"{role} {index} of {key!r} is there twice; remove one")
            found[key][role, index] = math.nan if score is None else float(score)
    return [_scores_of(comparison, found.get(comparison.id, {}), path) for comparison in comparisons]


def read_margins(path: str | os.PathLike) -> dict[tuple[str, int, int], float]:
    """Margin of every pair of a best and another completion that is scored, by id and the indices of the two."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for _, line in read_jsonl(path):
        if line["score"] is not None:
            sides = found.setdefault(line["id"], {"chosen": [], "rejected": []})
            sides[line["role"]].append((line["index"], line["score"]))
    return {
        (key, i, j): better - worse
        for key, sides in found.items()
        for i, better in sides["chosen"]
        for j, worse in sides["rejected"]
    }


def compare_margins(a: Path, b: Path) -> dict[str, Any]:
    """
    Of two files of scores of the same data: [`agreement`] over the pairs of [`read_margins`], and `different`, the
    pairs that the two judge in opposite ways, those first that both are sure of.
    """
    of_a, of_b = read_margins(a), read_margins(b)
    keys = [key for key in of_a if key in of_b]
    if not keys:
        return {"spearman": None, "kappa": None, "num_different": 0, "num_pairs": 0, "different": []}
    margins = np.array([[of_a[key], of_b[key]] for key in keys])
    sure = np.abs(margins / (margins.std(axis=0) + 1e-300)).min(axis=1)
    opposite = [i for i in np.argsort(-sure, kind="stable") if margins[i].prod() < 0]
    names = ("id", "better", "worse", "margin_a", "margin_b")
    different = [dict(zip(names, (*keys[i], *margins[i].tolist()), strict=True)) for i in opposite]
    return {**agreement(*margins.T), "different": different}


def _scores_of(comparison: Comparison, found: dict[tuple[str, int], float], path: Path) -> np.ndarray:
    roles = _roles(comparison)
    by_position = [(role, index) for index, role in enumerate(roles)]
    by_role = [(role, roles[:index].count(role)) for index, role in enumerate(roles)]
    for keys in (by_position, by_role):
        if set(keys) == set(found):
            return np.array([found[key] for key in keys])
    missing = next(((role, index) for role, index in by_position if (role, index) not in found), None)
    if missing is None or len(found) >= len(by_position):
        raise ValueError(
            f"{path}: {comparison.id!r} has {len(roles)} completions ({', '.join(roles)}), the file has "
            f"{', '.join(f'{role} {index}' for role, index in found)}; give each completion its line"
        )
    raise ValueError(
        f"{path}: {len(roles) - len(found)} of {len(roles)} completions of {comparison.id!r} have no line; give all "
        "(score null where a text was not scored), or the --limit that the scores were made with"
    )
