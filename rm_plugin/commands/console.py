"""What `rm-plugin train` prints: one short line per log over the progress bar; all metrics go to trainer_state.json.

step 120/450 · loss 0.512 · accuracy 0.741 · margin +0.82 · lr 9.3e-05 · 1,830 tokens/s · 12 min left
held out at step 225: accuracy 0.792 [0.766, 0.815] of 1,080 pairs · loss 0.352 · margin +3.83
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ..model.cards import accuracy_text
from ..training.trainer import PairwiseRewardTrainer


class ShortLines(TrainerCallback):
    """One line per log, above the progress bar where there is one."""

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = self._last = (time.perf_counter(), state.global_step, state.num_input_tokens_seen)

    def on_log(self, args, state, control, logs=None, **kwargs):
        lines = evaluation_lines(logs, state.global_step) or self._training_line(logs, state)
        if lines and state.is_world_process_zero:
            with tqdm.external_write_mode():
                print(*lines, sep="\n", flush=True)

    def _training_line(self, logs: dict[str, Any], state) -> list[str]:
        if "loss" not in logs:
            return []
        now = (time.perf_counter(), state.global_step, logs.get("num_tokens", 0))
        seconds, _, tokens = (new - old for new, old in zip(now, self._last, strict=True))
        elapsed, steps, _ = (new - old for new, old in zip(now, self._start, strict=True))
        self._last = now
        parts = [f"step {state.global_step}/{state.max_steps}", f"loss {logs['loss']:.3f}"]
        parts += [f"accuracy {logs['accuracy']:.3f}"] if "accuracy" in logs else []
        parts += [f"margin {logs['margin']:+.2f}"] if "margin" in logs else []
        parts += [f"lr {logs['learning_rate']:.2g}"] if "learning_rate" in logs else []
        parts += [f"{tokens / seconds:,.0f} tokens/s"] if tokens > 0 and seconds > 0 else []
        if steps and state.global_step < state.max_steps:
            parts.append(f"{_duration(elapsed / steps * (state.max_steps - state.global_step))} left")
        return [" · ".join(parts)]


class ProgressBar(ProgressCallback):
    """The bar without log lines, which [`ShortLines`] prints."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


def evaluation_lines(metrics: dict[str, Any], step: int) -> list[str]:
    """One line for each held-out set in the metrics of an evaluation: accuracy with its 95 % interval."""
    lines = []
    for prefix in [key.removesuffix("_accuracy") for key in metrics if key.endswith("_accuracy")]:
        name = "held out" if prefix == "eval" else f"held out, {prefix.removeprefix('eval_')}"
        line = f"{name} at step {step}: accuracy {accuracy_text(metrics, f'{prefix}_accuracy', '.3f')}"
        line += f" of {num_pairs:,} pairs" if (num_pairs := metrics.get(f"{prefix}_num_pairs")) else ""
        for metric, form in (("loss", ".3f"), ("margin", "+.2f")):
            line += f" · {metric} {metrics[f'{prefix}_{metric}']:{form}}" if f"{prefix}_{metric}" in metrics else ""
        lines.append(line)
    return lines


def print_short_lines(trainer: PairwiseRewardTrainer) -> None:
    """Put [`ShortLines`], and on a terminal the bar, instead of transformers' own callbacks."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(ShortLines)
    if sys.stderr.isatty() and not trainer.args.disable_tqdm:
        trainer.add_callback(ProgressBar)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
