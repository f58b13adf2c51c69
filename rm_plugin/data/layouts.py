"""Rows of other layouts ► rows of the usual columns, which [`rm_plugin.to_comparison`] reads.

    select_columns({"text_chosen": "4", "q": "2 + 2 ="}, read_columns(["chosen=text_chosen", "prompt=q"]))
    usual_row({"instruction": "2 + 2 =", "response_1": "4", "response_2": "5", "label": "A>B"})
    list(usual_rows([{"prompt": {"text": "2 + 2 =", "replies": [...]}}]))       # a tree of OASST: its ranked lists

What is clear in a row is read; what could mean two things is refused in one line that names `--columns`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from ..messages import check_choice, located
from .conversations import BadRow, show_value

LIST_COLUMNS = ("completions", "outputs", "choices", "responses")
SCORE_COLUMNS = ("scores", "rewards", "rating")  # larger is better, unlike `ranks`
PROMPT_COLUMNS = ("prompt", "conversations", "messages")
QUESTION_COLUMNS = ("question", "instruction", "query", "conversation", "dialogue", "dialog")  # the prompt, elsewhere
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
CONTEXT_COLUMNS = ("input", "context", "contexts", "history", "document", "documents", "passage", "passages")
PROMPT_PARTS = (*SYSTEM_COLUMNS, *CONTEXT_COLUMNS, "article", "background", "post")  # what others keep beside it

COMPARED = (("chosen", "rejected"), ("completions",), ("completion",), ("response_1", "response_2"))
COLUMNS = ("prompt", *(name for names in COMPARED for name in names), "label", "ranks", "scores", "margin", "system")
COLUMNS = (*COLUMNS, "tools", "chat_template_kwargs", "id", "subset", "answer", "gold")
COMPARED_COLUMNS = ("chosen", "rejected", *LIST_COLUMNS, "completion")
LISTS_OF_A_ROW = (*LIST_COLUMNS, "ranks", *SCORE_COLUMNS, "tools")

COLUMNS_HELP = "columns of other names, such as chosen=text_chosen prompt=instruction+input label=winner:1/2/0"

# Two responses and which of them is better, by the names and values that others give them.
RESPONSE = re.compile("(response|output|answer|completion|conversation|candidate)([0-9]+|[a-e])")
LABELS = ("label", "winner", "preference", "preferred", "choice")
SIDES = {
    "first": ("1", "a", "first", "true", "a>b", "a>>b", "1>2", "b<a"),
    "second": ("2", "b", "second", "false", "b>a", "b>>a", "2>1", "a<b", "a<<b"),
    "tie": (
        *("tie", "tie(bothbad)", "tie(inconsistent)", "both", "bothbad", "neither"),
        *("equal", "same", "draw", "a=b", "1=2"),
    ),
}
RANKS = {"first": [0, 1], "second": [1, 0], "tie": [0, 0]}


class Responses(dict):
    """Texts by the names of their columns, for errors."""


class BadLayout(ValueError):
    """Columns that can be read in two ways: not the fault of one row, so that skipping bad rows does not help."""


def read_columns(given: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """
    Which of a file's columns hold what: our name ► theirs.

    Args:
        given (`dict` or `list[str]`, *optional*):
            A mapping, or words `OURS=THEIRS`. Theirs is a column (`text_chosen`), a path into it (`chosen.messages`),
            or several joined by a line break (`instruction+input`). A label may say its values for "the first is
            better", "the second", and "neither": `label=winner:0/1/2`; several columns of a label
            (`annotator1+annotator2+annotator3`) are votes, and so is a list.

    Raises:
        ValueError: an unknown name of ours, or a word that is no `OURS=THEIRS`.

    Example:
        >>> read_columns(["chosen=text_chosen", "prompt=instruction+input"])
        {'chosen': 'text_chosen', 'prompt': 'instruction+input'}
    """
    pairs = given.items() if isinstance(given, Mapping) else [str(word).partition("=")[::2] for word in given or ()]
    columns: dict[str, str] = {}
    for name, theirs in pairs:
        check_choice("columns", name, COLUMNS)
        if not isinstance(theirs, str) or not theirs or name in columns:
            raise ValueError(f"columns has {name}={theirs!r}; write each once, as OURS=THEIRS (chosen=text_chosen)")
        columns[name] = theirs
    return columns


def select_columns(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """
    A row in which our names hold what [`read_columns`] says. The columns that were read are removed, and where
    the prompt is named, so are others that look like a part of it.

    Raises:
        ValueError: a column or path that is not there, parts that cannot be joined, or a value that the label lacks.

    Example:
        >>> select_columns({"q": "2 + 2 =", "best": 0, "a": "4", "b": "5"}, {"prompt": "q", "label": "best:0/1"})
        {'a': '4', 'b': '5', 'prompt': '2 + 2 =', 'label': ['first']}
    """
    selected, read = {}, set()
    for name, theirs in columns.items():
        with located(f"columns {name}={theirs}"):
            path, _, values = (theirs, "", "") if name != "label" or theirs in row else theirs.partition(":")
            paths = [path] if path in row else path.split("+")
            parts = [_find(row, path) for path in paths]
            read |= {path if path in row else path.split(".")[0] for path in paths}
            selected[name] = _coded(_votes(parts), values) if name == "label" else _joined(parts)
    if "prompt" in columns:
        read |= {*PROMPT_PARTS, *QUESTION_COLUMNS, *PROMPT_COLUMNS} - {*SYSTEM_COLUMNS}
    if "label" in columns:
        read |= {*LABELS, *(("chosen", "rejected") if _responses(row) else ())}
    if compared := [name for names in COMPARED if columns.keys() & set(names) for name in names]:
        usual = (*COMPARED_COLUMNS, "response_1", "response_2", "reject", "targets")
        others = (name for name in row if name in usual or _response_key(name))
        read |= {name for name in others if name not in compared}
    return {name: value for name, value in row.items() if name not in read} | selected


def _find(row: Mapping[str, Any], path: str) -> Any:
    """What a path leads to; a column may have a dot in its name."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        elif value is None and key != path.split(".")[0]:  # null in this row
            return None
        else:
            raise ValueError(
                f"{key!r} is not in {', '.join(value) if isinstance(value, Mapping) else 'it'}; correct it"
            )
    return value


