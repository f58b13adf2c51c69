"""Preference data: rows become comparisons, comparisons become token ids."""
