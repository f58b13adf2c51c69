"""`RewardScorer`: texts ► rewards, the one object behind evaluation, best-of-n and every RL loop.

    prompts, completions ► groups of equal prompts ► batches by tokens, longest first ► r(x, y) in the caller's order

A text has one score: it does not depend on batch size, order, padding or company. Equal prompts share their
computation wherever they stand in the list, and equal texts are computed once.

    RewardScorer("my-reward-model").score(["2 + 2 ="], [" 4"])
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import os
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from ..data.comparison import TEMPLATE_COLUMNS, Comparison, Text, match_kinds, template_arguments
from ..data.control_tokens import CONTROL_TOKENS
from ..data.encoding import (
    REASONING_MODES,
    TRUNCATION_MODES,
    EncodedGroup,
    common_prefix_length,
    encode,
    without_trailing_pads,
)
from ..data.sources import HUB_ID
from ..data.templates import template_hash
from ..messages import check_choice
from ..model.adapters import check_peft_method
from ..model.checkpoint import (
    HUB_ARGUMENTS,
    WHERE_ON_HUB,
    check_all_is_read,
    check_nothing_is_missing,
    load_tokenizer,
)
from ..model.config import sequence_classifier
from ..model.modeling import RewardModel, head_in_use
from ..model.packing import collate, packed_tokens, split_by_tokens

logger = logging.getLogger(__name__)

ON_NONFINITE = ("error", "zero")


@dataclass
class ScoringBatch:
    """One call of the model.

    Args:
        groups (`list[EncodedGroup]`): the texts to compute.
        members (`list[list[tuple[int, int]]]`):
            For each text, in the order of the scores: every (comparison, completion) that it is the text of.
    """

    groups: list[EncodedGroup]
    members: list[list[tuple[int, int]]]


class RewardScorer:
    """
    Rewards of completions, from any reward model.

    A text has one score, whoever asks and whenever: in several threads, while the model is in training mode, after a
    switch of its adapter or head (the next call follows). The scorer owns a copy of the tokenizer. To score while
    another thread is inside a training step of the same model is not supported.

    Args:
        model (`str`, `os.PathLike`, [`RewardModel`], `PeftModel` or one-label `*ForSequenceClassification`):
            The reward model: a folder or hub id (full checkpoint or adapter), or a model in memory.
        processing_class (`PreTrainedTokenizerBase`, *optional*):
            The reward model's own tokenizer; loaded with the model if absent.
        max_length (`int`, *optional*): most tokens of prompt + completion; the model's context length if absent.
        max_num_batched_tokens (`int`, *optional*, defaults to `16384`): token budget of one call, which bounds memory.
        truncation_mode (`str`, *optional*, defaults to `"error"`):
            For texts over `max_length`: `"error"`, `"drop"` (NaN from `score`, None from a call) or `"keep_end"`.
        reasoning (`str`, *optional*):
            For `<think>…</think>`: `"keep"`, `"strip"` or `"error"`; as the model was trained if absent.
        control_tokens (`str`, *optional*, defaults to `"as_text"`):
            How special tokens and turn markers are read that a message or a plain completion spells: `"as_text"` as
            ordinary text, so that no text can pretend to be another turn, or `"parse"` as tokens (TRL's way).
            Reasoning and tool tags are always tokens. `num_control_tokens` counts the completions that spell one.
        normalize (`bool`, *optional*, defaults to `False`):
            Return (r − mean) / std with the numbers that the model's config holds from its held-out data.
        on_nonfinite (`str`, *optional*, defaults to `"error"`):
            For a score that is not finite: `"error"` saves the texts to a file and stops, `"zero"` gives 0 and counts
            (`num_nonfinite`).
        shared_prefix (`str`, *optional*, defaults to `"auto"`): `"auto"`, or `"off"` to pad.
        progress (`bool`, *optional*, defaults to `False`): show a progress bar.
        model_kwargs: for a model given by name: `dtype`, `quantization_config`, `device_map`, `revision`, …

    Example:

    ```python
    scorer = RewardScorer("my-reward-model")
    scorer.score(["Which country owns Antarctica?"], ["None: the Antarctic Treaty System governs it."])
    scorer.rank("Which country owns Antarctica?", ["Sweden.", "None: the Antarctic Treaty System governs it."])
    GRPOTrainer(model, reward_funcs=scorer, ...)
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike | PreTrainedModel | Any,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        max_length: int | None = None,
        max_num_batched_tokens: int = 16384,
        truncation_mode: str = "error",
        reasoning: str | None = None,
        control_tokens: str = "as_text",
        normalize: bool = False,
        on_nonfinite: str = "error",
        shared_prefix: str = "auto",
        progress: bool = False,
        **model_kwargs,
    ):
        for option, value in (("max_length", max_length), ("max_num_batched_tokens", max_num_batched_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{option}={value} leaves no token; give at least 1")
        check_choice("truncation_mode", truncation_mode, TRUNCATION_MODES)
        check_choice("control_tokens", control_tokens, CONTROL_TOKENS)
        check_choice("shared_prefix", shared_prefix, ("auto", "off"))
        check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE)
        named = isinstance(model, (str, os.PathLike))
        hub = {k: model_kwargs[k] for k in WHERE_ON_HUB if k in model_kwargs}
        if named:
            check_model_exists(os.fspath(model), **hub)
            self._given = _load(os.fspath(model), model_kwargs)
        elif model_kwargs:
            raise ValueError(f"{', '.join(model_kwargs)} cannot be applied to a model in memory; give its folder")
        else:
            self._given = model
        self.model: PreTrainedModel | None = None
        config = self._follow().config
        name = os.fspath(model) if named else getattr(config, "_name_or_path", "") or type(self.model).__name__
        if processing_class is None:
            self.processing_class = load_tokenizer(name if named else self.model, config, **hub)
        else:
            self.processing_class = copy.deepcopy(processing_class)  # other threads may use theirs
        if getattr(config, "template_hash", None) not in (None, template_hash(self.processing_class)):
            logger.warning(
                "%s was trained with another chat template or special tokens than the tokenizer given has", name
            )
        self.reasoning = reasoning or getattr(config, "reasoning", None) or "keep"
        check_choice("reasoning", self.reasoning, REASONING_MODES)
        self.max_length = max_length or self._longest_text()
        self.max_num_batched_tokens = max_num_batched_tokens
        self.truncation_mode = truncation_mode
        self.control_tokens = control_tokens
        self.shared_prefix = shared_prefix
        self.progress = progress
        self.normalize = normalize
        self.on_nonfinite = on_nonfinite
        self.num_nonfinite = 0
        self.num_control_tokens = 0
        if normalize and not getattr(config, "reward_std", None):
            raise ValueError(
                f"normalize=True, but {name} has no reward_mean and reward_std; evaluate it on held-out data first "
                "(the trainer does), or set them in its config"
            )
        self._shares_prefix()  # a model that cannot is said to be so at once
        self._warned_of: set[str] = set()
        self.listeners: list[Callable[..., None]] = []  # (prompts, completions, scores, completion_ids=…)
        self.__name__ = Path(name).name  # TRL logs a reward function under its name

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or what is unpickled elsewhere, has listeners of its own."""
        return {**self.__dict__, "listeners": []}

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
        scores = self._score(prompts, completions, allow_empty, tools, chat_template_kwargs)
        self._tell_listeners(None, prompts, completions, scores, completion_ids)
        return scores

    def rank(
        self,
        prompt: Text,
        completions: list[Text],
        *,
        tools: list | None = None,
        chat_template_kwargs: dict | None = None,
    ) -> np.ndarray:
        """Indices of the completions, best first: `np.ndarray` (N,) int64; equal scores keep the caller's order."""
        n = len(completions)
        columns = {"tools": [tools] * n, "chat_template_kwargs": [chat_template_kwargs] * n}
        return np.argsort(-self.score([prompt] * n, completions, **columns), kind="stable")

    def preference(
        self, prompt: Text, a: Text, b: Text, *, tools: list | None = None, chat_template_kwargs: dict | None = None
    ) -> float:
        """
        σ(r(a) − r(b)): the probability that people prefer `a`, as Bradley & Terry read it.

        For a model trained with ties, a margin or smoothing this is not the probability that was fitted.
        """
        columns = {"tools": [tools] * 2, "chat_template_kwargs": [chat_template_kwargs] * 2}
        score_a, score_b = self.score([prompt, prompt], [a, b], **columns).astype(float)
        if self.normalize:
            score_a, score_b = (x * self.model.config.reward_std for x in (score_a, score_b))
        odds = math.exp(-abs(score_a - score_b))  # of the worse of the two; never over 1, so nothing overflows
        return (1 if score_a >= score_b else odds) / (1 + odds)

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
            kwargs: what TRL passes besides (data columns, state); all but the two columns is not read.

        Returns:
            `list[float | None]`: (N,) rewards; None for a text that `truncation_mode="drop"` left out.
        """
        trainer = getattr(log_metric, "__self__", None)  # TRL hands over its trainer's method
        columns = self._template_columns(prompts, kwargs, trainer)
        with lock_of(self.processing_class):  # the counts are those of this call
            num_nonfinite, num_control_tokens = self.num_nonfinite, self.num_control_tokens
            scores = self._score(prompts, completions, allow_empty=True, **columns)
            num_nonfinite = self.num_nonfinite - num_nonfinite
            num_control_tokens = self.num_control_tokens - num_control_tokens
        self._tell_listeners(trainer, prompts, completions, scores, completion_ids)
        if log_metric is not None and len(scores):
            shares = {
                "empty": np.mean([_is_empty(text) for text in completions]),
                "over_max_length": np.isnan(scores).mean(),
                "nonfinite": num_nonfinite / len(scores),
                "control_tokens": num_control_tokens / len(scores),
            }
            ends = _policy_end_tokens(trainer)
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
            values = values if isinstance(values, list) and len(values) == len(prompts) else [None] * len(prompts)
            try:
                columns[name] = [template_arguments({name: value})[name] for value in values]
            except ValueError as error:
                if name not in self._warned_of:
                    self._warned_of.add(name)
                    logger.warning("%s: the column %s is not read: %s", self.__name__, name, error)
        columns["tools"] = [
            given or of_trainer
            for given, of_trainer in zip(
                columns.get("tools", [None] * len(prompts)), _tools_of_policy(trainer, len(prompts)), strict=True
            )
        ]
        if given := getattr(trainer, "chat_template_kwargs", None):  # TRL hands them to reward models
            own = columns.get("chat_template_kwargs", [None] * len(prompts))
            columns["chat_template_kwargs"] = [{**given, **(value or {})} for value in own]
        return columns

    def _score(
        self,
        prompts: list[Text],
        completions: list[Text],
        allow_empty: bool,
        tools: list[list | str | None] | None = None,
        chat_template_kwargs: list[dict | None] | None = None,
    ) -> np.ndarray:
        """What [`score`] returns, without a word to the listeners."""
        if isinstance(prompts, str) or isinstance(completions, str):
            raise ValueError(
                "prompts and completions are lists, one item per text; a single text has to be put in a list"
            )
        if len(prompts) != len(completions):
            raise ValueError(
                f"{len(prompts)} prompts and {len(completions)} completions; give one prompt per completion"
            )
        columns = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
        for name, column in columns.items():
            if column is not None and len(column) != len(prompts):
                raise ValueError(f"{len(prompts)} prompts and {len(column)} {name}; give one per prompt")
        comparisons = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            arguments = {name: column[i] for name, column in columns.items() if column is not None}
            comparisons.append(self.comparison(prompt, [completion], allow_empty=allow_empty, **arguments))
        return np.concatenate([np.zeros(0, dtype=np.float32), *self.score_comparisons(comparisons)])

    def _tell_listeners(
        self,
        trainer: Any,
        prompts: list[Text],
        completions: list[Text],
        scores: np.ndarray,
        completion_ids: list[list[int]] | None,
    ) -> None:
        """Of a trainer's call only its own callbacks hear, so two trainers with one scorer keep theirs apart."""
        for listener in list(self.listeners):
            if trainer is None or getattr(listener, "trainer", None) in (None, trainer):
                listener(prompts, completions, scores, completion_ids=completion_ids)

    def score_comparisons(self, comparisons: list[Comparison]) -> list[np.ndarray]:
        """Rewards of all completions: one float32 array (K,) per comparison, NaN where a text was left out."""
        scores = [np.full(len(c.completions), np.nan, dtype=np.float32) for c in comparisons]
        with lock_of(self.processing_class):
            for batch in self._with_progress(self.plan(comparisons)):
                for members, score in zip(batch.members, self.run(batch), strict=True):
                    for comparison, completion in members:
                        scores[comparison][completion] = score
        return scores

    # --- plan and compute

    def plan(self, comparisons: list[Comparison]) -> list[ScoringBatch]:
        """
        The model calls for a list of comparisons, longest texts first. It depends on the list alone, so work that was
        cut off can resume where it stopped.
        """
        shares_prefix = self._shares_prefix()
        texts: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # ids ► whose text they are
        by_prompt: dict[Hashable, dict[tuple[int, ...], None]] = {}
        for c, comparison in enumerate(comparisons):
            try:
                with lock_of(self.processing_class):
                    group = self._encode(comparison)
            except (ValueError, TemplateError) as error:
                cause = str(error)
                if isinstance(error, TemplateError):
                    cause = f"the chat template refuses it: {cause}; fix the messages or the template"
                raise ValueError(f"{comparison.id or f'comparison {c}'}: {cause}") from error
            self.num_control_tokens += group.num_control_tokens
            prompt = _key(comparison.prompt, comparison.tools, comparison.chat_template_kwargs)
            for k, ids in zip(group.kept, map(tuple, group.input_ids), strict=True):
                if ids not in texts:  # where nothing is shared, each text stands alone, among those of its length
                    by_prompt.setdefault(prompt if shares_prefix else ids, {})[ids] = None
                texts.setdefault(ids, []).append((c, k))
        switch = self.model.rope_switch if isinstance(self.model, RewardModel) else None
        groups = []
        for members in by_prompt.values():
            sides = {}
            for ids in members:
                sides.setdefault(switch is not None and len(ids) > switch, []).append(list(ids))
            for side in sides.values():
                groups += self._split_group(side)
        groups.sort(key=lambda group: -max(map(len, group.input_ids)))
        return [
            ScoringBatch(
                [groups[i] for i in run],
                [texts[tuple(ids)] for i in run for ids in groups[i].input_ids],
            )
            for run in split_by_tokens(groups, self.max_num_batched_tokens, shares_prefix, switch)
        ]

    @torch.no_grad()
    def run(self, batch: ScoringBatch) -> np.ndarray:
        """Rewards of one planned batch: (number of its texts,) float32, normalised where asked.

        Raises:
            ValueError: a score that is not finite, where `on_nonfinite="error"`; the texts are saved to a file.
        """
        model = self._follow()
        device = model.device
        # the reward model's own dtype, whatever loop it is in
        with in_eval_mode(model), torch.autocast(device.type, enabled=False):
            if isinstance(model, RewardModel):
                inputs = collate(batch.groups, self._shares_prefix())
            else:
                rows = [{"input_ids": ids} for group in batch.groups for ids in group.input_ids]
                if "token_type_ids" in self.processing_class.model_input_names:
                    separator = self.processing_class.sep_token_id
                    rows = [{**row, "token_type_ids": _type_ids(row["input_ids"], separator)} for row in rows]
                inputs = self.processing_class.pad(rows, return_tensors="pt")
            inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            scores = model(**inputs).logits[:, 0].float().cpu().numpy()
        finite = np.isfinite(scores)
        if not finite.all():
            self._refuse_nonfinite(batch, scores)
        if self.normalize:
            scores = (scores - self.model.config.reward_mean) / self.model.config.reward_std
        return np.where(finite, scores, 0).astype(np.float32)

    # --- helpers

    def _follow(self) -> PreTrainedModel:
        """The reward model with the adapter and the head that the model given has now."""
        given = self._given
        if hasattr(given, "get_base_model"):  # a PeftModel: its adapters live inside the base model
            check_peft_method(given.active_peft_config)
            given = given.get_base_model()
        if given.config.num_labels != 1:
            raise ValueError(f"num_labels={given.config.num_labels}, a reward model has 1; load with num_labels=1")
        if isinstance(given, RewardModel) or sequence_classifier(given.config) is None:
            self.model = given
            return given
        head = head_in_use(getattr(given, "score", None))
        known = self.model is not None and self.model.model is getattr(given, given.base_model_prefix)
        if known and isinstance(head, torch.nn.Linear) and head.bias is None:
            self.model.score.share(head)  # which may be another, or a 16-bit one whose copy is old
        else:
            self.model = RewardModel.from_sequence_classifier(given)
        return self.model

    def _shares_prefix(self) -> bool:
        """Whether completions of one prompt are packed behind it, with the model as it is now."""
        model = self._follow()
        if self.shared_prefix == "off" or not isinstance(model, RewardModel):
            return False
        with in_eval_mode(model):
            return model.supports_shared_prefix()

    def _longest_text(self) -> int | None:
        """The model's context length."""
        config = getattr(self.model.config, "backbone_config", self.model.config).get_text_config()
        length = getattr(config, "max_position_embeddings", None)
        if isinstance(self.model, RewardModel):
            return length
        return min(length or math.inf, self.processing_class.model_max_length)  # RoBERTa has positions of no token

    @staticmethod
    def comparison(
        prompt: Text, completions: list[Text], *, allow_empty: bool = False, **template_arguments
    ) -> Comparison:
        """A plain completion of a conversation is the assistant's message, a plain prompt of messages the user's."""
        if not allow_empty and any(not text for text in completions):
            raise ValueError("a completion is empty; every completion needs text")
        prompt, completions = match_kinds(prompt, completions)
        return Comparison(prompt, completions, **template_arguments)

    def _refuse_nonfinite(self, batch: ScoringBatch, scores: np.ndarray) -> None:
        """Count the scores that are not finite, or save their texts and stop."""
        bad = np.flatnonzero(~np.isfinite(scores))
        self.num_nonfinite += len(bad)
        if self.on_nonfinite == "zero":
            logger.warning("%s: %d of %d scores are not finite, 0 is given", self.__name__, len(bad), len(scores))
            return
        sequences = [ids for group in batch.groups for ids in group.input_ids]
        lines = [
            {"score": str(scores[i]), "text": self.processing_class.decode(sequences[i]), "input_ids": sequences[i]}
            for i in bad
        ]
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="nonfinite_rewards_", suffix=".jsonl", delete=False
        ) as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        raise ValueError(
            f"{len(bad)} of {len(scores)} scores are not finite, the first for the text that ends "
            f"{self.processing_class.decode(sequences[bad[0]][-24:])!r}, all saved in {file.name}; load the model in "
            "float32 or bfloat16, or set on_nonfinite='zero'"
        )

    def _encode(self, comparison: Comparison) -> EncodedGroup:
        is_reward_model = isinstance(self.model, RewardModel)
        group = encode(
            comparison,
            self.processing_class,
            max_length=self.max_length,
            truncation_mode=self.truncation_mode,
            reasoning=self.reasoning,
            control_tokens=self.control_tokens,
            pairs=not is_reward_model,
        )
        return without_trailing_pads(group, self.model.config.trailing_pad_id) if is_reward_model else group

    def _split_group(self, sequences: list[list[int]]) -> Iterator[EncodedGroup]:
        """A group as it is, or cut where one call could not hold it; each part then computes the prefix."""
        chunk: list[list[int]] = []
        prefix = common_prefix_length(sequences)
        tokens = 0
        for ids in sorted(sequences, key=len, reverse=True):
            own = len(ids) - (prefix if chunk else 0)
            if chunk and tokens + own > self.max_num_batched_tokens:
                yield EncodedGroup(chunk)
                chunk, tokens, own = [], 0, len(ids)
            chunk.append(ids)
            tokens += own
        yield EncodedGroup(chunk)

    def _with_progress(self, batches: list[ScoringBatch]) -> Iterator[ScoringBatch]:
        if not self.progress:
            yield from batches
            return
        from tqdm.auto import tqdm

        total = sum(packed_tokens(group) for batch in batches for group in batch.groups)
        with tqdm(total=total, unit="tok", unit_scale=True, desc="scoring") as bar:
            for batch in batches:
                yield batch
                bar.update(sum(map(packed_tokens, batch.groups)))


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


def check_model_exists(name: str, **hub) -> None:
    """One line for a model that is neither a folder nor on the hub, instead of what a download says about it.

    Args:
        name (`str`): folder or hub id of a model or an adapter.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: it cannot be found.
    """
    if Path(name).is_dir():
        if not any(Path(name, file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ValueError(f"{name} holds no model (no config.json, no adapter_config.json); name a model's folder")
        return
    if Path(name).exists() or not HUB_ID.fullmatch(name):
        raise ValueError(f"{name} is no such folder; name a model's folder or a hub id")
    try:
        if find_adapter_config_file(name, **hub) is None:
            cached_file(name, "config.json", **hub)
    except OSError as error:
        reason = "nor on the hub" if "valid model identifier" in str(error) else "and the hub cannot be asked"
        raise ValueError(f"{name} is no folder here, {reason}; name a model's folder or a hub id") from error


def _load(name: str, model_kwargs: dict[str, Any]) -> PreTrainedModel:
    """A reward model by name, on the machine's accelerator unless the caller places it."""
    hub = {k: v for k, v in model_kwargs.items() if k in (*HUB_ARGUMENTS, "trust_remote_code")}
    if find_adapter_config_file(name, **{k: v for k, v in hub.items() if k in WHERE_ON_HUB}):
        config = None
    else:
        config = AutoConfig.from_pretrained(name, **hub)
    if config is not None and _is_encoder(config):
        model = _load_encoder(name, {"num_labels": 1, **model_kwargs})
    else:
        model = RewardModel.from_pretrained(name, **model_kwargs)
    quantized = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
    if not quantized and "device_map" not in model_kwargs and torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return model


def _load_encoder(name: str, model_kwargs: dict[str, Any]) -> PreTrainedModel:
    """A classifier that is no `RewardModel`; its weights say how many labels it has, not its config."""
    model_kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = AutoModelForSequenceClassification.from_pretrained(name, **model_kwargs)
    check_nothing_is_missing(name, info)
    check_all_is_read(name, model.config, info["unexpected_keys"])
    return model


_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
if hasattr(os, "register_at_fork"):  # a lock that another thread held would be held for ever in the child
    os.register_at_fork(after_in_child=_LOCKS.clear)


def lock_of(owner: Any) -> threading.RLock:
    """The one lock of a tokenizer or a model; whoever needs both takes the tokenizer's first."""
    return _LOCKS.setdefault(owner, threading.RLock())


@contextlib.contextmanager
def in_eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """No dropout, and no other scorer's thread in the model; afterwards every module is in the mode it was in."""
    with lock_of(getattr(model, getattr(model, "base_model_prefix", ""), model)):
        in_training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            yield
        finally:
            for module in in_training:
                module.training = True


def _is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint is a sequence classifier that is not a decoder with a head named `score`."""
    architecture = (config.architectures or [""])[0]
    return architecture.endswith("ForSequenceClassification") and sequence_classifier(config) is None


def _is_empty(completion: Text) -> bool:
    """Whether a completion says nothing: no text and no tool call."""
    if isinstance(completion, str):
        return not completion
    return not any(message.get("content") or message.get("tool_calls") for message in completion)


def _policy_end_tokens(trainer: Any) -> set[int]:
    """Ids that end a completion of the trainer's policy."""
    tokenizer = getattr(trainer, "processing_class", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor of text and images
    ends = [getattr(tokenizer, "eos_token_id", None), *(getattr(trainer, "eos_token_ids", None) or [])]
    return {end for end in ends if end is not None}


def own_tokens(ids: Any, ends: set[int]) -> list[int]:
    """A completion's tokens without what fills a batch up behind its end token, as online DPO hands them over.

    End tokens inside stay: between them lie a tool's answers.
    """
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    while len(ids) > 1 and ids[-1] in ends and ids[-2] in ends:
        ids.pop()
    return ids


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)


def _type_ids(ids: list[int], separator: int) -> list[int]:
    """Token types of a pair of texts: 0 up to the first separator, 1 after it."""
    first = ids.index(separator) + 1 if separator in ids else len(ids)
    return [0] * first + [1] * (len(ids) - first)
