"""A checkpoint is scored as it was trained, whoever trained it and whichever door it comes in by.

The matrix: makers of checkpoints (TRL's RewardTrainer with pad == EOS and pad ≠ EOS, transformers, OpenRLHF,
LLaMA-Factory, a Skywork-like classifier, ourselves; full, LoRA, NF4) × doors (model, scorer, start of training, first
loss of further training, export to plain transformers). What is right is computed by the model that was trained, in
memory, on one unpadded row of ids.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trl
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from training_runs import make_trainer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from rm_plugin import PairwiseRewardTrainer, RewardModel, RewardScorer, lora_config
from rm_plugin.data.encoding import token_ids
from rm_plugin.model.cards import model_card

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

EOS = 2  # of the tiny configs and of the tokenizer "plain"
SIZES = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}  # 4-bit blocks hold 64 weights
ROWS = [
    {"prompt": "Which country owns Antarctica?", "chosen": " No country owns it.", "rejected": " Penguins."},
    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5</s></s>"},  # two end tokens
    {"prompt": "hello", "chosen": "</s>", "rejected": " world, how are you today?"},  # an end token alone
]
TEXTS = [(row["prompt"], row[side]) for row in ROWS for side in ("chosen", "rejected")]


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def tokenizer_with(pad: str):
    """The tokenizer "plain" with a pad token of its own, or with none, which makes TRL use EOS."""
    tokenizer = tiny_tokenizer("plain")
    if pad == "eos":
        tokenizer.pad_token = None
    return tokenizer


def parsing_scorer(model, processing_class=None, **options) -> RewardScorer:
    """A scorer that reads end tokens in a completion as training does."""
    return RewardScorer(model, processing_class, control_tokens="parse", **options)


def conversation(prompt, completion):
    return [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]


@torch.no_grad()
def hidden_ends(model, ids) -> torch.Tensor:
    """(1, H): the last hidden state of one unpadded row at its last token."""
    return model(input_ids=torch.tensor([ids])).last_hidden_state[:, -1]


def own_class(model):
    """ids ► score, by the class that was trained."""
    return lambda ids: model.eval()(input_ids=torch.tensor([ids])).logits[0, 0].item()


def seeded(make, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make(*args, **kwargs)


class Makers:
    """Each writes a folder as its tool would, tokenizer included, and returns what the model trained gives for ids."""

    def __init__(self, root: Path):
        self.root = root
        self.base = str(root / "base")  # as SmolLM-like bases are: no pad token
        model = seeded(AutoModelForCausalLM.from_config, tiny_config("llama", pad_token_id=None, **SIZES))
        model.save_pretrained(self.base)

    def classifier(self, **kwargs):
        model = seeded(AutoModelForSequenceClassification.from_pretrained, self.base, num_labels=1, **kwargs)
        model.score.weight.data.normal_(std=0.3, generator=torch.Generator().manual_seed(5))
        return model

    def trl(self, folder, pad, peft=False, quantised=False):
        options = {}
        if peft:
            options["peft_config"] = LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"])
        model = self.classifier(**({"quantization_config": nf4()} if quantised else {}))
        trainer = make_trainer(
            folder,
            model,
            ROWS,
            cls=trl.RewardTrainer,
            tokenizer=tokenizer_with(pad),
            max_steps=2,
            learning_rate=3e-2,
            per_device_train_batch_size=2,
            bf16=quantised,  # TRL's head is bf16 then
            **options,
        )
        trainer.train()
        trainer.save_model(str(folder))
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # out of autocast
        for parameter in model.parameters():  # TRL trains in bf16 what it adds to a quantised model
            if parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.float()
        return own_class(model)

    def transformers(self, folder, pad_token_id, kind="plain", **config):
        model = self.classifier(pad_token_id=pad_token_id, **config)
        model.save_pretrained(folder)
        tiny_tokenizer(kind).save_pretrained(folder)
        return own_class(model)

    def lost_labels(self, folder):
        score = self.transformers(folder, EOS)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "label" not in k}))
        return score

    def transformers_lora(self, folder, pad_token_id):
        base = folder.with_name(f"{folder.name}-base")
        self.transformers(base, pad_token_id)
        model = AutoModelForSequenceClassification.from_pretrained(base)
        peft_model = seeded(get_peft_model, model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        peft_model.save_pretrained(folder)  # neither a head nor a tokenizer: both are the base's
        return own_class(peft_model)

    def openrlhf(self, folder, architecture="RewardModel", name="value_head"):
        model = self.classifier(pad_token_id=EOS)
        model.save_pretrained(folder)
        tokenizer_with("own").save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        weights[f"{name}.weight"] = weights.pop("score.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
        return lambda ids: model.score(hidden_ends(model.model, ids))[0, 0].item()  # pooled by the mask

    def openrlhf_lora(self, folder):
        model = self.classifier(pad_token_id=EOS)
        model.value_head = model.score
        del model.score
        config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["value_head"], init_lora_weights=False)
        peft_model = seeded(get_peft_model, model, config)
        peft_model.save_pretrained(folder)
        tokenizer_with("own").save_pretrained(folder)
        return lambda ids: model.value_head(hidden_ends(model.model, ids))[0, 0].item()

    def llama_factory(self, folder, peft=False, bias=0.7, file="value_head.safetensors"):
        model = AutoModelForCausalLM.from_pretrained(self.base)
        if peft:
            config = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
            model = seeded(get_peft_model, model, config)
        model.save_pretrained(folder)
        tokenizer_with("eos").save_pretrained(folder)
        weight = torch.empty(1, 64).normal_(std=0.3, generator=torch.Generator().manual_seed(5))
        head = {"v_head.summary.weight": weight, "v_head.summary.bias": torch.tensor([bias])}
        if file.endswith(".bin"):
            torch.save(head, folder / file)
        else:
            save_file(head, folder / file)
        backbone = (model.get_base_model() if peft else model).model
        return lambda ids: (hidden_ends(backbone, ids) @ weight.T + bias).item()

    def ours(self, folder, peft=False, quantised=False, start=None):
        options = {"peft_config": lora_config(r=4)} if peft else {}
        if quantised:
            options["quantization_config"] = nf4()
        model = str(start or self.base)
        trainer = make_trainer(
            folder, model, ROWS, tokenizer=tokenizer_with("eos"), max_steps=2, learning_rate=3e-2, **options
        )
        trainer.train()
        trainer.save_model(str(folder))
        trainer.processing_class.save_pretrained(folder)
        model = trainer.reward_model.eval()
        read = model.score
        return lambda ids: read(hidden_ends(model.model, ids))[0, 0].item()  # the last token, EOS


MAKERS = {
    "trl pad==eos": lambda make, folder: make.trl(folder, "eos"),
    "trl pad!=eos": lambda make, folder: make.trl(folder, "own"),
    "trl pad==eos lora": lambda make, folder: make.trl(folder, "eos", peft=True),
    "trl pad!=eos lora": lambda make, folder: make.trl(folder, "own", peft=True),
    "trl pad==eos nf4": lambda make, folder: make.trl(folder, "eos", peft=True, quantised=True),
    "transformers pad==eos": lambda make, folder: make.transformers(folder, EOS),
    "transformers pad!=eos": lambda make, folder: make.transformers(folder, 0),
    "transformers no pad": lambda make, folder: make.transformers(folder, None),
    "transformers odd pad": lambda make, folder: make.transformers(folder, -1),
    "transformers lora": lambda make, folder: make.transformers_lora(folder, EOS),
    "lost labels": lambda make, folder: make.lost_labels(folder),
    "skywork-like": lambda make, folder: make.transformers(folder, 0, "chatml", eos_token_id=1),
    "openrlhf": lambda make, folder: make.openrlhf(folder),
    "openrlhf critic": lambda make, folder: make.openrlhf(folder, "CriticModel"),
    "openrlhf score": lambda make, folder: make.openrlhf(folder, name="score"),
    "openrlhf lora": lambda make, folder: make.openrlhf_lora(folder),
    "llama-factory": lambda make, folder: make.llama_factory(folder),
    "llama-factory no bias": lambda make, folder: make.llama_factory(folder, bias=0.0, file="value_head.bin"),
    "llama-factory lora": lambda make, folder: make.llama_factory(folder, peft=True),
    "ours": lambda make, folder: make.ours(folder),
    "ours lora": lambda make, folder: make.ours(folder, peft=True),
    "ours nf4": lambda make, folder: make.ours(folder, peft=True, quantised=True),
}
WITH_BIAS = ("llama-factory", "llama-factory lora")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Name ► folder, its tokenizer, options of loading, texts, ids, and the scores that were trained, made once."""
    make, made = Makers(tmp_path_factory.mktemp("checkpoints")), {}

    def get(name: str):
        if name not in made:
            folder = make.root / name.replace(" ", "-").replace("=", "").replace("!", "not-")
            score = MAKERS[name](make, folder)
            has_tokenizer = (folder / "tokenizer_config.json").exists()
            tokenizer = AutoTokenizer.from_pretrained(folder) if has_tokenizer else tokenizer_with("own")
            texts = TEXTS if tokenizer.chat_template is None else [conversation(*text) for text in TEXTS]
            ids = [token_ids(*text, tokenizer) for text in texts]
            made[name] = SimpleNamespace(
                path=str(folder),
                tokenizer=lambda: AutoTokenizer.from_pretrained(folder) if has_tokenizer else tokenizer_with("own"),
                texts=texts,
                ids=ids,
                scores=np.array([score(row) for row in ids]),
                options={"quantization_config": nf4()} if name == "trl pad==eos nf4" else {},
            )
        return made[name]

    return get


