"""The rules of the architecture, read from the source: who imports whom, and what nobody does."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pgclone_admin
from tests.support import ROOT

PACKAGE = Path(pgclone_admin.__file__).parent
NAME = "pgclone_admin"

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

OUTSIDE_OF_CORE = {"psycopg2", "zstandard"}
"""What the core may import beside the standard library."""

# Who may be imported by whom: each layer by those that stand before it, and by itself.
LAYERS = [
    (
        "entrances",
        {"admin", "management", "tasks", "apps", "checks", "signals", "templatetags"},
    ),
    ("the worker", {"runner"}),
    ("use cases", {"services"}),
    ("what keeps runs", {"queue", "recording", "interrupts", "identity"}),
    ("what is wanted", {"plan", "options"}),
    ("parts", {"models", "moments", "store", "hooks", "kept", "dump_migrations"}),
    ("storages", {"storage"}),
    ("connections", {"databases"}),
    ("routes", {"routing", "reconnecting", "threads"}),
    ("settings", {"settings", "site_settings"}),
    ("core", {"core"}),
]

# Django finds them by their names.
NO_LAYER = {NAME, f"{NAME}.migrations"}


# -- reading --------------------------------------------------------------------------------------


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """The full names of what a module imports, also within functions and for types."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                start = ".".join([*parts, *filter(None, [node.module])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def called(node: ast.expr) -> str:
    """The dotted name of what is called, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := called(node.value)):
        return f"{start}.{node.attr}"
    return ""


def part(module: str) -> str:
    """``settings`` for pgclone_admin.settings.Settings, and so on."""
    return module.partition(".")[2].partition(".")[0]


def module_of(name: str) -> str:
    """The module of this package that has the name or is it; an empty text when none has."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def layer(module: str) -> int | None:
    for number, (_name, parts) in enumerate(LAYERS):
        if part(module) in parts:
            return number
    return None


FORBIDDEN_CALLS = {
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "asyncio.create_subprocess_shell": "a shell",
    "pty.spawn": "a program without an environment of its own",
    "eval": "code from a text",
    "exec": "code from a text",
    "pickle.loads": "code from a text",
    "pickle.load": "code from a text",
    "tempfile.mktemp": "a race",
}

PROGRAM_STARTERS = {
    "subprocess.Popen",
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "os.execv",
    "os.execve",
    "os.execvp",
    "os.spawnv",
    "os.posix_spawn",
    "os.fork",
}


def misdeeds(source: str) -> list[str]:
    """What no module may do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = called(node.func)
        if name in FORBIDDEN_CALLS:
            found.append(f"line {node.lineno}: {name} is {FORBIDDEN_CALLS[name]}")
        for keyword in node.keywords:
            is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "shell" and not is_false:
                found.append(f"line {node.lineno}: a shell")
    return found


def setting_reads(source: str) -> list[int]:
    """Lines that read a PGCLONE_* setting as an attribute of Django's settings."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("PGCLONE_"):
            found.append(node.lineno)
        elif isinstance(node, ast.Call) and called(node.func) in {"getattr", "hasattr"}:
            texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
            if any(str(text).startswith("PGCLONE_") for text in texts):
                found.append(node.lineno)
    return found


# -- the readers themselves -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "module", "is_package", "found"),
    [
        ("import os, a.b", "pgclone_admin.x", False, ["os", "a.b"]),
        ("from django.db import models", "pgclone_admin.x", False, ["django.db.models"]),
        ("from . import checks", "pgclone_admin.apps", False, ["pgclone_admin.checks"]),
        ("from .core import names", "pgclone_admin.x", False, ["pgclone_admin.core.names"]),
        ("from ..core.names import A", "pgclone_admin.a.b", False, ["pgclone_admin.core.names.A"]),
        ("from ..core import A", "pgclone_admin.hooks", True, ["pgclone_admin.core.A"]),
        ("from .command import A", "pgclone_admin.hooks", True, ["pgclone_admin.hooks.command.A"]),
        ("def f():\n    import django", "pgclone_admin.x", False, ["django"]),
        (
            "if TYPE_CHECKING:\n    from ..x import Y",
            "pgclone_admin.a.b",
            False,
            ["pgclone_admin.x.Y"],
        ),
    ],
)
def test_imports_are_read_wherever_they_stand(
    source: str, module: str, is_package: bool, found: list[str]
) -> None:
    assert list(imports(source, module, is_package=is_package)) == found


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "subprocess.Popen(['ls'], shell=flag)",
        "os.system('ls')",
        "x = eval(text)",
        "def f():\n    return [os.popen(c) for c in d]",
    ],
)
def test_misdeeds_are_seen(source: str) -> None:
    assert misdeeds(source)


