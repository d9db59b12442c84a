"""What lets Prefect start sooner in the tests; without it they do the same, only later.

As a plugin of pytest's it does so for `prefect_test_harness`, wherever it is used.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import gettempdir, mkdtemp

import certifi
import prefect

_TABLES = Path(__file__).resolve().parents[1] / ".pytest_cache" / f"prefect-{prefect.__version__}.db"
_END = "-----END CERTIFICATE-----\n"


def copy_tables(database: Path) -> None:
    """Let a server find the tables that an earlier one has made: to make them takes many seconds."""
    if _TABLES.exists():
        shutil.copy(_TABLES, database)


def keep_tables(database: Path) -> None:
    """Keep the tables of a server that has just started."""
    if not _TABLES.exists():
        _TABLES.parent.mkdir(exist_ok=True)
        draft = _TABLES.with_suffix(f".{os.getpid()}")
        with closing(sqlite3.connect(database)) as there, closing(sqlite3.connect(draft)) as here:
            there.backup(here)
        draft.replace(_TABLES)


def pytest_configure() -> None:
    """Give each database of `prefect_test_harness` its tables."""
    from prefect.testing import utilities

    def with_tables() -> str:
        directory = mkdtemp()
        copy_tables(Path(directory) / "prefect-test.db")
        return directory

    utilities.mkdtemp = with_tables


def one_certificate() -> Path:
    """Return a file with one authority's certificate, for `PREFECT_API_SSL_CERT_FILE`.

    Each client of Prefect's reads all authorities (20 ms), also for a server on this machine, which has no certificate.
    """
    path = Path(gettempdir()) / "prefect-qatech-tests.pem"
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        first = Path(certifi.where()).read_text(encoding="utf-8").partition(_END)
        draft.write_text("".join(first[:2]), encoding="utf-8")
        draft.replace(path)
    return path
