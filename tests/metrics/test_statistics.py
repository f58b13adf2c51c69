"""metrics/statistics.py: cases worked by hand, agreement with scipy, coverage, power, speed, published values."""

import csv
import json
import math
import time
from itertools import combinations

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest

from rm_plugin.metrics.preference import pairwise_correctness
from rm_plugin.metrics.statistics import (
    Bootstrap,
    Estimate,
    holm_correction,
    mcnemar_exact,
    significance_tiers,
    wilson_interval,
)


def macro(means):
    return sum(means.values()) / len(means)


def drawn(values, aggregate=None, **options):
    """A bootstrap, and in it the name of the mean of all items, or of an aggregate of subset means."""
    if aggregate is None:
        return Bootstrap(values, **options), ""
    return Bootstrap(values, lambda means: {("aggregate",): aggregate(means)}, **options), ("aggregate",)


def bootstrap_interval(values, confidence=0.95, **options):
    draw, metric = drawn(values, **options)
    estimate = draw.estimate(metric)
    low, high = estimate.interval(confidence)
    return {"estimate": estimate.value, "low": low, "high": high, "num_clusters": estimate.num_clusters}


def compare_models(a, b, **options):
    draw, metric = drawn(np.stack([a, b]), **options)
    return draw.compare(metric)


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
    assert result["num_clusters"] == 1000


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
    result = bootstrap_interval([1.0, 1.0, 1.0, 0.0] * 2, clusters=list("aaabcccd"))
    assert result["estimate"] == 0.75  # of items, not the mean of cluster means
    # 300 copies: a ratio of sums, whose delta-method error is √(mean of (sum − .75·size)²) / 2 / √600
    values, clusters = [1.0, 1.0, 1.0, 0.0] * 300, [c for i in range(300) for c in (2 * i, 2 * i, 2 * i, 2 * i + 1)]
    result = bootstrap_interval(values, clusters=clusters)
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * 0.75 / 2 / math.sqrt(600), rel=0.05)


def test_few_kinds_of_clusters_are_drawn_by_count_and_the_interval_is_the_same():
    values = np.array([1.0, 1.0, 0.0, 0.5] * 1500)  # above 5,000 clusters: drawn as counts of three kinds
    noisy = values + 1e-9 * np.random.default_rng(0).normal(size=6000)  # a grain of noise makes them all different
    fast, slow = bootstrap_interval(values), bootstrap_interval(noisy)
    assert fast["low"] == pytest.approx(slow["low"], abs=0.0005)
    assert fast["high"] == pytest.approx(slow["high"], abs=0.0005)
    start = time.thread_time()
    bootstrap_interval([1.0, 0.0] * 10_000)
    assert time.thread_time() - start < 0.5  # 0.03 s


def test_above_twenty_thousand_clusters_two_thousand_samples_are_drawn():
    for num_clusters, num_samples in ((20_000, 10_000), (20_001, 2000)):
        draw = Bootstrap(np.arange(num_clusters) % 2)
        assert draw.num_samples == len(draw.samples[""]) - 1 == num_samples
    assert Bootstrap(np.arange(20_001) % 2, num_samples=500).num_samples == 500


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


def clustered(rng, kind, num_clusters, size):
    """Items of prompts that share a part, mean 0 for normal and ½ for 0/1 items; and their clusters."""
    effects = rng.normal(size=(num_clusters, 1))
    if kind == "normal":
        values = effects + rng.normal(size=(num_clusters, size))
    else:
        values = (rng.random((num_clusters, size)) < 1 / (1 + np.exp(-effects))).astype(float)
    return values.ravel(), np.repeat(np.arange(num_clusters), size)


