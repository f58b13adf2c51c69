"""Attention over packed rows whose completions share a prefix; exact, and no token is computed twice.

A group of one prompt and n completions lies in the row as `[prefix | rest 1 | rest 2 | …]`; groups follow each other
without padding. A query sees a key when the key is not later in its own text:

    q sees k  ⇔  k ≤ q  and  (k in the prefix of q's group  or  k in the same rest as q)

`[prefix | rest 1]` is a plain causal sequence as it is. Every other rest attends to the prefix's keys and its
own, causal at the lower right. So a group costs one attention call per completion, no mask over the whole row is ever
built, and the cost is linear in the number of groups. Sliding windows count positions in a text, never indices in the
row.

Registered with transformers' `AttentionInterface` under `IMPLEMENTATION`, with transformers' own sdpa mask under the
same name: without a layout the function *is* sdpa attention (plus soft-capping and sinks, which sdpa refuses).

    model.set_attn_implementation(IMPLEMENTATION); model(input_ids, position_ids=…, shared_prefix_layout=layout)

Shapes: `T` tokens in the row, `S` queries and `K` keys of one segment, `H` query heads, `G` key heads, `D` head size.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "rm_shared_prefix"


@dataclass
class SharedPrefixLayout:
    """Where the groups of a packed row lie.

    Args:
        prefix_lengths (`list[int]`): tokens of each group's shared prefix (0 where nothing is shared).
        rest_lengths (`list[list[int]]`): tokens of each completion after the prefix, at least 1 each.
        seen_windows (`list`, *optional*): when a list, every attention call appends its `sliding_window`; this is how
            the first-use check knows that the layout reached every layer.
    """

    prefix_lengths: list[int]
    rest_lengths: list[list[int]]
    seen_windows: list[int | None] | None = None
    _cache: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        # A segment is a run of queries that one call answers: `[prefix | rest 1]`, then each other rest by itself.
        self.segment_lengths: list[int] = []  # S of each segment, in the order of the row
        self.segment_prefixes: list[tuple[int, int]] = []  # (segment that holds the prefix, its length); (-1, 0): none
        for prefix, rests in zip(self.prefix_lengths, self.rest_lengths, strict=True):
            first = len(self.segment_lengths)
            self.segment_lengths += [prefix + rests[0], *rests[1:]]
            self.segment_prefixes += [(-1, 0)] + [(first, prefix) if prefix else (-1, 0)] * (len(rests) - 1)

    def __getstate__(self):  # masks stay behind when a data-loading worker hands the layout over
        return {**self.__dict__, "_cache": {}}

    def completion_ends(self, device: torch.device) -> torch.Tensor:
        """(N,) indices in the row of the completions' last tokens: each segment ends with one."""
        return torch.tensor([*accumulate(self.segment_lengths)], device=device) - 1

    def lower_right_mask(self, *sizes) -> torch.Tensor:
        """[`lower_right_causal`] of these sizes, made once for all layers of a pass."""
        if sizes not in self._cache:
            self._cache[sizes] = lower_right_causal(*sizes)
        return self._cache[sizes]

    def varlen_indices(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
        """Index tensors for one variable-length call per layer: which keys each segment sees.

        Returns:
            `(key_index, cu_seq_q, cu_seq_k, max_q, max_k)`: `key_index` (int64) gathers the row's keys segment by
            segment (a prefix once for each of its completions), `cu_seq_*` (int32) are the segments' bounds in queries
            and in gathered keys.
        """
        key = ("varlen", device)
        if key not in self._cache:
            starts = [0, *accumulate(self.segment_lengths)]
            pieces, key_lengths = [], []
            for (first, prefix), (start, end) in zip(self.segment_prefixes, pairwise(starts), strict=True):
                pieces += [torch.arange(starts[first], starts[first] + prefix), torch.arange(start, end)]
                key_lengths.append(prefix + end - start)
            self._cache[key] = (
                torch.cat(pieces).to(device),
                torch.tensor(starts, dtype=torch.int32, device=device),
                torch.tensor([0, *accumulate(key_lengths)], dtype=torch.int32, device=device),
                max(self.segment_lengths),
                max(key_lengths),
            )
        return self._cache[key]


def lower_right_causal(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Boolean mask (S, K), true = visible: query i stands at position K − S + i and sees `window` positions."""
    positions_S1 = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    keys_K = torch.arange(num_keys, device=device)
    visible_SK = keys_K <= positions_S1
    return visible_SK if window is None else visible_SK & (keys_K > positions_S1 - window)


class Scoring(NamedTuple):
    """How a layer turns queries and keys into weights, besides being causal."""

    scaling: float | None = None
    sliding_window: int | None = None
    softcap: float | None = None
    s_aux: torch.Tensor | None = None  # an attention sink per head

    @property
    def fits_sdpa(self) -> bool:
        return self.softcap is None and self.s_aux is None


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    shared_prefix_layout: SharedPrefixLayout | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """An `AttentionInterface` function: query (B, H, T, D), key and value (B, G, T, D) → output (B, T, H, D).

    With a layout B is 1, the row is a packed one and `attention_mask` is not used. Without one this is transformers'
    sdpa attention under the mask that transformers made.

    Raises:
        ValueError: with a layout, attention dropout (the padded form would draw other random numbers), or, in the
            first-use check, a layer that is not causal or that says in unknown ways which keys a query sees.
    """
    layout, dtype = shared_prefix_layout, query.dtype
    scoring = Scoring(scaling, sliding_window, softcap, s_aux)
    if layout is not None and dropout:
        raise ValueError(f"attention dropout is {dropout}, shared-prefix attention needs 0; set attention_dropout=0")
    if layout is not None and layout.seen_windows is not None:  # the first-use check
        _refuse_other_attention(module, attention_mask, kwargs)
        layout.seen_windows.append(sliding_window)
    in_float32 = query.device.type == "cpu" and dtype in (torch.float16, torch.bfloat16)
    if in_float32:  # on a CPU torch's kernel goes forward and back over short texts in half the time
        query, key, value = (x.float() for x in (query, key, value))
    with torch.autocast("cpu", enabled=False) if in_float32 else contextlib.nullcontext():
        if layout is not None:
            output = _attend_packed(query, key, value, layout, scoring)
        elif scoring.fits_sdpa:
            kwargs |= {"dropout": dropout, "scaling": scaling}
            output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        else:
            if attention_mask is None:  # sdpa's convention: no mask means causal
                attention_mask = lower_right_causal(query.shape[2], key.shape[2], sliding_window, query.device)
            output = _attend_eagerly(query, key, value, attention_mask, scoring).transpose(1, 2)
    return (output.to(dtype) if in_float32 else output), None


def _attend_packed(query, key, value, layout: SharedPrefixLayout, scoring: Scoring) -> torch.Tensor:
    """(1, T, H, D): every segment of the row attends to its prefix and to itself."""
    if scoring.fits_sdpa and (dtype := _varlen_dtype(query, value)) is not None:
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return _varlen(query, key, value, layout, scoring, varlen_attn)
    gqa = query.shape[1] != key.shape[1]
    # One split for the whole row: its backward is one concatenation, where a slice per group would fill a whole row of
    # zeros for each group.
    queries, keys, values = (x.split(layout.segment_lengths, dim=2) for x in (query, key, value))
    outputs = []
    for i, (first, prefix) in enumerate(layout.segment_prefixes):
        q, k, v, window = queries[i], keys[i], values[i], scoring.sliding_window
        if prefix:
            seen = 0 if window is None else max(0, prefix - window + 1)  # the first query's window
            k = torch.cat((keys[first][:, :, seen:prefix], k), dim=2)
            v = torch.cat((values[first][:, :, seen:prefix], v), dim=2)
        num_queries, num_keys = q.shape[2], k.shape[2]
        if window is not None and window >= num_keys:
            window = None
        mask, causal = None, num_queries > 1
        if not scoring.fits_sdpa or num_queries != num_keys or window is not None:
            mask, causal = layout.lower_right_mask(num_queries, num_keys, window, q.device), False
        if scoring.fits_sdpa:
            options = {"is_causal": causal, "scale": scoring.scaling, "enable_gqa": gqa}
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
        else:
            output = _attend_eagerly(q, k, v, mask, scoring)
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _refuse_other_attention(module, attention_mask, arguments: dict) -> None:
    """Raise where a layer's attention is more than causal attention in a window: a layout would silently overrule it.

    Such as an encoder, or a sparse layer whose indexer keeps every key of a text as short as the check's.
    """
    name = type(module).__name__
    causal = arguments.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise ValueError(f"{name} is not causal, a shared prefix needs causal attention; use the padded form")
    if attention_mask is not None and attention_mask.numel() != 1:
        raise ValueError(f"{name} makes its own attention mask, which packed rows do not support; use the padded form")
    given = {k for k, v in arguments.items() if v is not None and v is not False}
    unknown = given - {"is_causal", "position_ids", "seq_idx", "cu_seq_lens_q"}  # the latter are for recurrent layers
    if unknown:
        raise ValueError(f"{name} gives its attention {', '.join(sorted(unknown))}, unknown here; use the padded form")


def _varlen_dtype(query: torch.Tensor, value: torch.Tensor) -> torch.dtype | None:
    """The dtype in which the variable-length kernel takes these heads, or `None`: the portable path takes them all."""
    device, size = query.device, query.shape[-1]
    if device.type != "cuda" or size != value.shape[-1] or size > 256:
        return None
    # Rotary embedding in float32 gives float32 queries under autocast, which knows sdpa but not this kernel.
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    flash = dtype in (torch.float16, torch.bfloat16) and torch.cuda.get_device_capability(device) >= (8, 0)
    return dtype if flash else None


def _varlen(query, key, value, layout: SharedPrefixLayout, scoring: Scoring, kernel) -> torch.Tensor:
    """One kernel call for all segments: keys gathered once per layer, causal at the lower right, as flash has it."""
    key_index, cu_q, cu_k, max_q, max_k = layout.varlen_indices(query.device)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, D)
    k, v = k[key_index], v[key_index]
    window = (-1 if scoring.sliding_window is None else scoring.sliding_window - 1, 0)
    gqa = query.shape[1] != key.shape[1]
    return kernel(q, k, v, cu_q, cu_k, max_q, max_k, scale=scoring.scaling, window_size=window, enable_gqa=gqa)[None]


def _attend_eagerly(query, key, value, mask, scoring: Scoring) -> torch.Tensor:
    """softmax(cap(q kᵀ · scaling) + mask, with an attention sink per head where the architecture has one) v."""
    softcap, s_aux = scoring.softcap, scoring.s_aux
    key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
    weights = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling)
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
    # a pad that sees nothing gets some finite row; NaN would spread to the real tokens
    weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
    if s_aux is not None:
        sinks = s_aux.reshape(1, -1, 1, 1).expand(weights.shape[0], -1, weights.shape[2], 1)
        weights = torch.cat((weights, sinks.to(weights.dtype)), dim=-1)
    weights = torch.softmax(weights, dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    return (weights if s_aux is None else weights[..., :-1]) @ value


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
