"""Who may do what, on every path: in which order refusals come, and that they tell nothing of what is out of reach."""

import json
from collections.abc import AsyncIterator

import pytest

from configsvc.core.model import Scope
from configsvc.core.policy import Identity
from configsvc.errors import Unauthenticated
from configsvc.web.app import create_app
from tests.support.service import ask, ask_problem, central, fill, make_hub, serving, stored

TOKENS = {
    "Bearer payments": Identity(name="payments", permissions=("read:payments/*",)),
    "Bearer staging": Identity(name="staging", permissions=("read:*/staging",)),
    "Bearer nothing": Identity(name="nothing"),
    "Bearer deployer": Identity(name="deployer", permissions=("deploy:payments/*",)),
}


class Tokens:
    """An authenticator with a fixed list."""

    generation = 0

    async def identify(self, authorization: str | None) -> Identity:
        if authorization not in TOKENS:
            raise Unauthenticated("send a token: Authorization: Bearer ...")
        return TOKENS[authorization]

    def holds(self, identity: Identity) -> bool:
        return True


@pytest.fixture
async def url() -> AsyncIterator[str]:
    settings = central()
    hub = make_hub(settings)
    scopes = [Scope(name, env) for name in ("payments", "payment", "orders") for env in ("production", "staging")]
    fill(hub, 10, *(stored("a", 1, 5 + i, scope) for i, scope in enumerate(scopes)))
    async with serving(hub, settings, create_app(settings, hub, authenticator=Tokens())) as url:
        yield url


READS = [
    "/v1/config/payments/production",
    "/v1/config/payments/production/a",
    "/v1/watch/payments/production",
    "/v1/ws/payments/production",
]


@pytest.mark.parametrize("target", [*READS, "/v1/self", "/v1/config/_x/y", "/nothing"])
@pytest.mark.parametrize("token", ["", "Authorization: Bearer wrong", "Authorization: payments"])
async def test_without_an_identity_nothing_else_is_looked_at(url: str, target: str, token: str) -> None:
    problem = await ask_problem(url, target, *filter(None, [token]))
    assert (problem["status"], problem["code"]) == (401, "unauthenticated")
    _, headers, _ = await ask(url, target, *filter(None, [token]))
    assert headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("target", READS)
@pytest.mark.parametrize("who", ["staging", "nothing", "deployer"])
async def test_without_the_permission_a_scope_is_closed(url: str, target: str, who: str) -> None:
    problem = await ask_problem(url, target, f"Authorization: Bearer {who}")
    assert (problem["status"], problem["code"]) == (403, "forbidden")
    assert who in problem["detail"]


async def test_what_may_not_be_read_looks_the_same_whether_it_is_there_or_not(url: str) -> None:
    for target in ("/v1/config/orders/production", "/v1/config/nowhere/production", "/v1/config/orders/production/zz"):
        problem = await ask_problem(url, target, "Authorization: Bearer payments")
        assert (problem["status"], problem["code"]) == (403, "forbidden")


async def test_with_the_permission_it_is_open(url: str) -> None:
    for target in READS[:2]:
        assert (await ask(url, target, "Authorization: Bearer payments"))[0] == 200
    assert (await ask(url, "/v1/config/orders/staging", "Authorization: Bearer staging"))[0] == 200


async def test_near_names_are_those_that_the_caller_may_read(url: str) -> None:
    problem = await ask_problem(url, "/v1/config/payments/productio", "Authorization: Bearer payments")
    assert problem["near"] == ["payments/production"]
    problem = await ask_problem(url, "/v1/config/paymentss/staging", "Authorization: Bearer staging")
    assert sorted(problem["near"]) == ["payment/staging", "payments/staging"]
    assert "production" not in json.dumps(problem)


async def test_self_lists_what_the_caller_may_read(url: str) -> None:
    _, _, body = await ask(url, "/v1/self", "Authorization: Bearer payments")
    found = json.loads(body)
    assert found["identity"] == "payments"
    assert {scope["namespace"] for scope in found["scopes"]} == {"payments"}
    assert found["scopes_total"] == 2
    _, _, body = await ask(url, "/v1/self", "Authorization: Bearer nothing")
    assert json.loads(body)["scopes"] == []


@pytest.mark.parametrize("target", ["/", "/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"])
async def test_open_routes_ask_nobody(url: str, target: str) -> None:
    status, _, body = await ask(url, target)
    assert status == 200
    assert b"payments" not in body
