"""encoding.py: ids equal TRL's, the shared prefix, template tails, reasoning, lengths, pad tokens.

Parity calls TRL's own `RewardTrainer._prepare_dataset`.
"""

import json
from itertools import islice
from types import SimpleNamespace

import pytest
from datasets import Dataset
from models import CHATML, assistant, tiny_reward_model, tiny_tokenizer, user
from trl import RewardTrainer

from rm_plugin.data.comparison import Comparison, load_rows, to_comparison
from rm_plugin.data.encoding import (
    EncodedGroup,
    common_prefix_length,
    encode,
    ensure_pad_token,
    has_reasoning,
    strip_reasoning,
    token_ids,
    without_trailing_pads,
)
from rm_plugin.data.templates import trim_template_tail

QUESTION, GOOD, BAD = "Which country owns Antarctica?", "None: the Antarctic Treaty.", "Penguins, of course!"
CHAT = Comparison([user(QUESTION)], chosen=[assistant(GOOD)], rejected=[assistant(BAD)])


# --- the same ids as TRL

TOOL = {
    "type": "function",
    "function": {
        "name": "owner",
        "description": "The owner of a land.",
        "parameters": {"type": "object", "properties": {"land": {"type": "string"}}},
    },
}
PLAIN_ROWS = {
    "explicit prompt": [
        {"prompt": QUESTION + " ", "chosen": GOOD, "rejected": BAD},
        {"prompt": "Which country ow", "chosen": "ns it?", "rejected": "es it?"},  # merges across the border
        {"prompt": "", "chosen": "yes", "rejected": "no"},
        {"prompt": "What is 2 + 2?", "chosen": " 4", "rejected": " 5 "},
        {"prompt": "What is 2 + 2?\n", "chosen": "4</s>", "rejected": "5<|im_end|>"},  # ends in some EOS already
    ],
    "implicit prompt": [
        {"chosen": QUESTION + " " + GOOD, "rejected": QUESTION + " " + BAD},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
        {"chosen": "a", "rejected": "b"},
        {"chosen": "The answer is four.", "rejected": "The answer is four. Not five."},
    ],
}
CHAT_ROWS = {
    "explicit prompt": [
        {"prompt": [user(QUESTION)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]},
        {
            "prompt": [{"role": "system", "content": "Be kind."}, user("Hi"), assistant("Hello"), user("2 + 2?")],
            "chosen": [assistant("4")],
            "rejected": [assistant("5")],
        },
    ],
    "implicit prompt": [
        {"chosen": [user(QUESTION), assistant(GOOD)], "rejected": [user(QUESTION), assistant(BAD)]},
        {"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Bye"), assistant("Hello")]},
    ],
    "several turns in a completion": [
        {
            "prompt": [user("Hi")],
            "chosen": [assistant("Hello"), user("2 + 2?"), assistant("4")],
            "rejected": [assistant("Go")],
        },
    ],
    "tools and template arguments": [
        {
            "prompt": [user("Who owns it?")],
            "chosen": [assistant("None")],
            "rejected": [assistant("Me")],
            "tools": json.dumps([TOOL]),
            "chat_template_kwargs": {"enable_thinking": False},
        },
    ],
}


def prepared_by_trl(rows, tokenizer, max_length=None):
    arguments = SimpleNamespace(max_length=max_length, dataset_num_proc=None)
    return RewardTrainer._prepare_dataset(None, Dataset.from_list(rows), tokenizer, arguments, "train")


def assert_same_ids_as_trl(rows, tokenizer):
    prepared = prepared_by_trl(rows, tokenizer)
    assert len(prepared) == len(rows)
    for row, theirs in zip(rows, prepared, strict=True):
        ours = encode(to_comparison(row), tokenizer)
        assert ours.input_ids == [theirs["chosen_ids"], theirs["rejected_ids"]], row


@pytest.mark.trl112
@pytest.mark.parametrize("rows", PLAIN_ROWS.values(), ids=PLAIN_ROWS)
@pytest.mark.parametrize("kind", ["plain", "bos", "chatml", "llama3", "pad_is_eos", "one_special"])
def test_ids_of_plain_text_equal_those_of_trl(kind, rows):
    assert_same_ids_as_trl(rows, tiny_tokenizer(kind))


