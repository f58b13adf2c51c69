"""Annotate a data set: every row with the scores of its texts, whatever its length.

    rows ► survey: chunks of whole prompts, their costs ► shares of processes and jobs ► scores in the one journal
    rows again, with their scores ► jsonl, parquet, or a folder of parquet files

    score_dataset("pairs.jsonl", "my-reward-model", "scored.parquet")

The rows are read from their source in each of the passes, which have to find the same ones, and never held; a journal
keeps scores only. A kill loses at most one chunk per process, and the same call resumes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
import tempfile
import zlib
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..data.conversations import check_text
from ..data.layouts import read_columns
from ..data.sources import load_rows, to_table
from ..files import Journal, atomic_writer, check_settings, json_line, read_settings, replacing, write_settings
from ..messages import check_at_least, check_choice, explained, one_line
from ..processes import Processes, open_journal, shares
from .base import Reward
from .rows import ADDED, NUM_KNOWN, REASON, annotate, columns_to_add, fault_of, load_reward, prompt_of, refuse_taken

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

ROWS_PER_FILE = 200_000  # of a folder
ROWS_HELD = 1024  # of a table that is read or written
LINE_EVERY = 60.0  # seconds between two lines of progress where standard error is no terminal
LARGEST_EXACT = 2**53  # whole numbers up to it are exact as floats


def score_dataset(
    dataset: Any,
    model: Any = None,
    output: str | os.PathLike | None = None,
    *,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    split: str | None = None,
    config: str | None = None,
    on_bad_row: str = "null",
    shard: tuple[int, int] | None = None,
    rows_per_chunk: int = 1024,
    push_to_hub: str | None = None,
    progress: bool = False,
    num_actors: int | None = None,
    **scorer_kwargs: Any,
) -> Dataset | dict[str, int]:
    """
    The rows of a data set with the rewards of their texts.

    Every column and the order are kept. It adds `score` for a prompt with one completion or a conversation,
    `scores` for a list of completions, `score_chosen`, `score_rejected` and `margin` for a preference row (where
    several are chosen or rejected, lists and the mean over the pairs), and `score_reason`: why a score is null.

    With an `output` memory does not grow with the data, a kill loses at most one chunk per process and the same call
    resumes, also after a reward that scores nothing any more (a server or judge that is down) stopped it; processes of
    torchrun share the chunks.

    Args:
        dataset (`str`, `Path`, `Dataset`, `IterableDataset` or `list[dict]`): rows of any format of [`load_rows`]:
            a file, a folder, what `save_to_disk` wrote, a hub id, a stream that gives the same rows each time.
        model (`str`, [`RewardScorer`], model in memory or `Callable`, *optional*):
            As in [`as_reward`]; absent, the finished shards of `output` are joined.
        output (`str` or `os.PathLike`, *optional*): `.jsonl`, `.parquet`, or a folder for parquet files.
        columns (`dict` or `list[str]`, *optional*): columns of other names, as in [`read_columns`].
        split (`str`, *optional*): as in [`load_rows`].
        config (`str`, *optional*): configuration of a hub data set.
        on_bad_row (`str`, *optional*, defaults to `"null"`):
            `"null"`: a row that is none, or a text over the length limit, gets null and a reason; `"error"` stops.
        shard (`tuple[int, int]`, *optional*): (i, n), from 1: this job computes the i-th of n shares and writes
            `<output>.shard-i-of-n.journal`; when all are there, the same call without a model joins them.
        rows_per_chunk (`int`, *optional*, defaults to `1024`): rows between two writes of the journal; rows of one
            prompt that follow each other stay in one chunk.
        push_to_hub (`str`, *optional*): hub id of the data set that gets the scored rows too.
        progress (`bool`, *optional*, defaults to `False`): show rows, tokens per second and the time left; in a log
            file, as a line every minute.
        num_actors (`int`, *optional*): of a Ray data set, how many actors hold the model.
        scorer_kwargs: handed to [`RewardScorer`] where `model` is a model or its name.

    Returns:
        `Dataset` where there is no `output` (of a Ray data set one of Ray's, lazily); else `dict` of counts: `rows`,
            `completions`, `unscored`, and for a shard those of its chunks.

    Raises:
        ValueError: no rows, a column that would be overwritten, an output that cannot be written, lies in the data or
            was made otherwise, a shard that is missing, no row that can be scored, rows that change meanwhile.

    Example:
    ```python
    >>> rows = [{"prompt": "2 + 2 =", "chosen": "four", "rejected": "5"}]
    >>> score_dataset(rows, lambda prompts, completions: [float(len(text)) for text in completions])[0]["margin"]
    3.0

    ```
    """
    check_choice("on_bad_row", on_bad_row, ("null", "error"))
    check_at_least(1, rows_per_chunk=rows_per_chunk)
    if type(dataset).__module__.partition(".")[0] == "ray":
        from .ray import score_ray

        if model is None or output is not None or shard or push_to_hub or split or config:
            raise ValueError("a Ray data set takes a model, columns and options of the scorer; write what comes back")
        how = {"columns": columns, "on_bad_row": on_bad_row, "rows_per_chunk": rows_per_chunk}
        return score_ray(dataset, model, num_actors=num_actors, **how, **scorer_kwargs)
    if num_actors is not None:
        raise ValueError(
            f"num_actors={num_actors} is for a Ray data set; make one: ray.data.from_huggingface(dataset)"
        )
    world = Processes.current()  # before the model: it says which accelerator is this process's
    if output is None and (shard or push_to_hub or model is None or world.size > 1):
        raise ValueError("output is missing; shards, joining them, the hub and several processes need it")
    target = None if output is None else Target(output, dataset)
    if target is not None:
        world.on_first(lambda: target.check(push_to_hub))
    rows = _open(dataset, split, config)
    where = str(dataset) if isinstance(dataset, (str, Path)) else f"the {type(dataset).__name__}"
    columns = read_columns(columns)
    as_table = target is None or target.is_parquet
    survey = world.on_first(lambda: _survey(rows, rows_per_chunk, columns, where, as_table))
    settings = {"data": survey.digest, "columns": columns, "rows_per_chunk": rows_per_chunk}
    if model is None:
        counts = world.on_first(lambda: _join(target, rows, survey, settings))
    else:
        reward = load_reward(model, on_bad_row, scorer_kwargs)
        if target is None:
            results = dict(_computed(rows, survey, survey.chunks, reward, on_bad_row, progress))
            return to_table(list(_scored_rows(rows, survey, results)))
        settings |= reward.settings("model")
        counts = world.on_first(lambda: target.finished(settings))
        if counts is None:
            counts = _run(target, rows, survey, settings, reward, on_bad_row, shard, progress, world)
    if push_to_hub is not None and shard is None:
        world.on_first(lambda: target.push(push_to_hub))
    return counts


def _run(
    target: Target,
    rows: Iterable[dict],
    survey: Survey,
    settings: dict[str, Any],
    reward: Reward,
    on_bad_row: str,
    shard: tuple[int, int] | None,
    progress: bool,
    world: Processes,
) -> dict[str, int]:
    """Score what the journal lacks; then, unless it is a shard, write the output."""
    index, number = shard or (1, 1)
    name = target.path if shard is None else target.shard(index, number)
    own = _shares(survey, number, world.size)[(index - 1) * world.size + world.rank]
    journal, done, _ = open_journal(world, target.journaled(name), lambda one: one.begin(settings), read=set)
    counts = None
    with journal:
        waiting = [chunk for chunk in own if chunk.key not in done]
        show = progress and world.rank == 0
        for key, value in _computed(rows, survey, waiting, reward, on_bad_row, show):
            journal.append(key, value)
        if world.rank > 0:
            journal.close()  # process 0 takes it in
        world.wait()
        if world.rank == 0:
            journal.begin(settings)
            counts = _counts(journal.values())
            if shard is None:
                target.write(partial(_scored_rows, rows, survey, journal), _known(rows), settings, counts)
                journal.finish()
    return world.share(counts)


# --- what is to be done


@dataclass
class Chunk:
    """Rows `start` to `stop` (exclusive), which one process scores together."""

    start: int
    stop: int
    cost: int = 0
    checksum: int = 0

    def add(self, text: str) -> None:
        """Take in the next row, as text."""
        self.stop, self.cost = self.stop + 1, self.cost + len(text)
        self.checksum = zlib.crc32(text.encode(errors="backslashreplace"), self.checksum)

    @property
    def key(self) -> str:
        return f"{self.start}-{self.stop}"


@dataclass
class Survey:
    """What one pass over the rows tells: their chunks, a hash of them, and the first ones that can be read."""

    where: str  # the source, for errors
    columns: dict[str, str]  # of other names
    chunks: list[Chunk]
    digest: str
    known: list[dict[str, Any]]


def _open(dataset: Any, split: str | None, config: str | None) -> Dataset | IterableDataset:
    """The rows, such that a file of any length is not held in memory."""
    local = isinstance(dataset, (str, Path)) and Path(dataset).expanduser().exists()
    return load_rows(dataset, split, config, streaming=local).with_format(None)


def _survey(
    rows: Iterable[dict], rows_per_chunk: int, columns: dict[str, str], where: str, as_table: bool = False
) -> Survey:
    """Chunks end between two prompts; one prompt's rows are cut at four times the size."""
    chunks: list[Chunk] = []
    known: list[dict[str, Any]] = []
    names, added, fault = set(), set(), ""
    digest, prompt = hashlib.sha256(), None
    for index, row in enumerate(_readable(rows, where)):
        names |= row.keys()
        try:
            added |= columns_to_add(row, columns).keys()
            known += [row] * (len(known) < NUM_KNOWN)
        except ValueError as error:
            fault = fault or f"{where} row {index}: {error}"
        text = _as_text(row)
        if as_table:
            check_text(text, f"{where} row {index}")
        digest.update(text.encode(errors="backslashreplace") + b"\n")
        before, prompt = prompt, prompt_of(row, columns)
        length = index - chunks[-1].start if chunks else 0
        apart = prompt is None or prompt != before or length >= 4 * rows_per_chunk
        if not chunks or (length >= rows_per_chunk and apart):
            chunks.append(Chunk(index, index))
        chunks[-1].add(text)
    if not chunks:
        raise ValueError(f"{where} has 0 rows; give at least one")
    if not known:  # what is wrong with all rows is told before the work
        raise ValueError(fault)
    refuse_taken(names, added, where)
    return Survey(where, columns, chunks, digest.hexdigest()[:16], known)


def _as_text(row: dict[str, Any]) -> str:
    """What its hash is made of."""
    return json.dumps(row, default=lambda value: type(value).__name__, ensure_ascii=False)


def _readable(rows: Iterable[dict], where: str) -> Iterator[dict]:
    """The rows; errors of the library that reads them name their source."""
    iterator, end = iter(rows), object()
    if hasattr(rows, "select"):
        parts = (_part(rows, start, start + ROWS_HELD) for start in range(0, len(rows), ROWS_HELD))
        iterator = (row for part in parts for row in part)
    while True:
        with explained(f"{where} cannot be read"):
            row = next(iterator, end)
        if row is end:
            return
        yield row


def _part(table: Dataset, start: int, stop: int) -> list[dict[str, Any]]:
    """Some rows of a table as it holds them: what `datasets` would decode, such as an image, stays bytes."""
    return table.select(range(start, min(stop, len(table)))).to_list()


def _shares(survey: Survey, num_shards: int, num_processes: int) -> list[list[Chunk]]:
    """The chunks of each process of each shard."""
    parts = []
    for part in shares([chunk.cost for chunk in survey.chunks], num_shards):
        chunks = [survey.chunks[i] for i in part]
        parts += [[chunks[i] for i in own] for own in shares([chunk.cost for chunk in chunks], num_processes)]
    return parts


# --- scores


def _computed(
    rows: Iterable[dict],
    survey: Survey,
    chunks: list[Chunk],
    reward: Reward,
    on_bad_row: str,
    progress: bool,
) -> Iterator[tuple[str, list]]:
    """Key and value of every chunk, see [`annotate`]."""
    before = reward.num_tokens
    with _bar(sum(chunk.stop - chunk.start for chunk in chunks), progress) as bar:
        for chunk, texts in _rows_of(rows, survey, chunks):
            value = annotate(texts, reward, survey.columns)
            bad = next((i for i, (_, reason) in enumerate(value) if reason is not None), None)
            if bad is not None and on_bad_row == "error":
                raise ValueError(f"{survey.where} row {chunk.start + bad}: {value[bad][1]}")
            if fault := fault_of(reward, texts, value, survey.known, survey.columns):
                raise ValueError(fault)
            yield chunk.key, value
            tokens, seconds = reward.num_tokens - before, bar.format_dict["elapsed"]
            bar.set_postfix_str(f"{tokens / max(seconds, 1e-9):,.0f} tok/s" if tokens else "", refresh=False)
            bar.update(len(texts))


class _Lines:
    """Standard error where it is no terminal: each state of a bar is a line."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def _bar(num_rows: int, progress: bool) -> tqdm:
    is_log = isinstance(sys.stderr, io.TextIOWrapper) and not sys.stderr.isatty()  # a notebook's is of another type
    how = {"file": _Lines(), "mininterval": LINE_EVERY, "miniters": 1} if is_log else {}
    return tqdm(total=num_rows, unit="row", desc="scoring", disable=not progress, **how)


def _rows_of(rows: Iterable[dict], survey: Survey, chunks: list[Chunk]) -> Iterator[tuple[Chunk, list[dict]]]:
    """Each chunk with its rows, in order: the same that were surveyed."""
    is_table = hasattr(rows, "select")  # which gives any part of it
    iterator, position = _readable(rows, survey.where), 0
    for chunk in chunks:
        if is_table:
            texts = _part(rows, chunk.start, chunk.stop)
        else:
            texts = list(islice(iterator, chunk.start - position, chunk.stop - position))
            position = chunk.stop
        found = Chunk(chunk.start, chunk.start)
        for row in texts:
            found.add(_as_text(row))
        if found != chunk:
            raise ValueError(
                f"{survey.where}: rows {chunk.start} to {chunk.stop - 1} are not those that were read first; leave "
                "the data as it is meanwhile, and give a stream that can be read again in one order (shuffle(seed=…))"
            )
        yield chunk, texts


# --- columns


def _scored_rows(rows: Iterable[dict], survey: Survey, results: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    """The rows with their scores, all with the same columns."""
    found = {name for chunk in survey.chunks for added, _ in results[chunk.key] for name in added}
    nulls = dict.fromkeys(name for name in ADDED if name in found or name == REASON)
    for chunk, texts in _rows_of(rows, survey, survey.chunks):
        for row, (added, reason) in zip(texts, results[chunk.key], strict=True):
            yield {**row, **nulls, **added, REASON: reason}


def _known(rows: Any) -> Mapping[str, Any]:
    """How the columns of a table are held; of a stream, maybe of none."""
    return getattr(rows, "features", None) or {}


def _features(scored: Iterator[dict[str, Any]], known: Mapping[str, Any]) -> Features:
    """How a table holds the scored rows: columns of a table as they were, others by a pass over their values."""
    import datasets

    found, large = {}, set()
    while some := list(islice(scored, ROWS_HELD)):
        some = [{name: row[name] for name in row if name not in known} for row in some]
        large |= {name for row in some for name in row if _is_large(row[name])}
        for name, feature in to_table(some).features.items():
            found[name] = _common(found[name], feature) if name in found else feature
    found |= dict.fromkeys(name for name in large if found[name] == datasets.Value("float64"))
    every = {**known, **found}
    names = sorted(every, key=lambda name: ADDED.index(name) if name in found and name in ADDED else -1)
    every[REASON] = datasets.Value("string")  # also where no row has one
    return datasets.Features({name: _writable(every[name]) or datasets.Json() for name in names})


def _is_large(value: Any) -> bool:
    """Whether it is a whole number that a float would change."""
    return isinstance(value, int) and abs(value) > LARGEST_EXACT


def _common(a: Any, b: Any) -> Any:
    """The feature that holds the values of both; None where only JSON does."""
    from datasets import List, Value

    if a == b or b == Value("null"):
        return a
    if a == Value("null"):
        return b
    if isinstance(a, Value) and isinstance(b, Value) and {a.dtype, b.dtype} == {"int64", "float64"}:
        return Value("float64")
    if isinstance(a, List) and isinstance(b, List):
        inner = _common(a.feature, b.feature)
        return None if inner is None else List(inner)
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        fields = {name: _common(a[name], b[name]) for name in a}
        return None if None in fields.values() else fields
    return None


def _writable(feature: Any) -> Any:
    """A feature that parquet can hold; None where there is a dict without fields, which it cannot, or nothing."""
    inner = [*feature.values()] if isinstance(feature, dict) else [getattr(feature, "feature", True)]
    return feature if inner and all(one is True or _writable(one) for one in inner) else None


def _counts(values: Iterable[list]) -> dict[str, int]:
    counts = {"rows": 0, "completions": 0, "unscored": 0}
    for value in values:
        for added, _ in value:
            sides = [column for name, column in added.items() if name != "margin"] or [None]
            scores = [score for side in sides for score in (side if isinstance(side, list) else [side])]
            counts["rows"] += 1
            counts["completions"] += len(scores)
            counts["unscored"] += scores.count(None)
    return counts


# --- the output


class Target:
    """Where the scored rows go: a jsonl or parquet file, or a folder of those; beside it lies how it was made."""

    def __init__(self, output: str | os.PathLike, dataset: Any):
        self.path = Path(output)
        self.is_device = self.path.exists() and not self.path.is_file() and not self.path.is_dir()
        named_folder = self.path.is_dir() or os.fspath(output).endswith(os.sep)
        self.is_folder = named_folder or not (self.path.suffix or self.is_device)
        self.is_parquet = self.is_folder or (self.path.suffix == ".parquet" and not self.is_device)
        self.source = Path(dataset).expanduser() if isinstance(dataset, (str, Path)) else None

    def check(self, push_to_hub: str | None) -> None:
        """Refuse what cannot be written, before any work."""
        path = self.path
        if not (self.is_folder or self.is_device or path.suffix in (".jsonl", ".parquet")):
            raise ValueError(f"{path} is of an unknown kind; name a .jsonl or .parquet file, or a folder")
        whole = path.resolve()
        if self.source is not None and self.source.exists() and self.source.resolve() in (whole, *whole.parents):
            raise ValueError(f"writing {path} would change the data, {self.source}; name an output outside of it")
        taken = any(path.iterdir()) if path.is_dir() else path.is_file()
        if taken and read_settings(path) is None:
            raise ValueError(f"{path} exists and is no output of score; name another one, or delete it")
        if not self.is_device:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        if push_to_hub is not None:
            from huggingface_hub import HfApi

            if self.is_device:
                raise ValueError(f"what {path} gets cannot be pushed to the hub; name a file or folder")
            try:
                HfApi().create_repo(push_to_hub, repo_type="dataset", exist_ok=True)
            except Exception as error:  # of huggingface_hub and its client: no token, no such owner, no connection
                raise ValueError(f"the data set {push_to_hub} cannot be written ({one_line(error)})") from error

    def shard(self, index: int, number: int) -> Path:
        """What the journal of a shard is named after."""
        if not 1 <= index <= number:
            raise ValueError(
                f"shard={index}/{number}, the first of {number} is 1/{number}, the last {number}/{number}"
            )
        return Path(f"{self.path}.shard-{index}-of-{number}")

    def journaled(self, name: Path) -> Path | None:
        """The path of a journal of this name; `None` for a device, which nothing can lie beside."""
        return None if self.is_device else name

    def finished(self, settings: dict[str, Any]) -> dict[str, int] | None:
        """The counts of an output that is whole; None where there is none yet."""
        if (found := read_settings(self.path)) is None:
            return None
        check_settings(self.path, found["settings"], settings)
        return found["counts"]

    def write(
        self,
        scored: Callable[[], Iterator[dict]],
        known: Mapping[str, Any],
        settings: dict[str, Any],
        counts: dict[str, int],
    ) -> None:
        """All rows; they appear whole."""
        if not self.is_parquet:
            with atomic_writer(self.path) as out:
                out.writelines(map(json_line, scored()))
                self._seal(settings, counts)
            return
        features, rows = _features(scored(), known), scored()
        with replacing(self.path) as part:
            if self.is_folder:
                part.mkdir()
                count = math.ceil(counts["rows"] / ROWS_PER_FILE)
                for number in range(count):
                    name = f"train-{number:05d}-of-{count:05d}.parquet"
                    _write_parquet(part / name, islice(rows, ROWS_PER_FILE), features)
            else:
                _write_parquet(part, rows, features)
            self._seal(settings, counts)

    def push(self, hub_id: str) -> None:
        """The rows of the whole output on the hub."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            path = self.path
            if not self.is_parquet:  # of lines `datasets` would hold all
                path, rows = Path(folder, "rows.parquet"), load_rows(path, streaming=True)
                _write_parquet(path, rows, _features(iter(rows), {}))
            load_rows(path).push_to_hub(hub_id)

    def _seal(self, settings: dict[str, Any], counts: dict[str, int]) -> None:
        if not self.is_device:
            write_settings(self.path, {"settings": settings, "counts": counts})


def _write_parquet(path: Path, rows: Iterable[dict], features: Features) -> None:
    import datasets
    import pyarrow
    from pyarrow import parquet

    schema, rows = features.arrow_schema, iter(rows)
    as_json = {name for name, feature in features.items() if isinstance(feature, datasets.Json)}
    plain = datasets.Features({name: feature for name, feature in features.items() if name not in as_json})
    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema) as writer:
            while some := list(islice(rows, ROWS_HELD)):
                texts = {
                    name: [None if row.get(name) is None else json.dumps(row[name]) for row in some]
                    for name in as_json
                }
                values = [plain.encode_example({name: row.get(name) for name in plain}) for row in some]
                columns = {name: texts.get(name) or [row[name] for row in values] for name in schema.names}
                writer.write_table(pyarrow.table(columns, schema=schema))
        os.fsync(file.fileno())


