"""Every method of PEFT, `peft.PeftType`: it trains, is saved and opens everywhere alike, or the trainer refuses it."""

import re
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from models import tiny_config, tiny_tokenizer
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from peft_methods import METHODS, config_of
from safetensors.torch import load_file, save_file
from training_runs import SMALL_WEIGHTS, make_trainer, preference_rows
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rm_plugin import RewardModel, RewardScorer, nf4_config
from rm_plugin.model.adapters import check_peft_method
from rm_plugin.training.peft_configs import reward_peft_config

DOCS = Path(__file__).resolve().parents[2] / "docs" / "peft.md"
# Upstream warns of what its own defaults bring about (peft 0.21).
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")


def refusal(method: str, **how) -> str | None:
    """Why a method is refused, in the words of the code."""
    name = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)].__name__
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)].__new__(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)])
    config.peft_type = PeftType(method)
    try:
        check_peft_method(config, to_train=True, **how)
    except ValueError as error:
        return str(error).removeprefix(f"{name} ").removesuffix("; or use lora_config()")
    return None


TRAINED = [method for method in METHODS if refusal(method) is None]
TRAINED_ON_NF4 = [method for method in TRAINED if refusal(method, quantized=True) is None]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config("llama", **SMALL_WEIGHTS))
    model.save_pretrained(folder)
    tiny_tokenizer("plain").save_pretrained(folder)
    return str(folder)


ROWS = preference_rows(4)
OF_ROWS = [row["prompt"] for row in ROWS], [row["chosen"] for row in ROWS]


@torch.no_grad()
def scores(model) -> list[float]:
    """Of every chosen completion, one unpadded row at a time."""
    model.eval()
    tokenizer = tiny_tokenizer("plain")
    rows = [tokenizer(row["prompt"] + row["chosen"] + "</s>")["input_ids"] for row in ROWS]
    return [model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits.item() for ids in rows]


def refuses_another_file(folder: Path) -> None:
    """The adapter's file must hold all tensors and no more."""
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    some = sorted(name for name in weights if "score" not in name)[0]
    for changed in (
        {name: weight for name, weight in weights.items() if name != some},
        {**weights, some.replace("layers.0", "layers.7") + ".other": weights[some].clone()},
    ):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=re.escape(str(folder))) as error:
            RewardModel.from_pretrained(folder)
        assert "\n" not in str(error.value)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_trains_and_gives_plain_pefts_scores_through_every_door(method, base, tmp_path):
    run = {"tokenizer": None, "max_steps": 4, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}
    config = config_of(method)
    trainer = make_trainer(tmp_path / "run", base, ROWS, peft_config=config, **run)
    untrained = scores(trainer.model)
    trainer.train()
    trained = scores(trainer.model)
    assert np.abs(np.subtract(trained, untrained)).max() > 0.01
    folder = tmp_path / "saved"
    trainer.save_model(folder)

    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0)
    expected = pytest.approx(scores(PeftModel.from_pretrained(plain, folder)), abs=1e-5)
    assert trained == expected
    assert scores(RewardModel.from_pretrained(folder)) == expected
    assert RewardScorer(str(folder)).score(*OF_ROWS).tolist() == expected
    assert scores(make_trainer(tmp_path / "on", str(folder), ROWS, tokenizer=None).model) == expected
    RewardModel.from_pretrained(folder).export(tmp_path / "exported", tiny_tokenizer("plain"))
    assert scores(AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")) == expected

    resumed = make_trainer(tmp_path / "run", base, ROWS, peft_config=config, **run)
    resumed.train(str(tmp_path / "run" / "checkpoint-2"))
    assert scores(resumed.model) == expected
    refuses_another_file(folder)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(TRAINED)))
def test_a_method_that_cannot_be_a_reward_model_is_refused_in_one_line(method, base, tmp_path):
    with pytest.raises(ValueError, match=r"^\w+Config [^\n]+; or use lora_config\(\)$"):
        make_trainer(tmp_path, base, ROWS, peft_config=config_of(method))


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_works_over_nf4_or_is_refused(method, base, tmp_path):
    options = {"tokenizer": None, "max_steps": 2, "learning_rate": 1e-2, "quantization_config": nf4_config()}
    options["peft_config"] = config_of(method)
    if method not in TRAINED_ON_NF4:
        with pytest.raises(ValueError, match=r"^\w+Config does not work over a quantised base"):
            make_trainer(tmp_path, base, ROWS, **options)
        return
    trainer = make_trainer(tmp_path, base, ROWS, **options)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    loaded = RewardModel.from_pretrained(tmp_path / "saved")
    assert scores(loaded) == pytest.approx(scores(trainer.model), abs=1e-5)
    merged = loaded.merge(torch.float32)
    assert scores(merged) == pytest.approx(scores(trainer.model), abs=0.01)  # the kernel of NF4 computes in bf16


