"""Rows of any format ► the columns of their scores: what one process does with a chunk of a data set.

annotate([{"prompt": "2 + 2 =", "completion": " 4"}], as_reward("my-reward-model"))     # [({"score": 1.5}, None)]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import numpy as np

from ..data.comparison import Comparison, to_comparison
from ..data.layouts import LIST_COLUMNS, QUESTION_COLUMNS, first_column, select_columns
from ..files import json_number
from ..messages import one_line
from .base import Reward
from .rewards import as_reward, is_dotted_path

REASON = "score_reason"  # the column that says why a score is null
ADDED = ("score", "scores", "score_chosen", "score_rejected", "margin", REASON)  # in this order
BAD_ROW = (ValueError, TypeError, LookupError, AttributeError)  # what a row leads to that is none


def load_reward(model: Any, on_bad_row: str, scorer_kwargs: dict[str, Any]) -> Reward:
    """The reward that scores the texts; those over the length limit are left out unless `on_bad_row` is "error"."""
    named = isinstance(model, (str, os.PathLike)) and not is_dotted_path(model)
    default = {"truncation_mode": "drop"} if on_bad_row == "null" and named else {}
    return as_reward(model, **{**default, **scorer_kwargs})


def annotate(
    rows: list[dict[str, Any]], reward: Reward, columns: Mapping[str, str] = MappingProxyType({})
) -> list[tuple[dict[str, Any], str | None]]:
    """
    The columns of scores for every row.

    Args:
        rows (`list[dict]`): some rows; those of one prompt share its computation.
        reward ([`Reward`]): what scores them.
        columns (`dict[str, str]`, *optional*): columns of other names, from [`read_columns`].

    Returns:
        `list[tuple[dict, str | None]]`: for each row its columns (none where it cannot be read), and why one is null.
    """
    values: list[np.ndarray | str] = [""] * len(rows)
    comparisons: dict[int, Comparison] = {}
    for i, row in enumerate(rows):
        try:
            comparisons[i] = to_texts(row, columns)
        except BAD_ROW as error:
            values[i] = one_line(error)
    for i, value in zip(comparisons, _scores_or_reasons(reward, list(comparisons.values())), strict=True):
        values[i] = value
    results: list[tuple[dict[str, Any], str | None]] = []
    for i, value in enumerate(values):
        if isinstance(value, str):
            results.append(({}, value))
            continue
        scores, reason = list(map(json_number, value)), None
        if None in scores:
            which = f"completion {scores.index(None)} " if len(scores) > 1 else ""
            reason = f"{which}is over max_length={reward.max_length}" if reward.max_length else f"{which}has no score"
        results.append((added_columns(comparisons[i], scores), reason))
        refuse_taken(rows[i], results[-1][0], "the data")
    return results


def to_texts(row: dict[str, Any], columns: Mapping[str, str]) -> Comparison:
    """The texts of a row; of a conversation, the last answer. Completions of a list are not ranked."""
    row = select_columns(row, columns) if columns else row
    given = [name for name in (*LIST_COLUMNS, "completion") if row.get(name) is not None]
    is_pair = row.get("chosen") is not None and row.get("rejected") is not None
    column = first_column(row, ("messages", "conversations"))
    if not is_pair and given and column is None and prompt_of(row, {}) is None:
        raise ValueError("it has no prompt; give it a column prompt, which may be empty")
    comparison = None
    if not is_pair and not given and column is not None:
        with suppress(*BAD_ROW):  # other columns may hold what is compared
            comparison = to_comparison(row)
        row = {**row, column: None, "prompt": row[column][:-1], "completion": row[column][-1:]}
    comparison = comparison or to_comparison(row, candidates=bool(given) and not is_pair, needs_label=False)
    has_no_label = comparison.ranks is None and len(comparison.completions) > 1  # of two responses
    is_list = has_no_label or (bool(given) and given != ["completion"] and not is_pair)
    known = {"answer": row.get("answer"), "is_list": is_list}
    comparison.metadata = {**(comparison.metadata or {}), **known}
    return comparison


def prompt_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> Any:
    """The prompt of a row as its column has it; `None` where no column is one by its name."""
    names = (columns.get("prompt", "prompt"), *QUESTION_COLUMNS)
    return next((row[name] for name in names if row.get(name) is not None), None)


def _scores_or_reasons(reward: Reward, comparisons: list[Comparison]) -> list[np.ndarray | str]:
    """Scores of each comparison, or why it has none: the bad ones are found by halving."""
    if not comparisons:
        return []
    try:
        return reward.score_comparisons(comparisons)
    except ValueError as error:
        if len(comparisons) == 1:
            return [one_line(error).removeprefix("comparison 0: ")]
        half = len(comparisons) // 2
        return _scores_or_reasons(reward, comparisons[:half]) + _scores_or_reasons(reward, comparisons[half:])


def added_columns(comparison: Comparison, scores: list[float | None]) -> dict[str, Any]:
    """The columns for a row's scores; without scores, the same columns with null."""
    ranks = comparison.ranks
    if comparison.metadata["is_list"] or (ranks and len(set(ranks)) == 1):
        return {"scores": scores or None}
    if ranks is None:
        return {"score": scores[0] if scores else None}
    sides = [
        [s for s, rank in zip(scores, ranks, strict=False) if (rank == min(ranks)) == best] for best in (True, False)
    ]
    margin = float(np.mean(sides[0]) - np.mean(sides[1])) if scores and None not in scores else None
    chosen, rejected = (None if not side else side[0] if len(side) == 1 else side for side in sides)
    return {"score_chosen": chosen, "score_rejected": rejected, "margin": margin}


def refuse_taken(row: Mapping[str, Any], added: Mapping[str, Any], where: str) -> None:
    """Raise where a row has one of the columns that are added to it."""
    if taken := sorted({*added, REASON} & row.keys()):
        raise ValueError(f"{where} has a column {taken[0]!r}, which would be overwritten; rename it")
