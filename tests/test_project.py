"""The project's own files agree with each other: versions, constraints, tests, and what `make test` says it runs."""

import ast
import importlib
import importlib.metadata
import os
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def pins(name):
    """{project: "==version"} of a constraints file."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def installed(extra):
    """The package's own requirements as pip reads them, those of one extra or (None) those of everybody."""
    requirements = map(Requirement, importlib.metadata.requires("rm-plugin"))
    return [r for r in requirements if (r.marker is None if extra is None else f'"{extra}"' in str(r.marker))]


def test_every_direct_dependency_is_pinned_in_the_constraints():
    direct = {requirement.name for requirement in installed(None) + installed("dev")}
    assert len(direct) == 20
    assert direct - pins("constraints.txt").keys() == set()


def test_the_two_constraints_files_differ_in_trl_only():
    tested, ppo = pins("constraints.txt"), pins("constraints-ppo.txt")
    assert {name for name in tested.keys() | ppo.keys() if tested.get(name) != ppo.get(name)} == {"trl"}
    assert (tested["trl"], ppo["trl"]) == ("==1.16.0", "==1.12.0")


def test_the_ppo_extra_takes_the_last_trl_with_a_ppo_trainer():
    (trl,) = installed("ppo")
    assert "1.12.0" in trl.specifier
    assert "1.13.0" not in trl.specifier
    assert "1.16.0" not in trl.specifier


@pytest.mark.trl112
def test_the_trl_under_test_is_the_one_that_make_test_names():
    import trl

    assert trl.__version__ == os.environ.get("EXPECTED_TRL", "1.16.0")
    assert importlib.metadata.version("trl") == trl.__version__


def test_the_changelog_has_a_section_for_the_next_version():
    assert re.search(r"^## \[Unreleased\]$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


# A few lines each; the file that tests them: test_rewards.py of scoring, test_training_config.py.
TESTED_ELSEWHERE = {"rewards.py", "training/fields.py"}


def test_every_module_has_its_test_file_in_the_same_folder_of_tests():
    """Basenames of tests are unique, so one of two modules of one name has its folder before its name."""
    package, missing = ROOT / "rm_plugin", set()
    for module in package.glob("**/[!_]*.py"):
        folder = ROOT / "tests" / module.relative_to(package).parent
        names = (f"test_{module.stem}.py", f"test_{folder.name}_{module.stem}.py")
        if not any((folder / name).is_file() for name in names):
            missing.add(module.relative_to(package).as_posix())
    assert missing == TESTED_ELSEWHERE
    names = [file.name for file in (ROOT / "tests").glob("**/test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_what_the_benchmarks_import_exists():
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rm_plugin"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), (path.name, node.module)
