"""What an evaluation shows: a terminal table, a self-contained page with figures, a section for the model's card.

    print_report(report.report);  html = render_report(report);  section = model_card_section([report.report])

Scores are shown in percent. Data set text is hostile: it goes through jinja2's autoescape into a page that forbids
scripts and requests.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.comparison import Text
from ..files import write_atomically
from ..messages import printable, terminal_text
from .benchmarks import BENCHMARKS, LoadedBenchmark
from .figures import (
    accuracy_bars,
    best_of_n_figure,
    learning_curve,
    length_figure,
    loss_curve_figure,
    margin_histogram,
    reliability_figure,
)
from .page import (
    Section,
    cards_html,
    figure_html,
    figures_html,
    fragment,
    paragraph_html,
    render_page,
    table_html,
)
from .results import Results
from .scores import score_lines

__all__ = [
    "EvaluationReport",
    "Section",
    "accuracy_bars",
    "best_of_n_figure",
    "cards_html",
    "figure_html",
    "figures_html",
    "learning_curve",
    "length_figure",
    "loss_curve_figure",
    "margin_histogram",
    "model_card_section",
    "paragraph_html",
    "print_report",
    "reliability_figure",
    "render_page",
    "render_report",
    "table_html",
    "update_model_card",
]

BASELINE_NAMES = {"random": "random", "length": "length only", "constant": "constant"}
MAX_TEXT = 6000  # characters of a text on the page
MAX_BARS = 40
Report = Mapping[str, Any]


@dataclass
class EvaluationReport:
    """
    One model on one benchmark.

    Args:
        report (`dict`): what `report.json` holds: benchmark, model, counts, metrics, baselines, mistakes, run.
        results ([`Results`]): the figures, with margins and items.
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
        """Every figure of the model."""
        return self.report["metrics"]

    def save(self, folder: str | os.PathLike) -> None:
        """Write all files of the run; `report.json` comes last, so where it is, the rest is."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = score_lines(self.data.comparisons, self.scores)
        write_atomically(folder / "scores.jsonl", "".join(lines))
        write_atomically(folder / "items.json", json.dumps(self.results.items, ensure_ascii=False) + "\n")
        write_atomically(folder / "model_card.md", model_card_section([self.report]))
        write_atomically(folder / "report.html", render_report(self))
        write_atomically(folder / "report.json", json.dumps(self.report, ensure_ascii=False, indent=1) + "\n")


# --- words and numbers


def percent(value: float | None) -> str:
    """`62.3`, of 0.623."""
    return "–" if value is None else f"{100 * value:.1f}"


def bounds(interval: Sequence[float | None] | None) -> str:
    """`[57.1, 67.4]`."""
    return "–" if not interval or interval[0] is None else f"[{percent(interval[0])}, {percent(interval[1])}]"


def number(value: float | None) -> str:
    """Three significant digits or so."""
    return "–" if value is None else (f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")


def data_title(report: Report) -> str:
    """Name of the benchmark; of any other preference data the name of its file, folder or hub id."""
    benchmark = report["benchmark"]
    return Path(benchmark["source"]).name if benchmark["name"] == "preference" else benchmark["name"]


def remarks(report: Report) -> list[str]:
    """What a reader must know before quoting the score, one sentence each."""
    counts, benchmark, official = report["counts"], report["benchmark"], report["metrics"]["official"]
    sentences = []
    if official["missing"]:
        sentences.append(
            f"This is not the official score: {', '.join(official['missing'])} "
            f"{'is' if len(official['missing']) == 1 else 'are'} not in the data."
        )
    expected = BENCHMARKS[benchmark["name"]].num_rows if benchmark["name"] in BENCHMARKS else None
    if benchmark["limit"] is not None:
        sentences.append(f"Only the first {counts['num_comparisons']:,} comparisons were taken (limit).")
    elif expected is not None and counts["num_rows"] != expected and not official["missing"]:
        sentences.append(f"The data have {counts['num_rows']:,} rows, the original {expected:,}.")
    if counts["num_unscored_comparisons"]:
        sentences.append(
            f"{counts['num_unscored_comparisons']:,} of {counts['num_comparisons']:,} comparisons have a text that "
            "was not scored (over the length limit); they count as wrong, and margins and calibration leave them out."
        )
    if report["run"].get("num_at_length_limit") and report["model"].get("truncation_mode") == "keep_end":
        sentences.append(
            f"{report['run']['num_at_length_limit']:,} completions were cut at the limit of "
            f"{report['model']['max_length']:,} tokens (the start of the prompt goes)."
        )
    if counts["num_no_preference"]:
        sentences.append(f"{counts['num_no_preference']:,} rows state no preference and are left out.")
    if counts["num_bad_rows"]:
        sentences.append(f"{counts['num_bad_rows']:,} bad rows were skipped, the first: {report['bad_rows'][0]}.")
    if report["metrics"]["pairwise"]["tie_rate"] > 0:
        sentences.append(
            f"{percent(report['metrics']['pairwise']['tie_rate'])} % of the pairs are exact ties: ½ in the pairwise "
            "accuracy, wrong in the strict one."
        )
    return sentences


def verdict(report: Report) -> str:
    """Whether the model is better than the rule "the longer wins"."""
    versus = report["baselines"]["length"]["model_minus_baseline"]
    difference = f"{100 * versus['difference']:+.1f} points".replace("-", "−")
    if versus["low"] is None or versus["p_value"] >= 0.05:
        return f"Not told apart from the rule “the longer wins”: {difference}, p = {versus['p_value']:.2g}."
    word = "Better" if versus["difference"] > 0 else "Worse"
    return (
        f"{word} than the rule “the longer wins” by {difference.lstrip('+−')} "
        f"({bounds([versus['low'], versus['high']])}, p = {versus['p_value']:.2g})."
    )


# --- terminal


def print_report(report: Report, console: Any = None) -> None:
    """A table of the main figures on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    metrics, official = report["metrics"], report["metrics"]["official"]
    title = f"{report['model']['name']} on {data_title(report)}"
    table = Table(title=terminal_text(title), title_justify="left")
    table.add_column("figure")
    for name in ("value", "95 % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [
        (
            "[bold]official score[/]",
            percent(official["score"]),
            bounds(official["interval"]),
            report["counts"]["num_comparisons"],
        )
    ]
    rows += [
        (f"  {terminal_text(name)}", percent(one["value"]), bounds(one["interval"]), "")
        for name, one in official["sections"].items()
    ]
    pairwise = metrics["pairwise"]
    rows.append(
        (
            "pairwise accuracy, tie ½",
            percent(pairwise["accuracy"]),
            bounds(pairwise["interval"]),
            pairwise["num_pairs"],
        )
    )
    if not official["sections"]:
        rows += [
            (f"  {terminal_text(name)}", percent(one["accuracy"]), bounds(one["interval"]), one["num_pairs"])
            for name, one in metrics["subsets"].items()
        ]
    rows += [
        (f"baseline: {BASELINE_NAMES[name]}", percent(one["score"]), bounds(one["interval"]), "")
        for name, one in report["baselines"].items()
    ]
    rows += [(name, value, "", "") for name, value in _other_figures(report)]
    for row in rows:
        table.add_row(row[0], row[1], row[2], str(row[3]))
    console.print(table)
    for sentence in [verdict(report), *remarks(report)]:
        console.print(terminal_text(sentence), highlight=False)


