"""The first batch decides how a model is computed, and the log says why in one line."""

import copy
import logging

import pytest
import torch
from models import tiny_reward_model
from packed_groups import TRAINING_BATCH, relative, scores, texts
from transformers import AttentionInterface

from rm_plugin.model import attention
from rm_plugin.model.attention import IMPLEMENTATION, SharedPrefixLayout, lower_right_causal, shared_prefix_attention
from rm_plugin.model.packing import pack, pad


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("mamba", "MambaModel has layers of kind linear_attention"),
        ("jamba", "JambaModel has layers of kind linear_attention"),
        ("doge", "ValueError: DogeAttention makes its own attention mask"),
    ],
)
def test_architecture_that_cannot_share_takes_the_padded_path_with_one_line(architecture, reason, caplog):
    model = tiny_reward_model(architecture)
    before = model.model.config._attn_implementation
    expected = scores(model, pad(texts(TRAINING_BATCH)))
    assert_refused_with_one_line(model, reason, caplog)
    assert model.model.config._attn_implementation == before
    assert torch.equal(scores(model, pad(texts(TRAINING_BATCH))), expected)


def assert_refused_with_one_line(model, reason, caplog):
    with caplog.at_level(logging.INFO, logger="rm_plugin"):
        assert [model.batch_form() for _ in range(3)] == ["sorted"] * 3
    (record,) = (record for record in caplog.records if record.name.startswith("rm_plugin"))
    assert record.getMessage().startswith(f"shared-prefix computation is off, batches are padded: {reason}")
    assert "\n" not in record.getMessage() and record.levelname == "WARNING"


def test_attention_that_the_user_asked_for_is_left_alone(caplog):
    model = tiny_reward_model("llama")
    model.model.set_attn_implementation("flex_attention")
    assert_refused_with_one_line(model, "attn_implementation='flex_attention' was asked for", caplog)
    assert model.model.config._attn_implementation == "flex_attention"


def test_eager_attention_gives_way_to_shared_prefixes():
    model = tiny_reward_model("llama")
    model.model.set_attn_implementation("eager")
    expected = scores(model, pad(texts(TRAINING_BATCH)))
    assert model.batch_form() == "packed"
    assert relative(scores(model, pack(TRAINING_BATCH)), expected) <= 1e-5


def layout_swallowed(module, query, key, value, attention_mask, shared_prefix_layout=None, **kwargs):
    return shared_prefix_attention(module, query, key, value, None, **kwargs)


def whole_row_causal(module, query, key, value, attention_mask, shared_prefix_layout=None, **kwargs):
    if shared_prefix_layout is not None:
        seen = shared_prefix_layout.seen_windows
        shared_prefix_layout = SharedPrefixLayout([0], [[query.shape[2]]], seen_windows=seen)
    return shared_prefix_attention(
        module, query, key, value, attention_mask, shared_prefix_layout=shared_prefix_layout, **kwargs
    )


def prefix_unseen(module, query, key, value, attention_mask, shared_prefix_layout=None, **kwargs):
    if shared_prefix_layout is not None:
        shared_prefix_layout = copy.copy(shared_prefix_layout)
        shared_prefix_layout.segment_prefixes = [(-1, 0)] * len(shared_prefix_layout.segment_lengths)
    return shared_prefix_attention(
        module, query, key, value, attention_mask, shared_prefix_layout=shared_prefix_layout, **kwargs
    )


def window_unseen(module, query, key, value, attention_mask, sliding_window=None, shared_prefix_layout=None, **kwargs):
    if shared_prefix_layout is not None:
        shared_prefix_layout.seen_windows.append(sliding_window)
        shared_prefix_layout = copy.copy(shared_prefix_layout)
        shared_prefix_layout.seen_windows = None
    return shared_prefix_attention(
        module, query, key, value, attention_mask, shared_prefix_layout=shared_prefix_layout, **kwargs
    )


@pytest.mark.parametrize(
    ("broken", "architecture", "reason"),
    [
        (layout_swallowed, "llama", "LlamaModel does not hand the layout to the attention of all its layers"),
        (whole_row_causal, "llama", "LlamaModel gives other results packed than padded (relative "),
        (prefix_unseen, "llama", "LlamaModel gives other results packed than padded (relative "),
        (window_unseen, "mistral", "MistralModel gives other results packed than padded (relative "),
    ],
)
def test_first_use_check_catches_broken_attention(broken, architecture, reason, monkeypatch, caplog):
    monkeypatch.setitem(AttentionInterface._global_mapping, IMPLEMENTATION, broken)
    model = tiny_reward_model(architecture)
    expected = scores(model, pad(texts(TRAINING_BATCH)))
    assert_refused_with_one_line(model, reason, caplog)
    assert model.model.config._attn_implementation == "sdpa"
    assert torch.equal(scores(model, pad(texts(TRAINING_BATCH))), expected)


def test_first_use_check_catches_a_mask_aligned_at_the_upper_left(monkeypatch, caplog):
    def upper_left(num_queries, num_keys, window, device):
        return lower_right_causal(num_queries, num_queries, window, device).new_ones(num_queries, num_keys).tril()

    monkeypatch.setattr(attention, "lower_right_causal", upper_left)
    reason = "LlamaModel gives other results packed than padded (relative "
    assert_refused_with_one_line(tiny_reward_model("llama"), reason, caplog)
