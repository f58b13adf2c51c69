"""What an evaluation shows: a terminal table, a page with plots, a section for the model's card, results for the hub.

    print_report(report.report);  html = render_report(report);  update_model_card("README.md", [report.report])

Every form is made from `rows(report)`, the numbers of a report with their names and intervals. Scores are fractions in
the report and shown in percent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.comparison import Text
from ..files import json_line, write_atomically, write_jsonl
from ..messages import printable
from ..metrics.statistics import MIN_CLUSTERS
from . import figures
from .benchmarks import BENCHMARKS, LoadedBenchmark
from .page import Section, Table, bounds, number, percent, points, render_page
from .results import MAX_UNSCORED, Results
from .scores import score_rows

__all__ = ["EvaluationReport", "Row", "print_report", "render_report", "rows", "update_model_card"]

BASELINE_NAMES = {"random": "random", "length": "length only", "constant": "constant"}
ALPHA = 0.05  # level of significance
MAX_TEXT = 6000  # characters of a text on the page
MAX_BARS, MAX_MISTAKES = 40, 10
Report = Mapping[str, Any]


@dataclass
class EvaluationReport:
    """
    One model on one benchmark.

    Args:
        report (`dict`): what `report.json` holds: benchmark, model, counts, metrics, baselines, mistakes, run.
        results ([`Results`]): the numbers, with margins and items.
        data ([`LoadedBenchmark`]): the comparisons.
        scores (`list[np.ndarray]`): for each comparison the rewards of its completions (K,), NaN = unscored.
    """

    report: dict[str, Any]
    results: Results
    data: LoadedBenchmark
    scores: list[np.ndarray]

    @property
    def score(self) -> float:
        """The official score, a fraction of 1."""
        return self.metrics["official"]["score"]

    @property
    def interval(self) -> list[float]:
        """Its 95 % interval."""
        return self.metrics["official"]["interval"]

    @property
    def metrics(self) -> dict[str, Any]:
        """Every metric of the model."""
        return self.report["metrics"]

    def save(self, folder: str | os.PathLike) -> None:
        """Write all files of the run; `report.json` comes last, so where it is, the rest is."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "scores.jsonl", score_rows(self.data.comparisons, self.scores))
        write_atomically(folder / "items.json", json_line(self.results.items))
        write_jsonl(folder / "mistakes.jsonl", self.results.mistakes)
        write_atomically(folder / "model_card.md", model_card_section([self.report]))
        write_atomically(folder / "report.html", render_report(self))
        write_atomically(folder / "report.json", json.dumps(self.report, ensure_ascii=False, indent=1) + "\n")


# --- the numbers of a report

# What is no accuracy of the benchmark: part and field of the report's metrics, name, whether it is a share.
METRICS = {
    "margins/mean": ("margin Δ, mean", False),
    "margins/std": ("margin Δ, standard deviation", False),
    "margins/q50": ("margin Δ, median", False),
    "margins/share_negative": ("pairs with a margin below zero", True),
    "calibration/nll": ("NLL of σ(Δ) (0.693 knows nothing)", False),
    "calibration/temperature": ("temperature (1 is calibrated)", False),
    "cross_fitted/nll": ("NLL of σ(Δ / temperature), on held-out folds", False),
    "calibration/brier": ("Brier score of σ(Δ)", False),
    "calibration/ece": ("calibration error ECE", False),
    "length/controlled_accuracy": ("length-controlled accuracy", True),
    "ranking/kendall_tau_b": ("Kendall τ_b", False),
    "judge/consistency": ("pairs with the same winner in both orders", True),
    "judge/share_first": ("verdicts for the text shown first (50 % is no position bias)", True),
    "judge/score_one_order": ("official score, each pair asked in one order", True),
}


