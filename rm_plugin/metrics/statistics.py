"""What a score is worth: intervals, comparisons of models, and the smallest difference that could have been seen.

Everything here takes one value an item (1, ½ or 0 for a pair ranked right, tied or wrong; a margin; the credit of a
comparison) and the cluster each item belongs to. Items of one prompt are not independent, so a bootstrap draws whole
clusters with replacement. A score that is no plain mean is an `aggregate` of subset means:

    estimate = aggregate({subset: mean of its items})       each resample: the same, on the clusters that were drawn

Shapes: `n` items, `C` clusters, `M` models, `G` subsets, `S` bootstrap samples. Results are deterministic for a seed.

    >>> interval = bootstrap_interval([1.0, 0.0, 1.0, 1.0] * 25)
    >>> interval["estimate"], round(interval["low"], 2), round(interval["high"], 2)
    (0.75, 0.66, 0.83)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, ndtr, ndtri

__all__ = [
    "bootstrap_interval",
    "compare_by_subset",
    "compare_models",
    "holm_correction",
    "mcnemar_exact",
    "minimum_detectable_difference",
    "significance_tiers",
    "wilson_interval",
]

# A function of subset means that works on numbers and, elementwise, on arrays: `lambda m: (m["chat"] + m["code"]) / 2`
Aggregate = Callable[[dict[str, Any]], Any]


# --- one model


def wilson_interval(successes: float, num_items: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Interval of a proportion of independent items; unlike the bootstrap it has a width at 0 and at 1.

    Args:
        successes (`float`):
            Number of successes; a tie counts ½.
        num_items (`int`):
            Number of items, each its own cluster.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level.

    Returns:
        `(low, high)`, two floats in [0, 1].

    Raises:
        `ValueError`: If there are no items, or more successes than items.

    Source: Wilson 1927.

    Example:
    ```python
    >>> [round(bound, 4) for bound in wilson_interval(10, 10)]
    [0.7225, 1.0]

    ```
    """
    if num_items < 1 or not 0 <= successes <= num_items:
        raise ValueError(
            f"{successes} successes of {num_items} items, there must be at least 1 item and no more successes"
        )
    z = _two_sided_z(confidence)
    p = float(successes) / num_items
    shrink = 1 + z**2 / num_items
    center = (p + z**2 / (2 * num_items)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / num_items + z**2 / (4 * num_items**2))
    return max(0.0, center - half), min(1.0, center + half)


