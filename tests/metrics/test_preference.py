"""evaluation/metrics.py: cases worked by hand, published figures, and what may not happen silently."""

import csv
import json
import math
import pickle
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from rm_plugin.metrics import preference as metrics
from rm_plugin.metrics.preference import (
    accuracy_by_length_difference,
    best_of_n_curve,
    best_of_n_kl_bound,
    brier_score,
    by_subset,
    calibration,
    cross_fitted_calibration,
    expected_calibration_error,
    fit_temperature,
    kendall_tau_b,
    length_bias,
    margin_distribution,
    negative_log_likelihood,
    pairwise_accuracy,
    pairwise_correctness,
    reliability_curve,
)

ALL_OF_MARGINS = [
    pairwise_accuracy,
    pairwise_correctness,
    margin_distribution,
    negative_log_likelihood,
    brier_score,
    reliability_curve,
    expected_calibration_error,
    fit_temperature,
    calibration,
    cross_fitted_calibration,
]


# --- accuracy and margins


def test_a_tie_counts_half_in_accuracy_and_nothing_in_strict_accuracy():
    assert pairwise_accuracy([1.5, -0.5, 0.0, 2.0]) == {
        "accuracy": 0.625,
        "accuracy_strict": 0.5,
        "tie_rate": 0.25,
        "num_pairs": 4,
    }
    assert pairwise_correctness([2.0, 0.0, -0.0, -3.0]).tolist() == [1.0, 0.5, 0.5, 0.0]


def test_accuracy_is_over_all_pairs_and_not_a_mean_of_batch_means():
    margins = np.where(np.arange(201) < 143, 1.0, -1.0)
    assert pairwise_accuracy(margins)["accuracy"] == 143 / 201


def test_margins_are_float64_inside():
    # In float32 the mean of 10⁸ and 1, 0 … would lose the ones
    margins = np.array([1e8] + [1.0] * 9, dtype=np.float32)
    assert margin_distribution(margins)["mean"] == 10000000.9


def test_margin_distribution_has_hand_worked_values():
    result = margin_distribution([-1.0, 0.0, 1.0, 2.0, 3.0])
    histogram = result.pop("histogram")
    assert result == {
        "mean": 1.0,
        "std": math.sqrt(2),
        "min": -1.0,
        "max": 3.0,
        "q05": pytest.approx(-0.8),
        "q25": 0.0,
        "q50": 1.0,
        "q75": 2.0,
        "q95": pytest.approx(2.8),
        "share_negative": 0.2,
        "num_pairs": 5,
    }
    assert histogram["edges"][:4] == [-1.0, -0.8, -0.6, -0.4] and histogram["edges"][-1] == 3.2
    assert [(e, n) for e, n in zip(histogram["edges"], histogram["counts"], strict=False) if n] == [
        (-1.0, 1),
        (0.0, 1),
        (1.0, 1),
        (2.0, 1),
        (3.0, 1),
    ]


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 0.7, 1.0, 33.3, 1e4, 1e30])
@pytest.mark.parametrize("shift", [0.0, 1.0, -7.3])
def test_every_margin_is_in_the_histogram_and_zero_is_an_edge(scale, shift):
    margins = scale * (np.random.default_rng(0).normal(size=500) + shift)
    histogram = margin_distribution(margins)["histogram"]
    assert sum(histogram["counts"]) == 500
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1 <= 25
    assert np.all(np.diff(histogram["edges"]) > 0)
    if margins.min() < 0 < margins.max():
        assert 0.0 in histogram["edges"]


@pytest.mark.parametrize("value", [0.0, 5.0, -0.3, 1e9])
def test_equal_margins_fall_into_one_bin(value):
    histogram = margin_distribution([value] * 3)["histogram"]
    assert sum(histogram["counts"]) == 3 and max(histogram["counts"]) == 3


@pytest.mark.parametrize("metric", ALL_OF_MARGINS)
def test_margins_that_are_not_finite_are_an_error_that_counts_them(metric):
    with pytest.raises(ValueError, match=r"3 of 5 values are not finite \(1 NaN, 2 \+inf, 0 -inf\)"):
        metric([1.0, float("nan"), float("inf"), 2.0, float("inf")])


@pytest.mark.parametrize("metric", ALL_OF_MARGINS)
def test_no_pairs_and_columns_of_margins_are_errors(metric):
    with pytest.raises(ValueError, match="margins is empty"):
        metric([])
    with pytest.raises(ValueError, match=r"margins has shape \(2, 1\)"):
        metric([[1.0], [2.0]])


