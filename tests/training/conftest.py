"""Fixtures of all test files of this folder."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection():
    """Every training run collects garbage; what the imports left need not be looked at each time."""
    gc.freeze()
    yield
    gc.unfreeze()
