"""Preference data: rows of every usual format, from anywhere, become `Comparison` objects.

A comparison is one prompt and several completions; `ranks` say which is better (smaller is better, equal = no
preference). A preference pair is 1x1, RewardBench 2 is 1x3, a ranked list has ranks 0...K-1, best-of-n has none.

    rows = load_rows("pairs.jsonl")                       # file, folder, hub id or Dataset: a table of raw rows
    comparisons, skipped = read_comparisons(rows)         # every row: Comparison or BadRow, nothing silently dropped

The formats of a row (`to_comparison`); a text is a string or a list of messages, in `role`/`content` or ShareGPT's
`from`/`value`:

    prompt, chosen, rejected              explicit prompt; chosen and rejected may be lists of several texts
    chosen, rejected                      implicit prompt: transcripts that begin alike
    conversations, chosen, rejected       ShareGPT
    [prompt,] completions[, ranks]        ranked list; without ranks, best-of-n
    [prompt,] completions, scores         the same with larger is better (or `rewards`, `rating`)
    + margin, tools, chat_template_kwargs, id, subset, metadata
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from .sources import load_rows

__all__ = ["BadRow", "Comparison", "SkippedRows", "load_rows", "read_comparisons", "to_comparison"]

Text = str | list[dict[str, Any]]
"""Plain text, or a conversation: a list of `{"role", "content"}` messages."""

ON_BAD_ROW = ("error", "skip")
MAX_LISTED_ROWS = 1000  # skipped rows that are listed; all of them are counted

SCORE_COLUMNS = ("scores", "rewards", "rating")  # larger is better, unlike `ranks`
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # for the chat template
QUESTION_COLUMNS = ("question", "instruction", "query")  # names other projects give to the prompt
SYSTEM_COLUMNS = ("system", "system_prompt")
PROMPT_PARTS = (*SYSTEM_COLUMNS, "input", "context", "history", "documents")  # what other projects keep beside it
MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")
TEXT_PARTS = (None, "text", "input_text", "output_text")  # types of those parts of a content that are text
SAY_ENOUGH = {"tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"}  # without a content
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}

HH_HUMAN, HH_ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


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
            The completions, each plain text or a list of messages, of the same kind as the prompt.
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
            Part of the data set that it belongs to, for figures per part.
        metadata (`dict`, *optional*):
            Whatever an evaluation needs later (domain, lengths, ...).

    Raises:
        ValueError: if neither or both ways of giving completions are used, if the number of ranks differs from that
            of completions, if plain text and messages are mixed, or if messages, tools or template variables cannot
            be read.

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
            chosen, rejected = ([texts] if _is_one_text(texts) else list(texts) for texts in (chosen, rejected))
            completions, ranks = chosen + rejected, [0] * len(chosen) + [1] * len(rejected)
        if not completions:
            raise ValueError("0 completions, a comparison needs at least 1; add one")
        if ranks is not None and len(ranks) != len(completions):
            raise ValueError(f"{len(ranks)} ranks for {len(completions)} completions; give one rank per completion")
        kinds = {type(text) for text in [*([prompt] if prompt else []), *completions]}
        if kinds not in ({str}, {list}):
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(f"prompt and completions are {names}; make all of them str or all of them message lists")
        if kinds == {list}:
            prompt = read_messages(prompt, "prompt") if prompt else []
            completions = [read_messages(text, f"completions[{i}]") for i, text in enumerate(completions)]
            prompt, completions = _without_repeated_prompt(prompt, completions)
        self.prompt = prompt or kinds.pop()()
        self.completions = list(completions)
        self.ranks = None if ranks is None else list(ranks)
        self.margin = margin
        self.tools = _read_tools(tools)
        self.chat_template_kwargs = _read_chat_template_kwargs(chat_template_kwargs)
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
        return not isinstance(self.completions[0], str)

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


def same_text(text: Text) -> Text:
    """One form of all equal texts, for digests: that of [`read_messages`], with the keys of a message in order."""
    return text if isinstance(text, str) else [dict(sorted(message.items())) for message in read_messages(text)]


def text_length(text: Text) -> int:
    """Characters of a text, or of all messages of a conversation; a content may be a list of parts.

    Example:
    ```python
    >>> text_length("four"), text_length([{"role": "user", "content": [{"type": "text", "text": "four"}]}])
    (4, 4)

    ```
    """
    if isinstance(text, str):
        return len(text)
    contents = [message.get("content") or "" for message in text]
    parts = [one if isinstance(one, list) else [one] for one in contents]
    texts = [part.get("text") or "" if isinstance(part, dict) else str(part) for one in parts for part in one]
    return sum(map(len, texts))


class BadRow(ValueError):
    """
    A row that is no comparison; its message reads `row 17: <cause>; <fix>`.

    Args:
        cause (`str`):
            What is wrong with the row.
        fix (`str`):
            What a good row has there.
        index (`int`, *optional*):
            Position of the row in its data set, from 0.
    """

    def __init__(self, cause: str, fix: str = "", index: int | None = None) -> None:
        # All three, so that it survives pickling by `datasets.map(num_proc=2)`. A worker of torch's DataLoader hands
        # over one text, which has its fix in it.
        super().__init__(cause, fix, index)
        self.cause, self.fix, self.index = cause, fix, index

    def __str__(self) -> str:
        where = "" if self.index is None else f"row {self.index}: "
        return f"{where}{self.cause}; {self.fix}" if self.fix else f"{where}{self.cause}"


@dataclass
class SkippedRows:
    """
    Rows left out by `on_bad_row="skip"`.

    Args:
        count (`int`):
            How many there are.
        rows (`list[tuple[int, str]]`):
            Index and cause of each, the first `MAX_LISTED_ROWS` of them.
    """

    count: int = 0
    rows: list[tuple[int | None, str]] = field(default_factory=list)

    def add(self, bad_row: BadRow) -> None:
        """Count one more, and list it while there is room."""
        self.count += 1
        if len(self.rows) < MAX_LISTED_ROWS:
            self.rows.append((bad_row.index, bad_row.cause))

    def __str__(self) -> str:
        lines = [f"{self.count} bad row{'s' * (self.count != 1)} skipped"]
        lines += [f"  row {index}: {cause}" for index, cause in self.rows]
        lines += [f"  and {self.count - len(self.rows)} more"] * (self.count > len(self.rows))
        return "\n".join(lines)


def read_comparisons(
    rows: Iterable[Mapping[str, Any]], on_bad_row: str = "error"
) -> tuple[list[Comparison], SkippedRows]:
    """
    Read raw rows as comparisons.

    Args:
        rows (iterable of `dict`):
            What `load_rows` returns, or a list of dicts; the formats stand at the top of this module.
        on_bad_row (`str`, *optional*, defaults to `"error"`):
            `"error"` stops at the first bad row, `"skip"` leaves bad rows out, counted and listed.

    Returns:
        `tuple[list[Comparison], SkippedRows]`: the comparisons in the order of the rows, and what was left out.

    Raises:
        BadRow: (a `ValueError`) at the first bad row, with its index, the cause and the fix.
        ValueError: for an unknown `on_bad_row`.

    Example:
    ```python
    >>> rows = [{"prompt": "1+1=", "chosen": "2", "rejected": "3"}, {"prompt": "1+1=", "chosen": "", "rejected": "3"}]
    >>> comparisons, skipped = read_comparisons(rows, on_bad_row="skip")
    >>> len(comparisons), skipped.count, skipped.rows
    (1, 1, [(1, '`chosen` is empty')])

    ```
    """
    if on_bad_row not in ON_BAD_ROW:
        raise ValueError(f"on_bad_row={on_bad_row!r} is unknown; use one of {', '.join(ON_BAD_ROW)}")
    comparisons, skipped = [], SkippedRows()
    for index, row in enumerate(rows):
        try:
            comparisons.append(to_comparison(row, index))
        except BadRow as bad_row:
            if on_bad_row == "error":
                raise
            skipped.add(bad_row)
    return comparisons, skipped


def to_comparison(row: Mapping[str, Any], index: int | None = None) -> Comparison:
    """
    Read one row of a preference data set. Pure and picklable, made for `datasets.map(with_indices=True)`.

    Prompt and completion joined are always the row's own text, character by character: whatever is split here only
    says where the completion begins. An implicit prompt is what precedes the last assistant turn of a conversation
    or of an HH-RLHF transcript; other plain text keeps the empty prompt. Where the prompts of one row differ, the
    prompt is empty and the completions are the whole transcripts.

    Args:
        row (`dict`):
            A row in one of the formats at the top of this module.
        index (`int`, *optional*):
            Its position in the data set, for the error.

    Returns:
        [`Comparison`]

    Raises:
        BadRow: if a column is missing, a completion is empty or no text, two completions of different rank are equal,
            or lists that belong together differ in length.

    Example:
    ```python
    >>> start = "\\n\\nHuman: Hi\\n\\nAssistant:"
    >>> comparison = to_comparison({"chosen": start + " Hello", "rejected": start + " No"})
    >>> comparison.prompt, comparison.completions
    ('\\n\\nHuman: Hi\\n\\nAssistant:', [' Hello', ' No'])

    ```
    """
    try:
        if not isinstance(row, Mapping):
            raise BadRow(f"the row is {_show(row)}", "a row is a dict from column name to value")
        texts, ranks, names = _read_completions(row)
        prompt, completions = _read_prompt(row, texts, names)
        _check_completions(completions, ranks, names)
        prompt, completions = _with_system(row, prompt, completions)
        _check_other_columns(row, prompt, completions)
        id, subset, metadata = row.get("id"), row.get("subset"), row.get("metadata")
        return Comparison(
            prompt,
            completions,
            ranks,
            margin=_read_margin(row.get("margin")),
            **template_arguments(row),
            id=None if id is None else str(id),
            subset=None if subset is None else str(subset),
            metadata=metadata if isinstance(metadata, dict) else None,
        )
    except BadRow as bad_row:
        raise BadRow(bad_row.cause, bad_row.fix, index) from None


def _read_completions(row: Mapping[str, Any]) -> tuple[list[Text], list[int] | None, list[str]]:
    """The completions as the row has them (maybe with the prompt in them), their ranks, their names for errors."""
    # Tables give every row all columns, so a column that is null here is one that this row does not have.
    found = [column for column in row if row[column] is not None]
    missing = [column for column in ("chosen", "rejected") if column not in found]
    if not missing:
        chosen, chosen_names = _read_texts(row["chosen"], "chosen")
        rejected, rejected_names = _read_texts(row["rejected"], "rejected")
        return chosen + rejected, [0] * len(chosen) + [1] * len(rejected), chosen_names + rejected_names
    if "completions" not in found:
        columns = " and ".join(f"`{column}`" for column in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise BadRow(
            f"{columns} {verb} missing (found: {', '.join(map(str, found)) or 'nothing'})",
            "a preference row has `chosen` and `rejected`, or a list `completions`",
        )
    if _is_one_text(row["completions"]) or not isinstance(row["completions"], list):
        raise BadRow(
            f"`completions` is {_show(row['completions'])}", "it is a list, each item text or a list of messages"
        )
    texts, names = _read_texts(row["completions"], "completions")
    return texts, _read_ranks(row, len(texts)), names


def _read_ranks(row: Mapping[str, Any], num_completions: int) -> list[int] | None:
    """The ranks of a list of completions, from `ranks` (smaller is better) or scores (larger is better)."""
    column = next((column for column in ("ranks", *SCORE_COLUMNS) if row.get(column) is not None), None)
    if column is None:
        return None
    values = row[column]
    if not isinstance(values, list) or len(values) != num_completions:
        given = f"{len(values)} values" if isinstance(values, list) else _show(values)
        raise BadRow(f"`{column}` is {given} for {num_completions} completions", "give one value per completion")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRow(f"`{column}` contains {_show(value)}", "every value is a finite number")
        if column == "ranks" and value != int(value):
            raise BadRow(f"`ranks` contains {value}", "ranks are integers, smaller is better; call scores `scores`")
    if column == "ranks":
        return [int(value) for value in values]
    best_first = sorted(set(values), reverse=True)
    return [best_first.index(value) for value in values]


def _read_prompt(row: Mapping[str, Any], texts: list[Text], names: list[str]) -> tuple[Text, list[Text]]:
    """Prompt and completions, from an explicit prompt column or from the beginning of the texts."""
    if len({type(text) for text in texts}) > 1:
        kinds = ", ".join(f"`{name}` {_kind(text)}" for name, text in zip(names, texts, strict=True))
        raise BadRow(f"plain text and messages are mixed ({kinds})", "make them all text, or all lists of messages")
    column = next((column for column in ("prompt", "conversations") if row.get(column) is not None), None)
    if column is None:
        return _split_off_prompt(row, texts, names)
    prompt = _read_text(row[column], column) if row[column] else []  # "" and [] alike: no prompt
    prompt, texts = match_kinds(prompt, texts, column, names)
    for name, text in zip(names, texts, strict=True):
        if isinstance(text, list):
            _check_assistant_end(text, name)
        elif prompt.startswith(HH_HUMAN) and all(text.startswith(prompt) for text in texts):
            return prompt, [text[len(prompt) :] for text in texts]  # transcripts that repeat the prompt
    return prompt, texts


def match_kinds(
    prompt: Text, texts: list[Text], column: str = "prompt", names: Sequence[str] = ()
) -> tuple[Text, list[Text]]:
    """
    Prompt and completions of one kind: beside messages, a plain prompt is the user's, a plain completion the
    assistant's message.

    Raises:
        BadRow: messages that begin with the user's turn answer another prompt than the plain one beside them.
    """
    if not any(isinstance(text, list) for text in (prompt or "", *texts)):
        return prompt or "", texts
    texts = [[{"role": "assistant", "content": text}] if isinstance(text, str) else text for text in texts]
    if not prompt or isinstance(prompt, list):
        return prompt or [], texts
    prompt = [{"role": "user", "content": prompt}]
    for i, text in enumerate(map(read_messages, texts)):
        if text and text[0]["role"] != "assistant" and prompt[0] not in text:
            raise BadRow(
                f"`{column}` is text, which is not in the messages of `{names[i] if names else f'completions[{i}]'}`",
                "make the prompt a list of messages, or give the completions as text",
            )
    return prompt, texts


def _split_off_prompt(row: Mapping[str, Any], texts: list[Text], names: list[str]) -> tuple[Text, list[Text]]:
    """The prompt that the texts share, and what follows it; an empty prompt where they share none."""
    cuts = [_completion_start(text, name) for text, name in zip(texts, names, strict=True)]
    prompts = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
    completions = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
    for name, completion in zip(names, completions, strict=True):  # here, while an empty last reply can still be seen
        _check_not_empty(completion, name)
    if all(prompt == prompts[0] for prompt in prompts):
        if prompts[0] == "":
            _check_no_question(row, texts[0])
        return prompts[0], completions
    return type(texts[0])(), texts


def _completion_start(text: Text, name: str) -> int:
    """Where the completion of a transcript begins: after the last turn that is not the assistant's."""
    if isinstance(text, list):
        _check_assistant_end(text, name)
        return max((i + 1 for i, message in enumerate(text) if message["role"] != "assistant"), default=0)
    if text.startswith(HH_HUMAN) and HH_ASSISTANT in text:
        return text.rindex(HH_ASSISTANT) + len(HH_ASSISTANT)
    return 0


