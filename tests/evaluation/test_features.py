"""What a report says of the features that a judge may follow instead of the content."""

import numpy as np
import pytest

from rm_plugin.evaluation.benchmarks import load_benchmark
from rm_plugin.evaluation.results import measure


def biased(rows, seed=0):
    """Scores that follow the length in part and are noise beside it."""
    rng = np.random.default_rng(seed)
    return [
        np.array([len(text) for text in row["completions"]]) / 40 + rng.normal(size=len(row["completions"]))
        for row in rows
    ]


def test_a_report_has_a_bias_of_every_feature_that_differs():
    rng = np.random.default_rng(1)
    texts = [
        "I'm sorry, I can't help with that.",
        "- one\n- **two**\n- three",
        "ha ha ha ha ha ha ha ha",
        "Plain words.",
    ]
    rows = []
    for n in range(120):
        order = rng.permutation(4)[:2]
        rows.append({"prompt": f"q{n}", "completions": [texts[k] for k in order], "ranks": [int(rng.integers(2))] * 2})
        rows[-1]["ranks"][1] = 1 - rows[-1]["ranks"][0]
    bias = measure(load_benchmark("preference", rows), biased(rows), num_samples=200).metrics["bias"]
    assert list(bias) == ["length", "markdown", "refusal", "repetition", "listed first"]
    assert bias["length"]["spearman"] > 0.1 and bias["length"]["spearman_interval"][0] > 0
    low, high = bias["listed first"]["spearman_interval"]
    assert low < 0 < high  # it is blind to the order
    one = bias["refusal"]
    assert one["num_equal"] + one["num_more"] + one["num_less"] == 120 and one["num_more"] > 10
    assert one["controlled_accuracy"] == pytest.approx((one["accuracy_more"] + one["accuracy_less"]) / 2)


def test_what_tells_nothing_is_no_bias():
    rows = [{"prompt": f"q{n}", "chosen": "a" * (1 + n % 5), "rejected": "bbb"} for n in range(20)]
    data = load_benchmark("preference", rows)
    found = measure(data, [np.array([1.0, n % 2]) for n in range(20)], num_samples=100).metrics["bias"]
    assert list(found) == ["length"]  # the chosen is always listed first, and neither has marks, refusals, repetitions
