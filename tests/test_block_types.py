"""What `prefect block register -m prefect_qatech` leaves on the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_two_types_and_no_third_with_descriptions_that_are_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    register = [sys.executable, "-m", "prefect", "block", "register", "-m", "prefect_qatech"]
    with get_client(sync_client=True) as client:
        before = {block_type.slug for block_type in client.read_block_types()}
        done = subprocess.run(register, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        after = {block_type.slug: block_type for block_type in client.read_block_types()}
    ours = {"qatech-credentials", "qatech-test-plan"}
    assert set(after) - before <= ours
    # Another collection that is installed may have a base class of its own there.
    assert [slug for slug in after if "gatereport" in slug.replace("-", "")] == []
    for slug in ours:
        description = after[slug].description
        # Up to the first dot is what `prefect block type ls` shows.
        assert description
        assert description.partition(".")[0] == description
