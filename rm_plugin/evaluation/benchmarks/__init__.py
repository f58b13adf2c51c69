"""Benchmarks: rows in their original schema ► `Comparison`, and the official score of the scored comparisons.

    data = load_benchmark("llmbar", source="LLMBar/Dataset/LLMBar")      # without a source: from the hub
    items = data.benchmark.score_items([(comparison, my_model(comparison)) for comparison in data.comparisons])
    data.benchmark.formula(items.means())["score"]

One file per family holds what is known of it: schema (a small function `row -> Comparison`, which keeps its quirks to
itself), items, formula and source. To add a benchmark is to write such a file and to name it in `BENCHMARKS`; one that
stays outside of the package is named as `module:NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.layouts import read_columns
from ...messages import check_at_least, check_choice
from ...scoring.functions import import_dotted, is_dotted_path
from . import (
    judgebench,
    llmbar,
    plan_rewardbench,
    ppe,
    preferences,
    rewardbench,
    rewardbench2,
    rewardmath,
    rm_bench,
    rmb,
    themis,
)
from .base import Benchmark, Part
from .conversations import as_messages
from .loading import LoadedBenchmark, choose_parts, hub_tables, read_comparisons, source_tables

__all__ = [
    "BENCHMARKS",
    "SUITES",
    "Benchmark",
    "LoadedBenchmark",
    "Part",
    "as_messages",
    "get_benchmark",
    "load_benchmark",
]

OFFICIAL = [rewardbench, rewardbench2, rm_bench, judgebench, ppe, rmb, llmbar, plan_rewardbench, themis, rewardmath]
FAMILIES = [*OFFICIAL, preferences]  # with formulas of their own, and by accuracy
BENCHMARKS: dict[str, Benchmark] = {name: one for family in FAMILIES for name, one in family.BENCHMARKS.items()}

# Each column of the row that papers print: the benchmarks that it is the mean of, and which number of their reports.
SUITES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "skywork": {
        "RewardBench": [("rewardbench", "score")],
        "RewardBench 2": [("rewardbench-2", "score")],
        "PPE preference": [("ppe-human-preference", "score")],
        "PPE correctness": [(f"ppe-{name}", "score") for name in ("mmlu-pro", "math", "gpqa", "mbpp-plus", "ifeval")],
        "RMB": [("rmb", "score")],
        "RM-Bench": [("rm-bench", "score")],
        "JudgeBench micro": [("judgebench", "score")],
        "JudgeBench macro": [("judgebench", "section/macro")],
    },
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name; `module:NAME` imports one of the user's, which is then known by that name."""
    if name not in BENCHMARKS and is_dotted_path(name):
        found = import_dotted(name)
        if not isinstance(found, Benchmark):
            raise ValueError(f"{name} is a {type(found).__name__}; make it a Benchmark, as docs/benchmarks.md shows")
        BENCHMARKS[name] = found
    check_choice("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def load_benchmark(
    name: str,
    source: Any = None,
    *,
    split: str | None = None,
    config: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    on_bad_row: str = "error",
    on_empty: str = "keep",
    columns: Mapping[str, str] | Sequence[str] | None = None,
) -> LoadedBenchmark:
    """
    Read a benchmark, from the hub or from a local copy in its original schema.

    Args:
        name (`str`):
            A name in `BENCHMARKS`, or `"module:NAME"` of a [`Benchmark`] of the user's; `"preference"` takes any
            preference data.
        source (`str`, `Path`, `Dataset`, `DatasetDict` or `list[dict]`, *optional*):
            A local copy: a file or a folder of files (jsonl, json, parquet, text maybe with .gz), a folder of
            `save_to_disk`, an object; or the id of another copy on the hub. Left out: the benchmark's hub data set.
        split (`str`, *optional*):
            Split to read. By default the benchmark's.
        config (`str`, *optional*):
            Configuration of the hub data set.
        subset (`str`, *optional*):
            Name of the part that `source` holds, for schemas whose rows do not say it (RM-Bench's domain, LLMBar's
            set). By default the name of the file.
        limit (`int`, *optional*):
            Stop after so many comparisons.
        on_bad_row (`str`, *optional*, defaults to `"error"`):
            `"skip"` leaves bad rows out, and lists them; a row that lacks a column or has null in it is one of them.
        on_empty (`str`, *optional*, defaults to `"keep"`):
            What becomes of a comparison with an empty reply: `"keep"` compares it like any other, `"skip"` leaves it
            out, `"error"` stops. The report counts them.
        columns (`dict` or `list[str]`, *optional*):
            Of `"preference"`: which columns hold what, as in [`load_rows`].

    Returns:
        [`LoadedBenchmark`]

    Raises:
        ValueError: for an unknown name, a missing source, another schema (naming the missing column and those found),
            a split or configuration that is not there, a bad row, or no comparisons.

    Example:
    ```python
    >>> rows = [{"input": "2+2?", "output_1": "5", "output_2": "4", "label": 2}]
    >>> comparison = load_benchmark("llmbar", rows, subset="Natural").comparisons[0]
    >>> comparison.chosen, comparison.rejected, comparison.subset
    (['4'], ['5'], 'Natural')

    ```
    """
    benchmark = get_benchmark(name)
    check_choice("on_bad_row", on_bad_row, ("error", "skip"))
    check_choice("on_empty", on_empty, ("error", "keep", "skip"))
    if columns and name != "preference":
        raise ValueError(f"columns cannot be applied to {name}, which has its own; leave it out, or take --data")
    check_at_least(1, limit=limit)
    if subset is not None and not benchmark.subset_in_file_name:
        raise ValueError(f"subset={subset!r} cannot be applied to {name}, whose rows say their subset; leave it out")
    if source is not None:
        where, commit = str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}", None
        tables = source_tables(benchmark, source, split, config, read_columns(columns))
    elif benchmark.parts:
        parts = choose_parts(name, benchmark.parts, split, config)
        where, commit = " + ".join(dict.fromkeys(part.hub for part in parts)), parts[0].commit
        tables = hub_tables(name, parts)
    else:
        get_files = f"get the files from {benchmark.files} and " if benchmark.files else ""
        raise ValueError(f"{name} has no loadable copy on the hub; {get_files}name their path with --source PATH")
    data = LoadedBenchmark(name, benchmark, where, commit, limit=limit, on_empty=on_empty)
    return read_comparisons(data, tables, subset, on_bad_row)
