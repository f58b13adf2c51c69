"""evaluation/statistics.py: cases worked by hand, agreement with scipy, coverage, speed, and published figures."""

import csv
import json
import math
import time
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest

from rm_plugin.metrics.preference import pairwise_correctness
from rm_plugin.metrics.statistics import (
    bootstrap_interval,
    compare_by_subset,
    compare_models,
    holm_correction,
    mcnemar_exact,
    minimum_detectable_difference,
    significance_tiers,
    wilson_interval,
)


def macro(means):
    return sum(means.values()) / len(means)


# --- Wilson


def test_wilson_has_hand_worked_values():
    # z = 1.959964: 10 of 10 has lower bound 10 / (10 + z²); 0 of 10 is its mirror
    assert wilson_interval(10, 10) == (pytest.approx(10 / (10 + 1.959964**2), abs=1e-6), pytest.approx(1.0))
    assert wilson_interval(0, 10) == (pytest.approx(0.0), pytest.approx(1 - 10 / (10 + 1.959964**2), abs=1e-6))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(confidence):
    expected = binomtest(218, 350).proportion_ci(confidence, method="wilson")
    assert wilson_interval(218, 350, confidence) == pytest.approx((expected.low, expected.high))


def test_wilson_refuses_impossible_counts():
    for successes, num_items in [(1, 0), (3, 2), (-1, 2), (float("nan"), 2)]:
        with pytest.raises(ValueError, match="at least 1 item"):
            wilson_interval(successes, num_items)


# --- the bootstrap


def test_interval_of_a_proportion_is_that_of_the_binomial():
    # 600 of 1,000: standard error √(.6·.4/1000) = .01549, 1.96 of them are .0304
    result = bootstrap_interval([1.0] * 600 + [0.0] * 400)
    assert result["estimate"] == 0.6
    assert result["low"] == pytest.approx(0.5696, abs=0.0015)
    assert result["high"] == pytest.approx(0.6304, abs=0.0015)
    assert (result["num_items"], result["num_clusters"], result["confidence"]) == (1000, 1000, 0.95)


def test_interval_of_continuous_values_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, 900)
    result, error = bootstrap_interval(values), values.std() / 30
    assert result["estimate"] == pytest.approx(values.mean())
    assert result["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.06 * error)
    assert result["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.06 * error)


def test_copies_of_an_item_in_one_cluster_do_not_narrow_the_interval():
    values = [1.0] * 60 + [0.0] * 40
    once = bootstrap_interval(values)
    copied = bootstrap_interval(values * 5, clusters=list(range(100)) * 5)
    unclustered = bootstrap_interval(values * 5)
    assert (copied["low"], copied["high"]) == (once["low"], once["high"])
    assert copied["num_clusters"] == 100
    assert unclustered["high"] - unclustered["low"] < 0.5 * (copied["high"] - copied["low"])


def test_clusters_of_unequal_size_are_weighted_by_their_items():
    result = bootstrap_interval([1.0, 1.0, 1.0, 0.0], clusters=["a", "a", "a", "b"])
    assert result["estimate"] == 0.75  # of items, not the mean of cluster means
    # a twice: 1; a and b: .75; b twice: 0, each outer one a quarter of the time
    assert (result["low"], result["high"]) == (0.0, 1.0)


def test_both_ways_of_drawing_agree():
    # Few kinds of clusters are drawn as counts of each kind; a grain of noise makes them all different
    values = np.array([1.0, 1.0, 0.0, 0.5] * 100)
    noisy = values + 1e-9 * np.random.default_rng(0).normal(size=400)
    fast, slow = bootstrap_interval(values), bootstrap_interval(noisy)
    assert fast["low"] == pytest.approx(slow["low"], abs=0.003)
    assert fast["high"] == pytest.approx(slow["high"], abs=0.003)


def test_the_seed_decides_and_nothing_else():
    values = np.random.default_rng(0).normal(size=500)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values)["low"] != bootstrap_interval(values, seed=1)["low"]


def test_names_of_clusters_do_not_matter():
    values = np.random.default_rng(0).normal(size=60)
    numbers = bootstrap_interval(values, clusters=np.repeat(np.arange(20), 3))
    assert numbers == bootstrap_interval(values, clusters=[f"prompt {i}" for i in range(20) for _ in range(3)])


def test_an_aggregate_of_subset_means_is_not_the_mean_of_items():
    values, subsets = [1.0] * 90 + [0.0] * 10, ["chat"] * 90 + ["code"] * 10
    result = bootstrap_interval(values, subsets=subsets, aggregate=macro)
    assert (result["estimate"], result["low"], result["high"]) == (0.5, 0.5, 0.5)


def test_interval_of_an_aggregate_follows_its_formula():
    # Mean of two means of 400 and 100 items at p = ½: error ½·√(.25/400 + .25/100) = .02795
    values = np.tile([1.0, 0.0], 250)
    subsets = ["large"] * 400 + ["small"] * 100
    result = bootstrap_interval(values, subsets=subsets, aggregate=macro)
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * 0.02795, rel=0.04)


