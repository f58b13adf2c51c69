"""Files: one that appears whole or not at all, JSON lines whose errors name file and line, and the one journal.

    with atomic_writer("report.json") as out: out.write(text)
    for number, row in read_jsonl("pairs.jsonl"): ...
    with Journal("scores.jsonl") as journal: ...        # finished chunks of an output that is not whole yet

Standard library only.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import math
import os
import re
import shutil
import time
import zlib
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from errno import EFBIG, EIO, ENOSPC
from glob import escape
from pathlib import Path
from typing import IO, Any

from .messages import shorten

try:
    import fcntl
except ImportError:  # Windows has no flock; there a second start of the same command is not refused
    fcntl = None

log = logging.getLogger(__name__)

WHITE_SPACE = b" \t\r\n\xef\xbb\xbf"  # with UTF-8's byte order mark
JSON_SPACE = re.compile(r"[ \t\r\n]*")
PART = 1 << 16  # characters of a JSON list that are read at a time
LONGEST_ESCAPE = 16  # an error so near to the end may be of what is not read yet; \ud83d\ude00 has 12 characters
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
        with _naming(path), path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Where to write a file or folder that takes its place when the block ends without an error; else nothing does."""
    path = Path(path).resolve()  # what a link points to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a kill; a file is written over
    try:
        with _naming(path):
            yield part
        if path.is_dir():
            path.rmdir()  # an empty one; never one with anything in it
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


@contextmanager
def _naming(path: str | os.PathLike) -> Iterator[None]:
    """Errors of writing name their file, which Python leaves out where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (ENOSPC, EIO, EFBIG):  # of what is written, maybe
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """[`atomic_writer`] of one text."""
    with atomic_writer(path) as out:
        out.write(text)


def write_jsonl(path: str | os.PathLike, rows: Iterable[Any]) -> None:
    """[`atomic_writer`] of JSON lines."""
    with atomic_writer(path) as out:
        out.writelines(map(json_line, rows))


def json_line(value: Any) -> str:
    """A value as a line of JSON; bytes in base64, what else JSON cannot hold as text."""
    return json.dumps(value, ensure_ascii=False, default=_in_json) + "\n"


def _in_json(value: Any) -> str:
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)


def json_number(value: float) -> float | None:
    """A number as JSON can hold it: null for NaN."""
    return None if math.isnan(value) else float(value)


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A file of text to read, unpacked where it ends in `.gz`; one line where it is broken or a Git-LFS pointer."""
    opener = gzip.open if os.fspath(path).lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            if file.peek(len(LFS_POINTER)).startswith(LFS_POINTER):
                raise ValueError(f"{path} is a Git-LFS pointer, not the data; run git lfs pull")
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}); give a whole file in UTF-8") from error


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    (line number, object) of every line that is not blank; `.gz` is unpacked.

    Raises:
        ValueError: a line that is not UTF-8, not JSON or not an object, with its number; a Git-LFS pointer.
    """
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip(WHITE_SPACE):
                value = parse_json(line, f"{path} line {number}")
                if not isinstance(value, dict):
                    kind = type(value).__name__
                    raise ValueError(f"{path} line {number} is of type {kind}; give one object per line")
                yield number, value


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; a key that appears twice in one object, which `json` would drop, is refused."""
    with _json_errors(where):
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        return json.loads(text.rstrip(), object_pairs_hook=_unique_keys)


@contextmanager
def _json_errors(where: str, line: int = 1, column: int = 1) -> Iterator[None]:
    """What is wrong with a JSON text that begins at this line and column, as one line."""
    try:
        yield
    except json.JSONDecodeError as error:
        column = error.colno + (column - 1) * (error.lineno == 1)
        line += error.lineno - 1
        where += f" line {line}" * (line > 1)
        raise ValueError(f"{where} is not JSON ({error.msg} at column {column}); correct it") from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{where} cannot be read ({error}); correct it") from None


def read_json_list(path: str | os.PathLike) -> Iterator[Any]:
    """
    The items of a JSON list, one after the other: of a file of any length a part is held. `.gz` is unpacked.

    Raises:
        ValueError: as [`parse_json`] of the whole text, when the item that is wrong is reached.
    """
    with opened(path) as file:
        text = _JsonText(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), os.fspath(path))
        text.take("[")
        if text.peek() == "]":
            text.take("]")
        else:
            yield text.value()
            while text.take(",]") == ",":
                yield text.value()
        text.end()


