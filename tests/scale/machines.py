"""The parts of deployments/compose.yaml as processes on 127.0.0.1; each has a home of its own, as on a machine."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.postgres import create_database, initialize
from tests.e2e.world import ROOT, World, eventually, free_port
from tests.scale.recipe import DEPLOYMENTS, Recipe

APIS = ("api-1", "api-2")
WORKERS = ("machine-1", "machine-2", "machine-3")
_MARK = "QATECH_SCALE"


class Machines(World):
    """PostgreSQL, Redis, two API servers behind a proxy, the background services, and workers."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._password = secrets.token_urlsafe(16)
        user, password = "admin", secrets.token_urlsafe(16)
        self.recipe = Recipe(
            DEPLOYMENTS / "compose.yaml",
            {
                "POSTGRES_PASSWORD": self._password,
                "API_AUTH": f"{user}:{password}",
                "PUBLIC_URL": self.api_url.removesuffix("/api"),
            },
        )
        self.http.auth = (user, password)
        # The worker's health check has a port on each machine, here they share one machine.
        self.ports = {name: free_port() for name in ("postgres", "redis", *APIS, *WORKERS)}
        self._addresses = {
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self.ports["postgres"]),
            "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
            "PREFECT_REDIS_MESSAGING_PORT": str(self.ports["redis"]),
            "PREFECT_SERVER_DOCKET_URL": f"redis://127.0.0.1:{self.ports['redis']}/1",
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
        }
        # Not in `home`, as the user postgres must reach it.
        self._database = Path(tempfile.mkdtemp(prefix="qatech-scale-postgres-"))

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of an operator's shell; of a process of the recipe, where `more` is that of its service."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "QATECH"))}
        operator = self.recipe.environment("worker") | {"HOME": str(self.home), "PREFECT_CLI_COLORS": "false"}
        return {**inherited, "PYTHONPATH": str(ROOT), _MARK: str(self.home), **(operator if more is None else more)}

    # --- the parts, in the order of the recipe

    def start(self) -> None:
        """Start all but the workers, each when what it depends on is well."""
        self._start_postgres()
        self._start("redis", *self._redis(), ports={6379: self.ports["redis"]})
        self._migrate()
        for name in APIS:
            here = {"PREFECT_SERVER_API_PORT": str(self.ports[name])}
            self._start(name, *self._prefect(name), env=self._settings(name, here), ports={4200: self.ports[name]})
        self.spawn("services", *self._prefect("services"), env=self._settings("services"))
        self._start("proxy", *self._proxy(), ports={4200: self.port})

    def start_workers(self) -> None:
        for name in WORKERS:
            settings = self.recipe.environment("worker", {"PREFECT_WORKER_WEBSERVER_PORT": str(self.ports[name])})
            command = [*self._prefect("worker"), "--name", name]
            self.spawn(name, *command, env={**settings, **self._own_home(name)})
        for name in WORKERS:
            self._await_health("worker", name, {8080: self.ports[name]})

    def stop_everything(self) -> None:
        """Stop the parts, those first that need others."""
        for name in (*WORKERS, "services", *APIS, "proxy", "redis"):
            self.stop(name)
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        # SIGTERM would wait for connections that nobody closes any more.
        self.stop("postgres", signal.SIGINT)
        self.http.close()
        shutil.rmtree(self._database)

    def _start(self, name: str, *command: str, ports: Mapping[int, int], env: Mapping[str, str] | None = None) -> None:
        self.spawn(name, *command, env=env or {})
        self._await_health(name, name, ports)

    def _await_health(self, service: str, name: str, ports: Mapping[int, int]) -> None:
        check = self.recipe.health_check(service, ports)
        program = {"python": [sys.executable]}.get(check[0], [_program(check[0])])

        def healthy() -> bool:
            assert self._processes[name].poll() is None, f"{name} has ended:\n{self.log(name)[-3000:]}"
            return subprocess.run([*program, *check[1:]], capture_output=True, timeout=60).returncode == 0

        eventually(healthy, f"the health of {name}: {' '.join(check)}")

    def _settings(self, service: str, here: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**self.recipe.environment(service, {**self._addresses, **(here or {})}), **self._own_home(service)}

    def _own_home(self, name: str) -> dict[str, str]:
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        return {"HOME": str(folder)}

    def _prefect(self, service: str) -> list[str]:
        program, *arguments = self.recipe.command(service)
        assert program == "prefect"
        return [sys.executable, "-m", "prefect", *arguments]

    def _migrate(self) -> None:
        env = self.environment(self._settings("migrate"))
        done = subprocess.run(self._prefect("migrate"), env=env, cwd=ROOT, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr

    def _redis(self) -> list[str]:
        program, *arguments = self.recipe.command("redis")
        (self.home / "redis").mkdir()
        here = ["--bind", "127.0.0.1", "--port", str(self.ports["redis"]), "--dir", str(self.home / "redis")]
        return [_program(program), *arguments, *here]

    def _proxy(self) -> list[str]:
        """The command of the proxy, with its configuration at the ports of here."""
        text = (DEPLOYMENTS / "proxy.conf").read_text()
        for there, here in {
            "listen 0.0.0.0:4200": f"listen 127.0.0.1:{self.port}",
            "/dev/stdout": str(self.home / "access.log"),
            **{f"{name}:4200": f"127.0.0.1:{self.ports[name]}" for name in APIS},
        }.items():
            assert text.count(there) == 1, f"proxy.conf has {text.count(there)} times {there!r}"
            text = text.replace(there, here)
        path = self.home / "proxy.conf"
        path.write_text(text)
        program, flag, directives = self.recipe.command("proxy")
        return [_program(program), "-c", str(path), flag, f"{directives} pid {self.home / 'proxy.pid'};"]

    def _start_postgres(self) -> None:
        wanted, port = self.recipe.environment("postgres"), self.ports["postgres"]
        user, password = wanted["POSTGRES_USER"], wanted["POSTGRES_PASSWORD"]
        self._start("postgres", *initialize(self._database, user, password, port), ports={5432: port})
        assert create_database(wanted["POSTGRES_DB"], user, password, port)

    # --- what runs

    def pids(self, machine: str | None = None) -> list[int]:
        """The processes of a machine; without one, whatever this world has started and is still there."""
        found = []
        mark = f"HOME={self.home / machine}" if machine else f"{_MARK}={self.home}"
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                is_zombie = b") Z " in (entry / "stat").read_bytes()
            except OSError:
                continue
            if mark.encode() in environment and f"{_MARK}={self.home}".encode() in environment and not is_zombie:
                found.append(int(entry.name))
        return found

    def signal_machine(self, machine: str, number: signal.Signals) -> int:
        """Send a signal to each process of a machine; returns how many there were."""
        reached = 0
        for pid in self.pids(machine):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
            reached += 1
        return reached


def _program(name: str) -> str:
    """Find a program, also where only root looks for it."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"there is no {name}: tests/scale/install-servers installs it"
    return found
