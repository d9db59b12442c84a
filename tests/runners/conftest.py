from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_qatech.sandbox import Sandbox
from tests.e2e.elsewhere import Elsewhere, scenario
from tests.e2e.world import World


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    # Ray's sockets lie in its folder, and the path of a socket must be short.
    home = Path(tempfile.mkdtemp(prefix="qt-"))
    world = World(home)
    try:
        world.start_server()
        with Sandbox(scenario(), speed=60) as sandbox:
            yield Elsewhere(world, sandbox)
    finally:
        world.stop_everything()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def sandbox(elsewhere: Elsewhere) -> Sandbox:
    elsewhere.sandbox.reset()
    return elsewhere.sandbox
