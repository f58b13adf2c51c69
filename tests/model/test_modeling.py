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
from safetensors import safe_open
from saved_models import (
    ARCHITECTURES,
    EOS,
    PAD,
    SEQUENCES,
    assert_equal_scores,
    lora_around,
    padded,
    scores,
    seeded,
)
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from rm_plugin.data.encoding import token_ids
from rm_plugin.model.adapters import save_adapter
from rm_plugin.model.modeling import RewardModel

EXTRAS = {  # of the folder "extras"
    **{"reasoning": "strip", "reward_mean": 1.5, "reward_std": 0.25},
    **{"pooling": "last_token", "pad_token_id": PAD},
}
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


def test_backbone_without_a_sequence_classifier_is_exported_native_with_one_line(tmp_path, caplog):
    model = tiny_reward_model("mamba")
    model.export(tmp_path, tiny_tokenizer())
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("rm_plugin")]
    assert "saved as model_type reward_model, which needs rm_plugin to load" in line
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "No other tool has a class for it" in card and "library_name: rm_plugin" in card and "vllm" not in card
    ids, again = torch.tensor([[5, 6, 7, 2]]), RewardModel.from_pretrained(tmp_path)
    assert again(input_ids=ids).logits.item() == pytest.approx(model(input_ids=ids).logits.item(), abs=1e-5)


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
