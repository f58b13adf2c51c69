"""RM-Bench: its matrix, levels and domains worked by hand, published files."""

import pytest
from benchmark_schemas import NAN, aggregate, by_length, write

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark


def styles(domain, number=0):
    return Comparison("P", chosen=["a"] * 3, rejected=["b"] * 3, id=f"{domain}/{number}", subset=domain)


def test_rm_bench_matrix_and_its_three_levels():
    scored = [
        (styles("chat", 0), [1.0, 2.0, 3.0, 0.0, 2.5, 4.0]),
        (styles("chat", 1), [5.0, 5.0, 5.0, 5.0, 1.0, 1.0]),  # equal is wrong
    ]
    cells = [one["accuracy"] for one in aggregate(BENCHMARKS["rm-bench"], scored)["subsets"].values()]
    assert cells == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5]  # by rows: the style of the chosen
    sections = aggregate(BENCHMARKS["rm-bench"], scored)["sections"]
    assert (sections["chat/hard"], sections["chat/normal"]) == (0.5, 0.5)
    assert sections["chat/easy"] == pytest.approx(2 / 3)
    assert sections["chat"] == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)


def test_rm_bench_averages_four_domains_and_pools_the_halves_of_safety():
    right, wrong = [1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3
    scored = [(styles("chat"), right), (styles("safety-refuse"), right)]
    scored += [(styles("safety-response", i), wrong) for i in range(3)]
    results = aggregate(BENCHMARKS["rm-bench"], scored)
    assert (results["sections"]["chat"], results["sections"]["safety"]) == (1.0, 0.25)  # 1 of 4, not (1 + 0)/2
    assert results["score"] == 0.625
    assert results["missing"] == ["code", "math"]
    unscored = aggregate(BENCHMARKS["rm-bench"], [(styles("chat"), [9.0, 9.0, 9.0, 0.0, 0.0, NAN])])
    assert unscored["score"] == 0.0


def test_rm_bench_chat_file_and_the_length_only_baseline(shared_data):
    data = load_benchmark("rm-bench", shared_data / "rm_bench" / "chat_filtered.json")
    assert len(data.comparisons) == 129 and {c.subset for c in data.comparisons} == {"chat"}
    sections = aggregate(data.benchmark, by_length(data.comparisons))["sections"]
    found = [100 * sections[f"chat/{level}"] for level in ("hard", "normal", "easy")]
    assert found == pytest.approx([2.6, 28.4, 81.1], abs=0.05)


def test_rm_bench_and_dpo_demo_folders(shared_data):
    refuse = load_benchmark("rm-bench", shared_data / "rm_bench")
    assert len(refuse.comparisons) == 413
    demo = load_benchmark("preference", shared_data / "dpo_demo")
    assert len(demo.comparisons) == 300 and demo.comparisons[0].conversational


def test_rm_bench_domain_comes_from_the_row_the_argument_or_the_file(tmp_path):
    row = {"id": 1, "prompt": "P", "chosen": ["a"] * 3, "rejected": ["b"] * 3}
    file = write(tmp_path / "mine.json", [row])
    assert load_benchmark("rm-bench", file, subset="code").comparisons[0].subset == "code"
    assert load_benchmark("rm-bench", [{**row, "domain": "math"}]).comparisons[0].subset == "math"
