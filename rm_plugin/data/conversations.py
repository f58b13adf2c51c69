"""One form for equal conversations: messages, tools and template variables, whatever accepted form they come in.

read_messages([{"from": "human", "value": "Hi"}])                     # [{"role": "user", "content": "Hi"}]
read_tools('[{"name": "f"}]')                                         # [{"name": "f"}]
"""

from __future__ import annotations

import ast
import inspect
import json
from contextlib import suppress
from functools import cache
from typing import Any

from ..messages import shorten

TEXT_PARTS = (None, "text", "input_text", "output_text")  # types of those parts of a content that are text
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of a message; templates read one of them
SAY_ENOUGH = {"tool_calls", "function_call", *REASONING_FIELDS}  # without a content
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
SWIFT_ROLES = {"tool_call": "function_call", "tool_response": "observation"}  # of ms-swift, with a `content`


class BadRow(ValueError):
    """A row that is no comparison; its message reads `row 17: <cause>; <fix>`."""


def read_messages(messages: list[Any], name: str = "messages") -> list[dict[str, Any]]:
    """
    Messages in the one form that all later code reads.

    `role` and `content` instead of ShareGPT's `from` and `value`; the content a string (parts of text joined, as
    chat templates join them, null as `""`); arguments of tool calls a mapping, not JSON text; no key that is null
    (Arrow gives each struct the keys of all the others) and no empty list of tool calls. The encoder gives a chat
    template the form that it takes.

    Raises:
        BadRow: something is no message, or a content is not text.

    Example:
    ```python
    >>> read_messages([{"from": "gpt", "value": "Yes."}])
    [{'role': 'assistant', 'content': 'Yes.'}]
    >>> read_messages([{"role": "user", "content": [{"type": "text", "text": "Hi"}], "tool_calls": None}])
    [{'role': 'user', 'content': 'Hi'}]

    ```
    """
    return [_read_message(message, f"message {i} of `{name}`") for i, message in enumerate(messages)]


def _read_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadRow(f"{where} is {show_value(message)}; a message is a dict with `role` and `content`")
    if message.get("role") in SWIFT_ROLES:
        rest = {name: value for name, value in message.items() if name not in ("role", "content")}
        said = {"from": SWIFT_ROLES[message["role"]], "value": message.get("content")}
        message = rest | _from_sharegpt(said, where)
    elif message.get("role") is None and message.get("from") is not None:
        message = _from_sharegpt(message, where)
    message = _without_nulls(message)
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise BadRow(f"{where} has no `role`; every message has `role` and `content`")
    if "content" not in message and not message.keys() & SAY_ENOUGH:
        raise BadRow(f"{where} has no `content`; every message has `role` and `content`, the content a string")
    calls = from_json(message.pop("tool_calls", []))
    if "function_call" in message:  # OpenAI's older form of one tool call
        calls = [{"type": "function", "function": message.pop("function_call")}]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRow(f"{where} has the tool_calls {show_value(calls)}; give a list of calls with a `function` each")
    if calls:
        message["tool_calls"] = [_read_tool_call(call) for call in calls]
    content = _read_content(message.pop("content", ""), where)
    return {"role": message.pop("role"), "content": content, **dict(sorted(message.items()))}


def _read_content(content: Any, where: str) -> str:
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else part for part in parts]
    for part, text in zip(parts, texts, strict=True):
        if not isinstance(text, str):
            raise BadRow(
                f"{where} has the content {show_value(part)}; every message has `role` and `content`, the content a "
                "string or a list of parts of text"
            )
    return check_text("".join(texts), where)


