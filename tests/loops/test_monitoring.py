"""Metrics of a window of scores worked by hand, signs of reward hacking at their exact bounds, tables of samples."""

import json
import math
import sys

import pytest

from rm_plugin.loops.monitoring import (
    MAX_SAMPLE_CHARACTERS,
    HackingWatch,
    ScoreWindow,
    append_rows,
    log_table,
    merge,
    table_text,
    window_metrics,
)


def test_metrics_of_a_window_worked_by_hand():
    window = ScoreWindow()
    window.add(
        ["p", "p", "q", "q"], ["a", "bb", "ccc", "bb"], [1.0, 2.0, 3.0, 3.0], truncated=[True, False, False, False]
    )
    found = window_metrics(window.rows)
    assert found["mean"] == 2.25
    assert found["std"] == pytest.approx(0.957427)  # √(2.75 / 3)
    assert found["q50"] == 2.5
    assert found["zero_spread_rate"] == 0.5  # q's two scores are equal, p's are not
    assert found["duplicate_rate"] == 0.25  # "bb" came before
    assert found["truncated_rate"] == 0.25
    assert found["length_correlation"] == pytest.approx(0.833333)  # ranks 1 2.5 4 2.5 and 1 2 3.5 3.5
    assert found["num_scores"] == 4


def test_metrics_that_are_not_defined_are_left_out():
    window = ScoreWindow()
    window.add(None, ["a", "b"], [1.0, 2.0])
    assert set(window_metrics(window.rows)) == {
        "mean",
        "std",
        "q05",
        "q25",
        "q50",
        "q75",
        "q95",
        "duplicate_rate",
        "num_scores",
    }
    assert window_metrics(ScoreWindow().rows) == {}


def test_a_text_without_a_score_does_not_count():
    window = ScoreWindow()
    window.add(["p", "p"], ["a", "b"], [1.0, math.nan])
    assert window_metrics(window.rows)["num_scores"] == 1 and window_metrics(window.rows)["mean"] == 1.0


def test_a_prompt_that_comes_again_starts_a_new_group():
    window = ScoreWindow()
    window.add(["p", "p"], ["a", "b"], [1.0, 1.0])
    window.add(["p", "p"], ["c", "d"], [2.0, 3.0])
    assert window_metrics(window.rows)["zero_spread_rate"] == 0.5