def test_a_cluster_may_span_subsets():
    # The same coin in both subsets: the macro mean has the error of one of them, not of their independent mean
    coin = np.tile([1.0, 0.0], 100)
    result = bootstrap_interval(
        np.concatenate([coin, coin]),
        clusters=[*range(200), *range(200)],
        subsets=["python"] * 200 + ["rust"] * 200,
        aggregate=macro,
    )
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(200), rel=0.05)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        prompts = rng.normal(size=60)  # 60 prompts of 4 items that share a part
        values = (prompts[:, None] + rng.normal(size=(60, 4))).ravel()
        result = bootstrap_interval(values, clusters=np.repeat(np.arange(60), 4), num_samples=500, seed=trial)
        hits += result["low"] <= 0.0 <= result["high"]
    assert 0.90 <= hits / 300 <= 0.98


def test_one_cluster_has_an_estimate_and_no_interval():
    result = bootstrap_interval([1.0, 0.0], clusters=["a", "a"])
    assert (result["estimate"], result["low"], result["high"]) == (0.5, None, None)


def test_ten_thousand_samples_of_ten_thousand_comparisons_take_less_than_two_seconds():
    margins = np.random.default_rng(0).normal(0.5, 1.0, 10_000)
    for values in (pairwise_correctness(margins), margins):
        start = time.thread_time()  # 0.6 s; wall time would fail on a busy machine
        bootstrap_interval(values, num_samples=10_000)
        assert time.thread_time() - start < 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "values is empty"),
        ({"values": [1.0, float("nan")]}, "1 of 2 values are not finite"),
        ({"values": [1.0, 0.0], "clusters": ["a"]}, "1 clusters for 2 values"),
        ({"values": [1.0, 0.0], "subsets": ["a", "b"]}, "subsets and aggregate go together"),
        ({"values": [1.0, 0.0], "aggregate": macro}, "subsets and aggregate go together"),
        ({"values": [1.0, 0.0], "subsets": ["a", "b"], "aggregate": lambda m: 0.5}, "must work elementwise"),
        ({"values": [1.0, 0.0], "confidence": 95}, "confidence=95"),
        ({"values": [1.0, 0.0], "num_samples": 0}, "num_samples=0"),
    ],
)
def test_bad_input_of_the_bootstrap_is_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


# --- minimum detectable difference


def test_minimum_detectable_difference_has_hand_worked_values():
    # z = 1.959964 + 0.841621 = 2.801585
    assert minimum_detectable_difference(400, accuracy=0.5) == pytest.approx(2.801585 * math.sqrt(0.5 / 400), rel=1e-6)
    assert minimum_detectable_difference(400, discordant_rate=0.25) == pytest.approx(2.801585 * 0.025, rel=1e-6)


