"""PPO of TRL (to 1.12) with any reward model: everything that this package knows of `PPOTrainer`.

TRL never calls a reward model's forward. It runs the backbone on the policy's token ids and the head on every hidden
state, and reads one position, `logits[row, first pad of the response − 1]`. A `RewardModel` fits that as it is where
policy and reward model share tokenizer and template, where that position is the token that the model was trained to
be read at, and where no prompt holds the pad token. `RewardScoringCallback` says which of these fails before training
(`why_not_native`); without that callback nothing checks. `as_ppo_reward_model` fits always: it turns the ids back into
texts, lets a `RewardScorer` compute the true rewards, and writes each to every position of its row:

    ids (N, T) ► prompt, completion text ► Σ weight · scorer(prompt, completion) ► logits (N, T, 1), equal along T

    PPOTrainer(..., reward_model=as_ppo_reward_model(RewardScorer("my-reward-model"), policy_tokenizer, train_dataset))

Shapes: `N` rows (prompt padded on the left, response padded on the right), `T` tokens of a row, `R` of a response.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutput

from ..data.comparison import Text, template_arguments
from ..data.encoding import num_embeddings, prompt_ids
from ..data.templates import template_hash, trim_template_tail
from ..model.modeling import RewardModel
from ..scoring.base import Scorer
from ..scoring.scorer import RewardScorer
from .generation import completion_text

# The index at which responses start in the batch that TRL's `get_reward` reads now; None outside of it.
_context_length: ContextVar[int | None] = ContextVar("context_length", default=None)


def require_ppo() -> None:
    """Raise, with what to do, where the installed TRL has no `PPOTrainer`, or under ZeRO-3."""
    trl = importlib.util.find_spec("trl")  # found, not imported: trl.experimental warns when it is
    if not any(Path(folder, "experimental", "ppo").is_dir() for folder in trl.submodule_search_locations):
        raise ImportError(
            f"trl {version('trl')} has no PPO, 1.12 was the last that had it: pip install 'rm-plugin[ppo]' (from a "
            "checkout '.[ppo]') in an environment of its own, or use GRPOTrainer or RLOOTrainer with "
            "reward_funcs=RewardScorer(...)"
        )
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            "PPO under DeepSpeed ZeRO-3 would wait for ever: processes call the reward model different numbers of "
            "times; use ZeRO-2"
        )


def as_ppo_reward_model(
    scorer: Scorer | list[Scorer],
    policy_tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[dict[str, Any]] | Iterable[Text],
    *,
    reward_weights: list[float] | None = None,
    reward_clip: float | None = None,
) -> PPORewardModel:
    """
    A module that `PPOTrainer` takes as `reward_model` and whose rewards are the scorer's, whatever the tokenizers.

    Memory is bounded by the scorer's `max_num_batched_tokens`; normalised rewards are the scorer's `normalize=True`.

    Args:
        scorer ([`RewardScorer`] or `list[RewardScorer]`): one reward model, or several whose rewards are summed.
        policy_tokenizer (`PreTrainedTokenizerBase`): the policy's, as `PPOTrainer` gets it; pads on the left.
        prompts (`Dataset` or `list`):
            The rows that `PPOTrainer` trains (and evaluates) on: `input_ids` and the `prompt` that they are of, a text
            or messages (plain text may do without), with `tools` and `chat_template_kwargs` where the template got
            them. Or the prompts themselves, texts or conversations.
        reward_weights (`list[float]`, *optional*): one weight per scorer; 1 if absent.
        reward_clip (`float`, *optional*): the weighted sum is clipped to [−reward_clip, reward_clip].

    Returns:
        [`PPORewardModel`]

    Raises:
        ImportError: a TRL without PPO.
        ValueError: ZeRO-3, a tokenizer that cannot be bridged, no prompts, weights of another number, a scorer that
            may leave texts out.

    Example:

    ```python
    rows = [{"prompt": text, "input_ids": tokenizer(text)["input_ids"]} for text in texts]
    reward_model = as_ppo_reward_model(RewardScorer("my-reward-model"), tokenizer, rows)
    ```
    """
    require_ppo()
    scorers = scorer if isinstance(scorer, (list, tuple)) else [scorer]
    for one in scorers:
        if not isinstance(one, Scorer):
            raise ValueError(f"{type(one).__name__} is no RewardScorer; wrap it: RewardScorer(model, tokenizer)")
        if one.truncation_mode == "drop":
            raise ValueError(
                "truncation_mode='drop' leaves texts without a reward, PPO needs one for each; use 'keep_end' or "
                "'error'"
            )
    weights = [1.0] * len(scorers) if reward_weights is None else list(reward_weights)
    if len(weights) != len(scorers) or not scorers:
        raise ValueError(f"{len(weights)} reward_weights for {len(scorers)} scorers; give one weight per scorer")
    if reward_clip is not None and not reward_clip > 0:
        raise ValueError(f"reward_clip={reward_clip}, it is the largest absolute reward; give a number above 0")
    note_context_length()
    return PPORewardModel(list(scorers), weights, PromptReader(policy_tokenizer, prompts), reward_clip)


class PPORewardModel(nn.Module):
    """
    What TRL's `get_reward` calls as backbone and head: `rewards(...)`, then `score(hidden_states[-1])`.

    Made by [`as_ppo_reward_model`]. Every callable in `listeners` gets prompts, completions, rewards and
    `completion_ids` of each batch ([`RewardScoringCallback`] listens there).
    """

    base_model_prefix = "rewards"  # TRL takes the attribute of this name for the backbone

    def __init__(self, scorers: list[Scorer], weights: list[float], reader: PromptReader, reward_clip: float | None):
        super().__init__()
        local = [scorer.model for scorer in scorers if isinstance(scorer, RewardScorer)]
        self.models = nn.ModuleList(local)  # `.to(device)` finds them here
        self.score = nn.Identity()
        self.scorers = scorers
        self.weights = weights
        self.reader = reader
        self.reward_clip = reward_clip
        self.listeners: list[Callable[..., None]] = []
        self.config = scorers[0].config
        self.eval()

    def rewards(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **positions_and_flags) -> BaseModelOutput:
        """
        What TRL calls as the backbone: the reward of each row, at every position.

        Args:
            input_ids (`torch.LongTensor`): (N, T) the policy's ids, 0 where `attention_mask` is.
            attention_mask (`torch.BoolTensor`): (N, T), 0 where TRL saw the pad token.
            positions_and_flags: what a transformer would need besides.

        Returns:
            `BaseModelOutput`: its only hidden state (N, T, 1) float32 is the row's reward, everywhere.
        """
        if self.training:  # TRL sets its policy and its value model to training, never the reward model
            raise ValueError(
                "as_ppo_reward_model gives one reward per text, a value model estimates one per token; use "
                "value_model=RewardModel.from_backbone(policy)"
            )
        pad_token_id = self.reader.tokenizer.pad_token_id
        rows = input_ids.masked_fill(attention_mask == 0, pad_token_id).tolist()
        context_length = _context_length.get()
        if context_length is None:
            raise ValueError(
                "the module of as_ppo_reward_model is called outside of TRL's get_reward, which alone knows where "
                "responses begin; call it there, and import get_reward after the module is made"
            )
        prompts, completions, completion_ids, columns = self.reader.split(rows, context_length)
        reward_N = torch.from_numpy(self.weighted(prompts, completions, **columns))
        for listener in self.listeners:
            listener(prompts, completions, reward_N.tolist(), completion_ids=completion_ids)
        reward_N = reward_N.to(input_ids.device)
        return BaseModelOutput(hidden_states=(reward_N[:, None, None].expand(-1, input_ids.shape[1], 1),))

    def weighted(
        self,
        prompts: list[Text],
        completions: list[Text],
        tools: list[list | None] | None = None,
        chat_template_kwargs: list[dict | None] | None = None,
    ) -> np.ndarray:
        """Clipped weighted sum of the scorers' rewards, (N,) float32."""
        options = {"allow_empty": True, "tools": tools, "chat_template_kwargs": chat_template_kwargs}
        rewards = [scorer.score(prompts, completions, **options) for scorer in self.scorers]
        reward_N = sum(weight * reward for weight, reward in zip(self.weights, rewards, strict=True))
        return reward_N if self.reward_clip is None else reward_N.clip(-self.reward_clip, self.reward_clip)


