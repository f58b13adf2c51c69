"""Files appear whole or not at all; lines of JSON are refused with their file and number."""

import gzip
import os

import pytest

from rm_plugin.files import atomic_writer, parse_json, read_jsonl, write_atomically


def test_a_file_appears_whole_and_only_when_the_block_ends_well(tmp_path):
    with atomic_writer(tmp_path / "new" / "a.txt") as out:
        out.write("one \ud800")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "one \\ud800"
    with pytest.raises(RuntimeError), atomic_writer(tmp_path / "new" / "a.txt") as out:
        out.write("two")
        raise RuntimeError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "one \\ud800"


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
        (b'{"a": "\xed\xa0\x80"}', "line 2 is not UTF-8 text (invalid continuation byte); save it as UTF-8"),
        (b"[1]", "line 2 is of type list; give one object per line"),
        (b"7", "line 2 is of type int; give one object per line"),
        (b'{"a": 1, "b": 2, "a": 3}', "line 2 has the key 'a' twice; remove one"),
        (b'{"x": {"a": 1, "a": 1}}', "line 2 has the key 'a' twice; remove one"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git-LFS pointer, not the data; run git lfs pull"),
    ],
)
def test_a_bad_line_is_refused_with_its_file_and_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 0}\n' + line + b"\n")
    with pytest.raises(ValueError) as refused:
        list(read_jsonl(tmp_path / "a.jsonl"))
    assert str(refused.value) == f"{tmp_path / 'a.jsonl'} {message}"


def test_a_cut_gz_file_is_refused_with_its_name(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(ValueError, match=r"a.jsonl.gz cannot be unpacked .*; give a whole .gz file"):
        list(read_jsonl(tmp_path / "a.jsonl.gz"))


def test_json_is_parsed_as_the_library_does():
    for text in ('{"a": [1, {"b": null}], "c": NaN}', "[]", '"x"', " 1 "):
        assert repr(parse_json(text, "x")) == repr(__import__("json").loads(text))