@pytest.mark.parametrize("metric", ALL_OF_MARGINS[2:])
def test_results_are_plain_json(metric):
    json.dumps(metric([1.0, -0.5, 0.0, 3.0, 2.0, -4.0]), allow_nan=False)


def test_torch_tensors_of_any_dtype_are_taken():
    import torch

    margins = torch.tensor([1.0, -1.0, 0.5], dtype=torch.bfloat16, requires_grad=True)
    assert pairwise_accuracy(margins)["accuracy"] == 2 / 3


def test_a_metric_by_subset_keeps_the_order_of_the_subsets():
    result = by_subset([1.0, -1.0, 2.0, 0.0], ["math", "code", "math", "code"])
    assert list(result) == ["math", "code"]
    assert result["code"] == {"accuracy": 0.25, "accuracy_strict": 0.0, "tie_rate": 0.5, "num_pairs": 2}
    with pytest.raises(ValueError, match="1 subset names for 2 values"):
        by_subset([1.0, 2.0], ["math"])


# --- probabilities


def test_nll_and_brier_have_hand_worked_values():
    assert negative_log_likelihood([0.0, 1.0, 2.0, 5.0]) == pytest.approx(
        (0.693147 + 0.313262 + 0.126928 + 0.006715) / 4, abs=1e-6
    )
    assert brier_score([math.log(3), -math.log(3)]) == pytest.approx((0.0625 + 0.5625) / 2)  # σ(ln 3) = ¾


def test_nll_and_brier_are_finite_at_extreme_margins():
    assert negative_log_likelihood([1e4, -1e4]) == 5000.0
    assert brier_score([1e4, -1e4]) == 0.5


def test_reliability_curve_bins_confidence_and_counts_ties_half():
    curve = reliability_curve([0.0, 0.0, math.log(3), -math.log(3), math.log(3), 50.0], num_bins=5)
    assert curve["edges"] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert curve["counts"] == [2, 0, 3, 0, 1]  # σ(0) = ½, σ(ln 3) = ¾, σ(50) = 1
    assert curve["confidence"] == [0.5, None, pytest.approx(0.75), None, pytest.approx(1.0)]
    assert curve["accuracy"] == [0.5, None, pytest.approx(2 / 3), None, 1.0]


def test_ece_is_the_weighted_distance_from_confidence():
    # Bin ¾: three pairs, right 2/3, distance 1/12; bin ½: two ties, distance 0; bin 1: right, distance 0
    margins = [0.0, 0.0, math.log(3), -math.log(3), math.log(3), 50.0]
    assert expected_calibration_error(margins, num_bins=5) == pytest.approx(3 / 6 * 1 / 12)


def test_temperature_makes_the_confidence_match_the_accuracy():
    # Right three times in four at |Δ| = 4: σ(4/T) = ¾, T = 4 / ln 3
    assert fit_temperature([4.0, 4.0, 4.0, -4.0]) == pytest.approx(4 / math.log(3), rel=1e-6)


def test_temperature_scales_with_the_margins_and_undoes_a_rescaling():
    margins = np.random.default_rng(0).normal(0.5, 1.0, 400)
    temperature = fit_temperature(margins)
    assert fit_temperature(1e4 * margins) == pytest.approx(1e4 * temperature, rel=1e-6)
    assert fit_temperature(margins / temperature) == pytest.approx(1.0, rel=1e-6)
    nll = negative_log_likelihood(margins / temperature)
    for other in (0.98, 1.02):
        assert negative_log_likelihood(margins / temperature / other) > nll


def test_temperature_without_an_optimum_is_at_its_bound_and_finite():
    assert fit_temperature([1.0, 1.0]) == pytest.approx(1e-3)  # nothing wrong: T → 0
    assert fit_temperature([1.0, -1.0]) == pytest.approx(1e3)  # no better than chance: T → ∞
    assert fit_temperature([-2.0, -2.0]) == pytest.approx(2e3)
    assert fit_temperature([0.0, 0.0]) == 1.0


def test_cross_fitting_rescales_each_fold_by_the_temperature_of_the_others():
    margins = np.array([8.0, 8.0, 8.0, -8.0] * 100)
    result = cross_fitted_calibration(margins)
    assert len(result["temperatures"]) == 5
    assert np.mean(result["temperatures"]) == pytest.approx(8 / math.log(3), rel=0.05)
    assert result["nll"] == pytest.approx(0.5623, abs=0.01)  # entropy of (¾, ¼)
    assert negative_log_likelihood(margins) > 2
    assert result == cross_fitted_calibration(margins)
    assert result != cross_fitted_calibration(margins, seed=1)


