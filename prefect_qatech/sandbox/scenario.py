"""The sandbox's scenario: what the local QA.tech has, and what comes of its test cases.

A scenario is a YAML file (or a mapping of the same shape). It is checked strictly; an error names the line.
Names, titles and thoughts are free text of any length and content, so that a hostile service can be written as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

from pydantic import (
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic.alias_generators import to_camel

from prefect_qatech.sandbox.faults import Fault
from prefect_qatech.sandbox.ids import ShortId

__all__ = [
    "Finding",
    "Issue",
    "Outcome",
    "Platform",
    "ReleaseReview",
    "SandboxScenario",
    "Step",
    "TestCase",
    "ToolCall",
    "with_dependencies",
]

Platform = Literal["ios", "android"]

_NAMESPACE = UUID("6f1c1e0a-6d5e-5c0e-9a53-0d5f6a7b8c9d")

_NAMED_OUTCOMES: dict[str, dict[str, str | None]] = {
    "passed": {"result": "PASSED"},
    "failed": {
        "result": "FAILED",
        "error_code": "TEST_FAILED",
        "title": "The expected result was not reached",
        "thought": "I followed the steps, and the page did not show what was expected.",
    },
    "skipped": {"result": "SKIPPED", "title": "The test was skipped"},
    "error": {"status": "ERROR", "result": None, "title": "The test could not be carried out"},
    "cancelled": {"status": "CANCELLED", "result": None},
    "agent_error": {
        "result": "FAILED",
        "error_code": "AGENT_ERROR",
        "title": "The agent did not get through the test",
        "thought": "I lost track of the page and gave up.",
    },
    "platform_error": {
        "result": "FAILED",
        "error_code": "PLATFORM_ERROR",
        "title": "The browser could not be started",
    },
}


def _uuid_text(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    try:
        return str(UUID(value)) if isinstance(value, str) and value else value
    except ValueError:
        raise ValueError(f"{str(value)[:80]!r} is not a UUID") from None


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _expand_outcome(value: object) -> object:
    if isinstance(value, str):
        value = {"outcome": value}
    if isinstance(value, dict) and "outcome" in value:
        named = _NAMED_OUTCOMES.get(str(value["outcome"]))
        if named is None:
            raise ValueError(
                f"{value['outcome']!r} is not an outcome: {', '.join(_NAMED_OUTCOMES)}; "
                "or write {status, result, error_code, title, thought} for words of your own"
            )
        return {**named, **{key: text for key, text in value.items() if key != "outcome"}}
    return value


class _Strict(BaseModel):
    # Snake case in the scenario, the API's camel case in answers.
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=AliasGenerator(serialization_alias=to_camel))


class ToolCall(_Strict):
    """What the agent did in a step."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Step(_Strict):
    """A step of the agent's trace."""

    reasoning: str
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_result: str | None = None


class Issue(_Strict):
    """Something that QA.tech noticed beside the test's result. No document says what an issue looks like."""

    title: str
    category: str = "functional"
    severity: str = "medium"
    description: str | None = None


