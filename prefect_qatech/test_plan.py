"""Blocks for those who configure in Prefect's UI: `QATechTestPlan.load("checkout").trigger()`.

A job run is a whole gate: the run that `trigger` has started, and the reruns, the verdict and the report that
`release_gate` makes of it.
"""

from typing import TYPE_CHECKING, Any

from prefect.blocks.abstract import JobBlock, JobRun
from pydantic import ConfigDict, Field

from prefect_qatech._sync import run_sync
from prefect_qatech.api.ids import TestPlanShortId
from prefect_qatech.api.requests import QATechApplication, QATechRunRequest
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import QATechError
from prefect_qatech.gate.flow import arelease_gate, release_gate
from prefect_qatech.gate.steps import astart_campaign
from prefect_qatech.inputs import Checked, Several
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.report.exceptions import GateNotPassed
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.policy import GatePolicy

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from typing_extensions import Self

    _JobBlock = JobBlock[GateReport]
else:
    # With its parameter it would be one more type of block on the server.
    _JobBlock = JobBlock

__all__ = ["QATechTestPlan", "QATechTestRun"]

# Prefect's base classes declare async methods only; like its own integrations, these blocks have both versions.


class QATechTestRun(JobRun[GateReport]):
    """A run of a test plan that `QATechTestPlan.trigger` has started.

    Attributes:
        plan: The plan as it was configured.
        record: The run: short id, address, number of test cases.
        target: What is tested, where it was named.
    """

    def __init__(self, plan: "QATechTestPlan", record: QATechRunRecord, target: str | None = None) -> None:
        self.plan = plan
        self.record = record
        self.target = target
        self._outcome: GateReport | GateNotPassed | None = None

    def __repr__(self) -> str:
        return f"QATechTestRun({self.run_short_id!r}, {self.run_url!r})"

    @property
    def run_short_id(self) -> str:
        """Short id of the run."""
        return self.record.run_short_id

    @property
    def run_url(self) -> str | None:
        """Its address on QA.tech."""
        return self.record.run_url

    async def await_for_completion(self) -> None:
        """Async version of `wait_for_completion`: the same errors."""
        try:
            self._outcome = await arelease_gate(self.plan.credentials, **self._gate_options())
        except GateNotPassed as error:
            self._outcome = error

    def wait_for_completion(self) -> None:  # type: ignore[override]
        """Wait for the run, rerun what failed as far as the policy allows, and publish the report.

        - This is a gate, `release_gate`, which judges the run: a sub-flow run of the flow run, or a flow run of its
          own where there is none.
        - A verdict that is not a pass is no error here; `fetch_result` raises it.

        Raises:
            QATechAPIError: The gate could not be evaluated.
        """
        try:
            self._outcome = release_gate(self.plan.credentials, **self._gate_options())
        except GateNotPassed as error:
            self._outcome = error

    def _gate_options(self) -> dict[str, Any]:
        plan = self.plan
        return {"run": self.record, "target": self.target, "policy": plan.policy, "polling": plan.polling}

    async def afetch_result(self) -> GateReport:
        """Async version of `fetch_result`: the same result and errors."""
        return self._result()

    def fetch_result(self) -> GateReport:  # type: ignore[override]
        """Return the report of a gate that has passed.

        Returns:
            The report.

        Raises:
            GateFailed: Tests of the product failed.
            GateInconclusive: The evidence is not enough.
            QATechError: There is no verdict yet: `wait_for_completion` was not called, or did not end.
        """
        return self._result()

    def _result(self) -> GateReport:
        if self._outcome is None:
            raise QATechError(
                f"Run {self.run_short_id} has no verdict yet: call wait_for_completion() first.",
                run_short_id=self.run_short_id,
                run_url=self.run_url,
            )
        if isinstance(self._outcome, GateNotPassed):
            raise self._outcome
        return self._outcome


class QATechTestPlan(Checked, _JobBlock):
    """A test plan of QA.tech with all that running it takes.

    Attributes:
        credentials: How to reach QA.tech.
        test_plan_short_id: The plan, `pln_...`; the project's default plan when absent.
        applications: Applications to test elsewhere than their plan says.
        policy: What is tolerated, how often is rerun, how long is waited.
        polling: How often to look at a run.

    Example:
        ```python
        from prefect import flow
        from prefect_qatech import QATechTestPlan


        @flow
        def check_out():
            run = QATechTestPlan.load("checkout").trigger()
            run.wait_for_completion()
            print(run.fetch_result().verdict)
        ```
    """

    _block_type_name = "QA.tech Test Plan"
    _block_type_slug = "qatech-test-plan"
    _documentation_url = "https://docs.qa.tech"  # type: ignore[assignment]
    _description = "Run a test plan, rerun what failed, and decide whether a release may go out"

    # A wrong policy is refused where it is set, and is never saved.
    model_config = ConfigDict(hide_input_in_errors=True, validate_assignment=True)

    credentials: QATechCredentials = Field(title="Credentials", description="How to reach QA.tech.")
    test_plan_short_id: TestPlanShortId | None = Field(
        default=None, title="Test plan", description="pln_...; the project's default plan when empty."
    )
    applications: Several[QATechApplication] | None = Field(
        default=None,
        title="Applications",
        description="Applications, by id or name, to test elsewhere than their plan says: a preview deployment, say.",
    )
    policy: GatePolicy = Field(
        default=GatePolicy(), title="Policy", description="What is tolerated, how often is rerun, how long is waited."
    )
    polling: QATechPolling | None = Field(default=None, title="Polling", description="How often to look at a run.")

    if TYPE_CHECKING:
        # Prefect types it as a result or a coroutine; in async code call `aload`.
        @classmethod
        def load(cls, name: str, validate: bool = True, client: "PrefectClient | None" = None) -> "Self": ...

    async def atrigger(self, target: str | None = None, label: str | None = None) -> QATechTestRun:
        """Async version of `trigger`: the same arguments, result and errors."""
        record = await astart_campaign(self.credentials, self._request(), target=target, label=label)
        return QATechTestRun(self, record, target)

    def trigger(self, target: str | None = None, label: str | None = None) -> QATechTestRun:  # type: ignore[override]
        """Start a run of the plan.

        - Within a flow run it is started once: a retry or a restart of the flow run finds it. A run that has passed in
          an earlier attempt counts on a retry only for the same named target; else another one is started.
        - Two calls in one flow run start two runs; where they are made side by side, give each a label.
        - Outside a flow run nothing is recorded: each call starts a run.

        Args:
            target: What is tested: a commit, an image digest, a version of the data.
            label: Names this start within the flow run; required inside a task.

        Returns:
            The run, to be waited for.

        Raises:
            StartOutcomeUnknown: A run may or may not have been started; nothing retries this.
            QATechAPIError: QA.tech did not accept it.
            InvalidInputError: Something that was configured makes no sense; nothing was sent.

        Example:
            ```python
            run = QATechTestPlan.load("checkout").trigger(target="4f2c9e1")
            ```
        """
        request = self._request()
        record = run_sync(lambda: astart_campaign(self.credentials, request, target=target, label=label))
        return QATechTestRun(self, record, target)

    def _request(self) -> QATechRunRequest:
        return QATechRunRequest(test_plan_short_id=self.test_plan_short_id, applications=self.applications)
