"""What is loaded beside a run under ZeRO-3 or FSDP is whole; test_sharded_training.py has the runs themselves."""

import os
from importlib.metadata import version

import numpy as np
import pytest
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from transformers import AutoModelForCausalLM
from transformers.integrations import deepspeed, is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rm_plugin import ImplicitRewardScorer, RewardScorer
from rm_plugin.loops.ppo import as_ppo_reward_model
from rm_plugin.model.checkpoint import load_language_model
from rm_plugin.model.modeling import RewardModel
from rm_plugin.model.sharding import FSDP_MARK, whole_models, without_weights


class ZeRO3:
    """What transformers asks of DeepSpeed's config, from the moment when training arguments exist."""

    config = {}

    def is_zero3(self):
        return True


@pytest.fixture
def zero3_arguments():
    arguments = ZeRO3()
    set_hf_deepspeed_config(arguments)
    yield arguments
    unset_hf_deepspeed_config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_reward_model().save_pretrained(folder)
    tiny_tokenizer("plain").save_pretrained(folder)
    return folder


def test_models_are_whole_within_and_marks_are_back_after_an_error(zero3_arguments, monkeypatch):
    monkeypatch.setenv(FSDP_MARK, "true")
    with pytest.raises(KeyError), whole_models():
        assert not is_deepspeed_zero3_enabled() and FSDP_MARK not in os.environ
        raise KeyError
    assert deepspeed._hf_deepspeed_config_weak_ref() is zero3_arguments
    assert is_deepspeed_zero3_enabled() and os.environ[FSDP_MARK] == "true"


def test_a_probe_of_a_model_has_no_data_under_zero3(zero3_arguments):
    with without_weights():
        model = tiny_reward_model()
    assert all(weight.is_meta for weight in model.parameters())


def test_a_scorer_by_name_gives_its_scores_after_zero3_arguments_exist(folder, zero3_arguments):
    after = RewardScorer(str(folder)).score(["Hello"], [" world"])
    unset_hf_deepspeed_config()
    np.testing.assert_array_equal(after, RewardScorer(str(folder)).score(["Hello"], [" world"]))


def test_a_model_in_memory_is_saved_after_zero3_arguments_exist(tmp_path, zero3_arguments):
    """Which looks at the architecture's own classifier."""
    with whole_models():
        model = tiny_reward_model("qwen2")
    model.save_pretrained(tmp_path)
    unset_hf_deepspeed_config()
    RewardModel.from_pretrained(tmp_path)


def test_a_policy_by_name_is_loaded_after_zero3_arguments_exist(tmp_path, zero3_arguments):
    with whole_models():
        AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(tmp_path)
    tiny_tokenizer("plain").save_pretrained(tmp_path)
    assert all(weight.numel() for weight in load_language_model(str(tmp_path)).parameters())
    assert np.isfinite(ImplicitRewardScorer(str(tmp_path), str(tmp_path)).score(["Hello"], [" world"])).all()


@pytest.mark.trl112
def test_ppo_under_zero3_is_refused_in_one_line(zero3_arguments):
    if version("trl") >= "1.13":
        pytest.skip("this TRL has no PPO")
    with pytest.raises(ValueError, match="ZeRO-3 .* use ZeRO-2") as raised:
        as_ppo_reward_model([], tiny_tokenizer("plain"), ["a"])
    assert "\n" not in str(raised.value)
