"""Runs side by side: models × benchmarks with intervals and significance tiers; and whether A and B really differ.

    board = build_leaderboard(["runs"])        # every folder below that holds a report.json
    html, markdown, csv = board.to_html(), board.to_markdown(), board.to_csv()
    compare_runs("runs/a", "runs/b")           # paired, on the same items

Runs are put together by benchmark and data: a leaderboard compares models on the same items or not at all, so a
benchmark with two versions of its data makes two tables. Baselines are rows; published scores stand beside them for
context, without interval or tier, since their items are not known.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..messages import terminal_text
from ..metrics.statistics import compare_by_subset, compare_models, minimum_detectable_difference, significance_tiers
from .benchmarks import get_benchmark
from .figures import accuracy_bars
from .harness import read_about
from .page import Section, figure_html, figures_html, paragraph_html, render_page, table_html
from .report import BASELINE_NAMES, bounds, data_title, markdown_table, markdown_text, percent, remarks
from .results import official_arguments

__all__ = ["Leaderboard", "Run", "build_leaderboard", "compare_runs", "find_runs"]

ALPHA = 0.05


@dataclass
class Run:
    """
    One finished evaluation on disk.

    Args:
        folder (`Path`): where it is.
        report (`dict`): its `report.json`.
        items (`dict`): its `items.json`: groups, clusters, credits.
    """

    folder: Path
    report: dict[str, Any]
    items: dict[str, Any]

    @property
    def data(self) -> tuple[str, str]:
        """Benchmark and fingerprint of the data: runs of equal `data` can be compared item by item."""
        return self.report["benchmark"]["name"], self.report["benchmark"]["fingerprint"]

    @classmethod
    def read(cls, folder: str | os.PathLike) -> Run:
        """The run in a folder; a `ValueError` where there is none, or one of another version."""
        folder = Path(folder)
        if not (folder / "report.json").exists():
            started = " (a run was started there: finish it with the same command)"
            raise ValueError(
                f"{folder} holds no report.json{started if (folder / 'run.json').exists() else ''}; "
                "give the --output folder of an evaluation"
            )
        report = read_about(folder / "report.json", "name --output folders of this version's rm-plugin evaluate")
        return cls(folder, report, json.loads((folder / "items.json").read_text(encoding="utf-8")))


def find_runs(folders: Iterable[str | os.PathLike]) -> list[Run]:
    """Every run in these folders and below them, each once."""
    paths: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give the --output folders of evaluations, or one above them")
        found = sorted(path.parent for path in folder.rglob("report.json"))
        if not found:
            Run.read(folder)  # says what is missing
        paths |= {path.resolve(): path for path in found}
    return [Run.read(path) for path in paths.values()]


# --- leaderboard


@dataclass
class Row:
    """One line of a table: kind is `model`, `baseline` or `published`."""

    name: str
    kind: str
    score: float | None
    interval: list[float | None] | None = None
    tier: int | None = None
    pairwise: float | None = None
    sections: dict[str, float] = field(default_factory=dict)
    nll: float | None = None
    length_controlled: float | None = None


@dataclass
class Table:
    """One benchmark on one version of its data."""

    title: str
    report: dict[str, Any]  # of one run: what all have in common
    rows: list[Row]
    comparisons: list[dict[str, Any]]
    remarks: list[str]


@dataclass
class Leaderboard:
    """
    Tables of models by benchmark.

    Args:
        tables (`list[Table]`): one a benchmark and version of its data.
    """

    tables: list[Table]

    def overview(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Columns, rows and kinds of models × benchmarks."""
        titles = [table.title for table in self.tables]
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for table in self.tables:
            for row in table.rows:
                tier = "" if row.tier is None else f" ({row.tier})"
                interval = "" if not row.interval or row.interval[0] is None else f" {bounds(row.interval)}"
                cells.setdefault((row.kind, row.name), {})[table.title] = f"{percent(row.score)}{interval}{tier}"
        kinds = ["model", "baseline", "published"]
        ordered = sorted(cells.items(), key=lambda one: kinds.index(one[0][0]))
        rows = [[name, *(found.get(title, "–") for title in titles)] for (_, name), found in ordered]
        return ["model", *titles], rows, [kind for (kind, _), _ in ordered]

    def to_html(self) -> str:
        """One self-contained page."""
        legend = paragraph_html(
            "Official score in percent, its 95 % interval, and in brackets the tier: models of one tier are not told "
            f"apart from its best one (paired tests on the same items, Holm-corrected over all pairs, level {ALPHA}). "
            "Baselines read nothing: random scores, the longer text wins, all texts tie.",
            "soft",
        )
        sections = []
        if len(self.tables) > 1:
            columns, rows, kinds = self.overview()
            sections.append(Section("", legend + table_html(columns, rows, kinds)))
        else:
            sections.append(Section("", legend))
        sections += [Section(table.title, _table_html(table)) for table in self.tables]
        return render_page("Leaderboard of reward models", sections)

    def to_markdown(self) -> str:
        """The tables in Markdown."""
        parts = []
        for table in self.tables:
            columns, rows, _ = _columns(table)
            parts += [f"## {markdown_text(table.title)}", ""]
            parts += [markdown_table(columns, rows), ""]
            parts += [f"- {markdown_text(sentence)}" for sentence in table.remarks] + [""] * bool(table.remarks)
        return "\n".join(parts)

    def to_csv(self) -> str:
        """One line a model and benchmark: fractions of 1, not percent."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["benchmark", "model", "kind", "score", "low", "high", "tier", "pairwise_accuracy", "nll"])
        for table in self.tables:
            for row in table.rows:
                low, high = row.interval or (None, None)
                values = (row.score, low, high, row.tier, row.pairwise, row.nll)
                # A spreadsheet would run what starts so.
                names = [f"'{name}" if name[:1] in tuple("=+-@\t\r") else name for name in (table.title, row.name)]
                writer.writerow([*names, row.kind, *("" if v is None else v for v in values)])
        return buffer.getvalue()


def build_leaderboard(
    folders: Iterable[str | os.PathLike], published: str | os.PathLike | None = None, *, num_samples: int = 10_000
) -> Leaderboard:
    """
    Put finished evaluations side by side.

    Args:
        folders (`Iterable[str]`): folders of runs, or above them.
        published (`str`, *optional*):
            A CSV of published scores for context: columns `model`, `benchmark`, `score` (a fraction, or percent if
            above 1), or a column `model` and one a benchmark.
        num_samples (`int`, *optional*, defaults to `10_000`): bootstrap samples.

    Returns:
        [`Leaderboard`]

    Raises:
        ValueError: where there are no runs, or the CSV has no column `model`.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in find_runs(folders):
        groups.setdefault(run.data, []).append(run)
    known = _read_published(published) if published is not None else []
    names = [data_title(runs[0].report) for runs in groups.values()]
    tables = []
    for runs, name in zip(groups.values(), names, strict=True):
        title = name
        if names.count(name) > 1:  # the same benchmark on other data
            title += f" ({runs[0].report['counts']['num_comparisons']:,} of {runs[0].data[1][:6]})"
        scores = [(model, score) for model, benchmark, score in known if benchmark in (name, runs[0].data[0])]
        tables.append(_table(title, runs, scores, num_samples))
    unused = sorted(
        {benchmark for _, benchmark, _ in known} - {*names, *(runs[0].data[0] for runs in groups.values())}
    )
    if known and len(unused) == len({benchmark for _, benchmark, _ in known}):
        raise ValueError(
            f"{published} has scores of {', '.join(unused[:5])}, the runs are of {', '.join(names)}; name the "
            "benchmark as rm-plugin benchmarks lists it"
        )
    return Leaderboard(tables)


