"""What people see of a gate in Prefect's two UIs, and what they must not see."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import httpx
import pytest
import yaml
from playwright.sync_api import BrowserContext, Locator, expect

from prefect_qatech.report.escape import cell_text, plain_text
from tests.e2e.world import World, eventually
from tests.ui.conftest import UI, Beacon, Gate, opened
from tests.ui.scenario import hostile_texts

Gates = dict[str, Gate]
HEADLINES = {
    "pass": "✅ PASS, 1 flaky: look at it this week",
    "fail": "❌ FAIL: no reruns are left; a retry cannot change this",
    "inconclusive": "⚠️ INCONCLUSIVE: no reruns are left; a retry cannot change this",
}
PLANS = {"pass": "pln-smoke", "fail": "pln-release", "inconclusive": "pln-orders"}


def words(text: str) -> str:
    return " ".join(text.split())


def text_of(element: Locator) -> str:
    return words(element.inner_text())


def shown_in(element: Locator) -> str:
    """Give the text of what is not empty: while the page is still loading it is hidden now and then."""
    return eventually(lambda: text_of(element) or None, "text that is not hidden", 30)


def right_edge(element: Locator) -> float:
    """Give where an element ends on the page; while the page is still loading it is drawn anew now and then."""
    box = eventually(element.bounding_box, "the element on the page")
    return box["x"] + box["width"]


def loaded_images(element: Locator, count: int) -> list[str]:
    """Give the addresses of an element's images, once all of them are loaded."""
    images = element.locator("img")
    expect(images).to_have_count(count)

    def loaded() -> bool:
        # A picture that cannot be shown is 0 wide.
        widths: list[int] = images.evaluate_all(
            "images => images.map(image => image.complete ? image.naturalWidth : 0)"
        )
        return min(widths, default=0) > 0

    eventually(loaded, "all images")
    return [image.get_attribute("src") or "" for image in images.all()]


def chart_text(address: str) -> str:
    kind, _, content = address.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return words(re.sub(r"<[^>]*>", " ", base64.b64decode(content).decode()))


# --- what is shown


def test_the_artifacts_page_lists_what_a_gate_published(ui: UI, gates: Gates) -> None:
    page = ui.open("/artifacts")
    kinds = {"report": "MARKDOWN", "tests": "TABLE", "run": "MARKDOWN", "progress": "PROGRESS"}
    for name, kind in {**kinds, "failure": "IMAGE"}.items():
        key = f"qatech-{name}-pln-release" + ("-1" if name == "failure" else "")
        assert key in gates["fail"].artifacts
        card = page.locator(f'a[href$="/artifacts/key/{key}"]').first
        # The old UI's link is the whole card, the new one's as well.
        expect(card).to_be_visible()
        expect(card).to_contain_text(re.compile(kind, re.IGNORECASE))


@pytest.mark.parametrize("verdict", HEADLINES)
def test_the_report_says_first_whether_the_release_may_go_out(ui: UI, gates: Gates, verdict: str) -> None:
    gate = gates[verdict]
    assert gate.verdict == verdict
    report = ui.report(gate, f"qatech-report-{PLANS[verdict]}")
    expect(report.locator("h2")).to_have_text(HEADLINES[verdict])
    text = shown_in(report)
    assert text.startswith(HEADLINES[verdict])
    assert {
        "pass": "6 tests: 5 passed, 1 flaky",
        "fail": "8 tests: 5 passed, 1 flaky, 1 failed, 1 skipped",
        "inconclusive": "6 tests: 5 passed, 1 errored",
    }[verdict] in text
    # As it is called, not as it is escaped.
    assert f"({PLANS[verdict].replace('-', '_')})" in text
    assert "&#" not in text

    if verdict != "inconclusive":
        story = "Apply a voucher: failed on attempt 1: The total did not change after the voucher was applied; passed"
        assert f"{story} on attempt 2" in text
    if verdict == "fail":
        assert "Failed (1)" in text
        story = "Pay with a credit card: failed on attempts 1, 2 and 3: The payment was refused with an error page"
        assert f"{story} · test · screenshot · recording · run of attempt 3" in text
        explanation = "The button turned grey for about twelve seconds"
        assert explanation not in text
        report.locator("summary").first.click()
        expect(report.locator("details").first).to_have_attribute("open", "")
        assert explanation in shown_in(report)
    if verdict == "inconclusive":
        assert (
            "The order confirmation arrives by e-mail: not carried out on attempts 1, 2 and 3: The test mailbox" in text
        )
    assert ("How to proceed" in text) is (verdict != "pass")
    without = "❌ FAIL" if verdict == "pass" else "the same"
    assert f"Without reruns the verdict would have been {without}." in text

    attempts = report.locator("table tbody tr")
    expect(attempts).to_have_count(2 if verdict == "pass" else 3)
    expect(attempts.first).to_contain_text("1 (first run)")
    expect(attempts.first).to_contain_text("5 passed")
    links = [str(link.get_attribute("href")) for link in report.locator("a").all()]
    assert links
    assert {link.startswith(gate.sandbox_url) for link in links} == {True}
    assert httpx.get(links[0]).status_code == 200

    (chart,) = loaded_images(report, 1)  # and none of earlier campaigns
    assert "1 (first run)" in chart_text(chart)
    ui.picture("report-pass-flaky" if verdict == "pass" else f"report-{verdict}", report)


