"""What flow runs are called: by what they test, where, and which version of it."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from prefect.runtime import flow_run

from prefect_qatech.api.requests import QATechRunRequest
from prefect_qatech.report.escape import plain_text

_MAX_LENGTH = 120
_COMMIT = re.compile(r"[0-9a-f]{12,64}")


def run_name(what: str | None, url: str | None = None, target: str | None = None) -> str:
    """Pure: return a name for the flow run of a gate.

    Args:
        what: The plan, or a label.
        url: The address that is tested.
        target: What is tested; of a commit its first seven digits.

    Example:
        >>> run_name("pln_checkout", "https://staging.example.com/shop", "4f2c9e1aa07be2d1")
        'pln_checkout on staging.example.com (4f2c9e1)'
    """
    host = _host_of(url) if url else ""
    short = target[:7] if target and _COMMIT.fullmatch(target) else target
    where = f" on {plain_text(host, _MAX_LENGTH)}" if host else ""
    version = f" ({plain_text(short, 40)})" if short else ""
    return f"{plain_text(what or 'default test plan', _MAX_LENGTH)}{where}{version}"


def name_of_this_gate() -> str:
    """Return a name for the current flow run, which is one of `release_gate`."""
    given: Mapping[str, Any] = flow_run.parameters
    request, run, url = given.get("request"), given.get("run"), None
    what = given.get("label")
    if isinstance(request, QATechRunRequest):
        what = what or request.test_plan_short_id
        environments = [app.environment for app in request.applications or [] if app.environment is not None]
        url = environments[0].url if len(environments) == 1 else None
    elif isinstance(request, str):
        what = what or request
    elif run is not None:
        what = what or f"run {run if isinstance(run, str) else run.run_short_id}"
    return run_name(what, url, given.get("target"))


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        return parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
