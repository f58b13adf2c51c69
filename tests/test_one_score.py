"""One text has one score: through the model, the scorer, GRPO's call, PPO's `get_reward`, best-of-n, the harness and
plain transformers, in fp32 within 1e-5 × max(1, standard deviation of the scores), at batch 1 and batch 16.

Tokenizers: SmolLM2's (pad == EOS, template with a tail; where it is there), a tiny one of that kind, one with its own
pad and BOS, and one whose template prefills `<think>`, so that a completion begins inside the reasoning and holds an
orphan `</think>`.
"""

import importlib
import importlib.util

import models
import numpy as np
import pytest
import torch
from ppo_runs import HAS_PPO
from stub_server import Stub, model_scores, serving
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rm_plugin import RemoteRewardScorer
from rm_plugin.data.comparison import Comparison
from rm_plugin.data.encoding import ensure_pad_token
from rm_plugin.data.templates import trim_template_tail
from rm_plugin.evaluation.harness import evaluate
from rm_plugin.loops.best_of_n import BestOfNSampler
from rm_plugin.scoring.scorer import RewardScorer

pytestmark = [pytest.mark.trl112, pytest.mark.usefixtures("silent_experimental")]

QUESTIONS = ["Which country owns Antarctica?", "What is 2 + 2?", "Who are you?", "Hello"]
ANSWERS = [" None: the Treaty System governs it.", " 4, not 5", " I am fine.", " Penguins own it, all of it!"]
TOKENIZERS = [pytest.param("smollm2", marks=pytest.mark.real_model), "pad_is_eos", "llama3", "think"]


def load_tokenizer(kind, smollm2=None):
    if kind == "smollm2":
        return AutoTokenizer.from_pretrained(smollm2)
    tokenizer = models.tiny_tokenizer("chatml" if kind == "think" else kind)
    if kind == "think":
        tokenizer.chat_template = models.CHATML.replace("assistant\n'", "assistant\n<think>\n'")
    return tokenizer


class Texts:
    """Sixteen texts, the model that scores them and, as the reference, their padded forward at batch 1."""

    def __init__(self, kind, form, smollm2=None):
        self.kind, self.tokenizer = kind, load_tokenizer(kind, smollm2)
        assert trim_template_tail(self.tokenizer) == (kind != "llama3")
        overrides = {} if kind != "smollm2" else {"vocab_size": len(self.tokenizer)}
        self.model = models.tiny_reward_model("llama", eos_token_id=self.tokenizer.eos_token_id, **overrides)
        ensure_pad_token(self.tokenizer, self.model)
        self.policy_tokenizer = load_tokenizer(kind, smollm2)  # as it came
        self.policy_tokenizer.padding_side = "left"
        pad_is_eos = self.policy_tokenizer.pad_token_id == self.policy_tokenizer.eos_token_id
        assert pad_is_eos == (kind in ("smollm2", "pad_is_eos"))
        self.scorer = RewardScorer(self.model, self.tokenizer)
        answers = ["it is a sum</think>" + a.strip() for a in ANSWERS] if kind == "think" else ANSWERS
        self.prompts = [question for question in QUESTIONS for _ in answers]
        self.completions = [answer for _ in QUESTIONS for answer in answers]
        if form == "conversational":
            self.prompts = [[{"role": "user", "content": prompt}] for prompt in self.prompts]
            self.completions = [[{"role": "assistant", "content": text.strip()}] for text in self.completions]
        self.expected = padded_forward(self, 1)
        self.tolerance = 1e-5 * max(1.0, self.expected.std())

    def ids(self, i):
        """Token ids as TRL's RewardTrainer makes them, written out."""
        prompt, completion = self.prompts[i], self.completions[i]
        if isinstance(prompt, str):
            return self.tokenizer(prompt + completion + self.tokenizer.eos_token)["input_ids"]
        return self.tokenizer.apply_chat_template(prompt + completion, return_dict=True)["input_ids"]


def chunks(batch_size):
    return [slice(start, start + batch_size) for start in range(0, 16, batch_size)]


