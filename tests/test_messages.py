"""Errors are one printable line that names the value and the nearest known one."""

import pytest

from rm_plugin.messages import check_choice, located, nearest, one_line, printable, shorten, terminal_text


def test_the_nearest_name_is_told_only_where_one_is_near():
    assert nearest("learning_rat", ["learning_rate", "output_dir"]) == " (did you mean learning_rate?)"
    assert nearest("zzz", ["learning_rate", "output_dir"]) == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("stripp", "reasoning='stripp' is not known (did you mean strip?); use one of 'keep', 'strip'"),
        ("x", "reasoning='x' is not known; use one of 'keep', 'strip'"),
        (None, "reasoning=None is not known; use one of 'keep', 'strip'"),
        (["keep"], "reasoning=['keep'] is not known; use one of 'keep', 'strip'"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(value, message):
    with pytest.raises(ValueError) as refused:
        check_choice("reasoning", value, ("keep", "strip"))
    assert str(refused.value) == message
    check_choice("reasoning", "keep", ("keep", "strip"))
    with pytest.raises(ValueError, match=r"^label='1' is not known \(did you mean 1\?\); use one of 0, 1$"):
        check_choice("label", "1", (0, 1))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: {}["chosen"], "a.jsonl line 3: KeyError: 'chosen'"),
        (lambda: [][0], "a.jsonl line 3: list index out of range"),
        (lambda: float("x"), "a.jsonl line 3: could not convert string to float: 'x'"),
        (lambda: 1 / 0, "a.jsonl line 3: division by zero"),
        (lambda: "\ud800".encode(), "a.jsonl line 3: 'utf-8' codec can't encode character"),
    ],
)
def test_an_error_of_the_input_says_where_it_is(read, message):
    with pytest.raises(ValueError) as refused, located("a.jsonl"), located("line 3"):
        read()
    assert str(refused.value).replace(": line", " line").startswith(message)
    assert refused.value.__cause__ is not None


def test_other_errors_pass_unchanged():
    with pytest.raises(KeyboardInterrupt), located("a.jsonl"):
        raise KeyboardInterrupt


def test_an_error_is_one_printable_line():
    assert one_line(ValueError("two\n  lines \x1b[31mred\ud800")) == "two lines \ufffd[31mred\ufffd"
    assert (
        one_line(FileNotFoundError(2, "No such file or directory", "a.jsonl")) == "a.jsonl: No such file or directory"
    )
    assert one_line(ValueError()) == "ValueError"


def test_text_of_others_is_neither_markup_nor_control():
    assert printable("a\tb\n\x00\x9b\udfff") == "a\tb\n\ufffd\ufffd\ufffd"
    assert terminal_text("[red]\x1b[0m") == "\\[red]\ufffd[0m"


def test_a_long_value_is_cut_to_the_length():
    assert shorten("a" * 60) == "a" * 60 and shorten("a" * 61) == "a" * 59 + "…"
    assert shorten({"é": 1}) == '{"é": 1}' and shorten([object], 9).endswith("…") and len(shorten([object], 9)) == 9
