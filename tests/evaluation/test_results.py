"""evaluation/results.py: what is counted, how often the bootstrap is drawn, and what a report says of it."""

import json

import numpy as np
import pytest

from rm_plugin.evaluation.benchmarks import load_benchmark
from rm_plugin.evaluation.results import SCORE, draw_items, measure
from rm_plugin.metrics import statistics
from rm_plugin.metrics.statistics import Bootstrap

RANKED = [
    {"prompt": f"p{n}", "completions": ["a" * k for k in (1, 2, 3)], "ranks": [0, 1, 2], "subset": "xy"[n % 2]}
    for n in range(40)
]


def noisy(data, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=len(c.completions)) - 0.7 * np.array(c.ranks) for c in data.comparisons]


def test_the_bootstrap_is_drawn_once_over_items_once_over_pairs_and_once_for_the_bias(monkeypatch):
    drawn = []
    init = Bootstrap.__init__
    monkeypatch.setattr(Bootstrap, "__init__", lambda self, *a, **k: init(self, *a, **k) or drawn.append(self))
    data = load_benchmark("preference", RANKED)
    metrics = measure(data, noisy(data), num_samples=500).metrics
    found = [(draw.values_Mn.shape[0], draw.num_samples) for draw in drawn]
    assert found == [(4, 500), (1, 500), (1, 2000)]  # the model with its baselines; pairs; the bias
    assert metrics["ranking"]["interval"][0] < metrics["ranking"]["kendall_tau_b"] < metrics["ranking"]["interval"][1]
    assert metrics["bootstrap"] == {"confidence": 0.95, "num_samples": 500, "seed": 0}


def test_scores_that_do_not_fit_or_say_nothing_are_refused():
    data = load_benchmark("preference", RANKED)
    for scores, said in (
        (noisy(data)[1:], "39 arrays of scores for 40 comparisons; give one per comparison"),
        ([np.full(3, np.inf), *noisy(data)[1:]], "a score is infinite; scores are finite, or NaN"),
        ([np.full(3, np.nan)] * 40, "none of the 40 comparisons is scored"),
    ):
        with pytest.raises(ValueError, match=said):
            measure(data, scores)


def test_lists_that_tie_wholly_are_counted_beside_those_without_scores():
    data = load_benchmark("preference", RANKED)
    scores = [np.zeros(3), np.full(3, np.nan), *noisy(data)[2:]]
    ranking = measure(data, scores, num_samples=100).metrics["ranking"]
    assert (ranking["num_comparisons"], ranking["num_left_out"], ranking["num_tied"]) == (38, 2, 1)


def test_what_is_read_from_a_shared_draw_is_what_each_interval_alone_would_be():
    data = load_benchmark("preference", RANKED)
    scores = noisy(data)
    found = measure(data, scores)
    items, clusters = found.items, np.array(found.items["clusters"])
    for group in ("all", "x", "y"):
        inside = np.array(items["groups"]) == group
        alone = Bootstrap(np.array(items["credits"]["model"])[inside], clusters=list(clusters[inside]))
        expected = pytest.approx(tuple(alone.estimate().interval()), abs=0.02)
        interval = found.metrics["official"]["subsets"][group]["interval"]
        assert tuple(interval) == expected
        pairwise = found.metrics["pairwise"] if group == "all" else found.metrics["subsets"][group]
        assert tuple(pairwise["interval"]) == expected  # an item is the share of the pairs of one comparison
    inside = np.array(items["groups"]) == "all"
    a, b = (np.array(items["credits"][name])[inside] for name in ("model", "length"))
    alone = Bootstrap([a, b], clusters=list(clusters[inside])).compare()
    shared = found.baselines["length"]["model_minus_baseline"]
    assert shared["difference"] == pytest.approx(alone["difference"])
    assert (shared["low"], shared["high"]) == pytest.approx((alone["low"], alone["high"]), abs=0.01)


def test_the_report_says_how_many_samples_were_drawn_where_prompts_are_many(monkeypatch):
    monkeypatch.setattr(statistics, "MANY_CLUSTERS", 39)
    data = load_benchmark("preference", RANKED)
    assert measure(data, noisy(data)).metrics["bootstrap"]["num_samples"] == 2000
    assert measure(data, noisy(data), num_samples=100).metrics["bootstrap"]["num_samples"] == 100


@pytest.mark.parametrize("name", ["llmbar", "rmb"])
def test_a_comparison_that_stands_in_two_groups_is_counted_once(name):
    if name == "llmbar":
        rows = [{"input": f"q{n}", "output_1": "a", "output_2": "b", "label": 1} for n in range(20)]
        data = load_benchmark("llmbar", rows, subset="Natural")
    else:
        rows = [
            {
                "conversation_input": [{"role": "user", "content": f"q{n}"}],
                "category_path": f"Pairwise_set/{goal}/{scenario}",
                "pair_uid": f"{goal}{n}",
                "chosen": {"answer": "a"},
                "reject": {"answer": "b"},
            }
            for goal, scenario in (("Helpfulness", "Chat"), ("Harmlessness", "S1"))
            for n in range(10)
        ]
        data = load_benchmark("rmb", rows)
    found = measure(data, noisy(data), num_samples=200)
    assert found.metrics["official"]["num_items"] == found.counts["num_comparisons"] == 20
    items = found.items
    credits = [items["credits"]["model"], items["credits"]["length"]]
    draw = draw_items(data.benchmark, credits, items, num_samples=200)
    compared = draw.compare(SCORE)
    assert compared["num_items"] == 20 and compared["a_better"] + compared["b_better"] <= 20


