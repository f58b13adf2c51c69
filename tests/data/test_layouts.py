"""Layouts that people have, as they are published: columns of other names, labels, votes, trees, objects of lists."""

import json

import pytest
from datasets import Dataset
from models import assistant, user

from rm_plugin.data.comparison import BadRow, Comparison, to_comparison
from rm_plugin.data.layouts import BadLayout, read_columns, select_columns, usual_row, usual_rows
from rm_plugin.data.sources import load_rows
from rm_plugin.evaluation.benchmarks import load_benchmark

PLAN_CALL = "{'name': 'add', 'arguments': '{\"a\": 2}'}"
CALL = {**assistant(""), "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]}
TREE = {
    "message_id": "t1",
    "text": "Sky?",
    "role": "prompter",
    "replies": [
        {"message_id": "r1", "text": "Blue.", "role": "assistant", "rank": 1, "replies": []},
        {
            "message_id": "r2",
            "text": "Blue by day.",
            "role": "assistant",
            "rank": 0,
            "replies": [
                {
                    "message_id": "t2",
                    "text": "And by night?",
                    "role": "prompter",
                    "replies": [
                        {"text": "Black.", "role": "assistant", "rank": 0},
                        {"text": "Dark.", "role": "assistant", "rank": 2},
                        {"text": "Spam", "role": "assistant", "rank": 1, "deleted": True},
                        {"text": "Later", "role": "assistant", "rank": None},
                    ],
                }
            ],
        },
    ],
}

# The file as it is published, what has to be said of its columns, and its comparisons.
LAYOUTS = {
    "LLMBar": (
        [{"input": "2 + 2?", "output_1": "5", "output_2": "4", "label": 2}],
        [],
        [Comparison("2 + 2?", ["5", "4"], ranks=[1, 0])],
    ),
    "HHH": (
        [{"input": "2 + 2?", "targets": {"choices": ["4", "5"], "labels": [1, 0]}}],
        [],
        [Comparison("2 + 2?", ["4", "5"], ranks=[0, 1])],
    ),
    "Auto-J": (
        [
            {"scenario": "math", "label": label, "prompt": "2 + 2?", "response 1": "4", "response 2": "four"}
            for label in (0, 1, 2)
        ],
        ["label=label:0/1/2", "subset=scenario"],
        [Comparison("2 + 2?", ["4", "four"], ranks=ranks, subset="math") for ranks in ([0, 1], [1, 0], [0, 0])],
    ),
    "PandaLM": (
        [
            {
                **{"idx": i, "instruction": "Add.", "input": given, "response1": "4", "response2": "5"},
                **{f"annotator{n}": vote for n, vote in enumerate(votes, start=1)},
            }
            for i, (given, votes) in enumerate([("2 + 2", [1, 1, 2]), (float("nan"), [2, 0, 2]), ("2", [0, 1, 2])])
        ],
        ["prompt=instruction+input", "label=annotator1+annotator2+annotator3:1/2/0", "id=idx"],
        [
            Comparison("Add.\n2 + 2", ["4", "5"], ranks=[0, 1], id="0"),
            Comparison("Add.", ["4", "5"], ranks=[1, 0], id="1"),
            Comparison("Add.\n2", ["4", "5"], ranks=[0, 0], id="2"),
        ],
    ),
    "EvalBiasBench": (
        {
            bias: [{"bias": bias, "instruction": "2 + 2?", "response1": "4", "response2": "four, surely", "label": 1}]
            * 2
            for bias in ("length bias", "concreteness")
        },
        [],
        [
            Comparison("2 + 2?", ["4", "four, surely"], ranks=[0, 1], subset=bias)
            for bias in ("length bias", "length bias", "concreteness", "concreteness")
        ],
    ),
    "XSTest": (
        [
            {
                "id": "v2-1",
                "type": "homonyms",
                "prompt": "Kill a process?",
                "label": "safe",
                "yes": "kill 1",
                "no": "No.",
            },
            {"id": "v2-2", "type": "contrast", "prompt": "Kill a man?", "label": "unsafe", "yes": "Yes.", "no": "No."},
        ],
        {"response_1": "yes", "response_2": "no", "label": "label:safe/unsafe", "subset": "type"},
        [
            Comparison("Kill a process?", ["kill 1", "No."], ranks=[0, 1], id="v2-1", subset="homonyms"),
            Comparison("Kill a man?", ["Yes.", "No."], ranks=[1, 0], id="v2-2", subset="contrast"),
        ],
    ),
    "HumanEvalPack": (
        [
            {
                **{"task_id": "Python/0", "prompt": "def f(x):\n", "declaration": "def f(x):", "docstring": "x + 1"},
                **{"canonical_solution": "return x + 1", "buggy_solution": "return x", "bug_type": "missing logic"},
                "instruction": "Write f.",
            }
        ],
        [
            "prompt=instruction",
            "chosen=canonical_solution",
            "rejected=buggy_solution",
            "id=task_id",
            "subset=bug_type",
        ],
        [Comparison("Write f.", chosen="return x + 1", rejected="return x", id="Python/0", subset="missing logic")],
    ),
    "Plan-RewardBench": (
        [
            {
                **{"query": "2 + 2?", "tools": [{"name": "add"}], "uuid": "u", "_lcp_bucket": "planning"},
                "chosen": {
                    "messages": [
                        user("2 + 2?"),
                        {"role": "tool_call", "content": PLAN_CALL},
                        {"role": "tool_response", "content": "4", "name": "add"},
                        assistant("4"),
                    ]
                },
                "reject": {"messages": [user("2 + 2?"), assistant("5")]},
            }
        ],
        [],
        [
            Comparison(
                [user("2 + 2?")],
                chosen=[CALL, {"role": "tool", "content": "4", "name": "add"}, assistant("4")],
                rejected=[assistant("5")],
                tools=[{"name": "add"}],
            )
        ],
    ),
    "text_chosen": (
        [{"text_chosen": "4", "text_rejected": "5", "question": "2 + 2?", "domain": "math", "context": "unused"}],
        ["chosen=text_chosen", "rejected=text_rejected", "prompt=question", "subset=domain"],
        [Comparison("2 + 2?", chosen="4", rejected="5", subset="math")],
    ),
    "OASST trees": (
        [{"message_tree_id": "t1", "tree_state": "ready_for_export", "prompt": TREE}],
        [],
        [
            Comparison([user("Sky?")], ["Blue.", "Blue by day."], ranks=[1, 0], id="t1"),
            Comparison(
                [user("Sky?"), assistant("Blue by day."), user("And by night?")],
                ["Black.", "Dark."],
                ranks=[0, 2],
                id="t2",
            ),
        ],
    ),
    "MT-bench": (
        [
            {
                **{"question_id": 81, "model_a": "gpt", "model_b": "llama", "winner": winner, "judge": "expert"},
                "conversation_a": [user("2 + 2?"), assistant("4"), user("3 + 3?"), assistant("6")],
                "conversation_b": [user("2 + 2?"), assistant("5"), user("3 + 3?"), assistant("7")],
            }
            for winner in ("model_a", "model_b", "tie (inconsistent)")
        ],
        [],
        [
            Comparison(
                [user("2 + 2?")],
                [[assistant(a), user("3 + 3?"), assistant(b)] for a, b in ("46", "57")],
                ranks=ranks,
            )
            for ranks in ([0, 1], [1, 0], [0, 0])
        ],
    ),
    "MT-bench with turns": (
        [
            {
                **{"question_id": 81, "model_a": "gpt", "model_b": "llama", "winner": "model_a", "turn": turn},
                "conversation_a": [user("2 + 2?"), assistant("4"), user("3 + 3?"), assistant("6")],
                "conversation_b": [user("2 + 2?"), assistant("5"), user("3 + 3?"), assistant("7")],
            }
            for turn in (1, 2)
        ],
        [],
        [
            Comparison([user("2 + 2?")], [[assistant("4")], [assistant("5")]], ranks=[0, 1]),
            Comparison(
                [user("2 + 2?")],
                [[assistant(a), user("3 + 3?"), assistant(b)] for a, b in ("46", "57")],
                ranks=[0, 1],
            ),
        ],
    ),
    "an object of columns": (
        {"prompt": ["1 + 1?", "2 + 2?"], "chosen": ["2", "4"], "rejected": ["3", "5"]},
        [],
        [Comparison("1 + 1?", chosen="2", rejected="3"), Comparison("2 + 2?", chosen="4", rejected="5")],
    ),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_is_read_as_its_comparisons(name, streaming, tmp_path):
    published, columns, expected = LAYOUTS[name]
    for kind, text in (
        ("json", json.dumps(published, indent=1)),
        (
            "jsonl",
            "".join(json.dumps(row) + "\n" for row in (published if isinstance(published, list) else [published])),
        ),
    ):
        path = tmp_path / f"a.{kind}"
        path.write_text(text)
        assert list(map(to_comparison, load_rows(path, columns=columns, streaming=streaming))) == expected
    preferred = [comparison for comparison in expected if comparison.pairs()]
    data = load_benchmark("preference", path, columns=columns)
    assert [(c.prompt, c.chosen) for c in data.comparisons] == [(c.prompt, c.chosen) for c in preferred]
    assert len(data.no_preference) == len(expected) - len(preferred)


def test_a_published_layout_is_read_from_a_list_and_a_data_set():
    published, columns, expected = LAYOUTS["PandaLM"]
    in_arrow = [{**row, "input": row["input"] if isinstance(row["input"], str) else None} for row in published]
    for source in (published, Dataset.from_list(in_arrow)):
        assert list(map(to_comparison, load_rows(source, columns=columns))) == expected


def test_llmbar_and_plan_rewardbench_are_read_whole(shared_data):
    llmbar = [to_comparison(row, i) for i, row in enumerate(load_rows(shared_data / "llmbar" / "Natural.json"))]
    assert len(llmbar) == 100 and all(len(comparison.pairs()) == 1 for comparison in llmbar)
    rows = load_rows(shared_data / "plan_rewardbench")
    plan = [to_comparison(row, i) for i, row in enumerate(rows)]
    assert len(plan) == 253 and all(comparison.tools for comparison in plan)
    prompts = {json.dumps(comparison.prompt) for comparison in plan}
    assert len(prompts) == 127 == len(set(rows["query"]))  # a query is one cluster, and judges see it
    assert all(comparison.prompt[-1]["role"] == "user" for comparison in plan)
    calls = [turn for one in plan for text in one.completions for turn in text if turn.get("tool_calls")]
    assert all(isinstance(turn["tool_calls"][0]["function"]["arguments"], dict) for turn in calls) and len(calls) > 900


# --- labels

RESPONSES = {"prompt": "2 + 2?", "response_1": "4", "response_2": "5"}
FIRST, SECOND, TIE = [0, 1], [1, 0], [0, 0]


@pytest.mark.parametrize(
    ("label", "ranks"),
    [
        *[
            (label, FIRST)
            for label in (1, "1", 1.0, "1.0", "A", "a", "A>B", "A>>B", "[[A]]", "model_a", "Model A", True)
        ],
        *[(label, FIRST) for label in ("response_1", "response 1", "Response1", "output_a", "first", "true")],
        *[(label, SECOND) for label in (2, "2", 2.0, "B", "B>A", "B >> A", "A<B", "model_b", "assistant_b", False)],
        *[(label, TIE) for label in ("tie", "Tie", "tie (bothbad)", "both", "A=B", "same", "equal", "draw")],
        ([1, 1, 2], FIRST),
        (["B", "A", "B"], SECOND),
        ([1, 2], TIE),
        ([1, 1, 2, "tie"], TIE),  # two of four are no majority
        ("tie (inconsistent)", TIE),
        (["A", "tie", "B"], TIE),
        (["tie", "tie", "B"], TIE),
        ([None, 2, float("nan")], SECOND),
    ],
)
@pytest.mark.parametrize("name", ["label", "winner", "preference"])
def test_a_label_says_which_response_is_better(label, ranks, name):
    comparison = to_comparison({**RESPONSES, name: label})
    assert (comparison.prompt, comparison.completions, comparison.ranks) == ("2 + 2?", ["4", "5"], ranks)


@pytest.mark.parametrize(
    ("values", "label", "ranks"),
    [
        ("0/1", 0, FIRST),
        ("1/0", 0, SECOND),
        ("0/1/2", 2, TIE),
        ("1/2/0", 0, TIE),
        ("Left/Right/Same", "right", SECOND),
        ("true/false", False, SECOND),
        ("false/true", False, FIRST),
        ("1/2/0", [0, 2, 2], SECOND),
        ("-1/1/0", -1, FIRST),
    ],
)
def test_the_values_of_a_label_may_be_said(values, label, ranks):
    row = select_columns({**RESPONSES, "best": label}, read_columns([f"label=best:{values}"]))
    assert to_comparison(row).ranks == ranks


def test_responses_that_are_numbered_from_zero_take_labels_whose_values_are_said():
    row = {"prompt": "2 + 2?", "response_0": "4", "response_1": "5", "better_response_id": 1}
    selected = select_columns(row, read_columns(["label=better_response_id:0/1"]))
    assert to_comparison(selected).chosen == ["5"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("response_1", "response_2"), ("Response A", "Response B"), ("output1", "output2"), ("answer_0", "answer_1")],
)
def test_two_responses_are_known_by_their_usual_names(first, second):
    for question in ("prompt", "question", "instruction", "input", "query"):
        row = {second: "5", first: "4", question: "2 + 2?", "label": "A>B"}
        assert to_comparison(row) == Comparison("2 + 2?", chosen="4", rejected="5")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {**RESPONSES, "label": 0},
            "`label` is 0, which can be read in two ways; say what its values mean",
        ),
        ({**RESPONSES, "label": [1, 0]}, "such as --columns label=label:0/1/2 or label=label:1/2/0"),
        ({**RESPONSES, "label": "left"}, '`label` is "left", not 1, 2, A>B, model_a, tie or the like; say what its'),
        ({**RESPONSES, "label": -1}, '`label` is "-1", not 1, 2'),
        (RESPONSES, "`response_1`, `response_2`: no label says which is better; name it with --columns label=COLUMN"),
        ({**RESPONSES, "label": None, "id": 1}, "no label says which is better"),
        ({**RESPONSES, "label": [None, float("nan")]}, "no label says which is better"),
        ({**RESPONSES, "annotator1": None, "annotator2": None}, "no label says which is better"),
        ({**RESPONSES, "chosen": 2}, "`chosen` is 2 (int) beside `response_1`, `response_2`, and looks like the"),
        ({**RESPONSES, "chosen": "B"}, "such as --columns label=chosen:1/2"),
        ({**RESPONSES, "chosen": 2, "rejected": 1}, "such as --columns label=chosen:1/2"),
        (
            {**RESPONSES, "label": 1, "winner": 1},
            "label and winner look like the label; name it with --columns label=",
        ),
        (
            {**RESPONSES, "response_3": "6", "label": 1},
            "`response_1`, `response_2`, `response_3` are not two responses",
        ),
        (
            {**RESPONSES, "output_1": "6", "output_2": "7", "label": 1},
            "name two with --columns response_1=COLUMN resp",
        ),
        (
            {"prompt": "a", "response_0": "4", "response_1": "5", "label": 1},
            "`label` is 1, which can be read in two ways",
        ),
        ({"prompt": "a", "answer_0": "4", "answer_1": "5", "winner": "answer_1"}, "`winner` is 1, which can be read"),
        (
            {"instruction": "Add.", "input": "2 + 2", "response1": "4", "response2": "5", "label": 1},
            "`instruction` and `input` look like the prompt; name it with --columns prompt=instruction+input",
        ),
        ({"instruction": "Add.", "chosen": "4", "rejected": "5"}, "such as --columns prompt=instruction, or remove"),
    ],
)
def test_what_could_mean_two_things_is_one_line_that_names_columns(row, message):
    with pytest.raises((BadRow, BadLayout)) as refused:
        to_comparison(row, 17)
    assert str(refused.value).startswith("row 17: ") and message in str(refused.value)
    assert "--columns" in str(refused.value) and "\n" not in str(refused.value)


