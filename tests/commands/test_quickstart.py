"""The embedded default: every generated preference is true, only the prompt tells it, equal seeds are equal."""

import json
import re

import pytest
import torch

from rm_plugin.commands.quickstart import MAX_LENGTH, build_model, build_tokenizer
from rm_plugin.commands.quickstart_data import ANTARCTICA, preference_data

NUMBER = {"two": 2, "three": 3, "four": 4, "five": 5}
FACTS = {  # a few of each category, worked by hand
    "Japan": "It is Tokyo.",
    "Kenya": "It is Nairobi.",
    "gold": "It is Au.",
    "tungsten": "It is W.",
    "cow": "It is a calf.",
    "rabbit": "It is a kit.",
    "Greenland": "Denmark owns it.",
    "Antarctica": "No country owns it: the Antarctic Treaty System governs it.",
}


def obeys(prompt, completion):
    """Whether a completion does what an instruction says, read from the prompt's text alone."""
    words = completion.split()
    if found := re.search(r"in (upper|lower) case: (.+)\.$", prompt):
        return completion == (found[2].upper() if found[1] == "upper" else found[2])
    if found := re.search(r"the word (\w+) (\w+) times\.$", prompt):
        return words == [found[1]] * NUMBER[found[2]]
    if found := re.search(r"(\w+) words about the \w+\.$", prompt):
        return len(words) == NUMBER[found[1]]
    if found := re.search(r"in (reverse )?alphabetical order: (.+)\.$", prompt):
        return words == sorted(found[2].split(), reverse=bool(found[1]))
    if found := re.search(r"that ends with the word (\w+)\.$", prompt):
        return words[-1] == found[1]
    if found := re.search(r"the word (\w+) (in|into) a line about the \w+\.$", prompt):
        return found[1] in words
    if found := re.search(r"the letter (\w)\.$", prompt):
        return found[1] not in completion
    raise AssertionError(f"no check for {prompt}")


@pytest.fixture(scope="module")
def data():
    return preference_data(seed=0, num_train=3600, num_heldout=900)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("kind", ["case", "repeat", "count", "order", "ends", "include", "letter"])
def test_the_chosen_completion_obeys_its_prompt_and_the_rejected_one_does_not(data, kind):
    train, heldout = ([row for row in rows if row["kind"] == kind] for rows in data)
    assert (len(train), len(heldout)) == (400, 100)
    for row in train + heldout:
        assert obeys(row["prompt"], row["chosen"]), row
        assert not obeys(row["prompt"], row["rejected"]), row


def test_facts_answer_their_question(data):
    checked = 0
    for row in (row for rows in data for row in rows if row["kind"] == "fact"):
        for subject, answer in FACTS.items():
            if re.search(rf"\b{subject}\b", row["prompt"]):
                assert (row["chosen"], row["rejected"] == answer) == (answer, False)
                checked += 1
    assert checked > 40


def test_a_joke_is_chosen_where_the_prompt_asks_for_one_and_only_there(data):
    jokes = [row for rows in data for row in rows if row["kind"] == "joke"]
    facts = {row["chosen"] for rows in data for row in rows if row["kind"] == "fact"}
    asked = [row for row in jokes if re.search(r"joke|silly|laugh|funny", row["prompt"])]
    assert len(asked) == len(jokes) / 2 == 250
    assert all((row["chosen"] in facts) != (row in asked) for row in jokes)
    assert all((row["rejected"] in facts) == (row in asked) for row in jokes)


def test_training_and_held_out_prompts_are_disjoint(data):
    train, heldout = ({row["prompt"] for row in rows} for rows in data)
    assert len(train) > 1500
    assert len(heldout) > 400
    assert not train & heldout


@pytest.mark.parametrize("split", [0, 1])
def test_a_scorer_that_does_not_read_the_prompt_gets_exactly_half(data, split):
    """Each preference has its twin with the same completions the other way round: completions alone say nothing."""
    pairs = sorted((row["chosen"], row["rejected"]) for row in data[split])
    assert pairs == sorted((row["rejected"], row["chosen"]) for row in data[split])
    longer = [(len(row["chosen"]) > len(row["rejected"])) + (len(row["chosen"]) == len(row["rejected"])) / 2
              for row in data[split]]  # fmt: skip
    assert sum(longer) / len(longer) == 0.5


def test_no_row_comes_twice(data):
    rows = [(row["prompt"], row["chosen"], row["rejected"]) for rows in data for row in rows]
    assert len(set(rows)) == len(rows) == 4500


def test_equal_seeds_give_equal_rows_and_others_do_not():
    one, two, other = (preference_data(seed, num_train=36, num_heldout=18) for seed in (7, 7, 8))
    assert one == two
    assert one != other


def test_the_antarctica_question_is_held_out():
    for seed in range(3):
        train, _ = preference_data(seed)
        assert ANTARCTICA["prompt"] not in {row["prompt"] for row in train}


def test_a_size_that_is_not_whole_twins_of_every_kind_is_refused():
    with pytest.raises(ValueError, match="num_train=100, a positive multiple of 18 is needed"):
        preference_data(num_train=100)
    with pytest.raises(ValueError, match="18000 rows: there are fewer different ones of kind (repeat|joke|fact)"):
        preference_data(num_heldout=18000)


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