def test_lists_with_one_best_show_top_1_and_mrr_with_their_chance():
    rows = [{"prompt": f"p{n}", "completions": ["a", "b", "c", "d"], "ranks": [1, 0, 1, 1]} for n in range(8)]
    data = load_benchmark("preference", rows)
    first, second, tied, last = [0, 3, 1, 2], [3, 2, 1, 0], [1, 1, 0, 0], [1, 0, 2, 3]
    scores = [np.array(one, float) for one in (first, first, second, tied, last, last, last)] + [np.full(4, np.nan)]
    lists = measure(data, scores, num_samples=200).metrics["lists"]
    assert lists["top_1"] == 2 / 8 and lists["top_1_chance"] == 0.25  # a tie for the best is not above the others
    assert lists["mrr"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 2 + 4 * 1 / 4) / 8)  # what is not scored ranks last
    assert lists["mrr_chance"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert lists["top_1_interval"][0] <= 0.25 <= lists["top_1_interval"][1] and lists["num_comparisons"] == 8


def test_pairs_and_lists_with_several_best_have_no_top_1():
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    rows += [{"prompt": "q", "completions": ["a", "b", "c"], "ranks": [0, 0, 1]}]
    data = load_benchmark("preference", rows)
    assert measure(data, [np.arange(2.0), np.arange(3.0)], num_samples=10).metrics["lists"] is None


@pytest.mark.parametrize(
    ("model", "top_1", "pairs"),
    [("internlm2", 37.27, 76.0), ("grm_gemma", 4.97, 45.7), ("skywork_llama3", 22.15, 71.5)],
)
def test_published_rewardmath_scores_give_the_published_top_1_and_not_only_their_pairs(
    shared_data, model, top_1, pairs
):
    lines = json.loads((shared_data / "rewardmath_scores" / f"{model}_reward.json").read_text())
    texts = ["a" * (k + 1) for k in range(10)]
    rows = [
        {"prompt": f"{n}: {line['problem']}", "completions": texts, "ranks": [0] + [1] * 9}
        for n, line in enumerate(lines)
    ]
    found = measure(load_benchmark("preference", rows), [np.array(line["score"]) for line in lines], num_samples=50)
    lists = found.metrics["lists"]
    assert round(100 * lists["top_1"], 2) == top_1 and lists["top_1_chance"] == pytest.approx(0.1)
    assert round(100 * found.metrics["pairwise"]["accuracy"], 1) == pairs


def test_data_of_which_nothing_is_scored_have_no_score():
    data = load_benchmark("preference", RANKED)
    with pytest.raises(ValueError, match="none of the 40 comparisons is scored: each has a text whose score is null"):
        measure(data, [np.array([1.0, 2.0, np.nan])] * 40)


def test_a_large_share_without_scores_takes_the_p_values_away():
    data = load_benchmark("preference", RANKED)
    for num_unscored, has_p_value in ((2, True), (3, False)):
        scores = [np.full(3, np.nan)] * num_unscored + noisy(data)[num_unscored:]
        baselines = measure(data, scores, num_samples=100).baselines
        found = [one["model_minus_baseline"]["p_value"] is not None for one in baselines.values()]
        assert found == [has_p_value] * 3, num_unscored  # 5 % of 40 are 2


def test_the_length_part_of_the_bias_is_that_of_the_pairs():
    data = load_benchmark("preference", RANKED)
    metrics = measure(data, noisy(data), num_samples=100).metrics
    assert metrics["bias"]["length"]["num_less"] == metrics["pairwise"]["num_pairs"] == 120  # the better is shorter
    assert metrics["bias"]["length"]["accuracy_less"] == pytest.approx(metrics["pairwise"]["accuracy"])


def test_coverage_ends_with_all_pairs_and_margins_stand_by_subset():
    data = load_benchmark("preference", RANKED)
    metrics = measure(data, noisy(data), num_samples=100).metrics
    shares = [point["coverage"] for point in metrics["coverage"]]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert metrics["coverage"][-1]["accuracy"] == metrics["pairwise"]["accuracy"]
    assert metrics["coverage"][0]["accuracy"] > metrics["coverage"][-1]["accuracy"]
    parts = [metrics["subsets"][name]["margins"]["mean"] for name in "xy"]
    assert np.mean(parts) == pytest.approx(metrics["margins"]["mean"])


def test_as_many_mistakes_are_listed_as_asked_for_the_most_confident_first():
    data = load_benchmark("preference", RANKED)
    scores = noisy(data)
    for number in (0, 3, 1000):
        mistakes = measure(data, scores, num_samples=50, num_mistakes=number).mistakes
        margins = [one["difference"] for one in mistakes]
        assert len(mistakes) <= number and margins == sorted(margins) and all(margin < 0 for margin in margins)
    assert 10 < len(mistakes) == len({one["id"] for one in mistakes})
    with pytest.raises(ValueError, match="num_mistakes=-1"):
        measure(data, scores, num_mistakes=-1)
