"""Rows of every format become comparisons, and bad rows become one clear line."""

import json
import pickle
import re

import pytest
from datasets import Dataset
from models import assistant, user

from rm_plugin.data.comparison import MEDIA_COLUMNS, BadRow, Comparison, load_rows, to_comparison, to_prompt
from rm_plugin.data.conversations import read_messages

HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 1+1?\n\nAssistant:"


def transcripts(comparison):
    return [comparison.prompt + completion for completion in comparison.completions]


def cause_and_fix(row, index=17):
    with pytest.raises(BadRow) as caught:
        to_comparison(row, index)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"row {index}: ")
    return message.removeprefix(f"row {index}: ")


# ------------------------------------------------------- Comparison --------------------------------------------------


def test_chosen_and_rejected_are_ranks_zero_and_one():
    comparison = Comparison("p", chosen=["a", "b"], rejected="c")
    assert comparison.completions == ["a", "b", "c"]
    assert comparison.ranks == [0, 0, 1]
    assert comparison.pairs() == [(0, 2), (1, 2)]
    assert (comparison.chosen, comparison.rejected) == (["a", "b"], ["c"])


def test_a_bare_conversation_is_one_completion():
    comparison = Comparison([user("q")], chosen=[assistant("a")], rejected=[[assistant("b")], [assistant("c")]])
    assert comparison.completions == [[assistant("a")], [assistant("b")], [assistant("c")]]
    assert comparison.ranks == [0, 1, 1]
    assert comparison.conversational


def test_plain_text_beside_messages_is_a_message():
    whole = Comparison([user("p")], [[assistant("a")], [assistant("b")]])
    assert Comparison("p", ["a", [assistant("b")]]) == Comparison([user("p")], ["a", "b"]) == whole


def test_equal_ranks_make_no_pair():
    assert Comparison("p", ["a", "b", "c"], ranks=[2, 0, 2]).pairs() == [(1, 0), (1, 2)]
    assert Comparison("p", ["a", "b"], ranks=[0, 0]).pairs() == []


def test_best_of_n_has_no_ranks_and_no_pairs():
    comparison = Comparison("p", ["a", "b"])
    assert comparison.ranks is None
    assert (comparison.pairs(), comparison.chosen, comparison.rejected) == ([], [], [])


