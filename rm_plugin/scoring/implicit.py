"""`ImplicitRewardScorer`: the reward that a DPO policy is, with the interface of every scorer.

    r(x, y) = β · (log π(y | x) − log π_ref(y | x))      (Rafailov et al. 2023, eq. 5, but for a constant per prompt)

Policy and reference read the packed row of a reward model, in which completions share their prompt; only the hidden
states before a completion's tokens go through the language head, a chunk of them at a time. Where the policy is a
`PeftModel`, nothing is loaded twice: its base with the adapters off is the reference, or the copy named `ref` that
TRL's DPOTrainer keeps of an adapter that it trains further.

    ImplicitRewardScorer("my-dpo-model", "my-sft-model", beta=0.1).score(["2 + 2 ="], [" 4"])
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..data.comparison import Comparison
from ..data.control_tokens import ControlTokens
from ..data.encoding import EncodedGroup, prompt_ids, text_ids
from ..messages import check_choice
from ..model.checkpoint import find_file, is_adapter, load_language_model
from ..model.modeling import RewardModel
from ..model.packing import pack, split_by_tokens
from ..model.sharding import whole_models
from .base import OPTIONS, Scorer, ScoringBatch, lock_of
from .scorer import in_eval_mode, weights_digest

REFERENCE_ADAPTER = "ref"  # the name that TRL's DPOTrainer gives it
LOGITS_PER_CHUNK = 2**26  # positions × vocabulary: 256 MiB in float32


class ImplicitRewardScorer(Scorer):
    """
    Rewards of completions, from a policy that was trained with DPO and the policy that it began as.

    The completion begins where prompt and prompt + completion part, as in TRL's DPOTrainer, and its end token counts.

    Args:
        policy (`str`, `os.PathLike`, `PreTrainedModel` or `PeftModel`): the language model, or an adapter of one.
        reference (`str`, `os.PathLike` or `PreTrainedModel`, *optional*):
            What it was trained against; if absent, the policy with its adapter `ref`, or without adapters.
        beta (`float`, *optional*, defaults to `0.1`): β of its training.
        processing_class (`PreTrainedTokenizerBase` or `str`, *optional*): the tokenizer of both; loaded if absent.
        shared_prefix (`str`, *optional*, defaults to `"auto"`): `"auto"`, or `"off"` for one text per call.
        options: `max_length`, `max_num_batched_tokens`, `truncation_mode` (not `"keep_end"`, which cuts prompts),
            `reasoning`, `control_tokens`, `on_nonfinite`, `progress`, `name`, as for [`RewardScorer`].

    Raises:
        ValueError: no reference, β that is not positive, models that are no decoders.

    Source: Rafailov et al. 2023, "Direct Preference Optimization".

    Example:

    ```python
    scorer = ImplicitRewardScorer("my-dpo-adapter", beta=0.1)
    scorer.rank("Which country owns Antarctica?", ["Sweden.", "None: the Antarctic Treaty System governs it."])
    ```
    """

    def __init__(
        self,
        policy: str | os.PathLike | PreTrainedModel | Any,
        reference: str | os.PathLike | PreTrainedModel | None = None,
        beta: float = 0.1,
        processing_class: PreTrainedTokenizerBase | str | os.PathLike | None = None,
        *,
        shared_prefix: str = "auto",
        **options,
    ):
        if unknown := [name for name in options if name not in OPTIONS]:
            raise ValueError(f"{', '.join(unknown)} cannot be applied here; load the models and hand them over")
        super().__init__(**options)
        check_choice("shared_prefix", shared_prefix, ("auto", "off"))
        if not 0 < beta < math.inf:
            raise ValueError(f"beta={beta}, it is a positive number; give that of the training")
        if self.truncation_mode == "keep_end":
            raise ValueError("truncation_mode='keep_end' would cut prompts, on which the reward depends; use 'drop'")
        self.beta, self.shared_prefix = beta, shared_prefix
        named = [model for model in (policy, reference) if isinstance(model, (str, os.PathLike))]
        if len(named) == 2 - (reference is None):
            settings = {"policy": policy, "reference": reference, "beta": beta, "shared_prefix": shared_prefix}
            self._made_from = {**settings, "processing_class": processing_class}
        self.policy, self.reference = _load(policy), None if reference is None else _load(reference)
        if reference is None and not hasattr(self.policy, "disable_adapter"):
            raise ValueError(
                f"reference is missing, a {type(self.policy).__name__} has no adapters to leave out; give the policy "
                "that it was trained against"
            )
        self.model = _hidden_states(self.policy)
        self._reference_model = self.model if reference is None else _hidden_states(self.reference)
        source = os.fspath(policy) if policy in named else self.config._name_or_path or type(self.policy).__name__
        if processing_class is None or isinstance(processing_class, (str, os.PathLike)):
            processing_class = AutoTokenizer.from_pretrained(processing_class or source)
        longest = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        self._begin(source, copy.deepcopy(processing_class), longest)
        self.shares_prefix()  # a model that cannot is said to be so at once

    @property
    def config(self) -> PreTrainedConfig:
        """That of the policy."""
        return self.model.config.backbone_config

    @property
    def device(self) -> str:
        """Where the policy is."""
        return str(self.model.device)

    def shares_prefix(self) -> bool:
        """Whether completions of one prompt are packed behind it, by policy and reference."""
        if self.shared_prefix == "off":
            return False
        packed = [_can_be_packed(model) for model in (self.model, self._reference_model)]
        return all(packed)  # both were asked, each is ready for its rows

    def _calls(self, groups: list[EncodedGroup]) -> Iterator[list[int]]:
        return split_by_tokens(groups, self.max_num_batched_tokens, "packed" if self.shares_prefix() else "padded")

    def _encode(self, comparison: Comparison, index: int) -> EncodedGroup:
        group = super()._encode(comparison, index)
        with lock_of(self.processing_class):
            prompt = self._prompt_ids(comparison)
        starts = [min(len(os.path.commonprefix([prompt, ids])), len(ids) - 1) for ids in group.input_ids]
        group.input_ids = [Continuation(*one) for one in zip(group.input_ids, starts, strict=True)]
        return group

    def _prompt_ids(self, comparison: Comparison) -> list[int]:
        """Ids of the prompt alone, its control tokens read as beside the completions."""
        if not comparison.conversational or not comparison.prompt:
            return text_ids(comparison.prompt or "", self.processing_class)
        given = [comparison.prompt, comparison.tools, comparison.chat_template_kwargs]
        control = ControlTokens.of(self.processing_class)
        if self.control_tokens == "as_text" and control.found_in(given):
            return control.read_as_text(given, self.processing_class, lambda given, reader: _ids_of(given, reader))
        return _ids_of(given, self.processing_class)

    @torch.no_grad()
    def _compute(self, batch: ScoringBatch) -> np.ndarray:
        policy = self._log_probabilities(self.policy, self.model, batch)
        with _as_it_began(self.policy) if self.reference is None else nullcontext():
            reference = self._log_probabilities(self.reference or self.policy, self._reference_model, batch)
        return (self.beta * (policy - reference)).astype(np.float32)

    def _log_probabilities(self, language_model: Any, hidden: RewardModel, batch: ScoringBatch) -> np.ndarray:
        """log π(completion | prompt) of each text: (N,) float64."""
        sums = []
        with in_eval_mode(hidden), torch.autocast(hidden.device.type, enabled=False):
            parts = [batch.groups] if self.shares_prefix() else [[EncodedGroup([ids])] for ids in batch.texts]
            for groups in parts:
                inputs, indices, targets, owners = _rows(groups)
                inputs = {k: v.to(hidden.device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
                hidden_PH = _last_hidden_states(hidden, inputs)[0, torch.tensor(indices, device=hidden.device)]
                targets_P = torch.tensor(targets, device=hidden.device)
                log_probabilities_P = _of_targets(language_model, hidden_PH, targets_P)
                num_texts = sum(len(group.input_ids) for group in groups)
                sums_N = torch.zeros(num_texts, dtype=torch.float64, device=hidden.device)
                sums_N.index_add_(0, torch.tensor(owners, device=hidden.device), log_probabilities_P.double())
                sums.append(sums_N.cpu().numpy())
        return np.concatenate(sums)

    def _about_model(self) -> dict[str, Any]:
        return {
            "kind": f"implicit reward of a {type(self.policy).__name__}",
            "weights": weights_digest(self.model),
            "reference_weights": None if self.reference is None else weights_digest(self._reference_model),
            "beta": self.beta,
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


class Continuation(list):
    """Token ids that know at which index their completion begins; equal ids of other prompts are other texts."""

    def __init__(self, ids: list[int], start: int):
        super().__init__(ids)
        self.start = start


def _load(model: Any) -> Any:
    """A language model in memory as it is, another by name, an adapter with its base."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    name = os.fspath(model)
    if is_adapter(name, {}):
        from peft import AutoPeftModelForCausalLM

        with whole_models():
            loaded = AutoPeftModelForCausalLM.from_pretrained(name)
            if find_file(name, f"{REFERENCE_ADAPTER}/adapter_config.json", {}):
                loaded.load_adapter(name, REFERENCE_ADAPTER, subfolder=REFERENCE_ADAPTER)
    else:
        loaded = load_language_model(name)
    return loaded.to(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else loaded


@contextmanager
def _as_it_began(policy: Any) -> Iterator[None]:
    """Within, a `PeftModel` is what its training began from."""
    if REFERENCE_ADAPTER not in policy.peft_config:
        with policy.disable_adapter():
            yield
        return
    active, trained = policy.active_adapter, [weight for weight in policy.parameters() if weight.requires_grad]
    policy.set_adapter(REFERENCE_ADAPTER, inference_mode=True)
    try:
        yield
    finally:
        policy.set_adapter(active, inference_mode=True)
        for weight in trained:
            weight.requires_grad_(True)


def _hidden_states(language_model: Any) -> RewardModel:
    """A reward model around a language model's own layers, which packs rows; its head is not used."""
    if hasattr(language_model, "get_base_model"):
        language_model = language_model.get_base_model()
    with torch.random.fork_rng():  # which draws the head
        return RewardModel.from_backbone(language_model)


def _can_be_packed(model: RewardModel) -> bool:
    with in_eval_mode(model):
        return model.batch_form() == "packed"


def _ids_of(given: list[Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return prompt_ids(given[0], tokenizer, *given[1:])


def _last_hidden_states(model: RewardModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Those of all tokens, (1, T, H)."""
    kept = []
    handle = model.model.register_forward_hook(lambda module, args, output: kept.append(output.last_hidden_state))
    try:
        model(**inputs)
    finally:
        handle.remove()
    return kept[0]


def _rows(groups: list[EncodedGroup]) -> tuple[dict[str, Any], list[int], list[int], list[int]]:
    """A packed row; the P indices in it that predict a token of a completion; those tokens; whose text each is in."""
    inputs, indices, targets, owners, begin, n = pack(groups), [], [], [], 0, 0
    for group in groups:
        prefix, rest = group.prefix_length, begin + group.prefix_length
        for ids in group.input_ids:
            # index of each of its tokens
            row = [*range(begin, begin + prefix), *range(rest, rest + len(ids) - prefix)]
            start = max(1, ids.start)
            indices += row[start - 1 : -1]
            targets += ids[start:]
            owners += [n] * (len(ids) - start)
            rest, n = rest + len(ids) - prefix, n + 1
        begin = rest
    if len(groups) == 1 and len(groups[0].input_ids) == 1:  # any attention can do that
        inputs = {"input_ids": inputs["input_ids"]}
    return inputs, indices, targets, owners


def _of_targets(language_model: Any, hidden_PH: torch.Tensor, targets_P: torch.Tensor) -> torch.Tensor:
    """
    Log probability of each target from the hidden state before it, (P,) float32.

    The language model's own forward turns hidden states into logits, with whatever cap or scale it has, while its
    layers are replaced by what gives these hidden states.
    """
    if hasattr(language_model, "get_base_model"):
        language_model = language_model.get_base_model()
    name, found = language_model.base_model_prefix, []
    layers = getattr(language_model, name)
    size = max(1, LOGITS_PER_CHUNK // language_model.config.get_text_config().vocab_size)
    try:
        for hidden, targets in zip(hidden_PH.split(size), targets_P.split(size), strict=True):
            setattr(language_model, name, _Given(hidden[None]))
            logits = language_model(inputs_embeds=hidden[None], use_cache=False).logits[0].float()
            found.append(logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1))
    finally:
        setattr(language_model, name, layers)
    return torch.cat(found)


class _Given(nn.Module):
    """Layers whose hidden states are known."""

    def __init__(self, hidden_1PH: torch.Tensor):
        super().__init__()
        self.hidden_1PH = hidden_1PH

    def forward(self, *args, **kwargs) -> _Output:
        return _Output(last_hidden_state=self.hidden_1PH)


class _Output(BaseModelOutputWithPast):
    """An output whose missing fields are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
