"""A reward function by dotted path, for `trl grpo` and `trl rloo`: the reward model is named in the environment.

    RM_PLUGIN_REWARD_MODEL=my-reward-model trl grpo --reward_funcs rm_plugin.rewards.reward_from_env ...

The environment can stand in the recipe, under `env:`. Every option of `RewardScorer` has a variable; see `VARIABLES`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from .messages import nearest

if TYPE_CHECKING:
    from .data.comparison import Text
    from .scoring.scorer import RewardScorer

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
    Rewards from the model that `RM_PLUGIN_REWARD_MODEL` names; it is loaded at the first call, once a process.

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
    """The [`RewardScorer`] that the environment describes; made once a process."""
    options = read_environment(os.environ)
    from .scoring.scorer import RewardScorer

    if "dtype" not in options:
        options["dtype"] = "auto"
    if options.pop("load_in_4bit", False):
        from .training.peft_configs import nf4_config

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
