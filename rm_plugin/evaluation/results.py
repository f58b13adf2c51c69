"""Scores of a benchmark's completions ► every metric of the report. No model, no files, no clock: equal in, equal out.

    results = measure(load_benchmark("llmbar", source), scores)   # an array (K,) per comparison, NaN = unscored
    results.metrics["official"]["score"], results.metrics["official"]["interval"]

A comparison with an unscored completion counts as wrong, in the official score and in the pairwise accuracy; margins,
calibration and length metrics are over the scored pairs, and the counts say how many were not. A pair is two
completions of one comparison with different ranks; its margin is Δ = r(better) − r(worse).

The bootstrap is drawn over the items of the official score, for the model and the baselines at once; over the pairs,
with what else the model has one value per comparison of (τ_b, top-1, the best-of-n curve); and, 2,000 times, over the
scored pairs for the bias. All intervals and differences are read from these draws.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..data.comparison import Comparison, text_length
from ..messages import check_at_least
from ..metrics.calibration import accuracy_by_coverage, calibration, cross_fitted_calibration
from ..metrics.preference import (
    accuracy_by_length_difference,
    feature_bias,
    margin_distribution,
    pairwise_accuracy,
    pairwise_correctness,
)
from ..metrics.ranking import best_of_n_curve, kendall_tau_b
from ..metrics.statistics import Bootstrap
from ..scoring.functions import PairwiseReward, orders
from .benchmarks import Benchmark, LoadedBenchmark
from .benchmarks.base import Items, cluster_of, mark_unscored
from .features import features_of

BASELINES = {  # scores that cost nothing: luck; what a judge gets who reads nothing; what ties are worth
    "random": lambda comparison, rng: rng.random(len(comparison.completions)),
    "length": lambda comparison, rng: np.array([float(text_length(text)) for text in comparison.completions]),
    "constant": lambda comparison, rng: np.zeros(len(comparison.completions)),
}
LENGTH_UNIT = "characters"  # so that every metric can be recomputed without a tokenizer
SCORE = ("section", "score")  # the official score among the metrics of a draw of items
# columns of the draw over pairs, beside the subsets'
PAIRS, TAU, TOP_1, MRR, BEST_OF = ("pairs",), ("τ_b",), ("top-1",), ("MRR",), "best of"
TEXTS = ("prompt", "chosen", "rejected")  # of a mistake
MAX_UNSCORED = 0.05  # with a larger share of comparisons without a score, no p-value is given

Scored = tuple[Comparison, np.ndarray]


@dataclass
class Results:
    """
    What an evaluation measured.

    Args:
        counts (`dict`): rows, comparisons, completions, pairs, and what was left out or not scored.
        metrics (`dict`): the metrics of the model; `json.dumps` takes it.
        baselines (`dict`): official score, pairwise accuracy and difference from the model, of each of `BASELINES`.
        mistakes (`list[dict]`): the pairs ranked wrong with the largest margins, as preference rows: what may be label
            noise.
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
    data: LoadedBenchmark,
    scores: Sequence[np.ndarray],
    *,
    num_samples: int = 10_000,
    seed: int = 0,
    num_mistakes: int = 10,
    why_unscored: str = "each has a text whose score is null; give one score per completion",
) -> Results:
    """
    Every metric of the report.

    Args:
        data ([`LoadedBenchmark`]): the comparisons.
        scores (`Sequence[np.ndarray]`): for each comparison the rewards of its completions (K,), NaN = unscored.
        num_samples (`int`, *optional*, defaults to `10_000`): bootstrap samples.
        seed (`int`, *optional*, defaults to `0`): seed of bootstrap, folds and random baseline.
        num_mistakes (`int`, *optional*, defaults to `10`): how many of the most confident mistakes are listed.
        why_unscored (`str`, *optional*): the cause and its fix, for the error where no comparison is scored.

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
    scored = _checked(data, scores, why_unscored)
    check_at_least(0, num_mistakes=num_mistakes)
    benchmark, options = data.benchmark, {"num_samples": num_samples, "seed": seed}
    items, pairs = benchmark.score_items(scored), _pairs(scored)
    credits, pairwise = {"model": items.credits}, {}
    for name in BASELINES:
        credits[name], pairwise[name] = _baseline(name, benchmark, data.comparisons, seed)
    saved = {"groups": items.groups, "clusters": items.clusters}
    draw = draw_items(benchmark, list(credits.values()), saved, **options)
    metrics = {
        "official": _official(benchmark, {comparison.subset for comparison, _ in scored}, items, draw),
        **_of_order(benchmark, scored, pairs, **options),
        **_of_margins(scored, pairs, seed),
        "bootstrap": {"confidence": 0.95, "num_samples": draw.num_samples, "seed": seed},
    }
    num_unscored = sum(bool(np.isnan(values).any()) for _, values in scored)
    counts = {
        "num_rows": data.num_rows,
        "num_comparisons": len(scored),
        "num_completions": sum(len(values) for _, values in scored),
        "num_pairs": len(pairs),
        "num_no_preference": len(data.no_preference),
        "num_bad_rows": len(data.bad_rows),
        "num_empty": data.num_empty,
        "num_unscored_completions": int(sum(np.isnan(np.asarray(values, float)).sum() for values in scores)),
        "num_unscored_comparisons": num_unscored,
    }
    baselines = {name: _against(draw, 1 + i, pairwise[name]) for i, name in enumerate(BASELINES)}
    if num_unscored > MAX_UNSCORED * len(scored):
        for one in baselines.values():
            one["model_minus_baseline"]["p_value"] = None
    saved["credits"] = {name: values.tolist() for name, values in credits.items()}
    margins = pairs["margin"].dropna().to_numpy()
    return Results(counts, metrics, baselines, _mistakes(scored, pairs, num_mistakes), margins, saved)


def _checked(data: LoadedBenchmark, scores: Sequence[np.ndarray], why_unscored: str) -> list[Scored]:
    """Each comparison with its scores, all NaN where one is; refused where they do not fit, or say nothing."""
    if len(scores) != len(data.comparisons):
        raise ValueError(
            f"{len(scores)} arrays of scores for {len(data.comparisons)} comparisons; give one per comparison"
        )
    scored = mark_unscored(list(zip(data.comparisons, scores, strict=True)))
    if any(np.isinf(values).any() for _, values in scored):
        raise ValueError("a score is infinite; scores are finite, or NaN where a text was not scored")
    if all(np.isnan(values).any() for _, values in scored):
        raise ValueError(f"none of the {len(scored)} comparisons is scored: {why_unscored}")
    return scored


def judge_metrics(
    reward: PairwiseReward, data: LoadedBenchmark, values: Mapping[tuple[int, int], float], **options: int
) -> dict[str, Any]:
    """
    What a judge's verdicts in both orders say about the judge.

    Args:
        reward ([`PairwiseReward`]): whose verdicts they are.
        data ([`LoadedBenchmark`]): the comparisons.
        values (`Mapping`): P(A is better) by comparison and question, NaN where there was no verdict.
        options: `num_samples` and `seed` of the bootstrap.

    Returns:
        `dict`: `consistency`, the share of pairs with the same winner in both orders; `share_first`, of verdicts for
        the text shown first, ½ without a position bias; each with its `_interval`; `score_one_order`, the official
        score where each pair is asked in one order; `num_verdicts`, `num_malformed`.
    """
    columns: dict[str, list[tuple[float, str]]] = {"consistency": [], "share_first": []}
    num_missing = 0
    for c, comparison in enumerate(data.comparisons):
        verdicts = [values.get((c, m), math.nan) for m in range(len(orders(comparison)))]
        num_missing += sum(map(math.isnan, verdicts))
        cluster = cluster_of(comparison)
        columns["share_first"] += [(verdict, cluster) for verdict in verdicts if not math.isnan(verdict)]
        for first, swapped in zip(verdicts[::2], verdicts[1::2], strict=True):
            if not math.isnan(first + swapped):
                columns["consistency"].append((float(np.sign(first - 0.5) == np.sign(0.5 - swapped)), cluster))
    given = {name: tuple(zip(*column, strict=True)) for name, column in columns.items() if column}
    draw = Bootstrap.over(given, **options)
    once = reward.scores_of(data.comparisons, values, one_order=True)
    items = data.benchmark.score_items(list(zip(data.comparisons, once, strict=True)))
    score = float(data.benchmark.formula(items.means())["score"])
    counts = {"num_verdicts": len(columns["share_first"]), "num_malformed": num_missing}
    shares = draw.summary("consistency", "consistency") | draw.summary("share_first", "share_first")
    return {**shares, "score_one_order": score, **counts}


# --- baselines


def _baseline(
    name: str, benchmark: Benchmark, comparisons: Sequence[Comparison], seed: int
) -> tuple[np.ndarray, float]:
    """Credits and pairwise accuracy of a baseline; those of `random` are means over draws, near what is expected."""
    num_draws = min(64, max(1, 10_000 // len(comparisons))) if name == "random" else 1
    credits, accuracies = [], []
    for draw in range(num_draws):
        rng = np.random.default_rng(seed + draw)
        scored = [(comparison, BASELINES[name](comparison, rng)) for comparison in comparisons]
        credits.append(benchmark.score_items(scored).credits)
        accuracies.append(pairwise_correctness([s[i] - s[j] for c, s in scored for i, j in c.pairs()]).mean())
    return np.mean(credits, axis=0), float(np.mean(accuracies))


def _against(draw: Bootstrap, model: int, pairwise_accuracy: float) -> dict[str, Any]:
    """Metrics of a baseline, and the model's difference from it."""
    estimate, difference = draw.estimate(SCORE, model), draw.compare(SCORE, 0, model)
    return {
        "score": estimate.value,
        "interval": estimate.interval(least=0.0, most=1.0),
        "pairwise_accuracy": pairwise_accuracy,
        "model_minus_baseline": {key: difference[key] for key in ("difference", "low", "high", "p_value", "method")},
    }


