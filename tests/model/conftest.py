"""Folders of models that several test files of this folder open, each made once."""

from types import SimpleNamespace

import pytest
import torch
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from saved_models import ARCHITECTURES, NF4_SIZES, lora_around, nf4, scores, seeded
from transformers import AutoModelForCausalLM

from rm_plugin.model.adapters import merge_adapter, save_adapter
from rm_plugin.model.modeling import RewardModel


@pytest.fixture(scope="session")
def causal(tmp_path_factory):
    """Folders of causal language models, from which reward models start: `causal("llama", hidden_size=64)`."""
    folders = {}

    def make(architecture, **overrides) -> str:
        key = (architecture, *sorted(overrides.items()))
        if key not in folders:
            folder = tmp_path_factory.mktemp(f"causal-{architecture}")
            seeded(AutoModelForCausalLM.from_config, tiny_config(architecture, **overrides)).save_pretrained(folder)
            folders[key] = str(folder)
        return folders[key]

    return make


@pytest.fixture(scope="session")
def saved(causal, tmp_path_factory):
    """Name ► folder and the scores of the model in memory that was saved there."""
    root = tmp_path_factory.mktemp("saved")
    entries = {}

    def add(name, model, save=None):
        folder = root / name
        expected = scores(model)
        save(folder) if save else model.save_pretrained(folder)
        entries[name] = SimpleNamespace(path=str(folder), scores=expected)

    for architecture in ARCHITECTURES:
        add(architecture, seeded(RewardModel.from_backbone, causal(architecture)).eval())
    add("tied", seeded(RewardModel.from_backbone, causal("llama", tie_word_embeddings=True)))
    add("bf16", seeded(RewardModel.from_backbone, causal("llama"), dtype=torch.bfloat16))
    model = tiny_reward_model("llama")
    add("sharded", model, lambda folder: model.save_pretrained(folder, max_shard_size="20KB"))
    model.config.reward_mean, model.config.reward_std, model.config.reasoning = 1.5, 0.25, "strip"
    add("extras", model)

    for name, architecture in (("native", "llama"), ("native-gpt2", "gpt2"), ("native-moe", "qwen3_moe")):
        native = tiny_reward_model(architecture)
        add(name, native, lambda folder, native=native: native.save_pretrained(folder, format="native"))
    add("mamba", tiny_reward_model("mamba"))

    def add_adapter(name, base, fan_in_fan_out=False, **kwargs):
        peft_model = lora_around(seeded(RewardModel.from_backbone, base, **kwargs), fan_in_fan_out=fan_in_fan_out)
        add(name, peft_model, lambda folder: save_adapter(peft_model, folder))
        return peft_model

    llama = causal("llama", **NF4_SIZES)
    add_adapter("lora-bf16", llama, dtype=torch.bfloat16)
    add_adapter("lora-gpt2", causal("gpt2"), fan_in_fan_out=True)
    merged = merge_adapter(add_adapter("lora", llama))
    add("merged", merged)
    merged = merge_adapter(add_adapter("nf4-lora", llama, quantization_config=nf4()))
    add("nf4-merged", merged)
    add("nf4", seeded(RewardModel.from_backbone, llama, quantization_config=nf4(bnb_4bit_use_double_quant=True)))

    model, tokenizer = tiny_reward_model("llama", pad_token_id=2), tiny_tokenizer("pad_is_eos")
    model.config.pad_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    add("export", model, lambda folder: model.export(folder, tokenizer))
    return entries
