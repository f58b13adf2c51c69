"""What tests of PPO share: whether TRL has it, a policy, its prompts, and the scores that the trainer logs."""

import importlib.util
from pathlib import Path

import pytest
import torch
from models import tiny_config
from transformers import AutoModelForCausalLM

HAS_PPO = Path(importlib.util.find_spec("trl").submodule_search_locations[0], "experimental", "ppo").is_dir()
needs_ppo = pytest.mark.skipif(not HAS_PPO, reason="PPO is in TRL up to 1.12; `make test` runs this on 1.12.0")

PROMPTS = ["Which country owns Antarctica?", "What is 2 + 2?", "Hello world", "How are you today?"]


def tiny_policy(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = AutoModelForCausalLM.from_config(tiny_config("qwen3")).eval()
    with torch.no_grad():  # it says EOS often, pad and BOS hardly ever
        policy.lm_head.weight[[0, 1, 2]] *= torch.tensor([[0.0], [0.0], [3.0]])
    return policy


def logged_scores(trainer):
    return [entry["objective/scores"] for entry in trainer.state.log_history if "objective/scores" in entry]
