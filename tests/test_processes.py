"""Shares of the work: whole, disjoint, balanced, in order. The tests of harness and best-of-n start real processes."""

import random
from datetime import timedelta
from types import SimpleNamespace

import accelerate
import pytest

from rm_plugin.files import Journal
from rm_plugin.processes import Processes, open_journal, shares


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_shares_are_whole_disjoint_in_order_and_balanced(size, seed):
    rng = random.Random(seed)
    costs = [int(rng.paretovariate(1.2) * 50) for _ in range(rng.choice([0, 1, 7, 500]))]
    parts = shares(costs, size)
    assert sorted(index for part in parts for index in part) == list(range(len(costs)))
    assert len(parts) == size and all(part == sorted(part) for part in parts)
    loads = [sum(costs[index] for index in part) for part in parts]
    assert max(loads) - min(loads) <= max(costs, default=0)  # no item could be moved to make it fairer by more


def test_shares_of_skewed_lengths_are_within_five_percent():
    rng = random.Random(0)
    costs = [min(4000, int(rng.lognormvariate(5, 1))) for _ in range(2000)]
    loads = [sum(costs[index] for index in part) for part in shares(costs, 4)]
    assert max(loads) <= 1.05 * sum(costs) / 4


def test_equal_costs_go_round_and_are_equal_in_every_process():
    assert shares([1] * 5, 2) == [[0, 2, 4], [1, 3]] == shares([1] * 5, 2)
    assert shares([0] * 4, 2) == [[0, 2], [1, 3]]


def test_one_process_works_alone():
    world = Processes.current()
    assert (world.rank, world.size) == (0, 1)
    assert world.share("x") == "x" and world.gather("x") == ["x"] and world.on_first(lambda: 3) == 3
    world.wait()
    with pytest.raises(KeyError):
        world.on_first(lambda: {}["x"])


def test_processes_wait_for_the_first_one_as_long_as_it_reads(monkeypatch):
    made = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        accelerate, "PartialState", lambda **how: made.append(how) or SimpleNamespace(process_index=1, num_processes=2)
    )
    assert Processes.current() == Processes(1, 2)
    assert made[0]["timeout"] >= timedelta(hours=12)


def test_a_journal_is_opened_with_what_was_done(tmp_path):
    with Journal(tmp_path / "out") as journal:
        journal.begin({"n": 1})
        journal.append("a", 1)

    def begin(journal):
        journal.begin({"n": 1})
        return "begun"

    journal, done, begun = open_journal(Processes(), tmp_path / "out", begin)
    assert (dict(journal), done, begun) == ({"a": 1}, {"a": 1}, "begun")
    journal.close()


def test_a_refusal_releases_the_lock(tmp_path):
    def refuse(journal):
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="^no$"):
            open_journal(Processes(), tmp_path / "out", refuse)
    assert list(tmp_path.iterdir()) == []