@dataclass(frozen=True)
class Row:
    """
    One number of a report.

    Args:
        name (`str`): as it is shown.
        kind (`str`): `"official"`, `"section"`, `"pairs"`, `"subset"`, `"baseline"` or `"metric"`.
        value (`float`, *optional*): a fraction of 1 if `is_share`; `None` where it is not defined.
        interval (`list[float]`, *optional*): 95 %, low and high.
        n (`int`, *optional*): how many items it is over.
        is_share (`bool`, *optional*, defaults to `True`): shown in percent.
        note (`str`, *optional*, defaults to `"–"`): shown where there is no value.
    """

    name: str
    kind: str
    value: float | None
    interval: Sequence[float | None] | None = None
    n: int | None = None
    is_share: bool = True
    note: str = "–"

    @property
    def text(self) -> str:
        """The value as it is shown."""
        if self.value is None:
            return self.note
        return percent(self.value) if self.is_share else number(self.value)

    @property
    def bounds(self) -> str:
        """The interval as it is shown."""
        return bounds(self.interval, percent if self.is_share else number)


def rows(report: Report) -> dict[str, Row]:
    """
    The numbers of a report: what tables, cards and leaderboards show is chosen from these.

    Args:
        report (`dict`): the content of `report.json`.

    Returns:
        `dict[str, Row]`, in the order in which they are read: `score`, `section/NAME`…, `pairwise`, `subset/NAME`…,
        `baseline/NAME`…, and those of `METRICS` that are defined for the data.
    """
    metrics, counts = report["metrics"], report["counts"]
    official, pairwise = metrics["official"], metrics["pairwise"]
    n = counts["num_comparisons"]
    name = "score" if report["benchmark"]["name"] == "preference" else "official score"
    found = {"score": Row(name, "official", official["score"], official["interval"], n)}
    for name, one in official["sections"].items():
        found[f"section/{name}"] = Row(name, "section", one["value"], one["interval"])
    n = pairwise["num_pairs"]
    found["pairwise"] = Row("pairwise accuracy, tie ½", "pairs", pairwise["accuracy"], pairwise["interval"], n)
    for name, one in metrics["subsets"].items():
        found[f"subset/{name}"] = Row(name, "subset", one["accuracy"], one["interval"], one["num_pairs"])
    for name, one in report["baselines"].items():
        found[f"baseline/{name}"] = Row(f"baseline: {BASELINE_NAMES[name]}", "baseline", one["score"], one["interval"])
    parts = {**metrics, "cross_fitted": (metrics["calibration"] or {}).get("cross_fitted")}
    parts["length"] = (metrics["bias"] or {}).get("length")
    for key, (name, is_share) in METRICS.items():
        part, field = key.split("/")
        if one := parts.get(part):
            n = one.get("num_pairs", one.get("num_comparisons"))
            interval, note = one.get(f"{field}_interval", one.get("interval")), one.get(f"{field}_note") or "–"
            found[key] = Row(name, "metric", one[field], interval, n, is_share, note)
    if lists := metrics["lists"]:
        chance, n = f"the best above all others (chance {percent(lists['top_1_chance'])} %)", lists["num_comparisons"]
        found["lists/top_1"] = Row(f"top-1: {chance}", "metric", lists["top_1"], lists["top_1_interval"], n)
        name = f"mean reciprocal rank of the best (chance {number(lists['mrr_chance'])})"
        found["lists/mrr"] = Row(name, "metric", lists["mrr"], lists["mrr_interval"], n, is_share=False)
    return found


def number_table(report: Report, title: str = "") -> Table:
    """The numbers of a report as a table; subsets only where there are no sections."""
    found = rows(report).values()
    has_sections = any(row.kind == "section" for row in found)
    shown = [row for row in found if not (has_sections and row.kind == "subset")]
    cells = [(row.name, row.text, row.bounds, "" if row.n is None else f"{row.n:,}") for row in shown]
    return Table(["metric (shares in %)", "value", "95 % interval", "n"], cells, [row.kind for row in shown], title)


# --- in words


def data_title(report: Report) -> str:
    """Name of the benchmark; of any other preference data the name of its file, folder or hub id."""
    benchmark = report["benchmark"]
    return Path(benchmark["source"]).name if benchmark["name"] == "preference" else benchmark["name"]


def run_title(report: Report) -> str:
    """Model and data; where many comparisons are unscored, that is shown before every number."""
    unscored = "" if is_mostly_scored(report) else f" – {percent(_unscored_share(report))} % not scored"
    return f"{report['model']['name']} on {data_title(report)}{unscored}"


def is_mostly_scored(report: Report) -> bool:
    """Whether so few comparisons are unscored that a test means something."""
    return _unscored_share(report) <= MAX_UNSCORED


