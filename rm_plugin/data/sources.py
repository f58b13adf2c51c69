"""Data sources: a file, a folder, a hub id or an object of `datasets` becomes a table of raw rows.

    load_rows("pairs.jsonl")    load_rows("Anthropic/hh-rlhf", split="test[:500]")    load_rows("folder", split="test")

What a row means is read in `data/comparison.py`; here a row is a dict, as the source has it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import PART, WHITE_SPACE, opened, parse_json, read_json_list, read_jsonl
from ..messages import located, one_line
from .conversations import check_text, from_json
from .layouts import SCORE_COLUMNS, read_columns, select_columns, usual_rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

KINDS = (".jsonl", ".json", ".csv", ".parquet")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
JSON_COLUMNS = {"completions", "ranks", *SCORE_COLUMNS, "chat_template_kwargs"}  # of a csv file


def load_rows(
    source: str | Path | Dataset | IterableDataset | DatasetDict | IterableDatasetDict | list[dict[str, Any]],
    split: str | None = None,
    name: str | None = None,
    streaming: bool = False,
    data_dir: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | Sequence[str] | None = None,
) -> Dataset | IterableDataset:
    """
    Open a data set, wherever it is and whatever its columns are called.

    Args:
        source (`str`, `Path`, `Dataset`, `IterableDataset`, `DatasetDict`, `IterableDatasetDict` or `list[dict]`):
            Rows, as an object of `datasets` or a list; a file (jsonl, json, csv, each maybe `.gz`, or parquet); a
            folder of such files, whose splits are those that `datasets` sees (`train-0.parquet`, `test.jsonl`); a
            folder of `save_to_disk`; or else an id on the Hugging Face hub. A single file is split
            `train`.
        split (`str`, *optional*):
            Split, or in the language of `datasets` a part or a sum of splits: `"train[:10%]"`, `"train+test"`. May be
            left out where there is only one.
        name (`str`, *optional*):
            Configuration of a hub data set.
        streaming (`bool`, *optional*, defaults to `False`):
            Read while iterating, for what does not fit into memory: local text files are held there otherwise.
        data_dir (`str`, *optional*):
            Folder of a hub data set.
        revision (`str`, *optional*):
            Commit or branch of a hub data set.
        columns (`dict` or `list[str]`, *optional*):
            Which of its columns hold what, where they have other names than usual: `{"chosen": "text_chosen",
            "prompt": "instruction+input"}`, see [`rm_plugin.data.layouts.read_columns`].

    Returns:
        `Dataset`, or `IterableDataset` with `streaming=True`: raw rows, for [`rm_plugin.to_comparison`].

    Raises:
        ValueError: if nothing is there, it cannot be read, it has no rows, or the split is not in it.

    Example:
    ```python
    >>> from datasets import Dataset
    >>> pairs = Dataset.from_list([{"chosen": "yes", "rejected": "no"}] * 10)
    >>> len(load_rows(pairs)), len(load_rows(pairs, split="train[:30%]"))
    (10, 3)

    ```
    """
    import datasets

    columns = read_columns(columns)
    if isinstance(source, list) and all(isinstance(row, dict) for row in source):
        source = to_table(list(usual_rows(source, "the list")))
    if source in ("", {}) or not isinstance(source, str | Path | dict | datasets.Dataset | datasets.IterableDataset):
        raise ValueError(f"source={source!r} is no data; give a file, a folder, a hub id, a Dataset or a list of rows")
    if split is not None and not isinstance(split, str):
        raise ValueError(f"split={split!r} is no name of a split; write 'train' or 'train[:10%]'")
    path = Path(source).expanduser() if isinstance(source, str | Path) else None
    where = f"the {type(source).__name__}" if path is None else str(source)
    on_hub = isinstance(source, str) and not path.exists() and HUB_ID.fullmatch(source) and not kind_of(path)
    if name is not None and not on_hub:
        raise ValueError(f"name={name!r} is for hub data sets, which {where} is not; leave it out")
    if on_hub:
        options = {"split": split, "streaming": streaming, "data_dir": data_dir, "revision": revision}
        splits = _load_from_hub(source, name, **options)
    else:
        splits = source if path is None else find_splits(path)
    if not isinstance(splits, dict):  # one table; the hub's is that of the split already
        splits, split = {str(splits.split or "train").split("[")[0]: splits}, None if on_hub else split
    rows = _with_usual_rows(_take_split(splits, split, where, streaming), where, streaming)
    if isinstance(rows, datasets.Dataset) and len(rows) == 0:
        raise ValueError(f"{where} has 0 rows{f' in split {split!r}' if split else ''}; give at least one")
    if columns and isinstance(rows, datasets.Dataset) and not streaming:
        rows = to_table(list(_selected(rows, columns, where)))
    elif columns:
        options = {"rows": rows, "columns": columns, "where": where}
        rows = datasets.IterableDataset.from_generator(_selected, gen_kwargs=options)
    return rows.to_iterable_dataset() if streaming and isinstance(rows, datasets.Dataset) else rows


def _with_usual_rows(rows: Dataset | IterableDataset, where: str, streaming: bool) -> Dataset | IterableDataset:
    """A table as [`usual_rows`] has its rows; of a stream, which is not read yet, the columns say if it has trees."""
    import datasets

    if isinstance(rows, datasets.Dataset):
        start = [rows[i] for i in range(min(2, len(rows)))]
        held = list(usual_rows(start, where))
        is_usual = len(held) == len(start) and all(a is b for a, b in zip(start, held, strict=True))
    else:
        prompt = (rows.features or {}).get("prompt")
        is_usual = not (isinstance(prompt, dict) and "replies" in prompt)
    if is_usual:
        return rows
    if isinstance(rows, datasets.Dataset) and not streaming:
        return to_table(list(usual_rows(rows, where)))
    return datasets.IterableDataset.from_generator(usual_rows, gen_kwargs={"rows": rows, "where": where})


def hub_ids(rows: Any) -> list[str]:
    """Ids of the hub data sets that a table was loaded from, as `datasets` keeps them."""
    files = (getattr(getattr(rows, "info", None), "download_checksums", None) or {}).keys()
    return list(dict.fromkeys(found[1] for file in files if (found := re.match(r"hf://datasets/([^@]+)@", file))))


def _selected(rows: Dataset | IterableDataset, columns: dict[str, str], where: str) -> Iterator[dict[str, Any]]:
    for i, row in enumerate(rows):
        with located(f"{where} row {i}"):
            selected = select_columns(row, columns)
        yield selected


def _load_from_hub(source: str, name: str | None, **options: Any) -> Any:
    """A hub data set, from the cache where the hub cannot be reached; one line where neither has it."""
    import datasets

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # offline it writes a dozen lines about its retries before the error that counts
    try:
        return datasets.load_dataset(source, name, **options)
    except Exception as error:  # some ten types, of datasets, huggingface_hub, fsspec and pyarrow
        raise ValueError(
            f"{source!r} is no file or folder here, and the hub did not give it ({one_line(error)}); "
            "check the path or id, and the connection"
        ) from error
    finally:
        logger.setLevel(level)


def is_saved_dataset(path: Path) -> bool:
    """Whether it is a folder of `save_to_disk`."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def find_splits(path: Path) -> Dataset | dict[str, Any]:
    """What a local path holds: what `save_to_disk` wrote, or for each split the files, which are still to be read."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns

    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file, a folder, or a hub id such as Anthropic/hh-rlhf")
    if path.is_file():
        if not kind_of(path):
            raise ValueError(f"{path} is of an unknown kind; give one of {', '.join(KINDS)} (text maybe with .gz)")
        return {"train": [path]}
    if is_saved_dataset(path):
        with located(f"{path} cannot be read, save it again"):
            return datasets.load_from_disk(str(path))
    try:
        found = DataFilesDict.from_patterns(get_data_patterns(str(path)), str(path), list(KINDS))
    except FileNotFoundError:  # of `datasets`: nothing is there
        found = {}
    files = {str(split): [Path(file) for file in names if kind_of(Path(file))] for split, names in found.items()}
    if not any(files.values()):
        raise ValueError(f"{path} has no data in it; it needs files of {', '.join(KINDS)}, or those of save_to_disk")
    return {split: names for split, names in files.items() if names}


def _take_split(splits: dict[str, Any], split: str | None, where: str, streaming: bool) -> Dataset | IterableDataset:
    """The rows of `split`, which is the name of a split, a part (`train[:10%]`) or a sum (`train+test`) of them."""
    import datasets

    if split is None and len(splits) > 1:
        raise ValueError(f"{where} has the splits {', '.join(splits)}; choose one with split=")
    split = split or next(iter(splits))
    names = [part.split("[")[0].strip() for part in split.split("+")]
    is_part, tables = split not in names, {}
    for name in names:
        if name not in splits:
            raise ValueError(f"split {name!r} is not in {where}, which has {', '.join(splits)}; choose one of these")
        found = splits[name]
        if isinstance(found, datasets.IterableDataset) and is_part:
            raise ValueError(f"split={split!r} takes a part or a sum, which a stream cannot give; use streaming=False")
        tables[name] = _read_files(found, streaming, is_part) if isinstance(found, list) else found
    if not is_part:
        return tables[split]
    with located(f"split={split!r} is not understood, write 'train[:10%]'"):
        instruction = datasets.ReadInstruction.from_spec(split)
        parts = instruction.to_absolute({name: _num_rows(table) for name, table in tables.items()})
    if any(isinstance(table, datasets.IterableDataset) for table in tables.values()):
        options = {"tables": tables, "parts": tuple(parts)}  # a list would be taken for shards
        return datasets.IterableDataset.from_generator(_iterate_parts, gen_kwargs=options)
    return datasets.concatenate_datasets([tables[part.splitname].select(range(part.from_, part.to)) for part in parts])


def _num_rows(table: Dataset | IterableDataset) -> int:
    return len(table) if hasattr(table, "__len__") else sum(1 for _ in table)


def _iterate_parts(tables: dict[str, Dataset | IterableDataset], parts: tuple) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield from islice(tables[part.splitname], part.from_, part.to)


def _read_files(paths: list[Path], streaming: bool, is_part: bool) -> Dataset | IterableDataset:
    """
    One table of all files; no stream of parquet files where a part is wanted, which a table on disk gives at once.

    Text files are parsed here: the readers of pyarrow and pandas turn a completion `"4"` into a number,
    `"2020-01-01"` into a date and `"NA"` into null.
    """
    import datasets

    names = [str(path) for path in paths]
    if {kind_of(path) for path in paths} == {".parquet"}:
        with located(f"{', '.join(names)} cannot be read as a table"):
            streaming = streaming and not is_part
            return datasets.load_dataset("parquet", data_files=names, split="train", streaming=streaming)
    if streaming:
        return datasets.IterableDataset.from_generator(_iterate_files, gen_kwargs={"paths": names})
    return to_table(list(_iterate_files(names)))


def to_table(rows: list[dict[str, Any]]) -> Dataset:
    """
    Rows as a table that gives back what was put in, also where a column holds values of several types or shapes.

    Columns are the union over all rows, since `Dataset.from_list` and `from_generator` drop what the first rows lack.
    What Arrow would change becomes `Json`, already encoded: `Json` takes a string that happens to be JSON, such as the
    reply `"4"`, for encoded JSON and gives back the number (datasets 5.2).
    """
    import datasets
    import pyarrow as pa

    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        for i, value in enumerate(values):  # `Json` would silently drop half a character
            if isinstance(value, str | list | dict):
                check_text(json.dumps(value, ensure_ascii=False, default=str), f"row {i}: `{name}`")
        try:
            columns[name] = pa.array(values)
            got = columns[name].to_pylist()
            kept = got == values or repr(got) == repr(values)  # NaN is unequal to itself
        except (pa.ArrowException, OverflowError):
            kept = False
        if not kept:
            texts = [None if value is None else json.dumps(value) for value in values]
            columns[name] = pa.array(texts, pa.json_())
    return datasets.Dataset(pa.table(columns))


def _iterate_files(paths: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of text files."""
    for path in paths:
        yield from _csv_rows(path) if kind_of(Path(path)) == ".csv" else usual_rows(_json_rows(path), path)


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, of JSON lines, or a single one, whatever the file is called."""
    with opened(path) as file:
        start = b""
        while not start.strip(WHITE_SPACE) and (some := file.readline(PART)):
            start += some
        is_spread = start.strip(WHITE_SPACE) == b"{"
        text = start + file.read() if is_spread else b""
    if is_spread:
        yield parse_json(text, path)
    elif start.lstrip(WHITE_SPACE).startswith(b"["):
        for i, row in enumerate(read_json_list(path)):
            if not isinstance(row, dict):
                raise ValueError(f"{path}: item {i} is of type {type(row).__name__}; every row must be a JSON object")
            yield row
    else:
        yield from (row for _, row in read_jsonl(path))


def _csv_rows(path: str) -> Iterator[dict[str, Any]]:
    """The lines of a csv file with a header. Cells are text; in columns of lists they are JSON."""
    csv.field_size_limit(2**31 - 1)  # transcripts are longer than the default of 131,072
    with opened(path) as file:
        reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        columns = reader.fieldnames or []
        if twice := [column for column in columns if columns.count(column) > 1]:
            raise ValueError(f"{path} has the column {twice[0]!r} twice; rename one")
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{path} line {reader.line_num} has more cells than the header's {len(columns)}; "
                    "put cells with commas in quotes"
                )
            yield {name: from_json(cell) if name in JSON_COLUMNS else cell for name, cell in row.items()}


def kind_of(path: Path) -> str | None:
    """`.csv` for `a.csv` and `a.csv.gz`; `None` for what is no data file."""
    name = path.name.lower()
    return next((kind for kind in KINDS if name.endswith((kind, f"{kind}.gz"))), None)
