"""What reports show, as data (tables, cards, plots, texts), and its three forms: terminal, Markdown, one HTML page.

    table = Table(["model", "score, %"], [["mine", "62.3"]])
    table.print();  table.markdown();  html = render_page("My model", [Section("Scores", tables=[table])])

All text is plain: each form makes it harmless for itself. The page is one file in light and dark, readable on a phone;
its own policy forbids scripts and requests. Only plots, which this package draws, go into it as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from ..messages import printable, terminal_text

__all__ = ["Section", "Table", "render_page"]

TERMINAL_STYLES = {"official": "bold", "baseline": "dim", "published": "dim"}
INDENTED = ("section", "subset")


class Link(str):
    """A cell of a table that leads to a file beside the page, by its relative path."""

    href: str

    def __new__(cls, text: str, path: str):
        link = super().__new__(cls, text)
        link.href = f"./{quote(path)}"  # never another scheme or host, whatever the folder is called
        return link


@dataclass
class Table:
    """
    A table of plain text: first the columns of text, then those of numbers.

    Args:
        columns (`Sequence[str]`): headings.
        rows (`Sequence[Sequence[str]]`): cells.
        kinds (`Sequence[str]`, *optional*):
            What each row is, the kinds of `report.Row` and of leaderboards among them; some are styled.
        title (`str`, *optional*): shown above it.
        num_text_columns (`int`, *optional*, defaults to `1`): columns of text; the others are set to the right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    kinds: Sequence[str] = ()
    title: str = ""
    num_text_columns: int = 1

    @property
    def lines(self) -> list[tuple[str, Sequence[str]]]:
        """Kind and cells of each row."""
        return list(zip(self.kinds or [""] * len(self.rows), self.rows, strict=True))

    def print(self) -> None:
        """The table on the terminal; 160 columns wide in a file."""
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(title=terminal_text(self.title) or None, title_justify="left")
        for number, name in enumerate(self.columns):
            table.add_column(
                terminal_text(name), justify="left" if number < self.num_text_columns else "right", overflow="fold"
            )
        for kind, (name, *cells) in self.lines:
            indent = "  " if kind in INDENTED else ""
            table.add_row(indent + terminal_text(name), *map(terminal_text, cells), style=TERMINAL_STYLES.get(kind))
        Console(width=None if sys.stdout.isatty() else 160).print(table)

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.columns, *self.rows]
        head, *body = ["| " + " | ".join(map(markdown_text, cells)) + " |" for cells in lines]
        return "\n".join([head, "|" + " --- |" * len(self.columns), *body])


@dataclass
class Section:
    """
    One part of a page; what it holds is shown in the order of these fields.

    Args:
        heading (`str`, *optional*): plain text.
        cards (sequence of `(name, value, remark)`, *optional*): large numbers.
        paragraphs (sequence of `(text, kind)`, *optional*): kind `""`, `"soft"` or `"warning"`.
        tables (sequence of [`Table`], *optional*): each with its title.
        plots (sequence of `(svg, caption)`, *optional*): made by `figures`.
        details (sequence of `(summary, texts)`, *optional*):
            Parts that open on a click; texts are `(heading, text, kind)`, kind `""`, `"chosen"` or `"rejected"`.
        folded (sequence of `(summary, Table)`, *optional*): tables that open on a click.
    """

    heading: str = ""
    cards: Sequence[tuple[str, str, str]] = ()
    paragraphs: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[tuple[str, str]] = ()
    details: Sequence[tuple[str, Sequence[tuple[str, str, str]]]] = ()
    folded: Sequence[tuple[str, Table]] = ()


def render_page(title: str, sections: Sequence[Section]) -> str:
    """
    A page as HTML text.

    Args:
        title (`str`): plain text.
        sections (`Sequence[Section]`): its parts, in order.

    Returns:
        `str`: a whole HTML document.

    Example:
    ```python
    >>> page = render_page("<b>", [Section("Loss", paragraphs=[("2 < 3", "")])])
    >>> "<b>" in page, "&lt;b&gt;" in page, "2 &lt; 3" in page
    (False, True, True)

    ```
    """
    import jinja2

    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(Path(__file__).parent), **options)
    page = environment.get_template("page.html").render(title=title, sections=sections, version=version("rm-plugin"))
    return printable(page)


def markdown_text(text: str) -> str:
    """Plain text in a line of Markdown: nothing in it can be a link, HTML, or end the cell of a table."""
    text = re.sub(r"([\\|`*_\[\]#])", r"\\\1", " ".join(printable(text).split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


# --- numbers in words


def percent(value: float | None) -> str:
    """`62.3`, of 0.623."""
    return "–" if value is None else f"{100 * value:.1f}".replace("-", "−")


def points(difference: float) -> str:
    """`+2.5` points of percent, of 0.025."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_text(p_value: float | None) -> str:
    """`0.021`; nothing where a test would mean nothing."""
    return "–" if p_value is None else f"{p_value:.2g}"


def bounds(interval: Sequence[float | None] | None, text: Callable[[float], str] = percent) -> str:
    """`[57.1, 67.4]`."""
    return "–" if not interval or interval[0] is None else f"[{text(interval[0])}, {text(interval[1])}]"


def number(value: float | None) -> str:
    """Three significant digits or so."""
    return "–" if value is None else (f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")
