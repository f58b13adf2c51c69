"""Adapters: their folders, what is refused, and that merging keeps the scores, over NF4 too."""

import copy
import json
from pathlib import Path

import pytest
import torch
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from saved_models import NF4_SIZES, PAD, assert_equal_scores, linear4bits, lora_around, nf4, padded, scores, seeded
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from rm_plugin.data.encoding import ensure_pad_token
from rm_plugin.model.adapters import load_peft_model, merge_adapter, save_adapter
from rm_plugin.model.modeling import RewardModel


def test_adapter_folder_is_the_standard_one_and_a_side_file(saved):
    folder = Path(saved["nf4-lora"].path)
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "reward_model.json",
    }
    side = json.loads((folder / "reward_model.json").read_text())
    assert side["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    assert side["dtype"] == "float32"
    assert side["reasoning"] == "keep"
    with safe_open(Path(saved["lora-gpt2"].path, "adapter_model.safetensors"), framework="pt") as weights:
        assert "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight" in weights.keys()  # noqa: SIM118


@pytest.mark.parametrize("name", ["lora", "lora-bf16", "nf4-lora"])
def test_loaded_adapters_and_head_are_float32_and_frozen(name, saved):
    model = RewardModel.from_pretrained(saved[name].path)
    adapters = {n: p for n, p in model.named_parameters() if "lora_" in n or "modules_to_save" in n}
    assert len(adapters) == 2 * 14 + 1
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    assert model.dtype == (torch.bfloat16 if name == "lora-bf16" else torch.float32)


def test_adapter_is_loaded_trainable_on_request(saved):
    peft_model = load_peft_model(RewardModel, saved["lora"].path, is_trainable=True)
    trainable = {n for n, p in peft_model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 14 + 1
    assert all("lora_" in n or "score.modules_to_save" in n for n in trainable)


def test_loaded_adapter_saves_itself_as_an_adapter_again(saved, tmp_path):
    model = RewardModel.from_pretrained(saved["nf4-lora"].path)
    model.config.reward_mean = 0.5
    model.save_pretrained(tmp_path)
    again = RewardModel.from_pretrained(tmp_path)
    assert again.config.reward_mean == 0.5
    assert_equal_scores(scores(again), saved["nf4-lora"].scores)
    with pytest.raises(ValueError, match="format='native' holds no adapters; merge"):
        model.save_pretrained(tmp_path, format="native")


def test_other_processes_than_the_main_one_write_nothing(saved, tmp_path):
    for name in ("lora", "llama"):
        RewardModel.from_pretrained(saved[name].path).save_pretrained(tmp_path, is_main_process=False)
        assert list(tmp_path.iterdir()) == []


def test_model_inside_a_peft_model_does_not_save_or_merge_half_of_itself(saved, tmp_path):
    inner = lora_around(RewardModel.from_pretrained(saved["llama"].path)).get_base_model()
    with pytest.raises(ValueError, match="holds adapters of a PeftModel around it; take that PeftModel and save it"):
        inner.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="take that PeftModel and merge it"):
        inner.merge()


def test_adapter_of_plain_peft_is_loaded(causal, tmp_path):
    """As TRL's own RewardTrainer leaves it: no side file, a head in the adapter, a causal model for a base."""
    for architecture, options in (("llama", {}), ("gpt2", {"fan_in_fan_out": True})):
        plain = AutoModelForSequenceClassification.from_pretrained(
            causal(architecture), num_labels=1, pad_token_id=PAD
        )
        peft_model = lora_around(plain, **options)
        folder = tmp_path / architecture
        peft_model.save_pretrained(folder)
        assert not (folder / "reward_model.json").exists()
        assert_equal_scores(scores(RewardModel.from_pretrained(folder)), scores(peft_model))


def test_adapter_on_a_trained_reward_model_needs_no_head_of_its_own(saved, tmp_path):
    peft_model = lora_around(RewardModel.from_pretrained(saved["llama"].path), task_type=None, modules_to_save=None)
    with safe_open(Path(saved["llama"].path, "model.safetensors"), framework="pt") as weights:
        assert torch.equal(peft_model.get_base_model().score.base_layer.weight, weights.get_tensor("score.weight"))
    peft_model.save_pretrained(tmp_path)
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path)), scores(peft_model))


