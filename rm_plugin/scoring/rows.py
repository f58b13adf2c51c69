"""Rows of any format ► the columns of their scores: what one process does with a chunk of a data set.

annotate([{"prompt": "2 + 2 =", "completion": " 4"}], as_reward("my-reward-model"))     # [({"score": 1.5}, None)]
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import numpy as np

from ..data.comparison import Comparison, to_comparison
from ..data.conversations import from_json, show_value
from ..data.layouts import LIST_COLUMNS, QUESTION_COLUMNS, first_column, select_columns
from ..files import json_number
from ..messages import located, one_line
from .base import NoAnswer, Reward
from .rewards import as_reward, is_dotted_path

REASON = "score_reason"  # the column that says why a score is null
ADDED = ("score", "scores", "score_chosen", "score_rejected", "margin", REASON)  # in this order
NUM_KNOWN = 8  # rows that are asked for again where none of a chunk is scored


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
            comparisons[i] = _to_texts(row, columns)
        except ValueError as error:
            values[i] = str(error)
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
        results.append((_added_columns(comparisons[i], scores), reason))
    return results


def fault_of(
    reward: Reward,
    rows: list[dict[str, Any]],
    results: list[tuple[dict[str, Any], str | None]],
    known: Sequence[dict[str, Any]],
    columns: Mapping[str, str] = MappingProxyType({}),
) -> str | None:
    """
    Why a reward scores nothing any more, so that errors of these rows are not their own; None where it does: it is
    asked again for one of them that it scored, or where it scored none, for `known` ones.
    """
    scored = [row for row, (added, _) in zip(rows, results, strict=True) if added]
    if len(scored) == len(rows):
        return None
    again = annotate(scored[:1] or list(known), reward, columns)
    return None if any(added for added, _ in again) else next((reason for _, reason in again), None)


@located("")  # whatever the row leads to is an error of one line
def _to_texts(row: dict[str, Any], columns: Mapping[str, str]) -> Comparison:
    """The texts of a row; of a conversation, the last answer. Completions of a list are not ranked."""
    row = select_columns(row, columns) if columns else row
    given = [name for name in (*LIST_COLUMNS, "completion") if row.get(name) is not None]
    is_pair = row.get("chosen") is not None and row.get("rejected") is not None
    column = first_column(row, ("messages", "conversations"))
    if not is_pair and given and column is None and prompt_of(row, {}) is None:
        raise ValueError("it has no prompt; give it a column prompt, which may be empty")
    comparison = None
    if not is_pair and not given and column is not None:
        with suppress(ValueError):  # other columns may hold what is compared
            comparison = to_comparison(row)
        messages = from_json(row[column], printed=True)  # of a csv file
        if not isinstance(messages, list):
            raise ValueError(f"`{column}` is {show_value(messages)}; give a list of messages, or one written as JSON")
        row = {**row, column: None, "prompt": messages[:-1], "completion": messages[-1:]}
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
    except NoAnswer:
        raise
    except ValueError as error:
        if len(comparisons) == 1:
            return [one_line(error).removeprefix("comparison 0: ")]
        half = len(comparisons) // 2
        return _scores_or_reasons(reward, comparisons[:half]) + _scores_or_reasons(reward, comparisons[half:])


def _added_columns(comparison: Comparison, scores: list[float | None]) -> dict[str, Any]:
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


def columns_to_add(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """
    The columns that the scores of a row will be.

    Raises:
        ValueError: it cannot be read.
    """
    comparison = _to_texts(row, columns)
    return _added_columns(comparison, [0.0] * len(comparison.completions))


def refuse_taken(names: Collection[str], added: Collection[str], where: str) -> None:
    """Refuse data whose columns would be overwritten by those of its scores."""
    if taken := sorted({*added, REASON} & {*names}):
        raise ValueError(f"{where} has a column {taken[0]!r}, which would be overwritten; rename it")