def bootstrap_interval(
    values: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    subsets: Sequence[str] | None = None,
    aggregate: Aggregate | None = None,
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Mean of the values, or an aggregate of subset means, with its percentile bootstrap interval clustered by prompt.

    Clusters are drawn with replacement, each with all its items, so the number of items varies between resamples. A
    resample that leaves a subset empty is left out. With few clusters (some 20 or less) percentile intervals are too
    narrow, and where all values are equal they have no width: use [`wilson_interval`] there.

    Args:
        values (array of shape `(n,)`):
            One value an item, such as `metrics.pairwise_correctness(margins)`, where a tie counts ½.
        clusters (sequence of length n or `None`, *optional*):
            Prompt of each item. `None`: every item is its own cluster.
        subsets (sequence of `str` of length n or `None`, *optional*):
            Subset of each item, for `aggregate`.
        aggregate (`Callable` or `None`, *optional*):
            Function of a dict from subset to mean; it must work elementwise on arrays. `None`: the mean of all items.
        confidence (`float`, *optional*, defaults to `0.95`):
            Confidence level.
        num_samples (`int`, *optional*, defaults to `10_000`):
            Number of bootstrap samples.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        `dict`: `estimate`, `low`, `high` (`None` where there is one cluster only), `confidence`, `num_items`,
        `num_clusters`.

    Raises:
        `ValueError`: If there are no values, one is not finite, lengths differ, or only one of `subsets` and
        `aggregate` is given.

    Source: Efron 1979; whole clusters: Davison & Hinkley 1997; for evaluations: Miller 2024 (arXiv 2411.00640).

    Example:
    ```python
    >>> values, subsets = [1.0, 1.0, 0.0, 1.0], ["chat", "chat", "code", "code"]
    >>> bootstrap_interval(values, subsets=subsets, aggregate=lambda m: (m["chat"] + m["code"]) / 2)["estimate"]
    0.75

    ```
    """
    values = finite_array(values, "values")
    estimates, samples, clusters = _bootstrap(values[None], clusters, subsets, aggregate, num_samples, seed)
    low, high = _percentiles(samples[:, 0], confidence) if clusters.max() else (None, None)
    return {
        "estimate": float(estimates[0]),
        "low": low,
        "high": high,
        "confidence": confidence,
        "num_items": len(values),
        "num_clusters": int(clusters.max()) + 1,
    }


def minimum_detectable_difference(
    num_items: int,
    *,
    accuracy: float | None = None,
    discordant_rate: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """
    The smallest true difference in accuracy between two models that n items would show with the given power.

    With z = z(1 − α/2) + z(power), 2.802 by default:

        paired, both models on the same items     z·√(d / n)              d = share of items on which just one is right
        unpaired, n other items for each          z·√(2·p·(1 − p) / n)    p = accuracy

    Args:
        num_items (`int`):
            Number of independent items n (of clusters, where items of one prompt go together).
        accuracy (`float` or `None`, *optional*):
            Accuracy p, for the unpaired difference.
        discordant_rate (`float` or `None`, *optional*):
            Share of discordant items d, for the paired difference.
        alpha (`float`, *optional*, defaults to `0.05`):
            Two-sided significance level.
        power (`float`, *optional*, defaults to `0.8`):
            Probability of finding a true difference of that size.

    Returns:
        `float`: a difference in accuracy. A paired one above `discordant_rate` says that n is too small for any.

    Raises:
        `ValueError`: If not exactly one of `accuracy` and `discordant_rate` is given, or a number is out of range.

    Source: normal approximation, as in Miller 2024 (arXiv 2411.00640); paired: Connor 1987, first-order term.

    Example:
    ```python
    >>> round(minimum_detectable_difference(350, accuracy=0.6), 4)
    0.1038
    >>> round(minimum_detectable_difference(350, discordant_rate=0.3), 4)
    0.082

    ```
    """
    if (accuracy is None) == (discordant_rate is None):
        raise ValueError(
            f"accuracy={accuracy}, discordant_rate={discordant_rate}: give accuracy for two sets of items, or "
            "discordant_rate for two models on the same items"
        )
    share = accuracy if discordant_rate is None else discordant_rate
    if num_items < 1 or not 0 <= share <= 1 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(
            f"num_items={num_items}, share={share}, alpha={alpha}, power={power}: there must be at least 1 item, and "
            "the others lie between 0 and 1"
        )
    variance = 2 * accuracy * (1 - accuracy) if discordant_rate is None else discordant_rate
    return float((ndtri(1 - alpha / 2) + ndtri(power)) * math.sqrt(variance / num_items))


# --- two models


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """
    Exact two-sided p-value that two models are equally often right, from the items on which just one of them is.

    Args:
        correct_a (array of shape `(n,)`):
            1 where model a is right, 0 where it is wrong. A tie must have been made one of them: `margins > 0`.
        correct_b (array of shape `(n,)`):
            The same of model b, on the same items in the same order.

    Returns:
        `float`: 2·P(X ≤ min(b, c)) for X ~ Binomial(b + c, ½), at most 1; 1 where no item tells the two apart.

    Raises:
        `ValueError`: If a value is neither 0 nor 1, or the lengths differ.

    Source: McNemar 1947; the exact conditional test of Fagerland, Lydersen & Laake 2013.

    Example:
    ```python
    >>> mcnemar_exact([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])  # 2 · (1/2)⁵
    0.0625

    ```
    """
    a, b = _same_items(correct_a, correct_b)
    if not _is_binary(a, b):
        raise ValueError("McNemar's test is for values 0 and 1 only; use compare_models, or `margins > 0` for strict")
    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if only_a + only_b else 1.0


def compare_models(
    values_a: ArrayLike,
    values_b: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    subsets: Sequence[str] | None = None,
    aggregate: Aggregate | None = None,
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Is the difference between two models on the same items real? Difference a − b with interval and p-value.

    The interval is the percentile interval of a paired bootstrap: each resample draws clusters and takes both models
    on them. Where all values are 0 or 1, every item is its own cluster and there is no aggregate, the p-value is exact
    McNemar's. Otherwise it is the bootstrap's: twice the share (1 + k)/(S + 1) of resamples on the other side of zero.
    Below k = 10 of them it is the normal tail at the bootstrap's standard error where that is smaller, so that a
    correction for many comparisons has digits to work on. It is never below 2^(1 − D), the least that a sign test can
    show with D clusters on which the two models differ.

    Args:
        values_a (array of shape `(n,)`):
            One value an item of model a, such as `metrics.pairwise_correctness(margins)`, where a tie counts ½.
        values_b (array of shape `(n,)`):
            The same of model b, on the same items in the same order.
        clusters, subsets, aggregate, confidence, num_samples, seed:
            As in [`bootstrap_interval`].

    Returns:
        `dict`: `difference`, `low`, `high` (`None` where there is one cluster only), `p_value`, `method` (`"mcnemar"`
        or `"paired bootstrap"`), `a_better` and `b_better` (items on which one model has the higher value),
        `confidence`, `num_items`, `num_clusters`.

    Raises:
        `ValueError`: As in [`bootstrap_interval`], or if the two have different numbers of items.

    Source: McNemar 1947; Efron & Tibshirani 1993, chapters 13 and 16; Miller 2024 (arXiv 2411.00640).

    Example:
    ```python
    >>> result = compare_models([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
    >>> result["method"], result["p_value"], result["a_better"], result["b_better"]
    ('mcnemar', 0.0625, 5, 0)

    ```
    """
    a, b = _same_items(values_a, values_b)
    estimates, samples, codes = _bootstrap(np.stack([a, b]), clusters, subsets, aggregate, num_samples, seed)
    num_clusters = int(codes.max()) + 1
    difference, differences = float(estimates[0] - estimates[1]), samples[:, 0] - samples[:, 1]
    if _is_binary(a, b) and num_clusters == len(a) and aggregate is None:
        method, p_value = "mcnemar", mcnemar_exact(a, b)
    else:
        method, p_value = "paired bootstrap", _bootstrap_p_value(difference, differences, a, b, codes, subsets)
    low, high = _percentiles(differences, confidence) if num_clusters > 1 else (None, None)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "p_value": p_value,
        "method": method,
        "a_better": int(np.sum(a > b)),
        "b_better": int(np.sum(b > a)),
        "confidence": confidence,
        "num_items": len(a),
        "num_clusters": num_clusters,
    }


