"""PPO: reward models inside TRL 1.12's real `get_reward` and `PPOTrainer`."""

import copy
import gc
import importlib
import importlib.util
import logging

import models
import numpy as np
import pytest
import torch
from ppo_runs import HAS_PPO, PROMPTS, logged_scores, needs_ppo, tiny_policy
from transformers import AutoModelForSequenceClassification

from rm_plugin.commands.cli import main
from rm_plugin.data.templates import template_hash, trim_template_tail
from rm_plugin.loops.ppo import why_not_native
from rm_plugin.model.modeling import RewardModel
from rm_plugin.scoring.scorer import RewardScorer

pytestmark = [pytest.mark.trl112, pytest.mark.usefixtures("silent_experimental")]

CONVERSATIONS = [
    [{"role": "user", "content": "Which country owns Antarctica?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Are you sure?"},
    ],
]
ANSWERS = ["No country owns it.", "Yes"]


@pytest.fixture
def ppo():
    """The module under test, imported where TRL has PPO."""
    return importlib.import_module("rm_plugin.loops.ppo")


def policy_tokenizer(kind):
    tokenizer = models.tiny_tokenizer(kind)
    tokenizer.padding_side = "left"
    return tokenizer


def trl_utils():
    return importlib.import_module("trl.experimental.utils")


def padded_query_responses(tokenizer, prompt_ids, response_ids):
    """What PPOTrainer builds: prompts padded on the left, responses on the right; and the length of the prompts."""
    width, pad = max(map(len, prompt_ids)), tokenizer.pad_token_id
    longest = max(map(len, response_ids))
    rows = [
        [pad] * (width - len(prompt)) + prompt + response + [pad] * (longest - len(response))
        for prompt, response in zip(prompt_ids, response_ids, strict=True)
    ]
    return torch.tensor(rows), width


def rendered_rows(tokenizer, conversations):
    """Rows as PPOTrainer trains on, and the messages that they are of."""
    ids = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=True)["input_ids"]
    return [{"prompt": prompt, "input_ids": one} for prompt, one in zip(conversations, ids, strict=True)]


def rewards_of(module, tokenizer, prompts, answers):
    """Rewards that TRL reads from a module for prompts and answers of the policy."""
    if isinstance(prompts[0], str):
        prompt_ids = tokenizer(prompts)["input_ids"]
    else:
        prompt_ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
    response_ids = [tokenizer(a, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for a in answers]
    rows, width = padded_query_responses(tokenizer, prompt_ids, response_ids)
    with torch.no_grad():
        return trl_utils().get_reward(module, rows, tokenizer.pad_token_id, width)[1].numpy()


# --- as_ppo_reward_model in TRL's get_reward


@needs_ppo
@pytest.mark.parametrize("kind", ["chatml", "llama3", "pad_is_eos"])
def test_conversations_of_another_tokenizer_get_the_scorers_rewards(kind, ppo):
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("chatml"))
    tokenizer = policy_tokenizer(kind)
    expected = scorer.score(CONVERSATIONS, ANSWERS)
    for prompts in (CONVERSATIONS, rendered_rows(tokenizer, CONVERSATIONS)):
        module = ppo.as_ppo_reward_model(scorer, tokenizer, prompts)
        np.testing.assert_allclose(rewards_of(module, tokenizer, CONVERSATIONS, ANSWERS), expected, atol=1e-6)


@needs_ppo
def test_a_text_that_was_made_the_only_message_of_its_prompt_is_read_as_that_message(ppo):
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("llama3"))
    tokenizer, prompts = policy_tokenizer("chatml"), [[{"role": "user", "content": text}] for text in PROMPTS]
    rows = rendered_rows(tokenizer, prompts)
    for row, text in zip(rows, PROMPTS, strict=True):
        row["prompt"] = text
    answers = ["none", "4", "to you", "fine"]
    module = ppo.as_ppo_reward_model(scorer, tokenizer, rows)
    np.testing.assert_allclose(
        rewards_of(module, tokenizer, prompts, answers), scorer.score(prompts, answers), atol=1e-6
    )