@pytest.mark.trl112
@pytest.mark.parametrize("rows", CHAT_ROWS.values(), ids=CHAT_ROWS)
@pytest.mark.parametrize("kind", ["chatml", "llama3", "pad_is_eos"])
def test_ids_of_conversations_equal_those_of_trl(kind, rows):
    assert_same_ids_as_trl(rows, tiny_tokenizer(kind))


@pytest.mark.trl112
def test_ids_equal_those_of_trl_under_a_template_that_uses_tools_and_arguments():
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{{ 'thinking' if enable_thinking else 'not' }}" + CHATML
    )
    rows = CHAT_ROWS["tools and template arguments"]
    assert_same_ids_as_trl(rows, tokenizer)
    text = tokenizer.decode(encode(to_comparison(rows[0]), tokenizer).input_ids[0])
    assert "The owner of a land." in text and text.count("not") == 1


@pytest.mark.real_model
@pytest.mark.trl112
@pytest.mark.parametrize(
    "rows", [*PLAIN_ROWS.values(), *CHAT_ROWS.values()], ids=[*PLAIN_ROWS, *(f"chat, {name}" for name in CHAT_ROWS)]
)
def test_ids_equal_those_of_trl_on_smollm2(rows, smollm2_tokenizer):
    assert_same_ids_as_trl(rows, smollm2_tokenizer)


@pytest.mark.real_model
@pytest.mark.trl112
def test_ids_equal_those_of_trl_on_hh_rows(smollm2_tokenizer, shared_data):
    rows = islice(load_rows(str(shared_data / "hh_rlhf_harmless")), 100)
    rows = [{"chosen": row["chosen"], "rejected": row["rejected"]} for row in rows]
    rows = [
        row for row in rows if not any(text.rstrip().endswith("Assistant:") for text in row.values())
    ]  # empty replies
    assert len(rows) >= 90
    assert_same_ids_as_trl(rows, smollm2_tokenizer)


@pytest.mark.trl112
@pytest.mark.parametrize("kind", ["plain", "chatml"])
def test_ids_of_empty_completions_equal_those_of_trl(kind):
    # data.py refuses such rows; scoring an empty completion is allowed
    tokenizer = tiny_tokenizer(kind)
    theirs = prepared_by_trl([{"prompt": "Hi", "chosen": "a", "rejected": ""}], tokenizer)[0]
    assert encode(Comparison("Hi", ["a", ""]), tokenizer).input_ids == [theirs["chosen_ids"], theirs["rejected_ids"]]
    if tokenizer.chat_template:
        row = {"prompt": [user("Hi")], "chosen": [assistant("a")], "rejected": [assistant("")]}
        theirs = prepared_by_trl([row], tokenizer)[0]
        ours = encode(Comparison(row["prompt"], [row["chosen"], row["rejected"]]), tokenizer)
        assert ours.input_ids == [theirs["chosen_ids"], theirs["rejected_ids"]]


def test_text_without_eos_gets_one_and_text_with_eos_keeps_one():
    tokenizer = tiny_tokenizer("plain")
    ids = encode(Comparison("2 + 2 = ", ["4", "4</s>", "4</s> "]), tokenizer).input_ids
    assert ids[0] == ids[1] and ids[0].count(tokenizer.eos_token_id) == 1
    assert ids[2].count(tokenizer.eos_token_id) == 2  # as TRL: a blank after EOS is text that lacks it


@pytest.mark.parametrize("kind", ["bos", "llama3"])
def test_there_is_one_bos_at_the_start_in_text_and_in_conversations(kind):
    tokenizer = tiny_tokenizer(kind)
    comparisons = [Comparison("Hi ", ["there", "you"])] + ([CHAT] if tokenizer.chat_template else [])
    for comparison in comparisons:
        for ids in encode(comparison, tokenizer).input_ids:
            assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


# --- the shared prefix


def test_shared_prefix_is_of_ids_and_not_of_text():
    tokenizer = tiny_tokenizer("plain")
    prompt = "Which country ow"
    group = encode(Comparison(prompt, ["ns it?", "es it?"]), tokenizer)
    shared = tokenizer.decode(group.input_ids[0][: group.prefix_length])
    assert shared == "Which country"  # " owns" is one token, so " ow" belongs to the completions
    assert tokenizer.decode(group.input_ids[0]) == "Which country owns it?</s>"


