"""The `evaluate.Metric` classes give what their functions give, offline, from margins or from two rewards."""

import pickle

import numpy as np
import pytest

import rm_plugin
from rm_plugin.metrics.preference import margin_distribution


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """`evaluate` with its cache in a folder of the test, and nothing to reach over the network."""
    module = pytest.importorskip("evaluate")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a metric used the network"))
    return module


def test_metric_classes_compute_from_margins_or_from_two_rewards(evaluate):
    expected = {"accuracy": 0.625, "accuracy_strict": 0.5, "tie_rate": 0.25, "num_pairs": 4}
    assert rm_plugin.PairwiseAccuracy().compute(predictions=[1.5, -0.5, 0.0, 2.0]) == expected
    chosen, rejected = [2.5, 0.0, 1.0, 1.0], [1.0, 0.5, 1.0, -1.0]
    assert rm_plugin.PairwiseAccuracy().compute(predictions=chosen, references=rejected) == expected
    distribution = rm_plugin.MarginDistribution().compute(predictions=chosen, references=rejected)
    assert distribution == margin_distribution([1.5, -0.5, 0.0, 2.0])


def test_metric_classes_collect_batches(evaluate):
    import torch

    metric = rm_plugin.PairwiseAccuracy()
    metric.add_batch(predictions=torch.tensor([1.0, 2.0], dtype=torch.bfloat16), references=np.array([0.0, 5.0]))
    metric.add_batch(predictions=np.zeros(0))  # a process without pairs
    metric.add(prediction=1.0)
    metric.add(prediction=1.0, reference=1.0)
    assert metric.compute() == {"accuracy": 0.625, "accuracy_strict": 0.5, "tie_rate": 0.25, "num_pairs": 4}
    assert metric.compute(predictions=[-1.0])["num_pairs"] == 1  # nothing is left over


def test_metric_classes_combine(evaluate):
    both = evaluate.combine([rm_plugin.PairwiseAccuracy(), rm_plugin.MarginDistribution()])
    both.add_batch(predictions=[1.0, 2.0], references=[0.0, 5.0])
    result = both.compute()
    assert result["accuracy"] == 0.5 and result["mean"] == -1.0
    assert result["pairwise_accuracy_num_pairs"] == result["margin_distribution_num_pairs"] == 2
    assert both.compute(predictions=[3.0])["q50"] == 3.0


def test_metric_classes_refuse_what_the_functions_refuse(evaluate):
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        rm_plugin.PairwiseAccuracy().compute(predictions=[1.0, float("nan")])
    with pytest.raises(ValueError, match="empty"):
        rm_plugin.PairwiseAccuracy().compute(predictions=[])
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        rm_plugin.PairwiseAccuracy().compute(predictions=[1.0], references=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"predictions has shape \(2, 2\)"):
        rm_plugin.PairwiseAccuracy().compute(predictions=[[1.0, 2.0], [3.0, 4.0]])


def test_metric_classes_are_classes_of_this_module(evaluate):
    assert issubclass(rm_plugin.PairwiseAccuracy, evaluate.Metric)
    assert pickle.loads(pickle.dumps(rm_plugin.PairwiseAccuracy)) is rm_plugin.PairwiseAccuracy
