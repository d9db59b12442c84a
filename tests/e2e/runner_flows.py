"""Flows whose tasks run in other processes: `python -m tests.e2e.runner_flows RUNNER FLOW`, with a saved block.

What came of it is printed as JSON, in the last line.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import Any, TypeVar

from prefect import flow, unmapped
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from prefect_qatech import (
    NotFoundError,
    QATechCredentials,
    QATechPolling,
    WaitTimedOut,
    aget_test_run,
    arerun_test_run,
    astart_test_run,
    get_test_run,
    rerun_test_run,
    start_test_run,
    wait_for_test_run,
)

BLOCK = "elsewhere"
SERVED = [
    aget_test_run,
    arerun_test_run,
    astart_test_run,
    get_test_run,
    rerun_test_run,
    start_test_run,
    wait_for_test_run,
]
POLLING = QATechPolling(first_seconds=0.2, max_seconds=0.5)
T = TypeVar("T")
_seen: list[dict[str, list[str]]] = []


class LaterStepFailed(Exception):
    """What makes Prefect retry the flow run."""


def runner(name: str) -> TaskRunner[Any]:
    """A task runner with two processes."""
    module, kind, options = {
        "process-pool": ("prefect.task_runners", "ProcessPoolTaskRunner", {"max_workers": 2}),
        "dask": (
            "prefect_dask",
            "DaskTaskRunner",
            {"cluster_kwargs": {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}},
        ),
        "ray": ("prefect_ray", "RayTaskRunner", {"init_kwargs": {"num_cpus": 2, "include_dashboard": False}}),
    }[name]
    made: TaskRunner[Any] = getattr(importlib.import_module(module), kind)(**options)
    return made


def told(error: BaseException) -> dict[str, Any]:
    """What is known of an error that came back."""
    fields = ("status", "request", "run_short_id", "waited_seconds")
    return {"type": type(error).__name__, "text": str(error), **{name: getattr(error, name, None) for name in fields}}


@flow(retries=1, retry_delay_seconds=0)
def campaign(credentials: QATechCredentials) -> dict[str, Any]:
    """Starts, waits and reruns, submitted and mapped, sync and async; then a later step fails once."""
    first = start_test_run.submit(credentials, "pln_flaky", label="first").result()
    run = wait_for_test_run.submit(credentials, first, 600, polling=POLLING).result()
    rerun = rerun_test_run.submit(credentials, first, failed_only=True, label="failed")
    everything = arerun_test_run.submit(credentials, first, label="everything")
    mapped = start_test_run.map(unmapped(credentials), ["pln_green", "pln_broken"], label=["green", "broken"])
    labelled = [astart_test_run.submit(credentials, "pln_green", label=f"number {number}") for number in range(2)]
    equal = [start_test_run.submit(credentials, "pln_flaky", label="first") for _ in range(2)]
    futures = {"reruns": [rerun, everything], "mapped": mapped, "labelled": labelled, "equal": equal}
    found = {name: [future.result().run_short_id for future in group] for name, group in futures.items()}
    found["first"] = [first.run_short_id]
    _seen.append(found)
    waits = wait_for_test_run.map(unmapped(credentials), found["mapped"], 600, polling=unmapped(POLLING))
    results = [wait.result().result for wait in waits]
    look = aget_test_run.submit(credentials, first, "all").result()
    if len(_seen) == 1:
        raise LaterStepFailed
    return {"attempts": _seen, "first": run.result, "mapped": results, "tests": len(look.test_cases)}


@flow
def errors(credentials: QATechCredentials) -> list[dict[str, Any]]:
    """What comes back of tasks that fail."""
    missing = start_test_run.submit(credentials, "pln_missing", label="missing")
    started = start_test_run.submit(credentials, "pln_never", label="never").result()
    late = wait_for_test_run.submit(credentials, started, 0)
    wrong = start_test_run.submit(credentials, "check out")
    unsaved = credentials.model_copy()
    unsaved._block_document_id = None
    tokenless = start_test_run.submit(unsaved, "pln_green", label="tokenless")
    nameless = start_test_run.submit(credentials, "pln_green")
    caught: list[dict[str, Any]] = []
    for future in (missing, late, wrong, tokenless, nameless):
        try:
            future.result()
        except (NotFoundError, WaitTimedOut, ValueError) as error:
            caught.append(told(error))
    return caught


def ended(future: PrefectFuture[T]) -> PrefectFuture[T]:
    """Wait for a delayed task; Prefect does not wait for one whose first state its server has not stored yet."""
    while True:
        try:
            future.wait(timeout=300)
        except RuntimeError as error:
            if "has no state" not in str(error):
                raise
            time.sleep(0.1)
        else:
            return future


@flow
def delayed(credentials: QATechCredentials) -> dict[str, Any]:
    """Tasks for a task worker: starts of one label and of another, then looks while the run goes on."""
    starts = [start_test_run.delay(credentials, "pln_flaky", label="one") for _ in range(2)]
    labelled = astart_test_run.delay(credentials, "pln_flaky", label="another")
    runs = [ended(future).result() for future in [*starts, labelled]]
    run_short_id = runs[0].run_short_id
    looks = []
    for task in (get_test_run, get_test_run, aget_test_run, aget_test_run):
        look = ended(task.delay(credentials, run_short_id))
        looks.append((look.state.name, look.result().run_short_id))
    waited = ended(wait_for_test_run.delay(credentials, run_short_id, 600, polling=POLLING)).result()
    rerun = ended(rerun_test_run.delay(credentials, run_short_id, failed_only=True, label="failed")).result()
    missing = start_test_run.delay(credentials, "pln_missing", label="missing")
    try:
        ended(missing).result()
    except NotFoundError as error:
        caught = told(error)
    return {
        "runs": [run.run_short_id for run in runs],
        "looks": looks,
        "waited": waited.result,
        "rerun": rerun.run_short_id,
        "error": caught,
    }


def delayed_without_a_flow(credentials: QATechCredentials) -> list[str]:
    """Equal starts that no flow run has a record of."""
    futures = [start_test_run.delay(credentials, "pln_green") for _ in range(2)]
    return [ended(future).result().run_short_id for future in futures]


def main(kind: str, name: str) -> None:
    credentials = QATechCredentials.load(BLOCK)
    if kind == "task-worker":
        print(json.dumps({"delayed": delayed, "delayed_without_a_flow": delayed_without_a_flow}[name](credentials)))
    else:
        called = {"campaign": campaign, "errors": errors}[name]
        print(json.dumps(called.with_options(task_runner=runner(kind))(credentials)))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        from prefect.task_worker import aserve

        # Prefect's `serve` would run async tasks in the loop that starts its sender of logs: a sync task that is the
        # first to log would hold the lock for which the loop waits.
        asyncio.run(aserve(*SERVED))
    else:
        main(*sys.argv[1:])
