"""Metrics of a reward model, as plain functions on numpy arrays of scores.

Most take the margins Δ = r(x, chosen) − r(x, rejected) of n pairs, where P(chosen ≻ rejected) = σ(Δ):

    accuracy = mean(1[Δ > 0] + ½·1[Δ = 0])      NLL = mean(−log σ(Δ))      Brier = mean((1 − σ(Δ))²)

A tie (Δ = 0 exactly) counts ½, except in `accuracy_strict`, where it counts as wrong, as most official scores have it.
Scores are float64 before any arithmetic. A value that is not finite, or an empty input, is a `ValueError`: nothing is
dropped silently. Results are numbers, lists and dicts that `json.dumps` takes; what is undefined is `None`.

Intervals and comparisons of models are in `rm_plugin.metrics.statistics`. `PairwiseAccuracy` and
`MarginDistribution` are `evaluate.Metric` classes of the first two functions; `evaluate` is imported when they are.

    >>> pairwise_accuracy([1.5, -0.5, 0.0, 2.0])
    {'accuracy': 0.625, 'accuracy_strict': 0.5, 'tie_rate': 0.25, 'num_pairs': 4}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .statistics import finite_array, label_codes, wilson_interval

__all__ = [
    "MarginDistribution",  # noqa: F822 (made by __getattr__)
    "PairwiseAccuracy",  # noqa: F822
    "accuracy_by_length_difference",
    "best_of_n_curve",
    "best_of_n_kl_bound",
    "brier_score",
    "by_subset",
    "calibration",
    "cross_fitted_calibration",
    "expected_calibration_error",
    "fit_temperature",
    "kendall_tau_b",
    "length_bias",
    "margin_distribution",
    "negative_log_likelihood",
    "pairwise_accuracy",
    "pairwise_correctness",
    "reliability_curve",
]

QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
# A fitted temperature lies between these multiples of the root mean square margin. Without a wrong pair (or without
# more right than wrong ones) the likelihood has no optimum; the bound keeps every figure finite.
TEMPERATURE_BOUNDS = (1e-3, 1e3)


# --- accuracy and margins


def pairwise_correctness(margins: ArrayLike) -> np.ndarray:
    """
    1 for each pair ranked right (Δ > 0), ½ for a tie (Δ = 0), 0 for one ranked wrong.

    Its mean is the accuracy; the items themselves go into `statistics.bootstrap_interval` and `compare_models`.

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
    return (np.sign(_as_margins(margins)) + 1) / 2