@needs_ppo
def test_tools_and_template_arguments_of_a_row_reach_the_reward_models_template(ppo):
    template = models.CHATML.replace(
        "{% for message in messages %}",
        "{% if tools %}{{ tools }}{% endif %}{% if tone %}{{ tone }}{% endif %}{% for message in messages %}",
    )
    assert template != models.CHATML
    tokenizer = policy_tokenizer("chatml")
    tokenizer.chat_template = template
    scorer = RewardScorer(models.tiny_reward_model(), copy.deepcopy(tokenizer))
    columns = {"tools": [{"type": "function", "name": "add"}], "chat_template_kwargs": {"tone": "kind"}}
    ids = tokenizer.apply_chat_template(
        CONVERSATIONS[0], tools=columns["tools"], tone="kind", add_generation_prompt=True, return_dict=True
    )["input_ids"]
    row = {"prompt": CONVERSATIONS[0], "input_ids": ids, **columns}
    answer = tokenizer("Yes", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    module = ppo.as_ppo_reward_model(scorer, tokenizer, [row])
    rows = torch.tensor([ids + answer])
    reward = trl_utils().get_reward(module, rows, tokenizer.pad_token_id, len(ids))[1].item()
    given = {name: [value] for name, value in columns.items()}
    assert reward == pytest.approx(scorer.score([CONVERSATIONS[0]], ["Yes"], **given)[0], abs=1e-6)
    assert abs(scorer.score([CONVERSATIONS[0]], ["Yes"])[0] - reward) > 1e-3


@needs_ppo
@pytest.mark.parametrize("kind", ["plain", "bos", "one_special", "pad_is_eos"])
def test_plain_texts_of_another_tokenizer_get_the_scorers_rewards(kind, ppo):
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("plain"))
    tokenizer = policy_tokenizer(kind)
    rows = [{"prompt": text, "input_ids": tokenizer(text)["input_ids"]} for text in PROMPTS]
    answers = [" none", " 4", " to you", ""]
    expected = scorer.score(PROMPTS, answers, allow_empty=True)
    for prompts in (rows, PROMPTS, [{"input_ids": row["input_ids"]} for row in rows]):
        module = ppo.as_ppo_reward_model(scorer, tokenizer, prompts)
        np.testing.assert_allclose(rewards_of(module, tokenizer, PROMPTS, answers), expected, atol=1e-6)


@needs_ppo
def test_the_reward_stands_at_every_position_of_its_row(ppo):
    tokenizer = policy_tokenizer("plain")
    scorer = RewardScorer(models.tiny_reward_model(), tokenizer)
    module = ppo.as_ppo_reward_model(scorer, tokenizer, ["Hello"])
    ids = torch.tensor([tokenizer("Hello world")["input_ids"]])
    logits = trl_utils().get_reward(module, ids, tokenizer.pad_token_id, len(tokenizer("Hello")["input_ids"]))[0]
    assert logits.shape == (1, ids.shape[1], 1) and logits.unique().numel() == 1


@needs_ppo
@pytest.mark.parametrize("batch_size", [1, 2])
def test_responses_that_hold_the_generation_header_are_not_read_as_prompts(batch_size, ppo):
    tokenizer = policy_tokenizer("chatml")
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("chatml"))
    answers = ["Yes<|im_start|>assistant\nNo, it is not."] * batch_size
    conversations = [CONVERSATIONS[0]] * batch_size
    expected = scorer.score(conversations, ["Yesassistant\nNo, it is not."] * batch_size)
    module = ppo.as_ppo_reward_model(scorer, tokenizer, [CONVERSATIONS[0]])
    np.testing.assert_allclose(rewards_of(module, tokenizer, conversations, answers), expected, atol=1e-6)


