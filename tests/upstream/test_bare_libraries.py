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
from peft import (
    AdaLoraConfig,
    AutoPeftModelForSequenceClassification,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    get_peft_model,
)
from peft.utils.other import AuxiliaryTrainingWrapper
from peft_methods import config_of
from torch._subclasses import FakeTensorMode
from training_runs import classifier
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)
from transformers.trainer_utils import get_last_checkpoint
from upstream_faults import OURS, must_work, until_fixed

import rm_plugin
from rm_plugin.model.adapters import PEFT_ON_PLAIN_WEIGHTS
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


@until_fixed("a callback is not told whose event it handles", "loops: find_trainer")
def test_a_callback_is_handed_the_trainer(tmp_path):
    class Listener(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.handed = list(kwargs.values())

    listener = Listener()
    trainer = Trainer(classifier(), TrainingArguments(tmp_path, use_cpu=True, bf16=False), callbacks=[listener])
    trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    assert any(one is trainer for one in listener.handed)


def tiny_policy():
    return AutoModelForCausalLM.from_config(tiny_config()).eval()


@until_fixed("no processor runs after top_k and its like but in a custom_generate", "loops: custom_generate")
def test_a_processor_may_see_the_tokens_that_are_left_to_draw_from():
    left = []

    def count(input_ids, scores):
        left.append(int(scores.isfinite().sum()))
        return scores

    tiny_policy().generate(IDS, do_sample=True, top_k=3, max_new_tokens=1, logits_processor=[count])
    assert left == [3]


@until_fixed("beside a custom_generate the tokenizer of stop_strings is lost", "loops: StopStringCriteria")
def test_stop_strings_work_beside_a_custom_generate():
    def search(model, *args, **kwargs):
        return type(model)._sample(model, *args, **kwargs)

    options = {"stop_strings": ["."], "tokenizer": tiny_tokenizer("plain"), "custom_generate": search}
    with must_work():
        tiny_policy().generate(IDS, max_new_tokens=2, **options)


# --- torch


@until_fixed("functions that make tensors are noted once, wrapped or not", "model: torch.empty(0)")
def test_a_device_has_its_effect_after_functions_were_wrapped():
    script = """
import torch
empty = torch.empty
torch.empty = lambda *args, **kwargs: empty(*args, **kwargs)  # as DeepSpeed's Init does
with torch.device("meta"):
    torch.empty(0)
torch.empty = empty
with torch.device("meta"):
    print(torch.empty(0).device)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "meta"


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


@pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")
@pytest.mark.parametrize("method", sorted(PEFT_ON_PLAIN_WEIGHTS))
@until_fixed("the method fails over 4-bit layers", "model: PEFT_ON_PLAIN_WEIGHTS")
def test_a_method_trains_over_nf4(method, tmp_path):
    config = config_of(method)
    config.task_type, config.target_modules = "SEQ_CLS", ["q_proj", "v_proj"]
    model = nf4_classifier(tmp_path)
    with must_work():
        get_peft_model(model, config)(IDS).logits.sum().backward()


@until_fixed("IA3 refuses to be taken off a model that is marked as 4-bit", "model: is_loaded_in_8bit = False")
def test_ia3_is_taken_off_an_nf4_model(tmp_path):
    config = IA3Config(task_type="SEQ_CLS", target_modules=["q_proj"], feedforward_modules=[])
    model = get_peft_model(nf4_classifier(tmp_path), config)
    with must_work():
        model.unload()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")
@until_fixed("LNTuning leaves the head wrapped where it is merged", "model: AuxiliaryTrainingWrapper")
def test_nothing_of_peft_is_left_after_a_merge():
    config = LNTuningConfig(task_type="SEQ_CLS", target_modules=["input_layernorm"])
    merged = get_peft_model(classifier(), config).merge_and_unload()
    assert not any(isinstance(module, AuxiliaryTrainingWrapper) for module in merged.modules())


@until_fixed("AdaLoRA's divisor becomes trainable where PEFT casts it", "model: ranknum")
def test_what_adalora_does_not_save_is_not_trained():
    config = AdaLoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], total_step=20, tinit=1, tfinal=1)
    model = get_peft_model(classifier().bfloat16(), config)
    assert not any(p.requires_grad for name, p in model.named_parameters() if "ranknum" in name)


@until_fixed("its tables of 8-bit numbers cannot be made of tensors without data", "training: name2qmap")
def test_an_8bit_optimizer_steps_on_tensors_without_data():
    import bitsandbytes as bnb

    with FakeTensorMode(), must_work():
        weight = torch.nn.Parameter(torch.empty(8192))
        weight.grad = torch.empty(8192)
        bnb.optim.AdamW8bit([weight]).step()


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
@until_fixed(
    "PartialState() makes two processes without a GPU two worlds of one", ".: not torch.accelerator.is_available()"
)
def test_processes_without_a_gpu_know_of_each_other():
    script = "from accelerate import PartialState; print(PartialState().distributed_type.value)"
    world = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    world |= {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    done = subprocess.run([sys.executable, "-c", script], env=world, capture_output=True, text=True, check=True)
    assert done.stdout.strip() != "NO"


def alone(script):
    """What a script prints that runs as the one process of a group."""
    group = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    paths = os.pathsep.join([str(PACKAGE.parent / "tests"), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **group, "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout.splitlines()[-1]


@pytest.mark.scale
@pytest.mark.parametrize("stage", [2, 3])
@until_fixed("DeepSpeed casts every parameter, whatever has to stay float32", "model: def precise")
def test_deepspeed_keeps_a_head_in_float32(stage):
    script = f"""
import deepspeed.ops, torch
from training_runs import classifier
deepspeed.ops.__compatible_ops__ = {{}}  # or an op for shared memory is compiled for minutes
deepspeed.init_distributed("gloo")
model = classifier()
model._keep_in_fp32_modules_strict = {{"score"}}
config = {{"train_batch_size": 1, "bf16": {{"enabled": True}}, "zero_optimization": {{"stage": {stage}}}}}
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
print(engine.module.score.weight.dtype)
"""
    assert alone(script) == "torch.float32"


@pytest.mark.scale
@until_fixed("accelerate has one MixedPrecisionPolicy for all modules", "model: units_of_their_own")
def test_fsdp_keeps_a_head_in_float32():
    script = """
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from sharded_runs import let_cpus_be_fsdp
from training_runs import classifier
let_cpus_be_fsdp()
plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
accelerator = Accelerator(mixed_precision="bf16", fsdp_plugin=plugin, cpu=True)
model = classifier()
model._keep_in_fp32_modules_strict = {"score"}
model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
dtypes = []
model.score.register_forward_hook(lambda head, inputs, output: dtypes.append(head.weight.dtype))
model(torch.tensor([[5, 9, 2]]))
print(*dtypes)
"""
    assert alone(script) == "torch.float32"


def test_everything_named_here_as_a_workaround_exists():
    import test_bare_trl  # noqa: F401  (its marks fill the list)

    for workaround in OURS:
        folder, name = workaround.split(": ")
        sources = "".join(file.read_text(encoding="utf-8") for file in Path(PACKAGE, folder).glob("*.*"))
        assert name in sources, workaround