def compare_by_subset(
    values_a: ArrayLike,
    values_b: ArrayLike,
    subsets: Sequence[str],
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """
    [`compare_models`] on each subset, with the p-values corrected for their number.

    Args:
        values_a (array of shape `(n,)`):
            One value an item of model a.
        values_b (array of shape `(n,)`):
            One value an item of model b, on the same items in the same order.
        subsets (sequence of `str` of length n):
            Subset of each item.
        clusters, confidence, num_samples, seed:
            As in [`bootstrap_interval`]. The intervals are not corrected.

    Returns:
        `dict` from subset, in order of first appearance, to the result of [`compare_models`] and `p_holm`.

    Source: Holm 1979.

    Example:
    ```python
    >>> result = compare_by_subset([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], ["chat"] * 5 + ["code"])
    >>> {subset: (comparison["p_value"], comparison["p_holm"]) for subset, comparison in result.items()}
    {'chat': (0.0625, 0.125), 'code': (1.0, 1.0)}

    ```
    """
    a, b = _same_items(values_a, values_b)
    codes, names = label_codes(subsets, len(a), "subsets")
    clusters = np.arange(len(a)) if clusters is None else label_codes(clusters, len(a), "clusters")[0]
    options = {"confidence": confidence, "num_samples": num_samples, "seed": seed}
    results = {
        name: compare_models(a[codes == index], b[codes == index], clusters=clusters[codes == index], **options)
        for index, name in enumerate(names)
    }
    corrected = holm_correction([result["p_value"] for result in results.values()])
    return {name: {**result, "p_holm": p} for (name, result), p in zip(results.items(), corrected, strict=True)}


def holm_correction(p_values: ArrayLike) -> list[float]:
    """
    Holm's step-down correction: compare the result with α, and the chance of any false finding is at most α.

    Args:
        p_values (array of shape `(m,)`):
            p-values of m tests.

    Returns:
        `list[float]` of length m: the adjusted p-values in the order given, at most 1.

    Raises:
        `ValueError`: If a value lies outside [0, 1].

    Source: Holm 1979.

    Example:
    ```python
    >>> holm_correction([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    ```
    """
    p_values = finite_array(p_values, "p_values")
    if np.any((p_values < 0) | (p_values > 1)):
        raise ValueError(f"p_values lie between {p_values.min()} and {p_values.max()}, each must be in [0, 1]")
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)))
    return adjusted.tolist()


# --- many models


