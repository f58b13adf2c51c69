"""PairwiseRewardTrainer: TRL's losses and gradients, exact evaluation, heads that are kept, data that is counted.

Runs of several processes and killed runs are in test_distributed.py and test_checkpoints.py.
"""

import copy
import json
import math
import pickle
import re
import sys
import types
from pathlib import Path

import bitsandbytes
import numpy as np
import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from models import CHATML, tiny_config, tiny_reward_model, tiny_tokenizer
from peft import LoraConfig
from training_runs import (
    SMALL_WEIGHTS,
    classifier,
    history,
    make_trainer,
    preference_rows,
    ranked_rows,
    trained_weights,
)
from transformers import AutoModelForCausalLM, TrainerCallback

from rm_plugin import RewardModel, RewardScorer
from rm_plugin.data.sources import load_rows
from rm_plugin.model.adapters import load_peft_model, nf4_config
from rm_plugin.training.batches import RowEncoder, encode_dataset
from rm_plugin.training.peft_configs import lora_config
from rm_plugin.training.trainer import PairwiseRewardTrainer, pairwise_metrics


def batch_of(trainer, n: int = 6) -> dict:
    (microbatch,) = trainer.data_collator([trainer.train_dataset[i] for i in range(n)])["microbatches"]
    return microbatch


# --- parity with TRL

PARITY = {
    "full": {},
    "LoRA": {"lora": True},
    "full, margin, centering": {"margin": True, "center_rewards_coefficient": 0.1},
    "LoRA, margin, accumulation": {"lora": True, "margin": True, "gradient_accumulation_steps": 3, "max_steps": 8},
    "full, accumulation, checkpointing": {
        "gradient_accumulation_steps": 3,
        "gradient_checkpointing": True,
        "max_steps": 8,
    },
    "LoRA, centering, checkpointing": {
        "lora": True,
        "center_rewards_coefficient": 0.1,
        "gradient_checkpointing": True,
        "max_steps": 8,
    },
}


@pytest.mark.trl112
@pytest.mark.parametrize("case", PARITY)
def test_follows_the_loss_trajectory_of_trl(case, tmp_path):
    options = dict(PARITY[case])
    columns = {"margin": lambda draw: draw.uniform(0, 2)} if options.pop("margin", False) else {}
    rows = preference_rows(100, **columns)
    if options.pop("lora", False):
        options["peft_config"] = LoraConfig(r=4, task_type="SEQ_CLS", target_modules="all-linear")
    theirs = make_trainer(tmp_path, classifier(), rows, cls=trl.RewardTrainer, **copy.deepcopy(options))
    ours = make_trainer(tmp_path, classifier(), rows, **options)
    assert ours.data_collator.form == "packed"
    for trainer in (theirs, ours):
        trainer.train()
    assert len(history(ours)) == options.get("max_steps", 20)
    assert history(ours) == pytest.approx(history(theirs), abs=1e-4)
    assert history(ours, "grad_norm") == pytest.approx(history(theirs, "grad_norm"), rel=1e-3, abs=1e-4)
    for name in ("accuracy", "margin", "mean_reward", "num_tokens"):
        assert history(ours, name) == pytest.approx(history(theirs, name), abs=1e-3), name
    evaluated = [trainer.evaluate(Dataset.from_list(preference_rows(16, seed=1))) for trainer in (theirs, ours)]
    for name in ("eval_loss", "eval_accuracy", "eval_margin", "eval_mean_reward"):
        assert evaluated[1][name] == pytest.approx(evaluated[0][name], abs=1e-4), name


# --- micro-batches


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_micro_batches_have_the_gradients_of_the_whole_batch(lora, tmp_path):
    options = {"max_steps": 6, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    options |= {"peft_config": lora_config(r=4)} if lora else {}
    whole = make_trainer(tmp_path, classifier(), preference_rows(100), **options)
    parts = make_trainer(tmp_path, classifier(), preference_rows(100), max_tokens_per_microbatch=60, **options)
    batch = [parts.train_dataset[i] for i in range(8)]
    assert len(whole.data_collator(batch)["microbatches"]) == 1
    assert len(parts.data_collator(batch)["microbatches"]) > 3
    for trainer in (whole, parts):
        trainer.train()
    assert history(parts) == pytest.approx(history(whole), abs=1e-6)
    assert history(parts, "grad_norm") == pytest.approx(history(whole, "grad_norm"), rel=1e-5)
    expected = trained_weights(whole)
    for name, weight in trained_weights(parts).items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=0, msg=name)
    assert parts.evaluate(whole.train_dataset)["eval_loss"] == pytest.approx(
        whole.evaluate(whole.train_dataset)["eval_loss"], abs=1e-6
    )


# --- LoRA and NF4


def nf4_trainer(folder, base_folder, compute_dtype=torch.float32, **options):
    return make_trainer(
        folder,
        base_folder,
        preference_rows(),
        quantization_config=nf4_config(compute_dtype),
        peft_config=lora_config(r=4),
        **{"max_steps": 2, "learning_rate": 1e-5, **options},
    )


