"""Numbers about scores: preference metrics, calibration, ranking, statistics. Imports nothing of the package."""
