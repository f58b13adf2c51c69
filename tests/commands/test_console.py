"""What training prints: one line per log with what is left, one per held-out set with its interval."""

from types import SimpleNamespace

from rm_plugin.commands import console


def test_a_line_of_training_says_the_speed_since_the_last_one_and_what_is_left(monkeypatch, capsys):
    seconds = iter((100.0, 102.0, 104.0))
    monkeypatch.setattr(console, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    state = SimpleNamespace(global_step=0, max_steps=50, num_input_tokens_seen=0, is_world_process_zero=True)
    lines, logs = console.ShortLines(), {"loss": 0.693147, "accuracy": 0.5, "margin": 0.1, "learning_rate": 1e-4}
    lines.on_train_begin(None, state, None)
    for state.global_step, num_tokens in ((1, 3000), (50, 4000)):
        lines.on_log(None, state, None, {**logs, "num_tokens": num_tokens})
    lines.on_log(None, state, None, {"train_runtime": 4.0})  # neither a step nor an evaluation
    assert capsys.readouterr().out.splitlines() == [
        "step 1/50 · loss 0.693 · accuracy 0.500 · margin +0.10 · lr 0.0001 · 1,500 tokens/s · 2 min left",
        "step 50/50 · loss 0.693 · accuracy 0.500 · margin +0.10 · lr 0.0001 · 500 tokens/s",
    ]


def test_a_line_of_an_evaluation_says_its_interval_for_every_held_out_set():
    wilson = "[0.301, 0.954]"  # of 3 in 4
    metrics = {
        "eval_accuracy": 0.75,
        "eval_num_pairs": 4,
        "eval_loss": 0.5,
        "eval_margin": -1.25,
        "eval_hh_accuracy": 1,
    }
    assert console.evaluation_lines(metrics, 7) == [
        f"held out at step 7: accuracy 0.750 {wilson} of 4 pairs · loss 0.500 · margin -1.25",
        "held out, hh at step 7: accuracy 1.000",
    ]
    assert console.evaluation_lines({"loss": 0.5}, 7) == []