class _JsonText:
    """A JSON text that is decoded as it is read: as much of it is held as the value needs that is decoded."""

    def __init__(self, file: IO[str], where: str):
        self.file, self.where = file, where
        self.text, self.at, self.line, self.column = "", 0, 1, 1  # what is held, and where in the file it begins
        self.decode = json.JSONDecoder(object_pairs_hook=_unique_keys).raw_decode

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            self.at = JSON_SPACE.match(self.text, self.at).end()
            if self.at < len(self.text) or not self._read_on():
                return self.text[self.at : self.at + 1]

    def take(self, characters: str) -> str:
        """The next character, which has to be one of these."""
        if (found := self.peek() or "?") not in characters:
            self._refuse(f"Expecting {characters[0]!r} delimiter")
        self.at += 1
        return found

    def value(self) -> Any:
        self.peek()
        while True:
            with _json_errors(self.where, self.line, self.column):
                try:
                    value, self.at = self.decode(self.text, self.at)
                    return value
                except json.JSONDecodeError as error:
                    is_cut = error.pos > len(self.text) - LONGEST_ESCAPE or error.msg.startswith("Unterminated")
                    if not (is_cut and self._read_on()):
                        raise

    def end(self) -> None:
        if self.peek():
            self._refuse("Extra data")

    def _refuse(self, what: str) -> None:
        with _json_errors(self.where, self.line, self.column):
            raise json.JSONDecodeError(what, self.text, self.at)

    def _read_on(self) -> bool:
        """Hold more, and no more what has been taken; whether there was any."""
        taken, self.text, self.at = self.text[: self.at], self.text[self.at :], 0
        self.line += taken.count("\n")
        self.column = len(taken) - taken.rfind("\n") if "\n" in taken else self.column + len(taken)
        more = self.file.read(max(PART, len(self.text)))  # so that a value of any length is tried a few times only
        self.text += more
        return bool(more)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return values


# --- how an output was made


