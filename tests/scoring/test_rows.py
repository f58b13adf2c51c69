"""Rows of every kind get their scores, and a bad one its reason."""

import csv
import json

import pytest
from models import tiny_reward_model, tiny_tokenizer
from scored_rows import CHAT, MIXED, PAIRS, lengths, read, write

from rm_plugin.scoring.corpus import score_dataset
from rm_plugin.scoring.rewards import as_reward
from rm_plugin.scoring.scorer import RewardScorer


@pytest.fixture(scope="module")
def scorer():
    return RewardScorer(tiny_reward_model(), tiny_tokenizer("chatml"), truncation_mode="drop")


def test_every_kind_of_row_gets_its_scores_and_a_bad_one_its_reason(tmp_path, scorer):
    counts = score_dataset(write(tmp_path / "in.jsonl", MIXED), scorer, tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [{k: row[k] for k in line} for row, line in zip(rows, MIXED, strict=True)] == MIXED
    plain, chat = (
        scorer.score(["2 + 2 ="] * 3, [" 4", " 5", " four"]).tolist(),
        scorer.score([CHAT[:1]], [CHAT[1:]])[0],
    )
    assert rows[0]["score"] == pytest.approx(plain[0], abs=1e-5) and rows[0]["scores"] is None
    assert rows[1]["scores"] == pytest.approx(plain[:2], abs=1e-5)
    assert rows[2]["margin"] is not None and rows[2]["score"] is None
    assert rows[2]["score_chosen"] == pytest.approx([plain[0], plain[2]], abs=1e-5)
    assert rows[2]["score_rejected"] == pytest.approx(plain[1], abs=1e-5)
    assert rows[2]["margin"] == pytest.approx((plain[0] + plain[2]) / 2 - plain[1], abs=1e-5)
    for row in rows[3:6]:
        assert row["score"] == pytest.approx(chat, abs=1e-5)
    assert rows[7]["scores"][0] == pytest.approx(plain[0], abs=1e-5) and rows[7]["scores"][1] is None
    reasons = [row["score_reason"] for row in rows]
    assert reasons[:6] == [None] * 6 and "`completion` is empty" in reasons[6]
    assert reasons[7] == "completion 1 is over max_length=256" and "missing (found: text)" in reasons[8]
    assert counts == {"rows": 9, "completions": 13, "unscored": 3}


def test_columns_of_other_names_and_labelled_answers_are_pairs_too(scorer):
    rows = [{"q": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in PAIRS]
    expected = score_dataset(PAIRS, scorer)["margin"]
    words = ["prompt=q", "chosen=good", "rejected=bad"]
    found = score_dataset(rows, scorer, columns=words)
    assert list(found["margin"]) == pytest.approx(list(expected), abs=1e-5)
    assert found.column_names == ["q", "good", "bad", "score_chosen", "score_rejected", "margin", "score_reason"]


def test_a_bad_row_stops_where_asked_and_rows_of_nothing_always(tmp_path, scorer):
    source = write(tmp_path / "in.jsonl", [*PAIRS[:3], {"prompt": "p", "completion": " "}, *PAIRS[3:]])
    with pytest.raises(ValueError, match=f"{source} row 3: `completion` is empty"):
        score_dataset(source, scorer, tmp_path / "out.jsonl", on_bad_row="error", rows_per_chunk=2)
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(ValueError, match="row 0: `chosen` and `rejected` missing"):
        score_dataset([{"text": "a"}] * 3, scorer, tmp_path / "other.jsonl")
    strict = RewardScorer(scorer.model, scorer.processing_class, max_length=20)
    with pytest.raises(ValueError, match="row 1: .* max_length is 20"):
        score_dataset([PAIRS[0], PAIRS[2]], strict, on_bad_row="error")
    assert [row["score_reason"] is None for row in score_dataset([PAIRS[0], PAIRS[2]], strict)] == [True, False]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has 0 rows|0 rows"),
        ([{**PAIRS[0], "margin": 1.0}], "the list has a column 'margin', which would be overwritten; rename it"),
        ([{"prompt": "p", "completions": ["a"], "scores": [1.0]}], "the list has a column 'scores'"),
    ],
)
def test_rows_that_cannot_be_annotated_are_refused(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        score_dataset(rows, lengths, tmp_path / "out.jsonl")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([{**PAIRS[0], "score": 0.9}, {"prompt": "p", "completion": "a"}], "score"),
        ([PAIRS[0]] * 150 + [{**PAIRS[0], "margin": 1.0}], "margin"),
    ],
)
def test_a_column_that_scores_of_any_row_would_overwrite_is_refused_before_the_work(rows, column, tmp_path):
    source = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(ValueError, match=f"{source} has a column '{column}', which would be overwritten; rename it"):
        score_dataset(source, lambda prompts, completions: pytest.fail("work was begun"), tmp_path / "out.jsonl")


def test_conversations_that_a_csv_file_holds_as_json_are_read_and_other_text_is_none(tmp_path):
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(CHAT)], [repr(CHAT)], ["Human: 2 + 2?"]])
    score_dataset(tmp_path / "in.csv", as_reward(lengths, "named"), tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [row["score"] for row in rows] == [len(str(CHAT[1:]))] * 2 + [None]
    assert rows[2]["score_reason"] == '`messages` is "Human: 2 + 2?"; give a list of messages, or one written as JSON'


def test_a_row_of_lists_that_differ_in_length_is_null(tmp_path):
    source = write(tmp_path / "in.jsonl", [PAIRS[0], {"prompt": ["a"], "completions": ["x", "y"]}])
    assert score_dataset(source, lengths, tmp_path / "out.jsonl")["unscored"] == 1
    assert (
        read(tmp_path / "out.jsonl")[1]["score_reason"]
        == 'message 0 of `prompt` is "a"; a message is a dict with `role` and `content`'
    )
