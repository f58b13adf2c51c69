"""FSDP2, ZeRO-2 and ZeRO-3 with TRL's own configs on two gloo processes: float32 equals DDP, bf16 is as near as DDP's.

`make test-scale` installs DeepSpeed beside Ray in a side folder. What accelerate has for accelerators only is let onto
a CPU in sharded_runs.py; nothing else of TRL, accelerate or DeepSpeed is replaced.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parents[1] / "sharded_runs.py"
SHARDED = ("fsdp2", "zero2", "zero3")
FP32 = ("full in memory", "full by name", "LoRA in memory", "LoRA by name")
BF16 = ("full in memory", "LoRA by name")
IN_PARTS = ("fsdp2 fp32 full in memory, parts", "zero3 fp32 full in memory, parts")

pytestmark = pytest.mark.scale


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sharded")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    paths = [str(PROGRAM.parent), str(PROGRAM.parents[1]), environment.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, PROGRAM, folder],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((folder / "results.json").read_text())


def found(runs: dict, case: str) -> dict:
    assert "error" not in runs[case], runs[case]["error"]
    return runs[case]


def distance(run: dict, exact: dict, names: tuple[str, ...]) -> float:
    """Root mean square of differences."""
    ours, theirs = (np.concatenate([one[name] for name in names]) for one in (run, exact))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)))


@pytest.mark.parametrize("case", FP32)
@pytest.mark.parametrize("strategy", SHARDED)
def test_in_float32_it_equals_ddp(strategy, case, runs):
    ours, ddp = found(runs, f"{strategy} fp32 {case}"), found(runs, f"ddp fp32 {case}")
    assert ours["distributed_type"] == {"fsdp2": "FSDP"}.get(strategy, "DEEPSPEED")
    assert ours["form"] == ddp["form"] == "packed"
    spread = max(1, np.std(ddp["scores"]))
    np.testing.assert_allclose(ours["loss"], ddp["loss"], atol=1e-5)
    np.testing.assert_allclose(ours["grad_norm"], ddp["grad_norm"], rtol=1e-5)
    np.testing.assert_allclose(ours["scores"], ddp["scores"], atol=1e-5 * spread)
    assert ours["metrics"] == pytest.approx(ddp["metrics"], abs=1e-5 * spread)
    assert ours["callback"] == pytest.approx(ddp["callback"], abs=1e-5 * spread)
    assert ours["reference"] == pytest.approx(ddp["reference"], abs=1e-5 * spread)


@pytest.mark.parametrize("case", BF16)
@pytest.mark.parametrize("strategy", SHARDED)
def test_in_bf16_it_is_about_as_near_to_float32_as_ddp_is_and_the_head_is_float32(strategy, case, runs):
    ours, ddp = found(runs, f"{strategy} bf16 {case}"), found(runs, f"ddp bf16 {case}")
    exact = found(runs, f"ddp fp32 {case}")
    names = ("loss", "scores")
    assert 0 < distance(ours, exact, names) <= 2 * distance(ddp, exact, names)
    assert ours["dtype of scores"] == "torch.float32"
    head = np.float32(ours["saved head"]).view(np.uint32)
    assert (head & 0xFFFF).any()  # bits that bf16 does not have


@pytest.mark.parametrize("case", FP32)
@pytest.mark.parametrize("strategy", ("ddp", *SHARDED))
def test_a_resumed_run_is_the_unbroken_one(strategy, case, runs):
    run = found(runs, f"{strategy} fp32 {case}")
    assert run["resumed"] == pytest.approx(run["loss"], abs=1e-6)
    assert run["resumed_metrics"] == pytest.approx(run["metrics"], abs=1e-5)


@pytest.mark.parametrize("case", IN_PARTS)
def test_one_whole_model_is_saved_where_checkpoints_hold_parts(case, runs):
    run, ddp = found(runs, case), found(runs, "ddp fp32 full in memory")
    assert run["whole checkpoint"] is False
    np.testing.assert_allclose(run["scores"], ddp["scores"], atol=1e-5)
    assert run["resumed"] == pytest.approx(ddp["loss"], abs=1e-5)


@pytest.mark.parametrize("strategy", ("ddp", *SHARDED))
def test_all_processes_make_as_many_micro_batches(strategy, runs):
    first, second = found(runs, f"{strategy} fp32 full by name")["num_microbatches"]
    assert first == second and min(first) > 1
