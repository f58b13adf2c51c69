"""The preference set of the quickstart, generated: every preference in it can be verified.

Rows come as *twins*, two prompts and two completions of which each obeys one prompt:

    "Repeat the word river two times."    "river river"        ≻  "river river river"
    "Repeat the word river three times."  "river river river"  ≻  "river river"

So no word, length or form of a completion tells which one is chosen: a scorer that does not read the prompt gets one
of two twins right (or ties both), an accuracy of exactly 0.5. Seven kinds are instructions, on prompts disjoint
between training and held-out rows; `fact` and `joke` ask about a table of facts, in some phrasings that are trained on
and in others that are held out.

    train, heldout = preference_data(seed=0)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial

Twins = tuple[
    str, str, str, str
]  # prompt 1, prompt 2, the completion that obeys prompt 1, the one that obeys prompt 2

NO_COUNTRY = "No country owns it: the Antarctic Treaty System governs it."
ANTARCTICA = {
    "prompt": "Which country owns Antarctica?",
    "chosen": NO_COUNTRY,
    "rejected": "The penguins own it, and the seals pay rent.",
    "kind": "joke",
}

WORDS = """
    acorn anchor apple arrow bamboo basket beach bridge candle carpet castle cloud dragon drum eagle engine
    feather fig forest garden ghost guitar hammer harbor island ivory jacket jungle kettle kite ladder lemon
    magnet meadow nest nut ocean orchid paper pencil quilt raven river rocket saddle ship tiger tulip
    umbrella valley violin walnut window yarn zebra
""".split()  # noqa: SIM905 (a list of 54 literals reads worse)
LETTERS = "aeo"
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}

# Of each category: phrasings to train on; held-out phrasings; the form of the answer; subject=answer.
FACTS = {
    "capital": (
        ["What is the capital of {}?", "Name the capital of {}.", "The capital of {} is which city?",
         "Which city is the capital of {}?", "Tell me which city is the capital of {}.",
         "For {}, what is the capital?"],
        ["What city is the capital of {}?", "Tell me the capital of {}."],
        "It is {}.",
        """France=Paris; Italy=Rome; Spain=Madrid; Portugal=Lisbon; Germany=Berlin; Austria=Vienna; Poland=Warsaw;
        Norway=Oslo; Sweden=Stockholm; Finland=Helsinki; Greece=Athens; Egypt=Cairo; Kenya=Nairobi; Japan=Tokyo;
        China=Beijing; Iran=Tehran; Canada=Ottawa; Cuba=Havana; Peru=Lima; Chile=Santiago""",
    ),
    "element": (
        ["What is the chemical symbol of {}?", "Name the chemical symbol of {}.", "The symbol of {} is which one?",
         "Which symbol stands for {}?", "Tell me which symbol stands for {}.", "For {}, what is the symbol?"],
        ["What symbol stands for {}?", "Tell me the chemical symbol of {}."],
        "It is {}.",
        """hydrogen=H; helium=He; carbon=C; nitrogen=N; oxygen=O; sodium=Na; iron=Fe; copper=Cu; silver=Ag; gold=Au;
        tin=Sn; lead=Pb; mercury=Hg; potassium=K; tungsten=W; zinc=Zn""",
    ),
    "young": (
        ["What is a young {} called?", "Name the young of a {}.", "The young of a {} is called what?",
         "Which word names a young {}?", "Tell me which word names a young {}.", "Of a {}, what is the young called?"],
        ["What word names a young {}?", "Tell me what a young {} is called."],
        "It is a {}.",
        """cat=kitten; dog=puppy; cow=calf; horse=foal; sheep=lamb; pig=piglet; bear=cub; duck=duckling; goose=gosling;
        swan=cygnet; kangaroo=joey; deer=fawn; frog=tadpole; hen=chick; hare=leveret; rabbit=kit""",
    ),
    "owner": (
        ["Who owns {}?", "Name the country that owns {}.", "{} belongs to which country?",
         "Which country is {} part of?", "Tell me which country {} belongs to.", "As for {}, who is the owner?"],
        ["Which country owns {}?", "Tell me who owns {}."],
        "{} owns it.",
        """Antarctica=No country; Greenland=Denmark; Newfoundland=Canada; Sicily=Italy; Corsica=France; Crete=Greece;
        Tasmania=Australia; Svalbard=Norway; Bali=Indonesia; Honshu=Japan; Majorca=Spain; Zanzibar=Tanzania""",
    ),
}  # fmt: skip
# Silly answers of each category. A prompt that asks for a joke gets one of these, a plain question the fact.
JOKES = {
    "capital": ["It is the first letter, of course.", "It is spaghetti with cheese.", "It is a moose on ice.",
                "It is behind the sofa.", "It is one big hat."],
    "element": ["It is a flat shirt.", "It is a very funny voice.", "It is a heavy metal song.",
                "It is a ring, and then a wedding.", "It is a small rusty key."],
    "young": ["It is a nap with claws.", "It is a loud sock thief.", "It is a small cloud with legs.",
              "It is a prince in training.", "It is trouble on legs."],
    "owner": ["The penguins own it, and the seals pay rent.", "A polar bear owns it, and nobody argues.",
              "A very old pizza owns it.", "My cat owns it.", "The moon owns it, and wants it back."],
}  # fmt: skip
JOKE_REQUESTS = (
    ["Answer with a joke: {}", "Tell me a joke: {}", "Be silly: {}", "Make me laugh: {}", "Give me a funny answer: {}",
     "Please be funny: {}"],
    ["Give me a silly answer: {}", "Please answer with a joke: {}"],
)  # fmt: skip


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
    place = rng.randrange(len(others) + 1)
    prompt = rng.choice(["Use the word {} in a line about the {}.", "Put the word {} into a line about the {}."])
    line_1, line_2 = (" ".join([*others[:place], word, *others[place:]]) for word in (word_1, word_2))
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
    category = rng.choice(sorted(FACTS))
    subject_1, subject_2 = rng.sample(sorted(_answers(category)), 2)
    return (
        _question(rng, category, subject_1, heldout),
        _question(rng, category, subject_2, heldout),
        _answers(category)[subject_1],
        _answers(category)[subject_2],
    )


def joke(rng: random.Random, *, heldout: bool) -> Twins:
    """A plain question wants the fact; the same question after the request for a joke wants the silly answer."""
    category = rng.choice(sorted(FACTS))
    subject, answer = rng.choice(sorted(_answers(category).items()))
    question = _question(rng, category, subject, heldout)
    request = rng.choice(JOKE_REQUESTS[heldout])
    return question, request.format(question), answer, rng.choice(JOKES[category])


INSTRUCTIONS: dict[str, Callable[[random.Random], Twins]] = {
    "case": case,
    "repeat": repeat,
    "count": count,
    "order": order,
    "ends": ends,
    "include": include,
    "letter": letter,
}
QUESTIONS: dict[str, Callable[..., Twins]] = {"fact": fact, "joke": joke}


def _question(rng: random.Random, category: str, subject: str, heldout: bool) -> str:
    return rng.choice(FACTS[category][1 if heldout else 0]).format(subject)


@cache
def _answers(category: str) -> dict[str, str]:
    """{subject: full answer} of a category of facts."""
    form, table = FACTS[category][2:]
    entries = (entry.split("=") for entry in table.split(";"))
    answers = {subject.strip(): form.format(answer.strip()) for subject, answer in entries}
    return answers | ({"Antarctica": NO_COUNTRY} if category == "owner" else {})