def check_text(text: str, where: str) -> str:
    """The text itself; a lone surrogate (half a character), which no tokenizer reads, is refused."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fix = "correct it, or leave it out"
        raise BadRow(
            f"{where} holds half a character (a lone surrogate, {error.object[error.start]!r}); {fix}"
        ) from None
    return text


def _read_tool_call(call: dict[str, Any]) -> dict[str, Any]:
    if "function" not in call and "name" in call:
        own = {key: value for key, value in call.items() if key not in ("name", "arguments")}
        call = {"type": "function", **own, "function": {key: call[key] for key in call if key not in own}}
    function = call.get("function")
    if isinstance(function, dict) and isinstance(text := function.get("arguments"), str):
        arguments = _without_nulls(from_json(text)) if text.strip() else {}
        call = {**call, "function": {**function, "arguments": arguments if isinstance(arguments, dict) else text}}
    return call


def _from_sharegpt(message: dict[str, Any], where: str) -> dict[str, Any]:
    """`{"from": "human", "value": "Hi"}` as `{"role": "user", "content": "Hi"}`."""
    role = SHAREGPT_ROLES.get(message["from"], message["from"])
    if role not in ("user", "assistant", "system", "tool"):
        raise BadRow(f"{where} is from {message['from']!r}; the speakers are {', '.join(SHAREGPT_ROLES)} and system")
    if message["from"] == "function_call":
        calls = from_json(message.get("value"), printed=True)
        calls = calls if isinstance(calls, list) else [calls]
        if calls and all(isinstance(call, dict) and "name" in call for call in calls):
            return {"role": role, "tool_calls": [{"type": "function", "function": call} for call in calls]}
    return {"role": role, "content": message.get("value")}


def read_tools(value: Any) -> list | None:
    """A list of tool schemas, given as one or as JSON text; `None` where there are none. Anything else: `BadRow`."""
    tools = from_json(value)  # TRL's way to keep schemas of different shape in one column
    if isinstance(tools, list) and any(map(callable, tools)):
        from transformers.utils import get_json_schema

        tools = [get_json_schema(tool) if callable(tool) else tool for tool in tools]
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)) or tools == {}:
        raise BadRow(f"`tools` is {show_value(value)}; give a list of tool schemas, or one written as JSON")
    return _without_nulls(tools) or None


def read_template_variables(value: Any) -> dict | None:
    """Variables of the chat template, a dict or JSON text of one; `BadRow` for arguments of the tokenizer's own."""
    variables = from_json(value) or None  # of a csv file
    try:
        json.dumps(variables)
    except TypeError as error:
        raise BadRow(f"`chat_template_kwargs` is {show_value(value)} ({error}); give what JSON can hold") from None
    if variables is not None and not (
        isinstance(variables, dict) and all(isinstance(name, str) for name in variables)
    ):
        raise BadRow(f"`chat_template_kwargs` is {show_value(value)}; it must be a dict of arguments for the template")
    taken = [name for name in variables or () if name in _template_parameters() or name.endswith("_token")]
    if taken:
        raise BadRow(
            f"`chat_template_kwargs` sets {', '.join(taken)}, which belongs to the tokenizer; give only variables of "
            "the chat template, such as enable_thinking; tools have a column `tools`"
        )
    return _without_nulls(variables) or None


@cache
def _template_parameters() -> frozenset[str]:
    """What rendering takes besides the template's own variables: a row must not set it."""
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.chat_template_utils import render_jinja_template

    functions = (PreTrainedTokenizerBase.apply_chat_template, render_jinja_template)
    names = {name for function in functions for name in inspect.signature(function).parameters}
    return frozenset(names - {"kwargs"} | {"messages"})


def from_json(value: Any, printed: bool = False) -> Any:
    """The value of JSON text, or with `printed` of what Python printed; anything else as it is."""
    try:
        return json.loads(value or "null") if isinstance(value, str) else value
    except ValueError:
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = ast.literal_eval(value.strip()) if printed else value
        return value


def _without_nulls(value: Any) -> Any:
    """The value without the dict keys that are null: Arrow gives each struct the keys of all the others."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def show_value(value: Any) -> str:
    """A value for an error: short, with its type where the type is what is wrong."""
    shown = "null" if value is None else shorten(json.dumps(value, default=str, ensure_ascii=False), 40)
    return shown if value is None or isinstance(value, str) else f"{shown} ({type(value).__name__})"