def _is_missing(value: Any) -> bool:
    """Null, empty, or the NaN that tables write for it."""
    return value is None or value in ("", []) or (isinstance(value, float) and math.isnan(value))


def _joined(parts: list[Any]) -> Any:
    """Texts with a line break between them, or message lists one after the other; missing parts are left out."""
    if len(parts) == 1:
        return parts[0]
    parts = [part for part in parts if not _is_missing(part)]
    if all(isinstance(part, str) for part in parts):
        return "\n".join(parts)
    if not all(isinstance(part, list) for part in parts):
        raise ValueError(f"it joins {' and '.join(map(show_value, parts))}; join texts, or lists of messages")
    return [message for part in parts for message in part]


def _votes(parts: list[Any]) -> list[str]:
    """The values of a label, each as text in one form: `1`, `1.0`, "1" and "1.0" are equal."""
    votes = [vote for part in parts for vote in (part if isinstance(part, list) else [part]) if not _is_missing(vote)]
    return [re.sub(r"(?<=\d)\.0+$", "", str(vote).strip().lower()) for vote in votes]


def _coded(votes: list[str], values: str) -> list[str]:
    """Votes as `first`, `second` and `tie`, where `values` says what these are called."""
    sides = dict(zip(values.lower().split("/"), SIDES, strict=False)) if values else {}
    for vote in votes if values else ():
        check_choice("label", vote, sides)
    return [sides.get(vote, vote) for vote in votes]


# --- without `columns`


