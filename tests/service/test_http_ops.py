"""What the service says of itself: identity, health, metrics, its own description."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from configsvc import __version__
from configsvc.core.model import Scope
from configsvc.core.policy import Action
from configsvc.hub import Hub
from configsvc.metrics import TABLE
from configsvc.web import context, messages
from configsvc.web.app import create_app
from configsvc.web.health import Health
from configsvc.web.routes import ROUTES
from tests.support.service import (
    SCOPE,
    ask,
    ask_problem,
    central,
    change,
    fill,
    head,
    make_hub,
    make_settings,
    serving,
    stored,
)

CONFIG = "/v1/config/payments/production"


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings())
    fill(hub, 10, stored("a", 1, 5), head(6, 4, "v4"))
    return hub


@pytest.fixture
async def url(hub: Hub) -> AsyncIterator[str]:
    async with serving(hub) as url:
        yield url


# ---- self ------------------------------------------------------------------------------------------------------------


async def test_self_of_a_sidecar(url: str) -> None:
    _, _, body = await ask(url, "/v1/self")
    assert msgspec.json.decode(body, type=messages.Self) == messages.Self(
        service="configsvc",
        version=__version__,
        mode="sidecar",
        namespace="payments",
        environment="development",
        revision=10,
        scopes=[messages.SelfScope(namespace="payments", environment="production", release=4, revision=10)],
        scopes_total=1,
        identity=None,
    )


async def test_self_of_a_central_service_lists_a_hundred_scopes() -> None:
    settings = central()
    hub = make_hub(settings)
    fill(hub, 500, *(stored("a", 1, i, Scope(f"app{i}", "production")) for i in range(1, 151)))
    async with serving(hub, settings) as url:
        _, _, body = await ask(url, "/v1/self")
        found = msgspec.json.decode(body, type=messages.Self)
        assert (found.mode, found.namespace, len(found.scopes), found.scopes_total) == ("central", None, 100, 150)


async def test_a_scope_that_is_only_watched_is_not_listed(url: str, hub: Hub) -> None:
    with hub.subscribe(Scope("payments", "nothing"), None):
        _, _, body = await ask(url, "/v1/self")
        assert json.loads(body)["scopes_total"] == 1


async def test_the_index_names_the_routes(url: str) -> None:
    _, _, body = await ask(url, "/")
    assert "GET /v1/config/{ns}/{env}" in msgspec.json.decode(body, type=messages.Index).routes


# ---- health ----------------------------------------------------------------------------------------------------------


async def health(url: str, path: str = "/health") -> tuple[int, messages.HealthReport]:
    status, _, body = await ask(url, path)
    return status, msgspec.json.decode(body, type=messages.HealthReport)


async def test_all_is_well(url: str) -> None:
    for path in ("/health", "/health/ready"):
        status, report = await health(url, path)
        assert (status, report.status) == (200, "ok")
        assert {"data", "entries", "apply_windows", "cache"} <= report.checks.keys()
    assert (await ask(url, "/health/live"))[2] == b'{"status":"ok"}'


async def test_before_the_first_data_it_is_alive_and_not_ready() -> None:
    hub = make_hub(make_settings())
    async with serving(hub) as url:
        assert (await ask(url, "/health/live"))[0] == 200
        for path in ("/health", "/health/ready"):
            status, report = await health(url, path)
            assert (status, report.status, report.checks["data"].status) == (503, "unavailable", "unavailable")
        fill(hub, 10, stored("a", 1, 5))
        assert (await health(url, "/health/ready"))[0] == 200


async def test_old_data_is_degraded_and_served() -> None:
    at = [1000.0]
    hub = make_hub(make_settings(), clock=lambda: at[0])
    fill(hub, 10, stored("a", 1, 5))
    async with serving(hub) as url:
        at[0] += 60
        status, report = await health(url)
        assert (status, report.status, report.checks["data"].status) == (200, "degraded", "degraded")
        assert "60 s" in report.checks["data"].detail
        assert (await health(url, "/health/ready"))[0] == 200


@pytest.mark.parametrize(("from_disk", "expected"), [(True, 200), (False, 503)])
async def test_data_from_disk_is_ready_where_a_setting_says_so(from_disk: bool, expected: int) -> None:
    settings = make_settings(ready_from_disk=from_disk)
    hub, other = make_hub(settings), make_hub(settings)
    fill(other, 10, stored("a", 1, 5))
    update = hub.replica.remember(other.feeds[SCOPE].snapshot, 10, None)
    hub.remember([(update, datetime.now(UTC) - timedelta(hours=1))])
    async with serving(hub, settings) as url:
        status, report = await health(url, "/health/ready")
        assert (status, report.checks["cache"].status) == (expected, "degraded")
        assert (await ask(url, CONFIG))[0] == 200


async def test_an_unreadable_entry_degrades(url: str, hub: Hub) -> None:
    change(hub, msgspec.structs.replace(stored("secret_name", 1, 11), value=b"\xff"))
    status, report = await health(url)
    assert (status, report.checks["entries"].status) == (200, "degraded")
    assert "entries 1" in report.checks["entries"].detail
    assert "secret_name" not in report.checks["entries"].detail


async def test_an_open_window_shows(url: str, hub: Hub) -> None:
    applying = {"id": "w", "state": "opened", "since": "2026-01-01T00:00:00Z", "by": "x"}
    change(hub, head(11, 4, "v4", applying=applying))
    _, report = await health(url)
    assert report.checks["apply_windows"].detail.startswith("1 open")


async def test_draining_is_alive_and_not_ready(url: str, hub: Hub) -> None:
    hub.drain()
    assert (await health(url, "/health/ready"))[0] == 503
    assert (await ask(url, "/health/live"))[0] == 200
    assert (await ask(url, CONFIG))[0] == 200


async def test_about_to_stop_it_serves_as_before_and_is_not_ready(hub: Hub) -> None:
    app = create_app(make_settings(), hub)
    async with serving(hub, app=app) as url:
        app[context.HEALTH].leaving = True
        status, report = await health(url, "/health/ready")
        assert (status, report.checks["data"].status) == (503, "degraded")
        assert "about to stop" in report.checks["data"].detail
        assert (await health(url))[0] == 200
        assert (await ask(url, CONFIG))[0] == 200


async def test_probes_are_no_news_and_a_change_of_readiness_is() -> None:
    hub = make_hub(make_settings())
    app = create_app(make_settings(), hub)
    with capture_logs() as logs:
        async with serving(hub, app=app) as url:
            for path in ("/health", "/health/ready"):
                assert (await ask(url, path))[0] == 503
            assert (await ask(url, CONFIG))[0] == 503
            fill(hub, 10, stored("a", 1, 5))
            for leaving in (False, True, True, False):
                app[context.HEALTH].leaving = leaving
                await ask(url, "/health/ready")
    assert [line["path"] for line in logs if line["event"] == "request"] == [CONFIG]
    told = [line["event"] for line in logs if "ready" in line["event"]]
    assert told[:2] == ["not ready any more", "ready again"]


async def test_from_disk_health_names_the_age_that_readers_are_told() -> None:
    settings = make_settings()
    hub, other = make_hub(settings), make_hub(settings)
    fill(other, 10, stored("a", 1, 5))
    hub.remember(
        [(hub.replica.remember(other.feeds[SCOPE].snapshot, 10, None), datetime.now(UTC) - timedelta(hours=1))]
    )
    async with serving(hub, settings) as url:
        _, headers, _ = await ask(url, CONFIG)
        _, report = await health(url)
    said = int(report.checks["data"].detail.removeprefix("etcd has not proved the data for ").removesuffix(" s"))
    assert said == pytest.approx(float(headers["configsvc-staleness"]), abs=5)


def test_since_is_when_a_status_began() -> None:
    at, now = [1000.0], [datetime(2026, 1, 1, tzinfo=UTC)]

    def step(seconds: float) -> None:
        at[0] += seconds
        now[0] += timedelta(seconds=seconds)

    hub = make_hub(make_settings(), clock=lambda: at[0], now=lambda: now[0])
    health = Health(hub, now=lambda: now[0])

    def data() -> tuple[str, str]:
        report: Any = health.report()
        check = report["checks"]["data"]
        return check["status"], check["since"][11:19]

    assert data() == ("unavailable", "00:00:00")
    step(5)
    fill(hub, 10, stored("a", 1, 5))
    assert data() == ("ok", "00:00:05")
    step(5)
    assert data() == ("ok", "00:00:05")
    step(50)
    assert data() == ("degraded", "00:01:00")
    step(5)
    assert data() == ("degraded", "00:01:00")


# ---- metrics ---------------------------------------------------------------------------------------------------------


async def samples(url: str) -> dict[tuple[str, tuple[str, ...]], float]:
    status, headers, body = await ask(url, "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


async def test_every_metric_is_in_the_table_and_named_as_prometheus_wants(url: str) -> None:
    _, _, body = await ask(url, "/metrics")
    for family in text_string_to_metric_families(body.decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name in TABLE, name
        assert (TABLE[name].kind, TABLE[name].doc) == (family.type, family.documentation)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(TABLE[name].labels)


async def test_requests_are_counted_by_route_and_never_by_path(url: str) -> None:
    await ask(url, CONFIG)
    await ask(url, f"{CONFIG}/secret_name")
    await ask(url, "/secret/path")
    await ask(url, CONFIG, method="BREW")
    found = await samples(url)
    assert found["configsvc_http_requests_total", ("/v1/config/{ns}/{env}", "200", "GET")] == 1
    assert found["configsvc_http_requests_total", ("/v1/config/{ns}/{env}/{key}", "404", "GET")] == 1
    assert found["configsvc_http_requests_total", ("", "404", "GET")] == 1
    assert not [name for name, labels in found for label in labels if "secret" in label or "payments" in label]


async def test_where_bodies_come_from(url: str, hub: Hub) -> None:
    for _ in range(3):
        await ask(url, CONFIG)
    await ask(url, CONFIG, "If-None-Match: *")
    found = await samples(url)
    assert found["configsvc_read_cache_total", ("made",)] == 1
    assert found["configsvc_read_cache_total", ("stored",)] == 2
    assert found["configsvc_read_cache_total", ("not_modified",)] == 1


async def test_gauges_are_read_from_their_owners(url: str, hub: Hub) -> None:
    hub.prove(33)
    change(hub, msgspec.structs.replace(stored("b", 1, 34), value=b"{}"))
    found = await samples(url)
    assert found["configsvc_revision", ()] == 34
    assert found["configsvc_ready", ()] == 1
    assert found["configsvc_staleness_seconds", ()] == 0
    assert found["configsvc_proved_timestamp_seconds", ()] == pytest.approx(datetime.now(UTC).timestamp(), abs=60)
    assert found["configsvc_unreadable_entries", ("entry",)] == 1
    assert found["configsvc_scopes", ()] == 1
    assert found["configsvc_build_info", (__version__,)] == 1


async def test_two_applications_do_not_share_metrics(hub: Hub) -> None:
    async with serving(hub) as one, serving(hub) as two:
        await ask(one, CONFIG)
        assert ("configsvc_http_requests_total", ("/v1/config/{ns}/{env}", "200", "GET")) not in await samples(two)


# ---- the table -------------------------------------------------------------------------------------------------------


async def test_a_handler_that_is_in_no_table_is_refused(hub: Hub) -> None:
    from aiohttp import web

    async def forgotten(request: web.Request) -> web.Response:
        return web.Response(text="secret")

    app = create_app(make_settings(), hub)
    app.router.add_get("/forgotten", forgotten)
    async with serving(hub, app=app) as url:
        problem = await ask_problem(url, "/forgotten")
        assert (problem["status"], problem["code"]) == (403, "forbidden")


async def test_a_defect_is_a_500_that_shows_nothing(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        generation = 0

        async def identify(self, authorization: str | None) -> Any:
            raise RuntimeError("the secret is 42")

        def holds(self, identity: Any) -> bool:
            return True

    app = create_app(make_settings(), hub, authenticator=Broken())
    async with serving(hub, app=app) as url:
        problem = await ask_problem(url, CONFIG, "X-Request-Id: find-me")
        assert (problem["status"], problem["code"], problem["request_id"]) == (500, "internal", "find-me")
        assert "42" not in json.dumps(problem)
        assert (await ask(url, "/health/live"))[0] == 200


def test_the_table_is_complete(hub: Hub) -> None:
    app = create_app(make_settings(), hub)
    registered = {(route.method, route.handler) for route in app.router.routes()}
    assert registered == {(method, row.handler) for row in ROUTES for method in row.methods}
    assert app[context.ROUTES] is ROUTES
    for row in ROUTES:
        assert row.action in get_args(Action)
        assert row.summary
        if row.writes:
            assert row.action in ("deploy", "emergency", "admin")
            assert row.method in ("POST", "PUT", "PATCH", "DELETE")
