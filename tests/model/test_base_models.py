"""Base models that people start from: rewards, gradients, adapters, and what is saved, in the form that each takes.

Models whose layers are all attention are packed. Hybrids (linear attention, state space) score by continuing from the
cache of a prompt, and train on calls of similar lengths. The reference is each text alone, or the padded form, in
transformers' own attention.
"""

import copy
import inspect
import sys

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from models import VOCAB_SIZE, WINDOW, checkpoint_activations, tiny_config, tiny_reward_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
)

from rm_plugin.commands.cli import main
from rm_plugin.data.encoding import EncodedGroup
from rm_plugin.model import packing
from rm_plugin.model.adapters import save_adapter
from rm_plugin.model.modeling import RewardModel
from rm_plugin.model.packing import collate, pad
from rm_plugin.scoring.scorer import RewardScorer, weights_digest
from rm_plugin.training.batches import PackingCollator
from rm_plugin.training.peft_configs import lora_config
from rm_plugin.training.trainer import PairwiseRewardConfig, PairwiseRewardTrainer

PACKED = ("gemma3", "gemma4", "ministral3", "olmo3", "smollm3", "granite", "gpt_oss", "glm4", "phi3", "exaone4")
CONTINUED = ("qwen3_5", "qwen3_next", "granite_hybrid", "falcon_h1", "nemotron_h", "lfm2")
LADDER = {**dict.fromkeys(PACKED, "packed"), **dict.fromkeys(CONTINUED, "continued")}


def group(prefix: int, *rests: int, seed: int = 0) -> EncodedGroup:
    """`len(rests)` completions of `rests` random tokens after `prefix` shared ones."""
    generator = torch.Generator().manual_seed(1000 * seed + prefix)
    ids = torch.randint(3, VOCAB_SIZE, (prefix + sum(rests),), generator=generator).tolist()
    ends = [prefix + sum(rests[: i + 1]) for i in range(len(rests))]
    return EncodedGroup([ids[:prefix] + ids[end - rest : end] for end, rest in zip(ends, rests, strict=True)])


GROUPS = [group(3 * WINDOW, 5, 17, 30, 1), group(9, 6, 2, seed=1), group(0, 12, seed=2), group(33, 1, 1, 1, seed=3)]


@pytest.fixture(autouse=True)
def every_token_counts(monkeypatch):
    """At these sizes a call costs more than the tokens that it saves."""
    monkeypatch.setattr(packing, "TOKENS_OF_A_CALL", {"continued": 1, "sorted": 1})


def texts(groups=GROUPS) -> list[list[int]]:
    return [ids for g in groups for ids in g.input_ids]


@torch.no_grad()
def scores(model, batch) -> torch.Tensor:
    return model(**batch).logits.flatten()


def assert_equal(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5):
    """Equal as the design means it: within 1e-5 × max(1, standard deviation of the scores)."""
    assert expected.std() > 0.05
    assert (ours - expected).abs().max().item() <= tolerance * max(1.0, expected.std().item())


def loss(logits: torch.Tensor) -> torch.Tensor:
    per_group = logits.flatten().split([len(g.input_ids) for g in GROUPS])
    return torch.stack([-F.logsigmoid(z[0] - z[1:]).mean() for z in per_group if len(z) > 1]).mean()


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    loss(model(**batch).logits).backward()
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients_equal(ours: dict, expected: dict, bound: float = 2e-5):
    total = torch.stack([g.norm() for g in expected.values()]).norm()
    assert ours.keys() == expected.keys() and total > 0
    for name, gradient in expected.items():  # what is nearly nothing is so by cancellation
        assert (ours[name] - gradient).norm() <= bound * torch.maximum(gradient.norm(), 1e-3 * total), name


