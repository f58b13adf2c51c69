"""PPE: sampled pairs beside AUC and best-of-k, worked by hand."""

import numpy as np
import pytest
from benchmark_schemas import NAN, SCHEMAS, aggregate

from rm_plugin.evaluation.benchmarks import BENCHMARKS, load_benchmark


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


@pytest.mark.parametrize("name", BENCHMARKS)
def test_best_of_k_is_said_of_ppes_sampled_sets_alone(name):
    assert BENCHMARKS[name].best_of_k == (name.startswith("ppe-") and name != "ppe-human-preference")
