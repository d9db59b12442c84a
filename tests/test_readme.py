"""The README tells the truth, is short, and reads the same on a page that knows nothing of this repository."""

from __future__ import annotations

import re
import sys
from urllib.parse import urlsplit

from flows.demo import EXPECTED, HEAD, Expected, Seen, table
from tests.documents import PAGES, README, ROOT, blocks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_it_is_short_and_begins_with_the_two_commands() -> None:
    assert len(README.splitlines()) <= 150
    assert re.findall(r"^make (\w+)", blocks(README, "sh")[0], re.MULTILINE) == ["demo", "test"]


def test_its_code_is_ten_lines() -> None:
    [code] = blocks(README, "python")
    assert len([line for line in code.splitlines() if line]) <= 10


def test_links_are_absolute_and_lead_somewhere() -> None:
    repository, site = URLS["Repository"], URLS["Documentation"]
    pictures = repository.replace("//github.com/", "//raw.githubusercontent.com/")
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert len(targets) >= 20
    for target in targets:
        assert urlsplit(target).scheme == "https", target
        if target.startswith((repository, pictures)):
            path = re.sub(r"^/(?:(?:blob|tree)/)?main/", "", target.removeprefix(repository).removeprefix(pictures))
            assert (ROOT / path).exists(), target
        elif target.startswith(site):
            assert target.removeprefix(site).strip("/") + ".md" in PAGES, target


def test_the_addresses_of_the_project_are_the_same_everywhere() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"site_url: {URLS['Documentation']}\n" in settings
    assert f"repo_url: {URLS['Repository']}\n" in settings
    for name, text in PAGES.items():
        for target in re.findall(r"https://github\.com/[^/\s]+/prefect-qatech[^\s)]*", text):
            path = re.sub(r"^/(?:blob|tree)/main/", "", target.removeprefix(URLS["Repository"]))
            assert (ROOT / path).exists(), f"{name}: {target}"


def test_make_targets_are_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z]+(?:-[a-z]+)*)(?= *[`#\n])", f"{README}\n{CONTRIBUTING}", re.MULTILINE)
    assert set(named) <= set(targets)
    assert "make test" in README


def test_the_picture_of_the_demo_is_what_it_shows() -> None:
    def as_it_should_be(expected: Expected) -> tuple[str, ...]:
        return Seen(
            state="",
            message="",
            verdict=expected.verdict,
            attempts=1 + expected.reruns,
            passed=6 - len(expected.flaky) - len(expected.failed),
            flaky=expected.flaky,
            failed=expected.failed,
            starts=1,
            reruns=expected.reruns,
            in_staging=expected.in_staging,
            in_production=expected.in_production,
        ).row(expected.version)

    picture = "\n".join(table([HEAD, *(as_it_should_be(expected) for expected in EXPECTED)]))
    assert picture in README
