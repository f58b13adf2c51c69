"""Best-of-n: n completions per prompt, scored as one group, the best one chosen; from a policy or ready candidates.

    prompts ► n samples each (`generation.py`)  ┐
    ready candidates (any generator's jsonl)    ┴► scores ► ranks, the best ► jsonl, resumable
                                                   ├► pairs best ≻ worst for DPO and reward models
                                                   └► winners for SFT (rejection sampling)

A run with an `output` keeps samples and results in the journal `OUTPUT.journal` until the output is whole, and then
the settings that made it in `OUTPUT.settings.json`. Processes of torchrun share whole prompts.

Expected reward and gold value of the best of n come with the bound KL(best-of-n ‖ policy) ≤ ln n − (n − 1)/n, and with
gain (over n = 1) and regret (to a choice by the gold value itself) where gold values are known.

    results = best_of_n("my-policy", ["2 + 2 ="], "my-reward-model", n=16, output="best.jsonl")
    print(results[0].chosen, summarize(results)["curve"])
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.comparison import Comparison, Text, text_length
from ..files import Journal, atomic_writer, differences, parse_json, write_atomically
from ..messages import explained
from ..processes import Processes, open_journal, shares
from ..scoring.base import WITHOUT_EFFECT, Reward, tokenizer_digest
from ..scoring.rewards import as_reward
from ..scoring.scorer import RewardScorer, weights_digest
from .candidates import (
    BestOfN,
    answer_is_right,
    print_summary,
    read_candidates,
    read_prompt,
    summarize,
    to_preferences,
    to_sft,
)
from .generation import (
    asked,
    check_prompt,
    count_occurrences,
    load_policy,
    sample_completions,
    sampling_config,
    text_key,
)

logger = logging.getLogger(__name__)

SCORED_PER_CHUNK = 512  # ready candidates between two writes of the output

__all__ = [
    "BestOfN",
    "BestOfNSampler",
    "answer_is_right",
    "best_of_n",
    "print_summary",
    "read_candidates",
    "summarize",
    "to_preferences",
    "to_sft",
]


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

    Example:

    ```python
    sampler = BestOfNSampler("my-policy", None, RewardScorer("my-reward-model"), n=16)
    results = sampler.sample(["Which country owns Antarctica?"], output="best.jsonl")
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
        for name, value in (("n", n), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}, it must be at least 1")
        if scorer is None:
            raise ValueError("scorer is missing; give a RewardScorer, the name of a reward model or a reward function")
        if isinstance(scorer, torch.nn.Module):
            raise ValueError(f"scorer is a {type(scorer).__name__}; wrap a model: RewardScorer(model, tokenizer)")
        self.scorer, self._reward = scorer, as_reward(scorer)
        if isinstance(policy, (str, os.PathLike)):
            name = os.fspath(policy)
            with explained(f"the policy {name} cannot be loaded"):
                policy = load_policy(name)
                if torch.accelerator.is_available():
                    policy = policy.to(torch.accelerator.current_accelerator())
                if processing_class is None:
                    processing_class = AutoTokenizer.from_pretrained(name)
        if policy is not None and processing_class is None:
            raise ValueError("processing_class is missing, the policy needs its tokenizer; give it")
        self.policy = policy
        self.processing_class = processing_class
        self.n = n
        self.generation_config = None if policy is None else sampling_config(policy, generation_config)
        if n > 1 and policy is not None and not self.generation_config.do_sample:
            raise ValueError(f"do_sample=False gives {n} equal completions; set do_sample=True or n=1")
        self.callbacks = list(callbacks or [])
        self.gold, self._gold = gold, None if gold is None else as_reward(gold)
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
                never generated again. Prompts may be added to a whole output.

        Returns:
            `list[BestOfN]`, in the order of the prompts.

        Raises:
            ValueError: no prompts, an empty one, a conversation without a chat template, an output of other settings.
        """
        if self.policy is None:
            raise ValueError("policy is None, there is nothing to sample from; give a policy or use rank(candidates)")
        groups = [read_prompt(row, index) for index, row in enumerate(prompts)]
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
        occurrences = count_occurrences([group.prompt for group in groups])
        ready = bool(groups[0].completions)
        journal, done, finished = open_journal(world, output, lambda journal: self._begin(journal, groups))
        with journal:
            results = {line["index"]: line for line in [*finished, *_values_of("result", done)]}
            results = {index: _as_result(line) for index, line in results.items()}
            samples = {line["index"]: line for line in _values_of("samples", done)}
            waiting = [i for i in range(len(groups)) if i not in results]
            if results:
                logger.info("%s: resumes behind %d of %d prompts", output, len(results), len(groups))
            costs = [self._cost(groups[i], i) for i in waiting]  # bad prompts are refused before the first batch
            mine = [waiting[k] for k in shares(costs, world.size)[world.rank]]
            own: dict[int, BestOfN] = {}
            for chunk in self._chunks(mine, groups_per_chunk, hidden=world.rank > 0):
                fresh = [] if ready else [i for i in chunk if i not in samples]
                for i, line in zip(fresh, self._sample(groups, fresh, occurrences), strict=True):
                    samples[i] = line
                    journal.append(f"samples {i}", line)
                candidates = [groups[i] if ready else _with_samples(groups[i], samples.pop(i)) for i in chunk]
                for result in self._score(candidates, chunk):
                    own[result.index] = result
                    journal.append(f"result {result.index}", _as_line(result, groups[result.index]))
            for part in world.gather(own):
                results |= part
            if world.rank == 0 and output is not None and (waiting or not Path(output).exists()):
                write_atomically(_settings_path(output), json.dumps(journal.settings, indent=2))
                with atomic_writer(output) as out:
                    for i, group in enumerate(groups):
                        out.write(json.dumps(_as_line(results[i], group), ensure_ascii=False) + "\n")
            if world.rank == 0:
                journal.finish()
            world.wait()
        for callback in self.callbacks:
            if hasattr(callback, "flush"):
                callback.flush()
        return [results[i] for i in range(len(groups))]

    def _begin(self, journal: Journal, groups: list[Comparison]) -> list[dict[str, Any]]:
        """
        Refuse an output of other prompts or settings; the lines of one that was whole already, to which prompts may
        have been added. A line of it that cannot be read is computed again.
        """
        if journal.output is None:
            return []
        path, sealed = Path(journal.output), _settings_path(journal.output)
        lines, earlier = [], journal.settings or {}
        if path.exists():
            if not sealed.exists():
                raise ValueError(f"{path} exists and is no output of best-of-n; name another file")
            earlier = parse_json(sealed.read_text(encoding="utf-8"), str(sealed))
            for number, text in enumerate(path.read_bytes().splitlines(), start=1):
                try:
                    line = json.loads(text)
                    _as_result(line)
                except (ValueError, TypeError, AttributeError):
                    logger.warning("%s line %d cannot be read, its prompt is done again", path, number)
                else:
                    lines.append(line)
        results = [*lines, *_values_of("result", journal)]
        for line in [*results, *_values_of("samples", journal)]:
            _check_prompt(line, groups, path)
        settings = self._settings(groups)
        free = _without_effect(earlier, settings, bool(results))
        if path.exists() and (found := differences(earlier, settings, free)):
            raise ValueError(
                f"{path} was made with other settings: {', '.join(found)}; name another output, or delete it"
            )
        journal.begin(settings, ignoring=free)
        return lines

    def _cost(self, group: Comparison, index: int) -> int:
        """What a prompt costs, to share the work fairly: tokens, or characters of ready completions."""
        if group.completions:
            return text_length(group.prompt) + sum(map(text_length, group.completions))
        options = (self.processing_class, self.policy, self.generation_config, index)
        return len(check_prompt(group.prompt, *options, **group.template_arguments)) + self.n * (
            self.generation_config.max_new_tokens
        )

    def _chunks(self, indices: list[int], size: int, hidden: bool) -> Iterator[list[int]]:
        with tqdm(total=len(indices), unit="prompt", desc="best of n", disable=hidden or not self.progress) as bar:
            for start in range(0, len(indices), size):
                yield indices[start : start + size]
                bar.update(len(indices[start : start + size]))

    def _sample(self, groups: list[Comparison], indices: list[int], occurrences: list[int]) -> Iterator[dict]:
        if not indices:
            return
        samples = sample_completions(
            self.policy,
            self.processing_class,
            [groups[i].prompt for i in indices],
            self.n,
            self.generation_config,
            seed=self.seed,
            occurrences=[occurrences[i] for i in indices],
            template_arguments=[groups[i].template_arguments for i in indices],
            batch_size=self.batch_size,
        )
        for i, group in zip(indices, samples, strict=True):
            yield {
                "index": i,
                "prompt": groups[i].prompt,
                "prompt_key": _prompt_key(groups[i].prompt),
                "completions": [sample.completion for sample in group],
                "truncated": [sample.truncated for sample in group],
                "completion_ids": [sample.token_ids for sample in group],
            }

    def _score(self, groups: list[Comparison], indices: list[int]) -> list[BestOfN]:
        scores = self._reward.score_comparisons(groups)
        results = []
        for index, group, values in zip(indices, groups, scores, strict=True):
            meta = group.metadata or {}
            ranks = _ranks(values)
            best = int(np.nanargmax(values)) if np.isfinite(values).any() else None
            listed = [None if math.isnan(v) else float(v) for v in values]
            result = BestOfN(index, group.prompt, group.completions, listed, ranks, best)
            result.gold, result.truncated, result.systems = (meta.get(k) for k in ("gold", "truncated", "systems"))
            result.tools, result.chat_template_kwargs = group.tools, group.chat_template_kwargs
            results.append(result)
        for result, values in zip(results, self._gold_values(groups), strict=True):
            result.gold = values if values is not None else result.gold
        self._call_back(groups, scores)
        return results

    def _gold_values(self, groups: list[Comparison]) -> list[list[float] | None]:
        answers = [(group.metadata or {}).get("answer") for group in groups]
        if self._gold is not None:
            return [
                [None if math.isnan(v) else float(v) for v in values]
                for values in self._gold.score_comparisons(groups)
            ]
        right = [
            [None if answer is None else answer_is_right(text, answer) for text in group.completions]
            for group, answer in zip(groups, answers, strict=True)
        ]
        return [None if None in values else list(map(float, values)) for values in right]

    def _call_back(self, groups: list[Comparison], scores: list[np.ndarray]) -> None:
        prompts = [group.prompt for group in groups for _ in group.completions]
        completions = [text for group in groups for text in group.completions]
        context = {}
        for name in ("completion_ids", "truncated"):
            values = [(group.metadata or {}).get(name) for group in groups]
            context[name] = None if None in values else [one for value in values for one in value]
        for callback in self.callbacks:
            callback(prompts, completions, np.concatenate(scores), **context)

    def _settings(self, groups: list[Comparison]) -> dict[str, Any]:
        """What a result depends on, besides its prompt and, where they are ready, its completions."""
        settings = {**_about("reward", self._reward), **_about("gold", self._gold)}
        known = [[(group.metadata or {}).get(name) for name in ("answer", "gold", "systems")] for group in groups]
        if any(value is not None for values in known for value in values):
            settings["answers"] = text_key(json.dumps(known, default=str))
        if any(any(group.template_arguments.values()) for group in groups):
            arguments = [group.template_arguments for group in groups]
            settings["template_arguments"] = text_key(json.dumps(arguments, default=str))
        if not groups[0].completions:
            settings |= {
                "policy": _policy_name(self.policy),
                "policy_weights": weights_digest(self.policy),
                "policy_tokenizer": tokenizer_digest(self.processing_class),
                "n": self.n,
                "seed": self.seed,
                **self.generation_config.to_diff_dict(),
            }
            settings.pop("transformers_version", None)
        return settings


