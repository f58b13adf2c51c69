"""Measuring reward models: metrics, statistics, benchmarks, runs, reports and leaderboards.

from rm_plugin.evaluation import evaluate; evaluate("my-reward-model", "llmbar", "LLMBar/Dataset/LLMBar").score
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "BENCHMARKS": "benchmarks",
    "EvaluationReport": "report",
    "build_leaderboard": "leaderboard",
    "compare_runs": "leaderboard",
    "evaluate": "harness",
    "evaluate_scores": "harness",
    "load_benchmark": "benchmarks",
    "read_scores": "scores",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rm_plugin.evaluation' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
