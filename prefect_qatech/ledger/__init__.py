"""The record of what a flow run has started, kept on the Prefect server, so that nothing is started twice.

A start cannot be taken back and QA.tech has no idempotency key, so the record must survive whatever a flow run can go
through: retries, a killed process, another machine, caching that is switched off. Prefect's caching alone does not
(another storage path, `PREFECT_TASKS_DISABLE_CACHING`, a sub-flow under a retried parent, a kill during the POST). The
inputs of a flow run do: rows on the server, unique per flow run and key; a second insert is refused with 409.

- `slots` (pure): what a slot is, and which slot a call means.
- `call_site`: in which flow run, and where in it, a call stands.
- `store`: the rows, and the one way in which a POST is sent: intent, POST, run on record.
- `lookup`: what it knows of the runs of a campaign.
- `admin`: what only a person can settle.

The ledger is that of the *root* flow run: a sub-flow gets a new id when its parent is retried. Outside a flow run there
is none, and nothing is recorded.
"""

from prefect_qatech.ledger.admin import (
    aattach_run,
    aclear_intent,
    aread_ledger,
    attach_run,
    clear_intent,
    read_ledger,
)
from prefect_qatech.ledger.call_site import (
    check_that_no_context_was_lost,
    flow_run_of,
    forget_calls,
    locate,
    root_flow_run,
)
from prefect_qatech.ledger.lookup import first_run_of, is_on_record
from prefect_qatech.ledger.slots import (
    Call,
    Chain,
    QATechLedgerEntry,
    QATechRunRecord,
    fingerprint,
    record_of,
    resolve,
    same_attempt,
    short_id_of,
)
from prefect_qatech.ledger.store import Ledger, Prepare, attach, is_of_campaign, once

__all__ = [
    "Call",
    "Chain",
    "Ledger",
    "Prepare",
    "QATechLedgerEntry",
    "QATechRunRecord",
    "aattach_run",
    "aclear_intent",
    "aread_ledger",
    "attach",
    "attach_run",
    "check_that_no_context_was_lost",
    "clear_intent",
    "fingerprint",
    "first_run_of",
    "flow_run_of",
    "forget_calls",
    "is_of_campaign",
    "is_on_record",
    "locate",
    "once",
    "read_ledger",
    "record_of",
    "resolve",
    "root_flow_run",
    "same_attempt",
    "short_id_of",
]