def _unscored_share(report: Report) -> float:
    return report["counts"]["num_unscored_comparisons"] / report["counts"]["num_comparisons"]


def shortfalls(report: Report) -> list[str]:
    """Why the score is not the official one of the whole data, one sentence each; nothing where it is."""
    counts, benchmark = report["counts"], report["benchmark"]
    missing = report["metrics"]["official"]["missing"]
    expected = BENCHMARKS[benchmark["name"]].num_rows if benchmark["name"] in BENCHMARKS else None
    sentences = []
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        sentences.append(f"This is not the official score: {', '.join(missing)} {verb} not in the data.")
    if benchmark["limit"] is not None:
        sentences.append(
            f"A sample of {counts['num_comparisons']:,} comparisons from {counts['num_rows']:,} rows, drawn with seed "
            "0 and balanced over subsets (limit)."
        )
    elif expected is not None and counts["num_rows"] != expected and not missing:
        sentences.append(f"The data have {counts['num_rows']:,} rows, the original {expected:,}.")
    if counts["num_unscored_comparisons"]:
        why = " (over the length limit)" if report["model"].get("truncation_mode") == "drop" else ""
        sentences.append(
            f"{counts['num_unscored_comparisons']:,} of {counts['num_comparisons']:,} comparisons have a text that "
            f"was not scored{why}; they count as wrong, and margins and calibration leave them out."
        )
    if counts.get("num_empty") and benchmark.get("on_empty") == "skip":
        sentences.append(f"{counts['num_empty']:,} comparisons with an empty reply were left out (on_empty=skip).")
    if counts["num_bad_rows"]:
        sentences.append(f"{counts['num_bad_rows']:,} bad rows were skipped, the first: {report['bad_rows'][0]}.")
    return sentences


def remarks(report: Report) -> list[str]:
    """What a reader must know before quoting the score, one sentence each."""
    counts, model, tie_rate = report["counts"], report["model"], report["metrics"]["pairwise"]["tie_rate"]
    sentences = shortfalls(report)
    if counts.get("num_empty") and report["benchmark"].get("on_empty") != "skip":
        sentences.append(f"{counts['num_empty']:,} comparisons have an empty reply, and count like any other.")
    if report["run"].get("num_at_length_limit") and model.get("truncation_mode") == "keep_end":
        sentences.append(
            f"{report['run']['num_at_length_limit']:,} completions were cut at the limit of {model['max_length']:,} "
            "tokens (the start of the prompt is removed)."
        )
    if spelled := report["run"].get("num_control_tokens"):
        read = {"parse": "tokens", "as_text": "text"}[report["model"]["control_tokens"]]
        sentences.append(f"{spelled:,} completions spell a control token of the chat template, read as {read}.")
    if counts["num_no_preference"]:
        sentences.append(f"{counts['num_no_preference']:,} rows state no preference and are left out.")
    if tie_rate > 0:
        sentences.append(
            f"{percent(tie_rate)} % of the pairs are exact ties: ½ in the pairwise accuracy, wrong in the strict one."
        )
    if (ranking := report["metrics"]["ranking"]) and ranking["num_tied"]:
        num_lists = ranking["num_comparisons"] + ranking["num_tied"]
        sentences.append(f"{ranking['num_tied']:,} of {num_lists:,} ranked lists tie wholly, and have no Kendall τ_b.")
    return sentences


def verdict(report: Report) -> str:
    """Whether the model is better than the rule "the longer wins"."""
    versus = report["baselines"]["length"]["model_minus_baseline"]
    difference, rule = points(versus["difference"]), "the rule “the longer wins”"
    if versus["p_value"] is None:
        unscored = f"{percent(_unscored_share(report))} % of the comparisons are not scored and count as wrong"
        return f"{unscored}: {difference} points from {rule}, without a p-value."
    if versus["low"] is None or versus["p_value"] >= ALPHA:
        return f"Does not differ significantly from {rule}: {difference} points, p = {versus['p_value']:.2g}."
    word = "Better" if versus["difference"] > 0 else "Worse"
    interval = bounds([versus["low"], versus["high"]])
    return f"{word} than {rule} by {difference.lstrip('+−')} points ({interval}, p = {versus['p_value']:.2g})."


