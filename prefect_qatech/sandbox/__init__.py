"""A local stand-in for QA.tech, for development and tests: its documented API, with scenarios and faults.

Needs the extra: `pip install "prefect-qatech[sandbox]"`. On the command line: `prefect-qatech sandbox`.
"""

from prefect_qatech.sandbox.engine import SandboxCounts
from prefect_qatech.sandbox.loading import ScenarioError, load_scenario
from prefect_qatech.sandbox.scenario import SandboxScenario
from prefect_qatech.sandbox.server import Sandbox, SandboxError, serve

__all__ = ["Sandbox", "SandboxCounts", "SandboxError", "SandboxScenario", "ScenarioError", "load_scenario", "serve"]