def test_a_method_adapts_the_layers_that_peft_names_for_the_architecture():
    for method in TRAINED:
        config = config_of(method) if method != "ADAMSS" else None
        tables = {"IA3": TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING}
        table = tables.get(method) or PEFT_TYPE_TO_TUNER_MAPPING[PeftType(method)].target_module_mapping
        if config is None or "llama" not in table:
            continue
        assert set(reward_peft_config(config, "llama").target_modules) == set(table["llama"]), method


@pytest.mark.parametrize("start", ["pissa", "olora", "orthogonal"])
def test_a_base_that_the_start_of_lora_changes_is_changed_alike_wherever_the_adapter_is_opened(start, base, tmp_path):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=start)
    trainer = make_trainer(tmp_path / "run", base, ROWS, tokenizer=None, peft_config=config, max_steps=2)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    expected = pytest.approx(scores(trainer.model), abs=1e-5)
    assert scores(RewardModel.from_pretrained(tmp_path / "saved")) == expected
    RewardModel.from_pretrained(tmp_path / "saved").export(tmp_path / "exported", tiny_tokenizer("plain"))
    assert scores(AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")) == expected


@pytest.mark.parametrize("start", ["pissa_niter_2", "lora_ga"])
def test_a_start_of_lora_that_cannot_be_repeated_is_refused_in_training_and_where_it_is_opened(start, base, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start, task_type="SEQ_CLS")
    with pytest.raises(ValueError, match=f"^LoraConfig with init_lora_weights='{start}' changes the base"):
        make_trainer(tmp_path / "run", base, ROWS, tokenizer=None, peft_config=config)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0)
    get_peft_model(plain, config).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=f"^LoraConfig with init_lora_weights='{start}' changes the base"):
        RewardModel.from_pretrained(tmp_path / "saved")


def test_an_adapter_of_another_trainer_is_scored_and_its_merge_refused_in_one_line(base, tmp_path):
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0)
    model = get_peft_model(plain, LoraConfig(r=2, lora_bias=True, task_type="SEQ_CLS", target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    loaded = RewardModel.from_pretrained(tmp_path)
    assert scores(loaded) == pytest.approx(scores(model), abs=1e-5)
    with pytest.raises(ValueError, match="PEFT cannot merge the adapter: .* score with the adapter as it is"):
        loaded.merge()
    with pytest.raises(ValueError, match="with lora_bias cannot be merged"):
        make_trainer(tmp_path, str(tmp_path), ROWS)


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING", "LILY"])
def test_an_adapter_that_gives_no_score_of_a_text_alone_is_not_opened(method, base, tmp_path):
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0)
    config = config_of(method)
    config.task_type = "SEQ_CLS"
    model = get_peft_model(plain, config)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=type(config).__name__):
        RewardScorer(str(tmp_path), tiny_tokenizer("plain"))
    with pytest.raises(ValueError, match=type(config).__name__):
        make_trainer(tmp_path, model, ROWS)
    with pytest.raises(ValueError, match=type(config).__name__):
        RewardScorer(model, tiny_tokenizer("plain")).score(*OF_ROWS)


def test_normalisation_layers_that_are_trained_keep_the_dtype_of_the_base(base, tmp_path):
    options = {"model_init_kwargs": {"dtype": "bfloat16"}, "peft_config": peft.LNTuningConfig(), "max_steps": 2}
    trainer = make_trainer(tmp_path, base, ROWS, tokenizer=None, learning_rate=1e-2, **options)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    again = RewardScorer(str(tmp_path / "saved")).score(*OF_ROWS)
    assert again.tolist() == pytest.approx(RewardScorer(trainer.model).score(*OF_ROWS).tolist(), abs=1e-5)


def test_what_adalora_does_not_save_is_not_trained(base, tmp_path):
    options = {"model_init_kwargs": {"dtype": "bfloat16"}, "peft_config": config_of("ADALORA"), "max_steps": 4}
    trainer = make_trainer(tmp_path, base, ROWS, tokenizer=None, learning_rate=1e-2, **options)
    assert not [n for n, p in trainer.model.named_parameters() if p.requires_grad and "ranknum" in n]


def test_the_table_of_the_docs_is_true():
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = []
    for method in METHODS:
        config, reason = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)].__name__, refusal(method)
        on_nf4 = "" if reason else "yes" if method in TRAINED_ON_NF4 else "no"
        expected.append(f"| `{method}` | `{config}` | {'no' if reason else 'yes'} | {on_nf4} | {reason or ''} |")
    assert [" ".join(row.split()) for row in rows] == [" ".join(row.split()) for row in expected]