def test_a_paired_difference_of_that_size_is_found_with_about_that_power():
    size, rate = 500, 0.3
    difference = minimum_detectable_difference(size, discordant_rate=rate)
    rng = np.random.default_rng(0)
    p = [(rate + difference) / 2, (rate - difference) / 2, 1 - rate]
    found = 0
    for only_a, only_b, _ in rng.multinomial(size, p, size=2000):
        a = np.repeat([1, 0, 1], [only_a, only_b, size - only_a - only_b])
        b = np.repeat([0, 1, 1], [only_a, only_b, size - only_a - only_b])
        found += mcnemar_exact(a, b) < 0.05
    assert 0.74 <= found / 2000 <= 0.84  # the exact test is a little conservative


def test_minimum_detectable_difference_wants_one_of_two():
    for arguments in ({}, {"accuracy": 0.5, "discordant_rate": 0.5}):
        with pytest.raises(ValueError, match="give accuracy for two sets of items"):
            minimum_detectable_difference(100, **arguments)
    with pytest.raises(ValueError, match="at least 1 item"):
        minimum_detectable_difference(0, accuracy=0.5)


# --- two models


def test_mcnemar_has_hand_worked_values():
    assert mcnemar_exact([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]) == 0.0625  # 2·(½)⁵
    assert mcnemar_exact([1, 1, 1, 1, 0], [0, 0, 0, 0, 1]) == 0.375  # 2·(1 + 5)/32
    assert mcnemar_exact([1, 0], [0, 1]) == 1.0
    assert mcnemar_exact([1, 0], [1, 0]) == 1.0


def test_mcnemar_equals_the_binomial_test_of_the_discordant_items():
    a, b = np.repeat([1, 0, 1], [66, 52, 200]), np.repeat([0, 1, 1], [66, 52, 200])
    assert mcnemar_exact(a, b) == pytest.approx(binomtest(52, 118).pvalue)


def test_mcnemar_is_for_zeros_and_ones_only():
    with pytest.raises(ValueError, match="0 and 1 only"):
        mcnemar_exact([1.0, 0.5], [1.0, 0.0])


def test_a_comparison_chooses_its_test_by_the_items():
    a, b = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]
    assert compare_models(a, b)["method"] == "mcnemar"
    assert compare_models([*a, 0.5], [*b, 1.0])["method"] == "paired bootstrap"  # a tie
    assert compare_models(a, b, clusters=[0, 0, 1, 1])["method"] == "paired bootstrap"
    assert compare_models(a, b, subsets=list("xxyy"), aggregate=macro)["method"] == "paired bootstrap"


def test_a_paired_comparison_sees_what_intervals_of_each_do_not():
    # b is a with 30 of 1,000 answers lost: the two intervals overlap, the difference is plain
    a = np.repeat([1.0, 0.0], [600, 400])
    b = a.copy()
    b[:30] = 0.0
    assert bootstrap_interval(a)["low"] < bootstrap_interval(b)["high"]
    result = compare_models(a, b)
    assert result["difference"] == pytest.approx(0.03)
    assert result["low"] == pytest.approx(0.03 - 1.96 * math.sqrt(0.03 * 0.97 / 1000), abs=0.001)
    assert result["p_value"] == pytest.approx(2 * 0.5**30)
    assert (result["a_better"], result["b_better"]) == (30, 0)


def test_equal_models_do_not_differ():
    values = np.random.default_rng(0).normal(size=100)
    result = compare_models(values, values)
    assert (result["difference"], result["low"], result["high"], result["p_value"]) == (0.0, 0.0, 0.0, 1.0)


def test_a_comparison_turned_round_changes_sign_only():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 1, 200), rng.normal(size=200)
    forth, back = compare_models(a, b), compare_models(b, a)
    assert forth["difference"] == -back["difference"]
    assert forth["p_value"] == back["p_value"]
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]))


def test_bootstrap_p_value_is_that_of_the_normal_test_in_large_samples():
    rng = np.random.default_rng(3)
    for shift in (0.05, 0.1, 0.3):
        difference = rng.normal(size=1000)
        difference += shift - difference.mean()
        z = shift / (difference.std() / math.sqrt(1000))
        p_value = compare_models(difference, np.zeros(1000))["p_value"]
        assert p_value == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.25)


