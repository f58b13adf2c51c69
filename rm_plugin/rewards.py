"""`trl grpo --reward_funcs rm_plugin.rewards.reward_from_env`: the model is named by RM_PLUGIN_REWARD_MODEL."""

from .scoring.rewards import reward_from_env

__all__ = ["reward_from_env"]