def test_a_label_that_could_mean_two_things_is_not_skipped_as_a_bad_row():
    rows = [{**RESPONSES, "label": label} for label in (1, 2, 0)]
    with pytest.raises(ValueError, match="row 2: `label` is 0, which can be read in two ways"):
        load_benchmark("preference", rows, on_bad_row="skip")
    rows[2]["label"] = "left"
    assert len(load_benchmark("preference", rows, on_bad_row="skip").comparisons) == 2


def test_the_label_of_two_responses_may_be_called_chosen():
    for row in ({"chosen": 2}, {"chosen": 2, "rejected": 1}):
        selected = select_columns({**RESPONSES, **row}, read_columns(["label=chosen:1/2"]))
        assert to_comparison(selected) == Comparison("2 + 2?", ["4", "5"], ranks=[1, 0])
    pair = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "votes": 1}  # without two responses it says nothing
    assert to_comparison(select_columns(pair, {"label": "votes"})) == Comparison("2 + 2?", chosen="4", rejected="5")


# --- one row that holds several

GOOD, BAD = ["good 0", "good 1", "good 2"], ["bad 0", "bad 1", "bad 2"]
CONVERSATIONS = [[[user(f"q{n}"), assistant(text)] for n, text in enumerate(texts)] for texts in (GOOD, BAD)]
COLUMNS_OF_THREE = {  # the object, what has to be said of its columns, prompt and texts of its second comparison
    "texts": ({"chosen": GOOD, "rejected": BAD}, [], ("", "good 1", "bad 1")),
    "texts of other names": (
        {"text_chosen": GOOD, "text_rejected": BAD},
        ["chosen=text_chosen", "rejected=text_rejected"],
        ("", "good 1", "bad 1"),
    ),
    "another name of the prompt": (
        {"q": ["q0", "q1", "q2"], "chosen": GOOD, "rejected": BAD},
        ["prompt=q"],
        ("q1", "good 1", "bad 1"),
    ),
    "two responses": (
        {"question": ["q0", "q1", "q2"], "response_1": BAD, "response_2": GOOD, "label": [2, 2, 2]},
        [],
        ("q1", "good 1", "bad 1"),
    ),
    "transcripts": (
        {side: [f"\n\nHuman: q\n\nAssistant:{text}" for text in texts] for side, texts in
         (("chosen", GOOD), ("rejected", BAD))},
        [],
        ("\n\nHuman: q\n\nAssistant:", "good 1", "bad 1"),
    ),
    "conversations": (
        dict(zip(("chosen", "rejected"), CONVERSATIONS, strict=True)),
        [],
        ([user("q1")], [assistant("good 1")], [assistant("bad 1")]),
    ),
    "prompts that are messages": (
        {"prompt": [[user("q0")], [user("q1")], [user("q2")]], "chosen": GOOD, "rejected": BAD},
        [],
        ([user("q1")], [assistant("good 1")], [assistant("bad 1")]),
    ),
    "lists of completions": (
        {"completions": [list(pair) for pair in zip(BAD, GOOD, strict=True)], "ranks": [[1, 0]] * 3},
        [],
        ("", "good 1", "bad 1"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS_OF_THREE)
def test_an_object_of_columns_is_as_many_comparisons_as_its_columns_are_long(name, tmp_path):
    published, columns, (prompt, better, worse) = COLUMNS_OF_THREE[name]
    for source in in_every_container(published, tmp_path):
        comparisons = [to_comparison(row) for row in load_rows(source, columns=columns)]
        assert [len(one.pairs()) for one in comparisons] == [1, 1, 1]
        assert (comparisons[1].prompt, comparisons[1].chosen, comparisons[1].rejected) == (prompt, [better], [worse])


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        {"completions": ["a", "b"], "ranks": [0, 1]},
        {"completions": [[assistant("a")], [assistant("b")]], "ranks": [0, 1]},
        {"prompt": "q", "chosen": ["a", "b"], "rejected": ["c", "d"]},
        {"chosen": ["a"], "rejected": ["b"]},
    ],
)
def test_a_row_of_lists_that_belong_together_stays_one_row(row, tmp_path):
    for source in in_every_container(row, tmp_path):
        assert [to_comparison(one) for one in load_rows(source)] == [to_comparison(row)]


