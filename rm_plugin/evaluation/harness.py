"""Run a reward model over a benchmark, without ever losing finished work, and measure it.

    report = evaluate("my-reward-model", "llmbar", "LLMBar/Dataset/LLMBar", output="runs/llmbar")
    report.score, report.interval

The plan of batches is fixed from the whole work list and is the same in every process. Each finished batch is appended
to `scores.jsonl`; a batch that is there in part runs again whole. So a run that was killed anywhere goes on with the
same command and ends with the same figures. What the folder must not mix is in its `run.json`: model, data, template,
dtype, length limit.

    run.json       what is evaluated on what            scores.jsonl    {"id", "index", "role", "score"[, "subset"]}
    report.json    every figure (written last)          items.json      credits by item, for leaderboards
    report.html    the same to look at                  model_card.md   a section for the model's README
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.comparison import Comparison
from ..files import write_atomically
from ..messages import shorten
from ..scoring.rewards import Member, as_ruler, plan_digest
from .benchmarks import LoadedBenchmark, as_messages, load_benchmark
from .report import EvaluationReport
from .results import Results, measure
from .scores import read_scores, score_line

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
            Folder of the run. A run that was cut off there goes on.
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
    if text_format not in TEXT_FORMATS:
        raise ValueError(f"text_format={text_format!r} is unknown; use one of {', '.join(TEXT_FORMATS)}")
    seconds, start = {}, time.perf_counter()
    how = {"split": split, "config": config, "subset": subset, "limit": limit, "on_bad_row": on_bad_row}
    data = _loaded(benchmark, source, **how)
    seconds["load data"] = time.perf_counter() - start

    start = time.perf_counter()
    world = Processes.current()
    ruler = as_ruler(model, name, scorer_kwargs)
    work, used_format = _formatted(data, ruler, text_format)
    seconds["load model"] = time.perf_counter() - start

    start = time.perf_counter()
    plan = ruler.plan(work)
    seconds["plan"] = time.perf_counter() - start
    about_data = _about_data(data, used_format)
    about = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": about_data,
        "model": ruler.about,
        "plan": plan_digest(plan),
    }

    start = time.perf_counter()
    folder = None if output is None else Path(output)
    scores, computed, resumed, tokens = _run(plan, ruler, data.comparisons, folder, about, world, progress)
    seconds["score"] = time.perf_counter() - start

    start = time.perf_counter()
    results = measure(data, scores, num_samples=num_samples, seed=seed)
    seconds["metrics"] = time.perf_counter() - start
    run = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": ruler.device,
        "num_processes": world.size,
        "num_completions_computed": computed,
        "num_completions_resumed": resumed,
        "num_tokens_computed": tokens,
        "num_at_length_limit": ruler.num_at_limit(plan),
        "seconds": {key: round(value, 3) for key, value in seconds.items()},
        "versions": _versions(),
    }
    report = _report(about, data, results, run)
    finished = EvaluationReport(report, results, data, scores)
    if folder is not None:
        if world.rank == 0:
            finished.save(folder)
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
    Every figure from a file of scores, without a model.

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
    version = about.get("schema_version") if isinstance(about, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema_version={version!r}, this version reads {SCHEMA_VERSION}; {fix}")
    if version is None or not {"model", "benchmark"} <= about.keys():
        raise ValueError(f"{path} is not of rm-plugin evaluate, which keeps such a file in its folders; {fix}")
    return about


def _check_output(folder: Path, scores: Path, data: LoadedBenchmark) -> None:
    """Refuse to write over another evaluation: one of these scores on these data is all that may be there."""
    for found in (folder / "run.json", folder / "report.json"):
        if not found.exists():
            continue
        about = read_about(found, "name another folder")
        made_from = about.get("run", {}).get("scores", folder / "scores.jsonl")
        same_data = about["benchmark"]["fingerprint"] == data.fingerprint
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
    return f"{about['model']['name']} on {about['benchmark']['name']}"


def _formatted(data: LoadedBenchmark, ruler: Any, text_format: str) -> tuple[list[Comparison], str]:
    """The comparisons as the model reads them, and in which form that is."""
    plain = sum(not comparison.conversational for comparison in data.comparisons)
    wanted = text_format == "messages" or (
        text_format == "auto" and ruler.template is not None and data.name != "preference"
    )
    if not plain:
        return data.comparisons, "messages"
    if not wanted:
        return data.comparisons, "text" if plain == len(data.comparisons) else "text and messages, as they are"
    return [as_messages(comparison) for comparison in data.comparisons], "messages"


# --- the run: shared by processes, safe against kills


@dataclass
class Processes:
    """The processes that share the work."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Those of torchrun or accelerate; importing nothing where there is one only."""
        distributed = sys.modules.get("torch.distributed")
        started = distributed is not None and distributed.is_available() and distributed.is_initialized()
        if not started and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        import torch
        from accelerate import PartialState

        # Without cpu=True accelerate 1.x takes two processes on a machine without GPU for two worlds of one.
        state = PartialState() if started else PartialState(cpu=not torch.accelerator.is_available())
        return cls(state.process_index, state.num_processes)

    def share(self, value: Any) -> Any:
        """The value of process 0, in all."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in all."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def wait(self) -> None:
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def _run(
    plan: list[Any],
    ruler: Any,
    comparisons: list[Comparison],
    folder: Path | None,
    about: dict[str, Any],
    world: Processes,
    progress: bool,
) -> tuple[list[np.ndarray], int, int, int | None]:
    """Scores of all completions; how many were computed now, how many were there; tokens computed now."""
    known: dict[Member, float] = {}
    if folder is not None:
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _claim(folder, about)
            known = _recover(folder, plan, comparisons)
        known = world.share(known)
    todo = [batch for batch in plan if not _is_done(batch, known)]
    resumed = len(known)
    mine = todo[world.rank :: world.size]
    computed: dict[Member, float] = {}
    part = "scores.jsonl" if world.rank == 0 else f"scores.part{world.rank}.jsonl"
    with _ScoreLog(None if folder is None else folder / part) as score_log:
        for batch in _with_progress(mine, progress and world.rank == 0):
            for members, value in zip(batch.members, ruler.run(batch).tolist(), strict=True):
                computed.update(dict.fromkeys(map(tuple, members), value))
            score_log.write(
                score_line(comparisons[c], k, computed[c, k]) for members in batch.members for c, k in members
            )
    for part_of_all in world.gather(computed):
        known.update(part_of_all)
    world.wait()
    if world.size > 1 and folder is not None and world.rank == 0:
        _recover(folder, plan, comparisons)  # the parts of all processes into one file
    tokens = [ruler.tokens(batch) for batch in todo]
    scores = [np.full(len(comparison.completions), np.nan) for comparison in comparisons]
    for (c, k), value in known.items():
        scores[c][k] = value
    return scores, len(known) - resumed, resumed, None if None in tokens else sum(tokens)


def _is_done(batch: Any, known: dict[Member, float]) -> bool:
    return all(tuple(member) in known for members in batch.members for member in members)


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Write `run.json`, or refuse a folder whose `run.json` differs, naming what does."""
    path = folder / "run.json"
    if not path.exists():
        if (folder / "scores.jsonl").exists() or (folder / "report.json").exists():
            raise ValueError(f"{folder} holds scores of unknown origin (it has no run.json); name another folder")
        write_atomically(path, json.dumps(about, ensure_ascii=False, indent=1) + "\n")
        return
    found = read_about(path, "name another folder")
    about = json.loads(json.dumps(about))
    differences = []
    for part, names in {
        "benchmark": ("name", "revision", "limit", "text_format", "fingerprint"),
        "model": [key for key in about["model"] if key not in ("name", "num_parameters", "max_num_batched_tokens")],
    }.items():
        for key in names:
            before, now = found[part].get(key), about[part].get(key)
            if before != now:
                word = {"fingerprint": "data", "name": "benchmark"}.get(key, key)
                differences.append(f"{word} was {shorten(before)} and is now {shorten(now)}")
    if not differences and found.get("plan") != about["plan"]:
        differences.append("the texts had other token ids (another tokenizer)")
    if differences:
        what = ", ".join(differences)
        raise ValueError(f"{folder} holds another evaluation ({_title(found)}): {what}; name another folder")


