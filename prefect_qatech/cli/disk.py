"""What `prefect-qatech run` has started, on disk, so that it is never started twice: one folder for each campaign.

`<slot>.intent` is made, in one step that only one process can take, before a POST is sent; `<slot>.json` holds the run
once its answer is there. An intent without a run is a POST whose outcome nobody knows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_qatech.addresses import without_password
from prefect_qatech.exceptions import InvalidInputError, LedgerConflict, LedgerUnavailable
from prefect_qatech.ledger import QATechRunRecord, service_of
from prefect_qatech.texts import short_hash

FIRST = "first"
_VERDICT = "verdict.json"
_REQUEST = "request.json"
_TOLD_BY_A_START = ("run_url", "test_count", "test_count_is_unreadable", "plan_short_id", "plan_name", "target")


class JournalVerdict(BaseModel):
    """The end of a campaign: pass, fail or inconclusive, and when it was found."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    verdict: str
    ended_at: datetime


class _Request(BaseModel):
    """What a campaign's folder tells of it: what was asked, and the address and project."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    asked: dict[str, Any] = {}
    place: str = ""


class RunJournal:
    """The record of one campaign, in a directory with those of all others.

    What is `asked`, for which target, tells it from another one. The place, the service's address and the project where
    one is named, is no part of that.
    """

    def __init__(self, directory: Path, asked: Mapping[str, Any], place: str = "") -> None:
        text = json.dumps(asked, sort_keys=True)
        self.directory = directory / short_hash(text)
        # For people: CI services keep the journal in caches.
        self._request = _Request(asked=_without_passwords(asked), place=place).model_dump_json()
        self._place = place

    def check_place(self) -> None:
        """Raise `LedgerConflict` where what is on record is at another address or project than this campaign's runs."""
        try:
            place = _request_of(self.directory).place
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            raise self._unreadable(_REQUEST, error) from error
        # Until 0.1.0 a run that is waited for was recorded without its place.
        if place not in ("", self._place) and (self.slots() or self._run(FIRST).exists()):
            raise LedgerConflict(
                f"This very request is on record at {place}, and the credentials are for {self._place}. Nothing was "
                "sent: use the credentials that it was started with, or give --anew or another --journal."
            )

    def start_of(self, run_short_id: str) -> tuple[str, QATechRunRecord] | None:
        """Return where a run of this service is on record as started, by any campaign, and its record."""
        starts = [
            (slot, record)
            for slot, record, asked in self._on_record(run_short_id)
            if not _is_judged_only(record, asked)
        ]
        # A run that was not what was asked for is the run of another start, where there is one.
        return min(starts, key=lambda start: start[1].not_as_asked is not None, default=None)

    def target_judged(self, run_short_id: str) -> str | None:
        """Return the target for which a run that something else has started was judged, where there is one."""
        targets = [
            record.target for _, record, asked in self._on_record(run_short_id) if _is_judged_only(record, asked)
        ]
        return next(iter(targets), None)

    def _on_record(self, run_short_id: str) -> Iterator[tuple[str, QATechRunRecord, dict[str, Any]]]:
        """Yield each slot that holds a run of this service, its record, and what its campaign asked for."""
        # Unlike `glob`, `walk` passes over a folder that another command sets aside at this moment.
        folders = os.walk(self.directory.parent)
        paths = sorted(Path(folder, name) for folder, _, names in folders for name in names)
        for path in (path for path in paths if path.suffix == ".json"):
            try:
                record = QATechRunRecord.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue
            if record.run_short_id != run_short_id:
                continue
            try:
                request = _request_of(path.parent)
            except (OSError, ValidationError):
                request = _Request()
            # One that does not tell its service may be of this one.
            if not request.place or service_of(request.place) == service_of(self._place):
                known: dict[str, Any] = {"target": record.target or request.asked.get("target")}
                if request.asked.get("rerun"):  # by the command `rerun`, and not of all tests
                    known |= {"kind": "rerun", "rerun_of": record.rerun_of or request.asked.get("of")}
                yield f"{path.parent.name}/{path.stem}", record.model_copy(update=known), request.asked

    def attach(self, run: QATechRunRecord, target: str | None) -> QATechRunRecord:
        """Return a run that is judged for a target, with what is on record of it.

        Its target is the first that it was started or judged for; that is recorded.

        Raises:
            InvalidInputError: It is a rerun, which holds a part of the tests only.
            OSError: The target could not be recorded.
        """
        known = {}
        if (start := self.start_of(run.run_short_id)) is not None:
            _, started = start
            if started.kind == "rerun":
                first = started.rerun_of or "another run"
                raise InvalidInputError(
                    f"Run {run.run_short_id} is a rerun of {first}, and holds a part of that run's tests only. Nothing "
                    f"was sent. Give --resume to the command that started it, or judge the first run: wait {first}."
                )
            known = {name: getattr(started, name) for name in _TOLD_BY_A_START}
        former = self.find(FIRST)
        first_target = known.get("target") or (former.target if former is not None else None)
        run = run.model_copy(update={**known, "target": first_target or target})
        if first_target is None and target is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(self.directory / _REQUEST, self._request)
            try:
                write_whole(self._run(FIRST), run.model_dump_json(), over_another=former is not None)
            except FileExistsError:  # another command judges it at this moment
                return self.attach(run, target)
        return run

    def has_begun(self) -> bool:
        """Return whether a first run was started, or may have been."""
        return self._intent(FIRST).exists() or self._run(FIRST).exists()

    def verdict(self) -> JournalVerdict | None:
        """Return how the campaign ended; None where it has not."""
        try:
            return JournalVerdict.model_validate_json((self.directory / _VERDICT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise self._unreadable(_VERDICT, error) from error

    def find(self, slot: str) -> QATechRunRecord | None:
        """Return the run of a slot, `first` or a rerun; None where none was started there.

        Raises:
            LedgerUnavailable: What is there cannot be read.
        """
        try:
            record = QATechRunRecord.model_validate_json(self._run(slot).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise self._unreadable(self._run(slot).name, error) from error
        return record.model_copy(update={"is_resumed": True})

    def has_open_intent(self, slot: str) -> bool:
        """Return whether a POST was about to be sent whose outcome is not on record."""
        return self._intent(slot).exists() and not self._run(slot).exists()

    def slots(self) -> list[str]:
        """Return the names of all slots in which something was started, or may have been."""
        return sorted({path.stem for path in self.directory.glob("*.intent")})

    def open_intent(self, slot: str) -> str | None:
        """Record that a POST is about to be sent.

        Return what tells this intent from another one, for `record`; None where the slot is taken, and then no POST may
        be sent.
        """
        nonce = uuid4().hex
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(self.directory / _REQUEST, self._request)
            descriptor = os.open(self._intent(slot), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        except OSError as error:
            raise LedgerUnavailable(f"The journal cannot be written, so nothing was started: {error}.") from error
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(nonce)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk, say
            self._intent(slot).unlink(missing_ok=True)
            raise LedgerUnavailable(f"The journal cannot be written, so nothing was started: {error}.") from error
        return nonce

    def age_of_intent_seconds(self, slot: str) -> float:
        return max(0.0, time.time() - self._intent(slot).stat().st_mtime)

    def clear_intent(self, slot: str, nonce: str | None = None) -> None:
        """Forget an intent whose POST was surely not accepted: that of this nonce, or None for whichever is there."""
        if nonce is None or self._is_of(slot, nonce):
            self._intent(slot).unlink(missing_ok=True)

    def record(self, slot: str, nonce: str, record: QATechRunRecord) -> bool:
        """Record the run that a POST has started, and return whether the slot was still that of this intent."""
        is_ours = self._is_of(slot, nonce) and not self._run(slot).exists()
        if is_ours:
            write_whole(self._run(slot), record.model_dump_json())
        return is_ours

    def _is_of(self, slot: str, nonce: str) -> bool:
        try:
            return self._intent(slot).read_text() == nonce
        except FileNotFoundError:
            return False

    def settle(self, slot: str, record: QATechRunRecord) -> None:
        """Record the run that an open intent has started, as a person has found it."""
        write_whole(self._run(slot), record.model_dump_json())

    def end(self, verdict: str) -> None:
        ended = JournalVerdict(verdict=verdict, ended_at=datetime.now(timezone.utc))
        write_whole(self.directory / _VERDICT, ended.model_dump_json())

    def reopen(self) -> None:
        """Forget the verdict, as the campaign goes on."""
        (self.directory / _VERDICT).unlink(missing_ok=True)

    def set_aside(self, verdict: JournalVerdict | None) -> None:
        """Keep what is on record under another name, so that a new campaign can begin, whether or not it has a verdict.

        Raises:
            LedgerConflict: Another command was faster; what it has begun stays.
            LedgerUnavailable: The journal cannot be changed.
        """
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        older = self.directory.parent / "older"
        try:
            older.mkdir(exist_ok=True)
            if verdict is not None:
                # Only one command can take the verdict: the folder may be that of another one's new campaign by now.
                (self.directory / _VERDICT).rename(self.directory / f"older-{_VERDICT}")
            self.directory.rename(older / f"{self.directory.name}-{stamp}")
        except FileNotFoundError as error:
            raise LedgerConflict(
                "Another command has just begun this very request anew, so this one has started nothing: give --resume "
                "to go on with the other one's run."
            ) from error
        except OSError as error:
            raise LedgerUnavailable(f"The journal cannot be set aside, so nothing was started: {error}.") from error

    def _intent(self, slot: str) -> Path:
        return self.directory / f"{slot}.intent"

    def _run(self, slot: str) -> Path:
        return self.directory / f"{slot}.json"

    def _unreadable(self, name: str, error: Exception) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"The journal {self.directory / name} cannot be read ({type(error).__name__}), so nothing was started. "
            "Look at QA.tech for what has run; then delete that folder to begin anew."
        )


def _is_judged_only(record: QATechRunRecord, asked: Mapping[str, Any]) -> bool:
    """Whether a record is that of the command `wait`; a person may have found the run of a start, which is none."""
    return record.kind == "attached" and "attached" in asked


def _request_of(directory: Path) -> _Request:
    return _Request.model_validate_json((directory / _REQUEST).read_bytes())


def _without_passwords(asked: Any) -> Any:
    match asked:
        case str():
            return without_password(asked)
        case Mapping():
            return {name: _without_passwords(value) for name, value in asked.items()}
        case list():
            return [_without_passwords(value) for value in asked]
    return asked


def check_journal_directory(directory: Path) -> None:
    """Make a directory for a journal where it is missing; one that cannot be kept there is an `InvalidInputError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"--journal: nothing can be kept in {directory}: {error.strerror}") from error
    if not os.access(directory, os.W_OK):
        raise InvalidInputError(f"--journal: nothing can be written to {directory}")


def write_whole(path: Path, text: str, *, over_another: bool = True) -> None:
    """Write a file as a whole: whoever reads it meanwhile, or after a disk was full, finds all of it or none.

    Where it may not be written over another one, that is a FileExistsError.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if over_another:
            new.replace(path)
        else:
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