def _other_figures(report: Report) -> list[tuple[str, str]]:
    """Name and value of the figures that are no accuracy."""
    metrics = report["metrics"]
    rows = []
    if (margins := metrics["margins"]) is not None:
        rows.append(("margin Δ, mean ± sd", f"{number(margins['mean'])} ± {number(margins['std'])}"))
    if (fit := metrics["calibration"]) is not None:
        rows.append(("NLL of σ(Δ) (0.693 knows nothing)", number(fit["nll"])))
        rows.append(("calibration error ECE", number(fit["ece"])))
        rows.append(("temperature (1 is calibrated)", number(fit["temperature"])))
    if (length := metrics["length"]) is not None:
        rows.append(("length-controlled accuracy", percent(length["length_controlled_accuracy"])))
        rows.append(("Spearman(Δ reward, Δ length)", number(length["spearman"])))
    if (ranking := metrics["ranking"]) is not None:
        rows.append(("Kendall τ_b", number(ranking["kendall_tau_b"])))
    return rows


# --- page


def render_report(report: EvaluationReport) -> str:
    """
    `report.html`: everything about one run on one page that loads nothing.

    Args:
        report ([`EvaluationReport`]): the run.

    Returns:
        `str`: HTML.
    """
    content = report.report
    sections = [
        Section("", _summary_html(content)),
        Section("Figures", _figures_html(content, report.results.margins)),
        Section("Scores in detail", _tables_html(content)),
        Section("The most confident mistakes", _mistakes_html(report)),
        Section("How it was measured", _provenance_html(content)),
    ]
    return render_page(f"{content['model']['name']} on {data_title(content)}", sections)