def usual_row(row: Mapping[str, Any], needs_label: bool = True) -> Mapping[str, Any]:
    """
    A row with `completions` ([`Responses`]) and `ranks` or `scores` where it holds two responses and a label, or
    BIG-bench's `targets`. Any other row as it is, `reject` as `rejected`. Without a label, two responses are refused
    if `needs_label`, and otherwise have no ranks.

    Raises:
        BadLayout: a label 0, which says "the first" here and "a tie" there; a label in `chosen`.
        BadRow: no label, two of them, or an unknown value of it; two columns that look like the prompt.

    Example:
        >>> usual_row({"input": "2 + 2 =", "output_1": "4", "output_2": "5", "label": [1, 2, 1]})
        {'prompt': '2 + 2 =', 'completions': {'output_1': '4', 'output_2': '5'}, 'ranks': [0, 1]}
    """
    if isinstance(row.get("reject"), str | list | Mapping):
        if row.get("rejected") is not None:
            raise BadRow("`reject` and `rejected` are both there; name one with --columns rejected=COLUMN")
        row = {"rejected" if name == "reject" else name: value for name, value in row.items() if name != "rejected"}
    if (column := first_column(row, COMPARED_COLUMNS)) is not None:
        is_text = column not in ("chosen", "rejected") or isinstance(row.get("rejected"), str | list | Mapping)
        if not is_text and len(responses := _responses(row)) == 2:
            shown = ", ".join(f"`{name}`" for name in responses.values())
            raise BadLayout(
                f"`{column}` is {show_value(row[column])} beside {shown}, and looks like the label; say what its "
                f"values mean (first/second), such as --columns label={column}:1/2"
            )
        return row
    targets = row.get("targets")
    if isinstance(targets, Mapping) and {"choices", "labels"} <= targets.keys():
        choices = Responses((f"targets.choices[{i}]", choice) for i, choice in enumerate(targets["choices"]))
        return _as_replies(row, ["targets"]) | {"completions": choices, "scores": targets["labels"]}
    responses = _responses(row)
    if not responses:
        return row
    shown = ", ".join(f"`{name}`" for name in responses.values())
    if len(responses) != 2 or len({RESPONSE.fullmatch(key)[1] for key in responses}) > 1:
        raise BadRow(f"{shown} are not two responses; name two with --columns response_1=COLUMN response_2=COLUMN")
    label = [name for name in LABELS if _votes([row.get(name)])]
    label = label or sorted(name for name in row if re.fullmatch(r"annotator_?[0-9]+", name))
    votes = _votes([row[name] for name in label])
    if (not votes and needs_label) or (len(label) > 1 and label[0] in LABELS):
        found = f"{' and '.join(label)} look like the label" if votes else "no label says which is better"
        raise BadRow(f"{shown}: {found}; name it with --columns label=COLUMN")
    completions = Responses((responses[key], row[responses[key]]) for key in sorted(responses))
    replies = _as_replies(row, [*responses.values(), *label]) | {"completions": completions}
    if not votes:
        return replies
    from_zero = min(responses).endswith("0")
    sides = Counter(_side(vote, "+".join(label), from_zero) for vote in votes)
    side, number = sides.most_common(1)[0]
    return replies | {"ranks": RANKS[side if 2 * number > len(votes) else "tie"]}  # without a majority it is a tie


def _responses(row: Mapping[str, Any]) -> dict[str, str]:
    """The columns that hold responses by their names, under [`_response_key`]."""
    return {
        key: name for name in row if (key := _response_key(name)) and (row[name] == "" or not _is_missing(row[name]))
    }


def _response_key(name: str) -> str | None:
    """`response1` of `Response 1` and the like; None for a column that is no response by its name."""
    key = re.sub("[ _-]", "", str(name).lower())
    return key if RESPONSE.fullmatch(key) else None


def _side(vote: str, column: str, from_zero: bool) -> str:
    """Which response is better, `first` or `second`, or `tie`; a number says it unless responses begin with 0."""
    text = re.sub(r"[\s_\[\]]", "", vote)
    text = re.sub(
        r"^(response|output|answer|completion|conversation|candidate|model|assistant|option)-?(?=.$)", "", text
    )
    if text == "0" or (from_zero and text.isdecimal()):
        raise BadLayout(
            f"`{column}` is {text}, which can be read in two ways; say what its values mean (first/second/tie), "
            f"such as --columns label={column}:0/1/2 or label={column}:1/2/0"
        )
    for side, words in SIDES.items():
        if text in words:
            return side
    raise BadRow(
        f"`{column}` is {show_value(vote)}, not 1, 2, A>B, model_a, tie or the like; say what its values mean "
        f"(first/second/tie), such as --columns label={column}:left/right/same"
    )


def _as_replies(row: Mapping[str, Any], used: list[str]) -> dict[str, Any]:
    """The other columns of a row of replies, the one that they reply to as `prompt`."""
    others = {name: value for name, value in row.items() if name not in used}
    if first_column(row, PROMPT_COLUMNS) is None:
        looks = [name for name in (*QUESTION_COLUMNS, "input") if not _is_missing(row.get(name))]
        if len(looks) > 1:
            shown = " and ".join(f"`{name}`" for name in looks)
            raise BadRow(f"{shown} look like the prompt; name it with --columns prompt={'+'.join(looks)}")
        if looks:
            others["prompt"] = others.pop(looks[0])
    return others


