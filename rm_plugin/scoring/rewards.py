"""Anything that gives rewards, behind one interface: a reward model, a function, `module:name`, the environment.

    reward = as_reward("my-reward-model")       # or "my_module:my_judge", a RewardScorer, a model, a function
    for batch in reward.plan(comparisons):      # depends on the comparisons alone
        reward.run(batch)                       # scores of the batch's texts; batch.members says whose they are
    reward.values(comparisons)                  # all of it: one array (K,) per comparison

`trl grpo` takes a reward function by its dotted path, and the environment names the model. It can stand in the recipe,
under `env:`; every option of `RewardScorer` has a variable, see `VARIABLES`.

    RM_PLUGIN_REWARD_MODEL=my-reward-model trl grpo --reward_funcs rm_plugin.rewards.reward_from_env ...
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.comparison import TEMPLATE_COLUMNS, Comparison, Text
from ..messages import nearest, shorten

if TYPE_CHECKING:
    from .scorer import RewardScorer, ScoringBatch

CALLS_OF = 64  # completions in one call of a function
WITHOUT_EFFECT = {  # fields of a config that change no score, or that stand in a report by themselves
    *("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "torch_dtype", "pad_token_id"),
    *("id2label", "label2id", "num_labels", "problem_type", "reward_model", "quantization_config"),
}
PROBE = "Which country owns Antarctica?\n\n  2 + 2 = 4, naïvely. 南极洲 🐧</s><|im_end|>"
DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Member = tuple[int, int]  # (comparison, completion)


class ScorerReward:
    """The rewards of a [`RewardScorer`].

    Args:
        scorer ([`RewardScorer`]): whose plan and calls they are.
        name (`str`, *optional*): what reports call the model; its own name if absent.
    """

    def __init__(self, scorer: RewardScorer, name: str | None = None):
        self.scorer = scorer
        self.name = name or getattr(scorer.model.config, "_name_or_path", "") or scorer.__name__
        self.device = str(scorer.model.device)

    @property
    def template(self) -> str | None:
        """The chat template, where there is one."""
        template = getattr(self.scorer.processing_class, "chat_template", None)
        return json.dumps(template, sort_keys=True) if isinstance(template, dict) else template

    @property
    def about(self) -> dict[str, Any]:
        """What scores depend on, and what a reader asks about the model; plain JSON."""
        scorer, model, config = self.scorer, self.scorer.model, self.scorer.model.config
        quantization = getattr(config, "quantization_config", None) or {}
        quantization = quantization if isinstance(quantization, dict) else quantization.to_dict()
        quantization = {k: v for k, v in quantization.items() if "load_in" in k or "4bit" in k}
        about = {
            "name": self.name,
            "kind": type(model).__name__,
            "revision": getattr(config, "_commit_hash", None),
            "base_revision": getattr(config, "base_revision", None),
            "weights": weights_digest(model),
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": json.loads(json.dumps(quantization, default=str)) or None,
            "template_hash": None if self.template is None else _digest(self.template.encode()),
            "tokenizer_hash": tokenizer_digest(scorer.processing_class),
            "max_length": scorer.max_length,
            "truncation_mode": scorer.truncation_mode,
            "reasoning": scorer.reasoning,
            "control_tokens": scorer.control_tokens,
            "normalize": scorer.normalize,
            "on_nonfinite": scorer.on_nonfinite,
            "max_num_batched_tokens": scorer.max_num_batched_tokens,
        }
        return about | ({k: getattr(config, k) for k in ("reward_mean", "reward_std")} if scorer.normalize else {})

    @property
    def num_control_tokens(self) -> int:
        """Completions planned so far that spell a control token."""
        return self.scorer.num_control_tokens

    def check_can_resume(self) -> None:
        """A model is known by its weights."""

    def plan(self, comparisons: list[Comparison]) -> list[ScoringBatch]:
        return self.scorer.plan(comparisons)

    def run(self, batch: ScoringBatch) -> np.ndarray:
        return self.scorer.run(batch)

    def values(self, comparisons: list[Comparison]) -> list[np.ndarray]:
        return self.scorer.score_comparisons(comparisons)

    def tokens(self, batch: ScoringBatch) -> int:
        """Tokens that a batch computes."""
        from ..model.packing import packed_tokens

        return sum(map(packed_tokens, batch.groups))

    def num_at_limit(self, plan: list[ScoringBatch]) -> int:
        """Completions that fill the length limit to the last token: with `keep_end`, those that were cut."""
        limit = self.scorer.max_length
        lengths = ((len(ids), len(m)) for b in plan for ids, m in zip(_token_ids(b), b.members, strict=True))
        return sum(number for length, number in lengths if length == limit)


@dataclass
class Call:
    """One call of a function: its texts with their columns, and for each text the completions that it is."""

    prompts: list[Text] = field(default_factory=list)
    completions: list[Text] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in (*TEMPLATE_COLUMNS, "answer")})
    members: list[list[Member]] = field(default_factory=list)


class FunctionReward:
    """The rewards of a function.

    It is called as TRL calls reward functions, with the lists `prompts` and `completions`, and gets those columns of
    `tools`, `chat_template_kwargs` and `answer` that it has parameters for. It returns one finite number per
    completion, or None for a text that cannot be scored.

    Args:
        function (`Callable`): the function, or an object that can be called.
        name (`str`, *optional*): what reports call it, and what it is known by where no dotted path leads to it.
        dotted (`str`, *optional*): `module:name` that it was given by.
    """

    template = None
    device = None
    num_control_tokens = 0

    def __init__(self, function: Callable, name: str | None = None, dotted: str | None = None):
        self.function = function
        dotted = dotted or _dotted_path(function)
        self.name = name or getattr(function, "__name__", type(function).__name__)
        file = dotted and getattr(sys.modules[dotted.partition(":")[0]], "__file__", None)  # None: built into Python
        source_hash = _digest(Path(file).read_bytes()) if file and Path(file).is_file() else None
        self.about = {"name": self.name, "kind": "function", "function": dotted or name, "source_hash": source_hash}
        self._is_known = bool(name or dotted)

    def check_can_resume(self) -> None:
        """Scores of another function must not be taken for this one's."""
        if not self._is_known:
            raise ValueError(
                f"no dotted path leads to {self.name}, so its scores could not be resumed by the same function alone; "
                "define it at the top of a module, or give it a name (name=…, or as_reward(function, name=…))"
            )

    def plan(self, comparisons: list[Comparison]) -> list[Call]:
        """Whole comparisons in the order of the data, some `CALLS_OF` completions per call."""
        calls = [Call()]
        for index, comparison in enumerate(comparisons):
            if calls[-1].members and len(calls[-1].members) + len(comparison.completions) > CALLS_OF:
                calls.append(Call())
            row = {**comparison.template_arguments, "answer": (comparison.metadata or {}).get("answer")}
            for k, completion in enumerate(comparison.completions):
                calls[-1].prompts.append(comparison.prompt)
                calls[-1].completions.append(completion)
                for name, values in calls[-1].columns.items():
                    values.append(row.get(name))
                calls[-1].members.append([(index, k)])
        return calls

    def run(self, call: Call) -> np.ndarray:
        texts = {"prompts": call.prompts, "completions": call.completions}
        taken, by_name = _parameters(self.function, [*texts, *call.columns])
        columns = {name: call.columns[name] for name in taken if name in call.columns}
        try:
            if by_name:
                result = self.function(**{name: texts[name] for name in taken if name in texts}, **columns)
            else:
                result = self.function(call.prompts, call.completions, **columns)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("it is asynchronous, a plain function is needed")
            result = list(result)
        except Exception as error:  # anything: it is not our code
            raise ValueError(
                f"{self.name} failed on {len(call.completions)} completions ({type(error).__name__}: {error}); it "
                "is called with two lists, prompts and completions, and returns a list of scores"
            ) from error
        if len(result) != len(call.completions):
            raise ValueError(
                f"{self.name} gave {len(result)} scores for {len(call.completions)} completions; one each"
            )
        return np.array([self._as_float(value) for value in result])

    def values(self, comparisons: list[Comparison]) -> list[np.ndarray]:
        scores = [np.full(len(comparison.completions), np.nan, dtype=np.float32) for comparison in comparisons]
        for call in self.plan(comparisons):
            for [(index, k)], score in zip(call.members, self.run(call), strict=True):
                scores[index][k] = score
        return scores

    def tokens(self, call: Call) -> None:
        return None

    def num_at_limit(self, plan: list[Call]) -> int:
        return 0

    def _as_float(self, value: Any) -> float:
        if value is None:
            return math.nan
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"{self.name} gave the score {shorten(repr(value))}; a score is a finite number, or None for a text "
                "that cannot be scored"
            )
        return number