def _check_no_question(row: Mapping[str, Any], text: Text) -> None:
    """Refuse plain completions whose prompt stands in a column of another name: they would be read without it."""
    for column in QUESTION_COLUMNS:
        question = row.get(column)
        if isinstance(question, str) and question.strip() and question not in text:
            raise BadRow(
                f"there is no `prompt`, but `{column}` looks like one", f"rename `{column}` to `prompt`, or remove it"
            )


def _with_system(row: Mapping[str, Any], prompt: Text, completions: list[Text]) -> tuple[Text, list[Text]]:
    """A conversation with the system message that LLaMA-Factory keeps in a column of its own."""
    system = next((row[name] for name in SYSTEM_COLUMNS if row.get(name)), None)
    if not isinstance(system, str) or isinstance(completions[0], str):
        return prompt, completions
    message = {"role": "system", "content": system}
    if any(turn["role"] == "system" for text in (prompt, *completions) for turn in text):
        return prompt, completions
    if prompt or completions[0][0]["role"] == "assistant":
        return [message, *prompt], completions
    return prompt, [[message, *text] for text in completions]


def _check_other_columns(row: Mapping[str, Any], prompt: Text, completions: list[Text]) -> None:
    """Refuse a column that looks like part of the prompt and is not in it: the texts would be read without it."""
    for column in MEDIA_COLUMNS:
        if any(True for _ in _leaves(row.get(column))):
            raise BadRow(f"`{column}` is not text, which is all that is read", f"remove the rows or `{column}`")
    texts = [[prompt]] if prompt else [[text] for text in completions]
    read = ["\n".join(map(str, _leaves(text))) for text in texts]
    columns = PROMPT_PARTS + QUESTION_COLUMNS * isinstance(prompt, str)  # messages have the question among them
    for column in columns:
        parts = [str(part).strip() for part in _leaves(row.get(column))]
        if not all(part in text for part in parts for text in read):
            raise BadRow(
                f"`{column}` looks like a part of the prompt that would not be read",
                f"join `{column}` to `prompt`, as text or as messages, or remove it",
            )


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in a nested value that says something: no nulls, no empty text."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None and (not isinstance(value, str) or value.strip()):
        yield value


