"""What everything that gives rewards has in common, and what every scorer of texts does around its model.

    prompts, completions ► groups of equal prompts ► calls, longest first ► r(x, y) in the caller's order

A text has one score: it does not depend on batch size, order, padding or other texts. Equal prompts share their
computation wherever they are in the list, and equal texts are computed once. A scorer adds how one call is computed.

No torch here: a served model is scored without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy.special import expit
from tqdm.auto import tqdm

from ..data.comparison import TEMPLATE_COLUMNS, Comparison, Text, template_arguments
from ..data.control_tokens import CONTROL_TOKENS
from ..data.encoding import (
    REASONING_MODES,
    TRUNCATION_MODES,
    EncodedGroup,
    common_prefix_length,
    encode,
)
from ..data.templates import template_hash
from ..messages import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PROBE = "Which country owns Antarctica?\n\n  2 + 2 = 4, naïvely. 南极洲 🐧</s><|im_end|>"
WITHOUT_EFFECT = ("name", "base", "num_parameters", "max_num_batched_tokens")  # of `about`: no score depends on them

Member = tuple[int, int]  # (comparison, completion)


class NoAnswer(ValueError):
    """What computes rewards gives none, or nothing that can be read as one, whatever the text."""


class Reward:
    """
    Anything that gives rewards: a scorer of texts or a function.

    A subclass has `plan(comparisons)`, the calls, which depend on the comparisons alone; `run(call)`, the scores of
    its texts; and `about`, plain JSON: what scores depend on, and what a reader asks about the model.
    """

    name: str  # what reports call it
    template: str | None = None  # the chat template
    device: str | None = None
    max_length: int | None = None
    why_unscored = "each has a text over the length limit; raise max_length"
    progress = False
    in_step = False  # whether all processes have to make the same calls
    num_control_tokens = 0  # completions planned so far that spell one
    num_tokens = 0  # computed so far

    def check_can_resume(self) -> None:
        """Raise where scores of another reward could be taken for this one's."""

    def settings(self, role: str) -> dict[str, Any]:
        """What its scores depend on, for a run that resumes with an equal reward only."""
        self.check_can_resume()
        return {f"{role}_{name}": value for name, value in self.about.items() if name not in WITHOUT_EFFECT}

    def score_comparisons(self, comparisons: list[Comparison]) -> list[np.ndarray]:
        """Rewards of all completions: one float32 array (K,) per comparison, NaN where there is no score."""
        values: dict[Member, float] = {}
        plan = self.plan(comparisons)
        total = sum(call.tokens or 0 for call in plan)
        with tqdm(total=total, unit="tok", unit_scale=True, desc="scoring", disable=not self.progress) as bar:
            for call, scores in self.run_all(plan):
                for members, score in zip(call.members, scores.tolist(), strict=True):
                    values |= dict.fromkeys(members, score)
                bar.update(call.tokens or 0)
                self.num_tokens += call.tokens or 0
        return [scores.astype(np.float32) for scores in self.scores_of(comparisons, values)]

    def run_all(self, calls: Sequence[Any]) -> Iterator[tuple[Any, np.ndarray]]:
        """Each call with its scores, as they come."""
        for call in calls:
            yield call, self.run(call)

    def scores_of(self, comparisons: list[Comparison], values: Mapping[Member, float]) -> list[np.ndarray]:
        """One array (K,) per comparison, NaN where there is no score."""
        scores = [np.full(len(comparison.completions), np.nan) for comparison in comparisons]
        for (comparison, completion), value in values.items():
            scores[comparison][completion] = value
        return scores

    def num_at_limit(self, plan: list[Any]) -> int:
        """Completions that fill the length limit to the last token: with `keep_end`, those that were cut."""
        texts = (one for call in plan for one in zip(call.texts, call.members, strict=True))
        return sum(len(members) for text, members in texts if len(text) == self.max_length)


