"""Candidates of any generator are read; the curve, pairs and winners of best-of-n are worked by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rm_plugin.loops.candidates import (
    BestOfN,
    answer_is_right,
    print_summary,
    read_candidates,
    summarize,
    to_preferences,
    to_sft,
)
from rm_plugin.metrics.statistics import wilson_interval


def result(scores, gold=None, completions=None, index=0, prompt="p", **fields):
    values = np.array(scores, dtype=float)
    ranks = [int((values > value).sum()) for value in values]
    completions = completions or [f"c{i}" for i in range(len(scores))]
    return BestOfN(index, prompt, completions, scores, ranks, int(values.argmax()), gold, **fields)


VLLM = SimpleNamespace(
    prompt="1 + 1 =",
    outputs=[SimpleNamespace(text="2", finish_reason="stop"), SimpleNamespace(text="3", finish_reason="length")],
)


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "1 + 1 =", "completions": ["2", "3"]}],
        [{"prompt": "1 + 1 =", "completion": "2"}, {"prompt": "1 + 1 =", "completion": "3"}],
        [{"prompt": "1 + 1 =", "outputs": ["2", "3"]}],
        [{"prompt": "1 + 1 =", "outputs": [{"text": "2", "finish_reason": "stop"}, {"text": "3"}]}],
        [{"prompt": "1 + 1 =", "choices": [{"message": {"content": text}} for text in "23"]}],
        [{"prompt": "1 + 1 =", "choices": [SimpleNamespace(message=SimpleNamespace(content=text)) for text in "23"]}],
        [{"prompt": "1 + 1 =", "choices": [{"message": {"content": text, "tool_calls": None}} for text in "23"]}],
        [{"question": "1 + 1 =", "responses": ["2", "3"]}],
        [VLLM],
    ],
    ids=[
        "completions",
        "completion",
        "texts",
        "vllm",
        "openai",
        "openai objects",
        "openai nulls",
        "responses",
        "RequestOutput",
    ],
)
def test_candidates_of_any_generator_are_read(rows):
    [group] = read_candidates(rows)
    assert (group.prompt, group.completions, group.ranks) == ("1 + 1 =", ["2", "3"], None)


def test_finish_reasons_gold_and_systems_are_kept():
    unknown = {"answer": None, "gold": [None, None], "systems": [None, None], "truncated": [None, None]}
    assert read_candidates([VLLM])[0].metadata == {**unknown, "truncated": [False, True]}
    rows = [{"prompt": "p", "completion": c, "gold": c == "2", "systems": c * 2} for c in "23"]
    assert read_candidates(rows)[0].metadata == {**unknown, "gold": [1.0, 0.0], "systems": ["22", "33"]}
    [labelled] = read_candidates([{"prompt": "p", "chosen": "a", "rejected": ["b", "c"]}])
    assert labelled.metadata["gold"] == [1.0, 0.0, 0.0]
    assert labelled.metadata["systems"] == ["chosen", "rejected", "rejected"]


def test_rows_of_one_prompt_with_other_tools_or_variables_are_other_candidates():
    tools = [{"type": "function", "function": {"name": "add"}}]
    chat = [{"role": "user", "content": "2 + 2?"}]
    rows = [
        {"prompt": chat, "completion": "a"},
        {"prompt": chat, "completion": "b", "tools": tools},
        {"prompt": chat, "completion": "c", "chat_template_kwargs": {"enable_thinking": False}},
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}], "name": None}],
            "completion": "d",
        },
        {"prompt": chat, "completion": "e", "tools": json.dumps(tools)},
    ]
    groups = [[text[0]["content"] for text in group.completions] for group in read_candidates(rows)]
    assert groups == [["a", "d"], ["b", "e"], ["c"]]


def test_the_curve_worked_by_hand():
    results = [result([0.1, 0.2, 0.3], [0.0, 1.0, 0.0]), result([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], index=1)]
    curve = summarize(results)["curve"]
    assert curve["n"] == [1, 2, 3]
    assert curve["kl_bound"] == pytest.approx([0, 0.193147, 0.431946], abs=1e-6)  # ln n − (n − 1)/n
    # Prompt 1: best of 2 is sample 2 once in three subsets. Prompt 2: the two tied best share, ½ in every subset.
    assert curve["gold"] == pytest.approx([1 / 3, (1 / 3 + 1 / 2) / 2, 1 / 4])
    assert curve["oracle"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve["gain"] == pytest.approx([0, 1 / 12, -1 / 12])
    assert curve["regret"] == pytest.approx([0, 1 / 4, 3 / 4])
    assert curve["reward"] == pytest.approx([(0.2 + 2 / 3) / 2, (0.8 / 3 + 1) / 2, (0.3 + 1) / 2])


def test_a_summary_counts_ties_duplicates_truncation_and_what_is_not_scored():
    results = [
        result([1.0, 1.0], completions=["a", "a"], truncated=[True, False]),
        BestOfN(1, "q", ["a", "b"], [None, 2.0], [1, 0], 1),
        BestOfN(2, "r", ["a", "b"], [None, None], [0, 0], None),  # without scores, so not tied
    ]
    summary = summarize(results)
    assert summary["num_tied_prompts"] == 1 and summary["duplicate_rate"] == 1 / 6
    assert summary["truncated_rate"] == 0.5 and summary["num_unscored"] == 3 and summary["num_prompts_left_out"] == 2


def test_a_curve_of_gold_values_is_over_the_prompts_that_have_them(capsys):
    known = [result([1.0, 2.0], gold=[0.0, 1.0], index=i, prompt=f"p{i}") for i in range(6)]
    summary = summarize([*known, result([1.0, 2.0], index=6, prompt="unknown")])
    assert summary["num_prompts_left_out"] == 1
    assert summary["curve"]["gold"] == [0.5, 1.0]
    assert summary["curve"]["gold_low"][1] == pytest.approx(wilson_interval(6, 6)[0])  # all right, yet six only
    print_summary(summary)
    assert "1 prompts left out" in capsys.readouterr().out
    copies = [result([1.0, 2.0], gold=[0.0, float(i % 2)], index=i, prompt=f"p{i % 6}") for i in range(84)]
    spread = summarize(copies)["curve"]
    assert spread["gold_high"][1] - spread["gold_low"][1] > 0.5  # six prompts, not eighty-four


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("18 - 4 = 14, the answer is $1,014.00.", "#### 1014", True),
        ("The answer is 14 of 15", "14", False),
        ("I do not know", "14", False),
        ("It is -3", -3, True),
        ([{"role": "assistant", "content": "It is Paris."}], "paris", True),
        ("It is not", "Paris", False),
        ("from 2010-2014", "2014", True),
        ("from 2010-2014", "-2014", False),
        ("2010–2014", 2014, True),
        ("(-3)", -3, True),
        ("x = −3.5", "-3.5", True),
        ("f(2)-3", 3, True),
        ("2,3", "23", False),
        ("2,3", "3", True),
        ("12,345", "12345", True),
        ("1,234,567.5", "1234567.5", True),
        ("1234,567", "1234567", False),
        ("1,23", "123", False),
        ("1e5", "5", False),
        ("1e5", "100000", True),
        ("2.5E-3", 0.0025, True),
        ("3/4", "1/4", False),
        ("3/4", "0.75", True),
        ("\\boxed{\\frac{3}{4}}", "\\frac{1}{4}", False),
        ("\\dfrac{3}{4}", "3/4", True),
        ("-1/2", "-0.5", True),
        ("on 3/4/2020", "2020", True),
        ("1/0", "0", False),
        (".5", "0.5", True),
        ("-.5", "-0.5", True),
        ("It is 1000001", "1000000", False),
        ("100000000000000000001", "100000000000000000000", False),
        ("1234567.5", "1234567", False),
        ("It is 0.333333", "0.3333333", True),
        ("-$5", -5, True),
        ("18-$5", 5, True),
        ("1{,}234", "1234", True),
        ("10,\\!000", "10000", True),
        ("1\u202f234", "1234", True),
        ("3 \\times 10^{5}", "300000", True),
        ("3 × 10^-2", "0.03", True),
        ("2e99999999999999999999", "2", False),
        ("\\frac12", "1/2", True),
        ("\\frac12", "12", False),
        ("They are 2 and 3", "2, 3", True),
        ("They are 5 and 3", "2, 3", False),
        ("[1, 2]", "(1,2)", True),
        ("3", "2, 3", False),
        ("first 7, then 4", "7 - 3 = 4", True),
        ("I play the piano", "no", False),
        ("The answer is banana", "A", False),
        ("The answer is (A).", "A", True),
        ("anything", "+", None),
        ("答案是巴黎。", "巴黎", True),
        ("巴黎の人", "巴黎", False),
    ],
)
def test_an_answer_is_compared_by_its_last_number_or_its_words(completion, answer, right):
    assert answer_is_right(completion, answer) is right


def test_pairs_are_best_versus_worst_without_ties_and_duplicates():
    results = [
        result([1.0, 3.0, 2.0], index=0, prompt="p"),
        result([1.0, 3.0, 2.0], index=1, prompt="p"),  # the same prompt and texts again
        result([1.0, 1.0], index=2, prompt="all scores equal"),
        result([1.0, 2.0], completions=["a", " a "], index=3, prompt="white space only"),
        BestOfN(4, "nothing scored", ["a", "b"], [None, None], [0, 0], None),
        BestOfN(5, "one not scored", ["a", "b", "c"], [2.0, None, 1.0], [0, 2, 1], 0),
    ]
    assert to_preferences(results) == [
        {"prompt": "p", "chosen": "c1", "rejected": "c0", "score_chosen": 3.0, "score_rejected": 1.0},
        {"prompt": "one not scored", "chosen": "a", "rejected": "c", "score_chosen": 2.0, "score_rejected": 1.0},
    ]


def test_winners_are_given_once_and_never_empty():
    results = [result([1.0, 3.0]), result([1.0, 3.0], index=1), result([3.0, 1.0], completions=["", "a"], index=2)]
    assert to_sft(results) == [{"prompt": "p", "completion": "c1", "score": 3.0}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no candidates"),
        ([{"completions": ["a"]}], "row 0: there is no prompt"),
        ([{"prompt": "p"}], "row 0: `chosen` and `rejected` missing .found: prompt.; a preference row has"),
        ([{"prompt": "p", "completions": []}], "row 0: `completions` is an empty list"),
        (
            [{"prompt": "p", "outputs": [{"tokens": [1]}]}],
            r"row 0: `outputs.0.` is null; it must be text or a list of messages",
        ),
        ([{"prompt": "p", "completions": ["a", "b"], "gold": [1.0]}], "1 gold for 2 completions"),
        (["p"], "row 0: the row is .p.; a row is a dict from column name to value"),
    ],
)
def test_bad_candidates_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        read_candidates(rows)
