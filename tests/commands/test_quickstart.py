"""The embedded default: its tokenizer and model, and that training goes from chance to nine in ten."""

import json
import re

import pytest
import torch

from rm_plugin.commands.quickstart import MAX_LENGTH, build_model, build_tokenizer
from rm_plugin.commands.quickstart_data import ANTARCTICA, preference_data


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_text_is_tokenised_into_whole_words_and_back(tokenizer):
    for row in (row for rows in preference_data(seed=5, num_train=1800, num_heldout=900) for row in rows):
        for text in (row["prompt"], row["chosen"], row["rejected"]):
            ids = tokenizer(text)["input_ids"]
            assert ids == tokenizer(text + " ")["input_ids"]
            assert len(ids) == len(re.findall(r"\w+|[^\w\s]", text))  # a word of other seeds is in the vocabulary too
            assert tokenizer.decode(ids) == text


def test_prompt_and_completion_have_the_same_tokens_joined_with_or_without_a_space(tokenizer):
    prompt, completion = ANTARCTICA["prompt"], ANTARCTICA["chosen"]
    apart = tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]
    assert tokenizer(prompt + completion)["input_ids"] == apart
    assert tokenizer(f"{prompt} {completion}")["input_ids"] == apart


def test_pad_is_not_eos_and_unknown_words_are_spelled(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.tokenize("Xylo!") == ["X", "##y", "##l", "##o", "!"]
    assert tokenizer.unk_token_id in tokenizer("é")["input_ids"]
    assert len(tokenizer) < 600


def test_the_tokenizer_is_the_same_after_saving_and_loading(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = ANTARCTICA["prompt"] + ANTARCTICA["chosen"]
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (loaded.pad_token, loaded.eos_token) == ("<pad>", "<eos>")
    assert loaded.decode(loaded(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])


def test_the_model_is_small_and_equal_for_equal_seeds(tokenizer):
    import torch

    torch.manual_seed(0)
    one, state = build_model(tokenizer, seed=3), torch.rand(1)
    torch.manual_seed(0)
    assert torch.rand(1) == state  # building it does not move the caller's random state
    two, other = build_model(tokenizer, seed=3), build_model(tokenizer, seed=4)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 300_000 < weights[0].numel() < 500_000
    assert weights[0].dtype == torch.float32
    assert one.config.max_position_embeddings == MAX_LENGTH == 128


@pytest.mark.slow
def test_quickstart_goes_from_chance_to_nine_in_ten_and_shows_it(tmp_path, capsys, monkeypatch):
    from rm_plugin.commands.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--output", "out"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[-4] == "Next:" and lines[-5] == "" and all(line.startswith("  rm-plugin ") for line in lines[-3:])
    happened = lines[-10:-5]  # what happened in five lines
    before, after = map(float, re.search(r"accuracy (0\.\d+) before, (0\.\d+) \[.* after", happened[1]).groups())
    assert 0.4 < before < 0.6
    assert after >= 0.90
    treaty, penguins = map(float, re.findall(r"([+-][\d.]+) for ", happened[2]))
    assert treaty > penguins
    assert not any("{" in line for line in lines), "no dictionaries of metrics"
    assert sum(line.startswith("held out at step ") for line in lines) == 5
    page = (tmp_path / "out" / "quickstart.html").read_text()
    assert page.count("<svg") == 3
    assert all(
        value in page for value in ("0.693", "0.313", "0.127", "0.007", "Antarctic Treaty System", *happened[:2])
    )
    assert 'href="./evaluation/report.html"' in page and "A reward model reads a prompt" in page
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert (tmp_path / "out" / "evaluation" / "report.json").exists()


@pytest.mark.parametrize("seed", [0, 1])
def test_training_the_quickstart_is_deterministic_for_a_seed(tmp_path, seed):
    from rm_plugin.commands.quickstart import _recipe_path
    from rm_plugin.commands.recipe import parse_recipe, train

    tokenizer = build_tokenizer()
    build_model(tokenizer, seed).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    train_rows, heldout = preference_data(seed, num_train=180, num_heldout=18)
    (tmp_path / "data").mkdir()
    for split, rows in (("train", train_rows), ("test", heldout)):
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = []
    for name in ("one", "two"):
        words = f"--seed {seed} --max_steps 5 --model_name_or_path {tmp_path / 'start'} --dataset_name "
        words += f"{tmp_path / 'data'} --output_dir {tmp_path / name}"
        trainer = train(*parse_recipe(_recipe_path(), words.split()))
        weights.append(trainer.reward_model.score.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    from rm_plugin.commands.quickstart import run

    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and no earlier quickstart; name a new folder"):
        run(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
