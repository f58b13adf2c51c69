"""RewardModel: what it computes, what it refuses, and that a folder means the same score to all who open it.

Two subprocesses, one that loads folders through rm_plugin and one that never imports it, are shared by many tests:
each pays the imports of torch and transformers once.
"""

import copy
import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from models import tiny_backbone, tiny_config, tiny_reward_model, tiny_tokenizer
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    pipeline,
)

from rm_plugin.data.encoding import ensure_pad_token, token_ids
from rm_plugin.model.adapters import adapters_to_float32, load_peft_model, merge_adapter, save_adapter
from rm_plugin.model.config import RewardModelConfig
from rm_plugin.model.modeling import RewardHead, RewardModel

# peft 0.21 asks for an attribute that transformers 5.23 has renamed; goes with the next peft.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3", "smollm3", "olmo2", "gpt2", "qwen3_moe")
PAD, EOS = 0, 2  # of every tiny config
NF4_SIZES = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}  # 4-bit blocks hold 64 weights
EXTRAS = {  # of the folder "extras"
    **{"reasoning": "strip", "reward_mean": 1.5, "reward_std": 0.25},
    **{"pooling": "last_token", "pad_token_id": PAD},
}
SEQUENCES = [
    [5, 17, 93, 41, 250, 33, 8, 19, 77, 120, 61, EOS],
    [5, 17, 93, 41, EOS],
    [200, 11, 12, 13, 14, 15, 16, 17, EOS],
    [7],
]


def padded(side="right", pad=PAD, sequences=SEQUENCES) -> dict[str, torch.Tensor]:
    """`SEQUENCES` as one batch."""
    longest = max(map(len, sequences))
    rows, masks = [], []
    for ids in sequences:
        fill, real = [pad] * (longest - len(ids)), [1] * len(ids)
        rows.append(ids + fill if side == "right" else fill + ids)
        masks.append(real + [0] * len(fill) if side == "right" else [0] * len(fill) + real)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


@torch.no_grad()
def scores(model, batch=None) -> torch.Tensor:
    """(N,) float64; `.logits` of a model on the right-padded `SEQUENCES`."""
    return model(**(batch or padded())).logits[:, 0].double()


def assert_equal_scores(actual, expected, tolerance=1e-5):
    """Equal as the design means it: within 1e-5 × max(1, standard deviation of the scores)."""
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    assert expected.std() > 0.05, f"scores {expected.tolist()} could not tell a wrong model from a right one"
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.std().item()), f"{actual.tolist()} for {expected.tolist()}"


def nf4(compute_dtype=torch.float32, **kwargs) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype, **kwargs
    )


def lora_around(model: RewardModel, **kwargs) -> PeftModel:
    """LoRA of rank 4 on every linear layer with weights that matter, as if trained; the head is trained too."""
    kwargs = {"task_type": "SEQ_CLS", "modules_to_save": ["score"], "target_modules": "all-linear", **kwargs}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        peft_model = get_peft_model(model, LoraConfig(r=4, **kwargs))
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name or "score.modules_to_save" in name:
                parameter.data.normal_(std=0.1)
    adapters_to_float32(peft_model)
    return peft_model.eval()


def seeded(make, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **kwargs)


def linear4bits(model) -> list[torch.nn.Module]:
    import bitsandbytes as bnb

    return [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]


@pytest.fixture(scope="module")
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


# ----------------------------------------------------------------------------------------------- folders and processes


@pytest.fixture(scope="module")
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


