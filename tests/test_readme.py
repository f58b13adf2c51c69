"""The README's Python examples run as they stand, and its commands and names exist."""

import re
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from models import tiny_config, tiny_tokenizer
from ppo_runs import HAS_PPO
from transformers import Qwen3ForCausalLM

from rm_plugin import BestOfNSampler, PairwiseRewardConfig, PairwiseRewardTrainer, RewardModel, RewardScorer
from rm_plugin.commands.quickstart import build_model, build_tokenizer
from rm_plugin.loops.best_of_n import to_preferences

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FROM_PYTHON, GRPO, PPO = SNIPPETS  # each has its test
POLICY = "HuggingFaceTB/SmolLM2-135M-Instruct"


def run(snippet, **given):
    """The variables that a snippet leaves, run where the process stands."""
    variables = {**given, "__name__": "readme"}
    exec(compile(snippet, "README.md", "exec"), variables)
    return variables


@pytest.fixture
def here(readme_run, tmp_path, monkeypatch):
    """A new working directory with `my-reward-model`, which is all that the other snippets take from the first."""
    (tmp_path / "my-reward-model").symlink_to(readme_run / "my-reward-model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    return tmp_path


@pytest.fixture(params=["tiny", pytest.param("smollm2", marks=pytest.mark.real_model)])
def example(request, here):
    """`example(snippet, **given)` runs one of the README after the first, with an instruct policy from a folder."""
    if request.param == "smollm2":
        folder = request.getfixturevalue("smollm2")
    else:
        folder, tokenizer = here / "policy", tiny_tokenizer("pad_is_eos")
        Qwen3ForCausalLM(tiny_config("qwen3", use_cache=True)).save_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
        tokenizer.save_pretrained(folder)
    first = {"on_a_cpu": {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}}
    first |= {"Dataset": Dataset, "RewardModel": RewardModel, "RewardScorer": RewardScorer}
    return lambda snippet, **given: run(snippet.replace(POLICY, str(folder)), **first, **given)


def records_of(trainer):
    """The logs of the trainer with the callback's metrics in them."""
    return [record for record in trainer.state.log_history if "reward_scoring/mean" in record]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["from_python", "grpo", "ppo"])
def test_a_python_example_has_at_most_twenty_lines(snippet):
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 20


@pytest.mark.slow
def test_the_first_example_prefers_the_treaty_over_the_penguins_and_says_so(readme_run):
    printed = (readme_run / "printed.txt").read_text(encoding="utf-8")
    assert float(re.search(r"held-out accuracy: (\S+)", printed)[1]) > 0.75
    p = float(re.search(r"P\(the Treaty answer is preferred over the penguins\) = (\S+)", printed)[1])
    assert p > 0.9
    scorer, prompt = RewardScorer(readme_run / "my-reward-model"), "Which country owns Antarctica?"
    treaty = "No country owns it: the Antarctic Treaty System governs it."
    penguins = "The penguins own it, and the seals pay rent."
    assert scorer.preference(prompt, treaty, penguins) == pytest.approx(p, abs=1e-3)
    assert scorer.rank(prompt, [penguins, treaty])[0] == 1
    assert scorer.preference(prompt, "No country owns it.", "The penguins own it.") > 0.5


