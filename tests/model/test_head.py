"""The head of a reward model computes in float32, whatever is done to the model around it."""

import pytest
import torch
from models import tiny_reward_model
from saved_models import linear4bits, padded
from transformers import AutoModelForSequenceClassification

from rm_plugin.model.head import RewardHead
from rm_plugin.model.modeling import RewardModel


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


def test_quantised_head_in_memory_is_refused(causal):
    model = AutoModelForSequenceClassification.from_pretrained(causal("llama"), num_labels=1)
    model.score.weight = torch.nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="head `score` is quantised, .* llm_int8_skip_modules"):
        RewardModel.from_sequence_classifier(model)