@pytest.mark.parametrize(("architecture", "form"), LADDER.items())
def test_rewards_equal_those_of_each_text_alone(architecture, form, caplog):
    model = tiny_reward_model(architecture)
    alone = torch.cat([scores(model, {"input_ids": torch.tensor([ids])}) for ids in texts()])
    assert [model.batch_form() for _ in range(3)] == [form] * 3
    line = "rows are not packed, scoring continues from the cache of a prompt: "
    said = [record.getMessage().startswith(line) for record in caplog.records if record.name.startswith("rm_plugin")]
    assert said == ([True] if form == "continued" else [])
    batch = collate(GROUPS, form)
    assert ("shared_prefix_layout" if form == "packed" else "calls") in batch
    assert_equal(scores(model, batch), alone)


@pytest.mark.parametrize(("architecture", "form"), LADDER.items())
def test_gradients_equal_those_of_one_padded_batch(architecture, form):
    reference = tiny_reward_model(architecture)
    ours = copy.deepcopy(reference)
    expected = gradients(reference, pad(texts()))
    batch = collate(GROUPS, "packed" if ours.batch_form() == "packed" else "sorted")
    assert form == "packed" or len(batch["calls"]) > 3
    assert_gradients_equal(gradients(ours, batch), expected)
    checkpoint_activations(ours)
    assert_gradients_equal(gradients(ours, batch), expected)