def test_cross_fitting_keeps_the_pairs_of_a_prompt_in_one_fold():
    # Two prompts, so two folds: each is rescaled by the temperature of the other
    margins = [1.0, 1.0, 1.0, -1.0, 9.0, 9.0, 9.0, -9.0]
    result = cross_fitted_calibration(margins, clusters=["a"] * 4 + ["b"] * 4)
    assert sorted(result["temperatures"]) == pytest.approx([1 / math.log(3), 9 / math.log(3)])
    crossed = [m * math.log(3) / 9 for m in margins[:4]] + [m * math.log(3) for m in margins[4:]]
    assert result["nll"] == pytest.approx(negative_log_likelihood(crossed))


def test_cross_fitting_needs_two_prompts():
    with pytest.raises(ValueError, match="at least 2"):
        cross_fitted_calibration([1.0, 2.0], clusters=["a", "a"])
    with pytest.raises(ValueError, match="1 clusters for 2 values"):
        cross_fitted_calibration([1.0, 2.0], clusters=["a"])


# --- length


def test_a_reward_that_is_the_length_has_length_controlled_accuracy_one_half():
    lengths = np.array([30, 10, 20, -5, 0])
    result = length_bias(lengths / 10, lengths)
    assert result == {
        "spearman": pytest.approx(1.0),
        "accuracy_chosen_longer": 1.0,
        "num_chosen_longer": 3,
        "accuracy_chosen_shorter": 0.0,
        "num_chosen_shorter": 1,
        "length_controlled_accuracy": 0.5,
        "length_only_accuracy": 0.7,  # 3 right, 1 wrong, 1 tie
    }


def test_length_controlled_accuracy_is_the_mean_of_both_sides():
    # chosen longer: 2 of 3 right; chosen shorter: a tie and a right one, 3/4
    result = length_bias([1.0, 1.0, -1.0, 0.0, 2.0], [5, 5, 5, -5, -5])
    assert result["length_controlled_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)


def test_what_length_bias_cannot_say_is_none():
    result = length_bias([1.0, 2.0], [5, 5])
    assert result["spearman"] is None
    assert result["accuracy_chosen_shorter"] is None and result["length_controlled_accuracy"] is None


def test_spearman_averages_equal_ranks_as_scipy_does():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    margins, lengths = rng.integers(-3, 4, 50).astype(float), rng.integers(-5, 6, 50)
    assert length_bias(margins, lengths)["spearman"] == pytest.approx(spearmanr(margins, lengths).statistic)


def test_accuracy_by_length_difference_cuts_at_quantiles():
    margins = [-1.0, -1.0, 1.0, 0.0, 1.0, 1.0]
    bins = accuracy_by_length_difference(margins, [-30, -20, -1, 1, 20, 30], num_bins=3)
    assert [(b["low"], b["high"], b["mean"], b["accuracy"], b["num_pairs"]) for b in bins] == [
        (-30.0, -20.0, -25.0, 0.0, 2),
        (-1.0, 1.0, 0.0, 0.75, 2),
        (20.0, 30.0, 25.0, 1.0, 2),
    ]
    assert bins[0]["interval"][0] == 0.0 and bins[0]["interval"][1] == pytest.approx(
        0.6576, abs=1e-4
    )  # Wilson, 0 of 2


def test_equal_length_differences_share_a_bin():
    bins = accuracy_by_length_difference([1.0] * 9 + [-1.0], [0] * 9 + [7], num_bins=4)
    assert [(b["low"], b["high"], b["num_pairs"]) for b in bins] == [(0.0, 0.0, 9), (7.0, 7.0, 1)]


def test_length_differences_of_another_number_are_refused():
    with pytest.raises(ValueError, match="2 margins and 1 length differences"):
        length_bias([1.0, 2.0], [1])


# --- ranked lists


def test_kendall_tau_b_counts_pairs_in_order():
    assert kendall_tau_b([4.0, 3.0, 2.0, 1.0], [0, 1, 2, 3]) == 1.0
    assert kendall_tau_b([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3]) == -1.0
    assert kendall_tau_b([3.0, 1.0, 2.0, 0.0], [0, 1, 2, 3]) == pytest.approx((5 - 1) / 6)


def test_kendall_tau_b_corrects_for_ties():
    # Pairs: (0,1) +, (0,2) +, (1,2) tied in rank; (1,2) differ in score: 2 / √(3·2)
    assert kendall_tau_b([3.0, 2.0, 1.0], [0, 1, 1]) == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau_b([1.0, 1.0], [0, 1]) is None
    assert kendall_tau_b([1.0], [0]) is None


def test_kendall_tau_b_equals_scipy():
    from scipy.stats import kendalltau

    rng = np.random.default_rng(1)
    scores, ranks = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 30)
    assert kendall_tau_b(scores, ranks) == pytest.approx(kendalltau(scores, -ranks, variant="b").statistic)


