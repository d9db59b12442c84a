"""`prefect-qatech list`: what a project has, with its ids."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefect_qatech.cli import main
from prefect_qatech.sandbox import Sandbox

SCENARIO: dict[str, Any] = {
    "applications": [
        {
            "short_id": "app_shop",
            "name": "Shop\n::error::x",
            "environments": [{"short_id": "env_staging", "name": "Staging", "url": "https://staging.example.com"}],
        },
        {
            "short_id": "app_droid",
            "name": "Droid",
            "kind": "android",
            "builds": [{"short_id": "bld_1", "file_name": "shop.apk", "platform": "android"}],
        },
    ],
    "plans": [
        {
            "short_id": "pln_one",
            "name": "One",
            "test_cases": [
                {"name": "Sign in", "labels": ["smoke", "login"], "application": "app_shop"},
                {"name": "Old", "labels": ["smoke"], "is_enabled": False, "application": "app_droid"},
            ],
        }
    ],
}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["prefect-qatech", "list", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    with Sandbox(SCENARIO, speed=0) as sandbox:
        monkeypatch.setenv("QATECH_API_URL", sandbox.url)
        monkeypatch.setenv("QATECH_API_TOKEN", sandbox.token)
        yield run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["projects"], ["proj_sandbox", "Sandbox"]),
        (["applications"], ["app_shop", "app_droid", "android"]),
        (["environments", "--application", "app_shop"], ["env_staging", "https://staging.example.com"]),
        (["builds", "--application", "app_droid"], ["bld_1", "shop.apk"]),
        (["test-cases"], ["Sign in", "Old", "smoke,login"]),
        (["test-cases", "--label", "login"], ["Sign in"]),
        (["test-cases", "--no-enabled"], ["Old"]),
    ],
)
def test_what_there_is(
    arguments: list[str], words: list[str], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 0
    printed = capsys.readouterr().out
    assert [word for word in words if word not in printed] == []
    assert not [line for line in printed.splitlines() if line.startswith("::")]
    assert command(*arguments, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == len(printed.splitlines())


@pytest.mark.parametrize(
    "arguments", [["environments"], ["builds"], ["environments", "--application", "app_nowhere"], ["plans"]]
)
def test_what_cannot_be_listed_is_an_error(
    arguments: list[str], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 3
    printed = capsys.readouterr()
    assert printed.err.strip()
    assert not printed.out


def test_filters_are_obeyed(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("test-cases", "--label", "login") == 0
    assert "Old" not in capsys.readouterr().out