def test_rows_of_lists_are_columns_only_where_one_is_all_that_there_is(tmp_path):
    rows = [{"chosen": ["a", "b"], "rejected": ["c", "d"]}] * 2
    for source in (rows, Dataset.from_list(rows)):
        assert [len(to_comparison(row).pairs()) for row in load_rows(source)] == [4, 4]
    with pytest.raises(ValueError, match="row 0: its columns have 3, 2 values; give one length, or to the texts"):
        load_rows([{"chosen": GOOD, "rejected": BAD[:2]}])
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": ["a"], "chosen": ["b", "c"]}]
    assert len(load_rows(rows)) == 2, "that one is its row's error"


def in_every_container(row, folder):
    """One row as a list, a table, a file of each kind, a saved table."""
    table = Dataset.from_list([row])
    (folder / "a.json").write_text(json.dumps(row, indent=1))
    (folder / "a.jsonl").write_text(json.dumps(row))
    table.to_parquet(folder / "a.parquet")
    table.save_to_disk(folder / "saved")
    return [[row], table, *(folder / name for name in ("a.json", "a.jsonl", "a.parquet", "saved"))]


@pytest.mark.parametrize("name", ["EvalBiasBench", "OASST trees", "an object of columns"])
def test_what_holds_several_rows_is_read_from_every_container(name, tmp_path):
    published, _, expected = LAYOUTS[name]
    (row,) = published if isinstance(published, list) else [published]
    for source in in_every_container(row, tmp_path):
        assert list(map(to_comparison, load_rows(source))) == expected
        assert len(load_benchmark("preference", source).comparisons) == len(expected)
        if name == "OASST trees" or source != tmp_path / "a.parquet":  # whose columns tell of trees alone
            assert list(map(to_comparison, load_rows(source, streaming=True))) == expected


