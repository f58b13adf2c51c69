"""Plots of reward models as SVG text, one function each, for a page in light or dark.

Ink is `currentColor` and series are CSS variables with a fallback (`--accent`, `--warm`), so that one plot suits
both colour schemes. Text stays text: selectable, searchable, small. The same numbers give the same bytes.

    svg = margin_histogram([1.5, -0.5, 0.0, 2.0])            # "<svg role='img' aria-label=…"
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..messages import printable, shorten
from ..metrics.calibration import reliability_curve
from ..metrics.preference import margin_distribution
from ..metrics.statistics import finite_array, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stand for others while matplotlib draws, and what they become in the SVG.
INK, ACCENT, WARM, FAINT = "#010203", "#010204", "#010205", "#010206"
CSS_COLORS = {
    INK: "currentColor",
    ACCENT: "var(--accent, #3b76d6)",
    WARM: "var(--warm, #d9662b)",
    FAINT: "var(--faint, #8a8f98)",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rm_plugin",  # ids depend on the content alone
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.unicode_minus": True,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}
SIZE = (4.6, 2.9)  # inches: 331 × 209 points, about the width of a phone


def margin_histogram(margins: ArrayLike) -> str:
    """
    How many pairs have which margin; those ranked wrong (Δ < 0) in the second colour.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion.

    Returns:
        `str`: SVG.

    Example:
    ```python
    >>> margin_histogram([1.5, -0.5, 0.0, 2.0]).startswith("<svg")
    True

    ```
    """
    distribution = margin_distribution(margins)
    counts, edges = (np.asarray(distribution["histogram"][key]) for key in ("counts", "edges"))

    def draw(axes: Axes) -> None:
        wrong = edges[1:] <= 0  # zero is an edge; a bin holds its left one
        colors = [WARM if is_wrong else ACCENT for is_wrong in wrong]
        axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colors, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="margin Δ = r(chosen) − r(rejected)", ylabel="pairs")
        axes.yaxis.get_major_locator().set_params(integer=True)

    label = (
        f"Histogram of {distribution['num_pairs']} margins, mean {distribution['mean']:.3g}, "
        f"{100 * distribution['share_negative']:.1f} % below zero"
    )
    return _svg(draw, label)


def reliability_diagram(margins: ArrayLike) -> str:
    """
    Predicted σ(|Δ|) against how often the preferred completion was right, with 95 % Wilson intervals, in ten bins.

    Args:
        margins (array of shape `(n,)`):
            Reward of the chosen minus reward of the rejected completion. The outcome of a tie is ½.

    Returns:
        `str`: SVG.
    """
    curve = {name: np.array(values, dtype=np.float64) for name, values in reliability_curve(margins).items()}
    confidence, accuracy, counts = (curve[name][curve["counts"] > 0] for name in ("confidence", "accuracy", "counts"))
    intervals = np.array([wilson_interval(a * n, n) for a, n in zip(accuracy, counts.tolist(), strict=True)])

    def draw(axes: Axes) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=FAINT, linestyle="--", linewidth=1)
        axes.text(0.98, 0.03, "dashed: as right as it is sure", transform=axes.transAxes, ha="right", fontsize=8)
        axes.vlines(confidence, *intervals.T, color=ACCENT, linewidth=1)
        axes.plot(confidence, accuracy, color=ACCENT)
        axes.scatter(confidence, accuracy, s=6 + 70 * counts / counts.max(), color=ACCENT, linewidths=0, zorder=3)
        axes.set(xlim=(0.48, 1.02), ylim=(min(0.4, intervals.min() - 0.02), 1.03))
        axes.set(xlabel="confidence σ(|Δ|)", ylabel="share right")

    return _svg(draw, f"Reliability curve of {int(counts.sum())} pairs: share right by confidence; area = pairs")


def bradley_terry_curve() -> str:
    """
    The Bradley-Terry loss −log σ(Δ) over the margin, with its value at the margins 0, 1, 2 and 5.

    Returns:
        `str`: SVG.

    Source: Bradley & Terry 1952; Ouyang et al. 2022, eq. 1.

    Example:
    ```python
    >>> all(value in bradley_terry_curve() for value in ("0.693", "0.313", "0.127", "0.007"))
    True

    ```
    """
    margins = np.linspace(-3, 6, 200)

    def draw(axes: Axes) -> None:
        axes.plot(margins, np.logaddexp(0, -margins), color=ACCENT)
        for margin in (0.0, 1.0, 2.0, 5.0):
            loss = np.logaddexp(0, -margin)
            axes.scatter(margin, loss, s=22, color=WARM, linewidths=0, zorder=3)
            axes.annotate(f"{loss:.3f}", (margin, loss), (4, 6), textcoords="offset points")
        axes.set(xlabel="margin Δ", ylabel="loss −log σ(Δ)", ylim=(-0.1, None))

    return _svg(draw, "Bradley-Terry loss over the margin")


def learning_curve(
    steps: ArrayLike, values: ArrayLike, label: str = "pairwise accuracy", reference: float | None = None
) -> str:
    """
    Values over training steps.

    Args:
        steps (array of shape `(n,)`):
            Training steps.
        values (array of shape `(n,)`):
            One value per step.
        label (`str`, *optional*, defaults to `"pairwise accuracy"`):
            What the values are.
        reference (`float`, *optional*):
            A level to mark, such as 0.5 for chance.

    Returns:
        `str`: SVG.
    """
    steps, values = finite_array(steps, "steps"), finite_array(values, label)
    if len(values) != len(steps):
        raise ValueError(f"{len(steps)} steps and {len(values)} values of {label}; give one value per step")

    def draw(axes: Axes) -> None:
        axes.plot(steps, values, color=ACCENT, marker="o" if len(steps) <= 30 else None, markersize=3)
        if reference is not None:
            axes.axhline(reference, color=FAINT, linestyle="--", linewidth=1)
        axes.set(xlabel="step", ylabel=label)

    return _svg(draw, f"{label} over {len(steps)} points of training")


def accuracy_by_length(table: Sequence[Mapping[str, Any]], unit: str = "characters") -> str:
    """
    Accuracy by how much longer the chosen completion is: flat for a judge of content, rising for a judge of length.

    Args:
        table (`list[dict]`):
            What [`metrics.accuracy_by_length_difference`] returns.
        unit (`str`, *optional*, defaults to `"characters"`):
            Unit of the lengths.

    Returns:
        `str`: SVG.
    """

    def draw(axes: Axes) -> None:
        positions = np.arange(len(table))
        low, high = np.array([row["interval"] for row in table]).T
        axes.axhline(0.5, color=FAINT, linestyle="--", linewidth=1)
        axes.vlines(positions, low, high, color=ACCENT, linewidth=1)
        axes.plot(positions, [row["accuracy"] for row in table], color=ACCENT, marker="o", markersize=4)
        axes.set_xticks(positions, [f"{row['mean']:+,.0f}".replace("-", "−") for row in table], rotation=30)
        axes.set(xlabel=f"chosen longer by ({unit}, mean of bin)", ylabel="accuracy", ylim=(-0.03, 1.03))

    return _svg(draw, f"Accuracy in {len(table)} bins of the difference in length")


def accuracy_bars(bars: Sequence[tuple[str, float, Sequence[float | None] | None]], label: str = "accuracy") -> str:
    """
    One bar per row with its interval, such as the subsets of a benchmark.

    Args:
        bars (sequence of `(name, value, interval)`):
            The interval is `[low, high]`, or `None` where there is none.
        label (`str`, *optional*, defaults to `"accuracy"`):
            What the values are.

    Returns:
        `str`: SVG, as high as it has rows.
    """
    names, values, intervals = zip(*bars, strict=True)

    def draw(axes: Axes) -> None:
        positions = np.arange(len(bars))
        axes.barh(positions, values, color=ACCENT, height=0.62, linewidth=0)
        for position, interval in zip(positions, intervals, strict=True):
            if interval and interval[0] is not None:
                axes.hlines(position, *interval, color=INK, linewidth=1.2)
        axes.set_yticks(positions, short_labels(names))
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set(xlabel=label, xlim=(min(0.0, *values), max(1.0, *values)), ylim=(len(bars) - 0.4, -0.6))

    return _svg(draw, f"Bars of {len(bars)} values of {label}", height=0.75 + 0.21 * len(bars))


def best_of_n_plot(curve: Mapping[str, Sequence[float | None]]) -> str:
    """
    Expected value of the best of n by the reward, over n.

    Args:
        curve (`dict`):
            `best_of_n` of a report: `n`, `value`, the band from `low` to `high` (`None` where there is no interval),
            `oracle` and `random`.

    Returns:
        `str`: SVG.
    """
    n, low, high = (np.asarray(curve[key], dtype=np.float64) for key in ("n", "low", "high"))

    def draw(axes: Axes) -> None:
        for name, color in (("oracle", INK), ("random", FAINT)):
            axes.plot(n, curve[name], color=color, linestyle="--", linewidth=1, label=name)
        axes.fill_between(n, low, high, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(n, curve["value"], color=ACCENT, marker="o", markersize=4, label="best of n by this model")
        axes.set_xscale("log", base=2)
        axes.set_xticks(n, [f"{int(value)}" for value in n])
        axes.minorticks_off()
        axes.legend()
        axes.set(xlabel="n samples", ylabel="share solved")

    return _svg(draw, f"Best-of-n curve up to n = {curve['n'][-1]}")


# --- SVG


def short_labels(names: Sequence[str], length: int = 26) -> list[str]:
    """
    Names cut for the axis of a plot; different names stay different.

    Example:
    ```python
    >>> short_labels(["Helpfulness/Brainstorming/Ideas", "Helpfulness/Brainstorming/Plans", "Code"], 20)
    ['Helpfulness…ng/Ideas', 'Helpfulness…ng/Plans', 'Code']

    ```
    """
    names = [printable(name) for name in names]
    labels = [shorten(name, length) for name in names]
    if len(set(labels)) < len(labels):  # the end tells more than the middle
        tail = length // 2 - 2
        labels = [n if len(n) <= length else f"{n[: length - tail - 1]}…{n[-tail:]}" for n in names]
    if len(set(labels)) < len(labels):
        labels = [f"{shorten(name, length - 5)} ({index})" for index, name in enumerate(names, start=1)]
    return labels


def _svg(draw: Callable[[Axes], None], label: str, height: float = SIZE[1]) -> str:
    """Draw on new axes; the SVG without declaration, with a label for those who cannot see it."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for color, css in CSS_COLORS.items():
        svg = svg.replace(color, css)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([\w-]+)"', lambda found: found[0] if found[1] in used else "", svg)
    view = re.search(r'viewBox="[^"]+"', svg)[0]
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view} role="img"'
    return f'{opening} aria-label="{escape(label)}">' + svg[svg.index(">") + 1 :]