def gradients(trainer) -> dict[str, torch.Tensor]:
    """Of the first eight rows, without taking a step."""
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])["microbatches"][0]
    trainer.compute_loss(trainer.model, batch).backward()
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.model.zero_grad()
    return found


@pytest.mark.trl112
def test_nf4_keeps_adapters_and_head_in_float32(base_folder, tmp_path):
    trainer = nf4_trainer(tmp_path, base_folder, bf16=True, gradient_checkpointing=True)  # the defaults
    assert trainer.reward_model.is_loaded_in_4bit
    weights = trained_weights(trainer)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    (head,) = [weight for name, weight in weights.items() if "score" in name]
    assert not torch.equal(head, head.bfloat16().float())  # its start was not rounded either
    trainer.train()
    after = trained_weights(trainer)
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    (trained,) = [weight for name, weight in after.items() if "score" in name]
    step = (trained - head).abs()  # Adam: two steps, of 1e-5 and of half that; a bf16 head would not have moved
    assert 0.9e-5 < step.mean() < 1.5e-5
    assert (step > 0).all()

    trainer.save_model(tmp_path / "saved")
    again = make_trainer(tmp_path, str(tmp_path / "saved"), preference_rows())  # quantised as recorded, trained on
    assert again.reward_model.is_loaded_in_4bit
    assert trained_weights(again).keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in trained_weights(again).items())


