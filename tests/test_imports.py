"""Imports run one way. The graph is drawn from the source, with imports inside functions and under TYPE_CHECKING."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rm_plugin"
# Of each folder or file at the top: how high it stands. An arrow goes down, or stays in its folder.
LEVELS = {
    **dict.fromkeys(("metrics", "files", "messages", "processes", "__init__"), 0),
    "data": 1,
    "model": 2,
    **dict.fromkeys(("training", "scoring"), 3),
    "evaluation": 4,
    "loops": 5,
    **dict.fromkeys(("commands", "rewards"), 6),
}
BOTTOM = [name for name, level in LEVELS.items() if level == 0]
HEAVY = {"bitsandbytes", "matplotlib", "ray", "vllm", "deepspeed"}
USE_TRL = {"training", "loops", "commands"}


@cache
def modules() -> dict[str, Path]:
    """`data.comparison` ► its file; a package stands for its `__init__`."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = file
    return found


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> list[tuple[str, str | None, str]]:
    """(imported module of this package, name that is taken from it or None, name that it is bound to)."""
    package = module.split(".") if modules()[module].name == "__init__.py" else module.split(".")[:-1]
    package = [] if module == "__init__" else package
    found = []
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "rm_plugin":
                base = []
            else:
                continue
            path = (node.module or "").removeprefix("rm_plugin").strip(".")
            target = ".".join([*base, *filter(None, path.split("."))])
            for alias in node.names:
                inner = f"{target}.{alias.name}" if target else alias.name
                bound = alias.asname or alias.name
                found.append((inner, None, bound) if inner in modules() else (target or "__init__", alias.name, bound))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "rm_plugin":
                    found.append((alias.name.removeprefix("rm_plugin").strip(".") or "__init__", None, alias.name))
    return found


def folder(module: str) -> str:
    return module.split(".")[0]


def graph(of=lambda module: module) -> dict[str, set[str]]:
    arrows: dict[str, set[str]] = {}
    for module in modules():
        arrows.setdefault(of(module), set()).update(of(target) for target, _, _ in imports(module))
    return {name: targets - {name} for name, targets in arrows.items()}


def test_every_import_of_the_package_leads_to_a_module():
    assert len(modules()) > 30
    assert {target for module in modules() for target, _, _ in imports(module)} <= modules().keys()
    assert "data.comparison" in graph()["scoring.base"]


@pytest.mark.parametrize("of", [str, folder], ids=["files", "folders"])
def test_there_is_no_cycle_between(of):
    try:
        list(TopologicalSorter(graph(of)).static_order())
    except CycleError as error:
        pytest.fail(f"cycle: {' ► '.join(error.args[1])}")


def test_no_import_climbs():
    climbing = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in targets
        if LEVELS[folder(module)] <= LEVELS[folder(target)] and folder(module) != folder(target)
        if not {folder(module), folder(target)} <= set(BOTTOM)  # where the test of cycles is enough
    ]
    assert climbing == []


def test_nothing_takes_a_private_name_of_another_module():
    private = []
    for module in modules():
        bound = {name: target for target, taken, name in imports(module) if taken is None}
        names = [(target, taken) for target, taken, _ in imports(module) if taken is not None]
        for node in ast.walk(parsed(module)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
                names.append((bound[node.value.id], node.attr))
        private += [f"{module} takes {name} of {target}" for target, name in names if is_private(name)]
        private += [f"{module} imports {t}" for t, _, _ in imports(module) if is_private(t.split(".")[-1])]
    assert private == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def external(nodes) -> set[str]:
    """Names of other packages that these nodes import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def test_only_training_loops_and_commands_import_trl():
    assert external(ast.walk(parsed("training.trainer"))) >= {"trl"}
    using = [module for module in modules() if "trl" in external(ast.walk(parsed(module)))]
    assert [module for module in using if folder(module) not in USE_TRL] == []


def test_heavy_and_optional_packages_are_imported_where_they_are_needed():
    for module in modules():
        assert not external(parsed(module).body) & HEAVY, module


def test_what_help_needs_loads_no_torch():
    """The command line, the bottom modules and all that they import at their top."""
    reached, waiting = set(), {"commands.cli", *(name for name in BOTTOM if name in modules())} - {"__init__"}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        top = ast.Module(parsed(module).body, [])
        assert not external(top.body) & {"torch", "transformers", "trl", "datasets", "numpy"}, module
        relative = {ast.unparse(node) for node in top.body if isinstance(node, ast.ImportFrom)}
        for node in [n for n in ast.walk(parsed(module)) if isinstance(n, ast.ImportFrom)]:
            if ast.unparse(node) in relative:
                names = {alias.name for alias in node.names}
                waiting |= {t for t, taken, bound in imports(module) if taken in names or bound in names} - reached