@needs_ppo
def test_a_known_prompt_that_begins_another_is_no_guess_in_trls_get_reward(ppo):
    tokenizer = policy_tokenizer("chatml")
    scorer = RewardScorer(models.tiny_reward_model(), tokenizer)
    short, long = (tokenizer(text)["input_ids"] for text in ("Hello", "Hello world"))
    assert long[: len(short)] == short
    prompts = [{"prompt": CONVERSATIONS[0], "input_ids": short}, {"prompt": CONVERSATIONS[1], "input_ids": long}]
    module = ppo.as_ppo_reward_model(scorer, tokenizer, prompts)
    for length, prompt, answer in ((len(short), CONVERSATIONS[0], " world"), (len(long), CONVERSATIONS[1], "")):
        ids = torch.tensor([[*long, *[tokenizer.eos_token_id] * (length == len(long))]])
        expected = scorer.score([prompt], [answer], completion_ids=[ids[0, length:].tolist()], allow_empty=True)
        rewards = trl_utils().get_reward(module, ids, tokenizer.pad_token_id, length)[1]
        np.testing.assert_allclose(rewards.numpy(), expected, atol=1e-6)


@needs_ppo
def test_a_cut_response_and_pads_in_the_middle_of_the_prompt_are_read_right_where_pad_is_eos(ppo):
    tokenizer = policy_tokenizer("pad_is_eos")
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("chatml"))
    reader = ppo.as_ppo_reward_model(scorer, tokenizer, CONVERSATIONS).reader
    ids = tokenizer.apply_chat_template(CONVERSATIONS, add_generation_prompt=True, return_dict=True)["input_ids"]
    responses = [tokenizer("No country")["input_ids"], [tokenizer.eos_token_id]]
    rows, width = padded_query_responses(tokenizer, ids, responses)
    prompts, completions, completion_ids, _ = reader.split(rows.tolist(), width)
    assert prompts == CONVERSATIONS and completions == ["No country", ""]
    assert completion_ids == responses  # cut off: no EOS; empty: EOS alone


@needs_ppo
def test_a_prefilled_think_is_the_templates_and_its_end_is_the_completions(ppo):
    template = models.CHATML.replace("assistant\n'", "assistant\n<think>\n'")
    tokenizer = policy_tokenizer("chatml")
    tokenizer.chat_template = template
    conversation, answer = [CONVERSATIONS[0]], ["none owns it</think>No country."]
    for reasoning, text in (("keep", answer[0]), ("strip", "No country.")):
        scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("chatml"), reasoning=reasoning)
        expected = RewardScorer(scorer.model, scorer.processing_class).score(conversation, [text])
        module = ppo.as_ppo_reward_model(scorer, tokenizer, conversation)
        np.testing.assert_allclose(rewards_of(module, tokenizer, conversation, answer), expected, atol=1e-6)


@needs_ppo
def test_several_scorers_are_weighed_normalised_and_clipped(ppo):
    tokenizer = policy_tokenizer("plain")
    first = RewardScorer(models.tiny_reward_model(seed=1), tokenizer)
    second = RewardScorer(models.tiny_reward_model(seed=2), tokenizer)
    answers = [" none", " 4", " to you", " fine"]
    a, b = first.score(PROMPTS, answers), second.score(PROMPTS, answers)
    module = ppo.as_ppo_reward_model([first, second], tokenizer, PROMPTS, reward_weights=[1.0, 0.5])
    np.testing.assert_allclose(rewards_of(module, tokenizer, PROMPTS, answers), a + 0.5 * b, atol=1e-6)
    first.model.config.reward_mean, first.model.config.reward_std = 1.0, 2.0
    normalised = RewardScorer(first.model, tokenizer, normalize=True)
    module = ppo.as_ppo_reward_model(normalised, tokenizer, PROMPTS, reward_clip=0.25)
    expected = np.clip((a - 1) / 2, -0.25, 0.25)
    np.testing.assert_allclose(rewards_of(module, tokenizer, PROMPTS, answers), expected, atol=1e-6)
    assert np.isin(expected, [-0.25, 0.25]).sum() > 0


@needs_ppo
def test_an_encoder_without_a_score_head_is_a_reward_model_too(ppo):
    torch.manual_seed(0)
    encoder = AutoModelForSequenceClassification.from_config(models.tiny_config("bert", num_labels=1)).eval()
    assert not hasattr(encoder, "score")
    tokenizer = policy_tokenizer("plain")
    scorer = RewardScorer(encoder, models.tiny_tokenizer("plain"))
    module = ppo.as_ppo_reward_model(scorer, tokenizer, PROMPTS)
    answers = [" none", " 4", " to you", " fine"]
    expected = scorer.score(PROMPTS, answers)
    np.testing.assert_allclose(rewards_of(module, tokenizer, PROMPTS, answers), expected, atol=1e-5)