FRESH = """
import torch
from rm_plugin import RewardModel
for name, path in request["folders"].items():
    one, two = (RewardModel.from_pretrained(path) for _ in range(2))
    inputs = {key: torch.tensor(rows) for key, rows in request["batch"].items()}
    with torch.no_grad():
        answer[name] = {
            "scores": [model(**inputs).logits[:, 0].double().tolist() for model in (one, two)],
            "class": type(one).__name__,
            "head": str(one.score.weight.dtype),
            "extras": one.config.extras,
        }
"""
PLAIN = """
import contextlib, io, os
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
inputs = {key: torch.tensor(rows) for key, rows in request["batch"].items()}
for name, path in request["folders"].items():
    options = {"num_labels": 1} if "lora" in name else {}
    model = AutoModelForSequenceClassification.from_pretrained(path, **options)
    if "lora" in name:  # an adapter has no config of its own; the tokenizer's pad token is set by hand, as TRL does
        model.config.pad_token_id = request["pad"]
    for module in model.modules():  # 4-bit layers in the arithmetic that the saved model used, on any processor
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        answer[name] = {"class": type(model).__name__, "scores": model(**inputs).logits[:, 0].double().tolist()}
tokenizer = AutoTokenizer.from_pretrained(request["folders"]["export"])
model = AutoModelForSequenceClassification.from_pretrained(request["folders"]["export"])
texts = tokenizer.apply_chat_template(request["conversations"], tokenize=False)
encoded = tokenizer(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    answer["export"]["texts"] = model(**encoded).logits[:, 0].double().tolist()
answer["export"]["padding"] = [int((row == 0).sum()) for row in encoded["attention_mask"]]
os.chdir(os.path.dirname(request["folders"]["export"]))
blocks = open("export/README.md", encoding="utf-8").read().split("```python")
snippet = next(b.split("```")[0] for b in blocks if "AutoModelForSequenceClassification" in b)
with contextlib.redirect_stdout(io.StringIO()) as printed:
    exec(snippet, {})
answer["export"]["readme"] = printed.getvalue()
assert "rm_plugin" not in sys.modules
"""
IN_PLAIN = [*ARCHITECTURES, "tied", "sharded", "extras", "lora", "lora-gpt2", "merged", "nf4-merged", "nf4", "export"]
NAMES = [*IN_PLAIN, "bf16", "native", "native-gpt2", "native-moe", "mamba", "lora-bf16", "nf4-lora"]


QUESTION = {"role": "user", "content": "Which country owns Antarctica?"}
CONVERSATIONS = [
    [QUESTION, {"role": "assistant", "content": content}]
    for content in ("None.", "No country owns it: the Antarctic Treaty System governs it.", "Penguins own Antarctica.")
]


def start_python(code: str, **request) -> subprocess.Popen:
    """A new process that runs `code`, which finds `request` and fills `answer`."""
    frame = "import json, sys\nrequest, answer = json.loads(sys.argv[1]), {}\n{}\nprint('ANSWER', json.dumps(answer))"
    frame = frame.replace("{}\nprint", f"{code}\nprint")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", frame, json.dumps(request)], text=True, **pipes)


@pytest.fixture(scope="module")
def processes(saved):
    """Both run at the same time."""
    folders = {name: entry.path for name, entry in saved.items()}
    batch = {key: rows.tolist() for key, rows in padded().items()}
    in_plain = {name: folders[name] for name in IN_PLAIN}
    running = {
        "fresh": start_python(FRESH, folders=folders, batch=batch),
        "plain": start_python(PLAIN, folders=in_plain, batch=batch, pad=PAD, conversations=CONVERSATIONS),
    }
    answers = {}
    for name, process in running.items():
        output, errors = process.communicate()
        answers[name] = json.loads(output.rpartition("ANSWER")[2]) if process.returncode == 0 else errors[-3000:]
    return answers


@pytest.fixture(scope="module")
def fresh(processes):
    """Name ► scores of two models loaded from its folder by rm_plugin in a new process."""
    assert isinstance(processes["fresh"], dict), processes["fresh"]
    return processes["fresh"]


@pytest.fixture(scope="module")
def plain(processes):
    """Name ► scores by plain transformers (and PEFT) in a process that never imports rm_plugin."""
    assert isinstance(processes["plain"], dict), processes["plain"]
    return processes["plain"]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_equal_after_loading_in_a_fresh_process(name, saved, fresh):
    first, second = fresh[name]["scores"]
    assert first == second  # bit for bit between two loaded models
    assert_equal_scores(first, saved[name].scores, tolerance=1e-6)
    assert fresh[name]["class"] == "RewardModel"
    assert fresh[name]["head"] == "torch.float32"


def test_every_saved_folder_is_checked_in_a_fresh_process(saved):
    assert set(NAMES) == set(saved)


@pytest.mark.parametrize("name", [name for name in IN_PLAIN if name != "export"])
def test_plain_transformers_gives_the_same_logits_on_a_padded_batch(name, saved, plain, request):
    if "lora" in name and Version(transformers.__version__) < Version("5.23"):
        request.applymarker(pytest.mark.xfail(strict=False, reason="transformers 5.17 draws an adapter's head anew"))
    assert_equal_scores(plain[name]["scores"], saved[name].scores)
    assert plain[name]["class"].endswith("ForSequenceClassification")