class PromptReader:
    """
    Rows of the policy's token ids ► known prompts, and completions as text.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the policy's.
        prompts (iterable): as for [`as_ppo_reward_model`].
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Iterable):
        if tokenizer.pad_token_id is None:
            raise ValueError("the policy's tokenizer has no pad token; set policy_tokenizer.pad_token")
        if tokenizer.padding_side != "left":
            raise ValueError(
                f"padding_side={tokenizer.padding_side!r}, generation needs prompts padded on the left; set "
                "policy_tokenizer.padding_side = 'left'"
            )
        self.tokenizer = tokenizer
        self.header = _generation_header(tokenizer)
        self.known: dict[tuple[int, ...], tuple[Text, dict[str, Any]]] = {}
        for prompt in () if prompts is None else prompts:
            ids, text, columns = self._known_prompt(prompt)
            self.known[tuple(self._strip(ids))] = text, columns
        if not self.known:
            raise ValueError(f"prompts is {'empty' if prompts is not None else None}; give the rows of PPOTrainer")

    def split(
        self, rows: list[list[int]], context_length: int
    ) -> tuple[list[Text], list[str], list[list[int]], dict[str, list]]:
        """
        Split padded rows into prompts, completions (text up to the first EOS, without special tokens), completion
        ids, and the columns `tools` and `chat_template_kwargs`.

        Args:
            rows (`list[list[int]]`): prompts padded on the left, responses on the right.
            context_length (`int`): the index at which the responses start.
        """
        asked = [self._strip(row[:context_length]) for row in rows]
        if unknown := [ids for ids in asked if tuple(ids) not in self.known]:
            raise ValueError(
                f"{self.tokenizer.decode(unknown[0])[:80]!r} is none of the {len(self.known)} known prompts; give "
                "prompts= all rows that PPOTrainer trains and evaluates on, with their input_ids"
            )
        prompts, columns = zip(*(self.known[tuple(ids)] for ids in asked), strict=True)
        completion_ids = [self._up_to_end(row[context_length:]) for row in rows]
        completions = [
            completion_text(self.tokenizer, before if isinstance(prompt, str) else [], ids)
            for prompt, before, ids in zip(prompts, asked, completion_ids, strict=True)
        ]
        by_name = {name: [one[name] for one in columns] for name in columns[0]}
        return list(prompts), completions, completion_ids, by_name

    def _known_prompt(self, prompt: dict[str, Any] | Text) -> tuple[list[int], Text, dict[str, Any]]:
        """Ids, text or messages, and template columns of a row or a prompt."""
        row = prompt if isinstance(prompt, dict) else {"prompt": prompt}
        columns = template_arguments(row)
        text = row.get("prompt")
        if "input_ids" not in row:
            if isinstance(prompt, dict):
                raise ValueError(f"a row has {', '.join(row) or 'nothing'}; it needs input_ids, as PPOTrainer does")
            return prompt_ids(text, self.tokenizer, **columns), text, columns
        ids = [int(i) for i in row["input_ids"]]
        if isinstance(text, list) or not self.header or ids[-len(self.header) :] != self.header:
            return ids, self.tokenizer.decode(ids, skip_special_tokens=True) if text is None else text, columns
        if isinstance(text, str):  # the ids are rendered messages; perhaps of this text as the only one
            messages = [{"role": "user", "content": text}]
            if prompt_ids(messages, self.tokenizer, **columns) == ids:
                return ids, messages, columns
        raise ValueError(
            f"the prompt {self.tokenizer.decode(ids)[:80]!r} is rendered by the policy's chat template; give its row "
            "the messages too, as prompt"
        )

    def _strip(self, ids: list[int]) -> list[int]:
        """Without pads at the start; where pad is BOS too, prompts lose that here and in the rows alike."""
        first = next((i for i, token in enumerate(ids) if token != self.tokenizer.pad_token_id), len(ids))
        return ids[first:]

    def _up_to_end(self, ids: list[int]) -> list[int]:
        """A response up to and with its EOS; the pads after it left out."""
        for i, token in enumerate(ids):
            if token == self.tokenizer.eos_token_id:
                return ids[: i + 1]
            if token == self.tokenizer.pad_token_id:
                return ids[:i]
        return ids


def _generation_header(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that `add_generation_prompt=True` appends to a conversation; empty without a chat template."""
    if tokenizer.chat_template is None:
        return []
    messages = [{"role": "user", "content": "Hello"}]
    without, with_header = (
        list(tokenizer.apply_chat_template(messages, return_dict=True, add_generation_prompt=header)["input_ids"])
        for header in (False, True)
    )
    return with_header[len(without) :] if with_header[: len(without)] == without else []