def significance_tiers(
    values: Mapping[str, ArrayLike],
    *,
    clusters: Sequence[Hashable] | None = None,
    subsets: Sequence[str] | None = None,
    aggregate: Aggregate | None = None,
    alpha: float = 0.05,
    num_samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Models in the order of their score, cut into tiers whose leaders differ significantly.

    All pairs of models are compared on the same items as [`compare_models`] does it, and the M·(M − 1)/2 p-values are
    corrected by Holm. Then, from the best model down: the first leads tier 1; a model joins the present tier unless it
    differs from that tier's leader at level `alpha`; the first that does leads the next tier. So the models of a
    tier are not told apart from its leader (they may still differ from each other), and a model's tier can depend on
    which others are there.

    Args:
        values (mapping from `str` to arrays of shape `(n,)`):
            One value an item of each model, all on the same items in the same order.
        clusters, subsets, aggregate, num_samples, seed:
            As in [`bootstrap_interval`].
        alpha (`float`, *optional*, defaults to `0.05`):
            Significance level over all pairs of models together.

    Returns:
        `dict`: `models`, a list from the best to the worst of dicts of `model`, `estimate`, `tier`; and `comparisons`,
        a list of dicts of `a`, `b` (a ranks above b), `difference`, `p_value`, `p_holm`.

    Raises:
        `ValueError`: As in [`bootstrap_interval`], or if the models have different numbers of items.

    Source: Holm 1979; the greedy cut is this project's.

    Example:
    ```python
    >>> good, fair, poor = [1] * 90 + [0] * 10, [1] * 87 + [0] * 13, [1] * 50 + [0] * 50
    >>> tiers = significance_tiers({"poor": poor, "good": good, "fair": fair})
    >>> [(row["model"], row["tier"]) for row in tiers["models"]]
    [('good', 1), ('fair', 1), ('poor', 2)]

    ```
    """
    if not values:
        raise ValueError("no models are given, tiers need at least one")
    names = list(values)
    arrays = [finite_array(values[name], name) for name in names]
    lengths = {name: len(array) for name, array in zip(names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the models have different numbers of items, {lengths}; give all the same items")
    estimates, samples, codes = _bootstrap(np.stack(arrays), clusters, subsets, aggregate, num_samples, seed)
    order = np.argsort(-estimates, kind="stable").tolist()

    comparisons = []
    for i, j in combinations(order, 2):
        a, b = arrays[i], arrays[j]
        difference = float(estimates[i] - estimates[j])
        if _is_binary(a, b) and codes.max() + 1 == len(a) and aggregate is None:
            p_value = mcnemar_exact(a, b)
        else:
            p_value = _bootstrap_p_value(difference, samples[:, i] - samples[:, j], a, b, codes, subsets)
        comparisons.append({"a": names[i], "b": names[j], "difference": difference, "p_value": p_value})
    corrected = holm_correction([c["p_value"] for c in comparisons]) if comparisons else []
    for comparison, p_holm in zip(comparisons, corrected, strict=True):
        comparison["p_holm"] = p_holm

    p_holm = {(c["a"], c["b"]): c["p_holm"] for c in comparisons}
    leader, tier, models = names[order[0]], 1, []
    for index in order:
        if names[index] != leader and p_holm[leader, names[index]] < alpha:
            leader, tier = names[index], tier + 1
        models.append({"model": names[index], "estimate": float(estimates[index]), "tier": tier})
    return {"models": models, "comparisons": comparisons}


# --- inputs, shared with metrics.py


def finite_array(values: ArrayLike, name: str, allow_empty: bool = False) -> np.ndarray:
    """One-dimensional finite float64 array of a list, array or tensor (of any dtype and device)."""
    if hasattr(values, "detach"):  # a torch tensor: numpy has no bfloat16
        values = values.detach().cpu().double().numpy()
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {values.shape}, it must be one-dimensional, (n,)")
    if not len(values) and not allow_empty:
        raise ValueError(f"{name} is empty, at least one value is needed")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        nan, plus, minus = (int(np.count_nonzero(c)) for c in (np.isnan(values), values == np.inf, values == -np.inf))
        raise ValueError(
            f"{name}: {bad} of {len(values)} values are not finite ({nan} NaN, {plus} +inf, {minus} -inf); leave them "
            "out and report how many, or count them as wrong"
        )
    return values


def label_codes(labels: Sequence[Hashable], num_items: int, name: str) -> tuple[np.ndarray, list]:
    """Labels as integers 0, 1, … in order of first appearance, and the list of distinct labels in that order."""
    if len(labels) != num_items:
        raise ValueError(f"{len(labels)} {name} for {num_items} values, each value has one")
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
    return codes, list(numbers)


# --- the bootstrap


def _bootstrap(
    values_Mn: np.ndarray,
    clusters: Sequence[Hashable] | None,
    subsets: Sequence[str] | None,
    aggregate: Aggregate | None,
    num_samples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates (M,), bootstrap samples (S, M) with all models on the same draws, and each item's cluster (n,)."""
    if (subsets is None) != (aggregate is None):
        raise ValueError("subsets and aggregate go together: give both for an aggregate of subset means, else neither")
    num_models, num_items = values_Mn.shape
    codes = np.arange(num_items) if clusters is None else label_codes(clusters, num_items, "clusters")[0]
    subset_codes, names = (
        (np.zeros(num_items, int), [""]) if subsets is None else label_codes(subsets, num_items, "subsets")
    )

    totals = _cluster_totals(values_Mn, codes, subset_codes, len(names))
    sums = np.concatenate([totals.sum(axis=0, keepdims=True), _resample(totals, num_samples, seed)])
    sums = sums.reshape(len(sums), num_models + 1, len(names))  # row 0: every cluster once
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[:, :-1] / sums[:, -1:]  # NaN where a resample has nothing of a subset
        scores = means[..., 0] if aggregate is None else aggregate({n: means[..., g] for g, n in enumerate(names)})
    if np.shape(scores) != means.shape[:2]:
        raise ValueError(
            f"aggregate made shape {np.shape(scores)} of arrays of shape {means.shape[:2]}, it must work elementwise; "
            "use arithmetic and numpy functions without axis"
        )
    return scores[0], scores[1:], codes


def _cluster_totals(
    values_Mn: np.ndarray, codes: np.ndarray, subset_codes: np.ndarray, num_subsets: int
) -> np.ndarray:
    """(C, (M + 1)·G): for each cluster, the sum of its values by model and subset, and last its number of items."""
    num_clusters = int(codes.max()) + 1
    cells = codes * num_subsets + subset_codes
    columns = [
        np.bincount(cells, weights=weights, minlength=num_clusters * num_subsets).reshape(num_clusters, num_subsets)
        for weights in [*values_Mn, np.ones(len(codes))]
    ]
    return np.concatenate(columns, axis=1)


def _resample(totals: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """(S, K) sums of `totals` (C, K) over C clusters drawn with replacement, S times."""
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}, it must be at least 1")
    rng = np.random.default_rng(seed)
    num_clusters = len(totals)
    # Clusters with equal totals are interchangeable: draw how many of each kind instead. The same distribution, and at
    # once for right or wrong items, of which there are a few kinds only.
    kinds, counts = np.unique(totals, axis=0, return_counts=True)
    if 10 * len(kinds) <= num_clusters:
        return rng.multinomial(num_clusters, counts / num_clusters, size=num_samples) @ kinds
    chunk = max(1, 400_000 // num_clusters)  # the weights of a chunk stay in the processor's cache
    sums = np.empty((num_samples, totals.shape[1]))
    for start in range(0, num_samples, chunk):
        draws = rng.integers(num_clusters, size=(min(chunk, num_samples - start), num_clusters), dtype=np.uint32)
        weights = np.stack([np.bincount(row, minlength=num_clusters) for row in draws]).astype(np.float64)
        sums[start : start + chunk] = weights @ totals
    return sums


def _percentiles(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}, it must lie between 0 and 1, such as 0.95")
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def _bootstrap_p_value(
    difference: float,
    differences: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    codes: np.ndarray,
    subsets: Sequence[str] | None,
) -> float:
    """Two-sided p-value of a difference from its bootstrap samples; see `compare_models`."""
    differences = differences[np.isfinite(differences)]
    beyond = int(min(np.sum(differences <= 0), np.sum(differences >= 0)))
    p_value = min(1.0, 2 * (1 + beyond) / (len(differences) + 1))
    if beyond < 10 and (error := float(np.std(differences))) > 0:
        p_value = min(p_value, 2 * float(ndtr(-abs(difference) / error)))
    subset_codes = 0 if subsets is None else label_codes(subsets, len(a), "subsets")[0]
    cells = codes + (codes.max() + 1) * subset_codes
    unequal = np.bincount(cells, weights=a) != np.bincount(cells, weights=b)
    num_unequal = len(np.unique(np.flatnonzero(unequal) % (codes.max() + 1)))  # clusters, not cluster × subset
    return min(1.0, max(p_value, 2.0 ** (1 - num_unequal)))


def _same_items(values_a: ArrayLike, values_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = finite_array(values_a, "values_a"), finite_array(values_b, "values_b")
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} values of model a and {len(b)} of model b, both need the same items in one order")
    return a, b


def _is_binary(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())


def _two_sided_z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}, it must lie between 0 and 1, such as 0.95")
    return float(ndtri((1 + confidence) / 2))
