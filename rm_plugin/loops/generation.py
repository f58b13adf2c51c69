"""Batched sampling from a causal language model with one random generator per prompt.

    token_t = F_t⁻¹(u_t)        F_t: the policy's distribution after temperature, top-k, top-p, …
                                u: (n, T) uniform numbers of the generator of (seed, prompt)

So what a prompt's samples say depends on the seed and the prompt, and not on batch size, order, other prompts or
resumption. (Batches of other shapes round differently, in fp32 by some 1e-6, which turns a token about once in a
million; the same batches give the same bits.)

    for samples in sample_completions(policy, tokenizer, ["2 + 2 ="], n=4): print([s.completion for s in samples])

Shapes: N rows of a batch, V vocabulary, T new tokens.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from ..data.comparison import Text, text_key
from ..data.encoding import prompt_ids
from ..messages import located
from ..scoring.scorer import in_eval_mode

DEFAULT_MAX_NEW_TOKENS = 256

# Field of GenerationConfig ► its processor and the values that change nothing; in transformers' order.
WARPERS = {
    "temperature": (TemperatureLogitsWarper, (None, 1.0)),
    "top_h": (TopHLogitsWarper, (None,)),
    "top_k": (TopKLogitsWarper, (None, 0)),
    "top_p": (TopPLogitsWarper, (None, 1.0)),
    "min_p": (MinPLogitsWarper, (None, 0.0)),
    "typical_p": (TypicalLogitsWarper, (None, 1.0)),
    "epsilon_cutoff": (EpsilonLogitsWarper, (None, 0.0)),
    "eta_cutoff": (EtaLogitsWarper, (None, 0.0)),
}


@dataclass
class Sample:
    """One completion.

    Args:
        completion (`str` or `list[dict]`): its text, or the assistant's message where the prompt is a conversation.
        token_ids (`list[int]`): the policy's own tokens, the end token included.
        truncated (`bool`): whether it was cut at the length limit.
    """

    completion: Text
    token_ids: list[int]
    truncated: bool


def load_policy(name: str, **kwargs: Any) -> PreTrainedModel:
    """A causal language model by name, an adapter folder too; one whose language head would be random is refused."""
    kwargs = {"dtype": "auto", **kwargs}
    model, loaded = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **kwargs)
    missing, unexpected = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    if missing or any(key.startswith("score.") for key in unexpected):
        what = f"lacks {missing[0]}" if missing else f"is a reward model (it has {unexpected[0]})"
        raise ValueError(f"{name} {what}, so its language head is not trained; name a causal language model")
    return model


def sampling_config(policy: PreTrainedModel, config: GenerationConfig | dict | None = None) -> GenerationConfig:
    """
    The settings that [`sample_completions`] samples with: those that the policy was saved with, or others.

    A field set in neither has no effect: where `generate` falls back on `top_k=50`, all tokens are drawn from (as in
    GRPO).

    Args:
        policy (`PreTrainedModel`): the language model.
        config (`GenerationConfig` or `dict`, *optional*): all settings, or the fields to change in the policy's own.

    Raises:
        ValueError: beams, a `max_length` (which would count the prompt), or a field that is not known or, as
            transformers sees it, not valid.
    """
    given = config.to_diff_dict() if isinstance(config, GenerationConfig) else config or {}
    if given.get("max_length") is not None and given.get("max_new_tokens") is None:
        raise ValueError(f"max_length={given['max_length']} counts the prompt too; give max_new_tokens")
    if isinstance(config, GenerationConfig):
        config = copy.deepcopy(config)
    else:
        changes = {"do_sample": True, **(config or {})}
        config = copy.deepcopy(policy.generation_config)
        if unknown := [name for name in changes if not hasattr(config, name)]:
            raise ValueError(f"generation_config has {', '.join(unknown)}, unknown to transformers' GenerationConfig")
        config.update(**changes)
    if config.do_sample is None:  # greedy decoding has to be asked for
        config.do_sample = True
    if (config.num_beams or 1) > 1:
        raise ValueError(f"num_beams={config.num_beams}, samples of one policy need independent draws; use 1")
    config.num_return_sequences = 1
    if config.max_new_tokens is None:
        config.max_new_tokens = DEFAULT_MAX_NEW_TOKENS
    config.max_length = None
    return config


def sample_completions(
    policy: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    n: int = 1,
    config: GenerationConfig | dict | None = None,
    *,
    seed: int = 0,
    occurrences: Sequence[int] | None = None,
    template_arguments: Sequence[dict] | None = None,
    batch_size: int = 16,
) -> Iterator[list[Sample]]:
    """
    Sample n completions of every prompt.

    Args:
        policy (`PreTrainedModel` or `PeftModel`): a causal language model.
        processing_class (`PreTrainedTokenizerBase`): its tokenizer.
        prompts (sequence of `str` or `list[dict]`): plain texts or conversations.
        n (`int`, *optional*, defaults to `1`): samples of each.
        config (`GenerationConfig` or `dict`, *optional*): see [`sampling_config`]; 256 new tokens if absent there.
        seed (`int`, *optional*, defaults to `0`): seed of all generators.
        occurrences (sequence of `int`, *optional*):
            For each prompt, how many equal ones came before it, so that equal prompts get other samples; counted
            within `prompts` if absent.
        template_arguments (sequence of `dict`, *optional*): for each prompt its `tools` and `chat_template_kwargs`.
        batch_size (`int`, *optional*, defaults to `16`): sequences of one call of the policy.

    Yields:
        `list[Sample]`: the n samples of one prompt, in the order of the prompts.

    Raises:
        ValueError: an empty prompt, a conversation without a chat template, a prompt that leaves no room.
    """
    config = sampling_config(policy, config)
    template_arguments = template_arguments or [{}] * len(prompts)
    ids = [
        check_prompt(prompt, processing_class, policy, config, index, **arguments)
        for index, (prompt, arguments) in enumerate(zip(prompts, template_arguments, strict=True))
    ]
    occurrences = count_occurrences(prompts) if occurrences is None else occurrences
    rows = [(index, sample) for index in range(len(prompts)) for sample in range(n)]
    samples: list[Sample] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        uniforms = {i: _uniforms(seed, prompts[i], occurrences[i], n, config.max_new_tokens) for i, _ in batch}
        uniforms_NT = np.stack([uniforms[i][sample] for i, sample in batch])
        new_ids = _generate(policy, processing_class, [ids[i] for i, _ in batch], config, uniforms_NT)
        for (i, _), new in zip(batch, new_ids, strict=True):
            samples.append(_to_sample(new, prompts[i], ids[i], policy, processing_class, config))
        while len(samples) >= n:
            yield samples[:n]
            del samples[:n]


def asked(prompt: Text) -> Text:
    """What a completion answers: the prompt without the assistant's words that the policy continues."""
    return prompt[:-1] if _continues(prompt) else prompt


