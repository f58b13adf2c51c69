"""`evaluate.Metric` classes of the preference metrics, offline and combinable. Importing them imports `evaluate`.

PairwiseAccuracy().compute(predictions=[1.5, -0.5, 0.0, 2.0])["accuracy"]     # of margins: 0.625
"""

from __future__ import annotations

from collections.abc import Callable

import datasets
import evaluate
import numpy as np

from .preference import margin_distribution, pairwise_accuracy
from .statistics import finite_array

INPUTS_DESCRIPTION = """
Args:
    predictions (list of float, shape (n,)): reward of the chosen completion of each pair, or the margins themselves.
    references (list of float, shape (n,), optional): reward of the rejected completion of each pair; leave it out
        where predictions are margins. These are rewards, not labels.
"""


class MarginMetric(evaluate.Metric):
    """Collects pairs of rewards; the margin of a pair is prediction − reference, 0 for a reference left out."""

    function: Callable[[np.ndarray], dict]

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("float64")))
        about = {"description": self.function.__doc__, "citation": "", "inputs_description": INPUTS_DESCRIPTION}
        return evaluate.MetricInfo(**about, features=features)

    def add(self, *, prediction=None, reference=None, **kwargs) -> None:
        """Add one pair: the reward of its chosen and of its rejected completion, or its margin alone."""
        super().add(prediction=prediction, reference=0.0 if reference is None else reference, **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Add pairs: the rewards of their chosen and of their rejected completions, or their margins alone."""
        predictions = finite_array(predictions, "predictions", allow_empty=True)
        references = np.zeros_like(predictions) if references is None else references
        references = finite_array(references, "references", allow_empty=True)
        if references.shape != predictions.shape:
            raise ValueError(
                f"{len(predictions)} predictions and {len(references)} references; give one of each per pair"
            )
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references) -> dict:
        return self.function(np.asarray(predictions) - np.asarray(references))


class PairwiseAccuracy(MarginMetric):
    """
    `evaluate.Metric` of [`pairwise_accuracy`]: share of pairs whose chosen completion has the higher reward.

    `compute`, `add_batch` and `add` take `predictions` (n,), rewards of the chosen completions, and `references` (n,),
    rewards of the rejected ones; or margins as `predictions` alone. `compute` returns `accuracy` (a tie counts ½),
    `accuracy_strict`, `tie_rate` and `num_pairs`.

    Example:

    ```python
    PairwiseAccuracy().compute(predictions=[1.5, 0.0], references=[1.0, 0.5])["accuracy"]  # 0.5
    ```
    """

    function = staticmethod(pairwise_accuracy)


class MarginDistribution(MarginMetric):
    """
    `evaluate.Metric` of [`margin_distribution`]: moments, quantiles and histogram of the margins, in reward units.

    It takes what [`PairwiseAccuracy`] takes, and returns what [`margin_distribution`] returns.

    Example:

    ```python
    MarginDistribution().compute(predictions=[1.5, 0.0], references=[1.0, 0.5])["mean"]  # 0.0
    ```
    """

    function = staticmethod(margin_distribution)
