"""`rm-plugin`: what each command does with good and bad input, as a user sees it: exit code, screen, files."""

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rm_plugin import RewardScorer
from rm_plugin.commands.cli import main
from rm_plugin.training.fields import PairwiseRewardFields

PAIR = {"prompt": "Which country owns Antarctica?", "chosen": " None: it has a treaty.", "rejected": " Penguins."}


def rows(num: int) -> list[dict]:
    return [{**PAIR, "prompt": f"{PAIR['prompt']} {i}"} for i in range(num)]


def write_lines(path: Path, lines: list) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*commands: list, **options) -> subprocess.CompletedProcess:
    """Commands one after the other in a process of their own, offline, as the console script runs them."""
    words = [[str(word) for word in command] for command in commands]
    script = f"import sys; from rm_plugin.commands.cli import main; sys.exit(max(main(words) for words in {words!r}))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=240, **options
    )


@pytest.fixture
def command(capsys):
    """`command(word, …)` runs in this process and gives (exit code, standard output, the one line of an error)."""
    loggers = {name: logging.getLogger(name).level for name in ("rm_plugin", "bitsandbytes")}

    def run_here(*words):
        code = main(list(map(str, words)))
        out, err = capsys.readouterr()
        errors = [line for line in err.splitlines() if line.startswith("rm-plugin: ")]
        assert len(errors) == (code != 0), err
        return code, out, errors[0].removeprefix("rm-plugin: ") if errors else ""

    yield run_here
    for name, level in loggers.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a trained (that is, random) reward model and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tiny_reward_model().save_pretrained(folder)
    tiny_tokenizer("chatml").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def causal_model(tmp_path_factory):
    """A folder with a causal model, which has no reward head."""
    folder = tmp_path_factory.mktemp("causal")
    AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(folder)
    tiny_tokenizer("chatml").save_pretrained(folder)
    return folder


# --- the top level


def test_help_loads_nothing_that_takes_long():
    probe = (
        "import sys\n"
        "from rm_plugin.commands.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'rich', 'jinja2', 'scipy'} & set(sys.modules)\n"
        "print(code, heavy or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 light", done.stdout + done.stderr
    for name in ("quickstart", "train", "score", "export", "evaluate", "best-of-n"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "words, line",
    [
        ([], "the following arguments are required: COMMAND; see rm-plugin --help"),
        (["trian"], "unknown command 'trian' (did you mean train?); the commands are quickstart, train, plan, score,"),
        (["score"], "the following arguments are required: --data, --output; see rm-plugin score --help"),
        (["export", "a", "b", "--dtyp", "x"], "unknown argument '--dtyp' (did you mean dtype?); see rm-plugin export"),
        (
            ["score", "m", "--data", "a", "--output", "b", "--max-length", "long"],
            "argument --max-length: inv",
        ),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(command, words, line):
    code, out, error = command(*words)
    assert code == 2 and out == "" and error.startswith(line)


def test_traceback_is_shown_on_demand(tmp_path):
    missing = tmp_path / "missing.jsonl"
    words = ["score", tmp_path, "--data", missing, "--output", tmp_path / "out.jsonl"]
    plain, debug = run(words), run([*words, "--debug"])
    assert plain.returncode == 2
    assert plain.stderr.startswith(f"rm-plugin: {missing} does not exist; give a file, a folder, or a hub id")
    assert debug.returncode == 1 and "Traceback" in debug.stderr and "ValueError" in debug.stderr


# --- score


def test_score_keeps_every_field_and_the_order(command, model, tmp_path):
    talk = [{"role": "user", "content": "2 + 2?"}]
    reply = [{"role": "assistant", "content": "four"}]
    lines = [
        {"id": 7, "completion": " four", "prompt": "2 + 2 =", "nested": {"a": [1, None]}, "name": "Ünï"},
        {"prompt": talk, "completions": ["four", reply, "five"]},
        {"prompt": talk, "completion": reply},
        {"completions": [" four"], "prompt": ""},
    ]
    source, target = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "new" / "out.jsonl"
    code, out, _ = command("score", model, "--data", source, "--output", target)
    assert code == 0 and out == f"6 completions of 4 rows scored: {target}\n"
    scored = read_lines(target)
    added = ["score", "scores", "score_reason"]
    assert [list(line) for line in scored] == [[*line, *added] for line in lines]
    assert [{k: v for k, v in line.items() if k not in added} for line in scored] == lines
    assert "Ünï" in target.read_text(encoding="utf-8")
    one = RewardScorer(model)
    assert scored[0]["score"] == pytest.approx(one.score(["2 + 2 ="], [" four"])[0], abs=1e-5)
    assert scored[1]["scores"][:2] == [pytest.approx(scored[2]["score"], abs=1e-5)] * 2
    assert scored[1]["scores"][2] != scored[1]["scores"][0]
    assert len(scored[3]["scores"]) == 1


def test_scores_over_the_length_limit_are_null_or_stop_where_asked(command, model, tmp_path):
    lines = [{"prompt": "2", "completions": [" 4", " 4" * 40]}, {"prompt": "2", "completion": " 4" * 40}]
    source, target = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    words = ["score", model, "--data", source, "--output", target, "--max-length", 30]
    code, _, error = command(*words, "--on-bad-row", "error")
    assert code == 2 and error.startswith(f"{source} row 0: prompt + completion 1 has 8")
    assert "max_length is 30" in error and not target.exists()
    code, out, _ = command(*words)
    assert code == 0 and "3 completions of 2 rows scored, 2 of them null (see score_reason)" in out
    first, second = read_lines(target)
    assert first["scores"][1] is None and isinstance(first["scores"][0], float) and second["score"] is None
    assert second["score_reason"] == "is over max_length=30"


def test_existing_output_stays(command, model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "2", "completion": " 4"}])
    target = tmp_path / "out.jsonl"
    target.write_text("earlier work\n")
    code, _, error = command("score", model, "--data", source, "--output", target)
    assert code == 2 and "exists and is no output of score; name another one" in error
    assert target.read_text() == "earlier work\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"], "no partial file is left"