@needs_ppo
def test_calls_of_the_model_stay_within_the_token_budget(ppo):
    tokenizer = policy_tokenizer("plain")
    scorer = RewardScorer(models.tiny_reward_model(), tokenizer, max_num_batched_tokens=40)
    seen = []
    scorer.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    prompts = [f"{prompt} {i}" for i in range(4) for prompt in PROMPTS]
    rewards_of(ppo.as_ppo_reward_model(scorer, tokenizer, prompts), tokenizer, prompts, [" yes"] * 16)
    assert len(seen) > 4 and max(seen) <= 40


@needs_ppo
def test_a_model_that_skips_its_pads_is_read_right_in_the_wrapper_and_as_it_is_where_ppos_pad_is_its_own(ppo):
    tokenizer = policy_tokenizer("pad_is_eos")  # as TRL trains where a tokenizer has no pad
    model = models.tiny_reward_model()
    model.config.set_pooling("last_non_pad", tokenizer.pad_token_id)
    scorer = RewardScorer(model, tokenizer)
    answers = [" none", " 4", " to you", " fine"]
    expected = scorer.score(PROMPTS, answers)
    texts = [tokenizer(prompt + answer)["input_ids"] for prompt, answer in zip(PROMPTS, answers, strict=True)]
    with torch.no_grad():
        before_eos = [model(torch.tensor([ids])).logits.item() for ids in texts]
    np.testing.assert_allclose(expected, before_eos, atol=1e-5)
    module = ppo.as_ppo_reward_model(scorer, tokenizer, PROMPTS)
    np.testing.assert_allclose(rewards_of(module, tokenizer, PROMPTS, answers), expected, atol=1e-5)
    rows = [{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in PROMPTS]
    model.config.eos_token_id = tokenizer.eos_token_id
    assert why_not_native(model, tokenizer, rows) is None
    np.testing.assert_allclose(rewards_of(model, tokenizer, PROMPTS, answers), expected, atol=1e-5)
    assert "skips pad tokens" in why_not_native(model, policy_tokenizer("plain"), rows)
    assert "inside its prompt" in why_not_native(model, tokenizer, rendered_rows(tokenizer, [CONVERSATIONS[1]]))


# --- bad input


@needs_ppo
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, "prompts is None; give the rows"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": [CONVERSATIONS[0]]}, "has no chat template, a conversation needs one"),
        ({"prompts": [{"text": "a"}]}, "a row has text; it needs input_ids"),
        ({"reward_weights": [1.0, 2.0]}, "2 reward_weights for 1 scorers"),
        ({"reward_clip": 0}, "reward_clip=0"),
        ({"scorer": "a model"}, "str is no RewardScorer; wrap it"),
    ],
)
def test_bad_arguments_get_one_clear_line(change, message, ppo):
    tokenizer = policy_tokenizer("plain")
    arguments = {"scorer": RewardScorer(models.tiny_reward_model(), tokenizer), "prompts": PROMPTS, **change}
    with pytest.raises(ValueError, match=message) as error:
        ppo.as_ppo_reward_model(arguments.pop("scorer"), tokenizer, **arguments)
    assert "\n" not in str(error.value)


@needs_ppo
def test_tokenizers_that_cannot_be_bridged_are_refused(ppo):
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("plain"))
    with pytest.raises(ValueError, match="padding_side='right', generation needs prompts padded on the left"):
        ppo.as_ppo_reward_model(scorer, models.tiny_tokenizer("plain"), PROMPTS)
    without_pad = policy_tokenizer("plain")
    without_pad.pad_token = None
    with pytest.raises(ValueError, match="has no pad token"):
        ppo.as_ppo_reward_model(scorer, without_pad, PROMPTS)
    dropping = RewardScorer(scorer.model, scorer.processing_class, truncation_mode="drop")
    with pytest.raises(ValueError, match="truncation_mode='drop' leaves texts without a reward"):
        ppo.as_ppo_reward_model(dropping, policy_tokenizer("plain"), PROMPTS)


