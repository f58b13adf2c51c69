"""Bare TRL, where README says that this package differs: every test fails there, or its row and our lines can go."""

import contextlib
import logging
import os
import shutil
import time

import pytest
import torch
import trl
from datasets import Dataset
from models import tiny_config, tiny_tokenizer
from peft import AutoPeftModelForSequenceClassification, LoraConfig
from safetensors.torch import load_file
from training_runs import classifier, make_trainer, preference_rows
from transformers import AutoModel, AutoModelForSequenceClassification, BitsAndBytesConfig, TrainerCallback
from upstream_faults import must_work, until_fixed

LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


def trl_trainer(folder, rows=None, model=None, **options):
    return make_trainer(folder, model or classifier(), rows or preference_rows(8), cls=trl.RewardTrainer, **options)


def head(model):
    """The parameters of the head, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if "score" in name}


@until_fixed("RewardTrainer pads its batches and repeats the prompt", "model: pack")
def test_a_batch_of_pairs_holds_each_prompt_once_and_no_padding(tmp_path):
    prompt = "Which country owns Antarctica? " * 8
    rows = [{"prompt": prompt, "chosen": "None.", "rejected": "The penguins, all of them, for ever and ever."}]
    trainer = trl_trainer(tmp_path, rows)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    row = trainer.train_dataset[0]
    assert batch["input_ids"].numel() < len(row["chosen_ids"]) + len(row["rejected_ids"])


@until_fixed("LoraConfig() leaves the head frozen at its random start", "training: reward_peft_config")
def test_the_head_is_trained_and_saved_under_any_lora_config(tmp_path):
    trainer = trl_trainer(tmp_path, peft_config=LoraConfig(**LORA))
    trained = any(parameter.requires_grad for parameter in head(trainer.model).values())
    trainer.save_model(tmp_path / "saved")
    saved = any("score" in name for name in load_file(tmp_path / "saved" / "adapter_model.safetensors"))
    assert trained and saved


@until_fixed("task_type='CAUSAL_LM', the default of TRL's own command line, crashes", "training: SEQ_CLS")
def test_a_lora_config_for_causal_models_trains(tmp_path):
    with must_work():
        trl_trainer(tmp_path, peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA), max_steps=1).train()


@until_fixed("an adapter of one label is loaded with two", "model: num_labels=1")
def test_an_adapter_folder_says_that_it_has_one_label(tmp_path):
    AutoModel.from_config(tiny_config()).save_pretrained(tmp_path / "base")  # a base model has no labels
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    trainer = trl_trainer(tmp_path, model=model, peft_config=LoraConfig(task_type="SEQ_CLS", **LORA))
    trainer.save_model(tmp_path / "adapter")
    with must_work():
        loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    assert loaded.config.num_labels == 1


@until_fixed("under QLoRA every trained tensor becomes bf16, the head included", "training: TrainedValues")
def test_the_head_stays_float32_under_qlora(tmp_path):
    classifier().save_pretrained(tmp_path / "base")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["score"])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", quantization_config=nf4)
    trainer = trl_trainer(tmp_path, model=model, peft_config=LoraConfig(task_type="SEQ_CLS", **LORA))
    assert {p.dtype for p in head(trainer.model).values() if p.requires_grad} == {torch.float32}


def evaluated(folder, batch_size, model=None):
    rows = Dataset.from_list(preference_rows(5))
    return trl_trainer(folder, rows, model, eval_dataset=rows, per_device_eval_batch_size=batch_size).evaluate()


@until_fixed("the accuracy of an evaluation is a mean of the means of its batches", "training: evaluation_loop")
def test_accuracy_does_not_depend_on_the_batch_size(tmp_path):
    one, four = (evaluated(tmp_path, size)["eval_accuracy"] for size in (1, 4))
    assert four == pytest.approx(one)


@until_fixed("equal scores count as wrong", "metrics: pairwise_correctness")
def test_a_tie_counts_one_half(tmp_path):
    model = classifier()
    torch.nn.init.zeros_(model.score.weight)
    assert evaluated(tmp_path, 1, model)["eval_accuracy"] == 0.5


@until_fixed("without a pad token EOS becomes it, and is never pooled", "data: ensure_pad_token")
def test_eos_is_scored_by_a_model_whose_tokenizer_has_no_pad(tmp_path):
    tokenizer, model = tiny_tokenizer("plain"), classifier(pad_token_id=None)
    tokenizer.pad_token = None
    trainer = trl_trainer(tmp_path, model=model, tokenizer=tokenizer)
    ids = torch.tensor([trainer.train_dataset[0]["chosen_ids"]])
    assert ids[0, -1] == tokenizer.eos_token_id
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[:, -1]
        assert torch.allclose(model(ids).logits, model.score(hidden))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2 =", "completions": [" 4", " four", " 5"], "ranks": [0, 0, 1]},
        {"prompt": "2 + 2 =", "chosen": [" 4", " four"], "rejected": [" 5"]},
    ],
    ids=["ranks", "several chosen"],
)
@until_fixed("a row is one pair", "training: comparison_loss")
def test_rows_with_several_completions_train(tmp_path, row):
    with must_work():
        trl_trainer(tmp_path, [row] * 8, max_steps=1).train()


@until_fixed("rows over max_length go without a word, in evaluation too", "training: _data_counts")
def test_what_the_length_limit_drops_is_said(tmp_path, caplog):
    rows = Dataset.from_list(preference_rows(8))
    with caplog.at_level(logging.INFO):
        trainer = trl_trainer(tmp_path, rows, eval_dataset=rows, max_length=24)
    assert len(trainer.eval_dataset) < len(rows)
    assert any("max_length" in record.getMessage() for record in caplog.records)


@until_fixed("batches by length have no lengths: the columns are stripped before", "training: length_column_name")
def test_batches_can_be_sampled_by_length(tmp_path):
    with must_work():
        trl_trainer(tmp_path, max_steps=1, train_sampling_strategy="group_by_length").train()


@until_fixed("dropout that a decoder keeps as a number stays on", "training: disable_attention_dropout")
def test_disable_dropout_reaches_attention(tmp_path):
    trainer = trl_trainer(tmp_path, model=classifier(attention_dropout=0.5))
    assert trainer.args.disable_dropout
    assert {m.attention_dropout for m in trainer.model.modules() if hasattr(m, "attention_dropout")} == {0.0}


@until_fixed("a checkpoint of the last step is trained one step further", "training: _run_epoch")
def test_a_finished_run_is_not_trained_further(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trl_trainer(tmp_path, **saving).train()
    resumed = trl_trainer(tmp_path, **saving)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 1


SAVING = {"save_strategy": "steps", "save_steps": 1}


@until_fixed("`predict` takes rows that are encoded already, `evaluate` takes any", "training: def predict")
def test_prediction_takes_the_rows_that_training_takes(tmp_path):
    with must_work():
        trl_trainer(tmp_path).predict(Dataset.from_list(preference_rows(4)))


def whether_weights_are_back(folder, load):
    """Whether a checkpoint of an architecture whose saved names differ from the model's gives back its weights."""
    saved, other = (trl_trainer(folder, model=classifier("qwen3_moe"), max_steps=1, **SAVING) for _ in range(2))
    saved.train()
    other.state.best_model_checkpoint = str(folder / "checkpoint-1")
    load(other)
    trained = saved.model.state_dict()
    return all(torch.equal(weight, trained[name]) for name, weight in other.model.state_dict().items())