def test_exported_model_and_tokenizer_score_texts_the_same_in_plain_transformers(saved, plain):
    """The model started with pad == EOS, as SmolLM2 does: plain transformers would have pooled the token before."""
    path = saved["export"].path
    model, tokenizer = RewardModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id
    sequences = [token_ids(c[:1], c[1:], tokenizer) for c in CONVERSATIONS]
    assert plain["export"]["padding"] == [max(map(len, sequences)) - len(ids) for ids in sequences]
    assert sum(plain["export"]["padding"]) > 0
    expected = scores(model, padded(sequences=sequences))
    assert_equal_scores(plain["export"]["texts"], expected)
    # the README's lines for plain transformers run as they stand, on the first of these conversations
    printed = float(re.search(r"tensor\(\[\[(-?[\d.]+)\]\]\)", plain["export"]["readme"])[1])
    assert printed == pytest.approx(expected[0].item(), abs=1e-3)


def test_export_says_how_others_load_it(saved):
    readme = Path(saved["export"].path, "README.md").read_text(encoding="utf-8")
    assert '"use_activation": false' in readme and "--runner pooling" in readme
    assert "LLM(" not in readme, "only requests that were measured"
    assert 'RemoteRewardScorer("http://localhost:8000"' in readme
    assert "SGLang" in readme and "not measured" in readme
    assert "apply_chat_template" in readme
    assert "keeps pipelines and servers from a sigmoid" in readme


def test_experts_are_saved_under_the_names_of_the_published_checkpoints(saved):
    with safe_open(Path(saved["qwen3_moe"].path, "model.safetensors"), framework="pt") as weights:
        names = set(weights.keys())
    assert "model.layers.0.mlp.experts.3.gate_proj.weight" in names
    assert "score.weight" in names


@pytest.mark.parametrize(
    ("name", "prefix"), [("llama", "model"), ("gpt2", "transformer"), ("native-gpt2", "transformer")]
)
def test_weights_are_saved_under_the_names_of_the_architecture(name, prefix, saved):
    with safe_open(Path(saved[name].path, "model.safetensors"), framework="pt") as weights:
        assert {key.split(".")[0] for key in weights.keys()} == {prefix, "score"}  # noqa: SIM118
        assert weights.get_tensor("score.weight").dtype == torch.float32


def test_standard_config_is_the_architectures_own_with_our_extras_in_one_block(saved):
    config = json.loads(Path(saved["extras"].path, "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["model_type"] == "llama"
    assert config["id2label"] == {"0": "LABEL_0"}  # how transformers writes num_labels=1
    assert config["problem_type"] == "regression"
    assert config["reward_model"] == EXTRAS
    assert "rm_shared_prefix" not in json.dumps(config)
    assert RewardModel.from_pretrained(saved["extras"].path).config.extras == config["reward_model"]


def test_a_pipeline_of_transformers_returns_the_score_and_not_its_sigmoid(tmp_path):
    model, tokenizer = tiny_reward_model(), tiny_tokenizer("plain")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("Hello world</s>", return_tensors="pt")["input_ids"]
    [answer] = pipeline("text-classification", str(tmp_path), device="cpu")("Hello world</s>")
    assert answer["score"] == pytest.approx(model(ids).logits.item(), abs=1e-5)


def test_extras_are_there_in_a_fresh_process(fresh):
    assert fresh["extras"]["extras"] == EXTRAS


def test_sharded_folder_has_several_files(saved):
    assert len(list(Path(saved["sharded"].path).glob("model-*.safetensors"))) > 1


def test_native_folder_becomes_a_reward_model_through_the_auto_classes(saved):
    path = saved["native"].path
    assert json.loads(Path(path, "config.json").read_text())["model_type"] == "reward_model"
    config = AutoConfig.from_pretrained(path)
    assert isinstance(config, RewardModelConfig)
    assert config.num_labels == 1
    for load in (AutoModelForSequenceClassification.from_pretrained, AutoModel.from_pretrained):
        model = load(path)
        assert type(model) is RewardModel
        assert_equal_scores(scores(model), saved["native"].scores)
    assert (
        type(AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)) is RewardModel
    )  # as TRL calls it


def test_standard_folder_becomes_the_architectures_own_class_through_the_auto_class(saved):
    model = AutoModelForSequenceClassification.from_pretrained(saved["llama"].path)
    assert type(model).__name__ == "LlamaForSequenceClassification"


def test_backbone_without_a_sequence_classifier_is_saved_native_with_one_line(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "rm_plugin"):
        tiny_reward_model("mamba").save_pretrained(tmp_path)
    assert [r.getMessage() for r in caplog.records] == [
        "transformers has no sequence classifier for mamba: saved as model_type reward_model, "
        "which needs rm_plugin to load"
    ]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "reward_model"


def test_backbone_without_a_sequence_classifier_is_not_exported(tmp_path):
    with pytest.raises(ValueError, match="no sequence classifier for mamba, so no other tool could open it; .*native"):
        tiny_reward_model("mamba").export(tmp_path / "out", tiny_tokenizer())
    assert not (tmp_path / "out").exists()


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="format='gguf' is not known; use one of 'standard', 'native'"):
        tiny_reward_model().save_pretrained(tmp_path, format="gguf")


