"""Messages of every published form become one form, with their tools and calls."""

import json

import pytest
from datasets import Dataset
from models import assistant, user

from rm_plugin.data.comparison import Comparison, to_comparison
from rm_plugin.data.conversations import read_messages


def test_sharegpt_messages():
    row = {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
            {"from": "observation", "value": "sunny"},
        ],
        "chosen": {"from": "gpt", "value": "Sunny."},
        "rejected": {"from": "gpt", "value": "Rain."},
        "tools": '[{"name": "weather"}]',
    }
    comparison = to_comparison(row)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    assert comparison.prompt == [
        {"role": "system", "content": "Be brief."},
        user("Weather?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
    ]
    assert comparison.completions == [[assistant("Sunny.")], [assistant("Rain.")]]
    assert comparison.tools == [{"name": "weather"}]


def test_nulls_that_arrow_fills_in_are_dropped():
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = [user("q"), {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "1"}]
    row = {
        "prompt": turns,
        "chosen": [assistant("a")],
        "rejected": [assistant("b")],
        "tools": [{"name": "f", "parameters": {"x": "int"}}, {"name": "g", "parameters": {"y": "int"}}],
        "chat_template_kwargs": {"a": 1},
        "margin": None,
    }
    other = {**row, "chat_template_kwargs": {"b": 2}, "margin": 0.5}
    table = Dataset.from_list([row, other])  # without Json types: every struct gets the keys of all the others
    assert table[0]["prompt"][0]["tool_calls"] is None
    assert table[0]["tools"][0]["parameters"]["y"] is None
    comparison = to_comparison(table[0])
    assert comparison.prompt == [turns[0], {**turns[1], "content": ""}, turns[2]]
    assert comparison.tools == row["tools"]
    assert comparison.chat_template_kwargs == {"a": 1}
    assert comparison.margin is None


def test_parts_of_text_are_one_text():
    for parts in (["Bl", "ue."], [{"type": "text", "text": "Blue.", "image": None}], [{"text": "Blue."}, " "[:0]]):
        row = {"prompt": [user("Sky?")], "chosen": [assistant(parts)], "rejected": [assistant("Green.")]}
        assert to_comparison(row).completions[0] == [assistant("Blue.")]


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, {"y": "z"}]}}}


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "tool_calls": [CALL]},
        {"tool_calls": [CALL]},
        {"content": None, "tool_calls": [CALL], "name": None, "function_call": None},
        {"content": [], "tool_calls": [{**CALL, "id": None}]},
        {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"x": [1, {"y": "z", "n": null}]}'}}]},
        {"tool_calls": [{"name": "f", "arguments": {"x": [1, {"y": "z"}], "n": None}}]},
        {"function_call": {"name": "f", "arguments": '{"x":[1,{"y":"z"}]}'}},
    ],
)
def test_a_tool_call_is_one_message_in_every_form(message):
    assert read_messages([{"role": "assistant", **message}]) == [{**assistant(""), "tool_calls": [CALL]}]
    as_sharegpt = {"from": "function_call", "value": json.dumps(CALL["function"])}
    assert read_messages([as_sharegpt]) == [{**assistant(""), "tool_calls": [CALL]}]


def test_no_tools_and_no_calls_are_the_same_as_none():
    assert read_messages([{**assistant("a"), "tool_calls": []}]) == [assistant("a")]
    for tools in (None, [], "", "[]", "null"):
        assert Comparison("p", ["a"], tools=tools).tools is None
    schema = [{"name": "f", "default": None}]
    assert Comparison("p", ["a"], tools=schema).tools == Comparison("p", ["a"], tools=json.dumps(schema)).tools
