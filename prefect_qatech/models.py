"""What goes over the wire to and from QA.tech.

What users pass in is checked before any request is made: an unknown field, or a combination that the API does not take,
is an error that says what is allowed. What the service answers is read tolerantly: unknown fields are kept aside
(`model_extra`), an unknown status or result stays text, and an absent list is an empty one.

Field names are those of Python. The API's names (camelCase) are made in `to_json`, for the wire only, and are aliases
where answers are read. Sources: the vendor's API reference (https://docs.qa.tech/api-reference) and OpenAPI document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import Self

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.ids import (
    ApplicationShortId,
    BuildShortId,
    ConfigKey,
    DevicePresetShortId,
    EnvironmentId,
    EnvironmentShortId,
    ProjectShortId,
    RunShortId,
    TestCaseId,
    TestPlanShortId,
)
from prefect_qatech.inputs import Checked, CleanText, Several, clean_text, shown

__all__ = [
    "FINAL_STATUSES",
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
]

FINAL_STATUSES = frozenset({"COMPLETED", "ERROR", "CANCELLED"})
"""Statuses after which a run does not change any more; any other, known or not, means that it goes on."""

_MAX_NUMBER = 1e300
_NAMES_OF_THE_COUNT = frozenset({"testCount", "test_count", "testCountIsUnreadable", "test_count_is_unreadable"})

_FilledText = Annotated[str, Field(min_length=1), AfterValidator(clean_text)]


class Request(Checked):
    """Strict: what users pass in, by the names of Python everywhere; `to_json` alone knows those of the API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _json_can_carry_it(self) -> Self:
        try:
            json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, TypeError):
            raise ValueError("it holds something that JSON cannot carry (NaN, an object, half a character)") from None
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the body that goes over the wire: by the API's names, without what was not set."""
        return {to_camel(name): _on_the_wire(value) for name, value in self if value is not None}

    def ids(self) -> dict[str, str]:
        """Return every id in it by the place of its field, for an error about one that the service does not know."""
        found: dict[str, str] = {}
        for name, value in self:
            items = {f"{name}.{number}": item for number, item in enumerate(value)} if isinstance(value, list) else {}
            for place, item in (items or {name: value}).items():
                if isinstance(item, Request):
                    found |= {f"{place}.{inner}": short_id for inner, short_id in item.ids().items()}
                elif isinstance(item, str) and (name.endswith("short_id") or name == "test_case_ids"):
                    found[place] = item
        return found


def _on_the_wire(value: Any) -> Any:
    """Return a field's value as it goes over the wire; the keys of a mapping are the user's own."""
    if isinstance(value, Request):
        return value.to_json()
    return [_on_the_wire(item) for item in value] if isinstance(value, list) else value


