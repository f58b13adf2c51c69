"""Files appear whole or not at all; lines of JSON are refused with their file and number."""

import gzip
import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
from datetime import date

import pytest

from rm_plugin.files import (
    Journal,
    atomic_writer,
    differences,
    json_line,
    parse_json,
    read_json_list,
    read_jsonl,
    replacing,
    write_atomically,
)
from rm_plugin.messages import one_line


def test_a_file_appears_whole_and_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "folders" / "a.txt"
    with atomic_writer(path) as out:
        out.write("one \ud800")
        assert not path.exists()
    assert path.read_text() == "one \\ud800"
    with pytest.raises(RuntimeError), atomic_writer(path) as out:
        out.write("two")
        raise RuntimeError
    assert [path.name for path in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "one \\ud800"


def test_bytes_are_base64_in_a_line_of_json():
    assert json_line({"image": b"\xff\x00", "day": date(2026, 11, 26)}) == '{"image": "/wA=", "day": "2026-11-26"}\n'


def test_a_folder_appears_whole_and_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "out"
    (tmp_path / ".out.part").mkdir()  # left by a kill
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.mkdir()
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    path.mkdir()
    with replacing(path) as part:
        part.mkdir()
        (part / "a").write_text("one")
    assert [*tmp_path.iterdir()] == [path] and (path / "a").read_text() == "one"


LISTS = ("[]", " [ ] \n", "[{}]", '\ufeff[\r\n {"a": "\\ud83d\\ude00 \\" ] , é"} ,{"b":[1,[-2.5e-3, NaN]]}\t]\n')
LISTS += ('[{"a": 12345, "b": {"c": true}}, "x", null, [[]], {"a": -Infinity}]', json.dumps([{"a": "x" * 3000}] * 3))
NO_LISTS = (
    "[",
    "[{}",
    '[{"a": 1}\n{"a": 2}]',
    '[{"a": tru}]',
    '[{"a": "\\x"}]',
    "[{}] []",
    '[\n{"a": 1, "a": 2}]',
    "[{}}",
    '[{"a": 1},\n {"a" 2}]',
    '[{"long": "' + "x" * 300 + '"},\n\n{}, {"a": }, {}]',
    '[{"a": "\t"}]',
    '[{}, {"a": "',
)


@pytest.mark.parametrize("part", [1, 7, 64, 1 << 16])
def test_a_json_list_is_read_in_parts_as_it_is_as_a_whole(tmp_path, monkeypatch, part):
    monkeypatch.setattr("rm_plugin.files.PART", part)
    path = tmp_path / "a.json"
    for text in LISTS:
        path.write_bytes(text.encode())
        assert repr(list(read_json_list(path))) == repr(parse_json(path.read_bytes(), str(path)))
    for text in NO_LISTS:
        path.write_bytes(text.encode())
        with pytest.raises(ValueError) as whole:
            parse_json(path.read_bytes(), str(path))
        with pytest.raises(ValueError) as in_parts:
            list(read_json_list(path))
        assert str(in_parts.value) == str(whole.value), text


def test_an_error_in_a_json_list_is_told_before_the_rest_is_read(tmp_path):
    with (tmp_path / "a.json").open("w") as file:
        file.write('[{"a": 1},\n{"a" 2},\n')
        file.writelines('{"a": 3},\n' for _ in range(200_000))
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=r"a.json line 2 is not JSON \(Expecting ':' delimiter at column 6\); correct"
    ):
        list(read_json_list(tmp_path / "a.json"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_file_that_a_link_points_to_is_replaced(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_a_pipe_is_written_and_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    with pytest.raises(ValueError, match="is a folder; name a file"):
        write_atomically(tmp_path, "text")


def test_lines_are_read_with_their_numbers_and_blank_ones_skipped(tmp_path):
    content = '\ufeff{"a": 1}\n\n  \n{"a": "\u2028x"}\r\n{"a": 3}'.encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    wanted = [(1, {"a": 1}), (4, {"a": "\u2028x"}), (5, {"a": 3})]
    assert list(read_jsonl(tmp_path / "a.jsonl")) == wanted == list(read_jsonl(tmp_path / "a.jsonl.gz"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a":', "line 2 is not JSON (Expecting value at column 6); correct it"),
        (
            b'{"a": "\xed\xa0\x80"}',
            "line 2 cannot be read ('utf-8' codec can't decode byte 0xed in position 7: invalid continuation byte); "
            "correct it",
        ),
        (b"[1]", "line 2 is of type list; give one object per line"),
        (b"7", "line 2 is of type int; give one object per line"),
        (b'{"a": 1, "b": 2, "a": 3}', "line 2 cannot be read (the key 'a' appears twice); correct it"),
        (b'{"x": {"a": 1, "a": 1}}', "line 2 cannot be read (the key 'a' appears twice); correct it"),
    ],
)
def test_a_bad_line_is_refused_with_its_file_and_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 0}\n' + line + b"\n")
    with pytest.raises(ValueError) as refused:
        list(read_jsonl(tmp_path / "a.jsonl"))
    assert str(refused.value) == f"{tmp_path / 'a.jsonl'} {message}"


def test_a_git_lfs_pointer_is_named_as_such(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match="a.jsonl is a Git-LFS pointer, not the data; run git lfs pull"):
        list(read_jsonl(tmp_path / "a.jsonl"))


def test_a_cut_gz_file_is_refused_with_its_name(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(ValueError, match="a.jsonl.gz cannot be read .Compressed file ended .*; give a whole file"):
        list(read_jsonl(tmp_path / "a.jsonl.gz"))


def test_json_is_parsed_as_the_library_does():
    for text in ('{"a": [1, {"b": null}], "c": NaN}', "[]", '"x"', " 1 "):
        assert repr(parse_json(text, "x")) == repr(__import__("json").loads(text))


# --- the journal


def filled(output, settings, values, part=0) -> bytes:
    """The bytes of a journal with these chunks, as a kill leaves it."""
    with Journal(output, part) as journal:
        journal.begin(settings)
        for key, value in values.items():
            journal.append(key, value)
    return journal.path.read_bytes()


VALUES = {f"k{i}": {"score": i / 7, "text": "é\u2028\ud800" * i} for i in range(9)}
SETTINGS = {"model": "a", "n": 4}


def test_a_journal_gives_back_what_was_appended_and_goes_when_the_output_is_whole(tmp_path):
    filled(tmp_path / "out", SETTINGS, VALUES)
    assert [path.name for path in tmp_path.iterdir()] == ["out.journal"]
    with Journal(tmp_path / "out") as journal:
        journal.begin(SETTINGS)
        assert dict(journal) == VALUES and "k0" in journal and "x" not in journal
        journal.append("k0", [1])
        journal.append("x", None)
        assert dict(journal) == {**VALUES, "k0": [1], "x": None}
        journal.finish()
    assert list(tmp_path.iterdir()) == []


def test_without_an_output_a_journal_stays_in_memory_and_without_chunks_it_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Journal(None) as journal:
        journal.begin(SETTINGS)
        journal.append("k", object)
        assert dict(journal) == {"k": object}
        journal.finish()
    with Journal("out") as journal:
        journal.begin(SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_damaged_no_chunk_has_another_value(seed, tmp_path):
    rng = random.Random(seed)
    content = bytearray(filled(tmp_path / "out", SETTINGS, VALUES))
    for _ in range(rng.randint(1, 3)):
        position = rng.randrange(len(content))
        kind = rng.choice(["bit", "cut", "zeros", "insert"])
        if kind == "bit":
            content[position] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del content[max(position, 1) :]
        elif kind == "zeros":
            content[position : position + 30] = bytes(len(content[position : position + 30]))
        else:
            content[position:position] = rng.randbytes(5)
    (tmp_path / "out.journal").write_bytes(content)
    with Journal(tmp_path / "out") as journal:
        journal.begin(SETTINGS)
        assert all(value == VALUES[key] for key, value in journal.items())
        for key, value in VALUES.items():
            if key not in journal:
                journal.append(key, value)
        assert dict(journal) == VALUES
    with Journal(tmp_path / "out") as journal:  # also after the next kill
        assert dict(journal) == VALUES and journal.settings == SETTINGS


def test_only_what_is_damaged_is_lost_and_its_line_is_named(tmp_path, caplog):
    content = filled(tmp_path / "out", SETTINGS, VALUES)
    (tmp_path / "out.journal").write_bytes(content.replace(b'"k3"', b'"k4"', 1)[:-1])
    with Journal(tmp_path / "out") as journal:
        assert dict(journal) == {key: value for key, value in VALUES.items() if key not in ("k3", "k8")}
    assert f"{tmp_path / 'out.journal'}: line 5, 10 cannot be read, what it held is computed again" in caplog.text


def test_other_settings_are_refused_with_what_differs(tmp_path):
    before = filled(tmp_path / "out", SETTINGS, VALUES)
    with Journal(tmp_path / "out") as journal:
        with pytest.raises(ValueError) as refused:
            journal.begin({"model": "b", "n": 4, "seed": 1})
        assert str(refused.value) == (
            f"{tmp_path / 'out.journal'} was made with other settings: model was a and is now b, seed was null and is "
            "now 1; name another output, or delete it"
        )
    assert (tmp_path / "out.journal").read_bytes() == before
    with Journal(tmp_path / "out") as journal:
        journal.begin({"model": "b", "n": 4}, ignoring={"model"})
        assert dict(journal) == VALUES
    with Journal(tmp_path / "out") as journal:
        assert journal.settings == {"model": "b", "n": 4}


def test_a_second_process_is_refused_while_the_journal_is_open_and_not_after(tmp_path):
    code = (
        "import sys; from rm_plugin.files import Journal\n"
        "try: Journal(sys.argv[1])\n"
        "except ValueError as error: sys.exit(str(error))"
    )
    start = [sys.executable, "-c", code, str(tmp_path / "out")]
    with Journal(tmp_path / "out") as journal:
        journal.append("k", 1)
        refused = subprocess.run(start, capture_output=True, text=True)
        assert refused.returncode == 1
        assert refused.stderr == (
            f"{tmp_path / 'out'} is being made by another process, which holds {tmp_path / 'out.journal'}; wait for "
            "it, or name another output\n"
        )
        (tmp_path / "link").symlink_to(tmp_path / "out")
        assert subprocess.run([*start[:-1], str(tmp_path / "link")], capture_output=True).returncode == 1
    assert subprocess.run(start).returncode == 0


def test_the_parts_of_killed_processes_are_taken_in_unless_their_settings_differ(tmp_path):
    filled(tmp_path / "out", SETTINGS, {"a": 1})
    part = filled(tmp_path / "out", SETTINGS, {"b": 2, "c": 3}, part=1)
    (tmp_path / "out.journal.1").write_bytes(part[:-3])
    filled(tmp_path / "out", {"model": "b"}, {"d": 4}, part=2)
    filled(tmp_path / "other[1]", SETTINGS, {"e": 5}, part=1)
    with Journal(tmp_path / "out") as journal:
        journal.begin(SETTINGS)
        assert dict(journal) == {"a": 1, "b": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other[1].journal.1", "out.journal"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with Journal(tmp_path / "out") as journal:
        monkeypatch.setattr(journal, "_file", Full())
        with pytest.raises(OSError) as refused:
            journal.append("k", 1)
        assert one_line(refused.value) == f"{tmp_path / 'out.journal'}: No space left on device"
        monkeypatch.undo()


def test_differences_are_said_in_words():
    assert differences({"a": 1, "b": None}, {"a": 1, "c": "x" * 99}) == [
        f"c was null and is now {'x' * 39}…",
    ]
    assert differences({"a": 1}, {"a": 2}, ignoring=["a"]) == []
