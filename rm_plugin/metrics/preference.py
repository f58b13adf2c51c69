"""How often and by how much the preferred completion wins, and how far length explains it.

Everything takes the margins Δ = r(x, chosen) − r(x, rejected) of n pairs, as numpy arrays, lists or tensors:

    accuracy = mean(1[Δ > 0] + ½·1[Δ = 0])

A tie (Δ = 0 exactly) counts ½, except in `accuracy_strict`, where it counts as wrong, as most official scores have it.
Scores are float64 before any arithmetic. A value that is not finite, or an empty input, is a `ValueError`: nothing is
dropped silently. Results are numbers, lists and dicts that `json.dumps` takes; what is undefined is `None`.

`evaluate_metrics.py` has `evaluate.Metric` classes of `pairwise_accuracy` and `margin_distribution`.

    >>> pairwise_accuracy([1.5, -0.5, 0.0, 2.0])
    {'accuracy': 0.625, 'accuracy_strict': 0.5, 'tie_rate': 0.25, 'num_pairs': 4}
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .ranking import spearman, spearman_terms
from .statistics import Bootstrap, finite_array, label_codes, wilson_interval

EQUAL = 0.1  # two values that differ by no more than this share of the larger are called equal
NUMBERS = ("accuracy_equal", "accuracy_more", "accuracy_less", "controlled_accuracy", "spearman")  # of a feature
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)


# --- accuracy and margins


def pairwise_correctness(margins: ArrayLike) -> np.ndarray:
    """
    1 for each pair ranked right (Δ > 0), ½ for a tie (Δ = 0), 0 for one ranked wrong.

    Its mean is the accuracy; the items themselves go into `statistics.Bootstrap`.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.

    Returns:
        `np.ndarray` of shape `(n,)`, float64.

    Example:
    ```python
    >>> pairwise_correctness([1.5, -0.5, 0.0])
    array([1. , 0. , 0.5])

    ```
    """
    return (np.sign(finite_array(margins, "margins")) + 1) / 2


def pairwise_accuracy(margins: ArrayLike) -> dict[str, float | int]:
    """
    Share of pairs whose chosen completion has the higher reward, with ties stated separately.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.

    Returns:
        `dict`: `accuracy` (a tie counts ½), `accuracy_strict` (a tie counts as wrong), `tie_rate`, `num_pairs`.

    Raises:
        `ValueError`: If there are no pairs, or a margin is not finite.

    Source: a tie as ½ is the expectation of breaking it by a coin; strict is what JudgeBench and RM-Bench publish.

    Example:
    ```python
    >>> pairwise_accuracy([1.5, -0.5, 0.0, 2.0])["accuracy"]
    0.625

    ```
    """
    margins = finite_array(margins, "margins")
    strict, ties = float(np.mean(margins > 0)), float(np.mean(margins == 0))
    return {
        "accuracy": float(np.mean(pairwise_correctness(margins))),
        "accuracy_strict": strict,
        "tie_rate": ties,
        "num_pairs": len(margins),
    }


def quantiles(values: ArrayLike) -> dict[str, float]:
    """`q05`, `q25`, `q50`, `q75`, `q95` (linear interpolation)."""
    return {f"q{round(100 * q):02d}": float(np.quantile(values, q)) for q in QUANTILES}


def margin_distribution(margins: ArrayLike) -> dict[str, Any]:
    """
    How the margins Δ are spread: moments, quantiles, share below zero and a histogram.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.

    Returns:
        `dict`, in units of the reward: `mean`, `std` (of the pairs at hand, divided by n), `min`, `max`, `q05` `q25`
        `q50` `q75` `q95` (linear interpolation), `share_negative` (Δ < 0; a tie is not negative), `num_pairs`, and
        `histogram`, a dict of `counts` (k integers) and `edges` (k + 1 numbers, zero among them where it lies in the
        range; a bin holds its left edge).

    Raises:
        `ValueError`: If there are no pairs, or a margin is not finite.

    Example:
    ```python
    >>> distribution = margin_distribution([1.5, -0.5, 0.0, 2.0])
    >>> distribution["mean"], distribution["q50"], distribution["share_negative"]
    (0.75, 0.75, 0.25)

    ```
    """
    margins = finite_array(margins, "margins")
    edges = _edges(margins.min(), margins.max())
    counts, _ = np.histogram(margins, bins=edges)
    return {
        "mean": float(margins.mean()),
        "std": float(margins.std()),
        "min": float(margins.min()),
        "max": float(margins.max()),
        **quantiles(margins),
        "share_negative": float(np.mean(margins < 0)),
        "num_pairs": len(margins),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


# --- features of the text


def feature_bias(
    margins: ArrayLike,
    features: Mapping[str, ArrayLike],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_samples: int = 2_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """
    How far the reward follows features of the text, such as its length, beside its content.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. A tie counts ½.
        features (`dict` of arrays of shape `(n, 2)`):
            By name, the feature of the chosen and of the rejected completion.
        clusters (sequence of length n or `None`, *optional*):
            Prompt of each pair; `None`: each pair is its own.
        num_samples (`int`, *optional*, defaults to `2_000`):
            Bootstrap samples.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        `dict`, for each feature a `dict` of numbers with their 95 % intervals (`NAME_interval`), `None` where a side
        is empty or a value constant:
        - `accuracy_equal`: accuracy on the pairs whose two completions have the feature equally, within a tenth of the
          larger; `accuracy_more` and `accuracy_less`: on those whose chosen has more or less of it. `num_equal`,
          `num_more`, `num_less` count them.
        - `controlled_accuracy`: mean of `accuracy_more` and `accuracy_less`, which no preference for the feature can
          raise above ½.
        - `spearman`: rank correlation of Δ with the feature's difference.

    Raises:
        `ValueError`: If there are no pairs, shapes differ, or a value is not finite.

    Source: definitions of this project (rewardbench issues 267 and 268 ask for them); Spearman 1904.

    Example:
    ```python
    >>> lengths = [(20, 10), (30, 10), (40, 10), (5, 10)]
    >>> bias = feature_bias([1.0, 2.0, 3.0, -1.0], {"length": lengths})["length"]
    >>> bias["spearman"], bias["accuracy_more"], bias["accuracy_less"], bias["controlled_accuracy"]
    (1.0, 1.0, 0.0, 0.5)

    ```
    """
    correct = pairwise_correctness(margins)
    codes = np.arange(len(correct)) if clusters is None else label_codes(clusters, len(correct), "clusters")[0]
    columns: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {("", "all"): (correct, codes)}
    for name, values in features.items():
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (len(correct), 2):
            raise ValueError(f"{len(correct)} margins and {name} of shape {values.shape}; give two values per pair")
        difference = values[:, 0] - values[:, 1]
        equal = np.abs(difference) <= EQUAL * np.abs(values).max(axis=1)
        for side, inside in (("equal", equal), ("more", difference > 0), ("less", difference < 0)):
            columns[name, f"accuracy_{side}"] = correct[inside], codes[inside]
        columns[name, "spearman"] = spearman_terms(margins, difference), codes
    columns = {key: column for key, column in columns.items() if column[0] is not None and len(column[0])}

    def controlled(means: dict[Hashable, Any]) -> dict[Hashable, Any]:
        sides = {name: [means.get((name, f"accuracy_{side}")) for side in ("more", "less")] for name in features}
        both = {name: values for name, values in sides.items() if all(value is not None for value in values)}
        return {(name, "controlled_accuracy"): (more + less) / 2 for name, (more, less) in both.items()}

    draw = Bootstrap.over(columns, controlled, num_samples=num_samples, seed=seed)
    found: dict[str, dict[str, Any]] = {name: {} for name in features}
    for name, key in product(features, NUMBERS):
        found[name] |= draw.summary(key, (name, key), is_share=key != "spearman")
        if (side := key.removeprefix("accuracy_")) != key:
            found[name][f"num_{side}"] = len(columns.get((name, key), ((),))[0])
    return found


def accuracy_by_length_difference(
    margins: ArrayLike, length_differences: ArrayLike, num_bins: int = 8
) -> list[dict[str, Any]]:
    """
    Accuracy in bins of the length difference, cut at its quantiles so that the bins hold about equally many pairs.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. A tie counts ½.
        length_differences (array of shape `(n,)`):
            Length of the chosen minus length of the rejected completion, in tokens or characters.
        num_bins (`int`, *optional*, defaults to `8`):
            Number of bins; fewer come out where many differences are equal.

    Returns:
        `list[dict]`, from the shortest chosen to the longest: `low` and `high` (smallest and largest difference in the
        bin), `mean` difference, `accuracy`, `interval` (95 % Wilson, for independent pairs) and `num_pairs`.

    Example:
    ```python
    >>> bins = accuracy_by_length_difference([-1.0, 1.0, 1.0, 1.0], [-20, -10, 10, 20], num_bins=2)
    >>> [(b["low"], b["high"], b["accuracy"], b["num_pairs"]) for b in bins]
    [(-20.0, -10.0, 0.5, 2), (10.0, 20.0, 1.0, 2)]

    ```
    """
    margins, lengths = _same_pairs(margins, length_differences, "length differences")
    correct = pairwise_correctness(margins)
    cuts = np.unique(np.quantile(lengths, np.arange(1, num_bins) / num_bins))
    bins = np.searchsorted(cuts, lengths, side="left")
    table = []
    for inside in (bins == index for index in np.unique(bins)):
        these = lengths[inside]
        found = {"low": float(these.min()), "high": float(these.max()), "mean": float(these.mean())}
        table.append(found | independent_accuracy(correct[inside]))
    return table


def independent_accuracy(correct: np.ndarray) -> dict[str, Any]:
    """`accuracy` of independent pairs, its 95 % Wilson `interval`, and `num_pairs`."""
    interval = list(wilson_interval(float(correct.sum()), len(correct)))
    return {"accuracy": float(correct.mean()), "interval": interval, "num_pairs": len(correct)}


# --- two judges


def agreement(margins_a: ArrayLike, margins_b: ArrayLike) -> dict[str, Any]:
    """
    How far two judges agree on the same pairs, whoever is right.

    Args:
        margins_a (array of shape `(n,)`), margins_b (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion, by each judge.

    Returns:
        `dict`: `spearman` (rank correlation of the margins), `kappa` (Cohen's κ of which completion is preferred, a
        tie being a third verdict), both `None` where undefined; `num_different` (pairs judged in opposite ways),
        `num_pairs`.

    Source: Cohen 1960: (agreement − chance) / (1 − chance).

    Example:
    ```python
    >>> agreement([1.0, 2.0, -1.0, -2.0], [1.0, 2.0, -1.0, 3.0])["kappa"]
    0.5

    ```
    """
    a, b = _same_pairs(margins_a, margins_b, "margins of the other judge")
    signs = np.array([-1.0, 0.0, 1.0])[:, None]
    verdicts_a, verdicts_b = np.sign(a) == signs, np.sign(b) == signs  # (3, n)
    observed = float(np.mean((verdicts_a & verdicts_b).any(axis=0)))
    chance = float(verdicts_a.mean(axis=1) @ verdicts_b.mean(axis=1))
    return {
        "spearman": spearman(a, b),
        "kappa": (observed - chance) / (1 - chance) if chance < 1 else None,
        "num_different": int(np.sum(np.sign(a) * np.sign(b) < 0)),
        "num_pairs": len(a),
    }


# --- helpers


def _same_pairs(margins: ArrayLike, others: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    margins, others = finite_array(margins, "margins"), finite_array(others, what)
    if others.shape != margins.shape:
        raise ValueError(f"{len(margins)} margins and {len(others)} {what}, each pair has one of both")
    return margins, others


def _edges(low: float, high: float) -> np.ndarray:
    """Edges of equal bins, at most 22, from `low` to `high`, at multiples of their width, so that 0 is one."""
    width = max(abs(low), abs(high)) / 10 or 1.0
    edges = width * np.arange(math.floor(low / width), math.floor(high / width) + 2)
    edges[0] = min(edges[0], low)  # rounding must not put the smallest margin outside
    return edges