def padded_forward(texts, batch_size, model=None, tokenizer=None):
    """Right-padded rows through a model's `forward`."""
    model, tokenizer, scores = model or texts.model, tokenizer or texts.tokenizer, []
    for chunk in chunks(batch_size):
        rows = [{"input_ids": texts.ids(i)} for i in range(16)[chunk]]
        batch = tokenizer.pad(rows, padding_side="right", return_tensors="pt")
        with torch.no_grad():
            scores += model(**batch).logits[:, 0].tolist()
    return np.array(scores)


def reward_scorer(texts, batch_size):
    return np.concatenate(
        [texts.scorer.score(texts.prompts[chunk], texts.completions[chunk]) for chunk in chunks(batch_size)]
    )


def parsing_scorer(texts, batch_size):
    """Texts without control tokens score alike, parsed or not."""
    scorer = RewardScorer(texts.model, texts.tokenizer, control_tokens="parse")
    return np.concatenate(
        [scorer.score(texts.prompts[chunk], texts.completions[chunk]) for chunk in chunks(batch_size)]
    )


def decoded_with_special_tokens(texts, batch_size):
    """A policy's tokens up to its EOS, decoded with it; of a conversation behind the rendered prompt."""
    prompts, completions = list(texts.prompts), list(texts.completions)
    if isinstance(prompts[0], str):
        completions = [text + texts.tokenizer.eos_token for text in completions]
    else:
        for i, (prompt, completion) in enumerate(zip(texts.prompts, texts.completions, strict=True)):
            rendered = texts.tokenizer.apply_chat_template(prompt + completion, tokenize=False)
            if texts.kind == "llama3":  # whose tokenizer adds a BOS to text
                rendered = rendered.removeprefix(texts.tokenizer.bos_token)
            start = rendered.rindex(completion[0]["content"])
            prompts[i], completions[i] = rendered[:start], rendered[start:]
    scores = [texts.scorer(prompts[chunk], completions[chunk]) for chunk in chunks(batch_size)]
    return np.concatenate(scores)


def grpo_call(texts, batch_size):
    """As GRPO calls a reward function: keywords, columns, ids of another tokenizer, under the trainer's autocast."""
    scores = []
    for chunk in chunks(batch_size):
        prompts, completions = texts.prompts[chunk], texts.completions[chunk]
        with torch.autocast("cpu", torch.bfloat16):
            ids, column = [[1]] * len(prompts), ["x"] * len(prompts)
            scores += texts.scorer(prompts=prompts, completions=completions, completion_ids=ids, column=column)
    return np.array(scores)


def harness(texts, batch_size):
    """`score_comparisons`, one comparison a text (batch 1) or all answers of a question together (batch 16)."""
    size = 1 if batch_size == 1 else len(ANSWERS)
    comparisons = [
        Comparison(texts.prompts[start], texts.completions[start : start + size]) for start in range(0, 16, size)
    ]
    return np.concatenate(texts.scorer.score_comparisons(comparisons))


def best_of_n_candidates(texts, batch_size):
    size = 1 if batch_size == 1 else len(ANSWERS)
    candidates = [
        Comparison(texts.prompts[start], texts.completions[start : start + size]) for start in range(0, 16, size)
    ]
    results = BestOfNSampler(None, None, texts.scorer).rank(candidates)
    return np.concatenate([result.scores for result in results])


def query_responses(texts, chunk):
    """What PPOTrainer holds after generation: policy ids, prompts padded left, responses (with EOS) right."""
    tokenizer = texts.policy_tokenizer
    prompts, completions = texts.prompts[chunk], texts.completions[chunk]
    if isinstance(prompts[0], str):
        prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    else:
        prompt_ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
        completions = [messages[0]["content"] for messages in completions]
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    responses = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in completions]
    width, length = max(map(len, prompt_ids)), max(map(len, responses)) + 1
    rows = [
        [pad] * (width - len(prompt)) + prompt + response + [pad] * (length - len(response))
        for prompt, response in zip(prompt_ids, responses, strict=True)
    ]
    known = [{"prompt": prompt, "input_ids": ids} for prompt, ids in zip(prompts, prompt_ids, strict=True)]
    return torch.tensor(rows), pad, width, known


def ppo_module(texts, batch_size):
    """The PPO module inside TRL's `get_reward`."""
    utils = importlib.import_module("trl.experimental.utils")
    as_ppo_reward_model = importlib.import_module("rm_plugin.loops.ppo").as_ppo_reward_model
    scores = []
    for chunk in chunks(batch_size):
        rows, pad, width, known = query_responses(texts, chunk)
        module = as_ppo_reward_model(texts.scorer, texts.policy_tokenizer, known)
        with torch.no_grad():
            scores += utils.get_reward(module, rows, pad, width)[1].tolist()
    return np.array(scores)


