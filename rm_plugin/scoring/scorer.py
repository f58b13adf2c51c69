"""`RewardScorer`: texts ► rewards, the one object behind evaluation, best-of-n and every RL loop.

    prompts, completions ► groups of equal prompts ► batches by tokens, longest first ► r(x, y) in the caller's order

What it shares with other scorers, and the promise that a text has one score, is in `base.py`.

    RewardScorer("my-reward-model").score(["2 + 2 ="], [" 4"])
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.comparison import Comparison
from ..data.encoding import EncodedGroup
from ..messages import check_choice
from ..model.adapters import check_peft_method, peft_layers
from ..model.checkpoint import HUB_ARGUMENTS, load_tokenizer
from ..model.config import check_one_label, sequence_classifier
from ..model.head import head_in_use
from ..model.modeling import RewardModel, eval_mode, load_any, text_tower
from ..model.packing import collate, pad, split_by_tokens
from ..model.sharding import is_split, whole_tensors
from ..processes import Processes
from .base import OPTIONS, Scorer, ScoringBatch, lock_of

logger = logging.getLogger(__name__)

DEFAULT_TOKENS = 16384  # of one call
NOT_IN_DIGEST = {  # fields of a config that change no score, or that a report has by themselves
    *("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "torch_dtype", "pad_token_id"),
    *("id2label", "label2id", "num_labels", "problem_type", "reward_model", "quantization_config"),
}


class RewardScorer(Scorer):
    """
    Rewards of completions, from any reward model.

    A text has one score, whoever asks and whenever: in several threads, while the model is in training mode, after a
    switch of its adapter or head (the next call follows). The scorer owns a copy of the tokenizer. To score while
    another thread is inside a training step of the same model is not supported.

    Args:
        model (`str`, `os.PathLike`, [`RewardModel`], `PeftModel` or one-label `*ForSequenceClassification`):
            The reward model: a folder or hub id (full checkpoint or adapter), or a model in memory.
        processing_class (`PreTrainedTokenizerBase` or `str`, *optional*):
            The reward model's own tokenizer, or its folder; loaded with the model if absent.
        max_length (`int`, *optional*): most tokens of prompt + completion; the model's context length if absent.
        max_num_batched_tokens (`int` or `str`, *optional*, defaults to `16384`):
            Token budget of one call, which bounds memory; `"auto"` for what fits the accelerator's free memory at each
            call of the scorer (16384 without one). A call that runs out of memory is computed again in halves.
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
        offload (`str`, *optional*): `"cpu"` keeps the model there between two calls of the scorer, so that the
            accelerator's memory is free for a policy; for models that are wholly on one device.
        progress (`bool`, *optional*, defaults to `False`): show a progress bar.
        name (`str`, *optional*): what reports and TRL's logs call it; that of its folder or hub id if absent.
        model_kwargs: for a model given by name: `dtype`, `load_in_4bit`, `device_map`, `revision`, `subfolder`, …;
            `trust_remote_code=True` runs a class of its repository that returns one logit per text.

    Raises:
        ValueError: no reward model, no tokenizer for it, or options that cannot be applied to it.

    Example:

    ```python
    scorer = RewardScorer("my-reward-model")
    scorer.score(["Which country owns Antarctica?"], ["None: the Antarctic Treaty System governs it."])
    scorer.rank("Which country owns Antarctica?", ["Sweden.", "None: the Antarctic Treaty System governs it."])
    GRPOTrainer(model, reward_funcs=scorer, ...)
    ```

    A 70B model on one GPU; what does not fit there is kept in memory and on disk:

    ```python
    RewardScorer("a-70b-reward-model", dtype="bfloat16", device_map="auto", offload_folder="offload")
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike | PreTrainedModel | Any,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        shared_prefix: str = "auto",
        offload: str | None = None,
        **options,
    ):
        if auto := options.get("max_num_batched_tokens") == "auto":
            del options["max_num_batched_tokens"]
        super().__init__(**{name: options.pop(name) for name in OPTIONS if name in options})
        check_choice("shared_prefix", shared_prefix, ("auto", "off"))
        if offload is not None:
            check_choice("offload", offload, ("cpu",))
        self.shared_prefix, self.offload = shared_prefix, offload
        if auto:
            self.max_num_batched_tokens = "auto"
        self._planned_tokens, self._out_of_memory_at = DEFAULT_TOKENS, math.inf  # of a call
        self.model: PreTrainedModel | None = None
        self._given, source = model, None
        if isinstance(model, (str, os.PathLike)):
            source = os.fspath(model)
            folder = str(Path(source).resolve()) if Path(source).is_dir() else source  # elsewhere, too
            known = {"model": folder, "processing_class": processing_class}
            self._made_from = {**known, "shared_prefix": shared_prefix, "offload": offload, **options}
            self._given = load_any(source, **options)
        elif options:
            raise ValueError(f"{', '.join(options)} cannot be applied to a model in memory; give its folder")
        elif not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
            raise ValueError(f"the model is a {type(model).__name__}; give a reward model, its folder or its hub id")
        config = self._follow().config
        if isinstance(processing_class, (str, os.PathLike)):
            processing_class = AutoTokenizer.from_pretrained(processing_class)
        elif processing_class is None:
            where = {name: options[name] for name in (*HUB_ARGUMENTS, "trust_remote_code") if name in options}
            processing_class = load_tokenizer(source or self.model, config, **where)
        elif not isinstance(processing_class, PreTrainedTokenizerBase):
            raise ValueError(f"processing_class is a {type(processing_class).__name__}; give the model's tokenizer")
        else:
            processing_class = copy.deepcopy(processing_class)  # other threads may use theirs
        source = source or getattr(config, "name_or_path", "") or type(self.model).__name__
        self._begin(source, processing_class, self._longest_text(processing_class))
        self.shares_prefix()  # a model that cannot is said to be so at once
        if _is_remote_code(self.model):  # so is one that gives something else than one logit
            self._compute(ScoringBatch([EncodedGroup([self.processing_class("a")["input_ids"]])], [[]]))

    @property
    def config(self) -> PreTrainedConfig:
        """That of the model."""
        return self.model.config

    @property
    def device(self) -> str:
        """Where the model is."""
        return str(self.model.device)

    @property
    def in_step(self) -> bool:
        """Whether all processes have to make the same calls, since each holds a part of the model."""
        return is_split(self.model)

    @property
    def pairs(self) -> bool:
        """An encoder reads question and answer as two texts."""
        if _is_remote_code(self.model):
            return self.processing_class.sep_token is not None
        return not isinstance(self.model, RewardModel)

    @property
    def rope_switch(self) -> int | None:
        """See [`RewardModel.rope_switch`]."""
        return self.model.rope_switch if isinstance(self.model, RewardModel) else None

    def form(self) -> str:
        """One of [`rm_plugin.model.packing.FORMS`], in which completions are computed with the model as it is now."""
        model = self._follow()
        if self.shared_prefix == "off" or not isinstance(model, RewardModel):
            return "padded"
        with in_eval_mode(model):
            return model.batch_form()

    def shares_prefix(self) -> bool:
        return self.form() in ("packed", "continued")

    @property
    def tokens_per_call(self) -> int:
        return max(1, min(self._planned_tokens, self._out_of_memory_at // 2))

    def plan(self, comparisons: list[Comparison], together: bool = False) -> list[ScoringBatch]:
        self._planned_tokens = self.max_num_batched_tokens
        if self.max_num_batched_tokens == "auto":
            own = self._follow().device
            computes_on = (torch.accelerator.current_accelerator() if self.offload else None) or own
            if (free := free_memory(computes_on)) is not None and own.type != computes_on.type:
                free -= self.model.get_memory_footprint()  # which comes there too
            self._planned_tokens = DEFAULT_TOKENS if free is None else tokens_that_fit(self.model, free)
        if together or self.in_step:  # what is free or has run out on one GPU is not so on others
            self._planned_tokens = min(Processes.current().gather(self.tokens_per_call))
        return super().plan(comparisons)

    def run_all(self, calls: Sequence[ScoringBatch]) -> Iterator[tuple[ScoringBatch, np.ndarray]]:
        with self._on_its_device():
            yield from super().run_all(calls)

    @contextlib.contextmanager
    def _on_its_device(self) -> Iterator[None]:
        """With `offload`, the model comes to the accelerator, and goes when its scores are there."""
        device = torch.accelerator.current_accelerator() if self.offload else None
        if device is not None:
            self._follow().to(device)
        try:
            yield
        finally:
            if device is not None:
                self._follow().to(self.offload)
                clear_device_cache()

    def _calls(self, groups: list[EncodedGroup]) -> Iterator[list[int]]:
        return split_by_tokens(groups, self.tokens_per_call, self.form(), self.rope_switch)

    def _compute(self, batch: ScoringBatch) -> np.ndarray:
        """Raw scores of one call; in halves where memory does not hold it, so that no score is lost."""
        try:
            return self._compute_at_once(batch)
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or len(batch.texts) == 1:
                raise
        clear_device_cache(garbage_collection=True)  # out here nothing of the failed call is held any more
        self._out_of_memory_at = min(self._out_of_memory_at, batch.tokens)
        logger.warning(
            "%s: out of memory at %d tokens, computed in halves; calls take at most %d from now on",
            self.__name__,
            batch.tokens,
            self.tokens_per_call,
        )
        return np.concatenate([self._compute(half) for half in _halves(batch)])

    @torch.no_grad()
    def _compute_at_once(self, batch: ScoringBatch) -> np.ndarray:
        """Raw scores of one call, in the reward model's own dtype, whatever loop it is in."""
        model = self._follow()
        device = model.device
        with in_eval_mode(model), torch.autocast(device.type, enabled=False):
            scores, calls = [], self._inputs(batch)
            num_texts = len(batch.texts) // len(calls)
            for inputs in calls:
                inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
                logits = getattr(model(**inputs), "logits", None)
                if logits is None or logits.shape not in ((num_texts, 1), (num_texts,)):
                    given = "no logits" if logits is None else f"logits of shape {tuple(logits.shape)}"
                    raise ValueError(
                        f"{type(model).__name__} gives {given}, a reward model (N, 1) for N texts; write a function "
                        "around it, and give module:function where a model's name is taken"
                    )
                scores.append(logits.reshape(num_texts).float().cpu().numpy())
        return np.concatenate(scores)

    def _inputs(self, batch: ScoringBatch) -> list[dict[str, Any]]:
        """Arguments of the model's calls: one; for code of a repository, whose pooling is unknown, several."""
        if isinstance(self.model, RewardModel):
            return [collate(batch.groups, self.form())]
        if _is_remote_code(self.model):
            return [pad([ids]) for ids in batch.texts]
        rows = [{"input_ids": ids} for ids in batch.texts]
        if "token_type_ids" in self.processing_class.model_input_names:
            separator = self.processing_class.sep_token_id
            rows = [{**row, "token_type_ids": _type_ids(row["input_ids"], separator)} for row in rows]
        return [self.processing_class.pad(rows, return_tensors="pt")]

    def _follow(self) -> PreTrainedModel:
        """The reward model with the adapter and the head that the model given has now."""
        given = self._given
        if hasattr(given, "get_base_model"):  # a PeftModel: its adapters live inside the base model
            check_peft_method(given.active_peft_config)
            given = given.get_base_model()
        check_one_label(given.config.num_labels)
        if isinstance(given, RewardModel) or sequence_classifier(given.config) is None or _is_remote_code(given):
            self.model = given
            return given
        head = head_in_use(getattr(given, "score", None))
        known = self.model is not None and self.model.model is text_tower(given)
        if known and isinstance(head, torch.nn.Linear) and head.bias is None:
            self.model.score.share(head)  # which may be another, or a 16-bit one whose copy is old
        else:
            self.model = RewardModel.from_sequence_classifier(given)
        return self.model

    def _longest_text(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The model's context length."""
        length = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(self.model, RewardModel):
            return length
        return min(length or math.inf, tokenizer.model_max_length)  # RoBERTa has positions of no token

    def _about_model(self) -> dict[str, Any]:
        model, config = self.model, self.config
        quantization = getattr(config, "quantization_config", None) or {}
        quantization = quantization if isinstance(quantization, dict) else quantization.to_dict()
        quantization = {k: v for k, v in quantization.items() if "load_in" in k or "4bit" in k}
        return {
            "kind": type(model).__name__,
            "revision": getattr(config, "_commit_hash", None),  # transformers keeps the commit nowhere else
            "base": getattr(config, "base_model", None) or getattr(config, "backbone_config", config).model_type,
            "base_revision": getattr(config, "base_revision", None),
            "weights": weights_digest(model),
            "num_parameters": sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": json.loads(json.dumps(quantization, default=str)) or None,
        }


def free_memory(device: torch.device) -> int | None:
    """Bytes that an accelerator has left; None for a CPU."""
    return None if device.type == "cpu" else torch.accelerator.get_memory_info(device)[0]


def tokens_that_fit(model: PreTrainedModel, free: int) -> int:
    """
    About how many tokens a call may compute in 0.8 of `free` bytes.

    Without gradients one layer's activations live at a time: residual stream, its norm, queries, keys, values and
    attention's output in float32, and the gated feed-forward. A call that does not fit is computed in halves.
    """
    config = getattr(model.config, "backbone_config", model.config).get_text_config()
    hidden = config.hidden_size
    per_token = (24 * hidden + 4 * (getattr(config, "intermediate_size", None) or 4 * hidden)) * model.dtype.itemsize
    return max(1, int(0.8 * free / per_token))


def _halves(batch: ScoringBatch) -> list[ScoringBatch]:
    """Two calls for the texts of one, in their order."""
    of_group = [g for g, group in enumerate(batch.groups) for _ in group.input_ids]
    rows = list(zip(of_group, batch.texts, batch.members, strict=True))
    halves, middle = [], (len(rows) + 1) // 2
    for half in (rows[:middle], rows[middle:]):
        groups = [EncodedGroup([ids for _, ids, _ in part]) for _, part in groupby(half, key=lambda row: row[0])]
        halves.append(ScoringBatch(groups, [members for *_, members in half]))
    return halves


def _is_remote_code(model: PreTrainedModel) -> bool:
    """Whether its class came with its repository."""
    return type(model).__module__.startswith("transformers_modules.")


@contextlib.contextmanager
def in_eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """No dropout, and no other scorer's thread in the model; afterwards every module is in the mode it was in."""
    with lock_of(getattr(model, getattr(model, "base_model_prefix", ""), model)), eval_mode(model):
        yield


def weights_digest(model: Any) -> str:
    """
    A hash of config, active adapters and their scale, and some 4096 values of each tensor: models of different
    training differ in it; cheap at 70B.
    """
    adapters = [
        (name, list(layer.active_adapters), layer.disable_adapters, getattr(layer, "scaling", None))
        for name, layer in peft_layers(model)
    ]
    pooling = getattr(model.config, "trailing_pad_id", None)
    config = _with_effect(getattr(model.config, "backbone_config", model.config).to_dict())
    digest = hashlib.sha256(json.dumps([config, pooling, adapters], sort_keys=True, default=str).encode())
    for name, tensor in whole_tensors(model):
        if tensor.is_meta:  # it lies on disk, where only accelerate's hook finds it, and nothing public reads hooks
            module, _, own_name = name.rpartition(".")
            tensor = model.get_submodule(module)._hf_hook.weights_map[own_name]
        flat = tensor.detach().reshape(-1)
        flat = flat[:: max(1, flat.numel() // 4096)]
        if flat.is_floating_point():
            flat = flat.double()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(flat.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _with_effect(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {str(name): _with_effect(value) for name, value in config.items() if name not in NOT_IN_DIGEST}


def _type_ids(ids: list[int], separator: int) -> list[int]:
    """Token types of a pair of texts: 0 up to the first separator, 1 after it."""
    first = ids.index(separator) + 1 if separator in ids else len(ids)
    return [0] * first + [1] * (len(ids) - first)
