"""How the tests of this folder say that upstream falls short, and what can go here when it no longer does."""

import contextlib

import pytest

OURS: list[str] = []  # "folder: name" of what in this package is there for a fault of upstream alone


def until_fixed(fault: str, ours: str):
    """
    The test fails on bare upstream because of `fault`, and it must: once it passes the suite turns red (strict), and
    `ours`, the folder and the name in it that work around the fault, can go.
    """
    OURS.append(ours)
    return pytest.mark.xfail(
        raises=AssertionError, strict=True, reason=f"{fault}; when this passes, what works around it can go ({ours})"
    )


@contextlib.contextmanager
def must_work():
    """Whatever upstream raises in this block is the fault."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