def test_bootstrap_p_value_is_not_smaller_than_the_signs_of_few_clusters_allow():
    # Three prompts, a always better by the same: no resample disagrees, yet a fair coin does that one time in four
    result = compare_models([1.0, 1.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.5])
    assert result["method"] == "paired bootstrap"
    assert result["p_value"] == 0.25
    # ten copies of each in its cluster are no more evidence
    copied = compare_models([1.0] * 30, [0.0] * 30, clusters=np.repeat([0, 1, 2], 10))
    assert copied["p_value"] == 0.25


def test_copies_in_a_cluster_do_not_make_a_difference_significant():
    # 40 prompts: 10 on which only a is right, 6 on which only b is; each prompt 20 times
    a, b = np.repeat([1.0, 0.0, 1.0], [10, 6, 24]), np.repeat([0.0, 1.0, 1.0], [10, 6, 24])
    copied_a, copied_b, clusters = np.tile(a, 20), np.tile(b, 20), np.tile(np.arange(40), 20)
    assert compare_models(copied_a, copied_b)["p_value"] < 1e-4
    assert compare_models(copied_a, copied_b, clusters=clusters)["p_value"] > 0.3  # z = 4 / √15.6


def test_a_test_at_five_percent_errs_about_five_percent_of_the_time():
    rng = np.random.default_rng(0)
    false_alarms = 0
    for trial in range(400):
        a, b = (rng.integers(0, 3, 80) / 2 for _ in range(2))
        false_alarms += compare_models(a, b, num_samples=1000, seed=trial)["p_value"] < 0.05
    assert 0.02 <= false_alarms / 400 <= 0.09


def test_comparison_of_an_aggregate_weighs_subsets_as_the_aggregate_does():
    a, b = [1.0] * 90 + [0.0] * 10, [0.0] * 10 + [1.0] * 90
    subsets = ["chat"] * 90 + ["code"] * 10
    assert compare_models(a, b)["difference"] == 0.0
    assert compare_models(a, b, subsets=subsets, aggregate=macro)["difference"] == pytest.approx(
        (1 + 0) / 2 - (80 / 90 + 1) / 2
    )


def test_subsets_are_compared_each_for_itself_and_corrected_together():
    a, b = [1] * 5 + [0] + [1] * 12, [0] * 5 + [0] + [0] * 12
    result = compare_by_subset(a, b, ["chat"] * 5 + ["code"] + ["math"] * 12)
    assert list(result) == ["chat", "code", "math"]
    assert [r["p_value"] for r in result.values()] == [0.0625, 1.0, 2 * 0.5**12]
    assert [r["p_holm"] for r in result.values()] == [0.125, 1.0, 6 * 0.5**12]


def test_models_must_be_compared_on_the_same_items():
    with pytest.raises(ValueError, match="2 values of model a and 1 of model b"):
        compare_models([1.0, 0.0], [1.0])


# --- Holm