Reward = ScorerReward | FunctionReward


def as_reward(given: Any, name: str | None = None, *, evaluating: bool = False, **scorer_kwargs) -> Reward:
    """
    Anything that gives rewards, behind the one interface of this module.

    Args:
        given (`str`, `os.PathLike`, [`RewardScorer`], model in memory, `Callable` or a reward already made):
            Anything [`RewardScorer`] takes; `"module:callable"`; or a function `(prompts, completions) -> scores`.
        name (`str`, *optional*): what reports call it; needed to resume a function that no dotted path leads to.
        evaluating (`bool`, *optional*, defaults to `False`):
            With an evaluation's settings: control tokens are parsed, as in training, and texts over the length limit
            are left out, where `scorer_kwargs` say nothing else.
        scorer_kwargs: handed to [`RewardScorer`] where `given` is a model or its name.

    Raises:
        ValueError: nothing that gives rewards, or options that cannot be applied to it.
    """
    from .scorer import RewardScorer

    if isinstance(given, (ScorerReward, FunctionReward)):
        name, given = name or given.name, given.scorer if isinstance(given, ScorerReward) else given.function
    is_named_function = is_dotted_path(given)
    is_scorer = isinstance(given, RewardScorer)
    is_model = isinstance(given, (str, os.PathLike)) or hasattr(given, "parameters")
    if scorer_kwargs and (is_named_function or is_scorer or not is_model):
        what = "a scorer; give it to RewardScorer" if is_scorer else f"the function {given}; leave it out"
        raise ValueError(f"{', '.join(scorer_kwargs)} cannot be applied to {what}")
    if is_named_function:
        return FunctionReward(_import(given), name or given, given)
    if not is_scorer and not is_model:
        if not callable(given):
            raise ValueError(f"a {type(given).__name__} gives no rewards; give a model, its name or a function")
        return FunctionReward(given, name)
    if is_scorer:
        scorer = given
        if evaluating:
            scorer = copy.copy(given)  # the same model, with settings and counts of its own
            scorer.control_tokens, scorer.num_control_tokens = "parse", 0
    else:
        name = name or (None if hasattr(given, "parameters") else os.fspath(given))
        scorer = RewardScorer(given, **{**({"control_tokens": "parse"} if evaluating else {}), **scorer_kwargs})
    if evaluating and scorer.truncation_mode == "error":
        scorer.truncation_mode = "drop"
    return ScorerReward(scorer, name)


