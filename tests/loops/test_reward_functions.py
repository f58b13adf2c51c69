"""Reward functions in TRL's GRPO, RLOO and online DPO: `RewardScorer` as `reward_funcs`, and by dotted path."""

import importlib
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from stub_server import Stub, model_scores, serving
from transformers import AutoModelForCausalLM
from transformers.utils import get_json_schema

from rm_plugin.loops.callbacks import RewardScoringCallback
from rm_plugin.metrics.ranking import spearman
from rm_plugin.scoring import rewards
from rm_plugin.scoring.remote import RemoteRewardScorer
from rm_plugin.scoring.scorer import RewardScorer

pytestmark = [pytest.mark.trl112, pytest.mark.usefixtures("silent_experimental")]

PROMPTS = ["Which country owns Antarctica?", "What is 2 + 2?", "Hello world", "How are you today?"]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    """A tiny policy on disk, since RLOO loads its reference model from there; it often says EOS, sometimes at once."""
    folder = tmp_path_factory.mktemp("policy")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = AutoModelForCausalLM.from_config(models.tiny_config("qwen3", eos_token_id=1))  # as of "chatml"
    with torch.no_grad():
        policy.lm_head.weight[1] *= -4
    policy.save_pretrained(folder)
    return folder


class Recording(RewardScorer):
    """A scorer that remembers its calls."""

    def __call__(self, prompts, completions, **kwargs):
        result = super().__call__(prompts, completions, **kwargs)
        self.__dict__.setdefault("calls", []).append((prompts, completions, kwargs["completion_ids"], result))
        return result


def train(
    name, policy_folder, tokenizer, reward_funcs, conversational, tmp_path, tokenizers=None, of_trainer=None, **fields
):
    """Two steps of a trainer on a tiny policy; the trainer after them."""
    import trl
    from datasets import Dataset

    config, trainer = getattr(trl, f"{name}Config"), getattr(trl, f"{name}Trainer")
    rows = [{"prompt": [{"role": "user", "content": text}] if conversational else text} for text in PROMPTS]
    args = config(
        output_dir=str(tmp_path),
        max_steps=2,
        **{
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 5,
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "save_strategy": "no",
            **fields,
        },
    )
    trainer = trainer(
        model=str(policy_folder),
        reward_funcs=reward_funcs,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        reward_processing_classes=tokenizers,
        **(of_trainer or {}),
    )
    trainer.train()
    return trainer


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
@pytest.mark.parametrize("conversational", [False, True], ids=["plain", "conversational"])
def test_the_real_trainer_logs_the_scorers_rewards(name, conversational, policy_folder, tmp_path):
    tokenizer = models.tiny_tokenizer("chatml")
    scorer = Recording(models.tiny_reward_model(seed=1), models.tiny_tokenizer("llama3"))
    trainer = train(name, policy_folder, tokenizer, scorer, conversational, tmp_path, log_completions=False)
    means, truncated, empty = [], [], []
    for prompts, completions, completion_ids, result in scorer.calls:
        expected = scorer.score(prompts, completions, allow_empty=True)
        assert result == expected.tolist()
        means.append(expected.mean())
        truncated.append(np.mean([ids[-1] != tokenizer.eos_token_id for ids in completion_ids]))
        texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        empty.append(np.mean([not text for text in texts]))
    function = scorer.__name__
    assert len(scorer.calls) == 2
    assert logged(trainer, f"rewards/{function}/mean") == pytest.approx(means, abs=1e-5)
    assert logged(trainer, f"rewards/{function}/truncated") == pytest.approx(truncated)
    assert truncated == pytest.approx(logged(trainer, "completions/clipped_ratio"))
    assert logged(trainer, f"rewards/{function}/empty") == pytest.approx(empty)
    assert 0 < sum(truncated) < 2 and (sum(empty) > 0) == conversational  # this policy's first word after a header


