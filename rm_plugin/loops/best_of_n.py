"""Best-of-n: n completions per prompt, scored as one group, the best one chosen; from a policy or ready candidates.

    prompts ► n samples each (`generation.py`)  ┐
    ready candidates (any generator's jsonl)    ┴► scores ► ranks, the best ► jsonl, resumable
                                                   ├► pairs best ≻ worst for DPO and reward models
                                                   └► winners for SFT (rejection sampling)

A run with an `output` keeps samples and results in the journal `OUTPUT.journal` until the output is whole, and then
the settings that made it in `OUTPUT.settings.json`. Processes of torchrun share whole prompts.

Expected reward and gold value of the best of n come with the bound KL(best-of-n ‖ policy) ≤ ln n − (n − 1)/n, and with
gain (over n = 1) and regret (to a choice by the gold value itself) where gold values are known.

    results = BestOfNSampler("my-policy", None, "my-reward-model").sample(["2 + 2 ="], output="best.jsonl")
    print(results[0].chosen, summarize(results)["curve"])
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.comparison import Comparison, Text, text_key, text_length, to_prompt
from ..files import Journal, check_settings, json_number, read_jsonl, read_settings, write_jsonl, write_settings
from ..messages import check_at_least, explained, located
from ..model.checkpoint import load_language_model
from ..model.sharding import is_split
from ..processes import Processes, open_journal, shares
from ..scoring.rewards import as_reward
from ..scoring.scorer import RewardScorer
from .candidates import BestOfN, answer_is_right, read_candidates, summarize, to_preferences, to_sft
from .generation import PolicySampler, asked, count_occurrences

SCORED_PER_CHUNK = 512  # ready candidates between two writes of the output

__all__ = ["BestOfN", "BestOfNSampler", "answer_is_right", "read_candidates", "summarize", "to_preferences", "to_sft"]


class BestOfNSampler:
    """
    Samples n completions per prompt from a policy, scores them and chooses; or does that with ready candidates.

    Args:
        policy (`str`, `PreTrainedModel` or `PeftModel`, *optional*): the language model; None for ready candidates.
        processing_class (`PreTrainedTokenizerBase`, *optional*): the policy's tokenizer; loaded with it if absent.
        scorer ([`RewardScorer`], `str` or a reward function): the reward; a name is loaded as `RewardScorer(name)`, a
            function takes `prompts, completions` and returns one number per completion, as TRL's do.
        n (`int`, *optional*, defaults to `16`): completions per prompt.
        generation_config (`GenerationConfig` or `dict`, *optional*):
            Sampling settings, or fields to change in the policy's own; `max_new_tokens` is 256 where nothing is said.
        callbacks (`list`, *optional*):
            Called with `(prompts, completions, scores, completion_ids=…, truncated=…)` after each batch, as
            [`RewardScoringCallback`] is; one that has `flush()` is flushed at the end.
        gold ([`RewardScorer`] or a reward function, *optional*):
            Gives the true values. A function also gets `answer`, the list of the prompts' answers. Absent, candidates
            are compared with the prompts' `answer` (see [`answer_is_right`]) where they have one.
        seed (`int`, *optional*, defaults to `0`): seed of all samples.
        batch_size (`int`, *optional*, defaults to `16`): sequences that the policy generates at once.
        progress (`bool`, *optional*, defaults to `False`): show a progress bar.

    Raises:
        ValueError: a policy or reward that cannot be loaded, a policy without tokenizer, greedy sampling with n > 1.

    Example:

    ```python
    sampler = BestOfNSampler("my-policy", None, RewardScorer("my-reward-model"), n=16)
    results = sampler.sample(["Which country owns Antarctica?"], output="best.jsonl")
    ready = [{"prompt": "2 + 2 =", "completions": ["4", "5"]}]
    BestOfNSampler(None, None, "my-reward-model").rank(ready)[0].chosen
    ```
    """

    def __init__(
        self,
        policy: str | os.PathLike | PreTrainedModel | None,
        processing_class: PreTrainedTokenizerBase | None = None,
        scorer: RewardScorer | str | os.PathLike | Callable | None = None,
        n: int = 16,
        generation_config: GenerationConfig | dict | None = None,
        callbacks: Sequence[Callable] | None = None,
        *,
        gold: RewardScorer | Callable | None = None,
        seed: int = 0,
        batch_size: int = 16,
        progress: bool = False,
    ):
        check_at_least(1, n=n, batch_size=batch_size)
        self._reward = as_reward(scorer)
        self._gold = None if gold is None else as_reward(gold)
        self._worth = self._gold or as_reward(_rightness)
        if isinstance(policy, (str, os.PathLike)):
            name = os.fspath(policy)
            with explained(f"the policy {name} cannot be loaded"):
                policy = load_language_model(name)
                if torch.accelerator.is_available():
                    policy = policy.to(torch.accelerator.current_accelerator())
                if processing_class is None:
                    processing_class = AutoTokenizer.from_pretrained(name)
        if policy is not None and processing_class is None:
            raise ValueError("processing_class is missing, the policy needs its tokenizer; give it")
        self._policy = None if policy is None else PolicySampler(policy, processing_class, generation_config)
        if n > 1 and self._policy is not None and not self._policy.config.do_sample:
            raise ValueError(f"do_sample=False gives {n} equal completions; set do_sample=True or n=1")
        self.n = n
        self.callbacks = list(callbacks or [])
        self.seed = seed
        self.batch_size = batch_size
        self.progress = progress

    def sample(
        self, prompts: Iterable[Text | Mapping[str, Any]], output: str | os.PathLike | None = None
    ) -> list[BestOfN]:
        """
        Generate, score and choose.

        Args:
            prompts (list of `str`, of `list[dict]`, or of rows): texts, conversations, or rows with `prompt` and
                perhaps `answer`, `tools`, `chat_template_kwargs`. Where a conversation ends with the assistant's
                words, the policy continues them, and they are part of the completions.
            output (`str`, *optional*):
                A jsonl file for the results. A run that was killed resumes from its journal: what was generated is
                never generated again.

        Returns:
            `list[BestOfN]`, in the order of the prompts.

        Raises:
            ValueError: no prompts, an empty one, a conversation without a chat template, an output of other settings.
        """
        if self._policy is None:
            raise ValueError("policy is None, there is nothing to sample from; give a policy or use rank(candidates)")
        groups = []
        for index, row in enumerate(prompts):
            groups.append(to_prompt(row, index))
            groups[-1].metadata = {"answer": row.get("answer") if isinstance(row, Mapping) else None}
        if not groups:
            raise ValueError("there are no prompts; give at least one")
        return self._run(groups, max(1, self.batch_size // self.n), output)

    def rank(
        self, candidates: Iterable[Comparison | Mapping[str, Any]], output: str | os.PathLike | None = None
    ) -> list[BestOfN]:
        """
        Score ready candidates and choose.

        Args:
            candidates (list of `Comparison` or of rows): see [`read_candidates`].
            output (`str`, *optional*): as in [`BestOfNSampler.sample`].

        Returns:
            `list[BestOfN]`, in the order of the candidates' prompts.

        Raises:
            ValueError: no candidates, a row without prompt or completions, an output of other settings.
        """
        groups = read_candidates(candidates)
        most = max(len(group.completions) for group in groups)
        return self._run(groups, max(1, SCORED_PER_CHUNK // most), output)

    # --- the run

    def _run(self, groups: list[Comparison], groups_per_chunk: int, output) -> list[BestOfN]:
        world = Processes.current()
        occurrences = count_occurrences(groups)
        costs = [self._cost(group, i) for i, group in enumerate(groups)]  # bad prompts are refused before the work
        settings = {} if output is None else self._settings(groups)
        journal, done, lines = open_journal(world, output, lambda journal: _begin(journal, settings))
        with journal:
            done |= {f"result {line['index']}": line for line in lines}
            waiting = [i for i in range(len(groups)) if f"result {i}" not in done]
            mine = [waiting[k] for k in shares([costs[i] for i in waiting], world.size)[world.rank]]
            if self._reward.in_step or (self._policy is not None and is_split(self._policy.policy)):
                mine = waiting
            own: dict[str, Any] = {}
            hidden = world.rank > 0 or not self.progress
            for start in tqdm(range(0, len(mine), groups_per_chunk), "best of n", unit="chunk", disable=hidden):
                chunk = mine[start : start + groups_per_chunk]
                fresh = [i for i in chunk if not groups[i].completions and f"samples {i}" not in done]
                for i, samples in zip(fresh, self._sample(groups, fresh, occurrences), strict=True):
                    done[f"samples {i}"] = samples
                    journal.append(f"samples {i}", samples)
                candidates = [_with_samples(groups[i], done.pop(f"samples {i}", None)) for i in chunk]
                for result in self._score(candidates, chunk):
                    own[f"result {result.index}"] = asdict(result)
                    journal.append(f"result {result.index}", asdict(result))
            for part in world.gather(own):
                done |= part
            results = [done[f"result {i}"] for i in range(len(groups))]
            if world.rank == 0 and output is not None and (waiting or not lines):
                write_settings(output, settings)
                write_jsonl(output, results)
            if world.rank == 0:
                journal.finish()
            world.wait()
        for callback in self.callbacks:
            if hasattr(callback, "flush"):
                callback.flush()
        return [BestOfN(**line) for line in results]

    def _cost(self, group: Comparison, index: int) -> int:
        """What a prompt costs, to share the work fairly: tokens, or characters of ready completions."""
        if group.completions:
            return text_length(group.prompt) + sum(map(text_length, group.completions))
        return len(self._policy.prompt_ids(group, index)) + self.n * self._policy.config.max_new_tokens

    def _sample(self, groups: list[Comparison], indices: list[int], occurrences: list[int]) -> Iterable[list[dict]]:
        if not indices:
            return []
        options = {"occurrences": [occurrences[i] for i in indices], "seed": self.seed, "batch_size": self.batch_size}
        samples = self._policy.sample([groups[i] for i in indices], self.n, **options)
        return ([asdict(sample) for sample in of_prompt] for of_prompt in samples)

    def _score(self, groups: list[Comparison], indices: list[int]) -> list[BestOfN]:
        scores = self._reward.score_comparisons(groups)
        gold = self._worth.score_comparisons(groups)
        results = []
        for index, group, values, worth in zip(indices, groups, scores, gold, strict=True):
            known = {name: group.metadata.get(name) for name in ("gold", "truncated", "systems")}
            known = {
                name: None if column is None or set(column) == {None} else column for name, column in known.items()
            }
            if not np.isnan(worth).all():
                known["gold"] = list(map(json_number, worth))
            best = None if np.isnan(values).all() else int(np.nanargmax(values))
            arguments = {**known, **group.template_arguments, "best": best}
            scored = list(map(json_number, values))
            results.append(BestOfN(index, group.prompt, group.completions, scored, _ranks(values), **arguments))
        self._call_back(groups, scores)
        return results

    def _call_back(self, groups: list[Comparison], scores: list[np.ndarray]) -> None:
        prompts = [group.prompt for group in groups for _ in group.completions]
        completions = [text for group in groups for text in group.completions]
        context = {}
        for name in ("completion_ids", "truncated"):
            values = [one for group in groups for one in group.metadata.get(name) or [None]]
            context[name] = None if None in values else values
        for callback in self.callbacks:
            callback(prompts, completions, np.concatenate(scores), **context)

    def _settings(self, groups: list[Comparison]) -> dict[str, Any]:
        """What the results depend on."""
        texts = [[group.prompt, group.completions, group.template_arguments, group.metadata] for group in groups]
        settings = {
            "prompts": text_key(json.dumps(texts, default=str)),
            **self._reward.settings("reward"),
            **({"gold_kind": None} if self._gold is None else self._gold.settings("gold")),
        }
        if not groups[0].completions:
            settings |= {**self._policy.settings(), "n": self.n, "seed": self.seed}
        return settings


# --- helpers


def _begin(journal: Journal, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Refuse an output of other prompts or settings; the lines of one that is whole."""
    if journal.output is None:
        return []
    path, made_with = Path(journal.output), read_settings(journal.output)
    whole = path.exists()
    if whole and made_with is None:
        raise ValueError(f"{path} exists and is no output of best-of-n; name another file")
    earlier = made_with or journal.settings or {}
    free = _without_effect(earlier, settings, whole or any(key.startswith("result ") for key in journal))
    if not whole:
        journal.begin(settings, ignoring=free)
        return []
    check_settings(path, earlier, settings, free)
    lines = []
    for number, line in read_jsonl(path):
        with located(f"{path} line {number}"):
            lines.append(asdict(BestOfN(**line)))
    return lines


