"""RewardScoringCallback in the real trainers of TRL, on tiny policies; what it logs, writes and warns of."""

import copy
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from ppo_runs import needs_ppo
from training_runs import classifier, make_trainer, preference_rows
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from rm_plugin.data.templates import template_hash
from rm_plugin.loops.best_of_n import BestOfNSampler
from rm_plugin.loops.callbacks import EvaluationCallback, RewardScoringCallback, _unwrapped
from rm_plugin.loops.monitoring import HackingWatch, ScoreWindow, window_metrics
from rm_plugin.scoring.scorer import RewardScorer

try:
    from trl.experimental.ppo import PPOConfig, PPOTrainer
except ImportError:
    PPOTrainer = None

PROMPTS = ["2 + 2 =", "Which country owns Antarctica?", "Hello world, how are", "What is the answer"]
COMMON = {
    "max_steps": 2,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "disable_tqdm": True,
    "learning_rate": 1e-2,
}


def tiny_policy(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config("llama"))


@pytest.fixture
def scorer(tokenizer):
    return RewardScorer(tiny_reward_model(), tokenizer)


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory, tokenizer):  # RLOO reloads its policy from disk
    folder = tmp_path_factory.mktemp("policy")
    tiny_policy().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def trained(tmp_path, policy_folder, tokenizer):
    """`trained(reward, callbacks, **fields)`: a GRPOTrainer (or RLOOTrainer) of the tiny policy after its training."""

    def train(reward, callbacks, trainer_class=GRPOTrainer, eval_dataset=None, reward_tokenizer=None, **fields):
        config_class = {GRPOTrainer: GRPOConfig, RLOOTrainer: RLOOConfig}[trainer_class]
        fields = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 4, **fields}
        trainer = trainer_class(
            model=policy_folder,
            reward_funcs=reward,
            reward_processing_classes=reward_tokenizer,
            args=config_class(output_dir=str(tmp_path), **{**COMMON, **fields}),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        trainer.train()
        return trainer

    return train


def samples(output_dir, name="reward_scoring"):
    return [json.loads(line) for line in (output_dir / name / "samples.jsonl").read_text("utf-8").splitlines()]


# --- GRPO and RLOO


@pytest.mark.trl112
@pytest.mark.parametrize("trainer_class", [GRPOTrainer, RLOOTrainer])
def test_metrics_are_in_the_record_of_grpo_and_rloo(trainer_class, tmp_path, trained, scorer):
    heard = []
    scorer.listeners.append(lambda *texts, completion_ids: heard.append((*texts, completion_ids)))
    fields = {"per_device_train_batch_size": 8, "max_completion_length": 8, "temperature": 0.7}
    trainer = trained(scorer, [RewardScoringCallback(scorer)], trainer_class, **fields)
    records = [r for r in trainer.state.log_history if "reward_scoring/mean" in r]
    assert [r["step"] for r in records] == [1, 2]
    for record, (prompts, completions, scores, completion_ids) in zip(records, heard, strict=True):
        assert record["reward_scoring/num_scores"] == 8
        assert record["reward_scoring/mean"] == pytest.approx(float(np.mean(scores)), abs=1e-6)
        assert record["reward_scoring/mean"] == pytest.approx(record["reward"], abs=1e-5)  # TRL's own metrics
        assert record["reward_scoring/truncated_rate"] == pytest.approx(record["completions/clipped_ratio"])
        assert record["reward_scoring/zero_spread_rate"] == pytest.approx(record["frac_reward_zero_std"])
        window = ScoreWindow()
        window.add(prompts, completions, scores, list(map(len, completion_ids)))
        expected = window_metrics(window.rows)
        assert {k: record[f"reward_scoring/{k}"] for k in expected} == pytest.approx(expected, abs=1e-6)
    rows = samples(tmp_path)
    assert [row["kind"] for row in rows] == ["best", "worst", "random"] * 2
    assert rows[0]["score"] == pytest.approx(max(heard[0][2])) and rows[0]["prompt"] in PROMPTS
    assert len(scorer.listeners) == 1  # the callback listens no more


def test_scores_of_an_evaluation_are_logged_apart(trained, scorer):
    trainer = trained(
        scorer,
        [RewardScoringCallback(scorer)],
        eval_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS[:2]]),
        per_device_eval_batch_size=4,
        eval_strategy="steps",
        eval_steps=2,
    )
    train = [r["reward_scoring/num_scores"] for r in trainer.state.log_history if "reward_scoring/num_scores" in r]
    evaluations = [r for r in trainer.state.log_history if "eval_reward_scoring/mean" in r]
    assert train == [4, 4]
    assert [r["eval_reward_scoring/num_scores"] for r in evaluations] == [8]
    assert evaluations[0]["eval_reward_scoring/mean"] == pytest.approx(evaluations[0]["eval_reward"], abs=1e-5)


