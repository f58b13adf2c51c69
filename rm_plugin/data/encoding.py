"""The one function that turns a prompt and its completions into token ids; training, scoring and RL all call it.

With the same tokenizer the ids equal those of TRL's `RewardTrainer._prepare_dataset`:

    plain text    ids(prompt + completion + EOS)            joined as text, tokenised once, EOS unless it is there
    conversation  ids(template(prompt + completion))        rendered and tokenised by the chat template, no second BOS

Equal conversations get equal ids, in whatever form they come. TRL's ids of them differ, and so do these from TRL's:
text that the chat template has rendered gets no second BOS or end token; messages are in one form (see
[`rm_plugin.data.comparison.read_messages`]), and a template gets contents and arguments of tool calls as it takes
them (see [`TemplateForm`]).

What completions of one prompt share is the longest common prefix of token *ids*, never of text, and every completion
keeps at least one token of its own: `input_ids[i] = prefix + rest_i`.

    encode(Comparison("2 + 2 =", chosen=" 4", rejected=" 5"), tokenizer).input_ids
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..messages import check_choice
from .comparison import Comparison, Text
from .control_tokens import CONTROL_TOKENS, ControlTokens
from .conversations import read_messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRUNCATION_MODES = ("drop", "keep_end", "error")
REASONING_MODES = ("keep", "strip", "error")
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of a message; templates read one of them

# Conversations that show how a chat template takes and writes messages.
ROLES = ("system", "user", "assistant", "tool")
DIALOGUE = [{"role": role, "content": f"what the {role} says"} for role in ("user", "assistant")]
WITH_SYSTEM = [{"role": "system", "content": "what the system says"}, *DIALOGUE]
ARGUMENTS = {"name": "what the function gets"}
CALL = {"id": "123456789", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
WITH_TOOL = [
    DIALOGUE[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "what the tool says", "name": "f", "tool_call_id": "123456789"},
    DIALOGUE[1],
]

# Opened or prefilled by the template (then only the end is there), closed or cut off at the length limit.
REASONING_SPAN = re.compile(r"^(?:(?!<think>).)*?</think>\s*|<think>.*?(?:</think>\s*|\Z)", re.DOTALL)

TRIMMED_TEMPLATE = (
    "{{% set rendered %}}{template}{{% endset %}}{{{{ rendered if add_generation_prompt else rendered.rstrip() }}}}"
)


@dataclass
class EncodedGroup:
    """One prompt with its completions as token ids.

    Args:
        input_ids (`list[list[int]]`): ids of prompt + completion, one list per completion that was kept.
        prefix_length (`int`): number of leading ids that all of them share; less than the shortest.
        kept (`list[int]`): for each list, the index of its completion in the comparison.
        ranks (`list[int]`, *optional*): ranks of the kept completions, smaller is better.
        margin (`float`, *optional*): margin of the comparison.
        num_dropped (`int`): completions over `max_length` that `truncation_mode="drop"` left out.
        num_truncated (`int`): completions that `truncation_mode="keep_end"` cut.
        num_reasoning (`int`): completions that hold reasoning (`<think>…</think>`).
        num_control_tokens (`int`):
            Completions that spell a control token, of a conversation also those whose prompt does; `control_tokens`
            decides how they are read.
    """

    input_ids: list[list[int]]
    prefix_length: int = field(default=-1)
    kept: list[int] | None = None
    ranks: list[int] | None = None
    margin: float | None = None
    num_dropped: int = 0
    num_truncated: int = 0
    num_reasoning: int = 0
    num_control_tokens: int = 0

    def __post_init__(self):
        if self.prefix_length < 0:
            self.prefix_length = common_prefix_length(self.input_ids)
        if self.kept is None:
            self.kept = list(range(len(self.input_ids)))


def common_prefix_length(sequences: list[list[int]]) -> int:
    """Length of the longest common prefix that leaves every sequence at least one id of its own.

    Example:
        >>> common_prefix_length([[1, 2, 3], [1, 2, 4]]), common_prefix_length([[1, 2], [1, 2, 3]])
        (2, 1)
    """
    if not sequences:
        return 0
    return min(len(os.path.commonprefix(sequences)), min(map(len, sequences)) - 1)


def encode(
    comparison: Comparison,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    truncation_mode: str = "error",
    reasoning: str = "keep",
    pairs: bool = False,
    control_tokens: str = "parse",
) -> EncodedGroup:
    """Token ids of every completion of a comparison.

    Args:
        comparison (`Comparison`): prompt and completions, plain text or messages.
        tokenizer (`PreTrainedTokenizerBase`): the reward model's own.
        max_length (`int`, *optional*): the most tokens of prompt + completion.
        truncation_mode (`str`): for a completion over `max_length`: `"drop"` leaves it out (TRL's way), `"keep_end"`
            cuts the start of the prompt, behind its BOS or [CLS], `"error"` raises. Decided for each completion alone,
            never by its company.
        reasoning (`str`): what happens to `<think>…</think>` in completions: `"keep"`, `"strip"` or `"error"`.
        pairs (`bool`): an encoder's form: prompt and completion as a pair of texts, where there is no chat template.
        control_tokens (`str`): how special tokens and turn markers are read that a text spells: `"parse"` as tokens
            (TRL's way), `"as_text"` as ordinary text. Of plain text that is the completion, but for an EOS at its end.

    Returns:
        `EncodedGroup`

    Raises:
        ValueError: over the length limit, unwanted reasoning, messages without a chat template, unknown mode.
        jinja2.TemplateError: the chat template refuses the messages.
    """
    check_choice("truncation_mode", truncation_mode, TRUNCATION_MODES)
    check_choice("reasoning", reasoning, REASONING_MODES)
    check_choice("control_tokens", control_tokens, CONTROL_TOKENS)
    control = ControlTokens.of(tokenizer)
    sequences, kept, num_dropped, num_truncated, num_reasoning, num_control_tokens = [], [], 0, 0, 0, 0
    for i, completion in enumerate(comparison.completions):
        if has_reasoning(completion):
            num_reasoning += 1
            if reasoning == "error":
                raise ValueError(
                    f"completion {i} holds reasoning (<think>…</think>), reasoning='error' forbids it; "
                    "use reasoning='strip' or 'keep'"
                )
            if reasoning == "strip":
                completion = strip_reasoning(completion)
        untrusted, read = _untrusted(comparison, completion, tokenizer, pairs)
        spelled = control.found_in(untrusted)
        num_control_tokens += spelled
        if spelled and control_tokens == "as_text":
            ids = control.read_as_text(untrusted, tokenizer, read)
        else:
            ids = read(untrusted, tokenizer)
        if max_length is not None and len(ids) > max_length:
            if truncation_mode == "error":
                raise ValueError(
                    f"prompt + completion {i} has {len(ids)} tokens, max_length is {max_length}; raise max_length or "
                    "use truncation_mode='drop' or 'keep_end'"
                )
            if truncation_mode == "drop":
                num_dropped += 1
                continue
            ids = cut_start(ids, max_length, tokenizer)
            num_truncated += 1
        sequences.append(ids)
        kept.append(i)
    ranks = None if comparison.ranks is None else [comparison.ranks[i] for i in kept]
    return EncodedGroup(
        input_ids=sequences,
        kept=kept,
        ranks=ranks,
        margin=comparison.margin,
        num_dropped=num_dropped,
        num_truncated=num_truncated,
        num_reasoning=num_reasoning,
        num_control_tokens=num_control_tokens,
    )


def without_trailing_pads(group: EncodedGroup, pad_token_id: int | None) -> EncodedGroup:
    """
    The group as a model reads it that pools the last id other than its pad token; unchanged where that is `None`.

    Every completion keeps its first id. Ids and length limits are those of `encode`, so this comes after it, and
    before anything looks at the common prefix.
    """
    if pad_token_id is None:
        return group
    sequences = []
    for ids in group.input_ids:
        length = len(ids)
        while length > 1 and ids[length - 1] == pad_token_id:
            length -= 1
        sequences.append(ids[:length])
    return replace(group, input_ids=sequences, prefix_length=-1)


def _untrusted(
    comparison: Comparison, completion: Text, tokenizer: PreTrainedTokenizerBase, pairs: bool
) -> tuple[Any, Callable[[Any, PreTrainedTokenizerBase], list[int]]]:
    """What of a text is not to control anything, and the function that makes ids of it with a tokenizer.

    Of a conversation that is all that its messages hold, and what else the template is given. A plain prompt may be
    rendered already, so of plain text it is the completion, without the EOS that ends it. Of a completion beside a
    rendered prompt, it is what neither repeats that prompt nor ends a reply as the template ends it.
    """
    to_ids = pair_ids if pairs and tokenizer.chat_template is None else token_ids
    if isinstance(completion, str):
        form = template_form(tokenizer)
        if form.rendered(comparison.prompt):
            completion = completion.removeprefix(comparison.prompt)
            text = form.without_end(completion)
        else:
            text = completion.removesuffix(tokenizer.eos_token or "")
        end = completion[len(text) :]
        return text, lambda text, tokenizer: to_ids(comparison.prompt, text + end, tokenizer)
    given = [comparison.prompt, completion]
    if to_ids is pair_ids:
        return given, lambda given, tokenizer: pair_ids(*given, tokenizer)
    given += [comparison.tools, comparison.chat_template_kwargs]
    return given, lambda given, tokenizer: token_ids(*given[:2], tokenizer, *given[2:])


def cut_start(ids: list[int], max_length: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The last `max_length` ids; a token that only starts texts ([CLS], BOS) stays where it is, as models expect."""
    starts = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}
    start = ids[:1] if ids[0] in starts and ids.count(ids[0]) == 1 and max_length > 1 else []
    return start + ids[len(ids) - max_length + len(start) :]


def token_ids(
    prompt: Text,
    completion: Text,
    tokenizer: PreTrainedTokenizerBase,
    tools: list | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> list[int]:
    """Ids of one prompt + completion, both plain text or both messages; `chat_template_kwargs` are variables only."""
    if isinstance(completion, str):
        return _completed_text_ids(prompt, completion, tokenizer)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no chat template, a conversation needs one; set chat_template_path to a "
            "tokenizer or a .jinja file, or give plain text"
        )
    messages = template_form(tokenizer, tools).fit([*prompt, *completion])
    options = {"tools": tools, **(chat_template_kwargs or {})}
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    except (TypeError, KeyError) as error:  # what a template says of a value that it does not take
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    return list(rendered["input_ids"])


def _completed_text_ids(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of plain text that ends in EOS, or of text that the chat template has rendered and that ends as it does."""
    form = template_form(tokenizer)
    text = prompt + completion
    if form.rendered(text):
        text = form.without_end(text) + form.tail
    elif tokenizer.eos_token is not None and not completion.endswith(tokenizer.eos_token):
        text += tokenizer.eos_token
    return text_ids(text, tokenizer)


def prompt_ids(
    prompt: Text,
    tokenizer: PreTrainedTokenizerBase,
    tools: list | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> list[int]:
    """Ids that a policy continues; a conversation that ends with the assistant's words is continued there."""
    if not prompt:
        raise ValueError("it is empty, a policy needs words to continue; give it text or leave it out")
    if isinstance(prompt, str):
        return text_ids(prompt, tokenizer)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"it is a conversation and the policy's {type(tokenizer).__name__} has no chat template; use a chat "
            "model, set its chat_template, or give plain text"
        )
    messages = read_messages(prompt)
    continues = messages[-1]["role"] == "assistant"
    rendered = tokenizer.apply_chat_template(
        template_form(tokenizer, tools).fit(messages),
        tokenize=True,
        return_dict=True,
        add_generation_prompt=not continues,
        continue_final_message=continues,
        tools=tools,
        **(chat_template_kwargs or {}),
    )
    return list(rendered["input_ids"])


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a text, with one BOS where its tokenizer adds one, or where the chat template that rendered it does."""
    form, options = template_form(tokenizer), {}
    if form.rendered(text):
        text, options = form.with_bos(text), {"add_special_tokens": False}
    try:
        ids = list(tokenizer(text=text, **options)["input_ids"])
    except TypeError:  # what tokenizers say of text that is none
        surrogate = text.encode(errors="replace").decode() != text
        if not surrogate:
            raise
        raise ValueError("half a character (a lone surrogate) is in the text; fix it or leave it out") from None
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos] and text.startswith(tokenizer.bos_token):
        own = tokenizer(text=text, add_special_tokens=False)["input_ids"]
        return ids[1:] if len(own) < len(ids) else ids  # the text has a BOS, and the tokenizer added one
    return ids


@dataclass(frozen=True)
class TemplateForm:
    """How a chat template takes and writes messages, as a rendered probe shows it.

    Args:
        part_roles (`frozenset[str]`): roles whose content it takes as a list of parts, and not as a string.
        json_arguments (`bool`): whether it takes the arguments of tool calls as JSON text, and not as a mapping.
        bos (`str`): the token that it begins with, where that is the tokenizer's BOS.
        header (`str`): what it writes between the user's words and the assistant's reply.
        tail (`str`): what it writes behind the assistant's last words.
        ends (`tuple[str, ...]`): what text that it wrote may end with: `tail` or the beginning of it, and EOS.
    """

    part_roles: frozenset[str] = frozenset()
    json_arguments: bool = False
    bos: str = ""
    header: str = ""
    tail: str = ""
    ends: tuple[str, ...] = ()

    def fit(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages as this template takes them."""
        fitted = []
        for message in messages:
            role, content = message["role"], message.get("content")
            if isinstance(content, str) and (role if role in ROLES else "user") in self.part_roles:
                message = {**message, "content": [{"type": "text", "text": content}]}
            if self.json_arguments and message.get("tool_calls"):
                message = {**message, "tool_calls": list(map(_with_json_arguments, message["tool_calls"]))}
            fitted.append(message)
        return fitted

    def rendered(self, text: str) -> bool:
        """Whether this template wrote a text: the beginning of an assistant's turn is in it."""
        return bool(self.header) and self.header in text

    def without_end(self, text: str) -> str:
        """A text that this template wrote, without what it writes behind the last words."""
        while end := next((end for end in self.ends if text.rstrip().endswith(end)), None):
            text = text.rstrip().removesuffix(end)
        return text if self.tail.strip() else text.removesuffix(self.tail)

    def with_bos(self, text: str) -> str:
        """A text that this template wrote, with one BOS where it writes one."""
        while self.bos and text.startswith(self.bos):
            text = text.removeprefix(self.bos)
        return self.bos + text


def template_form(tokenizer: PreTrainedTokenizerBase, tools: list | None = None) -> TemplateForm:
    """The form of the tokenizer's chat template; with tools, of the one that it has for them."""
    try:
        template = tokenizer.get_chat_template(tools=tools)
    except ValueError:  # it has none, or several and no default
        return TemplateForm()
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)}
    return _probe_template(template, json.dumps(tokens))