def _table(title: str, runs: list[Run], published: list[tuple[str, float]], num_samples: int) -> Table:
    first = runs[0]
    keep, arguments = official_arguments(get_benchmark(first.data[0]), first.items["groups"], first.items["clusters"])
    values = {name: np.asarray(run.items["credits"]["model"])[keep] for name, run in _named(runs).items()}
    tiers = significance_tiers(values, **arguments, alpha=ALPHA, num_samples=num_samples)
    place = {row["model"]: row["tier"] for row in tiers["models"]}
    rows = []
    for name, run in _named(runs).items():
        metrics = run.report["metrics"]
        rows.append(
            Row(
                name,
                "model",
                metrics["official"]["score"],
                metrics["official"]["interval"],
                place[name],
                metrics["pairwise"]["accuracy"],
                {section: one["value"] for section, one in metrics["official"]["sections"].items()},
                metrics["calibration"] and metrics["calibration"]["nll"],
                metrics["length"] and metrics["length"]["length_controlled_accuracy"],
            )
        )
    rows += [
        Row(
            f"baseline: {BASELINE_NAMES[name]}",
            "baseline",
            one["score"],
            one["interval"],
            None,
            one["pairwise_accuracy"],
        )
        for name, one in first.report["baselines"].items()
    ]
    rows += [Row(name, "published", score) for name, score in published]
    rows.sort(key=lambda row: -row.score)
    sentences = []
    for name, run in _named(runs).items():
        sentences += [one if len(runs) == 1 else f"{name}: {one}" for one in remarks(run.report)]
    return Table(title, first.report, rows, tiers["comparisons"], list(dict.fromkeys(sentences)))


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by a name that is unique among them: the model's last part, its whole name, or with its folder."""
    for name in (
        lambda run: Path(run.report["model"]["name"]).name or run.report["model"]["name"],
        lambda run: run.report["model"]["name"],
        lambda run: f"{run.report['model']['name']} ({run.folder})",
    ):
        named = {name(run): run for run in runs}
        if len(named) == len(runs):
            return named
    raise AssertionError("folders are unique")