# --- terminal


def print_report(report: Report) -> None:
    """The numbers as a table on the terminal, then what to know about them."""
    number_table(report, run_title(report)).print()
    bias_table(report).print()
    print(printable("\n".join([verdict(report), *remarks(report)])))


# --- page


def render_report(report: EvaluationReport) -> str:
    """
    `report.html`: everything about one run on one page that loads nothing.

    Args:
        report ([`EvaluationReport`]): the run.

    Returns:
        `str`: HTML.
    """
    content, found = report.report, rows(report.report)
    mistakes = _mistakes(report)
    nothing = () if mistakes else [("No pair is ranked wrong.", "")]
    sections = [
        _summary(content, found),
        Section("Plots", plots=_plots(report, found)),
        Section("Scores in detail", tables=[number_table(content), _pairs_table(content)]),
        Section("What the reward follows beside the content", [], [(BIAS, "soft")], [bias_table(content)]),
        Section("The most confident mistakes", paragraphs=nothing, details=mistakes),
        Section("How it was measured", tables=[_provenance(content)]),
    ]
    return render_page(run_title(content), sections)


def _summary(report: Report, found: Mapping[str, Row]) -> Section:
    score, pairwise, length = (found[key] for key in ("score", "pairwise", "baseline/length"))
    cards = [
        (score.name.capitalize(), f"{score.text} %", f"95 % interval {score.bounds}"),
        ("Pairwise accuracy", f"{pairwise.text} %", f"{pairwise.n:,} pairs, a tie counts ½"),
        ("Length-only baseline", f"{length.text} %", "the longer completion wins"),
    ]
    if "calibration/nll" in found:
        known = f"0.693 knows nothing; temperature {found['calibration/temperature'].text}"
        cards.append(("NLL of σ(Δ)", found["calibration/nll"].text, known))
    official, notes = report["metrics"]["official"], report["benchmark"]["notes"]
    samples = report["metrics"]["bootstrap"]["num_samples"]
    size = f"Intervals of scores are from {samples:,} bootstrap samples of {official['num_clusters']:,} prompts."
    if official["num_clusters"] < MIN_CLUSTERS:
        size = f"Of {official['num_clusters']} prompts no interval is claimed; it takes {MIN_CLUSTERS}."
    if (detectable := official["minimum_detectable_difference"]) is not None:
        size += (
            f" Between two models measured on different prompts, a difference of {percent(detectable)} points is "
            "found significant with 80 % power at this size; on the same prompts a smaller one is, see "
            "`rm-plugin compare`."
        )
    warnings = [(sentence, "warning") for sentence in remarks(report)]
    soft = [(f"Official score: {notes}.", "soft")] if notes else []
    return Section(cards=cards, paragraphs=[(verdict(report), ""), *warnings, *soft, (size, "soft")])


def _plots(report: EvaluationReport, found: Mapping[str, Row]) -> list[tuple[str, str]]:
    """Those that the data allow."""
    metrics, margins = report.metrics, report.results.margins
    plots = []
    if len(margins):
        plots += [
            (figures.margin_histogram(margins), "Margins Δ; pairs below zero are ranked wrong."),
            (figures.reliability_diagram(margins), "Is σ(Δ) a probability? 95 % intervals by bin."),
            (_coverage_plot(metrics["coverage"]), "Accuracy on the pairs that the model is surest of."),
            (_length_plot(metrics["length"]), "Does length decide? If not, the line is flat."),
        ]
    sections, subsets = (
        [(row.name, row.value, row.interval) for row in found.values() if row.kind == kind]
        for kind in ("section", "subset")
    )
    if sections:
        plots.append(bars_plot(sections, "section", "Sections of the official score with 95 % intervals"))
    if len(subsets) > 1 and not set(metrics["subsets"]) <= set(metrics["official"]["sections"]):
        plots.append(bars_plot(subsets, "pairwise accuracy", "Pairwise accuracy by subset with 95 % intervals"))
    if (curve := metrics["best_of_n"]) is not None:
        caption = (
            f"Best of n by this model over {curve['num_prompts']:,} prompts with 95 % intervals; the oracle knows the "
            f"answers. KL from the policy is at most {number(curve['kl_bound'][-1])} nats at n = {curve['n'][-1]}."
        )
        intervals = list(zip(curve["low"], curve["high"], strict=True))
        lines = {"intervals": intervals, "references": {name: curve[name] for name in ("random", "oracle")}}
        x = [*map(str, curve["n"])]
        plots.append((figures.line_plot(x, curve["value"], "n samples", "share solved", **lines), caption))
    return plots