@pytest.mark.parametrize("target_modules", [["q_proj"], "all-linear"])
def test_adapter_without_a_head_on_an_untrained_base_is_refused(target_modules, causal, tmp_path):
    """What TRL leaves for `LoraConfig()` without a task type: a head frozen at its random start and not saved, in the
    second case under a LoRA of its own.
    """
    plain = AutoModelForSequenceClassification.from_pretrained(causal("llama"), num_labels=1)
    lora_around(plain, task_type=None, modules_to_save=None, target_modules=target_modules).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither the adapter nor its base .* holds a trained reward head"):
        RewardModel.from_pretrained(tmp_path)


def test_adapter_whose_weights_are_not_all_there_is_refused(saved, tmp_path):
    peft_model = load_peft_model(RewardModel, saved["lora"].path)
    save_adapter(peft_model, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    del weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(weights, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="no weights for .*up_proj.lora_B.weight"):
        RewardModel.from_pretrained(tmp_path)


def test_dtype_auto_of_an_adapter_is_the_one_recorded(tmp_path):
    """A checkpoint in bf16, as most are, and an adapter trained over it in float32, as TRL does by default."""
    AutoModelForCausalLM.from_config(tiny_config("llama")).bfloat16().save_pretrained(tmp_path / "base")
    peft_model = lora_around(RewardModel.from_backbone(tmp_path / "base", dtype=torch.float32))
    save_adapter(peft_model, tmp_path / "adapter")
    for kwargs in ({}, {"dtype": "auto"}, {"torch_dtype": "auto"}):
        loaded = RewardModel.from_pretrained(tmp_path / "adapter", **kwargs)
        assert loaded.dtype == torch.float32
        assert_equal_scores(scores(loaded), scores(peft_model))
    assert RewardModel.from_pretrained(tmp_path / "adapter", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_adapter_of_another_name_is_in_its_own_folder_with_its_side_file(causal, tmp_path):
    model = seeded(RewardModel.from_backbone, causal("llama"))
    config = LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], target_modules="all-linear")
    peft_model = get_peft_model(model, config, "reward").eval()
    save_adapter(peft_model, tmp_path)
    assert not (tmp_path / "reward_model.json").exists()
    peft_model.add_adapter("second", config)
    save_adapter(peft_model, tmp_path / "one", selected_adapters=["reward"])
    assert [path.name for path in (tmp_path / "one").glob("*/reward_model.json")] == ["reward_model.json"]
    save_adapter(peft_model, tmp_path / "none", is_main_process=False)
    assert not list((tmp_path / "none").glob("**/reward_model.json"))
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path / "reward")), scores(peft_model))
    assert json.loads((tmp_path / "reward" / "reward_model.json").read_text())["dtype"] == "float32"


def test_adapter_on_embeddings_is_saved_and_loaded(causal, tmp_path):
    model = seeded(RewardModel.from_backbone, causal("llama"))
    peft_model = lora_around(model, target_modules=["embed_tokens", "q_proj"])
    save_adapter(peft_model, tmp_path, save_embedding_layers=False)
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path)), scores(peft_model))


def test_adapter_without_a_base_is_refused(tmp_path):
    save_adapter(lora_around(tiny_reward_model()), tmp_path)
    with pytest.raises(ValueError, match="the adapter names no base model; set base_model_name_or_path"):
        RewardModel.from_pretrained(tmp_path)