def simulated(kind, num_clusters, size, num_sets):
    """Shares of sets whose nominal 95 % interval covers the truth, and whose null is rejected at 5 % and at 1 %."""
    rng, draws = np.random.default_rng(num_clusters), {"num_samples": 1000}
    covered, p_values = 0, []
    for trial in range(num_sets):
        values, clusters = clustered(rng, kind, num_clusters, size)
        interval = bootstrap_interval(values, clusters=clusters, seed=trial, **draws)
        covered += interval["low"] <= (0.5 if kind == "binary" else 0.0) <= interval["high"]
        other, _ = clustered(rng, kind, num_clusters, size)
        p_values.append(compare_models(values, other, clusters=clusters, seed=trial, **draws)["p_value"])
    return covered / num_sets, *(float(np.mean(np.array(p_values) < level)) for level in (0.05, 0.01))


@pytest.mark.parametrize(("num_clusters", "size"), [(10, 3), (20, 3)])
@pytest.mark.parametrize("kind", ["normal", "binary"])
def test_intervals_of_few_clusters_cover_and_their_tests_err_as_often_as_they_say(kind, num_clusters, size):
    # Plain percentiles cover 89 to 93 % at 10 clusters. Standard error of each share at 300 sets: 1.3 and 0.6 points
    covered, five, one = simulated(kind, num_clusters, size, num_sets=300)
    assert covered >= 0.92 and five <= 1.6 * 0.05 and one <= 2.7 * 0.01


@pytest.mark.scale
@pytest.mark.parametrize(("num_clusters", "size"), [(10, 3), (20, 3), (25, 4), (50, 4)])
@pytest.mark.parametrize("kind", ["normal", "binary"])
def test_over_2000_sets_intervals_cover_93_percent_and_tests_reject_little_more_than_they_say(
    kind, num_clusters, size
):
    covered, five, one = simulated(kind, num_clusters, size, num_sets=2000)
    print(f"{kind}, {num_clusters} clusters of {size}: covered {covered:.4f}, rejected {five:.4f} and {one:.4f}")
    assert covered >= 0.93 and five <= 1.3 * 0.05 and one <= 2 * 0.01


def test_expanded_percentiles_have_their_published_level():
    # Hesterberg 2015: n = 10, 95 %: quantiles at Φ(−√(10/9)·2.262) = 0.0086 instead of 0.025
    samples = np.concatenate([[0.0], ndtri((np.arange(9999) + 0.5) / 9999)])
    low, high = Estimate(samples, 10).interval()
    assert (low, high) == pytest.approx((ndtri(0.0086), -ndtri(0.0086)), abs=0.01)
    many = Estimate(samples, 100_000).interval()
    assert many == pytest.approx([-1.96, 1.96], abs=0.01)


@pytest.mark.parametrize("num_clusters", [5, 8, 40, 1000])
def test_the_p_value_is_the_level_at_which_the_interval_reaches_zero(num_clusters):
    rng = np.random.default_rng(num_clusters)
    for shift in (0.3, 1.0, 2.0, 3.0, 4.5, 7.0):
        for skew in (0.0, 0.4):
            draws = rng.normal(size=2000)
            estimate = Estimate(np.concatenate([[0.0], draws + skew * draws**2 - skew]) + shift, num_clusters)
            p_value = estimate.p_value()
            for level in (0.5, 0.1, 0.05, 0.01, 1e-3, 1e-5):
                low, high = estimate.interval(1 - level)
                if not 0.98 < p_value / level < 1.02:  # two resamples may lie between
                    assert (low > 0 or high < 0) == (p_value < level), (shift, skew, level, p_value)


@pytest.mark.parametrize(("right", "wrong"), [(4, 1), (5, 1), (1, 5), (11, 1), (7, 0)])
@pytest.mark.parametrize("num_samples", [100, 10_000])
def test_the_interval_of_a_share_stays_between_0_and_1(right, wrong, num_samples):
    values = [1.0] * right + [0.0] * wrong
    low, high = Bootstrap(values, num_samples=num_samples).estimate().share_interval()
    assert 0 <= low < right / (right + wrong) <= high <= 1
    compared = Bootstrap([values, [0.0] * len(values)], num_samples=num_samples).compare()
    assert -1 <= compared["low"] <= compared["high"] <= 1 and (compared["detectable"] or 0) <= 1
    rewards = Bootstrap([20 * value for value in values], num_samples=num_samples).estimate().interval()
    assert rewards[1] > 1  # what is no share has no such bounds