@pytest.mark.slow
@pytest.mark.trl112
def test_the_grpo_example_runs_and_logs_the_rewards_metrics(here, example):
    records = records_of(example(GRPO)["trainer"])
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    for record in records:
        assert record["reward_scoring/num_scores"] == 8
        assert record["reward_scoring/std"] > 0
        assert record["reward_scoring/mean"] == pytest.approx(record["reward"], abs=1e-5)
        assert record["reward_scoring/mean"] == pytest.approx(record["rewards/my-reward-model/mean"], abs=1e-5)
    assert (here / "grpo" / "reward_scoring" / "samples.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.trl112
@pytest.mark.skipif(not HAS_PPO, reason="PPO is in TRL up to 1.12; `make test` runs this on 1.12.0")
def test_the_ppo_example_runs_and_logs_the_rewards_metrics(example):
    trainer = example(f"{GRPO.replace('trainer.train()', '')}\n{PPO}")["trainer"]
    records = records_of(trainer)
    assert records == [record for record in trainer.state.log_history if "objective/scores" in record]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    for record in records:
        assert record["reward_scoring/num_scores"] == 8
        assert record["reward_scoring/std"] > 0
        assert record["reward_scoring/mean"] == pytest.approx(record["objective/scores"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.trl112
@pytest.mark.skipif(not HAS_PPO, reason="PPO is in TRL up to 1.12; `make test` runs this on 1.12.0")
@pytest.mark.parametrize("example", ["tiny"], indirect=True)
def test_the_ppo_example_trains_on_answers_that_are_all_empty(example):
    """As an instruct policy's often are; with pad = EOS, TRL 1.12 fails in its second update."""

    def always_eos(module, args, logits):
        return logits + 1e4 * (torch.arange(logits.shape[-1]) == tokenizer.eos_token_id)

    before, train = PPO.split("trainer.train()")[0], "trainer.train()"
    variables = example(f"{GRPO.replace('trainer.train()', '')}\n{before}")
    tokenizer, policy = variables["tokenizer"], variables["models"][0]
    policy.lm_head.register_forward_hook(always_eos)
    variables = run(train, **variables)
    records = [record for record in variables["trainer"].state.log_history if "objective/scores" in record]
    assert len(records) == 4
    assert all(record["val/num_eos_tokens"] > 0 for record in records)


@pytest.mark.slow
def test_pairs_of_best_of_n_train_dpo_and_a_reward_model(here):
    tokenizer = build_tokenizer()
    policy = Qwen3ForCausalLM(build_model(tokenizer).config)
    scorer = RewardScorer("my-reward-model", truncation_mode="keep_end")
    sampler = BestOfNSampler(policy, tokenizer, scorer, n=16, generation_config={"max_new_tokens": 64})
    (result,) = sampler.sample(["Which country owns Antarctica?"], output="best.jsonl")
    assert len(result.completions) == len(result.scores) == 16
    assert result.scores[result.best] == max(result.scores)
    scores = scorer.score([result.prompt] * 16, result.completions, allow_empty=True)
    assert result.scores == pytest.approx(scores.tolist(), abs=1e-4)
    assert len((here / "best.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    (pair,) = to_preferences([result])
    assert pair["prompt"] == "Which country owns Antarctica?"
    by_score = sorted((score, text) for score, text in zip(result.scores, result.completions, strict=True) if text)
    assert (pair["rejected"], pair["chosen"]) == (by_score[0][1], by_score[-1][1])  # an empty one makes no pair

    rows, tokenizer = Dataset.from_list([pair]), scorer.processing_class
    fields = {"max_steps": 1, "logging_steps": 1, "bf16": False, "use_cpu": True, "save_strategy": "no"}
    policy.save_pretrained("my-policy")
    tokenizer.save_pretrained("my-policy")
    dpo = trl.DPOTrainer("my-policy", None, trl.DPOConfig("dpo", **fields), train_dataset=rows)
    dpo.train()
    assert dpo.state.log_history[0]["loss"] == pytest.approx(0.693147, abs=1e-4)  # policy and reference are equal
    margin = pair["score_chosen"] - pair["score_rejected"]
    reward = PairwiseRewardTrainer(scorer.model, PairwiseRewardConfig("rm", **fields), None, rows, None, tokenizer)
    reward.train()
    assert reward.state.log_history[0]["margin"] == pytest.approx(margin, abs=1e-3)


def test_commands_and_recipes_of_the_readme_exist(capsys):
    from rm_plugin.commands.cli import main

    commands = set(re.findall(r"^rm-plugin ([a-z-]+)", README, re.MULTILINE))
    assert commands == {"train", "evaluate", "score", "export"}
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n    {command} " in listed or f"\n    {command}\n" in listed for command in commands)
    assert all((ROOT / path).exists() for path in re.findall(r"recipes/[\w.-]+\.yaml", README))


def test_public_names_of_the_readme_exist():
    import rm_plugin

    for names in re.findall(r"from rm_plugin import ([\w, ]+)", README):
        for name in names.split(", "):
            assert name in dir(rm_plugin)