# --- official score


def draw_items(benchmark: Benchmark, credits: Sequence[Any], items: Mapping[str, list], **options: int) -> Bootstrap:
    """
    The bootstrap over the items of a benchmark (their `groups` and `clusters`) for the credits of several models: the
    mean of each group is a metric by its name, a section of the official score by `("section", name)`.
    """

    def sections(means: dict[Hashable, np.ndarray]) -> dict[Hashable, Any]:
        return {("section", name): value for name, value in benchmark.formula(means).items()}

    return Bootstrap(np.stack(credits), sections, clusters=items["clusters"], subsets=items["groups"], **options)


def _official(benchmark: Benchmark, present: set[str | None], items: Items, draw: Bootstrap) -> dict[str, Any]:
    means, counts = items.means(), items.counts()
    values = {name: float(value) for name, value in benchmark.formula(means).items()}
    score = draw.estimate(SCORE)
    detectable = math.sqrt(2) * (score.detectable or math.inf)
    return {
        "score": values.pop("score"),
        "interval": score.share_interval(),
        "sections": {
            name: {"value": value, "interval": draw.estimate(("section", name)).share_interval()}
            for name, value in values.items()
            if not np.isnan(value)
        },
        "subsets": {
            name: {"accuracy": mean, "interval": draw.estimate(name).share_interval(), "num_items": counts[name]}
            for name, mean in means.items()
        },
        "missing": benchmark.missing(present, means),
        "num_items": int(draw.items(SCORE).sum()),
        "num_clusters": score.num_clusters,
        # between two models on different prompts; None where the items do not say how far they spread, or too far
        "minimum_detectable_difference": detectable if detectable <= 1 else None,
    }


