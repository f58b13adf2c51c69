"""Every kind of source gives back its rows, and one that cannot be read is one line."""

import gzip
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from models import assistant, user

from rm_plugin.data.comparison import BadRow, Comparison, to_comparison
from rm_plugin.data.sources import load_rows, to_table


def transcripts(comparison):
    return [comparison.prompt + completion for completion in comparison.completions]


def read_all(rows):
    """The comparisons of rows, and what is said of those that are none."""
    comparisons, bad = [], []
    for index, row in enumerate(rows):
        try:
            comparisons.append(to_comparison(row, index))
        except BadRow as bad_row:
            bad.append(str(bad_row))
    return comparisons, bad


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
ROWS = [
    {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
    {"prompt": "Year?", "chosen": "2020-01-01", "rejected": "NA"},
    {"prompt": "JSON, please", "chosen": '{"a": 1}', "rejected": '["a",\n"b"]'},
]


def write(path, rows):
    """Rows as a file of the kind that its name says."""
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(str(path))
        return path
    if kind == "csv":
        cells = [[str(cell).replace('"', '""') for cell in (row.values())] for row in rows]
        lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in row) for row in cells)]
        text = "\n".join(lines) + "\n"
    else:
        text = json.dumps(rows, indent=1) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.parquet", "a.v1.jsonl", "A.JSONL"]
)
def test_every_kind_of_file_gives_back_its_rows(tmp_path, name, streaming):
    kind = name.lower()
    path = write(tmp_path / kind, ROWS).rename(tmp_path / name)
    rows = load_rows(path, streaming=streaming)
    assert isinstance(rows, IterableDataset if streaming else Dataset)
    assert list(rows) == ROWS
    assert list(load_rows(str(path), split="train", streaming=streaming)) == ROWS


def test_json_is_recognised_by_its_content(tmp_path):
    path = tmp_path / "a.json"
    for text in ("".join(json.dumps(row) + "\n\n" for row in ROWS), "\n" + json.dumps(ROWS)):
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert list(load_rows(path)) == ROWS
    path.write_text(json.dumps(ROWS[0], indent=2))
    assert list(load_rows(path)) == ROWS[:1]


def test_a_column_of_mixed_types_is_read_as_it_stands(tmp_path):
    rows = [
        {"prompt": "p", "chosen": "4", "rejected": "5"},
        {"chosen": [user("q"), assistant("4")], "rejected": [user("q"), assistant("true")], "margin": 2},
        {"prompt": "p", "chosen": 4, "rejected": '{"a": 1}'},
        {"prompt": "p", "chosen": ["4", "b"], "rejected": "c", "margin": 0.5},
    ]
    table = load_rows(write(tmp_path / "a.jsonl", rows))
    assert [{key: value for key, value in row.items() if value is not None} for row in table] == rows
    comparisons, bad = read_all(table)
    assert [comparison.chosen for comparison in comparisons] == [["4"], [[assistant("4")]], ["4", "b"]]
    assert [comparison.margin for comparison in comparisons] == [None, 2.0, 0.5]
    assert bad == ["row 2: `chosen` is 4 (int); it must be text or a list of messages"]


def test_a_column_that_the_first_thousand_rows_lack_is_not_lost(tmp_path):
    rows = [GOOD] * 1500 + [{**GOOD, "margin": 1.5, "tools": [{"name": "f"}]}, {**GOOD, "tools": [{"title": 1}]}]
    comparisons, _ = read_all(load_rows(write(tmp_path / "a.jsonl", rows)))
    assert [comparison.margin for comparison in comparisons[-3:]] == [None, 1.5, None]
    assert [comparison.tools for comparison in comparisons[-3:]] == [None, [{"name": "f"}], [{"title": 1}]]


