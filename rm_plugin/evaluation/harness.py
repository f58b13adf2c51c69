"""Run a reward model over a benchmark, without ever losing finished work, and measure it.

    report = evaluate("my-reward-model", "llmbar", "LLMBar/Dataset/LLMBar", output="runs/llmbar")
    report.score, report.interval

The plan of batches is fixed by the whole work list and is the same in every process. Each finished batch is appended
to the journal `scores.jsonl.journal`, which goes when all is written. So a run that was killed anywhere resumes with
the same command and ends with the same metrics. What a folder must not mix (model, data, template, dtype, length
limit) is kept in the journal, and then in the report.

    report.json    every metric (written last)          scores.jsonl    {"id", "index", "role", "score"[, "subset"]}
    report.html    the same to look at                  items.json      credits by item, for leaderboards
    model_card.md  a section for the model's README     mistakes.jsonl  the most confident mistakes with their texts
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from functools import partial
from importlib.metadata import version
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..data.comparison import Comparison
from ..files import Journal, differences, json_number, write_jsonl
from ..messages import check_choice
from ..processes import Processes, open_journal, shares
from ..scoring.base import WITHOUT_EFFECT, Member, Reward, plan_digest
from ..scoring.functions import PairwiseReward
from ..scoring.rewards import as_reward
from .benchmarks import LoadedBenchmark, as_messages, load_benchmark
from .report import EvaluationReport
from .results import TEXTS, Results, judge_metrics, measure
from .scores import read_scores, scores_checksum

__all__ = ["evaluate", "evaluate_scores"]

SCHEMA_VERSION = 1
TEXT_FORMATS = ("auto", "messages", "as-is")
PACKAGES = ("rm-plugin", "torch", "transformers", "tokenizers", "peft", "datasets", "numpy")  # of the report
log = logging.getLogger(__name__)


def evaluate(
    model: Any,
    benchmark: str | LoadedBenchmark = "preference",
    source: Any = None,
    *,
    output: str | os.PathLike | None = None,
    text_format: str = "auto",
    name: str | None = None,
    progress: bool = False,
    num_samples: int = 10_000,
    seed: int = 0,
    num_mistakes: int = 10,
    **scorer_kwargs: Any,
) -> EvaluationReport:
    """
    Score every completion of a benchmark and measure the model.

    Under `torchrun` or `accelerate launch` the processes share the work, and each returns the whole report.

    Args:
        model (`str`, `os.PathLike`, [`RewardScorer`], model in memory or `Callable`):
            Anything [`RewardScorer`] takes; or `"module:callable"` or a function `(prompts, completions) -> scores`
            (lists of the same length; `None` for a text that it cannot score).
        benchmark (`str` or [`LoadedBenchmark`], *optional*, defaults to `"preference"`):
            A name in `BENCHMARKS`, where `"preference"` is any preference data; or what [`load_benchmark`] returns,
            which also takes a part of the data.
        source (*optional*):
            As in [`load_benchmark`], for a benchmark given by its name.
        output (`str` or `os.PathLike`, *optional*):
            Folder of the run. A run that was killed there resumes.
        text_format (`str`, *optional*, defaults to `"auto"`):
            `"messages"` turns plain text into messages for the chat template, `"as-is"` leaves it plain. `"auto"`:
            messages where the tokenizer has a chat template, but `preference` data as they are.
        name (`str`, *optional*):
            Name of the model in the report.
        progress (`bool`, *optional*, defaults to `False`):
            Show a progress bar.
        num_samples (`int`, *optional*, defaults to `10_000`):
            Bootstrap samples.
        seed (`int`, *optional*, defaults to `0`):
            Seed of bootstrap and random baseline.
        num_mistakes (`int`, *optional*, defaults to `10`):
            How many of the most confident mistakes `mistakes.jsonl` holds.
        scorer_kwargs:
            Options of [`RewardScorer`], for a model that is not one yet: `max_length`, `dtype`, `revision`, …

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: for bad data, a model that is no reward model, a score that is not finite, or a folder that holds
            another evaluation (saying what differs).

    Example:
    ```python
    >>> rows = [{"prompt": f"{n} + 1 =", "chosen": f"{n + 1}", "rejected": f"{n + 2}"} for n in range(5)]
    >>> report = evaluate(lambda prompts, completions: [-float(text) for text in completions], source=rows)
    >>> report.score, report.metrics["pairwise"]["num_pairs"]
    (1.0, 5)

    ```
    """
    check_choice("text_format", text_format, TEXT_FORMATS)
    times = {"start": time.perf_counter()}
    data = _loaded(benchmark, source)
    times["load data"] = time.perf_counter()
    world, folder = Processes.current(), None if output is None else Path(output)
    reward = as_reward(model, name, evaluating=True, **scorer_kwargs)
    if folder is not None:
        reward.check_can_resume()
    work, used_format = _formatted(data, reward, text_format)
    times["load model"] = time.perf_counter()
    plan = reward.plan(work, together=True)
    times["plan"] = time.perf_counter()
    about = {**_about(data, used_format, reward.about), "plan": plan_digest(plan)}
    resume = partial(_resume, folder=folder, about=about, comparisons=data.comparisons, reward=reward)
    journal, done, known = open_journal(world, folder and folder / "scores.jsonl", resume)
    with journal:
        for chunk in done.values():
            known |= {(c, k): math.nan if value is None else value for c, k, value in chunk}
        if known:
            log.info("%s: resumes from %d scores", folder, len(known))
        todo = [batch for batch in plan if not known.keys() >= set(chain(*batch.members))]
        computed = _run(todo, reward, journal, world, progress and world.rank == 0)
        times["score"] = time.perf_counter()
        values, options = known | computed, {"num_samples": num_samples, "seed": seed}
        scores = reward.scores_of(data.comparisons, values)
        how = {**options, "num_mistakes": num_mistakes, "why_unscored": reward.why_unscored}
        results = measure(data, scores, **how)
        if isinstance(reward, PairwiseReward):
            results.metrics["judge"] = judge_metrics(reward, data, values, **options)
        times["metrics"] = time.perf_counter()
        resumed, tokens = known.keys() - computed.keys(), [batch.tokens for batch in todo]
        run = {
            "device": reward.device,
            "num_processes": world.size,
            "num_completions_computed": len(computed),
            "num_completions_resumed": len(resumed),
            "num_tokens_computed": None if None in tokens else sum(tokens),
            "num_at_length_limit": reward.num_at_limit(plan),
            "num_control_tokens": reward.num_control_tokens,
            "seconds": {part: round(times[part] - times[before], 3) for before, part in pairwise(times)},
        }
        finished = _finished(about, data, scores, results, run)
        if folder is not None and world.rank == 0:
            if isinstance(reward, PairwiseReward):
                write_jsonl(folder / "verdicts.jsonl", reward.verdict_rows(data.comparisons, values))
            finished.save(folder)
            journal.finish()
        world.wait()
    return finished


def evaluate_scores(
    scores: str | os.PathLike,
    benchmark: str | LoadedBenchmark,
    source: Any = None,
    *,
    output: str | os.PathLike | None = None,
    name: str | None = None,
    **options: int,
) -> EvaluationReport:
    """
    Every metric from a file of scores, without a model.

    Args:
        scores (`str` or `os.PathLike`):
            JSON lines `{"id", "index", "role", "score"}`, see [`read_scores`].
        benchmark, source, output:
            As in [`evaluate`].
        name (`str`, *optional*):
            Name of the model in the report; by default that of the run that wrote the scores, else the file's.
        options:
            `num_samples`, `seed` and `num_mistakes`, as in [`evaluate`].

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: if a line is malformed, belongs to no comparison, or is missing; for a folder that holds the
            evaluation of other scores or data.
    """
    data, path = _loaded(benchmark, source), Path(scores)
    values = read_scores(path, data.comparisons, allow_others=data.limit is not None)
    about = _about(data, None, {"kind": "scores"})
    if (origin := path.with_name("report.json")).exists():
        earlier = read_about(origin, "put the scores into a folder of their own")
        of_these = earlier["benchmark"].get("fingerprint") == data.fingerprint
        kept = ("benchmark", "model", "plan") if of_these else ("model",)
        about |= {key: earlier[key] for key in kept if key in earlier}
    about["model"] = {**about["model"], "name": name or about["model"].get("name") or path.stem}
    if output is not None:
        _check_output(Path(output), data, values)
    finished = _finished(about, data, values, measure(data, values, **options), {"scores": str(path)})
    if output is not None:
        finished.save(output)
    return finished


def read_about(path: Path, fix: str) -> dict[str, Any]:
    """What a `report.json` holds; a `ValueError` with this `fix` for one of another tool or version."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        about = None
    about = about if isinstance(about, dict) else {}
    found = about.get("schema_version")
    if found is not None and found != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema_version={found!r}, this version reads {SCHEMA_VERSION}; {fix}")
    if found is None or not all(isinstance(about.get(name), dict) for name in ("model", "benchmark", "run")):
        raise ValueError(f"{path} is not of rm-plugin evaluate, which keeps such a file in its folders; {fix}")
    return about