def test_shared_prefix_reaches_into_completions_that_begin_alike():
    tokenizer = tiny_tokenizer("plain")
    group = encode(Comparison("2 + 2 ", ["is four now", "is four then"]), tokenizer)
    assert tokenizer.decode(group.input_ids[0][: group.prefix_length]).startswith("2 + 2 is four")


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2], [1, 2, 3]], 1),  # a prefix of the other keeps its last id
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1], [1]], 0),
        ([[1, 2], [3, 4]], 0),
        ([[1, 2, 3]], 2),
        ([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6]], 2),
        ([], 0),
    ],
)
def test_longest_common_prefix_leaves_every_sequence_an_id_of_its_own(sequences, expected):
    assert common_prefix_length(sequences) == expected
    assert EncodedGroup(sequences).prefix_length == expected


# --- reasoning


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("<think>2 + 2</think>\n\n4", "4"),
        ("2 + 2</think>4", "4"),  # the template prefilled <think>
        ("<think>2 + ", ""),  # cut off at the length limit
        ("<think>2 + 2\n", ""),
        ("<think></think>4", "4"),
        ("So <think>a</think>it is <think>b</think>4", "So it is 4"),
        ("<think>a\nb</think>\n4\n", "4\n"),
        ("4", "4"),
        ("a < b and <thinking>", "a < b and <thinking>"),
    ],
)
def test_reasoning_is_stripped_closed_prefilled_or_cut_off(text, stripped):
    assert strip_reasoning(text) == stripped
    assert strip_reasoning([assistant(text)]) == [assistant(stripped)]
    assert has_reasoning(text) == has_reasoning([assistant(text)]) == (text != stripped)


def test_reasoning_fields_of_messages_are_stripped_and_other_messages_are_not_touched():
    completion = [
        {**assistant("4"), "reasoning_content": "2 + 2"},
        user("Why <think>so</think>?"),
        {**assistant("<think>hm</think>Because."), "thinking": "hm"},
    ]
    assert has_reasoning(completion)
    assert strip_reasoning(completion) == [assistant("4"), user("Why <think>so</think>?"), assistant("Because.")]
    assert completion[0]["reasoning_content"] == "2 + 2"  # the caller's messages stay
    assert not has_reasoning([user("<think>"), assistant("4")])


def test_reasoning_is_kept_stripped_or_an_error_and_counted():
    tokenizer = tiny_tokenizer("chatml")
    comparison = Comparison([user("2 + 2?")], [[assistant("<think>easy</think>4")], [assistant("4")]])
    kept, stripped = (encode(comparison, tokenizer, reasoning=mode) for mode in ("keep", "strip"))
    assert "<think>easy</think>4" in tokenizer.decode(kept.input_ids[0])
    assert stripped.input_ids[0] == stripped.input_ids[1] == kept.input_ids[1]
    assert kept.num_reasoning == stripped.num_reasoning == 1
    with pytest.raises(ValueError, match=r"completion 0 holds reasoning .*; use reasoning='strip' or 'keep'"):
        encode(comparison, tokenizer, reasoning="error")
    assert encode(CHAT, tokenizer, reasoning="error").num_reasoning == 0


# --- lengths

LONG = Comparison("What is 2 + 2? ", ["four", "four, and not five as some would have it", "4"], ranks=[0, 1, 2])


def test_drop_leaves_out_each_completion_over_the_limit():
    tokenizer = tiny_tokenizer("plain")
    lengths = [len(ids) for ids in encode(LONG, tokenizer).input_ids]
    assert lengths[2] < lengths[0] < lengths[1]
    group = encode(LONG, tokenizer, max_length=lengths[0], truncation_mode="drop")
    assert (group.kept, group.ranks, group.num_dropped, group.num_truncated) == ([0, 2], [0, 2], 1, 0)
    assert [len(ids) for ids in group.input_ids] == [lengths[0], lengths[2]]
    nothing = encode(LONG, tokenizer, max_length=2, truncation_mode="drop")
    assert (nothing.input_ids, nothing.kept, nothing.ranks, nothing.num_dropped) == ([], [], [], 3)