@dataclass
class ScoringBatch:
    """One call of a model.

    Args:
        groups (`list[EncodedGroup]`): the texts to compute.
        members (`list[list[tuple[int, int]]]`):
            For each text, in the order of the scores: every (comparison, completion) that it is the text of.
    """

    groups: list[EncodedGroup]
    members: list[list[Member]]

    @property
    def texts(self) -> list[list[int]]:
        """Token ids of every text."""
        return [ids for group in self.groups for ids in group.input_ids]

    @property
    def tokens(self) -> int:
        """Tokens that it computes."""
        return sum(group.num_tokens for group in self.groups)


@dataclass(kw_only=True, eq=False, repr=False)
class Scorer(Reward):
    """
    Texts to rewards, whatever computes them; [`RewardScorer`] explains the options.

    A subclass calls [`Scorer._begin`] once its model is known, and has `_compute(batch)`, the raw scores of a batch;
    `_calls(groups)`, which groups share a call; `_about_model()`; and `config`, with what the model says of itself.
    """

    max_length: int | None = None
    max_num_batched_tokens: int = 16384
    truncation_mode: str = "error"
    reasoning: str | None = None
    control_tokens: str = "as_text"
    normalize: bool = False
    on_nonfinite: str = "error"
    progress: bool = False
    name: str | None = None

    _made_from = None  # arguments besides the options, where another process can make it from them
    pairs = False  # whether question and answer are encoded as two texts
    rope_switch = None  # a length: texts shorter and longer than it must not share a call

    def __post_init__(self):
        for option in ("max_length", "max_num_batched_tokens"):
            value = getattr(self, option)
            if value is not None and (not isinstance(value, int | np.integer) or value < 1):
                raise ValueError(f"{option}={value!r} leaves no token; give a whole number of at least 1")
        check_choice("truncation_mode", self.truncation_mode, TRUNCATION_MODES)
        check_choice("reasoning", self.reasoning or "keep", REASONING_MODES)
        check_choice("control_tokens", self.control_tokens, CONTROL_TOKENS)
        check_choice("on_nonfinite", self.on_nonfinite, ("error", "zero"))
        self.num_nonfinite = self.num_control_tokens = 0
        self.listeners: list[Callable[..., None]] = []  # (prompts, completions, scores, completion_ids=…)
        self._warned_of: set[str] = set()

    def _begin(self, source: str, processing_class: PreTrainedTokenizerBase, longest_text: int | None) -> None:
        """Take the tokenizer, and where the caller said nothing, what the model of that name or folder says."""
        config = self.config
        self.processing_class = processing_class
        if getattr(config, "template_hash", None) not in (None, template_hash(processing_class)):
            logger.warning(
                "%s was trained with another chat template or special tokens than the tokenizer given has", source
            )
        if self.normalize and not getattr(config, "reward_std", None):
            raise ValueError(
                f"normalize=True, but {source} has no reward_mean and reward_std; evaluate it on held-out data first "
                "(the trainer does), or set them in its config"
            )
        self.reasoning = self.reasoning or getattr(config, "reasoning", None) or "keep"
        self.max_length = self.max_length or longest_text
        self.name = self.name or source

    @property
    def __name__(self) -> str:
        """What TRL logs a reward function under."""
        return Path(self.name).name

    @__name__.setter
    def __name__(self, name: str) -> None:
        self.name = name

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or what is unpickled elsewhere, has listeners of its own."""
        return {**self.__dict__, "listeners": []}

    def __copy__(self) -> Scorer:
        """The same model, with options, counts and listeners of its own."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__getstate__())
        return other

    def __reduce_ex__(self, protocol):
        """Pickled as name and options where it was made from a name: another process loads its own."""
        if self._made_from is None:
            return super().__reduce_ex__(protocol)
        return partial(type(self), **self._made_from, **{option: getattr(self, option) for option in OPTIONS}), ()

    # --- what users call

    def score(
        self,
        prompts: list[Text],
        completions: list[Text],
        *,
        allow_empty: bool = False,
        completion_ids: list[list[int]] | None = None,
        tools: list[list | str | None] | None = None,
        chat_template_kwargs: list[dict | None] | None = None,
    ) -> np.ndarray:
        """
        Rewards of prompt–completion pairs.

        Every callable in `listeners` is called with them (`RewardScoringCallback` listens there).

        Args:
            prompts (`list[str]` or `list[list[dict]]`): (N,) plain texts or conversations.
            completions (`list[str]` or `list[list[dict]]`): (N,) each answering the prompt of the same index.
            allow_empty (`bool`, *optional*, defaults to `False`):
                Score an empty completion as an empty reply (prompt and end token) instead of refusing it: a policy may
                end at once, and data may not.
            completion_ids (`list[list[int]]`, *optional*): (N,) the policy's own tokens, for the listeners.
            tools (`list`, *optional*): (N,) for each prompt the schemas of its tools, or None.
            chat_template_kwargs (`list`, *optional*): (N,) for each prompt more arguments of its template, or None.

        Returns:
            `np.ndarray` (N,) float32, in the caller's order; NaN for a text that `truncation_mode="drop"` left out.

        Raises:
            ValueError: lists of different length, a text over `max_length`, an empty completion, a score not finite.
        """
        columns = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
        return self._score(prompts, completions, completion_ids, allow_empty=allow_empty, **columns)

    def rank(self, prompt: Text, completions: list[Text], **template_kwargs) -> np.ndarray:
        """
        Rank completions of one prompt by their rewards.

        Args:
            prompt (`str` or `list[dict]`): plain text or a conversation.
            completions (`list[str]` or `list[list[dict]]`): (N,) answers to it.
            template_kwargs: the prompt's `tools` (`list`) and `chat_template_kwargs` (`dict`), for its template.

        Returns:
            `np.ndarray` (N,) int64: indices of the completions, best first; equal scores keep the caller's order.

        Raises:
            ValueError: as [`score`].
        """
        return np.argsort(-self._score_answers(prompt, completions, template_kwargs), kind="stable")

    def preference(self, prompt: Text, a: Text, b: Text, **template_kwargs) -> float:
        """
        σ(r(a) − r(b)): the probability that people prefer `a`, as Bradley & Terry read it.

        For a model trained with ties, a margin or smoothing this is not the probability that was fitted.

        Args:
            prompt (`str` or `list[dict]`): plain text or a conversation.
            a, b (`str` or `list[dict]`): two answers to it.
            template_kwargs: as in [`rank`].

        Returns:
            `float` in [0, 1].

        Source: Bradley & Terry 1952.
        """
        score_a, score_b = self._score_answers(prompt, [a, b], template_kwargs).astype(float)
        return float(expit((score_a - score_b) * (self.config.reward_std if self.normalize else 1)))

    def __call__(
        self,
        prompts: list[Text],
        completions: list[Text],
        completion_ids: list[list[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        **kwargs,
    ) -> list[float | None]:
        """
        TRL's reward function (GRPO, RLOO, online DPO). Completions of one prompt are computed as one group.

        An empty completion is scored as an empty reply. Columns `tools` and `chat_template_kwargs` of the data go to
        the reward model's chat template. TRL's online DPO takes None for 0, so a text that was left out may win there:
        use `truncation_mode="keep_end"`. TRL hands over text without special tokens, so a completion
        that was cut at the length limit reads as if it had ended; which ones were is read from `completion_ids`.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): (N,).
            completions (`list[str]` or `list[list[dict]]`): (N,).
            completion_ids (`list[list[int]]`, *optional*): (N,) the policy's own tokens.
            log_metric (`Callable`, *optional*):
                Takes shares of this batch under `rewards/<name>/`: `truncated` (cut at the policy's length limit),
                `empty`, `over_max_length` (no reward), `nonfinite`, `control_tokens` (spell one).
            log_extra (`Callable`, *optional*): takes the column `truncated` of TRL's table of completions.
            kwargs: what TRL passes besides (data columns, state); only the two columns are read.

        Returns:
            `list[float | None]`: (N,) rewards; None for a text that `truncation_mode="drop"` left out.
        """
        trainer = getattr(log_metric, "__self__", None)  # TRL hands over its trainer's method
        columns = self._template_columns(prompts, kwargs, trainer)
        before = Counter(_THREAD.counts)
        scores = self._score(prompts, completions, completion_ids, trainer, allow_empty=True, **columns)
        counts = _THREAD.counts - before  # of this call, whatever other threads score meanwhile
        if log_metric is not None and len(scores):
            shares = {
                "empty": np.mean([_is_empty(text) for text in completions]),
                "over_max_length": np.isnan(scores).mean(),
                "nonfinite": counts["num_nonfinite"] / len(scores),
                "control_tokens": counts["num_control_tokens"] / len(scores),
            }
            ends = policy_end_tokens(trainer)
            if completion_ids is not None and ends:
                truncated = [not (own := own_tokens(ids, ends)) or own[-1] not in ends for ids in completion_ids]
                shares["truncated"] = np.mean(truncated)
                if log_extra is not None:
                    log_extra("truncated", truncated)
            for name, share in shares.items():
                log_metric(f"rewards/{self.__name__}/{name}", float(share))
        return [None if math.isnan(score) else float(score) for score in scores]

    def _template_columns(self, prompts: list[Text], kwargs: dict[str, Any], trainer: Any) -> dict[str, list]:
        """What TRL's columns and its trainer give a chat template; a column of that name may hold something else."""
        if not prompts or isinstance(prompts[0], str):
            return {}
        columns = {}
        for name in TEMPLATE_COLUMNS:
            values = kwargs.get(name)
            if not isinstance(values, list) or len(values) != len(prompts):
                values = [None] * len(prompts)
            try:
                columns[name] = [template_arguments({name: value})[name] for value in values]
            except ValueError as error:
                columns[name] = [None] * len(prompts)
                if name not in self._warned_of:
                    self._warned_of.add(name)
                    logger.warning("%s: the column %s is not read: %s", self.__name__, name, error)
        of_policy = zip(columns["tools"], _tools_of_policy(trainer, len(prompts)), strict=True)
        columns["tools"] = [own or given for own, given in of_policy]
        given = getattr(trainer, "chat_template_kwargs", None) or {}  # TRL hands them to reward models
        columns["chat_template_kwargs"] = [{**given, **(own or {})} for own in columns["chat_template_kwargs"]]
        return columns

    def _score_answers(self, prompt: Text, completions: list[Text], template_kwargs: dict[str, Any]) -> np.ndarray:
        """Scores of several answers to one prompt."""
        columns = {name: [value] * len(completions) for name, value in template_kwargs.items()}
        return self.score([prompt] * len(completions), completions, **columns)

    def _score(
        self, prompts, completions, completion_ids, trainer=None, *, allow_empty: bool, **columns
    ) -> np.ndarray:
        """
        What [`score`] returns. Only a trainer's own callbacks are told of its calls, so that two trainers can share
        one scorer.
        """
        if isinstance(prompts, str) or isinstance(completions, str):
            raise ValueError(
                "prompts and completions are lists, one item per text; a single text has to be put in a list"
            )
        columns = {name: column for name, column in columns.items() if column is not None}
        for name, column in {"completions": completions, **columns}.items():
            if len(column) != len(prompts):
                raise ValueError(f"{len(prompts)} prompts and {len(column)} {name}; give one of each per text")
        comparisons = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if not completion and not allow_empty:
                raise ValueError("a completion is empty; every completion needs text")
            arguments = {name: column[i] for name, column in columns.items()}
            comparisons.append(Comparison(prompt, [completion], **arguments))
        scores = np.concatenate([np.zeros(0, dtype=np.float32), *self.score_comparisons(comparisons)])
        for listener in list(self.listeners):
            if trainer is None or getattr(listener, "trainer", None) in (None, trainer):
                listener(prompts, completions, scores, completion_ids=completion_ids)
        return scores

    # --- plan and compute

    def plan(self, comparisons: list[Comparison], together: bool = False) -> list[ScoringBatch]:
        """
        The model calls for a list of comparisons, longest texts first. It depends on the list alone, so work that was
        cut off can resume where it stopped; `together` all processes make one plan, to share its calls.
        """
        shares_prefix, switch = self.shares_prefix(), self.rope_switch or math.inf
        members: dict[tuple[int, ...], list[Member]] = {}  # by text: whose it is
        by_prompt: dict[Any, list[list[int]]] = {}
        for c, comparison in enumerate(comparisons):
            group = self._encode(comparison, c)
            self._count("num_control_tokens", group.num_control_tokens)
            prompt = json.dumps([comparison.prompt, comparison.template_arguments], sort_keys=True, default=str)
            for k, ids in zip(group.kept, group.input_ids, strict=True):
                text = self._key(ids)
                if text not in members:  # where nothing is shared, each text stands alone, among those of its length
                    by_prompt.setdefault((prompt if shares_prefix else text, len(ids) > switch), []).append(ids)
                members.setdefault(text, []).append((c, k))
        groups = [group for sequences in by_prompt.values() for group in self._split_group(sequences)]
        groups.sort(key=lambda group: -max(map(len, group.input_ids)))
        return [
            ScoringBatch(
                [groups[i] for i in call], [members[self._key(ids)] for i in call for ids in groups[i].input_ids]
            )
            for call in self._calls(groups)
        ]

    def run(self, batch: ScoringBatch) -> np.ndarray:
        """Rewards of one planned batch: (number of its texts,) float32, normalised where asked.

        Raises:
            ValueError: a score that is not finite, where `on_nonfinite="error"`; the texts are saved to a file.
        """
        scores = self._compute(batch)
        finite = np.isfinite(scores)
        if not finite.all():
            self._refuse_nonfinite(batch, scores)
        if self.normalize:
            scores = (scores - self.config.reward_mean) / self.config.reward_std
        return np.where(finite, scores, 0).astype(np.float32)

    @property
    def tokens_per_call(self) -> int:
        """Most tokens of one call; only a single text may be longer."""
        return self.max_num_batched_tokens

    def shares_prefix(self) -> bool:
        """Whether completions of one prompt share its computation."""
        return True

    def _encode(self, comparison: Comparison, index: int) -> EncodedGroup:
        """Token ids as the model reads them; errors name the comparison."""
        names = ("max_length", "truncation_mode", "reasoning", "control_tokens", "pairs")
        options = {name: getattr(self, name) for name in names}
        options["trailing_pad_id"] = getattr(self.config, "trailing_pad_id", None)
        try:
            with lock_of(self.processing_class):
                return encode(comparison, self.processing_class, **options)
        except ValueError as error:
            raise ValueError(f"{comparison.id or f'comparison {index}'}: {error}") from error

    def _key(self, ids: list[int]) -> tuple[int, ...]:
        """What identifies a text: equal keys have one score."""
        return (getattr(ids, "start", 0), *ids)

    def _split_group(self, sequences: list[list[int]]) -> list[EncodedGroup]:
        """A group as it is, or cut where one call could not hold it; each part then computes the prefix."""
        sequences = sorted(sequences, key=len, reverse=True)
        prefix = common_prefix_length(sequences)
        size = max(1, (self.tokens_per_call - prefix) // (len(sequences[0]) - prefix))
        return [EncodedGroup(sequences[start : start + size]) for start in range(0, len(sequences), size)]

    def _refuse_nonfinite(self, batch: ScoringBatch, scores: np.ndarray) -> None:
        """Count the scores that are not finite, or save their texts and stop."""
        bad = {i: batch.texts[i] for i in np.flatnonzero(~np.isfinite(scores))}
        self._count("num_nonfinite", len(bad))
        if self.on_nonfinite == "zero":
            logger.warning("%s: %d of %d scores are not finite, 0 is given", self.__name__, len(bad), len(scores))
            return
        decode = self.processing_class.decode
        lines = [{"score": str(scores[i]), "text": decode(ids), "input_ids": ids} for i, ids in bad.items()]
        file, path = tempfile.mkstemp(".jsonl", "nonfinite_rewards_")
        os.close(file)
        Path(path).write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
        raise ValueError(
            f"{len(bad)} of {len(scores)} scores are not finite, the first for the text that ends "
            f"{decode(lines[0]['input_ids'][-24:])!r}, all saved in {path}; load the model in float32 or bfloat16, or "
            "set on_nonfinite='zero'"
        )

    def _count(self, name: str, number: int) -> None:
        """Add to a count of this scorer, and to that of this thread."""
        with lock_of(self):
            setattr(self, name, getattr(self, name) + number)
        _THREAD.counts[name] += number

    # --- what it is

    @property
    def template(self) -> str | None:
        """The chat template, where there is one."""
        template = getattr(self.processing_class, "chat_template", None)
        return json.dumps(template, sort_keys=True) if isinstance(template, dict) else template

    @property
    def about(self) -> dict[str, Any]:
        """What scores depend on, and what a reader asks about the model; plain JSON."""
        settings = ["max_length", "truncation_mode", "reasoning", "control_tokens", "normalize", "on_nonfinite"]
        return {
            "name": self.name,
            **self._about_model(),
            "template_hash": None if self.template is None else digest(self.template.encode()),
            "tokenizer_hash": tokenizer_digest(self.processing_class),
            **{name: getattr(self, name) for name in [*settings, "max_num_batched_tokens"]},
            **({name: getattr(self.config, name) for name in ("reward_mean", "reward_std")} if self.normalize else {}),
        }


OPTIONS = [field.name for field in fields(Scorer)]

# --- whose scores they are


def plan_digest(plan: Iterable[Any]) -> str:
    """
    A hash of everything that a score is computed from, and of which completions it is the score, however they are
    batched: token ids for a model; prompt, completion and columns for a function.
    """
    texts = (one for call in plan for one in zip(call.texts, call.members, strict=True))
    lines = (json.dumps(one, sort_keys=True, default=str) for one in texts)
    return digest(b"".join(sorted(hashlib.sha256(line.encode()).digest() for line in lines)))


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash of how a tokenizer makes ids: template, special tokens, size, and the ids of one text."""
    described = [tokenizer.chat_template, tokenizer.special_tokens_map, len(tokenizer), tokenizer(PROBE)["input_ids"]]
    return digest(json.dumps(described, sort_keys=True, default=str).encode())


def digest(content: bytes) -> str:
    """16 hex digits that name it."""
    return hashlib.sha256(content).hexdigest()[:16]


# --- threads


class _Thread(threading.local):
    """What this thread counted, in all scorers."""

    def __init__(self):
        self.counts = Counter()


_THREAD = _Thread()
_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
if hasattr(os, "register_at_fork"):  # a lock that another thread held would be held for ever in the child
    os.register_at_fork(after_in_child=_LOCKS.clear)


def lock_of(owner: Any) -> threading.RLock:
    """The one lock of a reward, a tokenizer or a model; who needs several takes them in this order."""
    return _LOCKS.setdefault(owner, threading.RLock())


# --- TRL's trainers


def _tools_of_policy(trainer: Any, num_prompts: int) -> list[list[dict] | None]:
    """
    For each prompt the schemas that GRPO (`tools=`, `environment_factory=`) renders for its policy and hands to no
    reward function. An environment's tools are in private attributes only (TRL 1.12 to 1.16).
    """
    tools, environments = getattr(trainer, "tools", None), getattr(trainer, "_batch_environments", None)
    if environments and len(environments) == num_prompts:
        schemas = {
            name: template_arguments({"tools": trainer._env_tools[name]})["tools"] for name in set(environments)
        }
        return [schemas[name] or None for name in environments]
    return [template_arguments({"tools": tools})["tools"] or None] * num_prompts


def policy_end_tokens(trainer: Any) -> set[int]:
    """Ids after which the policy of a trainer writes nothing more, and what fills a batch up behind them."""
    tokenizer = getattr(trainer, "processing_class", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor of text and images
    ends = [getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id")]
    ends += getattr(trainer, "eos_token_ids", None) or []
    ends += [getattr(holder, "stop_token_id", None) for holder in (trainer, getattr(trainer, "args", None))]  # of PPO
    return {end for end in ends if end is not None}


def own_tokens(ids: Any, ends: set[int]) -> list[int]:
    """A completion's tokens without what fills a batch up behind its end token, as online DPO hands them over.

    End tokens inside stay: between them lie a tool's answers.
    """
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    while len(ids) > 1 and ids[-1] in ends and ids[-2] in ends:
        ids.pop()
    return ids


def _is_empty(completion: Text) -> bool:
    """Whether a completion says nothing: no text and no tool call."""
    if isinstance(completion, str):
        return not completion
    return not any(message.get("content") or message.get("tool_calls") for message in completion)
