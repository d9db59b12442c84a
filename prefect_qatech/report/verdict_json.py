"""`verdict.json`: the whole report of a gate, for programs, and for `prefect-qatech explain`.

The fields are those of `GateReport`, and two that are made from them for readers who want one value: `rules` (what each
rule said, `pass` where it was silent) and `counts` (tests by verdict). `verdict.schema.json`, beside this file, is the
JSON schema. `schema_version` grows when a field changes its meaning or goes; a new field does not change it. Texts of
the service are cut, and not escaped.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.report.model import SCHEMA_VERSION, GateReport
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict

RULES = (
    "no_attempt",
    "max_failed",
    "max_flaky",
    "max_undecided",
    "min_decided",
    "only_quarantined",
    "mass_failure",
    "run_not_completed",
    "contradiction",
    "release_check_blockers",
    "release_check_score",
    *(incident.value for incident in Incident),
)
"""Names of the rules that can keep a gate from passing; the other reasons are remarks."""


_FIRST: dict[str, Any] = dict.fromkeys(("schema_version", "verdict", "verdict_without_reruns"))


def rule_outcomes(report: GateReport) -> dict[str, str]:
    """Return what each rule said, `pass`, `inconclusive` or `fail`; `pass` where it was silent."""
    by_rule: dict[str, list[Verdict]] = {rule: [Verdict.PASS] for rule in RULES}
    for reason in report.reasons:
        if reason.rule in by_rule or reason.verdict is not Verdict.PASS:
            by_rule.setdefault(reason.rule, []).append(reason.verdict)
    return {rule: Verdict.worst(verdicts).value for rule, verdicts in by_rule.items()}


def render_verdict_json(report: GateReport) -> str:
    counts = {verdict.value: report.counts.get(verdict, 0) for verdict in TestVerdict}
    # json, not pydantic's own writer: that one refuses half of a surrogate pair, which JSON itself can say.
    content = {**_FIRST, **report.model_dump(mode="json"), "rules": rule_outcomes(report), "counts": counts}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def verdict_json_schema() -> dict[str, Any]:
    schema = GateReport.model_json_schema(mode="serialization")
    verdicts = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Verdict"}}
    schema["properties"]["rules"] = {"description": "What each rule said; pass where it was silent.", **verdicts}
    schema["properties"]["counts"] = {
        "description": "Tests by verdict, those in quarantine and those that appeared later included.",
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 0},
    }
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION, "description": "Version of this shape."}
    schema["required"] = [*schema["required"], "schema_version", "rules", "counts"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "prefect-qatech verdict.json",
        "description": "Everything that a QA.tech release gate found out. Only the verdict `pass` is a go.",
    }


def load_verdict_json(text: str) -> GateReport:
    """Read a `verdict.json`; the ValueError for anything else, or one of a later version, says which it is."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("this is not a verdict.json: it is not JSON") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError("this is not a verdict.json: it has no schema_version")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"this verdict.json has schema version {version}; this prefect-qatech reads {SCHEMA_VERSION}: update it"
        )
    try:
        report = GateReport.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise ValueError(f"this is not a verdict.json: {_first_fault(error)}") from None
    # What the shape alone does not say, and the report's readers rely on.
    ids = [test.test_id for test in report.tests]
    if len(set(ids)) < len(ids):
        raise ValueError("this is not a verdict.json: two tests have the same test_id")
    if [attempt.number for attempt in report.attempts] != list(range(len(report.attempts))):
        raise ValueError("this is not a verdict.json: attempts are not numbered 0, 1, 2 and so on")
    if any(len(test.outcomes) != len(report.attempts) for test in report.tests):
        raise ValueError("this is not a verdict.json: a test has not one outcome per attempt")
    return report


def _first_fault(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    fault = error.errors(include_url=False, include_input=False)[0]
    place, cause = ".".join(map(str, fault["loc"][:6])), fault.get("ctx", {}).get("error")
    # The policy tells its own faults, each with its place.
    return (f"{place}.{cause}" if isinstance(cause, InvalidInputError) else f"{place}: {fault['msg']}")[:300]