@pytest.mark.parametrize("pad", [None, EOS])
def test_saving_warns_where_plain_transformers_would_pool_the_wrong_token(pad, tmp_path, caplog):
    model = tiny_reward_model("llama", pad_token_id=pad)
    with caplog.at_level(logging.WARNING, "rm_plugin"):
        model.save_pretrained(tmp_path)
    assert f"pad_token_id={pad} is saved (EOS is 2)" in caplog.text
    assert "ensure_pad_token" in caplog.text


def test_state_dict_that_a_launcher_gathered_is_what_is_saved(tmp_path):
    for architecture in ("llama", "gpt2"):
        model = tiny_reward_model(architecture)
        state_dict = {name: tensor + 1 for name, tensor in model.state_dict().items()}
        model.save_pretrained(tmp_path, state_dict=state_dict)
        loaded = RewardModel.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state_dict.items())


def test_push_to_hub_uploads_the_standard_layout(monkeypatch, tmp_path):
    """Only what talks to the network is replaced."""
    import transformers.utils.hub as hub
    from huggingface_hub import ModelCard

    uploaded = []

    def upload(self, working_dir, repo_id, files_timestamps, **kwargs):
        files = {p.name: p.read_bytes() for p in Path(working_dir).iterdir()}
        uploaded.append((repo_id, files))

    fake = SimpleNamespace(create_repo=lambda repo_id, **kwargs: SimpleNamespace(repo_id=repo_id))
    for module in (hub, sys.modules["transformers.modeling_utils"]):
        monkeypatch.setattr(module, "hf_api", lambda: fake)
        monkeypatch.setattr(module, "create_and_tag_model_card", lambda *args, **kwargs: ModelCard("---\n---\n"))
    monkeypatch.setattr(hub.PushToHubMixin, "_upload_modified_files", upload)

    model = tiny_reward_model()
    model.push_to_hub("me/rm")
    model.save_pretrained(tmp_path / "rm", push_to_hub=True, repo_id="me/rm")
    for repo_id, files in uploaded:
        assert repo_id == "me/rm"
        assert json.loads(files["config.json"])["architectures"] == ["LlamaForSequenceClassification"]
        assert "model.safetensors" in files
    assert len(uploaded) == 2

    base = tmp_path / "base"
    model.save_pretrained(base)
    save_adapter(lora_around(RewardModel.from_pretrained(base)), tmp_path / "adapter")
    model = RewardModel.from_pretrained(tmp_path / "adapter")
    model.push_to_hub("me/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "reward_model.json"} <= set(uploaded[2][1])
    with pytest.raises(ValueError, match="call push_to_hub"):
        model.save_pretrained(tmp_path / "again", push_to_hub=True)


# ---------------------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mamba"])
def test_score_does_not_depend_on_padding_pad_id_or_batch_company(architecture):
    model = tiny_reward_model(architecture)
    expected = scores(model)
    alone = [scores(model, {"input_ids": torch.tensor([ids])})[0] for ids in SEQUENCES]
    assert_equal_scores(torch.stack(alone), expected)
    for side in ("left", "right"):
        for pad in (PAD, EOS, 77):  # EOS and 77 stand in the texts, too
            assert_equal_scores(scores(model, padded(side, pad)), expected)
    assert_equal_scores(scores(model, padded(sequences=SEQUENCES[::-1])), expected.flip(0))


def test_left_padding_counts_positions_from_the_first_token():
    """GPT-2 learns a vector for every position; transformers' own classifier moves with left padding."""
    model = tiny_reward_model("gpt2")
    theirs = model.to_sequence_classifier()
    assert_equal_scores(scores(theirs), scores(model))
    assert (scores(theirs, padded("left")) - scores(model, padded("left"))).abs().max() > 0.1


def test_score_is_the_head_on_the_last_token():
    model = tiny_reward_model()
    output = model(**padded(), output_hidden_states=True)
    last = [11, 4, 8, 0]
    by_hand = output.hidden_states[-1][range(4), last] @ model.score.weight.T
    assert output.logits.shape == (4, 1)
    torch.testing.assert_close(output.logits, by_hand)


def test_input_embeddings_give_the_same_scores():
    model, batch = tiny_reward_model(), padded()
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    by_embeddings = scores(model, {"inputs_embeds": embeddings, "attention_mask": batch["attention_mask"]})
    assert_equal_scores(by_embeddings, scores(model))


def test_output_as_tuple_and_hidden_states_on_request():
    model = tiny_reward_model()
    logits, hidden_states = model(**padded(), output_hidden_states=True, return_dict=False)
    assert logits.shape == (4, 1)
    assert len(hidden_states) == 3  # embeddings and two layers
    assert model(**padded()).hidden_states is None


def test_no_keys_and_values_are_kept():
    assert set(tiny_reward_model()(**padded())) == {"logits"}


def test_labels_are_refused():
    with pytest.raises(ValueError, match="labels are given, a RewardModel computes no loss"):
        tiny_reward_model()(**padded(), labels=torch.zeros(4, 1))


def test_attributes_that_trl_and_peft_read():
    model = tiny_reward_model("gpt2")
    assert RewardModel.base_model_prefix == "model"
    assert getattr(model, model.base_model_prefix) is model.model is model.base_model
    assert type(model.model).__name__ == "GPT2Model"
    assert model.config.num_labels == 1
    assert model.config.hidden_size == 32
    assert model.config.get_text_config().vocab_size == 320
    assert model.get_output_embeddings() is None  # no language model head was built


# ------------------------------------------------------------------------------------------------------------ the head


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16()])
def test_head_stays_float32_when_the_model_is_cast(cast):
    model = tiny_reward_model()
    weight = model.score.weight.clone()
    model = cast(model)
    assert model.dtype in (torch.bfloat16, torch.float16)
    assert model.score.weight.dtype == torch.float32
    assert torch.equal(model.score.weight, weight)
    assert model(**padded()).logits.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16"])
