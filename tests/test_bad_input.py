"""What people get wrong: exit 0 with the right result, or exit 2 and one line that names file, row or field.

Inputs are generated: each field of a good one gets values of every wrong kind, each file is cut and spoiled. Never a
traceback, never a silent reading. All of them run in this process, and few load a model.
"""

import gzip
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from models import assistant, tiny_reward_model, tiny_tokenizer, user
from peft import LoraConfig, get_peft_model

from rm_plugin import BestOfNSampler, Comparison, RewardScorer, evaluate, load_rows, to_comparison
from rm_plugin.commands.cli import main
from rm_plugin.data.comparison import BadRow, to_prompt
from rm_plugin.data.layouts import BadLayout
from rm_plugin.evaluation.benchmarks import load_benchmark
from rm_plugin.loops.candidates import read_candidates


@pytest.fixture
def refused(capsys):
    """`refused(word, …)`: the one line of a command that exits 2; "" where it exits 0."""

    def run(*words):
        code = main(list(map(str, words)))
        out, err = capsys.readouterr()
        lines = [line.removeprefix("rm-plugin: ") for line in err.splitlines() if line.startswith("rm-plugin: ")]
        assert code in (0, 2) and len(lines) == (code == 2) and "Traceback" not in err, (words, err)
        return "".join(lines)

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --use_cpu true --learning_rate inf", "learning_rate is inf; it is a finite number"),
        ("plan", "model_name_or_path is unset; name a causal model"),
        ("plan --model_name_or_path {adapter}", "is an adapter; plan a recipe with its base model and use_peft"),
        ("score --data x.jsonl --output y.jsonl --dtype float32", "--dtype cannot be applied without a model"),
        (
            "evaluate --scores s.jsonl --benchmark judgebench --benchmark rm-bench",
            "--scores holds the scores of one benchmark",
        ),
    ],
)
def test_words_that_do_not_go_together_are_one_line(words, said, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert said in refused(*words.format(adapter=tmp_path / "adapter").split())


def spoiled(content: bytes) -> dict[str, bytes]:
    """A file of JSON as transfers, editors and other tools leave it."""
    return {
        **{
            "empty": b"",
            "blank": b" \n",
            "cut": content[: len(content) // 2],
            "zeros": bytes(20),
            "latin": b"\xff\xfe{}",
        },
        **{
            "list": b"[]",
            "number": b"3",
            "null": b"null",
            "object": b"{}",
            "text": b'"x"',
            "twice": b'{"a": 1, "a": 2}',
        },
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    }


# --- rows

ROWS = {
    "pair": {"prompt": "alpha?", "chosen": "beta", "rejected": "gamma"},
    "chat": {"prompt": [user("alpha?")], "chosen": [assistant("beta")], "rejected": [assistant("gamma")]},
    "implicit": {
        "chosen": [user("alpha?"), assistant("beta")],
        "rejected": [user("alpha?"), assistant("gamma")],
    },
    "ranked": {"prompt": "alpha?", "completions": ["beta", "gamma", "delta"], "ranks": [0, 1, 2]},
    "scored": {"prompt": "alpha?", "completions": ["beta", "gamma"], "scores": [0.5, 0.25]},
    "labelled": {"prompt": "alpha?", "response_1": "beta", "response_2": "gamma", "label": 1},
    "targets": {"input": "alpha?", "targets": {"choices": ["beta", "gamma"], "labels": [1, 0]}},
}
BESIDE = (
    "margin",
    "tools",
    "chat_template_kwargs",
    "id",
    "subset",
    "metadata",
    "system",
    "input",
    "images",
    "messages",
)
VALUES = [
    *[None, 3, 0.5, True, "", " ", "x", "\ud800", [], {}, [None], [3], ["x"], ["x", "y"], [[]], [{}], {"a": 1}],
    *[{"role": "user"}, {"content": "x"}, [user(3)], [assistant(None)], [user("x")], math.nan, math.inf, 10**30, b"x"],
    *["[1, 2", '[{"role": "user"}]', {"messages": []}, {"messages": [3]}, {"messages": [user("x"), assistant("y")]}],
    *[(1, 2), {1: 2}, ["x", None], [math.nan, 1], [0, "b", 2], "0,1", [True, False], [1, 1]],
]
LIBRARY_WORDS = (
    "object has no",
    "unhashable",
    "KeyError",
    "'NoneType'",
    "not subscriptable",
    "not iterable",
    "index out",
)


def leaves(value):
    """Every text in a nested value, but for the names of speakers."""
    if isinstance(value, dict):
        value = [item for name, item in value.items() if name not in ("role", "from", "type")]
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str) and value.strip():
        yield value.strip()


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_with_one_wrong_value_is_read_whole_or_refused_by_its_field(kind):
    unread = ("tools", "chat_template_kwargs", "id", "subset", "metadata", "margin", "label")
    for field in dict.fromkeys([*ROWS[kind], *BESIDE]):
        for value in VALUES:
            row = {**ROWS[kind], field: value}
            case = f"{field}={value!r}"
            try:
                comparison = to_comparison(row, 17)
            except (BadRow, BadLayout) as error:
                line = str(error)
                assert line.startswith("row 17: ") and "\n" not in line, case
                assert not any(words in line for words in LIBRARY_WORDS), (case, line)
                continue
            read = list(leaves([comparison.prompt, comparison.completions]))
            given = list(leaves({name: text for name, text in row.items() if name not in unread}))
            assert all(any(text in other for other in read) for text in given), (case, comparison)
            assert all(any(text in other or other in text for other in given) for text in read), (case, comparison)


# --- files of rows

GOOD = [{"prompt": f"{i} + 2 =", "chosen": f" {i + 2}", "rejected": " five", "id": f"r{i}"} for i in range(6)]
FILES = {
    **{f"{name}.jsonl": content for name, content in spoiled(json.dumps(GOOD[0]).encode()).items()},
    **{f"{name}.json": content for name, content in spoiled(json.dumps(GOOD).encode()).items()},
    **{f"{name}.csv": content for name, content in spoiled(b"prompt,chosen,rejected\na,b,c\n").items()},
    **{f"{name}.parquet": content for name, content in spoiled(b"PAR1xxxxPAR1").items()},
    **{f"{name}.jsonl.gz": content for name, content in spoiled(gzip.compress(json.dumps(GOOD).encode())).items()},
    "surrogate.jsonl": b'{"prompt": "a\\ud800b", "chosen": "c", "rejected": "d"}',
    "nested.jsonl": b'{"chosen": [{"role": "user", "content": "\\ud800"}], "rejected": [3, "a"]}',
    "half.jsonl": b'{"prompt": "\xed\xa0\x80", "chosen": "c", "rejected": "d"}',
    "nan.jsonl": b'{"prompt": NaN, "chosen": "c", "rejected": "d"}',
    "margin.jsonl": b'{"prompt": "a", "chosen": "c", "rejected": "d", "margin": NaN}',
    "more.csv": b"chosen,rejected\na,b,c\n",
    "fewer.csv": b"chosen,rejected\na\n",
    "twice.csv": b"chosen,chosen\na,b\n",
    "quote.csv": b'chosen,rejected\n"a,b\n',
    "semicolon.csv": b"chosen;rejected\na;b\n",
    "columns.json": b'{"prompt": ["a"], "chosen": ["b", "c"], "rejected": ["d"]}',
    "lists.json": b'{"x": [{"a": 1}], "y": [1]}',
    "tree.jsonl": b'{"prompt": {"text": "a", "replies": [3, {"text": "b", "rank": 0}]}}',
    "texts.jsonl": b'{"prompt": {"text": "a", "replies": [{"rank": 0}, {"text": "b", "rank": 1}]}}',
    "ranks.jsonl": b'{"prompt": {"text": "a", "replies": [{"text": "c", "rank": "x"}, {"text": "b", "rank": 1}]}}',
    "notes.txt": b"x",
}


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """The dotted path of a reward function: the length of a completion."""
    (tmp_path / "reward_of_length.py").write_text(
        "def score(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "reward_of_length:score"


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_spoiled_file_is_named_with_line_row_or_column(refused, judge, tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        line = refused("evaluate", judge, "--data", tmp_path / name, "--output", tmp_path / "run")
        assert name in line or "row 0: " in line, (name, line)
        assert not any(words in line for words in LIBRARY_WORDS), (name, line)


# --- runs, scores, outputs


def test_broken_runs_scores_and_outputs_are_named(refused, judge, tmp_path):
    rows, run, other = write_rows(tmp_path / "rows.jsonl", GOOD), tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        assert refused("evaluate", judge, "--data", rows, "--output", folder) == ""
    report = json.loads((run / "report.json").read_text())
    assert report["metrics"]["pairwise"]["num_pairs"] == 6
    broken = tmp_path / "broken"
    cases = {
        (name, what): content
        for name in ("report.json", "items.json")
        for what, content in spoiled((run / name).read_bytes()).items()
    }
    cases |= {
        ("report.json", f"{key}={value!r}"): json.dumps({**report, key: value}).encode()
        for key in ("schema_version", "benchmark", "model", "counts", "metrics", "run")
        for value in (None, 3, "x", [])
    }
    for (name, what), content in cases.items():
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(run, broken)
        (broken / name).write_bytes(content)
        for words in (["leaderboard", broken], ["compare", broken, other]):
            assert "broken" in refused(*words), (name, what)
    records = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    good = {f"score={value}" for value in (None, 3, -1, 1.5)} | {"index=1"}
    for field in ("id", "index", "role", "score"):
        for value in (None, 3, "x", True, -1, 1.5, math.nan, [], {}):
            lines = [*records[:3], {**records[3], field: value}, *records[4:]]
            line = refused("evaluate", "--scores", write_rows(tmp_path / "s.jsonl", lines), "--data", rows)
            assert ("s.jsonl" in line) != (f"{field}={value}" in good), (field, value, line)
    for name, content in spoiled((run / "scores.jsonl").read_bytes()[:-5]).items():
        (tmp_path / f"{name}.jsonl").write_bytes(content)
        assert f"{name}.jsonl" in refused("evaluate", "--scores", tmp_path / f"{name}.jsonl", "--data", rows)
    for output in (rows, rows / "below", tmp_path / ("x" * 300)):
        assert output.name in refused("evaluate", judge, "--data", rows, "--output", output) or output.name == "below"
    for output in (run, rows / "below", tmp_path / ("x" * 300)):
        for option in ("--html", "--csv", "--markdown"):
            assert refused("leaderboard", run, option, output)
    assert "/dev/full: No space left" in refused("leaderboard", run, "--csv", "/dev/full")
    for words in (["leaderboard", tmp_path / "none"], ["leaderboard", rows], ["compare", run, tmp_path]):
        assert str(words[-1]) in refused(*words)


# --- recipes

RECIPE_VALUES = ([1], {"a": 1}, "x", "\ud800", 1.5, math.nan)
NUMBERS = ("learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "seed", "max_length")
NUMBERS += ("gradient_accumulation_steps", "center_rewards_coefficient", "logging_steps")
WORDS = ("dtype", "truncation_mode", "reasoning", "on_bad_row", "eval_strategy", "lr_scheduler_type", "shared_prefix")
FLAGS = ("bf16", "gradient_checkpointing", "load_in_4bit")


def test_a_wrong_recipe_is_named_with_its_field(refused, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    base = {"model_name_or_path": str(tmp_path / "no-model"), "output_dir": str(tmp_path / "out"), "use_cpu": True}
    for name, content in spoiled(b"a: [1").items():
        recipe.write_bytes(content)
        line = refused("train", "--config", recipe)
        assert "recipe.yaml" in line, (name, line)
    for field in (*NUMBERS, *WORDS, *FLAGS):
        for value in RECIPE_VALUES:
            fits = field in ("learning_rate", "num_train_epochs", "center_rewards_coefficient", "logging_steps")
            if fits and value == 1.5:
                continue
            recipe.write_text(json.dumps({**base, field: value}))
            line = refused("train", "--config", recipe)
            assert "recipe.yaml" in line and field.replace("_", "") in line.replace("_", "").replace("-", ""), (
                field,
                value,
                line,
            )
    for text, field in (
        ("learning-rate: 1\nlearning_rate: 2", "learning_rate"),
        ("learnin_rate: 1", "did you mean learning_rate?"),
        ("columns: {chosn: x}\ndataset_name: x", "chosn"),
        ("columns: 3", "columns"),
        ("env: 3", "env"),
        ("max_steps: !!python/object/apply:os.system [ls]", "python/object"),
    ):
        recipe.write_text(f"use_cpu: true\n{text}")
        line = refused("train", "--config", recipe)
        assert field in line or "model_name_or_path" in line, (text, line)
    for path in (tmp_path, tmp_path / "none.yaml"):
        assert str(path) in refused("train", "--config", path)


# --- checkpoints and adapters: each loads a model, so they are few


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_reward_model().save_pretrained(folder / "model")
    tiny_tokenizer("chatml").save_pretrained(folder / "model")
    base = tiny_reward_model()
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], r=2, task_type="SEQ_CLS")).save_pretrained(
        folder / "adapter"
    )
    tiny_tokenizer("chatml").save_pretrained(folder / "adapter")
    return folder


CHECKPOINTS = [
    ("model", "config.json", b""),
    ("model", "config.json", b"{}"),
    ("model", "config.json", {"hidden_size": 8}),
    ("model", "config.json", {"num_hidden_layers": 99}),
    ("model", "config.json", {"model_type": "x"}),
    ("model", "config.json", {"hidden_act": "x"}),
    ("model", "config.json", {"pad_token_id": "x"}),
    ("model", "model.safetensors", b""),
    ("model", "model.safetensors", None),
    ("model", "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ("model", "tokenizer.json", b"{"),
    ("model", "tokenizer.json", None),
    ("model", "tokenizer_config.json", b"x"),
    ("adapter", "adapter_config.json", b""),
    ("adapter", "adapter_config.json", {"peft_type": "X"}),
    ("adapter", "adapter_config.json", {"base_model_name_or_path": "no-such-base"}),
    ("adapter", "adapter_model.safetensors", b"x"),
    ("adapter", "adapter_model.safetensors", None),
]


def test_a_broken_checkpoint_is_named(refused, checkpoint, tmp_path):
    assert len(CHECKPOINTS) <= 18
    write_rows(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}])
    data = ("--data", tmp_path / "in.jsonl", "--output")
    assert refused("score", checkpoint / "model", *data, tmp_path / "out.jsonl") == ""
    for i, (kind, name, content) in enumerate(CHECKPOINTS):
        folder = tmp_path / f"broken-{i}"
        shutil.copytree(checkpoint / kind, folder)
        if content is None:
            (folder / name).unlink()
        elif isinstance(content, dict):
            (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **content}))
        else:
            (folder / name).write_bytes(content)
        line = refused("score", folder, *data, tmp_path / f"out-{i}.jsonl")
        assert folder.name in line or "no-such-base" in line or name.split(".")[0] in line, (kind, name, content, line)