@needs_ppo
def test_a_prompt_that_is_not_known_or_was_rendered_from_messages_that_are_not_given_is_named(ppo):
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("chatml"))
    tokenizer = policy_tokenizer("plain")
    with pytest.raises(ValueError, match="'Goodbye.* is none of the 4 known prompts; give"):
        rewards_of(ppo.as_ppo_reward_model(scorer, tokenizer, PROMPTS), tokenizer, ["Goodbye"], ["a"])
    tokenizer = policy_tokenizer("chatml")
    [row] = rendered_rows(tokenizer, [CONVERSATIONS[1]])
    for text in (None, "Are you sure?"):
        with pytest.raises(ValueError, match="is rendered by the policy's chat template; give its row the messages"):
            ppo.as_ppo_reward_model(scorer, tokenizer, [{**row, "prompt": text}])


# --- the real PPOTrainer


class Recorder:
    """TRL's `get_reward`, with the ids and rewards of one model kept."""

    def __init__(self, monkeypatch, reward_model):
        import trl.experimental.ppo.ppo_trainer as ppo_trainer

        self.real, self.reward_model, self.calls = ppo_trainer.get_reward, reward_model, []
        monkeypatch.setattr(ppo_trainer, "get_reward", self)

    def __call__(self, model, query_responses, pad_token_id, context_length):
        result = self.real(model, query_responses, pad_token_id, context_length)
        if model is self.reward_model:
            self.calls.append((query_responses.clone(), context_length, result[1].clone()))
        return result


