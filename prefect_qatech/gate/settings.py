"""How a gate goes about its work."""

from dataclasses import dataclass, field
from typing import Literal

from prefect_qatech.api.catalogue import QATechReleaseCheckRequest
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.gate import suspend
from prefect_qatech.inputs import check_name, check_target
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.report.files import check_report_directory
from prefect_qatech.verdict.outcomes import Verdict
from prefect_qatech.verdict.policy import GatePolicy

OnNoPass = Literal["stop", "ask"]
HowToWait = Literal["poll", "suspend"]
_MAX_DECISION_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class GateSettings:
    """How a gate goes about its work; `release_gate` documents each."""

    policy: GatePolicy = field(default_factory=GatePolicy)
    target: str | None = None
    label: str | None = None
    slot_label: str | None = None
    polling: QATechPolling = field(default_factory=QATechPolling)
    report_directory: str | None = None
    raise_unless_passed: bool = True
    on_inconclusive: OnNoPass = "stop"
    on_failed: OnNoPass = "stop"
    decision_timeout_seconds: float = 3600.0
    waiting: HowToWait = "poll"
    release_check: QATechReleaseCheckRequest | None = None

    def check(self) -> None:
        """Raise `InvalidInputError` where something makes no sense; nothing was sent."""
        if not 0 < self.decision_timeout_seconds <= _MAX_DECISION_SECONDS:
            raise InvalidInputError(
                f"decision_timeout_seconds must be more than 0 and at most {_MAX_DECISION_SECONDS:,}"
            )
        check_target(self.target)
        if self.label is not None:
            check_name(self.label, "label")
        if self.waiting == "suspend":
            suspend.check_can_suspend()
        if self.report_directory is not None:
            check_report_directory(self.report_directory)

    @property
    def asks_on(self) -> frozenset[Verdict]:
        on = {Verdict.INCONCLUSIVE: self.on_inconclusive, Verdict.FAIL: self.on_failed}
        return frozenset(verdict for verdict, what in on.items() if what == "ask")
