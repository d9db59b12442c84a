"""The commands on a flow run's ledger, where there is no Prefect server; with one, `tests/e2e` has them."""

import sys

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_qatech.cli import main
from tests.e2e.world import free_port

FLOW_RUN = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    "arguments", [["list", FLOW_RUN], ["attach", FLOW_RUN, "slot", "abc"], ["clear", FLOW_RUN, "slot"]]
)
@pytest.mark.parametrize("url", ["http://127.0.0.1:PORT/api", "nonsense"])
def test_a_server_that_does_not_answer_is_told_in_one_line(
    arguments: list[str], url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prefect-qatech", "ledger", *arguments])
    with (
        temporary_settings({PREFECT_API_URL: url.replace("PORT", str(free_port()))}),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert ended.value.code == 3
    [line] = capsys.readouterr().err.splitlines()
    assert "The Prefect API cannot be asked" in line
