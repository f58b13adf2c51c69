"""rm_plugin: reward models for TRL-style RLHF: train them, score with them, measure them.

Importing it is cheap (no torch) and registers [`RewardModel`] with transformers' Auto classes: at once where those are
loaded, else as soon as they are.

    from rm_plugin import RewardScorer; RewardScorer("my-reward-model").score(["2 + 2 ="], [" 4"])
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

__version__ = "0.1.0"

_PUBLIC = {
    "Comparison": "data.comparison",
    "load_rows": "data.sources",
    "to_comparison": "data.comparison",
    "encode": "data.encoding",
    "RewardModel": "model.modeling",
    "RewardModelConfig": "model.config",
    "PairwiseRewardConfig": "training.config",
    "PairwiseRewardTrainer": "training.trainer",
    "lora_config": "training.peft_configs",
    "nf4_config": "model.adapters",
    "RewardScorer": "scoring.scorer",
    "RemoteRewardScorer": "scoring.remote",
    "AsyncRemoteRewardScorer": "scoring.remote",
    "ImplicitRewardScorer": "scoring.implicit",
    "score_dataset": "scoring.corpus",
    "BestOfNSampler": "loops.best_of_n",
    "RewardScoringCallback": "loops.callbacks",
    "EvaluationCallback": "loops.callbacks",
    "as_ppo_reward_model": "loops.ppo",
    "evaluate": "evaluation.harness",
    "PairwiseAccuracy": "metrics.evaluate_metrics",
    "MarginDistribution": "metrics.evaluate_metrics",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rm_plugin' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_config(configuration_auto) -> None:
    """Let AutoConfig find `reward_model` here, where the class is imported when somebody asks for it."""
    configuration_auto.CONFIG_MAPPING_NAMES["reward_model"] = "RewardModelConfig"
    # AutoConfig.register takes the class itself, whose import loads torch; a module to import it from is private.
    configuration_auto.CONFIG_MAPPING._modules["reward_model"] = sys.modules[__name__]


_REGISTER = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": lambda _: importlib.import_module(f"{__name__}.model.modeling"),
}


class _RegisterWhenLoaded:
    """Import hook: when a module of transformers' Auto classes is imported, register with it."""

    def find_spec(self, name, path=None, target=None):
        register = _REGISTER.pop(name, None)
        if register is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            register(module)

        spec.loader.exec_module = exec_module
        return spec


for _name in [name for name in _REGISTER if name in sys.modules]:
    _REGISTER.pop(_name)(sys.modules[_name])
sys.meta_path.insert(0, _RegisterWhenLoaded())
