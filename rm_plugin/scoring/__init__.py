"""Texts to scores: the scorer, and one interface for everything that gives rewards."""
