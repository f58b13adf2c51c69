"""`EvaluationCallback`: the harness inside a training run, every k steps, logged wherever the trainer reports to.

trainer.add_callback(EvaluationCallback(trainer, "llmbar", "LLMBar/Dataset/LLMBar", every_steps=200, limit=100))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl

from ..data.comparison import Comparison
from ..evaluation.benchmarks import LoadedBenchmark, load_benchmark
from ..evaluation.harness import evaluate
from ..evaluation.official import cluster_of
from ..evaluation.report import EvaluationReport
from ..scoring.scorer import RewardScorer


class EvaluationCallback(TrainerCallback):
    """
    Evaluates the model in training on a benchmark every k steps and at the end.

    It logs, through `trainer.log` and so to `report_to` and `log_history`, `eval_<benchmark>_score` with `_score_low`
    and `_score_high` (95 %), `_accuracy` (pairs, a tie counts ½), `_nll`, `_margin` (mean) and `_length_only` (the
    baseline).

    Args:
        trainer (`Trainer`):
            The trainer of the reward model.
        benchmark (`str` or [`LoadedBenchmark`]):
            A name in `BENCHMARKS`, `"preference"` for any preference data.
        source (`str`, `Path`, `Dataset` or `list[dict]`, *optional*):
            A local copy, as in [`load_benchmark`].
        every_steps (`int`, *optional*, defaults to `500`):
            Steps between two evaluations.
        subsets (`Sequence[str]`, *optional*):
            Take the comparisons of these subsets only.
        limit (`int`, *optional*, defaults to `200`):
            Take so many comparisons, evenly spaced; `None` takes all.
        max_length (`int`, *optional*):
            Most tokens of a text; the model's context length if absent. Longer ones count as wrong.
        text_format (`str`, *optional*, defaults to `"auto"`):
            As in [`evaluate`].

    Example:
    ```python
    trainer.add_callback(EvaluationCallback(trainer, "judgebench", every_steps=100))
    ```
    """

    def __init__(
        self,
        trainer: Trainer,
        benchmark: str | LoadedBenchmark,
        source: Any = None,
        *,
        every_steps: int = 500,
        subsets: Sequence[str] | None = None,
        limit: int | None = 200,
        max_length: int | None = None,
        text_format: str = "auto",
    ):
        if every_steps < 1 or (limit is not None and limit < 1):
            raise ValueError(f"every_steps={every_steps}, limit={limit}: both are at least 1 (limit may be None)")
        data = benchmark if isinstance(benchmark, LoadedBenchmark) else load_benchmark(benchmark, source)
        chosen = [c for c in data.comparisons if subsets is None or c.subset in subsets]
        if not chosen:
            known = sorted({str(c.subset) for c in data.comparisons})
            raise ValueError(f"no comparison of {data.name} is in subsets={list(subsets or [])}; it has {known}")
        if limit is not None and limit < len(chosen):
            chosen = _sample(chosen, limit)
        self.data = replace(data, comparisons=chosen)
        self.trainer = trainer
        self.every_steps = every_steps
        self.max_length = max_length
        self.text_format = text_format
        self.last_step = 0
        self.last_report: EvaluationReport | None = None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every_steps == 0:
            self._evaluate(state.global_step, control)

    def on_train_end(self, args, state, control, **kwargs):
        if state.global_step != self.last_step:
            self._evaluate(state.global_step, control)

    def _evaluate(self, step: int, control: TrainerControl) -> None:
        trainer = self.trainer
        scorer = RewardScorer(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            max_length=self.max_length,
            truncation_mode="drop",
        )
        report = evaluate(scorer, self.data, text_format=self.text_format, num_samples=1000)
        self.last_step, self.last_report = step, report
        metrics, name = report.metrics, self.data.name
        figures = {
            "score": report.score,
            "score_low": report.interval[0],
            "score_high": report.interval[1],
            "accuracy": metrics["pairwise"]["accuracy"],
            "nll": metrics["calibration"] and metrics["calibration"]["nll"],
            "margin": metrics["margins"] and metrics["margins"]["mean"],
            "length_only": report.report["baselines"]["length"]["score"],
        }
        # A log of a model in training takes the figures of its steps, and any log clears the wish for the next one.
        should_log, training = control.should_log, trainer.model.training
        trainer.model.training = False
        trainer.log({f"eval_{name}_{key}": value for key, value in figures.items() if value is not None})
        control.should_log, trainer.model.training = should_log, training


def _sample(comparisons: list[Comparison], limit: int) -> list[Comparison]:
    """`limit` comparisons, spread over all; the two prompts of a tie stay together, which may make one more."""
    clusters: dict[str, list[int]] = {}
    for i, comparison in enumerate(comparisons):
        clusters.setdefault(cluster_of(comparison), []).append(i)
    groups, chosen, k = list(clusters.values()), [], 0
    while len(chosen) < limit:
        # Steps of the golden ratio: however soon it ends, what was taken lies evenly.
        group = groups.pop(int(k * 0.6180339887498949 % 1 * len(groups)))
        is_tie = "ties" in (comparisons[group[0]].metadata or {})
        chosen += group if is_tie else group[: limit - len(chosen)]
        k += 1
    return [comparisons[i] for i in sorted(chosen)]
