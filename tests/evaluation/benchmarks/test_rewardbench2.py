"""RewardBench 2: its rule for ties worked by hand, published scores."""

import csv

import numpy as np
import pytest
from benchmark_schemas import NAN, aggregate

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import BENCHMARKS
from rm_plugin.evaluation.benchmarks.rewardbench2 import SUBSETS
from rm_plugin.evaluation.results import SCORE, draw_items


def one_of_four(subset, number=0):
    return Comparison("P", chosen="a", rejected=["b", "c", "d"], id=f"{subset}/{number}", subset=subset)


def ties(kind, number, right, wrong):
    metadata = {"cluster": f"ties:{number}", "ties": kind}
    comparison = Comparison(
        "P", ["x"] * (len(right) + len(wrong)), [0] * len(right) + [1] * len(wrong),
        id=f"Ties/{kind}:{number}", subset="Ties", metadata=metadata,
    )  # fmt: skip
    return comparison, [*right, *wrong]


def test_rewardbench_2_gives_one_kth_where_the_right_one_ties_k_ways():
    scored = [
        (one_of_four("Math", 0), [3.0, 3.0, 1.0, 0.0]),  # two ways: 1/2
        (one_of_four("Math", 1), [3.0, 3.0, 3.0, 3.0]),  # four ways: 1/4
        (one_of_four("Math", 2), [3.0, 1.0, 1.0, 4.0]),  # not the highest: 0
        (one_of_four("Math", 3), [9.0, 1.0, 1.0, 4.0]),  # 1
        (one_of_four("Math", 4), [9.0, 1.0, NAN, 4.0]),  # unscored: 0
        (one_of_four("Focus", 0), [9.0, 1.0, 1.0, 4.0]),
    ]
    results = aggregate(BENCHMARKS["rewardbench-2"], scored)
    assert results["sections"] == {"Math": (0.5 + 0.25 + 0 + 1 + 0) / 5, "Focus": 1.0}
    assert results["score"] == pytest.approx((0.35 + 1) / 2)
    assert results["missing"] == ["Factuality", "Precise IF", "Safety", "Ties"]


def test_rewardbench_2_ties_formula():
    scored = [
        ties("tied", 1, [3.0, 2.0], [1.0]),  # G 1, D 1
        ties("ref", 1, [5.0], [3.0]),  # G 2: smaller 1, not above D; margin tanh(1/1 - 1) = 0
        ties("tied", 2, [4.0, 3.5], [1.0]),  # G 2.5, D 0.5: preferred
        ties("ref", 2, [2.0], [3.0]),  # G -1: wrong; margin tanh(-1/0.5 - 1) = tanh(-3) = -0.995055
        ties("tied", 3, [1.0, 1.0], [2.0]),  # no ref: counts for accuracy_tied only, wrong
    ]
    results = aggregate(BENCHMARKS["rewardbench-2"], scored)
    assert {name: value["accuracy"] for name, value in results["subsets"].items()} == pytest.approx(
        {
            "Ties/accuracy_tied": 2 / 3,
            "Ties/accuracy_ref": 1 / 2,
            "Ties/preferred": 1 / 2,
            "Ties/preferred_hard": 0.0,
            "Ties/margin": (0 - 0.995055) / 2,
        },
        abs=1e-6,
    )
    # .30 * 2/3 + .30 * 1/2 + .20 * 1/2 + .20 * 0 + .01 * -0.497527 = 0.445025
    assert results["sections"]["Ties"] == results["score"] == pytest.approx(0.445025, abs=1e-6)


def test_rewardbench_2_ties_at_the_edges():
    # A constant scorer: G = D = 0, nothing is right, and tanh(0/0 - 1) counts 0.
    constant = [ties("tied", 1, [1.0, 1.0], [1.0]), ties("ref", 1, [1.0], [1.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], constant)["score"] == 0.0
    # Equal right ones far above the wrong one, D = 0: margin tanh(inf) = 1, the highest score there is.
    perfect = [ties("tied", 1, [9.0, 9.0], [1.0]), ties("ref", 1, [9.0], [1.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], perfect)["score"] == pytest.approx(1.01)
    # All wrong with a large negative ratio: -0.01, as on the leaderboard.
    worst = [ties("tied", 1, [1.0, 1.01], [9.0]), ties("ref", 1, [1.0], [9.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], worst)["score"] == pytest.approx(-0.01)
    # One right completion has no spread: the pair counts for the accuracies alone.
    single = aggregate(BENCHMARKS["rewardbench-2"], [ties("tied", 1, [9.0], [1.0]), ties("ref", 1, [9.0], [1.0])])
    assert set(single["subsets"]) == {"Ties/accuracy_tied", "Ties/accuracy_ref"}
    assert [name for name in single["missing"] if name.startswith("Ties")] == [
        "Ties/preferred", "Ties/preferred_hard", "Ties/margin",
    ]  # fmt: skip
    several = [ties("tied", 1, [9.0, 8.0], [1.0]), ties("ref", 1, [9.0, 2.0], [1.0])]  # D is that of the tied prompt
    assert aggregate(BENCHMARKS["rewardbench-2"], several)["subsets"]["Ties/preferred"]["num_items"] == 1
    unscored = [ties("tied", 1, [9.0, NAN], [1.0]), ties("ref", 1, [9.0], [1.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], unscored)["score"] == pytest.approx(0.3)  # ref alone is right


def test_two_models_are_compared_on_the_official_score():
    comparisons = [one_of_four(subset, i) for subset in ("Math", "Focus") for i in range(50)]
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=4) for _ in comparisons]
    better = [(c, n + np.array([2.0, 0, 0, 0])) for c, n in zip(comparisons, noise, strict=True)]
    worse = list(zip(comparisons, noise, strict=True))
    benchmark = BENCHMARKS["rewardbench-2"]
    a, b = benchmark.score_items(better), benchmark.score_items(worse)
    result = draw_items(benchmark, [a.credits, b.credits], vars(a), num_samples=2000).compare(SCORE)
    expected = aggregate(benchmark, better)["score"] - aggregate(benchmark, worse)["score"]
    assert result["difference"] == pytest.approx(expected)
    assert result["low"] > 0 and result["p_value"] < 0.001


def test_rewardbench_2_score_on_all_rows_of_the_leaderboard(shared_data):
    with (shared_data / "rewardbench_leaderboard" / "v2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 197
    for row in rows:
        subsets = {name: float(row[name]) for name in SUBSETS}
        assert BENCHMARKS["rewardbench-2"].formula(subsets)["score"] == pytest.approx(float(row["Score"]), abs=1.1e-4)