# --- a RewardModel handed over as it is


def why_not_native(
    model: RewardModel, policy_tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]]
) -> str | None:
    """
    Why PPO would read another reward from a `RewardModel` that it got as it is; `None` where it reads the true one.

    Args:
        model ([`RewardModel`]): the reward model of a `PPOTrainer`.
        policy_tokenizer (`PreTrainedTokenizerBase`): the policy's.
        rows (iterable of `dict`): the trainer's rows, with `input_ids`.
    """
    trimmed = copy.deepcopy(policy_tokenizer)
    trim_template_tail(trimmed)  # generated text has no tail, so a template that differs in that is the same
    trained_with, ends = model.config.template_hash, model.config.eos_token_id
    known = trained_with in (None, template_hash(policy_tokenizer), template_hash(trimmed))
    if not known or len(policy_tokenizer) > num_embeddings(model):
        return (
            "the reward model was trained with another chat template, special tokens or vocabulary than the policy's "
            "tokenizer has, whose ids PPO shows it"
        )
    pad, eos = policy_tokenizer.pad_token_id, policy_tokenizer.eos_token_id
    if (kept := model.config.trailing_pad_id) is not None:
        if pad != kept:
            return f"the reward model skips pad tokens {kept} at the end, PPO skips {pad}"
    elif pad is not None and pad == eos:
        return "the policy's pad token is its EOS, so PPO reads rewards at the token before it"
    ends = [] if ends is None or trained_with is not None else ends if isinstance(ends, list) else [ends]
    if ends and eos not in ends:
        return f"the policy ends its texts with token {eos}, the reward model's texts end with one of {ends}"
    for i, row in enumerate(rows):
        ids = list(row["input_ids"])
        first = next((k for k, token in enumerate(ids) if token != pad), len(ids))
        if pad in ids[first:]:
            return f"row {i} holds the policy's pad token {pad} inside its prompt, and PPO masks it there"
    return None


