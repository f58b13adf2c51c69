"""One self-contained HTML page: light and dark, readable on a phone, no script, nothing loaded.

    html = render_page("My model", [Section("Margins", figure_html(margin_histogram(margins), "of 500 pairs"))])

A section's `html` goes into the page as it is, so it is built from these helpers (they escape what they are given), or
from `fragment`, a jinja2 template with autoescape. The page forbids scripts and requests by its own policy as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from .. import __version__
from ..messages import printable

__all__ = ["Section", "cards_html", "figure_html", "fragment", "paragraph_html", "render_page", "table_html"]


@dataclass
class Section:
    """
    One part of a page.

    Args:
        heading (`str`): plain text; empty for none.
        html (`str`): made of escaped text and SVG figures.
    """

    heading: str
    html: str


def render_page(title: str, sections: Sequence[Section]) -> str:
    """
    The page as HTML text.

    Args:
        title (`str`): plain text.
        sections (`Sequence[Section]`): its parts, in order.

    Returns:
        `str`: a whole HTML document.

    Example:
    ```python
    >>> page = render_page("<b>", [Section("Loss", paragraph_html("2 < 3"))])
    >>> "<b>" in page, "&lt;b&gt;" in page, "2 &lt; 3" in page
    (False, True, True)

    ```
    """
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return printable(fragment(source, title=title, sections=sections, version=__version__))


def fragment(template: str, **values: Any) -> str:
    """A jinja2 template with autoescape, filled in."""
    return _environment().from_string(template).render(**values)


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)


def paragraph_html(text: str, kind: str = "") -> str:
    """A paragraph of plain text; kind `"soft"` or `"warning"`."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def figure_html(svg: str, caption: str = "") -> str:
    """A figure of this package with a caption of plain text."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def figures_html(figures: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="figures">{"".join(figures)}</div>'


def cards_html(cards: Sequence[tuple[str, str, str]]) -> str:
    """Large figures: (name, value, remark), plain text each."""
    inner = "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(remark)}</span></div>'
        for name, value, remark in cards
    )
    return f'<div class="cards">{inner}</div>'


def table_html(columns: Sequence[str], rows: Sequence[Sequence[Any]], kinds: Sequence[str] | None = None) -> str:
    """
    A table of plain text, numbers to the right.

    Args:
        columns (`Sequence[str]`): headings.
        rows (`Sequence[Sequence]`): cells; a column whose first cell starts with a digit or a sign is one of numbers.
        kinds (`Sequence[str]`, *optional*): of each row, `""`, `"baseline"` or `"published"`.

    Returns:
        `str`: HTML.
    """
    numeric = [all(str(row[i])[:1] in "0123456789+−-–.[" for row in rows) and bool(rows) for i in range(len(columns))]

    def cell(tag: str, value: Any, is_number: bool) -> str:
        return f"<{tag}{' class=number' if is_number else ''}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", name, number) for name, number in zip(columns, numeric, strict=True))
    body = "".join(
        f'<tr class="{escape(kind)}">'
        + "".join(cell("td", value, number) for value, number in zip(row, numeric, strict=True))
        + "</tr>"
        for row, kind in zip(rows, kinds or [""] * len(rows), strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
