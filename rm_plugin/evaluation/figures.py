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
from types import MappingProxyType
from typing import TYPE_CHECKING

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
    intervals = [wilson_interval(a * n, n) for a, n in zip(accuracy, counts.tolist(), strict=True)]
    as_sure = {"as right as it is sure": confidence}
    return line_plot(confidence, accuracy, "confidence σ(|Δ|)", "share right", intervals=intervals, references=as_sure)


def bradley_terry_curve(losses: Sequence[float] = ()) -> str:
    """
    The Bradley-Terry loss −log σ(Δ) over the margin, with its value at the margins 0, 1, 2 and 5.

    Args:
        losses (`Sequence[float]`, *optional*):
            Losses to mark, each at the margin that has it.

    Returns:
        `str`: SVG.

    Source: Bradley & Terry 1952; Ouyang et al. 2022, eq. 1.

    Example:
    ```python
    >>> all(value in bradley_terry_curve([0.5]) for value in ("0.693", "0.313", "0.127", "0.007"))
    True

    ```
    """

    def draw(axes: Axes) -> None:
        margins = np.linspace(-2, 6, 100)
        axes.plot(margins, np.logaddexp(0, -margins), color=ACCENT)
        for margin in (0, 1, 2, 5):
            loss = np.logaddexp(0, -margin)
            axes.plot(margin, loss, color=ACCENT, marker="o", markersize=6, markerfacecolor="none")
            axes.annotate(f"{margin}: {loss:.3f}", (margin, loss), xytext=(4, 6), textcoords="offset points")
        at = np.clip(-np.log(np.expm1(np.maximum(losses, 1e-9))), -2, 6)
        axes.plot(at, losses, color=INK, marker="o", markersize=4, linestyle="")
        axes.set(xlabel="margin Δ", ylabel="loss −log σ(Δ)")

    return _svg(draw, "Bradley-Terry loss over the margin")


def line_plot(
    x: Sequence[float] | Sequence[str],
    y: ArrayLike,
    xlabel: str,
    ylabel: str,
    *,
    intervals: Sequence[Sequence[float | None]] | None = None,
    references: Mapping[str, ArrayLike] = MappingProxyType({}),
) -> str:
    """
    One line with its intervals, and dashed lines to compare it with.

    Args:
        x (sequence of length n):
            Numbers, or texts at equal distances.
        y (array of shape `(n,)`):
            Values.
        xlabel, ylabel (`str`):
            What they are.
        intervals (sequence of `(low, high)` of length n, *optional*):
            `None` at an end where there is none.
        references (`dict`, *optional*):
            Values (n,), or one for all, by name.

    Returns:
        `str`: SVG.

    Example:
    ```python
    >>> line_plot([100, 200], [0.6, 0.7], "step", "accuracy", references={"chance": 0.5}).startswith("<svg")
    True

    ```
    """
    y = finite_array(y, ylabel)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values of {xlabel} and {len(y)} of {ylabel}; give one each")
    is_named = isinstance(x[0], str)
    at = np.arange(len(x)) if is_named else finite_array(x, xlabel)

    def draw(axes: Axes) -> None:
        for (name, values), color in zip(references.items(), (FAINT, INK), strict=False):
            axes.plot(at, np.broadcast_to(values, len(at)), color=color, linestyle="--", linewidth=1, label=name)
        if intervals is not None:
            axes.vlines(at, *np.array(intervals, dtype=np.float64).T, color=ACCENT, linewidth=1)
        axes.plot(at, y, color=ACCENT, marker="o" if len(at) <= 30 else None, markersize=3)
        if is_named:
            axes.set_xticks(at, x, rotation=30)
        if references:
            axes.legend()
        axes.set(xlabel=xlabel, ylabel=ylabel)

    return _svg(draw, f"{ylabel} over {xlabel}, {len(at)} points")


def accuracy_bars(
    bars: Sequence[tuple[str, float, Sequence[float | None] | None]],
    label: str = "accuracy",
    muted: Sequence[bool] = (),
    chance: float | None = None,
) -> str:
    """
    One bar per row with its interval, such as the subsets of a benchmark.

    Args:
        bars (sequence of `(name, value, interval)`):
            The interval is `[low, high]`, or `None` where there is none.
        label (`str`, *optional*, defaults to `"accuracy"`):
            What the values are.
        muted (`Sequence[bool]`, *optional*):
            Whether each bar is grey, such as that of a baseline.
        chance (`float`, *optional*):
            Where a line says what luck gives.

    Returns:
        `str`: SVG, as high as it has rows.
    """
    names, values, intervals = zip(*bars, strict=True)

    def draw(axes: Axes) -> None:
        positions = np.arange(len(bars))
        colors = [FAINT if grey else ACCENT for grey in muted or [False] * len(bars)]
        axes.barh(positions, values, color=colors[: len(bars)], height=0.62, linewidth=0)
        if chance is not None:
            axes.axvline(chance, color=WARM, linestyle="--", linewidth=1)
        for position, interval in zip(positions, intervals, strict=True):
            if interval and interval[0] is not None:
                axes.hlines(position, *interval, color=INK, linewidth=1.2)
        axes.set_yticks(positions, short_labels(names))
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set(xlabel=label, xlim=(min(0.0, *values), max(1.0, *values)), ylim=(len(bars) - 0.4, -0.6))

    return _svg(draw, f"Bars of {len(bars)} values of {label}", height=0.75 + 0.21 * len(bars))


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
    names, tail = [printable(name) for name in names], length // 2 - 2  # the end tells more than the middle
    labels = [name if len(name) <= length else f"{name[: length - tail - 1]}…{name[-tail:]}" for name in names]
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