def test_adapter_with_a_new_token_grows_the_base_again(causal, tmp_path):
    model, tokenizer = seeded(RewardModel.from_backbone, causal("llama")), tiny_tokenizer("one_special")
    tokenizer.add_tokens([f"<{i}>" for i in range(320 - len(tokenizer))])  # no room for another one
    ensure_pad_token(tokenizer, model)
    assert model.config.pad_token_id == 320
    peft_model = lora_around(model)
    with pytest.warns(UserWarning, match="embedding"):
        save_adapter(peft_model, tmp_path)
    loaded = RewardModel.from_pretrained(tmp_path)
    assert loaded.config.pad_token_id == 320
    assert loaded.config.vocab_size == 321
    assert_equal_scores(scores(loaded, padded(pad=320)), scores(peft_model))


@pytest.mark.parametrize("base", ["llama", "native", "native-gpt2"])
def test_adapter_on_any_saved_reward_model(base, saved, tmp_path):
    fan_in_fan_out = base.endswith("gpt2")
    peft_model = lora_around(RewardModel.from_pretrained(saved[base].path), fan_in_fan_out=fan_in_fan_out)
    save_adapter(peft_model, tmp_path)
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path)), scores(peft_model))


def test_peft_model_around_a_reward_model_runs_as_peft_calls_it():
    peft_model = lora_around(tiny_reward_model())
    output = peft_model(**padded(), output_hidden_states=True)
    assert output.logits.shape == (4, 1)
    assert len(output.hidden_states) == 3
    assert_equal_scores(scores(peft_model), scores(peft_model.get_base_model()))


def nf4_routes(saved, causal):
    folder = causal("llama", **NF4_SIZES)
    yield "from_backbone", RewardModel.from_backbone(folder, quantization_config=nf4())
    as_in_a_recipe = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    yield "from_pretrained", RewardModel.from_pretrained(saved["merged"].path, quantization_config=as_in_a_recipe)
    yield "quantised folder", RewardModel.from_pretrained(saved["nf4"].path)
    yield "adapter", RewardModel.from_pretrained(saved["nf4-lora"].path)
    yield (
        "auto class",
        RewardModel.from_sequence_classifier(AutoModelForSequenceClassification.from_pretrained(saved["nf4"].path)),
    )
    yield "in memory", RewardModel.from_backbone(AutoModel.from_pretrained(folder, quantization_config=nf4()))


def test_every_way_to_load_four_bits_leaves_kernels_that_can_train(saved, causal):
    """The CPU kernel for AVX512-BF16 has no autograd and would be taken after the first forward in eval mode."""
    for route, model in nf4_routes(saved, causal):
        assert [m.support_avx512bf16_for_cpu for m in linear4bits(model)] == [False] * 14, route
        assert model.is_loaded_in_4bit, route
        assert scores(model).std() > 0.05, route


def test_gradients_under_nf4_are_the_same_after_an_evaluation(saved):
    peft_model = load_peft_model(RewardModel, saved["nf4-lora"].path, is_trainable=True)

    def gradients():
        peft_model.train().zero_grad()
        peft_model(**padded()).logits.sum().backward()
        return {n: p.grad.clone() for n, p in peft_model.named_parameters() if p.grad is not None}

    before = gradients()
    train_scores = scores(peft_model)
    assert_equal_scores(scores(peft_model.eval()), train_scores)
    after = gradients()
    assert len(before) == 2 * 14 + 1
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_quantised_classifier_that_has_already_been_run_is_unpacked(saved):
    theirs = AutoModelForSequenceClassification.from_pretrained(saved["nf4"].path)
    scores(theirs)  # bitsandbytes repacks here, where the processor has AVX512-BF16
    model = RewardModel.from_sequence_classifier(theirs)
    assert not any(getattr(m.weight.quant_state, "packing_format_for_cpu", False) for m in linear4bits(model))
    assert_equal_scores(scores(model), saved["nf4"].scores, tolerance=2e-2)  # repacking rounds the scales to bf16


