"""The leaderboard and its neighbours as a browser lays them out, on a desk and on a phone: nothing but wide tables
scrolls, and names stay in sight.

Needs chromium on the PATH, and skips where it is not there. RM_PLUGIN_SCREENSHOTS=FOLDER keeps pictures to look at.
"""

import json
import os
import random
import re
import shutil
import subprocess

import pytest

from rm_plugin.evaluation.harness import evaluate
from rm_plugin.evaluation.leaderboard import build_leaderboard, compare_runs, comparisons_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]

# Pages forbid scripts, and headless windows are 500 pixels wide at least: so another page holds them in a frame and
# writes down what it sees there.
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="PAGE" style="border:0;width:WIDTHpx;height:2000px"></iframe><pre id="found"></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach(one => { one.open = true; });
  const tables = [...page.querySelectorAll(".scroll")].map(box => {
    const cell = box.querySelector("tbody td"), before = cell.getBoundingClientRect().left;
    box.scrollLeft = 120;
    return {wide: box.scrollWidth > box.clientWidth, moved: box.scrollLeft,
            name: cell.getBoundingClientRect().left - before,
            widest: Math.max(...[...box.querySelectorAll("td:first-child")].map(td => td.offsetWidth))};
  });
  const root = page.documentElement;
  document.getElementById("found").textContent = JSON.stringify({page: root.scrollWidth, tables,
    links: page.querySelectorAll("td a").length});
};
</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A leaderboard of three models on two benchmarks, one with many scenarios, and a comparison."""
    folder, rng = tmp_path_factory.mktemp("pages"), random.Random(0)
    pairs = [{"prompt": f"q{i}", "chosen": f"right {i}", "rejected": f"wrong {i}"} for i in range(40)]
    paths = [f"Pairwise_set/Helpfulness/{goal}/Scenario {i}" for goal in ("Chat", "Code") for i in range(20)]
    scenarios = [
        {
            "pair_uid": path,
            "conversation_input": [{"role": "user", "content": path}],
            "chosen": {"answer": "right"},
            "reject": {"answer": "wrong"},
            "category_path": path,
        }
        for path in paths
    ]
    names = ("Skywork/Skywork-Reward-V2-Llama-3.1-8B-40M-with-a-long-name", "org/" + "unbroken" * 6, "me/small")
    for number, name in enumerate(names):

        def judge(prompts, completions, share=0.9 - 0.2 * number):
            return [float(("right" in str(text)) == (rng.random() < share)) for text in completions]

        for benchmark, data in (("preference", pairs), ("rmb", scenarios)):
            evaluate(judge, benchmark, data, output=folder / str(number) / benchmark, name=name, num_samples=100)
    board, comparison = folder / "board.html", folder / "comparison.html"
    board.write_text(build_leaderboard([folder], num_samples=100).to_html(board))
    comparison.write_text(comparisons_page(compare_runs(folder / "0", folder / "2", num_samples=100)))
    return {"leaderboard": board, "compare": comparison, "report": folder / "0" / "rmb" / "report.html"}


def measured(page, width, folder):
    """What the browser says of a page of this width."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("PAGE", page.as_uri()).replace("WIDTH", str(width)))
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    if pictures := os.environ.get("RM_PLUGIN_SCREENSHOTS"):
        picture = [f"--screenshot={pictures}/{page.stem}_{width}.png", f"--window-size={max(width, 500)},2000"]
        subprocess.run([*command, *picture, frame.as_uri()], capture_output=True, timeout=120)
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1])


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["leaderboard", "compare", "report"])
def test_a_page_fits_and_only_wide_tables_scroll_beside_their_names(pages, name, width, tmp_path):
    found = measured(pages[name], width, tmp_path)
    assert found["page"] <= width  # the page itself never scrolls sideways
    for table in found["tables"]:
        assert table["wide"] == (table["moved"] > 0)
        assert abs(table["name"]) < 1  # the first column stays where it was
        assert table["widest"] <= 0.55 * width
    if name == "leaderboard":
        assert found["links"] == 12  # a report for each of three models on two benchmarks, in the overview and beside
        assert width > 390 or any(table["wide"] for table in found["tables"])