def assert_as_trained(actual, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    assert expected.std() > 0.05, f"scores {expected} could not tell a wrong model from a right one"
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, expected.std()))


def padded(rows, side: str, pad: int) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    fill = [[pad] * (longest - len(ids)) for ids in rows]
    ids = [f + i if side == "left" else i + f for i, f in zip(rows, fill, strict=True)]
    mask = [[0] * len(f) + [1] * len(i) if side == "left" else [1] * len(i) + [0] * len(f)
            for i, f in zip(rows, fill, strict=True)]  # fmt: skip
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def row_trainer(folder, checkpoint, **options):
    rows = ROWS
    if checkpoint.texts is not TEXTS:
        rows = [
            {"prompt": p, "chosen": c, "rejected": r}
            for (p, c), (_, r) in zip(checkpoint.texts[::2], checkpoint.texts[1::2], strict=True)
        ]
    options = {**checkpoint.options, "eval_dataset": make_rows(rows), "per_device_train_batch_size": 3, **options}
    return make_trainer(folder, checkpoint.path, rows, tokenizer=checkpoint.tokenizer(), max_steps=1, **options)


def make_rows(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


# -------------------------------------------------------------------------------- the matrix


@pytest.mark.parametrize("name", MAKERS)
def test_model_gives_the_scores_it_was_trained_to_give_whatever_the_padding(name, checkpoints):
    checkpoint = checkpoints(name)
    model = RewardModel.from_pretrained(checkpoint.path, **checkpoint.options)
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([ids])).logits.item() for ids in checkpoint.ids]
        assert_as_trained(alone, checkpoint.scores)
        for side in ("left", "right"):
            for pad in (0, EOS, 77):
                assert_as_trained(model(**padded(checkpoint.ids, side, pad)).logits[:, 0], checkpoint.scores)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shared_prefix", ["auto", "off"])
