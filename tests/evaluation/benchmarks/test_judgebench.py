"""JudgeBench: micro and macro means, and the accuracies of published models."""

import csv

import pytest
from benchmark_schemas import aggregate, by_length, pair

from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark


def test_judgebench_reports_micro_and_macro():
    scored = [(pair("knowledge", i), [1.0, 0.0]) for i in range(3)] + [(pair("math"), [0.0, 1.0])]
    results = aggregate(BENCHMARKS["judgebench"], scored)
    assert (results["score"], results["sections"]["micro"], results["sections"]["macro"]) == (0.75, 0.75, 0.5)


def test_judgebench_accuracies_of_three_published_models(shared_data):
    data = load_benchmark("judgebench", shared_data / "judgebench" / "gpt.jsonl")
    assert len(data.comparisons) == 350 and aggregate(data.benchmark, by_length(data.comparisons))["missing"] == []
    scores: dict[str, dict] = {}
    with (shared_data / "judgebench" / "reference_scores.csv").open() as file:
        for row in csv.DictReader(file):
            a, b = float(row["score_A"]), float(row["score_B"])
            scores.setdefault(row["model"], {})[row["pair_id"]] = [a, b] if row["label"] == "A>B" else [b, a]
    found = {
        model.split("/")[1]: 100 * aggregate(data.benchmark, [(c, by_id[c.id]) for c in data.comparisons])["score"]
        for model, by_id in scores.items()
    }
    assert found == pytest.approx(
        {"GRM-Gemma-2B-rewardmodel-ft": 59.43, "Skywork-Reward-Llama-3.1-8B": 62.29, "internlm2-20b-reward": 63.43},
        abs=0.005,
    )
