"""What people get wrong: exit 0 with the right result, or exit 2 and one line that names file, row or field.

Inputs are generated: each field of a good one gets values of every wrong kind. Never a traceback, never a silent
reading. All of them run in this process; those that load a model are counted.
"""

import math

import pytest

from rm_plugin import to_comparison
from rm_plugin.commands.cli import main
from rm_plugin.data.comparison import BadRow
from rm_plugin.data.layouts import BadLayout

MODELS_LOADED = []  # by this file: at most 20


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


@pytest.fixture
def refused(capsys):
    """`refused(word, …)`: the one line of a command that exits 2; None where it exits 0."""

    def run(*words):
        code = main(list(map(str, words)))
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("rm-plugin: ")]
        assert code in (0, 2) and len(lines) == (code == 2) and "Traceback" not in err, (words, err)
        return lines[0].removeprefix("rm-plugin: ") if code else None

    return run


# --- rows

ROWS = {
    "pair": {"prompt": "alpha?", "chosen": "beta", "rejected": "gamma"},
    "chat": {"prompt": [user("alpha?")], "chosen": [assistant("beta")], "rejected": [assistant("gamma")]},
    "implicit": {
        "chosen": [user("alpha?"), assistant("beta")],
        "rejected": [user("alpha?"), assistant("gamma")],
    },
    "ranked": {"prompt": "alpha?", "completions": ["beta", "gamma", "delta"], "ranks": [0, 1, 2]},
    "scored": {"prompt": "alpha?", "completions": ["beta", "gamma"], "scores": [0.5, 0.25]},
    "labelled": {"prompt": "alpha?", "response_1": "beta", "response_2": "gamma", "label": 1},
    "targets": {"input": "alpha?", "targets": {"choices": ["beta", "gamma"], "labels": [1, 0]}},
}
BESIDE = (
    "margin",
    "tools",
    "chat_template_kwargs",
    "id",
    "subset",
    "metadata",
    "system",
    "input",
    "images",
    "messages",
)
VALUES = [
    *[None, 3, 0.5, True, "", " ", "x", "\ud800", [], {}, [None], [3], ["x"], ["x", "y"], [[]], [{}], {"a": 1}],
    *[{"role": "user"}, {"content": "x"}, [user(3)], [assistant(None)], [user("x")], math.nan, math.inf, 10**30, b"x"],
    *["[1, 2", '[{"role": "user"}]', {"messages": []}, {"messages": [3]}, {"messages": [user("x"), assistant("y")]}],
    *[(1, 2), {1: 2}, ["x", None], [math.nan, 1], [0, "b", 2], "0,1", [True, False], [1, 1]],
]
LIBRARY_WORDS = (
    "object has no",
    "unhashable",
    "KeyError",
    "NoneType",
    "not subscriptable",
    "not iterable",
    "index out",
)


def leaves(value):
    """Every text in a nested value, but for the names of speakers."""
    if isinstance(value, dict):
        value = [item for name, item in value.items() if name not in ("role", "from", "type")]
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str) and value.strip():
        yield value.strip()


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_with_one_wrong_value_is_read_whole_or_refused_by_its_field(kind):
    unread = ("tools", "chat_template_kwargs", "id", "subset", "metadata", "margin", "label")
    for field in dict.fromkeys([*ROWS[kind], *BESIDE]):
        for value in VALUES:
            row = {**ROWS[kind], field: value}
            case = f"{field}={value!r}"
            try:
                comparison = to_comparison(row, 17)
            except (BadRow, BadLayout) as error:
                line = str(error)
                assert line.startswith("row 17: ") and "\n" not in line, case
                assert not any(words in line for words in LIBRARY_WORDS), (case, line)
                continue
            read = list(leaves([comparison.prompt, comparison.completions]))
            given = list(leaves({name: text for name, text in row.items() if name not in unread}))
            assert all(any(text in other for other in read) for text in given), (case, comparison)
            assert all(any(text in other or other in text for other in given) for text in read), (case, comparison)
