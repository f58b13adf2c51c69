"""Two processes compute what one does at the same global batch, and evaluate every row once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import training_runs
from training_runs import DISTRIBUTED, run_distributed

from rm_plugin import RewardModel
from rm_plugin.training.checkpoints import newest_complete_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """All runs by one torchrun, because its imports take longest."""
    folder = tmp_path_factory.mktemp("two")
    program = Path(training_runs.__file__)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*torchrun, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", program, "distributed", folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> dict:
    return run_distributed(tmp_path_factory.mktemp("one"), batch=4)


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_two_processes_follow_one_at_the_same_global_batch(name, two_processes, one_process):
    two, one = json.loads((two_processes / "results.json").read_text())[name], one_process[name]
    assert (two["num_processes"], one["num_processes"]) == (2, 1)
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    for metric in ("accuracy", "margin", "mean_reward", "num_tokens"):
        assert two[metric] == pytest.approx(one[metric], abs=1e-5), metric
    np.testing.assert_allclose(two["predictions"], one["predictions"], atol=1e-4)
    assert len(two["predictions"]) == 7  # 4 rows and 3, in batches of 8
    assert two["metrics"]["eval_num_pairs"] == 7
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-4)
    if name == "micro-batches":
        assert min(two["num_microbatches"], one["num_microbatches"]) > 1


def test_two_processes_write_whole_checkpoints(two_processes):
    checkpoint = newest_complete_checkpoint(two_processes / "full")
    assert Path(checkpoint).name == "checkpoint-6"
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in Path(checkpoint).iterdir()}
    RewardModel.from_pretrained(checkpoint)