def test_head_is_float32_when_weights_are_loaded_in_half_precision(dtype, saved):
    model = RewardModel.from_pretrained(saved["llama"].path, dtype=dtype)
    exact = RewardModel.from_pretrained(saved["llama"].path)
    assert model.model.dtype == (torch.bfloat16 if isinstance(dtype, str) else dtype)
    assert torch.equal(model.score.weight, exact.score.weight)
    assert model(**padded()).logits.dtype == torch.float32


def test_head_steps_out_of_autocast():
    model = tiny_reward_model()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = model(**padded(), output_hidden_states=True)
    assert output.logits.dtype == torch.float32
    by_hand = output.hidden_states[-1][range(4), [11, 4, 8, 0]].float() @ model.score.weight.T
    torch.testing.assert_close(output.logits, by_hand)


def test_head_is_float64_for_a_float64_backbone(saved):
    for model in (
        tiny_reward_model(dtype=torch.float64),
        RewardModel.from_pretrained(saved["llama"].path, dtype=torch.float64),
        tiny_reward_model().double(),
    ):
        assert model.score.weight.dtype == torch.float64
        assert model(**padded()).logits.dtype == torch.float64


def test_head_under_quantisation_is_a_plain_float32_layer(saved):
    model = RewardModel.from_pretrained(saved["nf4"].path)
    assert type(model.score) is RewardHead
    assert model.score.weight.dtype == torch.float32
    assert len(linear4bits(model)) == 14


