"""The config of a reward model is that of its backbone with ours around."""

import json
from pathlib import Path

import pytest
from models import tiny_config
from saved_models import assert_equal_scores, scores
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from rm_plugin.model.config import RewardModelConfig
from rm_plugin.model.modeling import RewardModel


def test_native_folder_becomes_a_reward_model_through_the_auto_classes(saved):
    path = saved["native"].path
    assert json.loads(Path(path, "config.json").read_text())["model_type"] == "reward_model"
    config = AutoConfig.from_pretrained(path)
    assert isinstance(config, RewardModelConfig)
    assert config.num_labels == 1
    for load in (AutoModelForSequenceClassification.from_pretrained, AutoModel.from_pretrained):
        model = load(path)
        assert type(model) is RewardModel
        assert_equal_scores(scores(model), saved["native"].scores)
    assert (
        type(AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)) is RewardModel
    )  # as TRL calls it


def test_config_is_that_of_the_backbone_with_ours_around():
    config = RewardModelConfig(tiny_config("llama"), reward_mean=1.0)
    assert config.pad_token_id == 0
    config.pad_token_id = 9
    assert config.backbone_config.pad_token_id == 9
    again = RewardModelConfig.from_dict(config.to_dict())
    assert type(again.backbone_config).__name__ == "LlamaConfig"
    assert (again.reward_mean, again.pad_token_id) == (1.0, 9)
    with pytest.raises(ValueError, match="num_labels=3, a reward model has 1"):
        RewardModelConfig(tiny_config("llama"), num_labels=3)
