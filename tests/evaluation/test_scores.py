"""Scores of others are read by their id, index or role, and a bad file is one line."""

import json
from pathlib import Path

import pytest

from rm_plugin.evaluation.benchmarks import load_benchmark
from rm_plugin.evaluation.harness import evaluate_scores
from rm_plugin.evaluation.scores import read_scores


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PAIR = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
LINE = {"id": "0", "index": 0, "role": "chosen", "score": 1.0}
OTHER = {"id": "0", "index": 1, "role": "rejected", "score": 0.0}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([LINE], "1 of 2 completions of '0' have no line"),
        ([LINE, OTHER, {**LINE, "id": "7"}], "line 3: no comparison has the id '7'"),
        ([LINE, LINE], "line 2: chosen 0 of '0' is there twice"),
        ([LINE, {**OTHER, "index": 3}], "give each completion its line"),
        ([LINE, {**OTHER, "score": float("nan")}], "score is nan"),
        ([LINE, {**OTHER, "score": True}], "score is True"),
        ([LINE, {**OTHER, "score": "1"}], "score is '1'"),
        ([LINE, {**OTHER, "role": "worse"}], "role is chosen or rejected"),
        ([LINE, {**OTHER, "index": True}], "index a number from 0"),
        ([{"id": "0", "score": 1.0}], 'a line is {"id", "index", "role", "score"}'),
    ],
)
def test_a_bad_file_of_scores_gets_one_line(tmp_path, lines, said):
    path = write_lines(tmp_path / "scores.jsonl", lines)
    with pytest.raises(ValueError) as error:
        evaluate_scores(path, "preference", [PAIR])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_index_counts_completions_or_those_of_a_role(tmp_path):
    data = load_benchmark("preference", [{"prompt": "2+2=", "completions": ["5", "4", "3"], "ranks": [1, 0, 1]}])
    by_position = [("rejected", 0, 5.0), ("chosen", 1, 4.0), ("rejected", 2, 3.0)]
    by_role = [("chosen", 0, 4.0), ("rejected", 0, 5.0), ("rejected", 1, 3.0)]
    for lines in (by_position, by_role):
        rows = [{"id": "0", "index": index, "role": role, "score": score} for role, index, score in lines]
        assert read_scores(write_lines(tmp_path / "scores.jsonl", rows), data.comparisons)[0].tolist() == [
            5.0,
            4.0,
            3.0,
        ]
