"""The forms that people fill in: a block of credentials, a run of the release gate, a decision on a paused gate."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Response, expect

from prefect_qatech import (
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechGitHubTrigger,
    QATechRunRequest,
)
from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import PATIENCE_SECONDS, ROOT, World, eventually
from tests.ui import scenario
from tests.ui.conftest import UI

TOKEN = "typed-by-a-person-0123456789"
DEPLOY_GATE = """
import os
from prefect_qatech import release_gate
source = release_gate.from_source(source=".", entrypoint="prefect_qatech/gate/flow.py:release_gate")
source.deploy("typed", work_pool_name=os.environ["QATECH_WORK_POOL"], print_next_steps=False, ignore_warnings=True)
"""
DEPLOYMENT = "/deployments/name/check-release/release-gate"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(scenario.shop(), speed=400, seed=9) as sandbox:
        yield sandbox


def run(world: World, *arguments: str, **more: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=world.environment(more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def registered(world: World) -> None:
    run(world, "-m", "prefect", "block", "register", "-m", "prefect_qatech")


@pytest.fixture(scope="module")
def deployment(world: World, sandbox: Sandbox, registered: None) -> dict[str, Any]:
    """The release gate, deployed as the guide says; nothing works on its pool."""
    world.save(QATechCredentials(api_token=sandbox.token, api_url=sandbox.url), "qatech")
    world.post("/work_pools/", {"name": "qatech", "type": "process", "base_job_template": {}})
    run(world, "-m", "prefect", "--no-prompt", "deploy", "--name", "release-gate")
    found: dict[str, Any] = world.get(DEPLOYMENT)
    return found


def answers(ui: UI) -> Callable[[], str]:
    """Note what the server tells the page; each call gives what is new, of which a page that is left knows no more."""
    heard: list[Response] = []
    ui.page.on("response", lambda answer: heard.append(answer) if "/api/" in answer.url else None)

    def told() -> str:
        ui.page.wait_for_load_state("networkidle")
        found = "".join(answer.text() for answer in heard if answer.ok and answer.status != 204)
        heard.clear()
        assert found
        return found

    return told


def choose(ui: UI, opener: Locator, option: str) -> list[str]:
    """Choose from a list that unfolds; give all there was to choose from."""
    # The old UI unfolds a list that gets the focus, and a click folds it again.
    if ui.version == "v1":
        opener.focus()
        opener.press("ArrowDown")
    else:
        opener.click()
    options = ui.page.get_by_role("option")
    expect(options.get_by_text(option, exact=True)).to_be_visible()
    offered = [one.inner_text() for one in options.all()]
    options.get_by_text(option, exact=True).click()
    return offered


def ask_for_a_run(page: Page) -> None:
    """Submit the form of a run, again where the server was busy: what else it has against the run is told."""

    def submitted() -> Response | None:
        with page.expect_response(re.compile(r"/create_flow_run$")) as answer:
            page.get_by_role("button", name="Submit").click()
        # SQLite is locked now and then; the new UI then says "Unknown error", and makes no run.
        return answer.value if answer.value.status != 503 else None

    answer = eventually(submitted, "no 503 of the form")
    assert answer.ok, f"{answer.status} {answer.text()}"


@pytest.mark.usefixtures("registered")
def test_a_block_of_credentials_is_made_in_the_ui_and_its_token_is_not_shown_again(ui: UI, world: World) -> None:
    page = ui.open("/blocks/catalog/qatech-credentials/create")
    told = answers(ui)
    label = page.get_by_text("API token", exact=True)
    expect(label).to_be_visible()
    for text in (
        "API address (Optional)",
        "QA.tech: Settings -> Integrations -> API.",
        "Polls per second",
        "Rate limit",
    ):
        expect(page.get_by_text(text).first).to_be_visible()
    name = f"made-in-{ui.version}"
    page.locator("form input").first.fill(name)
    # The old UI has no fields for secrets; what is typed there is seen until it is saved.
    token = page.locator("form textarea").first if ui.version == "v1" else page.locator('input[type="password"]')
    token.fill(TOKEN)
    page.get_by_role("button", name=re.compile("Create|Save")).last.click()
    page.wait_for_url("**/blocks/block/*")
    expect(page.get_by_text("********").first).to_be_visible()
    assert TOKEN not in page.content()
    heard = told()
    assert name in heard
    assert TOKEN not in heard
    page.goto(f"{page.url}/edit")
    expect(page.get_by_text("API token", exact=True)).to_be_visible()
    assert TOKEN not in page.content()
    heard = told()
    assert name in heard
    assert TOKEN not in heard
    path = f"/block_types/slug/qatech-credentials/block_documents/name/{name}"
    assert world.get(f"{path}?include_secrets=true")["data"]["api_token"] == TOKEN, "and yet it is there"


def test_a_run_of_the_gate_is_made_by_a_form_in_which_the_credentials_are_picked(
    ui: UI, world: World, deployment: dict[str, Any], sandbox: Sandbox
) -> None:
    page = ui.open(f"/deployments/deployment/{deployment['id']}/run")
    told = answers(ui)
    for name, description in {
        "credentials": "How to reach QA.tech.",
        "test_plan_short_id": "The plan to run",
        "environment_url": "The address; the plan's own environment when absent.",
        "policy": "What is tolerated, how often is rerun, how long is waited.",
        "Reruns": "At most so many reruns of open tests; 0 means none.",
        "Fuse": "a broken build is not flaky",
        "on_inconclusive": "a person, by a form in the Prefect UI.",
    }.items():
        expect(page.get_by_text(re.compile(rf"^{name}( \(Optional\))?$")).first).to_be_visible()
        expect(page.get_by_text(description).first).to_be_visible()
    page.wait_for_load_state("networkidle")

    fields = page.locator("fieldset")
    opener = fields.first.locator("button").first if ui.version == "v1" else page.get_by_label("Select a block")
    assert "qatech" in choose(ui, opener, "qatech")
    page.locator("fieldset textarea").first.fill("pln_smoke")
    ui.picture("run-form", page.locator("form"), fields.nth(3))
    ask_for_a_run(page)

    def made() -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_DESC"}
        runs: list[dict[str, Any]] = world.post("/flow_runs/filter", body)
        return [run for run in runs if "block_document_id" in run["parameters"]["credentials"]["$ref"]]

    [run] = eventually(made, "the run that was asked for")
    block = world.get("/block_types/slug/qatech-credentials/block_documents/name/qatech")
    assert run["parameters"]["credentials"] == {"$ref": {"block_document_id": block["id"]}}
    assert run["parameters"]["test_plan_short_id"] == "pln_smoke"
    assert run["parameters"]["policy"]["max_reruns"] == 2
    assert sandbox.token not in json.dumps(run)
    assert sandbox.token not in page.content()
    heard = told()
    assert run["id"] in heard
    assert sandbox.token not in heard
    world.http.delete(f"/flow_runs/{run['id']}")


def test_a_plan_that_is_none_is_refused_by_the_form(ui: UI, world: World, deployment: dict[str, Any]) -> None:
    def runs() -> list[str]:
        body = {"deployments": {"id": {"any_": [deployment["id"]]}}}
        return [run["id"] for run in world.post("/flow_runs/filter", body)]

    before = runs()
    page = ui.open(f"/deployments/deployment/{deployment['id']}/run")
    page.wait_for_load_state("networkidle")
    page.locator("fieldset textarea").first.fill("https://app.qa.tech/plans/pln_smoke")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text(re.compile("pln_smoke' does not match")).first).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert runs() == before


def test_a_wrong_policy_is_not_saved_in_a_block(ui: UI, world: World, deployment: dict[str, Any]) -> None:
    page = ui.open("/blocks/catalog/qatech-test-plan/create")
    page.wait_for_load_state("networkidle")
    name = f"wrong-in-{ui.version}"
    page.locator("form input").first.fill(name)
    opener = page.locator("form button").first if ui.version == "v1" else page.get_by_label("Select a block")
    choose(ui, opener, "qatech")
    expect(page.get_by_text('For example {"Pay by card": {"reason": "known bug"').first).to_be_visible()
    reruns = page.locator("input[type=number]").first
    save = page.get_by_role("button", name=re.compile("Create|Save")).last
    for number, is_saved in (("99", False), ("1", True)):
        reruns.fill(number)
        save.click()
        if is_saved:
            page.wait_for_url("**/blocks/block/*")
        else:
            # What the browser shows beside the field.
            assert "10" in reruns.evaluate("field => field.validationMessage")
        page.wait_for_load_state("networkidle")
        found = world.http.get(f"/block_types/slug/qatech-test-plan/block_documents/name/{name}")
        assert found.is_success is is_saved
    assert found.json()["data"]["policy"]["max_reruns"] == 1


@pytest.fixture(scope="module")
def gate(world: World, deployment: dict[str, Any]) -> dict[str, Any]:
    """The gate of the package itself, which takes a whole request."""
    run(world, "-c", DEPLOY_GATE, QATECH_WORK_POOL=deployment["work_pool_name"])
    found: dict[str, Any] = world.get("/deployments/name/release-gate/typed")
    return found


def test_a_whole_request_is_typed_into_the_form(ui: UI, world: World, gate: dict[str, Any]) -> None:
    page = ui.open(f"/deployments/deployment/{gate['id']}/run")
    page.wait_for_load_state("networkidle")

    def after(label: str, what: str) -> Locator:
        return page.locator(f'xpath=(//*[normalize-space(text())="{label}"])[1]/following::{what}[1]')

    def write(label: str, text: str) -> None:
        if label.endswith(" (Optional)"):
            after(label, 'button[normalize-space()="str"]').click()
        after(label, "textarea").fill(text)
        expect(after(label, "textarea")).to_have_value(text)

    fields = page.locator("fieldset")
    opener = fields.first.locator("button").first if ui.version == "v1" else page.get_by_label("Select a block").first
    choose(ui, opener, "qatech")
    after("request (Optional)", 'button[normalize-space()="QATechRunRequest"]').click()
    expect(page.get_by_text("Test plan (Optional)")).to_be_visible()
    assert "Attributes:" not in page.content()
    write("Test plan (Optional)", "pln_smoke")
    after("Applications (Optional)", 'button[normalize-space()="list"]').click()
    after("Applications (Optional)", 'button[contains(normalize-space(), "Add item")]').click()
    write("Application", "app_shop")
    after("Environment (Optional)", 'button[normalize-space()="QATechEnvironment"]').click()
    write("Address (Optional)", "https://pr-42.example.com")
    after("GitHub event (Optional)", 'button[normalize-space()="QATechGitHubTrigger"]').click()
    write("Branch (Optional)", "main")
    page.wait_for_load_state("networkidle")
    ask_for_a_run(page)

    def made() -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [gate["id"]]}}}
        return [run for run in world.post("/flow_runs/filter", body) if run["parameters"].get("request")]

    [run] = eventually(made, "the run that was asked for")
    assert QATechRunRequest.model_validate(run["parameters"]["request"]) == QATechRunRequest(
        test_plan_short_id="pln_smoke",
        applications=[
            QATechApplication(
                application_short_id="app_shop", environment=QATechEnvironment(url="https://pr-42.example.com")
            )
        ],
        github=QATechGitHubTrigger(branch="main"),
    )
    world.http.delete(f"/flow_runs/{run['id']}")


def paused_gate(world: World, sandbox: Sandbox, name: str) -> dict[str, Any]:
    """Run a gate that finds too little, and pauses."""
    job = {"name": name, "api_url": sandbox.url, "token": sandbox.token, "plan": "pln_orders", "ask": True}
    job["policy"] = {"max_reruns": 0}
    process = world.spawn(name, sys.executable, "-m", "tests.ui.gates", json.dumps([job]))

    def paused() -> dict[str, Any] | None:
        assert process.poll() is None, world.log(name)
        runs = world.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return next((run for run in runs if run["state"]["type"] == "PAUSED"), None)

    run: dict[str, Any] = eventually(paused, "the paused gate")
    return run


def report_of(world: World, flow_run_id: str, label: str) -> str:
    body = {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}, "key": {"any_": [f"qatech-report-{label}"]}}}
    newest = world.post("/artifacts/filter", {**body, "sort": "CREATED_DESC", "limit": 1})
    return str(newest[0]["data"])


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_person_decides_on_a_paused_gate(ui: UI, world: World, sandbox: Sandbox, decision: str) -> None:
    name = f"asks-{ui.version}-{decision}"
    run = paused_gate(world, sandbox, name)
    page = ui.open(f"/runs/flow-run/{run['id']}")
    if ui.version == "v1":
        page.get_by_role("button", name="Resume").first.click()
    else:
        page.wait_for_load_state("networkidle")
        page.locator("main button[aria-haspopup=menu]").first.click()
        page.get_by_role("menuitem", name="Resume").click()
    form = page.locator(".p-modal" if ui.version == "v1" else "[role=dialog]")
    expect(form.get_by_text("The gate's verdict is inconclusive.")).to_be_visible()
    expect(form.get_by_text("An approval counts for this evidence alone.")).to_be_visible()
    expect(form.get_by_role("link", name="Open the run")).to_have_attribute("href", re.compile(re.escape(sandbox.url)))
    opener = form.locator("fieldset button") if ui.version == "v1" else form.get_by_label(re.compile("^Select May"))
    assert choose(ui, opener.first, decision)[-2:] == ["reject", "approve"]
    reason, who = form.locator("textarea").all()
    reason.fill("The mail provider is known to be down.")
    who.fill("Ada")
    ui.picture("decision-form", form.locator(".p-modal__card") if ui.version == "v1" else form)
    with page.expect_response(re.compile("/resume$")):
        form.get_by_role("button", name=re.compile("Submit|Resume")).first.click()
    # The page of a flow run draws its timeline anew all the time, which takes a core.
    page.goto("about:blank")

    done = world.wait_for_state(run["id"], "COMPLETED", "FAILED")
    assert done["type"] == ("COMPLETED" if decision == "approve" else "FAILED")
    report = report_of(world, run["id"], name)
    said = "approved" if decision == "approve" else "rejected"
    assert re.search(rf"{said}.*Ada|Ada.*{said}", report, re.DOTALL | re.IGNORECASE), report[:1500]
    assert "The mail provider is known to be down" in report
    assert urlsplit(sandbox.url).netloc in report