def _check_completions(completions: list[Text], ranks: list[int] | None, names: list[str]) -> None:
    """No completion is empty, and none is preferred to its own copy."""
    for name, completion in zip(names, completions, strict=True):
        _check_not_empty(completion, name)
    for i, better in enumerate(completions if ranks else []):
        for j, worse in enumerate(completions):
            if ranks[i] < ranks[j] and better == worse:
                raise BadRow(f"`{names[i]}` equals `{names[j]}`", "completions of different rank differ in text")


def _check_not_empty(completion: Text, name: str) -> None:
    """A completion says something; white space says nothing, a tool call does."""
    last = completion if isinstance(completion, str) else completion[-1]
    if not (last if isinstance(last, str) else last["content"]).strip():
        if isinstance(last, dict) and last.get("tool_calls"):
            return
        raise BadRow(f"`{name}` is empty", "every completion needs text; remove the row or write the reply")


def _check_assistant_end(messages: list[dict], name: str) -> None:
    """A conversation that is compared ends with the assistant's message."""
    if messages[-1]["role"] != "assistant":
        raise BadRow(
            f"`{name}` ends with a message of role {messages[-1]['role']!r}", "end it with an assistant message"
        )


def _read_texts(value: Any, name: str) -> tuple[list[Text], list[str]]:
    """One text or a list of several, always as a list, and a name for each."""
    if _is_one_text(value) or not isinstance(value, list):
        return [_read_text(value, name)], [name]
    if not value:
        raise BadRow(f"`{name}` is an empty list", "give at least one completion")
    names = [f"{name}[{i}]" for i in range(len(value))]
    return [_read_text(text, name) for text, name in zip(value, names, strict=True)], names


