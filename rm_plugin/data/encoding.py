"""The one function that turns a prompt and its completions into token ids; training, scoring and RL all call it.

With the same tokenizer the ids equal those of TRL's `RewardTrainer._prepare_dataset`:

    plain text    ids(prompt + completion + EOS)            joined as text, tokenised once, EOS unless it is there
    conversation  ids(template(prompt + completion))        rendered and tokenised by the chat template, no second BOS

Equal conversations get equal ids, whatever their form. TRL's ids depend on the form, so these differ from them where
text that the chat template has rendered gets no second BOS or end token; messages are in one form (see
[`rm_plugin.data.conversations.read_messages`]), and a template gets contents and arguments of tool calls as it takes
them (see [`rm_plugin.data.templates.TemplateForm`]).

What completions of one prompt share is the longest common prefix of token *ids*, never of text, and every completion
keeps at least one token of its own: `input_ids[i] = prefix + rest_i`.

    encode(Comparison("2 + 2 =", chosen=" 4", rejected=" 5"), tokenizer).input_ids
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..messages import check_choice
from .comparison import Comparison, Text
from .control_tokens import CONTROL_TOKENS, ControlTokens
from .conversations import REASONING_FIELDS, BadRow, check_text, read_messages
from .templates import DIALOGUE, template_form

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRUNCATION_MODES = ("drop", "keep_end", "error")
REASONING_MODES = ("keep", "strip", "error")

# Opened or prefilled by the template (then only the end is there), closed or cut off at the length limit.
REASONING_SPAN = re.compile(r"^(?:(?!<think>).)*?</think>\s*|<think>.*?(?:</think>\s*|\Z)", re.DOTALL)


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

    @property
    def num_tokens(self) -> int:
        """Tokens with the prefix counted once."""
        return sum(map(len, self.input_ids)) - self.prefix_length * (len(self.input_ids) - 1)


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
    trailing_pad_id: int | None = None,
) -> EncodedGroup:
    """Token ids of every completion of a comparison.

    Args:
        comparison (`Comparison`): prompt and completions, plain text or messages.
        tokenizer (`PreTrainedTokenizerBase`): the reward model's own.
        max_length (`int`, *optional*): the most tokens of prompt + completion.
        truncation_mode (`str`): for a completion over `max_length`: `"drop"` leaves it out (TRL's way), `"keep_end"`
            cuts the start of the prompt, behind its BOS or [CLS], `"error"` raises. Decided for each completion alone,
            whatever the others are.
        reasoning (`str`): what happens to `<think>…</think>` in completions: `"keep"`, `"strip"` or `"error"`.
        pairs (`bool`): an encoder's form: prompt and completion as a pair of texts, where there is no chat template.
        control_tokens (`str`): how special tokens and turn markers are read that a text spells: `"parse"` as tokens
            (TRL's way), `"as_text"` as ordinary text. In plain text this applies to the completion only, without its
            final EOS.
        trailing_pad_id (`int`, *optional*): `RewardModelConfig.trailing_pad_id`, cut from the end of every text.

    Returns:
        `EncodedGroup`

    Raises:
        BadRow: the chat template refuses the messages.
        ValueError: over the length limit, unwanted reasoning, messages without a chat template, unknown mode.

    Example:
    ```python
    >>> from rm_plugin.commands.quickstart import build_tokenizer
    >>> group = encode(Comparison("2 + 2 =", chosen="4", rejected="5 or so"), build_tokenizer())
    >>> group.prefix_length, [len(ids) for ids in group.input_ids]
    (4, [6, 10])

    ```
    """
    check_choice("truncation_mode", truncation_mode, TRUNCATION_MODES)
    check_choice("reasoning", reasoning, REASONING_MODES)
    check_choice("control_tokens", control_tokens, CONTROL_TOKENS)
    control = ControlTokens.of(tokenizer)
    texts, num_reasoning, num_control_tokens = {}, 0, 0
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
        texts[f"prompt + completion {i}"] = ids
    group = without_trailing_pads(within_limit(texts, tokenizer, max_length, truncation_mode), trailing_pad_id)
    return replace(
        group,
        ranks=None if comparison.ranks is None else [comparison.ranks[i] for i in group.kept],
        margin=comparison.margin,
        num_reasoning=num_reasoning,
        num_control_tokens=num_control_tokens,
    )


def within_limit(
    texts: dict[str, list[int]], tokenizer: PreTrainedTokenizerBase, max_length: int | None, truncation_mode: str
) -> EncodedGroup:
    """A group of the texts (ids by the name that errors call them), under the over-length policy of `encode`."""
    kept, num_truncated = {}, 0
    for i, (name, ids) in enumerate(texts.items()):
        if max_length is not None and len(ids) > max_length:
            if truncation_mode == "error":
                raise ValueError(
                    f"{name} has {len(ids)} tokens, max_length is {max_length}; raise max_length or use "
                    "truncation_mode='drop' or 'keep_end'"
                )
            if truncation_mode == "drop":
                continue
            ids, num_truncated = cut_start(ids, max_length, tokenizer), num_truncated + 1
        kept[i] = ids
    num_dropped = len(texts) - len(kept)
    return EncodedGroup(list(kept.values()), kept=list(kept), num_dropped=num_dropped, num_truncated=num_truncated)


def without_trailing_pads(group: EncodedGroup, pad_token_id: int | None) -> EncodedGroup:
    """
    The group without pad tokens at the ends of texts, as a model that pools the last other token reads it; unchanged
    where the pad token is `None`.

    Every completion keeps its first id. Length limits are those of the whole texts, so this comes after them, and
    before anything looks at the common prefix.
    """
    if pad_token_id is None:
        return group

    def read(ids: list[int]) -> list[int]:
        end = len(ids)
        while end > 1 and ids[end - 1] == pad_token_id:
            end -= 1
        return ids[:end]

    return replace(group, input_ids=list(map(read, group.input_ids)), prefix_length=-1)


def pooling_of(block: dict[str, Any], pad_token_id: int | None) -> str:
    """
    Which token the head of a checkpoint reads, by the block `"reward_model"` of its config or an adapter's
    `reward_model.json`.

    A block without `pooling` was written before there was a choice: the last token. A model without a block, or with
    another pad token than the block's, was trained elsewhere: it reads what transformers pools, the last token other
    than the pad token.
    """
    ours = bool(block) and block.get("pad_token_id", pad_token_id) == pad_token_id
    return block.get("pooling", "last_token") if ours else "last_non_pad"


def _untrusted(
    comparison: Comparison, completion: Text, tokenizer: PreTrainedTokenizerBase, pairs: bool
) -> tuple[Any, Callable[[Any, PreTrainedTokenizerBase], list[int]]]:
    """The untrusted part of a text, which must not control anything, and the function that makes ids of it.

    For a conversation: everything in its messages, and what else the template is given. For plain text, whose prompt
    may be rendered already: the completion without its final EOS. For a completion beside a rendered prompt: what
    neither repeats that prompt nor ends a reply as the template ends it.
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
    if not isinstance(completion, str):
        return _rendered_ids([*prompt, *completion], tokenizer, tools, chat_template_kwargs)
    form = template_form(tokenizer)
    text = prompt + completion
    if form.rendered(text):
        text = form.without_end(text) + form.tail  # as the template ends it
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
    messages = read_messages(prompt)
    continues = messages[-1]["role"] == "assistant"
    options = {"add_generation_prompt": not continues, "continue_final_message": continues}
    return _rendered_ids(messages, tokenizer, tools, chat_template_kwargs, **options)


def _rendered_ids(
    messages: list[dict],
    tokenizer: PreTrainedTokenizerBase,
    tools: list | None,
    chat_template_kwargs: dict[str, Any] | None,
    **options: bool,
) -> list[int]:
    """Ids of messages as the chat template renders them."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no chat template, a conversation needs one; set chat_template_path to a "
            "tokenizer or a .jinja file, or give plain text"
        )
    messages = template_form(tokenizer, tools).fit(messages)
    options |= {"tokenize": True, "return_dict": True, "tools": tools}
    try:
        rendered = tokenizer.apply_chat_template(messages, **options, **(chat_template_kwargs or {}))
    except (TemplateError, TypeError, KeyError) as error:  # such as "roles must alternate"
        said = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        raise BadRow(f"the chat template refuses it: {said}; fix the messages or the template") from error
    return list(rendered["input_ids"])


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a text, with one BOS where its tokenizer adds one, or where the chat template that rendered it does."""
    form, options = template_form(tokenizer), {}
    if form.rendered(text):
        text, options = form.with_bos(text), {"add_special_tokens": False}
    ids = list(tokenizer(text=check_text(text, "the text"), **options)["input_ids"])
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos] and text.startswith(tokenizer.bos_token):
        own = tokenizer(text=text, add_special_tokens=False)["input_ids"]
        return ids[1:] if len(own) < len(ids) else ids  # the text has a BOS, and the tokenizer added one
    return ids


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
        return REASONING_SPAN.search(completion) is not None
    replies = [message for message in completion if message["role"] == "assistant"]
    return any(has_reasoning(m["content"]) or any(m.get(name) for name in REASONING_FIELDS) for m in replies)


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
        if message["role"] == "assistant":
            message = {k: v for k, v in message.items() if k not in REASONING_FIELDS}
            message["content"] = strip_reasoning(message["content"])
        stripped.append(message)
    return stripped


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> None:
    """Give the tokenizer (and the model's config) a pad token that never ends a sequence.

    Plain transformers pools the last token that is not pad, so with pad == EOS it scores the token before EOS. In
    order of preference: the tokenizer's own pad token; an existing special token named like a pad; the unknown token
    or another special token that ends no text; a new one (the embeddings grow where they have no room). A model that
    was trained elsewhere and pools the last token other than its pad token keeps it, and so does the tokenizer.
    """
    kept = None if model is None else getattr(model.config, "trailing_pad_id", None)
    if kept is not None:
        if (token := tokenizer.convert_ids_to_tokens(kept)) is not None:
            tokenizer.pad_token, model.config.pad_token_id = token, kept
            return
        model.config.set_pooling("last_token")  # no text can hold that id
    enders = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if tokenizer.chat_template is not None:
        with contextlib.suppress(Exception):  # a template that refuses this conversation says nothing of enders
            enders |= set(token_ids(DIALOGUE[:1], DIALOGUE[1:], tokenizer))
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
