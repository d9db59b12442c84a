"""The wheel and the sdist hold what they should and nothing else, and what `prefect-qatech init` writes works."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support import build_packages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 500_000
MAX_SDIST_BYTES = 3_000_000
# What a working directory holds besides: a database of the demo, secrets, caches, what somebody has tried.
STRAY = (".demo/prefect.db", "prefect.db", "deployments/.env", "flows/notes.db", "tests/x.db-wal", "secrets.txt")
EXAMPLES = {
    "prefect.yaml",
    "test_flows.py",
    *(f"flows/{name}.py" for name in ("__init__", "check", "nightly", "preview", "release", "triage", "watcher")),
    *(f"deployments/{name}" for name in ("automations.py", "compose.yaml", "proxy.conf", "suspended.yaml")),
    "deployments/kubernetes-worker-values.yaml",
}


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of a working directory that has been worked in, and the wheel that is built of the sdist."""
    source = tmp_path_factory.mktemp("clone") / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", ".demo", ".*_cache"))
    for name in STRAY:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("not for others")
    sdist, _ = build_packages(source, tmp_path_factory.mktemp("dist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    [project] = unpacked.iterdir()
    _, wheel = build_packages(project, tmp_path_factory.mktemp("wheel"))
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the wheel's files alone; what it depends on comes from this environment."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(packages[1]) as archive:
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def written(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory in which `prefect-qatech init` was called."""
    directory = tmp_path_factory.mktemp("empty")
    done = init(directory, installed)
    assert done.returncode == 0, done.stderr
    return directory


def init(directory: Path, installed: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "prefect_qatech.cli", "init", ".", cwd=directory, PYTHONPATH=str(installed))


def test_the_wheel_holds_the_package_and_nothing_else(packages: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(packages[1]) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"prefect_qatech"}
    own = {
        str(path.relative_to(ROOT)) for path in (ROOT / "prefect_qatech").rglob("*") if path.suffix not in ("", ".pyc")
    }
    examples = {f"prefect_qatech/_examples/{name}" for name in EXAMPLES}
    assert {name for name in names if name.startswith("prefect_qatech/")} == {
        *own,
        *examples,
        "prefect_qatech/py.typed",
    }
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert packages[1].stat().st_size < MAX_WHEEL_BYTES


def test_the_sdist_holds_the_sources_and_nothing_that_lay_about(packages: tuple[Path, Path]) -> None:
    with tarfile.open(packages[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert names >= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "prefect.yaml",
        "flows/demo.py",
        "docs/start.md",
        "mkdocs.yml",
        "SECURITY.md",
        "tests/test_packages.py",
    }
    assert not names & set(STRAY)
    assert not [name for name in names if "__pycache__" in name or ".db" in name]
    assert packages[0].stat().st_size < MAX_SDIST_BYTES


def test_an_index_would_take_the_packages_and_show_the_readme(packages: tuple[Path, Path]) -> None:
    pytest.importorskip("twine", reason="the extra dev is not installed as a whole")
    checked = run(sys.executable, "-m", "twine", "check", "--strict", *map(str, packages), cwd=ROOT)
    assert checked.stdout.count("PASSED") == 2, checked.stdout + checked.stderr


def test_init_writes_what_people_are_told_to_run_or_copy(written: Path) -> None:
    files = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} == EXAMPLES
    for name in EXAMPLES - {"test_flows.py"}:
        assert (written / name).read_bytes() == (ROOT / name).read_bytes()


def test_init_writes_over_nothing(written: Path, installed: Path) -> None:
    mine = written / "flows" / "check.py"
    before = mine.read_text()
    mine.write_text("# my own")
    try:
        done = init(written, installed)
        assert (done.returncode, mine.read_text()) == (3, "# my own")
        assert "Nothing was written" in done.stderr
        assert "flows/check.py" in done.stderr
    finally:
        mine.write_text(before)


def test_init_may_be_called_again(written: Path, installed: Path) -> None:
    assert init(written, installed).returncode == 0


def test_in_a_clone_init_says_that_all_is_there(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "prefect_qatech.cli", "init", ".", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 3
    assert "there already" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_each_flow_can_be_copied_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in EXAMPLES if "flows/" in name]
    assert len(names) >= 7
    for name in {"flows", *(name for name in sys.modules if name.startswith("flows."))}:
        monkeypatch.setitem(sys.modules, name, None)  # none of them can be imported
    for name in names:
        runpy.run_path(shutil.copy(ROOT / name, tmp_path / f"my_{Path(name).name}"))


WHERE = """
def pytest_unconfigure():
    import flows.check, prefect_qatech
    print("from", prefect_qatech.__file__, flows.check.__file__)
"""


def test_the_test_that_init_writes_passes_from_the_wheel_alone(written: Path, installed: Path, tmp_path: Path) -> None:
    # Beside the wheel's files stands only what spares Prefect's test harness from making its tables.
    (tmp_path / "head_start.py").symlink_to(ROOT / "tests" / "head_start.py")
    (tmp_path / "where.py").write_text(WHERE)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(installed), str(tmp_path)]),
        "PREFECT_HOME": str(written / ".prefect"),
        "PYTEST_PLUGINS": "head_start,where",
    }
    # It finds the flows although, other than `python -m pytest`, it does not put the working directory on the path.
    pytest_itself = str(Path(sys.executable).parent / "pytest")
    done = run(pytest_itself, "-q", "-p", "no:cacheprovider", cwd=written, **environment)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert f"from {installed / 'prefect_qatech/__init__.py'} {written / 'flows/check.py'}" in done.stdout
    assert not (written / ".prefect" / "prefect.db").exists(), "a test has reached the user's own Prefect"


def test_nobody_who_has_the_package_has_the_fixtures_without_asking(packages: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(packages[1]) as archive:
        [entry_points] = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert "pytest11" not in archive.read(entry_points).decode()
