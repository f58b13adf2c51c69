"""RMB: the best has to beat all losers, and four sets are averaged."""

from benchmark_schemas import aggregate, pair

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import BENCHMARKS


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
