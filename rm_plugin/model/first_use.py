"""Which form of a batch gives a model's true scores with the least work: seen at its first use, on one small group.

to_score, to_train, reason = best_form(model, "sdpa")    # "packed", "packed", None; or what it takes instead and why
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from ..data.encoding import EncodedGroup
from .attention import IMPLEMENTATION
from .packing import Call, pack, pack_apart, pad

# Kinds of layers in configs: what a layout serves, and what keeps a state of all before or sees its token alone.
ATTENTION = {"full_attention", "sliding_attention"}
RECURRENT = {"linear_attention", "conv", "hybrid", "mlp", "moe"}


def best_form(model: PreTrainedModel, attention: str | None) -> tuple[str, str, str | None]:
    """
    The forms of [`rm_plugin.model.packing.collate`] in which a model scores and trains, and why not `"packed"`.

    Args:
        model (`RewardModel`): in eval mode, adapters included; its attention implementation may be changed.
        attention (`str`, *optional*): the implementation that its backbone came with.
    """
    if attention not in (IMPLEMENTATION, "sdpa", "eager"):
        reason = f"attn_implementation={attention!r} was asked for; leave it unset to share prefixes"
        return "sorted", "sorted", reason
    unknown = set(_kinds_of_layers(model)) - ATTENTION
    if unknown:  # other attention that is refused below may see more than its cache tells
        reason = f"{type(model.model).__name__} has layers of kind {', '.join(sorted(unknown))}"
        is_continued = _attempt(_why_not_continued, model) is None
        to_train = "apart" if _attempt(_why_not_apart, model) is None else "sorted"
        return ("continued" if is_continued else to_train), to_train, reason
    reason = _attempt(_why_not_packed, model)
    form = "packed" if reason is None else "sorted"
    return form, form, reason


def _kinds_of_layers(model: PreTrainedModel) -> list[str]:
    config = model.config.backbone_config.get_text_config()
    return getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers


def _attempt(check: Callable[[PreTrainedModel], str | None], model: PreTrainedModel) -> str | None:
    try:
        return check(model)
    except Exception as error:  # an architecture that cannot take the form at all; its own words are the reason
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _why_not_packed(model: PreTrainedModel) -> str | None:
    config, name = model.config.backbone_config.get_text_config(), type(model.model).__name__
    sequences, kinds = _sequences(model), _kinds_of_layers(model)
    padded = _hidden_ends(model, pad(sequences))
    model.model.set_attn_implementation(IMPLEMENTATION)
    batch = pack([EncodedGroup(sequences[:3]), EncodedGroup(sequences[3:])])
    seen = batch["shared_prefix_layout"].seen_windows = []
    packed = _hidden_ends(model, batch)
    window = getattr(config, "sliding_window", None)
    hidden_window = (
        window is not None
        and window < (getattr(config, "max_position_embeddings", None) or window)
        and getattr(config, "layer_types", None) is None
        and all(w is None for w in seen)
    )
    if hidden_window:
        return f"{name} has a window of {window} that it does not hand to its attention"
    if len(seen) != len(kinds) or sum(w is not None for w in seen) < kinds.count("sliding_attention"):
        return f"{name} does not hand the layout to the attention of all its layers"
    return _difference(model, packed, padded, "packed")


def _why_not_apart(model: PreTrainedModel) -> str | None:
    sequences, kinds, name = _sequences(model), _kinds_of_layers(model), type(model.model).__name__
    if other := set(kinds) - ATTENTION - RECURRENT:  # attention that these texts may be too short to tell
        return f"{name} has layers of kind {', '.join(sorted(other))}"
    sequences += [sequences[0][20:21], sequences[1][20:22]]  # the shorter, the more would come from the text before
    padded = _hidden_ends(model, pad(sequences))
    model.model.set_attn_implementation(IMPLEMENTATION)
    batch = pack_apart([EncodedGroup(sequences)])
    seen = batch["shared_prefix_layout"].seen_windows = []
    apart = _hidden_ends(model, batch)
    num_attention = sum(kind in ATTENTION or kind == "hybrid" for kind in kinds)
    if len(seen) != num_attention or sum(w is not None for w in seen) < kinds.count("sliding_attention"):
        return f"{name} does not hand the layout to the attention of all its layers"
    return _difference(model, apart, padded, "apart")


def _why_not_continued(model: PreTrainedModel) -> str | None:
    sequences = _sequences(model)
    batch = pad(sequences)
    continued = _hidden_ends(model, {**batch, "calls": [Call([0, 1, 2, 3], len(sequences[1]), 17)]})
    return _difference(model, continued, _hidden_ends(model, batch), "continued")


def _sequences(model: PreTrainedModel) -> list[list[int]]:
    """Four texts with a prefix of 17 tokens, one of which is a prefix of another."""
    vocab_size, pad_token_id = model.config.vocab_size, model.config.trailing_pad_id  # which would be cut at an end
    ids = torch.randint(0, vocab_size, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    ids = [(i + 1) % vocab_size if i == pad_token_id else i for i in ids]
    return [ids[:24], ids[:17] + ids[24:33], ids[:17] + ids[33:40], ids[:18]]


def _hidden_ends(model: PreTrainedModel, batch: dict) -> torch.Tensor:
    """(N, H) float64, what the head reads."""
    pooled = []
    handle = model.score.register_forward_pre_hook(lambda _, args: pooled.append(args[0].double()))
    try:
        model(**{k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
    finally:
        handle.remove()
    return torch.cat(pooled)


def _difference(model: PreTrainedModel, ours: torch.Tensor, padded: torch.Tensor, form: str) -> str | None:
    # Wrong attention is off by tenths; the rest is rounding of the dtype that the layers compute in.
    dtype = torch.bfloat16 if getattr(model, "is_loaded_in_4bit", False) else model.model.dtype
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 0.05)
    relative = ((ours - padded).norm() / padded.norm().clamp_min(1e-30)).item()
    if relative <= tolerance:
        return None
    return f"{type(model.model).__name__} gives other results {form} than padded (relative {relative:.2g})"
