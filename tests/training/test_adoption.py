"""What is given to train becomes a reward model: by name, in memory, as an adapter; what cannot is refused."""

import numpy as np
import pytest
import torch
import trl
from models import tiny_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from training_runs import classifier, history, make_trainer, preference_rows, trained_weights

from rm_plugin import RewardModel, RewardScorer
from rm_plugin.model.adapters import load_peft_model, nf4_config
from rm_plugin.training.peft_configs import lora_config
from rm_plugin.training.trainer import PairwiseRewardTrainer


@pytest.mark.trl112
def test_takes_a_model_by_name_in_memory_and_as_an_adapter_that_trains_on(base_folder, tmp_path):
    rows = preference_rows()
    text = ["Which country owns Antarctica?"], [" four"]

    def scores(trainer):
        return RewardScorer(trainer.model.eval(), trainer.processing_class).score(*text)

    def trained(model, tokenizer="plain", **options):
        trainer = make_trainer(tmp_path / "run", model, rows, max_steps=2, tokenizer=tokenizer, **options)
        start = trained_weights(trainer)
        trainer.train()
        moved = [name for name, weight in trained_weights(trainer).items() if not torch.equal(weight, start[name])]
        assert any("score" in name for name in moved)
        assert len(moved) > 1
        return trainer

    named = trained(base_folder, tokenizer=None)
    assert isinstance(named.model, RewardModel)
    assert named.reward_model.config.base_model == base_folder
    named.save_model(tmp_path / "full")

    again = make_trainer(tmp_path / "run", str(tmp_path / "full"), rows)  # a trained head is trained on, not replaced
    np.testing.assert_allclose(scores(again), scores(named), atol=1e-6)

    adapter = trained(str(tmp_path / "full"), peft_config=lora_config(r=4))
    adapter.save_model(tmp_path / "adapter")
    on = make_trainer(tmp_path / "run", str(tmp_path / "adapter"), rows, tokenizer=None)
    np.testing.assert_allclose(scores(on), scores(adapter), atol=1e-6)
    assert isinstance(on.model, PeftModel)
    assert {n.split(".")[-2] for n in trained_weights(on)} == {n.split(".")[-2] for n in trained_weights(adapter)}
    trained(str(tmp_path / "adapter"))
    trained(RewardModel.from_pretrained(tmp_path / "adapter"))  # adapters injected, loaded for scoring
    trained(load_peft_model(RewardModel, tmp_path / "adapter", is_trainable=True))

    theirs = classifier()
    wrapped = get_peft_model(classifier(), LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"]))
    reference = RewardScorer(RewardModel.from_sequence_classifier(theirs).eval(), tiny_tokenizer("plain")).score(*text)
    for model in (theirs, wrapped, RewardModel.from_sequence_classifier(classifier())):
        trainer = make_trainer(tmp_path / "run", model, rows)
        np.testing.assert_allclose(scores(trainer), reference, atol=1e-6)
        trained(model)


@pytest.mark.trl112
def test_a_peft_model_around_a_transformers_classifier_follows_trl(tmp_path):
    def run(cls):
        torch.manual_seed(0)
        model = get_peft_model(classifier(), LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"]))
        trainer = make_trainer(tmp_path, model, preference_rows(), cls=cls, max_steps=6)
        trainer.train()
        return history(trainer)

    assert run(PairwiseRewardTrainer) == pytest.approx(run(trl.RewardTrainer), abs=1e-4)


@pytest.mark.trl112
def test_a_classifier_in_memory_is_trained_itself(tmp_path):
    def run(cls, **options):
        model = classifier(pad_token_id=None)
        if options.pop("own_optimizer", False):
            options["optimizers"] = (torch.optim.AdamW(model.parameters(), lr=1e-2), None)
        trainer = make_trainer(tmp_path, model, preference_rows(), cls=cls, max_steps=4, **options)
        start = model.score.weight.detach().clone()
        trainer.train()
        return model, (model.score.weight - start).abs().max().item(), history(trainer), trainer

    text = ["Which country owns Antarctica?"], [" four"]
    for options in ({"peft_config": lora_config(r=2)}, {}, {"own_optimizer": True}):
        theirs, ours = run(trl.RewardTrainer, **options), run(PairwiseRewardTrainer, **options)
        if "peft_config" not in options:
            assert ours[1] == pytest.approx(theirs[1], abs=1e-4)
            assert ours[1] > 1e-3
        ids = torch.tensor([ours[3].processing_class(" four</s>")["input_ids"]])
        with torch.no_grad():
            handed_over = ours[0].eval()(ids).logits
            torch.testing.assert_close(handed_over, ours[3].model.eval()(ids).logits)
            torch.testing.assert_close(handed_over, theirs[0].eval()(ids).logits, atol=1e-4, rtol=1e-4)
        assert ours[2] == pytest.approx(theirs[2], abs=1e-4)
        assert ours[0].config.pad_token_id == theirs[0].config.pad_token_id == 0
    ours[0].save_pretrained(tmp_path / "saved")
    ours[3].processing_class.save_pretrained(tmp_path / "saved")
    mine, saved = RewardScorer(ours[3].model, ours[3].processing_class), RewardScorer(str(tmp_path / "saved"))
    np.testing.assert_allclose(saved.score(*text), mine.score(*text), atol=1e-6)


def test_a_16_bit_head_in_memory_becomes_a_float32_one_and_is_trained(tmp_path, caplog):
    model = classifier().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = make_trainer(tmp_path, model, preference_rows(8), max_steps=1, optimizers=(optimizer, None))
    assert model.score is trainer.reward_model.score
    assert model.score.weight.dtype == torch.float32
    assert "does not hold 1 of the parameters to train (score.weight" in caplog.text


def test_a_frozen_head_in_memory_stays_frozen(tmp_path):
    model = classifier()
    model.score.requires_grad_(False)
    assert not make_trainer(tmp_path, model, preference_rows(8)).reward_model.score.weight.requires_grad


def test_a_peft_model_with_a_frozen_head_is_refused(tmp_path):
    model = get_peft_model(classifier(), LoraConfig(r=4, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="`score` of the PeftModel is frozen"):
        make_trainer(tmp_path, model, preference_rows())


def test_arguments_without_effect_are_named(tmp_path, caplog):
    make_trainer(
        tmp_path,
        classifier(),
        preference_rows(),
        quantization_config=nf4_config(),
        model_init_kwargs={"dtype": "auto"},
    )
    for name in ("quantization_config", "model_init_kwargs"):
        assert f"`{name}` will be ignored" in caplog.text
    refused = [
        {"batch_eval_metrics": True},
        {"include_for_metrics": ["loss"]},
        {"label_smoothing_factor": 0.1, "tie_threshold": 0.5},
        {"label_smoothing_factor": 0.7},
        {"max_length": 0},
        {"max_tokens_per_microbatch": -3},
        {"learning_rate": None, "deepspeed": {"optimizer": {"params": {"lr": "auto"}}}},
    ]
    for options in refused:
        with pytest.raises(ValueError, match=next(iter(options)).removesuffix("_factor")):
            make_trainer(tmp_path, classifier(), preference_rows(), **options)


def test_noise_on_embeddings_is_that_of_padded_rows(tmp_path, caplog):
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), max_steps=1, neftune_noise_alpha=5)
    assert trainer.data_collator.form == "padded"
    assert "batches are padded: neftune_noise_alpha=5" in caplog.text


@pytest.mark.parametrize("disable_dropout", [True, False])
def test_attention_dropout_is_switched_off_or_computed_the_padded_way(disable_dropout, tmp_path, caplog):
    model = classifier(attention_dropout=0.5)
    trainer = make_trainer(tmp_path, model, preference_rows(), max_steps=2, disable_dropout=disable_dropout)
    trainer.train()
    assert trainer.data_collator.form == ("packed" if disable_dropout else "padded")
    assert ("attention_dropout=0.5" in caplog.text) == (not disable_dropout)


def test_a_quantisation_that_is_given_twice_is_refused(base_folder, tmp_path):
    twice = {"quantization_config": nf4_config(torch.float32)}
    with pytest.raises(ValueError, match="quantization_config is set twice, .* set one of them"):
        make_trainer(tmp_path, base_folder, preference_rows(4), model_init_kwargs=dict(twice), **twice)