@lru_cache(maxsize=256)
def _probe_template(template: str, special_tokens: str) -> TemplateForm:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = json.loads(special_tokens)

    def render(messages: list[dict[str, Any]], form: TemplateForm, **options: Any) -> str:
        try:
            chats = [form.fit(messages)]
            return render_jinja_template(conversations=chats, chat_template=template, **tokens, **options)[0][0]
        except Exception:  # whatever a template says of what it does not take
            return ""

    form = _accepted_form(render)
    user, assistant = (turn["content"] for turn in DIALOGUE)
    whole, asked = render(DIALOGUE, form), render(DIALOGUE[:1], form)
    if user not in whole or assistant not in whole:
        return form
    between, tail = whole.split(user)[-1].split(assistant)[0], whole.split(assistant)[-1]
    opened = render(DIALOGUE[:1], form, add_generation_prompt=True)
    if opened.rstrip() != asked.rstrip():  # what replies and generation have in common: a template may prefill both
        between = os.path.commonprefix([between, opened.split(user)[-1]]) or between
    cuts = [tail, *(tail[: token.end()] for token in re.finditer(">", tail))]
    ends = {cut.rstrip() for cut in cuts} | {cut.strip() for cut in cuts} | {tokens.get("eos_token", "")}
    return replace(
        form,
        bos=bos if (bos := tokens.get("bos_token")) and whole.startswith(bos) else "",
        header=between if between.replace(tail.strip(), "").strip() else "",  # an end alone begins no reply
        tail=tail,
        ends=tuple(sorted(ends - {""}, key=len, reverse=True)),
    )