def test_scorer_gives_the_scores_of_training(name, shared_prefix, checkpoints):
    checkpoint = checkpoints(name)
    scorer = parsing_scorer(checkpoint.path, checkpoint.tokenizer(), shared_prefix=shared_prefix, **checkpoint.options)
    prompts, completions = map(list, zip(*checkpoint.texts, strict=True))
    assert_as_trained(scorer.score(prompts, completions), checkpoint.scores)
    alone = [scorer.score([p], [c])[0] for p, c in checkpoint.texts]
    assert_as_trained(alone, checkpoint.scores)


@pytest.mark.parametrize("name", MAKERS)
def test_training_starts_from_the_scores_and_saves_the_function_it_trained(name, checkpoints, tmp_path):
    checkpoint = checkpoints(name)
    trainer = row_trainer(tmp_path, checkpoint, learning_rate=1e-2)
    predictions = trainer.predict(trainer.eval_dataset).predictions
    assert_as_trained(predictions.reshape(-1), checkpoint.scores)
    trainer.train()
    margins = checkpoint.scores[::2] - checkpoint.scores[1::2]
    first_loss = np.log1p(np.exp(-margins)).mean()  # −log σ(Δ)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(first_loss, abs=1e-4)
    # what is saved is what was trained, as the trainer itself evaluates it
    after = trainer.predict(trainer.eval_dataset).predictions.reshape(-1)
    assert np.abs(after - checkpoint.scores).max() > 1e-3
    trainer.save_model(str(tmp_path / "saved"))
    needs_us = "No other tool" in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert needs_us == (name in WITH_BIAS)  # plain PEFT would drop the bias
    trainer.processing_class.save_pretrained(tmp_path / "saved")
    scorer = parsing_scorer(str(tmp_path / "saved"), **checkpoint.options)
    prompts, completions = map(list, zip(*checkpoint.texts, strict=True))
    assert_as_trained(scorer.score(prompts, completions), after)


