"""packing.py: the packed row, the padded form, which of them a batch takes, and how a budget cuts a list of groups."""

import itertools
import pickle

import pytest
import torch
from models import tiny_reward_model

from rm_plugin.data.encoding import EncodedGroup
from rm_plugin.model.packing import (
    FORMS,
    TOKENS_OF_A_CALL,
    Call,
    backbone_calls,
    collate,
    cost,
    pack,
    pad,
    padded_tokens,
    split_by_tokens,
)


def group(prefix: int, *rests: int, start: int = 10) -> EncodedGroup:
    """A group of `len(rests)` completions: `prefix` shared ids, then `rests` ids of their own."""
    shared = list(range(start, start + prefix))
    return EncodedGroup([shared + [100 + 20 * i + j for j in range(rest)] for i, rest in enumerate(rests)])


def ends(batch) -> list[int]:
    return batch["shared_prefix_layout"].completion_ends(torch.device("cpu")).tolist()


# --- the packed row


def test_packed_row_holds_every_token_once_and_positions_restart_after_the_prefix():
    batch = pack([EncodedGroup([[1, 2, 3, 4, 5], [1, 2, 3, 6]]), EncodedGroup([[7, 8, 9]])])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    layout = batch["shared_prefix_layout"]
    assert (layout.prefix_lengths, layout.rest_lengths) == ([3, 2], [[2, 1], [1]])
    assert layout.segment_lengths == [5, 1, 3]  # [prefix | rest 1] is one segment
    assert layout.segment_prefixes == [(-1, 0), (0, 3), (-1, 0)]
    assert ends(batch) == [4, 5, 8]


def test_completion_that_is_a_prefix_of_another_keeps_one_token_of_its_own():
    batch = pack([EncodedGroup([[1, 2], [1, 2, 3]])])
    assert batch["input_ids"].tolist() == [[1, 2, 2, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 1, 2]]
    assert ends(batch) == [1, 3]


def test_group_without_a_shared_prefix_is_plain_sequences_end_to_end():
    batch = pack([EncodedGroup([[1, 2], [3, 4, 5]])])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert batch["shared_prefix_layout"].segment_prefixes == [(-1, 0), (-1, 0)]


def test_equal_completions_are_packed_as_two():
    batch = pack([EncodedGroup([[1, 2, 3], [1, 2, 3]])])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 3]]
    assert ends(batch) == [2, 3]


def test_layout_survives_the_way_from_a_data_loading_worker_without_its_masks():
    layout = pack([group(3, 2, 4)])["shared_prefix_layout"]
    layout.lower_right_mask(4, 7, None, torch.device("cpu"))
    arrived = pickle.loads(pickle.dumps(layout))
    assert arrived.segment_prefixes == [(-1, 0), (0, 3)]
    assert arrived._cache == {} and len(layout._cache) == 1


# --- the padded form, and which one a batch takes


def test_padded_rows_are_padded_at_the_right_behind_a_mask():
    batch = pad([[5, 6, 7], [8]])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_tokens_of_both_forms():
    groups = [group(10, 4, 6), group(0, 5)]
    assert [g.num_tokens for g in groups] == [20, 5]  # 10 + 4 + 6
    assert padded_tokens(groups) == 48  # 3 completions of at most 16


def test_apart_every_text_is_computed_whole_where_padding_would_cost_more():
    groups = [group(10, 4, 6), group(0, 5)]
    assert cost(groups, "apart") == 14 + 16 + 5 and cost(groups, "packed") == 25
    batch = collate(groups, "apart")
    assert batch["input_ids"].tolist() == [sum((ids for g in groups for ids in g.input_ids), [])]
    assert batch["position_ids"].tolist() == [[*range(14), *range(16), *range(5)]]
    assert batch["seq_idx"].tolist() == [[0] * 14 + [1] * 16 + [2] * 5]
    assert batch["cu_seq_lens_q"].tolist() == [0, 14, 30, 35]
    assert batch["seq_idx"].dtype == batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["shared_prefix_layout"].segment_lengths == [14, 16, 5]
    assert "attention_mask" in collate([group(10, 4, 4)], "apart")  # equal lengths