# --- pairs


def _pairs(scored: Sequence[Scored]) -> pd.DataFrame:
    """
    Every pair: index of its comparison, of its better and its worse completion; margin (NaN = unscored), correct (1, ½
    for a tie, 0; an unscored pair counts as wrong), subset and cluster.
    """
    rows = [
        (index, i, j, scores[i] - scores[j], comparison.subset or "all", cluster_of(comparison))
        for index, (comparison, scores) in enumerate(scored)
        for i, j in comparison.pairs()
    ]
    if not rows:
        raise ValueError("no comparison has a preference, there is nothing to measure; check the ranks of the data")
    kinds = {"comparison": int, "better": int, "worse": int, "margin": float}
    # Texts stay Python's: pandas' strings cannot hold a lone surrogate.
    pairs = pd.DataFrame(rows, columns=[*kinds, "subset", "cluster"], dtype=object).astype(kinds)
    return pairs.assign(correct=pairwise_correctness(pairs["margin"].fillna(-1.0)))


def _accuracy(pairs: pd.DataFrame, draw: Bootstrap, name: Hashable) -> dict[str, Any]:
    margins = pairs["margin"].dropna()
    distribution = margin_distribution(margins) if len(margins) else {}
    return {
        **pairwise_accuracy(pairs["margin"].fillna(-1.0)),
        "num_unscored_pairs": len(pairs) - len(margins),
        "interval": draw.estimate(name).share_interval(),
        "margins": {key: distribution.get(key) for key in ("mean", "std", "q25", "q50", "q75", "share_negative")},
    }


