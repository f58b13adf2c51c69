"""The embedded preferences: every one is true, only the prompt tells it, equal seeds are equal."""

import re

import pytest

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
