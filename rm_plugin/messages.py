"""Text for people: one-line errors that name the value and the nearest known one, made safe to print.

    check_choice("reasoning", "stripp", ("keep", "strip"))      # ValueError: reasoning='stripp' is not known …
    with located("pairs.jsonl line 3"): row["chosen"]           # ValueError: pairs.jsonl line 3: KeyError: 'chosen'

Standard library only, so that every module can import it and `rm-plugin --help` stays fast.
"""

from __future__ import annotations

import difflib
import json
import re
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any


def nearest(name: str, known: Collection[str]) -> str:
    """` (did you mean …?)`, or nothing where no known name is near.

    Example:
        >>> nearest("trian", ["train", "score"]), nearest("x", ["train"])
        (' (did you mean train?)', '')
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuse an unknown word in one line: the value, the nearest known one, and all of them."""
    if value not in tuple(choices):  # a value that is not hashable is unknown too
        close = nearest(value, list(map(str, choices))) if isinstance(value, str) else ""
        raise ValueError(f"{name}={value!r} is not known{close}; use one of {', '.join(map(repr, choices))}")


def check_at_least(least: int, **numbers: int | None) -> None:
    """Refuse a number that is too small; None is no number."""
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ValueError(f"{name}={number}, it must be at least {least}")


def whole_number_or_auto(word: str) -> int | str:
    """A whole number, or the word `auto`: how an option is read from a command line or a variable."""
    return word if word == "auto" else int(word)


@contextmanager
def located(where: str, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Errors of a block that reads input become one of `kind` that begins with `where`, such as file and line."""
    try:
        yield
    except OSError:  # it names its file
        raise
    except Exception as error:
        raise kind(f"{where}: {one_line(error)}" if where else one_line(error)) from error


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors that a library means for developers become one `ValueError` that says `what` failed; ours pass."""
    try:
        yield
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        modules = (frame.f_globals.get("__name__", ""), type(error).__module__)
        is_ours = any(module.startswith(__package__) for module in modules)
        if isinstance(error, ValueError | OSError | ImportError) and (is_ours or getattr(error, "filename", None)):
            raise
        raise ValueError(f"{what} ({type(error).__name__}: {one_line(error)})") from error


def one_line(error: BaseException) -> str:
    """What an error says, in one printable line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, KeyError):  # its text is the key alone
        text = f"KeyError: {text}"
    return printable(text)


def printable(text: str) -> str:
    """Control characters and lone surrogates, which no terminal, page or SVG should get, become �."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


def terminal_text(text: str) -> str:
    """Text of others as `rich` may print it: neither markup nor control characters of a terminal."""
    from rich.markup import escape

    return escape(printable(text))


def shorten(value: Any, length: int = 60) -> str:
    """A text, or any other value as JSON, in at most `length` characters.

    Example:
        >>> shorten("Which country owns Antarctica?", 14), shorten([{"role": "user"}])
        ('Which country…', '[{"role": "user"}]')
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= length else f"{text[: length - 1]}…"