# ------------------------------------------------------------------------------------------------- making and refusing


def test_fresh_head_is_drawn_with_the_seed(causal):
    first, second = (seeded(RewardModel.from_backbone, causal("llama")).score.weight.detach() for _ in range(2))
    assert torch.equal(first, second)
    assert first.std() == pytest.approx(0.3, rel=0.5)  # initializer_range of the tiny configs
    assert not torch.equal(first, RewardModel.from_backbone(causal("llama")).score.weight)


def test_from_backbone_takes_base_models_too(causal, tmp_path):
    base = AutoModel.from_pretrained(causal("gpt2"))
    base.save_pretrained(tmp_path)  # its weights have no prefix
    model = RewardModel.from_backbone(tmp_path)
    assert model.config.base_model == str(tmp_path)
    for theirs, ours in zip(base.parameters(), model.model.parameters(), strict=True):
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gpt_oss", "mamba", "jamba", "lfm2", "falcon_h1"])
def test_backbone_is_loaded_as_transformers_loads_it(architecture, causal, tmp_path):
    """Buffers too: those of `falcon_h1` are in no file, and were raw memory in a model class of one's own."""
    folder = causal(architecture)
    theirs = AutoModel.from_pretrained(folder)
    model = RewardModel.from_backbone(folder)
    model.save_pretrained(tmp_path)
    for ours in (model.model, RewardModel.from_pretrained(tmp_path).model):
        for tensors in ("named_parameters", "named_buffers"):
            expected, actual = dict(getattr(theirs, tensors)()), dict(getattr(ours, tensors)())
            assert expected.keys() == actual.keys()
            assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_from_backbone_shares_the_weights_of_a_model_in_memory(causal):
    language_model = AutoModelForCausalLM.from_pretrained(causal("llama"))
    model = RewardModel.from_backbone(language_model)
    assert model.model is language_model.model
    with pytest.raises(ValueError, match="dtype cannot be applied to a model in memory"):
        RewardModel.from_backbone(language_model, dtype=torch.bfloat16)


def test_from_backbone_reports_no_missing_head(causal, caplog, capfd):
    RewardModel.from_backbone(causal("llama"))
    assert "MISSING" not in caplog.text + capfd.readouterr().err


@pytest.mark.parametrize("name", ["llama", "native", "gpt2"])
def test_from_backbone_refuses_a_model_that_has_a_head(name, saved):
    path = saved[name].path
    line = r"with a head of its own; RewardModel.from_pretrained loads a one-label head, and from_backbone\(AutoModel"
    with pytest.raises(ValueError, match=line):
        RewardModel.from_backbone(path)
    with pytest.raises(ValueError, match=line):
        RewardModel.from_backbone(AutoModelForSequenceClassification.from_pretrained(path))
    trained = RewardModel.from_pretrained(path)
    fresh_head = RewardModel.from_backbone(trained.model)  # what is meant can still be said
    assert not torch.equal(fresh_head.score.weight, trained.score.weight)


def test_checkpoint_without_a_trained_head_is_refused(causal):
    path = causal("llama")
    with pytest.raises(
        ValueError, match="is a LlamaForCausalLM, which has no trained reward head; RewardModel.from_b"
    ):
        RewardModel.from_pretrained(path)


def test_checkpoint_that_lacks_its_head_is_refused(saved, tmp_path, caplog):
    model = RewardModel.from_pretrained(saved["llama"].path)
    state_dict = {name: tensor for name, tensor in model.state_dict().items() if name != "score.weight"}
    model.save_pretrained(tmp_path, state_dict=dict(state_dict))
    with pytest.raises(ValueError, match="no weights for score.weight; .*from_backb"):
        RewardModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path, state_dict={**state_dict, "score.weight": torch.zeros(1, 31)})
    with pytest.raises(ValueError, match="no weights for score.weight"):
        RewardModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


def test_two_labels_are_refused(saved, tmp_path):
    AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_labels=2, a reward model has 1; choose a one-label checkpoint"):
        RewardModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_labels=2, a reward model has 1; load with num_labels=1"):
        RewardModel.from_sequence_classifier(AutoModelForSequenceClassification.from_pretrained(tmp_path))
    with pytest.raises(ValueError, match="num_labels=2, a reward model has 1"):
        RewardModel.from_pretrained(saved["llama"].path, num_labels=2)
    with pytest.raises(ValueError, match="num_labels=2, a reward model has 1"):
        AutoModelForSequenceClassification.from_pretrained(saved["native"].path, num_labels=2)