def _read_text(value: Any, name: str) -> Text:
    """Plain text, or messages in the `role`/`content` form."""
    if isinstance(value, str):
        return value
    messages = [value] if isinstance(value, dict) else value  # ShareGPT has the reply as a single message
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"`{name}` is {_show(value)}", "it must be text or a list of messages")
    read = read_messages(messages, name)
    for i, message in enumerate(messages):
        says = message.get("content") if message.get("from") is None else message.get("value")
        if says is None and not read[i].get("tool_calls"):
            raise BadRow(
                f"message {i} of `{name}` has no `content`",
                "every message has `role` and `content`, the content a string",
            )
    return read


def read_messages(messages: list[Any], name: str = "messages") -> list[dict[str, Any]]:
    """
    Messages in the one form that everything behind reads.

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
        raise BadRow(f"{where} is {_show(message)}", "a message is a dict with `role` and `content`")
    if message.get("role") is None and message.get("from") is not None:
        message = _from_sharegpt(message, where)
    message = _without_nulls(message)
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise BadRow(f"{where} has no `role`", "every message has `role` and `content`")
    if "content" not in message and message.keys() - {"role", "name"} and not message.keys() & SAY_ENOUGH:
        raise BadRow(f"{where} has no `content`", "every message has `role` and `content`, the content a string")
    message["content"] = _read_content(message.get("content", ""), where)
    calls = _from_json(message.pop("tool_calls", []))
    if "function_call" in message:  # OpenAI's older form of one tool call
        calls = [{"type": "function", "function": message.pop("function_call")}]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRow(f"{where} has the tool_calls {_show(calls)}", "give a list of calls with a `function` each")
    return {**message, "tool_calls": [_read_tool_call(call) for call in calls]} if calls else message


def _read_content(content: Any, where: str) -> str:
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else part for part in parts]
    for part, text in zip(parts, texts, strict=True):
        if not isinstance(text, str):
            raise BadRow(
                f"{where} has the content {_show(part)}",
                "every message has `role` and `content`, the content a string or a list of parts of text",
            )
    return "".join(texts)


def _read_tool_call(call: dict[str, Any]) -> dict[str, Any]:
    if "function" not in call and "name" in call:
        own = {key: value for key, value in call.items() if key not in ("name", "arguments")}
        call = {"type": "function", **own, "function": {key: call[key] for key in call if key not in own}}
    function = call.get("function")
    if isinstance(function, dict) and isinstance(text := function.get("arguments"), str):
        arguments = _without_nulls(_from_json(text)) if text.strip() else {}
        call = {**call, "function": {**function, "arguments": arguments if isinstance(arguments, dict) else text}}
    return call


def _from_sharegpt(message: dict[str, Any], where: str) -> dict[str, Any]:
    """`{"from": "human", "value": "Hi"}` as `{"role": "user", "content": "Hi"}`."""
    role = SHAREGPT_ROLES.get(str(message["from"]))
    if role is None:
        raise BadRow(f"{where} is from {message['from']!r}", f"the speakers are {', '.join(SHAREGPT_ROLES)}")
    if message["from"] == "function_call":
        calls = _from_json(message.get("value"))
        calls = calls if isinstance(calls, list) else [calls]
        if calls and all(isinstance(call, dict) and "name" in call for call in calls):
            return {"role": role, "tool_calls": [{"type": "function", "function": call} for call in calls]}
    return {"role": role, "content": message.get("value")}


def _without_repeated_prompt(prompt: list[dict], completions: list[list[dict]]) -> tuple[list, list[list[dict]]]:
    """
    Completions that are whole conversations lose the prompt's messages, and what stands before those (a system
    message) goes to the prompt.
    """
    spans = [_find_prompt(prompt, text) for text in completions]
    heads = [text[: span[0]] if span else [] for text, span in zip(completions, spans, strict=True)]
    if all(head == heads[0] for head in heads):
        cut = [text[span[1] :] if span else text for text, span in zip(completions, spans, strict=True)]
        return heads[0] + prompt, cut
    return [], [text if span else prompt + text for text, span in zip(completions, spans, strict=True)]


def _find_prompt(prompt: list[dict], text: list[dict]) -> tuple[int, int] | None:
    """Where the prompt's messages, or those after its system message, stand in a text that goes on behind them."""
    if not prompt or not text:
        return None
    asked = prompt[1:] if len(prompt) > 1 and prompt[0]["role"] in ("system", "developer") else prompt
    if text[0]["role"] == "assistant" != asked[0]["role"]:
        return None
    for start in range(len(text) - len(prompt)):
        if text[start : start + len(prompt)] == prompt:
            return start, start + len(prompt)
    return (0, len(asked)) if len(text) > len(asked) and text[: len(asked)] == asked else None


