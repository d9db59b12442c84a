"""The commands that run tests without a Prefect server: run, rerun, wait, status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Group, Parameter

from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.ids import check_run_short_id
from prefect_qatech.api.lookup import resolve
from prefect_qatech.api.requests import QATechApplication, QATechEnvironment, QATechRerunRequest, QATechRunRequest
from prefect_qatech.api.responses import QATechRun, QATechStartedRun
from prefect_qatech.cli.ci import tell_ci_of_an_error
from prefect_qatech.cli.disk import FIRST, RunJournal, check_journal_directory
from prefect_qatech.cli.display import Display, display_for, one_line
from prefect_qatech.cli.exits import EXIT_CODES, INTERRUPTED, end
from prefect_qatech.cli.result import forget_older, show
from prefect_qatech.cli.steps import Mode, TerminalSteps
from prefect_qatech.cli.terminal import show as show_lines
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import InvalidInputError, QATechError
from prefect_qatech.gate.campaign import GateCampaign
from prefect_qatech.inputs import check_target
from prefect_qatech.ledger import attached_run
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.report.explain import load_policy
from prefect_qatech.report.files import check_report_directory
from prefect_qatech.report.junit import check_junit
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.subject import GateSubject, subject_of
from prefect_qatech.starts import address_of
from prefect_qatech.verdict.policy import GatePolicy

if sys.version_info >= (3, 11):
    from typing import Never
else:
    from typing_extensions import Never

T = TypeVar("T")
RequestT = TypeVar("RequestT", QATechRunRequest, QATechRerunRequest)

DEFAULT_JOURNAL = Path(".qatech")
_MARGIN_SECONDS = 10.0
POLLING = QATechPolling()

_WHAT = Group("What to test", sort_key=1)
_RULES = Group("Rules", sort_key=2)
_OUTPUT = Group("Output", sort_key=3)
_ONCE = Group("Never twice", sort_key=4)


@Parameter(name="*")
@dataclass(frozen=True)
class What:
    """What to test, and where.

    Attributes:
        plan: The test plan, pln_...; the project's default plan when absent.
        test_case: UUID or name of a test case, instead of a plan; may be repeated.
        label: Run the enabled test cases with this label, instead of a plan; with several, those that have all.
        application: Run the enabled test cases of this application, instead of a plan.
        url: APPLICATION=ADDRESS, where an application is tested; may be repeated. Applications and environments are
            given by id or name.
        environment: APPLICATION=ENVIRONMENT, a saved environment; may be repeated.
        build: APPLICATION=BUILD, a mobile build; may be repeated.
        target: What is tested: a commit, say. With --resume, evidence for the same target is kept.
    """

    plan: Annotated[str | None, Parameter(group=_WHAT)] = None
    test_case: Annotated[list[str] | None, Parameter(group=_WHAT, negative="")] = None
    label: Annotated[list[str] | None, Parameter(group=_WHAT, negative="")] = None
    application: Annotated[str | None, Parameter(group=_WHAT)] = None
    url: Annotated[list[str] | None, Parameter(group=_WHAT, negative="")] = None
    environment: Annotated[list[str] | None, Parameter(group=_WHAT, negative="")] = None
    build: Annotated[list[str] | None, Parameter(group=_WHAT, negative="")] = None
    target: Annotated[str | None, Parameter(group=_WHAT)] = None

    def to_request(self) -> QATechRunRequest:
        return QATechRunRequest(
            test_plan_short_id=self.plan,
            test_case_ids=self.test_case,
            labels=self.label,
            application_short_id=self.application,
            applications=_applications(self.url, self.environment, self.build),
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Rules:
    """What is tolerated, and how long the command waits.

    Attributes:
        rerun_failed: How often what failed is rerun, before the verdict; by default what the policy says, which is 2
            for `run`, and not at all for `rerun` and `wait`. Each rerun is paid for.
        policy: The gate's policy, a YAML or JSON file with the fields of `GatePolicy`, such as `max_flaky: 1`.
        deadline_seconds: How long the whole may take, reruns included; 3600 where the policy does not say.
    """

    rerun_failed: Annotated[int | None, Parameter(group=_RULES)] = None
    policy: Annotated[Path | None, Parameter(group=_RULES)] = None
    deadline_seconds: Annotated[float | None, Parameter(group=_RULES)] = None

    def to_policy(self, *, reruns_unasked: bool = True) -> GatePolicy:
        policy = load_policy(self.policy) if self.policy is not None else GatePolicy()
        if not reruns_unasked and self.policy is None:
            policy = policy.model_copy(update={"max_reruns": 0})
        given = {"max_reruns": self.rerun_failed, "deadline_seconds": self.deadline_seconds}
        changes = {name: value for name, value in given.items() if value is not None}
        return GatePolicy(**{**policy.model_dump(), **changes}) if changes else policy


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """Where the result goes.

    Attributes:
        junit: Write the tests as JUnit XML to this file. Needs the extra `junit`.
        report: Write verdict.json, junit.xml, ctrf.json and summary.md to this directory.
        json: Print the report as JSON on stdout, instead of text.
    """

    junit: Annotated[Path | None, Parameter(group=_OUTPUT)] = None
    report: Annotated[Path | None, Parameter(group=_OUTPUT)] = None
    json: Annotated[bool, Parameter(group=_OUTPUT, negative="")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Once:
    """What to do where the same command was run before.

    Attributes:
        journal: Where it is kept what was started.
        resume: Go on with the runs that an earlier command with the same request has started.
        anew: Start anew, whatever an earlier command has started.
        started: With --resume: the run that the earlier command has started, as found at QA.tech.
        not_started: With --resume: the earlier command has surely started nothing.
    """

    journal: Annotated[Path, Parameter(group=_ONCE)] = DEFAULT_JOURNAL
    resume: Annotated[bool, Parameter(group=_ONCE, negative="")] = False
    anew: Annotated[bool, Parameter(group=_ONCE, negative="")] = False
    started: Annotated[str | None, Parameter(group=_ONCE)] = None
    not_started: Annotated[bool, Parameter(group=_ONCE, negative="")] = False

    def mode(self) -> Mode:
        if self.resume and self.anew:
            raise InvalidInputError("Give --resume or --anew, not both.")
        if (self.started is not None or self.not_started) and not self.resume:
            raise InvalidInputError("--started and --not-started go with --resume.")
        if self.started is not None and self.not_started:
            raise InvalidInputError("Give --started or --not-started, not both.")
        return "resume" if self.resume else "anew" if self.anew else "new"

    def open(self, asked: dict[str, Any], credentials: QATechCredentials) -> RunJournal:
        """Open the journal of a campaign, and settle there what the user has found out."""
        check_journal_directory(self.journal)
        journal = RunJournal(self.journal, asked, address_of(credentials))
        if not self.anew:
            journal.check_place()
        if self.started is None and not self.not_started:
            return journal
        open_slots = [slot for slot in journal.slots() if journal.has_open_intent(slot)]
        if len(open_slots) != 1:
            raise InvalidInputError(
                "The journal has no start of this request whose outcome is unknown: leave out --started and "
                "--not-started."
            )
        [slot] = open_slots
        # Another command may be waiting for the answer to its POST.
        seconds = credentials.timeout_seconds + _MARGIN_SECONDS - journal.age_of_intent_seconds(slot)
        if seconds > 0:
            raise InvalidInputError(
                f"The POST of the earlier command can still be under way: try again in {seconds:.0f} s."
            )
        if self.started is None:
            journal.clear_intent(slot)
        else:
            if (known := journal.start_of(self.started)) is not None:
                raise InvalidInputError(
                    f"--started: run {self.started} is on record already ({known[0]}), so another start has started it."
                )
            judged = journal.target_judged(self.started)
            if judged is not None and judged != asked["target"]:
                raise InvalidInputError(f"--started: run {self.started} was judged for another target, {judged}.")
            journal.settle(
                slot,
                attached_run(check_run_short_id(self.started)).model_copy(
                    update={} if slot == FIRST else {"kind": "rerun"}
                ),
            )
        return journal


def run(*, what: What = What(), rules: Rules = Rules(), output: Output = Output(), once: Once = Once()) -> Never:
    """Run tests, rerun what failed, and say whether the release may go out; no Prefect server is needed.

    The token is read from QATECH_API_TOKEN (or QATECH_API_KEY), its address and project from QATECH_API_URL and
    QATECH_PROJECT_SHORT_ID.
    """

    def work(display: Display) -> Coroutine[Any, Any, GateReport]:
        check_target(what.target)
        credentials = QATechCredentials.from_env()
        request = what.to_request()
        asked = {"request": request.to_json(), "target": what.target}
        subject = subject_of(request, target=what.target, project_short_id=credentials.project_short_id)
        policy = rules.to_policy()
        return _started(display, credentials, request, QATechClient.start_run, asked, policy, once, subject)

    _gate(work, output, resume=True)


def rerun(
    run: str,
    /,
    *,
    failed_only: Annotated[bool, Parameter(negative="")] = False,
    test_case: Annotated[list[str] | None, Parameter(negative="")] = None,
    target: str | None = None,
    rules: Rules = Rules(),
    output: Output = Output(),
    once: Once = Once(),
) -> Never:
    """Run a run's test cases again, wait, and judge what was run again; no Prefect server is needed.

    Args:
        run: The run's short id, the last part of its address.
        failed_only: Only what failed, was skipped or ended in an error.
        test_case: UUID or name of a test case to repeat; may be repeated.
        target: What is tested: a commit, say.
    """

    def work(display: Display) -> Coroutine[Any, Any, GateReport]:
        check_target(target)
        credentials = QATechCredentials.from_env()
        request = QATechRerunRequest(failed_only=failed_only, test_case_ids=test_case)
        base = check_run_short_id(run)

        async def send(client: QATechClient, wanted: QATechRerunRequest) -> QATechStartedRun:
            return await client.rerun(base, wanted)

        asked = {"rerun": request.to_json(), "of": base, "target": target}
        subject = GateSubject(target=target, project_short_id=credentials.project_short_id)
        policy = rules.to_policy(reruns_unasked=False)
        note = f"Only what was run again is judged here, which may be a part of the tests of run {base}."
        return _started(display, credentials, request, send, asked, policy, once, subject, note)

    _gate(work, output, resume=True)


def wait(
    run: str,
    /,
    *,
    target: str | None = None,
    journal: Path = DEFAULT_JOURNAL,
    rules: Rules = Rules(),
    output: Output = Output(),
) -> Never:
    """Wait for a run that was started elsewhere, and judge it; nothing is started but for --rerun-failed.

    Args:
        run: The run's short id, the last part of its address.
        target: What is tested: a commit, say. A run that was started or judged for another target is no evidence.
        journal: Where it is kept what was started and judged.
    """

    def work(display: Display) -> Coroutine[Any, Any, GateReport]:
        check_target(target)
        credentials = QATechCredentials.from_env()
        attached = attached_run(check_run_short_id(run))
        policy = rules.to_policy(reruns_unasked=False)
        beside = RunJournal(journal, {"attached": attached.run_short_id}, address_of(credentials))
        beside.check_place()
        steps = TerminalSteps(
            credentials,
            beside,
            display,
            policy.deadline_seconds,
            attached=attached,
            subject=GateSubject(target=target, project_short_id=credentials.project_short_id),
            polling=POLLING,
        )
        return _campaign(steps, policy).run()

    _gate(work, output, resume=False)


def status(run: str, /, *, json: Annotated[bool, Parameter(negative="")] = False) -> Never:
    """Show how a run stands now, with its tests.

    Args:
        run: The run's short id, the last part of its address.
        json: Print it as JSON.
    """

    async def look() -> QATechRun:
        async with QATechCredentials.from_env().get_client() as client:
            return await client.get_run(check_run_short_id(run), test_cases="all")

    try:
        found = asyncio.run(look())
    except (QATechError, ValueError) as error:
        end(one_line(str(error)))
    show_lines([found.model_dump_json(by_alias=False)] if json else _status_lines(found))
    sys.exit(0)


def _status_lines(run: QATechRun) -> Iterator[str]:
    result = f" ({run.result})" if run.result else ""
    told = f"{run.finished_test_count} of {len(run.test_cases)} test cases finished"
    yield one_line(f"Run {run.run_short_id}: {run.status or 'no status'}{result}, {told}")
    for case in run.test_cases:
        why = f": {case.result_title}" if case.result_title else ""
        yield f"  {one_line(case.result or case.status):<9} {one_line(case.name + why)}"


def _started(
    display: Display,
    credentials: QATechCredentials,
    request: RequestT,
    send: Callable[[QATechClient, RequestT], Awaitable[QATechStartedRun]],
    asked: dict[str, Any],
    policy: GatePolicy,
    once: Once,
    subject: GateSubject,
    *notes: str,
) -> Coroutine[Any, Any, GateReport]:
    """Run the campaign whose first run a request starts, with ids in place of names."""
    wanted = request

    async def prepare(client: QATechClient) -> None:
        nonlocal wanted
        wanted = await resolve(client, request)

    mode = once.mode()
    steps = TerminalSteps(
        credentials,
        once.open(asked, credentials),
        display,
        policy.deadline_seconds,
        start=lambda client: send(client, wanted),
        prepare=prepare,
        subject=subject,
        notes=notes,
        mode=mode,
        polling=POLLING,
    )
    return _campaign(steps, policy).run()


def _campaign(steps: TerminalSteps, policy: GatePolicy) -> GateCampaign:
    return GateCampaign(steps, policy, logger=steps.logger, first_poll_seconds=steps.polling.first_seconds)


def _applications(
    urls: list[str] | None, environments: list[str] | None, builds: list[str] | None
) -> list[QATechApplication] | None:
    applications = [
        QATechApplication(application_short_id=name, environment=QATechEnvironment(**{field: value}))
        for option, field, given in (
            ("--url", "url", urls),
            ("--environment", "short_id", environments),
            ("--build", "application_build_short_id", builds),
        )
        for name, value in (_pair(option, text) for text in given or [])
    ]
    return applications or None


def _pair(option: str, text: str) -> tuple[str, str]:
    name, is_pair, value = text.partition("=")
    if not (is_pair and name and value):
        raise InvalidInputError(f"{option} {text}: APPLICATION=... is needed, such as {option} app_shop=https://...")
    return name, value


def _gate(work: Any, output: Output, *, resume: bool) -> Never:
    """Do the work, print its report and end with the exit code of its verdict."""
    display = display_for(os.environ)
    try:
        forget_older(junit=output.junit, directory=output.report)
        # Before anything is started.
        if output.report is not None:
            check_report_directory(output.report)
        elif output.junit is not None:
            check_junit()
        report = asyncio.run(_interruptible(work(display)))
        show(report, junit=output.junit, directory=output.report, as_json=output.json, environ=os.environ)
    except (asyncio.CancelledError, KeyboardInterrupt):
        display.close()
        display.tell(
            "Interrupted." + (" What was started goes on at QA.tech; --resume goes on with it." if resume else "")
        )
        sys.exit(INTERRUPTED)
    except (QATechError, ValueError, OSError) as error:
        display.close()
        with suppress(OSError):
            if output.json:
                show_lines([json.dumps({"error": type(error).__name__, "message": str(error)})])
            show_lines(tell_ci_of_an_error(error, os.environ), sys.stderr)
        end(one_line(str(error)))
    sys.exit(EXIT_CODES[report.verdict])


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Do the work; Ctrl-C and SIGTERM cancel it, so that a POST under way is recorded first."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            if task is not None:
                loop.add_signal_handler(number, task.cancel)
    return await work
