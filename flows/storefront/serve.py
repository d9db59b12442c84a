"""Serves the sample storefront on 127.0.0.1.

    python -m flows.storefront.serve --root DIR/staging --port 8410

A page that says `<meta name="storefront" content="cold-start">` is slow to wake: its first visitor after a deployment
gets an error, everybody after that gets the page.
"""

from __future__ import annotations

import argparse
import contextlib
import socketserver
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COLD_START = b'<meta name="storefront" content="cold-start">'
HOST = "127.0.0.1"


class StorefrontServer(ThreadingHTTPServer):
    """Serves whatever the root holds at the moment of a request; the root may be a link that moves."""

    def __init__(self, root: Path, port: int, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._root = root
        self._warm: set[Path] = set()
        self._lock = threading.Lock()
        super().__init__((HOST, port), partial(_Handler, directory=str(root)))

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Bind without asking a name server for the machine's name, which can take long where there is none."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def problem_of(self, page: Path) -> str | None:
        """Say why a page cannot be shown to this visitor."""
        if not self._root.exists():
            return "Nothing is deployed here"
        # With its links followed: a page that is deployed again is another page, and cold again.
        page = page.resolve()
        if not page.is_file() or COLD_START not in page.read_bytes():
            return None
        with self._lock:
            is_warm = page in self._warm
            self._warm.add(page)
        return None if is_warm else "This page is waking up"


class _Handler(SimpleHTTPRequestHandler):
    server: StorefrontServer

    def send_head(self) -> Any:
        problem = self.server.problem_of(Path(self.translate_path(self.path)))
        if problem is not None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, problem)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        # What is served changes with a deployment.
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        if not self.server.quiet:
            super().log_message(format, *args)


@contextlib.contextmanager
def serving(root: Path, port: int = 0) -> Iterator[str]:
    """Serve in a thread and give the address.

    Args:
        root: The site, or a link to it; it may not be there yet.
        port: The port; 0 takes a free one.

    Yields:
        The address.
    """
    with StorefrontServer(root, port, quiet=True) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="storefront", daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="flows.storefront.serve", description="Serve the sample storefront.")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the site, or a link to it")
    parser.add_argument("--port", type=int, default=8410, help="the port on 127.0.0.1; 0 takes a free one")
    given = parser.parse_args()
    try:
        server = StorefrontServer(given.root, given.port)
    except (OSError, OverflowError) as error:
        print(f"flows.storefront.serve: port {given.port}: {error}", file=sys.stderr)
        sys.exit(2)
    with server, contextlib.suppress(KeyboardInterrupt):
        print(f"Storefront listening on {server.url}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