def test_holm_has_hand_worked_values():
    # 3·.01; max(.03, 2·.03); max(.06, 1·.04)
    assert holm_correction([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_correction([0.5, 0.9]) == [1.0, 1.0]
    assert holm_correction([0.2]) == [0.2]


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"each must be in \[0, 1\]"):
        holm_correction([0.5, 1.5])


# --- tiers


def test_tiers_are_cut_where_a_model_differs_from_the_leader_of_its_tier():
    def right(count):
        return [1] * count + [0] * (100 - count)

    models = {"poor": right(50), "good": right(90), "fair": right(87), "bad": right(45)}
    result = significance_tiers(models)
    rows = [(row["model"], row["estimate"], row["tier"]) for row in result["models"]]
    assert rows == [("good", 0.9, 1), ("fair", 0.87, 1), ("poor", 0.5, 2), ("bad", 0.45, 2)]
    p_holm = {(c["a"], c["b"]): c["p_holm"] for c in result["comparisons"]}
    assert len(p_holm) == 6
    assert p_holm["good", "fair"] == 2 * 0.5**3 * 1  # three items, largest of the six p-values
    # five items differ: 2·(½)⁵ = .0625 alone, times 2 as the second largest
    assert p_holm["poor", "bad"] == 0.125


def test_tiers_are_the_comparisons_of_compare_models():
    rng = np.random.default_rng(0)
    models = {name: rng.integers(0, 3, 60) / 2 + 0.1 * i for i, name in enumerate("abc")}
    clusters = np.repeat(np.arange(30), 2)
    for comparison in significance_tiers(models, clusters=clusters)["comparisons"]:
        pair = compare_models(models[comparison["a"]], models[comparison["b"]], clusters=clusters)
        assert comparison["difference"] == pytest.approx(pair["difference"])
        assert comparison["p_value"] == pytest.approx(pair["p_value"], abs=0.02)


def test_many_models_leave_the_correction_digits_to_work_on():
    # 30 models make 435 comparisons; a p-value that stops at 2/10,001 would be .087 after Holm
    rng = np.random.default_rng(0)
    values = {f"model {i}": rng.normal(0.0, 1.0, 400) for i in range(29)} | {"best": rng.normal(1.0, 1.0, 400)}
    tiers = {row["model"]: row["tier"] for row in significance_tiers(values, num_samples=2000)["models"]}
    assert tiers["best"] == 1
    assert all(tier == 2 for model, tier in tiers.items() if model != "best")


def test_one_model_is_one_tier_and_none_is_an_error():
    assert significance_tiers({"a": [1.0, 0.0]}) == {
        "models": [{"model": "a", "estimate": 0.5, "tier": 1}],
        "comparisons": [],
    }
    with pytest.raises(ValueError, match="no models"):
        significance_tiers({})
    with pytest.raises(ValueError, match=r"different numbers of items, \{'a': 1, 'b': 2\}"):
        significance_tiers({"a": [1.0], "b": [1.0, 0.0]})


def test_results_are_plain_json():
    a, b = [1.0, 0.5, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]
    json.dumps(
        [
            bootstrap_interval(a),
            compare_models(a, b),
            compare_by_subset(a, b, list("xxyy")),
            significance_tiers({"a": a, "b": b}),
            holm_correction([0.1]),
            wilson_interval(np.sum(a), len(a)),
        ],
        allow_nan=False,
    )


# --- published figures


@pytest.fixture
def judgebench(shared_data):
    """Margins of three public reward models on JudgeBench (gpt), by model."""
    margins = {}
    with (shared_data / "judgebench" / "reference_scores.csv").open() as file:
        for row in csv.DictReader(file):
            margin = float(row["score_A"]) - float(row["score_B"])
            margins.setdefault(row["model"], []).append(margin if row["label"] == "A>B" else -margin)
    return {model: np.array(values) for model, values in margins.items()}


def test_judgebench_intervals_of_published_scores(judgebench):
    # ../shared/reference/evaluation.md: 95 % bootstrap over pairs, in points
    expected = {
        "Ray2333/GRM-Gemma-2B-rewardmodel-ft": (54.0, 64.6),
        "Skywork/Skywork-Reward-Llama-3.1-8B": (57.3, 67.6),
        "internlm/internlm2-20b-reward": (58.3, 68.6),
    }
    for model, bounds in expected.items():
        result = bootstrap_interval(pairwise_correctness(judgebench[model]))
        assert (100 * result["low"], 100 * result["high"]) == pytest.approx(bounds, abs=0.6)


def test_no_two_models_differ_on_judgebench(judgebench):
    pairs = combinations(judgebench.values(), 2)
    assert min(mcnemar_exact(a > 0, b > 0) for a, b in pairs) > 0.2
    tiers = significance_tiers({model: pairwise_correctness(judgebench[model]) for model in judgebench})
    assert [row["tier"] for row in tiers["models"]] == [1, 1, 1]
    assert tiers["models"][0]["model"] == "internlm/internlm2-20b-reward"
