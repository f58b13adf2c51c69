"""metrics/ranking.py: cases worked by hand, and agreement with scipy."""

import math
from itertools import combinations

import numpy as np
import pytest

from rm_plugin.metrics.ranking import best_of_n_curve, best_of_n_kl_bound, kendall_tau_b, spearman

# --- rank correlations


def test_spearman_averages_equal_ranks():
    # ranks 1, 2½, 2½, 4 against 1, 2, 3, 4: deviations −1½, 0, 0, 1½ against −1½, −½, ½, 1½
    assert spearman([1.0, 5.0, 5.0, 9.0], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([3.0, 2.0, 1.0], [1.0, 4.0, 9.0]) == -1.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),  # three values are enough
        ([1, 2], [1, 2], None),
        ([2, 2, 2], [1, 2, 3], None),  # either side may be constant
        ([1, 2, 3], [2, 2, 2], None),
        ([1, 2, 2], [3, 3, 1], -0.5),
    ],
)
def test_a_correlation_needs_three_values_and_none_constant(a, b, expected):
    found = spearman(a, b)
    assert found is None if expected is None else found == pytest.approx(expected)


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


def test_a_tau_needs_a_rank_per_score_and_a_bound_one_sample():
    with pytest.raises(ValueError, match="2 scores and 3 ranks, each completion has one of both"):
        kendall_tau_b([1.0, 2.0], [0, 1, 2])
    assert best_of_n_kl_bound(1) == 0.0
    with pytest.raises(ValueError, match="n=0, it must be at least 1"):
        best_of_n_kl_bound(0)