def test_a_lone_surrogate_beside_the_texts_stays_and_in_them_is_one_line(command, model, tmp_path):
    line = '{"prompt": "a", "completion": "b", "note": "\\ud800"}'
    (tmp_path / "in.jsonl").write_text(line)
    command("score", model, "--data", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["note"] == "\ud800"
    (tmp_path / "out.jsonl").unlink()
    (tmp_path / "in.jsonl").write_text(line.replace('"b"', '"\\ud800"'))
    code, _, error = command("score", model, "--data", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert code == 2 and "row 0: `completion` holds half a character (a lone surrogate" in error


def test_output_may_not_be_the_input(command, model, tmp_path):
    file = write_lines(tmp_path / "file.jsonl", [{"prompt": "2 + 2 =", "completion": " 4"}])
    code, _, error = command("score", model, "--data", file, "--output", file)
    assert code == 2 and error == f"writing {file} would change the data, {file}; name an output outside of it"
    assert list(read_lines(file)[0]) == ["prompt", "completion"]


@pytest.mark.parametrize(
    "text, line",
    [
        (
            '{"prompt": "a", "completion": "b"}\n\n{"prompt"\n',
            " line 3 is not JSON (Expecting ':' delimiter at column ",
        ),
        ("", " has 0 rows; give at least one"),
        ("\n \n", " has 0 rows; give at least one"),
        (
            '{"prompt": "a", "answer": "b"}',
            " row 0: `chosen` and `rejected` missing (found: prompt, answer); a preference row has `chosen`",
        ),
        (
            '{"prompt": "a", "completion": "b", "completions": ["c"]}',
            " row 0: `completions` and `completion` could each be the completions; name one, such as --columns",
        ),
        ('["a", "b"]', ": item 0 is of type str; every row must be a JSON object"),
        ("{}", " row 0: `chosen` and `rejected` missing (found: nothing)"),
        ('{"completion": "b"}', " row 0: it has no prompt; give it a column prompt, which may be empty"),
        ('{"prompt": "a", "completions": []}', " row 0: `completions` is an empty list; give at least one"),
        ('{"prompt": "a", "completions": "b"}', ' row 0: `completions` is "b"; it is a list, each item text'),
        ('{"prompt": "a", "completion": ""}', " row 0: `completion` is empty; every completion needs text"),
        (
            '{"prompt": "a", "completion": 4}',
            " row 0: `completion` is 4 (int); it must be text or a list of messages",
        ),
        ('{"prompt": {"text": "a"}, "completion": "b"}', " row 0: message 0 of `prompt` has no `role`; every"),
        (
            '{"prompt": "a", "completion": [{"text": "b"}]}',
            " row 0: message 0 of `completion` has no `role`; every",
        ),
        (
            '{"prompt": "a", "completion": [{"role": "user", "content": "b"}]}',
            " row 0: `completion` ends with a message of role 'user'; end it with an assistant message",
        ),
        (
            '{"prompt": "a", "completion": "b", "system": "c"}',
            " row 0: `system` looks like a part of the prompt that",
        ),
        (
            '{"prompt": "a", "completion": "b", "score": 1}',
            " has a column 'score', which would be overwritten; rename it",
        ),
        (b'{"prompt": "\xff"}', " line 1 cannot be read ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_bad_input_is_one_line_that_says_where(command, model, tmp_path, text, line):
    source = tmp_path / "in.jsonl"
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, out, error = command("score", model, "--data", source, "--output", tmp_path / "out.jsonl")
    assert code == 2 and out == "" and error.startswith(f"{source}{line}")
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_model_is_one_line(command, causal_model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}])
    two_labels = tmp_path / "two"
    AutoModelForSequenceClassification.from_config(tiny_config(num_labels=2)).save_pretrained(two_labels)
    tiny_tokenizer("plain").save_pretrained(two_labels)
    broken = tmp_path / "broken"
    tiny_reward_model().save_pretrained(broken)
    tiny_tokenizer("plain").save_pretrained(broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, line in {
        tmp_path / "gone": "/gone is no such folder; name a model's folder or a hub id",
        "no/such/folder": "no/such/folder is no such folder; name a model's folder or a hub id",
        empty: "/empty holds no model (no config.json, no adapter_config.json); name a model's folder",
        source: "/in.jsonl is no such folder; name a model's folder or a hub id",
        causal_model: "is a LlamaForCausalLM, which has no trained reward head; RewardModel.from_backbone puts",
        two_labels: "num_labels=2, a reward model has 1; choose a one-label checkpoint",
        broken: "rror while deserializing header",
    }.items():
        code, out, error = command("score", folder, "--data", source, "--output", tmp_path / "out.jsonl")
        assert code == 2 and out == "" and line in error
        code, out, error = command("export", folder, tmp_path / "export")
        assert code == 2 and out == "" and line in error
        assert not (tmp_path / "out.jsonl").exists() and not (tmp_path / "export").exists()


def test_unknown_hub_id_is_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}])
    code, _, error = command("score", "no-such/model", "--data", source, "--output", tmp_path / "out.jsonl")
    assert code == 2 and error == (
        "no-such/model is no folder here, and the hub has no such model or cannot be asked; name a model's folder or "
        "a hub id"
    )


@pytest.mark.parametrize(
    "option, line",
    [
        (
            ["--dtype", "floaty"],
            "argument --dtype: invalid choice: 'floaty' (choose from 'auto', 'bfloat16', 'float16', ",
        ),
        (["--truncation-mode", "cut"], "truncation_mode='cut' is not known; use one of 'drop', 'keep_end', 'error'"),
        (["--max-length", "0"], "max_length=0 leaves no token; give a whole number of at least 1"),
        (["--max-num-batched-tokens", "-1"], "max_num_batched_tokens=-1 leaves no token; give a whole number of at"),
        (
            ["--max-num-batched-tokens", "all"],
            "argument --max-num-batched-tokens: invalid whole_number_or_auto value: 'all'",
        ),
    ],
)
def test_bad_option_is_one_line(command, model, tmp_path, option, line):
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}])
    code, _, error = command("score", model, "--data", source, "--output", tmp_path / "out.jsonl", *option)
    assert code == 2 and error.startswith(line)