def _length_plot(length: Report) -> str:
    bins = length["by_difference"]
    means, xlabel = [f"{one['mean']:+,.0f}" for one in bins], f"chosen longer by ({length['unit']}, mean of bin)"
    accuracies, intervals = ([one[name] for one in bins] for name in ("accuracy", "interval"))
    return figures.line_plot(means, accuracies, xlabel, "accuracy", intervals=intervals, references={"chance": 0.5})


def _coverage_plot(coverage: Sequence[Report]) -> str:
    shares, accuracies, intervals = ([one[key] for one in coverage] for key in ("coverage", "accuracy", "interval"))
    xlabel = "share of the pairs, those of the largest |Δ|"
    return figures.line_plot(shares, accuracies, xlabel, "accuracy", intervals=intervals)


def bars_plot(bars: Sequence[tuple[str, float, Any]], label: str, caption: str, **options: Any) -> tuple[str, str]:
    """Bars of (name, value, interval), as many as can be read; `options` of [`figures.accuracy_bars`]."""
    more = f"; the first {MAX_BARS} of {len(bars)}, all are in the table" if len(bars) > MAX_BARS else ""
    return (figures.accuracy_bars(bars[:MAX_BARS], label, **options), f"{caption}{more}.")


BIAS = (
    "Accuracy on pairs whose completions have a feature equally (within a tenth), and where the chosen has more or "
    "less of it; controlled is the mean of the latter two, which no preference for the feature can raise above 50. "
    "Length is in characters; markdown counts marks; refusal is an English one at the start; repetition is the share "
    "of runs of three words that occurred before; listed first is the first completion of its row."
)


def bias_table(report: Report) -> Table:
    """How far the reward follows features of the text; one row per feature that tells something in these data."""
    columns = ["feature", "accuracy where equal, %", "chosen has more", "chosen has less", "controlled"]
    cells = []
    for name, one in (report["metrics"]["bias"] or {}).items():
        sides = [
            f"{percent(one[f'accuracy_{side}'])} {bounds(one[f'accuracy_{side}_interval'])} ({one[f'num_{side}']:,})"
            for side in ("equal", "more", "less")
        ]
        controlled = f"{percent(one['controlled_accuracy'])} {bounds(one['controlled_accuracy_interval'])}"
        cells.append(
            [name, *sides, controlled, f"{number(one['spearman'])} {bounds(one['spearman_interval'], number)}"]
        )
    return Table([*columns, "Spearman(Δ, difference)"], cells, title="Bias: 95 % intervals (pairs)")


def _pairs_table(report: Report) -> Table:
    columns = ["pairs, %", "tie ½", "95 % interval", "strict", "ties", "pairs", "Δ mean", "Δ sd", "Δ median"]
    cells = [
        [name, percent(one["accuracy"]), bounds(one["interval"]), percent(one["accuracy_strict"])]
        + [percent(one["tie_rate"]), f"{one['num_pairs']:,}"]
        + [number(one["margins"][key]) for key in ("mean", "std", "q50")]
        for name, one in [("all", report["metrics"]["pairwise"]), *report["metrics"]["subsets"].items()]
    ]
    return Table(columns, cells, ["official", *["subset"] * (len(cells) - 1)], "Pairs")


def _mistakes(report: EvaluationReport) -> list[tuple[str, list]]:
    details = []
    for one in report.results.mistakes[:MAX_MISTAKES]:
        texts = [
            ("Prompt", _plain(one["prompt"]), ""),
            (f"Preferred by people, r = {one['score_better']:.3f}", _plain(one["chosen"]), "chosen"),
            (f"Preferred by the model, r = {one['score_worse']:.3f}", _plain(one["rejected"]), "rejected"),
        ]
        details.append((f"Δ = {one['difference']:.2f} · {one['subset'] or ''} · {one['id']}", texts))
    return details


