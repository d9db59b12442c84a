"""What the reference says of a function of which the package makes two versions."""

from __future__ import annotations

from typing import Any

import griffe


class SyncUnderItsName(griffe.Extension):
    """Show what `task_in_both_versions` and `gate_in_both_versions` make under a function's name: the sync version."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Take the label "async" from a function that such a decorator makes sync."""
        if any("_in_both_versions" in str(decorator.value) for decorator in func.decorators):
            func.labels.discard("async")