def test_keep_end_cuts_the_start_of_the_prompt_of_each_completion_over_the_limit():
    tokenizer = tiny_tokenizer("plain")
    whole = encode(LONG, tokenizer).input_ids
    limit = len(whole[0])
    group = encode(LONG, tokenizer, max_length=limit, truncation_mode="keep_end")
    assert group.input_ids == [whole[0], whole[1][-limit:], whole[2]]
    assert (group.kept, group.num_dropped, group.num_truncated) == ([0, 1, 2], 0, 1)
    assert group.input_ids[1][-1] == tokenizer.eos_token_id


def test_keep_end_cuts_behind_a_token_that_only_starts_texts():
    for kind, keeps in (("bos", True), ("plain", False), ("pad_is_eos", False)):  # <|im_start|> is a BOS in name only
        tokenizer = tiny_tokenizer(kind)
        comparison = LONG if tokenizer.chat_template is None else CHAT
        whole = encode(comparison, tokenizer).input_ids[0]
        cut = encode(comparison, tokenizer, max_length=len(whole) - 2, truncation_mode="keep_end").input_ids[0]
        assert cut == ([*whole[:1], *whole[3:]] if keeps else whole[2:])
        assert encode(comparison, tokenizer, max_length=1, truncation_mode="keep_end").input_ids[0] == whole[-1:]


@pytest.mark.parametrize("mode", ["drop", "keep_end"])
def test_length_is_decided_for_each_completion_and_never_by_its_company(mode):
    tokenizer = tiny_tokenizer("plain")
    for limit in range(1, 40):
        together = encode(LONG, tokenizer, max_length=limit, truncation_mode=mode)
        alone = [
            encode(Comparison(LONG.prompt, [text]), tokenizer, max_length=limit, truncation_mode=mode).input_ids
            for text in LONG.completions
        ]
        assert together.input_ids == sum(alone, [])


def test_over_length_is_an_error_that_says_what_to_do():
    tokenizer = tiny_tokenizer("plain")
    with pytest.raises(
        ValueError, match=r"prompt \+ completion 0 has 11 tokens, max_length is 5; raise max_length or"
    ):
        encode(LONG, tokenizer, max_length=5)
    lengths = [len(ids) for ids in encode(LONG, tokenizer).input_ids]
    assert encode(LONG, tokenizer, max_length=max(lengths)).num_truncated == 0


@pytest.mark.trl112
def test_dropped_pairs_are_those_that_trl_filters():
    tokenizer = tiny_tokenizer("plain")
    rows = PLAIN_ROWS["explicit prompt"] + [{"prompt": "a", "chosen": "b" * n, "rejected": "c"} for n in range(1, 20)]
    theirs = prepared_by_trl(rows, tokenizer, max_length=12)
    groups = [encode(to_comparison(row), tokenizer, max_length=12, truncation_mode="drop") for row in rows]
    ours = [group.input_ids for group in groups if not group.num_dropped]
    assert 0 < len(theirs) < len(rows)
    assert ours == [[row["chosen_ids"], row["rejected_ids"]] for row in theirs]


def test_unknown_modes_list_the_known_ones():
    tokenizer = tiny_tokenizer("plain")
    with pytest.raises(ValueError, match="truncation_mode='cut' is not known; use one of 'drop', 'keep_end', 'error'"):
        encode(LONG, tokenizer, truncation_mode="cut")
    with pytest.raises(ValueError, match="reasoning='drop' is not known; use one of 'keep', 'strip', 'error'"):
        encode(LONG, tokenizer, reasoning="drop")


# --- templates and pairs


def test_conversation_without_a_template_names_the_fix():
    with pytest.raises(ValueError, match="has no chat template, a conversation needs one; set chat_template_path"):
        encode(CHAT, tiny_tokenizer("plain"))


def test_encoder_reads_question_and_answer_as_a_pair():
    tokenizer = tiny_tokenizer("bos")
    bos, question, answer = tokenizer.bos_token_id, tokenizer(QUESTION)["input_ids"][1:], tokenizer(GOOD)["input_ids"]
    expected = [bos, *question, *answer]  # no EOS, and this tokenizer's separator
    text = Comparison(QUESTION, chosen=GOOD, rejected=BAD)
    assert encode(text, tokenizer, pairs=True).input_ids[0] == expected
    assert encode(CHAT, tokenizer, pairs=True).input_ids[0] == expected
    with pytest.raises(ValueError, match="takes one question and one answer, not 3 messages; set chat_template_path"):
        encode(Comparison([user("a"), assistant("b")], [[user("c")]]), tokenizer, pairs=True)
    chatml = tiny_tokenizer("chatml")
    assert encode(CHAT, chatml, pairs=True).input_ids == encode(CHAT, chatml).input_ids


