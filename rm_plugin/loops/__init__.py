"""Rewards at work: best-of-n, sampling, monitoring, callbacks, PPO."""
