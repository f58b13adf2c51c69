"""Pages and figures: hostile text stays text, one file that loads nothing, light and dark, seen in a real browser."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml

from rm_plugin.evaluation import evaluate
from rm_plugin.evaluation.report import (
    Section,
    accuracy_bars,
    best_of_n_figure,
    learning_curve,
    length_figure,
    loss_curve_figure,
    margin_histogram,
    model_card_section,
    model_index,
    reliability_figure,
    render_page,
    render_report,
    table_html,
    update_model_card,
)
from rm_plugin.metrics.preference import accuracy_by_length_difference

HOSTILE = (
    "</div></details><script>document.title='taken over'</script><img src=x onerror=alert(1)>{{ 7*7 }}"
    "<a href='http://example.com'>&amp; \u202e \x00 \ud800"
)
MARGINS = np.array([-4.0, -0.5, 0.0, 1.0, 2.0, 2.5, 6.0])


@pytest.fixture(scope="module")
def report():
    """A run whose texts, names and subsets are all hostile; the judge likes the worse completion of each third row."""
    rows = [
        {
            "prompt": f"{HOSTILE} {n}",
            "chosen": "a" * (n + 1) + HOSTILE,
            "rejected": "b" * 9 + HOSTILE,
            "subset": HOSTILE[n:],
        }
        for n in range(12)
    ]
    rows = json.loads(json.dumps(rows))  # as they come from a file
    for row in rows:  # a lone surrogate has no place in the fingerprint of the data
        row |= {key: value.replace("\ud800", "") for key, value in row.items()}

    def judge(prompts, completions):
        return [0.3 * len(text) for text in completions]

    return evaluate(judge, source=rows, name=f"evil/{HOSTILE[:40]}", num_samples=200)


# --- figures


def test_the_loss_curve_holds_its_known_values():
    svg = loss_curve_figure()
    for value in ("0.693", "0.313", "0.127", "0.007"):  # at margins 0, 1, 2 and 5
        assert f">{value}<" in svg


@pytest.mark.parametrize(
    "svg",
    [
        margin_histogram(MARGINS),
        reliability_figure(MARGINS),
        loss_curve_figure(),
        learning_curve([1, 2, 3], {"train": [0.5, 0.7, 0.8], "held out": [0.5, 0.6, 0.7]}, reference=0.5),
        length_figure(accuracy_by_length_difference(MARGINS, np.arange(7.0) - 3)),
        accuracy_bars([{"name": "<b>$x$&", "value": 0.5, "low": 0.4, "high": 0.6}, {"name": "y", "value": 1.0}]),
        best_of_n_figure({"n": [1, 2, 4], "value": [0.5, 0.6, 0.7], "low": [0.4] * 3, "high": [0.8] * 3}),
    ],
    ids=["margins", "reliability", "loss", "learning", "length", "bars", "best of n"],
)
def test_a_figure_is_well_formed_labelled_and_takes_the_colours_of_its_page(svg):
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") and root.get("viewBox")
    assert "currentColor" in svg and "var(--" in svg
    assert not re.search(r"#0102\d\d", svg)  # no stand-in colour is left
    assert not re.search(r"fill: #fff|fill: white", svg)  # transparent ground
    assert "<image" not in svg and "<script" not in svg


def test_equal_numbers_give_equal_bytes():
    assert margin_histogram(MARGINS) == margin_histogram(list(MARGINS))


def test_all_margins_equal_or_of_one_pair_still_make_figures():
    for margins in ([0.0], [1.0, 1.0], [-3.0]):
        assert "<svg" in margin_histogram(margins) and "<svg" in reliability_figure(margins)


def test_a_learning_curve_of_other_length_than_its_steps_is_an_error():
    with pytest.raises(ValueError, match="3 steps"):
        learning_curve([1, 2, 3], [0.5])


# --- the page


def test_hostile_text_stays_text(report):
    page = render_report(report)
    assert "<script" not in page and "<img" not in page and "<a " not in page
    assert "&lt;script&gt;document.title=" in page
    assert "{{ 7*7 }}" in page and ">49" not in page
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
        *("Official score", "Pairwise accuracy", "Length-only baseline", "baseline: random", "baseline: constant"),
        *("Histogram of", "Reliability curve", "bins of the difference in length", "Pairwise accuracy by subset"),
        *("calibration error ECE", "Spearman", "The most confident mistakes"),
        *("fingerprint", "unpinned", "transformers", "numpy"),
    ):
        assert text in page, text
    assert page.count("<details") == 8 == len(report.results.mistakes)  # chosen shorter than rejected in 8 rows


def test_sections_are_html_and_everything_else_is_escaped():
    page = render_page("<i>", [Section("<b>", table_html(["<u>"], [["<s>"]]))])
    assert not re.search("<[ibus]>", page)


# --- the model card


def test_the_model_card_section_is_valid_metadata(report):
    text = model_card_section([report.report])
    _, header, body = text.split("---\n", 2)
    (index,) = yaml.safe_load(header)["model-index"]
    (result,) = index["results"]
    assert result["task"]["type"] == "text-classification" and {"name", "type"} <= result["dataset"].keys()
    assert result["metrics"][0] == {
        "type": "accuracy", "name": "Official score", "value": round(100 * report.score, 2)
    }  # fmt: skip
    assert "| Benchmark |" in body and "<script" not in body
    from huggingface_hub import ModelCardData

    ModelCardData(**{"model_name": "m", "eval_results": None})  # the class is there; it checks what follows
    from huggingface_hub.repocard_data import model_index_to_eval_results

    name, results = model_index_to_eval_results([index])
    assert name == index["name"] and len(results) == 2


def test_a_readme_keeps_everything_else(tmp_path, report):
    readme = tmp_path / "README.md"
    readme.write_text("---\nlicense: mit\n---\n\n# My model\n\nWords.\n")
    update_model_card(readme, [report.report])
    once = readme.read_text()
    update_model_card(readme, [report.report])
    assert readme.read_text() == once
    assert once.startswith("---\nlicense: mit\nmodel-index:") and "# My model\n\nWords." in once
    assert once.count("## Evaluation") == 1


def test_a_readme_keeps_the_results_of_others(tmp_path, report):
    ours = model_index([report.report])[0]["results"][0]
    other = {"task": {"type": "text-generation"}, "dataset": {"name": "GSM8K", "type": "gsm8k"}}
    other["metrics"] = [{"type": "accuracy", "name": "Official score", "value": 12.5}]
    mixed = {**ours, "metrics": [{**ours["metrics"][0], "value": 1.0}, {"type": "f1", "name": "F1", "value": 0.5}]}
    old = [{"name": "mine", "results": [other, mixed]}, {"name": "second", "results": [other]}]
    readme = tmp_path / "README.md"
    readme.write_text(f"---\n{yaml.safe_dump({'model-index': old})}---\n\n# My model\n")
    for _ in range(2):  # once more changes nothing
        update_model_card(readme, [report.report])
        mine, second = yaml.safe_load(readme.read_text().split("---\n")[1])["model-index"]
        assert mine["name"] == "mine" and second == old[1]
        assert mine["results"] == [other, {**mixed, "metrics": mixed["metrics"][1:]}, ours]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a: [", "the header is not YAML (while parsing"),
        ("- a", "the header is a list, not `key: value` lines; correct it"),
        ("model-index: words", "model-index has another form than the hub's (TypeError"),
        ("model-index: [{name: x}]", "model-index has another form than the hub's (KeyError: 'results')"),
    ],
)
def test_a_readme_with_a_broken_header_gets_one_line_and_stays(tmp_path, report, header, said):
    readme = tmp_path / "README.md"
    readme.write_text(f"---\n{header}\n---\n\n# My model\n")
    before = readme.read_bytes()
    with pytest.raises(ValueError) as error:
        update_model_card(readme, [report.report])
    assert str(error.value).startswith(f"{readme}: ") and said in str(error.value) and "\n" not in str(error.value)
    assert readme.read_bytes() == before


# --- in a real browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
MEASURE = """<script>
const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
  && e.getBoundingClientRect().right > innerWidth + 1).length;