def assert_whole_on_any_screen(ui: UI, shown: Locator, *boxes: Locator) -> None:
    """Assert that a wide screen and a narrow one show the same text, and that no box ends beyond their right edge."""
    size = ui.page.viewport_size
    assert size is not None
    text = shown_in(shown)
    for width in (400, size["width"]):
        ui.page.set_viewport_size({"width": width, "height": size["height"]})
        for box in boxes:
            eventually(lambda box=box, width=width: right_edge(box) <= width, f"a box that ends at {width}", 30)  # type: ignore[misc]
        assert shown_in(shown) == text


def test_quarantine_entries_are_copied_from_the_page(ui: UI, gates: Gates) -> None:
    report = ui.report(gates["fail"], "qatech-report-pln-release")
    code = report.locator("pre").last
    expect(code).to_be_visible()
    # What is too long is scrolled in its own box.
    assert_whole_on_any_screen(ui, report, code)
    lines = [line.strip() for line in code.inner_text().splitlines() if line.strip() and not line.strip().isdigit()]
    assert [line for line in lines if line.startswith("#")] == ["# Apply a voucher", "# Pay with a credit card"]
    entries = yaml.safe_load("\n".join(lines))
    assert [set(entry) for entry in entries.values()] == [{"reason", "owner", "expires"}] * 2
    text = shown_in(report)
    assert all(f"id {key}" in text for key in entries)


def test_the_tests_table_has_a_row_per_test_and_a_column_per_attempt(ui: UI, gates: Gates) -> None:
    table = ui.table(gates["fail"], "qatech-tests-pln-release")
    rows = [[text_of(cell) for cell in row.locator("th, td").all()] for row in table.locator("tr").all()]
    assert rows[0] == ["Test", "Verdict", "Attempt 1", "Attempt 2", "Attempt 3", "Reason", "Id"]
    assert rows[1][:5] == ["Pay with a credit card", "failed", "failed", "failed", "failed"]
    assert ["Apply a voucher", "flaky", "failed", "passed"] in [row[:4] for row in rows]
    assert len(rows) == 1 + 8
    ui.picture("tests-table", table.locator(".."), table)


def test_the_run_link_and_the_progress(ui: UI, gates: Gates) -> None:
    gate = gates["fail"]
    page = ui.artifact(gate, "qatech-run-pln-release")
    expect(page.get_by_role("link", name=re.compile(r"^Rerun \w+ on QA\.tech$"))).to_have_count(2)
    link = page.get_by_role("link", name=re.compile(r"^Run \w+ on QA\.tech$"))
    expect(link).to_be_visible()
    shown = httpx.get(str(link.get_attribute("href")))
    assert shown.status_code == 200
    assert "Pay with a credit card" in shown.text

    page = ui.artifact(gate, "qatech-progress-pln-release")
    expect(page.get_by_text("Progress: 100%")).to_be_visible()
    expect(page.get_by_text("finished test cases")).to_be_visible()


def test_the_history_of_a_plan_is_drawn_from_its_earlier_reports(ui: UI, gates: Gates) -> None:
    key = "qatech-report-pln-nightly"
    report = ui.report(gates["night-2"], key)
    _, history = loaded_images(report, 2)
    drawn = re.findall(r"\b(?:PASS|FAIL), \d+ s: [^()]*?\d \w+(?= 20|$)", chart_text(history))
    assert [re.sub(r", \d+ s:", "", line) for line in drawn] == [
        "PASS 5 passed",
        "PASS 5 passed, 1 flaky",
        "FAIL 5 passed, 1 flaky, 1 failed",
    ]
    ui.picture("history", report.locator("img").nth(1))

    # All versions stand under one key.
    page = ui.open(f"/artifacts/key/{key}")
    for night in ("night-0", "night-1", "night-2"):
        expect(page.get_by_text(night).first).to_be_visible()


