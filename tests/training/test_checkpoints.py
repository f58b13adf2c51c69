"""A killed run that is resumed ends with the weights, to the last bit, of one that was never broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_runs
from training_runs import KILLED, classifier, history, make_trainer, preference_rows, trained_weights

from rm_plugin.training.checkpoints import newest_complete_checkpoint
from rm_plugin.training.peft_configs import lora_config


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Every run of `KILLED`, all by one program, because its imports take longest."""
    folder = tmp_path_factory.mktemp("killed")
    program = Path(training_runs.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, program, "killed", folder], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_killed_and_resumed_run_has_the_weights_of_an_unbroken_one(name, killed):
    codes = json.loads((killed / "results.json").read_text())
    assert [codes[f"{name} {how}"] for how in ("unbroken", "killed", "resumed")] == [0, -9, 0]
    folder = killed / name
    resumed, unbroken = (json.loads((folder / f"{how}.json").read_text()) for how in ("resumed", "unbroken"))
    assert resumed["from"] == str(folder / "broken" / "checkpoint-4")
    assert resumed["loss"] == unbroken["loss"]
    expected = torch.load(folder / "unbroken.pt")
    for key, weight in torch.load(folder / "resumed.pt").items():
        assert torch.equal(weight, expected[key]), key


def test_a_checkpoint_counts_only_when_it_is_whole(tmp_path, caplog):
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), max_steps=3, save_strategy="steps", save_steps=1)
    trainer.train()
    assert newest_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-3" / "scheduler.pt").write_bytes(b"PK")
    assert newest_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert "checkpoint-9 is not complete" in caplog.text
    weights = tmp_path / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert newest_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    assert newest_complete_checkpoint(tmp_path / "nothing") is None


def test_resuming_without_a_checkpoint_starts_from_the_beginning(tmp_path, caplog):
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), max_steps=1)
    trainer.train(resume_from_checkpoint=True)
    assert len(history(trainer)) == 1
    assert "no complete checkpoint" in caplog.text


def test_a_run_that_had_ended_is_not_trained_on_by_resuming(tmp_path):
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    first, again = (make_trainer(tmp_path, classifier(), preference_rows(), **options) for _ in range(2))
    first.train()
    assert again.train(resume_from_checkpoint=True).global_step == 3
    expected = trained_weights(first)
    assert all(torch.equal(weight, expected[name]) for name, weight in trained_weights(again).items())


@pytest.mark.trl112
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_the_best_checkpoint_is_loaded_at_the_end(lora, tmp_path):
    options = {"peft_config": lora_config(r=4)} if lora else {}
    trainer = make_trainer(
        tmp_path,
        classifier("llama" if lora else "gpt2"),  # gpt2 calls its backbone "transformer"
        preference_rows(),
        eval_dataset=make_trainer(tmp_path, classifier(), preference_rows(12, seed=1)).train_dataset,
        max_steps=3,
        learning_rate=0.05,  # so that it gets worse
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_mean_reward",
        greater_is_better=False,
        **options,
    )
    trainer.train()
    rewards = history(trainer, "eval_mean_reward")
    best = min(range(3), key=lambda i: rewards[i])
    assert trainer.state.best_global_step == best + 1
    assert trainer.reward_model.config.reward_mean == pytest.approx(rewards[best])
    assert trainer.evaluate()["eval_mean_reward"] == pytest.approx(rewards[best], abs=1e-6)
    assert trained_weights(trainer)  # it can be trained on