def test_messages_of_different_keys_keep_their_nested_values(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "when": "2020-01-01"}}}
    prompt = [
        user("q"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4"},
    ]
    rows = [{"prompt": prompt, "chosen": [assistant("4")], "rejected": [assistant("5")]}]
    (comparison,), _ = read_all(load_rows(write(tmp_path / "a.json", rows)))
    assert comparison.prompt == [prompt[0], {**prompt[1], "content": ""}, prompt[2]]


def test_a_changed_file_is_read_anew(tmp_path):
    for name in ("a.jsonl", "a.parquet"):
        for reply in ("one", "two"):
            rows = [{**GOOD, "chosen": reply}]
            assert list(load_rows(write(tmp_path / name, rows))) == rows


def test_a_csv_file_may_hold_json_lists_and_empty_cells(tmp_path):
    rows = [
        {"prompt": json.dumps([user("q")]), "completions": '["a", "b"]', "ranks": "[1, 0]", "margin": ""},
        {"prompt": "", "completions": '["c", "d"]', "ranks": "[0, 1]", "margin": "0.5"},
    ]
    (first, second), _ = read_all(load_rows(write(tmp_path / "a.csv", rows)))
    assert first == Comparison([user("q")], [[assistant("a")], [assistant("b")]], ranks=[1, 0])
    assert second == Comparison("", ["c", "d"], ranks=[0, 1], margin=0.5)


def test_a_long_cell_is_read(tmp_path):
    rows = [{**GOOD, "chosen": "x" * 200_000}]
    assert list(load_rows(write(tmp_path / "a.csv", rows))) == rows


def test_a_folder_is_read_by_the_splits_in_its_file_names(tmp_path):
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.json", "sub/val.csv", "test.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, ROWS)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "cache").mkdir()
    assert list(load_rows(tmp_path, split="train")) == ROWS * 2
    assert list(load_rows(tmp_path, split="validation")) == ROWS
    assert list(load_rows(tmp_path, split="test[:1]")) == ROWS[:1]
    with pytest.raises(ValueError, match="has the splits train, validation, test; choose one with split="):
        load_rows(tmp_path)


def test_a_folder_whose_names_say_nothing_is_one_split(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    write(folder / "a.jsonl", ROWS[:1])
    write(folder / "b.csv", ROWS[1:])
    assert list(load_rows(folder)) == ROWS
    write(folder / "c.parquet", ROWS)
    with pytest.raises(ValueError, match="c.parquet line 1 cannot be read"):
        load_rows(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_folders_and_objects_give_their_rows(tmp_path, streaming):
    table, splits = (
        Dataset.from_list(ROWS),
        DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])),
    )
    table.save_to_disk(tmp_path / "table")
    splits.save_to_disk(tmp_path / "splits")
    for source in (tmp_path / "table", table, table.to_iterable_dataset(), DatasetDict(held_out=table), ROWS):
        assert list(load_rows(source, streaming=streaming)) == ROWS
    for source in (tmp_path / "splits", splits):
        assert list(load_rows(source, split="test", streaming=streaming)) == ROWS[:1]


def test_a_split_may_be_a_part_or_a_sum():
    splits = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1]))
    assert list(load_rows(splits, split="train[1:]")) == ROWS[1:]
    assert list(load_rows(splits, split="train+test")) == [*ROWS, ROWS[0]]
    assert list(load_rows(splits, split="test+train[:2]")) == [ROWS[0], *ROWS[:2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a":\n', "a.jsonl line 2 is not JSON .Expecting value at column 6."),
        ('[\n{"a": 1},\n{"a":}]', "a.jsonl line 3 is not JSON"),
        ('{"a": 1}\n3\n', "a.jsonl line 2 is of type int; give one object per line"),
        ("[[1]]", "a.jsonl: item 0 is of type list; every row must be a JSON object"),
        ("", "a.jsonl has 0 rows; give at least one"),
        (b"\xff", "a.jsonl line 1 cannot be read .'utf-8' codec"),
    ],
)
def test_a_broken_json_file_says_where(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_rows(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b"chosen,rejected\na,b,c\n",
            "a.csv line 2 has more cells than the header's 2; put cells with commas",
        ),
        ("a.csv", b'chosen,rejected\n"a,b\n', "a.csv cannot be read .unexpected end of data."),
        ("a.csv", b"chosen,rejected,chosen\na,b,c\n", "a.csv has the column 'chosen' twice; rename one"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', "a.jsonl line 1 cannot be read .the key 'a' appears twice.; correct it"),
        ("a.jsonl.gz", b"not zipped", "a.jsonl.gz cannot be read .Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}' * 99, mtime=0)[:20],
            "a.jsonl.gz cannot be read .Compressed file ended",
        ),
        ("a.parquet", b"x", "a.parquet cannot be read as a table"),
        ("a.txt", b"x", "a.txt is of an unknown kind; give one of .jsonl, .json, .csv, .parquet"),
        ("state.json", b"{}", "neither a .Dataset. directory"),
        ("notes.md", b"x", "has no data in it; it needs files of .jsonl"),
    ],
)
def test_any_other_broken_source_is_one_line(tmp_path, name, content, message):
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load_rows(path.parent if name in ("state.json", "notes.md") else path)
    assert "\n" not in str(caught.value)