def _without_effect(earlier: dict[str, Any], now: dict[str, Any], has_results: bool) -> set[str]:
    """Settings whose change would not alter the results that are there."""
    free = set()
    for role in ("reward", "gold"):
        limit, mode = f"{role}_max_length", f"{role}_truncation_mode"
        if not has_results:  # samples do not depend on the reward
            free |= {name for name in {**earlier, **now} if name.startswith(f"{role}_")}
        elif earlier.get(mode) == "error":  # none was over the limit
            free |= {mode, *([limit] if (now.get(limit) or 0) >= earlier[limit] else [])}
    return free


def _with_samples(group: Comparison, samples: list[dict[str, Any]] | None) -> Comparison:
    if samples is None:
        return group
    completions, ids, truncated = (
        [sample[key] for sample in samples] for key in ("completion", "token_ids", "truncated")
    )
    metadata = {**group.metadata, "completion_ids": ids, "truncated": truncated}
    return Comparison(asked(group.prompt), completions, **group.template_arguments, metadata=metadata)


def _rightness(prompts: list[Text], completions: list[Text], answer: list[Any]) -> list[bool | None]:
    """Gold values by known answers, see [`answer_is_right`]."""
    pairs = zip(completions, answer, strict=True)
    return [None if known is None else answer_is_right(text, known) for text, known in pairs]


def _ranks(scores: np.ndarray) -> list[int]:
    """0 for the highest score, equal for equal ones; what is not scored comes last."""
    return [int(np.sum(scores > s)) if s == s else int(np.isfinite(scores).sum()) for s in scores]
