"""What CI services take from a job beside its exit code: annotations, outputs, a summary.

Sources: GitHub Actions, "Workflow commands"; Azure Pipelines, "Logging commands"; GitLab CI, "Artifacts reports types".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from prefect_qatech.cli.display import one_line
from prefect_qatech.report import append_job_summary, render_job_summary
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict import TestVerdict, Verdict

MAX_ANNOTATIONS = 10
"""GitHub shows ten errors and ten warnings of a step."""

GITLAB_FILE = "gl-annotations.json"
AZURE_SUMMARY = "qatech-summary.md"
_NOT_PASSED = (TestVerdict.FAILED, TestVerdict.FLAKY)


def tell_ci(report: GateReport, directory: Path, environ: Mapping[str, str]) -> list[str]:
    """Tell the CI service that the command runs in, if any, of a report.

    Args:
        report: The report.
        directory: Where files that a service is to pick up are written.
        environ: The environment.

    Returns:
        Lines to print, which the service reads.

    Raises:
        OSError: A file could not be written.
    """
    lines: list[str] = []
    if environ.get("GITHUB_ACTIONS") == "true" or "GITHUB_STEP_SUMMARY" in environ or "GITHUB_OUTPUT" in environ:
        append_job_summary(report, environ)
        if output := environ.get("GITHUB_OUTPUT"):
            with Path(output).open("a", encoding="utf-8") as file:
                file.writelines(f"{name}={one_line(value)}\n" for name, value in _outputs(report).items())
        if environ.get("GITHUB_ACTIONS") == "true":
            lines += [
                f"::{level} title={_github_property(title)}::{_github_text(text)}"
                for level, title, text in _annotations(report)
            ]
    if environ.get("TF_BUILD") == "True":
        directory.mkdir(parents=True, exist_ok=True)
        summary = (directory / AZURE_SUMMARY).resolve()
        summary.write_text(render_job_summary(report), encoding="utf-8", errors="replace")
        lines.append(f"##vso[task.uploadsummary]{_azure(str(summary))}")
        lines += [f"##vso[task.logissue type={level}]{_azure(text)}" for level, _, text in _annotations(report)]
        lines += [
            f"##vso[task.setvariable variable=qatech_{name};isOutput=true]{_azure(value)}"
            for name, value in _outputs(report).items()
        ]
    if environ.get("GITLAB_CI") == "true":
        links = [
            {"external_link": {"label": f"Run {attempt.run_short_id}", "url": attempt.run_url}}
            for attempt in report.attempts
            if attempt.run_url
        ]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / GITLAB_FILE).write_text(json.dumps({"QA.tech": links}), encoding="utf-8")
    return lines


def _outputs(report: GateReport) -> dict[str, str]:
    return {
        "verdict": report.verdict.value,
        "run_short_id": report.run_short_id or "",
        "run_url": report.run_url or "",
        "target": report.target or "",
    }


def _annotations(report: GateReport) -> Iterator[tuple[str, str, str]]:
    if report.verdict is not Verdict.PASS:
        sentences = " ".join(reason.sentence for reason in report.reasons if reason.verdict is not Verdict.PASS)
        yield "error", f"QA.tech: {report.verdict.value}", f"{sentences} {report.run_url or ''}"
    for test in [test for test in report.tests if test.verdict in _NOT_PASSED][:MAX_ANNOTATIONS]:
        level = "error" if test.verdict is TestVerdict.FAILED else "warning"
        yield level, f"QA.tech: {test.verdict.value}", f"{test.name}: {test.reason or 'no reason was given'}"


def _github_text(text: str) -> str:
    return one_line(text).replace("%", "%25")


def _github_property(text: str) -> str:
    return _github_text(text).replace(":", "%3A").replace(",", "%2C")


def _azure(text: str) -> str:
    return one_line(text).replace("%", "%AZP25").replace(";", "%3B").replace("]", "%5D")
