"""The record of what a flow run has started, kept on the Prefect server, so that nothing is started twice.

A start cannot be taken back and QA.tech has no idempotency key, so the record must survive whatever a flow run can go
through: retries, a killed process, another machine, caching that is switched off. Prefect's caching alone does not
(another storage path, `PREFECT_TASKS_DISABLE_CACHING`, a sub-flow under a retried parent, a kill during the POST). The
inputs of a flow run do: rows on the server, unique per flow run and key; a second insert is refused with 409.

- `slots` (pure): what a slot is, and which slot a call means.
- `call_site`: in which flow run, and where in it, a call stands.
- `rows`, `outages`: the rows on the server, and times in which it cannot be reached.
- `store`: the one way in which a POST is sent: intent, POST, run on record. `messages`: what it says when that fails.
- `calls`: what tasks and gates ask of it.
- `admin`: what only a person can settle.

The ledger is that of the *root* flow run: a sub-flow gets a new id when its parent is retried. Outside a flow run there
is none, and nothing is recorded.
"""

from prefect_qatech.ledger.admin import (
    aattach_run as aattach_run,
    aclear_intent as aclear_intent,
    aread_ledger as aread_ledger,
    attach_run as attach_run,
    clear_intent as clear_intent,
    read_ledger as read_ledger,
)
from prefect_qatech.ledger.call_site import (
    chain_of as chain_of,
    check_that_no_context_was_lost as check_that_no_context_was_lost,
    flow_run_of as flow_run_of,
    forget_calls as forget_calls,
    locate as locate,
    root_of as root_of,
)
from prefect_qatech.ledger.calls import (
    attach as attach,
    first_run_of as first_run_of,
    is_attached as is_attached,
    is_label_on_record as is_label_on_record,
    is_rerun_on_record as is_rerun_on_record,
    once as once,
)
from prefect_qatech.ledger.outages import through_outages as through_outages
from prefect_qatech.ledger.rows import Rows as Rows
from prefect_qatech.ledger.slots import (
    Call as Call,
    Chain as Chain,
    QATechLedgerEntry as QATechLedgerEntry,
    QATechRunRecord as QATechRunRecord,
    attached_run as attached_run,
    fingerprint as fingerprint,
    record_of as record_of,
    resolve as resolve,
    same_attempt as same_attempt,
    service_of as service_of,
    short_id_of as short_id_of,
)
from prefect_qatech.ledger.store import Ledger as Ledger
