"""Run a reward model over a benchmark, without ever losing finished work, and measure it.

    report = evaluate("my-reward-model", "llmbar", "LLMBar/Dataset/LLMBar", output="runs/llmbar")
    report.score, report.interval

The plan of batches is fixed by the whole work list and is the same in every process. Each finished batch is appended
to the journal `scores.jsonl.journal`, which goes when all is written. So a run that was killed anywhere resumes with
the same command and ends with the same metrics. What the folder must not mix is in its `run.json`: model, data,
template, dtype, length limit.

    run.json       what is evaluated on what            scores.jsonl    {"id", "index", "role", "score"[, "subset"]}
    report.json    every metric (written last)          items.json      credits by item, for leaderboards
    report.html    the same to look at                  model_card.md   a section for the model's README
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..data.comparison import Comparison
from ..files import Journal, differences, write_atomically
from ..messages import check_choice
from ..processes import Processes, open_journal, shares
from ..scoring.base import WITHOUT_EFFECT, Member, Reward, plan_digest
from ..scoring.rewards import as_reward
from .benchmarks import LoadedBenchmark, as_messages, load_benchmark
from .report import EvaluationReport
from .results import Results, measure
from .scores import read_scores, scores_checksum

__all__ = ["evaluate", "evaluate_scores"]

SCHEMA_VERSION = 1
TEXT_FORMATS = ("auto", "messages", "as-is")
log = logging.getLogger(__name__)


def evaluate(
    model: Any,
    benchmark: str | LoadedBenchmark = "preference",
    source: Any = None,
    *,
    output: str | os.PathLike | None = None,
    split: str | None = None,
    config: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    on_bad_row: str = "error",
    text_format: str = "auto",
    name: str | None = None,
    progress: bool = False,
    num_samples: int = 10_000,
    seed: int = 0,
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
            A name in `BENCHMARKS`; `"preference"` is any preference data.
        source, split, config, subset, limit, on_bad_row:
            As in [`load_benchmark`], which is done with a [`LoadedBenchmark`].
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
        scorer_kwargs:
            Handed to [`RewardScorer`] where `model` is none yet: `max_length`, `dtype`, `revision`, …

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
    seconds, start = {}, time.perf_counter()
    how = {"split": split, "config": config, "subset": subset, "limit": limit, "on_bad_row": on_bad_row}
    data = _loaded(benchmark, source, **how)
    seconds["load data"] = time.perf_counter() - start

    start = time.perf_counter()
    world = Processes.current()
    reward = as_reward(model, name, evaluating=True, **scorer_kwargs)
    if output is not None:
        reward.check_can_resume()
    work, used_format = _formatted(data, reward, text_format)
    seconds["load model"] = time.perf_counter() - start

    start = time.perf_counter()
    plan = reward.plan(work)
    seconds["plan"] = time.perf_counter() - start
    about_data = _about_data(data, used_format)
    about = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": about_data,
        "model": reward.about,
        "plan": plan_digest(plan),
    }

    start = time.perf_counter()
    folder = None if output is None else Path(output)
    journal, scores, counts = _run(plan, reward, data.comparisons, folder, about, world, progress)
    seconds["score"] = time.perf_counter() - start

    with journal:
        start = time.perf_counter()
        results = measure(data, scores, num_samples=num_samples, seed=seed)
        seconds["metrics"] = time.perf_counter() - start
        run = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "device": reward.device,
            "num_processes": world.size,
            **counts,
            "num_at_length_limit": reward.num_at_limit(plan),
            "num_control_tokens": reward.num_control_tokens,
            "scores_sha256": scores_checksum(data.comparisons, scores),
            "seconds": {key: round(value, 3) for key, value in seconds.items()},
            "versions": _versions(),
        }
        finished = EvaluationReport(_report(about, data, results, run), results, data, scores)
        if folder is not None and world.rank == 0:
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
    split: str | None = None,
    config: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    on_bad_row: str = "error",
    name: str | None = None,
    num_samples: int = 10_000,
    seed: int = 0,
) -> EvaluationReport:
    """
    Every metric from a file of scores, without a model.

    Args:
        scores (`str` or `os.PathLike`):
            JSON lines `{"id", "index", "role", "score"}`, see [`read_scores`].
        benchmark, source, split, config, subset, limit, on_bad_row, output, num_samples, seed:
            As in [`evaluate`].
        name (`str`, *optional*):
            Name of the model in the report; by default that of the run that wrote the scores, else the file's.

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: if a line is malformed, belongs to no comparison, or is missing.
    """
    how = {"split": split, "config": config, "subset": subset, "limit": limit, "on_bad_row": on_bad_row}
    data = _loaded(benchmark, source, **how)
    path = Path(scores)
    values = read_scores(path, data.comparisons, allow_others=data.limit is not None)
    about_data = _about_data(data, None)
    if output is not None:
        _check_output(Path(output), path, data)
    origin = path.with_name("run.json")
    if origin.exists():
        model = read_about(origin, "put the scores into a folder of their own")["model"]
    else:
        model = {"kind": "scores"}
    model = {**model, "name": name or model.get("name") or path.stem}
    results = measure(data, values, num_samples=num_samples, seed=seed)
    run = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "scores": str(path),
        "scores_sha256": scores_checksum(data.comparisons, values),
        "num_completions_computed": 0,
        "num_completions_resumed": results.counts["num_completions"],
        "versions": _versions(),
    }
    report = _report({"schema_version": SCHEMA_VERSION, "benchmark": about_data, "model": model}, data, results, run)
    finished = EvaluationReport(report, results, data, values)
    if output is not None:
        finished.save(Path(output))
    return finished


def read_about(path: Path, fix: str) -> dict[str, Any]:
    """What a `run.json` or `report.json` holds; a `ValueError` with this `fix` for one of another tool or version."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        about = None
    about = about if isinstance(about, dict) else {}
    version = about.get("schema_version")
    if version is not None and version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema_version={version!r}, this version reads {SCHEMA_VERSION}; {fix}")
    if version is None or not all(isinstance(about.get(name), dict) for name in ("model", "benchmark")):
        raise ValueError(f"{path} is not of rm-plugin evaluate, which keeps such a file in its folders; {fix}")
    return about


