"""What the CPU tests hold, on a GPU: `make gpu`. RM_PLUGIN_GPU_SUITE_ON=cpu runs the same code without one.

In float32 (TF32 off) numbers are equal within 1e-4 of their spread, since kernels sum in other orders than a CPU's. 16
bits are compared with float32: the packed row may lie at most twice as far from it as the padded form does.
"""

import copy
import os

import pytest
import torch
import torch.nn.functional as F
import trl
from models import VOCAB_SIZE, checkpoint_activations, tiny_reward_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from training_runs import classifier, make_trainer, preference_rows

from rm_plugin import RewardModel, RewardScorer, lora_config
from rm_plugin.data.encoding import EncodedGroup
from rm_plugin.model import attention
from rm_plugin.model.adapters import nf4_config
from rm_plugin.model.packing import collate, pad
from rm_plugin.training.memory import plan_memory

DEVICE = os.environ.get("RM_PLUGIN_GPU_SUITE_ON") or ("cuda" if torch.cuda.is_available() else None)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE is None, reason="no GPU is here")]

PACKED = ("llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt_oss", "olmo2", "phi3", "exaone4", "gpt2")
HYBRIDS = ("qwen3_5", "granite_hybrid", "falcon_h1", "lfm2")


@pytest.fixture(autouse=True)
def exact_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def group(prefix: int, *rests: int, seed: int = 0) -> EncodedGroup:
    ids = torch.randint(3, VOCAB_SIZE, (prefix + sum(rests),), generator=torch.Generator().manual_seed(seed)).tolist()
    ends = [prefix + sum(rests[: i + 1]) for i in range(len(rests))]
    return EncodedGroup([ids[:prefix] + ids[end - rest : end] for end, rest in zip(ends, rests, strict=True)])


GROUPS = [group(61, 5, 17, 40, 1), group(9, 6, 2, seed=1), group(0, 12, seed=2), group(130, 33, 1, seed=3)]
TEXTS = [ids for one in GROUPS for ids in one.input_ids]


def on_device(batch: dict) -> dict:
    return {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def rewards(model, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**on_device(batch)).logits.flatten().float().cpu()


def gradients(model, batch: dict) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    better, *others = model(**on_device(batch)).logits.flatten().float()
    F.softplus(torch.stack(others) - better).mean().backward()
    return {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert (ours - expected).abs().max().item() <= tolerance * max(1.0, expected.std().item())


def gradient_errors(ours: dict, expected: dict) -> dict[str, float]:
    """Of each parameter, relative to its gradient's norm, or to a hundredth of the whole one where that is more."""
    total = torch.stack([g.norm() for g in expected.values()]).norm()
    assert ours.keys() == expected.keys() and total > 0
    sizes = {name: torch.maximum(gradient.norm(), 1e-2 * total) for name, gradient in expected.items()}
    return {name: ((ours[name] - expected[name]).norm() / size).item() for name, size in sizes.items()}


def assert_gradients_close(ours: dict, expected: dict, bound: float = 1e-4) -> None:
    errors = gradient_errors(ours, expected)
    assert max(errors.values()) <= bound, max(errors, key=errors.get)


@pytest.mark.parametrize("architecture", PACKED)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_rewards_and_gradients_of_a_packed_row_equal_the_padded_ones(architecture, checkpointing):
    model = tiny_reward_model(architecture).to(DEVICE)
    assert model.batch_form() == "packed"
    if checkpointing:
        checkpoint_activations(model)
    assert_close(rewards(model, collate(GROUPS, "packed")), rewards(model, pad(TEXTS)))
    expected = gradients(copy.deepcopy(model), pad(TEXTS))
    assert_gradients_close(gradients(model, collate(GROUPS, "packed")), expected)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_hybrids_score_from_a_prompts_cache_as_from_whole_texts(architecture):
    model = tiny_reward_model(architecture).to(DEVICE)
    if model.batch_form() != "continued":
        pytest.skip("the check found other numbers on this device, so the model is padded")
    assert_close(rewards(model, collate(GROUPS, "continued")), rewards(model, pad(TEXTS)))


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_hybrids_train_with_the_gradients_of_padded_batches(architecture):
    model = tiny_reward_model(architecture).to(DEVICE)
    expected = gradients(copy.deepcopy(model), pad(TEXTS))
    form = model.batch_form(with_gradients=True)  # "apart" where the kernels are installed
    assert_gradients_close(gradients(model, collate(GROUPS, form)), expected, bound=1e-2 if form == "apart" else 1e-4)


@pytest.mark.skipif(DEVICE == "cpu", reason="what a CPU hands out is compared in tests/training/test_memory.py")
@pytest.mark.parametrize("uses_lora", [True, False])
def test_the_plan_lies_within_a_tenth_of_what_the_allocator_hands_out(uses_lora, tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "head_dim": 64}
    model = classifier("qwen3", num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=4096, **sizes)
    rows = [{"chosen_ids": [5] * 2000, "rejected_ids": [7] * 2000}] * 4
    options = {"max_steps": 4, "per_device_train_batch_size": 1, "max_length": 2048, "use_cpu": False}
    options["peft_config"] = lora_config(r=8) if uses_lora else None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer = make_trainer(tmp_path, model, rows, **options)
    trainer.train()
    plan = plan_memory(model.config, trainer.args, peft_config=options["peft_config"], tokens=4000)
    assert plan.peak == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])  # all of a text, and a window