def test_metrics_reach_a_tracker_that_runs_before_the_callback(tmp_path, trained, scorer):
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        seen = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.seen.append(dict(logs))

    trained(scorer, [Tracker(), RewardScoringCallback(scorer, name="rm", num_samples=0)], max_steps=1)
    assert "rm/mean" in Tracker.seen[0]
    assert not (tmp_path / "rm").exists()


def test_a_reward_model_handed_to_grpo_as_it_is_is_heard(trained, tokenizer):
    reward_model = tiny_reward_model()
    trainer = trained(reward_model, [RewardScoringCallback(reward_model)], reward_tokenizer=tokenizer)
    records = [r for r in trainer.state.log_history if "reward" in r]
    assert [r["reward_scoring/mean"] for r in records] == pytest.approx([r["reward"] for r in records], abs=1e-5)
    assert "reward_scoring/zero_spread_rate" not in records[0]  # the model sees no groups


# --- two processes


def run_on_two_processes(folder, policy_folder):
    """Two steps of GRPO; each process writes the scores it heard, the first one the record too."""
    scorer, heard = RewardScorer(tiny_reward_model(), tiny_tokenizer("chatml")), []
    scorer.listeners.append(
        lambda prompts, completions, scores, completion_ids: heard.append(list(map(float, scores)))
    )
    trainer = GRPOTrainer(
        model=policy_folder,
        reward_funcs=scorer,
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=4,
            **{**COMMON, "use_cpu": "--use_cpu" in sys.argv},
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=tiny_tokenizer("chatml"),
        callbacks=[with_eval_prompts(scorer)],
    )
    trainer.train()
    found = {"heard": heard, "num_processes": trainer.accelerator.num_processes, "log": trainer.state.log_history}
    (folder / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(found), "utf-8")