def best_of_n(
    policy: str | os.PathLike | PreTrainedModel | None,
    prompts: Iterable[Text | Mapping[str, Any]] | None,
    scorer: RewardScorer | str | os.PathLike | Callable,
    n: int = 16,
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    generation_config: GenerationConfig | dict | None = None,
    candidates: Iterable[Comparison | Mapping[str, Any]] | None = None,
    gold: RewardScorer | Callable | None = None,
    output: str | os.PathLike | None = None,
    callbacks: Sequence[Callable] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> list[BestOfN]:
    """
    [`BestOfNSampler`] in one call: n completions of every prompt, or the ready `candidates`, scored and ranked.

    Args:
        policy, processing_class, scorer, n, generation_config, callbacks, gold, seed, batch_size, progress:
            As for [`BestOfNSampler`]; `policy=None` with `candidates`.
        prompts (list, *optional*): as for [`BestOfNSampler.sample`]; None with `candidates`.
        candidates (list, *optional*): as for [`read_candidates`], instead of `policy` and `prompts`.
        output (`str`, *optional*): jsonl file for the results; a killed run resumes.

    Returns:
        `list[BestOfN]`

    Raises:
        ValueError: both or neither of prompts and candidates, and what [`BestOfNSampler`] refuses.

    Example:

    ```python
    best_of_n("my-policy", ["Which country owns Antarctica?"], "my-reward-model", n=8)[0].chosen
    best_of_n(None, None, "my-reward-model", candidates=[{"prompt": "2 + 2 =", "completions": ["4", "5"]}])[0].chosen
    ```
    """
    if (prompts is None) == (candidates is None):
        raise ValueError("give either prompts (with a policy) or ready candidates, one of the two")
    if candidates is not None and policy is not None:
        raise ValueError("candidates are ready, the policy would not be used; leave it out (policy=None)")
    sampler = BestOfNSampler(
        policy,
        processing_class,
        scorer,
        n,
        generation_config,
        callbacks,
        gold=gold,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return sampler.sample(prompts, output) if candidates is None else sampler.rank(candidates, output)


# --- helpers


def _settings_path(output: str | os.PathLike) -> Path:
    return Path(f"{output}.settings.json")


def _values_of(kind: str, journal: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [journal[key] for key in journal if key.startswith(f"{kind} ")]


def _prompt_key(prompt: Text) -> str | None:
    """Names a prompt that the policy continues, the words that it was given included: no result's prompt has them."""
    return None if asked(prompt) == prompt else text_key(prompt)


def _as_line(result: BestOfN, group: Comparison) -> dict[str, Any]:
    key = _prompt_key(group.prompt)
    return asdict(result) if key is None else {**asdict(result), "prompt_key": key}


def _as_result(line: Mapping[str, Any]) -> BestOfN:
    return BestOfN(**{name: value for name, value in line.items() if name != "prompt_key"})


def _check_prompt(line: dict[str, Any], groups: list[Comparison], path: Path) -> None:
    """Refuse what is there of another prompt, or of other ready completions."""
    index, key = line["index"], line.get("prompt_key")
    group = groups[index] if index < len(groups) else None
    if group is None or key != _prompt_key(group.prompt) or (key is None and group.prompt != line["prompt"]):
        raise ValueError(f"{path} holds another prompt {index}; name another file, or delete it")
    if group.completions and group.completions != line["completions"]:
        raise ValueError(f"{path} holds other completions of prompt {index}; name another file, or delete it")


def _without_effect(earlier: dict[str, Any], now: dict[str, Any], has_results: bool) -> set[str]:
    """Settings whose change leaves what is there as it would be now."""
    free = set()
    for name in {**earlier, **now}:
        role, _, setting = name.partition("_")
        if role not in ("reward", "gold"):
            continue
        before, after = earlier.get(name), now.get(name)
        none_was_long = earlier.get(f"{role}_truncation_mode") == "error" and after is not None
        raised = setting == "max_length" and before is not None and after is not None and after >= before
        # Samples do not depend on the reward.
        if not has_results or (none_was_long and (setting == "truncation_mode" or raised)):
            free.add(name)
    return free


def _with_samples(group: Comparison, line: dict[str, Any]) -> Comparison:
    metadata = {**(group.metadata or {}), "truncated": line["truncated"], "completion_ids": line["completion_ids"]}
    return Comparison(asked(group.prompt), line["completions"], **group.template_arguments, metadata=metadata)


def _ranks(scores: np.ndarray) -> list[int]:
    """0 for the highest score, equal for equal ones; what is not scored comes last."""
    return [int(np.sum(scores > s)) if s == s else int(np.isfinite(scores).sum()) for s in scores]


def _policy_name(policy: PreTrainedModel) -> str:
    return getattr(policy.config, "_name_or_path", None) or type(policy).__name__


def _about(role: str, reward: Reward | None) -> dict[str, Any]:
    """What distinguishes a reward from another one; a model may lie anywhere."""
    if reward is None:
        return {f"{role}_kind": None}
    reward.check_can_resume()
    return {f"{role}_{name}": value for name, value in reward.about.items() if name not in WITHOUT_EFFECT}
