"""Rows of every usual format become `Comparison` objects.

A comparison is one prompt and several completions; `ranks` say which is better (smaller is better, equal = no
preference). A preference pair is 1x1, RewardBench 2 is 1x3, a ranked list has ranks 0...K-1, best-of-n has none, and a
prompt that is still to be answered has no completions.

    comparisons = [to_comparison(row, i) for i, row in enumerate(load_rows("pairs.jsonl"))]

The formats of a row; a text is a string or a list of messages, in `role`/`content` or ShareGPT's `from`/`value`:

    prompt, chosen, rejected              explicit prompt; chosen and rejected may be lists of several texts
    chosen, rejected                      implicit prompt: transcripts that begin alike
    conversations, chosen, rejected       ShareGPT
    [prompt,] completions[, ranks]        ranked list; without ranks, candidates
    [prompt,] completions, scores         the same with larger is better (or `rewards`, `rating`)
    prompt, completion                    one candidate, or a list of `outputs`, `choices`, `responses` (vLLM, OpenAI)
    prompt, response_1, response_2, label which of the two is better: 1, 2, A>B, model_a, tie, votes (see layouts.py)
    prompt                                a prompt for a policy ([`to_prompt`])
    + margin, system, tools, chat_template_kwargs, id, subset, metadata

Columns of other names are renamed and joined by `columns=` of [`rm_plugin.load_rows`].
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from numbers import Integral, Real
from typing import Any

from ..messages import located
from .conversations import (
    BadRow,
    check_text,
    from_json,
    read_messages,
    read_template_variables,
    read_tools,
    show_value,
)
from .layouts import (
    COMPARED_COLUMNS,
    LIST_COLUMNS,
    PROMPT_COLUMNS,
    PROMPT_PARTS,
    QUESTION_COLUMNS,
    SCORE_COLUMNS,
    SYSTEM_COLUMNS,
    BadLayout,
    Responses,
    first_column,
    usual_row,
)
from .sources import load_rows

__all__ = ["BadRow", "Comparison", "load_rows", "to_comparison", "to_prompt"]

Text = str | list[dict[str, Any]]
"""Plain text, or a conversation: a list of `{"role", "content"}` messages."""

TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # for the chat template
MEDIA_COLUMNS = tuple(
    f"{kind}{rest}" for kind in ("image", "video", "audio") for rest in ("", "s", "_url", "_urls", "_path", "_paths")
)

# A conversation that a csv file holds as JSON, or as Python prints it.
PRINTED_MESSAGES = re.compile(r"""\s*\[\s*\{\s*(['"])(role|content|from|value)\1\s*:""")
HH_HUMAN, HH_ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class EmptyReplies(BadRow):
    """Replies of different rank that are all empty."""


@dataclass(init=False)
class Comparison:
    """
    One prompt, several completions, and which of them people prefer.

    The usual two-level case is given as `chosen` and `rejected`; anything else as `completions` with `ranks`.
    Equal conversations become equal, in whatever form they are given: messages as [`read_messages`] has them,
    completions without the prompt's messages if they repeat those.

    Args:
        prompt (`str` or `list[dict]`):
            Text or messages before the completions; `""`, `[]` or `None` for no prompt.
        completions (`list[str]` or `list[list[dict]]`, *optional*):
            The completions, each plain text or a list of messages; none where a prompt is still to be answered.
            Beside messages, plain text becomes one: a prompt the user's, a completion the assistant's.
        ranks (`list[int]`, *optional*):
            One integer per completion, smaller is better, equal means no preference between the two. `None` where
            nobody ranked them (best-of-n).
        chosen (`str`, `list[dict]`, or a list of these, *optional*):
            Preferred completion or completions, instead of `completions`. They get rank 0.
        rejected (`str`, `list[dict]`, or a list of these, *optional*):
            The completion or completions they are preferred to. They get rank 1.
        margin (`float`, *optional*):
            By how much the reward of the chosen should exceed that of the rejected, in reward units: the loss
            subtracts it from the difference.
        tools (`list`, *optional*):
            JSON schemas of the tools, for the chat template.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, such as `{"enable_thinking": False}`.
        id (`str`, *optional*):
            Name of the comparison in its data set.
        subset (`str`, *optional*):
            Part of the data set that it belongs to, for metrics per part.
        metadata (`dict`, *optional*):
            Whatever an evaluation needs later (domain, lengths, ...).

    Raises:
        ValueError: if neither or both ways of giving completions are used, if the number of ranks differs from that
            of completions, or if texts, messages, tools or template variables cannot be read.

    Example:
    ```python
    >>> ranked = Comparison("2 + 2 =", ["4", "four", "5"], ranks=[0, 0, 1])
    >>> ranked.pairs()
    [(0, 2), (1, 2)]
    >>> ranked.chosen, ranked.rejected
    (['4', 'four'], ['5'])

    ```
    """

    prompt: Text
    completions: list[Text]
    ranks: list[int] | None
    margin: float | None
    tools: list | None
    chat_template_kwargs: dict | None
    id: str | None
    subset: str | None
    metadata: dict | None

    def __init__(
        self,
        prompt: Text | None,
        completions: list[Text] | None = None,
        ranks: list[int] | None = None,
        *,
        chosen: Text | list[Text] | None = None,
        rejected: Text | list[Text] | None = None,
        margin: float | None = None,
        tools: list | None = None,
        chat_template_kwargs: dict | None = None,
        id: str | None = None,
        subset: str | None = None,
        metadata: dict | None = None,
    ) -> None:
        if (completions is None) == (chosen is None and rejected is None):
            raise ValueError("a comparison needs either `completions` or `chosen` and `rejected`; give one of the two")
        if completions is None:
            if ranks is not None or chosen is None or rejected is None:
                raise ValueError("`chosen` and `rejected` come together, without `ranks`; give both, or `completions`")
            chosen, rejected = ([texts] if _is_one_text(texts) else texts for texts in (chosen, rejected))
            chosen, rejected = _listed(chosen, "chosen"), _listed(rejected, "rejected")
            if not chosen or not rejected:
                raise ValueError("`chosen` or `rejected` is an empty list; give at least one of each")
            completions, ranks = chosen + rejected, [0] * len(chosen) + [1] * len(rejected)
        completions = _listed(completions, "completions")
        ranks = None if ranks is None else _listed(ranks, "ranks")
        if not completions and (not prompt or ranks is not None):
            raise ValueError("0 completions, a comparison needs at least 1; add one")
        if ranks is not None and len(ranks) != len(completions):
            raise ValueError(f"{len(ranks)} ranks for {len(completions)} completions; give one rank per completion")
        for rank in ranks or ():
            if not isinstance(rank, Integral) or isinstance(rank, bool):
                raise ValueError(f"ranks has {show_value(rank)}; ranks are integers, smaller is better")
        if margin is not None and (
            not isinstance(margin, Real) or isinstance(margin, bool) or not math.isfinite(margin)
        ):
            raise ValueError(f"`margin` is {show_value(margin)}; it is a finite number")
        if subset is not None and not isinstance(subset, str):
            raise ValueError(f"`subset` is {show_value(subset)}; it is a text")
        if metadata is not None and not isinstance(metadata, dict):
            raise ValueError(f"`metadata` is {show_value(metadata)}; it is a dict")
        texts = [prompt or "", *completions]
        if not all(isinstance(text, str | list) for text in texts):
            names = ", ".join(sorted({type(text).__name__ for text in texts}))
            raise ValueError(f"prompt and completions are {names}; make all of them str or all of them message lists")
        if any(isinstance(text, list) for text in texts):
            prompt = [{"role": "user", "content": prompt}] if prompt and isinstance(prompt, str) else prompt or []
            prompt = read_messages(prompt, "prompt")
            replies = [[{"role": "assistant", "content": t}] if isinstance(t, str) else t for t in completions]
            completions = [read_messages(text, f"completions[{i}]") for i, text in enumerate(replies)]
            if completions:
                prompt, completions = _without_repeated_prompt(prompt, completions)
        else:
            prompt = check_text(prompt or "", "the prompt")
            completions = [check_text(text, f"completions[{i}]") for i, text in enumerate(completions)]
        self.prompt = prompt
        self.completions = completions
        self.ranks = ranks
        self.margin = margin
        self.tools = read_tools(tools)
        self.chat_template_kwargs = read_template_variables(chat_template_kwargs)
        self.id = id
        self.subset = subset
        self.metadata = metadata

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template gets besides messages, by `TEMPLATE_COLUMNS`."""
        return {name: getattr(self, name) for name in TEMPLATE_COLUMNS}

    @property
    def conversational(self) -> bool:
        """`True` if the completions are lists of messages."""
        return not isinstance(self.prompt if self.prompt else self.completions[0], str)

    @property
    def chosen(self) -> list[Text]:
        """Completions of the best rank; empty where nothing is ranked."""
        return [self.completions[i] for i, rank in enumerate(self.ranks or []) if rank == min(self.ranks)]

    @property
    def rejected(self) -> list[Text]:
        """Completions of all worse ranks; empty where nothing is ranked."""
        return [self.completions[i] for i, rank in enumerate(self.ranks or []) if rank > min(self.ranks)]

    def pairs(self) -> list[tuple[int, int]]:
        """Index pairs `(better, worse)`, `ranks[better] < ranks[worse]`; empty where nothing is ranked."""
        ranks = list(enumerate(self.ranks or []))
        return [(i, j) for i, better in ranks for j, worse in ranks if better < worse]


def text_length(text: Text) -> int:
    """Characters of a text, or of all messages of a conversation; a content may be a list of parts.

    Example:
    ```python
    >>> text_length("four"), text_length([{"role": "user", "content": [{"type": "text", "text": "four"}]}])
    (4, 4)

    ```
    """
    return len(text) if isinstance(text, str) else sum(len(message["content"]) for message in read_messages(text))


def text_key(value: Any) -> str:
    """16 hex digits that name a text, a conversation, or whatever else JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def to_comparison(
    row: Mapping[str, Any],
    index: int | None = None,
    *,
    candidates: bool = False,
    allow_empty: bool = False,
    needs_label: bool = True,
) -> Comparison:
    """
    Read one row of a data set. Pure and picklable, made for `datasets.map(with_indices=True)`.

    Prompt and completion joined are always the row's own text, character by character: whatever is split here only
    says where the completion begins. An implicit prompt is the beginning that the conversations of a row share, up to
    the user's last words in it, or what precedes the last reply of HH-RLHF transcripts; other plain text keeps the
    empty prompt. Where the prompts of transcripts differ, the prompt is empty and they are the completions.

    Args:
        row (`dict`):
            A row in one of the formats at the top of this module.
        index (`int`, *optional*):
            Its position in the data set, for the error.
        candidates (`bool`, *optional*, defaults to `False`):
            Completions of a list are not ranked, whatever other columns say, and the prompt may be in a column
            `question`, `instruction` or `query`.
        allow_empty (`bool`, *optional*, defaults to `False`):
            Completions may be empty, as those of a policy that ended at once.
        needs_label (`bool`, *optional*, defaults to `True`):
            Refuse two responses without a label; otherwise they are candidates.

    Returns:
        [`Comparison`]

    Raises:
        BadRow: if a column is missing, a completion is empty or no text, two completions of different rank are equal,
            lists that belong together differ in length, or a column looks like a part of the prompt that would not be
            read.
        BadLayout: if the columns can be read in two ways, whatever the row.

    Example:
    ```python
    >>> start = "\\n\\nHuman: Hi\\n\\nAssistant:"
    >>> comparison = to_comparison({"chosen": start + " Hello", "rejected": start + " No"})
    >>> comparison.prompt, comparison.completions
    ('\\n\\nHuman: Hi\\n\\nAssistant:', [' Hello', ' No'])

    ```
    """
    with _reading(index):
        if not isinstance(row, Mapping):
            raise BadRow(f"the row is {show_value(row)}; a row is a dict from column name to value")
        comparison, names = _read_row(usual_row(row, needs_label and not candidates), candidates, allow_empty)
        for i, j in comparison.pairs():
            if comparison.completions[i] == comparison.completions[j]:
                kind = EmptyReplies if is_empty(comparison.completions[i]) else BadRow
                raise kind(f"`{names[i]}` equals `{names[j]}`; completions of different rank differ in text")
        return comparison


def to_prompt(row: Text | Mapping[str, Any], index: int | None = None) -> Comparison:
    """
    Read a prompt for a policy from a text, a conversation or a row (from a preference row, the prompt that training
    reads), as a comparison without completions.

    Raises:
        BadRow: there is no prompt, or a column looks like a part of it that would not be read.

    Example:
    ```python
    >>> to_prompt({"question": "2 + 2 =", "tools": []})
    Comparison(prompt='2 + 2 =', completions=[], ranks=None, margin=None, tools=None, chat_template_kwargs=None, \
id=None, subset=None, metadata=None)

    ```
    """
    row = row if isinstance(row, Mapping) else {"prompt": row}
    with _reading(index):
        column, prompt = first_column(row, (*PROMPT_COLUMNS, *QUESTION_COLUMNS)), None
        is_pair = row.get("chosen") is not None and row.get("rejected") is not None
        if column is not None and row[column] and not is_pair:
            prompt = _read_text(row[column], column)
        elif first_column(row := usual_row(row, needs_label=False), COMPARED_COLUMNS) is not None:
            prompt = _read_row(row, candidates=False, allow_empty=True)[0].prompt
        if not prompt:
            found = ", ".join(name for name in row if row[name]) or "nothing"
            raise BadRow(f"there is no prompt (found: {found}); a policy needs words to continue, give a `prompt`")
        return _comparison(row, prompt, [], None)


def _read_row(row: Mapping[str, Any], candidates: bool, allow_empty: bool) -> tuple[Comparison, list[str]]:
    """The comparison of a row of the usual columns, and the names of its completions for errors."""
    texts, ranks = _read_completions(row, candidates)
    for name, text in texts.items():
        _check_completion(text, name, allow_empty)
    if not candidates and len({type(text) for text in texts.values()}) > 1:
        kinds = ", ".join(f"`{name}` {'text' if isinstance(t, str) else 'messages'}" for name, t in texts.items())
        raise BadRow(f"plain text and messages are mixed ({kinds}); make them all text, or all lists of messages")
    prompt, completions = _read_prompt(row, list(texts.values()), candidates)
    return _comparison(row, prompt, completions, ranks), list(texts)


@contextmanager
def _reading(index: int | None) -> Iterator[None]:
    """Errors of reading a row become a `BadRow` that names it; ambiguous columns stay a `BadLayout`."""
    try:
        with located("" if index is None else f"row {index}", BadRow):
            yield
    except BadRow as error:
        if isinstance(error.__cause__, BadLayout | EmptyReplies):
            raise type(error.__cause__)(str(error)) from error
        raise


def template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives the chat template besides messages: `tools` and `chat_template_kwargs`, each maybe `None`."""
    return {
        "tools": read_tools(row.get("tools")),
        "chat_template_kwargs": read_template_variables(row.get("chat_template_kwargs")),
    }


def loss_margin(row: Mapping[str, Any]) -> Any:
    """The `margin` of a row; none where it is the difference of two scores beside it, as `rm-plugin score` writes."""
    margin = row.get("margin")
    if row.get("score_chosen") is not None and row.get("score_rejected") is not None:
        return None
    if isinstance(margin, str):  # of a csv file, where an empty cell is none
        with located("`margin`"):
            return float(margin) if margin.strip() else None
    return margin


def _comparison(row: Mapping[str, Any], prompt: Text, completions: list[Text], ranks: list[int] | None) -> Comparison:
    """The comparison of a row whose texts were read, with its other columns."""
    id, subset, metadata = (row.get(name) for name in ("id", "subset", "metadata"))
    comparison = Comparison(
        prompt,
        completions,
        ranks,
        margin=loss_margin(row),
        **{name: row.get(name) for name in TEMPLATE_COLUMNS},
        id=None if id is None else str(id),
        subset=None if subset is None else str(subset),
        metadata=metadata if isinstance(metadata, dict) else None,
    )
    _add_system(row, comparison)
    _check_other_columns(row, comparison)
    return comparison


def _read_completions(row: Mapping[str, Any], candidates: bool) -> tuple[dict[str, Text], list[int] | None]:
    """The completions as the row has them (maybe with the prompt in them), by their names for errors; their ranks."""
    missing = [column for column in ("chosen", "rejected") if row.get(column) is None]
    if not missing:
        chosen, rejected = (_read_texts(row[column], column) for column in ("chosen", "rejected"))
        return chosen | rejected, [0] * len(chosen) + [1] * len(rejected)
    column, *others = [name for name in (*LIST_COLUMNS, "completion") if row.get(name) is not None] or [None]
    if others:
        shown = " and ".join(f"`{name}`" for name in (column, *others))
        raise BadRow(f"{shown} could each be the completions; name one, such as --columns completions={column}")
    if column is None:
        found = ", ".join(str(column) for column in row if row[column] is not None) or "nothing"
        fix = "a preference row has `chosen` and `rejected`, or a list `completions`"
        if "input_ids_chosen" in row:
            fix = "TRL calls them `chosen_ids` and `rejected_ids` now, rename them"
        raise BadRow(f"{' and '.join(f'`{column}`' for column in missing)} missing (found: {found}); {fix}")
    if isinstance(row[column], Responses):
        texts = {name: _up_to_turn(_read_text(text, name), row.get("turn")) for name, text in row[column].items()}
        return texts, None if candidates else _read_ranks(row, len(texts))
    values = [row[column]] if column == "completion" else row[column]
    values = [_text_of_output(value) for value in values] if isinstance(values, list) else values
    if not isinstance(values, list) or _is_one_text(values):
        raise BadRow(f"`{column}` is {show_value(values)}; it is a list, each item text or a list of messages")
    if column == "completion":
        texts = {column: _read_text(values[0], column, candidates)}
    else:
        texts = _read_texts(values, column, candidates)
    return texts, None if candidates else _read_ranks(row, len(texts))


def _up_to_turn(text: Text, turn: Any) -> Text:
    """A conversation up to the answer that was judged, where a vote says which (MT-bench: `turn`, from 1)."""
    turn = from_json(turn)  # of a csv file
    if not isinstance(text, list) or not isinstance(turn, int | float):
        return text
    if turn < 1:
        raise BadRow(f"`turn` is {turn}; it counts the assistant's answers from 1")
    answers = [i for i, message in enumerate(text, start=1) if message["role"] == "assistant"]
    return text[: answers[int(turn) - 1]] if turn <= len(answers) else text


def fields_of(output: Any) -> Mapping[str, Any]:
    """What a mapping or an object of vLLM or OpenAI's client holds, by name; nothing of a text."""
    return output if isinstance(output, Mapping) else getattr(output, "__dict__", {})


def _text_of_output(value: Any) -> Any:
    """The text in what vLLM (`{"text"}`) and OpenAI's protocol (`{"message": {"content"}}`) write for one output."""
    output = fields_of(value)
    if not output or output.keys() & {"role", "from"}:
        return value
    if output.get("message") is None:
        return output.get("text")
    message = fields_of(output["message"])
    return [dict(message)] if message.get("tool_calls") else message.get("content")


def _read_ranks(row: Mapping[str, Any], num_completions: int) -> list[int] | None:
    """The ranks of a list of completions, from `ranks` (smaller is better) or scores (larger is better)."""
    column = first_column(row, ("ranks", *SCORE_COLUMNS))
    if column is None:
        return None
    values = row[column]
    if not isinstance(values, list) or len(values) != num_completions:
        raise BadRow(f"`{column}` is {show_value(values)} for {num_completions} completions; give one value for each")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRow(f"`{column}` contains {show_value(value)}; every value is a finite number")
        if column == "ranks" and value != int(value):
            raise BadRow(f"`ranks` contains {value}; ranks are integers, smaller is better, call scores `scores`")
    if column == "ranks":
        return [int(value) for value in values]
    best_first = sorted(set(values), reverse=True)
    return [best_first.index(value) for value in values]


def _read_prompt(row: Mapping[str, Any], texts: list[Text], candidates: bool) -> tuple[Text, list[Text]]:
    """Prompt and completions, from an explicit prompt column or from the beginning of the texts."""
    column = first_column(row, PROMPT_COLUMNS + QUESTION_COLUMNS * candidates)
    if column == "messages" and isinstance(texts[0], list) and texts[0][0]["role"] != "assistant":
        column = None  # a copy of what is compared, whole conversations
    read = "\n".join(map(str, _leaves([row.get(column), texts])))
    _check_is_read(row, [name for name in PROMPT_COLUMNS if name != column], [read])
    if column is None:
        return _split_off_prompt(texts)
    prompt = _read_text(row[column], column) if row[column] else ""  # "" and [] alike: no prompt
    if str(prompt).startswith(HH_HUMAN) and all(isinstance(t, str) and t.startswith(prompt) for t in texts):
        texts = [text.removeprefix(prompt) for text in texts]  # transcripts that repeat the prompt
    return prompt, texts


def _split_off_prompt(texts: list[Text]) -> tuple[Text, list[Text]]:
    """The prompt that the texts share, and what follows it; an empty prompt where they share none."""
    if isinstance(texts[0], list):  # they may part before their last turn: what they share up to the user's words
        shared = sum(1 for _ in takewhile(lambda turns: all(t == turns[0] for t in turns), zip(*texts, strict=False)))
        asked = (i + 1 for i, turn in enumerate(texts[0][:shared]) if turn["role"] not in ("assistant", "tool"))
        cuts = [max(asked, default=0)] * len(texts)
    else:
        cuts = list(map(_reply_start, texts))
    if len({text[:cut] for text, cut in zip(texts, cuts, strict=True) if isinstance(text, str)}) > 1:
        return "", texts
    return texts[0][: cuts[0]], [text[cut:] for text, cut in zip(texts, cuts, strict=True)]


def _reply_start(text: str) -> int:
    """Where the last reply of a transcript begins: after the last turn that is not the assistant's."""
    if text.startswith(HH_HUMAN) and HH_ASSISTANT in text:
        return text.rindex(HH_ASSISTANT) + len(HH_ASSISTANT)
    return 0


def _add_system(row: Mapping[str, Any], comparison: Comparison) -> None:
    """Begin a conversation with the system message that LLaMA-Factory keeps in a column of its own."""
    system = next((row[name] for name in SYSTEM_COLUMNS if row.get(name)), None)
    texts = [comparison.prompt, *comparison.completions]
    if not isinstance(system, str) or not comparison.conversational:
        return
    message = {"role": "system", "content": system}
    if any(turn["role"] == "system" for text in texts for turn in text):
        return
    if comparison.prompt or comparison.completions[0][0]["role"] == "assistant":
        comparison.prompt = [message, *comparison.prompt]
    else:
        comparison.completions = [[message, *text] for text in comparison.completions]


def _check_other_columns(row: Mapping[str, Any], comparison: Comparison) -> None:
    """Refuse a column that looks like part of the prompt and is not in it: the texts would be read without it."""
    for column in MEDIA_COLUMNS:
        if any(True for _ in _leaves(row.get(column))):
            raise BadRow(f"`{column}` is not text, which is all that is read; remove the rows or `{column}`")
    prompt, completions = comparison.prompt, comparison.completions
    read = ["\n".join(map(str, _leaves(text))) for text in ([prompt] if prompt else completions)]
    begins = prompt or completions[0]
    asked = isinstance(begins, list) and begins[0]["role"] != "assistant"  # messages have the question among them
    _check_is_read(row, PROMPT_PARTS + (() if asked else QUESTION_COLUMNS), read)


def _check_is_read(row: Mapping[str, Any], columns: Sequence[str], read: list[str]) -> None:
    """Refuse a column that looks like the prompt and is not in what is read."""
    for column in columns:
        parts = [part.strip() for part in _leaves(row.get(column)) if isinstance(part, str)]
        if not all(part in text for part in parts for text in read):
            asked = first_column(row, [name for name in (*PROMPT_COLUMNS, *QUESTION_COLUMNS) if name != column])
            joined = [column, asked] if column in SYSTEM_COLUMNS else [asked, column]
            raise BadRow(
                f"`{column}` looks like a part of the prompt that would not be read; say what the prompt is, such as "
                f"--columns prompt={'+'.join(filter(None, joined))}, or remove it"
            )


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in a nested value that says something: no nulls, no empty text, no name of a speaker."""
    if isinstance(value, Mapping):
        value = [item for name, item in value.items() if name not in ("role", "from", "type")]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None and (not isinstance(value, str) or value.strip()):
        yield value


def is_empty(text: Text) -> bool:
    """Whether a completion, or the last reply of a transcript, says nothing; a tool call says something."""
    if not text:
        return True
    last = text[-1] if isinstance(text, list) else {"content": text[_reply_start(text) :]}
    return not last["content"].strip() and not last.get("tool_calls")


def _check_completion(text: Text, name: str, allow_empty: bool) -> None:
    """A completion ends with the assistant's words."""
    if isinstance(text, list) and text[-1]["role"] != "assistant":
        raise BadRow(f"`{name}` ends with a message of role {text[-1]['role']!r}; end it with an assistant message")
    if not allow_empty and is_empty(text):
        raise BadRow(f"`{name}` is empty; every completion needs text, remove the row or write the reply")


def _read_texts(value: Any, name: str, candidates: bool = False) -> dict[str, Text]:
    """One text or a list of several, each under its name for errors."""
    if _is_one_text(value) or not isinstance(value, list):
        return {name: _read_text(value, name, candidates)}
    if not value:
        raise BadRow(f"`{name}` is an empty list; give at least one completion")
    return {f"{name}[{i}]": _read_text(text, f"{name}[{i}]", candidates) for i, text in enumerate(value)}


def _read_text(value: Any, name: str, as_it_is: bool = False) -> Text:
    """Plain text, or messages in the `role`/`content` form; those that a csv file holds as text unless `as_it_is`."""
    if isinstance(value, str) and PRINTED_MESSAGES.match(value) and not as_it_is:
        if isinstance(written := from_json(value, printed=True), str):
            raise BadRow(f"`{name}` is a list of messages written as text, which cannot be read; write it as JSON")
        value = written
    if isinstance(value, str):
        return check_text(value, f"`{name}`")
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    messages = [value] if isinstance(value, dict) else value  # ShareGPT has the reply as a single message
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"`{name}` is {show_value(value)}; it must be text or a list of messages")
    return read_messages(messages, name)


def _without_repeated_prompt(prompt: list[dict], completions: list[list[dict]]) -> tuple[list, list[list[dict]]]:
    """
    Completions that are whole conversations lose the prompt's messages, and what precedes those (a system
    message) goes to the prompt.
    """
    spans = [_find_prompt(prompt, text) for text in completions]
    for i, (text, span) in enumerate(zip(completions, spans, strict=True)):
        if prompt and text and not span and prompt[-1]["role"] == "user" and text[0]["role"] in ("system", "user"):
            raise BadRow(
                f"completion {i} begins with a message of role {text[0]['role']!r} that is not in the prompt, which "
                "ends with the user's; give the reply alone, or a conversation that repeats the prompt to the letter"
            )
    heads = [text[: span[0]] if span else [] for text, span in zip(completions, spans, strict=True)]
    if all(head == heads[0] for head in heads):
        cut = [text[span[1] :] if span else text for text, span in zip(completions, spans, strict=True)]
        return heads[0] + prompt, cut
    return [], [text if span else prompt + text for text, span in zip(completions, spans, strict=True)]


def _find_prompt(prompt: list[dict], text: list[dict]) -> tuple[int, int] | None:
    """Where the prompt's messages, or those after its system message, begin and end in a text that continues them."""
    if not prompt or not text:
        return None
    asked = prompt[1:] if len(prompt) > 1 and prompt[0]["role"] in ("system", "developer") else prompt
    if text[0]["role"] == "assistant" != asked[0]["role"]:
        return None
    for start in range(len(text) - len(prompt)):
        if text[start : start + len(prompt)] == prompt:
            return start, start + len(prompt)
    return (0, len(asked)) if len(text) > len(asked) and text[: len(asked)] == asked else None


def _listed(values: Any, name: str) -> list[Any]:
    """The items of a list or another iterable; a text alone, which Python would read as its characters, is refused."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {show_value(values)}; give a list")
    return list(values)


def _is_one_text(value: Any) -> bool:
    """A string, a message or a conversation, rather than a list of several of them."""
    return isinstance(value, str | dict) or (isinstance(value, list) and len(value) > 0 and isinstance(value[0], dict))
