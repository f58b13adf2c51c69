"""Callbacks for TRL's trainers: `RewardScoringCallback` shows what a reward does, `EvaluationCallback` how good it is.

TRL's callbacks see no prompts, completions or scores, so `RewardScoringCallback` listens where the scoring happens,
and writes its metrics into the trainer's own record: `log_history`, the progress line and every tracker.

    trainer = GRPOTrainer(policy, reward_funcs=scorer, callbacks=[RewardScoringCallback(scorer)], ...)

Scores ► `monitoring.ScoreWindow` ► at every `trainer.log`: gathered over processes ► `reward_scoring/…`.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import GenerationConfig, PreTrainedModel, Trainer, TrainerCallback, TrainerControl

from ..data.comparison import Text, text_key
from ..evaluation.benchmarks import LoadedBenchmark, load_benchmark
from ..evaluation.benchmarks.loading import balanced_sample
from ..evaluation.harness import evaluate
from ..evaluation.report import EvaluationReport, rows
from ..files import write_atomically
from ..messages import check_at_least
from ..metrics.statistics import Bootstrap, wilson_interval
from ..model.modeling import RewardModel
from ..scoring.base import Scorer, own_tokens, policy_end_tokens
from ..scoring.scorer import RewardScorer
from .best_of_n import BestOfNSampler
from .monitoring import HackingWatch, Sample, ScoreWindow, append_rows, log_table, merge, window_metrics
from .ppo import PPORewardModel, mark_evaluation, note_context_length, read_batch, real_ids, why_not_native

logger = logging.getLogger(__name__)

LOGGED = {  # of a report's rows, by `EvaluationCallback`
    "score": "score",
    "pairwise": "accuracy",
    "calibration/nll": "nll",
    "margins/mean": "margin",
    "baseline/length": "length_only",
}
MAX_TABLES = 200  # sample tables of one kind in a run; with few samples each, their file stays small


class RewardScoringCallback(TrainerCallback):
    """
    Watches a reward in use: in GRPO, RLOO, online DPO, PPO and best-of-n, and by `eval_prompts` in any trainer.

    At every log it adds, under `<name>/`: `mean`, `std`, `q05` … `q95`, `zero_spread_rate` (share of groups whose
    completions all score alike), `length_correlation` (Spearman's, of reward and length), `duplicate_rate`,
    `truncated_rate` (cut at the length limit) and `num_scores`; scores of an evaluation under `eval_<name>/`. It keeps
    samples (best, worst, random) in `<output_dir>/<name>/samples.jsonl` and in the trainer's `report_to` (trackio,
    wandb, tensorboard), and warns once when the reward rises while length correlation or duplicates cross their bound.

    With `eval_prompts`, the current policy answers them every `eval_steps` steps, each always with the same random
    numbers; logged are `policy_mean` with `policy_low` and `policy_high` (95 %, over prompts), and `win_rate` against
    the policy at the start (a tie counts ½) with `win_rate_low` and `win_rate_high`.

    Args:
        reward ([`RewardScorer`], the module of `as_ppo_reward_model`, [`RewardModel`] or `PeftModel` of one):
            The reward that the trainer was given.
        name (`str`, *optional*, defaults to `"reward_scoring"`): prefix of the keys; each callback needs its own.
        eval_prompts (list of `str` or of `list[dict]`, *optional*): prompts that the current policy answers.
        eval_steps (`int`, *optional*, defaults to `100`): steps between two evaluations on `eval_prompts`.
        generation_config (`GenerationConfig` or `dict`, *optional*): for `eval_prompts`; 256 new tokens if absent.
        num_samples (`int`, *optional*, defaults to `1`): samples of each kind in one table; 0 keeps none.
        max_length_correlation (`float`, *optional*, defaults to `0.7`): bound of |Spearman(reward, length)|.
        max_duplicate_rate (`float`, *optional*, defaults to `0.5`): bound of the duplicate rate.
        output_dir (`str`, *optional*): where samples go; the trainer's `output_dir` if absent.
        seed (`int`, *optional*, defaults to `0`): of the random samples and of the answers to `eval_prompts`.
        trainer (`Trainer`, *optional*): the trainer that is watched; the one whose `callbacks` it is in if absent.

    Raises:
        ValueError: a reward that cannot be listened to, an empty list of prompts.

    Example:

    ```python
    scorer = RewardScorer("my-reward-model")
    GRPOTrainer(model="my-policy", reward_funcs=scorer, callbacks=[RewardScoringCallback(scorer)], ...)
    SFTTrainer(model="my-policy", callbacks=[RewardScoringCallback(scorer, eval_prompts=["2 + 2 ="])], ...)
    BestOfNSampler("my-policy", None, scorer, callbacks=[RewardScoringCallback(scorer, output_dir="best-of-n")])
    ```
    """

    def __init__(
        self,
        reward: RewardScorer | PreTrainedModel | torch.nn.Module,
        *,
        name: str = "reward_scoring",
        eval_prompts: Sequence[Text] | None = None,
        eval_steps: int = 100,
        generation_config: GenerationConfig | dict | None = None,
        num_samples: int = 1,
        max_length_correlation: float = 0.7,
        max_duplicate_rate: float = 0.5,
        output_dir: str | Path | None = None,
        seed: int = 0,
        trainer: Trainer | None = None,
    ):
        if eval_prompts is not None and not len(eval_prompts):
            raise ValueError("eval_prompts is empty; give at least one prompt, or leave it out")
        check_at_least(1, eval_steps=eval_steps)
        self.reward = reward.get_base_model() if hasattr(reward, "get_base_model") else reward
        if not isinstance(self.reward, (Scorer, PPORewardModel, RewardModel)):
            raise ValueError(
                f"a {type(reward).__name__} cannot be listened to; give the RewardScorer, the module of "
                "as_ppo_reward_model or the RewardModel that the trainer was given"
            )
        self.name = name
        self.eval_prompts = None if eval_prompts is None else list(eval_prompts)
        self.eval_steps = eval_steps
        self.generation_config = generation_config
        self.num_samples = num_samples
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.seed = seed
        self.trainer: Trainer | None = None  # since it began to train
        self.in_ppo_evaluation = False
        self._given_trainer = trainer
        self._windows = {mode: ScoreWindow(num_samples, seed) for mode in ("train", "eval")}
        self._watch = HackingWatch(max_length_correlation, max_duplicate_rate)
        self._start: dict[str, float] = {}  # score of each of the eval_prompts under the policy at the start
        self._listening: ExitStack | None = None  # while training
        self._muted = False
        self._next_table: dict[str, int] = {}  # kind of table ► the first step that may have the next one

    # --- listening

    def __call__(
        self,
        prompts: Sequence[Text] | None,
        completions: Sequence[Text],
        scores: Sequence[float],
        completion_ids: Sequence[Sequence[int]] | None = None,
        truncated: Sequence[bool] | None = None,
    ) -> None:
        """
        Record scores: called by a scorer that has it among its `listeners`, and by `BestOfNSampler`.

        Args:
            prompts (list, *optional*): (N,) texts or conversations.
            completions (list): (N,) texts or conversations.
            scores (list of `float`): (N,) rewards.
            completion_ids (list, *optional*): (N,) the policy's own tokens.
            truncated (list of `bool`, *optional*): (N,) cut at the length limit; read from `completion_ids` if absent.
        """
        if self._muted or not len(completions):
            return
        ends = policy_end_tokens(self.trainer)
        if completion_ids is not None:
            completion_ids = [own_tokens(ids, ends) for ids in completion_ids]
        lengths = None if completion_ids is None else list(map(len, completion_ids))
        if truncated is None and completion_ids is not None and ends:
            truncated = [not len(ids) or ids[-1] not in ends for ids in completion_ids]
        evaluating = self.trainer is not None and (not self.trainer.model.training or self.in_ppo_evaluation)
        self._windows["eval" if evaluating else "train"].add(prompts, completions, scores, lengths, truncated)

    def flush(self) -> dict[str, float]:
        """Outside a trainer: return the metrics since the last call, and write the samples to `output_dir`."""
        window = self._windows["train"]
        found = window_metrics(window.rows)
        self._write_samples(window.samples, "", step=0)
        window.clear()
        if found and self.output_dir is not None:
            append_rows(self.output_dir / self.name / "metrics.jsonl", [found])
        return found

    # --- events

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self._given_trainer or find_trainer()
        others = [c for c in trainer.callback_handler.callbacks if isinstance(c, RewardScoringCallback)]
        if sum(other.name == self.name for other in others) > 1:
            raise ValueError(f"two callbacks have the name {self.name!r}; give each RewardScoringCallback a name=")
        if self.output_dir is None:
            self.output_dir = Path(args.output_dir)
        if trainer is not self.trainer:
            self.trainer = trainer
            self._extend_log()
            if hasattr(trainer, "reward_model"):
                mark_evaluation(trainer, self)
        self._stop_listening()  # to a run before this one that was broken off
        self._listen()
        if isinstance(self.reward, RewardModel) and hasattr(trainer, "reward_model"):
            self._check_ppo()
        for window in self._windows.values():
            window.clear()
        self._next_table = {}
        if self.eval_prompts is not None:
            self._start = {}
            self._evaluate(state.global_step, control)

    def on_step_end(self, args, state, control, **kwargs):
        if self.eval_prompts is not None and state.global_step % self.eval_steps == 0:
            self._evaluate(state.global_step, control)

    def on_train_end(self, args, state, control, **kwargs):
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def _listen(self) -> None:
        """
        Listen to every batch of scores. A bare `RewardModel` shows token ids at its backbone and scores at its head:
        PPO reads the head at every token (`ppo.read_batch` says which counts); other loops call the model's own
        forward, of which the text is known but not where the completion begins.
        """
        self._listening = ExitStack()
        if not isinstance(self.reward, RewardModel):
            self.reward.listeners.append(self)
            self._listening.callback(self.reward.listeners.remove, self)
            return
        batch: dict[str, torch.Tensor] = {}

        def at_backbone(backbone, args, kwargs):
            batch.clear()
            ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
            if ids is not None and mask is not None and mask.ndim == 2:
                batch.update(ids=ids, mask=mask.bool())

        def at_head(head, inputs, output):
            ids, mask = batch.pop("ids", None), batch.pop("mask", None)
            if ids is not None and output.ndim == 2:
                self(None, self._texts(real_ids(ids, mask)), output[:, 0].detach().float().cpu().numpy())
            elif ids is not None and (heard := read_batch(ids, mask, output, self.tokenizer.eos_token_id)):
                prompts, completions = (self._texts(heard.pop(name)) for name in ("prompts", "completions"))
                self(prompts, completions, **heard)

        self._listening.callback(self.reward.model.register_forward_pre_hook(at_backbone, with_kwargs=True).remove)
        self._listening.callback(self.reward.score.register_forward_hook(at_head).remove)

    def _texts(self, ids: list[list[int]]) -> list[str]:
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _check_ppo(self) -> None:
        """Say where PPO misreads a bare `RewardModel`."""
        note_context_length()
        if reason := why_not_native(self.reward, self.tokenizer, self.trainer.train_dataset):
            logger.warning(
                "%s; hand over rm_plugin.as_ppo_reward_model(RewardScorer(...), policy_tokenizer, rows) instead",
                reason,
            )

    # --- the trainer's record

    def _extend_log(self) -> None:
        """
        Let `trainer.log` log our metrics too. Keys that a callback adds in `on_log` come too late: the record is
        written and the trackers have run.
        """
        trainer, log = self.trainer, self.trainer.log

        def log_with_metrics(logs: dict[str, float], *args, **kwargs) -> None:
            if self._listening is None:  # not training
                log(logs, *args, **kwargs)
                return
            mode, prefix = ("train", "") if trainer.model.training else ("eval", "eval_")
            found, samples = self._take(mode)
            logs.update({f"{prefix}{self.name}/{key}": value for key, value in found.items()})
            log(logs, *args, **kwargs)
            self._write_samples(samples, prefix, trainer.state.global_step)
            if mode == "train":
                record = trainer.state.log_history[-1] if trainer.state.log_history else logs
                warning = self._watch.see(found, record.get("kl", record.get("objective/kl")))
                if warning and trainer.is_world_process_zero():
                    logger.warning("%s: %s", self.name, warning)

        trainer.log = log_with_metrics

    def _take(self, mode: str) -> tuple[dict[str, float], dict[str, list[Sample]]]:
        """Metrics and samples of the window that ends now, over all processes."""
        window = self._windows[mode]
        scored, samples = merge(gather_object([(window.rows, window.samples)]), self.num_samples)
        window.clear()
        return window_metrics(scored), samples

    @property
    def tokenizer(self) -> Any:
        """The policy's."""
        processing_class = self.trainer.processing_class
        return getattr(processing_class, "tokenizer", processing_class)

    def _write_samples(self, samples: dict[str, list[Sample]], prefix: str, step: int) -> None:
        trainer, trackers, writer = self.trainer, [], None
        is_main = trainer is None or trainer.is_world_process_zero()
        if not is_main or self.output_dir is None or not any(samples.values()):
            return
        if trainer is not None:
            if step < self._next_table.get(prefix, 0):
                return
            self._next_table[prefix] = step + math.ceil(max(trainer.state.max_steps, 1) / MAX_TABLES)
            trackers = trainer.args.report_to
            writers = (getattr(callback, "tb_writer", None) for callback in trainer.callback_handler.callbacks)
            writer = next(filter(None, writers), None)
        table = [
            {"step": step, "kind": prefix + kind, "score": score, "prompt": prompt, "completion": completion}
            for kind, kept in samples.items()
            for score, _, prompt, completion in kept
        ]
        append_rows(self.output_dir / self.name / "samples.jsonl", table)
        log_table(trackers, f"{self.name}/{prefix}samples", table, step, writer)

    # --- eval_prompts

    def _evaluate(self, step: int, control: TrainerControl) -> None:
        """Log what the reward says of the current policy's answers to `eval_prompts`."""
        reward = self.reward
        self._muted = True
        try:
            if isinstance(reward, RewardModel):
                reward = RewardScorer(reward, self.tokenizer, truncation_mode="keep_end")
            elif isinstance(reward, PPORewardModel):
                reward = reward.weighted
            with _unwrapped(self.trainer) as policy:
                policy = getattr(policy, "policy", policy)  # PPO wraps policy and value model into one
                options = {"n": 1, "generation_config": self.generation_config, "seed": self.seed}
                results = BestOfNSampler(policy, self.tokenizer, reward, **options).sample(self.eval_prompts)
        finally:
            self._muted = False
        scored = [result for result in results if result.best is not None]
        if not scored:
            return
        scores = {text_key([result.index, result.prompt]): result.scores[0] for result in scored}
        self._start = self._start or self._scores_at_start(step, scores)
        mean = Bootstrap(list(scores.values()), num_samples=2000, seed=self.seed).estimate()
        found = dict(zip(("policy_mean", "policy_low", "policy_high"), (mean.value, *mean.interval()), strict=True))
        wins = [0.5 * (1 + np.sign(scores[key] - self._start[key])) for key in scores.keys() & self._start.keys()]
        if wins:
            found["win_rate"] = float(np.mean(wins))
            found["win_rate_low"], found["win_rate_high"] = wilson_interval(float(sum(wins)), len(wins))
        found = {f"{self.name}/{key}": value for key, value in found.items() if value is not None}
        _log_apart(self.trainer, control, found)
        window = ScoreWindow(self.num_samples, self.seed)
        window.add(*zip(*((one.prompt, one.chosen, one.scores[0]) for one in scored), strict=True))
        self._write_samples(window.samples, "policy_", step)

    def _scores_at_start(self, step: int, scores: dict[str, float]) -> dict[str, float]:
        """Scores of the policy at the start by prompt; in a file, since after a resumption that policy is gone."""
        path = self.output_dir / self.name / "start.json"
        known = json.loads(path.read_text(encoding="utf-8")) if step > 0 and path.exists() else {}
        if scores.keys() & known.keys():
            return known
        if step > 0:
            logger.warning("%s: %s has no scores, so win_rate is against the policy at step %d", self.name, path, step)
        if self.trainer.is_world_process_zero():
            write_atomically(path, json.dumps(scores, indent=1))
        return scores


