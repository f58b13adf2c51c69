"""Annotating data sets: every row format and file kind, bad rows, kills, shares, shards."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
from models import tiny_reward_model, tiny_tokenizer
from pyarrow import parquet
from scored_rows import CHAT, MIXED, PAIRS, lengths, read, write
from training_runs import make_trainer

from rm_plugin.commands.cli import main
from rm_plugin.data.comparison import load_rows, to_comparison
from rm_plugin.files import Journal
from rm_plugin.scoring import corpus
from rm_plugin.scoring.corpus import score_dataset
from rm_plugin.scoring.scorer import RewardScorer


@pytest.fixture(scope="module")
def scorer():
    return RewardScorer(tiny_reward_model(), tiny_tokenizer("chatml"), truncation_mode="drop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scorer):
    folder = tmp_path_factory.mktemp("rm")
    scorer.model.save_pretrained(folder)
    scorer.processing_class.save_pretrained(folder)
    return folder


# --- rows


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "saved", "dataset", "stream", "list"])
def test_every_source_gives_the_same_scores(kind, tmp_path, scorer):
    table, path = datasets.Dataset.from_list(PAIRS), tmp_path / f"in.{kind}"
    source = {"dataset": table, "stream": table.to_iterable_dataset(), "list": PAIRS}.get(kind, path)
    if kind == "jsonl":
        write(path, PAIRS)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in PAIRS).encode()))
    elif kind == "json":
        path.write_text(json.dumps(PAIRS))
    elif kind == "saved":
        table.save_to_disk(str(path))
    elif kind in ("csv", "parquet"):
        getattr(table, f"to_{kind}")(str(path))
    score_dataset(source, scorer, tmp_path / "out.jsonl", rows_per_chunk=4)
    rows = read(tmp_path / "out.jsonl")
    chosen = scorer.score([row["prompt"] for row in PAIRS], [row["chosen"] for row in PAIRS])
    np.testing.assert_allclose([row["score_chosen"] for row in rows], chosen, atol=1e-5)
    assert [{k: row[k] for k in PAIRS[0]} for row in rows] == PAIRS
    assert all(row["margin"] == row["score_chosen"] - row["score_rejected"] for row in rows)


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet", "out"])
@pytest.mark.parametrize("source", ["text", "table"])
def test_the_output_opens_in_datasets_and_pandas(output, source, tmp_path, scorer, monkeypatch):
    monkeypatch.setattr(corpus, "ROWS_PER_FILE", 4)
    rows = (
        MIXED
        if source == "text"
        else [{**PAIRS[0], "tags": [], "turns": CHAT}, {**PAIRS[1], "tags": ["a"], "turns": []}]
    )
    given = write(tmp_path / "in.jsonl", rows) if source == "text" else datasets.Dataset.from_list(rows)
    path = tmp_path / output
    score_dataset(given, scorer, path, rows_per_chunk=2)
    expected = score_dataset(given, scorer, rows_per_chunk=2).to_list()
    if output == "out.jsonl":
        assert len(pandas.read_json(path, lines=True)) == len(rows)
        found = list(corpus.load_rows(path))
    else:
        files = sorted(map(str, path.glob("*.parquet"))) if path.is_dir() else str(path)
        assert output != "out" or len(files) == -(-len(rows) // 4)
        found = datasets.load_dataset(
            "parquet", data_files=files, split="train", cache_dir=tmp_path / "cache"
        ).to_list()
        frame = pandas.read_parquet(path)
        assert list(frame.columns) == list(found[0]) and len(frame) == len(rows)
    assert found == expected
    if source == "text":
        assert found[1]["id"] == "x" and found[0]["id"] == 7 and found[4]["messages"] == CHAT


@pytest.mark.parametrize("kind", ["jsonl", "table"])
def test_parquet_holds_what_any_column_holds_with_the_scores_last(kind, tmp_path):
    """Dicts without fields, which parquet has no type for; values of several types; columns that come late."""
    rows = [{**row, "meta": {}, "deep": [{"a": {}}], "none": None} for row in PAIRS[:3]]
    if kind == "jsonl":
        rows += [{**PAIRS[3], "late": 1}, {**PAIRS[4], "late": "x"}]
    given = write(tmp_path / "in.jsonl", rows) if kind == "jsonl" else datasets.Dataset.from_list(rows)
    score_dataset(given, as_named(lengths), tmp_path / "out.parquet")
    found = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out.parquet"), split="train", cache_dir=tmp_path / "cache"
    )
    assert found.column_names[-4:] == ["score_chosen", "score_rejected", "margin", "score_reason"]
    for row, line in zip(found.to_list(), rows, strict=True):
        assert {name: row[name] for name in line} == line


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", "folder/"])
def test_what_a_link_points_to_is_written_and_a_slash_makes_a_folder(name, tmp_path):
    if name == "folder/":
        score_dataset(PAIRS, as_named(lengths), f"{tmp_path}/scored.v1/")
        assert [path.suffix for path in (tmp_path / "scored.v1").iterdir()] == [".parquet"]
        return
    (tmp_path / "there").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "there" / name)
    score_dataset(PAIRS, as_named(lengths), tmp_path / name)
    assert (tmp_path / name).is_symlink() and len(corpus.load_rows(tmp_path / "there" / name)) == len(PAIRS)


def test_a_source_that_its_library_cannot_read_is_named(tmp_path):
    """Two columns of one name; shards that differ in their columns."""
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["prompt", "completion", "completion"])
    (tmp_path / "twice").mkdir()
    parquet.write_table(table, tmp_path / "twice" / "a.parquet")
    (tmp_path / "shards").mkdir()
    for i, rows in enumerate((PAIRS[:2], [{**row, "more": 1} for row in PAIRS[2:4]])):
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "shards" / f"{i}.parquet")
    for folder in ("twice", "shards"):
        with pytest.raises(ValueError, match=f"{tmp_path / folder} cannot be read \\(") as error:
            score_dataset(tmp_path / folder, lengths, tmp_path / "out.jsonl")
        assert "\n" not in str(error.value)


def test_rows_without_an_output_come_back_as_a_data_set():
    found = score_dataset(datasets.Dataset.from_list(PAIRS), lengths)
    assert found.column_names == [*PAIRS[0], "score_chosen", "score_rejected", "margin", "score_reason"]
    assert found["margin"][0] == len(PAIRS[0]["chosen"]) - len(PAIRS[0]["rejected"])


def test_rows_of_one_prompt_stay_in_one_chunk(tmp_path):
    rows = [{"prompt": f"p{n // 5}", "completion": f"c{n}"} for n in range(40)] + PAIRS[:3]
    survey = corpus._survey(rows, 4, {}, "rows")
    assert [(chunk.start, chunk.stop) for chunk in survey.chunks] == [(5 * i, 5 * i + 5) for i in range(8)] + [
        (40, 43)
    ]
    endless = corpus._survey([{"prompt": "p", "completion": f"c{n}"} for n in range(40)], 4, {}, "rows")
    assert [chunk.stop for chunk in endless.chunks] == [16, 32, 40]


def test_half_a_character_is_refused_before_the_work_where_no_table_can_hold_it(tmp_path):
    source = write(tmp_path / "in.jsonl", [PAIRS[0], {**PAIRS[1], "note": "half: \ud83d"}])
    with pytest.raises(ValueError, match=f"{source} row 1 holds half a character"):
        score_dataset(source, lambda prompts, completions: pytest.fail("work was begun"), tmp_path / "out.parquet")
    score_dataset(source, as_named(lengths), tmp_path / "out.jsonl")
    assert len(read(tmp_path / "out.jsonl")) == 2


# --- the output


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_survey", lambda *args: pytest.fail("work was begun"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine.jsonl").write_text("mine")
    for output, message in {
        "out.xlsx": "is of an unknown kind; name a .jsonl or .parquet file, or a folder",
        "mine.jsonl": "exists and is no output of score; name another one, or delete it",
        "": "exists and is no output of score",
        "file/out.jsonl": "file",
    }.items():
        with pytest.raises((ValueError, OSError), match=message):
            score_dataset(PAIRS, lengths, tmp_path / output)
    with pytest.raises(ValueError, match="the data set me/scored cannot be written"):
        score_dataset(PAIRS, lengths, tmp_path / "out.jsonl", push_to_hub="me/scored")


@pytest.mark.parametrize("output", ["data", "data/new.parquet", "data/a.jsonl", "link"])
def test_an_output_in_the_data_is_refused_before_any_work(output, tmp_path):
    (tmp_path / "data").mkdir()
    source = write(tmp_path / "data" / "a.jsonl", PAIRS)
    (tmp_path / "link").symlink_to("data")
    given = source if output == "data/a.jsonl" else tmp_path / "data"
    before = sorted(tmp_path.rglob("*")), source.read_bytes()
    with pytest.raises(ValueError, match="would change the data, .*data.*; name an output outside of it"):
        score_dataset(given, lambda prompts, completions: pytest.fail("work was begun"), tmp_path / output)
    assert (sorted(tmp_path.rglob("*")), source.read_bytes()) == before


def test_whole_numbers_that_no_float_holds_are_kept_beside_floats(tmp_path):
    rows = [{**PAIRS[0], "id": 2**60 + 1, "year": 2026}] * 1024 + [{**PAIRS[0], "id": 1.5, "year": 2026.5}]
    score_dataset(write(tmp_path / "in.jsonl", rows), as_named(lengths), tmp_path / "out.parquet")
    found = corpus.load_rows(tmp_path / "out.parquet")
    assert (found[0]["id"], found[1024]["id"]) == (2**60 + 1, 1.5)
    assert found.features["year"].dtype == "float64"


MIXED_KINDS = {  # of a column in an early row and in a late one ► its type in parquet
    "null then text": (None, "x", "string"),
    "text then null": ("x", None, "string"),
    "whole then not": (1, 1.5, "double"),
    "lists": ([1], [1.5], "list<element: double>"),
    "lists of null": ([None], ["x"], "list<element: string>"),
    "objects": ({"a": 1, "b": None}, {"a": 1.5, "b": "x"}, "struct<a: double, b: string>"),
}


@pytest.mark.parametrize("kind", MIXED_KINDS)
def test_a_column_of_parquet_holds_the_values_of_rows_far_apart(kind, tmp_path):
    early, late, wanted = MIXED_KINDS[kind]
    rows = [{"prompt": "a", "completion": "b", "x": early if i < 1024 else late} for i in range(1030)]
    score_dataset(write(tmp_path / "in.jsonl", rows), lengths, tmp_path / "out.parquet")
    assert str(parquet.read_schema(tmp_path / "out.parquet").field("x").type) == wanted
    assert datasets.load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train")["x"][-1] == late


@pytest.mark.parametrize("late", ["text", [1], {"b": 1}], ids=str)
def test_a_column_of_kinds_that_have_nothing_in_common_is_json(late, tmp_path):
    rows = [{"prompt": "a", "completion": "b", "x": {"a": 1} if i < 1024 else late} for i in range(1030)]
    score_dataset(write(tmp_path / "in.jsonl", rows), lengths, tmp_path / "out.parquet")
    assert datasets.load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train")["x"][-1] == late


def test_shards_and_joining_need_an_output_and_one_number_of_shards(tmp_path):
    rows, output = [{"prompt": "a", "completion": "b"}], tmp_path / "out.jsonl"
    for options in ({"shard": (1, 2)}, {"push_to_hub": "me/x"}):
        with pytest.raises(ValueError, match="output is missing"):
            score_dataset(rows, lengths, **options)
    for number in (1, 2):
        score_dataset(rows, lengths, output, shard=(1, number))
    with pytest.raises(ValueError, match="has shards of 1 and of 2; delete those of one"):
        score_dataset(rows, None, output)


def test_a_whole_output_is_not_computed_again_and_another_one_is_refused(tmp_path, scorer):
    output = tmp_path / "out.parquet"
    counts = score_dataset(PAIRS, scorer, output)
    before = output.read_bytes()
    assert score_dataset(PAIRS, scorer, output) == counts == {"rows": 23, "completions": 46, "unscored": 0}
    other = RewardScorer(tiny_reward_model(seed=3), scorer.processing_class, truncation_mode="drop")
    with pytest.raises(ValueError, match="out.parquet was made with other settings: model_weights was .* delete it"):
        score_dataset(PAIRS, other, output)
    with pytest.raises(ValueError, match="data was .* and is now"):
        score_dataset(PAIRS[:-1], scorer, output)
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "out.parquet.settings.json"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP as `datasets` asks for while it pushes a data set into an empty repository."""

    got: dict[str, bytes] = {}

    def do_GET(self):
        path, body = self.path.split("?")[0], self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = 200, {"id": "me/scored", "sha": "b" * 40, "siblings": [], "tags": []}
        if path == "/api/repos/create":
            answer = {"url": "https://huggingface.co/datasets/me/scored"}
        elif path.endswith("/preupload/main"):
            kinds = {".parquet": "lfs", ".md": "regular"}
            files = [{"path": file["path"], "shouldIgnore": False} for file in json.loads(body)["files"]]
            answer = {"files": [{**file, "uploadMode": kinds[Path(file["path"]).suffix]} for file in files]}
        elif path.endswith("/objects/batch"):
            href = f"http://{self.headers['Host']}/put"
            objects = [{**one, "actions": {"upload": {"href": href}}} for one in json.loads(body)["objects"]]
            answer = {"objects": objects}
        elif path.endswith("/commit/main"):
            answer = {"commitUrl": "https://huggingface.co/datasets/me/scored/commit/a", "commitOid": "a" * 40}
        elif path == "/put":
            self.got["parquet"] = body
        elif path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "/tree/" in path:
            status, answer = (404, {}) if path.endswith("/data") else (200, [])
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl", "folder/"])
def test_the_command_pushes_the_scored_rows_over_http(tmp_path, output):
    (tmp_path / "judge.py").write_text(
        "def score(prompts, completions):\n    return [float(len(c)) for c in completions]"
    )
    words = ["score", "judge:score", "--data", str(write(tmp_path / "in.jsonl", PAIRS)), "--push-to-hub", "me/scored"]
    words += ["--output", f"{tmp_path}/{output}"]
    script = f"import sys; from rm_plugin.commands.cli import main; sys.exit(main({words}))"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        environment |= {"HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    pushed = pandas.read_parquet(io.BytesIO(Hub.got["parquet"]))
    assert pushed["margin"].tolist() == [len(row["chosen"]) - len(row["rejected"]) for row in PAIRS]


@pytest.mark.parametrize(
    ("name", "split", "output"),
    [
        ("a.json", None, "out.jsonl"),
        ("a.jsonl", "train[5%:95%]", "out.parquet"),
        ("a.csv", "train+train[:1]", "out.jsonl"),
    ],
)
def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch, name, split, output):
    monkeypatch.setattr(corpus, "ROWS_HELD", 20)
    peaks = []
    for number in (1, 125, 500):  # the first warms up
        rows = [{"prompt": f"{i} " + "x" * 8000, "completion": "y" * (1 + i % 7)} for i in range(number * 2)]
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / name
        if name == "a.json":
            path.write_text(json.dumps(rows))
        else:
            pandas.DataFrame(rows).to_csv(path, index=False) if name == "a.csv" else write(path, rows)
        del rows
        tracemalloc.start()
        score_dataset(path, lengths, folder / output, split=split, rows_per_chunk=20)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 2 * peaks[1]  # of four times the rows