@pytest.mark.parametrize("words", [["score"], ["evaluate", "--name", "x"]])
def test_the_command_line_takes_auto_as_python_and_the_environment_do(command, model, tmp_path, words):
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "chosen": " b", "rejected": " c"}])
    output = tmp_path / ("out.jsonl" if words == ["score"] else "run")
    words = [words[0], model, *words[1:], "--data", source, "--output", output]
    code, _, error = command(*words, "--max-num-batched-tokens", "auto")
    assert (code, error) == (0, "")


def test_output_that_cannot_be_written_is_named_before_the_work(command, model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}])
    monkeypatch.setattr("rm_plugin.scoring.corpus._survey", lambda *args, **kwargs: pytest.fail("work was begun"))
    code, _, error = command("score", model, "--data", source, "--output", tmp_path)
    assert code == 2 and error == f"{tmp_path} exists and is no output of score; name another one, or delete it"
    code, _, error = command("score", model, "--data", source, "--output", source / "out.jsonl")
    assert code == 2 and f"would change the data, {source};" in error


# --- export


def test_export_writes_a_checkpoint_for_plain_transformers(command, model, tmp_path):
    code, out, _ = command("export", model, tmp_path / "export", "--dtype", "bfloat16")
    assert code == 0 and out.startswith(f"exported to {tmp_path / 'export'}; its README says how ")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
    assert type(plain).__name__ == "LlamaForSequenceClassification" and plain.dtype == torch.bfloat16
    code, _, error = command("export", model, tmp_path / "export")
    assert code == 2 and error == f"{tmp_path / 'export'} is not empty; name a new folder"


