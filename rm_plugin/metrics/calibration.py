"""Is σ(Δ) a probability? Margins Δ = r(x, chosen) − r(x, rejected) of n pairs, where P(chosen ≻ rejected) = σ(Δ):

    NLL = mean(−log σ(Δ))      Brier = mean((1 − σ(Δ))²)      ECE: distance of accuracy from confidence σ(|Δ|)

A tie (Δ = 0 exactly) is an outcome of ½. Inputs and results are as in `preference`.

    >>> round(negative_log_likelihood([0.0]), 6), brier_score([0.0])
    (0.693147, 0.25)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from .preference import independent_accuracy, pairwise_correctness
from .statistics import finite_array, label_codes

# A fitted temperature lies between these multiples of the root mean square margin. Without a wrong pair (or without
# more right than wrong ones) the likelihood has no optimum; the bound keeps every number finite.
TEMPERATURE_BOUNDS = (1e-3, 1e3)


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
    return float(np.mean(np.logaddexp(0, -finite_array(margins, "margins"))))


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
    return float(np.mean(expit(-finite_array(margins, "margins")) ** 2))


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
    margins = finite_array(margins, "margins")
    confidence = expit(np.abs(margins))
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


def accuracy_by_coverage(margins: ArrayLike, num_points: int = 10) -> list[dict[str, Any]]:
    """
    Accuracy of the pairs that the model is surest of: what is gained where the others are left to people.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. A tie counts ½.
        num_points (`int`, *optional*, defaults to `10`):
            Number of thresholds on |Δ|, cut at its quantiles; fewer come out where many are equal.

    Returns:
        `list[dict]`, from few pairs to all: `threshold` (pairs with |Δ| at or above it), `coverage` (their share),
        `accuracy`, `interval` (95 % Wilson, for independent pairs) and `num_pairs`.

    Source: El-Yaniv & Wiener 2010 (the risk-coverage curve).

    Example:
    ```python
    >>> [(point["coverage"], point["accuracy"]) for point in accuracy_by_coverage([3.0, 2.0, -1.0, 0.5], 2)]
    [(0.5, 1.0), (1.0, 0.75)]

    ```
    """
    sizes, correct = np.abs(finite_array(margins, "margins")), pairwise_correctness(margins)
    table = []
    for threshold in np.unique(np.quantile(sizes, np.arange(num_points) / num_points, method="higher"))[::-1]:
        kept = correct[sizes >= threshold]
        point = {"threshold": float(threshold), "coverage": len(kept) / len(sizes)}
        table.append(point | independent_accuracy(kept))
    return table


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
    margins = finite_array(margins, "margins")
    scale = float(np.sqrt(np.mean(margins**2)))
    if scale == 0:
        return 1.0
    scaled = margins / scale

    def slope(log_temperature: float) -> float:  # sign of d NLL / d(1/T) at T = e^log_temperature
        return -float(np.mean(scaled * expit(-scaled * math.exp(-log_temperature))))

    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    if slope(low) <= 0:  # the likelihood still grows as T → 0
        return TEMPERATURE_BOUNDS[0] * scale
    if slope(high) >= 0:  # and here as T → ∞
        return TEMPERATURE_BOUNDS[1] * scale
    from scipy.optimize import brentq

    return math.exp(brentq(slope, low, high, xtol=1e-10)) * scale


def calibration(margins: ArrayLike, num_bins: int = 10) -> dict[str, Any]:
    """
    All metrics of whether σ(Δ) is a probability: how a reward difference of 1, 2 or 5 should be read.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. A tie is an outcome of ½.
        num_bins (`int`, *optional*, defaults to `10`):
            Number of bins of the reliability curve.

    Returns:
        `dict`: `nll`, `brier`, `ece`, `temperature` (see the function of each), `temperature_note` and `reliability`
        (the curve). A temperature at the search bound is `None`, and the note says why: `"no signal"` where the mean
        margin is not positive, so that no temperature helps, or `"no pair is wrong"`.

    Example:
    ```python
    >>> list(calibration([1.0, -1.0, 3.0]))
    ['nll', 'brier', 'ece', 'temperature', 'temperature_note', 'reliability']

    ```
    """
    margins = finite_array(margins, "margins")
    temperature = fit_temperature(margins)
    low, high = (bound * float(np.sqrt(np.mean(margins**2))) for bound in TEMPERATURE_BOUNDS)
    note = "no signal" if temperature >= high else "no pair is wrong" if temperature <= low else None
    return {
        "nll": negative_log_likelihood(margins),
        "brier": brier_score(margins),
        "ece": expected_calibration_error(margins, num_bins),
        "temperature": None if note else temperature,
        "temperature_note": note,
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
        `dict`: `temperatures` (one per fold), and `nll`, `brier`, `ece` of the rescaled margins over all pairs.

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
    margins = finite_array(margins, "margins")
    codes = np.arange(len(margins)) if clusters is None else label_codes(clusters, len(margins), "clusters")[0]
    num_clusters = int(codes.max()) + 1
    num_folds = min(num_folds, num_clusters)
    if num_folds < 2:
        raise ValueError(f"{num_folds} fold of {num_clusters} clusters, cross-fitting needs at least 2 of each")
    folds = np.random.default_rng(seed).permutation(num_clusters)[codes] % num_folds
    temperatures = [fit_temperature(margins[folds != fold]) for fold in range(num_folds)]
    rescaled = margins / np.asarray(temperatures)[folds]
    found = calibration(rescaled)
    return {"temperatures": temperatures, **{name: found[name] for name in ("nll", "brier", "ece")}}
