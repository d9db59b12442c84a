"""The sample storefront: what is deployed is what is served, and each version behaves as its name says."""

from __future__ import annotations

import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flows.storefront import deploy
from flows.storefront.local import TEST_PLAN, LocalStorefront, version_served_at
from flows.storefront.serve import HOST, StorefrontServer
from prefect_qatech.sandbox import load_scenario

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.name for path in (deploy.HERE / deploy.BASE).glob("*.html"))


def run(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


def checks(url: str) -> Iterator[tuple[str, bool]]:
    """The pages of the sandbox's plan, and whether they are as its tests want them."""
    plan = next(plan for plan in load_scenario().plans if plan.short_id == TEST_PLAN)
    for case in plan.test_cases:
        assert not isinstance(case, str)
        assert case.http is not None
        answer = httpx.get(f"{url}{case.http.path}", trust_env=False)
        yield case.http.path, answer.status_code == 200 and (case.http.contains or "") in answer.text


def test_the_good_version_passes_what_is_tested(shop: LocalStorefront) -> None:
    deploy.deploy(shop.site, "v1-good")
    seen = dict(checks(shop.staging_url))
    assert sorted(path.strip("/") for path in seen) == PAGES
    assert all(seen.values())


def test_the_stumbling_version_fails_its_first_visitor_after_each_deployment(shop: LocalStorefront) -> None:
    for _ in range(2):
        deploy.deploy(shop.site, "v2-stumbles")
        assert [path for path, good in checks(shop.staging_url) if not good] == ["/checkout.html"]
        assert all(good for _, good in checks(shop.staging_url))


def test_exactly_one_visitor_stumbles(shop: LocalStorefront) -> None:
    deploy.deploy(shop.site, "v2-stumbles")
    with ThreadPoolExecutor(8) as pool:
        statuses = pool.map(
            lambda _: httpx.get(f"{shop.staging_url}/checkout.html", trust_env=False).status_code, range(16)
        )
        assert sorted(statuses) == [200] * 15 + [503]


def test_the_broken_version_stays_broken(shop: LocalStorefront) -> None:
    deploy.deploy(shop.site, "v3-broken")
    for _ in range(3):
        assert [path for path, good in checks(shop.staging_url) if not good] == ["/checkout.html"]


def test_deploy_promote_and_roll_back(shop: LocalStorefront, capsys: pytest.CaptureFixture[str]) -> None:
    def served() -> tuple[str | None, str | None]:
        return version_served_at(shop.staging_url), version_served_at(shop.production_url)

    assert served() == (None, None)
    deploy.deploy(shop.site, "v1-good")
    assert served() == ("v1-good", None)
    deploy.rollback(shop.site, "v1-good")
    deploy.rollback(shop.site, "v1-good")
    assert served() == (None, None)
    deploy.deploy(shop.site, "v1-good")
    deploy.promote(shop.site, "v1-good")
    deploy.promote(shop.site, "v1-good")
    assert served() == ("v1-good", "v1-good")
    deploy.deploy(shop.site, "v3-broken")
    assert served() == ("v3-broken", "v1-good")
    deploy.rollback(shop.site, "v3-broken")
    deploy.rollback(shop.site, "v3-broken")
    assert served() == ("v1-good", "v1-good")
    assert "Staging serves v1-good again" in capsys.readouterr().out


def test_the_deployment_of_somebody_else_is_left_alone(shop: LocalStorefront) -> None:
    deploy.deploy(shop.site, "v2-stumbles")
    for action in (deploy.promote, deploy.rollback):
        with pytest.raises(deploy.DeploymentError, match="staging serves v2-stumbles, not v3-broken"):
            action(shop.site, "v3-broken")
    assert version_served_at(shop.staging_url) == "v2-stumbles"


@pytest.mark.slow
def test_the_deploy_command(tmp_path: Path) -> None:
    command = ("flows.storefront.deploy", "--site", str(tmp_path))
    done = run(*command, "deploy", "v1-good")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "Staging serves v1-good (before: nothing)"
    refused = run(*command, "deploy", "../v1-good")
    assert refused.returncode == 1
    assert "there is no version ../v1-good; there are v1-good, v2-stumbles, v3-broken" in refused.stderr
    assert run(*command, "promote", "v9").returncode == 1


def test_the_site_can_be_moved(shop: LocalStorefront, tmp_path: Path) -> None:
    deploy.deploy(shop.site, "v1-good")
    shutil.move(shop.site, tmp_path / "moved")
    assert (tmp_path / "moved" / "staging" / "index.html").is_file()


@pytest.mark.slow
def test_the_server_command() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.storefront.serve", "--root", str(deploy.HERE / deploy.BASE), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        assert version_served_at(url) == "v1-good"
    finally:
        process.terminate()
        process.communicate(timeout=120)


@pytest.mark.slow
def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        done = run("flows.storefront.serve", "--root", ".", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_listens_on_loopback_only_and_shows_nothing_else(shop: LocalStorefront) -> None:
    with StorefrontServer(shop.site / "staging", 0) as server:
        assert server.server_address[0] == "127.0.0.1"
    deploy.deploy(shop.site, "v1-good")
    (shop.site / "secret.txt").write_text("secret")
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/missing.html"):
        assert httpx.get(shop.staging_url + path, trust_env=False).status_code == 404


@pytest.mark.parametrize("version", deploy.VERSIONS)
def test_pages_hold_together(version: str) -> None:
    pages = {path.name: path for path in (deploy.HERE / deploy.BASE).iterdir()}
    pages |= {path.name: path for path in (deploy.HERE / version).iterdir()}
    assert f"Version {version}" in pages["index.html"].read_text()
    for path in pages.values():
        text = path.read_text()
        assert "//" not in text.replace("<!doctype html>", ""), f"{path} asks for something from outside"
        for link in re.findall(r'(?:href|src)="([^"]*)"', text):
            assert link in pages, f"{path} links to {link}"


@pytest.mark.parametrize("module", ["flows.release", "flows.storefront"])
def test_a_version_that_is_not_there_is_told_in_one_line_what_there_is(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "v9"])
    monkeypatch.delitem(sys.modules, module)  # else it would be there twice
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    printed = capsys.readouterr()
    # Python prints the text that a program ends with, and its exit code is 1 then.
    [line] = (printed.out + printed.err + str(ended.value.code)).splitlines()
    assert "v9" in line
    assert "v1-good, v2-stumbles" in line
    assert "v3-broken" in line
