"""Runs side by side: models × benchmarks with intervals and significance tiers; and whether A and B really differ.

    board = build_leaderboard(["runs"])        # every folder below that holds a report.json
    html, markdown, csv = board.to_html(), board.to_markdown(), board.to_csv()
    compare_runs("runs/a", "runs/b")           # paired, on the same items

Runs are put together by benchmark and data: a leaderboard compares models on the same items or not at all, so a
benchmark with two versions of its data makes two tables. Baselines are rows; published scores are shown beside them
for context, without interval or tier, since their items are not known.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ..files import parse_json
from ..messages import located, printable
from ..metrics.statistics import Bootstrap, holm_correction, significance_tiers
from .benchmarks import BENCHMARKS, SUITES, Benchmark, get_benchmark
from .harness import read_about
from .page import Link, Section, Table, bounds, markdown_text, number, p_text, percent, points, render_page
from .report import ALPHA, Row, bars_plot, data_title, is_mostly_scored, remarks, rows
from .results import SCORE, draw_items
from .scores import compare_margins

__all__ = ["Leaderboard", "Run", "build_leaderboard", "compare_runs", "find_runs"]

LENGTH_CONTROLLED, NLL = "length/controlled_accuracy", "calibration/nll"
KINDS = ("model", "baseline", "published")
MAX_SECTIONS, MAX_COMPARISONS, MAX_DIFFERENT = 8, 60, 10  # what a table shows


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
    def model(self) -> str:
        """The whole name of the model."""
        return self.report["model"]["name"]

    @property
    def data(self) -> tuple[str, str]:
        """Benchmark and fingerprint of the data: runs of equal `data` can be compared item by item."""
        return self.report["benchmark"]["name"], self.report["benchmark"]["fingerprint"]

    @classmethod
    def read(cls, folder: str | os.PathLike) -> Run:
        """The run in a folder; a `ValueError` where there is none, or one of another version."""
        folder = Path(folder)
        if not (folder / "report.json").exists():
            raise ValueError(
                f"{folder} holds no report.json; give the --output folder of an evaluation (one that was started "
                "there: finish it with the same command)"
            )
        report = read_about(folder / "report.json", "name --output folders of this version's rm-plugin evaluate")
        if (name := report["benchmark"].get("name")) not in BENCHMARKS:  # no file of others may name what is imported
            raise ValueError(f"{folder} is of the benchmark {name}, which is not known; name it with --benchmark")
        items = folder / "items.json"
        with located(f"{folder} is no whole run (evaluate it again)"):
            run = cls(folder, report, parse_json(items.read_text(encoding="utf-8"), str(items)))
            run.model, rows(report), remarks(report)  # all that a table shows
            lengths = [len(run.items[key]) for key in ("groups", "clusters")]
            if lengths != [len(run.items["credits"]["model"])] * 2:
                raise ValueError(f"{items} has {lengths[0]} groups, {lengths[1]} clusters and other credits")
        return run


def find_runs(folders: Iterable[str | os.PathLike]) -> dict[tuple[str, str], list[Run]]:
    """Every run in these folders and below them, each once, by `data`: what can be compared with each other."""
    paths: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give the --output folders of evaluations, or one above them")
        found = sorted(path.parent for path in folder.rglob("report.json"))
        if not found:
            Run.read(folder)  # says what is missing
        paths |= {path.resolve(): path for path in found}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in map(Run.read, paths.values()):
        groups.setdefault(run.data, []).append(run)
    return groups


def model_names(runs: Iterable[Run]) -> dict[str, str]:
    """Each model's name as it is shown: its last part, or the whole name where several models end alike."""
    short = {name: Path(name).name or name for name in dict.fromkeys(run.model for run in runs)}
    counts = Counter(short.values())
    return {name: last if counts[last] == 1 else name for name, last in short.items()}


def run_names(runs: Sequence[Run], models: Mapping[str, str]) -> list[str]:
    """Names of runs on the same data: those of their models, with the folder where a model has several."""
    counts = Counter(run.model for run in runs)
    return [models[run.model] + (f" ({run.folder})" if counts[run.model] > 1 else "") for run in runs]