@pytest.mark.parametrize(
    ("compute_dtype", "bound"),
    [(torch.float32, 1e-6), (torch.bfloat16, 0.05)],  # measured: 0 and 0.020, for the worst weight
    ids=["float32", "bfloat16"],
)
def test_nf4_gradients_outlast_an_evaluation_and_are_those_of_dequantised_weights(
    compute_dtype, bound, base_folder, tmp_path
):
    trainer = nf4_trainer(tmp_path, base_folder, compute_dtype)
    for name, parameter in trainer.model.named_parameters():  # B starts at 0, which would leave A without gradients
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    before = gradients(trainer)
    trainer.evaluate(Dataset.from_list(preference_rows(8, seed=1)))
    after = gradients(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before)

    for module in list(trainer.reward_model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(child.weight.data, child.weight.quant_state)
                plain = torch.nn.Linear(child.in_features, child.out_features, bias=False)
                plain.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
                setattr(module, name, plain)
    for name, expected in gradients(trainer).items():
        assert (before[name] - expected).norm() / expected.norm() < bound, name


# --- models and learning rates


def test_padded_batches_follow_packed_ones(tmp_path, caplog):
    packed, padded = (
        make_trainer(tmp_path, classifier(), preference_rows(), shared_prefix=mode, max_steps=6)
        for mode in ("auto", "off")
    )
    for trainer in (packed, padded):
        trainer.train()
    assert "shared_prefix_layout" in batch_of(packed)["model"]
    assert "shared_prefix_layout" not in batch_of(padded)["model"]
    assert history(padded) == pytest.approx(history(packed), abs=1e-5)

    mamba = make_trainer(tmp_path, tiny_reward_model("mamba"), preference_rows(), max_steps=2)
    assert "shared-prefix computation is off, batches are padded" in caplog.text
    mamba.train()
    assert "shared_prefix_layout" not in batch_of(mamba)["model"]


def test_samplers_by_length_see_the_tokens_of_a_row(tmp_path):
    trainer = make_trainer(
        tmp_path, classifier(), preference_rows(), train_sampling_strategy="group_by_length", length_column_name="size"
    )
    lengths = trainer._get_train_sampler().lengths
    texts = trainer.train_dataset["input_ids"][:], trainer.train_dataset["prefix_length"][:]
    assert lengths == [sum(map(len, ids)) - prefix for ids, prefix in zip(*texts, strict=True)]


def test_liger_kernels_are_offered_the_backbone_whose_type_they_know(tmp_path, monkeypatch):
    offered = []
    kernels = types.ModuleType("liger_kernel.transformers")
    kernels._apply_liger_kernel_to_instance = lambda model, **options: offered.append(
        (model.config.model_type, options)
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", kernels)
    monkeypatch.setattr("transformers.integrations.liger.is_liger_kernel_available", lambda: True)
    options = {"use_liger_kernel": True, "liger_kernel_config": {"rope": False}}
    make_trainer(tmp_path, classifier(), preference_rows(8), peft_config=lora_config(r=2), **options)
    # With that loss Liger gives the backbone the forward of a causal language model, which it is not.
    assert offered[-1] == ("llama", {"rope": False, "fused_linear_cross_entropy": False})


# --- evaluation


def score_lists(trainer, rows) -> list[np.ndarray]:
    """Scores of each row's completions, one text at a time."""

    def score(text):
        ids = torch.tensor([trainer.processing_class(text + "</s>")["input_ids"]])
        with torch.no_grad():
            return trainer.reward_model.eval()(ids).logits.item()

    return [np.array([score(row["prompt"] + text) for text in row["completions"]]) for row in rows]


def hand_scores(trainer, rows) -> np.ndarray:
    """(len(rows), 2): chosen and rejected of each row, one text at a time."""
    return np.array(score_lists(trainer, [{**row, "completions": [row["chosen"], row["rejected"]]} for row in rows]))


class Recorder(TrainerCallback):
    """What a reporter is given."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


@pytest.mark.trl112
def test_evaluation_counts_every_pair_once_and_ties_apart(tmp_path):
    rows = preference_rows(200, seed=3)
    one = {"prompt": "hello", "chosen": " world", "rejected": " penguins"}
    seen = {}

    def compute_metrics(prediction):
        seen.update(predictions=prediction.predictions, rows=prediction.label_ids)
        return {**pairwise_metrics(prediction), "mine": 7}

    recorder = Recorder()
    trainer = make_trainer(
        tmp_path,
        classifier(),
        preference_rows(),
        eval_dataset=Dataset.from_list([*rows, one]),
        per_device_eval_batch_size=64,
        compute_metrics=compute_metrics,
        callbacks=[recorder],
        dataloader_drop_last=True,
    )
    metrics = trainer.evaluate()
    expected = hand_scores(trainer, [*rows, one])
    margins = expected[:, 0] - expected[:, 1]
    np.testing.assert_allclose(seen["predictions"], expected, atol=1e-5)
    assert seen["rows"].tolist() == list(range(201))
    assert metrics["eval_num_pairs"] == 201
    assert metrics["eval_accuracy"] == pytest.approx((margins > 0).mean(), abs=1e-9)
    assert metrics["eval_margin"] == pytest.approx(margins.mean(), abs=1e-5)
    assert metrics["eval_margin_std"] == pytest.approx(margins.std(), abs=1e-5)
    assert metrics["eval_margin_q25"] == pytest.approx(np.quantile(margins, 0.25), abs=1e-5)
    assert metrics["eval_mean_reward"] == pytest.approx(expected.mean(), abs=1e-5)
    assert metrics["eval_std_reward"] == pytest.approx(expected.std(), abs=1e-5)
    assert metrics["eval_loss"] == pytest.approx(np.logaddexp(0, -margins).mean(), abs=1e-6)
    assert metrics["eval_mine"] == 7
    (logged,) = recorder.logs
    assert logged["eval_accuracy"] == metrics["eval_accuracy"]

    theirs = make_trainer(
        tmp_path, classifier(), preference_rows(), cls=trl.RewardTrainer, per_device_eval_batch_size=64
    ).evaluate(Dataset.from_list([*rows, one]))
    batches = [(margins[i : i + 64] > 0).mean() for i in range(0, 201, 64)]
    assert theirs["eval_accuracy"] == pytest.approx(np.mean(batches))  # a mean of batch means
    assert abs(theirs["eval_accuracy"] - metrics["eval_accuracy"]) > 0.01

    trainer.reward_model.score.weight.data.zero_()
    tied = trainer.evaluate()
    assert (tied["eval_accuracy"], tied["eval_accuracy_strict"], tied["eval_tie_rate"]) == (0.5, 0, 1)
    assert tied["eval_loss"] == pytest.approx(0.693147, abs=1e-6)


@pytest.mark.trl112
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("shared_prefix", ["auto", "off"])
def test_completions_of_equal_ids_tie(architecture, shared_prefix, tmp_path):
    def row(words):
        return {"prompt": "hello", "chosen": f"<think>a</think>{words}", "rejected": f"<think>b</think>{words}"}

    model = RewardModel.from_sequence_classifier(classifier(architecture, attn_implementation="eager"))
    rows = [row(" world" * n) for n in range(1, 9)]
    options = {"reasoning": "strip", "max_steps": 1, "shared_prefix": shared_prefix, "per_device_eval_batch_size": 3}
    trainer = make_trainer(tmp_path, model, [*rows, *preference_rows(8)], **options)
    assert counts(trainer)["completions_equal_to_another"] == 8
    metrics = trainer.evaluate(Dataset.from_list(rows))
    assert (metrics["eval_tie_rate"], metrics["eval_accuracy"], metrics["eval_num_pairs"]) == (1, 0.5, 8)
    assert metrics["eval_loss"] == pytest.approx(math.log(2))
    trainer.train()
    three = [f"<think>{thought}</think>{words}" for thought, words in ("xa", "xb", "ya")]
    metrics = trainer.evaluate(Dataset.from_list([{"prompt": "hello", "completions": three, "ranks": [0, 1, 2]}]))
    ((a, b),) = score_lists(trainer, [{"prompt": "hello", "completions": ["a", "b"]}])
    z = a - b
    expected = np.mean([np.log1p(np.exp(-z)), np.log1p(np.exp(z)), np.log(2)])
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert metrics["eval_tie_rate"] == pytest.approx(1 / 3)


def test_outputs_of_the_loss_are_of_all_completions(tmp_path):
    rows = [{"prompt": "a", "chosen": "<think>1</think> b", "rejected": "<think>2</think> b"}, *preference_rows(3)]
    trainer = make_trainer(tmp_path, classifier(), rows, reasoning="strip")
    inputs = batch_of(trainer, 4)
    _, outputs = trainer.compute_loss(trainer.model.eval(), inputs, return_outputs=True)
    assert outputs["logits"].shape == (8, 1)
    assert outputs["logits"][0] == outputs["logits"][1]


def test_prediction_takes_raw_rows(tmp_path):
    rows = preference_rows(9, seed=3)
    trainer = make_trainer(tmp_path, classifier(), preference_rows())
    output = trainer.predict(Dataset.from_list(rows))
    expected = hand_scores(trainer, rows)
    np.testing.assert_allclose(output.predictions, expected, atol=1e-5)
    assert output.label_ids.tolist() == list(range(9))
    assert output.metrics["test_accuracy"] == pytest.approx((expected[:, 0] > expected[:, 1]).mean())
    assert trainer.reward_model.config.reward_mean is None  # a test set is not what scores are normalised by


def test_several_evaluation_sets_have_their_own_metrics_and_one_mean_and_spread(tmp_path):
    sets = {"a": preference_rows(12, seed=3), "b": preference_rows(5, seed=4)}
    trainer = make_trainer(
        tmp_path,
        classifier(),
        preference_rows(),
        eval_dataset={name: Dataset.from_list(rows) for name, rows in sets.items()},
        eval_strategy="steps",
        eval_steps=2,
        max_steps=2,
    )
    trainer.train()
    (logged_a,), (logged_b,) = ([log for log in trainer.state.log_history if f"eval_{n}_loss" in log] for n in "ab")
    assert (logged_a["eval_a_num_pairs"], logged_b["eval_b_num_pairs"]) == (12, 5)
    scores = {name: hand_scores(trainer, rows) for name, rows in sets.items()}
    for name, logged in (("a", logged_a), ("b", logged_b)):
        accuracy = (scores[name][:, 0] > scores[name][:, 1]).mean()
        assert logged[f"eval_{name}_accuracy"] == pytest.approx(accuracy)
    everything = np.concatenate(list(scores.values()))
    trainer.save_model(tmp_path / "saved")
    saved = RewardModel.from_pretrained(tmp_path / "saved").config
    assert saved.reward_mean == pytest.approx(everything.mean(), abs=1e-5)
    assert saved.reward_std == pytest.approx(everything.std(), abs=1e-5)
    block = json.loads((tmp_path / "saved" / "config.json").read_text())["reward_model"]
    assert block["reward_mean"] == saved.reward_mean
    card = (tmp_path / "saved" / "README.md").read_text()
    assert f"| eval_a_accuracy | {logged_a['eval_a_accuracy']:.4g} [" in card
    assert f"| eval_b_accuracy | {logged_b['eval_b_accuracy']:.4g} [" in card


def test_scores_that_are_not_finite_stop_an_evaluation(tmp_path):
    trainer = make_trainer(tmp_path, classifier(), preference_rows())
    trainer.reward_model.score.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="96 of 96 scores are not finite"):
        trainer.evaluate(Dataset.from_list(preference_rows()))


# --- losses


def test_the_loss_of_a_ranked_list_is_the_mean_over_its_pairs(tmp_path):
    rows = [
        {"prompt": "hello", "completions": [" one", " two", " three four"], "ranks": [1, 0, 2]},
        {"prompt": "world", "completions": [" a", " b", " c", " d"], "ranks": [0, 1, 1, 2]},
        {"prompt": "five", "completions": [" x", " y"], "ranks": [0, 1]},
    ]
    trainer = make_trainer(tmp_path, classifier(), rows, max_steps=2, per_device_train_batch_size=3)
    first, second, third = score_lists(trainer, rows)
    pairs = [[(1, 0), (1, 2), (0, 2)], [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)], [(0, 1)]]
    by_hand = [
        np.mean([math.log1p(math.exp(scores[worse] - scores[better])) for better, worse in of_row])
        for scores, of_row in zip((first, second, third), pairs, strict=True)
    ]
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, 3))
    assert loss.item() == pytest.approx(np.mean(by_hand), abs=1e-6)
    metrics = trainer.evaluate(Dataset.from_list(rows))
    assert metrics["eval_num_pairs"] == 9
    assert metrics["eval_loss"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    trainer.train()
    assert history(trainer)[1] < history(trainer)[0]


def test_ties_are_trained_on_and_their_threshold_is_saved(tmp_path):
    rows = ranked_rows(24)
    trainer = make_trainer(
        tmp_path,
        classifier(),
        rows,
        tie_threshold=1.5,
        max_steps=5,
        per_device_train_batch_size=8,
    )

    def by_hand(eta):
        losses = []
        for row, scores in zip(rows[:8], score_lists(trainer, rows[:8]), strict=True):
            pairs = [(i, j) for i in range(len(scores)) for j in range(i)]
            of_row = []
            for i, j in pairs:
                if row["ranks"][i] > row["ranks"][j]:
                    i, j = j, i
                delta = scores[i] - scores[j]
                wins, loses = 1 / (1 + math.exp(eta - delta)), 1 / (1 + math.exp(eta + delta))
                tie = row["ranks"][i] == row["ranks"][j]
                of_row.append(-math.log((math.exp(2 * eta) - 1) * wins * loses if tie else wins))
            losses.append(np.mean(of_row))
        return np.mean(losses)

    batch = batch_of(trainer, 8)
    assert sum(batch["pairs"]["tie_M"].tolist()) > 3
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(by_hand(1.5), abs=1e-5)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    assert RewardModel.from_pretrained(tmp_path / "saved").config.tie_threshold == 1.5


def test_label_smoothing_is_that_of_the_pair(tmp_path):
    rows = preference_rows(8)
    trainer = make_trainer(tmp_path, classifier(), rows, label_smoothing_factor=0.2)
    scores = hand_scores(trainer, rows[:6])
    margins = scores[:, 0] - scores[:, 1]
    by_hand = (0.8 * np.logaddexp(0, -margins) + 0.2 * np.logaddexp(0, margins)).mean()
    assert trainer.compute_loss(trainer.model, batch_of(trainer)).item() == pytest.approx(by_hand, abs=1e-6)


# --- data

GOOD = {"prompt": "hello", "chosen": " world", "rejected": " four"}
BAD = {"prompt": "hello", "chosen": " ", "rejected": " four"}
LONG = {"prompt": "hello", "chosen": " world" * 60, "rejected": " four"}


def counts(trainer) -> dict[str, int]:
    trainer.train()
    log = trainer.state.log_history[0]
    return {name.removeprefix("data_train_"): n for name, n in log.items() if name.startswith("data_train_")}


def test_counts_of_the_data_go_to_the_history_and_not_to_trackers(tmp_path):
    trainer, tracker = make_trainer(tmp_path, classifier(), [GOOD, GOOD], max_steps=2), Recorder()
    trainer.add_callback(tracker)
    assert counts(trainer)["rows"] == 2
    assert len(tracker.logs) > 1 and not any(name.startswith("data_") for log in tracker.logs for name in log)


def test_a_bad_row_is_an_error_that_names_it_or_is_skipped_counted_and_listed(tmp_path, caplog):
    with pytest.raises(ValueError, match=r"row 1: `chosen` is empty"):
        make_trainer(tmp_path, classifier(), [GOOD, BAD, GOOD])
    trainer = make_trainer(tmp_path, classifier(), [GOOD, BAD, GOOD], on_bad_row="skip", max_steps=1)
    assert len(trainer.train_dataset) == 2
    assert "train dataset: 2 of 3 rows are used (rows bad: 1)" in caplog.text
    assert "train dataset: skipped row 1: `chosen` is empty" in caplog.text
    assert counts(trainer) == {"rows": 3, "rows_used": 2, "rows_bad": 1}
    with pytest.raises(ValueError, match="none of the 1 rows of the train dataset can be used"):
        make_trainer(tmp_path, classifier(), [BAD], on_bad_row="skip")


def test_over_length_rows_are_dropped_cut_or_an_error(tmp_path, caplog):
    three = [
        GOOD,
        LONG,
        {"prompt": "hello", "completions": [" four", " five", " world" * 40], "ranks": [0, 1, 2]},
    ]
    columns = dict.fromkeys(("prompt", "chosen", "rejected", "completions", "ranks"))
    rows = [{**columns, **row} for row in three]
    short = {"max_length": 30, "max_steps": 1}
    dropped = make_trainer(tmp_path, classifier(), rows, **short)
    assert "2 of 3 rows are used (rows over length: 1, completions dropped: 2)" in caplog.text
    assert counts(dropped) == {"rows": 3, "rows_used": 2, "rows_over_length": 1, "completions_dropped": 2}
    cut = make_trainer(tmp_path, classifier(), rows, truncation_mode="keep_end", **short)
    assert counts(cut) == {"rows": 3, "rows_used": 3, "completions_truncated": 2}
    assert max(len(ids) for row in cut.train_dataset for ids in row["input_ids"]) == 30
    with pytest.raises(ValueError, match=r"row 1: prompt \+ completion 0 has \d+ tokens, max_length is 30"):
        make_trainer(tmp_path, classifier(), rows, truncation_mode="error", **short)


def test_completions_that_spell_a_control_token_are_counted_and_parsed(tmp_path):
    rows = [GOOD, {"prompt": "hello", "chosen": " four</s>", "rejected": " five</s>hello"}]
    trainer = make_trainer(tmp_path, classifier(), rows)
    assert counts(trainer) == {"rows": 2, "rows_used": 2, "completions_with_control_tokens": 1}
    eos = trainer.processing_class.eos_token_id
    assert [ids.count(eos) for ids in trainer.train_dataset[1]["input_ids"]] == [1, 2]


def test_rows_without_a_preference_are_left_out_and_counted(tmp_path):
    rows = [
        {"prompt": "hello", "completions": [" a", " b"], "ranks": [1, 1]},
        {"prompt": "hello", "completions": [" a", " b"], "ranks": None},
        {"prompt": "hello", "completions": [" a", " b"], "ranks": [0, 1]},
    ]
    trainer = make_trainer(tmp_path, classifier(), rows, max_steps=1)
    assert counts(trainer) == {"rows": 3, "rows_used": 1, "rows_without_preference": 2}
    tied = make_trainer(tmp_path, classifier(), rows, max_steps=1, tie_threshold=0.5)
    assert counts(tied) == {"rows": 3, "rows_used": 2, "rows_without_preference": 1}


def test_a_margin_may_come_after_a_thousand_rows_without_one():
    rows = [{**GOOD, "margin": None}] * 1001 + [{**GOOD, "margin": 0.5}]
    encoded, _ = encode_dataset(Dataset.from_list(rows), RowEncoder(tiny_tokenizer("plain")), "train")
    assert encoded[1001]["margin"] == 0.5


@pytest.mark.trl112
def test_trains_on_a_stream(tmp_path, caplog):
    rows = [*preference_rows(20), BAD, LONG]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    options = {"max_length": 170, "on_bad_row": "skip", "max_steps": 6}
    trainer = make_trainer(tmp_path, classifier(), stream, eval_dataset=stream, **options)
    trainer.train()
    assert len(history(trainer)) == 6
    assert "train dataset: 1 rows left out so far, the last is row 20: `chosen` is empty" in caplog.text
    assert trainer.evaluate()["eval_num_pairs"] == 20
    assert trainer.evaluate(stream)["eval_num_pairs"] == 20
    one_has_a_margin = [GOOD, {**GOOD, "margin": 1.0}]
    one_is_a_list = [GOOD, {"prompt": "hello", "completions": [" a", " b", " c"], "ranks": [0, 1, 5_000_000_000]}]
    for rows in (one_has_a_margin, one_is_a_list):
        unlike = IterableDataset.from_generator(lambda rows=rows: iter(rows))
        metrics = [trainer.evaluate(data) for data in (unlike, load_rows(rows))]
        assert metrics[0]["eval_loss"] == metrics[1]["eval_loss"]
        assert metrics[0]["eval_num_pairs"] == metrics[1]["eval_num_pairs"]
    assert "eval dataset: 20 of 22 rows are used (rows over length: 1, rows bad: 1" in caplog.text


@pytest.mark.trl112
@pytest.mark.parametrize("legacy", [False, True])
def test_trains_on_token_ids(legacy, tmp_path):
    rows, tokenizer = preference_rows(12), tiny_tokenizer("plain")
    column = "{}_input_ids" if legacy else "{}_ids"
    ids = [
        {column.format(n): tokenizer(row["prompt"] + row[n] + "</s>")["input_ids"] for n in ("chosen", "rejected")}
        for row in rows
    ]
    of_ids, of_text = (make_trainer(tmp_path, classifier(), data, max_steps=2) for data in (ids, rows))
    for trainer in (of_ids, of_text):
        trainer.train()
    assert history(of_ids) == history(of_text)
    short = make_trainer(tmp_path, classifier(), ids, max_steps=1, max_length=40)
    assert counts(short)["rows_over_length"] > 0
    if not legacy:
        with pytest.raises(ValueError, match="row 0: `rejected_ids` is empty"):
            make_trainer(tmp_path, classifier(), [{"chosen_ids": [5], "rejected_ids": []}])


# --- conversations


CONVERSATION = {
    "prompt": [{"role": "user", "content": "hello"}],
    "chosen": [{"role": "assistant", "content": "world"}],
    "rejected": [{"role": "assistant", "content": "four"}],
}


@pytest.mark.trl112
@pytest.mark.parametrize("peft_config", [None, lora_config(r=2)], ids=["full", "LoRA"])
def test_a_chat_template_may_come_from_a_jinja_file_or_another_tokenizer(peft_config, base_folder, tmp_path):
    with pytest.raises(ValueError, match="row 0: .* has no chat template.* chat_template_path") as error:
        make_trainer(tmp_path, base_folder, [CONVERSATION])
    assert "\n" not in str(error.value)
    (tmp_path / "template.jinja").write_text(CHATML)
    trainer = make_trainer(
        tmp_path, base_folder, [CONVERSATION], chat_template_path=str(tmp_path / "template.jinja"), max_steps=1
    )
    text = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"][0])
    assert (
        text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nworld<|im_end|>\n"
    )  # no special tokens here
    tiny_tokenizer("chatml").save_pretrained(tmp_path / "other")
    trainer = make_trainer(
        tmp_path,
        base_folder,
        [CONVERSATION],
        chat_template_path=str(tmp_path / "other"),
        max_steps=1,
        peft_config=peft_config,  # PEFT wraps the embeddings, which get tokens of the template's
    )
    text = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"][0])
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nworld<|im_end|>"  # trimmed
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    text = [CONVERSATION["prompt"]], [CONVERSATION["chosen"]]
    before = RewardScorer(trainer.model, trainer.processing_class).score(*text)
    np.testing.assert_allclose(RewardScorer(str(tmp_path / "saved")).score(*text), before, atol=1e-6)


def test_the_tail_of_a_template_is_trimmed_for_a_fresh_head_only(base_folder, tmp_path):
    def end(model, **options):
        trainer = make_trainer(tmp_path, model, [CONVERSATION], tokenizer=tiny_tokenizer("chatml"), **options)
        return trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"][0])[-11:]

    assert end(base_folder) == "d<|im_end|>"
    fresh = RewardModel.from_backbone(base_folder)
    fresh.save_pretrained(tmp_path / "untrained")
    assert end(str(tmp_path / "untrained")) == "d<|im_end|>"
    assert end(fresh) == end(fresh) == "d<|im_end|>"
    assert end(RewardModel.from_backbone(AutoModelForCausalLM.from_pretrained(base_folder))) == "d<|im_end|>"
    assert end(base_folder, trim_template_tail=False) == "<|im_end|>\n"
    assert end(classifier()) == "<|im_end|>\n"  # trained elsewhere, for all that is known


def test_token_ids_keep_the_tail_that_they_have(base_folder, tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    rows = [{"chosen_ids": [5, 6, 7], "rejected_ids": [5, 6]}]
    make_trainer(tmp_path, RewardModel.from_backbone(base_folder), rows, tokenizer=tokenizer)
    assert tokenizer.chat_template == CHATML


@pytest.mark.trl112
def test_an_adapter_trains_on_with_the_tokenizer_beside_it(base_folder, tmp_path):
    tiny_tokenizer("chatml").save_pretrained(tmp_path / "chatml")
    options = {"chat_template_path": str(tmp_path / "chatml"), "max_steps": 1, "peft_config": lora_config(r=2)}
    first = make_trainer(tmp_path, base_folder, [CONVERSATION], **options)
    first.train()
    first.save_model(tmp_path / "adapter")
    again = make_trainer(tmp_path, str(tmp_path / "adapter"), [CONVERSATION], tokenizer=None)
    assert again.train_dataset["input_ids"][:] == first.train_dataset["input_ids"][:]
    with pytest.raises(ValueError, match="another chat template or special tokens than the reward model was trained"):
        RewardScorer(first.model)  # by name that is the base's
    cache = tmp_path / "cache" / "models--org--adapter"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / ("a" * 40)).symlink_to(tmp_path / "adapter", target_is_directory=True)
    where = {"cache_dir": str(tmp_path / "cache"), "local_files_only": True}
    hub = make_trainer(tmp_path, "org/adapter", [CONVERSATION], tokenizer=None, model_init_kwargs=where)
    assert hub.train_dataset["input_ids"][:] == first.train_dataset["input_ids"][:]
    assert RewardScorer("org/adapter", **where).processing_class.chat_template.startswith("{% set rendered %}")
    for file in (tmp_path / "adapter").glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match="another chat template or special tokens than the reward model was trained"):
        make_trainer(tmp_path, str(tmp_path / "adapter"), [CONVERSATION], tokenizer=None)


@pytest.mark.trl112
def test_an_adapter_without_a_tokenizer_takes_the_base_s_as_training_did(tmp_path):
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(tiny_config("llama", **SMALL_WEIGHTS)).save_pretrained(base)
    tiny_tokenizer("chatml").save_pretrained(base)
    options = {"tokenizer": None, "peft_config": lora_config(r=2), "max_steps": 1}
    trainer = make_trainer(tmp_path, str(base), [CONVERSATION], **options)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "adapter")  # as push_to_hub of PEFT's does, without a tokenizer
    text = [CONVERSATION["prompt"]], [CONVERSATION["chosen"]]
    expected = RewardScorer(trainer.model, trainer.processing_class).score(*text)
    for model in (trainer.model, str(tmp_path / "adapter")):
        np.testing.assert_allclose(RewardScorer(model).score(*text), expected, atol=1e-6)
    fresh = RewardModel.from_backbone(base)
    for eos in ("<|endoftext|>", None):  # a first try with another end, then the one that counts
        trainer = make_trainer(tmp_path, fresh, [CONVERSATION], tokenizer=None, eos_token=eos)
    assert trainer.train_dataset[0]["input_ids"][0][-1] == trainer.processing_class.eos_token_id


@pytest.mark.trl112
def test_an_adapter_is_whole_whoever_saves_it(base_folder, tmp_path, monkeypatch):
    options = {"peft_config": lora_config(r=2), "quantization_config": nf4_config(), "reasoning": "strip"}
    trainer = make_trainer(tmp_path / "run", base_folder, preference_rows(8), max_steps=1, **options)
    trainer.train()
    text = ["Which country owns Antarctica?"], ["<think>hello</think> four"]
    scores = RewardScorer(trainer.model, trainer.processing_class).score(*text)
    trainer.model.save_pretrained(tmp_path / "direct")
    copy.deepcopy(trainer.model).save_pretrained(tmp_path / "copied")
    pickle.loads(pickle.dumps(trainer.model)).save_pretrained(tmp_path / "pickled")
    load_peft_model(RewardModel, tmp_path / "direct", is_trainable=True).save_pretrained(tmp_path / "again")
    for name in ("direct", "copied", "pickled", "again"):
        loaded = RewardModel.from_pretrained(tmp_path / name)
        assert loaded.is_loaded_in_4bit
        assert loaded.config.reasoning == "strip"
        np.testing.assert_allclose(RewardScorer(loaded, trainer.processing_class).score(*text), scores, atol=1e-5)

    pushed = []

    class Hub:
        def upload_folder(self, folder_path, **options):
            pushed.append({path.name for path in Path(folder_path).iterdir()})

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    monkeypatch.setattr("transformers.trainer.PushInProgress", lambda jobs: None)
    trainer.args.hub_strategy, trainer.hub_model_id, trainer.push_in_progress = "every_save", "me/model", None
    trainer.args.push_to_hub = True
    trainer.save_model(tmp_path / "checkpoint-1", _internal_call=True)
    trainer._push_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert {"adapter_model.safetensors", "reward_model.json"} <= pushed[0]


def test_a_template_that_refuses_a_row_names_it(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="row 0: the chat template refuses it: roles must alternate"):
        make_trainer(tmp_path, classifier(), [CONVERSATION], tokenizer=tokenizer)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] + (message['name'] or '') }}{% endfor %}"
    )
    named = {**CONVERSATION, "chosen": [{"role": "assistant", "content": "world", "name": 7}]}
    with pytest.raises(ValueError, match="row 0: the chat template refuses it: TypeError: can only concatenate str"):
        make_trainer(tmp_path, classifier(), [named], tokenizer=tokenizer)


def test_the_saved_pad_token_of_a_fresh_head_is_not_eos(tmp_path):
    trainer = make_trainer(
        tmp_path,
        RewardModel.from_backbone(classifier().model),
        [CONVERSATION],
        tokenizer=tiny_tokenizer("chatml"),
        eos_token="<|endoftext|>",
        max_steps=1,
    )
    assert trainer.processing_class.eos_token == "<|endoftext|>"  # the pad token, before
    assert trainer.processing_class.pad_token_id != trainer.processing_class.eos_token_id
    assert trainer.reward_model.config.pad_token_id == trainer.processing_class.pad_token_id


# --- logs, precision, model card


@pytest.mark.trl112
def test_reporters_get_the_metrics(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(
        tmp_path,
        classifier(),
        preference_rows(),
        eval_dataset=Dataset.from_list(preference_rows(12, seed=1)),
        callbacks=[recorder],
        max_steps=6,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=3,  # between two logs of the training
        include_num_input_tokens_seen=True,
    )
    trainer.train()
    train = [log for log in recorder.logs if "loss" in log]
    held_out = [log for log in recorder.logs if "eval_loss" in log]
    assert (len(train), len(held_out)) == (3, 2)
    assert not any("margin" in log for log in held_out)
    assert train[-1]["num_input_tokens_seen"] == train[-1]["num_tokens"]
    names = {"accuracy", "tie_rate", "margin", "mean_reward", "min_reward", "max_reward", "num_tokens", "grad_norm"}
    assert all(names <= set(log) for log in train)
    names = {
        "accuracy",
        "accuracy_strict",
        "tie_rate",
        "num_pairs",
        "margin",
        "margin_std",
        "margin_q05",
        "margin_q95",
    }
    names |= {"mean_reward", "std_reward", "loss"}
    assert all({f"eval_{name}" for name in names} <= set(log) for log in held_out)
    assert not any(name.startswith("data_") for log in recorder.logs for name in log)  # a chart of one point
    assert trainer.state.log_history[0]["data_train_rows_used"] == 48


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_bf16_autocast_leaves_the_head_in_float32(lora, tmp_path):
    options = {"peft_config": lora_config(r=4)} if lora else {}
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), bf16=True, max_steps=3, **options)
    seen = []
    head = [module for module in trainer.reward_model.modules() if type(module).__name__ == "RewardHead"][-1]
    head.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    plain = make_trainer(tmp_path, classifier(), preference_rows(), max_steps=3, **copy.deepcopy(options))
    for one in (trainer, plain):
        one.train()
    assert {output for _, output in seen} == {torch.float32}
    assert {weight.dtype for weight in trained_weights(trainer).values()} == {torch.float32}
    assert history(trainer) == pytest.approx(history(plain), abs=0.01)
    assert history(trainer) != history(plain)
    scores = trainer.evaluate(Dataset.from_list(preference_rows(64, seed=1)))
    assert scores["eval_tie_rate"] == 0  # bf16 scores would tie


# --- what stands where


def test_the_list_at_the_head_of_the_file_names_every_method_of_upstream_that_is_overridden():
    head = sys.modules[PairwiseRewardTrainer.__module__].__doc__.split("overrides")[1]
    listed = re.findall(r"^    (\w+) +\S", head, re.MULTILINE)
    overridden = [n for n, f in vars(PairwiseRewardTrainer).items() if callable(f) and hasattr(trl.RewardTrainer, n)]
    assert sorted(listed) == sorted(set(overridden) - {"__init__"})