def test_windows_of_several_processes_are_merged_exactly():
    whole, parts = ScoreWindow(), [ScoreWindow(seed=i) for i in range(2)]
    prompts, completions, scores = ["p", "q"] * 4, list("aabcdefg"), [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    whole.add(prompts, completions, scores)
    for i, part in enumerate(parts):  # half of each group on each process
        part.add(prompts[4 * i : 4 * i + 4], completions[4 * i : 4 * i + 4], scores[4 * i : 4 * i + 4])
    rows, kept = merge([(part.rows, part.samples) for part in parts], num_samples=1)
    assert window_metrics(rows) == window_metrics(whole.rows)
    (best, *_, best_prompt, best_text), (worst, *_, worst_prompt, worst_text) = kept["best"][0], kept["worst"][0]
    assert (best, best_prompt, best_text) == (9.0, "q", "e")
    assert (worst, worst_prompt, worst_text) == (1.0, "q", "a") and len(kept["random"]) == 1


def of_window(mean, **others):
    return {"mean": mean, "std": 1.0, "num_scores": 64, "length_correlation": 0.0, "duplicate_rate": 0.0, **others}


def test_the_warning_comes_once_and_only_where_the_reward_rises_with_a_sign():
    watch = HackingWatch(max_length_correlation=0.7, max_duplicate_rate=0.5)
    assert watch.see(of_window(0.0), None) is None  # the baseline
    assert watch.see(of_window(0.0, length_correlation=0.9), None) is None  # no rise
    assert watch.see(of_window(2.0), None) is None  # no sign
    warning = watch.see(of_window(2.0, length_correlation=0.9, duplicate_rate=0.6), kl=12.5)
    assert warning == (
        "the reward may be hacked: its mean rose from 0 to 2 with length correlation 0.90 (bound 0.7) and "
        "duplicate rate 0.60 (bound 0.5), KL to the reference policy 12.5; read the samples"
    )
    assert watch.see(of_window(3.0, length_correlation=0.9), None) is None


def test_one_score_has_no_spread_and_groups_of_one_have_no_rate():
    window = ScoreWindow()
    window.add(["p"], ["a"], [1.5])
    found = window_metrics(window.rows)
    assert found["std"] == 0.0 and "zero_spread_rate" not in found and found["num_scores"] == 1
    window.add(["q", "q"], ["b", "c"], [2.0, 2.0])  # the group of one does not count
    assert window_metrics(window.rows)["zero_spread_rate"] == 1.0


def test_lengths_that_are_given_replace_characters_and_what_is_not_known_does_not_count_as_cut():
    window = ScoreWindow()
    window.add(None, ["a", "bb", "ccc"], [1.0, 2.0, 3.0], lengths=[9, 5, 1], truncated=[True, False, False])
    window.add(None, ["d"], [4.0])
    assert window.rows[:, 1].tolist() == [9, 5, 1, 1]
    assert window_metrics(window.rows)["truncated_rate"] == pytest.approx(1 / 3)


def test_samples_are_the_best_the_worst_and_random_ones_of_those_with_a_score():
    window = ScoreWindow(num_samples=2)
    window.add(list("ppppp"), list("abcde"), [3.0, math.nan, 1.0, 4.0, 2.0])
    window.add(list("qq"), list("fg"), [5.0, 0.0])
    texts = {kind: [sample[3] for sample in kept] for kind, kept in window.samples.items()}
    assert texts["best"] == ["f", "d"] and texts["worst"] == ["g", "c"]
    assert len(texts["random"]) == 2 and "b" not in texts["random"]
    window.clear()
    assert not len(window.rows) and not any(window.samples.values())


@pytest.mark.parametrize(("num_scores", "warned"), [(32, True), (31, False)])
def test_the_warning_counts_from_64_scores_of_several_windows(num_scores, warned):
    watch = HackingWatch(max_length_correlation=0.7, max_duplicate_rate=0.5)
    for mean in (0.0, 0.0):  # the baseline, of two windows
        assert watch.see(of_window(mean, num_scores=32), None) is None
    high = {"length_correlation": 0.9, "num_scores": num_scores}
    assert watch.see(of_window(9.0, **high), None) is None  # not yet 64
    assert (watch.see(of_window(9.0, **high), None) is not None) == warned


@pytest.mark.parametrize(
    ("mean", "correlation", "duplicates", "warned"),
    [
        (0.36, 0.71, 0.0, True),  # two standard errors of the difference: 2 * sqrt(1/64 + 1/64) = 0.35355
        (0.35, 0.71, 0.0, False),
        (1.0, 0.7, 0.5, False),  # a bound is not crossed where it is met
        (1.0, -0.71, 0.0, True),
        (1.0, 0.0, 0.51, True),
        (-1.0, 0.9, 0.9, False),
        (1.0, None, 0.0, False),  # all scores or all lengths are equal: there is no correlation
        (1.0, None, 0.51, True),
    ],
)
def test_the_warning_needs_a_rise_of_two_standard_errors_and_a_bound_crossed(mean, correlation, duplicates, warned):
    watch = HackingWatch(max_length_correlation=0.7, max_duplicate_rate=0.5)
    assert watch.see(of_window(0.0), None) is None
    window = of_window(mean, length_correlation=correlation, duplicate_rate=duplicates)
    window = {name: value for name, value in window.items() if value is not None}
    assert (watch.see(window, None) is not None) == warned


def test_windows_leave_when_the_later_ones_hold_64_scores():
    watch = HackingWatch(max_length_correlation=0.7, max_duplicate_rate=0.5)
    assert watch.see(of_window(0.0), None) is None
    assert watch.see(of_window(9.0, num_scores=63), None) is None
    # 63 + 64: the first window goes, its rise with it
    assert watch.see(of_window(0.0, length_correlation=0.9), None) is None
    assert [window["mean"] for window in watch.windows] == [0.0]


# --- tables


def test_a_text_of_2000_characters_is_whole_in_a_table_and_a_longer_one_is_cut():
    whole = "a" * MAX_SAMPLE_CHARACTERS
    assert table_text(whole) == whole and table_text(None) is None
    assert len(table_text(whole + "b")) < MAX_SAMPLE_CHARACTERS + 2 and table_text(whole + "b").endswith("…")
    message = {"role": "user", "content": whole + "b"}
    assert table_text([message]) == [{"role": "user", "content": table_text(whole + "b")}]
    assert table_text([{"role": "user", "content": None}]) == [{"role": "user", "content": None}]


def test_rows_are_appended_as_json_lines(tmp_path):
    path = tmp_path / "new" / "samples.jsonl"
    for step in (1, 2):
        append_rows(path, [{"step": step, "prompt": "é"}])
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [
        {"step": 1, "prompt": "é"},
        {"step": 2, "prompt": "é"},
    ]


def test_tables_go_to_tensorboards_writer_and_to_nothing_that_is_not_there():
    class Writer:
        texts = []

        def add_text(self, *args):
            self.texts.append(args)

    rows = [{"step": 3, "kind": "best", "score": 1.5, "prompt": "a|b", "completion": "x\ny"}]
    log_table(["tensorboard"], "rm/samples", rows, 3, Writer())
    log_table(["tensorboard", "mlflow"], "rm/samples", rows, 3, None)
    assert Writer.texts == [
        (
            "rm/samples",
            "| step | kind | score | prompt | completion |\n| --- | --- | --- | --- | --- |\n"
            "| 3 | best | 1.5 | a\\|b | x<br>y |",
            3,
        )
    ]


FAKE_TRACKER = """
from types import SimpleNamespace
logged = []
log = logged.append
run = object()
context_vars = SimpleNamespace(current_run=SimpleNamespace(get=lambda: run))
def Table(**kwargs):
    return kwargs
"""


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_tables_go_to_a_tracker_that_has_a_run(tracker, tmp_path, monkeypatch):
    (tmp_path / f"{tracker}.py").write_text(FAKE_TRACKER, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, tracker, raising=False)
    chat = [{"role": "user", "content": "Hi"}]
    rows = [{"step": 3, "kind": "best", "score": 1.5, "prompt": chat, "completion": "x"}]
    log_table([tracker], "rm/samples", rows, 3)
    module = sys.modules[tracker]
    [[(name, table)]] = [entry.items() for entry in module.logged]
    data = table["data"] if tracker == "wandb" else table["dataframe"].values.tolist()
    assert name == "rm/samples"
    assert data == [[3, "best", 1.5, '[{"role": "user", "content": "Hi"}]', "x"]]
    module.run = None
    module.logged.clear()
    module.context_vars.current_run.get = lambda: None
    log_table([tracker], "rm/samples", rows, 3)
    assert not module.logged
    del sys.modules[tracker]  # by monkeypatch it would come back at the end
