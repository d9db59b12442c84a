"""Pure: what was tested, where, by whom and by which rules, in the same words for every form. Nothing is escaped.

What is not known has no line: a report makes nothing up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prefect_qatech.report.model import GateReport
from prefect_qatech.report.subject import GateSubject, ReportedApplication
from prefect_qatech.texts import counted
from prefect_qatech.verdict.policy import GatePolicy

MAX_APPLICATIONS = 10
_WORDS = {"environment": "on", "device": "with", "started_by": "started by", "policy": "policy:"}
_WITHOUT_A_WORD = ("application", "more")
_BESIDE = ("environment", "device")


class Fact(NamedTuple):
    """One thing that a reader must know of what was tested; its `url` leads there, and may be no address for a link."""

    name: str
    text: str
    url: str | None = None


def facts(report: GateReport) -> list[Fact]:
    """Return what was tested, where, by whom and by which rules."""
    known = [
        ("project", report.project_short_id, None),
        ("branch", report.branch, None),
        ("commit", report.commit, None),
        ("deployment", report.deployment, report.flow_run_url),
        ("started_by", report.started_by, None),
        ("policy", policy_text(report.policy), None),
    ]
    return [
        *([Fact("target", report.target)] if report.target else []),
        *_places(report.applications),
        *(Fact(name, text, url) for name, text, url in known if text),
    ]


def about_line(report: GateReport, show: Callable[[str, str | None], str] = lambda text, url: text) -> str:
    """Return the facts as one line: "target v2 · app_shop on https://staging.example.com · policy: max_failed 1".

    Each text goes through `show`, with the address that it leads to. Where nothing is known the line is empty.
    """
    line = ""
    for fact in facts(report):
        glue = "" if not line else " " if fact.name in _BESIDE else " · "
        word = "" if fact.name in _WITHOUT_A_WORD else f"{_WORDS.get(fact.name, fact.name)} "
        line += f"{glue}{word}{show(fact.text, fact.url)}"
    return line


def _places(applications: tuple[ReportedApplication, ...]) -> Iterator[Fact]:
    for application in applications[:MAX_APPLICATIONS]:
        yield Fact("application", application.application_short_id)
        if place := place_of(application):
            yield Fact("environment", place, application.environment_url)
        if application.device_preset_short_id:
            yield Fact("device", application.device_preset_short_id)
    if (more := len(applications) - MAX_APPLICATIONS) > 0:
        yield Fact("more", f"and {counted(more, 'more application')}")


def place_of(application: ReportedApplication) -> str | None:
    """Return where an application was tested: an address with its name, a saved environment, or a mobile build."""
    if application.environment_url:
        name = application.environment_name
        return f"{application.environment_url} ({name})" if name else application.environment_url
    return application.environment_short_id or application.application_build_short_id


def environment_of(subject: GateSubject) -> str:
    """Return what tells one place of testing from another; an address by its name, as those of previews change."""
    named = ((app.application_short_id, app.environment_name or place_of(app)) for app in subject.applications)
    return ", ".join(sorted(" ".join(filter(None, names)) for names in named))


def policy_text(policy: GatePolicy) -> str:
    """Return how a policy differs from the default: "max_failed 2, quarantine of 1 test"; empty where it does not."""
    default, parts = GatePolicy(), []
    for name in GatePolicy.model_fields:
        value = getattr(policy, name)
        if value == getattr(default, name):
            continue
        if name == "quarantine":
            parts.append(f"quarantine of {counted(len(value), 'test')}")
        elif name == "release_check":
            changed = value.model_dump(exclude_defaults=True).items()
            parts += [f"release_check.{field} {_value(each)}" for field, each in changed]
        else:
            parts.append(f"{name} {_value(value)}")
    return ", ".join(parts)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
