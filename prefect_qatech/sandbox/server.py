"""Serves the sandbox: in a thread for tests and notebooks (`Sandbox`), in the foreground for the command (`serve`)."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

from prefect_qatech.sandbox.app import create_app
from prefect_qatech.sandbox.engine import SandboxCounts
from prefect_qatech.sandbox.faults import FaultProtocol
from prefect_qatech.sandbox.loading import load_scenario
from prefect_qatech.sandbox.scenario import SandboxScenario
from prefect_qatech.sandbox.service import Service

__all__ = ["Sandbox", "SandboxError", "serve"]

HOST = "127.0.0.1"


class SandboxError(RuntimeError):
    """The sandbox cannot be served; the message is one line that says why."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


class Sandbox:
    """A local QA.tech, for development and tests only. It listens on 127.0.0.1 and nowhere else.

    Its methods work on the state directly, without a request, and may be called from any thread.

    Args:
        scenario: A YAML file, the name of one that comes with the package, a mapping, or nothing for the default one.
        speed: Virtual seconds per real second. 0 is a manual clock that stands still until `advance` is called.
        port: The port; 0 takes a free one.
        seed: Of the ids; the same seed and the same requests give the same ids. None gives others each time.

    Raises:
        ScenarioError: The scenario is not there or not right.
        SandboxError: On entering: the port is not free.

    Example:
        ```python
        with Sandbox(speed=600) as sandbox:
            httpx.post(f"{sandbox.url}/v1/run", headers={"Authorization": f"Bearer {sandbox.token}"})
            assert sandbox.counts()["starts"] == 1
        ```
    """

    def __init__(
        self,
        scenario: str | Path | Mapping[str, Any] | SandboxScenario | None = None,
        *,
        speed: float = 60.0,
        port: int = 0,
        seed: int | None = 0,
    ) -> None:
        self.scenario = load_scenario(scenario)
        self._port, self._speed, self._seed = port, speed, seed
        self._service = Service(self.scenario, speed=speed, seed=seed)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Its address, without `/v1`."""
        if not self._url:
            raise RuntimeError("the sandbox has an address while it is being served: `with Sandbox() as sandbox: ...`")
        return self._url

    @property
    def token(self) -> str:
        """An API token that it takes."""
        return self.scenario.token

    def __enter__(self) -> Sandbox:
        if self._thread is not None:
            raise RuntimeError("this sandbox is being served already")
        listener = _listen(self._port)
        self._url = f"http://{HOST}:{listener.getsockname()[1]}"
        self._service = Service(self.scenario, speed=self._speed, seed=self._seed, base_url=self._url)
        config = uvicorn.Config(
            create_app(self._service),
            http=FaultProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="qatech-sandbox", daemon=True)
        self._thread.start()
        while not self._server.is_up.wait(0.1):
            if not self._thread.is_alive():
                self._stop()
                raise SandboxError("The sandbox could not be started; the log says why.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None
        self._url = ""

    def is_serving(self) -> bool:
        """Whether it still serves."""
        return self._thread is not None and self._thread.is_alive()

    def counts(self) -> SandboxCounts:
        """Return what it was asked and what it accepted so far."""
        return self._service.counts()

    def requests(self) -> list[dict[str, Any]]:
        """Return the last 1000 requests: method, path, body, status, fault, run_short_id, virtual_seconds, at."""
        return self._service.requests()

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs as they are now."""
        return self._service.runs()

    def set_faults(self, faults: Sequence[Mapping[str, Any]]) -> None:
        """Replace the faults; see `Fault` for what there is."""
        self._service.set_faults(faults)

    def clear_faults(self) -> None:
        """Let nothing go wrong any more."""
        self._service.set_faults([])

    def set_usage_limit(self, remaining_test_executions: int | None) -> None:
        """Set how many test executions are left before 402; None is no limit."""
        self._service.set_usage_limit(remaining_test_executions)

    def reset(self) -> None:
        """Forget all runs, counts and requests; the scenario's own faults and limits apply again."""
        self._service.reset()

    def advance(self, seconds: float) -> None:
        """Move the manual clock (speed 0) on."""
        self._service.advance(seconds)


def serve(
    port: int = 8400,
    *,
    scenario: str | Path | Mapping[str, Any] | SandboxScenario | None = None,
    speed: float = 60.0,
    seed: int | None = None,
    host: str = HOST,
) -> None:
    """Serve in the foreground until Ctrl-C or SIGTERM, and say where.

    Args:
        port: The port; 0 takes a free one.
        scenario: As for `Sandbox`.
        speed: As for `Sandbox`.
        seed: As for `Sandbox`, but other ids each time by default: whatever started a run may still know its id.
        host: 127.0.0.1; it is here only to refuse another one with a reason.

    Raises:
        ScenarioError: The scenario is not there or not right.
        SandboxError: The port is not free, or another host was asked for.
    """
    if host != HOST:
        raise SandboxError(f"The sandbox is for this machine only: it listens on {HOST}, not on {host}.")
    stop = threading.Event()
    # Before anything is served, so that a signal that comes early ends it cleanly too.
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Sandbox(scenario, speed=speed, port=port, seed=seed) as sandbox:
            print(f"Sandbox listening on {sandbox.url}", flush=True)
            print(f"  export QATECH_API_URL={sandbox.url} QATECH_API_TOKEN={sandbox.token}")
            plans = ", ".join(plan.short_id for plan in sandbox.scenario.plans)
            print(f"  Test plans: {plans}")
            pace = f"{speed:g} virtual seconds a second" if speed else "a manual clock (POST /sandbox/clock)"
            print(f"  Time: {pace}")
            print("A stand-in for QA.tech, for development and tests only. Ctrl-C ends it.", flush=True)
            while not stop.wait(1.0):
                if not sandbox.is_serving():
                    raise SandboxError("The sandbox ended unexpectedly; the log says why.")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is named: without it each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # So that it can be started again at once after it ended; a port in use is still refused.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise SandboxError(f"Port {port} is in use; choose another one, or 0 for a free one.") from None
        raise SandboxError(f"Cannot listen on port {port}: {error}") from None
    return listener
