"""The commands on a flow run's ledger: what it has started, and what only a person can settle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar
from uuid import UUID

import httpx

from prefect_qatech.cli.display import one_line
from prefect_qatech.cli.exits import end
from prefect_qatech.cli.terminal import row, show, terminal_width
from prefect_qatech.exceptions import QATechError
from prefect_qatech.ledger import QATechLedgerEntry, attach_run, clear_intent, read_ledger

T = TypeVar("T")

_STATE, _TIME = 5, 23


def list_(flow_run_id: UUID) -> None:
    """List the slots of a flow run's ledger.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
    """
    entries = _or_end(lambda: read_ledger(flow_run_id))
    width = terminal_width()
    show(line for entry in entries for line in _lines(entry, width))
    if not entries:
        show(["This flow run has started nothing."])


def attach(flow_run_id: UUID, slot: str, run_short_id: str, *, url: str | None = None) -> None:
    """Record the run that an open intent has started, as found in QA.tech; a retry of the flow run then resumes it.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `ledger list` name it.
        run_short_id: The run that was found.
        url: Its address.
    """
    record = _or_end(lambda: attach_run(flow_run_id, slot, run_short_id, run_url=url))
    show([f"Run {record.run_short_id} is on record. Retry the flow run to take it up."])


def clear(flow_run_id: UUID, slot: str) -> None:
    """Delete an open intent that surely has started nothing; a retry of the flow run then starts anew.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `ledger list` name it.
    """
    _or_end(lambda: clear_intent(flow_run_id, slot))
    show(["The intent is cleared. Retry the flow run to start anew."])


def _lines(entry: QATechLedgerEntry, width: int) -> Iterator[str]:
    """Return rows for a slot, what was asked for, and what came of it: an address fits on a line of its own."""
    state = "OPEN" if entry.run is None else "wrong" if entry.run.not_as_asked is not None else "ok"
    yield from row([(state, _STATE), (f"{entry.sent_at:%Y-%m-%d %H:%M:%S} UTC", _TIME)], entry.slot, width)
    label = f", label {entry.label!r}" if entry.label else ""
    if entry.run is None:
        told = "Its outcome is not known: look for it in QA.tech, then `ledger attach` it or `ledger clear` the intent."
    else:
        told = f"{entry.run.run_short_id} {entry.run.run_url or ''}"
        if entry.run.not_as_asked is not None:
            told += " is NOT WHAT WAS ASKED FOR: no call gets it."
    for text in (f"{entry.what}{label}", told):
        yield from row([("", _STATE)], one_line(text), width)


def _or_end(do: Callable[[], T]) -> T:
    try:
        return do()
    except (QATechError, ValueError) as error:
        end(one_line(str(error)))
    except (OSError, RuntimeError, httpx.HTTPError, httpx.InvalidURL) as error:  # the last of Prefect's attempts
        why = one_line(f"{type(error).__name__}: {error}")
        end(
            f"The Prefect API cannot be asked ({why}). See to PREFECT_API_URL and the server: `prefect-qatech doctor` "
            "checks both."
        )
