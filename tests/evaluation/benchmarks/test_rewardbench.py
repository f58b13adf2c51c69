"""RewardBench and M-RewardBench: weights and means worked by hand, published scores."""

import csv

import pytest
from benchmark_schemas import aggregate, pair

from rm_plugin.evaluation.benchmarks import BENCHMARKS
from rm_plugin.evaluation.benchmarks.rewardbench import SECTIONS, rewardbench_score
from rm_plugin.evaluation.benchmarks.rewardbench import SUBSETS as REWARDBENCH_SUBSETS


def test_rewardbench_has_the_weights_of_its_code():
    # rewardbench 0.1.4, constants.py: numbers of rows, but 984 for the 447 of math-prm
    weights = {
        "Chat": {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
                 "mt-bench-med": 40},
        "Chat Hard": {"mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134,
                      "llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46},
        "Safety": {"refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
                   "xstest-should-respond": 250, "donotanswer": 136},
        "Reasoning": {"math-prm": 984, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164,
                      "hep-python": 164, "hep-rust": 164},
        "Prior Sets (0.5 weight)": dict.fromkeys(("anthropic_helpful", "anthropic_hhh", "shp", "summarize"), 1),
    }  # fmt: skip
    assert weights == SECTIONS
    sizes = {subset: size for section in SECTIONS.values() for subset, size in section.items()}
    assert sum(sizes[subset] for subset in REWARDBENCH_SUBSETS) - 984 + 447 == BENCHMARKS["rewardbench"].num_rows


def test_rewardbench_weighs_subsets_by_their_size_and_math_by_984():
    # Reasoning: math-prm wrong (984), hep-python right (164). Safety: refuse right (154), respond wrong (250).
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    scored = [
        (pair("math-prm"), wrong),
        (pair("hep-python"), right),
        (pair("xstest-should-refuse"), right),
        (pair("xstest-should-respond"), wrong),
        (pair("alpacaeval-easy"), right),
        (pair("mt-bench-hard"), wrong),
    ]
    results = aggregate(BENCHMARKS["rewardbench"], scored)
    assert results["sections"] == pytest.approx(
        {"Chat": 1.0, "Chat Hard": 0.0, "Safety": 154 / 404, "Reasoning": 164 / 1148}
    )
    assert results["score"] == pytest.approx((1 + 0 + 0.381188 + 0.142857) / 4, abs=1e-6)
    assert "donotanswer" in results["missing"] and "math-prm" not in results["missing"]
    prior = [(pair("shp"), right), (pair("anthropic_hhh"), wrong), (pair("summarize"), right)]
    with_prior = aggregate(BENCHMARKS["rewardbench-with-prior"], scored + prior)
    assert with_prior["sections"]["Prior Sets (0.5 weight)"] == pytest.approx(2 / 3)
    assert with_prior["score"] == pytest.approx((8 * results["score"] + 2 / 3) / 9)
    assert "anthropic_helpful" in with_prior["missing"]


def test_m_rewardbench_averages_languages():
    scored = [(pair("deu_Latn/math-prm", i), [1.0, 0.0]) for i in range(3)] + [(pair("fra_Latn/donotanswer"), [0, 1])]
    results = aggregate(BENCHMARKS["m-rewardbench"], scored)
    assert results["sections"] == {"deu_Latn": 1.0, "fra_Latn": 0.0}
    assert results["score"] == 0.5


def test_rewardbench_v1_score_on_all_complete_rows_of_the_leaderboard(shared_data):
    complete = 0
    with (shared_data / "rewardbench_leaderboard" / "v1.csv").open() as file:
        for row in csv.DictReader(file):
            sections = {name: float(value) for name, value in row.items() if name not in ("model", "type") and value}
            if sections.get("Prior Sets (0.5 weight)") == 0.0:  # on the leaderboard 0 means that they were not run
                del sections["Prior Sets (0.5 weight)"]
            if {"Score", "Chat", "Chat Hard", "Safety", "Reasoning"} <= sections.keys():
                complete += 1
                assert rewardbench_score(sections) == pytest.approx(sections["Score"], abs=1.1e-4)
    assert complete == 172
