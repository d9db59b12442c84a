"""The rows of a flow run: its inputs on the Prefect server, which are unique per flow run and key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRunInput
from prefect.exceptions import PrefectHTTPStatusError

PREFIX = "qatech-"
"""What keys begin with on the server; here they stand without it."""

_PAGE = 200


@dataclass
class Rows:
    client: PrefectClient
    flow_run_id: UUID

    async def read(self, prefix: str = "") -> dict[str, FlowRunInput]:
        rows: dict[str, FlowRunInput] = {}
        while True:
            page = await self.client.filter_flow_run_input(
                flow_run_id=self.flow_run_id, key_prefix=f"{PREFIX}{prefix}", limit=_PAGE, exclude_keys=set(rows)
            )
            rows.update({row.key: row for row in page})
            if len(page) < _PAGE:
                return {key.removeprefix(PREFIX): row for key, row in rows.items()}

    async def value(self, key: str) -> str | None:
        """Return what a row holds; None where there is none."""
        try:
            return await self.client.read_flow_run_input(flow_run_id=self.flow_run_id, key=f"{PREFIX}{key}")
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return None

    async def insert(self, key: str, value: str, *, nonce: str | None = None) -> bool:
        """Write a row; False when somebody else has written it before."""
        try:
            await self.client.create_flow_run_input(flow_run_id=self.flow_run_id, key=f"{PREFIX}{key}", value=value)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:
                raise
        else:
            return True
        # Prefect's client sends again when an answer was lost, and then meets its own row.
        if nonce is None:
            return False
        row = await self.value(key)
        return row is not None and json.loads(row).get("nonce") == nonce

    async def delete(self, key: str) -> None:
        await self.client.delete_flow_run_input(flow_run_id=self.flow_run_id, key=f"{PREFIX}{key}")
