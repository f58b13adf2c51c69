"""Themis: accuracies of published models by aspect, language and source."""

import json

import pytest
from benchmark_schemas import aggregate
from pyarrow import parquet

from rm_plugin.evaluation.benchmarks import load_benchmark


@pytest.mark.parametrize("model", ["ArmoRM-Llama3-8B-v0.1", "SkyworkV2-Qwen-0.6B", "internlm2-1_8-b-reward"])
def test_themis_accuracies_of_three_published_models(shared_data, model):
    folder = shared_data / "themis_scores" / model
    table = parquet.read_table(folder / "scores.parquet").to_pylist()
    published = json.loads((folder / "results.json").read_text())
    about = ("language", "aspect", "subset")
    rows = [
        {"prompt": f"P{i}", "chosen": "a", "rejected": "b", "id": str(i), **{key: row[key] for key in about}}
        for i, row in enumerate(table)
    ]
    data = load_benchmark("themis-coderewardbench", rows)
    scored = [
        (c, [row["chosen_score"], row["rejected_score"]]) for c, row in zip(data.comparisons, table, strict=True)
    ]
    results = aggregate(data.benchmark, scored)
    assert round(results["score"], 4) == published["overall"]["accuracy"] and not results["missing"]
    for level, by in (("aspect", "by_aspect"), ("language", "by_language"), ("source", "by_subset")):
        for name, one in published[by].items():
            found = results["subsets"][f"{level}/{name}"]
            assert (round(found["accuracy"], 4), found["num_items"]) == (one["accuracy"], one["count"])
    assert len(results["subsets"]) == 1 + 5 + 8 + 19