def test_the_summary_of_a_night_is_whole_on_any_screen(ui: UI, gates: Gates) -> None:
    summary = ui.report(gates["regression"], "qatech-gates")
    expect(summary.locator("h2")).to_have_text("❌ FAIL: do not release")
    text = shown_in(summary)
    assert "&#" not in text
    assert "1 of 3 gates passed." in text
    assert "❌ pln_release: fail · Release tests of the shop · 8 tests: 5 passed, 1 flaky, 1 failed, 1 skipped" in text
    assert "Failed: Pay with a credit card" in text
    assert "Flaky: Apply a voucher" in text
    assert "⚠️ pln_nowhere: could not be evaluated" in text
    pages = summary.get_by_role("link", name="flow run", exact=True)
    expect(pages).to_have_count(2)
    for page in pages.all():
        expect(page).to_have_attribute("href", re.compile("/runs/flow-run/"))
    assert_whole_on_any_screen(ui, summary, *summary.locator("li").all())
    ui.picture("night", summary)


def test_a_hostile_service_in_the_triage(ui: UI, gates: Gates, beacon: Beacon) -> None:
    page = ui.report(gates["triage"], "qatech-triage-pln-hostile")
    text = shown_in(page)
    for kind in ("script", "markdown", "entities", "backticks"):
        assert words(plain_text(hostile_texts(beacon.url)[kind], 200)) in text, kind
    tags, _ = model_of(page)
    assert tags <= {"h2", "h3", "p", "strong", "a", "wbr", "div", "span", "svg", "path"}
    assert page.get_by_role("link", name="The gate's flow run").count() == 1


def state_message(ui: UI, gate: Gate) -> str:
    page = ui.flow_run(gate, "Details")
    expect(page.get_by_text("State Message")).to_be_visible()
    if ui.version == "v1":
        page.get_by_text("See More").click()
    message = ui.content.get_by_text("For a fresh start run the flow")
    expect(message).to_be_visible()
    # It is text and nothing else; the old UI adds a button to fold it.
    assert message.locator("*").count() == message.get_by_text("See Less").count()
    return shown_in(message)


def test_the_flow_runs_page_says_why_the_release_may_not_go_out(ui: UI, gates: Gates) -> None:
    message = state_message(ui, gates["fail"])
    assert message.startswith("1 of 8 tests failed: Pay with a credit card. The release may not go out.")
    for sentence in (gates["fail"].sandbox_url, "For a fresh start"):
        assert sentence in message
    ui.picture("flow-run", ui.content, ui.page.get_by_text("For a fresh start run the flow"))


# --- what must not happen

Model = tuple[set[str], set[str]]
_MODEL = """root => {
    const all = [...root.querySelectorAll('*')];
    const names = all.flatMap(one => one.getAttributeNames()).filter(name => !name.startsWith('data-v-'));
    return [[...new Set(all.map(one => one.localName))], [...new Set(names)]];
}"""


def model_of(element: Locator) -> Model:
    """Give the names of all tags and attributes within an element."""
    tags, attributes = element.evaluate(_MODEL)
    return set(tags), set(attributes)


@pytest.fixture(scope="package")
def models() -> dict[str, Model]:
    return {}


def assert_only_ours(element: Locator, harmless: Model) -> None:
    """There are no other tags and attributes than where the service's text is harmless."""
    tags, attributes = model_of(element)
    assert tags <= harmless[0] | {"wbr"}
    assert attributes <= harmless[1]


def harmless_report(ui: UI, gates: Gates, models: dict[str, Model]) -> Model:
    name = f"report {ui.version}"
    if name not in models:
        report = ui.report(gates["fail"], "qatech-report-pln-release")
        loaded_images(report, 1)
        models[name] = model_of(report)
    return models[name]


def test_a_hostile_service_in_the_report(ui: UI, gates: Gates, beacon: Beacon, models: dict[str, Model]) -> None:
    harmless = harmless_report(ui, gates, models)
    gate = gates["hostile"]
    report = ui.report(gate, "qatech-report-pln-hostile")
    (chart,) = loaded_images(report, 1)
    assert chart.startswith("data:image/svg+xml")
    assert_only_ours(report, harmless)
    assert ui.content.locator("script, style, link, iframe, object, embed, video, h1").count() == 0
    report.evaluate("root => root.querySelectorAll('details').forEach(one => { one.open = true })")

    text = shown_in(report)
    for kind, written in hostile_texts(beacon.url).items():
        assert words(plain_text(written, 200)) in text, kind
        assert words(plain_text(f"title-of {written}", 500)) in text, kind
        assert words(plain_text(f"thought-of {written}", 1_000)) in text, kind
    assert "victim-long" in text
    assert len(text) < 60_000
    headings = [text_of(heading) for heading in report.locator("h1, h2, h3, h4, h5, h6").all()]
    assert [re.sub(r"\W*\(\d+\)", "", heading) for heading in headings] == [
        HEADLINES["fail"],
        "Failed",
        "Undecided: neither passed nor failed",
        "Flaky: failed first, passed later",
        "To put a test into quarantine",
        "Attempts",
        "How to proceed",
    ]
    links = {str(link.get_attribute("href")) for link in report.locator("a").all()}
    assert {link.startswith(gate.sandbox_url) for link in links} == {True}


