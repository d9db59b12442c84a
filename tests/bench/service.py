"""A service for the benches that costs next to nothing itself: `python -m tests.bench.service PORT`.

A run is what is asked about: `d90xa7` is one of those that last 90 seconds from the first look on. It has ten test
cases, two at a time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

_TESTS = 10
_SIDE_BY_SIDE = 2
_began: dict[str, float] = {}


def _run(short_id: str) -> bytes:
    seconds = float(short_id[1:].split("x")[0])
    share = (time.monotonic() - _began.setdefault(short_id, time.monotonic())) / seconds if seconds else 1.0
    finished = min(_TESTS, int(share * _TESTS))
    words = ["COMPLETED"] * finished + ["RUNNING"] * min(_SIDE_BY_SIDE, _TESTS - finished)
    words += ["INITIATED"] * (_TESTS - len(words))
    done = share >= 1
    run = {
        "id": short_id,
        "shortId": short_id,
        "status": "COMPLETED" if done else "RUNNING",
        "result": "PASSED" if done else None,
        "runTestCases": [
            {
                "id": f"00000000-0000-4000-8000-{number:012}",
                "shortId": f"t{number}",
                "name": f"Test {number}",
                "status": word,
                "result": "PASSED" if word == "COMPLETED" else None,
            }
            for number, word in enumerate(words)
        ],
    }
    return json.dumps(run).encode()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ", 2)[1].decode()
            body = _run(path.split("/")[-1].split("?")[0])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _main(port: int) -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