def _summary_html(report: Report) -> str:
    official, pairwise = report["metrics"]["official"], report["metrics"]["pairwise"]
    fit, length = report["metrics"]["calibration"], report["baselines"]["length"]
    cards = [
        ("Official score", f"{percent(official['score'])} %", f"95 % interval {bounds(official['interval'])}"),
        (
            "Pairwise accuracy",
            f"{percent(pairwise['accuracy'])} %",
            f"{pairwise['num_pairs']:,} pairs, a tie counts ½",
        ),
        ("Length-only baseline", f"{percent(length['score'])} %", "the longer completion wins"),
    ]
    if fit is not None:
        cards.append(
            ("NLL of σ(Δ)", number(fit["nll"]), f"0.693 knows nothing; temperature {number(fit['temperature'])}")
        )
    detectable = percent(official["minimum_detectable_difference"])
    notes = f"Official score: {report['benchmark']['notes']}. " if report["benchmark"]["notes"] else ""
    text = paragraph_html(verdict(report)) + "".join(paragraph_html(one, "warning") for one in remarks(report))
    return (
        cards_html(cards)
        + text
        + paragraph_html(
            f"{notes}Intervals are bootstrapped over {official['num_clusters']:,} prompts. Two models measured on "
            f"different prompts must be {detectable} points apart to be told apart at this size (80 % power); on the "
            "same prompts less, see `rm-plugin compare`.",
            "soft",
        )
    )


def _figures_html(report: Report, margins: Any) -> str:
    metrics, official = report["metrics"], report["metrics"]["official"]
    figures = []
    if metrics["margins"] is not None:
        spread = metrics["margins"]
        caption = (
            f"Margins of {spread['num_pairs']:,} pairs: mean {number(spread['mean'])}, sd {number(spread['std'])}, "
            f"median {number(spread['q50'])}; {percent(spread['share_negative'])} % below zero are ranked wrong."
        )
        figures.append(figure_html(margin_histogram(margins), caption))
        fit = metrics["calibration"]
        rescaled = fit["cross_fitted"]
        caption = f"ECE {number(fit['ece'])}, NLL {number(fit['nll'])}, Brier {number(fit['brier'])}. "
        caption += f"Dividing Δ by {number(fit['temperature'])} fits best"
        caption += f": NLL {number(rescaled['nll'])} on held-out folds." if rescaled else "."
        figures.append(figure_html(reliability_figure(margins), f"Is σ(Δ) a probability? {caption}"))
        length = metrics["length"]
        caption = (
            f"Does length decide? Spearman(Δ reward, Δ length) {number(length['spearman'])}; accuracy where the "
            f"chosen is longer {percent(length['accuracy_chosen_longer'])} %, where it is shorter "
            f"{percent(length['accuracy_chosen_shorter'])} %, mean of the two "
            f"{percent(length['length_controlled_accuracy'])} %."
        )
        figures.append(figure_html(length_figure(length["by_difference"], length["unit"]), caption))
    bars = [
        {"name": name, "value": one["value"], "low": one["interval"][0], "high": one["interval"][1]}
        for name, one in official["sections"].items()
    ]
    if bars:
        figures.append(_bars_html(bars, "official figures", "Official figures with 95 % intervals"))
    subsets = [
        {"name": name, "value": one["accuracy"], "low": one["interval"][0], "high": one["interval"][1]}
        for name, one in metrics["subsets"].items()
    ]
    if len(subsets) > 1 and not {one["name"] for one in subsets} <= set(official["sections"]):
        figures.append(_bars_html(subsets, "pairwise accuracy", "Pairwise accuracy by subset with 95 % intervals"))
    if (curve := metrics["best_of_n"]) is not None:
        caption = (
            f"Best of n by this model over {curve['num_prompts']:,} prompts, 95 % band; the oracle knows the answers. "
            f"KL from the policy is at most {number(curve['kl_bound'][-1])} nats at n = {curve['n'][-1]}."
        )
        figures.append(figure_html(best_of_n_figure(curve), caption))
    return figures_html(figures)


def _bars_html(rows: list[dict[str, Any]], label: str, caption: str) -> str:
    more = f"; the first {MAX_BARS} of {len(rows)}, all are in the table" if len(rows) > MAX_BARS else ""
    return figure_html(accuracy_bars(rows[:MAX_BARS], label), f"{caption}{more}.")


