"""Chat templates: how one takes and writes messages, where its renderings end, and the hash that names it.

form = template_form(tokenizer)             # found by rendering a few conversations, once per template
tokenizer.apply_chat_template(form.fit(messages))
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIMMED_TEMPLATE = (
    "{{% set rendered %}}{template}{{% endset %}}{{{{ rendered if add_generation_prompt else rendered.rstrip() }}}}"
)

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


def rendered_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> str:
    """A conversation as the chat template writes it; nothing where the template refuses it."""
    try:
        return tokenizer.apply_chat_template(template_form(tokenizer).fit(messages), tokenize=False)
    except Exception:  # whatever a template says of what it does not take
        return ""


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
    rendered = rendered_text(tokenizer, DIALOGUE)
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


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that name how text becomes ids: the chat template and the special tokens."""
    described = json.dumps(
        [tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token], sort_keys=True, ensure_ascii=False
    )
    described = described.replace(r"\r\n", r"\n")  # as a saved template is read
    return hashlib.sha256(described.encode()).hexdigest()[:16]
