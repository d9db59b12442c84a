"""Release checks: an autonomous review of a release, with a run of its own where a regression is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_qatech.sandbox.answers import FindingItem, ReleaseCheckAnswer, ReleaseCheckStartAnswer, TestSummary
from prefect_qatech.sandbox.bodies import ReleaseCheckBody
from prefect_qatech.sandbox.engine import Engine, Refusal
from prefect_qatech.sandbox.runs import Run, at_attempt
from prefect_qatech.sandbox.scenario import Finding, ReleaseReview

__all__ = ["ReleaseCheck", "ReleaseChecks"]


@dataclass(eq=False)
class ReleaseCheck:
    """One release check."""

    short_id: str
    body: ReleaseCheckBody
    review: ReleaseReview
    created: float
    run: Run | None

    def ended(self, now: float) -> float | None:
        """Return when it ended, None while it goes on. Its run has to be settled."""
        end = self.created + self.review.duration_seconds
        if self.run is not None:
            if self.run.ended is None:
                return None
            end = max(end, self.run.ended)
        return end if end <= now else None


class ReleaseChecks:
    """The release checks that were started."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._checks: dict[str, ReleaseCheck] = {}

    def start(self, body: ReleaseCheckBody) -> ReleaseCheckStartAnswer:
        """Carry out `POST /release-checks` and return its answer."""
        engine = self._engine
        engine.check_project(body.project_short_id)
        run = None
        if body.regression is not None:
            regression = body.regression
            run = engine.begin(regression.test_plan_short_id, regression.test_case_ids, body.application_overrides)
        else:
            engine.overrides(body.application_overrides)  # refused where one is not there
        check = ReleaseCheck(
            short_id=engine.new_short_id(),
            body=body,
            review=at_attempt(engine.scenario.release_checks, len(self._checks)),
            created=engine.clock.now(),
            run=run,
        )
        self._checks[check.short_id] = check
        engine.counts["release_checks"] += 1
        return {"shortId": check.short_id, "url": self._url(check), "reviewShortId": f"review_{check.short_id}"}

    def find(self, short_id: str) -> ReleaseCheck:
        """Return a release check."""
        check = self._checks.get(short_id)
        if check is None:
            raise Refusal(404, "Release check not found")
        return check

    def show(self, check: ReleaseCheck) -> ReleaseCheckAnswer:
        """Return the answer of `GET /release-checks/{shortId}`."""
        clock = self._engine.clock
        now = clock.now()
        ended = check.ended(now)
        updated = clock.text(now if ended is None else ended)
        # Until it has ended nothing is known.
        review = ReleaseReview(overall_score=None, summary=None, categories=[]) if ended is None else check.review
        tests = _summary(check.run)
        changes = len(check.body.changes or [])
        return {
            "shortId": check.short_id,
            "url": self._url(check),
            "status": "RUNNING" if ended is None else review.status,
            "releaseName": check.body.release_name,
            "summary": review.summary,
            "progress": {
                "message": "Checking the release" if ended is None else "Done",
                "updatedAt": updated,
                "testsRun": tests["passed"] + tests["failed"],
                "changesVerified": 0 if ended is None else changes,
                "changesTotal": changes,
            },
            "overallScore": review.overall_score,
            "categories": [
                {"name": category.name, "score": category.score, "summary": category.summary}
                for category in review.categories
            ],
            "findings": [_finding(finding) for finding in review.findings],
            "automatedTestSummary": tests,
            "markdown": None if ended is None else _markdown(check, tests),
            "createdAt": clock.text(check.created),
            "updatedAt": updated,
            "intentVerification": review.intent_verification,
            "pagesTested": review.pages_tested,
            "checklistCoverage": review.checklist_coverage,
            "healthSignals": review.health_signals,
            "manualFollowUps": review.manual_follow_ups,
        }

    def _url(self, check: ReleaseCheck) -> str:
        return self._engine.page(f"release-checks/{check.short_id}")


def _summary(run: Run | None) -> TestSummary:
    executions = run.executions if run else []
    return {
        "passed": sum(execution.result == "PASSED" for execution in executions),
        "failed": sum(execution.is_failed for execution in executions),
        "total": len(executions),
        "runShortIds": [run.short_id] if run else [],
    }


def _finding(finding: Finding) -> FindingItem:
    return {
        "title": finding.title,
        "category": finding.category,
        "severity": finding.severity,
        "description": finding.description,
        "isBlocker": finding.is_blocker,
        "recommendation": finding.recommendation,
        "evidence": finding.evidence,
    }


def _markdown(check: ReleaseCheck, tests: TestSummary) -> str:
    review = check.review
    lines = [f"# {check.body.release_name or 'Release check'}", review.summary or "", ""]
    lines += [f"- {'BLOCKER: ' if finding.is_blocker else ''}{finding.title}" for finding in review.findings]
    lines += [f"{tests['passed']} of {tests['total']} tests passed."] if tests["total"] else []
    return "\n".join(lines).rstrip() + "\n"