def _tables_html(report: Report) -> str:
    metrics, official = report["metrics"], report["metrics"]["official"]
    rows = [
        [
            "official score",
            percent(official["score"]),
            bounds(official["interval"]),
            f"{report['counts']['num_comparisons']:,}",
        ]
    ]
    rows += [[name, percent(one["value"]), bounds(one["interval"]), "–"] for name, one in official["sections"].items()]
    kinds = [""] * len(rows)
    for name, one in report["baselines"].items():
        rows.append([f"baseline: {BASELINE_NAMES[name]}", percent(one["score"]), bounds(one["interval"]), "–"])
        kinds.append("baseline")
    html = table_html(["official, %", "value", "95 % interval", "n"], rows, kinds)
    subsets = {"all": metrics["pairwise"], **metrics["subsets"]}
    rows = [
        [
            name,
            percent(one["accuracy"]),
            bounds(one["interval"]),
            percent(one["accuracy_strict"]),
            percent(one["tie_rate"]),
            f"{one['num_pairs']:,}",
        ]
        for name, one in subsets.items()
    ]
    html += "<h3>Pairs</h3>" + table_html(["pairs, %", "tie ½", "95 % interval", "strict", "ties", "pairs"], rows)
    others = [list(row) for row in _other_figures(report)]
    return html + "<h3>Beyond accuracy</h3>" + table_html(["figure", "value"], others)


MISTAKES = """
{% if not mistakes %}<p>No pair is ranked wrong.</p>{% endif %}
{% for one in mistakes %}
<details{% if loop.first %} open{% endif %}>
<summary>Δ = {{ "%.2f" | format(one.margin) }} · {{ one.subset or "" }} · {{ one.id }}</summary>
<h3>Prompt</h3><div class="text">{{ one.prompt }}</div>
<h3>Preferred by people, r = {{ "%.3f" | format(one.score_better) }}</h3>
<div class="text chosen">{{ one.chosen }}</div>
<h3>Preferred by the model, r = {{ "%.3f" | format(one.score_worse) }}</h3>
<div class="text rejected">{{ one.rejected }}</div>
</details>
{% endfor %}
"""


def _mistakes_html(report: EvaluationReport) -> str:
    comparisons = {comparison.id: comparison for comparison in report.data.comparisons}
    mistakes = []
    for mistake in report.results.mistakes:
        comparison = comparisons[mistake["id"]]
        chosen, rejected = (comparison.completions[mistake[side]] for side in ("better", "worse"))
        texts = {"prompt": comparison.prompt, "chosen": chosen, "rejected": rejected}
        mistakes.append({**mistake, **{name: _plain(text) for name, text in texts.items()}})
    return fragment(MISTAKES, mistakes=mistakes)


def _plain(text: Text) -> str:
    """A text as it reads; of a conversation, its turns."""
    if not isinstance(text, str):
        text = "\n\n".join(f"{turn.get('role', '')}: {turn.get('content') or ''}" for turn in text)
    more = len(text) - MAX_TEXT
    return (text if more <= 0 else f"{text[:MAX_TEXT]} … ({more:,} more characters)") or "(empty)"


def _provenance_html(report: Report) -> str:
    def rows(part: Mapping[str, Any]) -> list[list[str]]:
        return [[name.replace("_", " "), _show(value)] for name, value in part.items() if value not in (None, "", {})]

    benchmark = {**report["benchmark"], "revision": report["benchmark"]["revision"] or "unpinned"}
    parts = {"Data": benchmark, "Model": report["model"], "Counts": report["counts"], "Run": report["run"]}
    return "".join(f"<h3>{name}</h3>{table_html(['what', 'value'], rows(part))}" for name, part in parts.items())


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_show(one)}" for key, one in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


# --- model card

CARD_START, CARD_END = "<!-- rm-plugin evaluation -->", "<!-- end of rm-plugin evaluation -->"


def model_index(reports: Sequence[Report], name: str | None = None) -> list[dict[str, Any]]:
    """
    The `model-index` metadata of a model card on the hub.

    Args:
        reports (`Sequence[dict]`): contents of `report.json`, all of one model.
        name (`str`, *optional*): name of the model; by default that of the first report.

    Returns:
        `list[dict]`
    """
    results = []
    for report in reports:
        benchmark, metrics = report["benchmark"], report["metrics"]
        entry = BENCHMARKS.get(benchmark["name"])
        dataset = {"name": data_title(report), "type": (entry.hub if entry else None) or data_title(report)}
        dataset |= {key: benchmark[key] for key in ("split", "revision") if benchmark[key]}
        values = {"Official score": metrics["official"]["score"], "Pairwise accuracy": metrics["pairwise"]["accuracy"]}
        results.append(
            {
                "task": {"type": "text-classification", "name": "Reward modelling"},
                "dataset": dataset,
                "metrics": [
                    {"type": "accuracy", "name": label, "value": round(100 * value, 2)}
                    for label, value in values.items()
                ],
            }
        )
    return [{"name": name or Path(reports[0]["model"]["name"]).name, "results": results}]


