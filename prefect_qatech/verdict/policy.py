"""What a release gate asks for, as people write it."""

from __future__ import annotations

from datetime import date, datetime, timezone, tzinfo
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, field_validator

from prefect_qatech.inputs import Checked, CleanText, short_repr
from prefect_qatech.texts import in_utc

# Strict, because True is an int to Python and a form that sends a text has a fault.
_Count = Annotated[int, Field(strict=True, ge=0)]
_AtLeastOne = Annotated[int, Field(strict=True, ge=1)]
_Share = Annotated[float, Field(strict=True, gt=0, lt=1)]


def _count_or_share(value: object, check: ValidatorFunctionWrapHandler) -> object:
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"{short_repr(value)} is neither a number of tests nor a share of them, such as 0.3") from None


def _entries_by_pattern(schema: dict[str, Any]) -> None:
    # Of `additionalProperties` Prefect keeps nothing in the schema of a block, and its form would take any entry.
    schema["patternProperties"] = {"": schema.pop("additionalProperties")}


class QuarantineEntry(Checked):
    """Why a test does not block for now, who sees to it, and until when."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    reason: CleanText = Field(min_length=1, title="Reason", description="Why the test may not block the gate.")
    owner: CleanText = Field(min_length=1, title="Owner", description="Who repairs the test, or the product.")
    expires: date = Field(title="Expires", description="Last day on which the test does not block.")


class ReleaseCheckPolicy(Checked):
    """What a gate makes of a release check. One that was not completed never passes, whatever stands here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_blocker: Literal["inconclusive", "fail", "report"] = Field(
        default="inconclusive",
        title="On a blocker",
        description="What a finding that stands in the way of the release makes of the gate. report: it is only told.",
    )
    min_score: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        title="Score needed",
        description="A lower overall score, or none, makes the gate inconclusive. Empty: any score will do.",
    )


class GatePolicy(Checked):
    """What a release gate asks for, and what it may spend on reruns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_reruns: Annotated[_Count, Field(le=10)] = Field(
        default=2, title="Reruns", description="At most so many reruns of open tests; 0 means none."
    )
    max_failed: _Count = Field(default=0, title="Failed tests allowed", description="More failed tests fail the gate.")
    max_flaky: _Count | None = Field(
        default=None,
        title="Flaky tests allowed",
        description="More tests that failed first and passed later fail the gate. Empty: no limit, only reported.",
    )
    max_undecided: _Count = Field(
        default=0,
        title="Undecided tests allowed",
        description="More tests that neither passed nor failed make the gate inconclusive. Each may hide a failure.",
    )
    min_decided: _AtLeastOne = Field(
        default=1,
        title="Decided tests needed",
        description="Fewer tests that passed or failed make the gate inconclusive: testing nothing proves nothing.",
    )
    passes_required: _AtLeastOne = Field(
        default=1,
        title="Passes needed after a failure",
        description="So many passes must follow a test's last failure for it to be flaky rather than failed.",
    )
    fuse_failures: Annotated[_Count | _Share | None, WrapValidator(_count_or_share)] = Field(
        default=None,
        title="Fuse",
        description="No rerun when more tests failed or were missed: a broken build is not flaky. A whole number, or a "
        "share of the tests such as 0.3. Empty: 10 tests or 30 %, whichever is more.",
    )
    quarantine: dict[CleanText, QuarantineEntry] = Field(
        default_factory=dict,
        title="Quarantine",
        description="By a test's id, or its exact and unique name: tests that run and are reported, but do not block "
        "until their entry expires. An entry that matches no test, or more than one, is not applied, and is reported. "
        'For example {"Pay by card": {"reason": "known bug", "owner": "web team", "expires": "2030-12-31"}}.',
        json_schema_extra=_entries_by_pattern,
    )
    quarantine_time_zone: str = Field(
        default="UTC",
        title="Time zone of the quarantine",
        description="The days of the quarantine end by the clocks of this time zone, such as Europe/Stockholm.",
    )
    release_check: ReleaseCheckPolicy = Field(
        default=ReleaseCheckPolicy(),
        title="Release check",
        description="What a release check that belongs to the gate means for it.",
    )
    deadline_seconds: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = Field(
        default=3600,
        title="Deadline in seconds",
        description="The campaign, reruns included, must end within this time.",
    )

    @field_validator("quarantine_time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        _time_zone(name)
        return name

    def quarantine_day(self, moment: datetime) -> date:
        """Return the day for which quarantine entries are looked at.

        Args:
            moment: When the verdict is given; one without a time zone is taken to be in UTC.

        Returns:
            Its date by the clocks of `quarantine_time_zone`.

        Example:
            >>> GatePolicy(quarantine_time_zone="Asia/Tokyo").quarantine_day(datetime(2026, 9, 1, 20))
            datetime.date(2026, 9, 2)
        """
        return in_utc(moment).astimezone(_time_zone(self.quarantine_time_zone)).date()


def _time_zone(name: str) -> tzinfo:
    if name == "UTC":
        return timezone.utc  # also where a system has no time zones on its disk
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # of a folder, of a path, of a name that nobody knows
        raise ValueError(
            f"{short_repr(name)} is not a time zone: an IANA name such as Europe/Stockholm is needed"
        ) from None


DEFAULT_POLICY = GatePolicy()
