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
    prompt                                a prompt for a policy ([`to_prompt`])
    + margin, system, tools, chat_template_kwargs, id, subset, metadata
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .conversations import BadRow, read_messages, read_template_variables, read_tools, show_value
from .sources import load_rows

__all__ = ["BadRow", "Comparison", "load_rows", "to_comparison", "to_prompt"]

Text = str | list[dict[str, Any]]
"""Plain text, or a conversation: a list of `{"role", "content"}` messages."""

LIST_COLUMNS = ("completions", "outputs", "choices", "responses")
SCORE_COLUMNS = ("scores", "rewards", "rating")  # larger is better, unlike `ranks`
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # for the chat template
QUESTION_COLUMNS = ("question", "instruction", "query", "conversation", "dialogue", "dialog")  # the prompt, elsewhere
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
CONTEXT_COLUMNS = (
    "input",
    "context",
    "contexts",
    "history",
    "document",
    "documents",
    "passage",
    "passages",
    "article",
)
PROMPT_PARTS = (*SYSTEM_COLUMNS, *CONTEXT_COLUMNS, "background", "post")  # what other projects keep beside it
MEDIA_COLUMNS = tuple(
    f"{kind}{rest}" for kind in ("image", "video", "audio") for rest in ("", "s", "_url", "_urls", "_path", "_paths")
)

# A conversation that a csv file holds as JSON, or as Python prints it.
PRINTED_MESSAGES = re.compile(r"""\s*\[\s*\{\s*(['"])(role|content|from|value)\1\s*:""")
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
            The completions, each plain text or a list of messages, of the same kind as the prompt; none where a
            prompt is still to be answered.
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
        if not completions and (not prompt or ranks is not None):
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
            if completions:
                prompt, completions = _without_repeated_prompt(prompt, completions)
        self.prompt = prompt or kinds.pop()()
        self.completions = list(completions)
        self.ranks = None if ranks is None else list(ranks)
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
    if isinstance(text, str):
        return len(text)
    contents = [message.get("content") or "" for message in text]
    parts = [one if isinstance(one, list) else [one] for one in contents]
    texts = [part.get("text") or "" if isinstance(part, dict) else str(part) for one in parts for part in one]
    return sum(map(len, texts))


def text_key(value: Any) -> str:
    """16 hex digits that name a text, a conversation, or whatever else JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def to_comparison(
    row: Mapping[str, Any], index: int | None = None, *, candidates: bool = False, allow_empty: bool = False
) -> Comparison:
    """
    Read one row of a data set. Pure and picklable, made for `datasets.map(with_indices=True)`.

    Prompt and completion joined are always the row's own text, character by character: whatever is split here only
    says where the completion begins. An implicit prompt is what precedes the last assistant turn of a conversation
    or of an HH-RLHF transcript; other plain text keeps the empty prompt. Where the prompts of one row differ, the
    prompt is empty and the completions are the whole transcripts.

    Args:
        row (`dict`):
            A row in one of the formats at the top of this module.
        index (`int`, *optional*):
            Its position in the data set, for the error.
        candidates (`bool`, *optional*, defaults to `False`):
            Completions of a list are not ranked, whatever other columns say, and the prompt may stand in a column
            `question`, `instruction` or `query`.
        allow_empty (`bool`, *optional*, defaults to `False`):
            Completions may be empty, as those of a policy that ended at once.

    Returns:
        [`Comparison`]

    Raises:
        BadRow: if a column is missing, a completion is empty or no text, two completions of different rank are equal,
            lists that belong together differ in length, or a column looks like a part of the prompt that would not be
            read.

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
            raise BadRow(f"the row is {show_value(row)}", "a row is a dict from column name to value")
        texts, ranks, names = _read_completions(row, candidates)
        prompt, completions = _read_prompt(row, texts, names, candidates)
        _check_completions(completions, ranks, names, allow_empty)
        return _comparison(row, prompt, completions, ranks)
    except BadRow as bad_row:
        raise BadRow(bad_row.cause, bad_row.fix, index) from None


def to_prompt(row: Text | Mapping[str, Any], index: int | None = None) -> Comparison:
    """
    Read a prompt for a policy: a text, a conversation, or a row that has one, as a comparison without completions.

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
    try:
        column = _prompt_column(row, QUESTION_COLUMNS)
        if column is None or not row[column]:
            found = ", ".join(name for name in row if row[name]) or "nothing"
            raise BadRow(f"there is no prompt (found: {found})", "a policy needs words to continue; give a `prompt`")
        prompt = _read_text(row[column], column)
        _check_not_printed(prompt, column)
        return _comparison(row, prompt, [], None)
    except BadRow as bad_row:
        raise BadRow(bad_row.cause, bad_row.fix, index) from None


def template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives the chat template besides messages: `tools` and `chat_template_kwargs`, each maybe `None`."""
    return {
        "tools": read_tools(row.get("tools")),
        "chat_template_kwargs": read_template_variables(row.get("chat_template_kwargs")),
    }