def test_what_a_device_gets_is_not_pushed(tmp_path):
    with pytest.raises(ValueError, match="what /dev/null gets cannot be pushed to the hub; name a file or folder"):
        score_dataset(PAIRS, lengths, "/dev/null", push_to_hub="me/scored")


def as_named(function):
    from rm_plugin.scoring.rewards import as_reward

    return as_reward(function, "named")


# --- kills, processes, shards


class Killed(BaseException):
    pass


def test_a_kill_loses_at_most_one_chunk(tmp_path):
    source, heard = write(tmp_path / "in.jsonl", PAIRS), []

    def dying(prompts, completions):
        heard.append(len(completions))
        if len(heard) == 4:
            raise Killed
        return lengths(prompts, completions)

    reward, output = as_named(dying), tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        score_dataset(source, reward, output, rows_per_chunk=4)
    assert not output.exists()
    with Journal(output) as journal:
        assert list(journal) == ["0-4", "4-8", "8-12"]
    assert score_dataset(source, reward, output, rows_per_chunk=4)["completions"] == 46
    assert heard == [8, 8, 8, 8, 8, 8, 6]  # the fourth twice
    score_dataset(source, as_named(lengths), tmp_path / "whole.jsonl", rows_per_chunk=4)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.journal*"))


@pytest.mark.parametrize("rows_per_chunk", [4, 23])
@pytest.mark.parametrize("first", [1, 5])
def test_a_judge_that_is_down_stops_the_run_and_the_same_command_resumes(rows_per_chunk, first, tmp_path):
    """Also in the middle of a chunk of which one row is bad for it; a bad row alone is null."""
    calls, last = 0, first

    def judge(prompts, completions):
        nonlocal calls
        calls += 1
        if calls > last or " 13" in completions:
            raise ConnectionError("quota is used up")
        return lengths(prompts, completions)

    source, output, options = (
        write(tmp_path / "in.jsonl", PAIRS),
        tmp_path / "out.jsonl",
        {"rows_per_chunk": rows_per_chunk},
    )
    with pytest.raises(ValueError, match="ConnectionError: quota is used up"):
        score_dataset(source, as_named(judge), output, **options)
    assert not output.exists()
    with Journal(output) as journal:
        assert all(added for value in journal.values() for added, _ in value)
    last = 1000
    assert score_dataset(source, as_named(judge), output, **options)["rows"] == 23
    assert [row["chosen"] for row in read(output) if row["margin"] is None] == [" 13"]


