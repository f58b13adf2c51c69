"""PPO of TRL (to 1.12) with any reward model; the only file that knows what `PPOTrainer` expects of one.

TRL never calls a reward model's forward. It runs the backbone on the policy's token ids and the head on every hidden
state, and reads one place, `logits[row, first pad of the response − 1]`. A `RewardModel` fits that as it is, where
policy and reward model share tokenizer and template and pad is not EOS. `as_ppo_reward_model` fits always: it puts the
texts together again, lets a `RewardScorer` compute the true rewards, and writes each to every place of its row:

    ids (N, T) ► prompt text, completion text ► Σ weight · scorer(prompt, completion) ► logits (N, T, 1), equal along T

    PPOTrainer(..., reward_model=as_ppo_reward_model(RewardScorer("my-reward-model"), policy_tokenizer, train_dataset))

Shapes: `N` rows (prompt padded on the left, response padded on the right), `T` tokens of a row.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from ..data.comparison import Text
from ..scoring.scorer import RewardScorer
from .callbacks import ppo_context_length

_trl = importlib.util.find_spec("trl")  # found, not imported: trl.experimental warns when it is
if not any(Path(place, "experimental", "ppo").is_dir() for place in _trl.submodule_search_locations):
    raise ImportError(
        f"trl {version('trl')} has no PPO, 1.12 was the last that had it: pip install 'rm-plugin[ppo]' in an "
        "environment of its own, or use GRPOTrainer or RLOOTrainer with reward_funcs=RewardScorer(...)"
    )


def as_ppo_reward_model(
    scorer: RewardScorer | list[RewardScorer],
    policy_tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[dict[str, Any]] | Iterable[Text] | None = None,
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
        prompts (`Dataset` or `list`, *optional*):
            Where the prompts are known: rows with `input_ids` as `PPOTrainer` trains (and evaluates) on, and, if it
            is there, the `prompt` that they are of; or the prompts themselves, texts or conversations. Without it a
            prompt is read back through the policy's chat template, whose generation header shows where it ends.
        reward_weights (`list[float]`, *optional*): one weight a scorer; 1 if absent.
        reward_clip (`float`, *optional*): the weighted sum is cut to [−reward_clip, reward_clip].

    Returns:
        [`PPORewardModel`]

    Raises:
        ValueError: a tokenizer that cannot be bridged, weights of another number, a scorer that may leave texts out.

    Example:

    ```python
    rows = [{"prompt": text, "input_ids": tokenizer(text)["input_ids"]} for text in texts]
    reward_model = as_ppo_reward_model(RewardScorer("my-reward-model"), tokenizer, rows)
    ```
    """
    scorers = scorer if isinstance(scorer, (list, tuple)) else [scorer]
    for one in scorers:
        if not isinstance(one, RewardScorer):
            raise ValueError(f"{type(one).__name__} is no RewardScorer; wrap it: RewardScorer(model, tokenizer)")
        if one.truncation_mode == "drop":
            raise ValueError(
                "truncation_mode='drop' leaves texts without a reward, PPO needs one for each; use 'keep_end' or "
                "'error'"
            )
    weights = [1.0] * len(scorers) if reward_weights is None else list(reward_weights)
    if len(weights) != len(scorers) or not scorers:
        raise ValueError(f"{len(weights)} reward_weights for {len(scorers)} scorers; give one weight a scorer")
    if reward_clip is not None and not reward_clip > 0:
        raise ValueError(f"reward_clip={reward_clip}, it is the largest absolute reward; give a number above 0")
    return PPORewardModel(list(scorers), weights, PromptReader(policy_tokenizer, prompts), reward_clip)


