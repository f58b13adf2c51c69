"""Pages and plots: hostile text stays text, one file that loads nothing, light and dark, seen in a real browser."""

import html
import json
import re
import shutil
import subprocess

import pytest
import yaml

from rm_plugin.evaluation.benchmarks import load_benchmark
from rm_plugin.evaluation.figures import bradley_terry_curve
from rm_plugin.evaluation.harness import evaluate
from rm_plugin.evaluation.page import Section, Table, render_page
from rm_plugin.evaluation.report import (
    eval_results,
    model_card_section,
    print_report,
    remarks,
    render_report,
    rows,
    update_model_card,
)

HOSTILE = (
    "</div></details><script>document.title='taken over'</script><img src=x onerror=alert(1)>{{ 7*7 }}"
    "<a href='http://example.com'>&amp; \u202e \x00 \ud800"
)


@pytest.fixture(scope="module")
def report():
    """A run whose texts, names and subsets are all hostile; the judge likes the worse completion of each third row."""
    data = [
        {
            "prompt": f"{HOSTILE} {n}",
            "chosen": "a" * (n + 1) + HOSTILE,
            "rejected": "b" * 9 + HOSTILE,
            "subset": HOSTILE[n:],
        }
        for n in range(12)
    ]
    data = json.loads(json.dumps(data))  # as they come from a file
    for row in data:  # the fingerprint of the data cannot hold a lone surrogate
        row |= {key: value.replace("\ud800", "") for key, value in row.items()}

    def judge(prompts, completions):
        return [0.3 * len(text) for text in completions]

    return evaluate(judge, source=data, name=f"evil/{HOSTILE[:40]}", num_samples=200)


# --- the numbers of a report


@pytest.fixture(scope="module")
def small():
    """Ten pairs in two subsets; the judge is right on the first seven and ties on the eighth."""
    data = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(10)]
    data = [{**row, "subset": "even" if n % 2 == 0 else "odd"} for n, row in enumerate(data)]

    def judge(prompts, completions):
        return [
            float((c.split()[0] == "good") == (int(c.split()[1]) < 7)) * (c.split()[1] != "7") for c in completions
        ]

    return evaluate(judge, source=data, name="org/small", num_samples=200)


def test_rows_hold_every_number_once_with_its_name_and_interval(small):
    found = rows(small.report)
    assert found["score"].value == small.score == 0.7 and found["score"].n == 10
    assert found["pairwise"].value == 0.75 and found["pairwise"].text == "75.0"  # the tie counts ½
    assert found["subset/even"].value == 0.8 and found["subset/odd"].n == 5
    assert [key for key in found if key.startswith("baseline/")] == [
        "baseline/random",
        "baseline/length",
        "baseline/constant",
    ]
    assert found["score"].bounds == "[{:.1f}, {:.1f}]".format(*(100 * bound for bound in small.interval))
    assert found["margins/mean"].text == f"{small.metrics['margins']['mean']:.3f}"
    assert found["margins/share_negative"].text == "20.0" and found["margins/mean"].n == 10
    assert found["calibration/nll"].text == f"{small.metrics['calibration']['nll']:.3f}"
    assert found["cross_fitted/nll"].value == small.metrics["calibration"]["cross_fitted"]["nll"]
    assert "ranking/kendall_tau_b" not in found  # pairs are no ranked lists


def test_all_forms_show_the_same_rows(small, capsys):
    print_report(small.report)
    forms = {"terminal": capsys.readouterr().out, "page": render_report(small)}
    for row in rows(small.report).values():
        for form, text in forms.items():
            assert row.name in text and row.text in text and row.bounds in text, (form, row)
    card = model_card_section([small.report])
    for key in ("score", "pairwise", "baseline/length"):
        assert f"| {rows(small.report)[key].text} |" in card


