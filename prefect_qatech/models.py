"""What goes over the wire to and from QA.tech.

What users pass in is checked strictly, before any request is made: an unknown field, a malformed id or a combination
that the API does not take is an error that says what is allowed. What the service answers is read tolerantly: unknown
fields are kept aside (`model_extra`), an unknown status or result stays text, and an absent list is an empty one.

Field names are those of Python; the API's names (camelCase) are their aliases. Sources: the vendor's API reference
(https://docs.qa.tech/api-reference) and OpenAPI document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import Self

from prefect_qatech.exceptions import InvalidInputError

__all__ = [
    "FINAL_STATUSES",
    "Checked",
    "QATechApplication",
    "QATechEnvironment",
    "QATechGitHubTrigger",
    "QATechNotification",
    "QATechParameters",
    "QATechRerunRequest",
    "QATechRun",
    "QATechRunRequest",
    "QATechRunTestCase",
    "QATechRunTestCaseDetails",
    "QATechStartedRun",
    "QATechTestPlanReference",
    "as_request",
    "check_run_short_id",
]

FINAL_STATUSES = frozenset({"COMPLETED", "ERROR", "CANCELLED"})
"""Statuses after which a run does not change any more; any other, known or not, means that it goes on."""

_PREFIXES = ("pln", "app", "env", "cfg", "preset", "scenario", "proj", "bld")
_RUN_SHORT_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_MOST_FAULTS = 3
_PREFIXED = re.compile(rf"(?:{'|'.join(_PREFIXES)})(?:-[A-Za-z0-9_.-]*)?_[A-Za-z0-9_-]+")


def check_run_short_id(run_short_id: str) -> str:
    """Check that a text is a run's short id, as it stands in a run's address and in the answer to a start.

    Args:
        run_short_id: For example `abc123`.

    Returns:
        The same text.

    Raises:
        ValueError: It is something else; the id of a test plan, say, or an address, or a path.

    Example:
        ```python
        check_run_short_id("abc123")
        ```
    """
    if not isinstance(run_short_id, str) or not _RUN_SHORT_ID.fullmatch(run_short_id):
        raise ValueError(
            f"{_shown(run_short_id)} is not a run's short id: letters and digits only, such as 'abc123' "
            "(the last part of the run's address, .../results/abc123)."
        )
    if _PREFIXED.fullmatch(run_short_id):
        kind = run_short_id.split("_")[0].split("-")[0]
        raise ValueError(f"{_shown(run_short_id)} is the id of something else ({kind}...), not a run's short id.")
    return run_short_id


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _prefixed(prefix: str, what: str) -> AfterValidator:
    # The documented pattern is ^pln(-.+_.+|_.+)$ and so on. Other characters than letters, digits, dots, dashes and
    # underscores match its dots as well, but stand in no id that the service ever gave, so they are refused.
    pattern = re.compile(rf"{prefix}(?:-[A-Za-z0-9_.-]{{1,200}})?_[A-Za-z0-9_.-]{{1,200}}")

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(
                f"{_shown(value)} is not {what}: it looks like '{prefix}_abc123' or '{prefix}-some-name_abc123'"
            )
        return value

    return AfterValidator(check)


def _uuid_text(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _uuid(what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not _UUID.fullmatch(value):
            raise ValueError(
                f"{_shown(value)} is not {what}: a UUID such as 'a1b2c3d4-e5f6-4789-a012-3456789abcde' is needed"
            )
        return str(UUID(value))

    return AfterValidator(check)


TestPlanShortId = Annotated[str, _prefixed("pln", "a test plan's short id")]
ApplicationShortId = Annotated[str, _prefixed("app", "an application's short id")]
EnvironmentShortId = Annotated[str, _prefixed("env", "an environment's short id")]
DevicePresetShortId = Annotated[str, _prefixed("preset", "a device preset's short id")]
ProjectShortId = Annotated[str, _prefixed("proj", "a project's short id")]
BuildShortId = Annotated[str, _prefixed("bld", "an application build's short id")]
ConfigShortId = Annotated[str, _prefixed("cfg", "a config's short id")]
TestCaseId = Annotated[str, BeforeValidator(_uuid_text), _uuid("a test case's id")]
EnvironmentId = Annotated[str, BeforeValidator(_uuid_text), _uuid("an environment's id")]
RunShortId = Annotated[str, AfterValidator(check_run_short_id)]


class Checked(BaseModel):
    """What users pass in: what is wrong with it is told in one line, as it stands in the state of a flow run."""

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _in_one_line(type(self), error) from None

    # As pydantic's own: it checks as that does, and without the mark a nested model, or one that is validated strictly
    # or by alias, would be made by a call that knows nothing of that.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate an object, as pydantic does, with the errors of this class."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise _in_one_line(cls, error) from None


def _in_one_line(model: type[BaseModel], error: ValidationError) -> InvalidInputError:
    models = (model, *_Request.__subclasses__())
    names = {field.alias: name for each in models for name, field in each.model_fields.items() if field.alias}
    faults: list[tuple[str, str]] = []
    for fault in error.errors(include_url=False):
        place = [names.get(str(part), str(part)) for part in fault["loc"]]
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, InvalidInputError):
            faults += [(".".join([*place, *([field] if field else [])]), sentence) for field, sentence in cause.faults]
            continue
        sentence = str(cause or fault["msg"])
        # Our own sentences say what was given, where that may be said.
        if cause is None and fault["type"] != "missing" and not model.model_config.get("hide_input_in_errors"):
            sentence = f"{sentence}, not {_shown(fault['input'])}"
        faults.append((".".join(place), sentence))
    told = [f"{field}: {sentence}" if field else sentence for field, sentence in faults[:_MOST_FAULTS]]
    if len(faults) > _MOST_FAULTS:
        told.append(f"and {len(faults) - _MOST_FAULTS} more")
    return InvalidInputError(" ".join("; ".join(told).split()), faults=tuple(faults))


class _Request(Checked):
    """Strict: what users pass in."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    @model_validator(mode="after")
    def _json_can_carry_it(self) -> Self:
        try:
            json.dumps(self.model_dump(), allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, TypeError):
            raise ValueError("it holds something that JSON cannot carry (NaN, an object, half a character)") from None
        return self

    def to_json(self) -> dict[str, Any]:
        """Give the body that goes over the wire: the API's names, nothing that was not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class QATechEnvironment(_Request):
    """Where an application under test runs: an address, a saved environment, or a mobile build; one of the three.

    Attributes:
        url: Address of a deployment, a preview for example.
        name: A name for that address in the service's reports.
        short_id: Short id of a saved environment, `env_...`.
        application_build_short_id: Short id of a mobile build, `bld_...`.

    Example:
        ```python
        QATechEnvironment(url="https://pr-42.example.com", name="PR 42")
        ```
    """

    url: str | None = Field(default=None, title="Address", max_length=2048)
    name: str | None = Field(default=None, title="Name of the address", max_length=200)
    short_id: EnvironmentShortId | None = Field(default=None, title="Saved environment")
    application_build_short_id: BuildShortId | None = Field(default=None, title="Mobile build")

    @field_validator("url")
    @classmethod
    def _web_address(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s/?#@\x00-\x1f\x7f]+(?:[/?#][^\s\x00-\x1f\x7f]*)?", url):
            raise ValueError(f"{_shown(url)} is not a web address (http:// or https://, no user name in it)")
        return url

    @model_validator(mode="after")
    def _one_of_three(self) -> QATechEnvironment:
        given = [name for name in ("url", "short_id", "application_build_short_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("an environment is exactly one of url, short_id and application_build_short_id")
        if self.name is not None and self.url is None:
            raise ValueError("name goes with url only")
        return self


class QATechApplication(_Request):
    """An application of the project, tested somewhere else or on another device than the plan says.

    Attributes:
        application_short_id: Short id of the application, `app_...`.
        environment: Where it runs; the plan's own environment when absent.
        device_preset_short_id: Short id of a device preset, `preset_...`.

    Example:
        ```python
        QATechApplication(application_short_id="app_shop", environment=QATechEnvironment(url="https://pr-42.example.com"))
        ```
    """

    application_short_id: ApplicationShortId = Field(title="Application")
    environment: QATechEnvironment | None = Field(default=None, title="Environment")
    device_preset_short_id: DevicePresetShortId | None = Field(default=None, title="Device preset")


class QATechNotification(_Request):
    """A Slack channel that QA.tech tells of the run.

    Attributes:
        channel: Id of the channel, `C0478ABCDEF`.
        notify_on: `always`, or on `failure` only; the service's default when absent.
        type: The kind of notification; the API knows `slack`.
    """

    type: Literal["slack"] = "slack"
    channel: str = Field(min_length=1, max_length=80, title="Slack channel id")
    notify_on: Literal["always", "failure"] | None = Field(default=None, title="Notify on")


class QATechGitHubTrigger(_Request):
    """What the service shows of the GitHub event that a run belongs to.

    Attributes:
        actor: Login of the person.
        branch: Name of the branch.
        commit_hash: Hash of the commit.
        commit_message: Message of the commit.
        repository: `owner/repo`.
    """

    actor: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    commit_message: str | None = None
    repository: str | None = Field(default=None, pattern=r"^[^/\s]+/[^/\s]+$")


class QATechParameters(_Request):
    """Values for the project's configs, for this run only.

    Attributes:
        configs: Config short id (`cfg_...`) to its payload.
        configs_by_environment: UUID of an environment to such a mapping.
    """

    configs: dict[ConfigShortId, Any] | None = None
    configs_by_environment: dict[EnvironmentId, dict[ConfigShortId, Any]] | None = None


class QATechRunRequest(_Request):
    """Body of `POST /run`: what to test, where. Without any field, the project's default test plan.

    Attributes:
        test_plan_short_id: The plan to run, `pln_...`; not together with test cases.
        test_case_ids: UUIDs of the test cases to run; not together with a plan.
        applications: Applications to test elsewhere than their plan says.
        notifications: Slack channels to tell.
        github: The GitHub event behind the run; makes `trigger` GITHUB.
        parameters: Values for the project's configs.
        project_short_id: The project, `proj_...`, where the token belongs to an organisation.

    Example:
        ```python
        QATechRunRequest(test_plan_short_id="pln_smoke", applications=[...])
        ```
    """

    test_plan_short_id: TestPlanShortId | None = None
    test_case_ids: list[TestCaseId] | None = Field(default=None, min_length=1)
    applications: list[QATechApplication] | None = Field(default=None, min_length=1)
    notifications: list[QATechNotification] | None = Field(default=None, min_length=1)
    github: QATechGitHubTrigger | None = None
    parameters: QATechParameters | None = None
    project_short_id: ProjectShortId | None = None

    @model_validator(mode="after")
    def _plan_or_cases(self) -> QATechRunRequest:
        if self.test_plan_short_id is not None and self.test_case_ids is not None:
            raise ValueError("give a test plan or test cases, not both")
        return self

    def to_json(self) -> dict[str, Any]:
        """Give the body that goes over the wire; the GitHub fields stand at its top level."""
        body = super().to_json()
        github = body.pop("github", None)
        return {**body, "trigger": "API"} if github is None else {**body, "trigger": "GITHUB", **github}


def as_request(request: QATechRunRequest | str | None) -> QATechRunRequest:
    """Return the request that a caller means.

    Args:
        request: A request; or, for short, the id of a test plan; or None, which is the project's default plan.

    Returns:
        The request.

    Raises:
        InvalidInputError: It is none of these, or not the id of a test plan.
    """
    if isinstance(request, QATechRunRequest):
        return request
    if request is None or isinstance(request, str):
        return QATechRunRequest(test_plan_short_id=request)
    raise InvalidInputError(
        f"request: a QATechRunRequest, the id of a test plan ('pln_...') or None is needed, not {_shown(request)}"
    )


class QATechRerunRequest(_Request):
    """Body of `POST /run/{shortId}`: everything again, what did not pass, or the listed test cases.

    Attributes:
        failed_only: Rerun the failed, skipped and errored test cases.
        test_case_ids: UUIDs of the test cases to rerun (`projectTestCaseIds` of the API).
        project_short_id: The project, where the token belongs to an organisation.
    """

    failed_only: bool = False
    test_case_ids: list[TestCaseId] | None = Field(default=None, min_length=1, alias="projectTestCaseIds")
    project_short_id: ProjectShortId | None = None

    @model_validator(mode="after")
    def _one_filter(self) -> QATechRerunRequest:
        if self.failed_only and self.test_case_ids is not None:
            raise ValueError("give failed_only or test_case_ids, not both; neither reruns everything")
        return self

    def to_json(self) -> dict[str, Any]:
        """Give the body that goes over the wire; `{}` reruns everything."""
        body = super().to_json()
        if not self.failed_only:
            del body["failedOnly"]
        return body


def _text_or_none(value: object) -> object:
    # JSON can carry half of a UTF-16 pair, which nothing behind it can.
    return None if value is None else str(value).encode(errors="replace").decode()


def _count_or_none(value: object) -> object:
    is_count = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**9
    return int(value) if is_count and value == int(value) else None  # type: ignore[call-overload]


def _object_or_none(value: object) -> object:
    return value if isinstance(value, (Mapping, BaseModel)) else None


def _number_or_none(value: object) -> object:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


OptionalText = Annotated[str | None, BeforeValidator(_text_or_none)]
Text = Annotated[str, BeforeValidator(lambda value: _text_or_none(value) or "")]
OptionalNumber = Annotated[float | None, BeforeValidator(_number_or_none)]


class _Response(BaseModel):
    """Tolerant: what the service answers."""

    model_config = ConfigDict(
        extra="allow", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, protected_namespaces=()
    )


class QATechTestPlanReference(_Response):
    """The plan that a run belongs to."""

    name: Text = ""
    short_id: OptionalText = None


class QATechStartedRun(_Response):
    """A run as the answer to a start or a rerun gives it.

    Attributes:
        short_id: Its short id, which every later call names.
        id: Its UUID.
        url: Its address on QA.tech.
        test_count: How many test cases it has.
        test_plan: The plan it belongs to, where the service tells.
    """

    short_id: RunShortId
    id: OptionalText = None
    url: OptionalText = None
    test_count: Annotated[int | None, BeforeValidator(_count_or_none)] = None
    test_plan: Annotated[QATechTestPlanReference | None, BeforeValidator(_object_or_none)] = None


class QATechRunTestCase(_Response):
    """One test case in a run.

    Attributes:
        id: UUID; as far as the vendor's examples show, the one by which a test case is started and rerun.
        short_id: Short id of this execution; a new one in each run.
        name: The test case's name.
        status: INITIATED, RUNNING, COMPLETED, ERROR, CANCELLED, or a word that is not documented.
        result: PASSED, FAILED, SKIPPED, None, or a word that is not documented.
        result_title: The reason in a few words.
        evaluation_thought: The agent's reasoning, long.
        project_test_case_id: UUID of the test case, where the service gives it here.
    """

    id: OptionalText = None
    short_id: OptionalText = None
    name: Text = ""
    status: Text = ""
    result: OptionalText = None
    result_title: OptionalText = None
    evaluation_thought: OptionalText = None
    prompt_goal: OptionalText = None
    prompt_examples: OptionalText = None
    project_test_case_id: OptionalText = None


class QATechRunTestCaseDetails(QATechRunTestCase):
    """One test case's execution with what is needed for its root cause (`GET /run-test-case/{shortId}`).

    Attributes:
        error_code: None for a clean pass; TEST_FAILED; AGENT_... or PLATFORM_... where it was not carried out properly.
        classification: POSITIVE or NEGATIVE.
        run_short_id: The run it belongs to.
        started_at: ISO 8601.
        completed_at: ISO 8601.
        duration_ms: Milliseconds.
        url: Its address on QA.tech.
        screenshot_url: Its last picture.
        recording_url: Its recording.
    """

    error_code: OptionalText = None
    classification: OptionalText = None
    run_short_id: OptionalText = None
    started_at: OptionalText = None
    completed_at: OptionalText = None
    duration_ms: OptionalNumber = None
    url: OptionalText = None
    screenshot_url: OptionalText = None
    recording_url: OptionalText = None


class QATechRun(_Response):
    """A run's status and results (`GET /run/{shortId}`).

    Attributes:
        short_id: Its short id.
        id: Its UUID.
        status: INITIATED, RUNNING, COMPLETED, ERROR, CANCELLED, or a word that is not documented.
        result: PASSED, FAILED, SKIPPED, None, or a word that is not documented; meaningful when COMPLETED.
        test_cases: The test cases that were asked for (`runTestCases` of the API); empty when none were.
        url: Its address, where the service or the start's answer gave it.
    """

    short_id: RunShortId
    id: OptionalText = None
    status: Text = ""
    result: OptionalText = None
    test_cases: list[QATechRunTestCase] = Field(default_factory=list, alias="runTestCases")
    url: OptionalText = None

    @field_validator("test_cases", mode="before")
    @classmethod
    def _absent_is_empty(cls, value: object) -> object:
        return [] if value is None else value

    @property
    def is_final(self) -> bool:
        """Whether the run will not change any more."""
        return self.status in FINAL_STATUSES

    @property
    def finished_test_count(self) -> int:
        """How many of the test cases that were asked for will not change any more."""
        return sum(case.status in FINAL_STATUSES for case in self.test_cases)

    @property
    def finished_percent(self) -> float:
        """How many of the test cases have finished, of 100; 0 where none are listed."""
        return 100.0 * self.finished_test_count / len(self.test_cases) if self.test_cases else 0.0

    @property
    def running_test_count(self) -> int:
        """How many of the test cases that were asked for are running just now."""
        return sum(case.status == "RUNNING" for case in self.test_cases)