class EvaluationCallback(TrainerCallback):
    """
    Evaluates the model in training on a benchmark every k steps and at the end.

    It logs, through `trainer.log` and so to `report_to` and `log_history`, `eval_<benchmark>_score` with `_score_low`
    and `_score_high` (95 %), `_accuracy` (pairs, a tie counts ½), `_nll`, `_margin` (mean) and `_length_only` (the
    baseline).

    Args:
        trainer (`Trainer`, *optional*):
            The trainer of the reward model; the one whose `callbacks` it is in if absent.
        benchmark (`str` or [`LoadedBenchmark`], *optional*, defaults to `"preference"`):
            A name in `BENCHMARKS`, `"preference"` for any preference data.
        source (`str`, `Path`, `Dataset` or `list[dict]`, *optional*):
            A local copy, as in [`load_benchmark`].
        every_steps (`int`, *optional*, defaults to `500`):
            Steps between two evaluations.
        subsets (`Sequence[str]`, *optional*):
            Take the comparisons of these subsets only.
        limit (`int`, *optional*, defaults to `200`):
            Take a sample of so many comparisons, balanced over subsets; `None` takes all.

    Raises:
        ValueError: no comparison in `subsets`, or as [`load_benchmark`].

    Example:
    ```python
    trainer.add_callback(EvaluationCallback(trainer, "judgebench", every_steps=100))
    ```
    """

    def __init__(
        self,
        trainer: Trainer | None = None,
        benchmark: str | LoadedBenchmark = "preference",
        source: Any = None,
        *,
        every_steps: int = 500,
        subsets: Sequence[str] | None = None,
        limit: int | None = 200,
    ):
        check_at_least(1, every_steps=every_steps, limit=limit)
        data = benchmark if isinstance(benchmark, LoadedBenchmark) else load_benchmark(benchmark, source)
        chosen = [c for c in data.comparisons if subsets is None or c.subset in subsets]
        if not chosen:
            known = sorted({str(c.subset) for c in data.comparisons})
            raise ValueError(f"no comparison of {data.name} is in subsets={list(subsets or [])}; it has {known}")
        if limit is not None:
            chosen = balanced_sample(chosen, limit)
        self.data = replace(data, comparisons=chosen)
        self.trainer = trainer
        self.every_steps = every_steps
        self.last_step = 0
        self.last_report: EvaluationReport | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer = self.trainer or find_trainer()

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
            truncation_mode="drop",
        )
        report = evaluate(scorer, self.data, num_samples=1000)
        self.last_step, self.last_report = step, report
        logged = {name: row.value for key, row in rows(report.report).items() if (name := LOGGED.get(key))}
        logged |= dict(zip(("score_low", "score_high"), report.interval, strict=True))
        named = {f"eval_{self.data.name}_{name}": value for name, value in logged.items() if value is not None}
        _log_apart(trainer, control, named)


