"""How the batch of all processes is cut into micro-batches."""

import numpy as np
import pytest
from datasets import Dataset
from models import tiny_tokenizer

from rm_plugin.data.encoding import EncodedGroup
from rm_plugin.training import batches
from rm_plugin.training.batches import PackingCollator, RowEncoder, code_version, cut_batch, encode_dataset


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


def test_a_group_over_the_token_budget_stands_alone():
    rows = [
        {"input_ids": [[1] * n, [2] * n], "prefix_length": 0, "ranks": [0, 1], "margin": None, "row": n}
        for n in (9, 2, 3)
    ]
    batch = PackingCollator(max_tokens=12)(rows)["microbatches"]
    assert [microbatch["rows"] for microbatch in batch] == [[9], [2, 3]]
    assert [microbatch["batch_size"] for microbatch in batch] == [3, 3]
    assert [m["model"]["input_ids"].numel() for m in batch] == [18, 12], "rows of 2 are padded to 3"
    shared = {
        "input_ids": [[1] * 9 + [n] for n in (2, 3)],
        "prefix_length": 9,
        "ranks": [0, 1],
        "margin": None,
        "row": 0,
    }
    [microbatch] = PackingCollator(form="packed")([shared])["microbatches"]
    assert (microbatch["model"]["input_ids"].numel(), microbatch["num_tokens"]) == (11, 20)


GOOD = {"prompt": "hello", "chosen": " world", "rejected": " four"}


def test_rows_encoded_by_older_code_are_not_served_from_the_cache(tmp_path, monkeypatch):
    Dataset.from_list([GOOD] * 3).save_to_disk(tmp_path / "rows")
    rows = Dataset.load_from_disk(tmp_path / "rows")

    def encoded():
        encoder = RowEncoder(tiny_tokenizer("plain"), code=code_version())
        return encode_dataset(rows, encoder, "train")[0]

    first = encoded()
    assert encoded().cache_files == first.cache_files  # as long as nothing changes
    monkeypatch.setattr(batches, "__file__", __file__)  # other source
    code_version.cache_clear()
    assert encoded().cache_files != first.cache_files
    code_version.cache_clear()


@pytest.mark.parametrize("mode", ["drop", "keep_end", "error"])
def test_a_text_of_just_max_length_tokens_is_whole(mode):
    row = {"chosen_ids": [5, 6, 7, 8], "rejected_ids": [5, 6, 9]}
    encoder = batches.RowEncoder(tiny_tokenizer("plain"), max_length=4, truncation_mode=mode)
    encoded = encoder(row, 0)
    assert encoded["input_ids"] == [[5, 6, 7, 8], [5, 6, 9]]
    assert (encoded["cause"], encoded["num_dropped"], encoded["num_truncated"]) == ("", 0, 0)
    one_more = {**row, "chosen_ids": [4, 5, 6, 7, 8]}
    if mode == "error":
        with pytest.raises(ValueError, match="row 3: `chosen_ids` has 5 tokens, max_length is 4"):
            encoder(one_more, 3)
    elif mode == "drop":
        assert encoder(one_more, 3)["cause"] == batches.OVER_LENGTH
    else:
        assert encoder(one_more, 3)["input_ids"][0] == [5, 6, 7, 8]
        assert encoder(one_more, 3)["num_truncated"] == 1


def test_text_of_just_max_length_tokens_is_whole_too():
    tokenizer, row = tiny_tokenizer("plain"), {"prompt": "hello", "chosen": " world", "rejected": " four"}
    longest = max(map(len, batches.RowEncoder(tokenizer)(row, 0)["input_ids"]))
    assert batches.RowEncoder(tokenizer, max_length=longest)(row, 0)["num_dropped"] == 0
    assert batches.RowEncoder(tokenizer, max_length=longest - 1)(row, 0)["num_dropped"] == 1


@pytest.mark.parametrize(
    ("chosen", "rejected", "prefix"),
    [([5, 6, 7], [5, 6, 8], 2), ([5, 6], [5, 6, 8], 1), ([5, 6, 8], [5, 6], 1), ([5], [5, 6], 0), ([5, 6], [5, 6], 1)],
)
def test_a_shared_prefix_leaves_every_completion_a_token_of_its_own(chosen, rejected, prefix):
    row = batches.RowEncoder(tiny_tokenizer("plain"))({"chosen_ids": chosen, "rejected_ids": rejected}, 0)
    assert row["prefix_length"] == prefix
    assert row["length"] == len(chosen) + len(rejected) - prefix


def test_trls_older_names_of_token_ids_are_read_where_its_own_are_not_there():
    encode, older = (
        batches.RowEncoder(tiny_tokenizer("plain")),
        {"chosen_input_ids": [5, 6], "rejected_input_ids": [7]},
    )
    named = {"chosen_ids": [8, 9], "rejected_ids": [5]}
    assert encode(older, 0)["input_ids"] == [[5, 6], [7]]
    assert encode({**named, **older}, 0)["input_ids"] == encode({**older, **named}, 0)["input_ids"] == [[8, 9], [5]]


def test_a_token_budget_that_is_met_exactly_is_used():
    encoder = batches.RowEncoder(tiny_tokenizer("plain"))
    rows = [encoder({"chosen_ids": [5, 6, 7], "rejected_ids": [5, 6, 8]}, i) for i in range(4)]  # 4 packed tokens each
    sizes = [
        [len(m["rows"]) for m in batches.PackingCollator(form="packed", max_tokens=budget)(rows)["microbatches"]]
        for budget in (16, 15, 8, 7, 4)
    ]
    assert sizes == [[4], [2, 2], [2, 2], [1, 1, 1, 1], [1, 1, 1, 1]]