# --- columns


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["chosn=a"], "columns='chosn' is not known .did you mean chosen.."),
        (["chosen"], "columns has chosen=''; write each once, as OURS=THEIRS"),
        ({"chosen": 3}, "columns has chosen=3; write each once"),
        (["chosen=a", "chosen=b"], "columns has chosen='b'; write each once"),
    ],
)
def test_columns_that_are_not_understood_are_one_line(given, message):
    with pytest.raises(ValueError, match=message):
        read_columns(given)
    with pytest.raises(ValueError, match=message):
        load_rows([RESPONSES], columns=given)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "q"}, "the Dataset row 0: columns prompt=q: 'q' is not in a.b, n, m, t; correct it"),
        ({"prompt": "m.x.y"}, "columns prompt=m.x.y: 'y' is not in z; correct it"),
        ({"prompt": "n+t"}, r"columns prompt=n\+t: it joins 3 .int. and .text.; join texts, or lists of messages"),
        ({"label": "n:1/2"}, "columns label=n:1/2: label='3' is not known; use one of '1', '2'"),
    ],
)
def test_a_column_that_is_not_there_or_cannot_be_joined_is_named(columns, message):
    row = {"a.b": "dotted", "n": 3, "m": {"x": {"z": 1}}, "t": "text"}
    with pytest.raises(ValueError, match=message.replace(".text.", '"text"')):
        load_rows([row], columns=columns)