@pytest.mark.parametrize(
    ("groups", "packed", "ratio"),
    [
        ([group(10, 4, 6)], True, 32 / 20),
        ([group(0, 20, 20)], False, 1.0),  # equal lengths, nothing shared
        ([group(1, 20, 20)], False, 42 / 41),
        ([group(2, 20, 20)], False, 44 / 42),  # 1.048
        ([group(3, 20, 20)], True, 46 / 43),  # 1.070
        ([group(0, 8)], False, 1.0),  # one completion alone
        ([group(0, 8), group(0, 20)], True, 40 / 28),  # padding alone
    ],
)
def test_collate_packs_only_where_the_padded_form_computes_over_5_percent_more_tokens(groups, packed, ratio):
    assert padded_tokens(groups) / sum(group.num_tokens for group in groups) == pytest.approx(ratio)
    batch = collate(groups, form="packed")
    assert ("shared_prefix_layout" in batch) is packed
    assert batch["input_ids"].numel() == cost(groups, form="packed")


def test_collate_pads_for_a_model_that_cannot_take_packed_rows():
    groups = [group(10, 4, 6)]
    batch = collate(groups, form="padded")
    assert batch["input_ids"].shape == (2, 16) and cost(groups, form="padded") == 32
    assert sorted(batch) == ["attention_mask", "input_ids"]


def test_scores_come_in_the_order_of_the_completions_in_either_form():
    model = tiny_reward_model("llama")
    assert model.batch_form() == "packed"
    groups = [group(5, 3, 9, 1), group(0, 4, start=40), group(7, 2, 6, start=60)]
    with torch.no_grad():
        packed, padded = (model(**collate(groups, form)).logits for form in ("packed", "padded"))
        alone = [model(torch.tensor([ids])).logits.item() for g in groups for ids in g.input_ids]
    assert packed.flatten().tolist() == pytest.approx(alone, abs=1e-5)
    assert padded.flatten().tolist() == pytest.approx(alone, abs=1e-5)
    assert len(set(map("{:.3f}".format, alone))) == 6  # so that an order could be wrong


# --- the budget


def split(groups, max_tokens, form="packed", rope_switch=None):
    return list(split_by_tokens(groups, max_tokens, form, rope_switch))


def test_without_a_budget_all_groups_share_one_call():
    assert split([group(10, 4, 6)] * 5, None) == [[0, 1, 2, 3, 4]]


def test_no_groups_make_no_calls():
    assert split([], 10) == [] and split([], None) == []


def test_budget_is_filled_and_not_exceeded():
    groups = [group(10, 4, 6)] * 5  # 20 packed tokens each, 32 padded
    assert split(groups, 40) == [[0, 1], [2, 3], [4]]
    assert split(groups, 39) == [[0], [1], [2], [3], [4]]
    assert split(groups, 64, form="padded") == [[0, 1], [2, 3], [4]]


def test_group_larger_than_the_budget_stands_alone():
    groups = [group(0, 3), group(50, 30, 30), group(0, 3), group(0, 4)]
    assert split(groups, 10) == [[0], [1], [2, 3]]
    assert split(groups[1:], 10) == [[0], [1, 2]]


def test_budget_counts_the_form_that_collate_takes():
    groups = [group(2, 20, 20)] * 2  # 84 packed tokens, 88 padded: padded, as the ratio is 1.048
    assert cost(groups, form="packed") == 88
    assert split(groups, 86) == [[0], [1]] and split(groups, 88) == [[0, 1]]


def test_padded_budget_counts_rows_times_the_longest():
    groups = [group(0, 4), group(0, 4), group(0, 10), group(0, 4)]
    assert split(groups, 12, form="padded") == [[0, 1], [2], [3]]  # 3 × 10 would be 30


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_tokens", [30, 64, 100])
def test_every_call_computes_at_most_the_budget_and_every_group_is_in_one_call(max_tokens, form):
    generator = torch.Generator().manual_seed(0)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    # nothing to little shared, nearly equal lengths: the cases in which both forms cost about the same are among them
    groups = [group(draw(0, 4), *(draw(9, 12) for _ in range(draw(1, 4)))) for _ in range(200)]
    runs = split(groups, max_tokens, form)
    assert sorted(i for run in runs for i in run) == list(range(200))
    for run in runs:
        assert cost([groups[i] for i in run], form) <= max_tokens or len(run) == 1


