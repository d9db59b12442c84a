"""Pure: the errors and sentences of the ledger that name a slot."""

from __future__ import annotations

from prefect_qatech.exceptions import LedgerConflict, LedgerUnavailable, StartOutcomeUnknown
from prefect_qatech.ledger.slots import Call, QATechLedgerEntry, QATechRunRecord, conflict


def outcome_unknown(
    entry: QATechLedgerEntry, flow_run_id: str, reason: str | None = None, run: QATechRunRecord | None = None
) -> StartOutcomeUnknown:
    """Return the error of an open intent; without a reason, of one that an earlier call has left."""
    makes, attach, clear = entry.makes, f"attach {flow_run_id} {entry.slot}", f"clear {flow_run_id} {entry.slot}"
    reason = reason or (
        f"{entry.what} was sent at {entry.sent_at:%Y-%m-%d %H:%M:%S} UTC by this flow run, and whether it started a "
        f"{makes} is not known: the process ended, or the answer was lost, before the {makes} was recorded. Look in "
        f"QA.tech for a {makes} started at that time."
    )
    # The client's sentence and ours end differently; the commands stand once, at the end.
    return StartOutcomeUnknown(
        f"{reason} It is not sent again. If there is such a {makes}: `prefect-qatech ledger {attach} <{makes}>`; if "
        f"there is none: `prefect-qatech ledger {clear}`; then retry the flow run.",
        request=entry.what,
        sent_at=entry.sent_at.isoformat(timespec="seconds"),
        slot=entry.slot,
        flow_run_id=flow_run_id,
        run_short_id=run.run_short_id if run else None,
        run_url=run.run_url if run else None,
    )


def not_recorded(
    entry: QATechLedgerEntry, record: QATechRunRecord, flow_run_id: str, error: Exception
) -> StartOutcomeUnknown:
    reason = f"QA.tech started {record}, but the Prefect server did not take the record of it ({type(error).__name__})."
    return outcome_unknown(entry, flow_run_id, reason, record)


def not_as_asked(entry: QATechLedgerEntry, run: QATechRunRecord, flow_run_id: str) -> StartOutcomeUnknown:
    return StartOutcomeUnknown(
        run.not_as_asked or "",
        request=entry.what,
        sent_at=entry.sent_at.isoformat(timespec="seconds"),
        slot=entry.slot,
        flow_run_id=flow_run_id,
        run_short_id=run.run_short_id,
        run_url=run.run_url,
    )


def of_another_slot(entry: QATechLedgerEntry, record: QATechRunRecord, holder: str) -> str:
    """Return why a run that another slot holds is not the one that was asked for."""
    return (
        f"QA.tech answered {entry.what} with {record}, which slot {holder} of this flow run has on record as the run "
        "of another start or rerun: it is no evidence for this one. Nothing is started in its place: ask QA.tech why, "
        "then run the flow anew."
    )


def slot_is_taken(other: QATechLedgerEntry, record: QATechRunRecord, flow_run_id: str) -> LedgerConflict:
    """Return the error of a run whose slot got another one during its POST."""
    error = conflict(
        other,
        f"QA.tech started {record}, but slot {other.slot} has got {other.run} meanwhile. Both runs exist, and a retry "
        "of the flow run takes the second.",
        flow_run_id,
    )
    error.run_short_id, error.run_url = record.run_short_id, record.run_url
    return error


def misfit(call: Call, entry: QATechLedgerEntry, flow_run_id: str) -> LedgerConflict | None:
    """Return the error of a call that asks for something else than its slot holds; None where it fits."""
    if call.label is not None and entry.fingerprint != call.fingerprint:
        return conflict(
            entry,
            f'The label "{call.label}" stands for {entry.what} in this flow run ({entry.outcome}), and this call asks '
            "for something else. Nothing was sent. Give it another label, or run the flow anew.",
            flow_run_id,
        )
    if entry.address != call.address:
        return conflict(
            entry,
            f"{entry.what} is on record at {entry.address} ({entry.outcome}), and this call asks for it at "
            f"{call.address}. Nothing was sent. Use the credentials of the former, or run the flow anew"
            + ("." if call.is_named else "; where a flow asks for the same at several addresses, give each a label."),
            flow_run_id,
        )
    return None


def too_slow(call: Call, seconds: float) -> LedgerUnavailable:
    """Return the error of an intent that took so long that its POST is not sent."""
    error = LedgerUnavailable(
        f"The Prefect server took {seconds:.0f} s for the record of {call.what}. Nothing was sent. Retry the flow run."
    )
    error.retryable = True
    return error


def not_deleted(entry: QATechLedgerEntry) -> LedgerUnavailable:
    """Return the error of an intent that has started nothing and cannot be deleted."""
    return LedgerUnavailable(
        f"{entry.what} has started nothing, and the Prefect server does not delete the record of it, slot "
        f"{entry.slot}. Nothing was sent. Retry the flow run."
    )
