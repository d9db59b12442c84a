"""The recipes in deployments/ fit each other, Prefect and this repository; `make test-scale` runs that for Compose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import prefect.settings
import pytest
import yaml

from tests.scale.recipe import DEPLOYMENTS, Recipe
from tests.support import keep_to_schema

ROOT = DEPLOYMENTS.parent
COMPOSE = DEPLOYMENTS / "compose.yaml"
GIVEN = {"POSTGRES_PASSWORD": "of-the-database", "API_AUTH": "admin:of-the-api"}
OURS = ("api-1", "api-2", "services", "migrate", "worker")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(COMPOSE, GIVEN)


def kubernetes() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "kubernetes-worker-values.yaml").read_text())["worker"]
    return found


def test_the_compose_file_keeps_to_the_specification() -> None:
    keep_to_schema("vendor.compose-spec", COMPOSE)


@pytest.mark.parametrize("service", OURS)
def test_each_setting_is_one_of_prefects(recipe: Recipe, service: str) -> None:
    # Those of prefect-redis, which is not installed here, are what make test-scale reaches its Redis with.
    names = [name for name in recipe.environment(service) if not name.startswith("PREFECT_REDIS_MESSAGING_")]
    assert names
    assert [name for name in names if not hasattr(prefect.settings, name)] == []


@pytest.mark.parametrize("secret", GIVEN)
def test_a_secret_that_is_not_set_is_asked_for(secret: str) -> None:
    with pytest.raises(ValueError, match=f"{secret} is not set: Set "):
        Recipe(COMPOSE, GIVEN | {secret: ""})


def test_the_secrets_reach_those_that_need_them(recipe: Recipe) -> None:
    holders = {
        secret: {name for name, service in recipe.services.items() if secret in str(service)}
        for secret in GIVEN.values()
    }
    servers = {"api-1", "api-2", "services", "migrate"}
    assert holders == {"of-the-database": {*servers, "postgres"}, "admin:of-the-api": {*servers, "worker"}}
    assert kubernetes()["selfHostedServerApiConfig"]["basicAuth"] == {"enabled": True, "existingSecret": "prefect-auth"}


def test_only_the_servers_are_in_the_network_of_database_and_redis(recipe: Recipe) -> None:
    inside = {name for name, service in recipe.services.items() if "inside" in service.get("networks", [])}
    assert inside == {"postgres", "redis", "migrate", "api-1", "api-2", "services"}


def test_what_runs_for_ever_is_started_again_and_what_has_a_port_is_asked_for_its_health(recipe: Recipe) -> None:
    for name, service in recipe.services.items():
        assert service["restart"] == ("on-failure" if name == "migrate" else "unless-stopped")
        assert ("healthcheck" in service) == (name not in {"migrate", "services"})


def test_the_image_is_made_of_what_is_there(recipe: Recipe) -> None:
    dockerfile = recipe.services["worker"]["build"]["dockerfile_inline"]
    copied = [source for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE) for source in line.split()[:-1]]
    assert {"flows", "prefect.yaml", "deployments/automations.py"} == set(copied)
    assert [source for source in copied if not (ROOT / source).exists()] == []
    [extras] = re.findall(r"'prefect-qatech\[([\w,]+)\]'", dockerfile)
    optional = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    assert [extra for extra in extras.split(",") if not re.search(rf"^{extra} = \[", optional, re.MULTILINE)] == []


def test_the_recipes_name_one_version_of_prefect(recipe: Recipe) -> None:
    [of_image] = re.findall(r"'prefect==([\d.]+)'", recipe.services["worker"]["build"]["dockerfile_inline"])
    of_deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["prefect-version"]
    assert {of_image, of_deployments, kubernetes()["image"]["prefectTag"].split("-")[0]} == {of_image}


def test_the_proxy_knows_the_api_servers_and_repeats_no_post(recipe: Recipe) -> None:
    conf = re.sub(r"#.*", "", (DEPLOYMENTS / "proxy.conf").read_text())
    servers = re.findall(r"server (\S+):(\d+) ", conf)
    assert servers == [(name, recipe.environment(name)["PREFECT_SERVER_API_PORT"]) for name in ("api-1", "api-2")]
    assert "non_idempotent" not in conf


def test_variables_are_filled_in_as_compose_does(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text("services: {one: {environment: {A: '${X:-d}/$$', B: '${Y}', C: '${Z:-}'}, command: ['a ${Y}']}}")
    recipe = Recipe(path, {"Y": "y"})
    assert recipe.environment("one") == {"A": "d/$", "B": "y", "C": ""}
    assert recipe.environment("one", {"B": "here", "unknown": "left out"}) == {"A": "d/$", "B": "here", "C": ""}
    assert recipe.command("one") == ["a y"]
    with pytest.raises(ValueError, match="Y is not set"):
        Recipe(path, {})
