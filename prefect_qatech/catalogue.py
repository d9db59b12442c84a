"""Prefect tasks for what a project has at QA.tech: lists of it, new test cases, mobile builds; sync and async versions.

- A list never comes from a cache. Prefect repeats a GET that failed and may not fail again.
- A test case or a build is made once: within a flow run the ledger finds, on any retry or restart, what was made.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from prefect_qatech import ledger
from prefect_qatech._prefect import check_that_prefect_returns_results, run_logger
from prefect_qatech.addresses import safe_url
from prefect_qatech.api.catalogue import (
    QATechApplicationInfo,
    QATechBuild,
    QATechCreatedTestCase,
    QATechEnvironmentInfo,
    QATechNewTestCase,
    QATechProject,
    QATechTestCase,
    QATechTraceStep,
)
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.lists import MAX_TRACE_STEPS
from prefect_qatech.api.lookup import find_out, remembered_in
from prefect_qatech.api.names import Question, id_of
from prefect_qatech.api.uploads import BuildFile, UploadedFile, sha256_of
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.exceptions import InvalidInputError, QATechError
from prefect_qatech.inputs import short_repr
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.report import artifacts
from prefect_qatech.starts import address_of, call_of_start, check_call, send_once
from prefect_qatech.task_names import named
from prefect_qatech.task_options import RETRIED, task_in_both_versions

T = TypeVar("T")

UPLOAD_SECONDS = 1800.0


async def _ask(credentials: QATechCredentials, ask: Callable[[QATechClient], Awaitable[T]]) -> T:
    check_credentials(credentials)
    async with credentials.get_client() as client:
        return await ask(client)


async def _ask_of(
    credentials: QATechCredentials, application: str | None, ask: Callable[[QATechClient, str], Awaitable[T]]
) -> T:
    async def of_it(client: QATechClient) -> T:
        return await ask(client, await _application_id(client, application) if application is not None else "")

    return await _ask(credentials, of_it)


@task_in_both_versions(description="List the projects of the QA.tech token.", task_run_name="list projects", **RETRIED)
async def list_projects(credentials: QATechCredentials) -> list[QATechProject]:
    """Return the projects that the token may use (`GET /projects`).

    Args:
        credentials: How to reach QA.tech.

    Raises:
        QATechAPIError: They could not be had.

    Example:
        ```python
        names = [project.name for project in list_projects(credentials)]
        ```
    """
    return await _ask(credentials, lambda client: client.list_projects())


alist_projects = list_projects.async_version


@task_in_both_versions(
    description="List the applications of a QA.tech project.", task_run_name="list applications", **RETRIED
)
async def list_applications(credentials: QATechCredentials) -> list[QATechApplicationInfo]:
    """Return the applications of the project (`GET /applications`).

    Args:
        credentials: How to reach QA.tech.

    Raises:
        QATechAPIError: They could not be had.

    Example:
        ```python
        web = [app for app in list_applications(credentials) if app.kind == "web"]
        ```
    """
    return await _ask(credentials, lambda client: client.list_applications())


alist_applications = list_applications.async_version


@task_in_both_versions(
    description="List the environments of a QA.tech application.",
    task_run_name=named("list environments of", "application_short_id"),
    **RETRIED,
)
async def list_environments(credentials: QATechCredentials, application_short_id: str) -> list[QATechEnvironmentInfo]:
    """Return the saved environments of an application (`GET /applications/{shortId}/environments`).

    Args:
        credentials: How to reach QA.tech.
        application_short_id: The application, by id or name.

    Raises:
        QATechAPIError: They could not be had.

    Example:
        ```python
        [staging] = [saved for saved in list_environments(credentials, "app_shop") if not saved.is_production]
        ```
    """
    return await _ask_of(credentials, application_short_id, lambda client, found: client.list_environments(found))


alist_environments = list_environments.async_version


@task_in_both_versions(
    description="List the test cases of a QA.tech project.",
    task_run_name=named("list test cases of", "application_short_id"),
    **RETRIED,
)
async def list_test_cases(
    credentials: QATechCredentials,
    *,
    application_short_id: str | None = None,
    labels: Sequence[str] = (),
    is_enabled: bool | None = None,
) -> list[QATechTestCase]:
    """Return the test cases of the project (`GET /test-cases`), all pages of them, also where the list shifts.

    Args:
        credentials: How to reach QA.tech.
        application_short_id: Only those of an application, by id or name.
        labels: Only those that have all of these labels.
        is_enabled: Only those that are enabled, or disabled.

    Raises:
        InvalidInputError: That are no labels; nothing was sent.
        QATechAPIError: They could not be had.

    Example:
        ```python
        smoke = list_test_cases(credentials, labels=["smoke"], is_enabled=True)
        ```
    """
    return await _ask_of(
        credentials,
        application_short_id,
        lambda client, found: client.list_test_cases(
            application_short_id=found or None, labels=labels, is_enabled=is_enabled
        ),
    )


alist_test_cases = list_test_cases.async_version


@task_in_both_versions(
    description="List the builds of a QA.tech application.",
    task_run_name=named("list builds of", "application_short_id"),
    **RETRIED,
)
async def list_builds(
    credentials: QATechCredentials, application_short_id: str, *, max_builds: int = 100
) -> list[QATechBuild]:
    """Return the newest builds of a mobile application (`GET /applications/{shortId}/builds`).

    Args:
        credentials: How to reach QA.tech.
        application_short_id: The application, by id or name.
        max_builds: How many at most.

    Raises:
        QATechAPIError: They could not be had.

    Example:
        ```python
        newest, *_ = list_builds(credentials, "app_droid", max_builds=1)
        ```
    """
    return await _ask_of(
        credentials, application_short_id, lambda client, found: client.list_builds(found, max_builds=max_builds)
    )


alist_builds = list_builds.async_version


@task_in_both_versions(
    description="List the addresses of QA.tech's agents.", task_run_name="list outbound IPs", **RETRIED
)
async def list_outbound_ips(credentials: QATechCredentials) -> list[str]:
    """Return the addresses from which QA.tech's agents come (`GET /outbound-ips`), for a firewall; no token is sent.

    Args:
        credentials: How to reach QA.tech.

    Raises:
        QATechAPIError: They could not be had.

    Example:
        ```python
        allowed = list_outbound_ips(credentials)
        ```
    """
    return await _ask(credentials, lambda client: client.list_outbound_ips())


alist_outbound_ips = list_outbound_ips.async_version


@task_in_both_versions(
    description="Read what the agent did in a QA.tech test.",
    task_run_name=named("get trace of", "run_test_case_short_id"),
    **RETRIED,
)
async def get_test_case_trace(
    credentials: QATechCredentials, run_test_case_short_id: str, *, max_steps: int = MAX_TRACE_STEPS
) -> list[QATechTraceStep]:
    """Return what the agent did in one execution (`GET /run-test-case/{shortId}/trace`), all pages of it.

    Args:
        credentials: How to reach QA.tech.
        run_test_case_short_id: The `short_id` of a `QATechRunTestCase`.
        max_steps: More than these are an error: the last ones tell why a test failed.

    Raises:
        InvalidInputError: That is no short id; nothing was sent.
        QATechAPIError: It could not be had.

    Example:
        ```python
        *_, last = get_test_case_trace(credentials, test.short_id)
        ```
    """
    return await _ask(
        credentials, lambda client: client.get_test_case_trace(run_test_case_short_id, max_steps=max_steps)
    )


aget_test_case_trace = get_test_case_trace.async_version


def _made(makes: str, made_id: str, url: str | None, name: str) -> QATechRunRecord:
    """Name in the log what was made, before anything else can fail, and make a record of it."""
    record = QATechRunRecord(
        kind="start", makes=makes, run_short_id=made_id, run_url=safe_url(url), started_at=datetime.now(timezone.utc)
    )
    run_logger().info("QA.tech %s %s was made: %s", makes, made_id, name)
    return record


@task_in_both_versions(
    description="Create a QA.tech test case, once per flow run.",
    task_run_name=named("create test case", "request"),
    **RETRIED,
)
async def create_test_case(
    credentials: QATechCredentials, request: QATechNewTestCase, *, label: str | None = None
) -> QATechCreatedTestCase:
    """Create a test case (`POST /test-cases`); QA.tech creates it disabled.

    Retries, equal calls and labels work as in `start_test_run`: it is created once.

    Args:
        credentials: How to reach QA.tech.
        request: What it is.
        label: Names this creation within the flow run; required inside a task.

    Returns:
        Its id, by which it is started, and its address.

    Raises:
        InvalidInputError: That is no test case, or a label is missing; nothing was sent.
        StartOutcomeUnknown: It may or may not have been created; nothing retries this.
        LedgerConflict: What is on record does not fit this call; nothing was sent.
        QATechAPIError: QA.tech did not accept it.

    Example:
        ```python
        case = create_test_case(
            credentials,
            QATechNewTestCase(name="Pay by card", goal="Buy a book and pay by card.", application_short_id="app_shop"),
        )
        ```
    """
    check_call(credentials, label)
    if not isinstance(request, QATechNewTestCase):
        raise InvalidInputError(f"request must be a QATechNewTestCase, not {short_repr(request)}")
    what = f"POST /v1/test-cases ({request.name})"
    call = call_of_start(credentials, request, what, makes="test case", label=label)

    async def send(client: QATechClient, wanted: QATechNewTestCase) -> QATechRunRecord:
        created = await client.create_test_case(wanted)
        return _made("test case", created.id, created.url, request.name)

    record = await send_once(credentials, call, request, send)
    return QATechCreatedTestCase(id=record.run_short_id, name=request.name, url=record.run_url)


acreate_test_case = create_test_case.async_version


async def _application_id(client: QATechClient, application: str, flow_run_id: object = None) -> str:
    await client.know_project()
    question = Question("application")
    return await find_out(
        client,
        lambda answers: id_of(application, question, answers, "application_short_id"),
        remembered_in(flow_run_id, client),
    )


@task_in_both_versions(
    description="Upload a mobile build to QA.tech, once per flow run.", task_run_name=named("upload", "path"), **RETRIED
)
async def upload_build(
    credentials: QATechCredentials,
    application_short_id: str,
    path: Path | str,
    *,
    timeout_seconds: float = UPLOAD_SECONDS,
    artifact_key: str | None = None,
) -> QATechBuild:
    """Upload a mobile build and register it: ask for an address, PUT the file there, make a build of it.

    - Within a flow run a file's content is registered once for an application, wherever it is asked for; the same
      content again gives the same build, and uploads nothing.
    - The file goes as a stream, without the token, to the store that QA.tech names; a progress artifact moves with it.
    - An upload that breaks off makes no build, so Prefect tries it again; a registration is never sent twice.

    Args:
        credentials: How to reach QA.tech.
        application_short_id: The application, by id or name.
        path: The file, .apk, .aab or .ipa.
        timeout_seconds: How long the upload of the file may take.
        artifact_key: Key of the progress artifact, instead of one made of the file's name.

    Returns:
        The build; `as_environment()` of it says where to test.

    Raises:
        InvalidInputError: The file cannot be read, or is none of a mobile application, or has changed meanwhile; no
            build was made.
        StartOutcomeUnknown: The build may or may not have been registered; nothing retries this.
        QATechAPIError: It was surely not registered.

    Example:
        ```python
        build = upload_build(credentials, "app_droid", "shop.apk")
        application = QATechApplication(application_short_id="app_droid", environment=build.as_environment())
        run = start_test_run(credentials, QATechRunRequest(test_plan_short_id="pln_1", applications=[application]))
        ```
    """
    check_credentials(credentials)
    check_that_prefect_returns_results()
    file = BuildFile.of(Path(path))
    content, address = await sha256_of(file), address_of(credentials)
    call = ledger.Call(
        kind="start",
        makes="build",
        what=f"POST /v1/applications/{application_short_id}/builds ({file.name})",
        fingerprint=ledger.fingerprint(application_short_id, content, address),
        address=address,
        # The content is what a build is: wherever in the flow run it is asked for, it is that build.
        label=f"{content} of {application_short_id} at {address}",
    )
    progress = artifacts.Progress(
        f"QA.tech: upload of {file.name}", artifact_key or artifacts.artifact_key("upload", file.name)
    )
    uploaded: UploadedFile | None = None
    application = application_short_id

    async def show(sent: int, total: int) -> None:
        progress.show(100.0 * sent / total, is_over=sent >= total)

    async with credentials.get_client() as client:

        async def prepare(flow_run_id: UUID | None) -> None:
            nonlocal uploaded, application
            application = await _application_id(client, application_short_id, flow_run_id)
            async with progress:
                uploaded = await client.upload_file(
                    application, file, on_progress=show, timeout_seconds=timeout_seconds
                )
            if uploaded.sha256 != content:
                raise InvalidInputError(f"{file.path} has changed while it was uploaded. No build was made of it.")

        async def send() -> QATechRunRecord:
            if uploaded is None:
                raise QATechError("Nothing was uploaded.")
            build = await client.register_build(application, uploaded)
            return _made("build", build.application_build_short_id, None, file.name)

        record = await ledger.once(call, send, post_seconds=credentials.timeout_seconds, prepare=prepare)
    return QATechBuild(
        application_build_short_id=record.run_short_id,
        platform=file.platform,
        file_name=file.name,
        file_size_bytes=file.size,
    )


aupload_build = upload_build.async_version