@pytest.mark.parametrize("name", MAKERS)
def test_export_is_the_same_function_in_plain_transformers(name, checkpoints, tmp_path, caplog):
    checkpoint = checkpoints(name)
    model, tokenizer = RewardModel.from_pretrained(checkpoint.path, **checkpoint.options), checkpoint.tokenizer()
    model.export(tmp_path, tokenizer)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(plain, RewardModel) == (name in WITH_BIAS)
    assert ("the head has a bias, LlamaForSequenceClassification has none" in caplog.text) == (name in WITH_BIAS)
    if name not in WITH_BIAS:
        assert plain.config.pad_token_id == tokenizer.pad_token_id
    with torch.no_grad():
        alone = [plain(torch.tensor([ids])).logits.item() for ids in checkpoint.ids]
        assert_as_trained(alone, checkpoint.scores, tolerance=5e-5)
        batch = tokenizer.pad({"input_ids": checkpoint.ids}, return_tensors="pt") if tokenizer.pad_token else None
        if batch is not None:
            assert_as_trained(plain(**batch).logits[:, 0], checkpoint.scores, tolerance=5e-5)
    again = parsing_scorer(str(tmp_path), None if name not in WITH_BIAS else checkpoint.tokenizer())
    prompts, completions = map(list, zip(*checkpoint.texts, strict=True))
    assert_as_trained(again.score(prompts, completions), checkpoint.scores, tolerance=5e-5)


# -------------------------------------------------------------------------------- what has to be refused, named


def without(name, weights):
    return {key: tensor for key, tensor in weights.items() if key != name}


def rewrite(folder, change, file="model.safetensors"):
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