# --- best-of-n


def test_kl_bound_has_its_known_values():
    assert [best_of_n_kl_bound(n) for n in (1, 2, 4)] == pytest.approx([0.0, 0.193147, 0.636294], abs=1e-6)


def test_best_of_n_has_hand_worked_values():
    # Ascending by proxy the gold values are 1, 0, 1, 0. Best of 2: weights 0, 1/6, 2/6, 3/6; of 3: 0, 0, 1/4, 3/4
    curve = best_of_n_curve([[0.4, 0.1, 0.3, 0.2]], [[0.0, 1.0, 1.0, 0.0]], ns=[1, 2, 3, 4])
    assert curve["value"] == pytest.approx([0.5, 1 / 3, 1 / 4, 0.0])
    assert curve["n"] == [1, 2, 3, 4]
    assert curve["kl_bound"] == pytest.approx([0.0, 0.193147, math.log(3) - 2 / 3, 0.636294], abs=1e-6)


def test_best_of_n_is_the_mean_over_all_subsets_with_ties_broken_by_a_coin():
    rng = np.random.default_rng(0)
    proxy, gold = np.array([0.0, 2.0, 1.0, 2.0, 0.0, 1.0, 1.0]), rng.normal(size=7)
    curve = best_of_n_curve([proxy], [gold], ns=[1, 2, 3, 5, 7])
    for n, value in zip(curve["n"], curve["value"], strict=True):
        subsets = [list(subset) for subset in combinations(range(7), n)]
        expected = np.mean([gold[s][proxy[s] == proxy[s].max()].mean() for s in subsets])
        assert value == pytest.approx(expected)


def test_proxy_ties_share_their_weights():
    # A constant proxy chooses at random: the mean, whatever n
    curve = best_of_n_curve([[1.0, 1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0, 1.0]], ns=[1, 2, 4])
    assert curve["value"] == pytest.approx([0.25, 0.25, 0.25])


def test_best_of_n_averages_over_prompts_of_unequal_sizes():
    curve = best_of_n_curve([[0.0, 1.0], [2.0, 1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0, 3.0]], ns=[1, 2])
    assert curve["per_prompt"] == [pytest.approx([0.5, 1.0]), pytest.approx([1.0, 0.0])]
    assert curve["value"] == pytest.approx([0.75, 0.5])
    assert best_of_n_curve([[0.0] * 6], [[1.0] * 6])["n"] == [1, 2, 4, 6]


def test_best_of_n_of_many_samples_stays_in_range():
    # The gold value is the rank i of 2000: the best of n has expected rank n (N + 1) / (n + 1)
    ranks = np.arange(1, 2001.0)
    curve = best_of_n_curve([ranks], [ranks], ns=[1, 1000, 2000])
    assert curve["value"] == pytest.approx([1000.5, 1000 * 2001 / 1001, 2000.0], rel=1e-9)


