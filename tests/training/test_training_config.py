"""The config of a training run: TRL's fields, their defaults here, and what is refused."""

import dataclasses
import math

import pytest
import trl
from datasets import Dataset
from models import tiny_tokenizer
from training_runs import classifier, make_trainer, preference_rows

from rm_plugin.training.config import PairwiseRewardConfig
from rm_plugin.training.peft_configs import lora_config
from rm_plugin.training.trainer import PairwiseRewardTrainer


@pytest.mark.trl112
def test_learning_rate_is_1e_4_for_lora_and_5e_6_for_full_training_and_the_log_says_so(tmp_path, caplog):
    args = {"learning_rate": None, "max_steps": 1}
    full = make_trainer(tmp_path, classifier(), preference_rows(8), **args)
    lora = make_trainer(tmp_path, classifier(), preference_rows(8), peft_config=lora_config(r=2), **args)
    given = make_trainer(tmp_path, classifier(), preference_rows(8), learning_rate=3e-5, max_steps=1)
    assert (full.args.learning_rate, lora.args.learning_rate, given.args.learning_rate) == (5e-6, 1e-4, 3e-5)
    said = [record.getMessage() for record in caplog.records if "learning_rate" in record.getMessage()]
    assert said == [
        "learning_rate is unset: 5e-06 for full training",
        "learning_rate is unset: 0.0001 for LoRA training",
    ]


def test_one_config_serves_two_trainers(tmp_path):
    args = PairwiseRewardConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    rows, tokenizer = Dataset.from_list(preference_rows(8)), tiny_tokenizer("plain")
    lora = PairwiseRewardTrainer(
        classifier(), args, train_dataset=rows, processing_class=tokenizer, peft_config=lora_config(r=2)
    )
    full = PairwiseRewardTrainer(classifier(), args, train_dataset=rows, processing_class=tokenizer)
    assert (lora.args.learning_rate, full.args.learning_rate, args.learning_rate) == (1e-4, 5e-6, None)


@pytest.mark.trl112
def test_takes_the_config_of_trl(tmp_path):
    args = trl.RewardConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=1, max_length=99)
    trainer = PairwiseRewardTrainer(
        classifier(),
        args,
        train_dataset=Dataset.from_list(preference_rows(8)),
        processing_class=tiny_tokenizer("plain"),
    )
    assert (trainer.args.max_length, trainer.args.learning_rate, trainer.args.truncation_mode) == (99, 1e-4, "drop")
    trainer.train()
    trainer.save_model(tmp_path / "saved")


def test_the_config_has_all_fields_of_trl_at_their_positions_and_helps_with_its_own():
    ours = {f.name: f for f in dataclasses.fields(PairwiseRewardConfig)}
    theirs = [f.name for f in dataclasses.fields(trl.RewardConfig)]
    assert list(ours)[: len(theirs)] == theirs
    assert all(ours[name].metadata["help"] for name in ours if name not in theirs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "max_grad_norm", "center_rewards_coefficient"])
def test_float_fields_are_finite(field, value, tmp_path):
    with pytest.raises(ValueError, match=f"{field} is {value}; it is a finite number"):
        PairwiseRewardConfig(str(tmp_path), use_cpu=True, bf16=False, **{field: value})
