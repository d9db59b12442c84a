"""Debian's PostgreSQL on 127.0.0.1; it refuses to be root, so root lends it the user postgres."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path


def initialize(folder: Path, user: str, password: str, port: int) -> list[str]:
    """Make a cluster in a folder that the user postgres can reach; return the command that serves it."""
    owner = pwd.getpwnam("postgres")
    as_owner = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    secret, data = folder / "password", folder / "data"
    secret.write_text(password)
    for path in (folder, secret):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    initdb = [*as_owner, str(_programs() / "initdb"), f"--pgdata={data}", f"--username={user}", f"--pwfile={secret}"]
    subprocess.run([*initdb, "--auth=scram-sha-256", "--encoding=UTF8"], check=True, capture_output=True, cwd="/")
    serve = [*as_owner, str(_programs() / "postgres"), "-D", str(data), "-k", str(folder)]
    return [*serve, "-h", "127.0.0.1", "-p", str(port)]


def create_database(name: str, user: str, password: str, port: int) -> bool:
    """Create a database; return whether that could be done, which it cannot before the server is up."""
    createdb = [str(_programs() / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", user, name]
    return subprocess.run(createdb, capture_output=True, env={**os.environ, "PGPASSWORD": password}).returncode == 0


def _programs() -> Path:
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