@pytest.mark.parametrize("name", ["GRPO", "RLOO", "OnlineDPO"])
def test_a_served_model_gives_the_real_trainer_the_rewards_of_one_in_this_process(name, policy_folder, tmp_path):
    local = RewardScorer(models.tiny_reward_model(seed=1), models.tiny_tokenizer("llama3"))
    local.model.export(tmp_path / "exported", local.processing_class)
    tokenizer, heard = models.tiny_tokenizer("chatml"), []
    with serving(Stub(model_scores(local.model), tokenizer=local.processing_class)) as url:
        served = RemoteRewardScorer(url, tmp_path / "exported", name="served")
        served.listeners.append(lambda *texts, **columns: heard.append(texts))
        callback = RewardScoringCallback(served)
        if name == "OnlineDPO":
            trainer = train_online_dpo(policy_folder, tokenizer, served, callback, tmp_path)
        else:
            options = {"of_trainer": {"callbacks": [callback]}, "log_completions": False}
            trainer = train(name, policy_folder, tokenizer, served, True, tmp_path, **options)
    assert len(heard) == 2
    for prompts, completions, scores in heard:
        np.testing.assert_allclose(scores, local.score(prompts, completions, allow_empty=True), atol=1e-5)
    means = [np.mean(scores) for _, _, scores in heard]
    assert logged(trainer, "reward_scoring/mean") == pytest.approx(means, abs=1e-5)
    if name != "OnlineDPO":
        assert logged(trainer, "rewards/served/mean") == pytest.approx(means, abs=1e-5)


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.
    """
    return a * b


class Counter:
    """An environment with one tool."""

    def reset(self, **kwargs):
        """Start anew."""

    def increment(self, step: int) -> int:
        """
        Increments the counter.

        Args:
            step: By how much.
        """
        return step


@pytest.mark.parametrize("of_trainer", [{"tools": [multiply]}, {"environment_factory": Counter}], ids=["tools", "env"])
def test_tools_of_grpo_reach_the_reward_models_template_as_they_reach_the_policys(of_trainer, policy_folder, tmp_path):
    import trl

    template = (
        Path(trl.__file__).with_name("chat_templates") / "qwen3.jinja"
    )  # GRPO takes tools with templates it knows
    tokenizers = [models.tiny_tokenizer("chatml") for _ in range(2)]
    for tokenizer in tokenizers:
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    scorer = Recording(models.tiny_reward_model(seed=1), tokenizers[1], max_length=1024)
    trainer = train("GRPO", policy_folder, tokenizers[0], scorer, True, tmp_path, of_trainer=of_trainer)
    schemas = [get_json_schema(tool) for tool in trainer.tools]
    assert schemas and scorer.calls
    for prompts, completions, _, result in scorer.calls:
        columns = {"allow_empty": True, "tools": [schemas] * len(prompts)}
        assert result == pytest.approx(scorer.score(prompts, completions, **columns).tolist(), abs=1e-5)
        without = scorer.score(prompts, completions, allow_empty=True)
        assert np.abs(np.array(result) - without).max() > 1e-3


def test_completions_of_one_prompt_are_computed_as_one_group(policy_folder):
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("plain"))
    seen = []
    scorer.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    scorer(prompts=["Which country owns Antarctica?"] * 4 + ["What?"] * 4, completions=list("abcdefgh"))
    (call,) = seen
    prefixes = call["shared_prefix_layout"].prefix_lengths
    own = scorer.processing_class("Which country owns Antarctica?")["input_ids"]
    assert len(prefixes) == 2 and max(prefixes) >= len(own) - 1
    assert call["input_ids"].numel() < 8 * len(own)


def test_autocast_of_the_trainer_does_not_touch_the_scores():
    scorer = RewardScorer(models.tiny_reward_model(), models.tiny_tokenizer("plain"))
    expected = scorer(prompts=PROMPTS, completions=["a", "b", "c", "d"])
    with torch.autocast("cpu", torch.bfloat16):
        assert scorer(prompts=PROMPTS, completions=["a", "b", "c", "d"]) == expected


def test_what_trl_offers_for_logging_is_used_where_it_is_offered():
    class Trainer:
        processing_class = models.tiny_tokenizer("chatml")
        metrics, columns = {}, {}

        def log_metric(self, name, value):
            self.metrics[name] = value

        def log_extra(self, column, values):
            self.columns[column] = values

    trainer, end, pad = Trainer(), Trainer.processing_class.eos_token_id, Trainer.processing_class.pad_token_id
    assert pad not in (None, end)
    scorer = RewardScorer(
        models.tiny_reward_model(), models.tiny_tokenizer("plain"), max_length=8, truncation_mode="drop"
    )
    result = scorer(
        prompts=["What?"] * 4,
        completions=["a", "", "b", "a text that is far too long"],
        completion_ids=[[70, end, pad, pad], [end], [71], [5, 6, 7]],  # online DPO pads them
        log_metric=trainer.log_metric,
        log_extra=trainer.log_extra,
        some_column=[1, 2, 3, 4],
    )
    assert result[3] is None and None not in result[:3]
    assert trainer.columns == {"truncated": [False, False, True, True]}
    name = f"rewards/{scorer.__name__}"
    assert trainer.metrics == {
        f"{name}/truncated": 0.5,
        f"{name}/empty": 0.25,
        f"{name}/over_max_length": 0.25,
        f"{name}/nonfinite": 0.0,
        f"{name}/control_tokens": 0.0,
    }


def test_an_empty_completion_is_scored_as_prompt_and_end_token():
    tokenizer = models.tiny_tokenizer("plain")
    model = models.tiny_reward_model()
    scorer = RewardScorer(model, tokenizer)
    ids = torch.tensor([tokenizer("Hello</s>")["input_ids"]])
    with torch.no_grad():
        expected = model(ids).logits.item()
    assert scorer(prompts=["Hello"], completions=[""]) == pytest.approx([expected], abs=1e-5)
    with pytest.raises(ValueError, match="a completion is empty"):
        scorer.score(["Hello"], [""])


# --- the reward function by dotted path


@pytest.fixture
def reward_model_folder(tmp_path):
    models.tiny_reward_model(seed=1).save_pretrained(tmp_path / "my-reward-model")
    models.tiny_tokenizer("plain").save_pretrained(tmp_path / "my-reward-model")
    rewards.scorer_from_env.cache_clear()
    yield tmp_path / "my-reward-model"
    rewards.scorer_from_env.cache_clear()


def test_the_dotted_path_is_the_function_and_loads_once(reward_model_folder, monkeypatch, policy_folder, tmp_path):
    module, name = ["rm_plugin.rewards", "reward_from_env"]  # as `trl grpo --reward_funcs` reads it
    function = getattr(importlib.import_module(module), name)
    monkeypatch.setenv("RM_PLUGIN_REWARD_MODEL", str(reward_model_folder))
    tokenizer = models.tiny_tokenizer("chatml")
    trainer = train("GRPO", policy_folder, tokenizer, [function], False, tmp_path)
    assert len(logged(trainer, "rewards/reward_from_env/mean")) == 2
    scorer = RewardScorer(str(reward_model_folder))
    assert function(prompts=["What?"], completions=["a"]) == scorer(prompts=["What?"], completions=["a"])
    assert rewards.scorer_from_env.cache_info().misses == 1


def test_the_environment_sets_the_scorers_options(reward_model_folder, monkeypatch):
    monkeypatch.setenv("RM_PLUGIN_REWARD_MODEL", str(reward_model_folder))
    monkeypatch.setenv("RM_PLUGIN_REWARD_MAX_LENGTH", "12")
    monkeypatch.setenv("RM_PLUGIN_REWARD_TRUNCATION_MODE", "keep_end")
    monkeypatch.setenv("RM_PLUGIN_REWARD_ON_NONFINITE", "zero")
    scorer = rewards.scorer_from_env()
    assert (scorer.max_length, scorer.truncation_mode, scorer.on_nonfinite) == (12, "keep_end", "zero")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "RM_PLUGIN_REWARD_MODEL is unset"),
        (
            {"RM_PLUGIN_REWARD_MODL": "a"},
            r"MODL' is not known \(did you mean RM_PLUGIN_REWARD_MODEL\?\)",
        ),
        ({"RM_PLUGIN_REWARD_MODEL": "a", "RM_PLUGIN_REWARD_MAX_LENGTH": "long"}, "'long', it needs a whole number"),
        ({"RM_PLUGIN_REWARD_MODEL": "a", "RM_PLUGIN_REWARD_NORMALIZE": "maybe"}, "'maybe', it needs 1 or 0"),
    ],
)
def test_a_bad_environment_gets_one_clear_line(environment, message):
    with pytest.raises(ValueError, match=message) as error:
        rewards.read_environment(environment)
    assert "\n" not in str(error.value)


# --- against passing the model itself, and online DPO


def test_the_scorer_gives_what_grpos_own_model_path_gives(policy_folder, tmp_path):
    tokenizer, model = models.tiny_tokenizer("chatml"), models.tiny_reward_model(seed=1)
    model.config._name_or_path = "own-path"
    scorer = RewardScorer(model, tokenizer)
    scorer.__name__ = "scorer"
    funcs, tokenizers = [scorer, model], [None, tokenizer]
    trainer = train("GRPO", policy_folder, tokenizer, funcs, True, tmp_path, tokenizers)
    for metric in ("mean", "std"):
        own = logged(trainer, f"rewards/own-path/{metric}")
        assert len(own) == 2 and logged(trainer, f"rewards/scorer/{metric}") == pytest.approx(own, abs=1e-5)


def train_online_dpo(policy_folder, tokenizer, scorer, callback, tmp_path):
    """Two steps of online DPO on a tiny policy; the trainer after them."""
    try:
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
    except ImportError:
        pytest.skip("this TRL has no online DPO")
    from datasets import Dataset

    tokenizer.padding_side = "left"
    args = OnlineDPOConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        max_new_tokens=24,
        max_length=64,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy_folder),
        reward_funcs=scorer,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    return trainer


def test_online_dpo_takes_the_scorer(policy_folder, tmp_path):
    tokenizer = models.tiny_tokenizer("chatml")
    scorer = Recording(models.tiny_reward_model(seed=1), models.tiny_tokenizer("llama3"))
    callback, lengths = RewardScoringCallback(scorer), []
    take = callback._windows["train"].add
    callback._windows["train"].add = lambda *args: lengths.extend(args[3]) or take(*args)
    train_online_dpo(policy_folder, tokenizer, scorer, callback, tmp_path)
    assert len(scorer.calls) == 2
    assert len(set(lengths)) > 1, "lengths are of the texts, not of the padded batch"
    texts = [text[0]["content"] for _, completions, _, _ in scorer.calls for text in completions]
    own = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert spearman(np.array(own, float), np.array(lengths, float)) > 0.9
    for prompts, completions, _, result in scorer.calls:
        assert result == scorer.score(prompts, completions, allow_empty=True).tolist() and len(result) == 8
