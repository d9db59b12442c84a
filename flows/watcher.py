"""Wakes the gates that wait suspended: whose run has ended, whose deadline has come, or whom nobody has answered.

    python -m flows.watcher

serves it from this machine, as `watch-suspended-gates/local`, every minute, with the credentials block `qatech`;
`prefect.yaml` deploys it for a work pool. One is enough for all gates at one address whose runs the credentials can
see.
"""

from prefect import flow

from prefect_qatech import QATechCredentials, awake_suspended_gates


@flow(name="watch-suspended-gates", retries=0)
async def watch(credentials: QATechCredentials) -> int:
    """Look after all suspended gates once.

    Args:
        credentials: How to look at the gates' runs; read access is enough.

    Returns:
        How many were woken.

    Raises:
        UnauthorizedError: The token is refused.
    """
    return len(await awake_suspended_gates(credentials))


if __name__ == "__main__":
    block = {"$ref": {"block_document_slug": "qatech-credentials/qatech"}}
    watch.serve(name="local", interval=60, parameters={"credentials": block}, global_limit=1)
