"""Runs side by side: intervals, tiers, baselines, published rows; and whether a difference is real."""

import csv
import io
import json
import re
import shutil
from urllib.parse import unquote

import numpy as np
import pytest
from models import tiny_reward_model, tiny_tokenizer

from rm_plugin import RewardScorer
from rm_plugin.commands.cli import main
from rm_plugin.evaluation.benchmarks import load_benchmark
from rm_plugin.evaluation.harness import evaluate, evaluate_scores
from rm_plugin.evaluation.leaderboard import build_leaderboard, compare_runs
from rm_plugin.evaluation.page import render_page
from rm_plugin.evaluation.report import print_report

ROWS = [{"prompt": f"q{n}", "chosen": f"right {n}", "rejected": f"wrong {n}"} for n in range(100)]


def judge(num_right: int):
    """Right on the first `num_right` rows."""

    def scores(prompts, completions):
        return [float(("right" in c) == (int(c.split()[1]) < num_right)) for c in completions]

    return scores


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three models on the same data: right on the first 95, 90 and 50 of 100 rows."""
    folder = tmp_path_factory.mktemp("runs")
    for name, num_right in (("good", 95), ("fair", 90), ("poor", 50)):
        evaluate(judge(num_right), source=ROWS, output=folder / name, name=f"org/{name}", num_samples=1000)
    return folder


def test_models_are_ordered_with_intervals_tiers_and_baselines(runs):
    (table,) = build_leaderboard([runs], num_samples=1000).tables
    models = [(row.name, row.score, row.tier) for row in table.rows if row.kind == "model"]
    # 5 discordant pairs: p = 2/2⁵ = 0.0625, one tier; 45 discordant pairs: another
    assert models == [("good", 0.95, 1), ("fair", 0.9, 1), ("poor", 0.5, 2)]
    assert {c["a"] + c["b"]: c["p_value"] for c in table.comparisons}["goodfair"] == 0.0625
    assert {row.name for row in table.rows if row.kind == "baseline"} == {
        "baseline: random",
        "baseline: length only",
        "baseline: constant",
    }
    low, high = table.rows[0].interval
    assert 0.88 < low < 0.95 < high < 1.0


def test_a_difference_is_tested_on_the_same_items(runs):
    (result,) = compare_runs(runs / "good", runs / "fair", num_samples=1000)
    assert (result["a"], result["b"], result["benchmark"]) == ("good", "fair", "a list")
    assert result["difference"] == pytest.approx(0.05) and result["method"] == "mcnemar"
    assert result["p_value"] == 0.0625 and (result["a_better"], result["b_better"]) == (5, 0)
    assert result["detectable"] == pytest.approx(2.8016 * np.sqrt(0.05 * 0.95 / 100), rel=0.05)


@pytest.mark.parametrize("kind", ["plain mean", "clusters", "aggregate"])
def test_two_models_have_one_p_value_in_compare_and_in_a_leaderboard_of_four(tmp_path, kind):
    rng = np.random.default_rng(3)
    rows = [
        {"prompt": f"q{n // 2 if kind == 'clusters' else n}", "chosen": f"right {n}", "rejected": f"wrong {n}"}
        for n in range(40)
    ]
    name = "preference"
    if kind == "aggregate":
        name, subsets = "rewardbench", ("alpacaeval-easy", "donotanswer", "hep-python", "math-prm")
        rows = [{**row, "subset": subsets[n % 4], "id": n} for n, row in enumerate(rows)]
    for model, share in (("a", 0.9), ("b", 0.7), ("c", 0.6), ("d", 0.5)):
        known = rng.random(40) < share

        def scores(prompts, completions, known=known):
            return [float(("right" in c) == known[int(c.split()[1])]) for c in completions]

        evaluate(scores, name, rows, output=tmp_path / model, name=model, num_samples=1000)
    (table,) = build_leaderboard([tmp_path]).tables
    assert len(table.comparisons) == 6
    for listed in table.comparisons:
        (pair,) = compare_runs(tmp_path / listed["a"], tmp_path / listed["b"])
        assert pair["p_value"] == listed["p_value"] and pair["difference"] == pytest.approx(listed["difference"])
        assert pair["method"] == ("mcnemar" if kind == "plain mean" else "paired bootstrap")
        assert pair["detectable"] > 0
        assert (pair["low"] > 0) == (pair["p_value"] < 0.05)


def test_compare_says_in_words_whether_the_difference_is_real(runs, capsys):
    assert main(["compare", str(runs / "good"), str(runs / "fair")]) == 0
    assert "good and fair do not differ significantly (5.0 points)" in capsys.readouterr().out
    assert main(["compare", str(runs / "poor"), str(runs / "good")]) == 0
    assert "good is better than poor by 45.0 points: the difference is real" in capsys.readouterr().out


def test_published_judgebench_models_do_not_differ(shared_data, tmp_path):
    """McNemar on the three models' real scores: no two of them differ significantly (../shared/reference)."""
    source = shared_data / "judgebench"
    with (source / "reference_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for model in sorted({row["model"] for row in rows}):
        lines = [
            {"id": row["pair_id"], "index": 0, "role": "chosen" if row["label"][0] == side else "rejected"}
            | {"score": float(row[f"score_{side}"])}
            for row in rows
            if row["model"] == model
            for side in "AB"
        ]
        path = tmp_path / "scores.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        output = tmp_path / "runs" / model.split("/")[1]
        evaluate_scores(path, "judgebench", source / "gpt.jsonl", output=output, name=model, num_samples=500)
    (table,) = build_leaderboard([tmp_path / "runs"], num_samples=500).tables
    models = [row for row in table.rows if row.kind == "model"]
    assert [round(100 * row.score, 2) for row in models] == [63.43, 62.29, 59.43]
    assert {row.tier for row in models} == {1}
    assert min(comparison["p_value"] for comparison in table.comparisons) > 0.05


def test_all_forms_hold_the_same_numbers(runs, tmp_path, capsys):
    published = tmp_path / "published.csv"
    published.write_text("model,a list,other\nSome-8B,93.1,12\nNone,,\n")
    files = {form: tmp_path / f"board.{form}" for form in ("html", "csv", "markdown")}
    words = [word for form, path in files.items() for word in (f"--{form}", str(path))]
    assert main(["leaderboard", str(runs), *words, "--published", str(published)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [str(path) for path in files.values()]
    table = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [(row["model"], float(row["score"])) for row in table[:4]] == [
        ("good", 0.95),
        ("Some-8B", 0.931),
        ("fair", 0.9),
        ("poor", 0.5),
    ]
    assert table[1]["kind"] == "published" and table[1]["low"] == "" == table[1]["tier"]
    html, markdown = files["html"].read_text(), files["markdown"].read_text()
    for text in ("95.0", "93.1", "baseline: length only"):
        assert text in html and text in markdown
    assert "Some-8B" in html and '<tr class="published">' in html and '<tr class="baseline">' in html
    links = re.findall(r"(?:src|href)=\"([^\"]*)\"", html.split("<svg")[0])
    assert "<script" not in html and len(links) == 6  # of three models, in the overview and in the table
    for link in links:
        assert (
            link.startswith("./") and (tmp_path / unquote(link)).resolve().is_file() and link.endswith("report.html")
        )


def test_without_files_the_overview_is_printed(runs, capsys):
    assert main(["leaderboard", str(runs)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"good +│ +95\.0 │ +1\.0 │ 95\.0 \[\d\d\.\d, \d\d\.\d\] \(1\) │ function", out)
    assert "baseline: random" in out


def test_models_on_other_data_stand_in_another_table(runs, tmp_path):
    evaluate(judge(10), source=ROWS[:20], output=tmp_path / "less", name="less", num_samples=100)
    board = build_leaderboard([runs, tmp_path], num_samples=100)
    assert [len([row for row in table.rows if row.kind == "model"]) for table in board.tables] == [3, 1]
    assert len({table.title for table in board.tables}) == 2
    with pytest.raises(ValueError, match="the same benchmark on the same data"):
        compare_runs(runs / "good", tmp_path / "less")


def test_runs_of_one_model_are_named_with_their_folders(tmp_path):
    for name in ("a", "b"):
        evaluate(judge(50), source=ROWS, output=tmp_path / name, name="same", num_samples=100)
    (table,) = build_leaderboard([tmp_path], num_samples=100).tables
    names = [row.name for row in table.rows if row.kind == "model"]
    assert len(set(names)) == 2 and all(name.startswith("same (") for name in names)


def test_a_duplicate_renames_no_other_run_and_splits_no_model(tmp_path):
    more = [{**row, "prompt": f"other {row['prompt']}"} for row in ROWS[:20]]
    for folder, name, data in (
        ("a", "org/same", ROWS),
        ("b", "org/same", ROWS),
        ("c", "org/other", ROWS),
        ("d", "org/same", more),
        ("e", "org/other", more),
    ):
        evaluate(judge(50), source=data, output=tmp_path / folder, name=name, num_samples=100)
    board = build_leaderboard([tmp_path], num_samples=100)
    names = [{row.name for row in table.rows if row.kind == "model"} for table in board.tables]
    folders = {f"same ({tmp_path.resolve() / folder})" for folder in "ab"}
    assert names == [{"other"} | folders, {"same", "other"}]
    overview = board.overview()
    assert [row[0] for row, kind in zip(overview.rows, overview.kinds, strict=True) if kind == "model"] == [
        "same",
        "other",
    ]
    assert overview.rows[0][3].count("[") == 2  # both runs are in its cell


def test_models_that_end_alike_keep_their_whole_names(tmp_path):
    for name in ("x/final", "y/final", "z/other"):
        evaluate(judge(50), source=ROWS, output=tmp_path / name, name=name, num_samples=100)
    (table,) = build_leaderboard([tmp_path], num_samples=100).tables
    assert {row.name for row in table.rows if row.kind == "model"} == {"x/final", "y/final", "other"}
    (result,) = compare_runs(tmp_path / "x", tmp_path / "y", num_samples=100)
    assert (result["a"], result["b"]) == ("x/final", "y/final")


def test_hostile_names_stay_text(tmp_path):
    name = "=1+1<script>alert(1)<b>|[x](y)"
    evaluate(judge(50), source=ROWS, output=tmp_path / "run", name=name, num_samples=100)
    board = build_leaderboard([tmp_path], num_samples=100)
    assert "<script" not in board.to_html() and "<script" not in board.to_markdown()
    row = next(line for line in board.to_markdown().splitlines() if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 10  # nine cells
    assert not any(
        line.startswith("=") for line in board.to_csv().replace('"', "").replace("a list,", "").splitlines()
    )


def test_the_model_card_gets_the_numbers_of_one_model(runs, tmp_path, capsys):
    readme = tmp_path / "README.md"
    assert main(["leaderboard", str(runs / "good"), "--model-card", str(readme)]) == 0
    assert "| 95.0 |" in readme.read_text() and "model-index" not in readme.read_text()
    assert main(["leaderboard", str(runs), "--model-card", str(readme)]) == 2
    assert "a model card is for one model" in capsys.readouterr().err


def test_means_and_ranks_are_over_the_benchmarks_that_every_model_has(tmp_path):
    more = [{**row, "prompt": f"other {row['prompt']}"} for row in ROWS[:20]]
    hard = [{**row, "prompt": f"hard {row['prompt']}"} for row in ROWS]
    for name, right in (("a", (90, 10, 50)), ("b", (80, 20, None)), ("c", (70, 10, 90))):
        for data, num_right in zip((ROWS, more, hard), right, strict=True):
            if num_right is not None:
                output = tmp_path / name / str(len(data)) / data[0]["prompt"]
                evaluate(judge(num_right), source=data, output=output, name=name, num_samples=100)
    overview = build_leaderboard([tmp_path], num_samples=100).overview()
    assert overview.columns[:3] == ["model", "mean of 2", "mean rank"]
    rows = [row[:3] for row in overview.rows]
    assert rows[:3] == [["b", "90.0", "1.5"], ["a", "70.0", "1.8"], ["c", "60.0", "2.8"]]  # a and c tie at 10 of 20
    assert [row[0] for row in rows[3:]] == ["baseline: random", "baseline: length only", "baseline: constant"]
    assert rows[3][2] == "–" and rows[5][1] == "0.0"


def test_what_a_model_is_stands_beside_its_scores(tmp_path):
    scorer = RewardScorer(tiny_reward_model(), tiny_tokenizer())
    evaluate(scorer, source=ROWS[:10], output=tmp_path / "run", name="tiny", num_samples=100)
    overview = build_leaderboard([tmp_path], num_samples=100).overview()
    (row,) = [row for row in overview.rows if row[0] == "tiny"]
    assert overview.columns[-3:] == ["type", "base", "parameters"]
    assert row[-3:] == ["RewardModel float32", "llama", f"{scorer.about['num_parameters']:,}"]


def test_ties_and_unscored_are_columns_and_warnings_footnotes(tmp_path):
    def ties(prompts, completions):
        return [
            None if c == "wrong 99" else 0.0 if int(c.split()[1]) < 10 else float("right" in c) for c in completions
        ]

    evaluate(ties, source=ROWS, output=tmp_path / "a", name="ties", num_samples=100)
    evaluate(judge(95), source=ROWS, output=tmp_path / "b", name="good", num_samples=100)
    (table,) = build_leaderboard([tmp_path], num_samples=100).tables
    scores = table.scores()
    found = {row[0]: dict(zip(scores.columns, row, strict=True)) for row in scores.rows}
    assert (found["ties [1] [2]"]["ties, %"], found["ties [1] [2]"]["unscored"]) == ("10.0", "1")
    assert (found["good"]["ties, %"], found["good"]["unscored"]) == ("0.0", "0")
    assert [sentence.split(";")[0] for sentence in table.remarks] == [
        "1 of 100 comparisons have a text that was not scored",
        "10.0 % of the pairs are exact ties: ½ in the pairwise accuracy, wrong in the strict one.",
    ]
    page = build_leaderboard([tmp_path], num_samples=100).to_html()
    assert "[2] 10.0 % of the pairs" in page and "the line is at chance" in page


def test_scenarios_are_grouped_under_what_they_are_of(tmp_path):
    rows = [
        {
            "pair_uid": f"{goal}{i}",
            "conversation_input": [{"role": "user", "content": f"{goal} {i}"}],
            "chosen": {"answer": f"right {i}"},
            "reject": {"answer": f"wrong {i}"},
            "category_path": f"Pairwise_set/Helpfulness/{goal}/scenario {i}",
        }
        for goal in ("Chat", "Code")
        for i in range(3)
    ]

    def scores(prompts, completions):
        return [float(("right" in c[0]["content"]) == ("0" not in c[0]["content"])) for c in completions]

    evaluate(scores, "rmb", rows, output=tmp_path / "run", name="m", num_samples=100)
    (table,) = build_leaderboard([tmp_path], num_samples=100).tables
    ((summary, grouped),) = table.by_level()  # the only set stands in the table of scores
    assert summary == "By scenario (6)" and grouped.columns == ["scenario", "n", "m"]
    lines = [["Pairwise_set/Helpfulness/Chat", "", ""], ["scenario 0", "1", "0.0"], ["scenario 1", "1", "100.0"]]
    assert grouped.rows[:3] == lines and grouped.kinds == ["group", "section", "section", "section"] * 2
    assert "<summary>By scenario (6)</summary>" in table_page(table)


def table_page(table):
    return render_page("x", table.sections())


def test_compare_writes_a_page_a_table_and_all_numbers(runs, tmp_path, capsys):
    paths = {form: tmp_path / f"compare.{form}" for form in ("html", "json", "csv")}
    words = [word for form, path in paths.items() for word in (f"--{form}", str(path))]
    assert main(["compare", str(runs / "poor"), str(runs / "good"), *words]) == 0
    assert "good is better than poor by 45.0 points: the difference is real" in paths["html"].read_text()
    (result,) = json.loads(paths["json"].read_text())
    assert result["difference"] == pytest.approx(-0.45) and result["method"] == "mcnemar"
    (line,) = csv.DictReader(io.StringIO(paths["csv"].read_text()))
    assert (line["benchmark"], line["subset"], line["a"], line["b"]) == ("a list", "", "poor", "good")
    assert float(line["difference"]) == result["difference"] and int(line["num_items"]) == 100
    assert (float(line["score_a"]), float(line["score_b"])) == (0.5, 0.95)
    assert (float(line["kappa"]), int(line["num_different"])) == (result["agreement"]["kappa"], 45)
    assert "judged in opposite ways: the 10 of 45 that both are surest of" in paths["html"].read_text()
    assert main(["compare", str(runs / "poor"), str(runs / "good"), "--csv", "x", "--html", "x"]) == 2


@pytest.mark.parametrize("command", [["leaderboard"], ["compare", "."]])
def test_a_folder_without_a_finished_run_gets_one_line(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "nowhere"]) == 2
    assert main([*command[:1], *["."] * len(command)]) == 2
    (tmp_path / "run.json").write_text("{}")
    assert main([*command[:1], *["."] * len(command)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "holds no report.json" in lines[1] and "finish it with the same command" in lines[2]


def test_a_report_of_another_version_is_refused(runs, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(ValueError, match="schema_version=99, this version reads 1"):
        build_leaderboard([tmp_path])


@pytest.mark.parametrize("text", ["[]", "", '{"accuracy": 0.5}'])
def test_a_report_of_another_tool_gets_one_line(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match="report.json is not of rm-plugin evaluate, .*; name --output folders of"):
        build_leaderboard([tmp_path])


def test_compare_refuses_a_folder_with_several_runs_of_the_same_data(runs):
    with pytest.raises(ValueError, match="has 3 runs of preference") as error:
        compare_runs(runs, runs / "good", num_samples=100)
    assert all(str(runs / name) in str(error.value) for name in ("good", "fair", "poor"))
    with pytest.raises(ValueError, match="name one of them"):
        compare_runs(runs / "good", runs, num_samples=100)


def test_the_overview_prints_hostile_titles_as_they_are(tmp_path, capsys):
    path = tmp_path / "[bold]x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    evaluate(judge(50), source=path, output=tmp_path / "run", name="[blue]m[/x]", num_samples=100)
    assert main(["leaderboard", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "[bold]x.jsonl" in out and "x]" in out


def test_text_of_others_is_tame_wherever_it_is_shown(tmp_path, capsys):
    evil = "\x1b]0;pwned\x07<img src=x onerror=alert(1)> [click](http://evil)"
    path = tmp_path / "=HYPERLINK(1).jsonl"
    rows = [*ROWS, {"prompt": "p", evil: 1}]
    path.write_text("".join(json.dumps({**row, "subset": evil}) + "\n" for row in rows))
    data = load_benchmark("preference", path, on_bad_row="skip")
    report = evaluate(judge(50), data, output=tmp_path / "run", name=evil, num_samples=100)
    print_report(report.report)
    evaluate(judge(10), data, output=tmp_path / "other", name="scores", num_samples=100)
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "other")]) == 0
    assert main(["leaderboard", str(tmp_path / "run")]) == 0
    assert main(["evaluate", "x", "--data", str(path), "--output", str(tmp_path / "new")]) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\x07" not in shown.out + shown.err
    board = build_leaderboard([tmp_path / "run"], num_samples=100)
    markdown = board.to_markdown()
    assert "<img" not in markdown and "[click]" not in markdown.replace("\\[", "")
    assert all(line.startswith("'=HYPERLINK") for line in board.to_csv().splitlines()[1:])


def test_a_run_is_not_compared_with_itself(runs, capsys):
    folder = next(runs.glob("**/report.json")).parent
    assert main(["compare", str(folder), str(folder)]) == 2
    assert "are the same run" in capsys.readouterr().err


def test_published_scores_of_no_benchmark_here_are_an_error(runs, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text("model,benchmark,score\nx,rewardbench,0.9\n")
    with pytest.raises(ValueError, match="has scores of rewardbench, the runs are of a list"):
        build_leaderboard([runs], path, num_samples=100)
    path.write_text("name,score\nx,1\n")
    with pytest.raises(ValueError, match="it needs model"):
        build_leaderboard([runs], path, num_samples=100)


@pytest.mark.parametrize("text", ["n/a", "nan", "-0.5", "931"])
def test_a_published_score_that_is_no_share_is_an_error_not_a_dropped_row(runs, tmp_path, text):
    path = tmp_path / "published.csv"
    for content in (f"model,benchmark,score\nx,a list,{text}\n", f"model,a list,words\nx,{text},hello\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"x on a list is '{text}'; give a fraction, a percentage, or nothing"):
            build_leaderboard([runs], path, num_samples=100)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("report.json", lambda content: content.pop("metrics")),
        ("report.json", lambda content: content["metrics"].pop("official")),
        ("report.json", lambda content: content["metrics"].update(official=[])),
        ("report.json", lambda content: content.pop("counts")),
        ("items.json", lambda content: content.pop("credits")),
        ("items.json", lambda content: content["groups"].pop()),
        ("items.json", lambda content: content["credits"].update(model=None)),
        ("items.json", None),
    ],
)
@pytest.mark.parametrize("command", ["leaderboard", "compare"])
def test_a_broken_run_gets_one_line_that_names_its_folder(runs, tmp_path, capsys, command, file, change):
    broken = tmp_path / "broken"
    shutil.copytree(runs / "good", broken)
    content = json.loads((broken / file).read_text())
    if change is not None:
        change(content)
    (broken / file).write_text(json.dumps(content) if change is not None else '{"groups": [')
    assert main([command, str(runs / "fair"), str(broken)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(broken) in line and "evaluate it again" in line


def test_a_run_with_many_unscored_comparisons_is_not_tested_against_others(tmp_path, capsys):
    def judges(num_unscored):
        return lambda prompts, completions: [
            None if int(text.split()[1]) < num_unscored else float("right" in text) for text in completions
        ]

    for name, num_unscored in (("whole", 0), ("few", 5), ("many", 30)):
        evaluate(judges(num_unscored), source=ROWS, output=tmp_path / name, name=name, num_samples=100)
    (table,) = build_leaderboard([tmp_path], num_samples=100).tables
    assert {row.name: row.tier for row in table.rows if row.kind == "model"} == {"whole": 1, "few": 1, "many": None}
    tested = {c["a"] + c["b"]: c["p_value"] is not None for c in table.comparisons}
    assert tested == {"wholefew": True, "wholemany": False, "fewmany": False}
    assert main(["compare", str(tmp_path / "whole"), str(tmp_path / "many")]) == 0
    out = capsys.readouterr().out
    assert "differ by 30.0 points, too many comparisons without a score for a test (p = –" in out


def test_compare_says_how_far_two_judges_agree_and_which_pairs_they_judge_differently(tmp_path, capsys):
    rows = [{"prompt": f"q{n}", "chosen": f"right {n}", "rejected": f"wrong {n}", "id": f"i{n}"} for n in range(20)]
    for name, wrong in (("a", {3, 4}), ("b", {4, 5, 6})):

        def scores(prompts, completions, wrong=wrong):
            numbers = [int(text.split()[1]) for text in completions]
            right = ["right" in text for text in completions]
            return [(1 + n) * ((r == (n not in wrong)) - 0.5) for n, r in zip(numbers, right, strict=True)]

        evaluate(scores, source=rows, output=tmp_path / name, name=name, num_samples=100)
    (result,) = compare_runs(tmp_path / "a", tmp_path / "b", num_samples=100)
    found = result["agreement"]
    assert (found["num_pairs"], found["num_different"]) == (20, 3)
    assert found["kappa"] == pytest.approx((0.85 - (0.9 * 0.85 + 0.1 * 0.15)) / (1 - (0.9 * 0.85 + 0.1 * 0.15)))
    assert [one["id"] for one in found["different"]] == ["i6", "i5", "i3"]  # those first that both are sure of
    assert found["different"][0] == {"id": "i6", "better": 0, "worse": 1, "margin_a": 7.0, "margin_b": -7.0}
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "Cohen's κ 0.318; 3 of 20 pairs of a best and another completion are judged" in out
    assert "i6: 0 over 1" in out and "surest of" not in out  # all are shown


def test_compare_names_a_run_whose_scores_are_broken_in_one_line(runs, tmp_path, capsys):
    for name in ("good", "fair"):
        shutil.copytree(runs / name, tmp_path / name)
    (tmp_path / "fair" / "scores.jsonl").write_text('{"id": "0"}\n')
    assert main(["compare", str(tmp_path / "good"), str(tmp_path / "fair")]) == 2
    error = capsys.readouterr().err
    assert (
        str(tmp_path / "fair") in error and "is no whole run (evaluate it again)" in error and error.count("\n") == 1
    )
