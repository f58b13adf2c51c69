"""How the batch of all processes is cut into micro-batches."""

import numpy as np
import pytest

from rm_plugin.data.encoding import EncodedGroup
from rm_plugin.training.batches import PackingCollator, cut_batch


def skewed_groups(n: int, seed: int = 0) -> list[EncodedGroup]:
    """Pairs of texts whose lengths are log-normal, from 16 to 1,500 tokens."""
    lengths = np.random.default_rng(seed).lognormal(5.5, 1.0, n).clip(16, 1500).astype(int).tolist()
    return [EncodedGroup([[1] * length, [2] * (length // 2)]) for length in lengths]


def tokens(groups: list[EncodedGroup], indices: list[int]) -> int:
    return sum(groups[i].num_tokens for i in indices)


@pytest.mark.parametrize("form", ["packed", "padded"])
@pytest.mark.parametrize("max_tokens", [None, 6000, 800])
@pytest.mark.parametrize("num_processes", [1, 2, 4, 8])
def test_every_group_is_computed_once_within_the_budget_and_by_as_many_calls_everywhere(
    num_processes, max_tokens, form
):
    groups = skewed_groups(48)
    cut = cut_batch(groups, num_processes, max_tokens, form)
    assert {len(of_processes) for of_processes in cut} == {num_processes}
    assert sorted(i for of_processes in cut for run in of_processes for i in run) == list(range(48))
    for run in (run for of_processes in cut for run in of_processes if len(run) > 1 and max_tokens):
        longest = max(len(ids) for i in run for ids in groups[i].input_ids)
        assert (tokens(groups, run) if form == "packed" else 2 * len(run) * longest) <= max_tokens


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_tokens", [None, 4000])
@pytest.mark.parametrize("num_processes", [2, 4, 8])
def test_processes_compute_equal_numbers_of_tokens_within_5_percent(num_processes, max_tokens, seed):
    groups = skewed_groups(64 * num_processes, seed)
    cut = cut_batch(groups, num_processes, max_tokens)
    totals = [sum(tokens(groups, of_processes[rank]) for of_processes in cut) for rank in range(num_processes)]
    assert max(totals) <= 1.05 * np.mean(totals)


def test_texts_on_both_sides_of_a_rope_switch_share_no_call():
    groups = [EncodedGroup([[1] * n, [2] * n]) for n in (10, 30, 12, 40, 8)]
    cut = cut_batch(groups, num_processes=2, rope_switch=20)
    assert len(cut) == 2
    assert all(len({len(groups[i].input_ids[0]) > 20 for i in run}) == 1 for step in cut for run in step)


@pytest.mark.parametrize("max_tokens", [None, 12])
def test_a_process_without_rows_computes_one_that_counts_nowhere(max_tokens):
    rows = [{"input_ids": [[1] * 4, [2] * 5], "prefix_length": 0, "ranks": [0, 1], "margin": None, "row": 7}]
    first, second = (
        PackingCollator(form="packed", max_tokens=max_tokens, rank=rank, num_processes=2)(rows)["microbatches"]
        for rank in (0, 1)
    )
    assert [m["is_filling"] for m in first] == [False]
    assert [m["is_filling"] for m in second] == [True]
    assert first[0]["batch_size"] == second[0]["batch_size"] == 0.5  # of the mean over two processes comes the loss