def native_ppo(texts, batch_size):
    """The RewardModel itself inside TRL's `get_reward`, on the policy's ids."""
    from trl.experimental.utils import get_reward

    scores = []
    for chunk in chunks(batch_size):
        rows, pad, width, _ = query_responses(texts, chunk)
        with torch.no_grad():
            scores += get_reward(texts.model, rows, pad, width)[1].tolist()
    return np.array(scores)


@pytest.fixture(scope="module", params=TOKENIZERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=["plain", "conversational"])
def texts(request, kind):
    smollm2 = request.getfixturevalue("smollm2") if kind == "smollm2" else None
    return Texts(kind, request.param, smollm2)


PATHS = [
    padded_forward,
    reward_scorer,
    parsing_scorer,
    decoded_with_special_tokens,
    grpo_call,
    harness,
    best_of_n_candidates,
    ppo_module,
]


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_every_path_gives_the_same_score(path, batch_size, texts):
    if path is ppo_module and not HAS_PPO:
        pytest.skip("PPO is in TRL up to 1.12; `make test` runs this on 1.12.0")
    assert texts.expected.std() > 0.1
    np.testing.assert_allclose(path(texts, batch_size), texts.expected, rtol=0, atol=texts.tolerance)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_an_exported_checkpoint_in_plain_transformers_gives_the_same_score(batch_size, texts, tmp_path):
    texts.model.export(tmp_path / "exported", texts.tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported").eval()
    assert type(model).__name__ == "LlamaForSequenceClassification"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    scores = padded_forward(texts, batch_size, model, tokenizer)
    np.testing.assert_allclose(scores, texts.expected, rtol=0, atol=texts.tolerance)


@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_a_served_model_gives_the_same_score_on_every_path(api, texts, tmp_path, monkeypatch):
    texts.model.export(tmp_path / "exported", texts.tokenizer)
    stub = Stub(model_scores(texts.model), api=api, tokenizer=texts.tokenizer)
    paths = [reward_scorer, decoded_with_special_tokens, grpo_call, harness, best_of_n_candidates]
    with serving(stub) as url:
        monkeypatch.setattr(texts, "scorer", RemoteRewardScorer(url, tmp_path / "exported"))
        for path in [*paths, ppo_module] if HAS_PPO else paths:
            np.testing.assert_allclose(path(texts, 16), texts.expected, rtol=0, atol=texts.tolerance)


def test_the_harness_records_the_same_scores(texts):
    rows = [
        {"prompt": texts.prompts[i], "chosen": texts.completions[i], "rejected": texts.completions[i + 1]}
        for i in range(0, 16, 2)
    ]
    report = evaluate(texts.scorer, "preference", rows, num_samples=10)
    scores = np.concatenate(report.scores)
    np.testing.assert_allclose(scores, texts.expected, rtol=0, atol=texts.tolerance)


@pytest.mark.skipif(not HAS_PPO, reason="PPO is in TRL up to 1.12; `make test` runs this on 1.12.0")
@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("form", ["plain", "conversational"])
def test_native_ppo_gives_the_same_score_on_token_ids_where_pad_is_not_eos(form, batch_size):
    texts = Texts("llama3", form)
    assert texts.policy_tokenizer.pad_token_id != texts.policy_tokenizer.eos_token_id
    np.testing.assert_allclose(native_ppo(texts, batch_size), texts.expected, rtol=0, atol=texts.tolerance)


def test_reasoning_decides_what_an_orphan_end_of_think_counts():
    texts = Texts("think", "conversational")
    stripping = RewardScorer(texts.model, texts.tokenizer, reasoning="strip")
    without = [[{"role": "assistant", "content": m[0]["content"].split("</think>")[1]}] for m in texts.completions]
    stripped = stripping(prompts=texts.prompts, completions=texts.completions)
    np.testing.assert_allclose(stripped, texts.scorer.score(texts.prompts, without), rtol=0, atol=texts.tolerance)
    assert np.abs(stripped - texts.expected).max() > 0.1
