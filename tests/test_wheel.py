"""The wheel, alone: built, installed into a clean environment, and used there (`make wheel`)."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.wheel
def test_the_wheel_in_a_clean_environment_runs_quickstart_and_measures_scores(tmp_path):
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    run(sys.executable, "-m", "venv", "clean", cwd=tmp_path)
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    # Its dependencies are those of this environment, without what is installed in it as editable (.pth files).
    (site,) = (tmp_path / "clean" / "lib").glob("*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    where = run(python, "-c", "import rm_plugin; print(rm_plugin.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)

    command = tmp_path / "clean" / "bin" / "rm-plugin"
    run(command, "quickstart", cwd=tmp_path)
    runs = sorted(tmp_path.glob("quickstart-reward-model/**/scores.jsonl"))
    assert runs
    about = json.loads(runs[0].with_name("report.json").read_text(encoding="utf-8"))
    data = tmp_path / "quickstart-reward-model" / "data" / "test.jsonl"
    run(command, "evaluate", "--scores", runs[0], "--data", data, "--output", "again", cwd=tmp_path)
    again = json.loads((tmp_path / "again" / "report.json").read_text(encoding="utf-8"))
    assert again["metrics"] == about["metrics"]
