"""rewards.py: a model, a function, a dotted path and the environment behind one interface."""

import functools
import importlib

import numpy as np
import pytest
from models import tiny_reward_model, tiny_tokenizer

from rm_plugin import Comparison, RewardScorer
from rm_plugin.evaluation.harness import evaluate
from rm_plugin.loops.best_of_n import BestOfNSampler
from rm_plugin.scoring.base import plan_digest
from rm_plugin.scoring.rewards import FunctionReward, as_reward

COMPARISONS = [Comparison("2 + 2 =", [" 4", " five"]), Comparison("Hi", [" Hello"])]
ROWS = [{"prompt": "2 + 2 =", "chosen": " four", "rejected": " 5"}] * 2


def lengths(prompts, completions):
    return [float(len(text)) for text in completions]


def by_position(p, c):
    return [float(len(text)) for text in c]


def of_trl(completions, **kwargs):
    assert kwargs["prompts"] and set(kwargs) == {"prompts", "tools", "chat_template_kwargs", "answer"}
    return [float(len(text)) for text in completions]


def all_by_name(**kwargs):
    return of_trl(**kwargs)


class Judge:
    def __call__(self, prompts, completions):
        return map(len, completions)


def test_a_model_its_folder_and_its_scorer_are_one_reward(tmp_path):
    scorer = RewardScorer(tiny_reward_model(), tiny_tokenizer("plain"))
    scorer.model.save_pretrained(tmp_path)
    scorer.processing_class.save_pretrained(tmp_path)
    assert as_reward(scorer) is scorer
    named = as_reward(scorer, "mine", evaluating=True)
    assert (named.name, named.control_tokens, named.truncation_mode) == ("mine", "parse", "drop")
    assert (named.model, scorer.name, scorer.control_tokens) == (scorer.model, "RewardModel", "as_text")
    expected = np.concatenate(scorer.score_comparisons(COMPARISONS))
    for one in (named, as_reward(tmp_path), as_reward(str(tmp_path), max_length=64)):
        np.testing.assert_allclose(np.concatenate(one.score_comparisons(COMPARISONS)), expected, atol=1e-5)


@pytest.mark.parametrize("function", [lengths, by_position, of_trl, all_by_name, Judge(), "test_rewards:lengths"])
def test_every_kind_of_function_is_called_as_it_takes_its_texts(function):
    reward = as_reward(function)
    assert isinstance(reward, FunctionReward)
    assert [values.tolist() for values in reward.score_comparisons(COMPARISONS)] == [[2.0, 5.0], [6.0]]


def test_columns_go_to_the_functions_that_have_parameters_for_them():
    heard = []

    def judge(prompts, completions, answer, tools=None):
        heard.append((answer, tools))
        return [0.0] * len(prompts)

    tools = [{"type": "function", "function": {"name": "f"}}]
    turns = [[{"role": "assistant", "content": "4"}]] * 2
    question = [{"role": "user", "content": "2 + 2 ="}]
    as_reward(judge).score_comparisons([Comparison(question, turns, tools=tools, metadata={"answer": "4"})])
    assert heard == [(["4", "4"], [tools, tools])]


def test_none_is_no_score_and_calls_hold_whole_comparisons():
    sizes = []

    def judge(prompts, completions):
        sizes.append(len(completions))
        return [None, *lengths(prompts, completions)[1:]]

    many = [Comparison(f"{i}", [" 1", " 2"] * 20) for i in range(3)]
    values = as_reward(judge).score_comparisons(many)
    assert sizes == [40, 40, 40] and [np.isnan(v).tolist().count(True) for v in values] == [1, 1, 1]


async def asynchronous(prompts, completions):
    return [0.0]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda prompts, completions: [0.0], "gave 1 scores for 3 completions"),
        (lambda prompts, completions: [float("nan")] * 3, "gave the score nan; a score is a finite number, or None"),
        (lambda prompts, completions: [float("inf")] * 3, "gave the score inf; a score is a finite number, or None"),
        (lambda prompts, completions: ["high"] * 3, "gave the score 'high'; a score is a finite number"),
        (lambda prompts, completions: 1 / 0, "ZeroDivisionError: division by zero"),
        (asynchronous, "gave 1 scores for"),
    ],
)
def test_what_a_function_does_wrong_is_one_line(function, said):
    with pytest.raises(ValueError, match=said) as error:
        as_reward(function).score_comparisons(COMPARISONS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (3, {}, "a int gives no rewards; give a model, its name or a function"),
        (lengths, {"max_length": 3}, "max_length cannot be applied to the function"),
        ("test_rewards:lengths", {"max_length": 3}, "max_length cannot be applied to the function test_rewards"),
        ("test_rewards:nothing", {}, "test_rewards has no nothing"),
        ("test_rewards:ROWS", {}, "is a list; it must be callable"),
    ],
)
def test_what_gives_no_rewards_is_refused(given, options, said):
    with pytest.raises(ValueError, match=said):
        as_reward(given, **options)


# --- resuming


@pytest.mark.parametrize("function", [functools.partial(lengths), Judge(), lambda p, c: lengths(p, c)])
def test_a_function_that_no_dotted_path_leads_to_needs_a_name_to_be_resumed(function, tmp_path):
    assert evaluate(function, "preference", ROWS, num_samples=10).score == 1.0, "nothing is written, nothing resumed"
    with pytest.raises(ValueError, match="no dotted path leads to .*; define it .* or give it a name"):
        evaluate(function, "preference", ROWS, output=tmp_path / "run", num_samples=10)
    with pytest.raises(ValueError, match="no dotted path leads to .*; define it .* or give it a name"):
        BestOfNSampler(None, None, function).rank(COMPARISONS, tmp_path / "best.jsonl")
    evaluate(function, "preference", ROWS, output=tmp_path / "run", num_samples=10, name="my-judge")
    BestOfNSampler(None, None, as_reward(function, "mine")).rank(COMPARISONS, tmp_path / "best.jsonl")
    with pytest.raises(ValueError, match="function was my-judge and is now other"):
        evaluate(function, "preference", ROWS, output=tmp_path / "run", num_samples=10, name="other")


def test_a_function_of_a_module_is_known_by_its_path_and_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file, hashes = tmp_path / "judges_of_rewards.py", []
    for sign in ("", "-"):
        file.write_text(f"def judge(prompts, completions):\n    return [{sign}1.0 for _ in prompts]\n")
        importlib.invalidate_caches()
        module = importlib.import_module("judges_of_rewards")
        for given in ("judges_of_rewards:judge", module.judge):
            reward = as_reward(given)
            assert reward.about["function"] == "judges_of_rewards:judge"
            hashes.append(reward.about["source_hash"])
            reward.check_can_resume()
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_the_plan_of_a_function_depends_on_the_answers_that_it_is_given():
    plans = [
        as_reward(lengths).plan([Comparison("2 + 2 =", [" 4"], metadata={"answer": answer})]) for answer in ("4", "5")
    ]
    assert plan_digest(plans[0]) != plan_digest(plans[1])