def test_paths_lead_into_columns_and_names_may_hold_their_signs():
    row = {"a.b": "dotted", "x+y": "plus", "m": {"list": [{"text": "deep"}], "none": None}, "t": None}
    columns = {"prompt": "a.b", "chosen": "m.list.0.text", "rejected": "x+y", "subset": "m.none.deeper", "id": "t"}
    assert select_columns(row, columns) == {
        **{"prompt": "dotted", "chosen": "deep", "rejected": "plus", "subset": None, "id": None}
    }


def test_what_is_named_goes_before_what_is_usual():
    row = {
        "chosen": "x",
        "rejected": "y",
        "completions": ["z"],
        "a": "4",
        "b": "5",
        "label": 2,
        "best": 1,
        "prompt": "q",
    }
    assert to_comparison(select_columns(row, {"chosen": "a"})).completions == ["4", "y"]
    columns = {"response_1": "a", "response_2": "b", "label": "best"}
    assert to_comparison(select_columns(row, columns)) == Comparison("q", chosen="4", rejected="5")


def test_messages_are_joined_one_after_the_other():
    row = {
        "s": [{"role": "system", "content": "Be kind."}],
        "q": [user("Sky?")],
        "chosen": "Blue.",
        "rejected": "Red.",
    }
    assert to_comparison(select_columns(row, {"prompt": "s+q"})).prompt == [*row["s"], *row["q"]]