# --- train


@pytest.fixture(scope="module")
def recipe(causal_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    write_lines(folder / "pairs.jsonl", rows(12))
    (folder / "recipe.yaml").write_text(
        f"""\
model_name_or_path: {causal_model}
dataset_name: {folder / "pairs.jsonl"}
dataset_train_split: train[:8]
dataset_test_split: train[8:]
output_dir: {folder / "output"}
max_steps: 2
lr_scheduler_type: constant
eval-strategy: epoch
logging_steps: 1
learning_rate: 1e-3
use_peft: true
lora_target_modules: [all-linear]
resume_from_checkpoint: "true"
use_cpu: true
report_to: none
env:
  RM_PLUGIN_TEST: 1
"""
    )
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def workflow(recipe):
    """train, score and export as a user runs them one after the other; the folder holds what they wrote."""
    folder = recipe.parent
    source = write_lines(folder / "in.jsonl", [{"prompt": "2 + 2 =", "completion": " 4"}])
    done = run(
        ["train", "--config", "recipe.yaml", "--bf16", "true", "--gradient-checkpointing", "true"],
        ["score", "output", "--data", source, "--output", "scores.jsonl", "--load-in-4bit"],
        ["export", "output", "export"],
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_train_saves_a_model_that_scores_and_exports(workflow):
    folder, done = workflow
    step_1, _, step_2, held_out, *rest = done.stdout.splitlines()
    metrics = r"loss [\d.]+ · accuracy [\d.]+ · margin [+-][\d.]+ · lr [\d.e-]+ · [\d,]+ tokens/s"
    assert re.fullmatch(rf"step 1/2 · {metrics} · \d+ s left", step_1)
    assert re.fullmatch(rf"step 2/2 · {metrics}", step_2)
    assert re.fullmatch(
        r"held out at step 2: accuracy [\d.]+ \[[\d.]+, [\d.]+\] of 4 pairs · loss [\d.]+ · margin [+-][\d.]+",
        held_out,
    )
    assert rest == [
        f"saved to {folder / 'output'}",
        "1 completions of 1 rows scored: scores.jsonl",
        "exported to export; its README says how it is loaded",
    ]
    assert np.isfinite(read_lines(folder / "scores.jsonl")[0]["score"])
    adapter = RewardScorer(folder / "output").score(["2 + 2 ="], [" 4"])
    assert RewardScorer(folder / "export").score(["2 + 2 ="], [" 4"]) == pytest.approx(adapter, abs=1e-5)


def test_screen_has_no_noise_from_upstream(workflow):
    bars = ("Loading weights", "Encoding", "Writing model shards", "Generating", "%|", "scoring")
    ours = ("no complete checkpoint in", "the chat template's tail is trimmed")
    lines = [line.strip() for line in workflow[1].stderr.replace("\r", "\n").splitlines()]
    assert [line for line in lines if line and not line.startswith(ours) and not any(b in line for b in bars)] == []


def test_train_resumes_from_the_newest_checkpoint(workflow, command, recipe):
    words = ["--max_steps", 3, "--save_strategy", "no", "--eval_strategy", "no"]
    assert command("train", "--config", recipe, *words)[0] == 0
    state = json.loads((recipe.parent / "output" / "trainer_state.json").read_text())
    assert state["global_step"] == 3 and [line["step"] for line in state["log_history"] if "loss" in line] == [1, 2, 3]


def test_train_without_a_recipe_takes_fields_alone(command, causal_model, recipe, tmp_path):
    code, out, error = command("train", "--use_cpu")
    assert code == 2 and error.startswith("model_name_or_path is unset; name a causal model")
    words = ["--model-name-or-path", causal_model, "--dataset_name", recipe.parent / "pairs.jsonl", "--max-steps", "1"]
    words += ["--output_dir", tmp_path / "out", "--use_cpu", "--report_to", "none", "--gradient_checkpointing=false"]
    code, out, _ = command("train", *words)
    assert code == 0 and out.endswith(f"saved to {tmp_path / 'out'}\n")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]


@pytest.mark.parametrize(
    "words, line",
    [
        (
            ["--learning_rat", "1"],
            "unknown field 'learning_rat' (did you mean learning_rate?); fields have the names",
        ),
        (
            ["--learning-rat=1"],
            "unknown field 'learning_rat' (did you mean learning_rate?); fields have the names",
        ),
        (["stray"], "'stray' follows no field; give --field value, see rm-plugin train --help"),
        (["--learning_rate", "fast"], "argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
        (["--learning_rate"], "argument --learning_rate/--learning-rate: expected one argument"),
        (["--eval_strategy", "daily"], "argument --eval_strategy/--eval-strategy: invalid choice: 'daily'"),
        (["--dataset_name", "/no/such.jsonl"], "/no/such.jsonl"),
        (["--dataset_train_split", "dev"], "split"),
        (["--model_name_or_path", "/no/such"], "/no/such is no such folder; name a model's folder or a hub id"),
        (["--truncation_mode", "cut"], "truncation_mode='cut' is not known; use one of 'drop', 'keep_end', 'error'"),
        (["--config", "/no/such.yaml"], "/no/such.yaml: No such file or directory"),
    ],
)
def test_bad_field_of_train_is_one_line(command, recipe, words, line):
    code, out, error = command("train", "--config", recipe, *words)
    assert code == 2 and line in error


@pytest.mark.parametrize(
    "text, line",
    [
        ("learning_rat: 1", ": unknown field 'learning_rat' (did you mean learning_rate?); fields have the names of"),
        ("- a\n- b", ": it holds a list; a recipe is a mapping, `field: value` lines"),
        ("", ": it holds a NoneType; a recipe is a mapping, `field: value` lines"),
        ("a: [", ": it is not YAML ("),
        ("env: 3", ": env is of type int; it is a mapping, `NAME: value` lines"),
        ("learning_rate: fast", ": argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
        ("max_steps: [1, 2]", ": max_steps is a list; it takes one int"),
    ],
)
def test_bad_recipe_is_one_line(command, tmp_path, text, line):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    code, out, error = command("train", "--config", path)
    assert code == 2 and out == "" and error.startswith(f"{path}{line}")


def test_bad_rows_are_named(command, recipe, tmp_path):
    data = write_lines(tmp_path / "bad.jsonl", [*rows(3), {**PAIR, "chosen": ""}])
    words = ["--config", recipe, "--dataset_name", data, "--dataset_train_split", "train", "--eval_strategy", "no"]
    words += ["--output_dir", tmp_path / "out"]
    code, _, error = command("train", *words)
    assert code == 2 and error.startswith("row 3: `chosen` is empty")
    code, out, _ = command("train", *words, "--on_bad_row", "skip", "--save_strategy", "no", "--max_steps", 1)
    assert code == 0 and "saved to" in out


def test_train_help_shows_our_fields_without_loading_trl_and_all_on_demand(capsys):
    probe = (
        "import sys; from rm_plugin.commands.cli import main; code = main(['train', '--help'])\n"
        "print(code, {'torch', 'transformers', 'trl', 'datasets', 'numpy'} & set(sys.modules) or 'light')"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout
    assert out.endswith("\n0 light\n") and "--help-all" in out
    for field in dataclasses.fields(PairwiseRewardFields):
        assert f"--{field.name} " in out
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help-all"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "rm-plugin train" in out
    for name in ("--model_name_or_path", "--learning-rate", "--max_tokens_per_microbatch", "--lora_r", "--reasoning"):
        assert name in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["best-of-n", "--candidates", "a", "--output", "o", "--to-sft", "./a"], "--candidates and --to-sft"),
        (["best-of-n", "--candidates", "a", "--output", "a"], "--candidates and --output"),
        (["best-of-n", "p", "--prompts", "sub/../a", "--output", "o", "--summary", "a"], "--prompts and --summary"),
        (["best-of-n", "p", "--prompts", "a", "--output", "o", "--to-sft", "t", "--to-preferences", "t"], "--to-sft"),
        (
            ["leaderboard", ".", "--csv", "t", "--markdown", "link"],
            "--csv and --markdown are the same file, link; name",
        ),
        (["leaderboard", ".", "--published", "a", "--csv", "a"], "--csv and --published"),
    ],
)
def test_an_output_is_never_an_input_or_another_output(command, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("precious")
    (tmp_path / "t").write_text("precious")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("t")
    if words[0] == "best-of-n":
        words = [*words, "--reward-model", "none"]
    code, _, error = command(*words)
    assert code == 2 and "are the same file" in error and set(said.split()) & set(error.split())
    assert (tmp_path / "a").read_text() == (tmp_path / "t").read_text() == "precious"


@pytest.mark.parametrize(("name", "said"), [("compare", "nothing was kept"), ("score", "the same command resumes")])
def test_ctrl_c_says_what_is_true_of_the_command(name, said, monkeypatch, capsys):
    from rm_plugin.commands import cli

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, name, (interrupted, cli.COMMANDS[name][1]))
    words = {"score": ["m", "--data", "a", "--output", "b"], "compare": ["m", "a"]}[name]
    assert main([name, *words]) == 130
    assert said in capsys.readouterr().err


def test_every_command_has_help(command, capsys):
    from rm_plugin.commands.cli import COMMANDS

    for name in COMMANDS:
        if name != "train":  # above
            with pytest.raises(SystemExit) as stop:
                main([name, "--help"])
            assert stop.value.code == 0 and f"rm-plugin {name}" in capsys.readouterr().out


# --- columns of other names


def test_columns_of_other_names_are_read_by_every_command(command, model, tmp_path):
    pairs = [{"good": f"{i}", "bad": f"{i + 1}", "instruction": "Count.", "input": f"0 to {i}"} for i in range(6)]
    columns = ["chosen=good", "rejected=bad", "prompt=instruction+input"]
    usual = [{"chosen": row["good"], "rejected": row["bad"], "prompt": f"Count.\n{row['input']}"} for row in pairs]
    scores = []
    for name, rows, words in (("other", pairs, ["--columns", *columns]), ("usual", usual, [])):
        write_lines(tmp_path / f"{name}.jsonl", rows)
        data, output = tmp_path / f"{name}.jsonl", tmp_path / f"evaluated-{name}"
        assert command("evaluate", model, "--data", data, *words, "--output", output)[0] == 0
        best = tmp_path / f"{name}.best.jsonl"
        code, _, _ = command("best-of-n", "--candidates", data, *words, "--reward-model", model, "--output", best)
        assert code == 0
        scores.append([read_lines(output / "scores.jsonl"), read_lines(best)])
    assert scores[0] == scores[1]
    lines = write_lines(tmp_path / "in.jsonl", [{"q": "1 + 1 =", "a": " 2"}])
    words = ["score", model, "--data", lines, "--columns", "prompt=q"]
    assert command(*words, "completion=a", "--output", tmp_path / "out.jsonl")[0] == 0
    (scored,) = read_lines(tmp_path / "out.jsonl")
    assert (scored["q"], scored["a"]) == ("1 + 1 =", " 2") and isinstance(scored["score"], float)
    code, _, error = command(*words, "completion=b", "--output", tmp_path / "third.jsonl")
    assert code == 2 and error == f"{lines} row 0: columns completion=b: 'b' is not in q, a; correct it"
    code, _, error = command("evaluate", model, "--data", data, "--columns", "chosn=x", "--output", tmp_path / "x")
    assert code == 2 and "columns='chosn' is not known (did you mean chosen?)" in error
    code, _, error = command("evaluate", model, "--benchmark", "llmbar", "--columns", "chosen=x", "--output", "x")
    assert code == 2 and error.startswith("columns cannot be applied to llmbar, which has its own; leave it out")
