"""Equal conversations get equal ids, whatever accepted form they come in and whatever form a chat template takes.

Every form of a conversation is read through the doors of training, evaluation and scoring, under templates that take
strings only, parts only, arguments of tool calls as mappings only or as JSON only, and under those that TRL ships.
"""

import json
from pathlib import Path

import pytest
import trl
from datasets import Dataset
from models import CHATML, LLAMA3, tiny_reward_model, tiny_tokenizer

from rm_plugin.data.comparison import Comparison, to_comparison
from rm_plugin.data.encoding import encode
from rm_plugin.data.templates import template_form, trim_template_tail
from rm_plugin.evaluation.benchmarks import load_benchmark
from rm_plugin.scoring.scorer import RewardScorer

PARTS_ONLY = (  # as SmolVLM's and Idefics': a string would be taken for a list of its characters
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{% if message.tool_calls %}{{ message.tool_calls[0].function.arguments | tojson }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALLS = "{% if message.tool_calls %}{% for call in message.tool_calls %}CALL{% endfor %}{% endif %}"
MAPPINGS_ONLY = "call.function.arguments.items() | map('join', '=') | join(', ')"
JSON_ONLY = "call.function.name + '(' + call.function.arguments + ')'"
STRINGS = (  # contents are concatenated, so they must be strings
    "{% for message in messages %}{{ message.role + ': ' + message.content }}CALLS{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
NO_NULLS = (
    "{% for message in messages if message.keys() - ['role', 'content', 'name', 'tool_calls', 'tool_call_id'] "
    "or 'tool_calls' in message and message.tool_calls[0].keys() - ['id', 'type', 'function'] %}"
    "{{ raise_exception('a key too many') }}{% endfor %}" + CHATML
)
TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "parts only": PARTS_ONLY,
    "mappings only": STRINGS.replace("CALLS", CALLS.replace("CALL{", "{{ " + MAPPINGS_ONLY + " }}{")),
    "json only": STRINGS.replace("CALLS", CALLS.replace("CALL{", "{{ " + JSON_ONLY + " }}{")),
    "printed": STRINGS.replace("CALLS", CALLS.replace("CALL{", "{{ call.function.arguments }}{")),
    "no null keys": NO_NULLS,
    "refuses all": "{{ raise_exception('roles must alternate') }}",
    **{
        path.stem: path.read_text("utf-8")
        for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
        if not path.stem.endswith("_training")
    },
}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


ARGUMENTS = {"land": "Antarctica", "years": [1959, 1961], "nested": {"é": True}}
CALL = {"id": "123456789", "type": "function", "function": {"name": "owner", "arguments": ARGUMENTS}}
CONVERSATIONS = {
    "question": [turn("user", "Who owns\nAntarctica?")],
    "system": [turn("system", "Be kind."), turn("user", "2 + 2?"), turn("assistant", "4"), turn("user", "3 + 3?")],
    "tool call": [
        turn("user", "Who owns Antarctica?"),
        turn("assistant", "", tool_calls=[CALL]),
        turn("tool", "nobody", name="owner", tool_call_id="123456789"),
    ],
}
REPLIES = [[turn("assistant", " No country: the Treaty.")], [turn("assistant", "Penguins!")]]


def strings(messages):
    return messages


def parts(messages):
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def two_parts(messages):
    halves = [(m["content"][:2], m["content"][2:]) for m in messages]
    return [
        {**m, "content": [{"type": "text", "text": a}, {"type": "text", "text": b}]}
        for m, (a, b) in zip(messages, halves, strict=True)
    ]


def json_arguments(messages):
    def text(call):
        return {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}

    return [{**m, "tool_calls": list(map(text, m["tool_calls"]))} if "tool_calls" in m else m for m in messages]


def null_contents(messages):
    return [{**m, "content": m["content"] or None} for m in messages]


def all_nulls(messages):
    keys = {key for m in messages for key in m} | {"reasoning_content", "images", "function_call"}
    return [{key: None if m.get(key) == "" else m.get(key) for key in keys} for m in messages]


MESSAGE_FORMS = [strings, parts, two_parts, json_arguments, null_contents, all_nulls]


def as_sharegpt(messages):
    speakers = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": speakers[m["role"]], "value": m["content"]} for m in messages]


def rows_of(prompt):
    """Rows of one conversation in every form of messages; the first is the plainest."""
    for form in MESSAGE_FORMS:
        before, (chosen, rejected) = form(prompt), map(form, REPLIES)
        yield f"{form.__name__}, explicit", {"prompt": before, "chosen": chosen, "rejected": rejected}
        whole = {"chosen": before + chosen, "rejected": before + rejected}
        yield f"{form.__name__}, implicit", whole
        yield f"{form.__name__}, repeated", {"prompt": prompt, **whole}
        yield f"{form.__name__}, list", {"prompt": before, "completions": [chosen, rejected], "ranks": [0, 1]}
    row = {"prompt": parts(prompt), "chosen": REPLIES[0], "rejected": REPLIES[1]}
    other = [{**turn("user", None), "name": "x", "thinking": "y", "tool_calls": [{"index": 1, "function": {"z": 1}}]}]
    other = [{**other[0], "content": [{"type": "text", "text": "x", "image": "y", "n": 1}]}]
    yield "Arrow", Dataset.from_list([row, {**row, "prompt": other}])[0]
    texts = [reply[0]["content"] for reply in REPLIES]
    yield "text replies", {"prompt": prompt, "chosen": texts[0], "rejected": texts[1]}
    if len(prompt) == 1:
        yield "text prompt", {"prompt": prompt[0]["content"], "chosen": REPLIES[0], "rejected": REPLIES[1]}
        whole = {"chosen": prompt + REPLIES[0], "rejected": parts(prompt) + REPLIES[1]}
        yield "text prompt, repeated", {"prompt": prompt[0]["content"], **whole}
    if not any("tool_calls" in m for m in prompt):
        chosen, rejected = map(as_sharegpt, REPLIES)
        yield "ShareGPT", {"conversations": as_sharegpt(prompt), "chosen": chosen[0], "rejected": rejected[0]}
        if prompt[0]["role"] == "system":
            row = {"conversations": as_sharegpt(prompt[1:]), "system": prompt[0]["content"]}
            yield "system column", {**row, "chosen": chosen[0], "rejected": rejected[0]}


def rendered_rows(prompt, tokenizer):
    """Rows of the text that the tokenizer's template makes of it, whole or in two, with its ends or without."""
    form = template_form(tokenizer)
    if not form.header:
        return
    chosen, rejected = (tokenizer.apply_chat_template(form.fit(prompt + r), tokenize=False) for r in REPLIES)
    start = chosen.rindex(REPLIES[0][0]["content"].strip())
    assert chosen[:start].rstrip() in rejected
    yield "rendered, implicit", {"chosen": chosen, "rejected": rejected}
    common = chosen[:start] if rejected.startswith(chosen[:start]) else chosen[: start - 1]
    cut = {"prompt": common, "chosen": chosen[len(common) :], "rejected": rejected[len(common) :]}
    yield "rendered, explicit", cut
    yield "rendered, repeated", {"prompt": common, "chosen": chosen, "rejected": rejected}
    if form.tail:
        ends = {end: text.removesuffix(form.tail) for end, text in (("chosen", chosen), ("rejected", rejected))}
        yield "rendered, without its end", ends
        yield (
            "rendered, EOS added",
            {name: text + tokenizer.eos_token for name, text in cut.items() if text} | {"prompt": common},
        )
        if form.tail.rstrip() != form.tail:
            yield "rendered, white space off", {"chosen": chosen.rstrip(), "rejected": rejected.rstrip()}
        if form.tail.strip():
            yield "rendered, more white space", {"chosen": chosen + "\n", "rejected": rejected + " "}
    if form.bos:
        yield "rendered, BOS off", {**cut, "prompt": common.removeprefix(form.bos)}
        yield "rendered, BOS twice", {**cut, "prompt": form.bos + common}


def ids_or_refusal(read, tokenizer):
    try:
        return encode(read(), tokenizer).input_ids
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def in_every_way(row, tokenizer):
    """Ids of a row through the doors of training, evaluation and, where it has a prompt apart, scoring."""
    yield "training", ids_or_refusal(lambda: to_comparison(row), tokenizer)
    yield "evaluation", ids_or_refusal(lambda: load_benchmark("preference", [row]).comparisons[0], tokenizer)
    completions = row.get("completions") or [row["chosen"], row["rejected"]]
    if "prompt" in row and all(isinstance(text, str | list) for text in completions):
        yield "scoring", ids_or_refusal(lambda: Comparison(row["prompt"], completions), tokenizer)


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_equal_conversations_get_equal_ids_or_one_refusal(template, name):
    for trimmed in (False, True):
        tokenizer = tiny_tokenizer("llama3" if template == "llama3" else "chatml")
        tokenizer.chat_template = TEMPLATES[template]
        if trimmed and not trim_template_tail(tokenizer):
            continue
        rows = dict(rows_of(CONVERSATIONS[name]))
        expected = ids_or_refusal(lambda: to_comparison(next(iter(rows.values()))), tokenizer)  # noqa: B023
        if isinstance(expected, list):
            rows |= dict(rendered_rows(CONVERSATIONS[name], tokenizer))
            texts = [tokenizer.decode(ids) for ids in expected]
            assert "Penguins!" in texts[1] and "{'type'" not in texts[0] and "'land'" not in texts[0], texts
        for form, row in rows.items():
            for door, ids in in_every_way(row, tokenizer):
                assert ids == expected, f"{form} in {door}"


@pytest.mark.parametrize("template", ["chatml", "llama3", "json only"])
def test_a_tokenizer_that_adds_bos_gives_rendered_text_no_second_one(template):
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.chat_template = TEMPLATES[template]
    prompt = CONVERSATIONS["system"]
    expected = encode(to_comparison({"prompt": prompt, "chosen": REPLIES[0], "rejected": REPLIES[1]}), tokenizer)
    assert [ids.count(tokenizer.bos_token_id) for ids in expected.input_ids] == [int(template == "llama3")] * 2
    for form, row in rendered_rows(prompt, tokenizer):
        assert encode(to_comparison(row), tokenizer).input_ids == expected.input_ids, form


def test_text_with_a_bos_gets_no_second_one_without_a_template_too():
    tokenizer = tiny_tokenizer("bos")
    plain = encode(to_comparison({"prompt": "Hi", "chosen": " a", "rejected": " b"}), tokenizer)
    begun = encode(to_comparison({"prompt": "<s>Hi", "chosen": " a", "rejected": " b"}), tokenizer)
    assert begun.input_ids == plain.input_ids
    one = tiny_tokenizer("one_special")  # adds none: what begins like BOS is text
    twice = encode(Comparison("", ["<|endoftext|><|endoftext|>a"]), one).input_ids[0]
    assert twice[:2] == [one.bos_token_id] * 2


def test_plain_text_beside_a_template_ends_in_eos_and_is_not_rendered():
    tokenizer = tiny_tokenizer("llama3")
    for text in ("The assistant: says", "a<|eot_id|>b", "user\n\nassistant\n\nhello"):
        ids = encode(Comparison("", [text]), tokenizer).input_ids[0]
        assert ids == tokenizer(text + "<|eot_id|>")["input_ids"]
        assert ids[0] == tokenizer.bos_token_id


def test_equal_conversations_score_equal_as_grpo_hands_them_over():
    tokenizer = tiny_tokenizer("llama3")
    scorer = RewardScorer(tiny_reward_model(), tokenizer)
    prompt = CONVERSATIONS["question"]
    rendered = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    texts = [reply[0]["content"] for reply in REPLIES]
    expected = scorer([prompt] * 2, REPLIES)
    assert abs(expected[0] - expected[1]) > 0.01
    for prompts, completions in [
        ([parts(prompt)] * 2, list(map(parts, REPLIES))),
        ([prompt] * 2, [prompt + reply for reply in REPLIES]),
        ([prompt] * 2, texts),
        ([prompt[0]["content"]] * 2, REPLIES),
        ([rendered] * 2, texts),
        ([rendered] * 2, [text + "<|eot_id|>" for text in texts]),
        ([rendered] * 2, [rendered + text + "<|eot_id|>" for text in texts]),
    ]:
        for control_tokens in ("as_text", "parse"):
            scorer.control_tokens = control_tokens
            assert scorer(prompts, completions) == pytest.approx(expected, abs=1e-5)