def test_fewer_than_five_clusters_have_an_estimate_and_no_interval():
    result = bootstrap_interval([1.0, 0.0], clusters=["a", "a"])
    assert (result["estimate"], result["low"], result["high"]) == (0.5, None, None)
    assert bootstrap_interval([1.0, 0.0, 1.0, 0.0])["low"] is None
    assert bootstrap_interval([1.0, 0.0, 1.0, 0.0, 1.0])["low"] is not None
    result = compare_models([1.0, 1.0], [0.5, 0.0])
    assert (result["low"], result["high"], result["detectable"], result["p_value"]) == (None, None, None, 0.5)
    assert compare_models([1.0], [0.5])["p_value"] == 1.0


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
        ({"values": [1.0, 0.0], "subsets": ["a", "b"], "aggregate": lambda m: 0.5}, "must work elementwise"),
        ({"values": [1.0, 0.0], "confidence": 95}, "confidence=95"),
        ({"values": [1.0, 0.0], "num_samples": 0}, "num_samples=0"),
    ],
)
def test_bad_input_of_the_bootstrap_is_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


# --- minimum detectable difference


def of_spread(standard_error, num_clusters):
    """An estimate whose resamples have this standard deviation."""
    return Estimate(np.array([0.0, *[standard_error, -standard_error] * 500]), num_clusters)


def test_the_detectable_difference_has_hand_worked_values():
    # z = 1.959964 + 0.841621 = 2.801585; of 400 coins each: √(2·.25/400)
    assert of_spread(0.025, 10**9).detectable == pytest.approx(2.801585 * 0.025, rel=1e-6)
    one = Bootstrap([1.0, 0.0] * 200).estimate()
    assert math.sqrt(2) * one.detectable == pytest.approx(2.801585 * math.sqrt(0.5 / 400), rel=0.03)
    # of 10 clusters: √(10/9)·(2.262157 + 0.883404), Student's quantiles at 9 degrees of freedom
    assert of_spread(1.0, 10).detectable == pytest.approx(math.sqrt(10 / 9) * 3.145561, rel=1e-6)
    assert Bootstrap([1.0] * 20).estimate().detectable is None  # nothing says how far the items spread


def make_items(rng, kind, difference, num_clusters=60):
    """Values of two models that differ by `difference` in truth; and the arguments beside them."""
    if kind == "0/1 items":
        u = rng.random(300)
        a, b = u < 0.1 + difference / 2, (u > 0.9) & (u > 0.9 + difference / 2)  # discordant on a fifth
        return a.astype(float), b.astype(float), {}
    if kind == "lists":  # τ_b-like values between −1 and 1, paired
        shared = rng.normal(size=200)
        a, b = (np.tanh(0.5 * shared + rng.normal(size=200)) for _ in range(2))
        return a + difference, b, {}
    effect, clusters = np.repeat(rng.normal(size=num_clusters), 4), np.repeat(np.arange(num_clusters), 4)
    a, b = (0.3 * effect + rng.normal(size=len(effect)) for _ in range(2))
    a += difference + np.repeat(rng.normal(size=num_clusters), 4)  # prompts that suit one of the two
    if kind == "clusters":
        return a, b, {"clusters": clusters}
    return a, b, {"clusters": clusters, "subsets": ["x", "y", "y", "y"] * num_clusters, "aggregate": macro}