def _join(target: Target, rows: Iterable[dict], survey: Survey, settings: dict[str, Any]) -> dict[str, int]:
    """The output of all shards."""
    found = sorted(target.path.parent.glob(f"{escape(target.path.name)}.shard-*-of-*.journal"))
    if not found:
        if (whole := read_settings(target.path)) is not None:  # they were joined before
            return target.finished({**whole["settings"], **settings})
        raise ValueError(f"MODEL is missing, and no shards of {target.path} are there to join; name a model")
    numbers = {path.name.rsplit("-of-", 1)[1].removesuffix(".journal") for path in found}
    if len(numbers) > 1:
        raise ValueError(f"{target.path} has shards of {' and of '.join(sorted(numbers))}; delete those of one")
    number = int(numbers.pop())
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal(str(path).removesuffix(".journal"))) for path in found]
        made = journals[0].settings or {}
        for journal in journals:
            check_settings(journal.path, {**made, **settings}, journal.settings or {})
        results = ChainMap(*journals)
        missing = [
            f"{i}/{number}"
            for i, chunks in enumerate(_shares(survey, number, 1), start=1)
            if any(chunk.key not in results for chunk in chunks)
        ]
        if missing:
            raise ValueError(f"shard {', '.join(missing)} is not finished; run the command with its --shard again")
        counts = _counts(results[chunk.key] for chunk in survey.chunks)
        target.write(partial(_scored_rows, rows, survey, results), _known(rows), made, counts)
        for journal in journals:
            journal.finish()
    return counts