def test_encoder_classifier_is_refused(tmp_path):
    config = AutoConfig.for_model(
        "deberta-v2",
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=1,
    )
    encoder = AutoModelForSequenceClassification.from_config(config)
    encoder.save_pretrained(tmp_path)
    line = (
        "is a DebertaV2ForSequenceClassification, not a decoder with a linear head `score`; RewardScorer takes it as"
    )
    with pytest.raises(ValueError, match=line):
        RewardModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="DebertaV2ForSequenceClassification has no linear head named `score`"):
        RewardModel.from_sequence_classifier(encoder)


def test_encoder_is_refused_as_a_backbone(tmp_path):
    bert = tiny_backbone("bert")
    bert.save_pretrained(tmp_path)
    for model in (bert, tmp_path):
        with pytest.raises(ValueError, match="is a BertModel, a RewardModel needs a decoder; RewardScorer takes"):
            RewardModel.from_backbone(model)
    t5 = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
    AutoModel.from_config(AutoConfig.for_model("t5", **t5)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a T5Model, a RewardModel needs a decoder"):
        RewardModel.from_backbone(tmp_path)


def test_pickled_weights_are_read_but_run_no_code(saved, tmp_path):
    """Older reward models are `.bin` files; `weights_only=True` reads tensors and nothing else."""
    model = RewardModel.from_pretrained(saved["llama"].path)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path)), scores(model))
    marker = tmp_path / "code-was-run"

    class Harmful:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({**model.state_dict(), "x": Harmful()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match="(?i)weights.only"):
        RewardModel.from_pretrained(tmp_path)
    assert not marker.exists()


def test_language_model_in_memory_is_no_reward_model(causal):
    language_model = AutoModelForCausalLM.from_pretrained(causal("llama"))
    with pytest.raises(
        ValueError, match="LlamaForCausalLM has no trained reward head; RewardModel.from_backbone puts"
    ):
        RewardModel.from_sequence_classifier(language_model)


def test_from_sequence_classifier_keeps_scores_and_shares_the_backbone(saved):
    for name in ("llama", "gpt2"):
        theirs = AutoModelForSequenceClassification.from_pretrained(saved[name].path)
        model = RewardModel.from_sequence_classifier(theirs)
        assert model.model is getattr(theirs, theirs.base_model_prefix)
        assert_equal_scores(scores(model), saved[name].scores)
        assert RewardModel.from_sequence_classifier(model) is model
        assert not model.training


def test_arguments_of_loading_reach_the_backbone(saved):
    for name in ("llama", "native"):
        model = RewardModel.from_pretrained(
            saved[name].path, attn_implementation="eager", device_map="cpu", local_files_only=True, revision="main"
        )
        assert model.model.config._attn_implementation == "eager"
        assert_equal_scores(scores(model), saved[name].scores)
    model = AutoModelForSequenceClassification.from_pretrained(saved["native"].path, attn_implementation="eager")
    assert model.model.config._attn_implementation == "eager"
    model = RewardModel.from_pretrained(saved["llama"].path, attention_dropout=0.25, revision=None)
    assert model.model.config.attention_dropout == 0.25
    with pytest.raises(TypeError, match="attention_droput"):
        RewardModel.from_pretrained(saved["llama"].path, attention_droput=0.25)


def test_a_subfolder_is_read(saved, tmp_path):
    for name in ("llama", "lora"):
        (tmp_path / name).symlink_to(saved[name].path, target_is_directory=True)
        model = RewardModel.from_pretrained(tmp_path, subfolder=name)
        assert_equal_scores(scores(model), saved[name].scores)


def test_report_of_loading_is_given_on_request(saved):
    for name in ("llama", "native"):
        load = RewardModel if name == "llama" else AutoModelForSequenceClassification
        model, info = load.from_pretrained(saved[name].path, output_loading_info=True)
        assert type(model) is RewardModel
        assert info["missing_keys"] == set()


def test_hub_ids_are_read_from_the_cache_with_their_commit(causal, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # PEFT looks a base up on the hub when it saves
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(causal("llama"), target_is_directory=True)
    where = {"cache_dir": str(tmp_path), "local_files_only": True}
    model = seeded(RewardModel.from_backbone, "org/tiny", **where)
    assert model.config.base_model == "org/tiny"
    assert model.config.base_revision == commit

    folder = tmp_path / "adapter"  # its base is looked for in the same cache, at the same commit
    peft_model = lora_around(model)
    with pytest.warns(UserWarning, match="Could not find a config file in org/tiny"):  # PEFT asks the hub only
        save_adapter(peft_model, folder)
    assert json.loads((folder / "reward_model.json").read_text())["base_revision"] == commit
    (repository / "refs" / "main").write_text("f" * 40)  # the branch moves on
    assert_equal_scores(scores(RewardModel.from_pretrained(folder, **where)), scores(peft_model))


# ------------------------------------------------------------------------------------------------------------ adapters


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


def test_head_reads_what_the_backbone_ends_in(tmp_path):
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_hidden_layers": 2, "init_std": 0.3}
    config = AutoConfig.for_model(
        "opt", vocab_size=320, num_attention_heads=4, max_position_embeddings=256, do_layer_norm_before=False, **sizes
    )
    model = seeded(lambda: RewardModel.from_backbone(AutoModel.from_config(config))).eval()  # as OPT-350m
    model.score.weight.data.mul_(20)
    assert model.score.in_features == 16
    model.train().model.decoder.embed_tokens.eval()  # the check leaves every module in its mode
    assert model.batch_form() == "packed" and model.training and not model.model.decoder.embed_tokens.training
    model.eval()
    model.save_pretrained(tmp_path)
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path)), scores(model))