# --- leaderboard


@dataclass
class Entry:
    """
    One line of a benchmark's table.

    Args:
        name (`str`): unique in the table; `model` and the folder where one model has several runs.
        kind (`str`): `"model"`, `"baseline"` or `"published"`.
        numbers (`dict[str, Row]`): `rows` of the report; at least `score`.
        tier (`int`, *optional*): of significance, 1 is the best.
        model (`str`): the name of the model on the whole board.
        run ([`Run`], *optional*): what it is of.
        notes (`list[int]`): numbers of its footnotes.
    """

    name: str
    kind: str
    numbers: Mapping[str, Row]
    tier: int | None = None
    model: str = ""
    run: Run | None = None
    notes: Sequence[int] = ()

    @property
    def score(self) -> float:
        """The official score, a fraction of 1."""
        return self.numbers["score"].value

    @property
    def interval(self) -> Sequence[float | None] | None:
        """Its 95 % interval."""
        return self.numbers["score"].interval

    def text(self, key: str) -> str:
        """A number of the report as it is shown."""
        return self.numbers[key].text if key in self.numbers else "–"

    def link(self, text: str, page: Path | None) -> str:
        """A text that leads from a page to the report of the run."""
        if self.run is None or page is None:
            return text
        report = os.path.relpath((self.run.folder / "report.html").resolve(), page.resolve().parent)
        return Link(text, Path(report).as_posix())


@dataclass
class BenchmarkTable:
    """One benchmark on one version of its data; `report` is that of one run, for what all have in common."""

    title: str
    report: dict[str, Any]
    rows: list[Entry]
    comparisons: list[dict[str, Any]]
    remarks: list[str]

    @property
    def models(self) -> list[Entry]:
        """The rows of models."""
        return [entry for entry in self.rows if entry.kind == "model"]

    def section_names(self) -> list[str]:
        """The sections that say more than the score, as many as the table of scores shows."""
        keys = dict.fromkeys(k for one in self.models for k, row in one.numbers.items() if row.kind == "section")
        telling = [key for key in keys if any(one.text(key) != one.text("score") for one in self.models)]
        return [key.removeprefix("section/") for key in telling[:MAX_SECTIONS]]

    def scores(self, page: Path | None = None) -> Table:
        """The table as it is shown; numbers in brackets are those of `remarks`."""
        sections = self.section_names()
        columns = ["model", "tier", "score, %", "95 % interval", "pairs, tie ½", "ties, %", "unscored"]
        cells = []
        for one in self.rows:
            name = one.name + "".join(f" [{number}]" for number in one.notes)
            ties = unscored = "–"
            if one.run is not None:
                ties = percent(one.run.report["metrics"]["pairwise"]["tie_rate"])
                unscored = f"{one.run.report['counts']['num_unscored_comparisons']:,}"
            cells.append(
                [one.link(name, page), str(one.tier or "–"), one.text("score"), bounds(one.interval)]
                + [one.text("pairwise"), ties, unscored]
                + [one.text(key) for key in (LENGTH_CONTROLLED, NLL, *(f"section/{name}" for name in sections))]
            )
        return Table([*columns, "length-controlled", "NLL", *sections], cells, [entry.kind for entry in self.rows])

    def by_level(self) -> list[tuple[str, Table]]:
        """What the table of scores does not show: every section and group, one table per level, its columns models."""
        level_of, values, counts = get_benchmark(self.report["benchmark"]["name"]).level, [], {}
        for one in self.models:
            official = one.run.report["metrics"]["official"]
            counts |= {name: f"{group['num_items']:,}" for name, group in official["subsets"].items()}
            groups = {name: group["accuracy"] for name, group in official["subsets"].items()}
            values.append(groups | {name: section["value"] for name, section in official["sections"].items()})
        levels: dict[str, list[str]] = {}
        for name in dict.fromkeys(name for one in values for name in one):
            if (level := level_of(name)) is not None:
                levels.setdefault(level, []).append(name)
        tables = []
        for level, names in levels.items():
            if len(names) > 1 and not set(names) <= set(self.section_names()):
                lines = {name: [counts.get(name, ""), *(percent(one.get(name)) for one in values)] for name in names}
                columns = [level, "n", *(one.name for one in self.models)]
                tables.append((f"By {level} ({len(names)})", grouped_table(columns, lines)))
        return tables

    def sections(self, page: Path | None = None) -> list[Section]:
        """Its parts of a page."""
        counts, notes = self.report["counts"], self.report["benchmark"]["notes"]
        caption = f"{counts['num_comparisons']:,} comparisons, {counts['num_pairs']:,} pairs"
        caption += f"; score: {notes}." if notes else "."
        differences = [
            [one["a"], one["b"], points(one["difference"]), p_text(one["p_value"]), p_text(one["p_holm"])]
            for one in self.comparisons[:MAX_COMPARISONS]
        ]
        columns, title = ["better", "worse", "points", "p", "p (Holm)"], "Differences between models"
        bars = [(one.name, one.score, one.interval) for one in self.rows]
        muted = [one.kind != "model" for one in self.rows]
        chance = self.report["baselines"]["random"]["score"]
        caption_of_bars = "Scores with 95 % intervals; the line is at chance"
        return [
            Section(self.title, paragraphs=[(caption, "soft")], tables=[self.scores(page)]),
            Section(
                paragraphs=[(f"[{i}] {sentence}", "soft") for i, sentence in enumerate(self.remarks, start=1)],
                tables=[Table(columns, differences, title=title, num_text_columns=2)] if differences else (),
                plots=[bars_plot(bars, "score", caption_of_bars, muted=muted, chance=chance)],
                folded=self.by_level(),
            ),
        ]