def is_dotted_path(given: Any) -> bool:
    """Whether a reward is given as `module:callable`."""
    return isinstance(given, str) and bool(DOTTED.fullmatch(given)) and not Path(given).exists()


def plan_digest(plan: list[Any]) -> str:
    """
    A hash of everything that a score is computed from, and of which completions it is the score, however they are
    batched: token ids for a model; prompt, completion and columns for a function.
    """
    lines = []
    for batch in plan:
        texts = _rows(batch) if isinstance(batch, Call) else _token_ids(batch)
        for text, members in zip(texts, batch.members, strict=True):
            lines.append(hashlib.sha256(json.dumps([text, members], default=str).encode()).digest())
    return _digest(b"".join(sorted(lines)))


def weights_digest(model: Any) -> str:
    """
    A hash of config, active adapters and their scale, and some 4096 values of each tensor: another training, another
    digest; cheap at 70B.
    """
    adapters = [
        (name, list(module.active_adapters), module.disable_adapters, getattr(module, "scaling", None))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "disable_adapters", None), bool)  # PEFT's layers; of a model it is a method
    ]
    pooling = getattr(model.config, "trailing_pad_id", None)
    config = _with_effect(getattr(model.config, "backbone_config", model.config).to_dict())
    digest = hashlib.sha256(json.dumps([config, pooling, adapters], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not hasattr(tensor, "reshape"):
            continue
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
    return {str(name): _with_effect(value) for name, value in config.items() if name not in WITHOUT_EFFECT}


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash of how a tokenizer makes ids: template, special tokens, size, and the ids of one text."""
    described = [tokenizer.chat_template, tokenizer.special_tokens_map, len(tokenizer), tokenizer(PROBE)["input_ids"]]
    return _digest(json.dumps(described, sort_keys=True, default=str).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _token_ids(batch: ScoringBatch) -> list[list[int]]:
    return [ids for group in batch.groups for ids in group.input_ids]


def _rows(call: Call) -> list[list[Any]]:
    """What each text of a call is computed from."""
    rows = zip(call.prompts, call.completions, *call.columns.values(), strict=True)
    return [[*map(_sorted_items, row)] for row in rows]


def _sorted_items(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, dict) else value


# --- functions


def _parameters(function: Callable, names: Iterable[str]) -> tuple[list[str], bool]:
    """Those names that a function takes, by name or by `**kwargs`; and whether it takes its texts by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not in Python
        return [], False
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    named = {name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return [name for name in names if takes_all or name in named], "completions" in named or len(parameters) == 1


def _import(dotted: str) -> Callable:
    """The callable that `module:name` names; a class is called once, without arguments, to make it."""
    module_name, _, attribute = dotted.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as with `python -m`; a console script leaves it out
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{dotted}: {error}; start where {module_name}.py is, or install it") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{dotted}: {module_name} has no {attribute}; write module:function")
        found = getattr(found, part)
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise ValueError(
            f"{dotted} is a {type(found).__name__}; it must be callable: (prompts, completions) -> scores"
        )
    return found


def _dotted_path(function: Callable) -> str | None:
    """`module:name` where it leads to this very function, else None."""
    module_name, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module_name)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module_name}:{name}" if found is function else None


