"""Planned memory against what torch's profiler sees the allocator hand out in a real run of the same trainer."""

from types import SimpleNamespace

import pytest
from datasets import Dataset
from models import tiny_config, tiny_tokenizer
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from rm_plugin import PairwiseRewardConfig, PairwiseRewardTrainer, RewardModel, lora_config, nf4_config
from rm_plugin.training import memory
from rm_plugin.training.memory import CONTEXT, FRAGMENTATION, GB, MemoryPlan, longest_microbatch, plan_memory

SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5, "head_dim": 32, "vocab_size": 300}
KINDS = {  # dtype, LoRA, NF4, checkpointed
    "LoRA": ("bfloat16", True, False, False),
    "full": ("float32", False, False, False),
    "checkpointed": ("bfloat16", True, False, True),
    "NF4": ("bfloat16", True, True, True),
}


def arguments(folder, kind: str, **more) -> PairwiseRewardConfig:
    dtype, _, _, checkpointed = KINDS[kind]
    fields = {"use_cpu": True, "bf16": True, "report_to": "none", "save_strategy": "no", "logging_strategy": "no"}
    fields |= {"gradient_checkpointing": checkpointed, "model_init_kwargs": {"dtype": dtype}, "max_steps": 2}
    fields |= {"per_device_train_batch_size": 1, "learning_rate": 1e-4, "disable_tqdm": True}
    return PairwiseRewardConfig(str(folder), **{**fields, **more})


def peft_and_quantization(kind: str) -> dict:
    _, lora, nf4, _ = KINDS[kind]
    return {
        "quantization_config": nf4_config() if nf4 else None,
        "peft_config": lora_config(r=8) if lora else None,
    }