SPOILT = {  # name ► a change of a full checkpoint's weights, and what the one line names
    "language head": (lambda w: {**w, "lm_head.weight": torch.zeros(320, 32)}, r"\(lm_head.weight\)"),
    "another tower": (lambda w: {**w, "visual.patch.weight": torch.zeros(3)}, r"\(visual.patch.weight\)"),
    "more layers": (
        lambda w: w | {k.replace("layers.1", "layers.2"): v.clone() for k, v in w.items() if "layers.1" in k},
        r"model.layers.2.input_layernorm.weight, .* 9 in all",
    ),
    "another head": (lambda w: {**w, "regression_layer.weight": torch.zeros(1, 32)}, "regression_layer.weight"),
    "two heads": (lambda w: {**w, "value_head.weight": torch.zeros(1, 32)}, r"several heads \(score, value_head\)"),
    "two labels": (lambda w: {**w, "score.weight": torch.zeros(2, 32)}, "num_labels=2, a reward model has 1"),
    "no head": (lambda w: without("score.weight", w), "no weights for score.weight"),
    "a hidden head": (
        lambda w: {**without("score.weight", w), "reward_head.weight": w["score.weight"]},
        "no weights for score.weight",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_weights_that_nothing_reads_are_refused_in_one_line_through_every_door(name, tmp_path):
    change, message = SPOILT[name]
    tiny_reward_model().save_pretrained(tmp_path)
    tiny_tokenizer("plain").save_pretrained(tmp_path)
    rewrite(tmp_path, change)
    doors = (RewardModel.from_pretrained, parsing_scorer, lambda path: make_trainer(tmp_path / "out", path, ROWS))
    for door in doors:
        with pytest.raises(ValueError, match=message) as refusal:
            door(str(tmp_path))
        assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("names", [["attn.bias"], ["attn.masked_bias"], ["attn.bias", "attn.masked_bias"]])
def test_buffers_of_older_checkpoints_are_harmless(names, tmp_path):
    model = tiny_reward_model("gpt2")
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda w: w | {f"transformer.h.{i}.{name}": torch.ones(1) for i in range(2) for name in names})
    ids = torch.tensor([[5, 9, 12]])
    torch.testing.assert_close(RewardModel.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_rotary_buffers_of_older_checkpoints_are_harmless(tmp_path):
    model = tiny_reward_model("llama")
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda w: w | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in (0, 1)})
    ids = torch.tensor([[5, 9, 12]])
    torch.testing.assert_close(RewardModel.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_bias_of_the_head_is_used(value, tmp_path):
    model = tiny_reward_model()
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda w: {**w, "score.bias": torch.tensor([value])})
    ids = torch.tensor([[5, 9, 12]])
    loaded = RewardModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits + value)
    assert loaded.config.head_bias is bool(value)
    again = tmp_path / "again"
    loaded.save_pretrained(again)  # natively, where there is a bias
    assert json.loads((again / "config.json").read_text())["model_type"] == ("reward_model" if value else "llama")
    torch.testing.assert_close(RewardModel.from_pretrained(again)(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize("maker", ["openrlhf", "openrlhf score", "llama-factory", "trl pad==eos", "lost labels"])
def test_no_fresh_head_is_put_on_a_checkpoint_that_has_one(maker, checkpoints):
    with pytest.raises(ValueError, match="with a head of its own; RewardModel.from_pretrained loads"):
        RewardModel.from_backbone(checkpoints(maker).path)


def test_a_pickled_head_of_another_name_is_taken_over_and_not_drawn_anew(checkpoints, tmp_path):
    checkpoint = checkpoints("openrlhf")
    shutil.copytree(checkpoint.path, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="with a head of its own"):
        RewardModel.from_backbone(tmp_path)
    scorer = parsing_scorer(str(tmp_path))
    assert_as_trained(scorer.score(*map(list, zip(*TEXTS, strict=True))), checkpoint.scores)


def test_a_head_under_the_name_that_the_config_gives_it_is_taken_over(checkpoints, tmp_path):
    """OpenRLHF's `--value_head_prefix`."""
    checkpoint = checkpoints("openrlhf")
    shutil.copytree(checkpoint.path, tmp_path, dirs_exist_ok=True)
    rewrite(tmp_path, lambda w: {k.replace("value_head.", "reward_head."): t for k, t in w.items()})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "value_head_prefix": "reward_head"}))
    scorer = parsing_scorer(str(tmp_path))
    assert_as_trained(scorer.score(*map(list, zip(*TEXTS, strict=True))), checkpoint.scores)


def test_a_value_head_of_several_layers_is_refused(checkpoints, tmp_path):
    shutil.copytree(checkpoints("llama-factory").path, tmp_path, dirs_exist_ok=True)
    rewrite(tmp_path, lambda w: {**w, "v_head.dense.weight": torch.zeros(64, 64)}, "value_head.safetensors")
    for door in (RewardModel.from_pretrained, RewardModel.from_backbone):
        with pytest.raises(
            ValueError, match=r"value_head.safetensors holds v_head.dense.weight, .* a linear head has"
        ):
            door(tmp_path)


