"""The preference set of the quickstart, generated: every preference in it can be verified.

Rows come as *twins*, two prompts and two completions of which each obeys one prompt:

    "Repeat the word river two times."    "river river"        ≻  "river river river"
    "Repeat the word river three times."  "river river river"  ≻  "river river"

So no word, length or form of a completion tells which one is chosen: a scorer that does not read the prompt gets one
of two twins right (or ties both), an accuracy of exactly 0.5. Seven kinds are instructions, on prompts disjoint
between training and held-out rows; `fact` and `joke` ask about the facts of quickstart_data.yaml, in some phrasings
that are trained on and in others that are held out.

    train, heldout = preference_data(seed=0)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import yaml

# prompt 1, prompt 2, the completion that obeys prompt 1, the one that obeys prompt 2
Twins = tuple[str, str, str, str]

NO_COUNTRY = "No country owns it: the Antarctic Treaty System governs it."
ANTARCTICA = {
    "prompt": "Which country owns Antarctica?",
    "chosen": NO_COUNTRY,
    "rejected": "The penguins own it, and the seals pay rent.",
    "kind": "joke",
}

DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
WORDS = DATA["words"].split()
LETTERS = "aeo"
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def preference_data(
    seed: int = 0, *, num_train: int = 14400, num_heldout: int = 1080
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """
    Generate the preference set: as many rows of each kind, and no prompt in both splits.

    Args:
        seed (`int`, *optional*, defaults to `0`): equal seeds give equal rows.
        num_train (`int`, *optional*, defaults to `14400`): number of training rows, a multiple of 18 (nine kinds).
        num_heldout (`int`, *optional*, defaults to `1080`): number of held-out rows, a multiple of 18.

    Returns:
        `(list[dict], list[dict])`: training and held-out rows `{"prompt", "chosen", "rejected", "kind"}`, plain text
        in TRL's preference format, in random order. Twins have the same two completions the other way round.

    Raises:
        ValueError: a size that is not a positive multiple of 18, or more rows than there are different ones.

    Example:

    ```python
    >>> train, heldout = preference_data(seed=0, num_train=36, num_heldout=18)
    >>> {row["prompt"] for row in train} & {row["prompt"] for row in heldout}
    set()

    ```
    """
    step = 2 * len(INSTRUCTIONS | QUESTIONS)
    for name, num in (("num_train", num_train), ("num_heldout", num_heldout)):
        if num <= 0 or num % step:
            raise ValueError(f"{name}={num}, a positive multiple of {step} is needed (twins of each kind)")
    rng = random.Random(seed)
    heldout = _rows(rng, num_heldout, heldout=True, avoid=set())
    train = _rows(rng, num_train, heldout=False, avoid={row["prompt"] for row in heldout})
    return train, heldout


def _rows(rng: random.Random, num_rows: int, *, heldout: bool, avoid: set[str]) -> list[dict[str, str]]:
    """`num_rows` rows in random order, equally many of each kind, none of them twice, no prompt in `avoid`."""
    kinds = INSTRUCTIONS | {kind: partial(twins, heldout=heldout) for kind, twins in QUESTIONS.items()}
    rows = {}
    for kind, twins in kinds.items():
        num_wanted = len(rows) + num_rows // len(kinds)
        misses = 0
        while len(rows) < num_wanted:
            prompt_1, prompt_2, completion_1, completion_2 = twins(rng)
            pair = ((prompt_1, completion_1, completion_2), (prompt_2, completion_2, completion_1))
            if not {prompt_1, prompt_2} & avoid and not rows.keys() & set(pair):
                rows |= dict.fromkeys(pair, kind)
                misses = 0
            elif (misses := misses + 1) > 1000:
                raise ValueError(f"{num_rows} rows: there are fewer different ones of kind {kind}; ask for fewer")
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, "kind": kind}
        for (prompt, chosen, rejected), kind in rows.items()
    ]
    rng.shuffle(rows)
    return rows


def case(rng: random.Random) -> Twins:
    words = " ".join(rng.sample(WORDS, rng.randint(2, 4)))
    prompt = rng.choice(["Write this in {} case: {}.", "Repeat this in {} case: {}."])
    return prompt.format("upper", words), prompt.format("lower", words), words.upper(), words


def repeat(rng: random.Random) -> Twins:
    (word_1, word_2), (number_1, number_2) = rng.sample(WORDS, 2), rng.sample(sorted(NUMBERS), 2)
    if rng.random() < 0.5:  # the twins differ in the number, or in the word
        word_2 = word_1
    else:
        number_2 = number_1
    prompt = rng.choice(["Repeat the word {} {} times.", "Say the word {} {} times."])
    return (
        prompt.format(word_1, NUMBERS[number_1]),
        prompt.format(word_2, NUMBERS[number_2]),
        " ".join([word_1] * number_1),
        " ".join([word_2] * number_2),
    )


def count(rng: random.Random) -> Twins:
    (number_1, number_2), topic = rng.sample(sorted(NUMBERS), 2), rng.choice(WORDS)
    words = rng.sample(WORDS, max(number_1, number_2))
    prompt = rng.choice(["Reply with exactly {} words about the {}.", "Write {} words about the {}."])
    return (
        prompt.format(NUMBERS[number_1], topic),
        prompt.format(NUMBERS[number_2], topic),
        " ".join(words[:number_1]),
        " ".join(words[:number_2]),
    )


def order(rng: random.Random) -> Twins:
    words = rng.sample(WORDS, 3)
    prompt = rng.choice(["Put these words in {} order: {}.", "List these words in {} order: {}."])
    return (
        prompt.format("alphabetical", " ".join(words)),
        prompt.format("reverse alphabetical", " ".join(words)),
        " ".join(sorted(words)),
        " ".join(sorted(words, reverse=True)),
    )


def ends(rng: random.Random) -> Twins:
    topic, word_1, word_2, *others = rng.sample(WORDS, rng.randint(4, 6))
    prompt = "Write a line about the {} that ends with the word {}."
    line_1, line_2 = " ".join([word_2, *others, word_1]), " ".join([word_1, *others, word_2])
    return prompt.format(topic, word_1), prompt.format(topic, word_2), line_1, line_2


def include(rng: random.Random) -> Twins:
    topic, word_1, word_2, *others = rng.sample(WORDS, rng.randint(5, 7))
    index = rng.randrange(len(others) + 1)
    prompt = rng.choice(["Use the word {} in a line about the {}.", "Put the word {} into a line about the {}."])
    line_1, line_2 = (" ".join([*others[:index], word, *others[index:]]) for word in (word_1, word_2))
    return prompt.format(word_1, topic), prompt.format(word_2, topic), line_1, line_2


def letter(rng: random.Random) -> Twins:
    """Completion 1 has the second letter and not the first, completion 2 the first and not the second."""
    letters, topic, number = rng.sample(LETTERS, 2), rng.choice(WORDS), rng.randint(2, 4)
    prompt = rng.choice(["Write about the {} and do not use the letter {}.", "Describe the {} without the letter {}."])
    lines = []
    for avoided, used in (letters, letters[::-1]):
        words = [word for word in WORDS if avoided not in word]
        proof = rng.choice([word for word in words if used in word])
        line = [proof, *rng.sample([word for word in words if word != proof], number - 1)]
        lines.append(" ".join(rng.sample(line, number)))
    return prompt.format(topic, letters[0]), prompt.format(topic, letters[1]), *lines


def fact(rng: random.Random, *, heldout: bool) -> Twins:
    category = rng.choice(sorted(DATA["facts"]))
    subject_1, subject_2 = rng.sample(sorted(_answers(category)), 2)
    return (
        _question(rng, category, subject_1, heldout),
        _question(rng, category, subject_2, heldout),
        _answers(category)[subject_1],
        _answers(category)[subject_2],
    )


def joke(rng: random.Random, *, heldout: bool) -> Twins:
    """A plain question wants the fact; the same question after the request for a joke wants the silly answer."""
    category = rng.choice(sorted(DATA["facts"]))
    subject, answer = rng.choice(sorted(_answers(category).items()))
    question = _question(rng, category, subject, heldout)
    request = rng.choice(DATA["joke_requests"][_split(heldout)])
    return question, request.format(question), answer, rng.choice(DATA["jokes"][category])


INSTRUCTIONS: dict[str, Callable[[random.Random], Twins]] = {
    twins.__name__: twins for twins in (case, repeat, count, order, ends, include, letter)
}
QUESTIONS: dict[str, Callable[..., Twins]] = {"fact": fact, "joke": joke}


def _question(rng: random.Random, category: str, subject: str, heldout: bool) -> str:
    return rng.choice(DATA["facts"][category][_split(heldout)]).format(subject)


def _split(heldout: bool) -> str:
    return "heldout" if heldout else "train"


@cache
def _answers(category: str) -> dict[str, str]:
    """{subject: full answer} of a category of facts."""
    facts = DATA["facts"][category]
    answers = {subject: facts["answer"].format(answer) for subject, answer in facts["answers"].items()}
    return answers | ({"Antarctica": NO_COUNTRY} if category == "owner" else {})