class Outcome(_Strict):
    """What came of one execution of a test case, in the API's words (or in words that it does not document).

    Without `steps` the trace has three that follow from the test case.
    """

    status: str = "COMPLETED"
    result: str | None = None
    error_code: str | None = None
    title: str | None = None
    thought: str | None = None
    steps: list[Step] | None = None
    issues: list[Issue] = Field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether a dependent may run after it."""
        return self.status == "COMPLETED" and self.result == "PASSED" and self.error_code is None


class HttpCheck(_Strict):
    """A page of the environment under test that is really fetched."""

    application: ShortId
    path: str = Field(pattern=r"^/\S*$")
    contains: str | None = None
    status: int = Field(default=200, ge=100, le=599)


class TestCase(_Strict):
    """A test case of the project; `key` is what plans and `depends_on` call it, its name unless given."""

    __test__ = False  # not a class of pytest's

    name: str
    key: str = ""
    uuid: Annotated[str, BeforeValidator(_uuid_text)] = ""
    application: ShortId | None = None
    duration_seconds: float = Field(default=30, ge=0)
    outcomes: Annotated[list[Annotated[Outcome, BeforeValidator(_expand_outcome)]], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: [Outcome(result="PASSED")], min_length=1
    )
    depends_on: list[str] = Field(default_factory=list)
    http: HttpCheck | None = None
    goal: str | None = None
    labels: list[str] = Field(default_factory=list)
    classification: str = "POSITIVE"
    is_enabled: bool = True
    created_seconds: float = Field(default=0, allow_inf_nan=False, description="When, on the virtual clock.")

    @model_validator(mode="before")
    @classmethod
    def _identity(cls, values: object) -> object:
        if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
            return values
        key = values.get("key") or values["name"]
        # Free text may hold lone surrogates, which cannot be hashed as they are.
        hashable = str(key).encode("utf-8", "backslashreplace").decode()
        return {**values, "key": key, "uuid": values.get("uuid") or str(uuid5(_NAMESPACE, hashable))}


class RunBehaviour(_Strict):
    """How a run as a whole behaves; a list of them is one per run of a campaign, the last repeating.

    Attributes:
        status: The word it ends with. Any but COMPLETED ends it `after_seconds`, and its unfinished tests with it.
        after_seconds: When such an end comes, counted from the moment in which the run leaves the queue.
        result: Overrides the result that follows from the tests; null means null for ever.
        result_delay_seconds: How long it is COMPLETED with result null; `.inf` is for ever.
        queue_seconds: How long it is INITIATED.
        never_ends: Its last test case stays RUNNING.
    """

    status: str = "COMPLETED"
    after_seconds: float = Field(default=5, ge=0)
    result: str | None = None
    result_delay_seconds: float = Field(default=0, ge=0)
    queue_seconds: float = Field(default=2, ge=0)
    never_ends: bool = False


_CaseOrKey = Annotated[
    Annotated[str, Tag("key")] | Annotated[TestCase, Tag("definition")],
    Discriminator(lambda value: "key" if isinstance(value, str) else "definition"),
]


class Plan(_Strict):
    """A test plan: test cases, written out or by key."""

    short_id: ShortId
    name: str
    test_cases: list[_CaseOrKey]
    parallel: int | None = Field(default=None, ge=1)
    run: Annotated[list[RunBehaviour], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: [RunBehaviour()], min_length=1
    )
    test_count_offset: Annotated[list[int], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: [0], min_length=1
    )

    @cached_property
    def keys(self) -> list[str]:
        """Its test cases' keys, in order."""
        return [case if isinstance(case, str) else case.key for case in self.test_cases]


class Environment(_Strict):
    """A saved environment of an application."""

    short_id: ShortId
    name: str
    url: str | None = None
    is_production: bool = False


class Build(_Strict):
    """A mobile build of an application."""

    short_id: ShortId
    file_name: str
    platform: Platform
    app_bundle_id: str | None = None


class Application(_Strict):
    """An application; its first environment is the one that is tested unless a run says otherwise."""

    short_id: ShortId
    name: str
    kind: Literal["web", "ios", "android"] = "web"
    environments: list[Environment] = Field(default_factory=list)
    builds: list[Build] = Field(default_factory=list)


class Finding(_Strict):
    """Something that a release check found."""

    title: str
    category: str = "functional"
    severity: str = "medium"
    description: str | None = None
    is_blocker: bool = False
    recommendation: str | None = None
    evidence: Any = None


class Category(_Strict):
    """The score of a release check in one category."""

    name: str
    score: float | None = Field(default=None, allow_inf_nan=False)
    summary: str | None = None


class ReleaseReview(_Strict):
    """What comes of a release check; a list of them is one per check, the last repeating."""

    status: str = "COMPLETED"
    duration_seconds: float = Field(default=120, ge=0)
    overall_score: float | None = Field(default=95, allow_inf_nan=False)
    summary: str | None = "The release does what its changes promise."
    categories: list[Category] = Field(default_factory=lambda: [Category(name="functional", score=95)])
    findings: list[Finding] = Field(default_factory=list)
    pages_tested: list[str] = Field(default_factory=list)
    manual_follow_ups: list[str] = Field(default_factory=list)
    intent_verification: Any = None
    checklist_coverage: Any = None
    health_signals: Any = None


class Token(_Strict):
    """An API token and what it may do; `suspended` and `forbidden` are answered with 403."""

    token: str = Field(min_length=1)
    access: Literal["write", "read", "suspended", "forbidden"] = "write"


class Project(_Strict):
    """The project that the tokens belong to."""

    short_id: ShortId = "proj_sandbox"
    name: str = "Sandbox"


def _expand_token(value: object) -> object:
    return {"token": value} if isinstance(value, str) else value