def run_ppo(output_dir, tokenizer, reward_model, value_model, rows, num_updates=2, **fields):
    """Two updates (or more) of PPO on a tiny policy; the trainer after them."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    args = PPOConfig(
        output_dir=str(output_dir),
        total_episodes=8 * num_updates,
        **{
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "local_rollout_forward_batch_size": 4,
            "num_ppo_epochs": 2,
            "response_length": 6,
            "stop_token": "eos",
            "temperature": 1.0,
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "num_sample_generations": 0,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            **fields,
        },
    )
    trainer = PPOTrainer(args, tokenizer, tiny_policy(), None, reward_model, Dataset.from_list(rows), value_model)
    gc.freeze()  # TRL collects garbage twice an update
    try:
        trainer.train()
    finally:
        gc.unfreeze()
    return trainer


def unpadded(row, context_length, pad):
    """Prompt ids and response ids; a policy that says pad has ended there, as TRL has it."""
    prompt, response = row[:context_length], row[context_length:]
    while prompt[0] == pad:
        prompt = prompt[1:]
    return prompt, response[: response.index(pad)] if pad in response else response


def plain_rows(tokenizer, num=8):
    return [{"input_ids": tokenizer(PROMPTS[i % 4] + " please" * (i // 4))["input_ids"]} for i in range(num)]


def conversation_ids(tokenizer, questions):
    prompts = [[{"role": "user", "content": text}] for text in questions]
    return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]


def native_model(kind, folder, seed):
    """A reward model of a kind, as a user would hand it to PPO."""
    if kind == "full":
        return models.tiny_reward_model("qwen3", seed=seed)
    from peft import LoraConfig, get_peft_model

    base = folder / f"base-{seed}"
    models.tiny_reward_model("qwen3", seed=seed).save_pretrained(base)
    kwargs = {}
    if kind == "nf4":
        from transformers import BitsAndBytesConfig

        kwargs["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        return RewardModel.from_pretrained(base, **kwargs)
    config = LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], target_modules="all-linear", r=2)
    peft_model = get_peft_model(RewardModel.from_pretrained(base), config)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    if kind == "peft":
        return peft_model.eval()
    peft_model.save_pretrained(folder / f"adapter-{seed}")
    loaded = RewardModel.from_pretrained(folder / f"adapter-{seed}")
    return loaded.merge() if kind == "merged" else loaded


@needs_ppo
@pytest.mark.parametrize("kind", ["full", "merged", "unmerged", "nf4", "peft"])
def test_a_reward_model_works_as_it_is_and_logs_the_scores_of_the_same_ids(kind, tmp_path, monkeypatch):
    tokenizer = policy_tokenizer("plain")
    reward_model, value_model = native_model(kind, tmp_path, 1), native_model(kind, tmp_path, 2)
    recorder = Recorder(monkeypatch, reward_model)
    trainer = run_ppo(tmp_path, tokenizer, reward_model, value_model, plain_rows(tokenizer))
    means, finished = [], 0
    for ids, context_length, rewards in recorder.calls:
        for row, reward in zip(ids.tolist(), rewards.tolist(), strict=True):
            prompt, response = unpadded(row, context_length, tokenizer.pad_token_id)
            sequence = torch.tensor([prompt + response])
            finished += sequence[0, -1].item() == tokenizer.eos_token_id
            with torch.no_grad():
                score = reward_model(sequence, attention_mask=torch.ones_like(sequence)).logits.item()
            assert reward == pytest.approx(score, abs=2e-5 if kind != "nf4" else 0.05)
        means.append(rewards.mean().item())
    assert len(recorder.calls) == 4 and finished > 0
    updates = [sum(means[:2]) / 2, sum(means[2:]) / 2]
    assert logged_scores(trainer) == pytest.approx(updates, abs=1e-5)


@needs_ppo
@pytest.mark.parametrize("kind", ["pad_is_eos", "llama3"])
def test_the_trainer_logs_the_scorers_rewards_of_its_texts(kind, ppo, tmp_path, monkeypatch, caplog):
    tokenizer = policy_tokenizer(kind)
    scorer = RewardScorer(models.tiny_reward_model("llama", seed=1), models.tiny_tokenizer("chatml"))
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
    rows = [{"input_ids": ids} for ids in conversation_ids(tokenizer, PROMPTS * 2)]
    known = [{"prompt": prompt, **row} for prompt, row in zip(prompts * 2, rows, strict=True)]
    reward_model = ppo.as_ppo_reward_model(scorer, tokenizer, known)
    recorder = Recorder(monkeypatch, reward_model)
    with caplog.at_level(logging.WARNING, logger="rm_plugin"):
        trainer = run_ppo(tmp_path, tokenizer, reward_model, models.tiny_reward_model("qwen3", seed=2), rows)
    assert not [record for record in caplog.records if record.name.startswith("rm_plugin")]
    by_ids = {tuple(row["input_ids"]): prompt for row, prompt in zip(rows, prompts * 2, strict=True)}
    expected = []
    for ids, context_length, _ in recorder.calls:
        for row in ids.tolist():
            prompt_ids, response = unpadded(row, context_length, tokenizer.pad_token_id)
            text = tokenizer.decode(response, skip_special_tokens=True)
            prompt = by_ids[tuple(prompt_ids)]
            expected.append(scorer.score([prompt], [[{"role": "assistant", "content": text}]])[0])
    logged = [np.mean(expected[:8]), np.mean(expected[8:])]
    assert logged_scores(trainer) == pytest.approx(logged, abs=1e-5)


@needs_ppo
def test_as_a_value_model_it_is_refused(ppo, tmp_path):
    tokenizer = policy_tokenizer("plain")
    module = ppo.as_ppo_reward_model(RewardScorer(models.tiny_reward_model(), tokenizer), tokenizer, PROMPTS)
    with pytest.raises(ValueError, match="a value model estimates one per token"):
        run_ppo(tmp_path, tokenizer, models.tiny_reward_model("qwen3"), module, plain_rows(tokenizer, 4) * 2)


# --- a RewardModel as it is


@pytest.mark.parametrize(
    ("trained_with", "policy", "vocab_size", "reason"),
    [
        (None, "chatml", 320, None),  # not said
        ("chatml", "chatml", 320, None),
        ("chatml", "pad_is_eos", 320, "another chat template"),
        ("llama3", "chatml", 320, "another chat template"),
        (None, "chatml", 300, "vocabulary"),
        (None, "pad_is_eos", 320, "pad token is its EOS"),
        ("pad_is_eos", "pad_is_eos", 320, "pad token is its EOS"),
    ],
)
def test_what_the_policys_tokenizer_shows_a_reward_model_is_compared(trained_with, policy, vocab_size, reason):
    model = models.tiny_reward_model(vocab_size=vocab_size)
    if trained_with is not None:
        its_tokenizer = models.tiny_tokenizer(trained_with)
        trim_template_tail(its_tokenizer)  # as our trainer does
        model.config.template_hash = template_hash(its_tokenizer)
    tokenizer = models.tiny_tokenizer(policy)
    model.config.eos_token_id = tokenizer.eos_token_id
    found = why_not_native(model, tokenizer, [{"input_ids": [5, 6]}])
    assert (found is None) if reason is None else (reason in found)


def ids_of(pad, eos):
    """A tokenizer whose pad and end token have these ids, which may be 0 (GPT-NeoX, Pythia)."""
    tokenizer = models.tiny_tokenizer("plain")
    tokenizer.pad_token, tokenizer.eos_token = (
        None if i is None else tokenizer.convert_ids_to_tokens(i) for i in (pad, eos)
    )
    return tokenizer


@pytest.mark.parametrize(
    ("pad", "eos", "model_ends", "row", "reason"),
    [
        (0, 0, None, [5, 6], "pad token is its EOS"),
        (1, 0, 0, [5, 6], None),
        (1, 0, [0, 7], [5, 6], None),
        (1, 7, 0, [5, 6], "ends its texts with token 7"),
        (1, 0, None, [1, 1, 5, 6], None),  # padded on the left
        (1, 0, None, [1, 5, 1, 6], "row 0 holds the policy's pad token 1 inside its prompt"),
        (0, 1, None, [0, 5, 0, 6], "row 0 holds the policy's pad token 0 inside its prompt"),
    ],
)
def test_tokens_with_id_0_are_tokens_when_ppos_reading_is_checked(pad, eos, model_ends, row, reason):
    model = models.tiny_reward_model()
    model.config.eos_token_id = model_ends
    found = why_not_native(model, ids_of(pad, eos), [{"input_ids": row}])
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize(
    ("response", "mask", "position", "cut"),
    [
        ([7, 8, 1], [1, 1, 1], 4, False),  # its end token is the last: no pad follows
        ([7, 8, 9], [1, 1, 1], 4, True),
        ([7, 1, 0], [1, 1, 0], 3, False),
        ([0, 0, 0], [0, 0, 0], 1, False),  # empty: the prompt's last token
        ([7, 0, 8], [1, 0, 1], 2, False),  # what follows a pad does not count
    ],
)
def test_what_ppo_reads_is_at_the_last_token_before_the_responses_first_pad(response, mask, position, cut, ppo):
    ids, masks = torch.tensor([[0, 5, *response]]), torch.tensor([[0, 1, *mask]]).bool()
    logits = torch.arange(5.0)[None, :, None]
    assert ppo.read_batch(ids, masks, logits, eos=1) is None  # outside of get_reward
    read = ppo._noting(lambda *args: ppo.read_batch(ids, masks, logits, eos=1))(None, None, 0, 2)
    kept = response[: max(position - 1, 0)]
    assert read["scores"].tolist() == [position] and read["truncated"] == [cut]
    assert read["prompts"] == [[5]] and read["completions"] == read["completion_ids"] == [kept]
    assert ppo._context_length.get() is None


# --- a TRL without PPO


@pytest.mark.skipif(HAS_PPO, reason="this TRL has PPO")
def test_on_a_trl_without_ppo_the_module_imports_and_the_function_says_what_to_do_in_one_line(capsys):
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("plain"))
    with pytest.raises(ImportError, match=r"pip install 'rm-plugin\[ppo\]'.* GRPOTrainer or RLOOTrainer") as error:
        importlib.import_module("rm_plugin.loops.ppo").as_ppo_reward_model(scorer, policy_tokenizer("plain"), PROMPTS)
    assert "\n" not in str(error.value)
    assert main(["ppo", "--config", "recipes/ppo-quickstart.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
