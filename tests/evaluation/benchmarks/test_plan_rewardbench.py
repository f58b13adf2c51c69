"""Plan-RewardBench: its splits are averaged, a tie counts a half, published files are read."""

import datasets
import numpy as np
import pytest
from benchmark_schemas import NAN, SCHEMAS, aggregate, pair, write

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


@pytest.mark.parametrize(
    ("bucket", "split"),
    [  # as the seven files of github.com/wyy-1112/Plan-RewardBench have them
        *[(name, name) for name in ("planning_single_easy", "planning_single_hard")],
        *[(name, name) for name in ("planning_multi_easy", "planning_multi_hard")],
        ("planning_robustness", "robust_recovery"),
        ("refusal", "safety_refusal"),
        ("irrelevance_unavailable", "tool_irrelevance"),
    ],
)
def test_a_trajectory_is_of_the_split_that_its_bucket_or_its_file_names(bucket, split, tmp_path):
    row = SCHEMAS["plan-rewardbench"][1][0]
    published = {**row, "_lcp_bucket": bucket}
    sources = [[published], datasets.Dataset.from_list([published]), write(tmp_path / "all.jsonl", [published])]
    for other in ({}, {"_lcp_bucket": "of another version"}):
        sources.append(write(tmp_path / str(len(sources)) / f"{split}.jsonl", [{**row, **other}]))
    for source in sources:
        assert [one.subset for one in load_benchmark("plan-rewardbench", source).comparisons] == [split]
    with pytest.raises(ValueError, match="split='of another version' is not known; use one of 'planning_single_easy'"):
        load_benchmark("plan-rewardbench", [{**row, "_lcp_bucket": "of another version"}])