def _recover(folder: Path, plan: list[Any], comparisons: list[Comparison]) -> dict[Member, float]:
    """Scores of the batches that are whole; all other lines leave `scores.jsonl`, and the parts of processes go."""
    numbers = {comparison.id: c for c, comparison in enumerate(comparisons)}
    parts = [path for path in (folder / "scores.jsonl", *sorted(folder.glob("scores.part*.jsonl"))) if path.exists()]
    found: dict[Member, float] = {}
    unreadable = 0
    for path in parts:
        for line in path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                member = numbers[record["id"]], record["index"]
                found[member] = math.nan if record["score"] is None else float(record["score"])
            except (ValueError, KeyError, TypeError):
                unreadable += 1  # the line that the kill cut, or one that a crash of the machine spoiled
    planned = [[tuple(member) for members in batch.members for member in members] for batch in plan]
    known = {member: found[member] for members in planned if all(m in found for m in members) for member in members}
    again = unreadable + sum(member in found and member not in known for members in planned for member in members)
    if known:
        log.info("%s: goes on from %d scores", folder, len(known))
    if again:
        log.info("%s: %d scores of unfinished batches are computed again", folder, again)
    if parts:
        lines = (score_line(comparisons[c], k, value) for (c, k), value in known.items())
        write_atomically(folder / "scores.jsonl", "".join(lines))
        for path in parts:
            if path.name != "scores.jsonl":
                path.unlink()
    return known


class _ScoreLog:
    """Appends to a file: what was written survives a kill, and all but the last second a crash of the machine."""

    def __init__(self, path: Path | None):
        self.path = path

    def __enter__(self) -> _ScoreLog:
        if self.path is not None:
            self.file = self.path.open("ab", buffering=0)
            self.synced = time.monotonic()
        return self

    def write(self, lines: Iterable[str]) -> None:
        if self.path is not None:
            self.file.write("".join(lines).encode(errors="backslashreplace"))  # a lone surrogate, as JSON writes it
            if time.monotonic() - self.synced > 1:
                os.fsync(self.file.fileno())
                self.synced = time.monotonic()

    def __exit__(self, *error: Any) -> None:
        if self.path is not None:
            os.fsync(self.file.fileno())
            self.file.close()


def _with_progress(batches: list[Any], progress: bool) -> Iterator[Any]:
    if not progress:
        yield from batches
        return
    from tqdm.auto import tqdm

    with tqdm(total=sum(sum(map(len, batch.members)) for batch in batches), unit="text", desc="scoring") as bar:
        for batch in batches:
            yield batch
            bar.update(sum(map(len, batch.members)))


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