def test_ranked_lists_show_their_correlation_with_its_interval():
    data = [{"prompt": f"q{n}", "completions": ["aaa", "aa", "a"], "ranks": [0, 1, 2]} for n in range(8)]
    for row in data[:2]:
        row["completions"] = ["aa", "aaa", "a"]
    report = evaluate(lambda prompts, completions: [len(text) for text in completions], source=data, num_samples=200)
    found = rows(report.report)["ranking/kendall_tau_b"]
    assert found.value == pytest.approx((6 * 1 + 2 / 3) / 8) and found.n == 8
    low, high = report.metrics["ranking"]["interval"]
    assert found.bounds == f"[{low:.3f}, {high:.3f}]"


# --- the page


def test_hostile_text_stays_text(report):
    page = render_report(report)
    assert "<script" not in page and "<img" not in page and "<a " not in page
    assert "&lt;script&gt;document.title=" in page
    assert "{{ 7*7 }}" in page and "&gt;49" not in page
    assert "\x00" not in page and page.encode()


def test_the_page_is_one_file_that_loads_nothing(report):
    page = render_report(report)
    outside = [url for url in re.findall(r"https?://[^\s\"'<)&]+", page) if "w3.org" not in url]
    assert set(outside) <= {"http://example.com"}  # text of the data, escaped
    assert not re.search(r"(?:src|href)=[\"']?(?!#)", page.replace("xlink:href", "href").split("<h1>")[0])
    assert "default-src 'none'" in page and "url(http" not in page


def test_the_page_suits_light_dark_and_phones(report):
    page = render_report(report)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page and "color-scheme" in page


def test_the_page_shows_everything_that_a_reader_needs(report):
    page = render_report(report)
    for text in (
        *("Score", "Pairwise accuracy", "Length-only baseline", "baseline: random", "baseline: constant"),
        *(
            "Histogram of",
            "share right over confidence",
            "accuracy over chosen longer by",
            "the model is surest of",
            "Pairwise accuracy by subset",
        ),
        *("calibration error ECE", "Spearman", "The most confident mistakes"),
        *("fingerprint", "unpinned", "transformers", "numpy"),
    ):
        assert text in page, text
    assert page.count("<details") == 8 == len(report.results.mistakes)  # chosen shorter than rejected in 8 rows


# --- the model card, and results for the hub


def test_the_model_card_section_is_a_table_in_markdown(report):
    text = model_card_section([report.report])
    assert text.startswith("<!-- rm-plugin evaluation -->\n## Evaluation\n\n| Benchmark | Score, % |")
    assert "<script" not in text and f"| {100 * report.score:.1f} |" in text


@pytest.mark.parametrize(
    "before", ["", "# My model\n\nWords.\n", "---\nlicense: mit\nmodel-index: [{name: x}]\n---\n\n# M\n"]
)
def test_a_readme_keeps_everything_else(tmp_path, report, before):
    readme = tmp_path / "README.md"
    readme.write_text(before)
    assert update_model_card(readme, [report.report]) == [readme]
    once = readme.read_text()
    assert once.startswith(before) and once.count("## Evaluation") == 1
    readme.write_text(once + "\nMore words.\n")
    update_model_card(readme, [report.report])
    assert readme.read_text() == once + "\nMore words.\n"
    update_model_card(tmp_path / "new.md", [report.report])
    assert (tmp_path / "new.md").read_text() == model_card_section([report.report])


@pytest.fixture(scope="module")
def official():
    """JudgeBench's Claude pairs in number, with a judge that is right on 189 of 270."""
    sources = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
    data = [
        {
            "pair_id": f"p{n}",
            "original_id": f"o{n}",
            "source": sources[n % 4],
            "question": f"q{n}",
            "response_model": "m",
        }
        | {"response_A": f"good {n}", "response_B": f"bad {n}", "label": "A>B"}
        for n in range(270)
    ]

    def judge(prompts, completions):
        words = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        return [float(("good" in text) == (int(text.split()[1]) < 189)) for text in words]

    return evaluate(judge, "judgebench-claude", data, name="m", num_samples=200)


