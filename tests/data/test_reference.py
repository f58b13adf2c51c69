"""Reference scores beside an exported model are those of its own forward."""

import numpy as np
from models import tiny_reward_model, tiny_tokenizer

from rm_plugin.data.reference import TURNS, read_reference


def test_reference_scores_are_those_of_the_models_own_forward(exported):
    folder, local = exported
    reference = read_reference(folder)
    assert len(reference["texts"]) == len(TURNS) == 8 and reference["dtype"] == "float32"
    prompts = [
        [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns[:-1])]
        for turns in TURNS
    ]
    completions = [[{"role": "assistant", "content": turns[-1]}] for turns in TURNS]
    expected = local.score(prompts, completions)
    np.testing.assert_allclose([text["score"] for text in reference["texts"]], expected, atol=1e-5)
    assert all(abs(text["bos_twice"] - text["score"]) > 1e-3 for text in reference["texts"][:5])


def test_texts_that_the_model_cannot_read_have_no_reference_score(tmp_path):
    model = tiny_reward_model().train()
    model.save_reference(tmp_path, tiny_tokenizer("plain"))
    assert model.training and ["score" in text for text in read_reference(tmp_path)["texts"]] == [True] * 7 + [False]
