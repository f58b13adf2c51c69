"""What the rewards of a run look like: metrics of a window of scores, signs of reward hacking, samples in tables.

    window = ScoreWindow(); window.add(prompts, completions, scores); window_metrics(window.rows)["length_correlation"]

Nothing here knows a trainer; `callbacks.py` puts it into one. Rows: (N, 5) float64, columns as `COLUMNS` says.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.comparison import Text, text_key, text_length
from ..files import json_line
from ..messages import shorten
from ..metrics.preference import quantiles
from ..metrics.ranking import spearman

COLUMNS = ("score", "length", "group", "text", "truncated")  # NaN where something is not known
SAMPLE_KINDS = {"best": lambda s: -s[0], "worst": lambda s: s[0], "random": lambda s: s[1]}  # what comes first
MAX_SAMPLE_CHARACTERS = 2000

Sample = tuple[float, float, Text | None, Text]  # score, a random number, prompt, completion


class ScoreWindow:
    """
    Scores since the last log, with what the metrics need of their texts, and a few of the texts themselves.

    Args:
        num_samples (`int`, *optional*, defaults to `1`): texts kept of each kind (best, worst, random).
        seed (`int`, *optional*, defaults to `0`): of the random ones.
    """

    def __init__(self, num_samples: int = 1, seed: int = 0):
        self.num_samples = num_samples
        self._random = random.Random(seed)
        self._calls = 0
        self.clear()

    def clear(self) -> None:
        self._blocks: list[np.ndarray] = []
        self.samples: dict[str, list[Sample]] = {kind: [] for kind in SAMPLE_KINDS}

    @property
    def rows(self) -> np.ndarray:
        """(N, 5) float64, see `COLUMNS`."""
        return np.concatenate([np.zeros((0, len(COLUMNS))), *self._blocks])

    def add(
        self,
        prompts: Sequence[Text] | None,
        completions: Sequence[Text],
        scores: Sequence[float],
        lengths: Sequence[int] | None = None,
        truncated: Sequence[bool] | None = None,
    ) -> None:
        """
        Add the scores of one call.

        Args:
            prompts (list, *optional*): (N,) texts or conversations; equal ones of one call form a group.
            completions (list): (N,) texts or conversations.
            scores (list of `float`): (N,) rewards; NaN for what has none.
            lengths (list of `int`, *optional*): (N,) tokens; characters of the text if absent.
            truncated (list of `bool`, *optional*): (N,) whether each was cut at the length limit.
        """
        self._calls += 1
        block = np.full((len(completions), len(COLUMNS)), math.nan)
        block[:, 0] = np.asarray(scores, dtype=np.float64)
        block[:, 1] = list(map(text_length, completions)) if lengths is None else lengths
        if prompts is not None:  # the call is part of the group: a prompt that comes again has new completions
            block[:, 2] = [_number([self._calls, prompt]) for prompt in prompts]
        block[:, 3] = list(map(_number, completions))
        if truncated is not None:
            block[:, 4] = truncated
        self._blocks.append(block)
        texts = zip([None] * len(block) if prompts is None else prompts, completions, strict=True)
        new = [
            (float(score), self._random.random(), table_text(prompt), table_text(completion))
            for score, (prompt, completion) in zip(block[:, 0], texts, strict=True)
            if not math.isnan(score)
        ]
        self.samples = _first_of_each_kind([self.samples, dict.fromkeys(SAMPLE_KINDS, new)], self.num_samples)


def merge(
    windows: Sequence[tuple[np.ndarray, dict[str, list[Sample]]]], num_samples: int
) -> tuple[np.ndarray, dict[str, list[Sample]]]:
    """Rows and samples of the same window on several processes, as one."""
    rows, samples = zip(*windows, strict=True)
    return np.concatenate(rows), _first_of_each_kind(samples, num_samples)


def _first_of_each_kind(samples: Sequence[dict[str, list[Sample]]], number: int) -> dict[str, list[Sample]]:
    return {
        kind: heapq.nsmallest(number, [sample for one in samples for sample in one[kind]], key=order)
        for kind, order in SAMPLE_KINDS.items()
    }


def window_metrics(rows: np.ndarray) -> dict[str, float]:
    """
    Metrics of a window of scores; one that is not defined (no groups, lengths all equal) is left out.

    Args:
        rows (`np.ndarray`): (N, 5) float64, see `COLUMNS`; rows without a score do not count.

    Returns:
        `dict`: `mean`, `std` (of the sample), `q05` … `q95`, `zero_spread_rate` (share of the groups, of at least two
        completions of one prompt, whose scores are all equal), `length_correlation` (Spearman's, of reward and
        length), `duplicate_rate` (share of completions equal to an earlier one of the window), `truncated_rate`,
        `num_scores`.
    """
    rows = rows[~np.isnan(rows[:, 0])]
    if not len(rows):
        return {}
    scores, lengths, groups, texts, truncated = rows.T
    found = {"mean": scores.mean(), "std": scores.std(ddof=1) if len(scores) > 1 else 0.0}
    found |= quantiles(scores)
    _, first, group, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    differs = np.zeros(len(counts), dtype=bool)
    np.logical_or.at(differs, group, scores != scores[first][group])
    if len(several := differs[counts > 1]) and not np.isnan(groups).all():
        found["zero_spread_rate"] = 1 - several.mean()
    correlation = spearman(scores, lengths)
    if correlation is not None:
        found["length_correlation"] = correlation
    found["duplicate_rate"] = 1 - len(np.unique(texts)) / len(texts)
    if not np.isnan(truncated).all():
        found["truncated_rate"] = np.nanmean(truncated)
    return {name: float(value) for name, value in found.items()} | {"num_scores": len(rows)}


class HackingWatch:
    """
    Says once that a reward seems to be hacked: it rises while length correlation or duplicates cross their bound.

    "Rises": the mean of the last windows (at least `MIN_SCORES` scores) lies above that of the first ones by more than
    two standard errors of the difference.

    Args:
        max_length_correlation (`float`): bound of |Spearman(reward, length)|.
        max_duplicate_rate (`float`): bound of the duplicate rate.
    """

    MIN_SCORES = 64

    def __init__(self, max_length_correlation: float, max_duplicate_rate: float):
        self.bounds = {"length_correlation": max_length_correlation, "duplicate_rate": max_duplicate_rate}
        self.windows: list[dict[str, float]] = []
        self.baseline: dict[str, float] | None = None
        self.warned = False

    def see(self, metrics: dict[str, float], kl: float | None) -> str | None:
        """The warning, where it is due now."""
        if self.warned or not metrics:
            return None
        self.windows.append(metrics)
        if sum(window["num_scores"] for window in self.windows) < self.MIN_SCORES:
            return None
        while sum(window["num_scores"] for window in self.windows[1:]) >= self.MIN_SCORES:
            self.windows.pop(0)
        recent = _pool(self.windows)
        if self.baseline is None:
            self.baseline, self.windows = recent, []
            return None
        rise = recent["mean"] - self.baseline["mean"]
        error = math.sqrt(sum(side["std"] ** 2 / side["num_scores"] for side in (recent, self.baseline)))
        signs = [
            f"{name.replace('_', ' ')} {recent[name]:.2f} (bound {bound:g})"
            for name, bound in self.bounds.items()
            if abs(recent.get(name, 0.0)) > bound
        ]
        if not signs or rise <= 2 * error:
            return None
        self.warned = True
        drift = "" if kl is None else f", KL to the reference policy {kl:.3g}"
        return (
            f"the reward may be hacked: its mean rose from {self.baseline['mean']:.3g} to {recent['mean']:.3g} with "
            f"{' and '.join(signs)}{drift}; read the samples"
        )


def _pool(windows: list[dict[str, float]]) -> dict[str, float]:
    """Metrics of several windows, weighted by their scores."""
    pooled = {"num_scores": sum(window["num_scores"] for window in windows)}
    for name in ("mean", "std", "length_correlation", "duplicate_rate"):
        have = [window for window in windows if name in window]
        total = sum(window["num_scores"] for window in have)
        if total:
            pooled[name] = sum(window[name] * window["num_scores"] for window in have) / total
    return pooled


# --- sample tables


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(map(json_line, rows))


def log_table(
    trackers: Sequence[str], name: str, rows: list[dict[str, Any]], step: int, tensorboard_writer: Any = None
) -> None:
    """A table of samples to those of the trainer's trackers that take one and have a run going."""
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    if "wandb" in trackers:
        import wandb

        if wandb.run is not None:
            wandb.log({name: wandb.Table(columns=columns, data=cells)})
    if "trackio" in trackers:
        import pandas
        import trackio

        if trackio.context_vars.current_run.get() is not None:
            trackio.log({name: trackio.Table(dataframe=pandas.DataFrame(cells, columns=columns))})
    if "tensorboard" in trackers and tensorboard_writer is not None:
        lines = [columns, ["---"] * len(columns), *([str(cell) for cell in row] for row in cells)]
        escaped = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in line] for line in lines]
        tensorboard_writer.add_text(name, "\n".join("| " + " | ".join(line) + " |" for line in escaped), step)


def table_text(text: Text | None) -> Text | None:
    """A text for a table, cut after 2,000 characters."""
    if isinstance(text, str):
        return shorten(text, MAX_SAMPLE_CHARACTERS)
    if isinstance(text, list):
        return [{**m, "content": table_text(m["content"])} if isinstance(m.get("content"), str) else m for m in text]
    return text


def _cell(value: Any) -> str | float | int | None:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _number(text: Any) -> float:
    """52 bits that name a text (exact in a float64), equal on all processes."""
    return float(int(text_key(text), 16) >> 12)