def pairwise_accuracy(margins: ArrayLike) -> dict[str, float | int]:
    """
    Share of pairs whose chosen completion has the higher reward, with ties stated apart.

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
    margins = _as_margins(margins)
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
    margins = _as_margins(margins)
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


def by_subset(
    values: ArrayLike, subsets: Sequence[str], metric: Callable[[np.ndarray], Any] = pairwise_accuracy
) -> dict[str, Any]:
    """
    A metric on each subset of the pairs.

    Args:
        values (array of shape `(n,)`):
            Margins, or whatever `metric` takes.
        subsets (sequence of `str` of length n):
            Name of the subset of each pair.
        metric (`Callable`, *optional*, defaults to [`pairwise_accuracy`]):
            Function of the values of one subset.

    Returns:
        `dict` from subset to the metric's result, in order of first appearance.

    Example:
    ```python
    >>> by_subset([1.0, -1.0, 2.0], ["math", "code", "math"], metric=lambda margins: float(margins.mean()))
    {'math': 1.5, 'code': -1.0}

    ```
    """
    values = finite_array(values, "values")
    names = np.asarray(subsets, dtype=object)
    if names.shape != values.shape:
        raise ValueError(f"{len(names)} subset names for {len(values)} values, each value has one")
    return {name: metric(values[names == name]) for name in dict.fromkeys(subsets)}


# --- probabilities


def negative_log_likelihood(margins: ArrayLike) -> float:
    """
    Mean of −log σ(Δ) in nats: ln 2 = 0.693 for a model that knows nothing, 0 for one that is right and sure.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. A tie counts ln 2.

    Returns:
        `float`.

    Source: Bradley & Terry 1952; the training loss of Ouyang et al. 2022, eq. 1.

    Example:
    ```python
    >>> round(negative_log_likelihood([0.0, 2.0]), 6)
    0.410038

    ```
    """
    return float(np.mean(np.logaddexp(0, -_as_margins(margins))))


def brier_score(margins: ArrayLike) -> float:
    """
    Mean of (1 − σ(Δ))²: ¼ for a model that knows nothing, 0 for one that is right and sure.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. A tie counts ¼.

    Returns:
        `float`.

    Source: Brier 1950, with P(chosen ≻ rejected) = σ(Δ) and outcome 1.

    Example:
    ```python
    >>> brier_score([0.0, 0.0])
    0.25

    ```
    """
    return float(np.mean(_sigmoid(-_as_margins(margins)) ** 2))


def reliability_curve(margins: ArrayLike, num_bins: int = 10) -> dict[str, list]:
    """
    Predicted against observed: in equal bins of confidence σ(|Δ|) on [½, 1], how often the preferred one was right.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. The outcome of a tie is ½.
        num_bins (`int`, *optional*, defaults to `10`):
            Number of equal bins on [½, 1]; a bin holds its left edge, the last one both.

    Returns:
        `dict` of lists: `edges` (num_bins + 1), and for each bin `counts`, `confidence` (mean σ(|Δ|)) and `accuracy`
        (mean outcome), `None` in an empty bin.

    Source: DeGroot & Fienberg 1983; Guo et al. 2017 (arXiv 1706.04599), section 2.

    Example:
    ```python
    >>> curve = reliability_curve([0.0, 5.0, 5.0, -5.0], num_bins=2)
    >>> curve["counts"], curve["accuracy"]
    ([1, 3], [0.5, 0.6666666666666666])

    ```
    """
    margins = _as_margins(margins)
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins}, it must be at least 1")
    confidence = _sigmoid(np.abs(margins))
    bins = np.minimum(((confidence - 0.5) * 2 * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    mean_confidence, accuracy = (
        np.bincount(bins, weights=values, minlength=num_bins) / np.maximum(counts, 1)
        for values in (confidence, pairwise_correctness(margins))
    )
    return {
        "edges": np.linspace(0.5, 1.0, num_bins + 1).tolist(),
        "counts": counts.tolist(),
        "confidence": [float(c) if n else None for c, n in zip(mean_confidence, counts, strict=True)],
        "accuracy": [float(a) if n else None for a, n in zip(accuracy, counts, strict=True)],
    }


def expected_calibration_error(margins: ArrayLike, num_bins: int = 10) -> float:
    """
    Distance of observed accuracy from confidence, averaged over the bins of [`reliability_curve`] by their counts.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. The outcome of a tie is ½.
        num_bins (`int`, *optional*, defaults to `10`):
            Number of equal bins on [½, 1].

    Returns:
        `float` in [0, 1]. It is biased upwards for small n, so compare it between models on the same pairs only.

    Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599), eq. 3, with confidence σ(|Δ|).

    Example:
    ```python
    >>> round(expected_calibration_error([2.0, 2.0, -2.0, -2.0]), 6)  # says 0.880797, is right half the time
    0.380797

    ```
    """
    curve = reliability_curve(margins, num_bins)
    bins = zip(curve["counts"], curve["confidence"], curve["accuracy"], strict=True)
    return sum(n * abs(accuracy - confidence) for n, confidence, accuracy in bins if n) / sum(curve["counts"])


def fit_temperature(margins: ArrayLike) -> float:
    """
    The temperature T that minimises the NLL of σ(Δ / T): above 1 where the model is too sure, below 1 where too shy.

    The NLL is convex in 1/T, so this is its one minimum, sought between 10⁻³ and 10³ times the root mean square of the
    margins. A value at such a bound means that there is none: no pair is wrong (T → 0), or the mean margin is not
    positive (T → ∞). Where all margins are zero nothing can be fitted, and T is 1.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.

    Returns:
        `float`. Fitted on the pairs it is quoted for; to state what rescaling gains, use [`cross_fitted_calibration`].

    Source: Platt 1999; Guo et al. 2017 (arXiv 1706.04599), section 4.2.

    Example:
    ```python
    >>> margins = [4.0, 4.0, 4.0, -4.0]  # right three times in four: σ(4 / T) = ¾ at T = 4 / ln 3
    >>> round(fit_temperature(margins), 4), round(4 / math.log(3), 4)
    (3.641, 3.641)

    ```
    """
    margins = _as_margins(margins)
    scale = float(np.sqrt(np.mean(margins**2)))
    if scale == 0:
        return 1.0
    scaled = margins / scale

    def slope(log_temperature: float) -> float:  # sign of d NLL / d(1/T) at T = e^log_temperature
        return -float(np.mean(scaled * _sigmoid(-scaled * math.exp(-log_temperature))))

    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    if slope(low) <= 0:  # the likelihood still grows as T → 0
        return TEMPERATURE_BOUNDS[0] * scale
    if slope(high) >= 0:  # and here as T → ∞
        return TEMPERATURE_BOUNDS[1] * scale
    from scipy.optimize import brentq

    return math.exp(brentq(slope, low, high, xtol=1e-10)) * scale


def calibration(margins: ArrayLike, num_bins: int = 10) -> dict[str, Any]:
    """
    All figures on whether σ(Δ) is a probability: how a reward difference of 1, 2 or 5 should be read.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. A tie is an outcome of ½.
        num_bins (`int`, *optional*, defaults to `10`):
            Number of bins of the reliability curve.

    Returns:
        `dict`: `nll`, `brier`, `ece`, `temperature` (see the function of each) and `reliability` (the curve).

    Example:
    ```python
    >>> list(calibration([1.0, -1.0, 3.0]))
    ['nll', 'brier', 'ece', 'temperature', 'reliability']

    ```
    """
    margins = _as_margins(margins)
    return {
        "nll": negative_log_likelihood(margins),
        "brier": brier_score(margins),
        "ece": expected_calibration_error(margins, num_bins),
        "temperature": fit_temperature(margins),
        "reliability": reliability_curve(margins, num_bins),
    }


def cross_fitted_calibration(
    margins: ArrayLike, clusters: Sequence | np.ndarray | None = None, num_folds: int = 5, seed: int = 0
) -> dict[str, Any]:
    """
    What rescaling by a temperature gains on pairs that it was not fitted on.

    Prompts are dealt at random into folds; each fold's margins are divided by the temperature fitted on the others.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.
        clusters (sequence of length n or `None`, *optional*):
            Prompt of each pair: pairs of one prompt stay in one fold. `None`: each pair is its own.
        num_folds (`int`, *optional*, defaults to `5`):
            Number of folds; with fewer clusters than that, their number.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the deal.

    Returns:
        `dict`: `temperatures` (one a fold), and `nll`, `brier`, `ece` of the rescaled margins over all pairs.

    Raises:
        `ValueError`: If there are fewer than two clusters or folds.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2, whose held-out fit is done fold by fold here.

    Example:
    ```python
    >>> result = cross_fitted_calibration([8.0, 8.0, 8.0, -8.0] * 50)
    >>> result["nll"] < negative_log_likelihood([8.0, 8.0, 8.0, -8.0] * 50)
    True

    ```
    """
    margins = _as_margins(margins)
    codes = np.arange(len(margins)) if clusters is None else label_codes(clusters, len(margins), "clusters")[0]
    num_clusters = int(codes.max()) + 1
    num_folds = min(num_folds, num_clusters)
    if num_folds < 2:
        raise ValueError(f"{num_folds} fold of {num_clusters} clusters, cross-fitting needs at least 2 of each")
    folds = np.random.default_rng(seed).permutation(num_clusters)[codes] % num_folds
    temperatures = [fit_temperature(margins[folds != fold]) for fold in range(num_folds)]
    rescaled = margins / np.asarray(temperatures)[folds]
    return {
        "temperatures": temperatures,
        "nll": negative_log_likelihood(rescaled),
        "brier": brier_score(rescaled),
        "ece": expected_calibration_error(rescaled),
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
        - `spearman`: rank correlation of Δreward and Δlength over pairs; `None` where one of them is constant.
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
        "spearman": _spearman(margins, lengths),
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
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins}, it must be at least 1")
    correct = pairwise_correctness(margins)
    cuts = np.unique(np.quantile(lengths, np.arange(1, num_bins) / num_bins))
    bins = np.searchsorted(cuts, lengths, side="left")
    table = []
    for index in np.unique(bins):
        inside = bins == index
        num_pairs = int(inside.sum())
        table.append(
            {
                "low": float(lengths[inside].min()),
                "high": float(lengths[inside].max()),
                "mean": float(lengths[inside].mean()),
                "accuracy": float(correct[inside].mean()),
                "interval": list(wilson_interval(float(correct[inside].sum()), num_pairs)),
                "num_pairs": num_pairs,
            }
        )
    return table


# --- ranked lists and best-of-n


def kendall_tau_b(scores: ArrayLike, ranks: ArrayLike) -> float | None:
    """
    Kendall's τ_b of the scores of one ranked list against its ranks: 1 for the same order, −1 for the reverse.

    Args:
        scores (array of shape `(K,)`):
            Reward of each completion of one prompt, larger is better.
        ranks (array of shape `(K,)`):
            Rank of each completion, smaller is better; equal ranks are ties.

    Returns:
        `float`, or `None` where all scores or all ranks are equal. For a data set, take the mean over its prompts.

    Source: Kendall 1945: (concordant − discordant) / √((pairs − ties in scores)·(pairs − ties in ranks)).

    Example:
    ```python
    >>> kendall_tau_b(scores=[3.0, 1.0, 2.0, 0.0], ranks=[0, 1, 2, 3])  # 5 pairs in order, 1 not
    0.6666666666666666

    ```
    """
    scores, ranks = finite_array(scores, "scores"), finite_array(ranks, "ranks")
    if scores.shape != ranks.shape:
        raise ValueError(f"{len(scores)} scores and {len(ranks)} ranks, each completion has one of both")
    first, second = np.triu_indices(len(scores), k=1)
    score_order = np.sign(scores[first] - scores[second])
    rank_order = np.sign(ranks[second] - ranks[first])
    untied = np.count_nonzero(score_order) * np.count_nonzero(rank_order)
    return float(score_order @ rank_order / math.sqrt(untied)) if untied else None


def best_of_n_kl_bound(n: int) -> float:
    """
    Upper bound in nats of KL(best-of-n policy ‖ policy): ln n − (n − 1)/n.

    Args:
        n (`int`):
            Number of samples of which the best is taken.

    Returns:
        `float`: exact for a continuous policy without ties of the proxy score, else a bound.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3; as a bound, Beirami et al. 2024 (arXiv 2401.01879).

    Example:
    ```python
    >>> round(best_of_n_kl_bound(4), 6)
    0.636294

    ```
    """
    if n < 1:
        raise ValueError(f"n={n}, it must be at least 1")
    return math.log(n) - (n - 1) / n


def best_of_n_curve(
    proxy_scores: Sequence[ArrayLike], gold_values: Sequence[ArrayLike], ns: Sequence[int] | None = None
) -> dict[str, list]:
    """
    Expected gold value of the best of n samples by the proxy score, for every n, from N ≥ n samples a prompt.

    The estimate is unbiased: it is the mean over all C(N, n) subsets of the samples. Where i ranks the proxy scores
    ascending, sample i is the best of C(i − 1, n − 1) of them, so it weighs C(i − 1, n − 1)/C(N, n). Samples of equal
    proxy score share their weights equally. The samples must be independent and of one policy.

    Args:
        proxy_scores (sequence of arrays of shape `(N,)`, or array of shape `(P, N)`):
            Reward of every sample, one row a prompt. Rows may differ in length.
        gold_values (of the same shapes):
            What the samples are worth: correctness, or the score of a better model.
        ns (sequence of `int` or `None`, *optional*):
            The values of n; `None` is 1, 2, 4, … up to the length N of the shortest row, and N.

    Returns:
        `dict` of lists: `n`, `value` (mean over prompts of the expected gold value), `kl_bound`
        ([`best_of_n_kl_bound`]) and `per_prompt` (for each n, one value a prompt, for a bootstrap).

    Raises:
        `ValueError`: If shapes differ, a value is not finite, or an n exceeds the number of samples.

    Source: Nakano et al. 2021 (WebGPT, arXiv 2112.09332), appendix I; Chen et al. 2021 (arXiv 2107.03374), eq. 1.

    Example:
    ```python
    >>> curve = best_of_n_curve(proxy_scores=[[0.1, 0.2, 0.3]], gold_values=[[0.0, 1.0, 0.0]], ns=[1, 2, 3])
    >>> [round(value, 6) for value in curve["value"]]
    [0.333333, 0.333333, 0.0]

    ```
    """
    rows = [
        (finite_array(proxy, "proxy_scores"), finite_array(gold, "gold_values"))
        for proxy, gold in zip(proxy_scores, gold_values, strict=True)
    ]
    if not rows:
        raise ValueError("there are no prompts, a best-of-n curve needs at least one")
    for index, (proxy, gold) in enumerate(rows):
        if proxy.shape != gold.shape:
            raise ValueError(
                f"prompt {index} has {len(proxy)} proxy scores and {len(gold)} gold values, give one each"
            )
    most = min(len(proxy) for proxy, _ in rows)
    if ns is None:
        ns = sorted({2**k for k in range(most.bit_length())} | {most})
    if any(not 1 <= n <= most for n in ns):
        raise ValueError(f"ns={list(ns)}, each must lie between 1 and the fewest samples of a prompt, {most}")
    sorted_gold = [_gold_by_proxy(proxy, gold) for proxy, gold in rows]
    per_prompt = [[float(_best_of_n_weights(len(gold), n) @ gold) for gold in sorted_gold] for n in ns]
    return {
        "n": [int(n) for n in ns],
        "value": [float(np.mean(values)) for values in per_prompt],
        "kl_bound": [best_of_n_kl_bound(n) for n in ns],
        "per_prompt": per_prompt,
    }


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
                    f"{len(predictions)} predictions and {len(references)} references, give one each a pair"
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


def _as_margins(margins: ArrayLike) -> np.ndarray:
    return finite_array(margins, "margins")


def _margins_and_lengths(margins: ArrayLike, length_differences: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    margins, lengths = _as_margins(margins), finite_array(length_differences, "length_differences")
    if lengths.shape != margins.shape:
        raise ValueError(f"{len(margins)} margins and {len(lengths)} length differences, each pair has one of both")
    return margins, lengths


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    if np.all(a == a[0]) or np.all(b == b[0]):
        return None
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


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


def _gold_by_proxy(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Gold values in ascending order of the proxy score, each replaced by the mean over its equals in proxy score."""
    _, places, counts = np.unique(proxy, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(places, weights=gold) / counts, counts)


@lru_cache(maxsize=1024)
def _best_of_n_weights(num_samples: int, n: int) -> np.ndarray:
    """C(i − 1, n − 1) / C(N, n) for i = 1 … N, in log space: C(1000, 500) has 300 digits."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_samples + 1)))])
    i = np.arange(n, num_samples + 1)
    log_choose = log_factorial[i - 1] - log_factorial[n - 1] - log_factorial[i - n]
    log_total = log_factorial[num_samples] - log_factorial[n] - log_factorial[num_samples - n]
    return np.concatenate([np.zeros(n - 1), np.exp(log_choose - log_total)])