# --- candidates, and what Python hands over

CANDIDATES = [
    *[
        3,
        "a",
        {},
        {"prompt": "a"},
        {"completions": ["b"]},
        {"prompt": "a", "completions": "b"},
        {"prompt": "a", "outputs": 3},
    ],
    *[{"prompt": "a", "completions": [value]} for value in (3, None, {}, [3], {"role": "user", "content": "b"})],
    *[{"prompt": "a", "outputs": [value]} for value in ({"text": 3}, {"text": None}, {"message": 3}, {"message": {}})],
    *[{"prompt": "a", "completions": ["b"], "gold": gold} for gold in (["x"], [1, 2], [math.nan], {}, [[]])],
    *[{"prompt": "a", "completions": ["b"], "systems": systems} for systems in (["x", "y"],)],
    *[{"prompt": prompt, "completions": ["b"]} for prompt in (3, None, "", [], [3], {"text": "a"}, "\ud800")],
    *[{"prompt": "a", "completion": value} for value in (3, ["b", "c"], [{"role": "user", "content": "b"}])],
]


@pytest.mark.parametrize("row", CANDIDATES, ids=lambda row: ascii(row))
def test_candidates_that_are_none_are_named_by_their_row(row):
    with pytest.raises(ValueError, match="^candidates, row 1: ") as refused:
        read_candidates([{"prompt": "good", "completions": ["fine"]}, row])
    assert "\n" not in str(refused.value)
    assert not any(words in str(refused.value) for words in LIBRARY_WORDS)


