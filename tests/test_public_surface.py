"""What the package exports changes on purpose only, and its modules import downwards only."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefect_qatech

PUBLIC = prefect_qatech.__all__  # type: ignore[attr-defined, unused-ignore]

PACKAGE = Path(prefect_qatech.__file__).parent

# A module imports from the rooms below it, for types as well, never from its own or one above.
ROOMS = [
    {"exceptions", "addresses", "texts"},
    {"inputs", "_prefect", "_sync"},
    {"api"},
    {"verdict"},
    {"credentials", "ledger"},
    {"report"},
    {"polling"},
    {"task_names", "task_options", "starts"},
    {"tasks"},
    {"waits", "catalogue"},
    {"release_checks"},
    {"gate"},
    {"test_plan"},
    {"testing", "cli"},
    {"_public"},
]
LOW = {"exceptions", "addresses", "texts", "inputs", "_prefect", "api"}
HEIGHT = {name: height for height, room in enumerate(ROOMS) for name in room}
APART = {"sandbox"}
WITH_PREFECT = {"report": {"artifacts", "deployed", "events", "plan_durations"}, "polling": {"throttle", "task_run"}}
WITHOUT_PREFECT = ["exceptions", "addresses", "texts", "inputs", "api", "verdict", "polling"]
IN_BOTH_VERSIONS = [
    "get_test_run",
    "publish_gate_report",
    "rerun_test_run",
    "start_release_check",
    "start_test_run",
    "wait_for_release_check",
    "wait_for_test_run",
    "wait_for_test_runs",
    "list_projects",
    "list_applications",
    "list_environments",
    "list_test_cases",
    "list_builds",
    "list_outbound_ips",
    "get_test_case_trace",
    "create_test_case",
    "upload_build",
    "release_gate",
    "gather_gates",
]


def imports_of(path: Path) -> Iterator[str]:
    """Every name that a file imports, wherever in it, with its module in front; relative ones made absolute."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    """The module, or the sub-package, of a file: `client`, `sandbox`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def parts_imported(path: Path) -> set[str]:
    """Which modules and sub-packages of the package a file imports."""
    found = set()
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "prefect_qatech":
            part = rest[0] if rest else ""
            known = (PACKAGE / f"{part}.py").is_file() or (PACKAGE / part / "__init__.py").is_file()
            found.add(part if known else f"prefect_qatech.{part}")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path != PACKAGE / "__init__.py"]


def knows_no_prefect(path: Path) -> bool:
    part = part_of(path)
    return part in {*WITHOUT_PREFECT, "report"} and path.stem not in WITH_PREFECT.get(part, set())


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_the_public_surface() -> None:
    assert sorted(PUBLIC) == PUBLIC
    assert {"release_gate", "QATechCredentials", "QATechTestPlan", "GateFailed"} <= set(PUBLIC)
    everything: dict[str, object] = {}
    exec("from prefect_qatech import *", everything)
    assert set(everything) - {"__builtins__"} == set(PUBLIC)


def test_what_is_public_is_there_and_says_what_it_is() -> None:
    assert [name for name in PUBLIC if not inspect.getdoc(getattr(prefect_qatech, name))] == []


def test_nothing_else_looks_public() -> None:
    everything = {name: getattr(prefect_qatech, name) for name in dir(prefect_qatech)}
    ours = {
        name
        for name, item in everything.items()
        if not name.startswith("_")
        and not inspect.ismodule(item)
        and getattr(item, "__module__", "").startswith("prefect_qatech")
    }
    assert ours == set(PUBLIC)


def test_the_package_imports_nothing_until_it_is_used() -> None:
    code = "import sys, prefect_qatech; print([name for name in sys.modules if name.startswith('pre')])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "['prefect_qatech']"


@pytest.mark.slow
def test_any_module_can_be_the_first_to_be_imported() -> None:
    code = (
        "import sys, importlib\n"
        "for module in ('tasks', 'catalogue', 'gate.many'):\n"
        "    for name in [name for name in sys.modules if name.startswith('prefect_qatech')]: del sys.modules[name]\n"
        "    importlib.import_module(f'prefect_qatech.{module}')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = prefect_qatech.nothing  # type: ignore[attr-defined, unused-ignore]


@pytest.mark.slow
def test_prefect_finds_the_blocks() -> None:
    """A block given by its slug is looked up among the types that the entry point has brought in."""
    code = (
        "from prefect.blocks.core import Block; from prefect.plugins import load_prefect_collections; "
        "from prefect.utilities.dispatch import get_registry_for_type; load_prefect_collections(); "
        "print(*sorted(slug for slug in get_registry_for_type(Block) if slug.startswith('qatech-')))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["qatech-credentials", "qatech-test-plan"]


@pytest.mark.parametrize("name", IN_BOTH_VERSIONS)
def test_both_versions_take_the_same(name: str) -> None:
    sync, version = getattr(prefect_qatech, name), getattr(prefect_qatech, f"a{name}")
    assert inspect.signature(sync.fn) == inspect.signature(version.fn)
    assert not inspect.iscoroutinefunction(sync.fn)
    assert inspect.iscoroutinefunction(version.fn)


def test_there_are_modules_to_look_at() -> None:
    parts = {part_of(path) for path in MODULES}
    assert set(WITHOUT_PREFECT) <= parts
    assert {"tasks", "waits", "gate", "sandbox", "ledger"} <= parts
    assert "httpx" in set(imports_of(PACKAGE / "api" / "transport.py"))
    assert parts_imported(PACKAGE / "gate" / "steps.py") >= {"tasks", "waits", "report", "ledger"}


def test_every_module_has_its_room() -> None:
    assert {part_of(path) for path in MODULES} <= set(HEIGHT) | APART, "say in ROOMS where a new module stands"


def in_room(*parts: str) -> list[Path]:
    return [path for path in MODULES if part_of(path) in parts]


def test_imports_point_downwards() -> None:
    wrong = []
    for path in MODULES:
        part = part_of(path)
        for imported in parts_imported(path) - {part} if part not in APART else ():
            if imported.startswith("prefect_qatech."):
                right = imported == "prefect_qatech.__version__"
            else:
                starts_the_sandbox = part in {"cli", "testing"} and imported in APART
                right = starts_the_sandbox or HEIGHT.get(imported, 99) < HEIGHT[part]
            wrong += [] if right else [f"{name_of(path)} imports {imported}"]
    assert wrong == []


def test_the_report_knows_the_verdict_and_no_client() -> None:
    wrong = {name_of(path): parts_imported(path) - {"report", "verdict", "ledger", *LOW} for path in in_room("report")}
    assert {name: parts for name, parts in wrong.items() if parts} == {}


def test_the_sandbox_shares_what_ids_and_addresses_are_and_nothing_else() -> None:
    for path in in_room("sandbox"):
        assert parts_imported(path) <= {"sandbox", "api", "addresses"}, path
        assert {name for name in imports_of(path) if ".api." in name} <= {"prefect_qatech.api.ids.check_id"}, path


def test_the_core_knows_no_prefect() -> None:
    core = [path for path in MODULES if knows_no_prefect(path)]
    assert len(core) > 20
    assert [name_of(path) for path in core if any(name.split(".")[0] == "prefect" for name in imports_of(path))] == []


def test_nothing_leans_on_prefects_internals() -> None:
    assert [name_of(path) for path in FILES if any(name.startswith("prefect._") for name in imports_of(path))] == []