def _comparison(row: Mapping[str, Any], prompt: Text, completions: list[Text], ranks: list[int] | None) -> Comparison:
    """The comparison of a row whose texts were read, with its other columns."""
    prompt, completions = _with_system(row, prompt, completions)
    _check_other_columns(row, prompt, completions)
    id, subset, metadata = row.get("id"), row.get("subset"), row.get("metadata")
    return Comparison(
        prompt,
        completions,
        ranks,
        margin=_read_margin(row.get("margin")),
        **{name: row.get(name) for name in TEMPLATE_COLUMNS},
        id=None if id is None else str(id),
        subset=None if subset is None else str(subset),
        metadata=metadata if isinstance(metadata, dict) else None,
    )


def _read_completions(row: Mapping[str, Any], candidates: bool) -> tuple[list[Text], list[int] | None, list[str]]:
    """The completions as the row has them (maybe with the prompt in them), their ranks, their names for errors."""
    # Tables give every row all columns, so a column that is null here is one that this row does not have.
    found = [column for column in row if row[column] is not None]
    missing = [column for column in ("chosen", "rejected") if column not in found]
    if not missing:
        chosen, chosen_names = _read_texts(row["chosen"], "chosen")
        rejected, rejected_names = _read_texts(row["rejected"], "rejected")
        return chosen + rejected, [0] * len(chosen) + [1] * len(rejected), chosen_names + rejected_names
    column = next((column for column in (*LIST_COLUMNS, "completion") if column in found), None)
    if column is None:
        columns = " and ".join(f"`{column}`" for column in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise BadRow(
            f"{columns} {verb} missing (found: {', '.join(map(str, found)) or 'nothing'})",
            "a preference row has `chosen` and `rejected`, or a list `completions`",
        )
    values = [row[column]] if column == "completion" else row[column]
    if isinstance(values, list):
        values = [_text_of_output(value) for value in values]
    if not isinstance(values, list) or _is_one_text(values):
        raise BadRow(f"`{column}` is {show_value(values)}", "it is a list, each item text or a list of messages")
    texts, names = _read_texts(values, column)
    return texts, None if candidates else _read_ranks(row, len(texts)), [column] if column == "completion" else names


def _text_of_output(value: Any) -> Any:
    """The text in what vLLM (`{"text"}`) and OpenAI's protocol (`{"message": {"content"}}`) write of one output."""
    output = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    if not output or output.keys() & {"role", "from"}:
        return value
    message = output.get("message")
    if message is None:
        return output.get("text")
    message = message if isinstance(message, Mapping) else vars(message)
    return [dict(message)] if message.get("tool_calls") else message.get("content")


def _read_ranks(row: Mapping[str, Any], num_completions: int) -> list[int] | None:
    """The ranks of a list of completions, from `ranks` (smaller is better) or scores (larger is better)."""
    column = next((column for column in ("ranks", *SCORE_COLUMNS) if row.get(column) is not None), None)
    if column is None:
        return None
    values = row[column]
    if not isinstance(values, list) or len(values) != num_completions:
        given = f"{len(values)} values" if isinstance(values, list) else show_value(values)
        raise BadRow(f"`{column}` is {given} for {num_completions} completions", "give one value per completion")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRow(f"`{column}` contains {show_value(value)}", "every value is a finite number")
        if column == "ranks" and value != int(value):
            raise BadRow(f"`ranks` contains {value}", "ranks are integers, smaller is better; call scores `scores`")
    if column == "ranks":
        return [int(value) for value in values]
    best_first = sorted(set(values), reverse=True)
    return [best_first.index(value) for value in values]


def _prompt_column(row: Mapping[str, Any], others: Sequence[str] = ()) -> str | None:
    columns = ("prompt", "conversations", "messages", *others)
    return next((column for column in columns if row.get(column) is not None), None)


def _read_prompt(
    row: Mapping[str, Any], texts: list[Text], names: list[str], candidates: bool
) -> tuple[Text, list[Text]]:
    """Prompt and completions, from an explicit prompt column or from the beginning of the texts."""
    if not candidates and len({type(text) for text in texts}) > 1:
        kinds = ["text" if isinstance(text, str) else "messages" for text in texts]
        kinds = ", ".join(f"`{name}` {kind}" for name, kind in zip(names, kinds, strict=True))
        raise BadRow(f"plain text and messages are mixed ({kinds})", "make them all text, or all lists of messages")
    for name, text in zip(names, texts, strict=True):
        if not candidates:
            _check_not_printed(text, name)
    column = _prompt_column(row, QUESTION_COLUMNS * candidates)
    if column == "messages" and isinstance(texts[0], list) and texts[0][0]["role"] != "assistant":
        column = None  # a copy of what is compared, whole conversations
    if column is None:
        return _split_off_prompt(row, texts, names)
    prompt = _read_text(row[column], column) if row[column] else ""  # "" and [] alike: no prompt
    _check_not_printed(prompt, column)
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
    if any(prompt != prompts[0] for prompt in prompts):
        return type(texts[0])(), texts
    if not prompts[0]:
        read = "\n".join(map(str, _leaves([texts[0]])))
        for column in QUESTION_COLUMNS:
            if any(isinstance(part, str) and part.strip() not in read for part in _leaves(row.get(column))):
                raise BadRow(
                    f"there is no `prompt`, but `{column}` looks like one",
                    f"rename `{column}` to `prompt`, or remove it",
                )
    return prompts[0], completions


def _completion_start(text: Text, name: str) -> int:
    """Where the completion of a transcript begins: after the last turn that is not the assistant's."""
    if isinstance(text, list):
        _check_assistant_end(text, name)
        return max((i + 1 for i, message in enumerate(text) if message["role"] != "assistant"), default=0)
    if text.startswith(HH_HUMAN) and HH_ASSISTANT in text:
        return text.rindex(HH_ASSISTANT) + len(HH_ASSISTANT)
    return 0


def _with_system(row: Mapping[str, Any], prompt: Text, completions: list[Text]) -> tuple[Text, list[Text]]:
    """A conversation with the system message that LLaMA-Factory keeps in a column of its own."""
    system = next((row[name] for name in SYSTEM_COLUMNS if row.get(name)), None)
    texts = [prompt, *completions]
    if not isinstance(system, str) or isinstance(texts[-1], str):
        return prompt, completions
    message = {"role": "system", "content": system}
    if any(turn["role"] == "system" for text in texts for turn in text):
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
        parts = [part.strip() for part in _leaves(row.get(column)) if isinstance(part, str)]
        if not all(part in text for part in parts for text in read):
            raise BadRow(
                f"`{column}` looks like a part of the prompt that would not be read",
                f"join `{column}` to `prompt`, as text or as messages, or remove it",
            )


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in a nested value that says something: no nulls, no empty text, no name of a speaker."""
    if isinstance(value, Mapping):
        value = [item for name, item in value.items() if name not in ("role", "from")]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None and (not isinstance(value, str) or value.strip()):
        yield value


def _check_completions(completions: list[Text], ranks: list[int] | None, names: list[str], allow_empty: bool) -> None:
    """No completion is empty, and none is preferred to its own copy."""
    for name, completion in zip(names, completions, strict=True):
        if not allow_empty:
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


def _check_not_printed(text: Text, name: str) -> None:
    """A conversation is not the text of its list."""
    if isinstance(text, str) and PRINTED_MESSAGES.match(text):
        raise BadRow(f"`{name}` is a list of messages written as text", "read it with json.loads (or as a literal)")


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
        raise BadRow(f"`{name}` is {show_value(value)}", "it must be text or a list of messages")
    return read_messages(messages, name)


def _without_repeated_prompt(prompt: list[dict], completions: list[list[dict]]) -> tuple[list, list[list[dict]]]:
    """
    Completions that are whole conversations lose the prompt's messages, and what stands before those (a system
    message) goes to the prompt.
    """
    spans = [_find_prompt(prompt, text) for text in completions]
    for i, (text, span) in enumerate(zip(completions, spans, strict=True)):
        if prompt and text and not span and prompt[-1]["role"] == "user" and text[0]["role"] in ("system", "user"):
            raise BadRow(
                f"completion {i} begins with a message of role {text[0]['role']!r} that is not in the prompt, which "
                "ends with the user's",
                "give the reply alone, or a conversation that repeats the prompt to the letter",
            )
    heads = [text[: span[0]] if span else [] for text, span in zip(completions, spans, strict=True)]
    if all(head == heads[0] for head in heads):
        cut = [text[span[1] :] if span else text for text, span in zip(completions, spans, strict=True)]
        return heads[0] + prompt, cut
    return [], [text if span else prompt + text for text, span in zip(completions, spans, strict=True)]


def _find_prompt(prompt: list[dict], text: list[dict]) -> tuple[int, int] | None:
    """Where the prompt's messages, or those after its system message, stand in a text that continues after them."""
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
        raise BadRow(f"`margin` is {show_value(value)}", "it must be a finite number")
    return margin


def _is_one_text(value: Any) -> bool:
    """A string, a message or a conversation, rather than a list of several of them."""
    return isinstance(value, str | dict) or (isinstance(value, list) and len(value) > 0 and isinstance(value[0], dict))