def test_adapter_on_embeddings_is_saved_and_loaded(causal, tmp_path):
    model = seeded(RewardModel.from_backbone, causal("llama"))
    peft_model = lora_around(model, target_modules=["embed_tokens", "q_proj"])
    save_adapter(peft_model, tmp_path, save_embedding_layers=False)
    assert_equal_scores(scores(RewardModel.from_pretrained(tmp_path)), scores(peft_model))


def test_quantised_head_in_memory_is_refused(causal):
    model = AutoModelForSequenceClassification.from_pretrained(causal("llama"), num_labels=1)
    model.score.weight = torch.nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="head `score` is quantised, .* llm_int8_skip_modules"):
        RewardModel.from_sequence_classifier(model)


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


# -------------------------------------------------------------------------------------------------- NF4, merge, export


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


# --------------------------------------------------------------------------------------------------- as a torch module


@pytest.mark.parametrize("name", ["llama", "gpt2", "lora"])
def test_copies_and_pickles_score_the_same(name, saved):
    model = RewardModel.from_pretrained(saved[name].path)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_equal_scores(scores(copied), saved[name].scores)
        for parameter in copied.parameters():
            parameter.data.zero_()
        assert scores(copied).abs().max() == 0
    assert_equal_scores(scores(model), saved[name].scores)


def test_copy_of_a_model_with_adapters_merges_by_itself(saved):
    model = RewardModel.from_pretrained(saved["lora"].path)
    copied = copy.deepcopy(model)
    copied.merge()
    assert any("lora" in name for name, _ in model.named_parameters())
    assert not any("lora" in name for name, _ in copied.named_parameters())
    assert_equal_scores(scores(copied), scores(model))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_gradient_checkpointing_gives_the_same_gradients(architecture):
    def gradients(checkpointing):
        model = tiny_reward_model(architecture, attention_dropout=0.0).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        model(**padded()).logits.sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert len(plain) > 10
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name])


def test_config_is_that_of_the_backbone_with_ours_around():
    config = RewardModelConfig(tiny_config("llama"), reward_mean=1.0)
    assert config.pad_token_id == 0
    config.pad_token_id = 9
    assert config.backbone_config.pad_token_id == 9
    again = RewardModelConfig.from_dict(config.to_dict())
    assert type(again.backbone_config).__name__ == "LlamaConfig"
    assert (again.reward_mean, again.pad_token_id) == (1.0, 9)
    with pytest.raises(ValueError, match="num_labels=3, a reward model has 1"):
        RewardModelConfig(tiny_config("llama"), num_labels=3)
