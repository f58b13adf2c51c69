"""RewardMATH: one right solution among nine wrong ones, and the accuracies of published models."""

import json

import pytest
from benchmark_schemas import NAN, aggregate

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark


def test_rewardmath_finds_the_right_one_among_nine_or_not():
    def ten(number, scores):
        texts = ["right", *(f"wrong {i}" for i in range(9))]
        return Comparison("P", texts, [0] + [1] * 9, id=str(number)), scores

    scored = [
        ten(0, [1.0] + [0.0] * 9),  # above all
        ten(1, [1.0, 1.0] + [0.0] * 8),  # one ties: stands before it, rank 2
        ten(2, [1.0, 2.0, 2.0, 2.0] + [0.0] * 6),  # rank 4
        ten(3, [1.0] + [NAN] * 9),
    ]
    results = aggregate(BENCHMARKS["rewardmath"], scored)
    assert results["score"] == 0.25
    assert results["sections"]["MRR"] == (1 + 1 / 2 + 1 / 4) / 4
    assert results["sections"]["pairs"] == pytest.approx((9 + 8 + 6) / 36)


@pytest.mark.parametrize(
    ("model", "top_1", "pairs"),
    [("internlm2", 37.27, 76.0), ("grm_gemma", 4.97, 45.7), ("skywork_llama3", 22.15, 71.5)],
)
def test_rewardmath_accuracies_of_three_published_models(shared_data, model, top_1, pairs):
    published = json.loads((shared_data / "rewardmath_scores" / f"{model}_reward.json").read_text())
    rows = [
        {"problem": one["problem"], "problem_id": i, "eval_solution": [str(k)], "solution_type": kind}
        for i, one in enumerate(published)
        for k, kind in enumerate(["chosen"] + ["rejected"] * 9)
    ]
    data = load_benchmark("rewardmath", rows)
    assert data.num_rows == data.benchmark.num_rows and len(data.comparisons) == 483
    scored = [(c, one["score"]) for c, one in zip(data.comparisons, published, strict=True)]
    results = aggregate(data.benchmark, scored)
    assert 100 * results["score"] == pytest.approx(top_1, abs=0.005)
    assert 100 * results["sections"]["pairs"] == pytest.approx(pairs, abs=0.05)
    assert results["score"] < results["sections"]["MRR"] < 1