def test_best_of_n_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="between 1 and the fewest samples of a prompt, 2"):
        best_of_n_curve([[1.0, 2.0]], [[1.0, 2.0]], ns=[3])
    with pytest.raises(ValueError, match="prompt 1 has 2 proxy scores and 1 gold values"):
        best_of_n_curve([[1.0], [1.0, 2.0]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="no prompts"):
        best_of_n_curve([], [])
    with pytest.raises(ValueError, match="proxy_scores: 1 of 2 values are not finite"):
        best_of_n_curve([[1.0, float("nan")]], [[1.0, 2.0]])


# --- evaluate.Metric classes


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """`evaluate` with its cache in a folder of the test, and nothing to reach over the network."""
    module = pytest.importorskip("evaluate")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a metric used the network"))
    return module


def test_metric_classes_compute_from_margins_or_from_two_rewards(evaluate):
    expected = {"accuracy": 0.625, "accuracy_strict": 0.5, "tie_rate": 0.25, "num_pairs": 4}
    assert metrics.PairwiseAccuracy().compute(predictions=[1.5, -0.5, 0.0, 2.0]) == expected
    chosen, rejected = [2.5, 0.0, 1.0, 1.0], [1.0, 0.5, 1.0, -1.0]
    assert metrics.PairwiseAccuracy().compute(predictions=chosen, references=rejected) == expected
    distribution = metrics.MarginDistribution().compute(predictions=chosen, references=rejected)
    assert distribution == margin_distribution([1.5, -0.5, 0.0, 2.0])


def test_metric_classes_collect_batches(evaluate):
    import torch

    metric = metrics.PairwiseAccuracy()
    metric.add_batch(predictions=torch.tensor([1.0, 2.0], dtype=torch.bfloat16), references=np.array([0.0, 5.0]))
    metric.add_batch(predictions=np.zeros(0))  # a process without pairs
    metric.add(prediction=1.0)
    metric.add(prediction=1.0, reference=1.0)
    assert metric.compute() == {"accuracy": 0.625, "accuracy_strict": 0.5, "tie_rate": 0.25, "num_pairs": 4}
    assert metric.compute(predictions=[-1.0])["num_pairs"] == 1  # nothing is left over


def test_metric_classes_combine(evaluate):
    both = evaluate.combine([metrics.PairwiseAccuracy(), metrics.MarginDistribution()])
    both.add_batch(predictions=[1.0, 2.0], references=[0.0, 5.0])
    result = both.compute()
    assert result["accuracy"] == 0.5 and result["mean"] == -1.0
    assert result["pairwise_accuracy_num_pairs"] == result["margin_distribution_num_pairs"] == 2
    assert both.compute(predictions=[3.0])["q50"] == 3.0


def test_metric_classes_refuse_what_the_functions_refuse(evaluate):
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        metrics.PairwiseAccuracy().compute(predictions=[1.0, float("nan")])
    with pytest.raises(ValueError, match="empty"):
        metrics.PairwiseAccuracy().compute(predictions=[])
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        metrics.PairwiseAccuracy().compute(predictions=[1.0], references=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"predictions has shape \(2, 2\)"):
        metrics.PairwiseAccuracy().compute(predictions=[[1.0, 2.0], [3.0, 4.0]])


def test_metric_classes_are_classes_of_this_module(evaluate):
    assert issubclass(metrics.PairwiseAccuracy, evaluate.Metric)
    assert pickle.loads(pickle.dumps(metrics.PairwiseAccuracy)) is metrics.PairwiseAccuracy
    with pytest.raises(AttributeError, match="no attribute 'PairwiseAcuracy'"):
        _ = metrics.PairwiseAcuracy


def test_importing_the_metrics_imports_neither_torch_nor_evaluate():
    code = (
        "import sys, rm_plugin.metrics.preference, rm_plugin.metrics.statistics\n"
        "print([m for m in ('torch', 'evaluate', 'datasets', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# --- published figures


def judgebench_margins(shared_data):
    """Margins of three public reward models on JudgeBench (gpt), by model."""
    margins = {}
    with (shared_data / "judgebench" / "reference_scores.csv").open() as file:
        for row in csv.DictReader(file):
            margin = float(row["score_A"]) - float(row["score_B"])
            margins.setdefault(row["model"], []).append(margin if row["label"] == "A>B" else -margin)
    return margins


@pytest.mark.parametrize(
    ("model", "accuracy", "strict", "nll", "temperature", "ece"),
    [
        ("Ray2333/GRM-Gemma-2B-rewardmodel-ft", 59.43, 59.43, 0.901, 4.43, 0.215),
        ("Skywork/Skywork-Reward-Llama-3.1-8B", 62.43, 62.29, 2.408, 14.22, 0.326),
        ("internlm/internlm2-20b-reward", 63.43, 63.43, 0.614, 1.03, 0.053),
    ],
)
def test_judgebench_figures_of_published_scores(shared_data, model, accuracy, strict, nll, temperature, ece):
    # ../shared/reference/evaluation.md; `strict` is what JudgeBench publishes
    margins = judgebench_margins(shared_data)[model]
    result, probabilities = pairwise_accuracy(margins), calibration(margins)
    assert result["num_pairs"] == 350
    assert round(100 * result["accuracy"], 2) == accuracy
    assert round(100 * result["accuracy_strict"], 2) == strict
    assert round(probabilities["nll"], 3) == nll
    assert round(probabilities["temperature"], 2) == temperature
    assert round(probabilities["ece"], 3) == ece
    assert cross_fitted_calibration(margins)["nll"] < max(nll, 0.693)