class SandboxScenario(_Strict):
    """A whole scenario; see `scenarios/default.yaml` for one that uses nearly everything.

    Attributes:
        project: The project that the tokens belong to.
        tokens: API tokens.
        applications: With their saved environments.
        test_cases: Those that more than one plan names, or none.
        plans: Test plans.
        default_plan: The plan of a start that names none; the first one unless given.
        parallel: How many test cases of a run are carried out at once.
        usage_limit: How many test executions there are before 402.
        run_test_case_ids: Whether the `id` of a test case in a run is that of the test case, or its own.
        run_short_ids: Ids of the first runs, for ids that look odd; further runs get random ones.
        outbound_ips: As `GET /outbound-ips` tells them.
        upload_seconds: How long a build can be uploaded to the address that was given for it.
        release_checks: What comes of release checks, in turn.
        faults: What goes wrong with requests.
    """

    project: Project = Field(default_factory=Project)
    tokens: list[Annotated[Token, BeforeValidator(_expand_token)]] = Field(
        default_factory=lambda: [Token(token="sandbox-token")],  # noqa: S106  # opens nothing
        min_length=1,
    )
    applications: list[Application] = Field(default_factory=list)
    test_cases: list[TestCase] = Field(default_factory=list)
    plans: list[Plan] = Field(min_length=1)
    default_plan: ShortId | None = None
    parallel: int = Field(default=4, ge=1)
    usage_limit: int | None = Field(default=None, ge=0)
    run_test_case_ids: Literal["test_case", "execution"] = "test_case"
    run_short_ids: list[ShortId] = Field(default_factory=list)
    outbound_ips: list[str] = Field(default_factory=lambda: ["203.0.113.10", "203.0.113.11"])
    upload_seconds: float | None = Field(default=None, ge=0, description="None is for ever.")
    release_checks: Annotated[list[ReleaseReview], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: [ReleaseReview()], min_length=1
    )
    faults: list[Fault] = Field(default_factory=list)

    @cached_property
    def cases(self) -> dict[str, TestCase]:
        """Every test case by its key: those of the project, then those that plans write out."""
        written_out = [case for plan in self.plans for case in plan.test_cases if isinstance(case, TestCase)]
        return {case.key: case for case in [*self.test_cases, *written_out]}

    @cached_property
    def token(self) -> str:
        """The first token that may do everything (the first one, where none may)."""
        return next((token.token for token in self.tokens if token.access == "write"), self.tokens[0].token)

    def application(self, short_id: str) -> Application | None:
        """Return an application."""
        return next((app for app in self.applications if app.short_id == short_id), None)

    @model_validator(mode="after")
    def _consistent(self) -> SandboxScenario:
        inline = [case for plan in self.plans for case in plan.test_cases if isinstance(case, TestCase)]
        cases = [*self.test_cases, *inline]
        environments = [env.short_id for app in self.applications for env in app.environments]
        for what, values in (
            ("test case", [case.key for case in cases]),
            ("test case uuid", [case.uuid for case in cases]),
            ("plan", [plan.short_id for plan in self.plans]),
            ("application", [app.short_id for app in self.applications]),
            ("environment", environments),
            ("build", [build.short_id for app in self.applications for build in app.builds]),
            ("run short id", self.run_short_ids),
            ("token", [token.token for token in self.tokens]),
        ):
            twice = [value for value, times in Counter(values).items() if times > 1]
            if twice:
                hint = " (define it once under test_cases and name it in the plans)" if what == "test case" else ""
                shown = "one of them" if what == "token" else repr(twice[0][:80])
                raise ValueError(f"{what} {shown} is there twice{hint}")
        if self.default_plan not in {None, *(plan.short_id for plan in self.plans)}:
            raise ValueError(f"default_plan {self.default_plan!r} is not among the plans")
        for plan in self.plans:
            for key in plan.keys:
                if key not in self.cases:
                    raise ValueError(f"plan {plan.short_id} names a test case that is not there: {key[:80]!r}")
            if len(set(plan.keys)) < len(plan.keys):
                raise ValueError(f"plan {plan.short_id} names a test case twice")
        applications = {app.short_id for app in self.applications}
        for case in cases:
            for key in case.depends_on:
                if key not in self.cases:
                    raise ValueError(f"test case {case.key[:80]!r} depends on {key[:80]!r}, which is not there")
            for application in (case.application, case.http and case.http.application):
                if application and application not in applications:
                    raise ValueError(f"test case {case.key[:80]!r} is of {application}, which is not there")
        with_dependencies(self.cases, self.cases)  # refuses a circle
        return self


def with_dependencies(cases: Mapping[str, TestCase], keys: Iterable[str]) -> list[TestCase]:
    """Return the test cases of these keys and all that they depend on, dependencies first, otherwise in order.

    Raises:
        ValueError: A test case depends on itself, by way of others maybe.
    """
    found: dict[str, TestCase] = {}
    entered: set[str] = set()
    # A chain of dependencies can be longer than Python's stack is deep.
    todo = [(key, False) for key in reversed([*keys])]
    while todo:
        key, is_done = todo.pop()
        if is_done:
            found[key] = cases[key]
        elif key not in found:
            if key in entered:
                raise ValueError(f"test case {key[:80]!r} depends on itself")
            entered.add(key)
            todo.append((key, True))
            todo.extend((needed, False) for needed in reversed(cases[key].depends_on))
    return list(found.values())
