"""Every error that this package raises on purpose.

```
QATechError
├── QATechAPIError                 a request to QA.tech did not give what was asked for
│   ├── QATechConnectionError      the service could not be reached, or the connection broke
│   ├── QATechTimeoutError         no (complete) answer in time
│   ├── InvalidResponseError       an answer that is not what the API documents: HTML, broken JSON, too large
│   ├── BadRequestError            400
│   │   └── NothingToRerunError    400 of a rerun: no test case is left to rerun
│   ├── UnauthorizedError          401
│   ├── UsageLimitError            402
│   ├── ForbiddenError             403
│   ├── NotFoundError              404
│   ├── RateLimitedError           429
│   └── ServerError                5xx
├── StartOutcomeUnknown            a run may or may not have been started; nothing retries this
│   └── OtherPlanStarted           a run was started, and is paid for, but of another plan than was asked for
├── LedgerConflict                 the flow run's ledger does not fit the call: nothing was sent
├── LedgerUnavailable              the Prefect API could not be asked for the ledger, for as long as there was time
├── WaitTimedOut                   the deadline passed while the run went on
├── RunsNotEnded                   not every one of several runs was seen to end
├── InvalidInputError              something that was passed in is not what it must be; a ValueError as well
├── GateNotPassed
│   ├── GateFailed                 the gate's verdict is fail
│   └── GateInconclusive           the evidence is not enough for a verdict
└── GatesNotPassed                 not every one of several gates has passed
```

Those that carry runs are defined in `polling.exceptions`, those that carry reports in `report.exceptions`; users import
all of them from `prefect_qatech`.

A sentence of every error says what happened, to which run, and what can be done. The facts are fields as well, and an
error keeps them through pickle, because Prefect stores the exceptions of failed task runs. Where results are stored as
JSON, Prefect keeps the message alone: every error can be made of that, and then says so of the fields that are lost.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field


@dataclass(eq=False, repr=False)
class QATechError(Exception):
    """Base of all errors of this package.

    Args:
        message: What happened and what can be done, in a sentence or two.
        run_short_id: Short id of the QA.tech run that it is about, where there is one.
        run_url: Address of that run on QA.tech.
    """

    message: str
    _: KW_ONLY
    run_short_id: str | None = None
    run_url: str | None = None
    retryable: bool = field(default=False, init=False)
    """Whether the same request may be sent again without any risk of a second run."""

    retry_after_seconds: float | None = field(default=None, init=False)
    """How long the service asked to wait before that, in seconds."""

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False, repr=False, kw_only=True)
class QATechAPIError(QATechError):
    """A request to QA.tech did not give what was asked for.

    Args:
        message: What happened and what can be done.
        status: HTTP status of the answer; None where there was no answer.
        service_message: The service's own words, cut and stripped of control characters; untrusted text.
        request: Method and path of the request, such as `GET /v1/run/abc123`.
        retryable: Whether the same request may be sent again without any risk of a second run.
        retry_after_seconds: How long the service asked to wait before that.
        run_short_id: Short id of the run that the request named.
        run_url: Address of that run on QA.tech.
    """

    status: int | None = None
    service_message: str | None = None
    request: str | None = None
    retryable: bool = False
    retry_after_seconds: float | None = None


class QATechConnectionError(QATechAPIError):
    """The service could not be reached, or the connection broke."""


class QATechTimeoutError(QATechAPIError):
    """No answer, or no complete one, within the time limit of a request."""


class InvalidResponseError(QATechAPIError):
    """The answer is not what the API documents: HTML of a gateway, broken JSON, too large, a redirect."""


class BadRequestError(QATechAPIError):
    """400: the service did not accept what was asked for."""


class NothingToRerunError(BadRequestError):
    """400 of a rerun: the service says that no test case is left to rerun."""


class UnauthorizedError(QATechAPIError):
    """401: no token, or one that the service does not know."""


class UsageLimitError(QATechAPIError):
    """402: the organisation has used up what its plan allows."""


class ForbiddenError(QATechAPIError):
    """403: the token may not do this, or the organisation is suspended."""


class NotFoundError(QATechAPIError):
    """404: no such run, plan, project or test case within reach of the token."""


class RateLimitedError(QATechAPIError):
    """429: too many requests."""


class ServerError(QATechAPIError):
    """5xx: the service, or a gateway before it, failed."""


class InvalidInputError(QATechError, ValueError):
    """Something that was passed in is not what it must be; nothing was sent.

    Args:
        message: What is wrong, in one line: the fields, what they were given, and what they take.
        faults: Each field that is wrong (`applications.0.environment`; empty where it is a combination of fields) with
            a sentence.
    """

    def __init__(self, message: str, *, faults: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


@dataclass(eq=False, repr=False, kw_only=True)
class StartOutcomeUnknown(QATechError):
    """A run may or may not have been started, and nobody here can know which.

    It is never retried: QA.tech has no idempotency key and no list of runs, so a second request could start, and
    bill, a second run.

    Args:
        message: What happened and what can be done.
        request: Method and path of the request whose outcome is unknown.
        sent_at: When it was sent, ISO 8601 in UTC.
        slot: The ledger's name of this start or rerun, for `prefect-qatech ledger`; None outside a flow run.
        flow_run_id: The flow run whose ledger holds the open intent.
        run_short_id: Short id of the run, where the service told it and only the record of it failed.
        run_url: Address of that run, or of the run that was to be rerun.
    """

    request: str | None = None
    sent_at: str | None = None
    slot: str | None = None
    flow_run_id: str | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class OtherPlanStarted(StartOutcomeUnknown):
    """A run was started, and is paid for, but of another plan than was asked for.

    It tells nothing about the plan that was asked for, and it is never retried: that would start, and bill, another
    run. `run_short_id` and `run_url` are those of the run that was started.

    Args:
        message: What happened and what can be done.
        asked_plan: Short id of the plan that was asked for.
        started_plan: Short id of the plan that the run is of.
        request: Method and path of the request.
        sent_at: When it was sent, ISO 8601 in UTC.
        slot: The ledger's name of this start; None outside a flow run.
        flow_run_id: The flow run whose ledger it is.
        run_short_id: Short id of the run that was started.
        run_url: Address of that run.
    """

    asked_plan: str | None = None
    started_plan: str | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class LedgerConflict(QATechError):
    """The flow run's ledger holds something that does not fit this call, so nothing was sent.

    Args:
        message: What does not fit and what can be done.
        slot: The ledger's name of the start or rerun in question.
        flow_run_id: The flow run whose ledger it is.
        run_short_id: Short id of the run that is recorded there.
        run_url: Address of that run.
    """

    slot: str | None = None
    flow_run_id: str | None = None


class LedgerUnavailable(QATechError):
    """The Prefect API could not be asked for what a flow run has on record, for as long as there was time.

    Args:
        message: For how long, about which run, and what can be done.
        run_short_id: Short id of the run that is on record.
        run_url: Address of that run.
    """
