"""QA.tech end-to-end tests in Prefect: run, rerun only what failed, decide whether a release may go out, report."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prefect_qatech._public import *  # noqa: F403
else:
    # Imported with the first use of a name: the command line and the sandbox need not wait for Prefect.

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return _names()
        # Python and its tools look for names with underscores in every module, and imports for modules of the package.
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is None and name in _names():
            return getattr(import_module("prefect_qatech._public"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted([*globals(), *_names()])

    def _names() -> list[str]:
        return sorted(name for name in vars(import_module("prefect_qatech._public")) if not name.startswith("_"))