def _accepted_form(render: Callable[[list[dict[str, Any]], TemplateForm], str]) -> TemplateForm:
    """The form in which the words of each role, and the arguments of a tool call, are in what a template renders."""

    def takes(messages: list[dict[str, Any]], form: TemplateForm, *words: str) -> bool:
        text = render(messages, form)
        return all(word in text for word in words)

    said = [turn["content"] for turn in DIALOGUE]
    choices = [TemplateForm(frozenset(roles)) for roles in ((), ("user", "assistant"), ("user",), ("assistant",))]
    form = next((choice for choice in choices if takes(DIALOGUE, choice, *said)), choices[0])
    for messages, turn in ((WITH_SYSTEM, WITH_SYSTEM[0]), (WITH_TOOL, WITH_TOOL[2])):
        in_parts = replace(form, part_roles=form.part_roles | {turn["role"]})
        if not takes(messages, form, turn["content"]) and takes(messages, in_parts, turn["content"]):
            form = in_parts
    as_json, with_mapping = replace(form, json_arguments=True), render(WITH_TOOL, form)
    printed = repr(ARGUMENTS) in with_mapping  # Python's way to write a mapping is no model's
    return as_json if (printed or not with_mapping) and takes(WITH_TOOL, as_json, *ARGUMENTS.values()) else form