class PPORewardModel(nn.Module):
    """
    What TRL's `get_reward` calls as backbone and head: `rewards(...)`, then `score(hidden_states[-1])`.

    Made by [`as_ppo_reward_model`].
    """

    base_model_prefix = "rewards"  # TRL takes the attribute of this name for the backbone

    def __init__(
        self, scorers: list[RewardScorer], weights: list[float], reader: PromptReader, reward_clip: float | None
    ):
        super().__init__()
        self.models = nn.ModuleList([scorer.model for scorer in scorers])  # `.to(device)` finds them here
        self.score = nn.Identity()
        self.scorers = scorers
        self.weights = weights
        self.reader = reader
        self.reward_clip = reward_clip
        self.config = scorers[0].model.config
        self.eval()

    def rewards(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **positions_and_flags) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor`): (N, T) the policy's ids, 0 where `attention_mask` is.
            attention_mask (`torch.BoolTensor`): (N, T), 0 where TRL saw the pad token.
            positions_and_flags: what a transformer would need besides.

        Returns:
            `BaseModelOutput`: its only hidden state (N, T, 1) float32 is the row's reward, everywhere.
        """
        if self.training:  # TRL sets its policy and its value model to training, never the reward model
            raise ValueError(
                "as_ppo_reward_model gives one reward a text, a value model estimates one a token; use "
                "value_model=RewardModel.from_backbone(policy)"
            )
        pad_token_id = self.reader.tokenizer.pad_token_id
        rows = input_ids.masked_fill(attention_mask == 0, pad_token_id).tolist()
        prompts, completions, completion_ids = self.reader.split(rows, ppo_context_length())
        reward_N = torch.zeros(len(rows), dtype=torch.float32, device=input_ids.device)
        for scorer, weight in zip(self.scorers, self.weights, strict=True):
            scores = scorer.score(prompts, completions, allow_empty=True, completion_ids=completion_ids)
            reward_N += weight * torch.from_numpy(scores).to(reward_N)
        if self.reward_clip is not None:
            reward_N = reward_N.clamp(-self.reward_clip, self.reward_clip)
        return BaseModelOutput(hidden_states=(reward_N[:, None, None].expand(-1, input_ids.shape[1], 1),))


class PromptReader:
    """
    Rows of the policy's token ids ► prompts and completions as text.

    All responses of a call start at one place. Where that is not given, it is the last place at which a known prompt
    (or the chat template's generation header) ends in every row: a guess where responses repeat what ends a prompt.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the policy's.
        prompts (iterable, *optional*): as for [`as_ppo_reward_model`].
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Iterable | None = None):
        if tokenizer.pad_token_id is None:
            raise ValueError("the policy's tokenizer has no pad token; set policy_tokenizer.pad_token")
        if tokenizer.padding_side != "left":
            raise ValueError(
                f"padding_side={tokenizer.padding_side!r}, generation needs prompts padded on the left; set "
                "policy_tokenizer.padding_side = 'left'"
            )
        self.tokenizer = tokenizer
        self.template = None if tokenizer.chat_template is None else ChatTemplate(tokenizer)
        self.known: dict[tuple[int, ...], Text] = {}
        for prompt in prompts if prompts is not None else ():
            ids, text = self._known_prompt(prompt)
            self.known[tuple(self._strip(ids))] = text
        self.lengths = sorted({len(ids) for ids in self.known})
        if prompts is not None and not self.known:
            raise ValueError("prompts is empty; give the rows that PPOTrainer trains on")
        if prompts is None and (self.template is None or not self.template.header):
            raise ValueError(
                "the policy's tokenizer has no chat template with a generation header, so no row shows where its "
                "prompt ends; give prompts= the rows that PPOTrainer trains on (input_ids, and prompt if it is there)"
            )

    def split(
        self, rows: list[list[int]], context_length: int | None = None
    ) -> tuple[list[Text], list[Text], list[list[int]]]:
        """
        Prompts, completions (text up to the first EOS, without special tokens), completion ids of padded rows.

        Args:
            rows (`list[list[int]]`): prompts padded on the left, responses on the right.
            context_length (`int`, *optional*): the place at which the responses start, if it is known.
        """
        starts = [len(row) - len(self._strip(row)) for row in rows]
        end = self._prompt_end(rows, starts, context_length)
        prompts, completions, completion_ids = [], [], []
        for row, start in zip(rows, starts, strict=True):
            prompt_ids, ids = row[start:end], self._up_to_end(row[end:])
            prompt = self.known[tuple(prompt_ids)] if self.known else self._read_prompt(prompt_ids)
            prompts.append(prompt)
            completions.append(self._completion(prompt, prompt_ids, ids))
            completion_ids.append(ids)
        return prompts, completions, completion_ids

    def _prompt_end(self, rows: list[list[int]], starts: list[int], context_length: int | None) -> int:
        """The last place at which every row has a prompt end; longer agreement beats a prompt that begins another."""
        ends = self._ends(rows[0], starts[0]) if context_length is None else [context_length]
        for row, start in zip(rows, starts, strict=True):
            ends = [end for end in ends if self._ends_at(row, start, end)]
        if ends:
            return max(ends)
        text = self.tokenizer.decode(rows[0][starts[0] :])[:80]
        if self.known:
            raise ValueError(
                f"none of the {len(self.known)} known prompts begins the text {text!r}; give prompts= all rows that "
                "PPOTrainer trains and evaluates on, with their input_ids"
            )
        raise ValueError(
            f"the generation header {self.tokenizer.decode(self.template.header)!r} is not in {text!r}; render "
            "prompts with add_generation_prompt=True, or give prompts= the rows that PPOTrainer trains on"
        )

    def _ends(self, row: list[int], start: int) -> list[int]:
        """Places at which the prompt of a row may end."""
        if self.known:
            return [start + length for length in self.lengths if start + length <= len(row)]
        return list(range(start + len(self.template.header), len(row) + 1))

    def _ends_at(self, row: list[int], start: int, end: int) -> bool:
        if self.known:
            return tuple(row[start:end]) in self.known
        return end > start and self._ends_in_header(row[start:end])

    def _known_prompt(self, prompt: dict[str, Any] | Text) -> tuple[list[int], Text]:
        if isinstance(prompt, dict):
            if "input_ids" not in prompt:
                raise ValueError(f"a row has {', '.join(prompt) or 'nothing'}; it needs input_ids, as PPOTrainer does")
            ids = [int(i) for i in prompt["input_ids"]]
            text = prompt.get("prompt")
            if isinstance(text, str) and self._ends_in_header(ids):
                text = None  # the text was made a message, or rendered; what its ids say counts
            return ids, self._read_prompt(self._strip(ids)) if text is None else text
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"]), prompt
        if self.template is None:
            raise ValueError(
                "the policy's tokenizer has no chat template and a prompt is a conversation; set its chat_template, "
                "or give plain prompts"
            )
        return self.template.ids(prompt), prompt

    def _read_prompt(self, ids: list[int]) -> Text:
        """The text of a prompt, or its messages where it was rendered by the chat template."""
        if self._ends_in_header(ids):
            return self.template.read(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _ends_in_header(self, ids: list[int]) -> bool:
        header = self.template.header if self.template is not None else []
        return bool(header) and ids[-len(header) :] == header

    def _completion(self, prompt: Text, prompt_ids: list[int], ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if isinstance(prompt, str) and text:  # plain text is joined, and some tokenizers lose a space at the joint
            before = self.tokenizer.decode(prompt_ids, skip_special_tokens=True)
            whole = self.tokenizer.decode(prompt_ids + ids, skip_special_tokens=True)
            if whole.startswith(before):
                return whole[len(before) :]
        return text

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


class ChatTemplate:
    """
    What a chat template writes between the messages, so that a rendered prompt can be read back.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): with a chat template.

    Attributes:
        header (`list[int]`): ids that `add_generation_prompt=True` appends, a prefilled `<think>` included.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        user, assistant, again, system = probes = ["Aqz", "Bqz", "Cqz", "Dqz"]
        self.header: list[int] = []
        self.opening = self.system_opening = None
        messages = [{"role": role, "content": text} for role, text in zip(ROLES, probes[:3], strict=True)]
        without, with_header = self.ids(messages, header=False), self.ids(messages)
        shared = len(os.path.commonprefix([without, with_header]))
        self.header = with_header[shared:]
        rendered = self.render(messages)
        places = [rendered.find(text) for text in probes[:3]]
        if min(places) < 0 or places != sorted(places):
            return
        self.opening, rest = rendered.split(user)
        self.user_to_assistant, rest = rest.split(assistant)
        self.assistant_to_user, self.tail = rest.split(again)
        try:
            rendered = self.render([{"role": "system", "content": system}, messages[0]])
        except Exception:  # a template without a system role raises whatever its author chose
            return
        if rendered.find(system) >= 0 and rendered.find(user) > rendered.find(system):
            self.system_opening, rest = rendered.split(system)
            self.system_to_user = rest.split(user)[0]

    def render(self, messages: list[dict]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def ids(self, messages: list[dict], header: bool = True) -> list[int]:
        rendered = self.tokenizer.apply_chat_template(messages, return_dict=True, add_generation_prompt=header)
        return list(rendered["input_ids"])

    def read(self, text: str) -> list[dict]:
        """
        The messages of a rendered prompt; rendering them gives the same text again, or they are refused.

        A system message that the template writes by itself is not one of them.

        Raises:
            ValueError: the text is not what the template renders.
        """
        for messages in self._readings(text):
            if self.render(messages) == text:
                return messages
        raise ValueError(
            f"the prompt {text[:80]!r} cannot be read back through the policy's chat template; give prompts= the rows "
            "that PPOTrainer trains on, with input_ids and prompt"
        )

    def _readings(self, text: str) -> Iterable[list[dict]]:
        if self.opening is None or not text.endswith(self.tail):
            return
        body = text.removesuffix(self.tail)
        if body.startswith(self.opening):
            yield self._turns(body.removeprefix(self.opening))
        if self.system_opening is not None and body.startswith(self.system_opening):
            system, _, rest = body.removeprefix(self.system_opening).partition(self.system_to_user)
            yield [{"role": "system", "content": system}, *self._turns(rest)]

    def _turns(self, body: str) -> list[dict]:
        user, *others = body.split(self.user_to_assistant)
        messages = [{"role": "user", "content": user}]
        for turns in others:
            assistant, _, user = turns.partition(self.assistant_to_user)
            messages += [{"role": "assistant", "content": assistant}, {"role": "user", "content": user}]
        return messages


ROLES = ("user", "assistant", "user")
