"""`rm-plugin plan`: what a card holds, in words and exit codes; and what training does with it."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from models import tiny_config

from rm_plugin.commands import recipe
from rm_plugin.commands.cli import main
from rm_plugin.commands.plan import describe, parse_gpu, plan_recipe, verdict
from rm_plugin.commands.recipe import check_memory
from rm_plugin.training.memory import GB, MemoryPlan

FOLDER = Path(__file__).resolve().parents[2]
PLAN = MemoryPlan(3 * GB, GB, 2 * GB, GB, 4 * GB, activations_per_token=GB / 1024, tokens=4096, tokens_of_a_pair=2048)


@pytest.mark.filterwarnings("ignore:.*_checkpointing.* is deprecated:FutureWarning")
def test_the_command_reads_a_config_alone_and_says_what_fits(tmp_path, capsys):
    tiny_config("qwen3").save_pretrained(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]
    path = tmp_path / "r.yaml"
    path.write_text(f"model_name_or_path: {tmp_path / 'model'}\nuse_peft: true\nlora_target_modules: [all-linear]\n")
    words = ["plan", "--config", str(path), "--max_length", "64", "--per_device_train_batch_size", "2"]
    assert main([*words, "--gpu", "8GB"]) == 0
    out = capsys.readouterr().out
    assert "activations, 256 tokens" in out and "0.6 ± 0.2 GB, which fits in 8 GB" in out
    assert main([*words, "--gpu", "300MB"]) == 1
    assert "does not fit in 0.293 GB; no max_tokens_per_microbatch would" in capsys.readouterr().out
    for size in ("big", "0", "24564"):  # the last as nvidia-smi prints MiB
        assert main([*words, "--gpu", size]) == 2
        said = f"rm-plugin: --gpu {size} is not the memory of a card; give it as 12GB or 12288MiB\n"
        assert capsys.readouterr().err == said


def test_the_size_of_a_card_is_read_as_people_write_it():
    assert [parse_gpu(text) for text in ("12GB", "12", "12 GiB", "24564MiB")] == [12 * GB] * 3 + [24564 * 2**20]


def test_terms_add_up_to_the_verdict():
    *terms, last = describe(PLAN, 16 * GB).splitlines()
    assert sum(float(line.split()[-2]) for line in terms) == pytest.approx(PLAN.total / GB, abs=0.03)
    assert (
        last
        == verdict(PLAN, 16 * GB)
        == ("planned: 11.1 ± 0.7 GB, which fits in 16 GB; max_tokens_per_microbatch up to 7,314 leaves 10%")
    )
    assert "max_tokens_per_microbatch up to 2,048 leaves" in verdict(PLAN, 10 * GB)
    assert "max_length up to 585, with max_tokens_per_microbatch up to 1,170, leaves" in verdict(PLAN, 9 * GB)
    assert "may fit in 11 GB" in verdict(PLAN, 11 * GB) and "does not fit in 10 GB" in verdict(PLAN, 10 * GB)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_training_prints_the_plan_of_its_gpu_and_refuses_what_cannot_fit(code, monkeypatch, capsys):
    ran = []
    said = {0: "weights\nplanned: fits", 1: "weights\nplanned: does not fit", 2: ""}[code]

    def run(command, **options):
        ran.append(command)
        return subprocess.CompletedProcess(command, code, said, "rm-plugin: no such model\n" if code == 2 else "")

    monkeypatch.setattr("rm_plugin.commands.recipe.subprocess.run", run)
    if code == 1:
        with pytest.raises(ValueError, match="planned: does not fit; --force trains anyway"):
            check_memory("r.yaml", ["--seed", "1"], 12 * GB)
    check_memory("r.yaml", ["--seed", "1"], 12 * GB, force=True)
    assert capsys.readouterr().out == f"{(said or 'rm-plugin: no such model').splitlines()[-1]}\n"
    assert ran[-1][3:] == ["plan", "--config", "r.yaml", "--seed", "1", "--gpu", "12288MB"]


def test_a_recipe_that_cannot_fit_the_gpu_here_is_refused_before_anything_is_loaded(monkeypatch, tmp_path, capsys):
    parse_fields = recipe.parse_fields

    def parse_and_see_a_gpu(*args, **options):
        parsed = parse_fields(*args, **options)
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=2 * GB))
        return parsed

    def run(command, **options):
        gpu = parse_gpu(command[command.index("--gpu") + 1])
        return subprocess.CompletedProcess(command, int(not PLAN.may_fit(gpu)), describe(PLAN, gpu), "")

    monkeypatch.setattr(recipe, "parse_fields", parse_and_see_a_gpu)
    monkeypatch.setattr(recipe.subprocess, "run", run)
    monkeypatch.setattr(recipe, "train", lambda *sections: print("it trains"))
    words = ["train", "--model_name_or_path", "no/such-model", "--output_dir", str(tmp_path), "--bf16", "false"]
    assert main(words) == 2
    assert capsys.readouterr().err == f"rm-plugin: {verdict(PLAN, 2 * GB)}; --force trains anyway\n"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([*words, "--force"]) == 0
    assert capsys.readouterr().out == f"{verdict(PLAN, 2 * GB)}\nit trains\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("recipes/*gb.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_a_card_says_its_plan_and_leaves_a_tenth(path):
    header = path.read_text(encoding="utf-8")
    card = parse_gpu(path.stem.rsplit("-", 1)[1]) / GB
    line = next(line for line in header.splitlines() if " GB, which " in line)
    total = float(line.removeprefix("#").split()[0])
    assert f"which fits in {card:.0f} GB" in line and total <= 0.9 * card
    page = (FOLDER / "docs" / "which-card.md").read_text(encoding="utf-8").splitlines()
    [row] = [row for row in page if f"[{path.stem}]" in row]
    planned, _, most = line.removeprefix("#").partition(", which fits")
    assert f"| {planned.strip()} | {most.split()[-3]} |" in row


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*_checkpointing.* is deprecated:FutureWarning")
def test_a_recipes_header_is_what_the_plan_says_today():
    """Of the smallest; after a change of the plan `python benchmarks/plan_recipes.py` writes all of them."""
    path = FOLDER / "recipes" / "qwen3.5-0.8b-lora-8gb.yaml"
    config = FOLDER / "benchmarks" / "configs" / "Qwen" / "Qwen3.5-0.8B"
    said = verdict(plan_recipe(path, ["--model_name_or_path", str(config)]), 8 * GB)
    assert f"#   {said.removeprefix('planned: ')}\n" in path.read_text(encoding="utf-8")
