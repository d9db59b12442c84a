"""Mobile builds: an address, a file, a build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from .conftest import Api

BUILDS = "/applications/app_shop/builds"
FILE = b"PK\x03\x04" + bytes(range(256)) * 1000


def scenario(**more: Any) -> dict[str, Any]:
    old = {"short_id": "build_old", "file_name": "old.ipa", "platform": "ios", "app_bundle_id": "com.example"}
    shop = {"short_id": "app_shop", "name": "Shop", "kind": "android", "builds": [old]}
    other = {"short_id": "app_other", "name": "Other"}
    plan = {"short_id": "pln_a", "name": "A", "test_cases": [{"name": "t"}]}
    return {"applications": [shop, other], "plans": [plan], **more}


@pytest.fixture
def shop(serve: Callable[..., Api]) -> Api:
    return serve(scenario())


def ask(api: Api, file_name: str = "shop.apk") -> dict[str, str]:
    answer = api.client.post(f"{BUILDS}/upload-url", json={"fileName": file_name})
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def register(api: Api, token: str, path: str = BUILDS) -> httpx.Response:
    return api.client.post(path, json={"platform": "android", "buildToken": token})


def test_upload_register_list_run(shop: Api) -> None:
    asked = ask(shop)

    def stream() -> Iterator[bytes]:
        for place in range(0, len(FILE), 1000):
            yield FILE[place : place + 1000]

    assert httpx.put(asked["uploadUrl"], content=stream()).status_code == 200
    build = register(shop, asked["buildToken"]).json()
    short_id = build.pop("applicationBuildShortId")
    assert build == {"platform": "android", "fileName": "shop.apk", "fileSizeBytes": len(FILE)}
    new = {"applicationBuildShortId": short_id, "platform": "android", "fileName": "shop.apk", "appBundleId": None}
    old = {
        "applicationBuildShortId": "build_old",
        "platform": "ios",
        "fileName": "old.ipa",
        "appBundleId": "com.example",
    }
    assert shop.client.get(BUILDS).json() == {"builds": [new, old]}
    assert shop.client.get(BUILDS, params={"perPage": 1}).json() == {"builds": [new]}
    assert shop.client.get("/applications/app_other/builds").json() == {"builds": []}
    counts = shop.sandbox.counts()
    assert (counts["uploads"], counts["builds"]) == (1, 1)
    environment = {"applicationBuildShortId": short_id}
    shop.start("pln_a", applications=[{"applicationShortId": "app_shop", "environment": environment}])


def test_uploads_and_builds_that_are_refused(shop: Api) -> None:
    for name in ("shop.exe", "apk", ""):
        assert shop.client.post(f"{BUILDS}/upload-url", json={"fileName": name}).status_code == 400
    token = ask(shop)["buildToken"]
    assert "was not uploaded" in register(shop, token).json()["message"]
    assert register(shop, "nonsense").status_code == 400
    assert register(shop, token, "/applications/app_other/builds").status_code == 400
    assert register(shop, token, "/applications/app_x/builds").status_code == 404
    assert shop.client.post(BUILDS, json={"platform": "windows", "buildToken": token}).status_code == 400
    assert httpx.put(f"{shop.sandbox.url}/uploads/nonsense", content=FILE).status_code == 404
    assert shop.client.get(BUILDS, params={"perPage": "many"}).status_code == 400
    assert shop.sandbox.counts()["builds"] == 0


def test_the_api_token_is_not_for_the_store(shop: Api) -> None:
    asked = ask(shop)
    assert shop.client.put(asked["uploadUrl"], content=FILE).status_code == 400
    assert shop.sandbox.counts()["uploads"] == 0
    assert shop.sandbox.token not in str(shop.sandbox.requests())


def test_the_address_expires(serve: Callable[..., Api]) -> None:
    api = serve(scenario(upload_seconds=60))
    early, late = ask(api), ask(api)
    api.sandbox.advance(59)
    assert httpx.put(early["uploadUrl"], content=FILE).status_code == 200
    api.sandbox.advance(2)
    assert httpx.put(late["uploadUrl"], content=FILE).status_code == 403


def test_an_upload_can_go_wrong(shop: Api) -> None:
    asked = ask(shop)
    shop.sandbox.set_faults(
        [
            {"on": {"path": "upload"}, "kind": "status", "status": 503},
            {"on": {"path": "upload", "method": "PUT"}, "kind": "drop_after"},
        ]
    )
    assert httpx.put(asked["uploadUrl"], content=FILE).status_code == 503
    assert shop.sandbox.counts()["uploads"] == 0
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.put(asked["uploadUrl"], content=FILE)
    assert shop.sandbox.counts()["uploads"] == 1