def _check_output(folder: Path, scores: Path, data: LoadedBenchmark) -> None:
    """Refuse to write over another evaluation: one of these scores on these data is all that may be there."""
    for found in (folder / "run.json", folder / "report.json"):
        if not found.exists():
            continue
        about = read_about(found, "name another folder")
        run = about.get("run")
        made_from = run.get("scores", folder / "scores.jsonl") if isinstance(run, dict) else folder / "scores.jsonl"
        same_data = about["benchmark"].get("fingerprint") == data.fingerprint
        if not same_data or scores.resolve() not in (Path(made_from).resolve(), (folder / "scores.jsonl").resolve()):
            raise ValueError(f"{folder} holds the evaluation of {_title(about)}; name another folder")


def _loaded(benchmark: str | LoadedBenchmark, source: Any, **how: Any) -> LoadedBenchmark:
    """The benchmark as [`load_benchmark`] reads it; one that is loaded already has been told how to be read."""
    if not isinstance(benchmark, LoadedBenchmark):
        return load_benchmark(benchmark, source, **how)
    unset = {**dict.fromkeys(how), "on_bad_row": "error"}
    given = ["source"] * (source is not None) + [name for name, value in how.items() if value != unset[name]]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be applied to a loaded benchmark; hand it to load_benchmark")
    return benchmark


def _about_data(data: LoadedBenchmark, text_format: str | None) -> dict[str, Any]:
    return {
        "name": data.name,
        "source": data.source,
        "split": data.split,
        "revision": data.revision,
        "fingerprint": data.fingerprint,
        "limit": data.limit,
        "text_format": text_format,
        "licence": data.benchmark.licence,
        "notes": data.benchmark.notes,
    }


