"""Anything that gives rewards, behind one interface: a reward model, a function, `module:name`, the environment.

    reward = as_reward("my-reward-model")       # or "my_module:my_judge", a RewardScorer, a model, a function
    calls = reward.plan(comparisons)            # depends on the comparisons alone
    for call, scores in reward.run_all(calls):  # of the call's texts; call.members says whose they are
    reward.score_comparisons(comparisons)       # all of it: one array (K,) per comparison

`trl grpo` takes a reward function by its dotted path, and the environment names the model. It can be set in the
recipe, under `env:`; every option of `RewardScorer` has a variable, see `VARIABLES`.

    RM_PLUGIN_REWARD_MODEL=my-reward-model trl grpo --reward_funcs rm_plugin.rewards.reward_from_env ...
"""

from __future__ import annotations

import copy
import os
from functools import cache
from typing import Any

from ..data.comparison import Text
from ..messages import check_choice, explained, whole_number_or_auto
from .base import Reward, Scorer
from .functions import FunctionReward, function_reward, import_function, is_dotted_path
from .remote import RemoteRewardScorer, is_url


def as_reward(given: Any, name: str | None = None, *, evaluating: bool = False, **scorer_kwargs) -> Reward:
    """
    Anything that gives rewards, behind the one interface of [`Reward`].

    Args:
        given (`str`, `os.PathLike`, [`Reward`] such as a [`RewardScorer`], model in memory or `Callable`):
            Anything [`RewardScorer`] takes; the URL of a served model, with its `processing_class`;
            `"module:callable"`; or a function `(prompts, completions) -> scores`.
        name (`str`, *optional*): what reports call it; needed to resume a function that no dotted path leads to.
        evaluating (`bool`, *optional*, defaults to `False`):
            With an evaluation's settings: control tokens are parsed, as in training, and texts over the length limit
            are left out, where `scorer_kwargs` say nothing else.
        scorer_kwargs: handed to [`RewardScorer`] where `given` is a model or its name.

    Returns:
        [`Reward`]

    Raises:
        ValueError: nothing that gives rewards, or options that cannot be applied to it.

    Example:
        >>> from rm_plugin import Comparison
        >>> reward = as_reward(lambda prompts, completions: [float(len(text)) for text in completions], name="length")
        >>> reward.score_comparisons([Comparison("2 + 2 =", ["4", "four"])])
        [array([1., 4.], dtype=float32)]
    """
    dotted = given if is_dotted_path(given) else None
    if dotted is None and (isinstance(given, (str, os.PathLike)) or hasattr(given, "parameters")):
        options = {**({"control_tokens": "parse"} if evaluating else {}), **scorer_kwargs}
        reward = load_scorer(given, name=name, **options)
    elif scorer_kwargs:
        what = (
            "a scorer; give it to RewardScorer" if isinstance(given, Reward) else f"the function {given}; leave it out"
        )
        raise ValueError(f"{', '.join(scorer_kwargs)} cannot be applied to {what}")
    elif isinstance(given, Reward):
        reward = given
        if isinstance(given, FunctionReward):
            reward = given if name is None else type(given)(given.function, name, given.dotted)
        elif evaluating or name is not None:
            reward = copy.copy(given)  # the same model, with settings, counts and a name of its own
            reward.name, reward.num_control_tokens = name or given.name, 0
            reward.control_tokens = "parse" if evaluating else given.control_tokens
    elif dotted is not None or callable(given):
        reward = function_reward(import_function(dotted) if dotted else given, name or dotted, dotted)
    else:
        raise ValueError(f"a {type(given).__name__} gives no rewards; give a model, its name or a function")
    if evaluating and getattr(reward, "truncation_mode", None) == "error":
        reward.truncation_mode = "drop"
    return reward


def load_scorer(model: Any, **options) -> Scorer:
    """
    The scorer of a model, or of one that a server at a URL runs.

    Args:
        model (`str`, `os.PathLike` or a model in memory): what [`RewardScorer`] takes, or `http://…`.
        options: as for [`RewardScorer`], or for [`RemoteRewardScorer`], where a dtype or a number of tokens that is
            `"auto"` has no effect.

    Returns:
        [`RewardScorer`] or [`RemoteRewardScorer`]

    Raises:
        ValueError: it cannot be loaded, or options that it does not take.
    """
    if not is_url(model):
        from .scorer import RewardScorer

        with explained(f"{model if isinstance(model, (str, os.PathLike)) else type(model).__name__} cannot be loaded"):
            return RewardScorer(model, **options)
    for name in ("dtype", "max_num_batched_tokens"):
        if options.get(name) == "auto":
            del options[name]
    return RemoteRewardScorer(model, options.pop("processing_class", None), **options)


# --- the environment

PREFIX = "RM_PLUGIN_REWARD_"


def _flag(word: str) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[word.lower()]


NAMES = {"TOKENIZER": "processing_class"}
# What follows the prefix ► how its value is read. MODEL is needed, of a server also TOKENIZER; the others are options.
VARIABLES = {
    "MODEL": str,
    "TOKENIZER": str,
    "API_KEY": str,
    "REVISION": str,
    "DTYPE": str,
    "LOAD_IN_4BIT": _flag,
    "MAX_LENGTH": int,
    "MAX_NUM_BATCHED_TOKENS": whole_number_or_auto,
    "OFFLOAD": str,
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
def scorer_from_env() -> Scorer:
    """The scorer that the environment describes; made once per process."""
    return load_scorer(**read_environment(os.environ))


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
            options[NAMES.get(name, name.lower())] = VARIABLES[name](value)
        except (ValueError, KeyError):
            kind = "1 or 0" if VARIABLES[name] is _flag else "a whole number"
            raise ValueError(f"{variable}={value!r}, it needs {kind}") from None
    if not options.get("model"):
        raise ValueError(f"{PREFIX}MODEL is unset; export {PREFIX}MODEL=<folder, hub id or URL of the reward model>")
    options.pop("api_key", None)  # which RemoteRewardScorer reads itself
    return options