def test_a_complete_run_gives_results_in_the_form_of_the_hub(tmp_path, official):
    from huggingface_hub import parse_eval_result_entries

    other = tmp_path / ".eval_results" / "other.yaml"
    other.parent.mkdir()
    other.write_text("- {}\n")
    path = other.with_name("rm-plugin-judgebench-claude.yaml")
    assert update_model_card(tmp_path / "README.md", [official.report]) == [tmp_path / "README.md", path]
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("ScalerLab/JudgeBench", "judgebench-claude", 70.0)
    assert rows(official.report)["score"].bounds in entry.notes and entry.date == official.report["run"]["finished"]
    assert other.read_text() == "- {}\n"


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("benchmark", {"limit": 40}),
        ("benchmark", {"name": "preference"}),
        ("counts", {"num_rows": 40}),
        ("counts", {"num_unscored_comparisons": 1}),
        ("counts", {"num_bad_rows": 1}),
        ("benchmark", {"on_empty": "skip"}),
    ],
)
def test_an_incomplete_run_never_becomes_an_official_result(official, part, change):
    content = {**official.report, "bad_rows": ["row 3: x"]}
    content["counts"] = {**content["counts"], "num_empty": 1}  # kept, which changes nothing
    assert eval_results(content)
    assert eval_results({**content, part: {**content[part], **change}}) == []


def test_a_report_says_whether_comparisons_with_an_empty_reply_were_left_out():
    data = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": "bad" * (n > 0)} for n in range(6)]
    said = {}
    for choice in ("keep", "skip"):
        loaded = load_benchmark("preference", data, on_empty=choice)
        report = evaluate(lambda prompts, completions: map(len, completions), loaded, num_samples=50).report
        assert report["benchmark"]["on_empty"] == choice and report["counts"]["num_empty"] == 1
        said[choice] = [sentence for sentence in remarks(report) if "empty" in sentence]
    assert said == {
        "keep": ["1 comparisons have an empty reply, and count like any other."],
        "skip": ["1 comparisons with an empty reply were left out (on_empty=skip)."],
    }