def _plain(text: Text) -> str:
    """A text as it reads; of a conversation, its turns."""
    if not isinstance(text, str):
        text = "\n\n".join(f"{turn.get('role', '')}: {turn.get('content') or ''}" for turn in text)
    more = len(text) - MAX_TEXT
    return (text if more <= 0 else f"{text[:MAX_TEXT]} … ({more:,} more characters)") or "(empty)"


def _provenance(report: Report) -> Table:
    data = {**report["benchmark"], "revision": report["benchmark"]["revision"] or "unpinned"}
    parts = {"data": data, **{part: report[part] for part in ("model", "counts", "run")}}
    cells = [
        (part, name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for part, values in parts.items()
        for name, value in values.items()
        if value not in (None, "", {})
    ]
    return Table(["of", "what", "value"], cells, num_text_columns=3)


# --- the model's card, and results for the hub

CARD_START, CARD_END = "<!-- rm-plugin evaluation -->", "<!-- end of rm-plugin evaluation -->"


def model_card_section(reports: Sequence[Report]) -> str:
    """
    A section for the README.md of a model, in Markdown.

    Args:
        reports (`Sequence[dict]`): contents of `report.json`, all of one model.

    Returns:
        `str`: heading and table between two comments, by which [`update_model_card`] finds it again.
    """
    columns = ["Benchmark", "Score, %", "95 % interval", "Pairs, %", "Length only, %", "n", "Remarks"]
    cells = []
    for report in reports:
        found = rows(report)
        score, pairwise, length = (found[key] for key in ("score", "pairwise", "baseline/length"))
        numbers = [score.text, score.bounds, pairwise.text, length.text, f"{score.n:,}"]
        unscored = "" if is_mostly_scored(report) else f", {percent(_unscored_share(report))} % not scored"
        cells.append([data_title(report) + unscored, *numbers, " ".join(remarks(report))])
    version = reports[0]["run"]["versions"]["rm-plugin"]
    lines = ["## Evaluation", "", Table(columns, cells).markdown(), "", f"Measured with rm-plugin {version}."]
    return "\n".join([CARD_START, *lines, CARD_END]) + "\n"


def eval_results(report: Report) -> list[dict[str, Any]]:
    """
    The official score as the hub reads it from `.eval_results/*.yaml` in a model's repository.

    Args:
        report (`dict`): the content of `report.json`.

    Returns:
        `list[dict]`: empty for data that are not one data set of the hub, and for a run that is not complete (a limit,
        other or bad rows, unscored texts), because its score is not the official one.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    name, score = report["benchmark"]["name"], rows(report)["score"]
    hubs = {part.hub for part in BENCHMARKS[name].parts} if name in BENCHMARKS else set()
    if len(hubs) != 1 or shortfalls(report):
        return []
    notes = f"official score in percent, 95 % interval {score.bounds}, n = {score.n:,}"
    entry = EvalResultEntry(
        dataset_id=hubs.pop(),
        task_id=name,
        value=round(100 * score.value, 2),
        dataset_revision=report["benchmark"]["revision"],
        date=report["run"]["finished"],
        notes=f"{notes}, rm-plugin {report['run']['versions']['rm-plugin']}",
    )
    return eval_result_entries_to_yaml([entry])


def update_model_card(readme: str | Path, reports: Sequence[Report]) -> list[Path]:
    """
    Put the evaluation into a README.md, in place of an earlier section or at the end, and the official scores of
    complete runs beside it, into `.eval_results/`, from where the hub shows them. Everything else stays.

    Args:
        readme (`str` or `Path`): the file; made where it is missing.
        reports (`Sequence[dict]`): contents of `report.json`, all of one model.

    Returns:
        `list[Path]`: the files that were written.
    """
    import yaml

    readme = Path(readme)
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    section = model_card_section(reports).strip()
    before, start, rest = text.partition(CARD_START)
    _, end, after = rest.partition(CARD_END)
    at_end = f"{text.rstrip()}\n\n{section}\n".lstrip("\n")
    write_atomically(readme, f"{before}{section}{after}" if start and end else at_end)
    written = [readme]
    for report in reports:
        if entries := eval_results(report):
            path = readme.parent / ".eval_results" / f"rm-plugin-{report['benchmark']['name']}.yaml"
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))
            written.append(path)
    return written
