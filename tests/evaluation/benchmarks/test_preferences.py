"""Sets of preferences on the hub: what their rows pair up, published files."""

import pytest
from benchmark_schemas import SCHEMAS

from rm_plugin.evaluation.benchmarks import as_messages, load_benchmark


def test_hh_harmless_file(shared_data):
    data = load_benchmark("hh-rlhf-harmless", shared_data / "hh_rlhf_harmless")
    assert len(data.comparisons) == 2312
    assert sum(c.prompt == "" for c in data.comparisons) == 5
    assert sum("" in [text.strip() for text in c.completions] for c in data.comparisons) == 4
    assert all(as_messages(c).completions[0][-1]["role"] == "assistant" for c in data.comparisons)


def test_a_null_prompt_of_helpsteer2_costs_its_own_row_and_its_neighbour():
    first, second, *tie = SCHEMAS["helpsteer2"][1]
    rows = [{**first, "prompt": None}, {**second, "prompt": None}, first, second, *tie]
    data = load_benchmark("helpsteer2", rows, on_bad_row="skip")
    assert [(c.prompt, c.chosen) for c in data.comparisons] == [("P", ["b"])]
    causes = [cause.split(" (found")[0] for cause in data.bad_rows]
    assert causes == ["row 0: column 'prompt' is missing", "row 1: column 'prompt' is missing"]
    assert data.num_rows == 6 and data.no_preference == [3]


def test_four_responses_of_one_prompt_of_helpsteer2_are_two_pairs():
    responses = [("a", 1), ("b", 2), ("c", 2), ("d", 1)]
    rows = [{**SCHEMAS["helpsteer2"][1][0], "response": text, "helpfulness": by} for text, by in responses]
    data = load_benchmark("helpsteer2", rows)
    assert [(c.chosen, c.rejected) for c in data.comparisons] == [(["b"], ["a"]), (["c"], ["d"])]
    with pytest.raises(ValueError, match="row 1: no neighbour has the same prompt"):
        load_benchmark("helpsteer2", rows[:3])