@dataclass
class Leaderboard:
    """
    Tables of models by benchmark.

    Args:
        tables (`list[BenchmarkTable]`): one per benchmark and version of its data.
    """

    tables: list[BenchmarkTable]

    def overview(self, page: Path | None = None) -> Table:
        """
        Models × benchmarks, one row per model. A cell holds the score of each run of the model, and their
        mean counts. Means and ranks are over the benchmarks that every model has.
        """
        found: dict[tuple[str, str], dict[str, list[Entry]]] = {}
        for table in self.tables:
            for one in table.rows:
                found.setdefault((one.kind, one.model or one.name), {}).setdefault(table.title, []).append(one)
        titles, models = [table.title for table in self.tables], [key for key in found if key[0] == "model"]
        common = [title for title in titles if all(title in found[key] for key in models)]
        means = {
            key: float(np.mean([np.mean([one.score for one in entries[title]]) for title in common]))
            for key, entries in found.items()
            if common and all(title in entries for title in common)
        }
        ranks = [rankdata([-np.mean([one.score for one in found[key][title]]) for key in models]) for title in common]
        mean_ranks = dict(zip(models, np.mean(ranks, axis=0), strict=True)) if common else {}
        ordered = sorted(found, key=lambda key: (KINDS.index(key[0]), -means.get(key, 0.0)))
        rows = []
        for key in ordered:
            entries = found[key]
            runs = [_about(one.run) for title in titles for one in entries.get(title, ()) if one.run is not None]
            about = ["; ".join(dict.fromkeys(same)) or "–" for same in zip(*runs, strict=True)] or ["–"] * 3
            rank = f"{mean_ranks[key]:.1f}" if key in mean_ranks else "–"
            cells = [_cell(entries.get(title, ()), page) for title in titles]
            rows.append([key[1], percent(means.get(key)), rank, *cells, *about])
        columns = ["model", f"mean of {len(common)}", "mean rank", *titles, "type", "base", "parameters"]
        return Table(columns, rows, [kind for kind, _ in ordered])

    def to_html(self, page: str | os.PathLike | None = None) -> str:
        """One self-contained page; where `page` says where it will lie, scores lead to the reports of their runs."""
        where = None if page is None else Path(page)
        legend = (
            "Official score in percent, its 95 % interval, and its tier (in brackets in the overview): models of one "
            "tier do not differ significantly from its best one (paired tests on the same items, Holm-corrected over "
            f"all pairs, level {ALPHA}). Mean and mean rank are over the benchmarks that every model has. Baselines "
            "read nothing: random scores, the longer text wins, all texts tie."
        )
        sections = [Section(paragraphs=[(legend, "soft")], tables=[self.overview(where)])]
        sections += [section for table in self.tables for section in table.sections(where)]
        return render_page("Leaderboard of reward models", sections)

    def to_markdown(self) -> str:
        """The tables in Markdown."""
        parts = []
        for table in self.tables:
            parts += [f"## {markdown_text(table.title)}", "", table.scores().markdown(), ""]
            parts += [f"- [{i}] {markdown_text(sentence)}" for i, sentence in enumerate(table.remarks, start=1)]
            parts += [""] * bool(table.remarks)
        return "\n".join(parts)

    def to_csv(self) -> str:
        """One line per model and benchmark: fractions of 1, not percent."""
        columns = ["benchmark", "model", "kind", "score", "low", "high", "tier", "pairwise_accuracy", "nll"]
        lines = [
            [table.title, one.name, one.kind, one.score, *(one.interval or ("", "")), one.tier]
            + [one.numbers[key].value if key in one.numbers else None for key in ("pairwise", NLL)]
            for table in self.tables
            for one in table.rows
        ]
        return csv_text(columns, lines)