def _check_output(folder: Path, data: LoadedBenchmark, scores: list[np.ndarray]) -> None:
    """Refuse to write over another evaluation: one of these scores on these data is all that may be there."""
    if (folder / "report.json").exists():
        about = read_about(folder / "report.json", "name another folder")
        found = about["benchmark"].get("fingerprint"), about["run"].get("scores_sha256")
        if found != (data.fingerprint, scores_checksum(data.comparisons, scores)):
            raise ValueError(f"{folder} holds the evaluation of {_title(about)}; name another folder")


def _loaded(benchmark: str | LoadedBenchmark, source: Any) -> LoadedBenchmark:
    if not isinstance(benchmark, LoadedBenchmark):
        return load_benchmark(benchmark, source)
    if source is not None:
        raise ValueError("source cannot be applied to a loaded benchmark; hand it to load_benchmark")
    return benchmark


def _about(data: LoadedBenchmark, text_format: str | None, model: dict[str, Any]) -> dict[str, Any]:
    """What is evaluated on what: the head of `report.json`."""
    fields = ("name", "source", "split", "revision", "fingerprint", "limit", "on_empty")
    benchmark = {field: getattr(data, field) for field in fields}
    about_data = {"licence": data.benchmark.licence, "notes": data.benchmark.notes}
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": {**benchmark, "text_format": text_format, **about_data},
        "model": model,
        "plan": None,
    }