def with_lora(model: RewardModel):
    torch.manual_seed(1)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"])
    peft_model = get_peft_model(model, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return peft_model.eval()


@pytest.mark.parametrize(("architecture", "form"), LADDER.items())
def test_adapters_are_trained_saved_merged_and_opened_again(architecture, form, tmp_path):
    base = tiny_reward_model(architecture)
    base.save_pretrained(tmp_path / "base", format="native")
    ours = with_lora(RewardModel.from_pretrained(tmp_path / "base"))
    reference = with_lora(RewardModel.from_pretrained(tmp_path / "base"))
    assert ours.get_base_model().batch_form() == form
    expected = gradients(reference, pad(texts()))
    assert sum("lora_A" in name for name in expected) >= 4
    assert_gradients_equal(gradients(ours, collate(GROUPS, "packed" if form == "packed" else "sorted")), expected)

    trained = scores(reference, pad(texts()))
    assert_equal(scores(ours, collate(GROUPS, form)), trained)
    save_adapter(ours, tmp_path / "adapter")
    loaded = RewardModel.from_pretrained(tmp_path / "adapter")
    assert loaded.batch_form() == form
    assert_equal(scores(loaded, collate(GROUPS, form)), trained)
    merged = loaded.merge()
    assert_equal(scores(merged, collate(GROUPS, merged.batch_form())), trained, 1e-4)  # every weight is rounded anew


@pytest.mark.parametrize(("architecture", "form"), LADDER.items())
def test_what_is_saved_opens_again_and_plain_transformers_opens_what_is_exported(architecture, form, tmp_path, caplog):
    model = tiny_reward_model(architecture)
    expected = scores(model, pad(texts()))
    model.save_pretrained(tmp_path / "saved")
    again = RewardModel.from_pretrained(tmp_path / "saved")
    assert again.batch_form() == form
    assert_equal(scores(again, collate(GROUPS, form)), expected)
    if (reason := model.why_not_standard()) is not None:
        assert f"{reason}: saved as model_type reward_model" in caplog.text
        return
    model.export(tmp_path / "exported", tiny_tokenizer("plain"))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")
    assert not isinstance(plain, RewardModel)
    assert_equal(scores(plain, pad(texts())), expected)


# --- rows packed without sharing, where a GPU has kernels that are told where a text begins


def kernel(module, name: str, dim: int):
    """transformers' own code in `module` as such a kernel: one text after the other along `dim` of what has it."""
    reference = inspect.unwrap(getattr(module, name))

    def one_text_at_a_time(*args, seq_idx=None, cu_seqlens=None, **kwargs):
        if seq_idx is None and cu_seqlens is None:
            return reference(*args, **kwargs)
        lengths = seq_idx[0].bincount() if cu_seqlens is None else cu_seqlens.diff()
        outputs = []
        for i in range(len(lengths)):

            def own(x, i=i):
                has_texts = isinstance(x, torch.Tensor) and x.ndim >= 3
                return x.split(lengths.tolist(), dim)[i] if has_texts else x

            outputs.append(reference(*map(own, args), **{key: own(x) for key, x in kwargs.items()}))
        if isinstance(outputs[0], tuple):  # and the last state, which packed rows lack
            return torch.cat([output for output, _ in outputs], dim), None
        return torch.cat(outputs, dim)

    return one_text_at_a_time


# function ► dimension of the tokens; the fused kernel of training is not there, as in transformers' own code
KERNELS = {"causal_conv1d_fn": -1, "torch_chunk_gated_delta_rule": 1, "mamba2_chunk_scan": 1}
FUSED = "mamba2_split_conv1d_scan_combined"


def install_kernels(model: RewardModel, monkeypatch, names=tuple(KERNELS)) -> None:
    module = sys.modules[type(model.model).__module__]
    for name in set(names) & set(vars(module)):
        monkeypatch.setattr(module, name, kernel(module, name, KERNELS[name]))
    if hasattr(module, FUSED):
        monkeypatch.setattr(module, FUSED, lambda *args, **kwargs: None)


@pytest.mark.parametrize("architecture", CONTINUED)
def test_with_kernels_that_know_where_texts_begin_hybrids_train_on_one_row_without_padding(architecture, monkeypatch):
    reference = tiny_reward_model(architecture)
    assert reference.batch_form(with_gradients=True) == "sorted"
    alone = torch.cat([scores(reference, {"input_ids": torch.tensor([ids])}) for ids in texts()])
    expected = gradients(copy.deepcopy(reference), pad(texts()))
    install_kernels(reference, monkeypatch)
    ours = tiny_reward_model(architecture)
    assert (ours.batch_form(), ours.batch_form(with_gradients=True)) == ("continued", "apart")
    batch = collate(GROUPS, "apart")
    assert batch["input_ids"].tolist() == [sum(texts(), [])]
    assert batch["cu_seq_lens_q"].diff().tolist() == [len(ids) for ids in texts()]
    assert_equal(scores(ours, batch), alone)
    assert_equal(scores(ours, collate(GROUPS, ours.batch_form())), alone)  # between two steps
    assert_gradients_equal(gradients(ours, batch), expected)
    ours.activation_checkpointing_enable()
    assert_gradients_equal(gradients(ours, batch), expected)


@pytest.mark.parametrize(
    ("architecture", "deaf"), [("qwen3_5", "causal_conv1d_fn"), ("falcon_h1", "mamba2_chunk_scan")]
)
def test_a_kernel_that_does_not_heed_where_texts_begin_is_refused(architecture, deaf, monkeypatch):
    model = tiny_reward_model(architecture)
    install_kernels(model, monkeypatch)
    module = sys.modules[type(model.model).__module__]
    heeding = getattr(module, deaf)
    monkeypatch.setattr(module, deaf, lambda *args, seq_idx=None, **kwargs: heeding(*args, **kwargs))
    assert model.batch_form(with_gradients=True) == "sorted"


# --- models that also see: the part that reads text

SIGHT = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8},
    **{"num_key_value_heads": 2, "image_size": 16, "patch_size": 4},
}
SEEING = {  # model type ► text part, its sight
    "qwen3_5": ("qwen3_5", {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4}),
    "gemma4": ("gemma4", {**SIGHT, "position_embedding_size": 16}),
    "gemma3": ("gemma3", {**SIGHT, "model_type": "siglip_vision_model"}),
    "mistral3": ("ministral3", {**SIGHT, "model_type": "pixtral"}),
}


@pytest.fixture(scope="module", params=SEEING)
def seeing(request, tmp_path_factory):
    """A model that also sees, and its folder with a tokenizer."""
    text, sight = SEEING[request.param]
    parts = {"text_config": tiny_config(text).to_dict(), "vision_config": {**sight, "out_hidden_size": 32}}
    config = AutoConfig.for_model(request.param, **parts)
    config.audio_config = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config).eval()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    tiny_tokenizer("plain").save_pretrained(folder)
    return model, folder