def csv_text(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table as CSV; a text that a spreadsheet would run gets a quote before it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow([f"'{v}" if isinstance(v, str) and v[:1] in tuple("=+-@\t\r") else v for v in line])
    return buffer.getvalue()


def grouped_table(columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> Table:
    """Cells by name, under headings where names have folders: `Chat/Scenario 1` appears as Scenario 1 under Chat."""

    def folder_of(name: str) -> str:
        return name.rpartition("/")[0]

    cells, kinds = [], []
    for folder, names in groupby(sorted(lines, key=folder_of), key=folder_of):
        if folder:
            cells.append([folder, *[""] * (len(columns) - 1)])
            kinds.append("group")
        for name in names:
            cells.append([name.rpartition("/")[2], *lines[name]])
            kinds.append("section" if folder else "")
    return Table(columns, cells, kinds)


def _cell(entries: Sequence[Entry], page: Path | None) -> str:
    """The score of a model on one benchmark, of each of its runs; it leads to the report of the first."""
    texts = []
    for one in entries:
        tier = "" if one.tier is None else f" ({one.tier})"
        texts.append(f"{one.text('score')} {bounds(one.interval)}".removesuffix(" –") + tier)
    return entries[0].link("; ".join(texts), page) if entries else "–"


def _about(run: Run) -> list[str]:
    """Type, base and size (`135M`, `8.0B`) of a model."""
    model = run.report["model"]
    kind = " ".join(str(model[key]) for key in ("kind", "dtype") if model.get(key))
    return [kind, str(model.get("base") or "–"), _size(model.get("num_parameters"))]


def _size(number: Any) -> str:
    if not isinstance(number, int):
        return "–"
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M" if number >= 1e6 else f"{number:,}"


def _draw(runs: Sequence[Run], num_samples: int) -> tuple[Benchmark, Bootstrap]:
    """The bootstrap of runs on the same data."""
    benchmark, items = get_benchmark(runs[0].data[0]), runs[0].items
    credits = [run.items["credits"]["model"] for run in runs]
    return benchmark, draw_items(benchmark, credits, items, num_samples=num_samples)


def _without_test(*compared: dict[str, Any]) -> None:
    """Remove the p-values where many comparisons of a run are not scored."""
    for one in compared:
        one |= dict.fromkeys({"p_value", "p_holm"} & one.keys())


def suite_table(suite: str, reports: Iterable[Mapping[str, Any]]) -> Table:
    """The row that papers print of one model on the benchmarks of `SUITES`; JudgeBench counts once in the mean."""
    found = {report["benchmark"]["name"]: (report["model"]["name"], rows(report)) for report in reports}
    values = {
        column: float(np.mean([found[name][1][key].value for name, key in parts]))
        for column, parts in SUITES[suite].items()
    }
    mean = float(np.mean([value for column, value in values.items() if not column.endswith(" macro")]))
    cells = [next(iter(found.values()))[0], *map(percent, values.values()), percent(mean)]
    return Table(["model", *values, "mean"], [cells], title=f"{suite}, %")


def build_leaderboard(
    folders: Iterable[str | os.PathLike], published: str | os.PathLike | None = None, *, num_samples: int = 10_000
) -> Leaderboard:
    """
    Put finished evaluations side by side.

    Args:
        folders (`Iterable[str]`): folders of runs, or above them.
        published (`str`, *optional*):
            A CSV of published scores for context: columns `model`, `benchmark`, `score` (a fraction, or percent if
            above 1), or a column `model` and one per benchmark.
        num_samples (`int`, *optional*, defaults to `10_000`): bootstrap samples.

    Returns:
        [`Leaderboard`]

    Raises:
        ValueError: where there are no runs; for a CSV without a column `model`, with a score that is no number, or
            with no benchmark of the runs.
    """
    groups = find_runs(folders)
    models = model_names(chain(*groups.values()))
    titles = [data_title(same[0].report) for same in groups.values()]
    names = [(title, benchmark) for title, (benchmark, _) in zip(titles, groups, strict=True)]
    known = {} if published is None else _read_published(published, set(chain(*names)))
    tables = []
    for ((_, fingerprint), same), title, both in zip(groups.items(), titles, names, strict=True):
        entries = [entry for name in dict.fromkeys(both) for entry in known.get(name, ())]
        if titles.count(title) > 1:  # the same benchmark on other data
            title += f" ({same[0].report['counts']['num_comparisons']:,} of {fingerprint[:6]})"
        tables.append(_table(title, same, models, entries, num_samples))
    return Leaderboard(tables)


def _table(
    title: str, runs: list[Run], models: Mapping[str, str], entries: list[Entry], num_samples: int
) -> BenchmarkTable:
    """The entries of these runs and of the baselines beside the published ones."""
    first, names, footnotes = runs[0], run_names(runs, models), {}
    compared = significance_tiers(_draw(runs, num_samples)[1], names, SCORE)
    tiers = {row["model"]: row["tier"] for row in compared["models"]}
    untested = {name for name, run in zip(names, runs, strict=True) if not is_mostly_scored(run.report)}
    tiers |= dict.fromkeys(untested)
    for one in compared["comparisons"]:
        if {one["a"], one["b"]} & untested:
            _without_test(one)
    for name, run in zip(names, runs, strict=True):
        notes = [footnotes.setdefault(sentence, 1 + len(footnotes)) for sentence in remarks(run.report)]
        entries.append(Entry(name, "model", rows(run.report), tiers[name], models[run.model], run, notes))
    for name, one in first.report["baselines"].items():
        score = rows(first.report)[f"baseline/{name}"]
        pairwise = replace(score, value=one["pairwise_accuracy"], interval=None)
        entries.append(Entry(score.name, "baseline", {"score": score, "pairwise": pairwise}))
    entries.sort(key=lambda entry: -entry.score)
    return BenchmarkTable(title, first.report, entries, compared["comparisons"], list(footnotes))


def _read_published(path: str | os.PathLike, names: set[str]) -> dict[str, list[Entry]]:
    """Entries of the benchmarks with these names, by benchmark."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns, lines = reader.fieldnames or [], list(reader)
    if "model" not in columns or len(columns) < 2:
        raise ValueError(
            f"{path} has the columns {', '.join(columns) or 'none'}; it needs model, and either benchmark and "
            "score or one column per benchmark"
        )
    if {"benchmark", "score"} <= set(columns):
        cells = [(line["model"], line["benchmark"], line["score"]) for line in lines]
    else:
        cells = [(line["model"], name, line[name]) for line in lines for name in columns if name != "model"]
    if cells and not names & {name for _, name, _ in cells}:
        listed = ", ".join(sorted({name for _, name, _ in cells})[:5])
        raise ValueError(
            f"{path} has scores of {listed}, the runs are of {', '.join(sorted(names))}; name the benchmark as "
            "rm-plugin benchmarks lists it"
        )
    entries: dict[str, list[Entry]] = {}
    for model, name, text in cells:
        if name in names and (text or "").strip():
            score = Row(model, "published", _fraction(text, f"{path}: {model} on {name}"))
            entries.setdefault(name, []).append(Entry(model, "published", {"score": score}))
    return entries


def _fraction(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise ValueError(f"{where} is {text!r}; give a fraction, a percentage, or nothing")
    return round(value / 100, 6) if value > 1 else value


# --- two models


def compare_runs(a: str | os.PathLike, b: str | os.PathLike, *, num_samples: int = 10_000) -> list[dict[str, Any]]:
    """
    Is the difference between two runs real? On every benchmark that both have, on the same items.

    Args:
        a (`str`): folder of a run, or above several.
        b (`str`): the same of the other model.
        num_samples (`int`, *optional*, defaults to `10_000`): bootstrap samples.

    Returns:
        `list[dict]`, one per benchmark: `benchmark`, `a` and `b` (names), `score_a`, `score_b`, `difference` (a − b),
        `low`, `high`, `p_value`, `method`, `a_better`, `b_better` (items), `num_items`, `num_clusters`,
        `detectable` (paired minimum detectable difference, or `None`), `agreement` (of [`compare_margins`]), and
        `subsets`, with `p_holm` each.

    Raises:
        ValueError: if the two have no benchmark on the same data in common, or one has several runs of it.
    """
    found = {folder: find_runs([folder]) for folder in (a, b)}
    common = [data for data in found[a] if data in found[b]]
    if not common:
        have = [f"{one} has " + "; ".join(sorted(f"{n} ({f[:6]})" for n, f in found[one])) for one in (a, b)]
        raise ValueError(f"{' and '.join(have)}; both need the same benchmark on the same data (and limit)")
    for data, folder in product(common, (a, b)):
        if len(same := found[folder][data]) > 1:
            folders = ", ".join(str(run.folder) for run in same)
            raise ValueError(f"{folder} has {len(same)} runs of {data[0]} ({folders}); name one of them")
    pairs = [(found[a][data][0], found[b][data][0]) for data in common]
    for run_a, run_b in pairs:
        if run_a.folder.resolve() == run_b.folder.resolve():
            raise ValueError(f"{a} and {b} are the same run ({run_a.folder}); name two runs")
    return [_compare(run_a, run_b, num_samples) for run_a, run_b in pairs]


def _compare(a: Run, b: Run, num_samples: int) -> dict[str, Any]:
    (benchmark, draw), names = _draw([a, b], num_samples), run_names([a, b], model_names([a, b]))
    levels: dict[str | None, list[str]] = {}
    for group in draw.subsets:
        levels.setdefault(benchmark.level(group), []).append(group)
    subsets = {}
    for level, groups in levels.items():
        if level is not None and len(groups) > 1:
            compared = [draw.compare(group) for group in groups]
            corrected = holm_correction([one["p_value"] for one in compared])
            subsets |= {g: {**one, "p_holm": p} for g, one, p in zip(groups, compared, corrected, strict=True)}
    result = draw.compare(SCORE)
    with located(f"{a.folder} or {b.folder} is no whole run (evaluate it again)"):
        agreement = compare_margins(*(run.folder / "scores.jsonl" for run in (a, b)))
    if not (is_mostly_scored(a.report) and is_mostly_scored(b.report)):
        _without_test(result, *subsets.values())
    return {
        "benchmark": data_title(a.report),
        "a": names[0],
        "b": names[1],
        "score_a": a.report["metrics"]["official"]["score"],
        "score_b": b.report["metrics"]["official"]["score"],
        **result,
        "agreement": agreement,
        "subsets": subsets,
    }


def comparison_section(result: dict[str, Any]) -> Section:
    """One comparison in words, the answer first, and its subsets as a table."""
    size = f"{100 * abs(result['difference']):.1f} points"
    if result["p_value"] is None:
        answer = f"{result['a']} and {result['b']} differ by {size}, too many comparisons without a score for a test"
    elif result["p_value"] < ALPHA:
        winner, loser = ("a", "b") if result["difference"] > 0 else ("b", "a")
        answer = f"{result[winner]} is better than {result[loser]} by {size}: the difference is real"
    else:
        answer = f"{result['a']} and {result['b']} do not differ significantly ({size})"
    lines = [
        f"{result['benchmark']}: {answer} (p = {p_text(result['p_value'])}, {result['method']}).",
        f"{percent(result['score_a'])} % − {percent(result['score_b'])} % = {points(result['difference'])} points, "
        f"95 % interval {bounds([result['low'], result['high']])}; of {result['num_items']:,} items the first does "
        f"better on {result['a_better']}, the second on {result['b_better']}.",
    ]
    if result["detectable"] is not None:
        lines.append(f"A true difference of {percent(result['detectable'])} points would be found with 80 % power.")
    agreement = result["agreement"]
    lines.append(
        f"Agreement: Spearman of the margins {number(agreement['spearman'])}, Cohen's κ {number(agreement['kappa'])}; "
        f"{agreement['num_different']:,} of {agreement['num_pairs']:,} pairs of a best and another completion are "
        "judged in opposite ways."
    )
    opposite = [
        [f"{one['id']}: {one['better']} over {one['worse']}", number(one["margin_a"]), number(one["margin_b"])]
        for one in agreement["different"][:MAX_DIFFERENT]
    ]
    subsets = {
        name: [points(one["difference"]), bounds([one["low"], one["high"]])]
        + [p_text(one["p_value"]), p_text(one["p_holm"]), f"{one['num_items']:,}"]
        for name, one in result["subsets"].items()
    }
    shown = "judged in opposite ways"
    if len(agreement["different"]) > len(opposite):
        shown += f": the {len(opposite)} of {agreement['num_different']:,} that both are surest of"
    tables = [
        grouped_table(["subset", "points", "95 % interval", "p", "p (Holm)", "n"], subsets),
        Table([shown, f"Δ of {result['a']}", f"Δ of {result['b']}"], opposite),
    ]
    return Section(paragraphs=[(line, "") for line in lines], tables=[table for table in tables if table.rows])


def print_comparison(result: dict[str, Any]) -> None:
    """One comparison on the terminal."""
    section = comparison_section(result)
    print(printable("\n  ".join(text for text, _ in section.paragraphs)))
    for table in section.tables:
        table.print()


def comparisons_page(results: Sequence[dict[str, Any]]) -> str:
    """The comparisons as one HTML page."""
    return render_page(f"{results[0]['a']} and {results[0]['b']}", [comparison_section(one) for one in results])


def comparisons_csv(results: Sequence[dict[str, Any]]) -> str:
    """One line per benchmark, with its agreement, and one per subset: fractions of 1, not percent."""
    columns = ["benchmark", "subset", "a", "b", "score_a", "score_b", "difference", "low", "high", "p_value", "p_holm"]
    columns += ["num_items", "spearman", "kappa", "num_different", "num_pairs"]
    lines = []
    for result in results:
        for name, one in {"": result, **result["subsets"]}.items():
            about = {"benchmark": result["benchmark"], "subset": name, "a": result["a"], "b": result["b"]}
            about = {**one, **one.get("agreement", {}), **about}
            lines.append([about.get(column) for column in columns])
    return csv_text(columns, lines)