def write_settings(output: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Leave in `OUTPUT.settings.json` what an output was made with."""
    write_atomically(f"{output}.settings.json", json.dumps(settings, indent=2, default=str))


def read_settings(output: str | os.PathLike) -> dict[str, Any] | None:
    """What [`write_settings`] left beside an output; None where one of the two is not there."""
    path = Path(f"{output}.settings.json")
    both = Path(output).exists() and path.exists()
    return parse_json(path.read_text(encoding="utf-8"), str(path)) if both else None


# --- the journal


class Journal(Mapping, AbstractContextManager):
    """
    Finished chunks of an output that is not whole yet, in a side file `OUTPUT.journal`. After a kill the same command
    resumes from it: at most the chunk that was being written is lost.

        with Journal("scores.jsonl") as journal:
            journal.begin({"model": "m"})
            for key in chunks:
                if key not in journal:
                    journal.append(key, compute(key))
            write_atomically("scores.jsonl", "".join(journal[key] for key in chunks))
            journal.finish()

    A line is `CHECKSUM [key, value]`; the first one holds the settings under the key null. Lines whose checksum is
    wrong (torn by a kill, spoiled by a disk) do not count, so their chunks are computed again. Values stay on disk.
    While it is open, an exclusive lock refuses a second process.

    Args:
        output (`str` or `os.PathLike`, *optional*): the file that is being made; None keeps the journal in memory.
        part (`int`, *optional*, defaults to `0`): of a process that shares the work, its own file `OUTPUT.journal.N`.

    Raises:
        ValueError: another process works on this output.
    """

    def __init__(self, output: str | os.PathLike | None, part: int = 0):
        self.output = output
        self.settings: dict[str, Any] | None = None  # those of an earlier run, until `begin`
        self._offsets: dict[str, Any] = {}  # of the lines; without a file the values themselves
        self._synced = time.monotonic()
        suffix = ".journal" + (f".{part}" if part else "")
        self.path = None if output is None else Path(f"{Path(output).resolve()}{suffix}")  # one lock whatever its name
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_locked(self.path, output)
        damaged, end = [], 0
        for number, line in enumerate(self._file, start=1):
            record = _verified(line)
            if record is None:
                damaged.append(number)
            elif record[0] is None:
                self.settings = record[1]
            else:
                self._offsets[record[0]] = end
            end += len(line) if line.endswith(b"\n") else 0
        self._file.truncate(end)
        if damaged:
            where = ", ".join(map(str, damaged[:5]))
            log.warning("%s: line %s cannot be read, what it held is computed again", self.path, where)
        if self.settings is None:  # of which settings the chunks are is unknown
            self._file.truncate(0)
            self._offsets.clear()

    def begin(self, settings: Mapping[str, Any], ignoring: Collection[str] = ()) -> None:
        """
        Store the settings that the chunks depend on, and take in the parts of processes that were killed.

        Args:
            settings (`Mapping`): by name; what is not JSON counts as its text.
            ignoring (`Collection[str]`, *optional*): names that may differ from those of the chunks that are there.

        Raises:
            ValueError: other settings than those of the chunks that are there; it names what differs.
        """
        settings = _plain(settings)
        earlier = settings if self.settings is None else self.settings
        check_settings(self.path, earlier, settings, ignoring)
        if self.settings != settings and self.path is not None:
            self._write(None, settings)
        self.settings = settings
        for part in [] if self.path is None else sorted(self.path.parent.glob(f"{escape(self.path.name)}.*")):
            of_these = False
            for key, value in filter(None, map(_verified, part.read_bytes().splitlines(keepends=True))):
                if key is None:
                    of_these = not differences(value, settings, ignoring)
                elif of_these:
                    self.append(key, value)
            part.unlink()

    def append(self, key: str, value: Any) -> None:
        """Add a finished chunk. It survives a kill at once, and a crash of the machine after a second."""
        self._offsets[key] = value if self.path is None else self._write(key, value)

    def finish(self) -> None:
        """Remove the journal and its parts: the output is whole."""
        self._offsets.clear()
        for part in [] if self.path is None else self.path.parent.glob(f"{escape(self.path.name)}.*"):
            part.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the lock. A journal without chunks is removed."""
        if self.path is not None and not self._file.closed:
            os.fsync(self._file.fileno())
            if not self._offsets:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def __getitem__(self, key: str) -> Any:
        if self.path is None:
            return self._offsets[key]
        self._file.seek(self._offsets[key])
        return _verified(self._file.readline())[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _write(self, key: str | None, value: Any) -> int:
        text = json.dumps([key, value]).encode() + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        with _naming(self.path):
            self._file.write(b"%08x %s" % (zlib.crc32(text), text))
            self._file.flush()
            if time.monotonic() - self._synced > 1:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        return offset


def differences(before: Mapping[str, Any], now: Mapping[str, Any], ignoring: Collection[str] = ()) -> list[str]:
    """What differs between two settings, in words.

    Example:
        >>> differences({"model": "a", "n": 4}, {"model": "b", "n": 4})
        ['model was a and is now b']
    """
    before, now = _plain(before), _plain(now)
    names = [name for name in {**before, **now} if name not in ignoring and before.get(name) != now.get(name)]
    return [f"{name} was {shorten(before.get(name), 40)} and is now {shorten(now.get(name), 40)}" for name in names]


def check_settings(
    made: Any, before: Mapping[str, Any], now: Mapping[str, Any], ignoring: Collection[str] = ()
) -> None:
    """Refuse what was `made` with other settings, naming all that differ."""
    if found := differences(before, now, ignoring):
        raise ValueError(f"{made} was made with other settings: {', '.join(found)}; name another output, or delete it")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file gives them back."""
    return json.loads(json.dumps(settings, default=str))


def _verified(line: bytes) -> list[Any] | None:
    """`[key, value]` of a journal's line, or None where its checksum is wrong."""
    checksum, _, text = line.partition(b" ")
    return json.loads(text) if checksum == b"%08x" % zlib.crc32(text) and text.endswith(b"\n") else None


def _open_locked(path: Path, output: str | os.PathLike) -> IO[bytes]:
    while True:
        file = path.open("a+b")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(
                f"{output} is being made by another process, which holds {path}; wait for it, or name another output"
            ) from None
        except OSError as error:  # some network file systems
            raise OSError(error.errno, f"{error.strerror}; the output needs a file system with locks", path) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.seek(0)
                return file
        file.close()  # the process that held it has finished and removed it since