def _continues(prompt: Text) -> bool:
    return not isinstance(prompt, str) and prompt[-1]["role"] == "assistant"


def check_prompt(
    prompt: Text,
    processing_class: PreTrainedTokenizerBase,
    policy: PreTrainedModel,
    config: GenerationConfig,
    index: int,
    **template_arguments,
) -> list[int]:
    """[`prompt_ids`], of a prompt that leaves room for its completion."""
    with located(f"prompt {index}"):
        ids = prompt_ids(prompt, processing_class, **template_arguments)
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and len(ids) + config.max_new_tokens > context:
        raise ValueError(
            f"prompt {index} has {len(ids)} tokens, with max_new_tokens={config.max_new_tokens} that is over the "
            f"policy's context of {context}; shorten one of them"
        )
    return ids


def count_occurrences(prompts: Sequence[Text]) -> list[int]:
    """For each prompt, how many equal ones stand before it.

    Example:
        >>> count_occurrences(["a", "b", "a"])
        [0, 0, 1]
    """
    seen: Counter[str] = Counter()
    occurrences = []
    for key in map(text_key, prompts):
        occurrences.append(seen[key])
        seen[key] += 1
    return occurrences


# --- one call of the policy


class _PickByUniform(LogitsProcessor):
    """Puts all probability on the token that the row's own uniform number picks; the greedy search then takes it."""

    def __init__(self, uniforms_NT: torch.Tensor, prompt_length: int):
        self.uniforms_NT = uniforms_NT
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        uniform_N1 = self.uniforms_NT[:, input_ids.shape[1] - self.prompt_length, None]
        cdf_NV = scores.float().softmax(-1).cumsum(-1)
        # Just below the total, so that rounding cannot point behind the last token that has any probability.
        picked_N1 = torch.searchsorted(cdf_NV, uniform_N1 * cdf_NV[:, -1:] * (1 - 2**-20), right=True)
        return torch.full_like(scores, -torch.inf).scatter_(-1, picked_N1, 0.0)


