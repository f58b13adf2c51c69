"""Fixtures that several test files of this folder use."""

import datasets
import pytest
from transformers import AutoTokenizer


@pytest.fixture(autouse=True)
def no_cache_outside_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def smollm2_tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)
