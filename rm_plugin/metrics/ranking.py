"""Order: rank correlations, and what the best of n samples is worth.

>>> kendall_tau_b(scores=[3.0, 2.0, 1.0], ranks=[0, 1, 2]), round(best_of_n_kl_bound(4), 3)
(1.0, 0.636)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from ..messages import check_at_least
from .statistics import finite_array


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """
    Spearman's rank correlation, equal values sharing their mean rank.

    Args:
        a (array of shape `(n,)`), b (array of shape `(n,)`): values that belong together.

    Returns:
        `float`, or `None` where one side is constant or there are fewer than three values.

    Source: Spearman 1904.

    Example:
    ```python
    >>> spearman([1.0, 2.0, 3.0, 9.0], [2.0, 4.0, 8.0, 16.0])
    1.0

    ```
    """
    a, b = finite_array(a, "a"), finite_array(b, "b")
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    from scipy.stats import spearmanr  # takes a second to import

    return float(spearmanr(a, b).statistic)


def spearman_terms(a: ArrayLike, b: ArrayLike) -> np.ndarray | None:
    """
    One term per item, whose mean is Spearman's rank correlation and whose spread says how sure it is.

    A correlation of ranks is no mean of items, since every item moves the ranks of the others. A term is the
    correlation plus the item's influence on it, so that a bootstrap may draw the terms instead of ranking again.

    Args:
        a (array of shape `(n,)`), b (array of shape `(n,)`): values that belong together.

    Returns:
        `np.ndarray` (n,), or `None` where `spearman` is not defined.

    Source: Croux & Dehon 2010 (influence function of Spearman's correlation), with mean ranks for equal values.

    Example:
    ```python
    >>> a, b = [1.0, 2.0, 3.0, 9.0], [2.0, 8.0, 4.0, 16.0]
    >>> round(float(spearman_terms(a, b).mean()), 6), round(spearman(a, b), 6)
    (0.8, 0.8)

    ```
    """
    a, b = finite_array(a, "a"), finite_array(b, "b")
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    # u = F(a) − ½ and v = G(b) − ½, where F counts equal values half; mean_above(x, w) is the mean over all items j of
    # w_j where x_j is above x_i (half where equal): what item i adds to the F of the others.
    u, v = (_mean_above(-x, np.ones(len(x))) - 0.5 for x in (a, b))
    cov, var_u, var_v = np.mean(u * v), np.mean(u**2), np.mean(v**2)
    of_cov = u * v + _mean_above(a, v) + _mean_above(b, u) - 3 * cov
    of_u, of_v = (w**2 + 2 * _mean_above(x, w) - 3 * var for x, w, var in ((a, u, var_u), (b, v, var_v)))
    return (cov + of_cov - cov / 2 * (of_u / var_u + of_v / var_v)) / math.sqrt(var_u * var_v)


def _mean_above(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    _, positions = np.unique(x, return_inverse=True)
    sums = np.bincount(positions, weights=weights)
    return ((sums.sum() - np.cumsum(sums) + sums / 2) / len(x))[positions]


def kendall_tau_b(scores: ArrayLike, ranks: ArrayLike) -> float | None:
    """
    Kendall's τ_b of the scores of one ranked list against its ranks: 1 for the same order, −1 for the reverse.

    Args:
        scores (array of shape `(K,)`):
            Reward of each completion of one prompt, larger is better.
        ranks (array of shape `(K,)`):
            Rank of each completion, smaller is better; equal ranks are ties.

    Returns:
        `float`, or `None` where all scores or all ranks are equal. For a data set, take the mean over its prompts.

    Source: Kendall 1945: (concordant − discordant) / √((pairs − ties in scores)·(pairs − ties in ranks)).

    Example:
    ```python
    >>> kendall_tau_b(scores=[3.0, 1.0, 2.0, 0.0], ranks=[0, 1, 2, 3])  # 5 pairs in order, 1 not
    0.6666666666666666

    ```
    """
    # By hand: scipy.stats.kendalltau takes 0.6 ms per list, most of it for a p-value, and data sets have 10,000 lists.
    scores, ranks = finite_array(scores, "scores"), finite_array(ranks, "ranks")
    if scores.shape != ranks.shape:
        raise ValueError(f"{len(scores)} scores and {len(ranks)} ranks, each completion has one of both")
    first, second = _pairs(len(scores))
    score_order = np.sign(scores[first] - scores[second])
    rank_order = np.sign(ranks[second] - ranks[first])
    untied = np.count_nonzero(score_order) * np.count_nonzero(rank_order)
    return float(score_order @ rank_order / math.sqrt(untied)) if untied else None


def best_of_n_kl_bound(n: int) -> float:
    """
    Upper bound in nats of KL(best-of-n policy ‖ policy): ln n − (n − 1)/n.

    Args:
        n (`int`):
            Number of samples of which the best is taken.

    Returns:
        `float`: exact for a continuous policy without ties of the proxy score, else a bound.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3; as a bound, Beirami et al. 2024 (arXiv 2401.01879).

    Example:
    ```python
    >>> round(best_of_n_kl_bound(4), 6)
    0.636294

    ```
    """
    check_at_least(1, n=n)
    return math.log(n) - (n - 1) / n


def best_of_n_curve(
    proxy_scores: Sequence[ArrayLike], gold_values: Sequence[ArrayLike], ns: Sequence[int | None] | None = None
) -> dict[str, list]:
    """
    Expected gold value of the best of n samples by the proxy score, for every n, from N ≥ n samples per prompt.

    The estimate is unbiased: it is the mean over all C(N, n) subsets of the samples. Where i ranks the proxy scores
    ascending, sample i is the best of C(i − 1, n − 1) of them, so it weighs C(i − 1, n − 1)/C(N, n). Samples of equal
    proxy score share their weights equally. The samples must be independent and of one policy.

    Args:
        proxy_scores (sequence of arrays of shape `(N,)`, or array of shape `(P, N)`):
            Reward of every sample, one row per prompt. Rows may differ in length.
        gold_values (of the same shapes):
            What the samples are worth: correctness, or the score of a better model.
        ns (sequence of `int` or `None`, *optional*):
            The values of n, where `None` stands for all samples of each prompt; left out, 1, 2, 4, … up to the length
            N of the shortest row, and N.

    Returns:
        `dict` of lists: `n`, `value` (mean over prompts of the expected gold value), `kl_bound`
        ([`best_of_n_kl_bound`]) and `per_prompt` (for each n, one value per prompt, for a bootstrap).

    Raises:
        `ValueError`: If shapes differ, a value is not finite, or an n exceeds the number of samples.

    Source: Nakano et al. 2021 (WebGPT, arXiv 2112.09332), appendix I; Chen et al. 2021 (arXiv 2107.03374), eq. 1.

    Example:
    ```python
    >>> curve = best_of_n_curve(proxy_scores=[[0.1, 0.2, 0.3]], gold_values=[[0.0, 1.0, 0.0]], ns=[1, 2, 3])
    >>> [round(value, 6) for value in curve["value"]]
    [0.333333, 0.333333, 0.0]

    ```
    """
    rows = [
        (finite_array(proxy, "proxy_scores"), finite_array(gold, "gold_values"))
        for proxy, gold in zip(proxy_scores, gold_values, strict=True)
    ]
    if not rows:
        raise ValueError("there are no prompts, a best-of-n curve needs at least one")
    for index, (proxy, gold) in enumerate(rows):
        if proxy.shape != gold.shape:
            raise ValueError(
                f"prompt {index} has {len(proxy)} proxy scores and {len(gold)} gold values, give one each"
            )
    most = min(len(proxy) for proxy, _ in rows)
    if ns is None:
        ns = sorted({2**k for k in range(most.bit_length())} | {most})
    if any(n is not None and not 1 <= n <= most for n in ns):
        raise ValueError(f"ns={list(ns)}, each must lie between 1 and the fewest samples of a prompt, {most}")
    sorted_gold = [_gold_by_proxy(proxy, gold) for proxy, gold in rows]
    per_prompt = [[float(_best_of_n_weights(len(gold), n or len(gold)) @ gold) for gold in sorted_gold] for n in ns]
    ns = [int(n or max(map(len, sorted_gold))) for n in ns]
    return {
        "n": ns,
        "value": [float(np.mean(values)) for values in per_prompt],
        "kl_bound": [best_of_n_kl_bound(n) for n in ns],
        "per_prompt": per_prompt,
    }


def _gold_by_proxy(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Gold values in ascending order of the proxy score, each replaced by the mean over its equals in proxy score."""
    _, positions, counts = np.unique(proxy, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(positions, weights=gold) / counts, counts)


@lru_cache(maxsize=64)
def _pairs(num_items: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(num_items, k=1)


@lru_cache(maxsize=1024)
def _best_of_n_weights(num_samples: int, n: int) -> np.ndarray:
    """C(i − 1, n − 1) / C(N, n) for i = 1 … N, in log space: C(1000, 500) has 300 digits."""
    i = np.arange(n, num_samples + 1)
    log_choose = gammaln(i) - gammaln(n) - gammaln(i - n + 1)
    log_total = gammaln(num_samples + 1) - gammaln(n + 1) - gammaln(num_samples - n + 1)
    return np.concatenate([np.zeros(n - 1), np.exp(log_choose - log_total)])
