"""Scores of a benchmark's completions ► every metric of the report. No model, no files, no clock: equal in, equal out.

    results = measure(load_benchmark("llmbar", source), scores)   # an array (K,) per comparison, NaN = unscored
    results.metrics["official"]["score"], results.metrics["official"]["interval"]

A comparison with an unscored completion counts as wrong, in the official score and in the pairwise accuracy; margins,
calibration and length metrics are over the scored pairs, and the counts say how many were not. A pair is two
completions of one comparison with different ranks; its margin is Δ = r(better) − r(worse).

The bootstrap is drawn twice: over the items of the official score, with the model, the baselines, and what else has
one value per comparison (τ_b, the best-of-n curve); and over the pairs. All intervals and differences are read from
these two draws.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.comparison import Comparison, text_length
from ..metrics.calibration import calibration, cross_fitted_calibration
from ..metrics.preference import (
    accuracy_by_length_difference,
    length_bias,
    margin_distribution,
    pairwise_correctness,
)
from ..metrics.ranking import best_of_n_curve, kendall_tau_b
from ..metrics.statistics import Bootstrap, Estimate, minimum_detectable_difference, wilson_interval
from .benchmarks import Benchmark, LoadedBenchmark
from .benchmarks.base import Items, cluster_of, mark_unscored

NUM_MISTAKES = 10
BASELINES = ("random", "length", "constant")
LENGTH_UNIT = "characters"  # so that every metric can be recomputed without a tokenizer
CONFIDENCE = 0.95
SCORE, TAU = ("section", "score"), ("τ_b",)  # metrics of the draw over items, whose groups are named by strings

Scored = tuple[Comparison, np.ndarray]


@dataclass
class Results:
    """
    What an evaluation measured.

    Args:
        counts (`dict`): rows, comparisons, completions, pairs, and what was left out or not scored.
        metrics (`dict`): the metrics of the model; `json.dumps` takes it.
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
    Every metric of the report.

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
            f"{len(scores)} arrays of scores for {len(data.comparisons)} comparisons; give one per comparison"
        )
    scored = mark_unscored(list(zip(data.comparisons, scores, strict=True)))
    if any(np.isinf(values).any() for _, values in scored):
        raise ValueError("a score is infinite; scores are finite, or NaN where a text was not scored")
    benchmark, options = data.benchmark, {"num_samples": num_samples, "seed": seed}
    items, pairs = benchmark.score_items(scored), _Pairs.of(scored)
    credits, pairwise = {"model": items.credits}, {}
    for name in BASELINES:
        credits[name], pairwise[name] = _baseline(name, benchmark, data.comparisons, seed)
    ranking, taus = _ranking(scored)
    best_of_n, curve = _best_of_n(benchmark, scored)
    draw = _draw_items(benchmark, items, credits, {**taus, **curve}, options)
    if ranking is not None:
        ranking["interval"] = draw.estimate(TAU, subsets=[TAU]).interval(CONFIDENCE)
    if best_of_n is not None:
        intervals = [draw.estimate(n, subsets=[n]).interval(CONFIDENCE) for n in curve]
        best_of_n["low"], best_of_n["high"] = map(list, zip(*intervals, strict=True))
    accuracy, subsets = pairs.accuracies(options)

    metrics = {
        "official": _official(benchmark, {comparison.subset for comparison, _ in scored}, items, draw),
        "pairwise": accuracy,
        "subsets": subsets,
        "margins": margin_distribution(pairs.scored_margins) if len(pairs.scored_margins) else None,
        "calibration": _calibration(pairs, seed),
        "length": _length(pairs),
        "ranking": ranking,
        "best_of_n": best_of_n,
        "bootstrap": {"confidence": CONFIDENCE, "num_samples": draw.num_samples, "seed": seed},
    }
    counts = {
        "num_rows": data.num_rows,
        "num_comparisons": len(scored),
        "num_completions": sum(len(values) for _, values in scored),
        "num_pairs": len(pairs.margins),
        "num_no_preference": len(data.no_preference),
        "num_bad_rows": len(data.bad_rows),
        "num_unscored_completions": int(sum(np.isnan(np.asarray(values, float)).sum() for values in scores)),
        "num_unscored_comparisons": sum(bool(np.isnan(values).any()) for _, values in scored),
    }
    baselines = {name: _against(name, benchmark, draw, pairwise[name]) for name in BASELINES}
    saved = {
        "groups": items.groups,
        "clusters": items.clusters,
        "credits": {name: values.tolist() for name, values in credits.items()},
    }
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
    name: str, benchmark: Benchmark, comparisons: Sequence[Comparison], seed: int
) -> tuple[np.ndarray, float]:
    """Credits and pairwise accuracy of a baseline; those of `random` are means over draws, near what is expected."""
    num_draws = min(64, max(1, 10_000 // len(comparisons))) if name == "random" else 1
    credits, accuracies = [], []
    for draw in range(num_draws):
        scored = list(zip(comparisons, baseline_scores(name, comparisons, seed + draw), strict=True))
        credits.append(benchmark.score_items(scored).credits)
        accuracies.append(pairwise_correctness([s[i] - s[j] for c, s in scored for i, j in c.pairs()]).mean())
    return np.mean(credits, axis=0), float(np.mean(accuracies))


def _against(name: str, benchmark: Benchmark, draw: Bootstrap, pairwise_accuracy: float) -> dict[str, Any]:
    """Metrics of a baseline, and the model's difference from it."""
    model, groups = 1 + BASELINES.index(name), _score_groups(benchmark, draw)
    estimate = draw.estimate(SCORE, model, groups)
    difference = draw.compare(SCORE, 0, model, groups, confidence=CONFIDENCE, exact=benchmark.plain_mean)
    return {
        "score": estimate.value,
        "interval": estimate.interval(CONFIDENCE),
        "pairwise_accuracy": pairwise_accuracy,
        "model_minus_baseline": {key: difference[key] for key in ("difference", "low", "high", "p_value", "method")},
    }


# --- official score


def _draw_items(
    benchmark: Benchmark,
    items: Items,
    credits: Mapping[str, np.ndarray],
    others: Mapping[Hashable, tuple[Sequence[float], Sequence[str]]],
    options: dict[str, int],
) -> Bootstrap:
    """
    The bootstrap over items, the model first and then the baselines: of each section of the official score
    (`("section", name)`), each group of items (`name`), and each other column of values and clusters of the model.
    """
    values, groups, clusters = [np.stack(list(credits.values()))], list(items.groups), list(items.clusters)
    for name, (column, its_clusters) in others.items():
        values.append(np.stack([column, *[np.zeros(len(column))] * (len(credits) - 1)]))
        groups += [name] * len(column)
        clusters += its_clusters

    def metrics(means: dict[Hashable, np.ndarray]) -> dict[Hashable, Any]:
        official = {group: mean for group, mean in means.items() if group not in others}
        return {**means, **{("section", name): value for name, value in benchmark.formula(official).items()}}

    return Bootstrap(np.concatenate(values, axis=1), metrics, clusters=clusters, subsets=groups, **options)


def _score_groups(benchmark: Benchmark, draw: Bootstrap) -> list[str]:
    """The groups of items that the official score is made of."""
    return ["all"] if benchmark.plain_mean else [group for group in draw.subsets if isinstance(group, str)]


def _official(benchmark: Benchmark, present: set[str | None], items: Items, draw: Bootstrap) -> dict[str, Any]:
    means, counts = items.means(), items.counts()
    behind = _groups_behind(benchmark, means)
    values = {name: float(value) for name, value in benchmark.formula(means).items()}
    value, groups = values.pop("score"), _score_groups(benchmark, draw)
    score = draw.estimate(SCORE, subsets=groups)
    return {
        "score": value,
        "interval": _interval(draw, SCORE, groups),
        "sections": {
            name: {"value": value, "interval": _interval(draw, ("section", name), behind[name])}
            for name, value in values.items()
            if not np.isnan(value)
        },
        "subsets": {
            name: {"accuracy": mean, "interval": _interval(draw, name, [name]), "num_items": counts[name]}
            for name, mean in means.items()
        },
        "missing": benchmark.missing(present, means),
        "num_items": sum(counts[group] for group in groups),
        "num_clusters": score.num_clusters,
        "minimum_detectable_difference": _detectable(score),
    }


def _detectable(score: Estimate) -> float | None:
    """Between two models on different prompts of this number; `None` where the items do not say how they spread."""
    error = score.standard_error
    return minimum_detectable_difference(math.sqrt(2) * error, score.num_clusters) if error else None


def _groups_behind(benchmark: Benchmark, means: Mapping[str, float]) -> dict[str, list[str]]:
    """For each section of the official score, the groups that it moves with."""
    moved = {group: mean - 0.5 * np.eye(1 + len(means))[1 + g] for g, (group, mean) in enumerate(means.items())}
    return {
        section: [group for group, value in zip(means, values[1:], strict=True) if value != values[0]]
        for section, values in benchmark.formula(moved).items()
        if np.ndim(values)  # a single NaN: not in these data
    }


def _interval(draw: Bootstrap, metric: Hashable, subsets: Sequence[Hashable]) -> list[float | None]:
    """The bootstrap's interval; Wilson's where all items are equal and the bootstrap's has no width."""
    estimate = draw.estimate(metric, subsets=subsets)
    low, high = estimate.interval(CONFIDENCE)
    if low is not None and low == high and 0 <= estimate.value <= 1:
        return list(wilson_interval(estimate.value * estimate.num_clusters, estimate.num_clusters, CONFIDENCE))
    return [low, high]


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
    def of(cls, scored: Sequence[Scored]) -> _Pairs:
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

    def accuracies(self, options: dict[str, int]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Over all pairs, and in each subset where there are any."""
        correct, names = self.correct, np.array(self.subsets, dtype=object)
        subsets = {name: names == name for name in dict.fromkeys(self.subsets)}
        subsets = {} if list(subsets) == ["all"] else subsets
        groups = [None] * len(correct) + (self.subsets if subsets else [])
        times = len(groups) // len(correct)
        draw = Bootstrap(np.tile(correct, times), dict, clusters=self.clusters * times, subsets=groups, **options)
        table = {}
        for name, inside in subsets.items():
            margins = self.margins[inside & self.is_scored]
            table[name] = {
                **_accuracy(self.margins[inside], correct[inside]),
                "interval": _interval(draw, name, [name]),
                "mean_margin": float(margins.mean()) if len(margins) else None,
            }
        return {**_accuracy(self.margins, correct), "interval": _interval(draw, None, [None])}, table


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


def _mistakes(scored: Sequence[Scored], pairs: _Pairs) -> list[dict[str, Any]]:
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


def _ranking(scored: Sequence[Scored]) -> tuple[dict[str, Any] | None, dict]:
    """Mean Kendall τ_b over the comparisons with three ranks or more, and its values and clusters for the draw."""
    lists = [(c, scores) for c, scores in scored if c.ranks is not None and len(set(c.ranks)) > 2]
    complete = [(c, scores) for c, scores in lists if not np.isnan(scores).any()]
    taus = [(kendall_tau_b(scores, c.ranks), cluster_of(c)) for c, scores in complete]
    defined = [(tau, cluster) for tau, cluster in taus if tau is not None]
    if not defined:
        return None, {}
    values, clusters = zip(*defined, strict=True)
    return {
        "kendall_tau_b": float(np.mean(values)),
        "interval": None,
        "num_comparisons": len(values),
        "num_left_out": len(lists) - len(values),
    }, {TAU: (values, clusters)}


def _best_of_n(benchmark: Benchmark, scored: Sequence[Scored]) -> tuple[dict[str, Any] | None, dict]:
    """
    The curve, for benchmarks whose completions are independent samples of one policy (PPE's best-of-k sets), and its
    values and clusters for the draw.
    """
    scored_whole = [(c, scores) for c, scores in scored if benchmark.best_of_k and np.isfinite(scores).all()]
    if not scored_whole:
        return None, {}
    complete = [(scores, np.equal(c.ranks, 0).astype(float), cluster_of(c)) for c, scores in scored_whole]
    proxy, gold, clusters = zip(*complete, strict=True)
    curve = best_of_n_curve(proxy, gold)
    return {
        "n": curve["n"],
        "value": curve["value"],
        "low": [],
        "high": [],
        "oracle": best_of_n_curve(gold, gold, curve["n"])["value"],
        "random": [float(np.mean([values.mean() for values in gold]))] * len(curve["n"]),
        "kl_bound": curve["kl_bound"],
        "num_prompts": len(complete),
        "num_left_out": len(scored) - len(complete),
    }, {("best of", n): (values, clusters) for n, values in zip(curve["n"], curve["per_prompt"], strict=True)}