@pytest.mark.parametrize("route", ["kernel", "portable"])
def test_in_16_bits_both_routes_round_as_the_padded_form_does(architecture, head_dim, route, monkeypatch):
    exact = tiny_reward_model(architecture, head_dim=head_dim)
    expected = rewards(exact.to(DEVICE), pad(TEXTS))
    expected_gradients = gradients(copy.deepcopy(exact), pad(TEXTS))
    model = copy.deepcopy(exact).to(torch.bfloat16)
    model.score.float()
    assert model.batch_form() == "packed"
    calls = []
    kernel = attention.varlen_attn
    monkeypatch.setattr(attention, "varlen_attn", lambda *args, **kwargs: calls.append(1) or kernel(*args, **kwargs))
    if route == "portable":
        monkeypatch.setattr(attention, "_varlen_dtype", lambda query, value: None)
    ours, padded = rewards(model, collate(GROUPS, "packed")), rewards(model, pad(TEXTS))
    num_scoring = len(calls)
    errors = gradient_errors(gradients(model, collate(GROUPS, "packed")), expected_gradients)
    padded_errors = gradient_errors(gradients(model, pad(TEXTS)), expected_gradients)
    if DEVICE == "cuda":
        uses_kernel = route == "kernel" and torch.cuda.get_device_capability() >= (8, 0)
        assert bool(num_scoring) == uses_kernel and (len(calls) > num_scoring) == uses_kernel
    assert (ours - expected).abs().mean() <= 2 * (padded - expected).abs().mean() + 1e-3
    for name, error in errors.items():
        assert error <= 2 * padded_errors[name] + 0.05, name


def test_lora_over_4_bits_has_the_padded_gradients(tmp_path):
    tiny_reward_model("llama", hidden_size=64, intermediate_size=64, head_dim=16).save_pretrained(tmp_path)
    model = RewardModel.from_pretrained(tmp_path, quantization_config=nf4_config(), device_map={"": DEVICE})
    assert model.batch_form() == "packed"
    torch.manual_seed(0)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"])
    model = get_peft_model(model, config)
    packed = gradients(model, collate(GROUPS, "packed"))
    padded = gradients(model, pad(TEXTS))
    assert any("lora" in name for name in packed) and any("score" in name for name in packed)
    assert_gradients_close(packed, padded, bound=0.1)  # the kernel of 4 bits computes in 16


def test_a_scorer_gives_the_scores_of_a_cpu():
    prompts, completions = (
        ["Which country owns Antarctica"] * 3 + ["hello"],
        [" none", " penguins", " four five", " w"],
    )
    there, here = tiny_reward_model("qwen3").to(DEVICE), tiny_reward_model("qwen3")
    scores = RewardScorer(there, tiny_tokenizer("plain"), max_num_batched_tokens="auto").score(prompts, completions)
    expected = RewardScorer(here, tiny_tokenizer("plain")).score(prompts, completions)
    assert_close(torch.tensor(scores), torch.tensor(expected))


def test_twenty_steps_follow_trl(tmp_path):
    options = {"max_steps": 20, "per_device_train_batch_size": 4, "use_cpu": DEVICE == "cpu", "learning_rate": 1e-3}
    losses = []
    for cls in (trl.RewardTrainer, None):
        trainer = make_trainer(
            tmp_path / str(cls), classifier(), preference_rows(80), **({"cls": cls} if cls else {}), **options
        )
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