# --- the trainer


def find_trainer() -> Trainer:
    """
    The trainer whose event is being handled, for callbacks in `callbacks=[…]`, which get everything but it.

    transformers and TRL's PPO write `self.callback_handler.on_train_begin(args, self.state, self.control)`, so it is
    the `self` of a calling function. To go when events are handed the trainer.
    """
    frame = inspect.currentframe().f_back
    while frame is not None and not isinstance(frame.f_locals.get("self"), Trainer):
        frame = frame.f_back
    if frame is None:
        raise ValueError("no trainer calls this callback; give it one: trainer=")
    return frame.f_locals["self"]


def _unwrapped(trainer: Trainer) -> AbstractContextManager:
    """The policy, ready to generate. TRL's own function resets gradient checkpointing, which it does not need."""
    model = getattr(trainer, "model_wrapped", None) or trainer.model
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        from trl.models import unwrap_model_for_generation

        return unwrap_model_for_generation(model, trainer.accelerator)
    return nullcontext(trainer.accelerator.unwrap_model(model))


def _log_apart(trainer: Trainer, control: TrainerControl, metrics: dict[str, float]) -> None:
    """
    Log metrics in a record of their own. A log of a model in training takes the metrics of its steps, and any log
    clears the wish for the next one.
    """
    should_log, training = control.should_log, trainer.model.training
    trainer.model.training = False
    trainer.log(metrics)
    control.should_log, trainer.model.training = should_log, training
