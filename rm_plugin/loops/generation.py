"""Batched sampling from a causal language model with one random generator per prompt.

    token_t = F_t⁻¹(u_t)        F_t: the policy's distribution after temperature, top-k, top-p, …
                                u: (n, T) uniform numbers of the generator of (seed, prompt)

So what a prompt's samples say depends on the seed and the prompt, and not on batch size, order, other prompts or
resumption. (Batches of other shapes round differently, in fp32 by some 1e-6, which turns a token about once in a
million; the same batches give the same bits.)

    sampler = PolicySampler(policy, tokenizer, {"temperature": 0.8})
    for samples in sampler.sample([to_prompt("2 + 2 =")], n=4): print([s.completion for s in samples])

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
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    StopStringCriteria,
)

from ..data.comparison import Comparison, Text, text_key
from ..data.encoding import prompt_ids
from ..messages import located
from ..scoring.base import tokenizer_digest
from ..scoring.scorer import in_eval_mode, weights_digest

DEFAULT_MAX_NEW_TOKENS = 256


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


class PolicySampler:
    """
    A causal language model with its tokenizer and the settings that it samples with.

    The settings are those that the policy was saved with, or others. A field set in neither has no effect: where
    `generate` falls back on `top_k=50`, all tokens are drawn from (as in GRPO). Whatever ends a text for the settings,
    the policy or its tokenizer (a chat model has several) ends it here; 256 new tokens where nothing is said.

    Args:
        policy (`PreTrainedModel` or `PeftModel`): the language model.
        processing_class (`PreTrainedTokenizerBase`): its tokenizer.
        config (`GenerationConfig` or `dict`, *optional*): all settings, or the fields to change in the policy's own.

    Raises:
        ValueError: beams, a `max_length` (which would count the prompt), or a field that is not known or, as
            transformers sees it, not valid.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        processing_class: PreTrainedTokenizerBase,
        config: GenerationConfig | dict | None = None,
    ):
        whole = isinstance(config, GenerationConfig)
        given = config.to_diff_dict() if whole else config or {}
        changes = {"do_sample": True, **given}  # greedy has to be asked for
        if changes.get("max_length") is not None and changes.get("max_new_tokens") is None:
            raise ValueError(f"max_length={changes['max_length']} counts the prompt too; give max_new_tokens")
        config = copy.deepcopy(config if whole else policy.generation_config)
        if unknown := [name for name in changes if not hasattr(config, name)]:
            raise ValueError(f"generation_config has {', '.join(unknown)}, unknown to transformers' GenerationConfig")
        config.update(**changes)
        if (config.num_beams or 1) > 1:
            raise ValueError(f"num_beams={config.num_beams}, samples of one policy need independent draws; use 1")
        ends: list[int] = []
        for value in (config.eos_token_id, policy.generation_config.eos_token_id, processing_class.eos_token_id):
            ends += value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        pad = processing_class.pad_token_id
        config.eos_token_id = list(dict.fromkeys(ends)) or None
        config.pad_token_id = pad if pad is not None else next(iter(ends), 0)
        if config.do_sample:
            config.top_k = config.top_k or 0
        if config.max_new_tokens is None:
            config.max_new_tokens = DEFAULT_MAX_NEW_TOKENS
        config.max_length, config.num_return_sequences, config.use_cache = None, 1, True
        self.policy, self.processing_class, self.config = policy, processing_class, config

    def sample(
        self,
        prompts: Sequence[Comparison],
        n: int = 1,
        *,
        seed: int = 0,
        occurrences: Sequence[int] | None = None,
        batch_size: int = 16,
    ) -> Iterator[list[Sample]]:
        """
        Sample n completions of every prompt.

        Args:
            prompts (sequence of [`Comparison`]): what [`to_prompt`] has read, with tools and template variables.
            n (`int`, *optional*, defaults to `1`): samples of each.
            seed (`int`, *optional*, defaults to `0`): seed of all generators.
            occurrences (sequence of `int`, *optional*):
                For each prompt, how many equal ones came before it, so that equal prompts get other samples; counted
                within `prompts` if absent.
            batch_size (`int`, *optional*, defaults to `16`): sequences of one call of the policy.

        Yields:
            `list[Sample]`: the n samples of one prompt, in the order of the prompts.

        Raises:
            ValueError: an empty prompt, a conversation without a chat template, a prompt that leaves no room.
        """
        ids = [self.prompt_ids(prompt, index) for index, prompt in enumerate(prompts)]
        occurrences = count_occurrences(prompts) if occurrences is None else occurrences
        rows = [(index, sample) for index in range(len(prompts)) for sample in range(n)]
        size, samples = (n, self.config.max_new_tokens), []
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            uniforms = {i: _uniforms(seed, prompts[i], occurrences[i], size) for i, _ in batch}
            uniforms_NT = np.stack([uniforms[i][sample] for i, sample in batch])
            new_ids = self._generate([ids[i] for i, _ in batch], uniforms_NT)
            for (i, _), new in zip(batch, new_ids, strict=True):
                samples.append(self._sample(new, prompts[i].prompt, ids[i]))
            while len(samples) >= n:
                yield samples[:n]
                del samples[:n]

    def settings(self) -> dict[str, Any]:
        """What samples depend on beside prompt and seed, by name."""
        return {
            "policy": getattr(self.policy.config, "name_or_path", None) or type(self.policy).__name__,
            "policy_weights": weights_digest(self.policy),
            "policy_tokenizer": tokenizer_digest(self.processing_class),
            **{name: value for name, value in self.config.to_diff_dict().items() if name != "transformers_version"},
        }

    def prompt_ids(self, prompt: Comparison, index: int) -> list[int]:
        """Token ids of a prompt that leaves room for its completion."""
        with located(f"prompt {index}"):
            ids = prompt_ids(prompt.prompt, self.processing_class, **prompt.template_arguments)
        context = getattr(self.policy.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and len(ids) + self.config.max_new_tokens > context:
            raise ValueError(
                f"prompt {index} has {len(ids)} tokens, with max_new_tokens={self.config.max_new_tokens} that is over "
                f"the policy's context of {context}; shorten one of them"
            )
        return ids

    @torch.no_grad()
    def _generate(self, prompts: list[list[int]], uniforms_NT: np.ndarray) -> list[list[int]]:
        """New token ids of one left-padded batch, as the policy wrote them (what follows the end is still there)."""
        policy, config, stops = self.policy, copy.deepcopy(self.config), StoppingCriteriaList()
        rows, padded = [torch.tensor(ids) for ids in prompts], {"batch_first": True, "padding_side": "left"}
        input_ids = pad_sequence(rows, padding_value=config.pad_token_id, **padded).to(policy.device)
        attention_mask = pad_sequence([torch.ones_like(row) for row in rows], **padded).to(policy.device)
        width, uniforms_NT = input_ids.shape[1], torch.from_numpy(uniforms_NT).to(policy.device)

        def pick(input_ids: torch.Tensor, scores_NV: torch.Tensor) -> torch.Tensor:
            """All probability on the token that the row's uniform number picks; the greedy search then takes it."""
            cdf_NV = scores_NV.float().softmax(-1).cumsum(-1)
            # Just below the total, so that rounding cannot point behind the last token that has any probability.
            total_N1 = cdf_NV[:, -1:] * (1 - 2**-20)
            uniforms_N1 = uniforms_NT[:, input_ids.shape[1] - width, None]
            picked_N1 = torch.searchsorted(cdf_NV, uniforms_N1 * total_N1, right=True)
            return torch.full_like(scores_NV, -torch.inf).scatter_(-1, picked_N1, 0.0)

        def draw(model, input_ids, logits_processor, generation_config, **kwargs):
            # transformers' own loop is private, and nothing public puts a processor behind the warpers.
            logits_processor.append(pick)
            generation_config.do_sample = False
            return type(model)._sample(
                model, input_ids, logits_processor, generation_config=generation_config, **kwargs
            )

        if config.stop_strings:
            stops.append(StopStringCriteria(self.processing_class, config.stop_strings))
            config.stop_strings = None
        with in_eval_mode(policy):
            sequences = policy.generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                generation_config=config,
                stopping_criteria=stops,  # beside a custom_generate `generate` loses the tokenizer that its own needs
                custom_generate=draw if config.do_sample else None,
            )
        return sequences[:, width:].tolist()

    def _sample(self, new_ids: list[int], prompt: Text, prompt_ids: list[int]) -> Sample:
        ends = set(self.config.eos_token_id or [])
        end = next((i for i, token in enumerate(new_ids) if token in ends), None)
        truncated = end is None and len(new_ids) >= self.config.max_new_tokens
        new_ids = new_ids if end is None else new_ids[: end + 1]
        if self.config.stop_strings:  # what stopped at one is filled up with pads, which may be end tokens
            fillers = ends | {self.processing_class.pad_token_id}
            written = next((i for i, token in enumerate(new_ids) if token in fillers), len(new_ids))
            if self._stops(prompt_ids[-32:], new_ids[:written]):
                new_ids, truncated = new_ids[:written], False
        begun = prompt[-1] if _continues(prompt) else {"role": "assistant", "content": ""}
        joined = isinstance(prompt, str) or _continues(prompt)
        text = completion_text(self.processing_class, prompt_ids if joined else [], new_ids)
        # In a conversation it is the whole message, with the words that the policy was given to begin with.
        completion = text if isinstance(prompt, str) else [{**begun, "content": begun["content"] + text}]
        return Sample(completion, new_ids, truncated)

    def _stops(self, before_ids: list[int], new_ids: list[int]) -> bool:
        """Whether a stop string ends in the new text; it may begin in the prompt."""
        before, whole = (self.processing_class.decode(ids) for ids in (before_ids, before_ids + new_ids))
        strings = self.config.stop_strings
        strings = [strings] if isinstance(strings, str) else strings
        return any(stop in whole[max(0, len(before) - len(stop) + 1) :] for stop in strings)