# --- pad tokens


def enders(tokenizer):
    """Ids at the end of plain text, and of a conversation."""
    ids = [token_ids("a", "b", tokenizer)[-1]]
    return ids + ([token_ids([user("a")], [assistant("b")], tokenizer)[-1]] if tokenizer.chat_template else [])


@pytest.mark.parametrize(
    ("kind", "pad_token"),
    [
        ("plain", "<pad>"),
        ("bos", "<pad>"),
        ("chatml", "<|endoftext|>"),
        ("llama3", "<|finetune_right_pad_id|>"),
        ("pad_is_eos", "<|endoftext|>"),  # as SmolLM2-Instruct: the unknown token ends nothing
        ("one_special", "<|pad|>"),  # as GPT-2: nothing is left, so a new one
    ],
)
def test_pad_token_ends_no_sequence(kind, pad_token):
    tokenizer = tiny_tokenizer(kind)
    trim_template_tail(tokenizer)
    size = len(tokenizer)
    ensure_pad_token(tokenizer)
    assert tokenizer.pad_token == pad_token and tokenizer.pad_token_id not in enders(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == size + (kind == "one_special")


def test_special_token_named_like_a_pad_is_taken_first():
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.pad_token, "<|spare|>"]})
    tokenizer.pad_token = None
    ensure_pad_token(tokenizer)
    assert tokenizer.pad_token == "<|finetune_right_pad_id|>"


def test_unknown_token_is_taken_before_other_special_tokens():
    tokenizer = tiny_tokenizer("one_special")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|spare|>"]})
    tokenizer.add_special_tokens({"unk_token": "<|unknown|>"})
    ensure_pad_token(tokenizer)
    assert tokenizer.pad_token == "<|unknown|>"


def test_new_pad_token_grows_the_embeddings_only_where_they_have_no_room():
    tight, roomy = tiny_tokenizer("one_special"), tiny_tokenizer("one_special")
    size = len(tight)
    model = tiny_reward_model("llama", vocab_size=size)
    old = model.get_input_embeddings().weight.clone()
    ensure_pad_token(tight, model)
    assert (tight.pad_token_id, model.config.pad_token_id) == (size, size)
    assert model.get_input_embeddings().num_embeddings == size + 1
    assert (model.get_input_embeddings().weight[:size] == old).all()
    model = tiny_reward_model("llama", vocab_size=size + 8)
    ensure_pad_token(roomy, model)
    assert model.config.pad_token_id == size and model.get_input_embeddings().num_embeddings == size + 8


def test_ids_do_not_change_with_the_pad_token():
    tokenizer, padded = tiny_tokenizer("pad_is_eos"), tiny_tokenizer("pad_is_eos")
    ensure_pad_token(padded)
    assert encode(CHAT, tokenizer).input_ids == encode(CHAT, padded).input_ids


@pytest.mark.real_model
def test_pad_token_of_smollm2_is_its_unknown_token(smollm2_tokenizer):
    tokenizer = smollm2_tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    ensure_pad_token(tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>" and len(tokenizer) == 49152


def test_trailing_pads_are_cut_before_the_common_prefix_is_taken():
    group = EncodedGroup([[9, 2, 5, 2, 2], [9, 2, 2], [9, 2, 5, 7]], kept=[0, 1, 3], ranks=[0, 1, 1], num_dropped=1)
    cut = without_trailing_pads(group, 2)
    assert cut.input_ids == [[9, 2, 5], [9], [9, 2, 5, 7]]  # a pad inside a text stays
    assert cut.prefix_length == 0  # each text keeps a token of its own
    assert (cut.kept, cut.ranks, cut.num_dropped) == ([0, 1, 3], [0, 1, 1], 1)
    never_to_none = without_trailing_pads(EncodedGroup([[2, 2, 2], [2], [9, 2], [9, 5, 2]]), 2).input_ids
    assert never_to_none == [[2], [2], [9], [9, 5]]
    assert without_trailing_pads(group, None) is group
    assert group.input_ids[0] == [9, 2, 5, 2, 2]