ADAPTERS = {  # name ► a change of an adapter's weights and config, and what the one line names
    "fewer modules": (lambda w, c: c.update(target_modules=["q_proj"]), "have no module for the weights .*v_proj"),
    "more tensors": (
        lambda w, c: w.update({"base_model.model.model.norm.lora_A.weight": torch.zeros(4, 64)}),
        "have no module for the weights base_model.model.model.norm.lora_A",
    ),
    "no head in the file": (lambda w, c: w.pop("base_model.model.score.weight"), "holds a trained reward head"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_whose_config_and_weights_disagree_is_refused(name, checkpoints, tmp_path):
    change, message = ADAPTERS[name]
    shutil.copytree(checkpoints("trl pad!=eos lora").path, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    change(weights, config)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    doors = (RewardModel.from_pretrained, parsing_scorer, lambda path: make_trainer(tmp_path / "out", path, ROWS))
    for door in doors:
        with pytest.raises(ValueError, match=message) as refusal:
            door(str(tmp_path))
        assert "\n" not in str(refusal.value)


def test_an_adapter_on_a_base_with_fewer_layers_is_refused(checkpoints, tmp_path):
    shutil.copytree(checkpoints("ours lora").path, tmp_path / "adapter")
    config = tiny_config("llama", num_hidden_layers=1, **SIZES)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    file = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"have no module for the weights .*layers\.1\..* 14 in all"):
        RewardModel.from_pretrained(tmp_path / "adapter")


def test_labels_lost_by_the_config_are_read_off_the_head_or_given(checkpoints):
    checkpoint = checkpoints("lost labels")
    for options in ({}, {"num_labels": 1}):
        scorer = parsing_scorer(checkpoint.path, **options)
        assert_as_trained(scorer.score(*map(list, zip(*TEXTS, strict=True))), checkpoint.scores)


def test_labels_that_an_encoder_has_lost_are_read_off_its_head(tmp_path):
    config = tiny_config("bert", num_labels=1)
    model = seeded(AutoModelForSequenceClassification.from_config, config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer("plain").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "label" not in k}))
    expected = parsing_scorer(model, tiny_tokenizer("plain")).score(["a", "b"], [" four", " five"])
    assert_as_trained(parsing_scorer(str(tmp_path)).score(["a", "b"], [" four", " five"]), expected)
    rewrite(tmp_path, lambda w: {**w, "classifier.dense.weight": torch.zeros(32, 32)})
    with pytest.raises(ValueError, match=r"weights that nothing reads \(classifier.dense.weight\)"):
        parsing_scorer(str(tmp_path))
    rewrite(tmp_path, lambda w: without("classifier.weight", w))
    with pytest.raises(ValueError, match="no weights for classifier.weight; "):
        parsing_scorer(str(tmp_path))


# -------------------------------------------------------------------------------- classifiers in memory


@pytest.mark.parametrize("pad_token_id", [EOS, 0, None])
@pytest.mark.parametrize("peft", [False, True])
def test_a_classifier_in_memory_keeps_the_pad_token_of_its_config(pad_token_id, peft, checkpoints, tmp_path):
    make = Makers(tmp_path)
    model = make.classifier(pad_token_id=pad_token_id).eval()
    if peft:
        model = seeded(get_peft_model, model, LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["q_proj"])).eval()
    ids = [token_ids(*text, tiny_tokenizer("plain")) for text in TEXTS]
    expected = [own_class(model)(row) for row in ids]
    scores = parsing_scorer(model, tiny_tokenizer("plain")).score(*map(list, zip(*TEXTS, strict=True)))
    assert_as_trained(scores, expected)
    trainer = make_trainer(tmp_path / "out", model, ROWS, eval_dataset=make_rows(ROWS))
    assert_as_trained(trainer.predict(trainer.eval_dataset).predictions.reshape(-1), expected)
    if pad_token_id is not None:
        assert trainer.processing_class.pad_token_id == model.config.pad_token_id == pad_token_id


@pytest.mark.trl112
@pytest.mark.parametrize("pad_token_id", [EOS, 0])
def test_the_loss_of_a_classifier_in_memory_is_trls_whatever_its_pad_token(pad_token_id, tmp_path):
    make, losses = Makers(tmp_path), []
    for cls in (trl.RewardTrainer, PairwiseRewardTrainer):
        tokenizer = tiny_tokenizer("plain")
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_token_id)
        model = make.classifier(pad_token_id=pad_token_id)
        trainer = make_trainer(tmp_path / "out", model, ROWS * 4, cls=cls, tokenizer=tokenizer, max_steps=4)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.filterwarnings("ignore:`pad_token` is deprecated:FutureWarning")  # by TRL
