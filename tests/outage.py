"""A Prefect API that hangs, answers 503 or refuses, when a test says so: a proxy before the real one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_URL, temporary_settings

Mode = Literal["up", "hangs", "503", "refuses"]


class PrefectInFront:
    """A TCP proxy on this machine.

    Attributes:
        mode: What it does from now on, with the connections that are open as well.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._mode: Mode = "up"
        self._open: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._up = asyncio.Event()
        self._up.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/api"

    def set(self, mode: Mode) -> None:
        """Break it, or mend it."""

        def change() -> None:
            self._mode = mode
            if mode == "up":
                self._up.set()
            else:
                self._up.clear()
            if mode in ("503", "refuses"):
                for writer in list(self._open):
                    writer.close()

        self._loop.call_soon_threadsafe(change)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "refuses":
            writer.close()
            return
        self._open.add(writer)
        try:
            if self._mode == "503":
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            await self._up.wait()
            there, back = await asyncio.open_connection(self._host, self._port)
            self._open.add(back)
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._up.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()


@contextmanager
def prefect_in_front() -> Iterator[PrefectInFront]:
    """Everything that asks Prefect's API from now on asks it through a proxy."""
    parts = urlsplit(PREFECT_API_URL.value() or "")
    proxy = PrefectInFront(parts.hostname or "", parts.port or 0)
    loop = asyncio.new_event_loop()
    # It is never stopped: Prefect's workers for logs and events go on using the address until the process ends.
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(30)
    with temporary_settings({PREFECT_API_URL: proxy.url}):
        try:
            yield proxy
        finally:
            proxy.set("up")