# --- the environment

PREFIX = "RM_PLUGIN_REWARD_"


def _flag(word: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if word.lower() not in known:
        raise ValueError("write 1 or 0")
    return known[word.lower()]


# What follows the prefix ► how its value is read. MODEL is needed, the others are RewardScorer's options.
VARIABLES = {
    "MODEL": str,
    "REVISION": str,
    "DTYPE": str,
    "LOAD_IN_4BIT": _flag,
    "MAX_LENGTH": int,
    "MAX_NUM_BATCHED_TOKENS": int,
    "TRUNCATION_MODE": str,
    "REASONING": str,
    "CONTROL_TOKENS": str,
    "NORMALIZE": _flag,
    "ON_NONFINITE": str,
}


def reward_from_env(prompts: list[Text], completions: list[Text], **kwargs) -> list[float | None]:
    """
    Rewards from the model that `RM_PLUGIN_REWARD_MODEL` names; it is loaded at the first call, once per process.

    Args:
        prompts (`list[str]` or `list[list[dict]]`): (N,).
        completions (`list[str]` or `list[list[dict]]`): (N,).
        kwargs: what TRL passes besides; handed to [`RewardScorer`].

    Returns:
        `list[float | None]`: (N,) rewards; None for a text that `RM_PLUGIN_REWARD_TRUNCATION_MODE=drop` left out.

    Raises:
        ValueError: the variable is unset, or another one under the prefix is unknown or holds a bad value.
    """
    return scorer_from_env()(prompts, completions, **kwargs)


@cache
def scorer_from_env() -> RewardScorer:
    """The [`RewardScorer`] that the environment describes; made once per process."""
    options = read_environment(os.environ)
    from .scorer import RewardScorer

    if "dtype" not in options:
        options["dtype"] = "auto"
    if options.pop("load_in_4bit", False):
        from ..model.adapters import nf4_config

        options["quantization_config"] = nf4_config()
    return RewardScorer(options.pop("model"), **options)


def read_environment(environment: dict[str, str]) -> dict[str, Any]:
    """
    The options that variables under `RM_PLUGIN_REWARD_` give, by the names of `RewardScorer`'s arguments.

    Example:
        >>> read_environment({"RM_PLUGIN_REWARD_MODEL": "my-reward-model", "RM_PLUGIN_REWARD_MAX_LENGTH": "2048"})
        {'model': 'my-reward-model', 'max_length': 2048}
    """
    options = {}
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        name, value = variable.removeprefix(PREFIX), environment[variable]
        if name not in VARIABLES:
            known = [PREFIX + name for name in VARIABLES]
            raise ValueError(f"{variable} is not known{nearest(variable, known)}; known are {', '.join(known)}")
        try:
            options[name.lower()] = VARIABLES[name](value)
        except ValueError:
            kind = "a whole number" if VARIABLES[name] is int else "1 or 0"
            raise ValueError(f"{variable}={value!r}, it needs {kind}") from None
    if not options.get("model"):
        raise ValueError(f"{PREFIX}MODEL is unset; export {PREFIX}MODEL=<folder or hub id of the reward model>")
    return {"model": options.pop("model"), **options}
