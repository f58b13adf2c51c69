"""The guides in docs/: every block runs, in order, and prints what the block after it shows.

A `python` block is executed, the lines of a `bash` block are commands of rm-plugin, a block with a title is a file,
and a `text` block after one of these is what it printed last (`...` stands for anything), the error that ended it
included. A block under `<!-- not run: reason -->` is not run.
"""

import contextlib
import dataclasses
import doctest
import io
import itertools
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from rm_plugin.commands.cli import COMMANDS, main
from rm_plugin.commands.ppo_recipe import PPORewardArguments
from rm_plugin.evaluation.benchmarks import BENCHMARKS, SUITES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
PAGES += sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))
SHOWN_AS_AN_ERROR = "--learning-rat"  # in docs/train.md
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


def commands_in(text):
    """The words of every rm-plugin command in a page's blocks and code spans, those that are not run included."""
    fence = re.compile(r"^```\w*[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    prose = fence.sub("", text)
    code = "\n".join([*fence.findall(text), *re.findall(r"^ {4}(.*)$", prose, re.MULTILINE)])
    lines = code.replace("\\\n", " ").splitlines()
    lines += [" ".join(span.split()) for span in re.findall("`([^`]+)`", prose)]
    found = (re.match(r"(?:\w+=\S+ )*rm-plugin (.*)", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


@cache
def options_of(command):
    """The options that the command line knows, in the form `--max-length`; fields of a recipe are options, too."""
    with contextlib.redirect_stdout(io.StringIO()) as help_text:
        for option in ("--help", "--help-all") if command == "train" else ("--help",):
            with contextlib.suppress(SystemExit):
                main([command, option])
    text = help_text.getvalue()
    if command == "train":
        text += f"{launch_command_parser().format_help()} --accelerate_config"
    elif command == "ppo":  # TRL's PPOConfig is not in every TRL
        text += (
            " ".join(f" --{field.name}" for field in dataclasses.fields(PPORewardArguments)) + " --reward_model_path"
        )
    known = {word.replace("_", "-") for word in re.findall(r"--[\w-]+", text)}
    return known | (options_of("train") if command in ("plan", "ppo") else {"--debug"})


@pytest.mark.parametrize("page", PAGES)
def test_commands_options_and_benchmarks_of_a_page_are_known_to_the_command_line(page):
    for command, *words in commands_in((ROOT / page).read_text(encoding="utf-8")):
        assert command in COMMANDS or command == "--help"
        takes_fields = command in ("train", "plan", "ppo")  # with hyphens or with underscores
        options = [word.split("=")[0] for word in words if word.startswith("--")]
        options = [option.replace("_", "-") if takes_fields else option for option in options]
        unknown = {*options} - options_of(command) - {SHOWN_AS_AN_ERROR} if options else set()
        assert not unknown, f"rm-plugin {command} {' '.join(words)}"
        for option, value in itertools.pairwise(words):
            assert option != "--benchmark" or value in BENCHMARKS or ":" in value, value
            assert option != "--suite" or value in SUITES, value


def test_commands_are_found_in_blocks_and_in_code_spans():
    page = "`rm-plugin plan\n--gpu 1GB`\n\n    A=1 rm-plugin score m \\\n        --data d  # why\n"
    assert commands_in(page) == [["score", "m", "--data", "d"], ["plan", "--gpu", "1GB"]]
    assert commands_in("```bash\nrm-plugin evaluate m\n```\n") == [["evaluate", "m"]]
