"""Every README of a model: how to score, what was measured, and what the hub asks."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification
from training_runs import classifier, make_trainer, preference_rows
from transformers import AutoModelForSequenceClassification

from rm_plugin import RewardModel, RewardScorer
from rm_plugin.data.reference import read_reference
from rm_plugin.metrics.statistics import wilson_interval
from rm_plugin.training.peft_configs import lora_config


@pytest.mark.trl112
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_the_model_card_says_how_to_score_and_what_was_measured(lora, base_folder, tmp_path):
    options = {"peft_config": lora_config(r=4)} if lora else {}
    trainer = make_trainer(
        tmp_path / "run",
        base_folder,
        preference_rows(),
        eval_dataset=Dataset.from_list(preference_rows(12, seed=1)),
        max_steps=2,
        save_strategy="steps",
        save_steps=2,
        **options,
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(tmp_path / "saved")
    for folder in (tmp_path / "saved", tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        card = (folder / "README.md").read_text()
        assert "pipeline(" not in card
        assert f'RewardScorer("{folder.name}")' in card
        assert ("LoRA" in card) == lora
    loaded = RewardModel.from_pretrained(tmp_path / "saved")
    for text in read_reference(tmp_path / "saved")["texts"][:7]:  # by which a server is checked
        assert loaded(torch.tensor([text["input_ids"]])).logits.item() == pytest.approx(text["score"], abs=1e-5)
    assert read_reference(tmp_path / "run" / "checkpoint-2") is None, "of the final save alone"
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "Held-out data, at step 2:" in card
    extras = json.loads((tmp_path / "saved" / ("reward_model.json" if lora else "config.json")).read_text())
    assert extras.get("reward_model", extras)["reward_mean"] == pytest.approx(metrics["eval_mean_reward"])
    low, high = wilson_interval(metrics["eval_accuracy"] * metrics["eval_num_pairs"], metrics["eval_num_pairs"])
    assert f"| eval_accuracy | {metrics['eval_accuracy']:.4g} [{low:.4g}, {high:.4g}] |" in card
    assert f"| eval_num_pairs | {metrics['eval_num_pairs']} |" in card
    assert "runtime" not in card
    code = card.split("```python\n")[1].split("```")[0].replace('"saved"', repr(str(tmp_path / "saved")))
    found = {}
    exec(code + "value = scorer.preference('hello', 'world', 'four')", found)
    assert 0 < found["value"] < 1
    loader = AutoPeftModelForSequenceClassification if lora else AutoModelForSequenceClassification
    assert f"{loader.__name__}.from_pretrained(" in card
    plain = loader.from_pretrained(tmp_path / "saved", num_labels=1).eval()
    ids = torch.tensor([trainer.processing_class("hello world</s>")["input_ids"]])
    with torch.no_grad():
        assert plain(ids).logits.item() == pytest.approx(
            found["scorer"].score(["hello"], [" world"])[0].item(), abs=1e-5
        )


def test_a_model_card_without_an_evaluation_says_so(tmp_path):
    trainer = make_trainer(tmp_path, classifier(), preference_rows())
    trainer.create_model_card("me/my-model", dataset_name="some/data", tags="mine")
    card = (tmp_path / "README.md").read_text()
    assert "No evaluation was run." in card
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.datasets == ["some/data"]
    assert "mine" in data.tags
    assert f"- Data: {len(preference_rows())} rows, some/data\n" in card


def test_a_model_card_and_that_of_its_export_name_base_data_and_licence_for_the_hub(tmp_path, base_folder):
    (Path(base_folder) / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = Dataset.from_list(preference_rows())
    rows.info.download_checksums = {
        "hf://datasets/trl-lib/some-pairs@0123abc/train.parquet": {}
    }  # as load_dataset does
    trainer = make_trainer(tmp_path / "run", base_folder, rows)
    trainer.save_model(tmp_path / "saved")
    scorer = RewardScorer(tmp_path / "saved")
    scorer.model.export(tmp_path / "exported", scorer.processing_class)
    (Path(base_folder) / "README.md").unlink()
    for folder in ("saved", "exported"):
        data = ModelCard.load(tmp_path / folder / "README.md").data
        assert (data.datasets, data.license) == (["trl-lib/some-pairs"], "apache-2.0")
        assert "reward-model" in data.tags
    assert "- Licence: apache-2.0\n" in (tmp_path / "saved" / "README.md").read_text()


def test_export_says_how_others_load_it(saved):
    readme = Path(saved["export"].path, "README.md").read_text(encoding="utf-8")
    assert '"use_activation": false' in readme and "--runner pooling" in readme
    assert "LLM(" not in readme, "only requests that were measured"
    assert 'RemoteRewardScorer("http://localhost:8000"' in readme
    assert "SGLang" in readme and "not measured" in readme
    assert "apply_chat_template" in readme
    assert "keeps pipelines and servers from a sigmoid" in readme
