"""The main job on real weights and preferences, as a user does it: train, evaluate, score, export, transformers."""

import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rm_plugin import RewardScorer

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "smollm2-135m-lora-cpu.yaml"

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

PLAIN = """
import sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("export")
model = AutoModelForSequenceClassification.from_pretrained("export", dtype=torch.float32).eval()
texts = [text + tokenizer.eos_token for text in ("2 + 2 = 4", "2 + 2 = a great many penguins")]
with torch.no_grad():
    print(*model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0].tolist())
assert "rm_plugin" not in sys.modules
"""


@pytest.fixture(scope="module")
def folder(smollm2, shared_data, tmp_path_factory):
    """A user's folder after all commands, each of which has to succeed."""
    data = shared_data / "hh_rlhf_harmless" / "test.jsonl.gz"
    if not data.is_file():
        pytest.skip(f"no HH-RLHF rows at {data}; set RM_PLUGIN_SHARED to the folder that holds data/")
    folder = tmp_path_factory.mktemp("user")
    (folder / "hh").mkdir()
    with gzip.open(data, "rt", encoding="utf-8") as file:
        rows = sorted(itertools.islice(file, 60), key=len)[4:24]  # short ones
    (folder / "hh" / "train.jsonl").write_text("".join(rows[:16]), encoding="utf-8")
    (folder / "hh" / "test.jsonl").write_text("".join(rows[16:]), encoding="utf-8")
    lines = [
        {"id": "a", "prompt": "2 + 2 =", "completions": [" 4", " a great many penguins"]},
        {"id": "b", "prompt": [{"role": "user", "content": "2 + 2?"}], "completion": "4"},
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = ["--model_name_or_path", str(smollm2), "--dataset_name", "hh", "--output_dir", "model"]
    overrides += ["--max-steps", "2", "--per-device-train-batch-size", "2", "--logging_steps", "1"]
    commands = [
        ["train", "--config", str(RECIPE), *overrides],
        ["evaluate", "model", "--data", "hh", "--split", "test", "--output", "evaluation"],
        ["score", "model", "--data", "in.jsonl", "--output", "scores.jsonl"],
        ["export", "model", "export", "--dtype", "float32"],
    ]
    script = (
        f"import sys; from rm_plugin.commands.cli import main; sys.exit(max(main(words) for words in {commands!r}))"
    )
    for one in (script, PLAIN):
        done = subprocess.run(
            [sys.executable, "-c", one],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        (folder / ("plain.txt" if one == PLAIN else "screen.txt")).write_text(done.stdout)
    return folder


def test_training_saves_adapter_and_head_and_logs_what_it_did(folder):
    state = json.loads((folder / "model" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    losses = [line["loss"] for line in state["log_history"] if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 5 for loss in losses)
    for name in ("adapter_model.safetensors", "reward_model.json", "README.md"):
        assert (folder / "model" / name).is_file()
    assert " of 4 pairs" in (folder / "screen.txt").read_text()


def test_evaluation_reports_every_pair(folder):
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    scores = [json.loads(line) for line in (folder / "evaluation" / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 8 and report["model"]["name"]


def test_scores_of_file_adapter_and_export_agree(folder):
    first, second = (json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines())
    assert (first["id"], second["id"]) == ("a", "b") and np.isfinite(second["score"])
    adapter, export = (RewardScorer(folder / name, dtype="float32") for name in ("model", "export"))
    prompts, completions = ["2 + 2 ="] * 2, [" 4", " a great many penguins"]
    scores = adapter.score(prompts, completions)
    assert first["scores"] == pytest.approx(scores, abs=0.05 * max(1, scores.std())), "bfloat16, as the recipe trains"
    assert export.score(prompts, completions) == pytest.approx(scores, abs=1e-4)


def test_plain_transformers_gives_the_same_scores_on_a_padded_batch(folder):
    plain = [float(word) for word in (folder / "plain.txt").read_text().split()]
    ours = RewardScorer(folder / "export").score(["2 + 2 ="] * 2, [" 4", " a great many penguins"])
    assert plain == pytest.approx(ours, abs=1e-4)
    assert abs(plain[0] - plain[1]) > 1e-3
