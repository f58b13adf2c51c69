"""Functions and judges as rewards: which columns they get, how many calls wait, and what their answers count."""

import asyncio
import random
from collections import Counter

import numpy as np
import pytest

from rm_plugin.data.comparison import Comparison
from rm_plugin.scoring.functions import PairwiseReward, orders
from rm_plugin.scoring.rewards import as_reward

WAITING = Counter()


def pairs(num, **row):
    return [
        Comparison(f"q{i}", chosen=f"right {i}", rejected=f"wrong {i}", id=str(i), metadata={"row": row})
        for i in range(num)
    ]


async def slow(prompts, completions):
    WAITING["now"] += 1
    WAITING["most"] = max(WAITING["most"], WAITING["now"])
    await asyncio.sleep(random.random() / 100)
    WAITING["now"] -= 1
    return [float("right" in text) for text in completions]


@pytest.mark.parametrize(("limit", "most"), [(None, 16), (3, 3)])
def test_asynchronous_calls_wait_together_and_never_more_than_said(limit, most):
    async def judge(prompts, completions):
        return await slow(prompts, completions)

    WAITING.clear()
    if limit is not None:
        judge.concurrency = limit
    scores = as_reward(judge).score_comparisons(pairs(40))
    assert [values.tolist() for values in scores] == [[1.0, 0.0]] * 40  # whatever order they came in
    assert WAITING["most"] == most and WAITING["now"] == 0


def test_an_asynchronous_judge_may_be_asked_where_a_loop_runs_already():
    async def notebook():
        return as_reward(slow).score_comparisons(pairs(3))

    assert [values.tolist() for values in asyncio.run(notebook())] == [[1.0, 0.0]] * 3


def test_what_a_judge_says_that_is_no_number_is_none_and_never_zero(caplog):
    answers = {"right 0": 7, "wrong 0": None, "right 1": "7.5", "wrong 1": "no idea", "right 2": float("inf")}

    async def judge(prompts, completions):
        return [answers.get(text, [1]) for text in completions]

    scores = np.concatenate(as_reward(judge).score_comparisons(pairs(3)))
    assert np.isnan(scores).tolist() == [False, True, False, True, True, True]
    assert scores[0] == 7 and scores[2] == 7.5
    assert "judge: the verdict 'no idea' cannot be read, and counts as none" in caplog.text

    def score(prompts, completions):
        return [answers.get(text, 1.0) for text in completions]

    with pytest.raises(ValueError, match="score gave the score 'no idea'; a score is a finite number, or None"):
        as_reward(score).score_comparisons(pairs(3))


@pytest.mark.parametrize(
    "answer", ["91", b"91", bytearray(b"91"), {"a": 9.0, "b": 1.0}, {9.0, 1.0}, {9.0: 0, 1.0: 0}.keys(), 9.0]
)
def test_an_answer_that_is_no_list_is_refused_whatever_it_holds(answer):
    def score(prompts, completions):
        return answer

    async def rate(prompts, completions):
        return answer

    def compare(prompts, completions_a, completions_b):
        return "AB" if answer == "91" else answer

    for function in (score, rate, compare):
        with pytest.raises(ValueError, match=f"^{function.__name__} failed on 2 completions .TypeError: ") as refused:
            as_reward(function).score_comparisons(pairs(1))
        assert "returns a list of scores" in str(refused.value) and "\n" not in str(refused.value)
    for listed in ([1.0, 0.0], (1.0, 0.0), np.array([1.0, 0.0]), map(float, (1, 0))):
        (scores,) = as_reward(lambda prompts, completions, listed=listed: listed).score_comparisons(pairs(1))
        assert scores.tolist() == [1.0, 0.0]