def test_hostile_words_where_the_service_has_a_few_of_its_own(
    ui: UI, gates: Gates, beacon: Beacon, models: dict[str, Model]
) -> None:
    """Status, result and error code are words of the service as well."""
    harmless = harmless_report(ui, gates, models)
    report = ui.report(gates["words"], "qatech-report-pln-words")
    loaded_images(report, 1)
    assert_only_ours(report, harmless)
    text = shown_in(report)
    texts = hostile_texts(beacon.url)
    assert words(plain_text(texts["image"], 60)) in text  # the run's status, in the attempts' table
    assert words(plain_text(texts["details"], 200)) in text  # the plan's name
    expect(report.locator("table tbody tr")).to_have_count(1)
    expect(report.locator("table tbody td")).to_have_count(7)


def test_a_hostile_service_in_the_tests_table(ui: UI, gates: Gates, beacon: Beacon) -> None:
    table = ui.table(gates["hostile"], "qatech-tests-pln-hostile")
    texts = hostile_texts(beacon.url)
    expect(table.locator("tbody tr")).to_have_count(len(texts) + 1)
    text = shown_in(table)
    for kind, written in texts.items():
        assert words(cell_text(written, 200)) in text, kind
    tags, attributes = model_of(table)
    assert tags <= {"thead", "tbody", "tr", "th", "td", "span", "article", "div", "p"}
    assert attributes <= {"class", "style", "title", "data-slot", "data-state"}


def test_a_hostile_service_in_the_state_message(ui: UI, gates: Gates) -> None:
    message = state_message(ui, gates["hostile"])
    for kind in ("script", "markdown", "data", "newlines", "backticks"):
        assert f"victim-{kind} " in message
        assert f" after-{kind}" in message


def test_a_hostile_service_on_the_artifacts_page(ui: UI, gates: Gates, beacon: Beacon) -> None:
    page = ui.open("/artifacts")
    expect(page.locator('a[href$="/artifacts/key/qatech-failure-pln-hostile-1"]').first).to_contain_text("victim-")
    assert ui.content.locator(f'[href*="{beacon.url}"], [src*="{beacon.url}"], iframe, svg[onload]').count() == 0
    assert ui.asked_elsewhere == []
    # An image artifact is the service's picture, which the service is asked for.
    ui.may_ask.append(gates["hostile"].sandbox_url)
    ui.artifact(gates["hostile"], "qatech-failure-pln-hostile-1")
    expect(ui.content.get_by_text("victim-script").first).to_be_visible()
    assert ui.content.locator(f'[href*="{beacon.url}"], [src*="{beacon.url}"], iframe').count() == 0


def test_a_hostile_service_in_the_log(ui: UI, gates: Gates, beacon: Beacon) -> None:
    """Whose every address would become a link."""
    page = ui.flow_run(gates["hostile"], "Logs")
    expect(page.get_by_text("Finished in state Gate failed").first).to_be_visible()
    expect(page.get_by_text("victim-script").first).to_be_visible()
    assert page.locator(f'a[href*="{beacon.url}"]').count() == 0


@pytest.fixture
def second_beacon() -> Iterator[Beacon]:
    with Beacon() as beacon:
        yield beacon


def test_what_is_not_escaped_would_be_noticed(context: BrowserContext, world: World, second_beacon: Beacon) -> None:
    """The tests above would see a beacon and a live link: the UI has them, when they are in an artifact."""
    hostile = f"## Control\n\n![x]({second_beacon.url}/control) [x](javascript:alert(1))\n"
    artifact = world.post("/artifacts/", {"key": "control", "type": "markdown", "data": hostile})
    ui = opened(context, world, "v1")
    ui.report(Gate("", "", "", {"control": artifact["id"]}), "control")
    eventually(lambda: second_beacon.asked, "the beacon's request")
    assert f"{second_beacon.url}/control" in ui.asked
    expect(ui.page.locator('[href^="javascript:" i]')).to_have_count(1)
    ui.page.close()