@torch.no_grad()
def _generate(
    policy: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    config: GenerationConfig,
    uniforms_NT: np.ndarray,
) -> list[list[int]]:
    """New token ids of one left-padded batch, as the policy wrote them (what follows the end is still there)."""
    longest = max(map(len, prompts))
    ends = _end_tokens(policy, processing_class, config)
    pad = processing_class.pad_token_id
    pad = pad if pad is not None else ends[0] if ends else 0
    input_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=policy.device)
    attention_mask = torch.tensor(
        [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=policy.device
    )
    greedy = copy.deepcopy(config)
    processors = LogitsProcessorList()
    if config.do_sample:
        for name, (warper, neutral) in WARPERS.items():
            if (value := getattr(config, name, None)) not in neutral:
                device = {"device": policy.device.type} if warper is EtaLogitsWarper else {}
                processors.append(warper(value, **device))
        processors.append(_PickByUniform(torch.from_numpy(uniforms_NT).to(policy.device), longest))
    for name in WARPERS:
        setattr(greedy, name, None)
    greedy.do_sample, greedy.use_cache = False, True
    greedy.pad_token_id = pad
    greedy.eos_token_id = ends or None
    with in_eval_mode(policy):
        sequences = policy.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=greedy,
            logits_processor=processors,
            **({"tokenizer": processing_class} if greedy.stop_strings else {}),
        )
    return sequences[:, longest:].tolist()


def _to_sample(
    new_ids: list[int],
    prompt: Text,
    prompt_ids: list[int],
    policy: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    config: GenerationConfig,
) -> Sample:
    ends = set(_end_tokens(policy, processing_class, config))
    end = next((i for i, token in enumerate(new_ids) if token in ends), None)
    truncated = end is None and len(new_ids) >= config.max_new_tokens
    new_ids = new_ids if end is None else new_ids[: end + 1]
    if config.stop_strings:  # what stopped at one is filled up with pads, which may be end tokens
        fillers = ends | {processing_class.pad_token_id}
        written = next((i for i, token in enumerate(new_ids) if token in fillers), len(new_ids))
        if _stops(processing_class, prompt_ids[-32:], new_ids[:written], config.stop_strings):
            new_ids, truncated = new_ids[:written], False
    text = processing_class.decode(new_ids, skip_special_tokens=True)
    if isinstance(prompt, str) or _continues(prompt):  # some tokenizers drop a space where they begin to decode
        before = processing_class.decode(prompt_ids, skip_special_tokens=True)
        whole = processing_class.decode(prompt_ids + new_ids, skip_special_tokens=True)
        text = whole[len(before) :] if whole.startswith(before) else text
    if isinstance(prompt, str):
        completion = text
    else:  # the whole message, with the words that the policy was given to begin with
        completion = [_message(prompt[-1] if _continues(prompt) else {"role": "assistant"}, text)]
    return Sample(completion, new_ids, truncated)


def _stops(processing_class, before_ids: list[int], new_ids: list[int], stop_strings: str | list[str]) -> bool:
    """Whether a stop string ends in the new text; it may begin in the prompt."""
    before, whole = processing_class.decode(before_ids), processing_class.decode(before_ids + new_ids)
    stop_strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
    return any(stop in whole[max(0, len(before) - len(stop) + 1) :] for stop in stop_strings)


def _message(begun: dict[str, Any], text: str) -> dict[str, Any]:
    """The assistant's message, continued by `text`."""
    content = begun.get("content")
    if isinstance(content, list):
        *first, last = content or [{"type": "text", "text": ""}]
        if last.get("type", "text") == "text":
            content = [*first, {**last, "text": (last.get("text") or "") + text}]
        else:
            content = [*first, last, {"type": "text", "text": text}]
    else:
        content = (content or "") + text
    return {**begun, "content": content}


def _end_tokens(
    policy: PreTrainedModel, processing_class: PreTrainedTokenizerBase, config: GenerationConfig
) -> list[int]:
    """Every token that ends a completion: of the settings, the policy and its tokenizer (a chat model has several)."""
    ends: list[int] = []
    for value in (config.eos_token_id, policy.generation_config.eos_token_id, processing_class.eos_token_id):
        ends += value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return list(dict.fromkeys(ends))


def _uniforms(seed: int, prompt: Text, occurrence: int, n: int, num_tokens: int) -> np.ndarray:
    """(n, T) float32 uniform numbers in [0, 1) of one prompt's generator."""
    generator = np.random.default_rng([seed, int(text_key(prompt), 16), occurrence])
    return generator.random((n, num_tokens), dtype=np.float32)
