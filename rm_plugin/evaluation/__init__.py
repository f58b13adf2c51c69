"""Measuring reward models: benchmarks, runs, reports and leaderboards."""