def _read_published(path: str | os.PathLike) -> list[tuple[str, str, float]]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if "model" not in columns or len(columns) < 2:
            raise ValueError(
                f"{path} has the columns {', '.join(columns) or 'none'}; it needs model, and either benchmark and "
                "score or one column a benchmark"
            )
        found = []
        for row in reader:
            if "benchmark" in columns and "score" in columns:
                pairs = [(row["benchmark"], row["score"])]
            else:
                pairs = [(column, row[column]) for column in columns if column != "model"]
            for benchmark, score in pairs:
                try:
                    value = float(score)
                except (TypeError, ValueError):
                    continue  # an empty cell, or a column of words
                found.append((row["model"], benchmark, round(value / 100, 6) if value > 1 else value))
    return found


def _columns(table: Table) -> tuple[list[str], list[list[str]], list[str]]:
    """Columns, rows and kinds of one table."""
    models = [row for row in table.rows if row.kind == "model"]
    names = dict.fromkeys(section for row in models for section in row.sections)
    sections = [name for name in names if any(row.sections.get(name) != row.score for row in models)][:8]
    columns = ["model", "tier", "score, %", "95 % interval", "pairs, tie ½", "length-controlled", "NLL", *sections]
    rows = [
        [
            row.name,
            "–" if row.tier is None else str(row.tier),
            percent(row.score),
            bounds(row.interval),
            percent(row.pairwise),
            percent(row.length_controlled),
            "–" if row.nll is None else f"{row.nll:.3f}",
            *(percent(row.sections.get(section)) for section in sections),
        ]
        for row in table.rows
    ]
    return columns, rows, [row.kind for row in table.rows]


def _table_html(table: Table) -> str:
    columns, rows, kinds = _columns(table)
    bars = [
        {"name": row.name, "value": row.score, "low": (row.interval or [None])[0], "high": (row.interval or [0, 0])[1]}
        for row in table.rows
    ]
    counts, benchmark = table.report["counts"], table.report["benchmark"]
    caption = f"{counts['num_comparisons']:,} comparisons, {counts['num_pairs']:,} pairs"
    caption += f"; score: {benchmark['notes']}." if benchmark["notes"] else "."
    html = paragraph_html(caption, "soft") + table_html(columns, rows, kinds)
    html += "".join(paragraph_html(one, "warning") for one in table.remarks)
    figures = [figure_html(accuracy_bars(bars[:40], "score"), "Scores with 95 % intervals.")]
    if table.comparisons:
        lines = [
            [one["a"], one["b"], f"{100 * one['difference']:+.1f}", f"{one['p_value']:.2g}", f"{one['p_holm']:.2g}"]
            for one in table.comparisons[:60]
        ]
        html += "<h3>Differences between models</h3>"
        html += table_html(["better", "worse", "points", "p", "p (Holm)"], lines)
    return html + figures_html(figures)


# --- two models


