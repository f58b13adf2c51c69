"""`ImplicitRewardScorer`: DPOTrainer's own rewards, with the interface and the economy of every scorer."""

import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from models import tiny_config, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from rm_plugin import Comparison, ImplicitRewardScorer, RewardModel, lora_config
from rm_plugin.evaluation.harness import evaluate
from rm_plugin.scoring import implicit
from rm_plugin.scoring.rewards import as_reward

ROWS = [
    {"prompt": "Which country owns Antarctica?", "chosen": " None: the Treaty governs it.", "rejected": " Penguins!"},
    {"prompt": "2 + 2 =", "chosen": " four", "rejected": " five, or perhaps seven"},
    {"prompt": "Hello", "chosen": " Hi there", "rejected": " What?"},
]


def causal(seed, architecture="llama", **overrides):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config(architecture, **overrides)).eval()


def with_adapter(model):
    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for name, parameter in peft_model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.2)
    return peft_model.eval()


def messages(row):
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {name: [{"role": roles[name], "content": text.strip()}] for name, text in row.items()}


@pytest.mark.trl112
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["plain", "conversational"])
@pytest.mark.parametrize("kind", ["two models", "adapter off", "adapter trained further"])
def test_rewards_are_those_that_dpotrainer_logs(kind, form, tmp_path):
    row = ROWS[0] if form == "plain" else messages(ROWS[0])
    options = {"report_to": "none", "use_cpu": True, "bf16": False, "max_length": None, "output_dir": str(tmp_path)}
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False) if kind == "adapter off" else None
    reference = causal(2) if kind == "two models" else None
    causal(1).save_pretrained(tmp_path / "base")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    trainer = DPOTrainer(
        with_adapter(policy) if kind == "adapter trained further" else policy,
        reference,
        args=DPOConfig(beta=0.3, **options),
        processing_class=tiny_tokenizer("chatml"),
        train_dataset=Dataset.from_list([row]),
        eval_dataset=Dataset.from_list([row]),
        peft_config=lora,
    )
    if kind == "adapter trained further":  # TRL has copied it
        with torch.no_grad():
            for name, weight in trainer.model.named_parameters():
                if ".default." in name:
                    weight.mul_(1.5)
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    logged = trainer.evaluate()
    expected = [logged["eval_rewards/chosen"], logged["eval_rewards/rejected"]]
    assert np.ptp(expected) > 0.05
    trainer.save_model(tmp_path / "saved")
    for policy in (trainer.model, str(tmp_path / "saved")):
        scorer = ImplicitRewardScorer(policy, reference, 0.3, tiny_tokenizer("chatml"))
        found = scorer.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.std(expected)))
    assert {name for name, weight in trainer.model.named_parameters() if weight.requires_grad} == trained


def log_probability(model, tokenizer, prompt, completion):
    """Written out: the whole text alone, padded with nothing."""
    ids = tokenizer(prompt + completion + tokenizer.eos_token)["input_ids"]
    start = len(tokenizer(prompt)["input_ids"])
    assert ids[:start] == tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        table = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(table[i - 1, ids[i]].item() for i in range(max(start, 1), len(ids)))


