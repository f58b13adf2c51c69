"""The comparisons of a benchmark from the hub, from files and folders in its original schema, or from objects.

data = load_rows_of(LoadedBenchmark("llmbar", benchmark, "LLMBar/Dataset/LLMBar"), "LLMBar/Dataset/LLMBar")
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...data.comparison import Comparison, text_key
from ...data.sources import load_rows
from ...messages import one_line
from .base import Benchmark, Part, Row

KINDS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")


@dataclass
class LoadedBenchmark:
    """
    The comparisons of a benchmark, and where they come from.

    Args:
        name (`str`): name in `BENCHMARKS`.
        benchmark (`Benchmark`): its entry there.
        source (`str`): hub id, file or folder.
        revision (`str`, *optional*): pinned commit of the hub data; `None` if unpinned or local.
        comparisons (`list[Comparison]`): with unique ids, and `metadata["cluster"]`.
        num_rows (`int`): rows read.
        no_preference (`list[int]`): indices of rows that state no preference.
        bad_rows (`list[str]`): table, index and cause of rows that `on_bad_row="skip"` left out.
        split (`str`, *optional*): split that was read (`+` between several); `None` where the source names none.
        limit (`int`, *optional*): how many comparisons reading stopped at, if it was told to.
    """

    name: str
    benchmark: Benchmark
    source: str
    revision: str | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    num_rows: int = 0
    no_preference: list[int] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)
    split: str | None = None
    limit: int | None = None

    @property
    def fingerprint(self) -> str:
        """
        SHA-256 of every field of every comparison, in their order: scores and metrics depend on nothing else of the
        data. Equal data have an equal fingerprint, wherever they come from and in whatever form a text is given.
        """
        digest = hashlib.sha256()
        for comparison in self.comparisons:
            values = {
                **vars(comparison),
                # Looked up by name; what is inside keeps its order, in which templates write it out.
                "chat_template_kwargs": sorted((comparison.chat_template_kwargs or {}).items()),
                "metadata": sorted((comparison.metadata or {}).items()),
            }
            digest.update(json.dumps(values, default=_plain).encode())
        return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What a table may hold besides JSON, for a digest: arrays and numpy's numbers as lists, all else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_comparisons(
    data: LoadedBenchmark, source: Any, split: str | None, config: str | None, subset: str | None, on_bad_row: str
) -> LoadedBenchmark:
    """Fill `data` from its source."""
    seen: Counter[str] = Counter()
    for number, (origin, index, row) in enumerate(_rows(data, source, split, config)):
        try:
            comparison = data.benchmark.row(row, subset or origin)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            column = "" if isinstance(error, ValueError) else f" column {row.column!r}:"
            cause = f"{origin and f'{origin} '}row {index}:{column} {one_line(error)}"
            if on_bad_row == "error":
                raise ValueError(f"{data.name}: {cause}") from error
            data.bad_rows.append(cause)
            continue
        if comparison is None:
            data.no_preference.append(number)
            continue
        key = str(number if comparison.id is None else comparison.id)
        seen[key] += 1
        comparison.id = key if seen[key] == 1 else f"{key}#{seen[key]}"
        comparison.metadata = {"cluster": text_key(comparison.prompt or comparison.id), **(comparison.metadata or {})}
        data.comparisons.append(comparison)
        if len(data.comparisons) == data.limit:
            break
    if not data.comparisons:
        bad = f"{len(data.bad_rows)} bad" + "".join(f", the first: {cause}" for cause in data.bad_rows[:1])
        raise ValueError(
            f"{data.name}: no comparisons in {data.source} ({data.num_rows} rows, {len(data.no_preference)} without a "
            f"preference, {bad}); check the source"
        )
    return data


def choose_parts(name: str, parts: tuple[Part, ...], split: str | None, config: str | None) -> tuple[Part, ...]:
    """The tables of this split and configuration; of a benchmark of one table, any split and configuration of it."""
    chosen = tuple(part for part in parts if split in (None, part.split) and config in (None, part.config))
    if not chosen and len(parts) == 1:
        return (replace(parts[0], split=split or parts[0].split, config=config or parts[0].config),)
    if not chosen:
        known = ", ".join(dict.fromkeys(" ".join(filter(None, (part.config, part.split))) for part in parts))
        asked = ", ".join(f"{key}={value!r}" for key, value in (("config", config), ("split", split)) if value)
        raise ValueError(f"{name} has no table of {asked}; it has {known}: choose one of these, or leave it out")
    return chosen


def _rows(data: LoadedBenchmark, source: Any, split: str | None, config: str | None) -> Iterator[tuple[str, int, Row]]:
    """Every row with the name of its table and its index there; counts the rows read."""

    def counted(rows: Iterable[dict]) -> Iterator[Row]:
        for row in rows:
            data.num_rows += 1
            yield Row(row)

    regroup = data.benchmark.regroup or iter
    for origin, rows in _tables(data, source, split, config):
        for index, row in enumerate(regroup(counted(rows))):
            yield origin, index, row


def _tables(
    data: LoadedBenchmark, source: Any, split: str | None, config: str | None
) -> Iterator[tuple[str, Iterable[dict]]]:
    """
    The tables of a benchmark, each with its origin: the name of its file, configuration or split. Notes in `data` what
    split they are.
    """
    benchmark, path = data.benchmark, Path(source).expanduser() if isinstance(source, str | Path) else None
    is_local = source is not None and (path is None or path.exists())
    if config is not None and is_local:
        raise ValueError(f"config={config!r} is for hub data sets, which {data.source} is not; leave it out")
    saved = path is not None and [name for name in ("dataset_dict.json", "state.json") if (path / name).exists()]
    if source is None:
        data.split = benchmark.split
        for part in benchmark.parts:
            yield part.config or part.split, _load_part(data.name, part)
    elif isinstance(source, list) and split is None:
        yield "", source
    elif is_local and path is not None and not saved and (benchmark.parts or benchmark.files):
        files, data.split = _choose_files(path, benchmark, split)
        for file in files:
            yield _origin_of(file), load_rows(file, split=split if data.split is None else None)
    else:  # an object, any preference data, a folder of save_to_disk, or an id on the hub
        there = json.loads((path / saved[0]).read_text("utf-8")).get("splits", ()) if saved else source
        there = there if saved or isinstance(source, dict) else ()
        splits = [split] if split else [one for one in benchmark.splits if not is_local or one in there]
        data.split = "+".join(splits) or None
        for one in splits or [None]:
            yield one or "", load_rows(source, split=one, name=config)


def _load_part(name: str, part: Part) -> Iterable[dict]:
    try:
        return load_rows(part.hub, part.split, part.config, data_dir=part.data_dir, revision=part.revision)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; or give a local copy with --source PATH") from error


def _choose_files(path: Path, benchmark: Benchmark, split: str | None) -> tuple[list[Path], str | None]:
    """
    A file, or those data files of a folder that are named after the benchmark's folder or configuration and its split,
    where some are; and the split that their names say.
    """
    from datasets.data_files import FILES_TO_IGNORE  # descriptions that lie beside the data

    folder = path if path.is_dir() else path.parent
    files = [file for file in sorted(path.rglob("*")) if file.name not in FILES_TO_IGNORE] if path.is_dir() else [path]
    inside = {file: file.relative_to(folder) for file in files}
    if path.is_dir():
        files = [file for file in files if file.name.lower().endswith(KINDS) and "/." not in f"/{inside[file]}"]
    if not files:
        raise ValueError(f"{path} has no data file in it; it needs files of {', '.join(KINDS)}")
    folders = {name for part in benchmark.parts for name in (part.data_dir, part.config)}
    files = [file for file in files if folders & {*inside[file].parts[:-1]}] or files
    whole = [file for file in files if file.name == benchmark.whole]
    if whole and not split:
        return whole, None
    named: dict[str, list[Path]] = {}
    for name in [split] if split else benchmark.splits:
        word = re.compile(f"(?:^|[^a-z0-9]){re.escape(name)}(?:[^a-z0-9]|$)", re.IGNORECASE)
        if found := [file for file in files if word.search(inside[file].as_posix())]:
            named[name] = found
    if split and not named and path.is_dir():
        shown = ", ".join(str(inside[file]) for file in files[:5]) + ", …" * (len(files) > 5)
        raise ValueError(f"split {split!r} is in no file name of {path} ({shown}); name another, or leave it out")
    return [file for found in named.values() for file in found] or files, "+".join(named) or None


def _origin_of(file: Path) -> str:
    """What a file is called: `chat_filtered.json` ► chat_filtered, `Adversarial/Neighbor/dataset.json` ► Neighbor."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", file.name.split(".")[0])
    return file.absolute().parent.name if stem in ("dataset", "data", "train", "validation", "test") else stem
