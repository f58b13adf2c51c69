"""The guides in docs/: every block runs, in order, and prints what the block after it shows.

A `python` block is executed, the lines of a `bash` block are commands of rm-plugin, a block with a title is a file,
and a `text` block after one of these is what it printed last (`...` stands for anything), the error that ended it
included. A block under `<!-- not run: reason -->` is not run.
"""

import contextlib
import doctest
import io
import re
import shlex
from pathlib import Path

import pytest

from rm_plugin.commands.cli import main

DOCS = Path(__file__).resolve().parent.parent / "docs"
GUIDES = sorted(path.name for path in DOCS.glob("*.md") if path.name != "api.md")
BLOCK = re.compile(
    r'(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$',
    re.DOTALL | re.MULTILINE,
)
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_block(kind, body, variables):
    """What a block prints; the error that ends it is the last line."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as noise:
        if kind == "python":
            try:
                exec(compile(body, "guide", "exec"), variables)
            except ValueError as error:
                print(f"{type(error).__name__}: {error}")
        for command in body.replace("\\\n", " ").splitlines() if kind == "bash" else []:
            name, *arguments = shlex.split(command, comments=True)
            assert name == "rm-plugin", command
            if main(arguments) != 0:
                print(noise.getvalue().splitlines()[-1])
    return printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_the_blocks_of_a_guide_run_and_print_what_it_shows(guide, readme_run, tmp_path, monkeypatch):
    (tmp_path / "my-reward-model").symlink_to(readme_run / "my-reward-model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    variables, printed, ran = {"__name__": "guide"}, None, None
    for block in BLOCK.finditer((DOCS / guide).read_text(encoding="utf-8")):
        kind, body = block["kind"], block["body"]
        if block["reason"]:
            printed = None
        elif block["title"]:
            Path(block["title"]).write_text(body, encoding="utf-8")
        elif kind in ("python", "bash"):
            assert not printed or "Error: " not in printed, f"{guide} fails unseen:\n{ran}\n{printed}"
            printed, ran = run_block(kind, body, variables), body
        elif kind == "text" and printed is not None:
            same = (doctest.OutputChecker().check_output(last + body, printed, SAME) for last in ("", "...\n"))
            assert any(same), f"{guide} shows\n{body}\nbut\n{ran}\nprinted\n{printed}"
            printed = None
    assert not printed or "Error: " not in printed, f"{guide} fails unseen:\n{ran}\n{printed}"


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_is_short_and_its_links_lead_somewhere(guide):
    text = (DOCS / guide).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    for target in re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert target.startswith("https://") or (DOCS / target).exists(), target
