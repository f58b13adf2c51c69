"""Preference losses in pure torch: one float32 value per pair, and per group of completions of one prompt.

A reward model gives each completion one scalar. With Δ = r(x, better) − r(x, worse) for two completions of one prompt,

    Bradley-Terry   P(better ≻ worse) = σ(Δ)                                  loss = −log σ(Δ − margin)
    Rao-Kupper      P(a ≻ b) = σ(Δ − η),  P(tie) = (e^{2η} − 1)·σ(Δ − η)·σ(−Δ − η),   η > 0

`comparison_loss` is the one the trainer calls: the loss of a group is the mean over its pairs, the loss of a batch the
mean over groups. For pairs that is TRL's loss; for a full ranking of K completions Ouyang et al.'s 1/C(K, 2) sum.

Shapes: `B` pairs, `N` completions of a batch, `M` pairs of a batch, `G` groups (prompts) of a batch.

Every loss is computed in float32 (float64 for float64 scores) whatever the dtype of the scores.

    >>> bradley_terry_loss(torch.tensor([0.0, 1.0, 2.0, 5.0]), torch.zeros(4))
    tensor([0.6931, 0.3133, 0.1269, 0.0067])
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(
    chosen_B: Tensor, rejected_B: Tensor, margin: Tensor | float | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """
    Negative log-likelihood of the preference under Bradley-Terry, −log σ(Δ − margin) with Δ = chosen − rejected.

    With label smoothing ε the target probability is 1 − ε instead of 1, the loss (1 − ε)·−log σ(x) + ε·−log σ(−x) at
    x = Δ − margin, whose minimum lies at x = log((1 − ε) / ε) instead of at infinity.

    Args:
        chosen_B (`torch.Tensor` of shape `(B,)`):
            Reward of the preferred completion of each pair.
        rejected_B (`torch.Tensor` of shape `(B,)`):
            Reward of the other completion of each pair.
        margin (`torch.Tensor` of shape `(B,)`, `float` or `None`, *optional*):
            Reward difference at which the loss is ln 2, in units of the reward; `None` is 0.
        label_smoothing (`float`, *optional*, defaults to `0.0`):
            Assumed probability ε that a label is wrong, in [0, 0.5).

    Returns:
        `torch.Tensor` of shape `(B,)`, float32: ln 2 = 0.693147 at Δ = margin. Take the mean for a batch.

    Raises:
        `ValueError`: If the shapes differ or are not `(B,)`, or if `label_smoothing` is out of range.

    Source: Bradley & Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; margin: Touvron et al. 2023 (Llama 2,
    arXiv 2307.09288), eq. 2; label smoothing as in cDPO (Mitchell 2023).

    Example:
    ```python
    >>> bradley_terry_loss(torch.tensor([3.0]), torch.tensor([1.0]), margin=torch.tensor([2.0]))
    tensor([0.6931])

    ```
    """
    check_label_smoothing(label_smoothing)
    margins_B = _margins(chosen_B, rejected_B, ("chosen", "rejected"))
    if margin is not None:
        margins_B = margins_B - _like_pairs(margin, margins_B, "margin")
    loss_B = -F.logsigmoid(margins_B)
    if label_smoothing:
        loss_B = (1 - label_smoothing) * loss_B - label_smoothing * F.logsigmoid(-margins_B)
    return loss_B


def rao_kupper_loss(
    scores_a_B: Tensor,
    scores_b_B: Tensor,
    tie_B: Tensor,
    eta: float,
    margin: Tensor | float | None = None,
) -> Tensor:
    """
    Negative log-likelihood under Bradley-Terry with ties: −log P(tie) where `tie_B` is true, else −log P(a ≻ b).

    P(a ≻ b) = σ(Δ − η), P(b ≻ a) = σ(−Δ − η) and P(tie) = (e^{2η} − 1)·σ(Δ − η)·σ(−Δ − η) sum to one. η is the reward
    difference below which the two are hard to distinguish: P(tie) at Δ = 0 is tanh(η/2), so a data set with a fraction
    p of ties among near-equals suggests η = 2·atanh(p). All is done in log space and is finite at Δ = ±10⁴.

    Args:
        scores_a_B (`torch.Tensor` of shape `(B,)`):
            Reward of the preferred completion (of either one, in a tie).
        scores_b_B (`torch.Tensor` of shape `(B,)`):
            Reward of the other completion.
        tie_B (`torch.Tensor` of shape `(B,)`, bool):
            Whether the pair is a tie.
        eta (`float`):
            Tie threshold η > 0, in units of the reward.
        margin (`torch.Tensor` of shape `(B,)`, `float` or `None`, *optional*):
            Subtracted from Δ where the pair is not a tie. A tie has no winner, so its margin is not used.

    Returns:
        `torch.Tensor` of shape `(B,)`, float32.

    Raises:
        `ValueError`: If the shapes differ or are not `(B,)`, `tie_B` is not bool, or η is not one positive number.

    Source: Rao & Kupper 1967, with θ = e^η.

    Example:
    ```python
    >>> a, b = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    >>> rao_kupper_loss(a, b, tie_B=torch.tensor([False, True]), eta=0.5)
    tensor([0.4741, 1.6342])

    ```
    """
    margins_B = _margins(scores_a_B, scores_b_B, ("scores_a", "scores_b"))
    if tie_B.dtype != torch.bool or tie_B.shape != margins_B.shape:
        raise ValueError(
            f"tie_B has dtype {tie_B.dtype} and shape {tuple(tie_B.shape)}, it must be bool and have one value per "
            f"pair, {tuple(margins_B.shape)}"
        )
    check_eta(eta)
    a_wins_B = margins_B - eta
    if margin is not None:
        a_wins_B = a_wins_B - _like_pairs(margin, margins_B, "margin")
    log_expm1 = 2 * eta + math.log(-math.expm1(-2 * eta))  # log(e^{2η} − 1), without overflow
    log_tie_B = log_expm1 + F.logsigmoid(margins_B - eta) + F.logsigmoid(-margins_B - eta)
    return -torch.where(tie_B, log_tie_B, F.logsigmoid(a_wins_B))


def center_rewards_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """
    Penalty (chosen + rejected)² that draws the mean reward of each pair towards zero.

    A preference loss leaves the origin of the reward free; this fixes it. TRL adds its mean times
    `center_rewards_coefficient` to the loss.

    Args:
        chosen_B (`torch.Tensor` of shape `(B,)`):
            Reward of the preferred completion of each pair.
        rejected_B (`torch.Tensor` of shape `(B,)`):
            Reward of the other completion of each pair.

    Returns:
        `torch.Tensor` of shape `(B,)`, float32.

    Raises:
        `ValueError`: If the shapes differ or are not `(B,)`.

    Source: Eisenstein et al. 2023 (arXiv 2312.09244); TRL `RewardTrainer.compute_loss`.

    Example:
    ```python
    >>> center_rewards_loss(torch.tensor([2.0]), torch.tensor([-1.5]))
    tensor([0.2500])

    ```
    """
    _check_pairs(chosen_B, rejected_B, ("chosen", "rejected"))
    return (_upcast(chosen_B) + _upcast(rejected_B)) ** 2


def ranked_pairs(ranks: list[int], ties: bool = False) -> tuple[list[int], list[int], list[bool]]:
    """
    All ordered pairs of a ranked list, as the index lists that `comparison_loss` takes.

    Args:
        ranks (`list[int]` of length K):
            Rank of each completion: smaller is better, equal ranks mean no preference.
        ties (`bool`, *optional*, defaults to `False`):
            Whether pairs of equal rank are listed too, as ties.

    Returns:
        `(better, worse, tie)`: three lists of one length, C(K, 2) for a full ranking. The loss of the group is the
        mean over them, so each pair weighs 1/#pairs.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), eq. 1: all C(K, 2) comparisons of a prompt, equally weighted.

    Example:
    ```python
    >>> ranked_pairs([0, 1, 1])
    ([0, 0], [1, 2], [False, False])
    >>> ranked_pairs([0, 1, 1], ties=True)
    ([0, 0, 1], [1, 2, 2], [False, False, True])

    ```
    """
    better, worse, tie = [], [], []
    for i in range(len(ranks)):
        for j in range(i + 1, len(ranks)):
            if ranks[i] == ranks[j] and not ties:
                continue
            better.append(j if ranks[j] < ranks[i] else i)
            worse.append(i if ranks[j] < ranks[i] else j)
            tie.append(ranks[i] == ranks[j])
    return better, worse, tie


def comparison_loss(
    scores_N: Tensor,
    better_M: Tensor,
    worse_M: Tensor,
    group_M: Tensor,
    num_groups: int,
    *,
    margin_M: Tensor | None = None,
    tie_M: Tensor | None = None,
    eta: float | None = None,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float | None = None,
) -> Tensor:
    """
    The loss of a batch of comparisons, one value per group: the mean over the group's pairs of the loss of a pair.

    A pair's loss is [`bradley_terry_loss`], or [`rao_kupper_loss`] where `eta` is given, plus
    `center_rewards_coefficient` times [`center_rewards_loss`]. A batch of plain pairs (one per group) therefore has
    `.mean()` equal to TRL's `-logsigmoid(chosen - rejected - margin).mean()`; a full ranking of K completions weighs
    each of its pairs 1/C(K, 2), so that a long list does not outweigh a pair.

    Args:
        scores_N (`torch.Tensor` of shape `(N,)`):
            Reward of every completion of the batch, all groups end to end.
        better_M (`torch.Tensor` of shape `(M,)`, int64):
            Index into `scores_N` of the preferred completion of each pair (of either one, in a tie).
        worse_M (`torch.Tensor` of shape `(M,)`, int64):
            Index into `scores_N` of the other completion.
        group_M (`torch.Tensor` of shape `(M,)`, int64):
            Group of each pair, from 0 to `num_groups - 1`, in any order.
        num_groups (`int`):
            Number of groups G.
        margin_M (`torch.Tensor` of shape `(M,)` or `None`, *optional*):
            Margin of each pair, in units of the reward, 0 where there is none.
        tie_M (`torch.Tensor` of shape `(M,)`, bool, or `None`, *optional*):
            Which pairs are ties. Needs `eta`.
        eta (`float` or `None`, *optional*):
            Tie threshold of Rao-Kupper. `None` is Bradley-Terry.
        label_smoothing (`float`, *optional*, defaults to `0.0`):
            See [`bradley_terry_loss`]. Not available with `eta`.
        center_rewards_coefficient (`float` or `None`, *optional*):
            Weight of [`center_rewards_loss`].

    Returns:
        `torch.Tensor` of shape `(G,)`, float32: take the mean for a batch. A group without pairs has loss 0; where
        there are such groups, divide the sum by the number of the others.

    Raises:
        `ValueError`: If the shapes do not fit, or for ties without `eta` or label smoothing with it.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; TRL `RewardTrainer.compute_loss`.

    Example:
    ```python
    >>> scores = torch.tensor([2.0, 0.0, 1.0, 0.0, 0.0])  # a ranked list of three, then a pair
    >>> better, worse = torch.tensor([0, 0, 2, 3]), torch.tensor([1, 2, 1, 4])
    >>> comparison_loss(scores, better, worse, group_M=torch.tensor([0, 0, 0, 1]), num_groups=2)
    tensor([0.2512, 0.6931])

    ```
    """
    if scores_N.dim() != 1:
        raise ValueError(f"scores have shape {tuple(scores_N.shape)}, they must be (N,); use .squeeze(-1) on (N, 1)")
    if not better_M.shape == worse_M.shape == group_M.shape:
        shapes = [tuple(index_M.shape) for index_M in (better_M, worse_M, group_M)]
        raise ValueError(f"better_M, worse_M, group_M have shapes {shapes}, they must have one value per pair, (M,)")
    if tie_M is not None and eta is None:
        raise ValueError("ties are given without eta, Bradley-Terry has no ties; give eta or leave the tied pairs out")
    if eta is not None and label_smoothing:
        raise ValueError(f"label_smoothing={label_smoothing} with eta, Rao-Kupper has none; set label_smoothing=0")
    scores_N = _upcast(scores_N)
    better_scores_M, worse_scores_M = scores_N[better_M], scores_N[worse_M]
    if eta is None:
        loss_M = bradley_terry_loss(better_scores_M, worse_scores_M, margin_M, label_smoothing)
    else:
        tie_M = torch.zeros_like(better_M, dtype=torch.bool) if tie_M is None else tie_M
        loss_M = rao_kupper_loss(better_scores_M, worse_scores_M, tie_M, eta, margin_M)
    if center_rewards_coefficient is not None:
        loss_M = loss_M + center_rewards_coefficient * center_rewards_loss(better_scores_M, worse_scores_M)
    return mean_per_group(loss_M, group_M, num_groups)


def mean_per_group(values_M: Tensor, group_M: Tensor, num_groups: int) -> Tensor:
    """
    Mean of the values of each group, 0 for a group without values.

    Args:
        values_M (`torch.Tensor` of shape `(M,)`):
            One value per pair.
        group_M (`torch.Tensor` of shape `(M,)`, int64):
            Group of each pair, from 0 to `num_groups - 1`, in any order.
        num_groups (`int`):
            Number of groups G.

    Returns:
        `torch.Tensor` of shape `(G,)`.

    Example:
    ```python
    >>> mean_per_group(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), num_groups=3)
    tensor([2., 0., 5.])

    ```
    """
    sums_G = values_M.new_zeros(num_groups).index_add(0, group_M, values_M)
    counts_G = values_M.new_zeros(num_groups).index_add(0, group_M, torch.ones_like(values_M))
    return sums_G / counts_G.clamp(min=1)


def _upcast(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _margins(a_B: Tensor, b_B: Tensor, names: tuple[str, str]) -> Tensor:
    _check_pairs(a_B, b_B, names)
    return _upcast(a_B) - _upcast(b_B)


def _check_pairs(a_B: Tensor, b_B: Tensor, names: tuple[str, str]) -> None:
    if a_B.shape != b_B.shape or a_B.dim() != 1:  # (B,) minus (B, 1) would silently become (B, B)
        raise ValueError(
            f"{names[0]} has shape {tuple(a_B.shape)} and {names[1]} {tuple(b_B.shape)}, both must be (B,); "
            "use .squeeze(-1) on (B, 1)"
        )


def _like_pairs(value: Tensor | float, margins_B: Tensor, name: str) -> Tensor | float:
    if not isinstance(value, Tensor):
        return value
    if value.dim() != 0 and value.shape != margins_B.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, it must have one value per pair, {tuple(margins_B.shape)}"
        )
    return value.to(margins_B)


def check_label_smoothing(label_smoothing: float) -> None:
    """Raise unless ε lies in [0, 0.5)."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={label_smoothing}, it must lie in [0, 0.5); at 0.5 nothing is left to learn"
        )


def check_eta(eta: float) -> None:
    """Raise unless η can be the tie threshold of Rao and Kupper."""
    if not 0 < eta < math.inf:
        raise ValueError(f"eta={eta}, it must be a positive number, such as 0.5")
