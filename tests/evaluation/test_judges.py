"""Judges on benchmarks: nothing is asked twice, and the report says how far their verdicts can be trusted."""

import json
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rm_plugin.evaluation.harness import evaluate
from rm_plugin.evaluation.report import number_table
from rm_plugin.metrics.statistics import wilson_interval

ROWS = [
    {"prompt": f"q{i}", "chosen": f"right {i}", "rejected": f"wrong {i}", "rubric": f"rubric {i}"} for i in range(60)
]
DOCS = (Path(__file__).resolve().parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
ASKED = []
FAILING = set()


async def judge(prompts, completions, rubric):
    ASKED.append(prompts[0])
    if prompts[0] in FAILING:
        raise TimeoutError("no answer")
    assert rubric == [f"rubric {prompts[0][1:]}"] * 2
    return ["8" if "right" in text else "rating: 3" if text == "wrong 7" else 3 for text in completions]


async def first(prompts, completions_a, completions_b):
    """Prefers what is shown first in 30 of 100 pairs, whatever it is, and else the better one."""
    ASKED.append(prompts[0])
    if prompts[0] in FAILING:
        raise TimeoutError("no answer")
    return [
        "A" if random.Random(prompt).random() < 0.3 or "right" in a else "B"
        for prompt, a in zip(prompts, completions_a, strict=True)
    ]


@pytest.fixture(autouse=True)
def nobody_asked():
    ASKED.clear()
    FAILING.clear()


@pytest.mark.parametrize("function", [judge, first])
def test_a_judge_that_stopped_is_asked_only_what_it_did_not_answer(function, tmp_path):
    FAILING.add("q40")
    with pytest.raises(ValueError, match=f"{function.__name__} failed on 2 completions .TimeoutError: no answer"):
        evaluate(function, source=ROWS, output=tmp_path / "run", num_samples=50)
    FAILING.clear()
    answered = set(ASKED) - {"q40"}
    ASKED.clear()
    report = evaluate(function, source=ROWS, output=tmp_path / "run", num_samples=50)
    assert len(ASKED) == len(set(ASKED)) < 60 and len(set(ASKED) & answered) <= 16  # at most those that waited
    assert report.report["run"]["num_completions_computed"] == 2 * len(ASKED)
    ASKED.clear()
    again = evaluate(function, source=ROWS, output=tmp_path / "run", num_samples=50)
    assert not ASKED and again.metrics == report.metrics
    fresh = evaluate(function, source=ROWS, num_samples=50)
    assert len(ASKED) == 60 and fresh.metrics == report.metrics


def test_a_verdict_that_cannot_be_read_is_counted_and_never_zero():
    report = evaluate(judge, source=ROWS, num_samples=50)
    counts = report.report["counts"]
    assert (counts["num_unscored_completions"], counts["num_unscored_comparisons"]) == (1, 1)
    assert report.score == 59 / 60 and report.scores[7][0] == 8


def test_a_pairwise_judge_is_measured_with_and_without_swaps(tmp_path):
    report = evaluate(first, source=ROWS, output=tmp_path, num_samples=500)
    biased = sum(random.Random(row["prompt"]).random() < 0.3 for row in ROWS)
    found = report.metrics["judge"]
    assert found["num_verdicts"] == 120 and found["num_malformed"] == 0
    assert found["consistency"] == pytest.approx(1 - biased / 60)
    assert found["share_first"] == pytest.approx(0.5 + biased / 120)  # always first in those, half in the others
    low, high = found["share_first_interval"]
    assert 0.5 < low < found["share_first"] < high < 1
    assert report.score == pytest.approx(1 - biased / 60)  # a contradiction ties, and a tie is wrong
    assert report.score < found["score_one_order"] < 1  # luck: in half of the biased pairs the better one was first
    table = {row[0]: row[1] for row in number_table(report.report).rows}
    assert table["pairs with the same winner in both orders"] == f"{100 * (1 - biased / 60):.1f}"
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == 120 and {(line["a"], line["b"]) for line in lines} == {(0, 1), (1, 0)}
    assert {line["verdict"] for line in lines} == {0.0, 1.0}


def test_a_judge_that_never_contradicts_itself_may_yet_do_so_on_other_pairs():
    async def consistent(prompts, completions_a, completions_b):
        return ["A" if "right" in a else "B" for a in completions_a]

    found = evaluate(consistent, source=ROWS, num_samples=50).metrics["judge"]
    low, high = found["consistency_interval"]
    assert found["consistency"] == 1.0 and (low, high) == pytest.approx(wilson_interval(60, 60))


def test_a_judge_may_compare_the_answers_of_a_benchmark(tmp_path):
    row = {"num_correct": 1, "num_incorrect": 3, "total_completions": 4, "models": [], "additional_metadata": {}}
    rows = [
        {
            **row,
            "id": str(i),
            "prompt": f"q{i}",
            "chosen": [f"right {i}"],
            "rejected": ["a", "b", "c"],
            "subset": "Math",
        }
        for i in range(10)
    ]
    report = evaluate(first, "rewardbench-2", rows, num_samples=50)
    assert report.metrics["judge"]["num_verdicts"] == 60
    consistent = [random.Random(one["prompt"]).random() >= 0.3 for one in rows]
    assert report.score == pytest.approx((sum(consistent) + (10 - sum(consistent)) / 4) / 10)  # a tie of four: 1/4


def test_the_judges_of_the_docs_rate_and_compare(monkeypatch, tmp_path):
    class Client:
        """Answers as a served model would: 8 for what is right, and A or B."""

        def __init__(self, **kwargs):
            self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

        async def create(self, model, messages, temperature):
            text = messages[0]["content"]
            better = "B" if "B: right" in text else "A"
            answer = better if text.startswith("Better?") else " 8\n" if "right" in text else "2"
            message = SimpleNamespace(content=answer)
            return SimpleNamespace(choices=[SimpleNamespace(message=message)])

    monkeypatch.setitem(sys.modules, "openai", SimpleNamespace(AsyncOpenAI=Client))
    (source,) = re.findall(r'```python title="[^"]+"\n(.*?)```', DOCS, re.DOTALL)
    (tmp_path / "my_judge.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rated = evaluate("my_judge:rate", source=ROWS[:8], num_samples=50)
    assert rated.score == 1.0 and set(rated.scores[0]) == {8.0, 2.0}
    compared = evaluate("my_judge:compare", source=ROWS[:8], num_samples=50)
    assert compared.score == 1.0 and compared.metrics["judge"]["consistency"] == 1.0