@pytest.fixture(scope="module")
def given():
    """What the calls below are made with."""
    model, tokenizer = tiny_reward_model(), tiny_tokenizer("chatml")
    return SimpleNamespace(model=model, tokenizer=tokenizer, scorer=RewardScorer(model, tokenizer))


def score_by(give):
    return evaluate(lambda prompts, completions: give(completions), source=GOOD)


CALLS = {
    "Comparison": [
        *[lambda it, v=v: Comparison("a", v) for v in ("bc", 3, {"b": 1}, [3], [None], ["b\ud800"], [["b"]])],
        *[
            lambda it, v=v: Comparison(v, ["b"])
            for v in (3, {"a": 1}, [3], "\ud800", [{"role": "user", "content": "\ud800"}])
        ],
        *[
            lambda it, v=v: Comparison("a", ["b", "c"], v)
            for v in ("01", 3, [0], [0, math.nan], ["x", 0], [0.5, 1], [True, 0])
        ],
        *[lambda it, v=v: Comparison("a", chosen=v, rejected="c") for v in (3, {}, [], [3], None)],
        *[
            lambda it, v=v: Comparison("a", chosen="b", rejected="c", margin=v)
            for v in ("x", math.nan, math.inf, True, [1])
        ],
        *[lambda it, v=v: Comparison("a", ["b"], tools=v) for v in (3, "x", [3], {"a": 1})],
        *[
            lambda it, v=v: Comparison("a", ["b"], chat_template_kwargs=v)
            for v in (3, "x", [3], {1: 2}, {"tools": []})
        ],
    ],
    "rows": [
        *[lambda it, v=v: load_rows(v) for v in (3, None, "", [3], (GOOD[0],), Dataset.from_list([]), iter(GOOD))],
        *[lambda it, v=v: load_rows(GOOD, v) for v in (3, "dev", "train[", "train[:x]", "train+dev")],
        *[
            lambda it, v=v: load_rows(GOOD, columns=v)
            for v in ({"x": "y"}, ["chosen"], {"chosen": "x"}, {"chosen": 3})
        ],
        *[lambda it, v=v: to_prompt(v) for v in (3, None, {}, [3], "", {"prompt": 3})],
        *[lambda it, v=v: load_benchmark("preference", v) for v in ([], 3, [3], "no-file.jsonl", {})],
        *[lambda it, v=v: load_benchmark(v) for v in ("llmbar", "nothing", 3)],
        lambda it: load_benchmark("preference", GOOD, limit=0),
        lambda it: load_benchmark("preference", GOOD, on_empty="x"),
        lambda it: load_benchmark("preference", GOOD, on_bad_row="x"),
        lambda it: load_benchmark("preference", GOOD, subset="x"),
        lambda it: load_benchmark("llmbar", GOOD, columns={"chosen": "x"}),
    ],
    "scorer": [
        *[lambda it, v=v: RewardScorer(v) for v in (3, None, "", "no/such/model", torch.nn.Linear(2, 2))],
        *[lambda it, v=v: RewardScorer(it.model, v) for v in (3,)],
        lambda it: RewardScorer(it.model, it.model),
        lambda it: RewardScorer(it.tokenizer),
        lambda it: RewardScorer(it.scorer),
        *[lambda it, v=v: RewardScorer(it.model, it.tokenizer, max_length=v) for v in (-1,)],
        *[lambda it, v=v: RewardScorer(it.model, it.tokenizer, truncation_mode=v) for v in ("x", None, 3)],
        *[
            lambda it, v=v: it.scorer.score(["a"], v)
            for v in ("b", [], ["b", "c"], [3], [None], [""], [["b"]], ["\ud800"])
        ],
        *[lambda it, v=v: it.scorer.score(v, ["b"]) for v in ("a", [], [3], [{"role": "user"}], [[{"content": "a"}]])],
        lambda it: it.scorer.rank("a", "bc"),
        lambda it: it.scorer.preference("a", "b", 3),
    ],
    "rewards": [
        *[lambda it, v=v: score_by(lambda c: v) for v in (None, 3, [1.0], "x")],
        *[lambda it, v=v: score_by(lambda c: [v] * len(c)) for v in ("x", math.nan, math.inf, [], None)],
        lambda it: score_by(lambda c: 1 / 0),
        *[lambda it, v=v: evaluate(v, source=GOOD) for v in (3, None, "no.such:thing", "math:nothing", "math:pi")],
        *[
            lambda it, v=v: BestOfNSampler(None, scorer=v).rank([{"prompt": "a", "completions": ["b"]}])
            for v in (3, None)
        ],
        *[lambda it, v=v: BestOfNSampler(None, scorer=len).rank(v) for v in ("abc", [], [3], [{"prompt": "a"}])],
        lambda it: BestOfNSampler(None, scorer=len).sample(["a"]),
    ],
}
CALLS = [pytest.param(call, id=f"{kind}-{i}") for kind, calls in CALLS.items() for i, call in enumerate(calls)]


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument_is_one_line(call, given):
    with pytest.raises((ValueError, OSError)) as refused:
        call(given)
    assert "\n" not in str(refused.value)
    assert "<lambda> failed" in str(refused.value) or not any(words in str(refused.value) for words in LIBRARY_WORDS)


def test_there_are_four_hundred_inputs_and_more():
    rows = sum(len({*row, *BESIDE}) for row in ROWS.values()) * len(VALUES)
    recipes = len((*NUMBERS, *WORDS, *FLAGS)) * len(RECIPE_VALUES)
    assert rows + len(FILES) + recipes + len(CHECKPOINTS) + len(CANDIDATES) + len(CALLS) > 400
    assert len(FILES) + recipes + len(CHECKPOINTS) + len(CANDIDATES) + len(CALLS) > 300  # without the rows
