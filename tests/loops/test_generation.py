"""Samples of a policy: seeded, of its distribution, whatever the batch, and ended where they end."""

import numpy as np
import pytest
import torch
from models import tiny_tokenizer
from transformers import GenerationConfig

from rm_plugin.data.comparison import to_prompt
from rm_plugin.data.encoding import prompt_ids
from rm_plugin.loops.generation import PolicySampler


def sample_completions(policy, tokenizer, prompts, n, config=None, **options):
    return PolicySampler(policy, tokenizer, config).sample([to_prompt(prompt) for prompt in prompts], n, **options)


PLAIN = ["2 + 2 =", "Which country owns Antarctica?", "Hello world,", "2 + 2 ="]
CHAT = [[{"role": "user", "content": text}] for text in PLAIN]
SHORT = {"max_new_tokens": 8}


@pytest.mark.parametrize("prompts", [PLAIN, CHAT], ids=["plain", "conversational"])
def test_samples_do_not_depend_on_batch_size_n_or_order(prompts, policy, tokenizer):
    whole = list(sample_completions(policy, tokenizer, prompts, 4, {**SHORT, "temperature": 0.8, "top_p": 0.9}))
    config = {**SHORT, "temperature": 0.8, "top_p": 0.9}
    for batch_size in (1, 3, 16):
        first_two = list(sample_completions(policy, tokenizer, prompts, 2, config, batch_size=batch_size))
        assert first_two == [samples[:2] for samples in whole]
    reverse = list(sample_completions(policy, tokenizer, prompts[2::-1], 4, config))
    assert reverse == whole[2::-1]


def test_equal_prompts_get_other_samples_and_another_seed_too(policy, tokenizer):
    samples = list(sample_completions(policy, tokenizer, PLAIN, 4, SHORT))
    assert samples[0] != samples[3]
    assert list(sample_completions(policy, tokenizer, PLAIN, 4, SHORT, seed=1)) != samples


def test_samples_have_the_policys_distribution(policy, tokenizer):
    from scipy.stats import chisquare

    config = {"max_new_tokens": 1, "temperature": 0.5}
    [samples] = sample_completions(policy, tokenizer, ["Hello"], 4000, config, batch_size=1000)
    counts = np.bincount([sample.token_ids[0] for sample in samples], minlength=320)
    logits = policy(torch.tensor([prompt_ids("Hello", tokenizer)])).logits[0, -1]
    expected = (logits / 0.5).softmax(-1).detach().double().numpy() * 4000
    common = expected >= 5
    observed = [*counts[common], counts[~common].sum()]
    assert (
        chisquare(observed, np.array([*expected[common], expected[~common].sum()]) * (4000 / expected.sum())).pvalue
        > 0.01
    )


def test_top_k_1_is_greedy_decoding(policy, tokenizer):
    [[sample]] = sample_completions(policy, tokenizer, ["Hello"], 1, {**SHORT, "top_k": 1})
    ids = torch.tensor([prompt_ids("Hello", tokenizer)])
    greedy = policy.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
    )
    assert sample.token_ids == greedy[0, ids.shape[1] :].tolist()
    [[again]] = sample_completions(
        policy, tokenizer, ["Hello"], 1, GenerationConfig(max_new_tokens=8, do_sample=False)
    )
    assert again == sample


def test_a_sample_ends_with_its_end_token_and_what_has_none_is_truncated(policy, tokenizer):
    every = [
        s for samples in sample_completions(policy, tokenizer, PLAIN, 64, {"max_new_tokens": 16}) for s in samples
    ]
    ended = [sample for sample in every if not sample.truncated]
    assert ended and len(ended) < len(every)
    # Every token that ends a text: the tokenizer's EOS, and that of the policy's config (id 2).
    ends = {tokenizer.eos_token_id, policy.generation_config.eos_token_id}
    assert all(s.token_ids[-1] in ends and not ends & set(s.token_ids[:-1]) for s in ended)
    assert all(len(s.token_ids) == 16 and not ends & set(s.token_ids) for s in every if s.truncated)
    assert all("<|im_end|>" not in s.completion for s in every)


@pytest.mark.parametrize("kind", ["chatml", "no pad", "pad is eos"])
def test_a_sample_that_stops_at_a_string_ends_there_whatever_fills_the_batch(kind, policy):
    tokenizer = tiny_tokenizer("pad_is_eos" if kind == "pad is eos" else "chatml")
    if kind == "no pad":
        tokenizer.pad_token = None
    config = {"max_new_tokens": 24, "stop_strings": ["e", "w"]}
    every = [s for samples in sample_completions(policy, tokenizer, PLAIN, 16, config) for s in samples]
    stopped = [s for s in every if {"e", "w"} & set(s.completion)]
    assert stopped and len({len(s.token_ids) for s in stopped}) > 1
    config = {"max_new_tokens": 12, "stop_strings": ["ee"]}
    [border] = sample_completions(policy, tokenizer, ["one two thre"], 64, config, seed=11)  # an "e" comes first
    across = [s for s in border if s.completion.startswith("e")]
    assert across and all(len(s.token_ids) == 1 and not s.truncated for s in across)
    for sample in stopped:
        assert {"e", "w"} & set(tokenizer.decode(sample.token_ids[-1:])) and not sample.truncated
        assert tokenizer.decode(sample.token_ids, skip_special_tokens=True).endswith(sample.completion)


def test_top_h_narrows_what_is_drawn_from(policy, tokenizer):
    [wide], [narrow] = (
        list(sample_completions(policy, tokenizer, ["Hello"], 32, {**SHORT, "top_h": h})) for h in (None, 0.05)
    )
    assert len({s.completion for s in narrow}) < len({s.completion for s in wide})


def test_frozen_layers_of_a_policy_in_training_stay_in_eval_mode(policy, tokenizer):
    policy.train()
    frozen = policy.model.layers[0].eval()
    list(sample_completions(policy, tokenizer, ["Hello"], 2, SHORT))
    assert policy.training and not frozen.training
    policy.eval()


def test_a_policy_in_training_stays_in_training(policy, tokenizer):
    policy.train()
    state = torch.get_rng_state()
    list(sample_completions(policy, tokenizer, ["Hello"], 2, SHORT))
    assert policy.training and torch.equal(torch.get_rng_state(), state)
    policy.eval()


@pytest.mark.parametrize("kind", ["chatml", "llama3"])
def test_a_policy_continues_equal_prompts_alike(kind):
    tokenizer = tiny_tokenizer(kind)
    chat = [{"role": "user", "content": "2 + 2?"}]
    expected = prompt_ids(chat, tokenizer)
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt_ids(rendered, tokenizer) == expected
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("message['content']", "message['content'][0]['text']")
    assert tokenizer.chat_template != template and prompt_ids(chat, tokenizer) == expected