def read_batch(ids_NT: torch.Tensor, mask_NT: torch.Tensor, logits_NT1: torch.Tensor, eos: int | None) -> dict | None:
    """
    What `get_reward` reads from a reward model's head: arguments of a listener, or `None` outside of PPO.

    Args:
        ids_NT (`torch.LongTensor`): ids that the backbone got.
        mask_NT (`torch.BoolTensor`): their mask.
        logits_NT1 (`torch.Tensor`): the head's output at every position.
        eos (`int`, *optional*): the policy's end token; a response that fills its width without it was cut.

    Returns:
        `dict`: `prompts`, `completions`, `completion_ids` (lists of ids), `scores` (N,), `truncated` (N,).
    """
    start = _context_length.get()  # at which the responses begin
    if start is None:
        return None
    # The response before its first pad, and the index of its last token, as TRL's `get_reward` has it.
    before_pad_NR = mask_NT[:, start:].long().cumprod(-1).bool()
    last_N = before_pad_NR.sum(-1) - 1 + start
    scores_N = logits_NT1[torch.arange(len(ids_NT), device=logits_NT1.device), last_N.to(logits_NT1.device), 0]
    ids_NR = ids_NT[:, start:]
    responses = real_ids(ids_NR, before_pad_NR)
    return {
        "prompts": real_ids(ids_NT[:, :start], mask_NT[:, :start]),
        "completions": responses,
        "scores": scores_N.detach().float().cpu().numpy(),
        "completion_ids": responses,
        "truncated": (before_pad_NR[:, -1] & (ids_NR[:, -1] != eos)).tolist(),
    }


def real_ids(ids_NT: torch.Tensor, mask_NT: torch.Tensor) -> list[list[int]]:
    """The ids of each row that its mask keeps."""
    return [row[mask].tolist() for row, mask in zip(ids_NT.cpu(), mask_NT.cpu(), strict=True)]


# --- what TRL hands to nobody


def note_context_length() -> None:
    """
    Have TRL's `get_reward` leave a note of `context_length`, which it tells no reward model and which decides what is
    prompt and what is response. TRL 1.12 is the last release that has the function, so this stays as it is.
    """
    for name in ("trl.experimental.utils", "trl.experimental.ppo.ppo_trainer"):
        module = importlib.import_module(name)
        if not hasattr(module.get_reward, "__wrapped__"):
            module.get_reward = _noting(module.get_reward)


def _noting(get_reward: Callable) -> Callable:
    @functools.wraps(get_reward, updated=())
    def noting(model, query_responses, pad_token_id, context_length):
        token = _context_length.set(context_length)
        try:
            return get_reward(model, query_responses, pad_token_id, context_length)
        finally:
            _context_length.reset(token)

    return noting


def mark_evaluation(trainer: Any, callback: Any) -> None:
    """Set `callback.in_ppo_evaluation` while `PPOTrainer` looks at its evaluation set during training."""
    generate = trainer.generate_completions

    def generate_completions(*args, **kwargs):
        callback.in_ppo_evaluation = True
        try:
            return generate(*args, **kwargs)
        finally:
            callback.in_ppo_evaluation = False

    trainer.generate_completions = generate_completions