def test_no_prompt_has_the_type_of_the_completions():
    assert Comparison(None, ["a"]).prompt == ""
    assert Comparison("", [[assistant("a")]]).prompt == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"completions": ["a"], "chosen": "b", "rejected": "c"}, "either `completions` or `chosen` and `rejected`"),
        ({}, "either `completions` or `chosen` and `rejected`"),
        ({"chosen": "a"}, "`chosen` and `rejected` come together"),
        ({"chosen": "a", "rejected": "b", "ranks": [0, 1]}, "without `ranks`"),
        ({"completions": [], "ranks": []}, "0 completions"),
        ({"completions": ["a", "b"], "ranks": [0]}, "1 ranks for 2 completions"),
        ({"completions": [3, [assistant("b")]]}, "are int, list, str"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Comparison("p", **arguments)


# ------------------------------------------------------ good rows ----------------------------------------------------


def test_standard_explicit_prompt():
    comparison = to_comparison({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."})
    assert comparison == Comparison("The sky is", chosen=" blue.", rejected=" green.")


def test_standard_implicit_prompt_keeps_the_whole_text_as_completion():
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert to_comparison(row) == Comparison("", chosen="The sky is blue.", rejected="The sky is green.")


def test_conversational_explicit_prompt():
    row = {"prompt": [user("Sky?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    assert to_comparison(row) == Comparison(
        [user("Sky?")], chosen=[assistant("Blue.")], rejected=[assistant("Green.")]
    )


def test_conversational_implicit_prompt_is_split_before_the_last_assistant_turn():
    start = [user("Hi"), assistant("Hello"), user("Sky?")]
    comparison = to_comparison({"chosen": [*start, assistant("Blue.")], "rejected": [*start, assistant("Green.")]})
    assert comparison == Comparison(start, chosen=[assistant("Blue.")], rejected=[assistant("Green.")])


def test_several_last_assistant_messages_are_one_completion():
    chosen = [user("Sky?"), assistant("Let me see."), assistant("Blue.")]
    comparison = to_comparison({"chosen": chosen, "rejected": [user("Sky?"), assistant("Green.")]})
    assert comparison.prompt == [user("Sky?")]
    assert comparison.completions == [chosen[1:], [assistant("Green.")]]


def test_different_prompts_become_the_empty_prompt_with_whole_transcripts():
    chosen, rejected = [user("Sky?"), assistant("Blue.")], [user("Sea?"), assistant("Green.")]
    assert to_comparison({"chosen": chosen, "rejected": rejected}) == Comparison([], chosen=chosen, rejected=rejected)
    texts = {"chosen": HH + " 2", "rejected": HH.replace("1+1?", "1+2?") + " 2"}
    assert to_comparison(texts) == Comparison("", **texts)


def test_an_hh_transcript_is_split_after_its_last_assistant_marker():
    row = {"chosen": HH + " 2", "rejected": HH + " 3"}
    comparison = to_comparison(row)
    assert comparison == Comparison(HH, chosen=" 2", rejected=" 3")
    assert transcripts(comparison) == [row["chosen"], row["rejected"]]


def test_text_that_only_mentions_the_marker_is_not_split():
    row = {"chosen": "He wrote:\n\nAssistant: 2", "rejected": "He wrote:\n\nAssistant: 3"}
    assert to_comparison(row).prompt == ""


def test_a_text_prompt_beside_whole_conversations_is_not_repeated():  # HuggingFaceH4/ultrafeedback_binarized
    row = {
        "prompt": "Sky?",
        "chosen": [user("Sky?"), assistant("Blue.")],
        "rejected": [user("Sky?"), assistant("Green.")],
    }
    assert to_comparison(row) == Comparison(
        [user("Sky?")], chosen=[assistant("Blue.")], rejected=[assistant("Green.")]
    )


def test_a_text_prompt_before_assistant_messages_becomes_the_users_message():
    row = {"prompt": "Sky?", "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    assert to_comparison(row).prompt == [user("Sky?")]


def test_text_completions_after_messages_become_assistant_messages():
    row = {"prompt": [user("Sky?")], "chosen": "Blue.", "rejected": "Green."}
    assert to_comparison(row).completions == [[assistant("Blue.")], [assistant("Green.")]]


def test_several_chosen_and_rejected():
    row = {"prompt": "p", "chosen": ["a", "b"], "rejected": ["c", "d", "e"]}
    comparison = to_comparison(row)
    assert comparison.ranks == [0, 0, 1, 1, 1]
    assert len(comparison.pairs()) == 6
    start = [user("q")]
    implicit = {"chosen": [[*start, assistant("a")], [*start, assistant("b")]], "rejected": [*start, assistant("c")]}
    assert to_comparison(implicit).prompt == start
    assert to_comparison(implicit).ranks == [0, 0, 1]


@pytest.mark.parametrize(
    ("columns", "ranks"),
    [
        ({"ranks": [1, 0, 1]}, [1, 0, 1]),
        ({"ranks": [3.0, 1.0, 2.0]}, [3, 1, 2]),
        ({"scores": [0.5, 2.0, 0.5]}, [1, 0, 1]),
        ({"rewards": [3, 2, 1]}, [0, 1, 2]),
        ({"rating": [1, 1, 1]}, [0, 0, 0]),
        ({}, None),
    ],
)
def test_ranked_lists_take_ranks_or_scores(columns, ranks):
    comparison = to_comparison({"prompt": "p", "completions": ["a", "b", "c"], **columns})
    assert comparison.completions == ["a", "b", "c"]
    assert comparison.ranks == ranks


def test_a_ranked_list_of_transcripts_shares_its_prompt():
    comparison = to_comparison({"completions": [HH + " 1", HH + " 2", HH + " 3"], "ranks": [2, 0, 1]})
    assert (comparison.prompt, comparison.completions) == (HH, [" 1", " 2", " 3"])


def test_margin_tools_template_arguments_and_names_are_kept():
    row = {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "margin": 2,
        "tools": [{"name": "f"}],
        "chat_template_kwargs": {"enable_thinking": False, "style": None},
        "id": 7,
        "subset": "math",
        "metadata": {"domain": "algebra"},
        "other": "ignored",
    }
    comparison = to_comparison(row)
    assert comparison.margin == 2.0
    assert comparison.tools == [{"name": "f"}]
    assert comparison.chat_template_kwargs == {"enable_thinking": False}
    assert (comparison.id, comparison.subset, comparison.metadata) == ("7", "math", {"domain": "algebra"})


SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ([user("q")], [user("q")]),
        ("q", [user("q")]),
        ([user("q")], [{"role": "user", "content": [{"type": "text", "text": "q"}], "name": None}]),
        ([{"from": "human", "value": "q"}], [user("q")]),
        ([user("q"), assistant("r"), user("s")], [user("q"), assistant("r"), user("s")]),
        ([user("q")], [SYSTEM, user("q")]),
        ([SYSTEM, user("q")], [user("q")]),
        ([SYSTEM], [SYSTEM, user("q")]),
    ],
    ids=["messages", "text", "parts", "sharegpt", "turns", "system before", "system in the prompt alone", "system"],
)
def test_completions_that_repeat_the_prompt_lose_it(prompt, before):
    whole = read_messages(max(before, prompt if isinstance(prompt, list) else [], key=len))
    replies = [[assistant("a")], [assistant("b"), user("more?"), assistant("yes")]]
    row = {"prompt": prompt, "chosen": before + replies[0], "rejected": before + replies[1]}
    assert transcripts(to_comparison(row)) == [whole + reply for reply in replies]
    one = {**row, "rejected": replies[1]}  # each completion alone
    if before != [SYSTEM, user("q")]:
        assert transcripts(to_comparison(one)) == [whole + reply for reply in replies]


def test_a_completion_that_only_says_what_the_prompt_said_is_kept():
    hello, more = assistant("Hello"), [assistant("Hi"), user("Hi"), assistant("Hi!")]
    comparison = to_comparison({"prompt": [user("Hi")], "chosen": more, "rejected": [hello]})
    assert transcripts(comparison) == [[user("Hi"), *more], [user("Hi"), hello]]
    echo = to_comparison({"prompt": "Hello", "chosen": "Hello you", "rejected": "Hello!"})  # plain text is joined
    assert transcripts(echo) == ["HelloHello you", "HelloHello!"]


@pytest.mark.parametrize("first", [user("Hi"), user("Bye "), SYSTEM], ids=["stripped", "another", "system"])
def test_a_completion_that_answers_another_question_than_the_prompt_is_refused(first):
    chosen = [first, *[user("Hi")] * (first is SYSTEM), assistant("a")]
    row = {"prompt": [user("Hi ")], "chosen": chosen, "rejected": [user("Hi "), assistant("b")]}
    assert "that is not in the prompt, which ends with the user's; give the reply alone" in cause_and_fix(row)
    goes_on = {"prompt": [user("Hi "), assistant("Yes?")], "chosen": chosen, "rejected": [assistant("b")]}
    assert transcripts(to_comparison(goes_on))[0] == goes_on["prompt"] + chosen


def test_hh_transcripts_beside_their_prompt_do_not_repeat_it():
    row = {"prompt": HH, "chosen": HH + " Good", "rejected": HH + " Bad"}
    assert transcripts(to_comparison(row)) == [HH + " Good", HH + " Bad"]


@pytest.mark.parametrize(
    "columns",
    [
        {"input": "Two plus two"},
        {"context": {"title": "Sums", "text": ["2 + 2 = 4"]}},
        {"history": [["Hello?", "Hi."]]},
        {"documents": ["2 + 2 = 4"]},
        {"passage": "2 + 2 = 4"},
        {"post": {"title": "Sums", "post": "2 + 2 = 4"}},
        {"images": ["four.png"]},
        {"image_url": "https://example.org/four.png"},
        {"image": b"\x89PNG"},
        {"video": {"path": "a.mp4"}},
        {"audios": [[0.1, 0.2]]},
    ],
    ids=lambda columns: next(iter(columns)),
)
@pytest.mark.parametrize("kind", ["text", "messages", "implicit"])
def test_a_column_that_looks_like_part_of_the_prompt_is_refused_by_name(columns, kind):
    row = {"prompt": "Add.", "chosen": "four", "rejected": "five"}
    if kind == "messages":
        row = {"prompt": [user("Add.")], "chosen": [assistant("four")], "rejected": [assistant("five")]}
    elif kind == "implicit":
        row = {"chosen": [user("Add."), assistant("four")], "rejected": [user("Add."), assistant("five")]}
    (column,) = columns
    assert re.match(f"`{column}` (looks like a part of the prompt|is not text)", cause_and_fix({**row, **columns}))
    for nothing in (None, "", " ", [], {}, [None], [["", ""]], {"text": None}):
        assert to_comparison({**row, column: nothing}) == to_comparison(row)
    if column not in MEDIA_COLUMNS:  # it is read already
        read = {"text": "Add.", "messages": ["Add."], "implicit": {"turn": "Add."}}[kind]
        assert to_comparison({**row, column: read}) == to_comparison(row)


@pytest.mark.parametrize("write", [json.dumps, repr, lambda messages: json.dumps(messages, indent=2)])
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_a_conversation_written_as_text_is_read_as_the_conversation(write, column):
    row = {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant('it\'s "b"')]}
    assert to_comparison({**row, column: write(row[column])}) == to_comparison(row)
    assert to_prompt({"prompt": write(row["prompt"])}) == to_prompt(row)
    said = {"prompt": "List messages as JSON, such as [{'role': 'user'}].", "chosen": '[{"name": "a"}]'}
    assert transcripts(to_comparison({**said, "rejected": "b"}))[0] == said["prompt"] + said["chosen"]
    sampled = {"prompt": "q", "completions": [write(row["chosen"])]}  # a policy may say anything
    assert to_comparison(sampled, candidates=True).completions == sampled["completions"]
    torn = cause_and_fix({**row, column: write(row[column])[:-3]})
    assert torn.startswith(f"`{column}` is a list of messages written as text, which cannot")


@pytest.mark.parametrize("question", ["question", "instruction", "conversation", "dialogue"])
@pytest.mark.parametrize("form", [str, user, lambda text: [user(text)]], ids=["text", "message", "messages"])
@pytest.mark.parametrize("kind", ["text", "messages"])
def test_a_question_under_another_name_is_refused_where_there_is_no_prompt(question, form, kind):
    row = {"chosen": "four", "rejected": "five"}
    if kind == "messages":
        row = {"chosen": [assistant("four")], "rejected": [assistant("five")]}
    line = cause_and_fix({**row, question: form("2 + 2?")})
    assert line.startswith(
        f"`{question}` looks like a part of the prompt that would not be read; say what the prompt is"
    )
    for nothing in (None, "", [], 7):
        assert to_comparison({**row, question: nothing}) == to_comparison(row)


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_the_first_message_and_refused_beside_plain_text(column):
    expected = [SYSTEM, user("q")]
    for prompt in ([user("q")], [SYSTEM, user("q")]):
        row = {"prompt": prompt, "chosen": [assistant("a")], "rejected": [assistant("b")], column: "Be kind."}
        assert to_comparison(row).prompt == expected
    implicit = {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")], column: "Be kind."}
    assert to_comparison(implicit).prompt == expected
    apart = {**implicit, "rejected": [user("p"), assistant("b")]}
    assert transcripts(to_comparison(apart)) == [[SYSTEM, *apart["chosen"]], [SYSTEM, *apart["rejected"]]]
    other = {**implicit, "chosen": [{**SYSTEM, "content": "Be cruel."}, *implicit["chosen"]]}
    assert cause_and_fix(other).startswith(f"`{column}` looks like a part of the prompt")
    assert cause_and_fix({"prompt": "q", "chosen": "a", "rejected": "b", column: "Be kind."}).startswith(
        f"`{column}` l"
    )


def test_a_prompt_is_read_as_rows_are():
    for row in (
        [user("q")],
        {"messages": [user("q")]},
        {"prompt": [{"from": "human", "value": "q"}], "messages": None},
        {"conversations": [user([{"type": "text", "text": "q"}])], "chosen": None},
    ):
        assert to_prompt(row) == Comparison([user("q")], [])
    asked = to_prompt({"question": "2 + 2?", "tools": '[{"name": "f"}]', "chat_template_kwargs": None, "id": 3})
    assert (asked.prompt, asked.completions, asked.tools, asked.id) == ("2 + 2?", [], [{"name": "f"}], "3")
    assert not asked.conversational and to_prompt([user("q")]).conversational
    assert to_prompt({"prompt": [user("q")], "system": "Be kind."}).prompt == [SYSTEM, user("q")]
    whole = {"chosen": [SYSTEM, user("q"), assistant("a")], "rejected": [SYSTEM, user("q"), assistant("b")]}
    assert to_prompt(whole) == Comparison([SYSTEM, user("q")], [])
    assert to_prompt({**whole, "messages": whole["chosen"]}) == Comparison([SYSTEM, user("q")], [])
    assert to_prompt({"prompt": "q", **whole}) == Comparison([SYSTEM, user("q")], [])  # as training reads it
    for replies in ((" 2", " 3"), (" 2", " 2"), ("", " 2")):  # of no use as a preference, and asked all the same
        for row in ({"prompt": HH}, {}):
            texts = [(HH if not row else "") + reply for reply in replies]
            assert to_prompt(row | dict(zip(("chosen", "rejected"), texts, strict=True))) == Comparison(HH, [])
    labelled = {"input": "2 + 2?", "response_1": "4", "response_2": "5", "label": 1}
    assert to_prompt(labelled) == Comparison("2 + 2?", [])
    for row in (
        {"prompt": "Add.", "input": "2 + 2"},
        {"prompt": "", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "system": "Be kind."},
        {"prompt": "", "id": 1},
        "",
    ):
        with pytest.raises(BadRow, match="^row 3: (`(input|system)` looks like a part|there is no prompt .found: )"):
            to_prompt(row, 3)


def test_two_columns_of_completions_are_refused_until_one_is_named():
    row = {"prompt": "2 + 2?", "completion": "It is 4.", "choices": ["4", "5"], "outputs": None}
    with pytest.raises(BadRow, match="^row 3: `choices` and `completion` could each be the completions; name one"):
        to_comparison(row, 3, candidates=True)
    for named, completions in (("completion=completion", ["It is 4."]), ("completions=choices", ["4", "5"])):
        one = load_rows([row], columns=[named])[0]
        assert to_comparison(one, candidates=True).completions == completions


def test_messages_are_the_prompt_unless_they_are_what_is_compared():
    row = {"messages": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
    assert to_comparison(row).prompt == [user("q")]
    whole = {"messages": [user("q"), assistant("a")], "chosen": [user("q"), assistant("a")]}
    assert to_comparison({**whole, "rejected": [user("q"), assistant("b")]}).prompt == [user("q")]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"instruction": "Translate.", "input": "Hola"}, "instruction+input"),
        ({"system": "Be brief.", "question": "Sky?"}, "system+question"),
        ({"context": "The sky is blue.", "prompt": "Sky?"}, "prompt+context"),
        ({"question": "Sky?"}, "question"),
    ],
)
def test_the_columns_that_an_error_advises_lose_nothing(row, columns):
    row |= {"chosen": "Hello", "rejected": "Bye"}
    assert f"such as --columns prompt={columns}, or remove it" in cause_and_fix(row)
    read = to_comparison(load_rows([row], columns=[f"prompt={columns}"])[0])
    assert read.prompt == "\n".join(row[name] for name in columns.split("+"))


def test_an_alpaca_row_is_refused_until_its_input_is_joined():
    row = {"instruction": "Translate.", "input": "Hola", "chosen": "Hello", "rejected": "Bye"}
    assert cause_and_fix(row).startswith("`in")
    renamed = {**row, "prompt": row["instruction"]}
    assert cause_and_fix(renamed).startswith(
        "`input` looks like a part of the prompt that would not be read; say what"
    )
    assert to_comparison({**row, "prompt": "Translate.\nHola"}).prompt == "Translate.\nHola"


@pytest.mark.parametrize(
    "arguments",
    [
        {"chat_template": "hello"},
        {"truncation": True, "max_length": 3},
        {"padding": "max_length"},
        {"continue_final_message": True},
        {"add_generation_prompt": True},
        {"tokenizer_kwargs": {"truncation": True}},
        {"return_dict": False},
        {"return_tensors": "pt"},
        {"tokenize": False},
        {"tools": []},
        {"documents": [{"title": "a", "text": "b"}]},
        {"conversation": []},
        {"conversations": []},
        {"messages": []},
        {"self": 1},
        {"bos_token": "x"},
        {"image_token": "x"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_row_sets_variables_of_the_template_only(arguments):
    given = {"enable_thinking": False, **arguments}
    row = {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
    for value in (given, json.dumps(given)):
        line = cause_and_fix({**row, "chat_template_kwargs": value})
        assert line.startswith(f"`chat_template_kwargs` sets {', '.join(arguments)}, which belong")
    with pytest.raises(ValueError, match="give only variables of the chat template, such as"):
        Comparison([user("q")], [[assistant("a")]], chat_template_kwargs=given)


def test_the_row_is_left_as_it_was():
    row = {"conversations": [{"from": "human", "value": "q"}], "chosen": [assistant("a")], "rejected": "b"}
    before = json.dumps(row)
    with pytest.raises(BadRow):
        to_comparison(row)
    assert json.dumps(row) == before


def test_it_runs_inside_map_of_datasets_in_two_processes():
    table = Dataset.from_list([{"prompt": "p", "chosen": str(i), "rejected": "no"} for i in range(4)])
    read = table.map(read_inside_map, with_indices=True, num_proc=2)
    assert read["joined"][:] == ["p0", "p1", "p2", "p3"]
    assert pickle.loads(pickle.dumps(to_comparison)) is to_comparison


def test_a_bad_row_inside_map_keeps_its_index():
    table = Dataset.from_list([{"prompt": "p", "chosen": reply, "rejected": "no"} for reply in ("a", "b", "c", "")])
    for num_proc in (None, 2):
        with pytest.raises(ValueError, match="^row 3: `chosen` is empty; "):
            table.map(read_inside_map, with_indices=True, num_proc=num_proc)


def read_inside_map(row, index):
    return {"joined": transcripts(to_comparison(row, index))[0]}


# ------------------------------------------------------ bad rows -----------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, "`rejected` missing (found: prompt, chosen); a preference row has"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, "`rejected` missing (found: prompt, chosen); a pref"),
        ({"prompt": "p", "label": True}, "`chosen` and `rejected` missing (found: prompt, label); a pref"),
        ({}, "`chosen` and `rejected` missing (found: nothing); a preference row has"),
        (
            {"input_ids_chosen": [5], "input_ids_rejected": [6]},
            "`chosen` and `rejected` missing (found: input_ids_chosen, input_ids_rejected); TRL calls them",
        ),
        ({"question": "q", "chosen": "a", "rejected": "b"}, "`question` looks like a part of the prompt that"),
        ({"prompt": "p", "chosen": "", "rejected": "b"}, "`chosen` is empty; every completion needs text"),
        ({"prompt": "p", "chosen": "a", "rejected": " \n"}, "`rejected` is empty; every completion needs text"),
        ({"prompt": "p", "chosen": ["a", ""], "rejected": "b"}, "`chosen[1]` is empty; every completion needs text"),
        ({"chosen": HH + " ", "rejected": HH + " 2"}, "`chosen` is empty; every completion needs text"),
        ({"chosen": HH + " 2", "rejected": "\n\nHuman: Hi\n\nAssistant:"}, "`rejected` is empty; every completion"),
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("")]},
            "`rejected` is empty; every",
        ),
        ({"prompt": "p", "chosen": 3, "rejected": "b"}, "`chosen` is 3 (int); it must be text or a list of messages"),
        ({"prompt": "p", "chosen": ["a", None], "rejected": "b"}, "`chosen[1]` is null; it must be text or a list of"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "`prompt` is 3 (int); it must be text or a list of messages"),
        (
            {"prompt": "p", "chosen": "same", "rejected": "same"},
            "`chosen` equals `rejected`; completions of different",
        ),
        (
            {"prompt": "p", "chosen": ["a", "b"], "rejected": ["c", "b"]},
            "`chosen[1]` equals `rejected[1]`; completions",
        ),
        (
            {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("a")]},
            "`chosen` equals `rejected`; completions of different rank differ in text",
        ),
        ({"prompt": "p", "chosen": [], "rejected": ["b"]}, "`chosen` is an empty list; give at least one completion"),
        ({"prompt": "p", "completions": "a"}, '`completions` is "a"; it is a list, each item text or a list of mess'),
        ({"prompt": "p", "completions": []}, "`completions` is an empty list; give at least one completion"),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranks": [0]},
            "`ranks` is [0] (list) for 2 completions; give one value for each",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "scores": 0.5},
            "`scores` is 0.5 (float) for 2 completions; give one value for each",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "scores": [0.5, float("nan")]},
            "`scores` contains NaN (float); every value is a finite number",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranks": [0.5, 1]},
            "`ranks` contains 0.5; ranks are integers, smaller is better, call scores `scores`",
        ),
        (
            {"prompt": "p", "completions": ["a", "a"], "ranks": [0, 1]},
            "`completions[0]` equals `completions[1]`; compl",
        ),
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("q")]},
            "`rejected` ends with a message of role 'user'; end it with an assistant message",
        ),
        (
            {"prompt": [user("q")], "chosen": [user("a")], "rejected": [assistant("b")]},
            "`chosen` ends with a message of role 'user'; end it with an assistant message",
        ),
        (
            {"prompt": [{"content": "q"}], "chosen": [assistant("a")], "rejected": [assistant("b")]},
            "message 0 of `prompt` has no `role`; every message has `role` and `content`",
        ),
        (
            {"prompt": [user("q")], "chosen": [{"role": "assistant"}], "rejected": [assistant("b")]},
            "message 0 of `chosen` has no `content`; every message has `role` and `content`, the content a string",
        ),
        (
            {"prompt": [user(5)], "chosen": [assistant("a")], "rejected": [assistant("b")]},
            "message 0 of `prompt` has the content 5 (int); every message has `role` and `content`, the content a",
        ),
        (
            {"prompt": ["q"], "chosen": "a", "rejected": "b"},
            'message 0 of `prompt` is "q"; a message is a dict with `role` and `content`',
        ),
        (
            {"conversations": [{"from": "alien", "value": "q"}], "chosen": "a", "rejected": "b"},
            "message 0 of `conversations` is from 'alien'; the speakers are human, gpt, functi",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": [assistant("b")]},
            "plain text and messages are mixed (`chosen` text, `rejected` messages); make them all text, or all lists",
        ),
        (
            {"prompt": "p", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            "completion 0 begins with a message of role 'user' that is not in the prompt, which ends with the user's",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "margin": "big"},
            "`margin`: could not convert string to float: 'big'",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "margin": True},
            "`margin` is true (bool); it is a finite numb",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "tools": "[{"},
            '`tools` is "[{"; give a list of tool schemas',
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "tools": "{}"},
            '`tools` is "{}"; give a list of tool schema',
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "chat_template_kwargs": "x"},
            '`chat_template_kwargs` is "x"; it must be a dict of arguments for the template',
        ),
        (["a", "b"], 'the row is ["a", "b"] (list); a row is a dict from column name to value'),
    ],
)
def test_a_bad_row_is_one_line_with_index_cause_and_fix(row, message):
    assert cause_and_fix(row).startswith(message)


