"""Scores of a benchmark's completions ► every figure of the report. No model, no files, no clock: equal in, equal out.

    results = measure(load_benchmark("llmbar", source), scores)   # scores: one array (K,) a comparison, NaN = unscored
    results.metrics["official"]["score"], results.metrics["official"]["interval"]

A comparison with an unscored completion counts as wrong, in the official score and in the pairwise accuracy; margins,
calibration and length figures are over the scored pairs, and the counts say how many were not. A pair is two
completions of one comparison with different ranks; its margin is Δ = r(better) − r(worse).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.comparison import Comparison, text_length
from ..metrics.preference import (
    accuracy_by_length_difference,
    best_of_n_curve,
    calibration,
    cross_fitted_calibration,
    kendall_tau_b,
    length_bias,
    margin_distribution,
    pairwise_correctness,
)
from ..metrics.statistics import bootstrap_interval, compare_models, minimum_detectable_difference, wilson_interval
from .benchmarks import Benchmark, LoadedBenchmark
from .benchmarks.base import Items, cluster_of, mark_unscored

NUM_MISTAKES = 10
BASELINES = ("random", "length", "constant")
LENGTH_UNIT = "characters"  # so that every figure can be recomputed without a tokenizer
CONFIDENCE = 0.95


@dataclass
class Results:
    """
    What an evaluation measured.

    Args:
        counts (`dict`): rows, comparisons, completions, pairs, and what was left out or not scored.
        metrics (`dict`): the figures of the model; `json.dumps` takes it.
        baselines (`dict`): official score, pairwise accuracy and difference from the model, of each of `BASELINES`.
        mistakes (`list[dict]`): the pairs ranked wrong with the largest margins: id, better, worse, margin.
        margins (`np.ndarray`): (number of scored pairs,) float64.
        items (`dict`): groups, clusters and credits of the official score, of the model and the baselines.
    """

    counts: dict[str, int]
    metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    mistakes: list[dict[str, Any]]
    margins: np.ndarray
    items: dict[str, Any]


def measure(
    data: LoadedBenchmark, scores: Sequence[np.ndarray], *, num_samples: int = 10_000, seed: int = 0
) -> Results:
    """
    Every figure of the report.

    Args:
        data ([`LoadedBenchmark`]): the comparisons.
        scores (`Sequence[np.ndarray]`): for each comparison the rewards of its completions (K,), NaN = unscored.
        num_samples (`int`, *optional*, defaults to `10_000`): bootstrap samples.
        seed (`int`, *optional*, defaults to `0`): seed of bootstrap, folds and random baseline.

    Returns:
        [`Results`]

    Raises:
        ValueError: if the scores do not fit the comparisons, or one is infinite.

    Example:
    ```python
    >>> from rm_plugin.evaluation.benchmarks import load_benchmark
    >>> rows = [{"prompt": f"{n} + 1 =", "chosen": f"{n + 1}", "rejected": f"{n}"} for n in range(20)]
    >>> results = measure(load_benchmark("preference", rows), [[1.0, 0.0]] * 15 + [[0.0, 1.0]] * 5)
    >>> results.metrics["official"]["score"], results.metrics["pairwise"]["accuracy"]
    (0.75, 0.75)

    ```
    """
    if len(scores) != len(data.comparisons):
        raise ValueError(
            f"{len(scores)} arrays of scores for {len(data.comparisons)} comparisons; give one a comparison"
        )
    scored = mark_unscored(list(zip(data.comparisons, scores, strict=True)))
    if any(np.isinf(values).any() for _, values in scored):
        raise ValueError("a score is infinite; scores are finite, or NaN where a text was not scored")
    benchmark, options = data.benchmark, {"num_samples": num_samples, "seed": seed}
    items = benchmark.score_items(scored)
    pairs = _Pairs.of(scored)

    metrics = {
        "official": _official(benchmark, scored, items, options),
        "pairwise": pairs.accuracy(options),
        "subsets": pairs.by_subset(options),
        "margins": margin_distribution(pairs.scored_margins) if len(pairs.scored_margins) else None,
        "calibration": _calibration(pairs, seed),
        "length": _length(pairs),
        "ranking": _ranking(scored, options),
        "best_of_n": _best_of_n(benchmark, scored, options),
        "bootstrap": {"confidence": CONFIDENCE, **options},
    }
    baselines, credits = {}, {"model": items.credits.tolist()}
    for name in BASELINES:
        baselines[name], values = _baseline(name, benchmark, data.comparisons, items, options)
        credits[name] = values.tolist()
    num_completions = sum(len(values) for _, values in scored)
    counts = {
        "num_rows": data.num_rows,
        "num_comparisons": len(scored),
        "num_completions": num_completions,
        "num_pairs": len(pairs.margins),
        "num_no_preference": len(data.no_preference),
        "num_bad_rows": len(data.bad_rows),
        "num_unscored_completions": int(sum(np.isnan(np.asarray(values, float)).sum() for values in scores)),
        "num_unscored_comparisons": sum(bool(np.isnan(values).any()) for _, values in scored),
    }
    saved = {"groups": items.groups, "clusters": items.clusters, "credits": credits}
    return Results(counts, metrics, baselines, _mistakes(scored, pairs), pairs.scored_margins, saved)


def official_arguments(benchmark: Benchmark, groups: Sequence[str], clusters: Sequence[str]) -> tuple[Any, dict]:
    """
    How `statistics` takes the official score: which items (indices), and the arguments beside their values.

    Where the score is the plain mean of the group `all`, those items alone, so that McNemar's test can be exact.
    """
    groups, clusters = list(groups), list(clusters)
    if benchmark.plain_mean:
        keep = [i for i, group in enumerate(groups) if group == "all"]
        return keep, {"clusters": [clusters[i] for i in keep]}
    return slice(None), {"clusters": clusters, "subsets": groups, "aggregate": benchmark.score}


# --- baselines


def baseline_scores(name: str, comparisons: Sequence[Comparison], seed: int = 0) -> list[np.ndarray]:
    """
    Scores that cost nothing: `"random"`, `"length"` (characters of the completion) or `"constant"`.

    The length baseline is what a judge gets who reads nothing, the constant one shows what ties are worth.
    """
    if name == "random":
        rng = np.random.default_rng(seed)
        return [rng.random(len(comparison.completions)) for comparison in comparisons]
    if name == "length":
        return [
            np.array([text_length(text) for text in comparison.completions], dtype=np.float64)
            for comparison in comparisons
        ]
    if name == "constant":
        return [np.zeros(len(comparison.completions)) for comparison in comparisons]
    raise ValueError(f"unknown baseline {name!r}; known: {', '.join(BASELINES)}")


def _baseline(
    name: str, benchmark: Benchmark, comparisons: Sequence[Comparison], model: Items, options: dict[str, int]
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of a baseline, and its credits; those of `random` are means over draws, to be near what is expected."""
    num_draws = min(64, max(1, 10_000 // len(comparisons))) if name == "random" else 1
    draws = []
    for draw in range(num_draws):
        scores = baseline_scores(name, comparisons, options["seed"] + draw)
        scored = list(zip(comparisons, scores, strict=True))
        draws.append((benchmark.score_items(scored).credits, _pairwise_accuracy(scored)))
    credits, accuracies = (np.mean(values, axis=0) for values in zip(*draws, strict=True))
    keep, arguments = official_arguments(benchmark, model.groups, model.clusters)
    interval = bootstrap_interval(credits[keep], **arguments, **options)
    difference = compare_models(model.credits[keep], credits[keep], **arguments, **options)
    return {
        "score": interval["estimate"],
        "interval": [interval["low"], interval["high"]],
        "pairwise_accuracy": float(accuracies),
        "model_minus_baseline": {key: difference[key] for key in ("difference", "low", "high", "p_value", "method")},
    }, credits


def _pairwise_accuracy(scored: Sequence[tuple[Comparison, np.ndarray]]) -> float:
    return float(np.mean(pairwise_correctness([s[i] - s[j] for c, s in scored for i, j in c.pairs()])))


# --- official score


def _official(benchmark: Benchmark, scored: list, items: Items, options: dict[str, int]) -> dict[str, Any]:
    means = items.means()
    values = {name: float(value) for name, value in benchmark.formula(means).items()}
    score = values.pop("score")
    present = {comparison.subset for comparison, _ in scored}
    keep, arguments = official_arguments(benchmark, items.groups, items.clusters)
    plain = bootstrap_interval(items.credits[keep], **arguments, **options)
    counts, clusters = items.counts(), items.clusters_of_groups()

    def figures(means: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
        sections = {("section", name): value for name, value in benchmark.formula(means).items()}
        return {**sections, **{("group", name): value for name, value in means.items()}}

    intervals = _intervals(items.credits, items.groups, items.clusters, figures, options)
    return {
        "score": score,
        "interval": _widened([plain["low"], plain["high"]], score, plain["num_clusters"]),
        "sections": {
            name: {
                "value": value,
                "interval": _section_interval(intervals["section", name], name, benchmark, means, clusters),
            }
            for name, value in values.items()
            if not np.isnan(value)
        },
        "subsets": {
            name: {
                "accuracy": mean,
                "interval": _widened(intervals["group", name], mean, len(clusters[name])),
                "num_items": counts[name],
            }
            for name, mean in means.items()
        },
        "missing": benchmark.missing(present, means),
        "num_items": plain["num_items"],
        "num_clusters": plain["num_clusters"],
        "minimum_detectable_difference": minimum_detectable_difference(
            plain["num_clusters"], accuracy=min(1.0, max(0.0, score))
        ),
    }


def _intervals(
    values: np.ndarray,
    groups: Sequence[str],
    clusters: Sequence[str],
    figures: Callable[[Mapping[str, Any]], dict],
    options: dict[str, int],
) -> dict[Any, list[float | None]]:
    """
    Intervals of many figures from one set of resamples: the means that `bootstrap_interval` hands to its aggregate
    hold the estimate in row 0 and the resamples below.
    """
    captured: dict[Any, np.ndarray] = {}

    def aggregate(means: Mapping[str, np.ndarray]) -> np.ndarray:
        captured.update(figures(means))
        return next(iter(means.values()))

    interval = bootstrap_interval(values, subsets=groups, clusters=clusters, aggregate=aggregate, **options)
    tail = (1 - CONFIDENCE) / 2
    intervals: dict[Any, list[float | None]] = {}
    for name, samples in captured.items():
        samples = np.ravel(samples)[1:]
        samples = samples[np.isfinite(samples)]
        some = interval["num_clusters"] > 1 and len(samples)
        intervals[name] = np.quantile(samples, [tail, 1 - tail]).tolist() if some else [None, None]
    return intervals


def _section_interval(
    interval: Sequence[float | None],
    section: str,
    benchmark: Benchmark,
    means: Mapping[str, float],
    clusters: Mapping[str, set[str]],
) -> list[float | None]:
    """As [`_widened`], over the clusters of all groups that a section of the official score moves with."""
    if interval[0] is None or interval[0] != interval[1]:  # to find those groups takes a formula each
        return list(interval)
    value = float(benchmark.formula(means)[section])
    behind = [
        group for group, mean in means.items() if benchmark.formula({**means, group: mean - 0.5})[section] != value
    ]
    return _widened(interval, value, len(set().union(*(clusters[group] for group in behind))))


def _widened(interval: Sequence[float | None], estimate: float, num_clusters: int) -> list[float | None]:
    """A bootstrap interval; Wilson's where all items are equal and the bootstrap's has no width."""
    if interval[0] is not None and interval[0] == interval[1] and 0 <= estimate <= 1 and num_clusters:
        return list(wilson_interval(estimate * num_clusters, num_clusters, CONFIDENCE))
    return list(interval)


# --- pairs


@dataclass
class _Pairs:
    """Columns (number of pairs,): comparison, better and worse completion, margin (NaN = unscored), lengths."""

    comparisons: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    margins: np.ndarray
    length_differences: np.ndarray
    subsets: list[str]
    clusters: list[str]

    @classmethod
    def of(cls, scored: Sequence[tuple[Comparison, np.ndarray]]) -> _Pairs:
        rows, subsets, clusters = [], [], []
        for index, (comparison, scores) in enumerate(scored):
            lengths = [text_length(text) for text in comparison.completions]
            cluster = cluster_of(comparison)
            for i, j in comparison.pairs():
                rows.append((index, i, j, scores[i] - scores[j], lengths[i] - lengths[j]))
                subsets.append(comparison.subset or "all")
                clusters.append(cluster)
        if not rows:
            raise ValueError(
                "no comparison has a preference, there is nothing to measure; check the ranks of the data"
            )
        index, better, worse, margins, lengths = np.array(rows, dtype=np.float64).T
        return cls(index.astype(int), better.astype(int), worse.astype(int), margins, lengths, subsets, clusters)

    @property
    def is_scored(self) -> np.ndarray:
        return ~np.isnan(self.margins)

    @property
    def scored_margins(self) -> np.ndarray:
        return self.margins[self.is_scored]

    @property
    def correct(self) -> np.ndarray:
        """1, ½ for a tie, 0; unscored 0."""
        correct = np.zeros(len(self.margins))
        if self.is_scored.any():
            correct[self.is_scored] = pairwise_correctness(self.scored_margins)
        return correct

    def accuracy(self, options: dict[str, int]) -> dict[str, Any]:
        interval = bootstrap_interval(self.correct, clusters=self.clusters, **options)
        widened = _widened([interval["low"], interval["high"]], interval["estimate"], interval["num_clusters"])
        return {**_accuracy(self.margins, self.correct), "interval": widened}

    def by_subset(self, options: dict[str, int]) -> dict[str, dict[str, Any]]:
        if set(self.subsets) == {"all"}:
            return {}
        intervals = _intervals(self.correct, self.subsets, self.clusters, lambda means: dict(means), options)
        clusters = Items(self.correct, self.subsets, self.clusters).clusters_of_groups()
        names = np.array(self.subsets, dtype=object)
        table = {}
        for name in dict.fromkeys(self.subsets):
            inside = names == name
            figures = _accuracy(self.margins[inside], self.correct[inside])
            margins = self.margins[inside & self.is_scored]
            table[name] = {
                **figures,
                "interval": _widened(intervals[name], figures["accuracy"], len(clusters[name])),
                "mean_margin": float(margins.mean()) if len(margins) else None,
            }
        return table


def _accuracy(margins: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    return {
        "accuracy": float(correct.mean()),
        "accuracy_strict": float(np.mean(margins > 0)),
        "tie_rate": float(np.mean(margins == 0)),
        "num_pairs": len(margins),
        "num_unscored_pairs": int(np.isnan(margins).sum()),
    }


def _calibration(pairs: _Pairs, seed: int) -> dict[str, Any] | None:
    margins = pairs.scored_margins
    if not len(margins):
        return None
    clusters = [cluster for cluster, is_scored in zip(pairs.clusters, pairs.is_scored, strict=True) if is_scored]
    fitted = cross_fitted_calibration(margins, clusters, seed=seed) if len(set(clusters)) > 1 else None
    return {**calibration(margins), "cross_fitted": fitted}


def _length(pairs: _Pairs) -> dict[str, Any] | None:
    margins, lengths = pairs.scored_margins, pairs.length_differences[pairs.is_scored]
    if not len(margins):
        return None
    return {
        "unit": LENGTH_UNIT,
        **length_bias(margins, lengths),
        "by_difference": accuracy_by_length_difference(margins, lengths),
    }


def _mistakes(scored: Sequence[tuple[Comparison, np.ndarray]], pairs: _Pairs) -> list[dict[str, Any]]:
    """The worst pair of each comparison, the largest margins first."""
    mistakes: dict[int, dict[str, Any]] = {}
    for pair in np.argsort(pairs.margins, kind="stable"):  # NaN last
        index = int(pairs.comparisons[pair])
        if not pairs.margins[pair] < 0 or len(mistakes) == NUM_MISTAKES:
            break
        if index not in mistakes:
            better, worse = int(pairs.better[pair]), int(pairs.worse[pair])
            mistakes[index] = {
                "id": scored[index][0].id,
                "subset": scored[index][0].subset,
                "better": better,
                "worse": worse,
                "score_better": float(scored[index][1][better]),
                "score_worse": float(scored[index][1][worse]),
                "margin": float(pairs.margins[pair]),
            }
    return list(mistakes.values())


# --- lists


def _ranking(scored: Sequence[tuple[Comparison, np.ndarray]], options: dict[str, int]) -> dict[str, Any] | None:
    """Mean Kendall τ_b over the comparisons with three ranks or more."""
    lists = [(c, scores) for c, scores in scored if c.ranks is not None and len(set(c.ranks)) > 2]
    complete = [(c, scores) for c, scores in lists if not np.isnan(scores).any()]
    taus = [(cluster_of(c), kendall_tau_b(scores, c.ranks)) for c, scores in complete]
    defined = [(cluster, tau) for cluster, tau in taus if tau is not None]
    if not defined:
        return None
    clusters, values = zip(*defined, strict=True)
    interval = bootstrap_interval(values, clusters=clusters, **options)
    return {
        "kendall_tau_b": interval["estimate"],
        "interval": [interval["low"], interval["high"]],
        "num_comparisons": len(values),
        "num_left_out": len(lists) - len(values),
    }


def _best_of_n(
    benchmark: Benchmark, scored: Sequence[tuple[Comparison, np.ndarray]], options: dict[str, int]
) -> dict[str, Any] | None:
    """The curve, for benchmarks whose completions are independent samples of one policy (PPE's best-of-k sets)."""
    if not benchmark.best_of_k:
        return None
    complete = [(scores, np.array(c.ranks) == 0, cluster_of(c)) for c, scores in scored]
    complete = [
        (scores, right.astype(float), cluster) for scores, right, cluster in complete if np.isfinite(scores).all()
    ]
    if not complete:
        return None
    proxy, gold, clusters = zip(*complete, strict=True)
    curve = best_of_n_curve(proxy, gold)
    intervals = [bootstrap_interval(values, clusters=clusters, **options) for values in curve["per_prompt"]]
    return {
        "n": curve["n"],
        "value": curve["value"],
        "low": [interval["low"] for interval in intervals],
        "high": [interval["high"] for interval in intervals],
        "oracle": best_of_n_curve(gold, gold, curve["n"])["value"],
        "random": [float(np.mean([values.mean() for values in gold]))] * len(curve["n"]),
        "kl_bound": curve["kl_bound"],
        "num_prompts": len(complete),
        "num_left_out": len(scored) - len(complete),
    }