class QATechEnvironment(Request):
    """Where an application under test runs: an address, a saved environment, or a mobile build; one of the three.

    Attributes:
        url: Address of a deployment, a preview for example.
        name: A name for that address in the service's reports.
        short_id: Short id of a saved environment, `env_...`.
        application_build_short_id: Short id of a mobile build, `bld_...` or `build_...`.

    Example:
        ```python
        QATechEnvironment(url="https://pr-42.example.com", name="PR 42")
        ```
    """

    url: _FilledText | None = Field(default=None, title="Address")
    name: CleanText | None = Field(default=None, title="Name of the address")
    short_id: EnvironmentShortId | None = Field(default=None, title="Saved environment")
    application_build_short_id: BuildShortId | None = Field(default=None, title="Mobile build")

    @model_validator(mode="after")
    def _one_of_three(self) -> QATechEnvironment:
        given = [name for name in ("url", "short_id", "application_build_short_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("an environment is exactly one of url, short_id and application_build_short_id")
        if self.name is not None and self.url is None:
            raise ValueError("name goes with url only")
        return self


class QATechApplication(Request):
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


class QATechNotification(Request):
    """A Slack channel that QA.tech tells of the run.

    Attributes:
        channel: Id of the channel, `C0478ABCDEF`.
        notify_on: `always`, or on `failure` only; the service's default when absent.
        type: The kind of notification; the API knows `slack`.
    """

    type: Literal["slack"] = "slack"
    channel: _FilledText = Field(title="Slack channel id")
    notify_on: Literal["always", "failure"] | None = Field(default=None, title="Notify on")


class QATechGitHubTrigger(Request):
    """What the service shows of the GitHub event that a run belongs to.

    Attributes:
        actor: Login of the person.
        branch: Name of the branch.
        commit_hash: Hash of the commit.
        commit_message: Message of the commit.
        repository: `owner/repo`.
    """

    actor: CleanText | None = None
    branch: CleanText | None = None
    commit_hash: CleanText | None = None
    commit_message: CleanText | None = None
    repository: str | None = Field(default=None, pattern=r"^[^/\s]+/[^/\s]+$")


class QATechParameters(Request):
    """Values for the project's configs, for this run only.

    Attributes:
        configs: Config short id (`cfg_...`), or its slug, to its payload.
        configs_by_environment: UUID of an environment to such a mapping.
    """

    configs: dict[ConfigKey, Any] | None = None
    configs_by_environment: dict[EnvironmentId, dict[ConfigKey, Any]] | None = None


class QATechRunRequest(Request):
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
    applications: Several[QATechApplication] | None = None
    notifications: Several[QATechNotification] | None = Field(default=None, min_length=1)
    github: QATechGitHubTrigger | None = None
    parameters: QATechParameters | None = None
    project_short_id: ProjectShortId | None = None

    @model_validator(mode="after")
    def _plan_or_cases(self) -> QATechRunRequest:
        if self.test_plan_short_id is not None and self.test_case_ids is not None:
            raise ValueError("give a test plan or test cases, not both")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the body that goes over the wire; the GitHub fields stand at its top level."""
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
        f"request: a QATechRunRequest, the id of a test plan ('pln_...') or None is needed, not {shown(request)}"
    )


class QATechRerunRequest(Request):
    """Body of `POST /run/{shortId}`: everything again, what did not pass, or the listed test cases.

    Attributes:
        failed_only: Rerun the failed, skipped and errored test cases.
        test_case_ids: UUIDs of the test cases to rerun (`projectTestCaseIds` of the API).
        project_short_id: The project, where the token belongs to an organisation.
    """

    failed_only: bool = False
    test_case_ids: list[TestCaseId] | None = Field(default=None, min_length=1)
    project_short_id: ProjectShortId | None = None

    @model_validator(mode="after")
    def _one_filter(self) -> QATechRerunRequest:
        if self.failed_only and self.test_case_ids is not None:
            raise ValueError("give failed_only or test_case_ids, not both; neither reruns everything")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the body that goes over the wire; `{}` reruns everything."""
        body = super().to_json()
        if not body.pop("failedOnly"):
            return {"projectTestCaseIds" if name == "testCaseIds" else name: value for name, value in body.items()}
        return {"failedOnly": True, **body}


def _text_or_none(value: object) -> object:
    return None if value is None else clean_text(str(value))


def _count_of(value: object) -> int | None:
    """Return the count that a value is: a number, or one in digits; None where it is none."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 10**9:
        return None
    return int(value) if value == int(value) else None


def _object_or_none(value: object) -> object:
    return value if isinstance(value, (Mapping, BaseModel)) else None


def _number_or_none(value: object) -> object:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER
    return value if is_number else None  # what JSON cannot carry is no number either


OptionalText = Annotated[str | None, BeforeValidator(_text_or_none)]
Text = Annotated[str, BeforeValidator(lambda value: _text_or_none(value) or "")]
OptionalNumber = Annotated[float | None, BeforeValidator(_number_or_none)]


class Response(BaseModel):
    """Tolerant: what the service answers."""

    model_config = ConfigDict(
        extra="allow", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, protected_namespaces=()
    )


class QATechTestPlanReference(Response):
    """The plan that a run belongs to."""

    name: Text = ""
    short_id: OptionalText = None


class QATechStartedRun(Response):
    """A run as the answer to a start or a rerun gives it.

    Attributes:
        run_short_id: Its short id, which every later call names.
        id: Its UUID.
        url: Its address on QA.tech.
        test_count: How many test cases it has; None where the answer does not tell, or not so that it can be read.
        test_count_is_unreadable: Whether the answer tells a count that cannot be read.
        test_plan: The plan it belongs to, where the service tells.
    """

    run_short_id: RunShortId = Field(alias="shortId")
    id: OptionalText = None
    url: OptionalText = None
    test_count: int | None = None
    test_count_is_unreadable: bool = False
    test_plan: Annotated[QATechTestPlanReference | None, BeforeValidator(_object_or_none)] = None

    @model_validator(mode="before")
    @classmethod
    def _read_the_count(cls, answer: Any) -> Any:
        if not isinstance(answer, Mapping):
            return answer
        told = answer.get("testCount", answer.get("test_count"))
        count = _count_of(told)
        is_unreadable = (told is not None and count is None) or answer.get("test_count_is_unreadable") is True
        rest = {name: value for name, value in answer.items() if name not in _NAMES_OF_THE_COUNT}
        return {**rest, "test_count": count, "test_count_is_unreadable": is_unreadable}


class QATechRunTestCase(Response):
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


class QATechRun(Response):
    """A run's status and results (`GET /run/{shortId}`).

    Attributes:
        run_short_id: Its short id.
        id: Its UUID.
        status: INITIATED, RUNNING, COMPLETED, ERROR, CANCELLED, or a word that is not documented.
        result: PASSED, FAILED, SKIPPED, None, or a word that is not documented; meaningful when COMPLETED.
        test_cases: The test cases that were asked for (`runTestCases` of the API); empty when none were.
        url: Its address, where the service or the start's answer gave it.
    """

    run_short_id: RunShortId = Field(alias="shortId")
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