@pytest.mark.parametrize(("compute_dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.035)])
def test_merging_nf4_dequantises_first(compute_dtype, bound, causal, tmp_path):
    """Folding into NF4 quantises again, which moves scores by 0.2; the bound in bf16 is the 4-bit layers' rounding."""
    model = seeded(RewardModel.from_backbone, causal("llama", **NF4_SIZES), quantization_config=nf4(compute_dtype))
    save_adapter(lora_around(model), tmp_path)
    expected = scores(RewardModel.from_pretrained(tmp_path))
    merged = RewardModel.from_pretrained(tmp_path).merge()
    assert linear4bits(merged) == []
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    assert_equal_scores(scores(merged), expected, tolerance=bound)
    with pytest.warns(UserWarning, match="Merge lora module to 4-bit"):
        folded_into_nf4 = load_peft_model(RewardModel, tmp_path).merge_and_unload()
    assert (scores(folded_into_nf4) - expected).abs().max() > 4 * bound


def test_merged_model_is_the_same_object_without_adapters(saved, tmp_path):
    model = RewardModel.from_pretrained(saved["lora"].path)
    assert model.merge() is model
    assert not [name for name, _ in model.named_parameters() if "lora" in name or "base_layer" in name]
    assert all(p.requires_grad for p in model.parameters())
    assert_equal_scores(scores(model), saved["lora"].scores)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path)), saved["lora"].scores)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"adapter_name": "other"}, {"use_rslora": True}])
def test_merge_of_other_adapters_over_nf4(options, causal):
    options = dict(options)
    name = options.pop("adapter_name", "default")
    model = seeded(RewardModel.from_backbone, causal("llama", **NF4_SIZES), quantization_config=nf4())
    config = LoraConfig(r=4, task_type="SEQ_CLS", target_modules="all-linear", **options)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        peft_model = get_peft_model(model, config, adapter_name=name)
        for key, parameter in peft_model.named_parameters():
            if "lora_B" in key:
                parameter.data.normal_(std=0.1)
    expected = scores(peft_model.eval())
    assert_equal_scores(scores(merge_adapter(peft_model)), expected, tolerance=2e-2)


def test_merge_in_another_dtype(saved):
    exact = saved["lora"].scores
    bf16 = RewardModel.from_pretrained(saved["lora"].path).merge(torch.bfloat16)
    assert bf16.model.dtype == torch.bfloat16
    assert bf16.score.weight.dtype == torch.float32
    assert_equal_scores(scores(bf16), exact, tolerance=0.1)
    # from a bf16 base, float32 keeps what adding in bf16 would round away
    folded = RewardModel.from_pretrained(saved["lora-bf16"].path).merge(torch.float32)
    assert {p.dtype for p in folded.parameters()} == {torch.float32}
    assert_equal_scores(scores(folded), scores(RewardModel.from_pretrained(saved["lora-bf16"].path).float()))


def test_merge_without_adapters_makes_the_model_plain(saved):
    model = RewardModel.from_pretrained(saved["nf4"].path)
    assert model.merge() is model
    assert linear4bits(model) == []
    assert not hasattr(model, "is_loaded_in_4bit")
    assert getattr(model.config, "quantization_config", None) is None
    assert_equal_scores(scores(model), saved["nf4"].scores, tolerance=2e-2)


@pytest.mark.parametrize("name", ["nf4-lora", "nf4", "llama"])
def test_export_in_bf16_is_a_plain_checkpoint(name, saved, tmp_path):
    tokenizer = tiny_tokenizer("plain")
    model = RewardModel.from_pretrained(saved[name].path).export(tmp_path, tokenizer, torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        dtypes = {key: weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert dtypes.pop("score.weight") == torch.float32
    assert set(dtypes.values()) == {torch.bfloat16}
    loaded = RewardModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())
    assert_equal_scores(scores(model), saved[name].scores, tolerance=0.1)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "apply_chat_template" not in readme  # this tokenizer has no chat template
    assert "tokenizer.eos_token" in readme


def test_copy_of_a_model_with_adapters_merges_by_itself(saved):
    model = RewardModel.from_pretrained(saved["lora"].path)
    copied = copy.deepcopy(model)
    copied.merge()
    assert any("lora" in name for name, _ in model.named_parameters())
    assert not any("lora" in name for name, _ in copied.named_parameters())
    assert_equal_scores(scores(copied), scores(model))