const seen = [...document.querySelectorAll("figure svg")].every(svg => svg.getBoundingClientRect().height > 50);
document.title = JSON.stringify({title: document.title, width: innerWidth, wide, seen,
  ground: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  axis: getComputedStyle(document.querySelector("figure svg text")).fill});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; `apt-get install chromium` (.ci/run does)")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (500, "dark")])  # headless windows are 500 at least
def test_the_page_opens_in_a_browser(tmp_path, report, width, scheme):
    page = render_report(report)
    path = tmp_path / "report.html"
    # Scripts are forbidden by the page's own policy; this copy lets the measuring one (and any hostile one) run.
    path.write_text(re.sub(r"<meta http-equiv=.*?>", "", page).replace("</body>", MEASURE))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    command += [f"--blink-settings=preferredColorScheme={int(scheme == 'light')}", "--dump-dom", path.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", result.stdout)
    assert found, result.stderr[-1000:]
    import html

    seen = json.loads(html.unescape(found[1]))
    assert seen["title"].startswith("evil/") and "taken over" not in seen["title"]
    assert seen["wide"] == 0 and seen["seen"] and seen["width"] == width
    light = sum(map(int, re.findall(r"\d+", seen["ground"])[:3])) > 3 * 128
    assert light == (scheme == "light")
    assert seen["axis"] == seen["ink"]  # figures take the ink of the page
