"""Suites of benchmarks, and a benchmark from outside of the package: the worked example of docs/benchmarks.md."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
from benchmark_schemas import SCHEMAS, write
from models import assistant, user

from rm_plugin.commands.cli import main
from rm_plugin.evaluation.benchmarks import BENCHMARKS, SUITES, get_benchmark, load_benchmark
from rm_plugin.evaluation.harness import evaluate
from rm_plugin.evaluation.leaderboard import build_leaderboard

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
NAME = "fc_rewardbench:FC_REWARDBENCH"
ROW = {
    "tools": [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}],
    "conversation": [user("Does it rain in Oslo?")],
    "chosen_output": [{"rain": {"city": "Oslo"}}],
    "rejected_output": [{"rain": {"city": "Rome"}}],
    "error_type": "value",
    "test_category": "simple",
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The file of the docs and a judge, in the folder where the process stands."""
    (source,) = re.findall(r'```python title="[^"]+"\n(.*?)```', DOCS, re.DOTALL)
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
    (tmp_path / "fc_rewardbench.py").write_text(source)
    (tmp_path / "city_judge.py").write_text("""
import random

def oslo(prompts, completions):
    return [float("Oslo" in str(completion)) for completion in completions]

def mixed(prompts, completions):
    return [random.Random(str(completion)).random() for completion in completions]
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("rm_plugin.evaluation.harness.evaluate", partial(evaluate, num_samples=50))
    yield tmp_path
    BENCHMARKS.pop(NAME, None)


def test_a_benchmark_from_outside_is_measured_and_put_on_a_leaderboard(outside, capsys):
    write(outside / "rows.jsonl", [{**ROW, "test_id": i} for i in range(4)])
    words = ["evaluate", "city_judge:oslo", "--benchmark", NAME, "--source", "rows.jsonl", "--output", "run"]
    assert main(words) == 0
    report = json.loads((outside / "run" / "report.json").read_text())
    assert report["metrics"]["official"]["score"] == 1.0 and report["benchmark"]["name"] == NAME
    assert report["metrics"]["subsets"].keys() == {"simple"}
    assert "The data have 4 rows, the original 1,500." in capsys.readouterr().out
    (comparison, *_) = load_benchmark(NAME, "rows.jsonl").comparisons
    assert comparison.tools == ROW["tools"] and comparison.prompt == ROW["conversation"]
    assert comparison.chosen == [[assistant('[{"rain": {"city": "Oslo"}}]')]]
    assert main(["leaderboard", "run", "--markdown", "board.md"]) == 0
    assert main(["leaderboard", "run", "--benchmark", NAME]) == 0


def test_no_report_names_what_is_imported(outside, capsys):
    write(outside / "rows.jsonl", [{**ROW, "test_id": i} for i in range(2)])
    assert main(["evaluate", "city_judge:oslo", "--benchmark", NAME, "--source", "rows.jsonl", "--output", "run"]) == 0
    BENCHMARKS.pop(NAME)  # another process
    with pytest.raises(
        ValueError, match=f"^run is of the benchmark {NAME}, which is not known; name it with --benchmark"
    ):
        build_leaderboard(["run"], num_samples=100)
    get_benchmark(NAME)
    assert len(build_leaderboard(["run"], num_samples=100).tables) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fc_rewardbench:pair", "is a function; make it a Benchmark, as docs/benchmarks.md shows"),
        ("fc_rewardbench:OTHER", "fc_rewardbench has no OTHER; write module:name"),
        ("no_such_module:X", "No module named 'no_such_module'"),
        ("fc_rewardbench", "benchmark='fc_rewardbench' is not known"),
    ],
)
def test_a_name_that_leads_to_no_benchmark_is_one_line(outside, capsys, name, said):
    assert main(["evaluate", "city_judge:oslo", "--benchmark", name, "--output", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_skywork_suite_is_the_seven_that_papers_print_in_one_row(outside, capsys):
    columns = SUITES["skywork"]
    assert [*columns] == [
        "RewardBench", "RewardBench 2", "PPE preference", "PPE correctness", "RMB", "RM-Bench",
        "JudgeBench micro", "JudgeBench macro",
    ]  # fmt: skip
    names = dict.fromkeys(name for parts in columns.values() for name, _ in parts)
    assert len(names) == 11 and names.keys() <= BENCHMARKS.keys()
    words = ["evaluate", "city_judge:mixed", "--suite", "skywork", "--output", "runs"]
    assert main(words) == 2  # RMB is not on the hub; nothing was computed
    sources = []
    for name in names:
        file, rows, *_ = SCHEMAS[name]
        rows = [{**row, "domain": "chat"} for row in rows] if name == "rm-bench" else rows
        sources += ["--source", f"{name}={write(outside / name / Path(file).name, rows)}"]
    capsys.readouterr()
    assert main([*words, *sources]) == 0
    out = capsys.readouterr().out
    scores = {
        name: json.loads((outside / "runs" / name / "report.json").read_text())["metrics"]["official"]
        for name in names
    }
    correctness = [scores[name]["score"] for name in names if name.startswith("ppe-") and "human" not in name]
    values = [
        scores["rewardbench"]["score"], scores["rewardbench-2"]["score"], scores["ppe-human-preference"]["score"],
        sum(correctness) / 5, scores["rmb"]["score"], scores["rm-bench"]["score"], scores["judgebench"]["score"],
        scores["judgebench"]["sections"]["macro"]["value"],
    ]  # fmt: skip
    assert len(correctness) == 5 and len(set(values)) > 2
    printed = out.splitlines()[-2].replace("−", "-")  # the last line is the frame
    assert [float(text) for text in re.findall(r"-?\d+\.\d", printed)] == [
        pytest.approx(100 * value, abs=0.051) for value in [*values, sum(values[:7]) / 7]
    ]
    assert main([*words[:2], "--suite", "skyworks", "--output", "runs"]) == 2
    assert "suite='skyworks' is not known (did you mean skywork?)" in capsys.readouterr().err


BROKEN = """
from rm_plugin import Comparison
from rm_plugin.evaluation.benchmarks import Benchmark


def pair(row, origin, **about):
    return Comparison(row["q"], chosen=[row["a"]], rejected=[row["b"]], **about)


BROKEN = Benchmark({})
"""


@pytest.mark.parametrize(
    ("number", "source", "said"),
    [
        (number, BROKEN.format(given) if "\n" not in given else given, said)
        for number, (given, said) in enumerate(
            [
                ("lambda row, origin: (row['q'], row['a'])", "returns a tuple of row 0; it must return a"),
                ("lambda row, origin: [pair(row, origin)]", "returns a list of row 0; it must return a"),
                ("lambda row, origin: pair(row, origin, subset=3)", "row 0: `subset` is 3 (int); it is a text"),
                ("lambda row, origin: pair(row, origin, metadata=[1])", "row 0: `metadata` is [1] (list); it is a"),
                ("lambda row, origin: 1 / 0", "row 0: division by zero"),
                ("pair, regroup=lambda rows: [1 / 0]", "its rows cannot be read (ZeroDivisionError: division by"),
                ("pair, regroup=lambda rows: [3]", "its rows cannot be read (TypeError: 'int' object is not iter"),
                ("pair, formula=lambda means: {'accuracy': means['all']}", "it must return a dict with a 'score'"),
                ("pair, formula=lambda means: means['all']", "it must return a dict with a 'score'"),
                ("pair, formula=lambda means: {'score': means['none']}", "its score cannot be computed: KeyError"),
                ("pair, formula=lambda means: {'score': max(means['all'], 0)}", "its score cannot be computed: The"),
                ("pair, formula=3", "its score cannot be computed: 'int' object is not callable"),
                ("pair, items=[]", "its score cannot be computed: 'list' object is not callable"),
                ("pair, items=lambda scored: []", "no comparison gives an item; items must return one Item or more"),
                ("pair, items=lambda scored: [1.0]", "its score cannot be computed: 'float' object has no attribute"),
                ("\n1 / 0", "cannot be imported (ZeroDivisionError: division by zero); correct it"),
                ("\nimport json\njson.none", "cannot be imported (AttributeError: module 'json' has no attribute"),
                ("\nraise SystemExit(3)", "cannot be imported (SystemExit: 3); correct it"),
                ("\nBROKEN = (", "cannot be imported (SyntaxError: "),
            ]
        )
    ],
)  # fmt: skip
def test_a_broken_benchmark_of_a_users_is_one_line_that_names_it(outside, capsys, number, source, said):
    (outside / f"broken_{number}.py").write_text(source)
    rows, name = write(outside / "rows.jsonl", [{"q": "q", "a": "Oslo", "b": "Rome"}]), f"broken_{number}:BROKEN"
    try:
        for more in ([], ["--on-bad-row", "skip"]):
            words = ["city_judge:oslo", "--benchmark", name, "--source", str(rows), "--output", "run", *more]
            assert main(["evaluate", *words]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert said in line and f"{name}: " in line
    finally:
        BENCHMARKS.pop(name, None)