def _of_margins(scored: Sequence[Scored], pairs: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Spread, calibration, and what the margins follow beside the content, over the scored pairs."""
    pairs = pairs.dropna(subset=["margin"])
    margins, clusters = pairs["margin"].to_numpy(), pairs["cluster"].to_numpy()
    if not len(margins):
        return dict.fromkeys(("margins", "calibration", "coverage", "length", "bias"))
    fitted = cross_fitted_calibration(margins, clusters, seed=seed) if len(set(clusters)) > 1 else None
    of_texts = [features_of(comparison) for comparison, _ in scored]
    sides = pairs[["comparison", "better", "worse"]].to_numpy()
    features = {name: [[of_texts[c][name][i], of_texts[c][name][j]] for c, i, j in sides] for name in of_texts[0]}
    bias, lengths = feature_bias(margins, features, clusters, seed=seed), np.array(features["length"])
    return {
        "margins": margin_distribution(margins),
        "calibration": {**calibration(margins), "cross_fitted": fitted},
        "coverage": accuracy_by_coverage(margins),
        "length": {
            "unit": LENGTH_UNIT,
            "by_difference": accuracy_by_length_difference(margins, lengths[:, 0] - lengths[:, 1]),
        },
        # A feature that no pair differs in, or that all differ in the same way, such as the position of the chosen,
        # tells nothing.
        "bias": {
            name: one for name, one in bias.items() if name == "length" or one["controlled_accuracy"] is not None
        },
    }


def _mistakes(scored: Sequence[Scored], pairs: pd.DataFrame, number: int) -> list[dict[str, Any]]:
    """The worst pair of each comparison, the largest margins first."""
    wrong = pairs[pairs["margin"] < 0].sort_values("margin", kind="stable").drop_duplicates("comparison").head(number)
    mistakes = []
    for index, better, worse in wrong[["comparison", "better", "worse"]].itertuples(index=False):
        one, scores = scored[index][0], scored[index][1].tolist()
        high, low = scores[better], scores[worse]
        pair = {"id": one.id, "subset": one.subset, "better": better, "worse": worse}
        pair |= {"score_better": high, "score_worse": low, "difference": high - low}
        texts = (one.prompt, one.completions[better], one.completions[worse])
        mistakes.append(pair | dict(zip(TEXTS, texts, strict=True)))
    return mistakes


def _of_order(benchmark: Benchmark, scored: Sequence[Scored], pairs: pd.DataFrame, **options: int) -> dict[str, Any]:
    """What the order of the scores says, of pairs and of lists, from one draw."""
    (ranking, taus), (lists, list_columns) = _ranking(scored), _lists(scored)
    best_of_n, curve = _best_of_n(benchmark, scored)
    names = dict.fromkeys(pairs["subset"])  # all, where nothing says of what subset a pair is
    subsets = {} if list(names) == ["all"] else {name: pairs[pairs["subset"] == name] for name in names}
    columns = {name: (part["correct"], part["cluster"]) for name, part in {PAIRS: pairs, **subsets}.items()}
    draw = Bootstrap.over(columns | taus | list_columns | curve, **options)
    if ranking is not None:
        ranking["interval"] = draw.estimate(TAU).interval(least=-1.0, most=1.0)
    if lists is not None:
        lists |= draw.summary("top_1", TOP_1) | draw.summary("mrr", MRR)
    if best_of_n is not None:
        intervals = [draw.estimate(name).share_interval() for name in curve]
        best_of_n["low"], best_of_n["high"] = map(list, zip(*intervals, strict=True))
    return {
        "pairwise": _accuracy(pairs, draw, PAIRS),
        "subsets": {name: _accuracy(part, draw, name) for name, part in subsets.items()},
        "ranking": ranking,
        "lists": lists,
        "best_of_n": best_of_n,
    }


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
        "num_tied": len(taus) - len(values),  # all scores of a list equal
    }, {TAU: (values, clusters)}


def _lists(scored: Sequence[Scored]) -> tuple[dict[str, Any] | None, dict]:
    """
    Top-1 and mean reciprocal rank of the best completion in the comparisons of three or more that have one best, and
    their values and clusters for the draw. An equal score ranks above it, and so does all in a list without scores.
    """
    lists = [(c, scores) for c, scores in scored if len(c.ranks or ()) > 2 and c.ranks.count(min(c.ranks)) == 1]
    if not lists:
        return None, {}
    below = [np.sum(scores < scores[c.ranks.index(min(c.ranks))]) for c, scores in lists]
    sizes, clusters = np.array([len(scores) for _, scores in lists]), [cluster_of(c) for c, _ in lists]
    ranks = sizes - np.array(below)
    return {
        "top_1_chance": float(np.mean(1 / sizes)),
        "mrr_chance": float(np.mean([np.mean(1 / np.arange(1, size + 1)) for size in sizes])),
        "num_comparisons": len(lists),
    }, {TOP_1: ((ranks == 1).astype(float), clusters), MRR: (1 / ranks, clusters)}


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
    }, {(BEST_OF, n): (values, clusters) for n, values in zip(curve["n"], curve["per_prompt"], strict=True)}
