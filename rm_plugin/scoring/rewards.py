"""Anything that gives rewards, behind one interface: a reward model, a function, `module:name`, the environment.

    reward = as_reward("my-reward-model")       # or "my_module:my_judge", a RewardScorer, a model, a function
    for call in reward.plan(comparisons):       # depends on the comparisons alone
        reward.run(call)                        # scores of the call's texts; call.members says whose they are
    reward.score_comparisons(comparisons)       # all of it: one array (K,) per comparison

`trl grpo` takes a reward function by its dotted path, and the environment names the model. It can stand in the recipe,
under `env:`; every option of `RewardScorer` has a variable, see `VARIABLES`.

    RM_PLUGIN_REWARD_MODEL=my-reward-model trl grpo --reward_funcs rm_plugin.rewards.reward_from_env ...
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.comparison import TEMPLATE_COLUMNS, Comparison, Text
from ..messages import check_choice, shorten
from .base import Member, Reward, digest

if TYPE_CHECKING:
    from .scorer import RewardScorer

CALLS_OF = 64  # completions in one call of a function
DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass
class Call:
    """One call of a function: for each text its row of arguments, and the completions that it is."""

    texts: list[dict[str, Any]] = field(default_factory=list)
    members: list[list[Member]] = field(default_factory=list)
    tokens = None


class FunctionReward(Reward):
    """
    The rewards of a function.

    It is called as TRL calls reward functions, with the lists `prompts` and `completions`, and gets those columns of
    `tools`, `chat_template_kwargs` and `answer` that it has parameters for. It returns one finite number per
    completion, or None for a text that cannot be scored.

    Args:
        function (`Callable`): the function, or an object that can be called.
        name (`str`, *optional*): what reports call it, and what it is known by where no dotted path leads to it.
        dotted (`str`, *optional*): `module:name` that it was given by.
    """

    def __init__(self, function: Callable, name: str | None = None, dotted: str | None = None):
        self.function = function
        self.dotted = dotted = dotted or _dotted_path(function)
        self.name = name or getattr(function, "__name__", type(function).__name__)
        file = dotted and getattr(sys.modules[dotted.partition(":")[0]], "__file__", None)  # None: built into Python
        source_hash = digest(Path(file).read_bytes()) if file and Path(file).is_file() else None
        self.about = {"name": self.name, "kind": "function", "function": dotted or name, "source_hash": source_hash}

    def check_can_resume(self) -> None:
        """Scores of another function must not be taken for this one's."""
        if self.about["function"] is None:
            raise ValueError(
                f"no dotted path leads to {self.name}, so its scores could not be resumed by the same function alone; "
                "define it at the top of a module, or give it a name (name=…, or as_reward(function, name=…))"
            )

    def plan(self, comparisons: list[Comparison]) -> list[Call]:
        """Whole comparisons in the order of the data, some `CALLS_OF` completions per call."""
        calls: list[Call] = []
        for c, comparison in enumerate(comparisons):
            if not calls or len(calls[-1].texts) + len(comparison.completions) > CALLS_OF:
                calls.append(Call())
            columns = {**comparison.template_arguments, "answer": (comparison.metadata or {}).get("answer")}
            for k, completion in enumerate(comparison.completions):
                calls[-1].texts.append({"prompts": comparison.prompt, "completions": completion, **columns})
                calls[-1].members.append([(c, k)])
        return calls

    def run(self, call: Call) -> np.ndarray:
        """Scores of one planned call, NaN where the function gives None."""
        names = ("prompts", "completions", *TEMPLATE_COLUMNS, "answer")
        lists, by_name = _arguments(self.function, {name: [text[name] for text in call.texts] for name in names})
        try:
            result = self.function(*lists, **by_name)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("it is asynchronous, a plain function is needed")
            result = list(result)
        except Exception as error:  # anything: it is not our code
            raise ValueError(
                f"{self.name} failed on {len(call.texts)} completions ({type(error).__name__}: {error}); it is called "
                "with two lists, prompts and completions, and returns a list of scores"
            ) from error
        if len(result) != len(call.texts):
            raise ValueError(f"{self.name} gave {len(result)} scores for {len(call.texts)} completions; one each")
        return np.array([self._as_float(value) for value in result])

    def _as_float(self, value: Any) -> float:
        with suppress(TypeError, ValueError):
            if value is None or math.isfinite(float(value)):
                return math.nan if value is None else float(value)
        raise ValueError(
            f"{self.name} gave the score {shorten(repr(value))}; a score is a finite number, or None for a text that "
            "cannot be scored"
        )