@until_fixed("a checkpoint's names are taken for the model's", "training: def _load_from_checkpoint")
def test_a_checkpoint_of_experts_gives_back_its_weights(tmp_path):
    assert whether_weights_are_back(tmp_path, lambda trainer: trainer._load_from_checkpoint(tmp_path / "checkpoint-1"))


@until_fixed("a checkpoint's names are taken for the model's", "training: def _load_best_model")
def test_the_best_checkpoint_of_experts_gives_back_its_weights(tmp_path):
    assert whether_weights_are_back(tmp_path, lambda trainer: trainer._load_best_model())


@until_fixed("a checkpoint without its optimizer is resumed from, without a word", "training: why_incomplete")
def test_a_checkpoint_that_lacks_its_optimizer_is_not_resumed_from(tmp_path):
    trl_trainer(tmp_path, max_steps=1, **SAVING).train()
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    resumed = trl_trainer(tmp_path, max_steps=2, **SAVING)
    with contextlib.suppress(ValueError):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step < 2


@until_fixed("a run resumes with any learning rate, without a word", "training: training_settings")
def test_a_run_does_not_resume_with_another_learning_rate(tmp_path):
    trl_trainer(tmp_path, max_steps=1, **SAVING).train()
    resumed = trl_trainer(tmp_path, max_steps=2, learning_rate=7e-4, **SAVING)
    with contextlib.suppress(ValueError):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step < 2


@until_fixed("the state is written while the rest of a checkpoint may not be on the disk", "training: _save_rng_state")
def test_what_a_checkpoint_holds_is_on_the_disk_before_its_state_says_so(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor))
    trl_trainer(tmp_path, max_steps=1, **SAVING).train()
    assert synced


@until_fixed("checkpoints rotate by modification time", "training: delete_old_checkpoints")
def test_the_newest_checkpoint_is_kept_when_the_clock_is_turned_back(tmp_path):
    class ClockJump(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            then = time.time() - 1000 * state.global_step
            os.utime(tmp_path / f"checkpoint-{state.global_step}", (then, then))

    trl_trainer(tmp_path, max_steps=4, save_total_limit=2, callbacks=[ClockJump()], **SAVING).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


@until_fixed("a run that has diverged is saved, its loss logged as 0", "training: _maybe_log_save_evaluate")
def test_a_run_that_has_diverged_is_not_saved(tmp_path):
    trainer = trl_trainer(tmp_path, max_steps=1, **SAVING)
    trainer.model.score.weight.data.fill_(float("nan"))
    with contextlib.suppress(ValueError):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


@until_fixed("train_loss and num_tokens begin anew after a resume", "training: _total_loss")
def test_sums_continue_after_a_resume(tmp_path):
    whole = trl_trainer(tmp_path, max_steps=2, **SAVING)
    loss = whole.train().training_loss
    shutil.rmtree(tmp_path / "checkpoint-2")
    resumed = trl_trainer(tmp_path, max_steps=2, **SAVING)
    assert resumed.train(resume_from_checkpoint=True).training_loss == pytest.approx(loss)
    tokens = [
        [log["num_tokens"] for log in trainer.state.log_history if "num_tokens" in log] for trainer in (whole, resumed)
    ]
    assert tokens[0] == tokens[1]