@pytest.mark.parametrize("shared_prefix", ["auto", "off"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mamba"])  # packed; a cap on the logits; padded
def test_rewards_are_beta_times_the_difference_of_log_probabilities(architecture, shared_prefix, monkeypatch):
    monkeypatch.setattr(implicit, "LOGITS_PER_CHUNK", 320 * 7)
    overrides = {"final_logit_softcapping": 0.7} if architecture == "gemma2" else {}
    policy, reference = (causal(seed, architecture, **overrides) for seed in (1, 2))
    tokenizer = tiny_tokenizer("plain")
    scorer = ImplicitRewardScorer(policy, reference, 0.5, tokenizer, shared_prefix=shared_prefix)
    prompts = [row["prompt"] for row in ROWS for _ in range(2)] + [""]
    completions = [row[side] for row in ROWS for side in ("chosen", "rejected")] + ["alone"]
    expected = [
        0.5 * (log_probability(policy, tokenizer, p, c) - log_probability(reference, tokenizer, p, c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    assert scorer.shares_prefix() == (architecture != "mamba" and shared_prefix == "auto")
    np.testing.assert_allclose(scorer.score(prompts, completions), expected, atol=2e-5 * max(1, np.std(expected)))
    batches = scorer.plan([Comparison(prompts[0], completions[:2])])
    assert sum(len(batch.groups) for batch in batches) == (1 if scorer.shares_prefix() else 2)


def test_one_text_cut_elsewhere_is_another_answer():
    policy, reference = causal(1), causal(2)
    scorer = ImplicitRewardScorer(policy, reference, 0.5, tiny_tokenizer("plain"))
    whole, half = scorer.score(["Hello", "Hello Hello"], [" Hello Hello", " Hello"])
    assert abs(whole - half) > 1e-3


def test_it_is_a_scorer_like_others_and_follows_the_adapter(tmp_path):
    policy, tokenizer = with_adapter(causal(1)), tiny_tokenizer("chatml")
    scorer = ImplicitRewardScorer(policy, None, 0.3, tokenizer, truncation_mode="drop", max_length=120, name="dpo")
    a, b = scorer.score(["Hi"] * 2, [" four", " five"])
    assert scorer.rank("Hi", [" four", " five"]).tolist() == ([0, 1] if a >= b else [1, 0])
    assert scorer.preference("Hi", " four", " five") == pytest.approx(1 / (1 + np.exp(b - a)), abs=1e-6)
    assert scorer(["Hi", "Hi"], [" four", " four" * 200])[1] is None and scorer.__name__ == "dpo"
    report = evaluate(scorer, source=ROWS, num_samples=10)
    assert report.report["model"]["name"] == "dpo" and as_reward(scorer) is scorer
    before = dict(scorer.about)
    policy.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] *= 2
    assert scorer.score(["Hi"], [" four"])[0] != a and scorer.about["weights"] != before["weights"]
    policy.train()
    assert scorer.score(["Hi"], [" four"])[0] != 0 and policy.training


def test_models_by_name_and_an_adapter_folder_are_loaded_and_pickled_by_name(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    causal(1).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    with_adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "base")).save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    by_adapter = ImplicitRewardScorer(str(tmp_path / "adapter"), beta=0.2)
    merged = ImplicitRewardScorer(
        with_adapter(causal(1)).merge_and_unload(), str(tmp_path / "base"), 0.2, str(tmp_path / "base")
    )
    texts = [row["prompt"] for row in ROWS], [row["chosen"] for row in ROWS]
    np.testing.assert_allclose(by_adapter.score(*texts), merged.score(*texts), atol=1e-4)
    pickled = pickle.dumps(by_adapter)
    assert len(pickled) < 2000
    np.testing.assert_allclose(pickle.loads(pickled).score(*texts), by_adapter.score(*texts), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "reference is missing, a LlamaForCausalLM has no adapters to leave out"),
        ({"reference": causal(2), "beta": 0}, "beta=0, it is a positive number"),
        ({"reference": causal(2), "beta": float("nan")}, "beta=nan, it is a positive number"),
        ({"reference": causal(2), "truncation_mode": "keep_end"}, "keep_end' would cut prompts"),
        ({"reference": causal(2), "revision": "main"}, "revision cannot be applied here"),
    ],
)
def test_what_it_cannot_do_is_one_line(options, said):
    with pytest.raises(ValueError, match=said):
        ImplicitRewardScorer(causal(1), processing_class=tiny_tokenizer("plain"), **options)


@pytest.mark.parametrize("kind", ["a reward model", "an adapter of one"])
def test_a_policy_whose_language_head_would_be_random_is_refused(kind, tmp_path):
    model = RewardModel.from_backbone(causal(1))
    if kind != "a reward model":
        model.save_pretrained(tmp_path / "base")
        model = get_peft_model(RewardModel.from_pretrained(tmp_path / "base"), lora_config(r=2))
    model.save_pretrained(tmp_path / "policy")
    tiny_tokenizer("plain").save_pretrained(tmp_path / "policy")
    with pytest.raises(ValueError, match=r"so its language head is not trained; name|you have asked for"):
        ImplicitRewardScorer(str(tmp_path / "policy"), causal(2))


def test_a_conversation_that_spells_control_tokens_keeps_its_answer_apart():
    policy, reference, tokenizer = causal(1), causal(2), tiny_tokenizer("chatml")
    scorer = ImplicitRewardScorer(policy, reference, 0.5, tokenizer)
    prompt = [{"role": "user", "content": "a<|im_end|>b"}]
    (batch,) = scorer.plan([Comparison(prompt, ["four"])])
    (ids,) = batch.texts
    assert tokenizer.decode(ids[ids.start :]).strip() == "four<|im_end|>"