def first_column(row: Mapping[str, Any], columns: Iterable[str]) -> str | None:
    """The first of these columns that the row has; tables give all columns to a row, so null counts as missing."""
    return next((column for column in columns if row.get(column) is not None), None)


# --- rows that hold several


def usual_rows(rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """
    Rows, of which one may hold several: a tree of messages (OASST) its ranked lists, an object of lists of rows
    (EvalBiasBench) all of them with the key as their subset, an object of columns its rows: one with a list of
    prompts, or one of lists alone where it is all that there is. `where` is for errors.

    Example:
        >>> list(usual_rows([{"prompt": ["1 + 1 =", "2 + 2 ="], "chosen": ["2", "4"]}], "x"))[1]
        {'prompt': '2 + 2 =', 'chosen': '4'}
    """
    rows = iter(rows)
    start = list(islice(rows, 1))
    if has_columns := bool(start) and _has_columns(start[0]):  # only then is another row read ahead
        start += islice(rows, 1)
    for i, row in enumerate(chain(start, rows)):
        with located(f"{where} row {i}"):
            held = _rows_in(row, has_columns and len(start) == 1)
        yield from held


def _rows_in(row: dict[str, Any], has_columns: bool) -> list[dict[str, Any]]:
    tree = row.get("prompt")
    if isinstance(tree, dict) and isinstance(tree.get("replies"), list):
        return list(_ranked_lists(tree, []))
    if not row or not all(isinstance(values, list) and values for values in row.values()):
        return [row]
    values = [value for values in row.values() for value in values]
    if all(isinstance(value, dict) and not value.keys() & {"role", "from"} for value in values):
        return [{"subset": name, **one} for name, ones in row.items() for one in ones]
    has_prompts = "prompt" in row and all(isinstance(prompt, str) for prompt in row["prompt"])
    lengths = [len(values) for values in row.values()]
    if not has_columns and not (has_prompts and len(set(lengths)) == 1):
        return [row]
    if len(set(lengths)) > 1:
        fix = "give one length, or to the texts of one comparison a `prompt`, which may be empty"
        raise ValueError(f"its columns have {', '.join(map(str, lengths))} values; {fix}")
    return [dict(zip(row, values, strict=True)) for values in zip(*row.values(), strict=True)]


def _has_columns(row: dict[str, Any]) -> bool:
    """Whether it has lists alone, and none that one row holds: an object of columns, if no other row follows."""
    lists = [values for values in row.values() if isinstance(values, list) and values]
    return (
        len(lists) == len(row)
        and max(map(len, lists), default=0) > 1
        and not any(_is_of_one_row(name, values) for name, values in row.items())
    )


def _is_of_one_row(name: str, values: list[Any]) -> bool:
    """Whether a list is what one row holds: a conversation, or the completions of a list and what goes with them."""
    columns = all(isinstance(value, list) and not _is_conversation(value) for value in values)
    return _is_conversation(values) or (name in LISTS_OF_A_ROW and not columns)


def _is_conversation(value: list[Any]) -> bool:
    return all(isinstance(message, dict) and message.keys() & {"role", "from"} for message in value)


def _ranked_lists(message: dict[str, Any], before: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Every turn of the user in a tree that has two ranked replies or more, with what was said before it."""
    if not isinstance(message, dict) or not isinstance(message.get("text"), str):
        raise ValueError(f"a message of its tree is {show_value(message)}; it has a `text`, and maybe `replies`")
    role = "user" if message.get("role", "prompter") == "prompter" else "assistant"
    said = [*before, {"role": role, "content": message["text"]}]
    replies = [
        reply for reply in message.get("replies") or () if not isinstance(reply, dict) or not reply.get("deleted")
    ]
    below = [row for reply in replies for row in _ranked_lists(reply, said)]
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if role == "user" and len(ranked) > 1:
        completions, ranks = [reply["text"] for reply in ranked], [reply["rank"] for reply in ranked]
        yield {"id": message.get("message_id"), "prompt": said, "completions": completions, "ranks": ranks}
    yield from below
