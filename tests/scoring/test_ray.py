"""Ray Data on two CPUs: the rows, nulls and scores of one process, also where an actor dies."""

import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from models import tiny_reward_model, tiny_tokenizer

from rm_plugin.scoring.corpus import score_dataset

pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("ignore")]

KILLER = """
import os, signal
from pathlib import Path
def score(prompts, completions):
    marker = Path(os.environ["RM_PLUGIN_TEST_MARKER"])
    if any("seven" in text for text in completions) and not marker.exists():
        marker.write_text("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(len(text)) for text in completions]
"""
ROWS = [
    {"id": n, "prompt": f"{n // 4} + 1 =", "completion": " seven" * (1 + n % 5) if n % 17 else "", "turns": [{"a": n}]}
    for n in range(400)
]


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    (folder / "killer.py").write_text(KILLER)
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "RM_PLUGIN_TEST_MARKER": str(folder / "marker")}
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ray = pytest.importorskip("ray", reason="make test-scale installs Ray")
    sys.path.insert(0, str(folder))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def by_id(rows):
    return sorted(rows, key=lambda row: row["id"])


def test_scores_of_actors_equal_those_of_one_process(ray, tmp_path):
    tiny_reward_model().save_pretrained(tmp_path / "rm")
    tiny_tokenizer("plain").save_pretrained(tmp_path / "rm")
    rows = ray.data.from_items(ROWS).repartition(8)
    scored = score_dataset(rows, str(tmp_path / "rm"), num_actors=2, rows_per_chunk=32)
    scored.write_parquet(str(tmp_path / "scored"))
    found = by_id(datasets.load_dataset("parquet", data_dir=str(tmp_path / "scored"), split="train").to_list())
    expected = score_dataset(ROWS, str(tmp_path / "rm")).to_list()
    assert [{**row, "score": None} for row in found] == [{**row, "score": None} for row in expected]
    numbers = [[np.nan if row["score"] is None else row["score"] for row in some] for some in (found, expected)]
    np.testing.assert_allclose(*numbers, atol=1e-5)
    assert sum(row["score"] is None for row in found) == 24


def test_a_killed_actor_loses_nothing(ray):
    scored = score_dataset(ray.data.from_items(ROWS).repartition(8), "killer:score", num_actors=2, rows_per_chunk=32)
    found = by_id(scored.take_all())
    assert Path(os.environ["RM_PLUGIN_TEST_MARKER"]).exists()
    assert [row["id"] for row in found] == list(range(400))
    assert [row["score"] for row in found] == [float(len(row["completion"])) or None for row in ROWS]


def test_rows_of_no_texts_and_taken_columns_are_refused(ray):
    with pytest.raises(ValueError, match="none of the first rows is one of texts"):
        score_dataset(ray.data.from_items([{"text": "a"}]), "killer:score")
    with pytest.raises(ValueError, match="the data set has a column 'score', which would be overwritten; rename it"):
        score_dataset(ray.data.from_items([{**ROWS[1], "score": 1.0}]), "killer:score")
