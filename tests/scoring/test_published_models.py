"""Twins of published reward models, of their classes and tensors and a hundredth of a millionth of their size.

What docs/models.md says of each model is what happens to its twin, and the functions that it shows score.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from models import tiny_config, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from rm_plugin import RewardScorer
from rm_plugin.scoring.rewards import as_reward

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
TABLE = [
    [cell.strip() for cell in line.split("|")[1:-1]] for line in DOCS.splitlines() if re.match(r"\| [\w-]+/", line)
]
CHATS, OWN_HEAD, OWN_CODE, LOGIT, COMPARES = re.findall(r'```python title="[^"]+"\n(.*?)```', DOCS, re.DOTALL)
PROMPTS, COMPLETIONS = ["2 + 2 =", "Which country owns Antarctica?"], ["4", "None: it has a treaty."]
SIZE = 32  # of tiny_config's hidden states

# Heads as their tensors are called; what is refused says why in one line.
NO_HEAD = "has no trained reward head; RewardModel.from_backbone puts a fresh one on it, to be trained"
GATED = {"regression_layer.weight": (19, SIZE), "gating.layers.0.weight": (8, SIZE)}
TWO_LAYERS = {"0.weight": (SIZE, SIZE), "0.bias": (SIZE,), "2.weight": (1, SIZE), "2.bias": (1,)}
TWINS = {  # class: (architecture, changes to its config, head, what is said)
    "LlamaForSequenceClassification": ("llama", {}, {"score.weight": (1, SIZE)}, None),
    "Qwen3ForSequenceClassification": ("qwen3", {}, {"score.weight": (1, SIZE)}, None),
    "Gemma2ForSequenceClassification": ("gemma2", {}, {"score.weight": (1, SIZE)}, None),
    "INFORMForSequenceClassification": ("llama", {}, {f"score.{k}": v for k, v in TWO_LAYERS.items()}, "score.weight"),
    "LlamaForCausalLM": ("llama", {}, {f"v_head.summary.{k}": v for k, v in TWO_LAYERS.items()}, NO_HEAD),
    "LlamaRewardModel": ("llama", {}, {"regression_head.weight": (1, SIZE)}, NO_HEAD),
    "EurusRewardModel": ("mistral", {}, {"regression_head.weight": (1, SIZE)}, NO_HEAD),
    "LlamaModelForScore": ("llama", {}, {"score_head.weight": (1, SIZE), "normalizer.mean": (1,)}, NO_HEAD),
    "LlamaForRewardModelWithGating": (
        "llama",
        {"auto_map": {"AutoModelForSequenceClassification": "own.Gated"}, "num_objectives": 19},
        GATED,
        "its class own.Gated is code in its repository, which is not run unasked",
    ),
    "InternLM2ForRewardModel": (
        "llama",
        {"model_type": "internlm2", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}},
        {"v_head.weight": (1, SIZE)},
        "its class own.Model is code in its repository, which is not run unasked",
    ),
    "CustomRewardModel": ("llama", {}, {"value_head.weight": (6, SIZE)}, "num_labels=6, a reward model has 1"),
    "its own": (
        "llama",
        {"id2label": {str(i): f"LABEL_{i}" for i in range(10)}},
        {"score.weight": (10, SIZE)},
        "label",
    ),
}
IMPORT = "from transformers.models.llama.modeling_llama import LLAMA_INPUTS_DOCSTRING\n"  # of ArmoRM and QRM
OWN = """
import torch
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class Gated(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression_layer = torch.nn.Linear(config.hidden_size, config.num_objectives, bias=False)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state[:, -1]
        return SequenceClassifierOutput(logits=self.regression_layer(hidden).mean(-1))  # (N,), as ArmoRM's and QRM's

    def get_score(self, tokenizer, chat):
        with torch.no_grad():
            return float(self(tokenizer.apply_chat_template(chat, return_tensors="pt")["input_ids"]).logits)
"""


def twin(folder, name):
    """A folder as the model's on the hub: config, weights, tokenizer."""
    architecture, changes, head, _ = TWINS[name]
    config = tiny_config(architecture)
    torch.manual_seed(0)
    backbone = {f"model.{k}": v for k, v in AutoModel.from_config(config).state_dict().items()}
    tensors = {**backbone, **{k: torch.randn(shape) for k, shape in head.items()}}
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**config.to_dict(), "architectures": [name], "id2label": {"0": "LABEL_0"}, "pad_token_id": 0, **changes}
    config["label2id"] = {label: int(number) for number, label in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    tiny_tokenizer("chatml").save_pretrained(folder)
    return folder


def test_the_table_has_twenty_models_and_every_class_has_a_twin():
    assert len(TABLE) >= 20 and len({row[0] for row in TABLE}) == len(TABLE)
    assert {row[1] for row in TABLE} - {"DebertaV2ForSequenceClassification"} == set(TWINS)  # test_scorer has encoders
    assert {row[3].split(":")[0] for row in TABLE} == {"loads", "if asked", "function", "refused"}
    for _, kind, _, here in TABLE:
        assert (here == "loads") == (kind not in TWINS or TWINS[kind][3] is None)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_loads_with_its_own_scores_or_is_refused_in_one_line(name, tmp_path):
    folder, said = str(twin(tmp_path / "twin", name)), TWINS[name][3]
    if said is not None:
        with pytest.raises(ValueError, match=said) as error:
            RewardScorer(folder)
        assert "\n" not in str(error.value)
        return
    scorer = RewardScorer(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tiny_tokenizer("chatml")
    for prompt, completion, score in zip(
        PROMPTS, COMPLETIONS, scorer.score([[user(p)] for p in PROMPTS], COMPLETIONS), strict=True
    ):
        chat = [user(prompt), {"role": "assistant", "content": completion}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt")
        with torch.no_grad():
            assert score == pytest.approx(float(plain(**ids).logits), abs=1e-4)


def user(text):
    return {"role": "user", "content": text}


def run(source, folder, monkeypatch):
    """What a code block of the docs defines, for the model in this folder."""
    lines = [line for block in (CHATS * ("import chat" in source), source) for line in block.splitlines()]
    assert 10 <= len([line for line in lines if line.strip()]) <= 25
    (folder / "chats.py").write_text(CHATS)
    monkeypatch.syspath_prepend(folder)
    variables = {"__name__": "my_model"}
    exec(re.sub(r'NAME = ".*"', f"NAME = {str(folder)!r}", source), variables)
    return variables


def test_a_head_of_two_layers_scores_as_a_function(tmp_path, monkeypatch):
    folder = twin(tmp_path / "twin", "INFORMForSequenceClassification")
    found = run(OWN_HEAD, folder, monkeypatch)
    scores = found["score"](PROMPTS, COMPLETIONS)
    tensors = load_file(folder / "model.safetensors")
    backbone = AutoModel.from_pretrained(folder).eval()
    ids = tiny_tokenizer("chatml").apply_chat_template(
        [user(PROMPTS[0]), {"role": "assistant", "content": COMPLETIONS[0]}], return_tensors="pt"
    )
    with torch.no_grad():
        hidden = backbone(**ids).last_hidden_state[0, -1]
        inner = torch.relu(tensors["score.0.weight"] @ hidden + tensors["score.0.bias"])
        assert scores[0] == pytest.approx(float(tensors["score.2.weight"] @ inner + tensors["score.2.bias"]), abs=1e-4)


def test_own_code_scores_as_a_function_or_where_it_is_asked_for(tmp_path, monkeypatch):
    folder = twin(tmp_path / "twin", "LlamaForRewardModelWithGating")
    tensors = load_file(folder / "model.safetensors")
    del tensors["gating.layers.0.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text(IMPORT + OWN)  # as it is published: transformers 5 has no such name
    with pytest.raises(ValueError, match=r"cannot be loaded \(ImportError: .*LLAMA_INPUTS_DOCSTRING") as refused:
        as_reward(str(folder), trust_remote_code=True)
    assert "\n" not in str(refused.value)
    folder = folder.rename(tmp_path / "edited")
    (folder / "own.py").write_text(OWN)
    asked = RewardScorer(str(folder), trust_remote_code=True).score([[user(p)] for p in PROMPTS], COMPLETIONS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Gated"}}))
    scores = run(OWN_CODE, folder, monkeypatch)["score"](PROMPTS, COMPLETIONS)
    assert len(set(scores)) == 2 and asked == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("source", [LOGIT, COMPARES], ids=["logit", "compares"])
def test_a_language_model_scores_by_a_logit_or_compares(source, tmp_path, monkeypatch):
    folder = tmp_path / "policy"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config("llama")).save_pretrained(folder)
    tiny_tokenizer("chatml").save_pretrained(folder)
    found = run(source, folder, monkeypatch)
    if source is LOGIT:
        scores = as_reward(found["score"]).score_comparisons([])
        assert scores == [] and len(set(found["score"](PROMPTS, COMPLETIONS))) == 2
    else:
        verdicts = found["compare"](PROMPTS, COMPLETIONS, COMPLETIONS[::-1])
        assert len(verdicts) == 2 and all(0 < verdict < 1 for verdict in verdicts)
