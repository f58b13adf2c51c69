"""What every scorer does: order, ranks, preferences, refusals, listeners, scores that are not finite."""

import json
import math

import numpy as np
import pytest
import torch
from models import tiny_reward_model, tiny_tokenizer

from rm_plugin.scoring.scorer import RewardScorer

QUESTION = "Which country owns Antarctica?"
TREATY = " No country owns it: the Antarctic Treaty System governs it."


def scorer(architecture: str = "llama", tokenizer: str = "plain", **kwargs) -> RewardScorer:
    return RewardScorer(tiny_reward_model(architecture), tiny_tokenizer(tokenizer), **kwargs)


class FixedScores(RewardScorer):
    """Scores written by the test."""

    def __init__(self, scores):
        self.scores, self.normalize = scores, False

    def score(self, prompts, completions, **kwargs):
        return np.array([self.scores[c] for c in completions], dtype=np.float32)


@pytest.mark.parametrize(
    "a, b, probability",
    [
        (0, 0, 0.5),
        (1, 0, 0.731059),
        (0, 1, 0.268941),
        (2, 0, 0.880797),
        (5, 0, 0.993307),
        (1e4, -1e4, 1.0),
        (-1e4, 1e4, 0.0),
        (0, 50, 1.928750e-22),
    ],
)
def test_preference_is_the_sigmoid_of_the_difference(a, b, probability):
    preference = FixedScores({"a": a, "b": b}).preference("", "a", "b")
    assert preference == pytest.approx(probability, rel=2e-6, abs=1e-30)


def test_rank_puts_the_best_first_and_keeps_the_order_of_equals():
    ranks = FixedScores({"a": 1.0, "b": 3.0, "c": 1.0, "d": -1e4}).rank("", ["d", "a", "b", "c"])
    assert ranks.tolist() == [2, 1, 3, 0] and ranks.dtype == np.int64


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 prompts and 1 completions; give one of each per text"):
        scorer().score(["a", "b"], [" c"])


@pytest.mark.parametrize("prompts, completions", [("a", [" b"]), (["a"], " b"), ("a", " b")])
def test_single_text_instead_of_a_list_is_refused(prompts, completions):
    with pytest.raises(ValueError, match="prompts and completions are lists"):
        scorer().score(prompts, completions)


def test_empty_lists_have_no_scores():
    one = scorer()
    assert one.score([], []).shape == (0,)
    assert one(prompts=[], completions=[]) == []
    assert one.rank(QUESTION, []).shape == (0,)
    assert one.score_comparisons([]) == []


def test_empty_completion_is_refused():
    with pytest.raises(ValueError, match="a completion is empty; every completion needs text"):
        scorer().score([QUESTION], [""])


def test_score_that_is_not_finite_is_an_error_naming_its_text():
    model = tiny_reward_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[tiny_tokenizer("plain")("4")["input_ids"][0]] = math.inf
    one = RewardScorer(model, tiny_tokenizer("plain"))
    with pytest.raises(
        ValueError, match=r"1 of 2 scores are not finite, the first for the text that ends '2 = 4</s>'"
    ):
        one.score(["2 ="] * 2, [" 4", " no"])


@pytest.mark.parametrize("option", ["truncation_mode", "shared_prefix", "reasoning"])
def test_unknown_choice_lists_the_known_ones(option):
    with pytest.raises(ValueError, match=f"{option}='x' is not known; use one of "):
        scorer(**{option: "x"})


def test_scorer_is_a_reward_function_and_no_module():
    one = scorer()
    assert not isinstance(one, torch.nn.Module)
    assert isinstance(one.__name__, str) and one.__name__
    rewards = one(prompts=[QUESTION], completions=[TREATY], completion_ids=[[1, 2]], trainer_state=None, topic=["law"])
    assert rewards == [pytest.approx(one.score([QUESTION], [TREATY])[0], abs=1e-6)]


def test_a_scorer_is_called_by_its_name_in_logs_and_reports(tmp_path):
    one = scorer(name="final")
    logged = {}
    one([QUESTION], [TREATY], log_metric=logged.__setitem__)
    assert one.about["name"] == "final" and "rewards/final/empty" in logged
    one.model.save_pretrained(tmp_path / "checkpoint-500")
    named = RewardScorer(tmp_path / "checkpoint-500", one.processing_class)
    assert (named.__name__, named.name) == ("checkpoint-500", str(tmp_path / "checkpoint-500"))


def test_progress_bar_counts_the_tokens(capsys):
    one = scorer(progress=True)
    one.score([QUESTION], [TREATY])
    assert "scoring" in capsys.readouterr().err
    scorer().score([QUESTION], [TREATY])
    assert capsys.readouterr().err == ""


def nan_for_long_texts(scorer):
    """From here on the scorer's head gives NaN where a text has more than 6 tokens."""
    model = scorer.model

    def spoil(module, args, kwargs, output):
        ends = kwargs["attention_mask"].sum(-1)
        output.logits[ends > 6] = float("nan")

    scorer.shared_prefix = "off"
    model.register_forward_hook(spoil, with_kwargs=True)


def test_a_reward_that_is_not_finite_stops_with_its_text_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scorer = RewardScorer(tiny_reward_model(), tiny_tokenizer("plain"))
    nan_for_long_texts(scorer)
    with pytest.raises(ValueError, match="1 of 2 scores are not finite.*saved in .*on_nonfinite='zero'") as error:
        scorer(prompts=["What?", "What?"], completions=["a", "a long long text"])
    assert "\n" not in str(error.value)
    (file,) = tmp_path.glob("nonfinite_rewards_*.jsonl")
    assert str(file) in str(error.value)
    (line,) = map(json.loads, file.read_text().splitlines())
    assert line["text"] == "What?a long long text</s>" and line["score"] == "nan"


def test_on_nonfinite_zero_gives_zero_and_counts():
    scorer = RewardScorer(tiny_reward_model(), tiny_tokenizer("plain"), on_nonfinite="zero")
    expected = scorer(prompts=["What?"], completions=["a"])[0]
    nan_for_long_texts(scorer)
    result = scorer(prompts=["What?", "What?"], completions=["a", "a long long text"])
    assert result == [pytest.approx(expected, abs=1e-5), 0.0]
    assert scorer.num_nonfinite == 1


def test_an_unknown_on_nonfinite_names_the_known_ones():
    with pytest.raises(ValueError, match="on_nonfinite='mean' is not known; use one of 'error', 'zero'"):
        RewardScorer(tiny_reward_model(), tiny_tokenizer("plain"), on_nonfinite="mean")