def test_other_rows_stay_as_they_are():
    for row in (
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "completion": "a", "label": True},
        {"text": "a", "label": 1},
        {"prompt": "p", "answer_a": "only one", "label": 1},
    )[:3]:
        assert usual_row(row) is row


# --- conversations that part early


def test_conversations_that_part_before_their_last_turn_keep_their_common_beginning_as_prompt():
    start = [{"role": "system", "content": "Be kind."}, user("Sky?")]
    chosen = [*start, CALL, {"role": "tool", "content": "blue"}, assistant("Blue.")]
    for rejected, shared in [
        ([*start, assistant("Red.")], 2),
        ([*start, CALL, {"role": "tool", "content": "blue"}, assistant("Red.")], 2),
        ([*start, assistant("Which?"), user("This."), assistant("Red.")], 2),
        ([start[0], user("Sea?"), assistant("Red.")], 1),
        ([user("Sky?"), assistant("Red.")], 0),
    ]:
        comparison = to_comparison({"chosen": chosen, "rejected": rejected})
        assert comparison.prompt == chosen[:shared]
        assert [comparison.prompt + text for text in comparison.completions] == [chosen, rejected]


# --- empty replies


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("preference", {"prompt": "2 + 2?", "chosen": " ", "rejected": "5"}),
        ("preference", {"prompt": "2 + 2?", "response_1": "4", "response_2": "", "label": 1}),
        ("hh-rlhf-harmless", {"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}),
        ("hh-rlhf-harmless", {"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Ho\n\nAssistant: No"}),
    ],
)
def test_an_empty_reply_is_a_choice_that_is_the_same_for_every_set(name, row):
    full = {"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}
    if name != "preference":
        full = {key: text + " Hello" for key, text in row.items()}
    rows = [full, row]
    kept, skipped = (load_benchmark(name, rows, on_empty=choice) for choice in ("keep", "skip"))
    assert (len(kept.comparisons), kept.num_empty) == (2, 1)
    assert (len(skipped.comparisons), skipped.num_empty) == (1, 1)
    assert (kept.on_empty, skipped.on_empty) == ("keep", "skip")
    sample = load_benchmark(name, [full] * 20 + [row], limit=1)  # in which the empty one is not
    assert (len(sample.comparisons), sample.num_empty) == (1, 0)
    assert len(load_benchmark(name, rows).comparisons) == 2
    with pytest.raises(ValueError, match=f"^{name}: row 1: a reply is empty; write it, or compare it as it is"):
        load_benchmark(name, rows, on_empty="error", on_bad_row="skip")


def test_two_empty_replies_are_left_out_or_are_equal():
    rows = [{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}, {"prompt": "2 + 2?", "chosen": "", "rejected": ""}]
    skipped = load_benchmark("preference", rows, on_empty="skip")
    assert (len(skipped.comparisons), skipped.num_empty, skipped.bad_rows) == (1, 1, [])
    with pytest.raises(ValueError, match="row 1: `chosen` equals `rejected`; completions of different rank differ"):
        load_benchmark("preference", rows)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": ["a", "b"], "chosen": ["c"]}], "row 0: its columns have 2, 1 values; give one length"),
        (
            [{"prompt": {"text": "a", "replies": [{"rank": 0}]}}],
            'row 0: a message of its tree is {"rank": 0} (dict); it has a `text`, and maybe',
        ),
        (
            [{"prompt": {"text": "a", "replies": [3]}}],
            "row 0: a message of its tree is 3 (int); it has a `text`, and maybe",
        ),
        ([{"prompt": "a", "reject": "b", "rejected": "c"}], "`reject` and `rejected` are both there; name one with"),
        (
            [{"prompt": "a", "chosen": [{"role": "assistant", "tool_calls": 3}], "rejected": [{}]}],
            "has the tool_calls 3 (int); give a list of calls with a `function` each",
        ),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "c", "chat_template_kwargs": {"now": len}}],
            "is not JSON serializable); give what JSON can hold",
        ),
    ],
)
def test_what_a_layout_lacks_is_named_in_one_line(rows, said):
    with pytest.raises(ValueError) as refused:
        [to_comparison(usual_row(row)) for row in usual_rows(rows, "rows.json")]
    assert said in str(refused.value) and "\n" not in str(refused.value)
