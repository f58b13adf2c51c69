"""What every benchmark shares: credits, missing scores, levels, and intervals of official scores."""

import numpy as np
import pytest
from benchmark_schemas import NAN, SCHEMAS, aggregate, pair

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark
from rm_plugin.evaluation.benchmarks.base import cluster_of
from rm_plugin.evaluation.results import SCORE, draw_items

FILE_NAMES = {  # of rows that do not say their subset
    "rm-bench": "chat",
    "rewardbench-with-prior": "anthropic_hhh",
    "plan-rewardbench": "tool_irrelevance",
}


def test_equal_scores_and_missing_scores_are_wrong():
    scored = [(pair("x"), [2.0, 1.0]), (pair("x"), [1.0, 1.0]), (pair("y"), [NAN, 1.0]), (pair("y"), [5.0, NAN])]
    results = aggregate(BENCHMARKS["preference"], scored)
    assert results["score"] == 0.25
    assert results["subsets"]["x"] == {"accuracy": 0.5, "num_items": 2}
    assert results["subsets"]["y"] == {"accuracy": 0.0, "num_items": 2}


def test_scores_that_do_not_fit_the_completions_are_refused():
    with pytest.raises(ValueError, match=r"'x/0' has 2 completions and scores of shape \(3,\)"):
        aggregate(BENCHMARKS["preference"], [(pair("x"), [1.0, 2.0, 3.0])])


def test_a_ranked_list_counts_the_share_of_its_pairs():
    comparison = Comparison("P", ["a", "b", "c"], [0, 1, 1], id="1")
    assert aggregate(BENCHMARKS["preference"], [(comparison, [2.0, 1.0, 3.0])])["score"] == 0.5


def test_a_comparison_without_a_preference_gets_no_credit():
    scored = [(Comparison("P", ["a", "b"], ranks, id="1"), [0.0, 1.0]) for ranks in ([0, 0], None)]
    assert aggregate(BENCHMARKS["preference"], scored)["score"] == 0.0


def test_sections_and_groups_have_levels_and_constants_have_none():
    levels = {
        "preference": {"all": None, "s": "subset"},
        "rewardbench": {"Chat": "section", "Prior Sets (0.5 weight)": "section", "math-prm": "subset"},
        "rewardbench-2": {"Focus": "subset", "Ties": "subset", "Ties/margin": "ties"},
        "rm-bench": {"safety": "domain", "hard": "difficulty", "chat/hard": "domain and difficulty"},
        "judgebench": {"all": None, "micro": None, "macro": None, "math": "category"},
        "ppe-math": {"auc": "metric", "best_of_k": "metric", "random": None, "oracle": None},
        "rmb": {"BoN Helpfulness": "set", "BoN_set/Helpfulness/Chat/A": "scenario"},
        "m-rewardbench": {"deu_Latn": "language", "deu_Latn/math-prm": "language and subset"},
        "llmbar": {"all": None, "micro": None, "adversarial": None, "Natural": "set"},
        "plan-rewardbench": {"safety_refusal": "split"},
        "themis-coderewardbench": {"all": None, "aspect/A": "aspect", "language/C": "language", "source/S": "source"},
        "rewardmath": {"all": None, "MRR": "metric", "pairs": "metric", "Algebra": "subject"},
    }
    for name, expected in levels.items():
        assert {one: BENCHMARKS[name].level(one) for one in expected} == expected
    assert BENCHMARKS["rm-bench"].level("chat/concise>markdown") == "styles"


def interval(benchmark, scored):
    items = benchmark.score_items(scored)
    score = draw_items(benchmark, [items.credits], vars(items), num_samples=2000).estimate(SCORE)
    low, high = score.interval()
    return {"estimate": score.value, "low": low, "high": high, "num_clusters": score.num_clusters}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_official_score_can_be_resampled(name):
    part = FILE_NAMES.get(name)
    data = load_benchmark(name, SCHEMAS[name][1], subset=part)
    rng = np.random.default_rng(0)
    scored = []
    for i in range(40):
        for c in data.comparisons:
            metadata = {**c.metadata, "cluster": f"{c.metadata['cluster']}/{i}"}
            copy = Comparison(c.prompt, c.completions, c.ranks, id=f"{c.id}/{i}", subset=c.subset, metadata=metadata)
            scored.append((copy, rng.normal(size=len(c.completions)) - 0.5 * np.array(c.ranks)))
    found = interval(data.benchmark, scored)
    assert found["estimate"] == pytest.approx(aggregate(data.benchmark, scored)["score"])
    assert found["low"] < found["estimate"] < found["high"]
    assert found["num_clusters"] == len({cluster_of(c) for c, _ in scored})


def test_one_problem_in_six_languages_is_one_draw():
    # 50 problems, each all right or all wrong in six languages: the interval is that of 50 draws, sqrt(.25/50) = .0707
    scored = [
        (
            Comparison("P", chosen="a", rejected="b", id=f"{p}/{s}", subset=s, metadata={"cluster": f"hep:{p}"}),
            [float(p % 2), 0.5],
        )
        for p in range(50)
        for s in ("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust")
    ]
    found = interval(BENCHMARKS["rewardbench"], scored)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.0707, rel=0.1)


def test_what_is_drawn_together_has_one_cluster():
    asks = {
        "hep-python": "Write a Python function `has_close_elements(numbers: List[float], threshold: float) -> bool`",
        "hep-js": "Write a JavaScript function `const hasCloseElements = (numbers, threshold)` ... isNear(1, 2)",
        "hep-java": "Write a Java function `boolean hasCloseElements(List<Double> numbers, double threshold)`",
        "hep-go": "Write a Go function `func HasCloseElements(numbers []float64, threshold float64) bool`",
        "hep-cpp": "Write a C++ function `bool has_close_elements(vector<float> numbers, float threshold)`",
        "hep-rust": "Write a Rust function `has_close_elements(numbers:Vec<f32>, threshold: f32) -> bool`",
    }
    rows = [
        {"prompt": p, "chosen": "a", "rejected": "b", "subset": s, "id": i} for i, (s, p) in enumerate(asks.items())
    ]
    other = {"prompt": "Write `vector<string> separate_paren_groups(string s)`", "chosen": "a", "rejected": "b"}
    rows.append({**other, "subset": "hep-cpp", "id": 99})
    clusters = [c.metadata["cluster"] for c in load_benchmark("rewardbench", rows).comparisons]
    assert clusters == ["hep:hascloseelements"] * 6 + ["hep:separateparengroups"]
    forms = (
        "const addOne = x =>",
        "addOne = function (x)",
        "const addOne = async (x) =>",
        "fn add_one<T>(x: T) -> T",
        "Map<String, Integer> addOne(List<String> x)",
        "async function addOne(x)",
    )
    rows = [{**other, "prompt": f"Write `{form}` (see `f(x)`)", "subset": "hep-rust", "id": form} for form in forms]
    clusters = [c.metadata["cluster"] for c in load_benchmark("rewardbench", rows).comparisons]
    assert clusters == ["hep:addone"] * len(forms)

    ties = load_benchmark("rewardbench-2", SCHEMAS["rewardbench-2"][1]).comparisons
    assert [c.metadata["cluster"] for c in ties[1:]] == ["ties:3", "ties:3"]

    same = [{"prompt": "P", "chosen": "a", "rejected": str(i)} for i in range(2)]
    data = load_benchmark("preference", [*same, {"prompt": "Q", "chosen": "a", "rejected": "b"}])
    first, second, third = (c.metadata["cluster"] for c in data.comparisons)
    assert first == second != third