@pytest.mark.slow
def test_metrics_and_samples_are_of_all_processes(tmp_path, policy_folder):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    done = subprocess.run(
        [*torchrun, "--rdzv_endpoint", "localhost:0", __file__, tmp_path, policy_folder, "--use_cpu"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    ranks = [json.loads((tmp_path / f"rank{i}.json").read_text("utf-8")) for i in range(2)]
    assert [rank["num_processes"] for rank in ranks] == [2, 2]
    records = [record for record in ranks[0]["log"] if "reward" in record]
    rows = samples(tmp_path)
    assert len(records) == 2
    for step, record in enumerate(records):
        own = [rank["heard"][step] for rank in ranks]
        both = np.array(own).ravel()
        assert len(both) == record["reward_scoring/num_scores"] == 8 and own[0] != own[1]
        assert record["reward_scoring/mean"] == pytest.approx(both.mean(), abs=1e-6)
        assert record["reward_scoring/mean"] == pytest.approx(record["reward"], abs=1e-5)  # TRL's own metrics
        assert record["reward_scoring/std"] == pytest.approx(both.std(ddof=1), abs=1e-6)
        assert record["reward_scoring/q95"] == pytest.approx(np.quantile(both, 0.95), abs=1e-6)
        kept = {row["kind"]: row["score"] for row in rows if row["step"] == step + 1}
        assert kept["best"] == pytest.approx(both.max()) and kept["worst"] == pytest.approx(both.min())
    start = json.loads((tmp_path / "reward_scoring/start.json").read_text("utf-8"))
    assert len(start) == len(PROMPTS)  # each process answered two of the four
    assert ranks[0]["log"][0]["reward_scoring/policy_mean"] == pytest.approx(np.mean(list(start.values())))


# --- SFT and DPO, which score nothing: eval_prompts


@pytest.mark.trl112
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_eval_prompts_follow_the_policy_in_sft_and_dpo(kind, tmp_path, policy_folder, tokenizer, scorer):
    prompts = [*PROMPTS, [{"role": "user", "content": "Hello"}]]
    callback = RewardScoringCallback(
        scorer, eval_prompts=prompts, eval_steps=2, generation_config={"max_new_tokens": 6}, num_samples=2
    )
    common = {"output_dir": str(tmp_path), "per_device_train_batch_size": 4, **COMMON, "max_steps": 3}
    if kind == "sft":
        rows = [{"text": f"{prompt} Penguins." * 2} for prompt in PROMPTS]
        args, trainer_class = SFTConfig(**common, max_length=64), SFTTrainer
    else:
        rows = [{"prompt": prompt, "chosen": " Penguins.", "rejected": " No."} for prompt in PROMPTS]
        args, trainer_class = DPOConfig(**common, max_length=64), DPOTrainer
    policy = AutoModelForCausalLM.from_pretrained(policy_folder)  # DPO reloads its reference model from there
    before = scorer_means(copy.deepcopy(policy), tokenizer, scorer, prompts)
    trainer = trainer_class(
        model=policy,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    records = [r for r in trainer.state.log_history if "reward_scoring/policy_mean" in r]
    assert [r["step"] for r in records] == [0, 2]
    assert records[0]["reward_scoring/policy_mean"] == pytest.approx(before, abs=1e-5)
    assert records[0]["reward_scoring/win_rate"] == 0.5  # the starting policy against itself
    assert records[1]["reward_scoring/policy_mean"] != records[0]["reward_scoring/policy_mean"]
    assert records[1]["reward_scoring/policy_low"] < records[1]["reward_scoring/policy_mean"]
    assert 0 <= records[1]["reward_scoring/win_rate_low"] <= records[1]["reward_scoring/win_rate"] <= 1
    assert "loss" in next(r for r in trainer.state.log_history if r["step"] == 1)  # TRL's own record is whole
    start = json.loads((tmp_path / "reward_scoring/start.json").read_text("utf-8"))
    assert len(start) == len(prompts) and np.mean(list(start.values())) == pytest.approx(before, abs=1e-5)
    assert {row["kind"] for row in samples(tmp_path)} == {"policy_best", "policy_worst", "policy_random"}


def scorer_means(policy, tokenizer, scorer, prompts):
    results = BestOfNSampler(policy, tokenizer, scorer, n=1, generation_config={"max_new_tokens": 6}).sample(prompts)
    return float(np.mean([result.scores[0] for result in results]))


def with_eval_prompts(scorer):
    return RewardScoringCallback(scorer, eval_prompts=PROMPTS, eval_steps=1, generation_config={"max_new_tokens": 4})


def test_training_is_the_same_with_and_without_eval_prompts(tmp_path, tokenizer, scorer):
    losses = []
    for callbacks in ([], [with_eval_prompts(scorer)]):
        trainer = SFTTrainer(
            model=tiny_policy(),
            args=SFTConfig(output_dir=str(tmp_path), per_device_train_batch_size=2, max_length=64, **COMMON),
            train_dataset=Dataset.from_list([{"text": f"{prompt} Penguins."} for prompt in PROMPTS]),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        trainer.train()
        losses.append([r["loss"] for r in trainer.state.log_history if "loss" in r])
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_tables_of_every_kind_are_bounded(tmp_path, tokenizer, scorer, monkeypatch):
    monkeypatch.setattr("rm_plugin.loops.callbacks.MAX_TABLES", 2)
    callback = with_eval_prompts(scorer)
    rows = Dataset.from_list([{"text": f"{prompt} Penguins."} for prompt in PROMPTS])
    trainer = SFTTrainer(
        model=tiny_policy(),
        args=SFTConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            max_length=64,
            eval_strategy="steps",
            eval_steps=1,
            **{**COMMON, "max_steps": 4},
        ),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        callbacks=[callback, ScoresAtEveryEvaluation(callback)],
    )
    trainer.train()
    assert sum("reward_scoring/policy_mean" in record for record in trainer.state.log_history) == 5
    steps = {
        kind: [row["step"] for row in samples(tmp_path) if row["kind"] == kind]
        for kind in ("policy_best", "eval_best")
    }
    assert steps == {"policy_best": [0, 2, 4], "eval_best": [1, 3]}


class ScoresAtEveryEvaluation(TrainerCallback):
    def __init__(self, callback):
        self.callback = callback

    def on_prediction_step(self, *args, **kwargs):
        self.callback(["p"], ["a"], [1.0])


def test_an_evaluation_leaves_the_training_records_as_they_are(tmp_path):
    records = []
    for every_steps in (None, 2):
        trainer = make_trainer(tmp_path, classifier(), preference_rows(16), max_steps=4, logging_steps=2)
        if every_steps is not None:
            evaluation = EvaluationCallback(trainer, "preference", preference_rows(4, seed=1), every_steps=every_steps)
            trainer.add_callback(evaluation)
        trainer.train()
        assert trainer.model.training
        records.append([record for record in trainer.state.log_history if "loss" in record])
        evaluations = [r["step"] for r in trainer.state.log_history if "eval_preference_score" in r]
        assert evaluations == ([] if every_steps is None else [2, 4])
    assert [record["step"] for record in records[0]] == [2, 4]
    assert {"loss", "grad_norm", "learning_rate", "accuracy", "num_tokens"} <= records[0][0].keys()
    assert records[1] == records[0]


def test_after_a_resumption_the_win_rate_is_still_against_the_first_policy(tmp_path, tokenizer, scorer):
    def run(steps, **kwargs):
        trainer = SFTTrainer(
            model=tiny_policy(),
            args=SFTConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=2,
                max_length=64,
                **{**COMMON, "max_steps": steps, "save_strategy": "steps"},
                save_steps=2,
            ),
            train_dataset=Dataset.from_list([{"text": f"{prompt} Penguins."} for prompt in PROMPTS * 2]),
            processing_class=tokenizer,
            callbacks=[
                RewardScoringCallback(
                    scorer, eval_prompts=PROMPTS, eval_steps=4, generation_config={"max_new_tokens": 4}
                )
            ],
        )
        trainer.train(**kwargs)
        return trainer, (tmp_path / "reward_scoring/start.json").read_text("utf-8")

    _, start = run(2)
    trainer, start_after = run(4, resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert start_after == start
    records = [r for r in trainer.state.log_history if "reward_scoring/win_rate" in r]
    assert [r["step"] for r in records] == [0, 2, 4]
    start_scores = list(json.loads(start).values())
    assert records[0]["reward_scoring/policy_mean"] == pytest.approx(np.mean(start_scores))


# --- PPO (TRL 1.12)


def run_ppo(output_dir, tokenizer, reward_model, callback, **fields):
    args = PPOConfig(
        output_dir=str(output_dir),
        total_episodes=16,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        local_rollout_forward_batch_size=4,
        num_ppo_epochs=1,
        response_length=6,
        stop_token="eos",
        gradient_checkpointing=False,
        **{**{k: v for k, v in COMMON.items() if k != "max_steps"}, "num_sample_generations": 0, **fields},
    )
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    rows = Dataset.from_list([{"input_ids": left(PROMPTS[i % 4])["input_ids"]} for i in range(8)])
    trainer = PPOTrainer(
        args,
        left,
        tiny_policy(),
        None,
        reward_model,
        rows,
        tiny_reward_model(seed=1),
        eval_dataset=rows,
        callbacks=[callback],
    )
    trainer.train()
    return trainer


@needs_ppo
@pytest.mark.trl112
def test_a_reward_model_handed_to_ppo_as_it_is_is_heard(tmp_path, tokenizer):
    reward_model = tiny_reward_model()
    hooks_before = [*reward_model.score._forward_hooks, *reward_model.model._forward_pre_hooks]
    trainer = run_ppo(tmp_path, tokenizer, reward_model, with_eval_prompts(reward_model))
    records = [r for r in trainer.state.log_history if "objective/scores" in r]
    assert len(records) == 2
    for record in records:
        assert record["reward_scoring/num_scores"] == 8
        assert record["reward_scoring/mean"] == pytest.approx(record["objective/scores"], abs=1e-5)
        assert 0 <= record["reward_scoring/truncated_rate"] <= 1
    evaluations = [r["step"] for r in trainer.state.log_history if "reward_scoring/policy_mean" in r]
    assert evaluations == [0, 1, 2]
    rows = [row for row in samples(tmp_path) if row["kind"] == "best"]
    assert rows[0]["prompt"] in PROMPTS  # token ids as text, the left padding gone
    assert [*reward_model.score._forward_hooks, *reward_model.model._forward_pre_hooks] == hooks_before


@needs_ppo
@pytest.mark.trl112
def test_a_reward_model_of_another_template_or_vocabulary_is_warned_of_in_ppo(tmp_path, tokenizer, caplog):
    reward_model = tiny_reward_model()
    reward_model.config.template_hash = template_hash(tiny_tokenizer("llama3"))
    with caplog.at_level(logging.WARNING, logger="rm_plugin"):
        run_ppo(tmp_path, tokenizer, reward_model, RewardScoringCallback(reward_model))
    warnings = [r.getMessage() for r in caplog.records if "another chat template" in r.getMessage()]
    assert len(warnings) == 1 and "rm_plugin.as_ppo_reward_model(RewardScorer(...), policy_tok" in warnings[0]


@needs_ppo
@pytest.mark.trl112
@pytest.mark.parametrize(("kind", "warned"), [("plain", False), ("pad_is_eos", True)])
def test_ppo_that_reads_the_token_before_eos_is_warned_of_before_it_begins(kind, warned, tmp_path, caplog):
    reward_model = tiny_reward_model()
    with caplog.at_level(logging.WARNING, logger="rm_plugin"):
        run_ppo(tmp_path, tiny_tokenizer(kind), reward_model, RewardScoringCallback(reward_model))
    warnings = [r.getMessage() for r in caplog.records if "reads rewards at the token before" in r.getMessage()]
    assert len(warnings) == warned
    assert all("as_ppo_reward_model(RewardScorer(...), policy_tokenizer, rows)" in warning for warning in warnings)


def test_a_callback_outside_of_a_trainers_events_asks_for_one(scorer):
    with pytest.raises(ValueError, match="no trainer calls this callback; give it one: trainer="):
        RewardScoringCallback(scorer).on_train_begin(None, None, None)


def test_callbacks_in_a_trainers_list_find_it_and_take_the_one_they_are_given(tmp_path, tokenizer, scorer):
    evaluation = EvaluationCallback(benchmark="preference", source=preference_rows(4, seed=1), every_steps=1)
    trainer = make_trainer(tmp_path, classifier("llama"), preference_rows(8), callbacks=[evaluation], max_steps=1)
    other = SFTTrainer(
        model=tiny_policy(),
        args=SFTConfig(output_dir=str(tmp_path), **COMMON),
        train_dataset=Dataset.from_list([{"text": "Penguins."}]),
        processing_class=tokenizer,
    )
    given = RewardScoringCallback(scorer, trainer=other)
    trainer.add_callback(given)
    trainer.train()
    assert evaluation.trainer is trainer and evaluation.last_report is not None
    assert given.trainer is other


@needs_ppo
@pytest.mark.trl112
def test_the_module_of_as_ppo_reward_model_is_heard_with_weights_and_clipping(tmp_path, tokenizer):
    from rm_plugin.loops.ppo import as_ppo_reward_model

    scorers = [RewardScorer(tiny_reward_model(seed=seed), tokenizer) for seed in (0, 2)]
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    module = as_ppo_reward_model(scorers, left, PROMPTS, reward_weights=[1.0, -0.5], reward_clip=0.5)
    trainer = run_ppo(tmp_path, tokenizer, module, with_eval_prompts(module), num_sample_generations=1)
    records = [r for r in trainer.state.log_history if "objective/scores" in r]
    for record in records:
        assert (
            record["reward_scoring/num_scores"] == 8
        )  # the samples that PPO draws from its evaluation set do not count
        assert record["reward_scoring/mean"] == pytest.approx(record["objective/scores"], abs=1e-5)
        assert record["reward_scoring/q95"] <= 0.5
    assert not scorers[0].listeners


# --- best-of-n, tables, bad input


def test_what_ppo_stops_at_is_an_end(scorer, tokenizer):
    callback = RewardScoringCallback(scorer)
    callback.trainer = SimpleNamespace(
        processing_class=tokenizer, args=SimpleNamespace(stop_token_id=7), model=SimpleNamespace(training=True)
    )
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[5, 7, pad, pad, pad], [5, 6, 8, 9, 9], [5, end, 6, 9, end]])  # the last called a tool
    callback(None, ["a", "b", "c"], [0.0, 1.0, 2.0], completion_ids=ids)
    rows = callback._windows["train"].rows
    assert window_metrics(rows)["truncated_rate"] == pytest.approx(1 / 3) and rows[:, 1].tolist() == [2, 5, 5]


def test_best_of_n_feeds_the_callback(tmp_path, tokenizer, scorer):
    callback = RewardScoringCallback(scorer, output_dir=tmp_path)
    sampler = BestOfNSampler(
        tiny_policy(), tokenizer, scorer, n=4, generation_config={"max_new_tokens": 6}, callbacks=[callback]
    )
    results = sampler.sample(PROMPTS)
    found = json.loads((tmp_path / "reward_scoring/metrics.jsonl").read_text("utf-8"))
    scores = [score for result in results for score in result.scores]
    assert found["num_scores"] == 16 and found["mean"] == pytest.approx(np.mean(scores))
    assert found["truncated_rate"] == np.mean([cut for result in results for cut in result.truncated])
    best = next(row for row in samples(tmp_path) if row["kind"] == "best")
    assert best["score"] == pytest.approx(max(scores))
    assert callback.flush() == {}


def test_a_hacked_reward_is_warned_of_in_a_run(trained, scorer, caplog, monkeypatch):
    monkeypatch.setattr(HackingWatch, "MIN_SCORES", 8)
    callback = RewardScoringCallback(scorer)
    steps = iter(range(10))

    def longer_is_better(prompts, completions, completion_ids, **kwargs):
        scores = [len(ids) + 10.0 * step for step in [next(steps)] for ids in completion_ids]
        callback(prompts, completions, scores, completion_ids=completion_ids)
        return scores

    fields = {"per_device_train_batch_size": 16, "num_generations": 16, "max_completion_length": 60, "beta": 0.1}
    with caplog.at_level(logging.WARNING, logger="rm_plugin"):
        trained(longer_is_better, [callback], max_steps=3, **fields)
    warnings = [record.message for record in caplog.records if "hacked" in record.message]
    assert len(warnings) == 1 and "length correlation 1.00" in warnings[0] and "KL to the reference" in warnings[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_prompts": []}, "eval_prompts is empty"),
        ({"eval_steps": 0}, "eval_steps=0, it must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message, scorer):
    with pytest.raises(ValueError, match=message):
        RewardScoringCallback(scorer, **arguments)


def test_a_reward_that_cannot_be_heard_is_refused():
    with pytest.raises(ValueError, match="a function cannot be listened to; give the RewardScorer"):
        RewardScoringCallback(lambda prompts, completions: [0.0])


def test_two_callbacks_of_one_name_are_refused(tmp_path, tokenizer, scorer):
    trainer = SFTTrainer(
        model=tiny_policy(),
        args=SFTConfig(output_dir=str(tmp_path), **COMMON),
        train_dataset=Dataset.from_list([{"text": "Penguins."}]),
        processing_class=tokenizer,
        callbacks=[RewardScoringCallback(scorer), RewardScoringCallback(scorer)],
    )
    with pytest.raises(ValueError, match="two callbacks have the name 'reward_scoring'"):
        trainer.train()


def test_a_conversation_for_a_policy_without_a_chat_template_is_refused_before_training(tmp_path, scorer):
    trainer = SFTTrainer(
        model=tiny_policy(),
        args=SFTConfig(output_dir=str(tmp_path), **COMMON),
        train_dataset=Dataset.from_list([{"text": "Penguins."}]),
        processing_class=tiny_tokenizer("plain"),
        callbacks=[RewardScoringCallback(scorer, eval_prompts=[[{"role": "user", "content": "Hi"}]])],
    )
    with pytest.raises(ValueError, match="has no chat template"):
        trainer.train()


if __name__ == "__main__":  # torchrun, for the test of two processes
    run_on_two_processes(Path(sys.argv[1]), sys.argv[2])
    torch.distributed.destroy_process_group()  # a process that ends with it open may abort


@pytest.mark.parametrize("stage", [2, 3, None])
def test_of_a_sharded_policy_its_wrapper_is_gathered_to_generate(stage, monkeypatch):
    monkeypatch.setattr("trl.models.unwrap_model_for_generation", lambda model, accelerator: f"{model} gathered")
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(deepspeed_plugin=plugin), unwrap_model=lambda model: f"{model} unwrapped"
    )
    trainer = SimpleNamespace(model_wrapped="engine", model="policy", accelerator=accelerator)
    if stage == 3:
        assert _unwrapped(trainer) == "engine gathered"
        return
    assert _unwrapped(trainer).enter_result == "engine unwrapped"
    del trainer.model_wrapped  # as TRL's PPOTrainer has none
    assert _unwrapped(trainer).enter_result == "policy unwrapped"
