"""Why a gate's verdict is what it is, rule by rule, and what another policy would have said: offline, from a file."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

import yaml
from pydantic import ValidationError

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.report.about import about_line
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.headline import headline
from prefect_qatech.report.known import new_and_known, standing_text
from prefect_qatech.report.model import GateReport, ReportedReason, ReportedTest
from prefect_qatech.report.quarantine import remarks
from prefect_qatech.report.verdict_json import RULES
from prefect_qatech.report.wording import (
    HEADLINES,
    campaign_id,
    campaign_name,
    caveats,
    counts_text,
    spent,
    story,
    tests_named,
    until_text,
)
from prefect_qatech.verdict.judge import UNMATCHED, GateVerdict, Reason
from prefect_qatech.verdict.policy import GatePolicy

_HANGING = re.compile(r" *(?:- |(?:pass|fail|inconclusive) +)?")
_MAX_NAMES, _NAME, _SENTENCE, _NOTE = 50, 200, 500, 900


def explain(
    report: GateReport, policy: GatePolicy | None = None, *, today: date | None = None, width: int = 80
) -> list[str]:
    """Explain a gate's verdict, rule by rule, in lines of so many columns.

    The verdict of another policy over the same runs is told as well, with what differs; its quarantine entries are
    looked at for `today`, by default the day of the report. Where nobody says for which day, a quarantine is a
    ValueError.
    """
    again = report.judge_again(report.policy)
    lines = [
        f"{plain_text(campaign_name(report), _NAME)}, campaign {campaign_id(report) or 'without a run'}",
        *([about] if (about := about_line(report, lambda text, _: plain_text(text, _NAME))) else []),
        headline(report, lambda words: plain_text(words, _NAME)),
        f"{counts_text(report)}. Spent: {spent(report)}.",
        f"Without reruns the verdict would have been {report.verdict_without_reruns}.",
        *([told] if (told := new_and_known(report)) else []),
        "",
        "Rule by rule:",
        *_rules(report.reasons, report),
        *_caveats(report),
    ]
    if again.verdict is not report.verdict:
        lines += [
            "",
            f"The report contradicts itself: its runs and its policy give {again.verdict}, not {report.verdict}.",
            "It was changed, or written by a version of prefect-qatech that judges otherwise.",
        ]
    if policy is not None:
        lines += _compare(report, policy, again, report.judge_again(policy, today=today))
    return [part for line in lines for part in _wrapped(line, width)]


def _wrapped(line: str, width: int) -> list[str]:
    """Return a line as several that stand below each other; a word that is longer, such as an id, is not broken."""
    indent = " " * _HANGING.match(line).end()  # type: ignore[union-attr]  # it matches nothing at all, too
    parts = textwrap.wrap(
        line, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return parts or [""]


def _rules(reasons: Iterable[ReportedReason | Reason], report: GateReport) -> Iterable[str]:
    reasons, tests = tuple(reasons), {test.test_id: test for test in report.tests}
    for reason in reasons:
        rule, sentence = plain_text(reason.rule, 40), plain_text(reason.sentence, _SENTENCE)
        yield f"  {reason.verdict.value:<12}  {rule}: {sentence}"
        # A gate that passed need not list each test that did.
        named = [] if rule == "passed" else tests_named(reason, tests)
        for name, test_id in named[:_MAX_NAMES]:
            what = f" ({plain_text(test_id, _NAME)}): {_story(tests[test_id])}" if test_id else ""
            yield f"{' ' * 16}- {plain_text(name, _NAME) or '(no name)'}{what}"
        if len(named) > _MAX_NAMES:
            yield f"{' ' * 16}- … and {len(named) - _MAX_NAMES} more"
    silent = [rule for rule in RULES if rule not in {reason.rule for reason in reasons}]
    yield f"  {'pass':<12}  nothing to say: {', '.join(silent)}"


def _story(test: ReportedTest) -> str:
    standing = plain_text(standing_text(test), _NAME)
    return plain_text(story(test), _SENTENCE) + (f"; {standing}" if standing else "")


def _caveats(report: GateReport) -> Iterable[str]:
    names = {test.test_id: test.name for test in report.tests}
    lines = [plain_text(note, _NOTE) for note in report.notes]
    for sentence, test_ids in caveats(report):
        lines.append(sentence)
        lines += [
            f"  - {plain_text(names.get(key, ''), _NAME)} ({plain_text(key, _NAME)})" for key in test_ids[:_MAX_NAMES]
        ]
    if lines:
        yield from ("", "About the evidence:", *(f"  {line}" for line in lines))
    for sentence, named in remarks(report):
        yield from ("", sentence, *(f"  - {plain_text(what, _NAME)} ({plain_text(key, _NAME)})" for what, key in named))


def _compare(report: GateReport, policy: GatePolicy, before: GateVerdict, after: GateVerdict) -> Iterable[str]:
    changes = list(_changes(_flat(report.policy, before), _flat(policy, after)))
    yield from ("", f"Under the other policy: {HEADLINES[after.verdict]}", "", "What it asks for differently:")
    yield from (f"  {plain_text(change, _SENTENCE)}" for change in changes or ["nothing"])
    if policy.max_reruns != report.policy.max_reruns:
        yield "  (The runs are those that there were: what more or fewer reruns would have found, nobody knows.)"
    yield from ("", "Rule by rule:", *_rules(after.reasons, report))
    for test in report.tests:
        then, now = before.tests.get(test.test_id), after.tests.get(test.test_id)
        if then is not now:
            yield f"  {plain_text(test.name, _NAME)} is {now} instead of {then}"


def _flat(policy: GatePolicy, judged: GateVerdict) -> dict[str, object]:
    values = policy.model_dump(mode="json", exclude={"quarantine"})
    unmatched = {key for reason in judged.reasons if reason.rule == UNMATCHED for key in reason.test_ids}
    for key, entry in policy.quarantine.items():
        is_applied = key not in unmatched
        values[f"quarantine of {key}"] = (
            until_text(entry, policy) if is_applied else "no effect: see quarantine_unmatched"
        )
    return values


def _changes(old: Mapping[str, object], new: Mapping[str, object]) -> Iterable[str]:
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before != after:
            yield f"{name}: {'none' if before is None else before} -> {'none' if after is None else after}"


def load_policy(path: Path) -> GatePolicy:
    """Read a policy from a YAML or JSON file; an empty one is the default policy.

    Raises:
        OSError: It cannot be read.
        InvalidInputError: It holds something else than the fields of `GatePolicy`; the sentence says what.
    """
    content = path.read_bytes()
    try:
        return GatePolicy.model_validate(yaml.safe_load(content) or {})
    except (yaml.YAMLError, RecursionError):
        raise InvalidInputError(f"{path} is not a policy: it is neither YAML nor JSON") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{path} is not a policy: {error}", faults=error.faults) from None
    except (ValidationError, TypeError):  # keys that are no words
        raise InvalidInputError(f"{path} is not a policy: it does not hold the fields of one") from None
    except ValueError as error:  # a day or a time that there is not
        raise InvalidInputError(f"{path} is not a policy: {error}") from None