def model_card_section(reports: Sequence[Report]) -> str:
    """
    `model-index` metadata and a table, for the README.md of a model.

    Args:
        reports (`Sequence[dict]`): contents of `report.json`, all of one model.

    Returns:
        `str`: Markdown with a YAML header.
    """
    import yaml

    header = yaml.safe_dump({"model-index": model_index(reports)}, sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n{_card_table(reports)}"


def update_model_card(readme: str | Path, reports: Sequence[Report]) -> None:
    """
    Put the evaluation into a README.md: its results into the `model-index` of the header, the table in place of an
    earlier one or at the end. Everything else stays, other results in the `model-index` among it.

    Args:
        readme (`str` or `Path`): the file; made where it is missing.
        reports (`Sequence[dict]`): contents of `report.json`, all of one model.

    Raises:
        ValueError: if the header is no YAML mapping, or its `model-index` none that the hub takes.
    """
    import yaml

    readme = Path(readme)
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    found = re.match(r"---\n(.*?\n)?---\n", text, flags=re.DOTALL)
    try:
        metadata = (yaml.safe_load(found[1] or "") or {}) if found else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{readme}: the header is not YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{readme}: the header is a {type(metadata).__name__}, not `key: value` lines; correct it")
    body = text[found.end() :] if found else text
    try:
        metadata["model-index"] = _merge_index(metadata.get("model-index"), model_index(reports))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{readme}: model-index has another form than the hub's ({type(error).__name__}: {error}); correct it"
        ) from error
    table = _card_table(reports).strip()
    if CARD_START in body and CARD_END in body:
        start, end = body.index(CARD_START), body.index(CARD_END) + len(CARD_END)
        body = body[:start] + table + body[end:]
    else:
        body = f"{body.rstrip()}\n\n{table}\n"
    header = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    write_atomically(readme, f"---\n{header}---\n{body if body.startswith(chr(10)) else chr(10) + body}")


def _merge_index(old: list[dict] | None, new: list[dict]) -> list[dict]:
    """The old `model-index`, with the results of the new one in place of those of equal data set and metric name."""
    if not old:
        return new
    (ours,) = new
    written = {(one["dataset"]["name"], metric["name"]) for one in ours["results"] for metric in one["metrics"]}
    kept = []
    for result in old[0]["results"]:
        name = result["dataset"]["name"]
        metrics = [metric for metric in result["metrics"] if (name, metric.get("name")) not in written]
        kept += [{**result, "metrics": metrics}] if metrics else []
    return [{**old[0], "results": kept + ours["results"]}, *old[1:]]


def _card_table(reports: Sequence[Report]) -> str:
    rows = [
        [
            data_title(report),
            percent(report["metrics"]["official"]["score"]),
            bounds(report["metrics"]["official"]["interval"]),
            percent(report["metrics"]["pairwise"]["accuracy"]),
            percent(report["baselines"]["length"]["score"]),
            f"{report['counts']['num_comparisons']:,}",
            " ".join(remarks(report)),
        ]
        for report in reports
    ]
    columns = [
        "Benchmark",
        "Score, %",
        "95 % interval",
        "Pairwise accuracy, %",
        "Length-only baseline, %",
        "n",
        "Remarks",
    ]
    if not any(row[-1] for row in rows):
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    version = reports[0]["run"]["versions"]["rm-plugin"]
    lines = ["## Evaluation", "", markdown_table(columns, rows), "", f"Measured with rm-plugin {version}."]
    return "\n".join([CARD_START, *lines, CARD_END]) + "\n"


def markdown_text(text: str) -> str:
    """Plain text in a line of Markdown: nothing in it can be a link, HTML, or end the cell of a table."""
    text = re.sub(r"([\\|`*_\[\]#])", r"\\\1", " ".join(printable(str(text)).split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text in Markdown; nothing in a cell can end the cell, be a link or be HTML."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(markdown_text, cells)) + " |"

    return "\n".join([line(columns), "|" + " --- |" * len(columns), *(line(row) for row in rows)])