def share_found(kind, num_sets, num_samples):
    """How often the announced minimum detectable difference is found at 5 %, where it is the truth."""
    rng, announced, found = np.random.default_rng(5), [], 0
    for trial in range(num_sets // 4):
        a, b, arguments = make_items(rng, kind, 0.0)
        announced.append(compare_models(a, b, **arguments, seed=trial, num_samples=num_samples)["detectable"])
    for trial in range(num_sets):
        a, b, arguments = make_items(rng, kind, float(np.mean(announced)))
        found += compare_models(a, b, **arguments, seed=trial, num_samples=num_samples)["p_value"] < 0.05
    return found / num_sets


@pytest.mark.parametrize("kind", ["0/1 items", "lists", "clusters", "aggregate"])
def test_a_difference_of_the_detectable_size_is_found_with_eighty_percent_power(kind):
    assert 0.74 <= share_found(kind, num_sets=300, num_samples=300) <= 0.86  # the share's standard error is 2.3 points


@pytest.mark.scale
@pytest.mark.parametrize("kind", ["0/1 items", "lists", "clusters", "aggregate"])
def test_over_2000_sets_the_power_at_the_detectable_difference_is_77_to_83_percent(kind):
    power = share_found(kind, num_sets=2000, num_samples=1000)
    print(f"{kind}: power {power:.4f}")
    assert 0.77 <= power <= 0.83


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


def test_a_subset_is_compared_for_itself_exactly_where_its_items_allow():
    a, b = [1] * 5 + [0] + [1] * 12, [0] * 5 + [0] + [0] * 12
    draw = Bootstrap([a, b], subsets=["chat"] * 5 + ["code"] + ["math"] * 12)
    results = {name: draw.compare(name, 0, 1) for name in ("chat", "code", "math")}
    assert [r["p_value"] for r in results.values()] == [0.0625, 1.0, 2 * 0.5**12]
    assert [r["method"] for r in results.values()] == ["mcnemar"] * 3
    assert [(r["num_items"], r["num_clusters"]) for r in results.values()] == [(5, 5), (1, 1), (12, 12)]


def test_a_metric_counts_the_clusters_of_the_subsets_that_it_depends_on():
    clusters, subsets = [0, 1, 2, 3, 3, 4, 5, 6], list("xxxxyyyy")

    def metrics(m):
        return {("twice",): 2 * m["x"], ("both",): m["x"] - m["y"], ("constant",): 0 * m["x"] + 1}

    draw = Bootstrap(np.arange(8.0), metrics, clusters=clusters, subsets=subsets)
    assert draw.estimate("x").num_clusters == draw.estimate("y").num_clusters == 4
    assert draw.estimate(("twice",)).num_clusters == 4 and draw.estimate(("twice",)).value == 3.0
    assert draw.estimate(("both",)).num_clusters == 7  # cluster 3 is in both
    assert draw.estimate(("constant",)).interval() == [None, None]  # moves with nothing


def test_models_must_be_compared_on_the_same_items():
    with pytest.raises(ValueError, match="2 values of model a and 1 of model b"):
        mcnemar_exact([1.0, 0.0], [1.0])


def test_a_metric_that_is_one_subsets_mean_is_tested_exactly_and_another_is_not():
    a, b = [1] * 6 + [0] * 6, [0] * 12
    formula = {("mean",): lambda m: m["x"], ("other",): lambda m: 0.3 * m["x"], ("both",): macro}
    draw = Bootstrap([a, b], lambda m: {k: f(m) for k, f in formula.items()}, subsets=["x"] * 7 + ["y"] * 5)
    assert [draw.compare(name)["method"] for name in formula] == ["mcnemar"] + ["paired bootstrap"] * 2
    assert draw.compare(("mean",))["p_value"] == draw.compare("x")["p_value"] == 2 * 0.5**6
    assert draw.compare(("mean",))["num_items"] == 7


def test_one_draw_over_columns_is_a_subset_for_each():
    columns = {"a": ([1.0, 0.0, 1.0], ["x", "y", "z"]), "b": ([0.5], ["x"])}
    draw = Bootstrap.over(columns, lambda m: {"sum": m["a"] + m["b"]}, num_samples=10)
    assert (draw.estimate("a").value, draw.estimate("b").value) == (pytest.approx(2 / 3), 0.5)
    assert draw.estimate("sum").num_clusters == 3 and draw.estimate("b").num_clusters == 1


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
    result = significance_tiers(Bootstrap(list(models.values())), list(models))
    rows = [(row["model"], row["estimate"], row["tier"]) for row in result["models"]]
    assert rows == [("good", 0.9, 1), ("fair", 0.87, 1), ("poor", 0.5, 2), ("bad", 0.45, 2)]
    p_holm = {(c["a"], c["b"]): c["p_holm"] for c in result["comparisons"]}
    assert len(p_holm) == 6
    assert p_holm["good", "fair"] == 2 * 0.5**3 * 1  # three items, largest of the six p-values
    # five items differ: 2·(½)⁵ = .0625 alone, times 2 as the second largest
    assert p_holm["poor", "bad"] == 0.125


@pytest.mark.parametrize("kind", ["binary", "thirds", "aggregate"])
def test_two_models_have_one_p_value_whichever_others_are_there(kind):
    rng = np.random.default_rng(0)
    levels = 2 if kind == "binary" else 4
    models = {name: rng.integers(0, levels, 60) / (levels - 1) for name in "abcd"}
    arguments, metric, metrics = {"clusters": np.repeat(np.arange(30), 2)}, "", dict
    if kind == "aggregate":
        arguments["subsets"], metric, metrics = ["x", "y"] * 30, ("macro",), lambda means: {("macro",): macro(means)}
    draw = Bootstrap(list(models.values()), metrics, **arguments)
    for comparison in significance_tiers(draw, list(models), metric)["comparisons"]:
        more = {"aggregate": macro} if kind == "aggregate" else {}
        pair = compare_models(models[comparison["a"]], models[comparison["b"]], **arguments, **more)
        assert comparison["difference"] == pytest.approx(pair["difference"])
        assert comparison["p_value"] == pair["p_value"]


def test_many_models_leave_the_correction_digits_to_work_on():
    # 30 models make 435 comparisons; a p-value that stops at 2/10,001 would be .087 after Holm
    rng = np.random.default_rng(0)
    values = {f"model {i}": rng.normal(0.0, 1.0, 400) for i in range(29)} | {"best": rng.normal(1.0, 1.0, 400)}
    draw = Bootstrap(list(values.values()), num_samples=2000)
    tiers = {row["model"]: row["tier"] for row in significance_tiers(draw, list(values))["models"]}
    assert tiers["best"] == 1
    assert all(tier == 2 for model, tier in tiers.items() if model != "best")


def test_one_model_is_one_tier():
    assert significance_tiers(Bootstrap([1.0, 0.0]), ["a"]) == {
        "models": [{"model": "a", "estimate": 0.5, "tier": 1}],
        "comparisons": [],
    }


def test_results_are_plain_json():
    a, b = [1.0, 0.5, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]
    json.dumps(
        [
            bootstrap_interval(a),
            compare_models(a, b),
            significance_tiers(Bootstrap([a, b]), ["a", "b"]),
            holm_correction([0.1]),
            wilson_interval(np.sum(a), len(a)),
        ],
        allow_nan=False,
    )


# --- published values


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
    draw = Bootstrap([pairwise_correctness(margins) for margins in judgebench.values()])
    tiers = significance_tiers(draw, list(judgebench))
    assert [row["tier"] for row in tiers["models"]] == [1, 1, 1]
    assert tiers["models"][0]["model"] == "internlm/internlm2-20b-reward"


def test_a_share_without_a_spread_has_wilsons_interval_over_its_clusters():
    whole = Bootstrap([1.0] * 20, clusters=[i // 2 for i in range(20)]).estimate()
    assert whole.interval() == [1.0, 1.0]
    assert whole.share_interval() == pytest.approx(wilson_interval(10, 10))  # of ten clusters, not of twenty items
    assert Bootstrap([3.0] * 20).estimate().share_interval() == [3.0, 3.0]  # which is no share
    mixed = Bootstrap([1.0, 0.0] * 10).estimate()
    assert mixed.share_interval() == mixed.interval()