def as_reward(given: Any, name: str | None = None, *, evaluating: bool = False, **scorer_kwargs) -> Reward:
    """
    Anything that gives rewards, behind the one interface of [`Reward`].

    Args:
        given (`str`, `os.PathLike`, [`Reward`] such as a [`RewardScorer`], model in memory or `Callable`):
            Anything [`RewardScorer`] takes; `"module:callable"`; or a function `(prompts, completions) -> scores`.
        name (`str`, *optional*): what reports call it; needed to resume a function that no dotted path leads to.
        evaluating (`bool`, *optional*, defaults to `False`):
            With an evaluation's settings: control tokens are parsed, as in training, and texts over the length limit
            are left out, where `scorer_kwargs` say nothing else.
        scorer_kwargs: handed to [`RewardScorer`] where `given` is a model or its name.

    Raises:
        ValueError: nothing that gives rewards, or options that cannot be applied to it.
    """
    dotted = given if is_dotted_path(given) else None
    if dotted is None and (isinstance(given, (str, os.PathLike)) or hasattr(given, "parameters")):
        from .scorer import RewardScorer

        options = {**({"control_tokens": "parse"} if evaluating else {}), **scorer_kwargs}
        reward = RewardScorer(given, name=name, **options)
    elif scorer_kwargs:
        what = (
            "a scorer; give it to RewardScorer" if isinstance(given, Reward) else f"the function {given}; leave it out"
        )
        raise ValueError(f"{', '.join(scorer_kwargs)} cannot be applied to {what}")
    elif isinstance(given, Reward):
        reward = given
        if isinstance(given, FunctionReward):
            reward = given if name is None else FunctionReward(given.function, name, given.dotted)
        elif evaluating or name is not None:
            reward = copy.copy(given)  # the same model, with settings, counts and a name of its own
            reward.name, reward.num_control_tokens = name or given.name, 0
            reward.control_tokens = "parse" if evaluating else given.control_tokens
    elif dotted is not None or callable(given):
        reward = FunctionReward(_import_function(dotted) if dotted else given, name or dotted, dotted)
    else:
        raise ValueError(f"a {type(given).__name__} gives no rewards; give a model, its name or a function")
    if evaluating and getattr(reward, "truncation_mode", None) == "error":
        reward.truncation_mode = "drop"
    return reward


def is_dotted_path(given: Any) -> bool:
    """Whether something is given as `module:name`, such as a reward function."""
    return isinstance(given, str) and bool(DOTTED.fullmatch(given)) and not Path(given).exists()


# --- functions


def _arguments(function: Callable, columns: dict[str, list]) -> tuple[list[list], dict[str, list]]:
    """What a function is called with: the columns that it has parameters for, and its texts by name or first."""
    texts = {name: columns[name] for name in ("prompts", "completions")}
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not in Python
        return list(texts.values()), {}
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    named = {name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    taken = {name: column for name, column in columns.items() if takes_all or name in named}
    if "completions" in named or len(parameters) == 1:
        return [], taken
    return list(texts.values()), {name: column for name, column in taken.items() if name not in texts}


def import_dotted(dotted: str) -> Any:
    """What `module:name` names, of a module here or installed."""
    module_name, _, attribute = dotted.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as with `python -m`; a console script leaves it out
        sys.path.insert(0, folder)
    try:
        return pkgutil.resolve_name(dotted)
    except ModuleNotFoundError as error:
        raise ValueError(f"{dotted}: {error}; start where {module_name}.py is, or install it") from error
    except AttributeError:
        raise ValueError(f"{dotted}: {module_name} has no {attribute}; write module:name") from None


def _import_function(dotted: str) -> Callable:
    """The callable that `module:name` names; a class is called once, without arguments, to make it."""
    found = import_dotted(dotted)
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise ValueError(
            f"{dotted} is a {type(found).__name__}; it must be callable: (prompts, completions) -> scores"
        )
    return found


def _dotted_path(function: Callable) -> str | None:
    """`module:name` where it leads to this very function, else None."""
    dotted = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', '')}"
    try:
        return dotted if pkgutil.resolve_name(dotted) is function else None
    except (ImportError, AttributeError, ValueError):
        return None


# --- the environment

PREFIX = "RM_PLUGIN_REWARD_"


def _flag(word: str) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[word.lower()]


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
    from .scorer import RewardScorer

    return RewardScorer(**read_environment(os.environ))


def read_environment(environment: dict[str, str]) -> dict[str, Any]:
    """
    The options that variables under `RM_PLUGIN_REWARD_` give, by the names of `RewardScorer`'s arguments.

    Example:
        >>> read_environment({"RM_PLUGIN_REWARD_MODEL": "my-reward-model", "RM_PLUGIN_REWARD_MAX_LENGTH": "2048"})
        {'max_length': 2048, 'model': 'my-reward-model'}
    """
    options = {}
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        name, value = variable.removeprefix(PREFIX), environment[variable]
        check_choice("variable", variable, [PREFIX + known for known in VARIABLES])
        try:
            options[name.lower()] = VARIABLES[name](value)
        except (ValueError, KeyError):
            kind = "a whole number" if VARIABLES[name] is int else "1 or 0"
            raise ValueError(f"{variable}={value!r}, it needs {kind}") from None
    if not options.get("model"):
        raise ValueError(f"{PREFIX}MODEL is unset; export {PREFIX}MODEL=<folder or hub id of the reward model>")
    return options
