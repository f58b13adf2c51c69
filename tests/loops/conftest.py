"""Fixtures that several test files of this folder use."""

import pytest
import torch
from models import tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer("chatml")


@pytest.fixture(scope="session")
def policy():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(tiny_config("llama")).eval()
