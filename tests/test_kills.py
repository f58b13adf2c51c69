"""Work is never lost and never done twice: SIGKILLs at random over the commands that resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_what_is_killed_anywhere_resumes_and_ends_equal_with_at_most_one_chunk_lost_per_process(tmp_path):
    script = Path(__file__).with_name("kills.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "8"], capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(kill["command"], kill["processes"]) for kill in kills} == {
        (command, size) for command in ("score", "best-of-n", "evaluate") for size in (1, 2)
    }
    for kill in kills:
        assert kill["resumed"] and kill["same texts"] and kill["same scores"] and kill["left over"] == [], kill
        assert 0 <= kill["chunks lost"] <= kill["processes"], kill
