"""The preference set of the quickstart, generated: every preference in it can be verified.

Rows come as *twins*, two prompts and two completions of which each obeys one prompt:

    "Repeat the word river two times."    "river river"        ≻  "river river river"
    "Repeat the word river three times."  "river river river"  ≻  "river river"

So no word, length or form of a completion tells which one is chosen: a scorer that does not read the prompt gets one
of two twins right (or ties both), an accuracy of exactly 0.5. Seven kinds are instructions, on prompts disjoint
between training and held-out rows; `fact` and `joke` ask about facts, in some phrasings that are trained on and in
others that are held out. Words, phrasings, facts and jokes are in quickstart_data.yaml.

    train, heldout = preference_data(seed=0)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import yaml

DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
WORDS = DATA["words"].split()
LETTERS = "aeo"
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
ANTARCTICA = {
    "prompt": "Which country owns Antarctica?",
    "chosen": DATA["facts"]["owner"]["answers"]["Antarctica"],
    "rejected": DATA["facts"]["owner"]["jokes"][0],
    "kind": "joke",
}

# prompt 1, prompt 2, the completion that obeys prompt 1, the one that obeys prompt 2
Twins = tuple[str, str, str, str]


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
    rng = random.Random(seed)
    heldout = _rows(rng, num_heldout, "heldout", avoid=set())
    train = _rows(rng, num_train, "train", avoid={row["prompt"] for row in heldout})
    return train, heldout


def _rows(rng: random.Random, num_rows: int, split: str, avoid: set[str]) -> list[dict[str, str]]:
    """`num_rows` rows in random order, equally many of each kind, none of them twice, no prompt in `avoid`."""
    if num_rows <= 0 or num_rows % (2 * len(KINDS)):
        raise ValueError(f"num_{split}={num_rows}, a positive multiple of {2 * len(KINDS)} is needed (twins)")
    rows = {}
    for kind, twins in KINDS.items():
        num_wanted, misses = len(rows) + num_rows // len(KINDS), 0
        while len(rows) < num_wanted:
            prompt_1, prompt_2, completion_1, completion_2 = twins(rng, split)
            pair = ((prompt_1, completion_1, completion_2), (prompt_2, completion_2, completion_1))
            if not {prompt_1, prompt_2} & avoid and not rows.keys() & set(pair):
                rows |= dict.fromkeys(pair, kind)
                misses = 0
            elif (misses := misses + 1) > 1000:
                raise ValueError(f"{num_rows} rows: there are fewer different ones of kind {kind}; ask for fewer")
    names = ("prompt", "chosen", "rejected", "kind")
    rows = [dict(zip(names, (*row, kind), strict=True)) for row, kind in rows.items()]
    rng.shuffle(rows)
    return rows


# --- the kinds: each draws words, chooses a phrasing of the split and fills it in twice


def case(rng: random.Random, split: str) -> Twins:
    ask, words = _phrasing(rng, "case", split), " ".join(rng.sample(WORDS, rng.randint(2, 4)))
    return ask("upper", words), ask("lower", words), words.upper(), words


def repeat(rng: random.Random, split: str) -> Twins:
    ask, words, numbers = _phrasing(rng, "repeat", split), rng.sample(WORDS, 2), rng.sample(sorted(NUMBERS), 2)
    same = rng.choice([words, numbers])  # the twins differ in the number, or in the word
    same[1] = same[0]
    prompts = [ask(word, NUMBERS[number]) for word, number in zip(words, numbers, strict=True)]
    return *prompts, *(" ".join([word] * number) for word, number in zip(words, numbers, strict=True))


def count(rng: random.Random, split: str) -> Twins:
    ask, numbers = _phrasing(rng, "count", split), rng.sample(sorted(NUMBERS), 2)
    topic, *words = rng.sample(WORDS, 1 + max(numbers))
    return *(ask(NUMBERS[number], topic) for number in numbers), *(" ".join(words[:number]) for number in numbers)


def order(rng: random.Random, split: str) -> Twins:
    ask, words = _phrasing(rng, "order", split), rng.sample(WORDS, 3)
    prompts = (ask(way, " ".join(words)) for way in ("alphabetical", "reverse alphabetical"))
    return *prompts, " ".join(sorted(words)), " ".join(sorted(words, reverse=True))


def ends(rng: random.Random, split: str) -> Twins:
    ask, (topic, word_1, word_2, *others) = _phrasing(rng, "ends", split), rng.sample(WORDS, rng.randint(4, 6))
    lines = (" ".join([first, *others, last]) for first, last in ((word_2, word_1), (word_1, word_2)))
    return ask(topic, word_1), ask(topic, word_2), *lines


def include(rng: random.Random, split: str) -> Twins:
    ask, (topic, word_1, word_2, *others) = _phrasing(rng, "include", split), rng.sample(WORDS, rng.randint(5, 7))
    index = rng.randrange(len(others) + 1)
    lines = (" ".join([*others[:index], word, *others[index:]]) for word in (word_1, word_2))
    return ask(word_1, topic), ask(word_2, topic), *lines


def letter(rng: random.Random, split: str) -> Twins:
    """Completion 1 has the second letter and not the first, completion 2 the first and not the second."""
    ask, letters, topic = _phrasing(rng, "letter", split), rng.sample(LETTERS, 2), rng.choice(WORDS)
    lines, num_words = [], rng.randint(2, 4)
    for avoided, used in (letters, letters[::-1]):
        words = [word for word in WORDS if avoided not in word]
        proof = rng.choice([word for word in words if used in word])
        line = [proof, *rng.sample([word for word in words if word != proof], num_words - 1)]
        lines.append(" ".join(rng.sample(line, num_words)))
    return ask(topic, letters[0]), ask(topic, letters[1]), *lines


def fact(rng: random.Random, split: str) -> Twins:
    category = rng.choice(sorted(DATA["facts"]))
    (subject_1, answer_1), (subject_2, answer_2) = rng.sample(sorted(DATA["facts"][category]["answers"].items()), 2)
    ask_1, ask_2 = (_phrasing(rng, category, split) for _ in range(2))
    return ask_1(subject_1), ask_2(subject_2), answer_1, answer_2


def joke(rng: random.Random, split: str) -> Twins:
    """A plain question wants the fact; the same question after the request for a joke wants the silly answer."""
    category = rng.choice(sorted(DATA["facts"]))
    subject, answer = rng.choice(sorted(DATA["facts"][category]["answers"].items()))
    question = _phrasing(rng, category, split)(subject)
    return question, _phrasing(rng, "joke", split)(question), answer, rng.choice(DATA["facts"][category]["jokes"])


KINDS: dict[str, Callable[[random.Random, str], Twins]] = {
    twins.__name__: twins for twins in (case, repeat, count, order, ends, include, letter, fact, joke)
}


def _phrasing(rng: random.Random, name: str, split: str) -> Callable[..., str]:
    """A prompt to fill in; those that are a list serve both splits."""
    phrasings = DATA["prompts"][name]
    return rng.choice(phrasings if isinstance(phrasings, list) else phrasings[split]).format
