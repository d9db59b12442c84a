"""Wakes the gates that wait suspended: whose run has ended, whose deadline has come, or whom nobody has answered.

    python -m flows.watcher

serves it from this machine, as `watch-suspended-gates/local`, with the credentials block `qatech`;
`deployments/suspended.yaml` deploys it for a work pool. One is enough for all gates at one address whose runs the
credentials can see.

It begins every five minutes, ends at once where no gate is suspended, and looks every half minute where some are: an
end is noticed within half a minute, and 12 processes an hour are started instead of 60.
"""

import asyncio
import time

import httpx
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger

from prefect_qatech import QATechCredentials, awake_suspended_gates
from prefect_qatech.gate.watcher import suspended_gates

BLOCK = {"$ref": {"block_document_slug": "qatech-credentials/qatech"}}


@flow(name="watch-suspended-gates", retries=0)
async def watch(credentials: QATechCredentials, for_seconds: float = 270.0, every_seconds: float = 30.0) -> int:
    """Look after all suspended gates, until none is left or the next round begins.

    Args:
        credentials: How to look at the gates' runs; read access is enough.
        for_seconds: How long to go on while gates are suspended: less than the schedule's interval. 0 looks once.
        every_seconds: How often to look.

    Returns:
        How many were woken.

    Raises:
        UnauthorizedError: The token is refused.
    """
    until = time.monotonic() + for_seconds
    woken = 0
    while True:
        try:
            woken += len(await awake_suspended_gates(credentials))
            async with get_client() as prefect:
                are_left = bool(await suspended_gates(prefect))
        except httpx.HTTPError as error:
            # Of Prefect's API; those of QA.tech are other errors, and are seen to.
            get_run_logger().warning("Prefect's API could not be asked, and is asked again: %r", error)
            are_left = True
        if not are_left or time.monotonic() + every_seconds > until:
            return woken
        await asyncio.sleep(every_seconds)


if __name__ == "__main__":
    watch.serve(name="local", interval=300, parameters={"credentials": BLOCK}, global_limit=1)
