"""What CI services take from a job beside its exit code: annotations, outputs, a summary.

Sources: GitHub Actions, "Workflow commands"; Azure Pipelines, "Logging commands"; GitLab CI, "Artifacts reports types".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from prefect_qatech.addresses import safe_url
from prefect_qatech.cli.display import one_line
from prefect_qatech.report.escape import markdown_text, plain_text
from prefect_qatech.report.files import append_job_summary
from prefect_qatech.report.markdown import render_job_summary
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict

MAX_ANNOTATIONS = 10
"""GitHub shows ten errors and ten warnings of a step."""

GITLAB_FILE = "gl-annotations.json"
AZURE_SUMMARY = "qatech-summary.md"
_MAX_SUMMARY = 1_500
_MAX_OUTPUT = 2_000
_OUTPUTS = ("verdict", "run_short_id", "run_url", "target")


def tell_ci(report: GateReport, directory: Path, environ: Mapping[str, str]) -> list[str]:
    """Report a verdict to the CI service that the command runs in, if any; files go where it picks them up.

    Return lines to print, which the service reads.

    Raises:
        OSError: A file could not be written.
    """
    append_job_summary(report, environ)
    values = (report.verdict.value, report.run_short_id or "", report.run_url or "", report.target or "")
    lines = _told(list(_annotations(report)), dict(zip(_OUTPUTS, values, strict=True)), environ)
    if environ.get("TF_BUILD") == "True":
        directory.mkdir(parents=True, exist_ok=True)
        summary = (directory / AZURE_SUMMARY).resolve()
        summary.write_text(render_job_summary(report), encoding="utf-8", errors="replace")
        lines.append(f"##vso[task.uploadsummary]{_azure(str(summary))}")
    if environ.get("GITLAB_CI") == "true":
        links = [
            {"external_link": {"label": f"Run {attempt.run_short_id}", "url": attempt.run_url}}
            for attempt in report.attempts
            if attempt.run_url
        ]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / GITLAB_FILE).write_text(json.dumps({"QA.tech": links}), encoding="utf-8")
    return lines


def tell_ci_of_an_error(error: Exception, environ: Mapping[str, str]) -> list[str]:
    """Report to the CI service that there is no verdict, and why: a later step may act on the outputs.

    As `tell_ci`, it returns lines to print, and raises OSError.
    """
    run_url = safe_url(getattr(error, "run_url", None)) or ""
    outputs = {**dict.fromkeys(_OUTPUTS, ""), "verdict": "error"}
    outputs |= {"run_short_id": getattr(error, "run_short_id", None) or "", "run_url": run_url}
    if summary := environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"## ERROR: there is no verdict\n\n{markdown_text(str(error), _MAX_SUMMARY)}\n")
    return _told([("error", "QA.tech: no verdict", str(error))], outputs, environ)


def _told(annotations: list[tuple[str, str, str]], outputs: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Write outputs, and return what GitHub and Azure read of what a job prints."""
    lines = []
    if output := environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a", encoding="utf-8") as file:
            # A file is no log: what stands in a value is no command, and a later step needs it as it is.
            file.writelines(f"{name}={plain_text(value, _MAX_OUTPUT)}\n" for name, value in outputs.items())
    if environ.get("GITHUB_ACTIONS") == "true":
        for level, title, text in annotations:
            heading = _github(title).replace(":", "%3A").replace(",", "%2C")
            lines.append(f"::{level} title={heading}::{_github(text)}")
    if environ.get("TF_BUILD") == "True":
        lines += [f"##vso[task.logissue type={level}]{_azure(text)}" for level, _, text in annotations]
        lines += [
            f"##vso[task.setvariable variable=qatech_{name};isOutput=true]{_azure_escaped(_without_azure(value))}"
            for name, value in outputs.items()
        ]
    return lines


def _annotations(report: GateReport) -> Iterator[tuple[str, str, str]]:
    if report.verdict is not Verdict.PASS:
        sentences = " ".join(reason.sentence for reason in report.reasons if reason.verdict is not Verdict.PASS)
        yield "error", f"QA.tech: {report.verdict.value}", f"{sentences} {report.run_url or ''}"
    for test in report.tests_with(TestVerdict.FAILED, TestVerdict.FLAKY)[:MAX_ANNOTATIONS]:
        level = "error" if test.verdict is TestVerdict.FAILED else "warning"
        yield level, f"QA.tech: {test.verdict.value}", f"{test.name}: {test.reason or 'no reason was given'}"


def _github(text: str) -> str:
    return one_line(text).replace("%", "%25")


def _azure(text: str) -> str:
    return _azure_escaped(one_line(text))


def _without_azure(value: str) -> str:
    """Return a value as a later step needs it, but for what Azure would take for a command: it finds them anywhere."""
    return plain_text(value, _MAX_OUTPUT).replace("##", "# #")


def _azure_escaped(text: str) -> str:
    return text.replace("%", "%AZP25").replace(";", "%3B").replace("]", "%5D")