def real_peak(folder, kind: str, model: str, tokens: int) -> int:
    """Bytes of the weights, and the most that torch's allocator handed out on top of them in two real steps."""
    more = peft_and_quantization(kind)
    options = {"dtype": KINDS[kind][0], "quantization_config": more.pop("quantization_config")}
    reward_model = RewardModel.from_backbone(model, **{k: v for k, v in options.items() if v is not None})
    first = tokens * 6 // 10
    row = {"input_ids": [[5] * first, [7] * (tokens - first)], "prefix_length": 0, "ranks": [0, 1], "margin": None}
    rows = Dataset.from_list([{**row, "row": i, "length": tokens} for i in range(2)])
    args = arguments(folder, kind, model_init_kwargs=None)
    trainer = PairwiseRewardTrainer(reward_model, args, train_dataset=rows, **more)
    weights = [*reward_model.parameters(), *reward_model.buffers()]
    states = [weight.quant_state for weight in weights if hasattr(weight, "quant_state")]
    weights += [tensor for state in states for tensor in (state.absmax, state.state2.absmax)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.train()
    live = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak + sum(weight.untyped_storage().nbytes() for weight in weights)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    AutoModelForCausalLM.from_config(tiny_config("qwen3", **SIZES)).save_pretrained(folder)
    tiny_tokenizer("chatml").save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_is_within_two_per_cent_of_the_allocators_peak(kind, tiny, tmp_path):
    config, tokens = AutoConfig.from_pretrained(tiny), 600
    plan = plan_memory(config, arguments(tmp_path, kind), **peft_and_quantization(kind), tokens=tokens)
    peak = real_peak(tmp_path, kind, str(tiny), tokens)
    assert plan.peak == pytest.approx(peak, rel=0.02), plan


@pytest.mark.scale
@pytest.mark.real_model
@pytest.mark.filterwarnings("ignore:.*_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_of_smollm2_from_its_config_is_within_two_per_cent_too(kind, smollm2, tmp_path):
    plan = plan_memory(
        AutoConfig.from_pretrained(smollm2), arguments(tmp_path, kind), tokens=64, **peft_and_quantization(kind)
    )
    assert plan.peak == pytest.approx(real_peak(tmp_path, kind, str(smollm2), 64), rel=0.02), plan


@pytest.mark.filterwarnings("ignore:.*_checkpointing.* is deprecated:FutureWarning")
def test_memory_is_linear_in_layers_and_tokens(tmp_path, monkeypatch):
    """So four small steps plan a deep model at many tokens: here against the whole of it."""
    config, args = tiny_config("qwen3", **{**SIZES, "num_hidden_layers": 6}), arguments(tmp_path, "checkpointed")
    whole = tiny_config("qwen3", **{**SIZES, "num_hidden_layers": 6, "layer_types": None})
    whole.layer_types = ["full_attention"] * 3 + ["sliding_attention"] + ["full_attention"] * 2  # no period: not cut
    plans = [plan_memory(one, args, peft_config=lora_config(r=8), tokens=1000) for one in (config, whole)]
    assert plans[0].peak == pytest.approx(plans[1].peak, rel=0.01)
    planned = plan_memory(config, args, peft_config=lora_config(r=8), tokens=4000)
    monkeypatch.setattr(memory, "ENOUGH_TOKENS", 4000)
    computed = plan_memory(config, args, peft_config=lora_config(r=8), tokens=4000)
    assert planned.activations == pytest.approx(computed.activations, rel=0.02)


def test_the_verdict_adds_context_and_fragmentation_and_the_largest_micro_batch_leaves_a_tenth():
    plan = MemoryPlan(
        3 * GB, GB, 2 * GB, GB, 4 * GB, activations_per_token=GB / 1024, tokens=4096, tokens_of_a_pair=2048
    )
    assert plan.total == 10 * GB * (1 + FRAGMENTATION) + CONTEXT
    assert plan.may_fit(plan.total - plan.error) and not plan.may_fit(plan.total - plan.error - 1)
    larger = MemoryPlan(3 * GB, GB, 2 * GB, GB, 4 * GB + (plan.max_tokens(16 * GB) - 4096) * GB / 1024, 0, 0, 0)
    assert larger.total == pytest.approx(0.9 * 16 * GB, rel=1e-3)
    assert plan.max_tokens(4 * GB) == 0
    updating = MemoryPlan(
        3 * GB, GB, 2 * GB, 8 * GB, 4 * GB, activations_per_token=GB / 1024, tokens=4096, tokens_of_a_pair=2048
    )
    assert (
        updating.peak == 14 * GB and updating.max_tokens(16 * GB) == 0
    )  # however few tokens, the update is too large
    assert updating.max_tokens(18 * GB) == plan.max_tokens(18 * GB) > 4096


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_length": 100, "max_tokens_per_microbatch": None, "per_device_train_batch_size": 4}, 800),
        ({"max_length": 100, "max_tokens_per_microbatch": 500, "per_device_train_batch_size": 4}, 500),
        ({"max_length": 100, "max_tokens_per_microbatch": 50, "per_device_train_batch_size": 4}, 200),  # a pair alone
        ({"max_length": 100, "max_tokens_per_microbatch": 5000, "per_device_train_batch_size": 2}, 400),
    ],
)
def test_the_longest_microbatch_is_the_budget_or_a_pair_of_whole_texts(fields, tokens):
    assert longest_microbatch(SimpleNamespace(**fields)) == tokens
    with pytest.raises(ValueError, match="max_length is unset"):
        longest_microbatch(SimpleNamespace(**{**fields, "max_length": None}))


def test_a_number_of_tokens_needs_no_length_of_a_text(tmp_path):
    args = arguments(tmp_path, "LoRA", max_length=None)
    assert (
        plan_memory(tiny_config("qwen3", **SIZES), args, peft_config=lora_config(r=8), tokens=64).tokens_of_a_pair
        == 64
    )


def test_eight_bit_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="8-bit weights cannot be planned; use load_in_4bit"):
        plan_memory(tiny_config(), arguments(tmp_path, "LoRA"), BitsAndBytesConfig(load_in_8bit=True), tokens=64)