def test_groups_on_both_sides_of_the_rope_switch_never_share_a_call():
    groups = [group(0, 20), group(0, 24), group(0, 25), group(4, 21, 3), group(0, 5)]  # longest: 20, 24, 25, 25, 5
    assert split(groups, None, rope_switch=24) == [[0, 1, 4], [2, 3]]
    assert split(groups, 30, rope_switch=24) == [[0], [1, 4], [2], [3]]


def test_longrope_scores_do_not_depend_on_company():
    model = tiny_reward_model("phi3_longrope", torch.float64)
    assert model.rope_switch == 24 and model.batch_form() == "packed"
    groups = [group(4, 12, 9), group(8, 16, 14, start=40), group(6, 30, 25, start=70), group(3, 4, 2, start=90)]

    @torch.no_grad()
    def scores(run):
        return model(**collate([groups[i] for i in run], "packed")).logits.flatten().tolist()

    alone = [scores([i]) for i in range(4)]
    runs = split(groups, None, rope_switch=model.rope_switch)
    assert runs == [[0, 1, 3], [2]]  # 24 tokens are on the short side, as in transformers
    for run in runs:
        assert scores(run) == pytest.approx(sum((alone[i] for i in run), []), rel=1e-10)
    mixed = scores([0, 1, 2, 3])
    assert max(abs(m - a) for m, a in zip(mixed[:4], alone[0] + alone[1], strict=True)) > 0.01


# --- calls of the backbone on a padded batch


def test_texts_of_similar_lengths_share_a_call():
    groups = [group(0, 300, 20), group(0, 290, 22)]
    assert backbone_calls(groups, "sorted") == [Call([0, 2], 300), Call([3, 1], 22)]
    assert cost(groups, "sorted") == 2 * 300 + 2 * 22 and cost(groups, "padded") == 4 * 300
    assert collate(groups, "sorted")["calls"] == [Call([0, 2], 300), Call([3, 1], 22)]


def test_a_call_is_worth_so_many_tokens():
    assert len(backbone_calls([group(0, 100, 100 - TOKENS_OF_A_CALL["sorted"] + 1)], "sorted")) == 1
    assert len(backbone_calls([group(0, 100, 100 - TOKENS_OF_A_CALL["sorted"] - 1)], "sorted")) == 2
    assert "calls" not in collate([group(0, 40, 30)], "sorted")  # then it is the padded form


def test_the_cut_costs_least_of_all():
    lengths = [7, 80, 81, 150, 9, 300, 160, 300, 12]
    best = sum(call.cost("sorted") for call in backbone_calls([group(0, *lengths)], "sorted"))
    ordered = sorted(lengths)
    cuts = itertools.product([False, True], repeat=len(lengths) - 1)
    costs = []
    for cut in cuts:
        ends = [i + 1 for i, is_end in enumerate(cut) if is_end] + [len(lengths)]
        starts = [0, *ends[:-1]]
        costs.append(
            sum((e - s) * ordered[e - 1] + TOKENS_OF_A_CALL["sorted"] for s, e in zip(starts, ends, strict=True))
        )
    assert best == min(costs)


def test_a_prefix_is_continued_where_it_saves_more_than_a_call():
    shared, alone = group(200, 10, 12, 5), group(20, 3, 4, start=40)
    assert backbone_calls([shared, alone], "continued") == [Call([0, 1, 2], 212, 200), Call([4, 3], 24)]
    assert cost([shared, alone], "continued") == 200 + 3 * 12 + 2 * 24
    assert all(call.prefix == 0 for call in backbone_calls([shared, alone], "sorted"))
    assert backbone_calls([group(200, 10)], "continued") == [Call([0], 210)]  # one completion shares with none


def test_a_continued_call_computes_more_than_one_token_of_each_text():
    assert backbone_calls([group(200, 1, 1)], "continued") == [Call([0, 1], 201, 199)]


def test_every_text_is_in_one_call():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 90, (40, 4), generator=generator).tolist()
    groups = [group(prefix, *rests) for prefix, *rests in sizes]
    for form in ("continued", "sorted"):
        calls = backbone_calls(groups, form)
        assert sorted(row for call in calls for row in call.rows) == list(range(120))
        lengths = [len(ids) for g in groups for ids in g.input_ids]
        assert all(max(lengths[row] for row in call.rows) == call.length for call in calls)
        assert sum(call.tokens for call in calls) == cost(groups, form) < cost(groups, "padded")