def test_why_a_text_has_no_score_is_said_only_where_it_is_known():
    data = [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a", "rejected": "c"}]
    report = evaluate(lambda prompts, completions: [None, 1.0, 0.0, 0.0], source=data, num_samples=50)
    page = render_report(report)
    assert "have a text that was not scored; they count as wrong" in page and "over the length limit" not in page


def test_a_large_share_without_scores_stands_before_every_number(capsys):
    data = [{"prompt": f"q{n}", "chosen": "aa", "rejected": "b"} for n in range(20)]
    judge = [None, 1.0] * 3 + [1.0, 0.0] * 17
    report = evaluate(lambda prompts, completions: judge, source=data, name="m", num_samples=50)
    print_report(report.report)
    for form in (
        capsys.readouterr().out,
        render_report(report).split("</style>")[1],
        model_card_section([report.report]),
    ):
        assert "15.0 % not scored" in form and form.index("15.0 % not scored") < form.index("85.0")
        assert "p = " not in form
    assert "without a p-value" in render_report(report)


def test_what_is_not_a_benchmark_has_a_score_and_no_official_one(small):
    assert rows(small.report)["score"].name == "score" and "official score" not in render_report(small).lower()


def test_a_model_without_signal_shows_words_for_its_temperature():
    data = [{"prompt": f"q{n}", "chosen": "a", "rejected": "bb"} for n in range(10)]
    report = evaluate(lambda prompts, completions: [len(text) for text in completions], source=data, num_samples=50)
    assert rows(report.report)["calibration/temperature"].text == "no signal"
    assert "temperature no signal" in render_report(report)


def test_lists_show_top_1_beside_their_pairs_and_whole_ties_beside_tau():
    data = [{"prompt": f"q{n}", "completions": ["aaa", "aa", "a"], "ranks": [0, 1, 2]} for n in range(8)]
    judge = [0.0] * 6 + [3.0, 2.0, 1.0] * 6
    report = evaluate(lambda prompts, completions: judge, source=data, num_samples=200)
    found = rows(report.report)["lists/top_1"]
    assert found.name == "top-1: the best above all others (chance 33.3 %)" and found.text == "75.0" and found.n == 8
    assert "2 of 8 ranked lists tie wholly, and have no Kendall τ_b." in " ".join(remarks(report.report))


def test_the_bias_of_the_report_stands_on_the_page_and_on_the_terminal(small, capsys):
    print_report(small.report)
    length = small.metrics["bias"]["length"]
    for text in (capsys.readouterr().out, render_report(small)):
        assert "Spearman(Δ, difference)" in text and f"({length['num_more']})" in text
    assert "which no preference for the feature can raise above 50" in render_report(small)


def test_the_page_claims_no_intervals_where_there_are_none():
    data = [{"prompt": f"q{n}", "chosen": "a", "rejected": "bb"} for n in range(4)]
    page = render_report(evaluate(lambda prompts, completions: range(len(prompts)), source=data, num_samples=50))
    assert "Of 4 prompts no interval is claimed; it takes 5." in page and "bootstrap samples" not in page


# --- in a real browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
MEASURE = """<script>
const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
  && e.getBoundingClientRect().right > innerWidth + 1).length
  + (document.documentElement.scrollWidth > innerWidth);
const seen = [...document.querySelectorAll("figure svg")].every(svg => svg.getBoundingClientRect().height > 50);
document.title = JSON.stringify({title: document.title, width: innerWidth, wide, seen,
  ground: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  axis: getComputedStyle(document.querySelector("figure svg text")).fill,
  tables: [...document.querySelectorAll(".scroll")].map(e => { e.scrollLeft = 9999;
    return [e.scrollLeft, e.querySelector("td").getBoundingClientRect().left]; })});
</script></body>"""


needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; `apt-get install chromium` (.ci/run does)"
)


def seen_in_a_browser(folder, page, width, scheme):
    """What the measuring script sees of a page."""
    path = folder / "page.html"
    # Scripts are forbidden by the page's own policy; this copy lets the measuring one (and any hostile one) run.
    path.write_text(re.sub(r"<meta http-equiv=.*?>", "", page).replace("</body>", MEASURE))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    command += [f"--blink-settings=preferredColorScheme={int(scheme == 'light')}", "--dump-dom", path.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", result.stdout)
    assert found, result.stderr[-1000:]
    return json.loads(html.unescape(found[1]))


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (500, "dark")])  # headless windows are 500 at least
def test_the_page_opens_in_a_browser(tmp_path, report, width, scheme):
    seen = seen_in_a_browser(tmp_path, render_report(report), width, scheme)
    assert seen["title"].startswith("evil/") and "taken over" not in seen["title"]
    assert seen["wide"] == 0 and seen["seen"] and seen["width"] == width
    light = sum(map(int, re.findall(r"\d+", seen["ground"])[:3])) > 3 * 128
    assert light == (scheme == "light")
    assert seen["axis"] == seen["ink"]  # plots take the ink of the page


@needs_browser
def test_a_wide_table_scrolls_by_itself_and_keeps_its_first_column(tmp_path):
    wide = Table(["model", *(f"section {k}" for k in range(40))], [["x" * 20, *["62.3"] * 40], ["y", *["1.0"] * 40]])
    section = Section(
        "w" * 300, paragraphs=[("v" * 300, "warning")], tables=[wide], plots=[(bradley_terry_curve(), "")]
    )
    seen = seen_in_a_browser(tmp_path, render_page("t" * 300, [section]), 500, "light")
    ((scrolled, first_column),) = seen["tables"]
    assert seen["wide"] == 0 and scrolled > 500 and 0 <= first_column < 30
