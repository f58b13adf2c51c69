"""What a score is worth: intervals, comparisons of models, and the smallest difference that could have been seen.

Everything here takes one value per item (1, ½ or 0 for a pair ranked right, tied or wrong; a margin; the credit of a
comparison) and the cluster that each item belongs to. Items of one prompt are not independent, so the bootstrap draws
whole clusters with replacement. A score that is no plain mean is a function of subset means:

    estimate = formula({subset: mean of its items})       each resample: the same, on the clusters that were drawn

Clusters are drawn once for all models and metrics (`Bootstrap`); every interval and p-value is read from those draws
by one rule (`Estimate`). Results are deterministic for a seed.

Shapes: `n` items, `C` clusters, `M` models, `G` subsets, `S` bootstrap samples, `R` of them at a time.

    >>> score = Bootstrap([1.0, 0.0, 1.0, 1.0] * 25).estimate()
    >>> score.value, [round(bound, 2) for bound in score.interval()]
    (0.75, [0.66, 0.83])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, ndtr, ndtri, stdtr, stdtrit

from ..messages import check_at_least

MIN_CLUSTERS = 5  # with fewer, no interval is claimed
MANY_CLUSTERS, FEWER_SAMPLES = 20_000, 2_000  # above so many clusters, so many samples at most
ALPHA, POWER = 0.05, 0.8  # of the difference that is called detectable
TAIL_SAMPLES = 10  # further out than the tenth sample the tail is that of a normal distribution
# Up to so many clusters each is drawn by itself. So the draws depend on nothing but the seed, and two models have one
# p-value, whichever others they are compared with.
DRAWN_SINGLY = 5_000
DRAWS_IN_CACHE = 400_000


# --- inputs, shared with the other metrics


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


class Bootstrap:
    """
    One draw of clusters with replacement, `num_samples` times, from which every interval and comparison is read.

    Each cluster is drawn with all its items, so the number of items varies between resamples; a resample that leaves
    a subset empty says nothing of it.

    Args:
        values (array of shape `(n,)` or `(M, n)`):
            One value per item, of one model or of several on the same items in the same order, such as
            `preference.pairwise_correctness(margins)`, where a tie counts ½.
        metrics (`Callable`, *optional*):
            Metrics besides the mean of each subset: a function from a dict of subset means, arrays (R, M), to a dict
            of arrays (R, M). It is called on the data and on each chunk of resamples, and must work elementwise.
        clusters (sequence of length n or `None`, *optional*):
            Prompt of each item. `None`: every item is its own cluster.
        subsets (sequence of length n or `None`, *optional*):
            Subset of each item. `None`: all are in the subset `""`.
        num_samples (`int`, *optional*, defaults to `10_000`):
            Number of bootstrap samples; at most 2,000 with more than 20,000 clusters.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Raises:
        `ValueError`: If there are no values, one is not finite, lengths differ, there are no samples, or `metrics`
            does not work elementwise.

    Source: Efron 1979; whole clusters: Davison & Hinkley 1997; for evaluations: Miller 2024 (arXiv 2411.00640).

    Example:
    ```python
    >>> scores = Bootstrap([[1, 1, 0, 1] * 9, [0, 1, 0, 1] * 9])
    >>> scores.estimate(model=1).value, scores.compare()["difference"]
    (0.5, 0.25)
    >>> subsets = ["chat", "chat", "code", "code"]
    >>> draw = Bootstrap([1, 1, 0, 1], lambda m: {"macro": (m["chat"] + m["code"]) / 2}, subsets=subsets)
    >>> draw.estimate("macro").value
    0.75

    ```
    """

    def __init__(
        self,
        values: ArrayLike,
        metrics: Callable[[dict[Hashable, np.ndarray]], Mapping[Hashable, Any]] = dict,
        *,
        clusters: Sequence[Hashable] | None = None,
        subsets: Sequence[Hashable] | None = None,
        num_samples: int = 10_000,
        seed: int = 0,
    ):
        check_at_least(1, num_samples=num_samples)
        self.values_Mn = np.atleast_2d(np.asarray(values, dtype=np.float64))
        finite_array(self.values_Mn.ravel(), "values")
        num_items = self.values_Mn.shape[1]
        self.clusters_n, self.subsets_n, self.subsets = np.arange(num_items), np.zeros(num_items, int), [""]
        if clusters is not None:
            self.clusters_n = label_codes(clusters, num_items, "clusters")[0]
        if subsets is not None:
            self.subsets_n, self.subsets = label_codes(subsets, num_items, "subsets")
        num_clusters = int(self.clusters_n.max()) + 1
        self.num_samples = min(num_samples, FEWER_SAMPLES) if num_clusters > MANY_CLUSTERS else num_samples
        totals = self._cluster_totals(num_clusters)
        sums = [totals.sum(axis=0, keepdims=True), *_resampled_sums(totals, self.num_samples, seed)]
        means = [self._means(one) for one in sums]
        parts = [self._named(metrics, one) for one in means]
        self.samples = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        # A metric depends on the subsets whose means move it.
        shifts = np.vstack([np.zeros(len(self.subsets)), 0.5 * np.eye(len(self.subsets))])
        moved = self._named(metrics, means[0] - shifts[:, None, :])
        self.depends = {name: np.flatnonzero((one[1:] != one[0]).any(axis=1)) for name, one in moved.items()}

    @classmethod
    def over(
        cls, columns: Mapping[Hashable, tuple[Sequence[float], Sequence[Hashable]]], *metrics, **options
    ) -> Bootstrap:
        """One draw for several columns of values with their clusters: each is a subset, by its name."""
        values, clusters = zip(*columns.values(), strict=True)
        subsets = [name for name, (column, _) in columns.items() for _ in column]
        return cls(np.concatenate(values), *metrics, clusters=[*chain(*clusters)], subsets=subsets, **options)

    def items(self, metric: Hashable) -> np.ndarray:
        """Which items a metric depends on, (n,) of bool."""
        return np.isin(self.subsets_n, self.depends[metric])

    def estimate(self, metric: Hashable = "", model: int = 0) -> Estimate:
        """A metric of one model: the mean of the subset of that name, or one of `metrics`."""
        return Estimate(self.samples[metric][:, model], len(np.unique(self.clusters_n[self.items(metric)])))

    def summary(self, name: str, metric: Hashable, is_share: bool = True) -> dict[str, Any]:
        """`NAME` and `NAME_interval` of a share or correlation, as reports have them; `None` where it is not there."""
        if metric not in self.samples:
            return {name: None, f"{name}_interval": None}
        one = self.estimate(metric)
        interval = one.share_interval() if is_share else one.interval(least=-1.0, most=1.0)
        return {name: one.value, f"{name}_interval": interval}

    def compare(self, metric: Hashable = "", a: int = 0, b: int = 1) -> dict[str, Any]:
        """
        Is the difference between two models in a metric real? Difference a − b with interval and p-value.

        Where the metric is the mean of values 0 or 1, each its own cluster, the p-value is exact McNemar's; else it is
        that of [`Estimate`], but never below 2^(1 − D), the least that a sign test can show with D clusters on which
        the two models differ. Where it is 0.05 or more, the interval includes zero.

        Returns:
            `dict`: `difference`, `low`, `high` (95 %; `None` with fewer than five clusters), `p_value`, `method`
            (`"mcnemar"` or `"paired bootstrap"`), `detectable` (of [`Estimate`]; `None` where shares cannot differ so
            much), `a_better` and `b_better` (items on which one model has the higher value), `num_items`,
            `num_clusters`.

        Source: McNemar 1947; Efron & Tibshirani 1993, chapter 13; Hesterberg 2015; Miller 2024 (arXiv 2411.00640).

        Example:
        ```python
        >>> result = Bootstrap([[1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).compare()
        >>> result["method"], result["p_value"], result["a_better"], result["b_better"]
        ('mcnemar', 0.0625, 5, 0)

        ```
        """
        items = self.items(metric)
        values_a, values_b, clusters = self.values_Mn[a, items], self.values_Mn[b, items], self.clusters_n[items]
        differences = self.samples[metric][:, a] - self.samples[metric][:, b]
        differences = np.where(np.abs(differences) < 1e-12, 0.0, differences)  # they differ by the order of a sum only
        difference = Estimate(differences, len(np.unique(clusters)))
        means = [self.samples[self.subsets[g]] for g in self.depends[metric]]
        is_mean = len(means) == 1 and np.array_equal(means[0], self.samples[metric], equal_nan=True)
        if is_mean and difference.num_clusters == len(clusters) and _is_binary(values_a, values_b):
            method, p_value = "mcnemar", mcnemar_exact(values_a, values_b)
        else:
            method = "paired bootstrap"
            cells = clusters * len(self.subsets) + self.subsets_n[items]
            gaps = np.bincount(cells, weights=values_a - values_b)
            num_unequal = len(np.unique(np.flatnonzero(np.abs(gaps) > 1e-12) // len(self.subsets)))
            p_value = min(1.0, max(difference.p_value(), 2.0 ** (1 - num_unequal)))
        most = 1.0 if self.values_Mn.min() >= 0 and self.values_Mn.max() <= 1 else math.inf  # of shares
        (low, high), detectable = difference.interval(least=-most, most=most), difference.detectable
        if low is not None and p_value >= ALPHA:  # the exact test and few unequal clusters may know better
            low, high = min(low, 0.0), max(high, 0.0)
        return {
            "difference": difference.value,
            "low": low,
            "high": high,
            "p_value": p_value,
            "method": method,
            "detectable": detectable if detectable and detectable <= most else None,
            "a_better": int(np.sum(values_a > values_b)),
            "b_better": int(np.sum(values_b > values_a)),
            "num_items": len(clusters),
            "num_clusters": difference.num_clusters,
        }

    def _cluster_totals(self, num_clusters: int) -> np.ndarray:
        """(C, (M + 1)·G): for each cluster, the sum of its values by model and subset; last, its number of items."""
        cells = self.clusters_n * len(self.subsets) + self.subsets_n
        weights = [*self.values_Mn, np.ones(len(cells))]
        columns = [np.bincount(cells, column, num_clusters * len(self.subsets)) for column in weights]
        return np.concatenate([column.reshape(num_clusters, -1) for column in columns], axis=1)

    def _means(self, sums: np.ndarray) -> np.ndarray:
        """(R, M, G): means by model and subset; NaN where a resample has nothing of a subset."""
        sums = sums.reshape(len(sums), -1, len(self.subsets))
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[:, :-1] / sums[:, -1:]

    def _named(self, metrics: Callable, means: np.ndarray) -> dict[Hashable, np.ndarray]:
        """Means by subset and the metrics made of them, each (R, M)."""
        found = {subset: means[..., g] for g, subset in enumerate(self.subsets)}
        for name, values in metrics(dict(found)).items():
            if np.shape(values) != means.shape[:2] and not np.isnan(values).all():  # one NaN: nothing there
                raise ValueError(
                    f"metrics made shape {np.shape(values)} of arrays of shape {means.shape[:2]}, it must work "
                    "elementwise; use arithmetic and numpy functions without axis"
                )
            found[name] = np.broadcast_to(values, means.shape[:2])
        return found


def _resampled_sums(totals: np.ndarray, num_samples: int, seed: int) -> Iterator[np.ndarray]:
    """(R, K) at a time, S in all: sums of `totals` (C, K) over C clusters drawn with replacement."""
    rng = np.random.default_rng(seed)
    num_clusters, sizes = len(totals), None
    if num_clusters > DRAWN_SINGLY:
        # Clusters of equal totals are interchangeable: draw how many of each kind instead. The distribution is the
        # same, and of right or wrong items there are a few kinds only.
        codes, kinds = label_codes([row.tobytes() for row in totals], num_clusters, "totals")
        if 20 * len(kinds) <= num_clusters:
            totals, sizes = totals[np.unique(codes, return_index=True)[1]], np.bincount(codes)
    chunk = max(1, DRAWS_IN_CACHE // len(totals))
    for start in range(0, num_samples, chunk):
        rows = min(chunk, num_samples - start)
        if sizes is not None:
            weights = rng.multinomial(num_clusters, sizes / num_clusters, size=rows)
        else:
            draws = rng.integers(num_clusters, size=(rows, num_clusters), dtype=np.uint32)
            draws = draws + num_clusters * np.arange(rows)[:, None]
            weights = np.bincount(draws.ravel(), minlength=rows * num_clusters).reshape(rows, num_clusters)
        yield weights.astype(np.float64) @ totals


@dataclass
class Estimate:
    """
    A metric on the data and on every bootstrap resample; interval and test come from one rule.

    The interval is expanded percentiles: with C clusters its ends are the quantiles of the resamples at
    Φ(∓√(C/(C − 1))·t), where t is Student's quantile at C − 1 degrees of freedom; plain percentiles are too narrow
    where clusters are few. Beyond the tenth smallest and largest resample the tail is that of a normal distribution
    with the resamples' standard deviation. The p-value is 1 minus the confidence whose interval just reaches zero.

    Args:
        samples (array of shape `(S + 1,)`): the metric on the data, then on each resample; NaN where it has none.
        num_clusters (`int`): number of clusters C that it depends on.

    Source: Efron 1979; Hesterberg 2015 (arXiv 1411.5279), section 5 (expanded percentiles).
    """

    samples: np.ndarray
    num_clusters: int

    @property
    def value(self) -> float:
        """The metric on the data."""
        return float(self.samples[0])

    @property
    def standard_error(self) -> float | None:
        """Standard deviation of the resamples; `None` where no interval is claimed."""
        return float(np.std(self._draws())) if self._is_known() else None

    @property
    def detectable(self) -> float | None:
        """
        The smallest true difference that would be found significant at 5 % with 80 % power, where this is a difference
        of two models on the same items; of one model, √2 times this between two on different items. `None` where no
        interval is claimed or nothing says how far the items spread.

        z · standard error, z = z(0.975) + z(0.8) = 2.802, with Student's quantiles and expanded as the interval is for
        few clusters. The standard error is the bootstrap's, so that it holds for whatever is measured: items of any
        kind, clusters, aggregates.

        Source: normal approximation, as in Miller 2024 (arXiv 2411.00640); Student's t for few clusters.
        """
        if not self.standard_error:
            return None
        z = float(stdtrit(self.num_clusters - 1, 1 - ALPHA / 2) + stdtrit(self.num_clusters - 1, POWER))
        return _expansion(self.num_clusters) * z * self.standard_error

    def interval(
        self, confidence: float = 0.95, *, least: float = -math.inf, most: float = math.inf
    ) -> list[float | None]:
        """`[low, high]`, between the least and the most that the metric can be; `[None, None]` below five clusters."""
        if not 0 < confidence < 1:
            raise ValueError(f"confidence={confidence}, it must lie between 0 and 1, such as 0.95")
        if not self._is_known():
            return [None, None]
        z = _expansion(self.num_clusters) * float(stdtrit(self.num_clusters - 1, (1 + confidence) / 2))
        tail = float(ndtr(-min(z, self._reach())))
        low, high = np.quantile(self._draws(), [tail, 1 - tail]).tolist()
        if z > self._reach():
            low, high = min(low, self.value - z * self.standard_error), max(high, self.value + z * self.standard_error)
        return [max(low, min(least, self.value)), min(high, max(most, self.value))]

    def share_interval(self) -> list[float | None]:
        """The interval of a share; Wilson's over clusters where all items are equal and this one has no width."""
        low, high = self.interval(least=0.0, most=1.0)
        if low is not None and low == high and 0 <= self.value <= 1:
            return list(wilson_interval(self.value * self.num_clusters, self.num_clusters))
        return [low, high]

    def p_value(self) -> float:
        """Two-sided p-value that the metric is zero in truth; 1 with fewer than two clusters."""
        draws = self._draws()
        beyond = int(min(np.sum(draws <= 0), np.sum(draws >= 0)))
        if self.num_clusters < 2 or not len(draws) or 2 * beyond >= len(draws):
            return 1.0
        z = -float(ndtri(beyond / len(draws))) if beyond >= TAIL_SAMPLES else self._reach()
        if beyond < TAIL_SAMPLES:
            error = float(np.std(draws))
            z = max(z, abs(self.value) / error if error else math.inf)
        return 2 * float(stdtr(self.num_clusters - 1, -z / _expansion(self.num_clusters)))

    def _draws(self) -> np.ndarray:
        return self.samples[1:][np.isfinite(self.samples[1:])]

    def _is_known(self) -> bool:
        return self.num_clusters >= MIN_CLUSTERS and bool(np.isfinite(self.samples[1:]).any())

    def _reach(self) -> float:
        """How many standard deviations out there are still resamples to read a quantile from."""
        return -float(ndtri(min(0.5, TAIL_SAMPLES / len(self._draws()))))


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
    z = float(ndtri((1 + confidence) / 2))
    p = float(successes) / num_items
    shrink = 1 + z**2 / num_items
    center = (p + z**2 / (2 * num_items)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / num_items + z**2 / (4 * num_items**2))
    return max(0.0, center - half), min(1.0, center + half)


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
        `float`: 2·P(X ≤ min(b, c)) for X ~ Binomial(b + c, ½), at most 1; 1 where the two are right on the same items.

    Raises:
        `ValueError`: If a value is neither 0 nor 1, or the lengths differ.

    Source: McNemar 1947; the exact conditional test of Fagerland, Lydersen & Laake 2013.

    Example:
    ```python
    >>> mcnemar_exact([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])  # 2 · (1/2)⁵
    0.0625

    ```
    """
    a, b = finite_array(correct_a, "correct_a"), finite_array(correct_b, "correct_b")
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} values of model a and {len(b)} of model b, both need the same items in one order")
    if not _is_binary(a, b):
        raise ValueError(
            "McNemar's test is for values 0 and 1 only; use Bootstrap.compare, or `margins > 0` for strict"
        )
    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if only_a + only_b else 1.0


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
    p_values = finite_array(p_values, "p_values", allow_empty=True)
    if np.any((p_values < 0) | (p_values > 1)):
        raise ValueError(f"p_values lie between {p_values.min()} and {p_values.max()}, each must be in [0, 1]")
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)))
    return adjusted.tolist()


# --- many models


def significance_tiers(draw: Bootstrap, models: Sequence[str], metric: Hashable = "") -> dict[str, Any]:
    """
    Models in the order of their score, cut into tiers whose leaders differ significantly.

    All pairs of models are compared on the same items as [`Bootstrap.compare`] does it, and the M·(M − 1)/2 p-values
    are corrected by Holm. Then, from the best model down: the first leads tier 1; a model joins the present tier,
    unless it differs from that tier's leader at 5 %; the first that does leads the next tier. So no model of a tier
    differs significantly from its leader (they may still differ from each other), and a model's tier can depend on
    which others are there.

    Args:
        draw ([`Bootstrap`]):
            The values of the models.
        models (sequence of `str` of length M):
            Their names.
        metric (*optional*):
            As in `Bootstrap.estimate`; by default the mean of all items.

    Returns:
        `dict`: `models`, a list from the best to the worst of dicts of `model`, `estimate`, `tier`; and `comparisons`,
        a list of dicts of `a`, `b` (a ranks above b), `p_holm` and what `Bootstrap.compare` returns.

    Source: Holm 1979; the greedy cut is this project's.

    Example:
    ```python
    >>> good, fair, poor = [1] * 90 + [0] * 10, [1] * 87 + [0] * 13, [1] * 50 + [0] * 50
    >>> tiers = significance_tiers(Bootstrap([poor, good, fair]), ["poor", "good", "fair"])
    >>> [(row["model"], row["tier"]) for row in tiers["models"]]
    [('good', 1), ('fair', 1), ('poor', 2)]

    ```
    """
    estimates = draw.samples[metric][0]
    order = np.argsort(-estimates, kind="stable").tolist()
    pairs = list(combinations(order, 2))
    results = [draw.compare(metric, i, j) for i, j in pairs]
    p_holm = dict(zip(pairs, holm_correction([result["p_value"] for result in results]), strict=True))
    leader, tier, rows = order[0], 1, []
    for index in order:
        if index != leader and p_holm[leader, index] < ALPHA:
            leader, tier = index, tier + 1
        rows.append({"model": models[index], "estimate": float(estimates[index]), "tier": tier})
    comparisons = [
        {"a": models[i], "b": models[j], **result, "p_holm": p_holm[i, j]}
        for (i, j), result in zip(pairs, results, strict=True)
    ]
    return {"models": rows, "comparisons": comparisons}


# --- helpers


def _is_binary(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())


def _expansion(num_clusters: int) -> float:
    """By how much the bootstrap's standard error is too small."""
    return math.sqrt(num_clusters / (num_clusters - 1))