def test_a_pad_token_asked_of_a_model_that_has_its_own_is_named_in_the_log(checkpoints, tmp_path, caplog):
    checkpoint = checkpoints("trl pad==eos")
    trainer = row_trainer(tmp_path, checkpoint, pad_token="<pad>")
    assert trainer.processing_class.pad_token == "</s>"
    assert "pad_token=<pad> has no effect: the model keeps the pad token </s>" in caplog.text


def test_a_block_without_pooling_reads_the_last_token(tmp_path):
    """What this package wrote before it recorded the rule."""
    model = tiny_reward_model(pad_token_id=EOS)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["reward_model"] = {"reasoning": "keep"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = torch.tensor([[5, 9, EOS]])
    torch.testing.assert_close(RewardModel.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_rows_of_token_ids_are_cut_as_texts_are(checkpoints, tmp_path):
    checkpoint = checkpoints("trl pad==eos")
    pairs = zip(checkpoint.ids[::2], checkpoint.ids[1::2], strict=True)
    rows = make_rows([{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in pairs])
    trainer = make_trainer(tmp_path, checkpoint.path, rows, tokenizer=checkpoint.tokenizer(), eval_dataset=rows)
    assert_as_trained(trainer.predict(trainer.eval_dataset).predictions.reshape(-1), checkpoint.scores)


def test_length_limits_count_the_tokens_that_are_cut_afterwards(checkpoints):
    checkpoint = checkpoints("trl pad==eos")
    longest = max(map(len, checkpoint.ids))
    texts = [list(texts) for texts in zip(*TEXTS, strict=True)]
    scorer = parsing_scorer(checkpoint.path, max_length=longest)
    assert_as_trained(scorer.score(*texts), checkpoint.scores)
    with pytest.raises(ValueError, match=f"has {longest} tokens, max_length is {longest - 1}"):
        parsing_scorer(checkpoint.path, max_length=longest - 1).score(*texts)


def test_a_pad_token_changed_by_others_after_us_is_the_one_that_counts(checkpoints, tmp_path):
    """TRL, training on from our folder with a tokenizer whose pad is EOS, leaves our block as it was."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints("ours").path)
    trainer = make_trainer(tmp_path, model, ROWS, cls=trl.RewardTrainer, tokenizer=tokenizer_with("eos"), max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["reward_model"]["pooling"] == "last_token" and config["pad_token_id"] == EOS
    ids = [token_ids(*text, tiny_tokenizer("plain")) for text in TEXTS]
    expected = [own_class(trainer.model)(row) for row in ids]
    scores = parsing_scorer(str(tmp_path / "saved")).score(*map(list, zip(*TEXTS, strict=True)))
    assert_as_trained(scores, expected)


def test_the_pad_token_of_the_config_may_change_without_the_function(checkpoints):
    """TRL's GRPO sets the pad token of its own tokenizer on every reward model that it is given."""
    checkpoint = checkpoints("trl pad==eos")
    model = RewardModel.from_pretrained(checkpoint.path)
    model.config.pad_token_id = 0
    scores = parsing_scorer(model, checkpoint.tokenizer()).score(*map(list, zip(*TEXTS, strict=True)))
    assert_as_trained(scores, checkpoint.scores)


def test_a_row_of_pads_alone_keeps_its_first_token(checkpoints):
    model = RewardModel.from_pretrained(checkpoints("trl pad==eos").path)
    expected = model(torch.tensor([[EOS]])).logits
    torch.testing.assert_close(model(torch.tensor([[EOS, EOS, EOS]])).logits, expected)
    row = torch.tensor([[9, 9, EOS, EOS]]), torch.tensor([[0, 0, 1, 1]])
    torch.testing.assert_close(model(*row).logits, expected)


# -------------------------------------------------------------------------------- what cards claim


def test_no_card_calls_the_sigmoid_of_a_difference_the_fitted_probability_of_every_model(checkpoints, tmp_path):
    checkpoint = checkpoints("ours")
    RewardModel.from_pretrained(checkpoint.path).export(tmp_path, checkpoint.tokenizer())
    for text in (model_card("org/rm"), (tmp_path / "README.md").read_text(encoding="utf-8")):
        text = " ".join(text.split())
        assert "is the probability that people prefer" not in text
        assert "For a model trained with ties, a margin or label smoothing it is not the probability" in text
