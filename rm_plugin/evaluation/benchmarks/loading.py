"""The comparisons of a benchmark from the hub, from files and folders in its original schema, or from objects.

tables = source_tables(benchmark, "LLMBar/Dataset/LLMBar")
data = read_comparisons(LoadedBenchmark("llmbar", benchmark, "LLMBar/Dataset/LLMBar"), tables)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ...data.comparison import Comparison, EmptyReplies, is_empty, text_key
from ...data.layouts import BadLayout, usual_rows
from ...data.sources import find_splits, is_saved_dataset, kind_of, load_rows
from ...messages import explained, located, one_line, shorten
from .base import Benchmark, Part, Row, cluster_of

KINDS = (".jsonl", ".json", ".parquet")  # of a benchmark's files
DATA_NAMES = ("dataset", "data", "train", "validation", "test")  # of files that are called after their folder


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
        limit (`int`, *optional*): size of the sample that was drawn, if one was asked for.
        on_empty (`str`): whether comparisons with an empty reply are kept (`"keep"`) or left out (`"skip"`).
        num_empty (`int`): how many these are.
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
    on_empty: str = "keep"
    num_empty: int = 0

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
                # The columns of the row that a judge reads are in the plan of its calls.
                "metadata": sorted((k, v) for k, v in (comparison.metadata or {}).items() if k != "row"),
            }
            digest.update(json.dumps(values, default=_plain).encode())
        return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What a table may hold besides JSON, for a digest: arrays and numpy's numbers as lists, all else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


Table = tuple[str, str | None, Callable[[], Iterable[dict]]]
"""Name of its file, configuration or split; the split that it is; what opens its rows."""


def read_comparisons(
    data: LoadedBenchmark,
    tables: list[Table],
    subset: str | None = None,
    on_bad_row: str = "error",
) -> LoadedBenchmark:
    """Fill `data` from its tables."""
    data.split = "+".join(dict.fromkeys(split for _, split, _ in tables if split)) or None
    seen: Counter[str] = Counter()
    for number, (origin, index, row) in enumerate(_rows(data, tables)):
        where = f"{origin} row {index}" if origin else f"row {index}"
        try:
            comparison = data.benchmark.row(row, subset or origin)
        except Exception as error:  # anything: a benchmark may be the user's
            if data.on_empty == "skip" and isinstance(error, EmptyReplies):
                data.num_empty += 1
                continue
            column = "" if isinstance(error, ValueError) or not row.column else f" column {row.column!r}:"
            cause = f"{where}:{column} {one_line(error)}"
            if on_bad_row == "error" or isinstance(error, BadLayout):
                raise ValueError(f"{data.name}: {cause}") from error
            data.bad_rows.append(cause)
            continue
        if comparison is None:
            data.no_preference.append(number)
            continue
        if not isinstance(comparison, Comparison):
            shown = f"{type(comparison).__name__} of row {index}; it must return a Comparison, or None"
            raise ValueError(f"{data.name}: its function of a row returns a {shown}")
        if data.on_empty != "keep" and has_empty_reply(comparison):
            if data.on_empty == "error":
                fix = "write it, or compare it as it is (on_empty='keep') or leave it out ('skip')"
                raise ValueError(f"{data.name}: {where}: a reply is empty; {fix}")
            data.num_empty += 1
            continue
        key = str(number if comparison.id is None else comparison.id)
        seen[key] += 1
        comparison.id = key if seen[key] == 1 else f"{key}#{seen[key]}"
        cluster = text_key(comparison.prompt or comparison.id)
        comparison.metadata = {"cluster": cluster, **(comparison.metadata or {}), "row": dict(row)}
        data.comparisons.append(comparison)
    if not data.comparisons:
        counts = f"{data.num_rows} rows, {len(data.no_preference)} without a preference, {len(data.bad_rows)} bad"
        first = "".join(f", the first: {cause}" for cause in data.bad_rows[:1])
        raise ValueError(f"{data.name}: no comparisons in {data.source} ({counts}{first}); check the source")
    if data.limit is not None:
        data.comparisons = balanced_sample(data.comparisons, data.limit)
    data.num_empty += sum(map(has_empty_reply, data.comparisons))
    _check_score(data)
    return data


def _check_score(data: LoadedBenchmark) -> None:
    """Refuse items and a formula that do not give a score, before anything is computed for it."""
    with located(f"{data.name}: its score cannot be computed"):
        zeros = [np.zeros(len(comparison.completions)) for comparison in data.comparisons]
        means = data.benchmark.score_items(list(zip(data.comparisons, zeros, strict=True))).means()
        if not means:
            raise ValueError("no comparison gives an item; items must return one Item or more per comparison")
        found = data.benchmark.formula({group: np.full(2, mean) for group, mean in means.items()})  # as of resamples
        if not isinstance(found, Mapping) or "score" not in found:
            raise ValueError(f"formula returns {shorten(repr(found))}; it must return a dict with a 'score'")


def has_empty_reply(comparison: Comparison) -> bool:
    """Whether a completion says nothing."""
    return any(map(is_empty, comparison.completions))


def balanced_sample(comparisons: list[Comparison], limit: int) -> list[Comparison]:
    """
    `limit` comparisons in their order, drawn with seed 0, from each subset as many as from the others if it has them;
    the two prompts of a tie stay together, which may make one more.
    """
    subsets: dict[str | None, dict[Any, list[int]]] = {}
    for index in Random(0).sample(range(len(comparisons)), len(comparisons)):
        one = comparisons[index]
        unit = cluster_of(one) if "ties" in (one.metadata or {}) else index
        subsets.setdefault(one.subset, {}).setdefault(unit, []).append(index)
    chosen: list[int] = []
    for unit in chain.from_iterable(zip_longest(*(units.values() for units in subsets.values()), fillvalue=())):
        chosen += unit if len(chosen) < limit else ()
    return [comparisons[index] for index in sorted(chosen)]


def _rows(data: LoadedBenchmark, tables: list[Table]) -> Iterator[tuple[str, int, Row]]:
    """Every row with the name of its table and its index there; counts the rows read."""

    def counted(rows: Iterable[dict]) -> Iterator[Row]:
        for row in rows:
            data.num_rows += 1
            yield Row(row)

    for origin, _, opened in tables:
        with explained(f"{data.name}: its rows cannot be read"):
            for index, row in enumerate(data.benchmark.regroup(counted(opened()))):
                yield origin, index, row if isinstance(row, Row) else Row(row)


def hub_tables(name: str, parts: tuple[Part, ...]) -> list[Table]:
    """The tables of a benchmark on the hub."""

    def load(part: Part) -> Iterable[dict]:
        try:
            return load_rows(part.hub, part.split, part.config, data_dir=part.data_dir, revision=part.revision)
        except ValueError as error:
            raise ValueError(f"{name}: {error}; or give a local copy with --source PATH") from error

    return [(part.config or part.split, part.split, partial(load, part)) for part in parts]


def choose_parts(name: str, parts: tuple[Part, ...], split: str | None, config: str | None) -> tuple[Part, ...]:
    """The parts of this split and configuration; of a benchmark of one part, any split and configuration of it."""
    asked = {key: value for key, value in (("config", config), ("split", split)) if value}
    if len(parts) == 1:
        return (replace(parts[0], **asked),)
    chosen = tuple(part for part in parts if asked.items() <= vars(part).items())
    if not chosen:
        known = ", ".join(dict.fromkeys(" ".join(filter(None, (part.config, part.split))) for part in parts))
        words = ", ".join(f"{key}={value!r}" for key, value in asked.items())
        raise ValueError(f"{name} has no table of {words}; it has {known}: choose one of these, or leave it out")
    return chosen


def source_tables(
    benchmark: Benchmark, source: Any, split: str | None, config: str | None, columns: dict[str, str] | None = None
) -> list[Table]:
    """The tables of a file, a folder, an object, or another data set on the hub."""
    path = Path(source).expanduser() if isinstance(source, str | Path) else None
    is_local = path is None or path.exists()
    if config is not None and is_local:
        raise ValueError(f"config={config!r} is for hub data sets, which {path or 'an object'} is not; leave it out")
    if isinstance(source, list) and all(isinstance(row, dict) for row in source) and split is None and not columns:
        return [("", None, lambda: usual_rows(source, "the list"))]
    if path is not None and is_saved_dataset(path):
        source = find_splits(path)
    elif path is not None and is_local and (benchmark.parts or benchmark.files):
        files = _choose_files(path, benchmark, split)
        return [
            (_origin_of(file), one or split, partial(load_rows, file, None if one else split)) for file, one in files
        ]
    known = source if isinstance(source, dict) else () if is_local else benchmark.splits
    splits = [split] if split else [one for one in benchmark.splits if one in known] or [None]
    return [(one or "", one, partial(load_rows, source, one, config, columns=columns)) for one in splits]


def _choose_files(path: Path, benchmark: Benchmark, split: str | None) -> list[tuple[Path, str | None]]:
    """
    A file, or those data files of a folder that are named after the benchmark's folder or configuration and its split,
    where some are; each with the split that its name says.
    """
    from datasets.data_files import FILES_TO_IGNORE  # descriptions that lie beside the data

    files = {path.name: path}
    if path.is_dir():
        found = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*"))}
        kept = [name for name, file in found.items() if kind_of(file) in KINDS and "/." not in f"/{name}"]
        files = {name: found[name] for name in kept if found[name].name not in FILES_TO_IGNORE}
    if not files:
        raise ValueError(f"{path} has no data file in it; it needs files of {', '.join(KINDS)}")
    folders = {name for part in benchmark.parts for name in (part.data_dir, part.config)}
    files = {name: file for name, file in files.items() if folders & {*name.split("/")[:-1]}} or files
    whole = [(file, None) for file in files.values() if file.name == benchmark.whole]
    if whole and not split:
        return whole
    named = [
        (file, one)
        for one in ([split] if split else benchmark.splits)
        for name, file in files.items()
        if re.search(rf"(?i)(?<![a-z0-9]){re.escape(one)}(?![a-z0-9])", name)
    ]
    if split and not named and path.is_dir():
        shown = ", ".join([*files][:5]) + ", …" * (len(files) > 5)
        raise ValueError(f"split {split!r} is in no file name of {path} ({shown}); name another, or leave it out")
    return named or [(file, None) for file in files.values()]


def _origin_of(file: Path) -> str:
    """What a file is called: `chat_filtered.json` ► chat_filtered, `Adversarial/Neighbor/dataset.json` ► Neighbor."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", file.name.split(".")[0])
    return file.absolute().parent.name if stem in DATA_NAMES else stem
