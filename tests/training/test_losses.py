"""losses.py: values and gradients worked by hand, extremes, and parity with TRL's own `compute_loss`."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from rm_plugin.training.losses import (
    bradley_terry_loss,
    center_rewards_loss,
    comparison_loss,
    mean_per_group,
    ranked_pairs,
    rao_kupper_loss,
)


def tensor(*values, **kwargs):
    return torch.tensor(values, **kwargs)


# --- Bradley-Terry


def test_bradley_terry_has_its_known_values():
    loss = bradley_terry_loss(tensor(0.0, 1.0, 2.0, 5.0), torch.zeros(4))
    assert loss.tolist() == pytest.approx([0.693147, 0.313262, 0.126928, 0.006715], abs=1e-6)


def test_bradley_terry_gradient_is_minus_the_probability_of_being_wrong():
    chosen, rejected = tensor(0.0, 1.0, requires_grad=True), tensor(0.0, 0.0, requires_grad=True)
    bradley_terry_loss(chosen, rejected).sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5, -0.268941], abs=1e-6)  # −σ(−Δ)
    assert rejected.grad.tolist() == pytest.approx([0.5, 0.268941], abs=1e-6)


def test_bradley_terry_is_finite_and_exact_at_extreme_rewards():
    chosen = tensor(1e4, -1e4, requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(2))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 10000.0]
    assert chosen.grad.tolist() == [0.0, -1.0]


def test_margin_moves_the_point_where_the_loss_is_ln_2():
    loss = bradley_terry_loss(tensor(3.0, 1.0), tensor(1.0, 0.0), margin=tensor(2.0, 0.0))
    assert loss.tolist() == pytest.approx([0.693147, 0.313262], abs=1e-6)
    assert bradley_terry_loss(tensor(3.0), tensor(1.0), margin=1.0).item() == pytest.approx(0.313262, abs=1e-6)


def test_label_smoothing_is_the_cross_entropy_with_a_softened_label():
    # −0.9·log σ(2) − 0.1·log σ(−2) = 0.126928 + 0.1·2
    assert bradley_terry_loss(tensor(2.0), tensor(0.0), label_smoothing=0.1).item() == pytest.approx(
        0.326928, abs=1e-6
    )


def test_label_smoothing_has_its_minimum_at_the_log_odds_of_the_label():
    chosen = tensor(math.log(9.0), requires_grad=True)  # log((1 − 0.1) / 0.1)
    bradley_terry_loss(chosen, tensor(0.0), label_smoothing=0.1).sum().backward()
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_label_smoothing_counts_from_the_margin():
    smoothed = bradley_terry_loss(tensor(3.0), tensor(0.0), margin=tensor(1.0), label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(0.326928, abs=1e-6)


@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5, 1.0, float("nan")])
def test_label_smoothing_out_of_range_is_refused(label_smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing=.*\[0, 0\.5\)"):
        bradley_terry_loss(tensor(1.0), tensor(0.0), label_smoothing=label_smoothing)


def test_bfloat16_scores_are_subtracted_in_float32():
    # Both are exact in bf16, their difference 255.5 is not (bf16 spacing at 256 is 2)
    loss = bradley_terry_loss(tensor(-256.0, dtype=torch.bfloat16), tensor(-0.5, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.item() == 255.5


def test_float64_scores_stay_float64():
    assert (
        bradley_terry_loss(tensor(1.0, dtype=torch.float64), tensor(0.0, dtype=torch.float64)).dtype == torch.float64
    )


@pytest.mark.parametrize("shape", [(4, 1), (1,), (), (3,)])
@pytest.mark.parametrize("loss", [bradley_terry_loss, center_rewards_loss])
def test_shapes_that_would_broadcast_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"chosen has shape \(4,\) and rejected .* both must be \(B,\)"):
        loss(torch.zeros(4), torch.zeros(shape))


def test_a_column_of_rewards_is_refused_even_when_both_are_columns():
    with pytest.raises(ValueError, match=r"squeeze\(-1\)"):
        bradley_terry_loss(torch.zeros(4, 1), torch.zeros(4, 1))


def test_a_margin_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"margin has shape \(4, 1\)"):
        bradley_terry_loss(torch.zeros(4), torch.zeros(4), margin=torch.zeros(4, 1))


# --- Rao-Kupper


@pytest.mark.parametrize("eta", [1e-3, 0.5, 2.0])
@pytest.mark.parametrize("delta", [-3.0, 0.0, 0.7])
def test_rao_kupper_probabilities_sum_to_one(delta, eta):
    a, b, tie, win = (
        tensor(delta, dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        tensor(True),
        tensor(False),
    )
    losses = [rao_kupper_loss(a, b, win, eta), rao_kupper_loss(b, a, win, eta), rao_kupper_loss(a, b, tie, eta)]
    assert sum(math.exp(-loss.item()) for loss in losses) == pytest.approx(1.0, abs=1e-12)


def test_rao_kupper_has_hand_worked_values():
    # η = ln 2: P(a ≻ b) = σ(ln 2 − ln 2) = 1/2 at Δ = ln 2; at Δ = 0, P(a ≻ b) = 1/3 and P(tie) = 3·(1/3)² = 1/3
    a, b = tensor(math.log(2), 0.0, 0.0), torch.zeros(3)
    loss = rao_kupper_loss(a, b, tensor(False, False, True), eta=math.log(2))
    assert loss.tolist() == pytest.approx([0.693147, 1.098612, 1.098612], abs=1e-6)


def test_rao_kupper_ties_at_equal_rewards_have_probability_tanh_of_half_eta():
    loss = rao_kupper_loss(tensor(1.0), tensor(1.0), tensor(True), eta=2 * math.atanh(0.25))
    assert math.exp(-loss.item()) == pytest.approx(0.25, abs=1e-6)


def test_rao_kupper_nears_bradley_terry_as_eta_goes_to_zero():
    loss = rao_kupper_loss(tensor(1.0), tensor(0.0), tensor(False), eta=1e-6)
    assert loss.item() == pytest.approx(0.313262, abs=1e-5)


def test_rao_kupper_gradients_have_hand_worked_values():
    # Win at Δ = η: −(1 − σ(0)) = −0.5. Tie at Δ: d/dΔ = σ(Δ − η) − σ(−Δ − η), at Δ = η = ln 2: 1/2 − 1/5
    a = tensor(math.log(2), math.log(2), requires_grad=True)
    rao_kupper_loss(a, torch.zeros(2), tensor(False, True), eta=math.log(2)).sum().backward()
    assert a.grad.tolist() == pytest.approx([-0.5, 0.3], abs=1e-6)


@pytest.mark.parametrize("eta", [1e-4, 0.5, 100.0])
def test_rao_kupper_is_finite_at_extreme_rewards(eta):
    a = tensor(1e4, -1e4, 1e4, -1e4, requires_grad=True)
    loss = rao_kupper_loss(a, torch.zeros(4), tensor(False, False, True, True), eta)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(a.grad).all()
    assert loss[:2].tolist() == pytest.approx([0.0, 1e4 + eta])
    assert a.grad.tolist() == pytest.approx([0.0, -1.0, 1.0, -1.0])


def test_rao_kupper_passes_gradcheck_in_float64():
    torch.manual_seed(0)
    a, b = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    tie = tensor(True, False, True, False, False, True)
    assert torch.autograd.gradcheck(lambda a, b: rao_kupper_loss(a, b, tie, 0.7, margin=0.3), (a, b))


def test_rao_kupper_uses_the_margin_of_wins_and_not_of_ties():
    a, b, tie = tensor(2.0, 2.0), torch.zeros(2), tensor(False, True)
    moved, plain = rao_kupper_loss(a, b, tie, 0.5, margin=tensor(1.0, 1.0)), rao_kupper_loss(a, b, tie, 0.5)
    assert moved[0].item() == pytest.approx(-F.logsigmoid(torch.tensor(0.5)).item())
    assert moved[1] == plain[1]


@pytest.mark.parametrize("eta", [0.0, -0.5, float("nan"), float("inf")])
def test_rao_kupper_refuses_an_eta_that_is_not_positive(eta):
    with pytest.raises(ValueError, match=r"eta=.* must be a positive number"):
        rao_kupper_loss(tensor(0.0), tensor(0.0), tensor(True), eta)


def test_rao_kupper_refuses_a_tie_mask_of_numbers():
    with pytest.raises(ValueError, match="must be bool"):
        rao_kupper_loss(tensor(0.0), tensor(0.0), tensor(1), 0.5)


# --- centering


def test_centering_is_the_square_of_the_sum_and_its_gradient_twice_the_sum():
    chosen = tensor(2.0, 1.0, requires_grad=True)
    loss = center_rewards_loss(chosen, tensor(-1.5, -1.0))
    loss.sum().backward()
    assert loss.tolist() == [0.25, 0.0]
    assert chosen.grad.tolist() == [1.0, 0.0]


# --- ranked lists


def test_a_pair_is_one_ordered_pair_whichever_comes_first():
    assert ranked_pairs([0, 1]) == ([0], [1], [False])
    assert ranked_pairs([5, 2]) == ([1], [0], [False])


def test_a_full_ranking_of_four_has_six_pairs():
    better, worse, tie = ranked_pairs([2, 0, 3, 1])
    assert list(zip(better, worse, strict=True)) == [(1, 0), (0, 2), (3, 0), (1, 2), (1, 3), (3, 2)]
    assert not any(tie)


def test_equal_ranks_are_pairs_only_where_ties_are_asked_for():
    assert ranked_pairs([0, 0, 1]) == ([0, 1], [2, 2], [False, False])
    assert ranked_pairs([0, 0, 1], ties=True) == ([0, 0, 1], [1, 2, 2], [True, False, False])
    assert ranked_pairs([7, 7]) == ([], [], [])


# --- the loss of a batch


def flat(groups, **kwargs):
    """Flat index tensors of a batch, as the collator makes them: groups are lists of ranks."""
    better, worse, tie, group, start = [], [], [], [], 0
    for index, ranks in enumerate(groups):
        b, w, t = ranked_pairs(ranks, **kwargs)
        better += [start + i for i in b]
        worse += [start + i for i in w]
        tie += t
        group += [index] * len(b)
        start += len(ranks)
    return torch.tensor(better), torch.tensor(worse), torch.tensor(group), torch.tensor(tie)


def test_a_ranked_list_weighs_each_pair_one_over_k_choose_2_and_a_pair_weighs_one():
    scores = tensor(2.0, 1.0, 0.0, 0.0, 0.0, requires_grad=True)
    better, worse, group, _ = flat([[0, 1, 2], [0, 1]])
    loss = comparison_loss(scores, better, worse, group, num_groups=2)
    assert loss.tolist() == pytest.approx([(0.313262 + 0.126928 + 0.313262) / 3, 0.693147], abs=1e-6)
    loss.mean().backward()
    # r₁ of the list: −(σ(−1) + σ(−2))/3/2; r of the pair: ∓σ(0)/2
    expected = [-(0.268941 + 0.119203) / 6, 0.0, (0.268941 + 0.119203) / 6, -0.25, 0.25]
    assert scores.grad.tolist() == pytest.approx(expected, abs=1e-6)


def test_pairs_may_come_in_any_order():
    torch.manual_seed(0)
    scores = torch.randn(9)
    better, worse, group, _ = flat([[0, 1, 2], [1, 0], [0, 1, 1, 0]])
    order = torch.randperm(len(group))
    shuffled = comparison_loss(scores, better[order], worse[order], group[order], num_groups=3)
    torch.testing.assert_close(shuffled, comparison_loss(scores, better, worse, group, num_groups=3))


def test_ties_of_a_group_are_fitted_by_rao_kupper():
    better, worse, group, tie = flat([[0, 0, 1]], ties=True)
    loss = comparison_loss(tensor(0.0, 0.0, 0.0), better, worse, group, 1, tie_M=tie, eta=math.log(2))
    assert loss.item() == pytest.approx(1.098612, abs=1e-6)  # all three outcomes have probability 1/3


def test_a_group_without_pairs_has_loss_zero_and_an_empty_batch_still_has_a_gradient():
    scores = tensor(1.0, 0.0, 3.0, requires_grad=True)
    better, worse, group, _ = flat([[0, 1], [0]])
    assert comparison_loss(scores, better, worse, group, num_groups=2).tolist() == pytest.approx(
        [0.313262, 0.0], abs=1e-6
    )
    nothing = torch.zeros(0, dtype=torch.int64)
    comparison_loss(scores, nothing, nothing, nothing, num_groups=2).sum().backward()
    assert scores.grad.tolist() == [0.0, 0.0, 0.0]


def test_ties_without_eta_and_smoothing_with_eta_are_refused():
    indices = tensor(0), tensor(1), tensor(0)
    with pytest.raises(ValueError, match="ties are given without eta"):
        comparison_loss(torch.zeros(2), *indices, 1, tie_M=tensor(True))
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1 with eta"):
        comparison_loss(torch.zeros(2), *indices, 1, eta=0.5, label_smoothing=0.1)


def test_scores_as_a_column_and_indices_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"scores have shape \(2, 1\)"):
        comparison_loss(torch.zeros(2, 1), tensor(0), tensor(1), tensor(0), 1)
    with pytest.raises(ValueError, match="group_M"):
        comparison_loss(torch.zeros(2), tensor(0), tensor(1), tensor(0, 0), 1)


def test_mean_per_group_averages_values_and_not_batches():
    means = mean_per_group(tensor(1.0, 3.0, 5.0, 9.0), tensor(1, 1, 0, 1), num_groups=3)
    assert means.tolist() == pytest.approx([5.0, 13 / 3, 0.0])


# --- parity with TRL


@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("coefficient", [None, 0.01])
def test_a_batch_of_pairs_has_the_loss_and_gradient_of_trl(with_margin, coefficient):
    from trl import RewardTrainer

    torch.manual_seed(0)
    num_pairs = 7
    logits = (3 * torch.randn(2 * num_pairs, 1)).requires_grad_()  # TRL: all chosen, then all rejected
    margin = torch.rand(num_pairs) if with_margin else None

    def model(**inputs):
        return SimpleNamespace(logits=logits)

    model.training = True
    metrics = {name: [] for name in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}
    trainer = SimpleNamespace(
        model=model,
        args=SimpleNamespace(center_rewards_coefficient=coefficient),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"train": metrics},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(1)} | ({"margin": margin} if with_margin else {})
    expected = RewardTrainer.compute_loss(trainer, model, inputs)
    (expected_grad,) = torch.autograd.grad(expected, logits)

    index = torch.arange(num_pairs)
    ours = comparison_loss(
        logits.squeeze(-1),
        index,
        index + num_pairs,
        index,
        num_pairs,
        margin_M=margin,
        center_rewards_coefficient=coefficient,
    ).mean()
    (grad,) = torch.autograd.grad(ours, logits)
    if coefficient is None:
        assert ours.item() == expected.item()  # bit for bit
        assert torch.equal(grad, expected_grad)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-7)