def test_of_many_verdicts_that_cannot_be_read_the_first_are_logged_and_then_their_number(caplog):
    async def judge(prompts, completions):
        return ["no idea"] * len(completions)

    as_reward(judge).score_comparisons(pairs(20))
    assert [record.getMessage() for record in caplog.records] == [
        *["judge: the verdict 'no idea' cannot be read, and counts as none"] * 3,
        "judge: 40 answers cannot be read, and count as none",
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_columns_of_the_row_reach_a_function_that_names_them(asynchronous):
    seen = []

    def score(prompts, completions, rubric, reference=None, missing=None):
        seen.append((rubric, reference, missing))
        return [1.0] * len(completions)

    async def judge(prompts, completions, rubric, reference=None, missing=None):
        return score(prompts, completions, rubric, reference, missing)

    as_reward(judge if asynchronous else score).score_comparisons(pairs(1, rubric="be kind", reference="42", other=1))
    assert seen == [(["be kind"] * 2, ["42"] * 2, None)]


def test_a_failing_call_stops_the_others_and_says_what_failed():
    async def judge(prompts, completions):
        if prompts[0] == "q3":
            raise TimeoutError("no answer")
        await asyncio.sleep(60)

    with pytest.raises(ValueError, match=r"judge failed on 2 completions \(TimeoutError: no answer\)"):
        as_reward(judge).score_comparisons(pairs(8))


def test_a_judge_of_which_no_call_may_wait_is_refused():
    async def judge(prompts, completions):
        return [1.0] * len(completions)

    judge.concurrency = 0
    with pytest.raises(ValueError, match="concurrency=0, it must be at least 1"):
        as_reward(judge).score_comparisons(pairs(1))


def test_a_plain_function_that_gives_a_coroutine_is_told_so():
    with pytest.raises(ValueError, match="it gave a coroutine; define it with async def"):
        as_reward(lambda prompts, completions: slow(prompts, completions)).score_comparisons(pairs(1))


# --- judges that compare


def test_each_pair_is_asked_in_both_orders_and_the_better_one_is_first_in_half_of_them():
    comparisons = [*pairs(400), Comparison("l", ["a", "b", "c"], [0, 1, 1]), Comparison("n", ["a", "b", "c"])]
    asked = [orders(comparison) for comparison in comparisons]
    assert all(first == second[::-1] for shown in asked for first, second in zip(shown[::2], shown[1::2], strict=True))
    assert [len(shown) for shown in asked[-2:]] == [4, 6]  # pairs of different ranks; where nothing is ranked, all
    better_first = sum(shown[0] == (0, 1) for shown in asked[:400])
    assert 160 < better_first < 240


def judged(verdict, comparisons):
    def compare(prompts, completions_a, completions_b):
        return [verdict(a, b) for a, b in zip(completions_a, completions_b, strict=True)]

    reward = as_reward(compare)
    assert isinstance(reward, PairwiseReward)
    return [values.tolist() for values in reward.score_comparisons(comparisons)]


def test_a_judge_that_contradicts_itself_ties_and_one_that_is_sure_wins():
    assert judged(lambda a, b: "A" if "right" in a else "B", pairs(3)) == [[1.0, 0.0]] * 3
    assert judged(lambda a, b: "A", pairs(3)) == [[0.5, 0.5]] * 3  # always the first
    assert judged(lambda a, b: " tie\n", pairs(1)) == [[0.5, 0.5]]
    assert judged(lambda a, b: 0.75 if "right" in a else 0.25, pairs(1)) == [[0.75, 0.25]]


@pytest.mark.parametrize("verdict", [None, "maybe", 1.5, -1, float("nan"), "", ["A"]])
def test_a_missing_verdict_leaves_the_comparison_unscored(verdict):
    found = judged(lambda a, b: verdict if b.startswith("wrong 0") else "A" if "right" in a else "b", pairs(2))
    assert np.isnan(found[0]).all() and found[1] == [1.0, 0.0]


def test_completions_of_a_list_score_the_share_of_verdicts_that_they_win():
    ranked = Comparison("q", ["3", "1", "2"], [0, 1, 1])  # 3 against 1 and 2
    assert judged(lambda a, b: float(int(a) > int(b)), [ranked]) == [[1.0, 0.0, 0.0]]
    unranked = Comparison("q", ["3", "1", "2"])
    assert judged(lambda a, b: float(int(a) > int(b)), [unranked]) == [[1.0, 0.0, 0.5]]