def _finished(
    about: dict[str, Any], data: LoadedBenchmark, scores: list[np.ndarray], results: Results, run: dict[str, Any]
) -> EvaluationReport:
    report = {
        **about,
        "counts": results.counts,
        "metrics": results.metrics,
        "baselines": results.baselines,
        "mistakes": [{key: one[key] for key in one if key not in TEXTS} for one in results.mistakes[:10]],
        "bad_rows": data.bad_rows[:100],
        "run": {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **run,
            "scores_sha256": scores_checksum(data.comparisons, scores),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        },
    }
    return EvaluationReport(report, results, data, scores)


def _title(about: dict) -> str:
    return f"{about['model'].get('name')} on {about['benchmark'].get('name')}"


def _formatted(data: LoadedBenchmark, reward: Reward, text_format: str) -> tuple[list[Comparison], str]:
    """The comparisons as the model reads them, and in which form that is."""
    plain = sum(not comparison.conversational for comparison in data.comparisons)
    wanted = text_format == "messages" or (
        text_format == "auto" and reward.template is not None and data.name != "preference"
    )
    if not plain:
        return data.comparisons, "messages"
    if not wanted:
        return data.comparisons, "text" if plain == len(data.comparisons) else "text and messages, as they are"
    return [as_messages(comparison) for comparison in data.comparisons], "messages"


# --- the run: shared by processes, safe against kills


def _run(todo: list[Any], reward: Reward, journal: Journal, world: Processes, progress: bool) -> dict[Member, float]:
    """Compute what is to do, each process its share; the scores of all."""
    costs = [batch.tokens or len(batch.members) for batch in todo]
    mine = todo if reward.in_step else [todo[index] for index in shares(costs, world.size)[world.rank]]
    computed: dict[Member, float] = {}
    done = tqdm(reward.run_all(mine), total=len(mine), desc="scoring", unit="batch", disable=not progress)
    for batch, scores in done:
        pairs = zip(batch.members, scores.tolist(), strict=True)
        values = {member: value for members, value in pairs for member in members}
        chunk = [[c, k, json_number(value)] for (c, k), value in values.items()]
        journal.append(f"{chunk[0][0]}.{chunk[0][1]}+{len(chunk)}", chunk)
        computed |= values
    return {member: value for part in world.gather(computed) for member, value in part.items()}


def _resume(
    journal: Journal, folder: Path | None, about: dict[str, Any], comparisons: list[Comparison], reward: Reward
) -> dict[Member, float]:
    """Refuse a folder of another evaluation, naming what differs; scores of a run that had been finished there."""
    settings = _settings(about)
    if folder is None:
        return {}
    report, scores = folder / "report.json", folder / "scores.jsonl"
    if not report.exists():
        if scores.exists() and not journal:
            raise ValueError(f"{folder} holds scores of unknown origin (it has no report.json); name another folder")
        journal.begin(settings)
        return {}
    found = read_about(report, "name another folder")
    if what := differences(_settings(found), settings):
        raise ValueError(
            f"{folder} holds another evaluation ({_title(found)}): {', '.join(what)}; name another folder"
        )
    journal.begin(settings)
    content = scores.read_bytes() if scores.exists() else b""
    if hashlib.sha256(content).hexdigest() != found["run"].get("scores_sha256"):
        log.warning("%s: scores.jsonl is not as it was written, its scores are computed again", folder)
        return {}
    if isinstance(reward, PairwiseReward):
        verdicts = folder / "verdicts.jsonl"
        return reward.read_verdicts(verdicts, comparisons) if verdicts.exists() else {}
    values = read_scores(scores, comparisons)
    return {(c, k): value for c, row in enumerate(values) for k, value in enumerate(row.tolist())}


def _settings(about: dict[str, Any]) -> dict[str, Any]:
    """All that the scores depend on, by the names that a user knows."""
    benchmark = {"benchmark": "name", "data": "fingerprint", "data_revision": "revision"}
    settings = {name: about["benchmark"].get(key) for name, key in benchmark.items()}
    settings |= {name: about["benchmark"].get(name) for name in ("limit", "text_format")}
    settings |= {name: value for name, value in about["model"].items() if name not in WITHOUT_EFFECT}
    return {**settings, "token_ids": about.get("plan")}
