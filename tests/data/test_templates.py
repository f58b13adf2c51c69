"""Chat templates: the tail behind generated text is trimmed, and a hash names what makes ids of text."""

import re
from pathlib import Path

import pytest
import trl
from models import CHATML, assistant, tiny_tokenizer, user
from transformers import AutoTokenizer

from rm_plugin.data.comparison import Comparison
from rm_plugin.data.encoding import encode
from rm_plugin.data.templates import template_hash, trim_template_tail

QUESTION, GOOD, BAD = "Which country owns Antarctica?", "None: the Antarctic Treaty.", "Penguins, of course!"
CHAT = Comparison([user(QUESTION)], chosen=[assistant(GOOD)], rejected=[assistant(BAD)])
TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
PROBE = [user("What is 2 + 2?"), assistant("It is four.")]
SPECIAL = re.compile(r"<[|｜][^<>]+[|｜]>|</?s>|<(?:start|end)_of_\w+>|<[|]\w+>|<\w+[|]>")


def tokenizer_of(template: str):
    """A tokenizer whose special tokens are those that a template writes."""
    tokenizer = tiny_tokenizer("plain")
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(SPECIAL.findall(template)))})
    return tokenizer


def render(tokenizer, messages, generate=False):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)


def test_tails_of_all_text_templates_of_trl_are_trimmed_to_where_generated_text_ends():
    trimmed, kept, skipped = [], [], []
    for path in TEMPLATES:
        tokenizer = tokenizer_of(path.read_text(encoding="utf-8"))
        try:
            before = render(tokenizer, PROBE)
        except Exception:
            before = ""
        if "It is four." not in before:  # images only, tools only, …
            skipped.append(path.stem)
            continue
        prompts = [render(tokenizer, PROBE[:1], generate=True), render(tokenizer, PROBE + PROBE[:1], generate=True)]
        changed = trim_template_tail(tokenizer)
        (trimmed if changed else kept).append(path.stem)
        after = render(tokenizer, PROBE)
        assert after == (before.rstrip() if changed else before), path.stem
        assert prompts == [
            render(tokenizer, PROBE[:1], generate=True),
            render(tokenizer, PROBE + PROBE[:1], generate=True),
        ], path.stem
        assert not trim_template_tail(tokenizer), path.stem  # once is enough
        assert render(tokenizer, PROBE) == after, path.stem
        ids = encode(Comparison(PROBE[:1], [PROBE[1:]]), tokenizer).input_ids[0]
        if changed:
            assert tokenizer.decode(ids[-1:]).strip() and ids[-1] in tokenizer.all_special_ids, path.stem
        assert after == after.rstrip() or not changed
    assert len(trimmed) >= 30 and len(kept) >= 15, (trimmed, kept, skipped)
    assert len(skipped) <= 10, skipped


def test_trimmed_chatml_ends_where_generated_text_ends():
    tokenizer = tiny_tokenizer("chatml")
    prompt = tokenizer.apply_chat_template([user(QUESTION)], add_generation_prompt=True)["input_ids"]
    generated = [*prompt, *tokenizer(GOOD)["input_ids"], tokenizer.eos_token_id]
    newline = tokenizer("\n")["input_ids"]
    assert encode(CHAT, tokenizer).input_ids[0] == generated + newline
    assert trim_template_tail(tokenizer)
    assert encode(CHAT, tokenizer).input_ids[0] == generated


@pytest.mark.parametrize("tail", ["", "\n", "\n\n"])
def test_trimming_leaves_the_generation_prompt_alone_however_the_template_ends(tail):
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = CHATML.replace("{% endif %}", "{% endif %}{{ '' }}") + tail
    before = render(tokenizer, [user("Hi")], generate=True)
    assert trim_template_tail(tokenizer)
    assert render(tokenizer, [user("Hi")], generate=True) == before


def test_trimmed_template_is_saved_with_the_tokenizer(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    original = template_hash(tokenizer)
    trim_template_tail(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(CHAT, loaded).input_ids == encode(CHAT, tokenizer).input_ids
    assert template_hash(loaded) == template_hash(tokenizer) != original
    assert not trim_template_tail(loaded)


@pytest.mark.parametrize("kind", ["plain", "llama3"])
def test_template_without_a_tail_is_left_as_it_is(kind):
    tokenizer = tiny_tokenizer(kind)
    before = tokenizer.chat_template
    assert not trim_template_tail(tokenizer) and tokenizer.chat_template == before


def test_white_space_after_plain_text_is_not_a_tail():
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}"
    assert not trim_template_tail(tokenizer)


def test_default_of_several_templates_is_trimmed():
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = {"default": CHATML, "other": CHATML}
    assert trim_template_tail(tokenizer)
    assert render(tokenizer, PROBE).endswith("<|im_end|>") and tokenizer.chat_template["other"] == CHATML


@pytest.mark.real_model
def test_tail_of_smollm2_is_trimmed(smollm2_tokenizer):
    tokenizer = smollm2_tokenizer
    assert tokenizer.decode(encode(CHAT, tokenizer).input_ids[0][-2:]) == "<|im_end|>\n"
    assert trim_template_tail(tokenizer)
    assert encode(CHAT, tokenizer).input_ids[0][-1] == tokenizer.eos_token_id


def test_template_hash_names_what_makes_ids_of_text():
    names = {template_hash(tiny_tokenizer(kind)) for kind in ("plain", "chatml", "llama3", "pad_is_eos")}
    assert len(names) == 4 and all(re.fullmatch("[0-9a-f]{16}", name) for name in names)
    assert template_hash(tiny_tokenizer("plain")) == template_hash(tiny_tokenizer("plain"))
