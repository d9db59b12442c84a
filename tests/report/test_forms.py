"""The forms of one campaign: golden files, schemas, and counts that agree with the ledger."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import xmlschema

from prefect_qatech.report.chart import attempts_chart
from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.explain import explain
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.markdown import render_job_summary, render_markdown
from prefect_qatech.report.model import GateReport, ReportedTest
from prefect_qatech.report.table import render_table
from prefect_qatech.report.verdict_json import (
    RULES,
    load_verdict_json,
    render_verdict_json,
    rule_outcomes,
    verdict_json_schema,
)
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict, Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.report import campaigns
from tests.report.campaigns import attempt, everything, project_id, report_of
from tests.report.reading import HOSTILE, render, words

HERE = Path(__file__).parent
SCHEMA_FILE = HERE.parent.parent / "prefect_qatech" / "report" / "verdict.schema.json"
UPDATE = os.environ.get("QATECH_UPDATE_GOLDEN") == "1"
SUREFIRE = xmlschema.XMLSchema(str(HERE / "schemas" / "surefire.xsd"))
CTRF = jsonschema.Draft7Validator(
    json.loads((HERE / "schemas" / "ctrf.json").read_text(encoding="utf-8")),
    format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER,
)
VERDICT_JSON = jsonschema.Draft202012Validator(verdict_json_schema())
REPORTS: dict[str, Callable[[], GateReport]] = {
    "everything": campaigns.everything,
    "passing": campaigns.passing,
    "flaky": campaigns.flaky_pass,
    "inconclusive": campaigns.inconclusive,
    "no run": campaigns.no_run,
}


def indented(xml: str) -> str:
    """junitparser writes one line, and lxml and the standard library differ in blanks: here as people read it."""
    root = ElementTree.fromstring(xml)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def pretty_table(report: GateReport) -> str:
    return json.dumps(render_table(report), indent=2, ensure_ascii=False) + "\n"


FORMS: dict[str, Callable[[GateReport], str]] = {
    "report.md": render_markdown,
    "summary.md": render_job_summary,
    "table.json": pretty_table,
    "junit.xml": lambda report: indented(render_junit(report)),
    "ctrf.json": render_ctrf,
    "verdict.json": render_verdict_json,
    "explain.txt": lambda report: "\n".join(
        [*explain(report, GatePolicy(max_failed=10, max_undecided=10, passes_required=2)), ""]
    ),
    "attempts.svg": lambda report: base64.b64decode(attempts_chart(report).partition(",")[2]).decode() + "\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_golden(name: str) -> None:
    """Made anew by `QATECH_UPDATE_GOLDEN=1 pytest tests/report`; read the difference before you commit it."""
    path, made = HERE / "golden" / name, FORMS[name](everything())
    if UPDATE:
        path.write_text(made, encoding="utf-8", newline="\n")
    assert made == path.read_text(encoding="utf-8")


def test_the_golden_campaign_has_everything() -> None:
    report = everything()
    assert {outcome for test in report.tests for outcome in test.outcomes} == set(Outcome)
    # A test that is missing stands in no list, so that `build_report` counts it without a name.
    assert {test.verdict for test in report.tests} == set(TestVerdict) - {TestVerdict.MISSING}
    assert any(test.quarantined for test in report.tests)
    assert any(test.identity_is_weak for test in report.tests)
    assert any(not test.expected for test in report.tests)
    assert all([report.target, report.notes, report.causes_unknown, report.quarantine_unmatched])
    assert report.release_check is not None
    assert {test.standing.kind for test in report.tests if test.standing} == {"new", "known", "recurring"}
    assert all([report.issues, report.issues_unknown, [test for test in report.tests if test.issues]])


def with_a_missing_test() -> GateReport:
    report = everything()
    missing = ReportedTest(
        test_id="gone", name="Gone", verdict=TestVerdict.MISSING, outcomes=(Outcome.ABSENT,) * len(report.attempts)
    )
    return report.model_copy(update={"tests": (*report.tests, missing)})


@pytest.mark.parametrize("make", [*REPORTS.values(), with_a_missing_test], ids=[*REPORTS, "missing"])
def test_the_counts_of_all_forms_are_those_of_the_ledger(make: Callable[[], GateReport]) -> None:
    report = make()
    counts = {verdict.value: report.counts.get(verdict, 0) for verdict in TestVerdict}
    total = len(report.tests)

    verdict_json = json.loads(render_verdict_json(report))
    assert verdict_json["counts"] == counts
    assert len(verdict_json["tests"]) == total

    suite = ElementTree.fromstring(render_junit(report))
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert {verdict: int(properties[f"qatech.tests.{verdict}"] or "") for verdict in counts} == counts
    cases = [case for case in suite.iter("testcase") if case.get("name") != "release gate"]
    quarantined = sum(test.quarantined and test.verdict is TestVerdict.FAILED for test in report.tests)
    assert len(cases) == total
    assert sum(case.find("failure") is not None for case in cases) == counts["failed"] - quarantined
    assert sum(case.find("skipped") is not None for case in cases) == counts["skipped"] + quarantined
    flaky = [case for case in cases if case.find("flakyFailure") is not None or case.find("flakyError") is not None]
    assert len(flaky) == counts["flaky"]
    errors = sum(case.find("error") is not None for case in cases)
    assert errors == counts["errored"] + counts["cancelled"] + counts["missing"]
    for attribute, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute) or "") == sum(case.find(element) is not None for case in suite.iter("testcase"))
    assert int(suite.get("tests") or "") == len(list(suite.iter("testcase")))

    ctrf = json.loads(render_ctrf(report))["results"]
    tests = [test for test in ctrf["tests"] if test["name"] != "release gate"]
    assert ctrf["extra"]["counts"] == counts
    assert len(tests) == total
    for verdict, count in counts.items():
        assert sum(test["rawStatus"] == verdict for test in tests) == count
    assert ctrf["summary"]["flaky"] == sum(test["flaky"] for test in tests) == counts["flaky"]
    assert ctrf["summary"]["tests"] == len(ctrf["tests"])
    for status in ("passed", "failed", "skipped", "pending", "other"):
        assert ctrf["summary"][status] == sum(test["status"] == status for test in ctrf["tests"])

    markdown = render(render_markdown(report)).text
    shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    assert f"{total} test" in markdown
    assert shown in markdown

    rows = render_table(report)
    assert len(rows) == total
    for verdict, count in counts.items():
        assert sum(row["Verdict"].split(" ")[0] == verdict for row in rows) == count


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_files_keep_to_their_schemas(make: Callable[[], GateReport]) -> None:
    keeps_to_the_schemas(make())


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_keep_to_their_schemas(kind: str) -> None:
    keeps_to_the_schemas(campaigns.hostile(HOSTILE[kind]))


def keeps_to_the_schemas(report: GateReport) -> None:
    SUREFIRE.validate(render_junit(report))
    CTRF.validate(json.loads(render_ctrf(report)))
    VERDICT_JSON.validate(json.loads(render_verdict_json(report)))
    assert load_verdict_json(render_verdict_json(report)) == report


def test_the_written_schema_is_the_one_that_holds() -> None:
    made = json.dumps(verdict_json_schema(), indent=2) + "\n"
    if UPDATE:
        SCHEMA_FILE.write_text(made, encoding="utf-8", newline="\n")
    assert made == SCHEMA_FILE.read_text(encoding="utf-8")
    VERDICT_JSON.check_schema(verdict_json_schema())


def test_the_schemas_refuse_what_is_wrong() -> None:
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        SUREFIRE.validate(
            render_junit(everything()).replace("<stackTrace>", "<trace>").replace("stackTrace>", "trace>")
        )
    with pytest.raises(jsonschema.ValidationError):
        CTRF.validate(json.loads(render_ctrf(everything()).replace('"other"', '"errored"')))
    with pytest.raises(jsonschema.ValidationError):
        VERDICT_JSON.validate(json.loads(render_verdict_json(everything()).replace('"fail"', '"go"')))


def red(report: GateReport) -> tuple[bool, bool]:
    suite = ElementTree.fromstring(render_junit(report))
    junit = int(suite.get("failures") or 0) + int(suite.get("errors") or 0) > 0
    return junit, json.loads(render_ctrf(report))["results"]["summary"]["failed"] > 0


@pytest.mark.parametrize(
    "report",
    [
        campaigns.inconclusive(),
        campaigns.no_run(),
        report_of(attempt(0, {})),
        report_of(attempt(0, {"Login": "P"}, test_count=2)),
        report_of(attempt(0, {"Login": "C"})),
        report_of(attempt(0, {"Login": "M"})),
        report_of(attempt(0, {"Login": "P"}, status="ERROR")),
        report_of(attempt(0, {"Login": "F"}), attempt(1, {"Login": "P"}), policy=GatePolicy(max_flaky=0)),
        report_of(
            attempt(0, {"Login": "F"}),
            policy=GatePolicy(
                quarantine={project_id("Login"): QuarantineEntry(reason="x", owner="y", expires=date(2026, 12, 1))}
            ),
        ),
        everything(),
    ],
    ids=lambda report: report.reasons[0].rule,
)
def test_a_gate_that_is_no_pass_never_reads_green(report: GateReport) -> None:
    assert report.verdict is not Verdict.PASS
    assert red(report) == (True, True)
    keeps_to_the_schemas(report)


def test_the_gate_is_a_testcase_only_where_nothing_else_is_red() -> None:
    errored = report_of(attempt(0, {"Login": "M"}))
    assert errored.verdict is Verdict.INCONCLUSIVE
    assert "release gate" not in render_junit(errored)
    assert "release gate" in render_ctrf(errored)  # which has no word for an error that reads red
    assert "release gate" not in render_junit(everything()) + render_ctrf(everything())


def test_addresses_in_the_files_are_those_that_may_be_links() -> None:
    report = campaigns.hostile("x")
    assert "javascript:" not in render_junit(report) + render_ctrf(report)
    assert "https://cdn.qa.tech/run3-0.webm" in render_ctrf(everything())
    assert "https://cdn.qa.tech/run3-0.webm" in render_junit(everything())


@pytest.mark.parametrize("report", [campaigns.passing(), campaigns.flaky_pass()], ids=["passing", "flaky"])
def test_a_gate_that_passes_reads_green(report: GateReport) -> None:
    assert red(report) == (False, False)


def test_a_failure_in_quarantine_does_not_read_red() -> None:
    entry = QuarantineEntry(reason="x", owner="y", expires=date(2026, 12, 1))
    report = report_of(
        attempt(0, {"Login": "F", "Browse": "P"}), policy=GatePolicy(quarantine={project_id("Login"): entry})
    )
    assert report.verdict is Verdict.PASS
    assert red(report) == (False, False)
    case = ElementTree.fromstring(render_junit(report)).find("testcase/skipped")
    assert case is not None
    assert (case.get("message") or "").startswith("in quarantine: failed")


def test_a_tolerated_failure_is_a_failure_to_ci_tools() -> None:
    report = report_of(attempt(0, {"Login": "F", "Browse": "P"}), policy=GatePolicy(max_failed=1))
    assert report.verdict is Verdict.PASS
    assert red(report) == (True, True)


def test_what_surefire_tells_of_reruns() -> None:
    report = everything()
    cases = {case.get("name"): case for case in ElementTree.fromstring(render_junit(report)).iter("testcase")}

    def elements(name: str) -> list[str]:
        return [element.tag for element in cases[name] if element.tag != "system-out"]

    assert elements("Browse") == elements("Search") == elements("Cleanup") == []
    assert elements("Login") == ["flakyFailure"]
    assert elements("Slow login") == ["flakyFailure", "flakyError"]
    assert elements("Checkout") == ["failure", "rerunFailure", "rerunFailure"]
    assert elements("Wishlist") == ["failure"]
    assert elements("Invoice") == elements("Newsletter") == elements("Export") == ["error"]
    assert elements("Refund") == elements("Beta banner") == ["skipped"]


def test_tests_of_one_name_stay_apart_in_ci_tools() -> None:
    report = everything()
    twins = [
        test.model_copy(update={"name": "Login\u200b" if number else "Login"})
        for number, test in enumerate(report.tests)
    ]
    suite = ElementTree.fromstring(render_junit(report.model_copy(update={"tests": tuple(twins)})))
    names = [case.get("name") for case in suite.iter("testcase")]
    assert len(set(names)) == len(names) == len(report.tests)


def test_a_class_name_is_no_path() -> None:
    report = everything().model_copy(update={"plan_short_id": "../../etc/passwd\x00.<b>"})
    case = ElementTree.fromstring(render_junit(report)).find("testcase")
    assert case is not None
    assert case.get("classname") == "qatech.etc-passwd-b"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -5.0, 1e-9, 1e12, None])
def test_durations_that_are_none(seconds: float | None) -> None:
    report = everything()
    tests = tuple(test.model_copy(update={"duration_seconds": seconds}) for test in report.tests)
    report = report.model_copy(update={"tests": tests})
    SUREFIRE.validate(render_junit(report))
    json.loads(render_ctrf(report), parse_constant=lambda constant: pytest.fail(constant))


def test_a_time_that_nobody_knows_is_left_out() -> None:
    unseen = replace(attempt(0, {"Login": "P", "Pay": "F"}), finished_at=None)
    report = report_of(unseen, incidents=[Incident.DEADLINE_PASSED])
    for text in (render_markdown(report), render_job_summary(report), " ".join(explain(report))):
        assert "2 test executions, 0 reruns" in text
        assert "of runs" not in text
        assert "0 s" not in text
    suite = ElementTree.fromstring(render_junit(report))
    assert suite.get("time") is None
    assert [case.get("time") for case in suite.iter("testcase")] == [None, "1.501"]
    summary = json.loads(render_ctrf(report))["results"]["summary"]
    assert "duration" not in summary
    [passed, failed] = json.loads(render_ctrf(report))["results"]["tests"]
    assert (passed["extra"]["durationIsKnown"], failed["extra"]["durationIsKnown"]) == (False, True)


def test_a_report_that_is_published_later_has_the_time_of_its_runs() -> None:
    report = report_of(attempt(0, {"Login": "P"}))
    later = report.model_copy(update={"ended_at": report.ended_at and report.ended_at + timedelta(days=1)})
    told = [json.loads(render_ctrf(one))["results"]["summary"] for one in (report, later)]
    assert told[0] == told[1]
    assert told[0]["duration"] == told[0]["stop"] - told[0]["start"] == 510_000


def test_every_rule_has_an_outcome() -> None:
    room = HERE.parent.parent / "prefect_qatech" / "verdict"
    source = "".join(path.read_text(encoding="utf-8") for path in room.glob("*.py"))
    for rule in RULES:
        assert f'"{rule}"' in source, f"{rule} is no rule any more"
    outcomes = rule_outcomes(everything())
    assert set(outcomes) == set(RULES)
    assert outcomes["max_failed"] == "fail"
    assert outcomes["max_undecided"] == outcomes["deadline_passed"] == "inconclusive"
    assert outcomes["min_decided"] == "pass"


def test_a_rule_that_is_not_known_here_and_blocks_is_told() -> None:
    report = everything()
    reason = report.reasons[0].model_copy(update={"rule": "new_rule"})
    assert rule_outcomes(report.model_copy(update={"reasons": (reason,)}))["new_rule"] == "fail"


def verdict_rules() -> set[str]:
    """Each rule that `judge` gave a verdict other than pass, over campaigns that provoke them."""
    return {reason.rule for make in REPORTS.values() for reason in make().reasons if reason.verdict is not Verdict.PASS}


def test_the_rules_that_block_are_all_listed() -> None:
    assert verdict_rules() <= set(RULES)


SHOWN: dict[str, Callable[[GateReport], str]] = {
    "artifact": lambda report: words(render(render_markdown(report)).text),
    "summary": lambda report: words(render(render_job_summary(report)).text),
    "explain": lambda report: " ".join(" ".join(explain(report)).split()),
    "junit": lambda report: " ".join(
        f"{p.get('name')}={p.get('value')}" for p in ElementTree.fromstring(render_junit(report)).iter("property")
    ),
    "ctrf": lambda report: json.dumps(json.loads(render_ctrf(report))["results"]["environment"]["extra"]),
}
KEYS = {
    "junit": ("qatech.target=v4.2.0-rc1", "qatech.incidents=deadline_passed, rerun_refused", "unmatched=Gone banner"),
    "ctrf": ('"target": "v4.2.0-rc1"', '"evidenceIsOlder": true', '"rerun_refused"', '["Gone banner"]'),
}


@pytest.mark.parametrize("form", SHOWN)
def test_every_form_says_what_the_evidence_is_about(form: str) -> None:
    told = SHOWN[form](everything())
    for sentence in (
        "This is evidence of an earlier attempt.",
        "The cause could not be found out for 1 test: QA.tech did not give the details.",
        "The rerun of run run3 (https://app.qa.tech/results/run3) was refused: 403 <Forbidden>.",
        *KEYS.get(form, ("target v4.2.0-rc1", "A rerun that the verdict needed could not be started.", "Gone banner")),
    ):
        assert sentence in told


@pytest.mark.parametrize("form", SHOWN)
def test_every_form_says_what_nobody_knows_of_a_run_that_somebody_else_started(form: str) -> None:
    told, otherwise = SHOWN[form](campaigns.of_somebody_elses_run()), SHOWN[form](campaigns.passing())
    assert "No target was named: nobody can tell later what was tested, so a retry keeps no pass" in told
    for sentence in (
        "Only this run was judged: a run that this gate did not start.",
        "Nobody knows whether all tests are listed: QA.tech did not say how many there are.",
    ):
        assert sentence in told
        assert sentence not in otherwise
    assert "No target was named" not in SHOWN[form](everything())


def test_a_count_that_cannot_be_read_is_told_once() -> None:
    report = report_of(replace(attempt(0, {"Login": "P"}), test_count=None), incidents=[Incident.COUNT_UNREADABLE])
    text = SHOWN["artifact"](report)
    assert text.count("nobody knows whether all are listed") == 1
    assert "Nobody knows" not in text


def test_the_files_for_ci_tools_name_the_tests_whose_cause_is_unknown() -> None:
    suite = ElementTree.fromstring(render_junit(everything()))
    told = {case.get("name"): case.findtext("system-out") or "" for case in suite.iter("testcase")}
    assert [name for name, text in told.items() if "The cause could not be found out." in text] == ["Wishlist"]
    tests = json.loads(render_ctrf(everything()))["results"]["tests"]
    assert [test["name"] for test in tests if "cause unknown" in test.get("tags", [])] == ["Wishlist"]
    assert everything().tests_with(TestVerdict.FAILED)[1].name == "Wishlist", "a failure stays one"


def test_the_gate_among_the_tests_says_what_happened() -> None:
    report = report_of(
        attempt(0, {"Login": "S"}), incidents=[Incident.WAIT_GAVE_UP], notes=["Run abc was lost after 3 days."]
    )
    assert "Run abc was lost after 3 days." in render_ctrf(report).partition('"release gate"')[2]
    assert "Run abc was lost after 3 days." in render_junit(report).partition('name="release gate"')[2]


def changed(**values: object) -> str:
    return json.dumps({**json.loads(render_verdict_json(everything())), **values})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not JSON"),
        ("<xml/>", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no schema_version"),
        ("{}", "no schema_version"),
        (changed(schema_version="1"), "no schema_version"),
        (changed(schema_version=True), "no schema_version"),
        (changed(schema_version=0), "no schema_version"),
        (changed(schema_version=2), "schema version 2; this prefect-qatech reads 1: update it"),
        (changed(verdict="go"), "verdict: "),
        (changed(tests="x"), "tests: "),
        (changed(policy={"max_reruns": -1}), "policy.max_reruns: "),
        (changed(attempts=[]), "outcome per attempt"),
        (changed(tests=json.loads(changed())["tests"][:1] * 2), "same test_id"),
        (changed(attempts=json.loads(changed())["attempts"][::-1]), "numbered"),
        (json.dumps({"schema_version": 1}), "verdict: Field required"),
    ],
)
def test_what_is_no_verdict_json_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"verdict\.json") as caught:
        load_verdict_json(text)
    assert type(caught.value) is ValueError
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_later_version_may_add_fields() -> None:
    assert load_verdict_json(changed(invented={"x": 1})) == everything()


def test_half_of_a_surrogate_pair_does_not_lose_the_ledger() -> None:
    report = campaigns.hostile("half \ud83d of a pair")
    assert load_verdict_json(render_verdict_json(report)) == report
