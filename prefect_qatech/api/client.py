"""One method per endpoint of the QA.tech API. Each sends once; retrying is for the callers.

Answers are held against what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import ValidationError

from prefect_qatech.addresses import safe_url
from prefect_qatech.api.answers import Exchange, where_to_look
from prefect_qatech.api.catalogue import (
    QATechBuild,
    QATechCreatedTestCase,
    QATechNewTestCase,
    QATechReleaseCheck,
    QATechReleaseCheckRequest,
    QATechStartedReleaseCheck,
)
from prefect_qatech.api.ids import check_id, check_run_short_id, names
from prefect_qatech.api.lists import Lists
from prefect_qatech.api.requests import QATechRerunRequest, QATechRunRequest
from prefect_qatech.api.responses import QATechRun, QATechRunTestCaseDetails, QATechStartedRun
from prefect_qatech.api.transport import ModelT
from prefect_qatech.api.uploads import BuildFile, UploadAddress, UploadedFile, put_file
from prefect_qatech.exceptions import (
    BadRequestError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OtherPlanStarted,
    QATechConnectionError,
    StartOutcomeUnknown,
)

_NOBODY = "00000000-0000-0000-0000-000000000000"


class QATechClient(Lists):
    """Client of the QA.tech API. Use it as an async context manager.

    Clients with the same token, address and time limits that are open in the same event loop share their connections.
    A start or rerun always goes over a connection of its own.

    Args:
        api_token: The API token, or what gives it when the client is opened.
        api_url: Root of the service, without `/v1`.
        project_short_id: Named in every call, where the token belongs to an organisation; its id or name.
        timeout_seconds: Time limit of a whole request, from when it has its place among the connections.
        connect_timeout_seconds: Time limit for making the connection.
        max_response_bytes: Size limit of an answer.
        transport: Another httpx transport, for tests.

    Example:
        ```python
        async with QATechCredentials.load("prod").get_client() as client:
            run = await client.get_run("abc123", test_cases="all")
        ```
    """

    async def start_run(self, request: QATechRunRequest) -> QATechStartedRun:
        """Start a run (`POST /run`).

        - Where QA.tech answers with a run of another plan than was asked for, `OtherPlanStarted` carries that run's id
          and address: it exists and is paid for, and nothing starts another one in its place.
        - Test cases that were asked for one by one are all expected, also where QA.tech's answer counts fewer of them.

        Args:
            request: What to test, where.

        Returns:
            The run, as accepted.

        Raises:
            OtherPlanStarted: A run was started, of another plan.
            StartOutcomeUnknown: It may or may not have been started.
            QATechAPIError: It was surely not started; `retryable` tells whether it may be sent again.
        """
        if request.is_selection:
            # The API ignores fields that it does not know, and would run the default plan.
            raise InvalidInputError(
                "labels and application_short_id have to be resolved to test cases before a run is started, as "
                "start_test_run and release_gate do; the API does not know them."
            )
        exchange = self._exchange("POST", "run", ids=request.ids())
        run = await self._start(exchange, request.to_json())
        self._check_plan(request.test_plan_short_id, run, exchange)
        asked = len(set(request.test_case_ids or ()))
        return run.model_copy(update={"test_count": asked}) if asked > (run.test_count or 0) else run

    async def rerun(
        self, run_short_id: str, request: QATechRerunRequest, *, plan_short_id: str | None = None
    ) -> QATechStartedRun:
        """Run a run's test cases again: all, those that did not pass, or listed ones (`POST /run/{shortId}`).

        Args:
            run_short_id: The run to repeat.
            request: Which of its test cases.
            plan_short_id: The plan that it is of, where that is known; the new run is held against it.

        Returns:
            The new run, as accepted.

        Raises:
            OtherPlanStarted: A run was started, of another plan.
            StartOutcomeUnknown: It may or may not have been started.
            NothingToRerunError: The service says that no test case is left to rerun.
            QATechAPIError: It was surely not started; `retryable` tells whether it may be sent again.
        """
        path = f"run/{check_run_short_id(run_short_id)}"
        ids = {"run": run_short_id, **request.ids()}
        exchange = self._exchange("POST", path, run_short_id=run_short_id, ids=ids)
        run = await self._start(exchange, request.to_json())
        if run.run_short_id == run_short_id:
            raise exchange.outcome_unknown("the answer names the run that was to be rerun, and no new one")
        self._check_plan(plan_short_id, run, exchange)
        return run

    async def may_start_runs(self) -> bool:
        """Return whether the token may start runs, without a start.

        - It asks for what the API refuses twice over: a rerun with both filters (400), of no run at all (404).
          A token that may only read is refused it with 403.

        Returns:
            False where the token was refused it; True where only the request was.

        Raises:
            StartOutcomeUnknown: The answer tells neither.
            QATechAPIError: Something else is wrong: no access at all, the usage limit, a service that is down.
        """
        exchange = self._exchange("POST", f"run/no-such-run-{uuid4().hex}")
        try:
            await self._send(exchange, body={"failedOnly": True, "projectTestCaseIds": [_NOBODY]})
        except (BadRequestError, NotFoundError):
            return True
        except ForbiddenError:
            return False
        raise exchange.outcome_unknown("QA.tech accepted what its documents say that it refuses")

    async def get_run(
        self, run_short_id: str, *, test_cases: Literal["failed", "all"] | None = None, with_issues: bool = False
    ) -> QATechRun:
        """Look at a run (`GET /run/{shortId}`).

        Args:
            run_short_id: The run.
            test_cases: Which of its test cases to list; none when absent.
            with_issues: Whether to list what QA.tech noticed in it.

        Returns:
            Its status and results.

        Raises:
            QATechAPIError: The look failed; `retryable` tells whether another may succeed.
        """
        path = f"run/{check_run_short_id(run_short_id)}"
        exchange = self._exchange("GET", path, run_short_id=run_short_id, ids={"run": run_short_id})
        query = {**({"testCases": test_cases} if test_cases else {}), **({"issues": "all"} if with_issues else {})}
        run = self._parse(QATechRun, await self._send(exchange, query=query), exchange)
        if run.run_short_id != run_short_id:
            raise exchange.undocumented(f"QA.tech answered about another run than {run_short_id}, which was asked for.")
        return run

    async def get_run_test_case(self, run_test_case_short_id: str) -> QATechRunTestCaseDetails:
        """Look at one test case's execution (`GET /run-test-case/{shortId}`).

        Args:
            run_test_case_short_id: The `short_id` of a `QATechRunTestCase`.

        Returns:
            What is known of it, its error code among it.

        Raises:
            QATechAPIError: The look failed.
        """
        path = f"run-test-case/{check_id(run_test_case_short_id)}"
        exchange = self._exchange("GET", path, ids={"run test case": run_test_case_short_id})
        details = self._parse(QATechRunTestCaseDetails, await self._send(exchange), exchange)
        if details.short_id not in (None, run_test_case_short_id):
            raise exchange.undocumented(
                f"QA.tech answered about another execution than {run_test_case_short_id}, which was asked for."
            )
        return details

    async def create_test_case(self, request: QATechNewTestCase) -> QATechCreatedTestCase:
        """Create a test case, disabled (`POST /test-cases`).

        Args:
            request: What it is.

        Raises:
            StartOutcomeUnknown: It may or may not have been created.
            QATechAPIError: It was surely not created; `retryable` tells whether it may be sent again.
        """
        return await self._make(
            QATechCreatedTestCase,
            "test-cases",
            request.to_json(),
            ids=request.ids(),
            makes="test case",
            within="testCase",
        )

    async def start_release_check(self, request: QATechReleaseCheckRequest) -> QATechStartedReleaseCheck:
        """Start a release check (`POST /release-checks`).

        Args:
            request: What to check.

        Raises:
            StartOutcomeUnknown: It may or may not have been started.
            QATechAPIError: It was surely not started; `retryable` tells whether it may be sent again.
        """
        return await self._make(
            QATechStartedReleaseCheck, "release-checks", request.to_json(), ids=request.ids(), makes="release check"
        )

    async def get_release_check(self, release_check_short_id: str) -> QATechReleaseCheck:
        """Look at a release check (`GET /release-checks/{shortId}`).

        Args:
            release_check_short_id: The release check.

        Raises:
            QATechAPIError: The look failed; `retryable` tells whether another may succeed.
        """
        exchange = self._exchange(
            "GET", f"release-checks/{check_id(release_check_short_id)}", ids={"release check": release_check_short_id}
        )
        check = self._parse(QATechReleaseCheck, await self._send(exchange), exchange)
        if check.short_id not in ("", release_check_short_id):
            raise exchange.undocumented(
                f"QA.tech answered about another release check than {release_check_short_id}, which was asked for."
            )
        return check

    async def upload_build(
        self,
        application_short_id: str,
        path: Path,
        *,
        on_progress: Callable[[int, int], Awaitable[None]] | None = None,
        timeout_seconds: float = 1800.0,
    ) -> QATechBuild:
        """Upload a mobile build and register it: `upload_file`, then `register_build`.

        Raises:
            InvalidInputError: The file cannot be read, or is none of a mobile application; nothing was sent.
        """
        file = BuildFile.of(path)
        uploaded = await self.upload_file(
            application_short_id, file, on_progress=on_progress, timeout_seconds=timeout_seconds
        )
        return await self.register_build(application_short_id, uploaded)

    async def upload_file(
        self,
        application_short_id: str,
        file: BuildFile,
        *,
        on_progress: Callable[[int, int], Awaitable[None]] | None = None,
        timeout_seconds: float = 1800.0,
    ) -> UploadedFile:
        """Ask for an address and PUT the file of a build there; it may be repeated, as this makes no build yet.

        The file goes as a stream to an address of a store for files, without the token.

        Args:
            application_short_id: The application.
            file: The file.
            on_progress: Told how many bytes of how many were sent.
            timeout_seconds: How long the upload of the file may take.

        Raises:
            QATechAPIError: It was not uploaded; `retryable` tells whether it may be tried again.
        """
        ids = {"application_short_id": application_short_id}
        path = f"applications/{check_id(application_short_id)}/builds/upload-url"
        try:
            address = await self._make(UploadAddress, path, {"fileName": file.name}, ids=ids, makes="upload")
        except StartOutcomeUnknown as error:
            told = f"{error.request} gave no address for the upload of {file.name}; it can be tried again."
            raise QATechConnectionError(told, request=error.request, retryable=True) from None
        sha256 = await put_file(file, address.upload_url, timeout_seconds=timeout_seconds, on_progress=on_progress)
        return UploadedFile(address.build_token, file.platform, sha256)

    async def register_build(self, application_short_id: str, file: UploadedFile) -> QATechBuild:
        """Make a build of a file that was uploaded (`POST /applications/{shortId}/builds`).

        Args:
            application_short_id: The application.
            file: What `upload_file` returned.

        Raises:
            StartOutcomeUnknown: The build may or may not have been registered.
            QATechAPIError: It was surely not registered; `retryable` tells whether it may be tried again.
        """
        ids = {"application_short_id": application_short_id}
        path = f"applications/{check_id(application_short_id)}/builds"
        body = {"platform": file.platform, "buildToken": file.build_token}
        return await self._make(QATechBuild, path, body, ids=ids, makes="build")

    async def _make(
        self,
        model: type[ModelT],
        path: str,
        body: Mapping[str, Any],
        *,
        ids: Mapping[str, str],
        makes: str,
        within: str | None = None,
    ) -> ModelT:
        """Send a POST and return what it has made; an answer that cannot be read leaves its outcome unknown.

        `within` is the field of the answer that holds it; None where the answer itself does.
        """
        exchange = self._exchange("POST", path, ids=ids, makes=makes)
        answer = await self._send(exchange, body=body)
        if isinstance(answer, dict) and not answer.get("success", True):
            raise exchange.outcome_unknown("the answer says success: false")
        try:
            return model.model_validate(answer if within is None else answer[within])
        except (KeyError, TypeError, ValidationError):
            pass
        raise exchange.outcome_unknown("the answer does not name it")

    def _check_plan(self, asked: str | None, run: QATechStartedRun, exchange: Exchange) -> None:
        started = run.test_plan.short_id if run.test_plan else None
        if not asked or not started or names(asked, started):
            return
        url = safe_url(run.url)
        raise OtherPlanStarted(
            f"QA.tech was asked for a run of plan {asked} ({exchange}) and started run {run.run_short_id} of plan "
            f"{self._clean(started)} ({url or 'no address given'}), which is paid for and no evidence about {asked}. "
            "Nothing is started in its place: find out at QA.tech why, then run the flow anew.",
            asked_plan=asked,
            started_plan=started,
            request=str(exchange),
            sent_at=exchange.sent_at_text,
            run_short_id=run.run_short_id,
            run_url=url,
        )

    async def _start(self, exchange: Exchange, body: dict[str, Any]) -> QATechStartedRun:
        answer = await self._send(exchange, body=body)
        try:
            run = QATechStartedRun.model_validate(answer["run"])
        except (KeyError, TypeError, ValidationError):
            run = None
        if isinstance(answer, dict) and not answer.get("success", True):
            words = self._clean(str(answer.get("message") or ""))
            raise exchange.outcome_unknown(
                f"QA.tech answered 200 with success: {self._clean(json.dumps(answer['success']))}"
                + (f" and run {run.run_short_id}" if run else " and no run")
                + (f', and says: "{words}"' if words else ""),
                run_short_id=run.run_short_id if run else None,
                run_url=safe_url(run.url) if run else None,
            )
        if run is None:
            raise StartOutcomeUnknown(
                f"QA.tech accepted {exchange}, sent at {exchange.sent_at_text}, but its answer names no run. "
                f"{where_to_look(exchange.makes)}",
                request=str(exchange),
                sent_at=exchange.sent_at_text,
            )
        return run