def _read_margin(value: Any) -> float | None:
    if value is None or value == "":  # an empty cell of a csv file
        return None
    try:
        margin = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        margin = math.nan
    if not math.isfinite(margin):
        raise BadRow(f"`margin` is {_show(value)}", "it must be a finite number")
    return margin


def template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives the chat template besides messages: `tools` and `chat_template_kwargs`, each maybe `None`."""
    return {
        "tools": _read_tools(row.get("tools")),
        "chat_template_kwargs": _read_chat_template_kwargs(row.get("chat_template_kwargs")),
    }


def _read_tools(value: Any) -> list | None:
    tools = _from_json(value)  # TRL's way to keep schemas of different shape in one column
    if isinstance(tools, list) and any(map(callable, tools)):
        from transformers.utils import get_json_schema

        tools = [get_json_schema(tool) if callable(tool) else tool for tool in tools]
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)) or tools == {}:
        raise BadRow(f"`tools` is {_show(value)}", "give a list of tool schemas, or one written as JSON")
    return _without_nulls(tools) or None


def _read_chat_template_kwargs(value: Any) -> dict | None:
    variables = _from_json(value) or None  # of a csv file
    try:
        json.dumps(variables)
    except TypeError as error:
        raise BadRow(f"`chat_template_kwargs` is {_show(value)} ({error})", "give what JSON can hold") from None
    if variables is not None and not isinstance(variables, dict):
        raise BadRow(f"`chat_template_kwargs` is {_show(value)}", "it must be a dict of arguments for the template")
    taken = [name for name in variables or () if name in _template_parameters() or name.endswith("_token")]
    if taken:
        raise BadRow(
            f"`chat_template_kwargs` sets {', '.join(taken)}, which belongs to the tokenizer",
            "only variables of the chat template stand there, such as enable_thinking; tools have a column `tools`",
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


def _from_json(value: Any) -> Any:
    """What JSON text stands for; any other value, and text that is no JSON, as it is."""
    try:
        return json.loads(value or "null") if isinstance(value, str) else value
    except ValueError:
        return value


def _without_nulls(value: Any) -> Any:
    """The value without the dict keys that are null: Arrow gives each struct the keys of all the others."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _is_one_text(value: Any) -> bool:
    """A string, a message or a conversation, rather than a list of several of them."""
    return isinstance(value, str | dict) or (isinstance(value, list) and len(value) > 0 and isinstance(value[0], dict))


def _kind(text: Text) -> str:
    return "text" if isinstance(text, str) else "messages"


def _show(value: Any) -> str:
    """A value for an error: short, with its type where the type is the news."""
    shown = "null" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return shown if value is None or isinstance(value, str) else f"{shown} ({type(value).__name__})"