def test_the_part_that_reads_text_is_loaded_alone(seeing, tmp_path):
    whole, folder = seeing
    ids = torch.tensor([texts()[0]])
    with torch.no_grad():
        expected = whole.model(input_ids=ids).last_hidden_state
        for model in (RewardModel.from_backbone(folder), RewardModel.from_backbone(whole)):
            assert not any("vision" in name or "visual" in name for name, _ in model.named_parameters())
            assert torch.allclose(model.eval().model(input_ids=ids).last_hidden_state, expected, atol=1e-6)


@pytest.mark.parametrize("form", ["full", "adapter"])
def test_the_part_that_reads_text_is_trained_saved_exported_and_opened_again(seeing, form, tmp_path, caplog):
    _, folder = seeing
    rows = Dataset.from_list([{"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}] * 4)
    args = {"max_steps": 1, "report_to": "none", "use_cpu": True, "learning_rate": 1e-3, "save_strategy": "no"}
    config = PairwiseRewardConfig(str(tmp_path / "run"), bf16=False, **args)
    peft_config = lora_config(r=2) if form == "adapter" else None
    trainer = PairwiseRewardTrainer(str(folder), config, train_dataset=rows, peft_config=peft_config)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    standard = not folder.name.startswith("gemma4")  # for which transformers has no classifier
    advised = "opens with rm_plugin only; rm-plugin export makes a model of it that all can open" in caplog.text
    assert advised == (form == "adapter" and standard)
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert ("No other tool has a class for it" in card) == (form == "adapter" or not standard)
    ours = trainer.reward_model.eval()
    expected = scores(ours, pad(texts()))
    assert_equal(scores(RewardModel.from_pretrained(tmp_path / "saved"), pad(texts())), expected)
    caplog.clear()
    assert main(["export", str(tmp_path / "saved"), str(tmp_path / "exported")]) == 0
    said = "transformers has no sequence classifier for gemma4_text: saved as model_type reward_model"
    assert (said in caplog.text) != standard
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")
    assert isinstance(again, RewardModel) != standard
    assert_equal(scores(again, pad(texts())), expected, 1e-4)
    assert not any("vis" in name for name in again.state_dict())


def test_an_adapter_of_trls_around_a_model_that_also_sees_is_scored_by_the_part_that_reads_text(seeing, tmp_path):
    whole, folder = seeing
    if type(whole.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        pytest.skip("transformers has no classifier that sees")
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    classifier.config.pad_token_id = classifier.config.get_text_config().pad_token_id = 0
    theirs = with_lora(classifier)
    torch.nn.init.normal_(theirs.get_base_model().score.modules_to_save["default"].weight, std=0.3)
    expected = scores(theirs, pad(texts()))
    theirs.save_pretrained(tmp_path)
    assert_equal(scores(RewardModel.from_pretrained(tmp_path), pad(texts())), expected)


def test_a_classifier_that_also_sees_is_scored_by_the_part_that_reads_text(tmp_path):
    text, sight = SEEING["qwen3_5"]
    parts = {"text_config": tiny_config(text).to_dict(), "vision_config": {**sight, "out_hidden_size": 32}}
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3_5", **parts, num_labels=1)
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    torch.nn.init.normal_(classifier.score.weight, std=0.3)
    classifier.save_pretrained(tmp_path)
    expected = scores(classifier, pad(texts()))
    assert_equal(scores(RewardModel.from_pretrained(tmp_path), pad(texts())), expected)
    scorer = RewardScorer(classifier, tiny_tokenizer("plain"))
    model = scorer.model
    assert_equal(scores(model, pad(texts())), expected)
    scorer.score(["2 + 2 ="], [" 4"])
    assert scorer.model is model  # it is taken over once


# --- models that do not fit: parts on disk


@pytest.mark.parametrize(("architecture", "form"), [("llama", "packed"), ("qwen3_5", "continued")])
@pytest.mark.parametrize(
    "device_map",
    [
        {"": "disk"},
        {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
        | {"model.norm": "cpu", "model.rotary_emb": "cpu", "score": "cpu"},
    ],
    ids=["all", "a layer"],
)
def test_a_model_that_lies_on_disk_scores_the_same(architecture, form, device_map, tmp_path):
    model, tokenizer = tiny_reward_model(architecture), tiny_tokenizer("plain")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    scorer = RewardScorer(tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload")
    assert any(parameter.is_meta for parameter in scorer.model.parameters()) and scorer.form() == form
    in_memory = RewardScorer(model, tokenizer)
    prompts, answers = ["Which country owns Antarctica?"] * 3, ["None.", "Penguins own it.", "No country owns it."]
    assert_equal(*(torch.tensor(one.score(prompts, answers)) for one in (scorer, in_memory)))
    assert weights_digest(scorer.model) == weights_digest(RewardModel.from_pretrained(tmp_path / "model"))


# --- through the scorer and the trainer


@pytest.mark.parametrize("architecture", CONTINUED)
def test_a_scorer_computes_a_hybrids_prompt_once_and_every_text_keeps_its_score(architecture, monkeypatch):
    monkeypatch.undo()  # what a call costs
    model = tiny_reward_model(architecture)
    computed = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    prompt, answers = "Which country owns Antarctica? " * 3, ["None.", "Penguins own it.", "No country owns it.", "I"]
    shared, padded = (RewardScorer(model, tiny_tokenizer("plain"), shared_prefix=form) for form in ("auto", "off"))
    del computed[:]
    together = torch.tensor(shared.score([prompt] * 4, answers))
    num_shared = sum(computed)
    del computed[:]
    assert_equal(together, torch.tensor(padded.score([prompt] * 4, answers)))
    assert 2 * num_shared < sum(computed)
    assert_equal(together, torch.cat([torch.tensor(shared.score([prompt], [answer])) for answer in answers]))


def test_a_micro_batch_of_a_hybrid_has_its_calls_and_keeps_to_the_budget():
    rows = [
        {"input_ids": g.input_ids, "prefix_length": g.prefix_length, "ranks": list(range(len(g.input_ids)))}
        | {"margin": None, "row": i}
        for i, g in enumerate([GROUPS[0], GROUPS[1], GROUPS[3]])
    ]
    [whole] = PackingCollator(form="sorted")(rows)["microbatches"]
    assert all(call.prefix == 0 for call in whole["model"]["calls"]) and len(whole["model"]["calls"]) > 3
    parts = PackingCollator(form="sorted", max_tokens=60)(rows)["microbatches"]
    assert sorted(row for part in parts for row in part["rows"]) == [0, 1, 2] and len(parts) > 2


@pytest.mark.parametrize("has_kernels", [False, True])
def test_a_hybrid_trains_as_its_padded_batches_do(has_kernels, tmp_path, monkeypatch):
    if has_kernels:
        install_kernels(tiny_reward_model("qwen3_5"), monkeypatch)
    column = "cu_seq_lens_q" if has_kernels else "calls"
    words = "Which country owns Antarctica? Penguins do, or nobody: a treaty governs it."
    rows = [{"prompt": words[:i], "chosen": words[: 7 * i % 60], "rejected": words[40 - i :]} for i in range(9, 25)]
    histories = []
    for form in ("auto", "off"):
        options = {"max_steps": 4, "report_to": "none", "use_cpu": True, "learning_rate": 1e-3, "logging_steps": 1}
        options |= {"bf16": False, "save_strategy": "no", "shared_prefix": form}
        args = PairwiseRewardConfig(str(tmp_path / form), **options)
        model, rows_of = tiny_reward_model("qwen3_5"), Dataset.from_list(rows)
        trainer = PairwiseRewardTrainer(model, args, train_dataset=rows_of, processing_class=tiny_tokenizer("plain"))
        trainer.train()
        [batch] = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])["microbatches"]
        assert (column in batch["model"]) == (form == "auto")
        histories.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(histories[0]) == 4 and abs(histories[0][0] - histories[0][-1]) > 0.01
    assert histories[0] == pytest.approx(histories[1], abs=1e-4)