def asked(prompt: Text) -> Text:
    """What a completion answers: the prompt without the assistant's words that the policy continues."""
    return prompt[:-1] if _continues(prompt) else prompt


def _continues(prompt: Text) -> bool:
    return not isinstance(prompt, str) and prompt[-1]["role"] == "assistant"


def count_occurrences(prompts: Sequence[Comparison]) -> list[int]:
    """For each prompt, how many equal ones come before it.

    Example:
        >>> count_occurrences([Comparison(text, []) for text in ("a", "b", "a")])
        [0, 0, 1]
    """
    seen: Counter[str] = Counter()
    occurrences = []
    for key in (text_key(prompt.prompt) for prompt in prompts):
        occurrences.append(seen[key])
        seen[key] += 1
    return occurrences


def completion_text(tokenizer: PreTrainedTokenizerBase, prompt: list[int], ids: list[int]) -> str:
    """What `ids` add to the text of a prompt; decoded alone, they lose a space with some tokenizers."""
    before, whole = (tokenizer.decode(some, skip_special_tokens=True) for some in (prompt, prompt + ids))
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids, skip_special_tokens=True)


def _uniforms(seed: int, prompt: Comparison, occurrence: int, size: tuple[int, int]) -> np.ndarray:
    """(n, T) float32 uniform numbers in [0, 1) of one prompt's generator."""
    generator = np.random.default_rng([seed, int(text_key(prompt.prompt), 16), occurrence])
    return generator.random(size, dtype=np.float32)