def _report(about: dict, data: LoadedBenchmark, results: Results, run: dict) -> dict[str, Any]:
    """`report.json`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": about["benchmark"],
        "model": about["model"],
        "counts": results.counts,
        "metrics": results.metrics,
        "baselines": results.baselines,
        "mistakes": results.mistakes,
        "bad_rows": data.bad_rows[:100],
        "run": run,
    }


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


def _run(
    plan: list[Any],
    reward: Reward,
    comparisons: list[Comparison],
    folder: Path | None,
    about: dict[str, Any],
    world: Processes,
    progress: bool,
) -> tuple[Journal, list[np.ndarray], dict[str, Any]]:
    """The journal, to be finished when all is written; scores of all completions; what was computed and resumed."""
    output = None if folder is None else folder / "scores.jsonl"
    journal, done, known = open_journal(world, output, lambda journal: _resume(journal, folder, about, comparisons))
    for chunk in done.values():
        known |= _scores_of_chunk(chunk)
    todo = [batch for batch in plan if any(member not in known for member in _members(batch))]
    whole = {member for batch in plan for member in _members(batch)} - {m for batch in todo for m in _members(batch)}
    resumed = {member: known[member] for member in whole}
    if resumed:
        log.info("%s: resumes from %d scores", folder, len(resumed))
    try:
        costs = [batch.tokens or len(batch.members) for batch in todo]
        mine = [todo[index] for index in shares(costs, world.size)[world.rank]]
        computed: dict[Member, float] = {}
        hidden = not progress or world.rank > 0
        for batch in tqdm(mine, desc="scoring", unit="batch", disable=hidden):
            chunk = [
                [c, k, None if math.isnan(value) else value]
                for members, value in zip(batch.members, reward.run(batch).tolist(), strict=True)
                for c, k in members
            ]
            journal.append(f"{chunk[0][0]}.{chunk[0][1]}+{len(chunk)}", chunk)
            computed |= _scores_of_chunk(chunk)
    except BaseException:
        journal.close()
        raise
    scores = [np.full(len(comparison.completions), np.nan) for comparison in comparisons]
    for part in [resumed, *world.gather(computed)]:
        for (c, k), value in part.items():
            scores[c][k] = value
    tokens = [batch.tokens for batch in todo]
    counts = {
        "num_completions_computed": sum(len(values) for values in scores) - len(resumed),
        "num_completions_resumed": len(resumed),
        "num_tokens_computed": None if None in tokens else sum(tokens),
    }
    return journal, scores, counts


def _resume(
    journal: Journal, folder: Path | None, about: dict[str, Any], comparisons: list[Comparison]
) -> dict[Member, float]:
    """Refuse a folder of another evaluation, naming what differs; scores of a run that had been finished there."""
    if folder is None:
        return {}
    path, settings = folder / "run.json", _settings(about)
    if path.exists():
        found = read_about(path, "name another folder")
        earlier = _settings(found)
        if what := differences({name: earlier.get(name) for name in settings}, settings):
            raise ValueError(
                f"{folder} holds another evaluation ({_title(found)}): {', '.join(what)}; name another folder"
            )
    elif (folder / "scores.jsonl").exists() or (folder / "report.json").exists():
        raise ValueError(f"{folder} holds scores of unknown origin (it has no run.json); name another folder")
    else:
        write_atomically(path, json.dumps(about, ensure_ascii=False, indent=1) + "\n")
    journal.begin(settings)
    try:
        checksum = json.loads((folder / "report.json").read_text(encoding="utf-8"))["run"]["scores_sha256"]
        content = (folder / "scores.jsonl").read_bytes()
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    if hashlib.sha256(content).hexdigest() != checksum:
        log.warning("%s: scores.jsonl is not as it was written, its scores are computed again", folder)
        return {}
    scores = read_scores(folder / "scores.jsonl", comparisons)
    return {(c, k): value for c, values in enumerate(scores) for k, value in enumerate(values.tolist())}


def _settings(about: dict[str, Any]) -> dict[str, Any]:
    """All that the scores depend on, by the names that a user knows."""
    benchmark = {"benchmark": "name", "data": "fingerprint", "data_revision": "revision"}
    settings = {name: about["benchmark"].get(key) for name, key in benchmark.items()}
    settings |= {name: about["benchmark"].get(name) for name in ("limit", "text_format")}
    settings |= {name: value for name, value in about["model"].items() if name not in WITHOUT_EFFECT}
    return json.loads(json.dumps({**settings, "token_ids": about.get("plan")}))


def _members(batch: Any) -> list[Member]:
    return [(c, k) for members in batch.members for c, k in members]


def _scores_of_chunk(chunk: list[list[Any]]) -> dict[Member, float]:
    return {(c, k): math.nan if value is None else value for c, k, value in chunk}


# --- helpers


def _versions() -> dict[str, str]:
    from .. import __version__

    versions = {"rm-plugin": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("torch", "transformers", "tokenizers", "peft", "datasets", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
