"""Groups of token ids ► one call of a reward model, in one of five forms (`FORMS`).

    packed       one row that holds every token once; attention sees prefixes and rests apart
    apart        one row that holds every text; kernels of recurrent layers are told where each begins
    continued    each prefix once, and its completions from copies of its cache; what shares little, sorted
    sorted       texts of similar lengths together, each such call right-padded
    padded       all texts in one rectangle, right-padded

Packed:

    [1 2 3 | 4 5 | 6]   [7 8 | 9]          two groups, prefixes (1 2 3) and (7 8), three completions
     0 1 2   3 4   3     0 1   2           positions restart after the prefix
               ▲   ▲           ▲           `SharedPrefixLayout.completion_ends`: where the head reads

It wins by padded tokens ÷ packed tokens. Where that ratio is near 1 (equal lengths, nothing shared) the padded form is
cheaper, because packing pays a few small calls per completion; `collate` takes whichever costs less. Models with
recurrent layers cannot take it: they score `continued`, which gives no gradients, and train `apart` where the GPU has
kernels for it, else `sorted`.

    batch = collate([encode(c, tokenizer) for c in comparisons], model.batch_form()); scores = model(**batch).logits

Shapes: `N` completions of all groups in order, `T` tokens in the packed row, `L` longest completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..data.encoding import EncodedGroup
from .attention import SharedPrefixLayout

FORMS = ("packed", "apart", "continued", "sorted", "padded")
# Up to this many padded tokens for one packed token the padded form is as fast; benchmarks/README.md has the numbers.
MIN_TOKEN_RATIO = 1.05
# One more call of the backbone takes about as long as so many tokens more, in scoring and in training; measured on a
# CPU by benchmarks/call_cost.py and on whole batches, benchmarks/README.md has the numbers.
TOKENS_OF_A_CALL = {"continued": 32, "sorted": 96}


@dataclass(frozen=True)
class Call:
    """One call of the backbone on rows of a right-padded batch; with a prefix, a second one on their rests.

    Args:
        rows (`list[int]`): which ones.
        length (`int`): tokens of the longest.
        prefix (`int`): leading tokens that they share and that are computed once; less than the shortest.
    """

    rows: list[int]
    length: int
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return self.prefix + len(self.rows) * (self.length - self.prefix)

    def cost(self, form: str) -> int:
        """In tokens."""
        return self.tokens + (2 if self.prefix else 1) * TOKENS_OF_A_CALL[form]


def padded_tokens(groups: Iterable[EncodedGroup]) -> int:
    """Tokens of the padded form: completions × the longest of them."""
    lengths = [len(ids) for group in groups for ids in group.input_ids]
    return len(lengths) * max(lengths)


def cost(groups: list[EncodedGroup], form: str) -> int:
    """Tokens that a call of the model computes for these groups, in the form that `collate` gives them."""
    if form in ("continued", "sorted"):
        return sum(call.tokens for call in backbone_calls(groups, form))
    packed, padded = sum(_own_tokens(group, form) for group in groups), padded_tokens(groups)
    return packed if form in ("packed", "apart") and _packing_pays(packed, padded) else padded


def _packing_pays(packed: int, padded: int) -> bool:
    return padded > MIN_TOKEN_RATIO * packed


def backbone_calls(groups: list[EncodedGroup], form: str) -> list[Call]:
    """The calls that compute these groups `"continued"`, where that costs less, or `"sorted"`."""
    lengths = [len(ids) for group in groups for ids in group.input_ids]
    calls, alone, first = [], [], 0
    for group in groups:
        rows = list(range(first, first + len(group.input_ids)))
        first += len(rows)
        longest = max(lengths[row] for row in rows)
        # Rests of one token would take another kernel, the one for generation, which rounds otherwise.
        call = Call(rows, longest, min(group.prefix_length, longest - 2))
        apart = _of_similar_lengths(rows, lengths, form)
        if form == "continued" and call.prefix > 0 and call.cost(form) < sum(call.cost(form) for call in apart):
            calls.append(call)
        else:
            alone += rows
    return calls + _of_similar_lengths(alone, lengths, form)


def _of_similar_lengths(rows: list[int], lengths: list[int], form: str) -> list[Call]:
    """The cut of the rows, sorted by length, into calls that cost least: dynamic programming over its lengths."""
    rows = sorted(rows, key=lambda row: -lengths[row])
    # Rows of equal lengths are never cut apart, so calls end where the length changes.
    ends = [i for i in range(1, len(rows) + 1) if i == len(rows) or lengths[rows[i]] != lengths[rows[i - 1]]]
    best: dict[int, tuple[int, list[Call]]] = {0: (0, [])}  # by number of rows: cost, calls
    for end in ends:
        total, start = min((best[i][0] + (end - i) * lengths[rows[i]] + TOKENS_OF_A_CALL[form], i) for i in best)
        best[end] = (total, [*best[start][1], Call(rows[start:end], lengths[rows[start]])])
    return best[len(rows)][1]


def collate(groups: list[EncodedGroup], form: str) -> dict:
    """
    Keyword arguments of `RewardModel.forward` for these groups; `logits` come as (N, 1), completions in order.

    Args:
        groups (`list[EncodedGroup]`): at least one, each with at least one completion.
        form (`str`): one of `FORMS`; `RewardModel.batch_form()`.

    Returns:
        `dict`: packed: `input_ids` and `position_ids` (1, T) int64, and `shared_prefix_layout`; apart: also `seq_idx`
            (1, T) and `cu_seq_lens_q` (N + 1,), int32; else `input_ids` and `attention_mask` (N, L) int64, pads are id
            0 with mask 0, and `calls` where there is more than one.
    """
    if form in ("packed", "apart") and cost(groups, form) < padded_tokens(groups):
        return pack(groups) if form == "packed" else pack_apart(groups)
    batch = pad([ids for group in groups for ids in group.input_ids])
    if form in ("continued", "sorted"):
        calls = backbone_calls(groups, form)
        if len(calls) > 1 or calls[0].prefix:
            batch["calls"] = calls
    return batch


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


def pack_apart(groups: list[EncodedGroup]) -> dict:
    """Every text of the groups end to end in one row, which shares nothing, in the arguments of all kernels.

    Source: transformers' names: `seq_idx` for the kernels of causal-conv1d and mamba-ssm, `cu_seq_lens_q` for those of
    flash-linear-attention. Without these packages it raises.
    """
    batch = pack([EncodedGroup([ids]) for group in groups for ids in group.input_ids])
    lengths_N = torch.tensor(batch["shared_prefix_layout"].segment_lengths)
    batch["seq_idx"] = torch.arange(len(lengths_N), dtype=torch.int32).repeat_interleave(lengths_N)[None]
    batch["cu_seq_lens_q"] = F.pad(lengths_N.cumsum(0), (1, 0)).int()
    return batch


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
    groups: list[EncodedGroup], max_tokens: int | None, form: str, rope_switch: int | None = None
) -> Iterator[list[int]]:
    """
    Cut a list of groups into runs whose calls compute at most `max_tokens`; a larger group stands alone.

    Args:
        groups (`list[EncodedGroup]`): in the order wanted.
        max_tokens (`int`, *optional*): token budget of one call; no limit if `None`.
        form (`str`): one of `FORMS`, in which they are computed.
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
        run, own, rows, longest = [], 0, 0, 0
        for i in indices:
            group = groups[i]
            own_next = own + _own_tokens(group, form)
            rows_next, longest_next = rows + len(group.input_ids), max(longest, *map(len, group.input_ids))
            tokens = rows_next * longest_next
            if form in ("packed", "apart") and _packing_pays(own_next, tokens):
                tokens = own_next
            elif form in ("continued", "sorted"):
                tokens = min(tokens, own_next)
            if run and max_tokens is not None and tokens > max_tokens:
                yield run
                run = []
                own_next = _own_tokens(group, form)
                rows_next, longest_next = len(group.input_ids), max(map(len, group.input_ids))
            run.append(i)
            own, rows, longest = own_next, rows_next, longest_next
        yield run


def _own_tokens(group: EncodedGroup, form: str) -> int:
    """Tokens of a group by itself; with others it takes no more than these."""
    if form in ("continued", "sorted"):
        return sum(call.cost(form) for call in backbone_calls([group], form))
    return sum(map(len, group.input_ids)) if form == "apart" else group.num_tokens
