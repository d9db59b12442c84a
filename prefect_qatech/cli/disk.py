"""What `prefect-qatech run` has started, on disk, so that it is never started twice: one folder for each campaign.

`<slot>.intent` is made, in one step that only one process can take, before a POST is sent; `<slot>.json` holds the run
once its answer is there. An intent without a run is a POST whose outcome nobody knows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_qatech.exceptions import InvalidInputError, LedgerUnavailable
from prefect_qatech.ledger import QATechRunRecord

FIRST = "first"
_VERDICT = "verdict.json"
_REQUEST = "request.json"


class JournalVerdict(BaseModel):
    """The end of a campaign.

    Attributes:
        verdict: pass, fail or inconclusive.
        ended_at: When it was found.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    verdict: str
    ended_at: datetime


class RunJournal:
    """The record of one campaign.

    Args:
        directory: Where the journals of all campaigns are.
        asked: What is tested, where, for which target: what tells this campaign from another one.
    """

    def __init__(self, directory: Path, asked: Mapping[str, Any]) -> None:
        text = json.dumps(asked, sort_keys=True)
        self.directory = directory / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._asked = text

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
        """Return the run of a slot; None where none was started there.

        Args:
            slot: `first`, or the name of a rerun.

        Raises:
            LedgerUnavailable: What is there cannot be read.
        """
        try:
            record = QATechRunRecord.model_validate_json(self._run(slot).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise self._unreadable(self._run(slot).name, error) from error
        return record.model_copy(update={"found": True})

    def has_open_intent(self, slot: str) -> bool:
        """Return whether a POST was about to be sent whose outcome is not on record."""
        return self._intent(slot).exists() and not self._run(slot).exists()

    def slots(self) -> list[str]:
        """Return the names of all slots in which something was started, or may have been."""
        return sorted({path.stem for path in self.directory.glob("*.intent")})

    def open_intent(self, slot: str) -> bool:
        """Record that a POST is about to be sent.

        Args:
            slot: `first`, or the name of a rerun.

        Returns:
            Whether the slot was free; only then may the POST be sent.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _write_whole(self.directory / _REQUEST, self._asked)
            descriptor = os.open(self._intent(slot), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        except OSError as error:
            raise LedgerUnavailable(f"The journal cannot be written, so nothing was started: {error}.") from error
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps({"sent_at": datetime.now(timezone.utc).isoformat()}))
            file.flush()
            os.fsync(file.fileno())
        return True

    def clear_intent(self, slot: str) -> None:
        """Forget an intent whose POST was surely not accepted."""
        self._intent(slot).unlink(missing_ok=True)

    def record(self, slot: str, record: QATechRunRecord) -> None:
        """Record the run that a POST has started."""
        self.directory.mkdir(parents=True, exist_ok=True)
        _write_whole(self._run(slot), record.model_dump_json())

    def end(self, verdict: str) -> None:
        """Record the verdict."""
        ended = JournalVerdict(verdict=verdict, ended_at=datetime.now(timezone.utc))
        _write_whole(self.directory / _VERDICT, ended.model_dump_json())

    def reopen(self) -> None:
        """Forget the verdict: somebody asked again."""
        (self.directory / _VERDICT).unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Keep what is on record under another name, so that a new campaign can begin."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        older = self.directory.parent / "older"
        try:
            older.mkdir(exist_ok=True)
            self.directory.rename(older / f"{self.directory.name}-{stamp}")
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


def check_journal_directory(directory: Path) -> None:
    """Check that a journal can be kept in a directory.

    Args:
        directory: The directory; made where it is missing.

    Raises:
        InvalidInputError: It cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"--journal: nothing can be kept in {directory}: {error.strerror}") from error
    if not os.access(directory, os.W_OK):
        raise InvalidInputError(f"--journal: nothing can be written to {directory}")


def _write_whole(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