def test_a_long_value_is_shortened_in_the_error():
    assert cause_and_fix({"prompt": "p", "chosen": list(range(99)), "rejected": "b"}).startswith(
        "`chosen[0]` is 0 (int)"
    )
    line = cause_and_fix({"prompt": "p", "completions": "x" * 1000})
    assert line.startswith('`completions` is "' + "x" * 38 + "…;")


def test_a_tool_call_is_a_reply_and_equal_ranks_may_repeat_a_text():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    row = {"prompt": [user("q")], "chosen": [call], "rejected": [assistant("b")]}
    assert to_comparison(row).completions == [[{**call, "content": ""}], [assistant("b")]]
    image = {**row, "rejected": [assistant([{"type": "text", "text": "See:"}, {"type": "image"}])]}
    assert cause_and_fix(image).startswith('message 0 of `rejected` has the content {"type": "image"} (dict); every')
    assert to_comparison({"prompt": "p", "completions": ["a", "a"], "ranks": [0, 0]}).pairs() == []
    assert to_comparison({"prompt": "p", "completions": ["a", "a"]}).ranks is None


def test_a_question_inside_the_texts_or_beside_messages_is_no_missing_prompt():
    text = {"question": "1+1?", "chosen": "1+1? 2", "rejected": "1+1? 3"}
    assert to_comparison(text).completions == ["1+1? 2", "1+1? 3"]
    messages = {"question": "x", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]}
    assert to_comparison(messages).prompt == [user("q")]


def test_without_an_index_the_error_has_none():
    with pytest.raises(BadRow, match="^`chosen` is empty; "):
        to_comparison({"prompt": "p", "chosen": "", "rejected": "b"})


def test_a_bad_row_survives_pickling():
    bad_row = pickle.loads(pickle.dumps(BadRow("row 3: `chosen` is empty; write it")))
    assert str(bad_row) == str(BadRow(str(bad_row))) == "row 3: `chosen` is empty; write it"