def test_a_stream_says_where_a_file_is_broken(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a":')
    rows = iter(load_rows(tmp_path / "a.jsonl", streaming=True))
    assert next(rows) == {"a": 1}
    with pytest.raises(ValueError, match="a.jsonl line 2 is not JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "no/such/file"}, "^no/such/file does not exist; give a file, a folder, or a hub id such as "),
        ({"source": "missing.jsonl"}, "^missing.jsonl does not exist; give a file, "),
        ({"source": Path("missing")}, "^missing does not exist; give a file, "),
        ({"source": 3}, "^source=3 is no data; give a file, a folder, a hub id, a Dataset or a list of rows"),
        ({"source": ""}, "^source='' is no data; "),
        ({"source": [3]}, "^source=.3. is no data; "),
        ({"source": []}, "^the Dataset has 0 rows; give at least one"),
        ({"source": ROWS, "split": "dev"}, "^split 'dev' is not in the Dataset, which has train; choose one of these"),
        ({"source": ROWS, "split": "train[:1%]"}, "^the Dataset has 0 rows in split 'train.:1%.'; give at least one"),
        ({"source": ROWS, "split": "train[:x]"}, "^split='train.:x.' is not understood, write 'train.:10%.': "),
        ({"source": ROWS, "name": "default"}, "^name='default' is for hub data sets, which the Dataset is not; leave"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_rows(**arguments)


@pytest.mark.parametrize("name", ["jsonl", "json", "csv", "parquet", "saved", "mixed"])
@pytest.mark.parametrize("split", ["train[1:]", "train[:50%]", "train[-1:]", "test+train[:2]", "train+train[1:2]"])
def test_a_stream_of_files_gives_parts_and_sums_as_a_table_does(tmp_path, name, split):
    if name == "saved":
        DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path)
    else:
        kinds = ("parquet", "jsonl") if name == "mixed" else (name, name)
        write(tmp_path / f"train.{kinds[0]}", ROWS)
        write(tmp_path / f"test.{kinds[1]}", ROWS[:1])
    rows = load_rows(tmp_path, split=split, streaming=True)
    assert isinstance(rows, IterableDataset)
    expected = list(load_rows(tmp_path, split=split))
    assert list(rows) == list(rows) == expected


def test_other_streams_cannot_be_cut(tmp_path):
    rows = load_rows(write(tmp_path / "a.jsonl", ROWS), streaming=True)
    with pytest.raises(ValueError, match="takes a part or a sum, which a stream cannot give; use streaming=False"):
        load_rows(rows, split="train[:1]")


def test_a_hub_id_goes_to_datasets_with_all_its_arguments(monkeypatch):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(load_rows("allenai/reward-bench", split="filtered", name="default")) == ROWS
    options = {"split": "filtered", "streaming": False, "data_dir": None, "revision": None}
    assert calls == [(("allenai/reward-bench", "default"), options)]


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = (
        "^'Anthropic/hh-rlhf' is no file or folder here, and the hub did not give it .Couldn't reach the Hub.; check"
    )
    with pytest.raises(ValueError, match=message):
        load_rows("Anthropic/hh-rlhf", split="test")


def test_hh_rlhf_is_read_whole(shared_data):
    rows = load_rows(shared_data / "hh_rlhf_harmless" / "test.jsonl.gz")
    comparisons, bad = read_all(rows)
    empty, differing = [86, 516, 925, 1103], [1254, 1688, 1950, 1952, 2036]
    assert (len(rows), len(comparisons)) == (2312, 2308)
    fix = "every completion needs text, remove the row or write the reply"
    assert bad == [f"row {index}: `chosen` is empty; {fix}" for index in empty]
    good = [index for index in range(2312) if index not in empty]
    read = dict(zip(good, comparisons, strict=True))
    assert [index for index in good if read[index].prompt == ""] == differing
    assert all(transcripts(read[index]) == [rows[index]["chosen"], rows[index]["rejected"]] for index in good)


def test_dpo_demo_is_read_whole(shared_data):
    rows = load_rows(shared_data / "dpo_demo" / "dpo_en_demo.json")
    comparisons, bad = read_all(rows)
    assert (len(comparisons), bad) == (300, [])
    assert all(comparison.conversational and comparison.prompt[-1]["role"] == "user" for comparison in comparisons)
    assert comparisons[0].prompt[0]["content"].startswith("Hi! I'd like to create a new language game")


def test_rm_bench_is_read_as_three_by_three(shared_data):
    comparisons, _ = read_all(load_rows(shared_data / "rm_bench"))
    assert Counter(len(comparison.pairs()) for comparison in comparisons) == {9: 413}


def test_a_table_gives_back_what_was_put_in():
    rows = [{"a": "4", "b": [1, "4"], "c": {"x": "true"}}, {"a": "x", "b": ["5"], "c": {"y": None}}, {"d": [[]]}]
    table = to_table(rows)
    assert table.column_names == ["a", "b", "c", "d"]
    assert [{key: value for key, value in row.items() if value is not None} for row in table] == rows


@pytest.mark.parametrize("split", [3, ["train"]])
def test_a_split_is_named_by_a_word(split):
    with pytest.raises(ValueError, match="is no name of a split; write 'train' or"):
        load_rows(Dataset.from_list([{"chosen": "a", "rejected": "b"}]), split)
