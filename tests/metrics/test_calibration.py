"""metrics/calibration.py: cases worked by hand, and published values."""

import csv
import json
import math

import numpy as np
import pytest

from rm_plugin.metrics.calibration import (
    accuracy_by_coverage,
    brier_score,
    calibration,
    cross_fitted_calibration,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_curve,
)
from rm_plugin.metrics.preference import margin_distribution, pairwise_accuracy, pairwise_correctness

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


# --- published values


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
def test_judgebench_metrics_of_published_scores(shared_data, model, accuracy, strict, nll, temperature, ece):
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


def test_a_temperature_at_the_search_bound_is_no_number():
    worse_than_luck = calibration([-1.0, -2.0, 1.0])  # no temperature helps: the NLL falls until T is infinite
    assert (worse_than_luck["temperature"], worse_than_luck["temperature_note"]) == (None, "no signal")
    assert calibration([0.0, 0.0])["temperature_note"] == "no signal"
    assert calibration([2.0, 1.0, 0.0])["temperature_note"] == "no pair is wrong"
    fitted = calibration([4.0, 4.0, 4.0, -4.0])
    assert fitted["temperature"] == pytest.approx(4 / math.log(3)) and fitted["temperature_note"] is None


def test_accuracy_by_coverage_has_hand_worked_values():
    points = accuracy_by_coverage([4.0, -3.0, 2.0, -1.0, 0.0], num_points=5)
    assert [point["threshold"] for point in points] == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert [point["coverage"] for point in points] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [point["accuracy"] for point in points] == pytest.approx([1.0, 1 / 2, 2 / 3, 1 / 2, 1 / 2])  # a tie is ½
    assert [point["num_pairs"] for point in accuracy_by_coverage([1.0, 1.0, -1.0])] == [3]  # equally sure of all
