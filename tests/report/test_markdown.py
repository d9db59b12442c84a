"""The report that people read: safe, whole, below its limit, and remembered by the next one."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone
from functools import cache
from itertools import product

import pytest

from prefect_qatech.report.chart import attempts_chart, history_chart
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.history import HistoryEntry, history_line, history_of, read_history
from prefect_qatech.report.markdown import MAX_BYTES, render_job_summary, render_markdown
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.quarantine import mark_of
from prefect_qatech.report.table import render_table
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict, Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.report import campaigns
from tests.report.campaigns import attempt, everything, hostile, project_id, report_of
from tests.report.reading import HOSTILE, Page, invisible, raw_references, render, svg, words

OUR_TAGS = {
    *("h2", "h3", "h4", "p", "ul", "li", "strong", "em", "details", "summary", "wbr", "a", "img"),
    *("table", "thead", "tbody", "tr", "th", "td", "pre", "code"),
}
# The characters whose breaks `render` counts stand in our own sentences as well, so that these are asked for by words.
FORMS = {"artifact": render_markdown, "job summary": render_job_summary}


URLS = ["javascript:alert(1)", "http://evil.example/", "https://a.example/)![x](https://b.example"]


@cache
def harmless_page(form: str, url: str) -> Page:
    """What the same report looks like with a text without any markup."""
    return render(FORMS[form](hostile("x", url)))


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_the_service_becomes_markup(kind: str) -> None:
    text = HOSTILE[kind]
    for form, url in product(FORMS, URLS):
        markdown = FORMS[form](hostile(text, url))
        assert raw_references(markdown) == []
        shown, harmless = render(markdown), harmless_page(form, url)
        assert shown.tags <= OUR_TAGS
        assert shown.images == harmless.images == []
        assert shown.attributes <= {"href"}
        assert (shown.items, shown.cells, shown.links) == (harmless.items, harmless.cells, harmless.links)
        assert all(link.startswith("https://a.example/%") or "a.example/)" not in link for link in shown.links)
        assert invisible(markdown) == []
        assert words(plain_text(text, 60)).removesuffix("…") in words(shown.text)
        assert len(markdown.encode()) <= MAX_BYTES


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_the_service_becomes_markup_in_the_table(kind: str) -> None:
    for row in render_table(hostile(HOSTILE[kind])):
        for cell in [*row, *row.values()]:
            assert render(cell, bare_domains=False).tags <= {"p"}
            assert invisible(cell) == []
            assert len(cell) <= 300


def test_hostile_reasons_of_a_loaded_ledger_are_escaped_too() -> None:
    report = everything()
    reasons = tuple(
        reason.model_copy(update={"sentence": "![x](https://e.example) <b>", "rule": "<b>", "test_ids": ("<i>",)})
        for reason in report.reasons
    )
    attempts = tuple(
        a.model_copy(update={"filter": "<b>|", "run_short_id": "<b>|", "result": "![x](y)"}) for a in report.attempts
    )
    page = render(render_markdown(report.model_copy(update={"reasons": reasons, "attempts": attempts})))
    assert page.tags <= OUR_TAGS
    assert page.images == []
    assert page.cells == 7 * len(attempts)


@pytest.mark.parametrize(
    ("make", "headline"),
    [
        (campaigns.passing, "✅ PASS: the release may go out"),
        (campaigns.inconclusive, "⚠️ INCONCLUSIVE: do not release yet"),
        (campaigns.no_run, "⚠️ INCONCLUSIVE: do not release yet"),
        (everything, "❌ FAIL: do not release"),
    ],
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_first_line_says_whether_the_release_may_go_out(form: object, make: object, headline: str) -> None:
    assert callable(form)
    assert callable(make)
    assert form(make()).splitlines()[0] == f"## {headline}"


def page() -> Page:
    return render(render_markdown(everything()))


def test_what_the_report_tells() -> None:
    text = words(page().text)
    for sentence in (
        "Checkout: failed on attempts 1, 2 and 3: Checkout: the button is missing · known since 2026-11-21 21:30 UTC",
        "(run earlier-1) · test · screenshot · recording",
        "Login: failed on attempt 1: Login: the button is missing; passed on attempt 2",
        "Invoice: not carried out on attempts 1, 2 and 3: Invoice: the button is missing (PLATFORM_BROWSER_CRASHED)",
        "in quarantine through 2026-12-01 (UTC): Redesign is under way (owner: web team)",
        "The agent's explanation",
        "On attempt 3 I looked for the button of Checkout.",
        "1 cancelled · 29 test executions, 2 reruns, 25 min 30 s of runs · 2026-11-23 22:01 UTC",
        "Without reruns the verdict would have been the same.",
        "Recognised by name alone, as QA.tech gave no id that lasts across runs: Unnamed case.",
        "Setup of checkout: failed on attempts 2 and 3",
        "15 tests (1 of them in quarantine): 1 passed, 2 recovered, 3 flaky, 5 failed, 2 errored, 1 skipped,",
        "A retry goes on with this campaign. For a fresh start run the flow, or its deployment, anew.",
    ):
        assert sentence in text
    assert "https://app.qa.tech/results/run3/run3-0" in page().links
    assert "https://cdn.qa.tech/run3-0.png?a=1&copy=2" in page().links


def test_the_report_names_quarantine_entries_without_effect_and_says_by_which_clocks_they_expire() -> None:
    entry = QuarantineEntry(reason="x", owner="y", expires=date(2026, 12, 1))
    policy = GatePolicy(quarantine={"Browse": entry, "Lo*gin": entry}, quarantine_time_zone="Asia/Tokyo")
    report = report_of(attempt(0, {"Login": "F", "Browse": "F"}), policy=policy)
    text = words(render(render_markdown(report)).text)
    assert "1 quarantine entry matches no test, or more than one, and so had no effect" in text
    assert "its exact and unique name. Lo*gin" in text
    assert "in quarantine through 2026-12-01 (Asia/Tokyo): x (owner: y)" in text


def test_each_test_is_shown_with_its_id() -> None:
    text, rows = words(page().text), render_table(everything())
    for test in everything().tests:
        assert {row["Id"] for row in rows if row["Test"] == test.name} == {test.test_id}
        assert (f"id {test.test_id}" in text) is (test.verdict is not TestVerdict.PASSED or not test.expected)


@pytest.mark.parametrize("test_id", ["12345678-0000-4000-8000-000000000001", "1-", "name:Pay | <b>", "![x](y)", "- x"])
def test_an_id_can_be_copied_from_the_table_or_is_shown_as_text(test_id: str) -> None:
    report = campaigns.passing()
    test = report.tests[0].model_copy(update={"test_id": test_id})
    shown = render_table(report.model_copy(update={"tests": (test,)}))[0]["Id"]
    assert render(shown, bare_domains=False).tags <= {"p"}
    assert (shown == test_id) is bool(re.fullmatch("[0-9-]+", test_id))


def test_the_links_of_a_test_are_those_of_what_is_told() -> None:
    line = next(line for line in render_markdown(everything()).splitlines() if line.startswith("- **Login**"))
    assert "results/run1" in line
    assert "results/run2" not in line


def test_what_is_no_link_is_not_named() -> None:
    markdown = render_markdown(hostile("x"))
    assert "screenshot" not in markdown
    assert "recording" not in markdown


def test_tests_without_a_name_are_named_so() -> None:
    markdown = render_markdown(hostile(HOSTILE["zero width"][1:2]))
    text = words(render(markdown).text)
    assert "(no name): failed on attempts 1 and 2" in text
    assert "this gate allows none. (no name), weak" in text


def test_a_chart_that_is_too_large_is_left_out() -> None:
    assert render(render_markdown(everything(), chart="data:image/svg+xml;base64," + "A" * 50_000)).images == []


def test_the_verdict_without_reruns() -> None:
    assert "Without reruns the verdict would have been ❌ FAIL." in render_markdown(campaigns.flaky_pass())


def big(count: int = 500) -> GateReport:
    names = {f"Test case {number}": "F" for number in range(count)}
    return report_of(
        attempt(0, names, texts={"thought": "I saw <that> & this. " * 5_000, "title": "It *failed* " * 100})
    )


def test_the_ledger_of_a_large_campaign_stays_small() -> None:
    texts = {"thought": "I saw <that> & this. 👀 " * 5_000, "title": "The button is missing"}
    report = report_of(attempt(0, {f"Test case {number}": "F" for number in range(500)}, texts=texts))
    assert len(report.model_dump_json().encode()) < 512 * 1024


def test_the_ledger_of_a_large_campaign_with_long_titles_stays_small() -> None:
    assert len(big().model_dump_json().encode()) < 512 * 1024


def test_the_markdown_of_a_large_campaign_stays_small() -> None:
    report = big()
    markdown = render_markdown(report, chart=attempts_chart(report))
    assert len(markdown.encode()) <= MAX_BYTES
    assert len(markdown.encode()) > MAX_BYTES // 2
    more = re.search(r"… and (\d+) more; verdict\.json has them all", markdown)
    assert more
    assert markdown.count("- **Test case") + int(more[1]) == 500
    assert "### Attempts" in markdown
    assert "### How to proceed" in markdown
    assert read_history(markdown) is not None


@pytest.mark.parametrize("size", [0, 100, 1_000, 5_000, 20_000])
def test_any_limit_is_kept(size: int) -> None:
    summary = render_job_summary(hostile(HOSTILE["long markup"]), max_bytes=size)
    assert len(summary.encode()) <= size
    assert render(summary).tags <= OUR_TAGS


def test_a_hostile_campaign_keeps_the_limit() -> None:
    texts = {"name": "<" * 300, "title": "." * 500, "thought": "|" * 100_000, "url": "https://a.b/" + "|" * 900}
    attempts = [
        attempt(number, {str(n): "F" for n in range(50)}, run=f"r{number}", texts=texts) for number in range(11)
    ]
    report = report_of(*attempts, plan_name="<" * 300, label="." * 9_999)
    assert len(render_markdown(report, chart=attempts_chart(report)).encode()) <= MAX_BYTES


@pytest.mark.parametrize("make", [everything, campaigns.passing, campaigns.no_run, big])
def test_a_report_is_remembered(make: object) -> None:
    assert callable(make)
    report = make()
    entry = read_history(render_markdown(report, chart=attempts_chart(report)))
    assert entry is not None
    assert entry.verdict is report.verdict
    assert entry.ended_at == report.ended_at
    assert "qatech-history" not in render(render_markdown(report)).text
    assert "qatech-history" not in render_job_summary(report)


def test_what_is_remembered() -> None:
    assert read_history(render_markdown(everything())) == HistoryEntry(
        run_short_id="run1",
        verdict=Verdict.FAIL,
        subject=history_of(everything()),
        started_at=datetime(2026, 11, 23, 21, 30, tzinfo=timezone.utc),
        ended_at=datetime(2026, 11, 23, 22, 1, tzinfo=timezone.utc),
        duration_seconds=1710,
        reruns=2,
        passed=3,
        flaky=3,
        failed=4,
        undecided=4,
        failed_tests=tuple(map(mark_of, everything().tests_with(TestVerdict.FAILED))),
        flaky_tests=tuple(map(mark_of, everything().tests_with(TestVerdict.FLAKY))),
    )


@pytest.mark.parametrize(
    "markdown",
    [
        "",
        "anything",
        "[//]: # (qatech-history {})",
        "[//]: # (qatech-history {not json})",
        '[//]: # (qatech-history {"verdict":"go"})',
        '[//]: # (qatech-history {"verdict":"pass","passed":-1})',
        '[//]: # (qatech-history {"verdict":"pass","passed":99999999999})',
        '[//]: # (qatech-history {"verdict":"pass","duration_seconds":1e999})',
        '[//]: # (qatech-history {"verdict":"pass","run_short_id":"../x"})',
        '[//]: # (qatech-history {"verdict":"pass","started_at":"9999-12-31T23:59:59-12:00"})',
        '[//]: # (qatech-history {"verdict":"pass","ended_at":"0001-01-01T00:00:00+12:00"})',
        'x [//]: # (qatech-history {"verdict":"pass"})',
        '[//]: # (qatech-history {"verdict":"pass"}) x',
        '[//]: # (qatech-history {"verdict":"pass","x":"' + "y" * 4_000 + '"})',
        '[//]: # (qatech-history {"verdict":"pass"})\n' + "x" * 10_000,
    ],
)
def test_what_is_not_understood_is_no_history(markdown: str) -> None:
    assert read_history(markdown) is None


def test_history_of_a_later_version_is_understood() -> None:
    entry = read_history('x\n\n[//]: # (qatech-history {"verdict":"pass","invented":1})\n')
    assert entry == HistoryEntry(verdict=Verdict.PASS)


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_text_of_the_service_forges_the_history(kind: str) -> None:
    markdown = render_markdown(hostile(HOSTILE[kind]))
    assert len(re.findall(r"^\[//\]:", markdown, re.MULTILINE)) == 1
    entry = read_history(markdown)
    assert entry is not None
    assert entry.verdict is Verdict.FAIL


def test_a_run_id_that_is_none_does_not_break_the_line() -> None:
    report = everything()
    first = report.attempts[0].model_copy(update={"run_short_id": 'x")\n# y'})
    line = history_line(report.model_copy(update={"attempts": (first,)}))
    assert "\n" not in line
    assert read_history(line) is not None


def test_charts_say_in_words_what_they_show() -> None:
    picture = svg(attempts_chart(everything()))
    text = " ".join("".join(element.itertext()) for element in picture if element.tag.endswith("text"))
    assert "1 (first run)" in text
    assert ["8 min 30 s", " 1 passed, 7 failed, 2 missed, 1 unfinished, 1 skipped, 1 cancelled"][0] in text
    for words_ in ("1 passed", "7 failed", "2 missed", "1 skipped", "1 cancelled", "1 unfinished"):
        assert words_ in text

    entries = [
        HistoryEntry(verdict=Verdict.FAIL, ended_at=datetime(2026, 1, day, 1, tzinfo=timezone.utc), failed=day)
        for day in range(1, 31)
    ]
    drawn = svg(history_chart(entries))
    text = "".join(drawn.itertext())
    assert "2026-01-30 01:00" in text
    assert "FAIL: 30 failed" in text
    assert "2026-01-10 01:00" not in text  # the last 20


def test_the_words_of_a_chart_fit_into_it() -> None:
    counts = dict.fromkeys(list(Outcome)[:-1], 1234)
    attempts = tuple(a.model_copy(update={"counts": counts}) for a in everything().attempts)
    entry = HistoryEntry(
        verdict=Verdict.INCONCLUSIVE, duration_seconds=40_000, passed=1234, flaky=1234, failed=1234, undecided=1234
    )
    for image in (attempts_chart(everything().model_copy(update={"attempts": attempts})), history_chart([entry])):
        picture = svg(image)
        for text in (element for element in picture.iter() if element.tag.endswith("text")):
            # Six pixels are what a character of this size takes on average, and a little more.
            assert float(text.get("x") or 0) + 6 * len(text.text or "") <= float(picture.get("width") or 0)


@pytest.mark.parametrize("image", [attempts_chart(everything()), attempts_chart(campaigns.no_run()), history_chart([])])
def test_charts_stand_alone(image: str) -> None:
    picture = svg(image)
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    names = {name for element in picture.iter() for name in element.keys()}  # noqa: SIM118 - an element is no mapping
    assert not [name for name in names if "href" in name or name in ("style", "src", "class") or name.startswith("on")]
    assert {element.tag.rpartition("}")[2] for element in picture.iter()} <= {"svg", "title", "rect", "text"}
    assert len(image) < 20_000


def test_charts_are_shown_in_the_artifact_alone() -> None:
    report, entry = everything(), HistoryEntry(verdict=Verdict.PASS, passed=3)
    images = render(render_markdown(report, chart=attempts_chart(report), history=[entry])).images
    assert [image[:26] for image in images] == ["data:image/svg+xml;base64,"] * 2
    assert render(render_job_summary(report)).images == []


def test_the_table_has_a_row_per_test_and_a_column_per_attempt() -> None:
    report = everything()
    rows = render_table(report)
    assert all(list(row) == ["Test", "Verdict", "Attempt 1", "Attempt 2", "Attempt 3", "Reason", "Id"] for row in rows)
    assert {
        "Test": "Login",
        "Verdict": "flaky",
        "Attempt 1": "failed",
        "Attempt 2": "passed",
        "Attempt 3": "–",
        "Reason": "Login: the button is missing",
        "Id": project_id("Login"),
    } in rows
    assert [row["Verdict"] for row in rows][:1] == ["failed"]
    assert rows[-1]["Verdict"] == "passed"


def test_a_very_long_table_is_cut() -> None:
    report = everything()
    tests = tuple(report.tests[0].model_copy(update={"test_id": str(n)}) for n in range(2_100))
    rows = render_table(report.model_copy(update={"tests": tests}))
    assert len(rows) == 2_001
    assert rows[-1] == {"Test": "… and 100 more; verdict.json has them all"}
