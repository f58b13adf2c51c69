"""LLMBar: its sets are averaged, its repository's layout and published files are read."""

import numpy as np
import pytest
from benchmark_schemas import aggregate, by_length, pair, write

from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark


def test_llmbar_averages_sets():
    scored = [(pair("Natural", i), [1.0, 0.0]) for i in range(3)]
    scored += [(pair("Manual"), [0.0, 1.0]), (pair("GPTOut"), [1.0, 0.0])]
    results = aggregate(BENCHMARKS["llmbar"], scored)
    assert results["score"] == pytest.approx(2 / 3)
    assert (results["sections"]["adversarial"], results["sections"]["micro"]) == (0.5, 0.8)
    processed = aggregate(BENCHMARKS["llmbar"], [(pair("MTBench"), [1.0, 0.0])])
    assert "adversarial" not in processed["sections"] and "Natural" in processed["missing"]


def test_llmbar_files(shared_data):
    data = load_benchmark("llmbar", shared_data / "llmbar")
    assert len(data.comparisons) == 419
    longer = {}
    for comparison, (chosen, rejected) in by_length(data.comparisons):
        longer.setdefault(comparison.subset, []).append((chosen > rejected) + 0.5 * (chosen == rejected))
    assert {name: len(values) for name, values in longer.items()} == {
        "GPTInst": 92, "GPTOut": 47, "Manual": 46, "Neighbor": 134, "Natural": 100,
    }  # fmt: skip
    found = {name: 100 * np.mean(values) for name, values in longer.items() if name != "GPTOut"}
    assert found == pytest.approx({"Neighbor": 11.9, "GPTInst": 13.0, "Manual": 18.5, "Natural": 56.5}, abs=0.05)


def test_llmbar_is_read_in_the_layout_of_its_repository(tmp_path):
    row = {"input": "Q", "output_1": "a", "output_2": "b", "label": 1}
    write(tmp_path / "Natural" / "dataset.json", [row])
    write(tmp_path / "Adversarial" / "GPTOut" / "dataset.json", [row])
    write(tmp_path / "dataset_infos.json", {"default": {}})  # what `datasets` writes beside the data
    write(tmp_path / ".cache" / "dataset.json", [row])
    assert [c.subset for c in load_benchmark("llmbar", tmp_path).comparisons] == ["GPTOut", "Natural"]