def _with_json_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def pair_ids(prompt: Text, completion: Text, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a question and its answer as an encoder reads them: two texts, the separator between them."""
    if not isinstance(completion, str):
        if [m["role"] for m in [*prompt, *completion]] != ["user", "assistant"]:
            raise ValueError(
                f"{type(tokenizer).__name__} has no chat template, so it takes one question and one answer, not "
                f"{len(prompt) + len(completion)} messages; set chat_template_path, or give plain text"
            )
        prompt, completion = prompt[0]["content"], completion[0]["content"]
    return list(tokenizer(text=prompt, text_pair=completion)["input_ids"])


def has_reasoning(completion: Text) -> bool:
    """Whether a completion holds `<think>` or `</think>`, or a message with one of `REASONING_FIELDS`."""
    if isinstance(completion, str):
        return "</think>" in completion or "<think>" in completion
    return any(
        any(message.get(name) for name in REASONING_FIELDS)
        or (isinstance(message.get("content"), str) and has_reasoning(message["content"]))
        for message in completion
        if message.get("role") == "assistant"
    )


def strip_reasoning(completion: Text) -> Text:
    """The completion without its reasoning: closed, cut off, or prefilled by the template (an orphan `</think>`).

    Example:
        >>> strip_reasoning("<think>2+2</think>\\n4"), strip_reasoning("2+2</think>4"), strip_reasoning("<think>2+")
        ('4', '4', '')
    """
    if isinstance(completion, str):
        return REASONING_SPAN.sub("", completion)
    stripped = []
    for message in completion:
        if message.get("role") == "assistant":
            message = {k: v for k, v in message.items() if k not in REASONING_FIELDS}
            if isinstance(message.get("content"), str):
                message["content"] = REASONING_SPAN.sub("", message["content"])
        stripped.append(message)
    return stripped


def trim_template_tail(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Let the chat template end a conversation at its last special token, as generated text ends.

    ChatML templates end in `<|im_end|>\\n`, so a rendered conversation is scored at the newline while generated text
    ends at `<|im_end|>`: two scores for one answer. The template is wrapped once, only where a rendering ends in a
    special token and white space. It is saved with the tokenizer, so that every tool ends at the same token.

    Returns:
        `bool`: whether the template was changed.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None or template.startswith("{% set rendered %}"):
        return False
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        rendered = tokenizer.apply_chat_template(template_form(tokenizer).fit(probe), tokenize=False)
    except Exception:  # a template that refuses this conversation (tool use only, …) is left alone
        return False
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    body = rendered.rstrip()
    if body == rendered or not body.endswith(tuple(special)):
        return False
    wrapped = TRIMMED_TEMPLATE.format(template=template.removesuffix("\n"))  # as jinja does at the end of a template
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = {**tokenizer.chat_template, "default": wrapped}
    else:
        tokenizer.chat_template = wrapped
    return True


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> None:
    """Give the tokenizer (and the model's config) a pad token that never ends a sequence.

    Plain transformers pools the last token that is not pad, so with pad == EOS it scores the token before EOS. Taken
    is the tokenizer's own pad token, else an existing special token named like a pad, else the unknown token or a
    further special token that ends no text, else a new one (the embeddings grow where they have no room). A model
    that was trained elsewhere and pools the last token other than its pad token keeps it, and so does the tokenizer.
    """
    kept = None if model is None else getattr(model.config, "trailing_pad_id", None)
    if kept is not None:
        if (token := tokenizer.convert_ids_to_tokens(kept)) is not None:
            tokenizer.pad_token, model.config.pad_token_id = token, kept
            return
        model.config.set_pooling("last_token")  # no text can hold that id
    enders = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if tokenizer.chat_template is not None:
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        with contextlib.suppress(Exception):  # a template that refuses this conversation says nothing of enders
            enders |= set(token_ids(probe[:1], probe[1:], tokenizer))
    if tokenizer.eos_token is not None:
        enders |= set(tokenizer("a" + tokenizer.eos_token)["input_ids"])
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in enders:
        special = {str(t): i for i, t in tokenizer.added_tokens_decoder.items() if t.special and i not in enders}
        by_name = sorted(special, key=lambda t: ("pad" not in t.lower(), t != tokenizer.unk_token, special[t]))
        if by_name:
            tokenizer.pad_token = by_name[0]
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    if model is not None:
        if tokenizer.pad_token_id >= num_embeddings(model):
            model.resize_token_embeddings(len(tokenizer))
        model.config.pad_token_id = tokenizer.pad_token_id


def num_embeddings(model: PreTrainedModel) -> int:
    """Tokens that the model has embeddings for; PEFT may have wrapped the module that holds them."""
    embeddings = model.get_input_embeddings()
    for inner in ("original_module", "base_layer"):
        embeddings = getattr(embeddings, inner, embeddings)
    return embeddings.num_embeddings


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that name how text becomes ids: the chat template and the special tokens."""
    described = json.dumps(
        [tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token], sort_keys=True, ensure_ascii=False
    )
    described = described.replace(r"\r\n", r"\n")  # as a saved template is read
    return hashlib.sha256(described.encode()).hexdigest()[:16]
