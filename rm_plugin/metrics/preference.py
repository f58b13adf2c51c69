"""How often and by how much the preferred completion wins, and how far length explains it.

Everything takes the margins Δ = r(x, chosen) − r(x, rejected) of n pairs, as numpy arrays, lists or tensors:

    accuracy = mean(1[Δ > 0] + ½·1[Δ = 0])

A tie (Δ = 0 exactly) counts ½, except in `accuracy_strict`, where it counts as wrong, as most official scores have it.
Scores are float64 before any arithmetic. A value that is not finite, or an empty input, is a `ValueError`: nothing is
dropped silently. Results are numbers, lists and dicts that `json.dumps` takes; what is undefined is `None`.

`PairwiseAccuracy` and `MarginDistribution` are `evaluate.Metric` classes of the first two functions; `evaluate` is
imported when they are.

    >>> pairwise_accuracy([1.5, -0.5, 0.0, 2.0])
    {'accuracy': 0.625, 'accuracy_strict': 0.5, 'tie_rate': 0.25, 'num_pairs': 4}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .ranking import spearman
from .statistics import finite_array, wilson_interval

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


def margin_distribution(margins: ArrayLike) -> dict[str, Any]:
    """
    How the margins Δ are spread: moments, quantiles, share below zero and a histogram.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.

    Returns:
        `dict`, in units of the reward: `mean`, `std` (of the pairs at hand, divided by n), `min`, `max`, `q05` `q25`
        `q50` `q75` `q95` (linear interpolation), `share_negative` (Δ < 0; a tie is not negative), `num_pairs`, and
        `histogram`, a dict of `counts` (k integers) and `edges` (k + 1 round numbers, zero among them where it lies in
        the range; a bin holds its left edge).

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
    quantiles = np.quantile(margins, QUANTILES)
    edges = _round_edges(margins.min(), margins.max())
    counts, _ = np.histogram(margins, bins=edges)
    return {
        "mean": float(margins.mean()),
        "std": float(margins.std()),
        "min": float(margins.min()),
        "max": float(margins.max()),
        **{f"q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "share_negative": float(np.mean(margins < 0)),
        "num_pairs": len(margins),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


# --- length


def length_bias(margins: ArrayLike, length_differences: ArrayLike) -> dict[str, Any]:
    """
    How far the reward follows the length of the completion.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.
        length_differences (array of shape `(n,)`):
            Length of the chosen minus length of the rejected completion, in tokens or characters.

    Returns:
        `dict`:
        - `spearman`: rank correlation of Δreward and Δlength over pairs; `None` where one of them is constant, or of
          fewer than three pairs.
        - `accuracy_chosen_longer`, `num_chosen_longer`, `accuracy_chosen_shorter`, `num_chosen_shorter`: accuracy (a
          tie counts ½) on either side; `None` where a side is empty. Pairs of equal length are on neither.
        - `length_controlled_accuracy`: mean of the two accuracies, which no preference for length can raise above ½;
          `None` where a side is empty.
        - `length_only_accuracy`: accuracy of the rule "the longer one wins" on these pairs, equal lengths counting ½;
          the baseline to print beside the score. Where it is below ½, the opposite rule is the better baseline.

    Raises:
        `ValueError`: If there are no pairs, the lengths of the arrays differ, or a value is not finite.

    Source: definitions of this project (rewardbench issues 267 and 268 ask for them); Spearman 1904.

    Example:
    ```python
    >>> bias = length_bias(margins=[1.0, 2.0, 3.0, -1.0], length_differences=[10, 20, 30, -5])
    >>> bias["spearman"], bias["length_controlled_accuracy"], bias["length_only_accuracy"]
    (1.0, 0.5, 0.75)

    ```
    """
    margins, lengths = _margins_and_lengths(margins, length_differences)
    correct = pairwise_correctness(margins)
    longer, shorter = lengths > 0, lengths < 0
    accuracy_longer = float(correct[longer].mean()) if longer.any() else None
    accuracy_shorter = float(correct[shorter].mean()) if shorter.any() else None
    both = accuracy_longer is not None and accuracy_shorter is not None
    return {
        "spearman": spearman(margins, lengths),
        "accuracy_chosen_longer": accuracy_longer,
        "num_chosen_longer": int(longer.sum()),
        "accuracy_chosen_shorter": accuracy_shorter,
        "num_chosen_shorter": int(shorter.sum()),
        "length_controlled_accuracy": (accuracy_longer + accuracy_shorter) / 2 if both else None,
        "length_only_accuracy": float(np.mean((np.sign(lengths) + 1) / 2)),
    }


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
    margins, lengths = _margins_and_lengths(margins, length_differences)
    correct = pairwise_correctness(margins)
    cuts = np.unique(np.quantile(lengths, np.arange(1, num_bins) / num_bins))
    bins = np.searchsorted(cuts, lengths, side="left")
    table = []
    for inside in (bins == index for index in np.unique(bins)):
        num_pairs, these = int(inside.sum()), lengths[inside]
        table.append(
            {
                "low": float(these.min()),
                "high": float(these.max()),
                "mean": float(these.mean()),
                "accuracy": float(correct[inside].mean()),
                "interval": list(wilson_interval(float(correct[inside].sum()), num_pairs)),
                "num_pairs": num_pairs,
            }
        )
    return table


# --- evaluate.Metric classes


def __getattr__(name: str):  # so that importing this module does not import `evaluate`, and with it torch
    if name in ("PairwiseAccuracy", "MarginDistribution"):
        globals().update(_metric_classes())
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _metric_classes() -> dict[str, type]:
    import datasets
    import evaluate

    inputs_description = """
Args:
    predictions (list of float, shape (n,)): reward of the chosen completion of each pair, or the margins themselves.
    references (list of float, shape (n,), optional): reward of the rejected completion of each pair; leave it out
        where predictions are margins. These are rewards, not labels.
"""

    class _MarginMetric(evaluate.Metric):
        """Collects pairs of rewards; the margin of a pair is prediction − reference, a reference left out is 0."""

        description: str
        function: Callable[[np.ndarray], dict]

        def _info(self) -> evaluate.MetricInfo:
            value = datasets.Value("float64")
            return evaluate.MetricInfo(
                description=self.function.__doc__,
                citation="",
                inputs_description=inputs_description,
                features=datasets.Features({"predictions": value, "references": value}),
            )

        def add(self, *, prediction=None, reference=None, **kwargs) -> None:
            """Add one pair: the reward of its chosen and of its rejected completion, or its margin alone."""
            super().add(prediction=prediction, reference=0.0 if reference is None else reference, **kwargs)

        def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
            """Add pairs: the rewards of their chosen and of their rejected completions, or their margins alone."""
            predictions = finite_array(predictions, "predictions", allow_empty=True)
            references = np.zeros_like(predictions) if references is None else references
            references = finite_array(references, "references", allow_empty=True)
            if references.shape != predictions.shape:
                raise ValueError(
                    f"{len(predictions)} predictions and {len(references)} references, give one each per pair"
                )
            super().add_batch(predictions=predictions, references=references, **kwargs)

        def _compute(self, predictions, references) -> dict:
            return type(self).function(np.asarray(predictions) - np.asarray(references))

    class PairwiseAccuracy(_MarginMetric):
        """`evaluate.Metric` of [`pairwise_accuracy`], offline and combinable."""

        __qualname__ = "PairwiseAccuracy"
        function = staticmethod(pairwise_accuracy)

    class MarginDistribution(_MarginMetric):
        """`evaluate.Metric` of [`margin_distribution`], offline and combinable."""

        __qualname__ = "MarginDistribution"
        function = staticmethod(margin_distribution)

    return {"PairwiseAccuracy": PairwiseAccuracy, "MarginDistribution": MarginDistribution}


# --- helpers


def _margins_and_lengths(margins: ArrayLike, length_differences: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    margins, lengths = finite_array(margins, "margins"), finite_array(length_differences, "length_differences")
    if lengths.shape != margins.shape:
        raise ValueError(f"{len(margins)} margins and {len(lengths)} length differences, each pair has one of both")
    return margins, lengths


def _round_edges(low: float, high: float) -> np.ndarray:
    """About 20 bins from `low` to `high` at multiples of 1, 2 or 5 times a power of ten, so that 0 is an edge."""
    width = (high - low) / 20
    if width <= 1e-9 * max(abs(low), abs(high)):  # all margins equal (or as good as): one bin around them
        width = max(abs(low), 1.0)
    power = 10.0 ** math.floor(math.log10(width))
    width = power * next(step for step in (1, 2, 5, 10) if step * power >= width * (1 - 1e-9))
    edges = np.round(
        width * np.arange(math.floor(low / width), math.floor(high / width) + 2), -math.floor(math.log10(power))
    )
    edges[0] = min(edges[0], low)  # rounding must not put the smallest margin outside
    return edges