@pytest.mark.parametrize(
    "source", ["subprocess.run(['ls'], shell=False)", "cursor.execute('x')", "re.compile('x')"]
)
def test_what_is_right_is_no_misdeed(source: str) -> None:
    assert misdeeds(source) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("settings.PGCLONE_INSTANCE", [1]),
        ("getattr(django_settings, f'PGCLONE_{name}', None)", [1]),
        ("\nhasattr(django.conf.settings, 'PGCLONE_X')", [2]),
        ("getattr(options, name)", []),
        ("settings.instance", []),
    ],
)
def test_reads_of_settings_are_seen(source: str, found: list[int]) -> None:
    assert setting_reads(source) == found


def test_the_package_was_found() -> None:
    assert {f"{NAME}.core.names", f"{NAME}.settings", f"{NAME}.hooks", NAME} <= set(MODULES)
    assert len(MODULES) > 40


# -- the rules ------------------------------------------------------------------------------------


def imported_by(module: str) -> list[str]:
    path = MODULES[module]
    source = path.read_text("utf-8")
    return list(imports(source, module, is_package=path.name == "__init__.py"))


CORE = [module for module in MODULES if module.startswith(f"{NAME}.core")]


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_django(module: str) -> None:
    allowed = set(sys.stdlib_module_names) | OUTSIDE_OF_CORE
    for name in imported_by(module):
        assert name.split(".")[0] in allowed or name.startswith(f"{NAME}.core."), name


def test_the_core_can_be_imported_without_django() -> None:
    # In a process of its own, where nobody else has imported it.
    import subprocess  # noqa: PLC0415 - only here

    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'django', 'boto3', 'storages', 'pgconnection'}:\n"
        "            raise ImportError(name + ' is not for the core')\n"
        "sys.meta_path.insert(0, Refuse())\n" + "".join(f"import {module}\n" for module in CORE)
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("module", [module for module in MODULES if module not in NO_LAYER])
def test_every_module_has_a_place_and_imports_nothing_that_stands_before_it(module: str) -> None:
    own = layer(module)
    if part(module) == "migrations":
        return
    assert own is not None, f"{module} is in no layer: give it one in LAYERS"
    for name in imported_by(module):
        if not name.startswith(f"{NAME}.") or name == f"{NAME}.__version__":
            continue
        other = layer(name)
        assert other is not None, f"{module} imports {name}"
        assert other >= own, f"{module} imports {name}, which stands before it"


def test_no_module_imports_itself_by_a_detour() -> None:
    # Imports within functions count, too: one that is put off is still a circle.
    graph = {
        module: {found for name in imported_by(module) if (found := module_of(name))} - {module}
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_nobody_uses_a_shell_or_runs_a_text(module: str) -> None:
    assert misdeeds(MODULES[module].read_text("utf-8")) == []


def test_programs_are_started_in_two_places_only() -> None:
    starting = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and called(node.func) in PROGRAM_STARTERS
    }
    assert starting == {f"{NAME}.core.process", f"{NAME}.core.programs"}


def test_f27_psql_is_never_started() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value.strip() != "psql", f"{module}, line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_settings_of_the_app_are_read_in_one_place(module: str) -> None:
    if module in {f"{NAME}.settings", f"{NAME}.site_settings", f"{NAME}.checks.configuration"}:
        return
    assert setting_reads(MODULES[module].read_text("utf-8")) == []
    for name in imported_by(module):
        assert not name.startswith("django.conf"), name


def test_only_the_command_line_writes_to_standard_output() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and called(node.func) == "print":
                raise AssertionError(f"{module}, line {node.lineno}: print")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    source = MODULES[module].read_text("utf-8")
    if source.strip():
        assert ast.get_docstring(ast.parse(source))
