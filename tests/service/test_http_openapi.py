"""The service keeps to its own description: every answer is one that `/openapi.json` declares, body and all."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest

from configsvc.core.model import key_problem
from configsvc.hub import Hub
from configsvc.web import context
from configsvc.web.app import create_app
from tests.support.service import ask, fill, head, make_hub, make_settings, schema, serving, stored

SCOPE = "/v1/config/payments/production"
TARGETS = [
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/v1/self",
    SCOPE,
    f"{SCOPE}?view=entries",
    f"{SCOPE}?view=nonsense",
    f"{SCOPE}?min_revision=99&wait_s=0",
    f"{SCOPE}?min_revision=000000000000:9",
    f"{SCOPE}/a",
    f"{SCOPE}/limit",
    f"{SCOPE}/a?raw=true",
    f"{SCOPE}/nothing",
    f"{SCOPE}/_a",
    "/v1/config/payments/nothing",
    "/v1/config/orders/production",
    "/v1/config/orders/production/a",
    "/v1/ws/payments/production",
    "/v1/ws/orders/production",
    "/v1/watch/orders/production",
    "/v1/watch/payments/_x",
]


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings())
    fill(
        hub,
        10,
        stored("a", [1, None, {"b": "c"}], 5, version="v1", metadata={"x": 1}),
        stored("b", None, 6),
        schema(7, {"limit": {"type": "integer", "default": 5}}),
        head(8, 2, "v2"),
    )
    return hub


@pytest.fixture
async def url(hub: Hub) -> AsyncIterator[str]:
    async with serving(hub) as url:
        yield url


@pytest.fixture
def description(hub: Hub) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(create_app(make_settings(), hub)[context.OPENAPI])
    return found


def operation(description: dict[str, Any], target: str, method: str) -> dict[str, Any]:
    path = target.partition("?")[0]
    for template, item in sorted(description["paths"].items(), key=lambda pair: "{" in pair[0]):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]*", template), path):
            found: dict[str, Any] = item[method.lower()]
            return found
    raise AssertionError(f"{target} is not described")


def resolve(description: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found = description
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("condition", ["", "If-None-Match: *"])
async def test_answers_are_as_described(url: str, description: dict[str, Any], target: str, condition: str) -> None:
    status, headers, body = await ask(url, target, *filter(None, [condition]))
    responses = operation(description, target, "GET")["responses"]
    assert str(status) in responses
    described = resolve(description, responses[str(status)])
    assert described.get("headers", {}).keys() <= {
        name for name in described.get("headers", {}) if name.lower() in headers
    }
    if status == 304:
        assert "content" not in described
        return
    media = headers["content-type"].partition(";")[0]
    assert media in described["content"]
    declared = described["content"][media]["schema"]
    value = json.loads(body) if media.endswith("json") else body.decode()
    jsonschema_rs.validator_for({**declared, "components": description["components"]}).validate(value)


@pytest.mark.parametrize("target", [target for target in TARGETS if not target.startswith(("/v1/ws", "/v1/watch"))])
async def test_head_is_described_too(url: str, description: dict[str, Any], target: str) -> None:
    status, _, _ = await ask(url, target, method="HEAD")
    assert str(status) in operation(description, target, "HEAD")["responses"]


async def test_what_it_says_is_served(url: str, description: dict[str, Any]) -> None:
    _, headers, body = await ask(url, "/openapi.json")
    assert json.loads(body) == description
    assert description["openapi"].startswith("3.1")
    assert headers["content-type"] == "application/json"
    ids = [op["operationId"] for item in description["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))


def test_the_pattern_of_a_key_is_the_rule_of_a_key(description: dict[str, Any]) -> None:
    parameters = description["paths"]["/v1/config/{ns}/{env}/{key}"]["get"]["parameters"]
    pattern = next(parameter["schema"]["pattern"] for parameter in parameters if parameter["name"] == "key")
    for key in (
        "a",
        ".a",
        "..a",
        "...",
        ".",
        "..",
        "_a",
        "a_",
        "",
        "a/b",
        "a\nb",
        "a\x7f",
        "\x85",
        "é",
        "a b",
        " ",
        "._",
        "./",
    ):
        assert bool(re.fullmatch(pattern[1:-1], key)) is (key_problem(key) is None), key