@pytest.mark.parametrize("rows_per_chunk", [4, 23])
def test_rows_that_change_while_they_are_scored_are_refused(rows_per_chunk, tmp_path):
    source = write(tmp_path / "in.jsonl", PAIRS)

    def rewriting(prompts, completions):
        write(source, PAIRS[::-1])
        return lengths(prompts, completions)

    with pytest.raises(
        ValueError, match=r"in.jsonl: rows \d+ to \d+ are not those that were read first; leave the data"
    ):
        score_dataset(source, as_named(rewriting), tmp_path / "out.jsonl", rows_per_chunk=rows_per_chunk)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_stream_that_can_be_read_once_is_refused(tmp_path):
    rows = iter(PAIRS)
    stream = datasets.IterableDataset.from_generator(lambda: (yield from rows))
    with pytest.raises(ValueError, match="a stream that can be read again in one order"):
        score_dataset(stream, lengths, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_shard_of_bad_rows_alone_is_finished_as_in_one_process(tmp_path):
    source = write(tmp_path / "in.jsonl", [*PAIRS[:4], *[{"prompt": f"p{n}", "completion": ""} for n in range(4)]])
    for number in (1, 2):
        shards = [(i, number) for i in range(1, number + 1)]
        counts = [
            score_dataset(source, as_named(lengths), tmp_path / f"{number}.jsonl", shard=one, rows_per_chunk=4)
            for one in shards
        ]
        assert sum(one["unscored"] for one in counts) == 4
        assert score_dataset(source, None, tmp_path / f"{number}.jsonl", rows_per_chunk=4)["rows"] == 8
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_a_log_file_gets_lines_of_progress_and_the_speed_of_this_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(corpus, "LINE_EVERY", 0.0)
    reward = as_named(lengths)
    reward.num_tokens = 10**12
    score_dataset(PAIRS, reward, tmp_path / "out.jsonl", rows_per_chunk=8, progress=True)
    said = capsys.readouterr().err
    assert "\r" not in said and "tok/s" not in said
    assert [line.split()[-3] for line in said.splitlines()][:4] == ["0/23", "8/23", "16/23", "23/23"]


def test_shards_are_joined_without_a_model(tmp_path, folder):
    source, chunks = write(tmp_path / "in.jsonl", [*PAIRS, {"prompt": "p", "completion": ""}]), {"rows_per_chunk": 4}
    whole, output = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    counts = score_dataset(source, str(folder), whole, **chunks)
    with pytest.raises(ValueError, match="MODEL is missing, and no shards of .*out.parquet are there to join"):
        score_dataset(source, None, output, **chunks)
    first = score_dataset(source, str(folder), output, shard=(1, 2), **chunks)
    with pytest.raises(ValueError, match="shard 2/2 is not finished; run the command with its --shard again"):
        score_dataset(source, None, output, **chunks)
    second = score_dataset(source, str(folder), output, shard=(2, 2), **chunks)
    assert {name: first[name] + second[name] for name in counts} == counts and 0 < first["rows"] < 24
    with pytest.raises(ValueError, match="data was .* and is now"):
        score_dataset(PAIRS, None, output, **chunks)
    assert score_dataset(source, None, output, **chunks) == counts
    assert score_dataset(source, None, output, **chunks) == counts, "joined already"
    with pytest.raises(ValueError, match="data was .* and is now"):
        score_dataset(PAIRS, None, output, **chunks)
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.journal*"))


def test_the_command_annotates_shards_and_joins(tmp_path, folder, capsys):
    source, output = write(tmp_path / "in.jsonl", MIXED), tmp_path / "out.jsonl"
    words = ["score", str(folder), "--data", str(source), "--output", str(output)]
    assert main([*words, "--shard", "1/1"]) == 0
    assert capsys.readouterr().out.endswith(f"3 of them null (see score_reason): shard 1 of 1 of {output}\n")
    assert main(["score", "--data", str(source), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"13 completions of 9 rows scored, 3 of them null (see score_reason): {output}\n"
    assert [row["prompt"] for row in read(output) if "prompt" in row] == [r["prompt"] for r in MIXED if "prompt" in r]
    for word, message in {"3/2": "the first of 2 is 1/2", "half": "--shard half is not understood; write I/N"}.items():
        other = ["score", str(folder), "--data", str(source), "--output", str(tmp_path / "x.jsonl"), "--shard", word]
        assert main(other) == 2 and message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_rows_order_and_nulls_of_one(tmp_path, folder):
    rows = [*PAIRS * 3, {"prompt": "p", "completion": ""}, {"prompt": "p", "completion": " 4" * 300}, *PAIRS]
    source = write(tmp_path / "in.jsonl", rows)
    score_dataset(source, str(folder), tmp_path / "alone.jsonl", rows_per_chunk=5)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch.distributed\nfrom rm_plugin.scoring.corpus import score_dataset\n"
        "print(score_dataset(*sys.argv[1:], rows_per_chunk=5))\ntorch.distributed.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    command += ["--rdzv_endpoint", "localhost:0", str(script), str(source), str(folder), str(tmp_path / "two.jsonl")]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("{'rows': 94, 'completions': 186, 'unscored': 2}") == 2
    alone, two = read(tmp_path / "alone.jsonl"), read(tmp_path / "two.jsonl")
    names = ("score", "score_chosen", "score_rejected", "margin")
    numbers = [
        [[np.nan if row[name] is None else row[name] for name in names] for row in found] for found in (alone, two)
    ]
    np.testing.assert_allclose(*numbers, atol=1e-5)
    without = [[{k: v for k, v in row.items() if k not in names} for row in found] for found in (alone, two)]
    assert without[0] == without[1]
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two.jsonl", "two.jsonl.settings.json"]


def test_actors_are_for_ray():
    with pytest.raises(ValueError, match=r"num_actors=2 is for a Ray data set; make one: ray.data.from_huggingface"):
        score_dataset(PAIRS, lengths, num_actors=2)


def test_what_score_writes_is_trained_on_without_the_difference_of_its_scores(tmp_path):
    rows = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": " penguins"} for n in range(8)]
    score_dataset(rows, lengths, output=tmp_path / "scored.jsonl")
    scored = load_rows(tmp_path / "scored.jsonl")
    assert scored[0]["margin"] == -7.0
    with_margins = [{**row, "margin": 0.5} for row in rows]
    for number, (data, margins) in enumerate([(rows, {None}), (scored, {None}), (with_margins, {0.5})]):
        trainer = make_trainer(tmp_path / str(number), tiny_reward_model(), data)
        assert set(trainer.train_dataset["margin"]) == margins
        assert {to_comparison(row).margin for row in data} == margins


def test_two_responses_are_scored_with_and_without_a_label():
    row = {"question": "2 + 2 =", "response_1": " 5", "response_2": " four"}
    plain, labelled = score_dataset([row], lengths)[0], score_dataset([{**row, "winner": "B"}], lengths)[0]
    assert plain == {**row, "scores": [2.0, 5.0], "score_reason": None}
    added = {"score_chosen": 5.0, "score_rejected": 2.0, "margin": 3.0, "score_reason": None}
    assert labelled == {**row, "winner": "B", **added}
