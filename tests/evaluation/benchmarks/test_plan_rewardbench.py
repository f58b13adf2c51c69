"""Plan-RewardBench: its splits are averaged, a tie counts a half, published files are read."""

import numpy as np
from benchmark_schemas import NAN, aggregate, pair

from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark


def test_plan_rewardbench_averages_splits_and_a_tie_counts_a_half():
    scored = [(pair("safety_refusal", i), [1.0, 0.0]) for i in range(3)] + [(pair("safety_refusal"), [0.0, 1.0])]
    scored += [(pair("tool_irrelevance", 0), [1.00009, 1.0]), (pair("tool_irrelevance", 1), [NAN, 1.0])]
    results = aggregate(BENCHMARKS["plan-rewardbench"], scored)
    assert results["sections"] == {"safety_refusal": 0.75, "tool_irrelevance": 0.25}
    assert results["score"] == 0.5 and "robust_recovery" in results["missing"]


def test_plan_rewardbench_files(shared_data):
    data = load_benchmark("plan-rewardbench", shared_data / "plan_rewardbench")
    assert len(data.comparisons) == data.num_rows == 253
    queries = {c.metadata["cluster"] for c in data.comparisons}
    assert len(queries) == 84 + 43  # several rows have one query
    assert {c.subset for c in data.comparisons} == {"planning_multi_easy", "planning_single_easy"}
    lengths = [len(c.prompt) for c in data.comparisons]
    assert min(lengths) == 2 and max(lengths) == 6  # the header, and 1 to 5 messages that both have
    roles = {turn["role"] for c in data.comparisons for text in (c.prompt, *c.completions) for turn in text}
    assert roles == {"user", "assistant"}
    constant = [(c, np.zeros(2)) for c in data.comparisons]
    assert aggregate(data.benchmark, constant)["score"] == 0.5
