"""Groups of token ids ► one model call: a packed row that holds every token once, or the padded form.

    [1 2 3 | 4 5 | 6]   [7 8 | 9]          two groups, prefixes (1 2 3) and (7 8), three completions
     0 1 2   3 4   3     0 1   2           positions restart after the prefix
               ▲   ▲           ▲           `SharedPrefixLayout.completion_ends`: where the head reads

The packed row wins by padded tokens ÷ packed tokens. Where that ratio is near 1 (equal lengths, nothing shared) the
padded form is cheaper, because packing pays a few small calls per completion; `collate` takes whichever costs less.

    batch = collate([encode(c, tokenizer) for c in comparisons], shared_prefix=True); scores = model(**batch).logits

Shapes: `N` completions of all groups in order, `T` tokens in the packed row, `L` longest completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from ..data.encoding import EncodedGroup
from .attention import SharedPrefixLayout

# Up to this many padded tokens for one packed token the padded form is as fast; benchmarks/README.md has the numbers.
MIN_TOKEN_RATIO = 1.05


def padded_tokens(groups: Iterable[EncodedGroup]) -> int:
    """Tokens of the padded form: completions × the longest of them."""
    lengths = [len(ids) for group in groups for ids in group.input_ids]
    return len(lengths) * max(lengths)


def cost(groups: list[EncodedGroup], shared_prefix: bool) -> int:
    """Tokens that one call computes for these groups, in the form that `collate` gives them."""
    packed, padded = sum(group.num_tokens for group in groups), padded_tokens(groups)
    return packed if shared_prefix and _packing_pays(packed, padded) else padded


def _packing_pays(packed: int, padded: int) -> bool:
    return padded > MIN_TOKEN_RATIO * packed


def collate(groups: list[EncodedGroup], shared_prefix: bool) -> dict:
    """
    Keyword arguments of `RewardModel.forward` for these groups; `logits` come as (N, 1), completions in order.

    Args:
        groups (`list[EncodedGroup]`): at least one, each with at least one completion.
        shared_prefix (`bool`): whether the model can take packed rows.

    Returns:
        `dict`: packed: `input_ids` and `position_ids` (1, T) int64, and `shared_prefix_layout`; padded: `input_ids`
            and `attention_mask` (N, L) int64, pads are id 0 with mask 0.
    """
    if shared_prefix and _packing_pays(sum(group.num_tokens for group in groups), padded_tokens(groups)):
        return pack(groups)
    return pad([ids for group in groups for ids in group.input_ids])


def pack(groups: list[EncodedGroup]) -> dict:
    """Groups end to end in one row, each prefix once."""
    ids, positions = [], []
    for group in groups:
        prefix = group.prefix_length
        ids += group.input_ids[0][:prefix]
        positions += range(prefix)
        for sequence in group.input_ids:
            ids += sequence[prefix:]
            positions += range(prefix, len(sequence))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "shared_prefix_layout": SharedPrefixLayout(
            [g.prefix_length for g in groups],
            [[len(sequence) - g.prefix_length for sequence in g.input_ids] for g in groups],
        ),
    }


def pad(sequences: list[list[int]]) -> dict:
    """Right-padded rows, one per sequence."""
    longest = max(map(len, sequences))
    input_ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    attention_mask = torch.zeros(len(sequences), longest, dtype=torch.int64)
    for i, ids in enumerate(sequences):
        input_ids[i, : len(ids)] = torch.tensor(ids)
        attention_mask[i, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def split_by_tokens(
    groups: list[EncodedGroup], max_tokens: int | None, shared_prefix: bool, rope_switch: int | None = None
) -> Iterator[list[int]]:
    """
    Cut a list of groups into runs whose calls compute at most `max_tokens`; a larger group stands alone.

    Args:
        groups (`list[EncodedGroup]`): in the order wanted.
        max_tokens (`int`, *optional*): token budget of one call; no limit if `None`.
        shared_prefix (`bool`): whether the calls may be packed.
        rope_switch (`int`, *optional*):
            A length across which no two groups may share a call (`RewardModel.rope_switch`).

    Yields:
        `list[int]`: indices of the groups of one call.
    """
    sides: dict[bool, list[int]] = {}
    for i, group in enumerate(groups):
        beyond = rope_switch is not None and max(map(len, group.input_ids)) > rope_switch
        sides.setdefault(beyond, []).append(i)
    for indices in sides.values():
        run, packed, rows, longest = [], 0, 0, 0
        for i in indices:
            group = groups[i]
            packed_next = packed + group.num_tokens
            rows_next, longest_next = rows + len(group.input_ids), max(longest, *map(len, group.input_ids))
            tokens = rows_next * longest_next
            if shared_prefix and _packing_pays(packed_next, tokens):
                tokens = packed_next
            if run and max_tokens is not None and tokens > max_tokens:
                yield run
                run = []
                packed_next = group.num_tokens
                rows_next, longest_next = len(group.input_ids), max(map(len, group.input_ids))
            run.append(i)
            packed, rows, longest = packed_next, rows_next, longest_next
        yield run