def compare_runs(a: str | os.PathLike, b: str | os.PathLike, *, num_samples: int = 10_000) -> list[dict[str, Any]]:
    """
    Is the difference between two runs real? On every benchmark that both have, on the same items.

    Args:
        a (`str`): folder of a run, or above several.
        b (`str`): the same of the other model.
        num_samples (`int`, *optional*, defaults to `10_000`): bootstrap samples.

    Returns:
        `list[dict]`, one a benchmark: `benchmark`, `a` and `b` (names), `score_a`, `score_b`, `difference` (a − b),
        `low`, `high`, `p_value`, `method`, `a_better`, `b_better` (items), `num_items`, `num_clusters`,
        `detectable` (paired minimum detectable difference, or `None`), and `subsets`, with `p_holm` each.

    Raises:
        ValueError: if the two have no benchmark on the same data in common, or one has several runs of it.
    """
    runs_a, runs_b = {}, {}
    for runs, folder in ((runs_a, a), (runs_b, b)):
        for run in find_runs([folder]):
            runs.setdefault(run.data, []).append(run)
    common = [data for data in runs_a if data in runs_b]
    if not common:
        listed = ["; ".join(sorted(f"{n} ({f[:6]})" for n, f in runs)) for runs in (runs_a, runs_b)]
        raise ValueError(
            f"{a} has {listed[0]} and {b} has {listed[1]}; both need the same benchmark on the same data (and limit)"
        )
    for runs, folder in ((runs_a, a), (runs_b, b)):
        for data in common:
            if len(runs[data]) > 1:
                found = ", ".join(str(run.folder) for run in runs[data])
                raise ValueError(f"{folder} has {len(runs[data])} runs of {data[0]} ({found}); name one of them")
    pairs = [(runs_a[data][0], runs_b[data][0]) for data in common]
    for run_a, run_b in pairs:
        if run_a.folder.resolve() == run_b.folder.resolve():
            raise ValueError(f"{a} and {b} are the same run ({run_a.folder}); name two runs")
    return [_compare(run_a, run_b, num_samples) for run_a, run_b in pairs]


def _compare(a: Run, b: Run, num_samples: int) -> dict[str, Any]:
    groups, clusters = a.items["groups"], a.items["clusters"]
    benchmark = get_benchmark(a.data[0])
    keep, arguments = official_arguments(benchmark, groups, clusters)
    credits_a, credits_b = (np.asarray(run.items["credits"]["model"]) for run in (a, b))
    result = compare_models(credits_a[keep], credits_b[keep], **arguments, num_samples=num_samples)
    names = _named([a, b])
    detectable = None
    if "aggregate" not in arguments:
        discordant = float(np.mean(credits_a[keep] != credits_b[keep]))
        detectable = minimum_detectable_difference(result["num_clusters"], discordant_rate=discordant)
    subsets = {}
    levels = [benchmark.level(group) for group in groups]
    for level in dict.fromkeys(filter(None, levels)):
        inside = [i for i, one in enumerate(levels) if one == level]
        if len({groups[i] for i in inside}) > 1:
            subsets |= compare_by_subset(
                credits_a[inside],
                credits_b[inside],
                [groups[i] for i in inside],
                clusters=[clusters[i] for i in inside],
                num_samples=num_samples,
            )
    return {
        "benchmark": data_title(a.report),
        "a": next(name for name, run in names.items() if run is a),
        "b": next(name for name, run in names.items() if run is b),
        "score_a": a.report["metrics"]["official"]["score"],
        "score_b": b.report["metrics"]["official"]["score"],
        **result,
        "detectable": detectable,
        "subsets": subsets,
    }


def print_comparison(result: dict[str, Any], console: Any = None) -> None:
    """One comparison on the terminal, the answer first."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = console or Console()
    points = f"{100 * abs(result['difference']):.1f} points"
    if result["p_value"] < ALPHA:
        winner, loser = ("a", "b") if result["difference"] > 0 else ("b", "a")
        answer = f"{result[winner]} is better than {result[loser]} by {points}: the difference is real"
    else:
        answer = f"{result['a']} and {result['b']} are not told apart ({points})"
    interval = bounds([result["low"], result["high"]])
    lines = [
        f"{result['benchmark']}: {answer} (p = {result['p_value']:.2g}, {result['method']}).",
        f"  {percent(result['score_a'])} % − {percent(result['score_b'])} % = {100 * result['difference']:+.1f} points"
        f", 95 % interval {interval}; of {result['num_items']:,} items the first does better on {result['a_better']}, "
        f"the second on {result['b_better']}.",
    ]
    if result["detectable"] is not None:
        lines.append(f"  A true difference of {percent(result['detectable'])} points would be found with 80 % power.")
    for line in lines:
        console.print(terminal_text(line), highlight=False, soft_wrap=True)
    if result["subsets"]:
        table = RichTable("subset", "points", "95 % interval", "p", "p (Holm)", "n")
        for name, one in result["subsets"].items():
            values = [f"{100 * one['difference']:+.1f}", bounds([one["low"], one["high"]])]
            values += [f"{one['p_value']:.2g}", f"{one['p_holm']:.2g}", f"{one['num_items']:,}"]
            table.add_row(terminal_text(name), *values)
        console.print(table)
