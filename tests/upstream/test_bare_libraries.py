"""Bare transformers, PEFT, bitsandbytes, datasets, accelerate: the faults that lines of this package work around."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from training_runs import classifier
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipeline,
)
from transformers.trainer_utils import get_last_checkpoint
from upstream_faults import OURS, must_work, until_fixed

import rm_plugin
from rm_plugin.model.modeling import RewardModel

PACKAGE = Path(rm_plugin.__file__).parent
IDS = torch.tensor([[5, 9, 14, 23, 8, 2]])

# --- transformers


@until_fixed("the newest checkpoint counts, whole or not", "training: newest_complete_checkpoint")
def test_the_last_checkpoint_is_one_that_is_whole(tmp_path):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


@until_fixed("the ready-made classifier puts a sigmoid on one label", "model: sigmoid")
def test_a_pipeline_gives_the_score_of_a_reward_model():
    model, tokenizer = classifier().eval(), tiny_tokenizer("plain")
    [result] = pipeline("text-classification", model=model, tokenizer=tokenizer)("hello world")
    with torch.no_grad():
        assert result["score"] == pytest.approx(model(**tokenizer("hello world", return_tensors="pt")).logits.item())


@until_fixed("pooling takes the last id that is not pad, whatever the mask says", "model: attention_mask")
def test_pooling_follows_the_attention_mask():
    model, mask = classifier().eval(), torch.ones(1, 8)
    mask[:, 6:] = 0
    with torch.no_grad():
        masked = model(torch.cat([IDS, torch.tensor([[7, 7]])], dim=1), attention_mask=mask).logits
        assert torch.allclose(masked, model(IDS).logits, atol=1e-5)


@until_fixed("buffers of a backbone in a class outside transformers stay unset", "model: is_custom_code")
def test_a_class_of_ones_own_loads_a_backbone_with_its_buffers(tmp_path):
    class Outside(RewardModel):
        is_custom_code = classmethod(PreTrainedModel.is_custom_code.__func__)

    model = tiny_reward_model("falcon_h1")
    model.save_pretrained(tmp_path, format="native")
    expected = dict(RewardModel.from_pretrained(tmp_path).named_buffers())
    found = dict(Outside.from_pretrained(tmp_path).named_buffers())
    assert all(torch.equal(found[name], buffer) for name, buffer in expected.items())


@pytest.mark.skipif(
    "sanitize_control_tokens" not in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters,
    reason="transformers has it from 5.23 on",
)
@until_fixed("reasoning tags count as control tokens where the template writes them", "data: ControlTokens")
def test_a_reasoning_tag_stays_a_token_where_control_tokens_are_text():
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template += "{% if enable_thinking %}<think></think>{% endif %}"
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>four</think> 4"}]
    ids = tokenizer.apply_chat_template(chat, return_dict=True, sanitize_control_tokens=True)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("<think>") in ids


# --- PEFT and bitsandbytes


def nf4_classifier(folder):
    classifier(initializer_range=0.3).save_pretrained(folder)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["score"])
    return AutoModelForSequenceClassification.from_pretrained(folder, quantization_config=nf4).eval()


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit")
@until_fixed("merging into NF4 quantises again", "model: merge_adapter")
def test_merging_an_adapter_into_nf4_keeps_the_scores(tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(nf4_classifier(tmp_path), config).eval()
    with torch.no_grad():
        before = model(IDS).logits
        merged = model.merge_and_unload().eval()(IDS).logits
    assert torch.allclose(merged, before, rtol=1e-3)


@until_fixed("the head of a disabled adapter is drawn anew at every load", "model: original_module")
def test_a_disabled_adapter_scores_the_same_after_every_load(tmp_path):
    AutoModel.from_config(tiny_config()).save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "a", num_labels=1).eval()
        with loaded.disable_adapter(), torch.no_grad():
            scores.append(loaded(IDS).logits)
    assert torch.equal(*scores)


@pytest.mark.skipif(
    not has_avx512bf16(),
    reason="bitsandbytes repacks 4-bit weights on CPUs with AVX512-BF16 only",
)
@until_fixed("weights that were repacked in eval mode have no gradient", "model: use_trainable_4bit_kernels")
def test_a_4bit_layer_trains_after_it_has_been_evaluated():
    import bitsandbytes as bnb

    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(128, 128, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4").to("cpu")
    gradients = []
    for _ in range(2):
        x = torch.ones(4, 128, dtype=torch.bfloat16, requires_grad=True)
        with must_work():
            layer.train()(x).sum().backward()
        gradients.append(x.grad)
        with torch.no_grad():
            layer.eval()(x[:1])
    assert torch.allclose(*gradients)


# --- datasets and accelerate


@until_fixed("Json gives back the number for the reply '4'", "data: Json")
def test_a_json_column_gives_back_text_that_looks_like_json():
    table = datasets.Dataset.from_dict({"x": ["4", "four"]}, features=datasets.Features({"x": datasets.Json()}))
    assert table["x"][:] == ["4", "four"]


@until_fixed("from_list drops the columns that the first row lacks", "data: to_table")
def test_a_table_has_the_columns_of_all_rows():
    assert datasets.Dataset.from_list([{"a": 1}, {"a": 1, "b": 2}]).column_names == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("csv", "x\n4\n5\n", "4"), ("csv", "x\nNA\nno\n", "NA"), ("json", '{"x": "2020-01-01"}\n', "2020-01-01")],
)
@until_fixed("the readers of pandas and pyarrow change texts", "data: _read_files")
def test_text_in_a_file_is_read_as_text(kind, text, value, tmp_path):
    file = tmp_path / f"rows.{kind}"
    file.write_text(text)
    table = datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert table[0]["x"] == value


@pytest.mark.skipif(torch.accelerator.is_available(), reason="seen on machines without an accelerator only")
@until_fixed("PartialState() makes two processes without a GPU two worlds of one", ".: PartialState(cpu=not")
def test_processes_without_a_gpu_know_of_each_other():
    script = "from accelerate import PartialState; print(PartialState().distributed_type.value)"
    world = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    world |= {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    done = subprocess.run([sys.executable, "-c", script], env=world, capture_output=True, text=True, check=True)
    assert done.stdout.strip() != "NO"


def test_everything_named_here_as_a_workaround_exists():
    import test_bare_trl  # noqa: F401  (its marks fill the list)

    for workaround in OURS:
        folder, name = workaround.split(": ")
        sources = "".join(file.read_text(encoding="utf-8") for file in Path(PACKAGE, folder).glob("*.*"))
        assert name in sources, workaround
