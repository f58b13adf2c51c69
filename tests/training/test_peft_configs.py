"""PEFT configs: which layers are adapted, that the head is trained, and what is refused."""

import copy

import numpy as np
import peft
import pytest
from peft import LoraConfig, PromptTuningConfig
from training_runs import make_trainer, preference_rows, trained_weights

from rm_plugin import RewardScorer
from rm_plugin.training.peft_configs import lora_config, reward_peft_config

# Upstream warns of what its own defaults bring about (peft 0.21).
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")


@pytest.mark.trl112
@pytest.mark.parametrize(
    "peft_config",
    [
        LoraConfig(),
        LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4),
        lora_config(r=4, use_dora=True),
    ],
    ids=["no task type", "causal task type", "DoRA"],
)
def test_lora_without_any_head_setting_trains_and_saves_the_head(peft_config, base_folder, tmp_path):
    before = copy.deepcopy(peft_config)
    trainer = make_trainer(tmp_path, base_folder, preference_rows(), peft_config=peft_config, max_steps=3)
    assert peft_config == before  # the caller's object is left alone
    start = trained_weights(trainer)
    head = [name for name in start if "score" in name]
    assert len(head) == 1
    assert any("lora_A" in name for name in start)
    trainer.train()
    end = trained_weights(trainer)
    assert (end[head[0]] - start[head[0]]).abs().max() > 1e-4
    assert any((end[name] - start[name]).abs().max() > 1e-4 for name in start if "lora_B" in name)
    trainer.save_model(tmp_path / "saved")
    texts = ["Which country owns Antarctica?", "hello"], [" four", " thank five"]
    scores = RewardScorer(trainer.model.eval(), trainer.processing_class).score(*texts)
    np.testing.assert_allclose(RewardScorer(str(tmp_path / "saved")).score(*texts), scores, atol=1e-6)


def test_prompt_tuning_is_refused():
    with pytest.raises(ValueError, match=r"PromptTuningConfig .* use lora_config\(\)"):
        reward_peft_config(PromptTuningConfig(num_virtual_tokens=3))


@pytest.mark.parametrize("config", [peft.IA3Config(), peft.LNTuningConfig()], ids=["IA3", "LN_TUNING"])
def test_layers_that_nobody_names_are_asked_for(config):
    with pytest.raises(ValueError, match="names no target_modules, and PEFT has none for olmo2; set target_modules"):
        reward_peft_config(config, "olmo2")


@pytest.mark.parametrize(
    ("option", "value"),
    [("alora_invocation_tokens", [5]), ("layer_replication", [[0, 2], [1, 2]]), ("lora_bias", True)],
)
def test_lora_that_no_plain_model_can_hold_is_refused(option, value):
    with pytest.raises(ValueError, match=f"LoraConfig with {option} cannot be merged"):
        reward_peft_config(LoraConfig(**{option: value}))
