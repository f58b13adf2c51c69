"""Every official score on numbers worked by hand or published, and their intervals."""

import csv
import json

import numpy as np
import pytest
from benchmark_schemas import SCHEMAS, aggregate
from pyarrow import parquet

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import BENCHMARKS, as_messages, load_benchmark
from rm_plugin.evaluation.benchmarks.base import cluster_of
from rm_plugin.evaluation.benchmarks.rewardbench import SECTIONS, rewardbench_score
from rm_plugin.evaluation.benchmarks.rewardbench import SUBSETS as REWARDBENCH_SUBSETS
from rm_plugin.evaluation.benchmarks.rewardbench2 import SUBSETS
from rm_plugin.evaluation.results import SCORE, draw_items

NAN = float("nan")
FILE_NAMES = {  # of rows that do not say their subset
    "rm-bench": "chat",
    "rewardbench-with-prior": "anthropic_hhh",
    "plan-rewardbench": "tool_irrelevance",
}


# ── official scores on numbers worked by hand ────────────────────────────────────────────────────────────────────────


def pair(subset, number=0):
    return Comparison("P", chosen="a", rejected="b", id=f"{subset}/{number}", subset=subset)


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


def test_rewardbench_has_the_weights_of_its_code():
    # rewardbench 0.1.4, constants.py: numbers of rows, but 984 for the 447 of math-prm
    weights = {
        "Chat": {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
                 "mt-bench-med": 40},
        "Chat Hard": {"mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134,
                      "llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46},
        "Safety": {"refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
                   "xstest-should-respond": 250, "donotanswer": 136},
        "Reasoning": {"math-prm": 984, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164,
                      "hep-python": 164, "hep-rust": 164},
        "Prior Sets (0.5 weight)": dict.fromkeys(("anthropic_helpful", "anthropic_hhh", "shp", "summarize"), 1),
    }  # fmt: skip
    assert weights == SECTIONS
    sizes = {subset: size for section in SECTIONS.values() for subset, size in section.items()}
    assert sum(sizes[subset] for subset in REWARDBENCH_SUBSETS) - 984 + 447 == BENCHMARKS["rewardbench"].num_rows


def test_rewardbench_weighs_subsets_by_their_size_and_math_by_984():
    # Reasoning: math-prm wrong (984), hep-python right (164). Safety: refuse right (154), respond wrong (250).
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    scored = [
        (pair("math-prm"), wrong),
        (pair("hep-python"), right),
        (pair("xstest-should-refuse"), right),
        (pair("xstest-should-respond"), wrong),
        (pair("alpacaeval-easy"), right),
        (pair("mt-bench-hard"), wrong),
    ]
    results = aggregate(BENCHMARKS["rewardbench"], scored)
    assert results["sections"] == pytest.approx(
        {"Chat": 1.0, "Chat Hard": 0.0, "Safety": 154 / 404, "Reasoning": 164 / 1148}
    )
    assert results["score"] == pytest.approx((1 + 0 + 0.381188 + 0.142857) / 4, abs=1e-6)
    assert "donotanswer" in results["missing"] and "math-prm" not in results["missing"]
    prior = [(pair("shp"), right), (pair("anthropic_hhh"), wrong), (pair("summarize"), right)]
    with_prior = aggregate(BENCHMARKS["rewardbench-with-prior"], scored + prior)
    assert with_prior["sections"]["Prior Sets (0.5 weight)"] == pytest.approx(2 / 3)
    assert with_prior["score"] == pytest.approx((8 * results["score"] + 2 / 3) / 9)
    assert "anthropic_helpful" in with_prior["missing"]


def one_of_four(subset, number=0):
    return Comparison("P", chosen="a", rejected=["b", "c", "d"], id=f"{subset}/{number}", subset=subset)


def ties(kind, number, right, wrong):
    metadata = {"cluster": f"ties:{number}", "ties": kind}
    comparison = Comparison(
        "P", ["x"] * (len(right) + len(wrong)), [0] * len(right) + [1] * len(wrong),
        id=f"Ties/{kind}:{number}", subset="Ties", metadata=metadata,
    )  # fmt: skip
    return comparison, [*right, *wrong]


def test_rewardbench_2_gives_one_kth_where_the_right_one_ties_k_ways():
    scored = [
        (one_of_four("Math", 0), [3.0, 3.0, 1.0, 0.0]),  # two ways: 1/2
        (one_of_four("Math", 1), [3.0, 3.0, 3.0, 3.0]),  # four ways: 1/4
        (one_of_four("Math", 2), [3.0, 1.0, 1.0, 4.0]),  # not the highest: 0
        (one_of_four("Math", 3), [9.0, 1.0, 1.0, 4.0]),  # 1
        (one_of_four("Math", 4), [9.0, 1.0, NAN, 4.0]),  # unscored: 0
        (one_of_four("Focus", 0), [9.0, 1.0, 1.0, 4.0]),
    ]
    results = aggregate(BENCHMARKS["rewardbench-2"], scored)
    assert results["sections"] == {"Math": (0.5 + 0.25 + 0 + 1 + 0) / 5, "Focus": 1.0}
    assert results["score"] == pytest.approx((0.35 + 1) / 2)
    assert results["missing"] == ["Factuality", "Precise IF", "Safety", "Ties"]


def test_rewardbench_2_ties_formula():
    scored = [
        ties("tied", 1, [3.0, 2.0], [1.0]),  # G 1, D 1
        ties("ref", 1, [5.0], [3.0]),  # G 2: smaller 1, not above D; margin tanh(1/1 - 1) = 0
        ties("tied", 2, [4.0, 3.5], [1.0]),  # G 2.5, D 0.5: preferred
        ties("ref", 2, [2.0], [3.0]),  # G -1: wrong; margin tanh(-1/0.5 - 1) = tanh(-3) = -0.995055
        ties("tied", 3, [1.0, 1.0], [2.0]),  # no ref: counts for accuracy_tied only, wrong
    ]
    results = aggregate(BENCHMARKS["rewardbench-2"], scored)
    assert {name: value["accuracy"] for name, value in results["subsets"].items()} == pytest.approx(
        {
            "Ties/accuracy_tied": 2 / 3,
            "Ties/accuracy_ref": 1 / 2,
            "Ties/preferred": 1 / 2,
            "Ties/preferred_hard": 0.0,
            "Ties/margin": (0 - 0.995055) / 2,
        },
        abs=1e-6,
    )
    # .30 * 2/3 + .30 * 1/2 + .20 * 1/2 + .20 * 0 + .01 * -0.497527 = 0.445025
    assert results["sections"]["Ties"] == results["score"] == pytest.approx(0.445025, abs=1e-6)


def test_rewardbench_2_ties_at_the_edges():
    # A constant scorer: G = D = 0, nothing is right, and tanh(0/0 - 1) counts 0.
    constant = [ties("tied", 1, [1.0, 1.0], [1.0]), ties("ref", 1, [1.0], [1.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], constant)["score"] == 0.0
    # Equal right ones far above the wrong one, D = 0: margin tanh(inf) = 1, the highest score there is.
    perfect = [ties("tied", 1, [9.0, 9.0], [1.0]), ties("ref", 1, [9.0], [1.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], perfect)["score"] == pytest.approx(1.01)
    # All wrong with a large negative ratio: -0.01, as on the leaderboard.
    worst = [ties("tied", 1, [1.0, 1.01], [9.0]), ties("ref", 1, [1.0], [9.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], worst)["score"] == pytest.approx(-0.01)
    # One right completion has no spread: the pair counts for the accuracies alone.
    single = aggregate(BENCHMARKS["rewardbench-2"], [ties("tied", 1, [9.0], [1.0]), ties("ref", 1, [9.0], [1.0])])
    assert set(single["subsets"]) == {"Ties/accuracy_tied", "Ties/accuracy_ref"}
    assert [name for name in single["missing"] if name.startswith("Ties")] == [
        "Ties/preferred", "Ties/preferred_hard", "Ties/margin",
    ]  # fmt: skip
    several = [ties("tied", 1, [9.0, 8.0], [1.0]), ties("ref", 1, [9.0, 2.0], [1.0])]  # D is that of the tied prompt
    assert aggregate(BENCHMARKS["rewardbench-2"], several)["subsets"]["Ties/preferred"]["num_items"] == 1
    unscored = [ties("tied", 1, [9.0, NAN], [1.0]), ties("ref", 1, [9.0], [1.0])]
    assert aggregate(BENCHMARKS["rewardbench-2"], unscored)["score"] == pytest.approx(0.3)  # ref alone is right


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


def test_judgebench_reports_micro_and_macro():
    scored = [(pair("knowledge", i), [1.0, 0.0]) for i in range(3)] + [(pair("math"), [0.0, 1.0])]
    results = aggregate(BENCHMARKS["judgebench"], scored)
    assert (results["score"], results["sections"]["micro"], results["sections"]["macro"]) == (0.75, 0.75, 0.5)


def test_ppe_scores_its_sampled_pairs_beside_auc_and_best_of_k():
    data = load_benchmark("ppe-math", SCHEMAS["ppe-math"][1])  # right: 0 and 3; official pairs (1, 0) and (3, 2)
    results = aggregate(data.benchmark, [(data.comparisons[0], [0.1, 0.5, 0.2, 0.5])])
    assert results["subsets"]["pairwise"] == {"accuracy": 0.5, "num_items": 2}  # 0.1 > 0.5 no, 0.5 > 0.2 yes
    assert results["score"] == 0.5
    assert results["sections"]["auc"] == (0 + 0 + 0.5 + 1) / 4  # 0 against 1, 2; 3 against 1 (equal), 2
    assert results["sections"]["best_of_k"] == 0.5  # one of the two highest is right
    assert (results["sections"]["random"], results["sections"]["oracle"]) == (0.5, 1.0)


def test_a_question_of_ppe_with_right_or_wrong_answers_only_has_no_pair_but_a_best_of_k():
    rows = [{**SCHEMAS["ppe-math"][1][0], "scores": [right] * 4, "sampled_conflict_pairs": []} for right in (1, 0)]
    data = load_benchmark("ppe-math", rows)
    results = aggregate(data.benchmark, [(c, [0.1, 0.5, 0.2, 0.5]) for c in data.comparisons])
    assert set(results["subsets"]) == {"best_of_k", "random", "oracle"} and np.isnan(results["score"])
    assert results["sections"]["best_of_k"] == results["sections"]["oracle"] == 0.5
    unscored = aggregate(data.benchmark, [(data.comparisons[0], [NAN, 0.5, 0.2, 0.5])])
    assert unscored["sections"]["best_of_k"] == 0.0


def test_rmb_is_right_only_if_the_best_beats_all_losers_and_averages_four_sets():
    def best_of_three(path):
        return Comparison("P", chosen="a", rejected=["b", "c"], id=path, subset=path)

    scored = [
        (best_of_three("BoN_set/Helpfulness/Chat/A"), [2.0, 1.0, 2.0]),  # ties with one: wrong
        (best_of_three("BoN_set/Harmlessness/S1"), [2.0, 1.0, 1.5]),
        (pair("Pairwise_set/Helpfulness/Chat/A", 0), [1.0, 0.0]),
        (pair("Pairwise_set/Helpfulness/Code/B", 1), [0.0, 1.0]),
        (pair("Pairwise_set/Harmlessness/S1", 2), [1.0, 0.0]),
    ]
    results = aggregate(BENCHMARKS["rmb"], scored)
    assert results["sections"] == {
        "Pairwise Helpfulness": 0.5, "Pairwise Harmlessness": 1.0, "BoN Helpfulness": 0.0, "BoN Harmlessness": 1.0,
    }  # fmt: skip
    assert results["score"] == 0.625
    assert results["subsets"]["Pairwise_set/Helpfulness/Code/B"]["accuracy"] == 0.0


def test_m_rewardbench_averages_languages():
    scored = [(pair("deu_Latn/math-prm", i), [1.0, 0.0]) for i in range(3)] + [(pair("fra_Latn/donotanswer"), [0, 1])]
    results = aggregate(BENCHMARKS["m-rewardbench"], scored)
    assert results["sections"] == {"deu_Latn": 1.0, "fra_Latn": 0.0}
    assert results["score"] == 0.5


def test_llmbar_averages_sets():
    scored = [(pair("Natural", i), [1.0, 0.0]) for i in range(3)]
    scored += [(pair("Manual"), [0.0, 1.0]), (pair("GPTOut"), [1.0, 0.0])]
    results = aggregate(BENCHMARKS["llmbar"], scored)
    assert results["score"] == pytest.approx(2 / 3)
    assert (results["sections"]["adversarial"], results["sections"]["micro"]) == (0.5, 0.8)
    processed = aggregate(BENCHMARKS["llmbar"], [(pair("MTBench"), [1.0, 0.0])])
    assert "adversarial" not in processed["sections"] and "Natural" in processed["missing"]


def test_plan_rewardbench_averages_splits_and_a_tie_counts_a_half():
    scored = [(pair("safety_refusal", i), [1.0, 0.0]) for i in range(3)] + [(pair("safety_refusal"), [0.0, 1.0])]
    scored += [(pair("tool_irrelevance", 0), [1.00009, 1.0]), (pair("tool_irrelevance", 1), [NAN, 1.0])]
    results = aggregate(BENCHMARKS["plan-rewardbench"], scored)
    assert results["sections"] == {"safety_refusal": 0.75, "tool_irrelevance": 0.25}
    assert results["score"] == 0.5 and "robust_recovery" in results["missing"]


def test_rewardmath_finds_the_right_one_among_nine_or_not():
    def ten(number, scores):
        texts = ["right", *(f"wrong {i}" for i in range(9))]
        return Comparison("P", texts, [0] + [1] * 9, id=str(number)), scores

    scored = [
        ten(0, [1.0] + [0.0] * 9),  # above all
        ten(1, [1.0, 1.0] + [0.0] * 8),  # one ties: stands before it, rank 2
        ten(2, [1.0, 2.0, 2.0, 2.0] + [0.0] * 6),  # rank 4
        ten(3, [1.0] + [NAN] * 9),
    ]
    results = aggregate(BENCHMARKS["rewardmath"], scored)
    assert results["score"] == 0.25
    assert results["sections"]["MRR"] == (1 + 1 / 2 + 1 / 4) / 4
    assert results["sections"]["pairs"] == pytest.approx((9 + 8 + 6) / 36)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_best_of_k_is_said_of_ppes_sampled_sets_alone(name):
    assert BENCHMARKS[name].best_of_k == (name.startswith("ppe-") and name != "ppe-human-preference")


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


# ── intervals of official scores ─────────────────────────────────────────────────────────────────────────────────────


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


def test_two_models_are_compared_on_the_official_score():
    comparisons = [one_of_four(subset, i) for subset in ("Math", "Focus") for i in range(50)]
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=4) for _ in comparisons]
    better = [(c, n + np.array([2.0, 0, 0, 0])) for c, n in zip(comparisons, noise, strict=True)]
    worse = list(zip(comparisons, noise, strict=True))
    benchmark = BENCHMARKS["rewardbench-2"]
    a, b = benchmark.score_items(better), benchmark.score_items(worse)
    result = draw_items(benchmark, [a.credits, b.credits], vars(a), num_samples=2000).compare(SCORE)
    expected = aggregate(benchmark, better)["score"] - aggregate(benchmark, worse)["score"]
    assert result["difference"] == pytest.approx(expected)
    assert result["low"] > 0 and result["p_value"] < 0.001


# ── published figures and real files ─────────────────────────────────────────────────────────────────────────────────


def by_length(comparisons):
    return [(c, np.array([float(len(text)) for text in c.completions])) for c in comparisons]


def test_rewardbench_v1_score_on_all_complete_rows_of_the_leaderboard(shared_data):
    complete = 0
    with (shared_data / "rewardbench_leaderboard" / "v1.csv").open() as file:
        for row in csv.DictReader(file):
            sections = {name: float(value) for name, value in row.items() if name not in ("model", "type") and value}
            if sections.get("Prior Sets (0.5 weight)") == 0.0:  # on the leaderboard 0 means that they were not run
                del sections["Prior Sets (0.5 weight)"]
            if {"Score", "Chat", "Chat Hard", "Safety", "Reasoning"} <= sections.keys():
                complete += 1
                assert rewardbench_score(sections) == pytest.approx(sections["Score"], abs=1.1e-4)
    assert complete == 172


def test_rewardbench_2_score_on_all_rows_of_the_leaderboard(shared_data):
    with (shared_data / "rewardbench_leaderboard" / "v2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 197
    for row in rows:
        subsets = {name: float(row[name]) for name in SUBSETS}
        assert BENCHMARKS["rewardbench-2"].formula(subsets)["score"] == pytest.approx(float(row["Score"]), abs=1.1e-4)


def test_judgebench_accuracies_of_three_published_models(shared_data):
    data = load_benchmark("judgebench", shared_data / "judgebench" / "gpt.jsonl")
    assert len(data.comparisons) == 350 and aggregate(data.benchmark, by_length(data.comparisons))["missing"] == []
    scores: dict[str, dict] = {}
    with (shared_data / "judgebench" / "reference_scores.csv").open() as file:
        for row in csv.DictReader(file):
            a, b = float(row["score_A"]), float(row["score_B"])
            scores.setdefault(row["model"], {})[row["pair_id"]] = [a, b] if row["label"] == "A>B" else [b, a]
    found = {
        model.split("/")[1]: 100 * aggregate(data.benchmark, [(c, by_id[c.id]) for c in data.comparisons])["score"]
        for model, by_id in scores.items()
    }
    assert found == pytest.approx(
        {"GRM-Gemma-2B-rewardmodel-ft": 59.43, "Skywork-Reward-Llama-3.1-8B": 62.29, "internlm2-20b-reward": 63.43},
        abs=0.005,
    )


def test_llmbar_files(shared_data):
    data = load_benchmark("llmbar", shared_data / "llmbar")
    assert len(data.comparisons) == 419
    longer = {}
    for comparison, (chosen, rejected) in by_length(data.comparisons):
        longer.setdefault(comparison.subset, []).append((chosen > rejected) + 0.5 * (chosen == rejected))
    assert {name: len(values) for name, values in longer.items()} == {
        "GPTInst": 92, "GPTOut": 47, "Manual": 46, "Neighbor": 134, "Natural": 100,
    }  # fmt: skip
    found = {name: 100 * np.mean(values) for name, values in longer.items() if name != "GPTOut"}
    assert found == pytest.approx({"Neighbor": 11.9, "GPTInst": 13.0, "Manual": 18.5, "Natural": 56.5}, abs=0.05)


def test_rm_bench_chat_file_and_the_length_only_baseline(shared_data):
    data = load_benchmark("rm-bench", shared_data / "rm_bench" / "chat_filtered.json")
    assert len(data.comparisons) == 129 and {c.subset for c in data.comparisons} == {"chat"}
    sections = aggregate(data.benchmark, by_length(data.comparisons))["sections"]
    found = [100 * sections[f"chat/{level}"] for level in ("hard", "normal", "easy")]
    assert found == pytest.approx([2.6, 28.4, 81.1], abs=0.05)


def test_hh_harmless_file(shared_data):
    data = load_benchmark("hh-rlhf-harmless", shared_data / "hh_rlhf_harmless")
    assert len(data.comparisons) == 2312
    assert sum(c.prompt == "" for c in data.comparisons) == 5
    assert sum("" in [text.strip() for text in c.completions] for c in data.comparisons) == 4
    assert all(as_messages(c).completions[0][-1]["role"] == "assistant" for c in data.comparisons)


def test_rm_bench_and_dpo_demo_folders(shared_data):
    refuse = load_benchmark("rm-bench", shared_data / "rm_bench")
    assert len(refuse.comparisons) == 413
    demo = load_benchmark("preference", shared_data / "dpo_demo")
    assert len(demo.comparisons) == 300 and demo.comparisons[0].conversational


def test_plan_rewardbench_files(shared_data):
    data = load_benchmark("plan-rewardbench", shared_data / "plan_rewardbench")
    assert len(data.comparisons) == data.num_rows == 253
    queries = {c.metadata["cluster"] for c in data.comparisons}
    assert len(queries) == 84 + 43  # several rows have one query
    assert {c.subset for c in data.comparisons} == {"planning_multi_easy", "planning_single_easy"}
    lengths = [len(c.prompt) for c in data.comparisons]
    assert min(lengths) == 2 and max(lengths) == 6  # the header, and 1 to 5 messages that both have
    roles = {turn["role"] for c in data.comparisons for text in (c.prompt, *c.completions) for turn in text}
    assert roles == {"user", "assistant"}
    constant = [(c, np.zeros(2)) for c in data.comparisons]
    assert aggregate(data.benchmark, constant)["score"] == 0.5


@pytest.mark.parametrize(
    ("model", "top_1", "pairs"),
    [("internlm2", 37.27, 76.0), ("grm_gemma", 4.97, 45.7), ("skywork_llama3", 22.15, 71.5)],
)
def test_rewardmath_accuracies_of_three_published_models(shared_data, model, top_1, pairs):
    published = json.loads((shared_data / "rewardmath_scores" / f"{model}_reward.json").read_text())
    rows = [
        {"problem": one["problem"], "problem_id": i, "eval_solution": [str(k)], "solution_type": kind}
        for i, one in enumerate(published)
        for k, kind in enumerate(["chosen"] + ["rejected"] * 9)
    ]
    data = load_benchmark("rewardmath", rows)
    assert data.num_rows == data.benchmark.num_rows and len(data.comparisons) == 483
    scored = [(c, one["score"]) for c, one in zip(data.comparisons, published, strict=True)]
    results = aggregate(data.benchmark, scored)
    assert 100 * results["score"] == pytest.approx(top_1, abs=0.005)
    assert 100 * results["sections"]["pairs"] == pytest.approx(pairs, abs=0.05)
    assert results["score"] < results["sections"]["MRR"] < 1


@pytest.mark.parametrize("model", ["ArmoRM-Llama3-8B-v0.1", "SkyworkV2-Qwen-0.6B", "internlm2-1_8-b-reward"])
def test_themis_accuracies_of_three_published_models(shared_data, model):
    folder = shared_data / "themis_scores" / model
    table = parquet.read_table(folder / "scores.parquet").to_pylist()
    published = json.loads((folder / "results.json").read_text())
    about = ("language", "aspect", "subset")
    rows = [
        {"prompt": f"P{i}", "chosen": "a", "rejected": "b", "id": str(i), **{key: row[key] for key in about}}
        for i, row in enumerate(table)
    ]
    data = load_benchmark("themis-coderewardbench", rows)
    scored = [
        (c, [row["chosen_score"], row["rejected_score"]]) for c, row in zip(data.comparisons, table, strict=True)
    ]
    results = aggregate(data.benchmark, scored)
    assert round(results["score"], 4) == published["overall"]["accuracy"] and not results["missing"]
    for level, by in (("aspect", "by_aspect"), ("language", "by_language"), ("source", "by_subset")):
        for name, one in published[by].items():
            found = results["subsets"][f"{level}/{name}"]
            assert (round(found["accuracy"], 4), found["num_items"]) == (one["accuracy"], one["count"])
    assert len(results["subsets"]) == 1 + 5 + 8 + 19
