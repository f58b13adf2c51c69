"""Files: one that appears whole or not at all, and JSON lines whose errors name file and line.

    with atomic_writer("report.json") as out: out.write(text)
    for number, row in read_jsonl("pairs.jsonl"): ...

Standard library only.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def atomic_writer(path: str | os.PathLike) -> Iterator[IO[str]]:
    """
    A text file that appears whole, and stays through a crash, when the block ends without an error; else not at all.

    A lone surrogate is written as `\\udxxx`. A device or pipe, which cannot be replaced, is written directly.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    path = path.resolve()  # what a link points to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # one left by a kill is overwritten
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """[`atomic_writer`] of one text."""
    with atomic_writer(path) as out:
        out.write(text)


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    (line number, object) of every line that is not blank; `.gz` is unpacked.

    Raises:
        ValueError: a line that is not UTF-8, not JSON or not an object, with its number; a Git-LFS pointer.
    """
    opener = gzip.open if os.fspath(path).lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.startswith(LFS_POINTER):
                    raise ValueError(f"{path} is a Git-LFS pointer, not the data; run git lfs pull")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{path} line {number} is not UTF-8 text ({error.reason}); save it as UTF-8"
                    ) from None
                if text.strip():
                    value = parse_json(text, f"{path} line {number}")
                    if not isinstance(value, dict):
                        kind = type(value).__name__
                        raise ValueError(f"{path} line {number} is of type {kind}; give one object per line")
                    yield number, value
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); give a whole .gz file") from error


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; a key that stands twice in one object, which `json` would drop, is refused."""
    try:
        return json.loads(text.rstrip(), object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error.msg} at column {error.colno}); correct it") from None
    except _DuplicateKey as error:
        raise ValueError(f"{where} has the key {error.args[0]!r} twice; remove one") from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{where} cannot be read ({error}); correct it") from None


class _DuplicateKey(Exception):
    """A key that stands twice in one JSON object."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKey(next(key for key in keys if keys.count(key) > 1))
    return values
