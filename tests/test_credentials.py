"""The block: what it takes, where it reads from, and what it never shows."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import cloudpickle
import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr

from prefect_qatech import InvalidInputError, QATechClient, QATechCredentials

TOKEN = "qat-5ecret"


def credentials(**fields: Any) -> QATechCredentials:
    return QATechCredentials(**{"api_token": TOKEN, **fields})


# --- The token


@pytest.mark.parametrize("given", [TOKEN, SecretStr(TOKEN), f" {TOKEN}\n"], ids=str)
def test_the_token_is_kept(given: Any) -> None:
    assert credentials(api_token=given).api_token.get_secret_value() == TOKEN


@pytest.mark.parametrize("given", ["", " ", "\n", SecretStr("")], ids=repr)
def test_an_empty_token_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInputError, match="the API token is empty"):
        credentials(api_token=given)


@pytest.mark.parametrize("bad", ["\n", "\r\nX-Evil: 1\r\n", "\x00", "\t", " ", "\x7f", "é", "\u200b"], ids=ascii)
def test_a_token_that_fits_no_header_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInputError, match="characters that no token has"):
        credentials(api_token=SecretStr(f"first{bad}second"))


@pytest.mark.parametrize("given", ["Bearer abc123", "bearer abc123", "Bearer: abc123", "Bearer"])
def test_a_token_with_the_word_of_its_header_is_refused(given: str) -> None:
    with pytest.raises(InvalidInputError, match="give the token alone") as caught:
        credentials(api_token=given)
    assert "abc123" not in str(caught.value)
    assert credentials(api_token="bearer-of-news").api_token.get_secret_value()


@pytest.mark.parametrize("wrap", [str, SecretStr])
def test_a_refused_token_is_not_repeated(wrap: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        credentials(api_token=wrap("first-half\nsecond-half"), api_url="http://qatech.example")
    for text in (str(caught.value), repr(caught.value)):
        assert "first-half" not in text
        assert "second-half" not in text


def test_a_refused_token_of_the_environment_is_not_repeated() -> None:
    with pytest.raises(InvalidInputError) as caught:
        QATechCredentials.from_env({"QATECH_API_TOKEN": "first-half\nsecond-half"})
    assert "half" not in str(caught.value)


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda block: repr(block.model_dump()),
        lambda block: repr(block.model_dump(mode="json")),
        lambda block: block.model_dump_json(),
        lambda block: f"{block} {[block]!r}",
    ],
)
def test_the_token_is_not_shown(show: Any) -> None:
    assert TOKEN not in show(credentials())


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize("protocol", range(2, 6))
def test_the_token_is_in_no_pickle(pickler: Any, protocol: int) -> None:
    block = credentials()
    for item in (block, [block], block.api_token, block.api_token.get_secret_value(), block.model_copy()):
        stored = pickler.dumps(item, protocol)
        assert TOKEN.encode() not in stored
        assert TOKEN.encode("utf-16-le") not in stored
    kept = pickle.loads(pickler.dumps(block, protocol))
    assert kept.api_url == block.api_url
    with pytest.raises(ValueError, match="Save the block"):
        kept.get_client()


def test_a_copy_in_this_process_has_the_token() -> None:
    for block in (credentials().model_copy(), credentials().model_copy(deep=True), copy.deepcopy(credentials())):
        assert block.api_token.get_secret_value() == TOKEN


@pytest.mark.parametrize("mask", ["**********", "********"])
def test_a_mask_for_a_token_is_refused_with_the_reason(mask: str) -> None:
    with pytest.raises(ValueError, match="an unsaved credentials block carries no secrets") as caught:
        credentials(api_token=mask).get_client()
    assert '{"$ref": {"block_document_slug": "qatech-credentials/<name>"}}' in str(caught.value)
    assert 'QATechCredentials.load("<name>")' in str(caught.value)


# --- The address


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://api.qa.tech", "https://api.qa.tech"),
        ("https://api.qa.tech/", "https://api.qa.tech"),
        ("https://api.qa.tech/v1", "https://api.qa.tech"),
        ("https://api.qa.tech/v1/", "https://api.qa.tech"),
        (" https://api.qa.tech/v1//\n", "https://api.qa.tech"),
        ("https://gateway.example:8443/qatech/v1", "https://gateway.example:8443/qatech"),
        ("https://gateway.example/v12", "https://gateway.example/v12"),
        # By the address the ledger knows where a run is: one service has one spelling.
        ("HTTPS://API.qa.tech", "https://api.qa.tech"),
        ("https://api.qa.tech:443/v1", "https://api.qa.tech"),
        ("https://api.qa.tech://v1", "https://api.qa.tech"),
        ("https://Gateway.example/QATech/", "https://gateway.example/QATech"),
        ("http://LOCALHOST:80", "http://localhost"),
        ("http://[::1]:443", "http://[::1]:443"),
        ("http://localhost:8400", "http://localhost:8400"),
        ("http://LOCALHOST:8400/", "http://localhost:8400"),
        ("http://127.0.0.1:8400", "http://127.0.0.1:8400"),
        ("http://127.0.0.2", "http://127.0.0.2"),
        ("http://[::1]:8400", "http://[::1]:8400"),
    ],
)
def test_an_address(given: str, kept: str) -> None:
    assert credentials(api_url=given).api_url == kept


def test_the_address_that_nobody_gave() -> None:
    assert credentials().api_url == "https://api.qa.tech"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.qa.tech",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://evil-localhost",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "http://[::2]",
        "http://2130706433",
        "http://127.1",
        "HTTP://api.qa.tech",
    ],
)
def test_without_encryption_only_to_this_machine(url: str) -> None:
    with pytest.raises(InvalidInputError, match="would send the API token unencrypted over the network: use https://"):
        credentials(api_url=url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.qa.tech",
        "//api.qa.tech",
        "ftp://api.qa.tech",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///v1",
        "https://api.qa.tech?project=1",
        "https://api.qa.tech#top",
        "https://api.qa.tech?",  # "/v1/run" would become its query
        "https://api.qa.tech#",
        "https://[::1",
        "https://api.qa.tech:port",
        "https://api.qa.tech:99999",
        "https://api\n.qa.tech",
        "https://api.qa.tech/\x00",
        "https://api qa tech",
        "https://api.qa.tech\\@evil.example",
    ],
    ids=ascii,
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="api_url"):
        credentials(api_url=url)


@pytest.mark.parametrize(
    "url", ["https://ana:hunter2@api.qa.tech", "http://ana:hunter2@localhost", "https://hunter2@h"]
)
def test_a_user_name_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInputError, match="must not hold a user name or password") as caught:
        credentials(api_url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"project_short_id": ""},
        {"project_short_id": "proj_1&x=1\n"},
        {"timeout_seconds": 0},
        {"timeout_seconds": -1},
        {"timeout_seconds": 601},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": float("inf")},
        {"connect_timeout_seconds": 0},
        {"connect_timeout_seconds": float("inf")},
        {"api_token": None},
    ],
    ids=str,
)
def test_other_fields_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        credentials(**fields)


# --- The environment


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({"QATECH_API_TOKEN": "one"}, "one"),
        ({"QATECH_API_KEY": "two"}, "two"),
        ({"QATECH_API_TOKEN": "one", "QATECH_API_KEY": "two"}, "one"),
        ({"QATECH_API_TOKEN": "", "QATECH_API_KEY": "two"}, "two"),
    ],
    ids=str,
)
def test_the_names_of_the_token(environ: dict[str, str], token: str) -> None:
    assert QATechCredentials.from_env(environ).api_token.get_secret_value() == token


def test_the_rest_of_the_environment() -> None:
    environ = {
        "QATECH_API_TOKEN": TOKEN,
        "QATECH_API_URL": "https://gateway.example/v1",
        "QATECH_PROJECT_SHORT_ID": "proj_1",
    }
    read = QATechCredentials.from_env(environ)
    assert (read.api_url, read.project_short_id) == ("https://gateway.example", "proj_1")


def test_empty_variables_count_as_absent() -> None:
    read = QATechCredentials.from_env({"QATECH_API_TOKEN": TOKEN, "QATECH_API_URL": "", "QATECH_PROJECT_SHORT_ID": ""})
    assert (read.api_url, read.project_short_id) == ("https://api.qa.tech", None)


@pytest.mark.parametrize("environ", [{}, {"QATECH_API_TOKEN": ""}, {"QATECH_TOKEN": "x"}], ids=str)
def test_no_token_in_the_environment(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="set QATECH_API_TOKEN"):
        QATechCredentials.from_env(environ)


def test_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATECH_API_TOKEN", "of-the-process")
    assert QATechCredentials.from_env().api_token.get_secret_value() == "of-the-process"


# --- The client and the block


async def test_the_client_is_the_one_that_the_fields_describe() -> None:
    block = credentials(
        api_url="https://gateway.example/v1",
        project_short_id="proj_1",
        timeout_seconds=7,
        connect_timeout_seconds=3,
    )
    async with block.get_client() as client:
        assert isinstance(client, QATechClient)
        assert client.api_url == "https://gateway.example"
        assert (client._project_short_id, client._timeout_seconds) == ("proj_1", 7)
        assert client._connections.http.timeout.connect == 3
        assert client._connections.http.timeout.read == 7
        assert client._connections.http.headers["authorization"] == f"Bearer {TOKEN}"
        assert client._connections.http.follow_redirects is False


def test_the_blocks_names_are_fixed() -> None:
    assert QATechCredentials.get_block_type_slug() == "qatech-credentials"
    assert QATechCredentials._block_type_name == "QA.tech Credentials"
    assert Block.get_block_class_from_key("qatech-credentials") is QATechCredentials


def test_the_blocks_schema() -> None:
    schema = QATechCredentials.model_json_schema()
    assert schema["secret_fields"] == ["api_token"]
    assert schema["block_type_slug"] == "qatech-credentials"
    assert schema["required"] == ["api_token"]
    assert set(schema["properties"]) == {
        "api_token",
        "api_url",
        "project_short_id",
        "timeout_seconds",
        "connect_timeout_seconds",
        "max_polls_per_second",
        "rate_limit_name",
    }
    for name, field in schema["properties"].items():
        assert field.get("title"), name
        assert re.match("[A-Z]", field["title"]), name


def test_the_blocks_type_tells_what_it_is() -> None:
    block_type = QATechCredentials._to_block_type()
    assert (block_type.name, block_type.slug) == ("QA.tech Credentials", "qatech-credentials")
    assert block_type.description
    assert "QATechCredentials" in (block_type.code_example or "")
    assert block_type.logo_url is None, "no browser asks the vendor for a picture"
