"""Both clients against the service itself: what they show is what its hub has."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from configsvc.hub import Hub
from configsvc_client import AsyncConfigClient, ConfigClient
from configsvc_client.snapshot import same_value
from tests.client.support import FAST, PATIENT, SCOPE, eventually
from tests.support.service import change, fill, head, make_hub, make_settings, schema, serving, stored

VALUES: dict[str, Any] = {
    "text": "Grüße \u2028 \u0085 \U0001f600\r\n\n",
    "max": 2**64 - 1,
    "min": -(2**63),
    "float": 1.0,
    "null": None,
    "nested": {"a": [1, True, {"b": []}]},
    "large": "x" * 300_000,
    "ключ with spaces": 1,
}


def hub_at(revision: int, **more: Any) -> Hub:
    hub = make_hub(make_settings(), **more)
    records = [stored(key, value, n) for n, (key, value) in enumerate(VALUES.items(), 1)]
    fill(
        hub,
        revision,
        *records,
        head(revision - 1, 1, "v1"),
        schema(revision, {"pool": {"type": "integer", "default": 5}}),
    )
    return hub


async def test_a_client_without_any_setting_but_the_url_reads_what_the_service_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SERVICE_NAME", raising=False)
    monkeypatch.delenv("CONFIG_ENVIRONMENT", raising=False)
    hub = hub_at(20)
    settings = make_settings(default_environment="production")
    async with serving(hub, settings) as url, AsyncConfigClient(url, tuning=FAST, **PATIENT) as client:
        assert same_value(await client.get_all(), {**VALUES, "pool": 5})
        assert await client.get("pool", default=7) == 5
        status = client.status
        assert (status.state, status.source, status.revision, status.last_error) == ("live", "live", 20, None)


async def test_changes_and_proofs_arrive_as_they_happen() -> None:
    hub = hub_at(20)
    async with serving(hub) as url, AsyncConfigClient(url, tuning=FAST, **PATIENT, **SCOPE) as client:
        await client.wait_ready(20)
        seen: list[Any] = []
        client.on_change(seen.append)
        change(hub, stored("text", "new", 21), stored("pool", 9, 21))
        await eventually(lambda: len(seen) == 2)
        assert {(one.key, one.old, one.new, one.revision) for one in seen} == {
            ("text", VALUES["text"], "new", 21),
            ("pool", 5, 9, 21),
        }
        hub.prove(30)
        hub.tick()
        await eventually(lambda: client.status.revision == 30)
        assert len(seen) == 2


async def test_a_service_that_goes_is_left_and_the_next_one_goes_on_from_there() -> None:
    one, other = hub_at(20), hub_at(20)
    async with (
        serving(one) as first,
        serving(other) as second,
        AsyncConfigClient([first, second], tuning=FAST, **PATIENT, **SCOPE) as client,
    ):
        await client.wait_ready(20)
        change(one, stored("text", "new", 21))
        await eventually(lambda: client.status.revision == 21)
        one.drain()
        await eventually(lambda: client.status.service_state == "behind")
        # The other replica has not seen it yet: the client does not step back.
        assert (await client.get("text"), client.status.url) == ("new", second)
        change(other, stored("text", "new", 21))
        change(other, stored("text", "newer", 22))
        await eventually(lambda: client.status.revision == 22)
        assert await client.get("text") == "newer"


async def test_the_threaded_client_does_the_same() -> None:
    hub = hub_at(20)
    async with serving(hub) as url:
        with ConfigClient(url, tuning=FAST, **PATIENT, **SCOPE) as client:
            await asyncio.to_thread(client.wait_ready, 20)
            assert same_value(client.get_all(), {**VALUES, "pool": 5})
            change(hub, stored("text", "new", 21))
            await eventually(lambda: client.get("text") == "new")


async def test_a_start_from_the_file_reads_the_same_and_the_service_sends_what_changed_since(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"tuning": FAST, "cache_dir": tmp_path, **PATIENT, **SCOPE}
    async with serving(hub_at(20)) as url, AsyncConfigClient(url, **kept) as client:
        await client.wait_ready(20)
    hub = hub_at(20)
    change(hub, stored("text", "new", 21), stored("pool", 9, 21))
    seen: list[Any] = []
    async with serving(hub) as url, AsyncConfigClient("http://127.0.0.1:9", **kept) as offline:
        assert same_value(await offline.get_all(), {**VALUES, "pool": 5})
        assert offline.status.source == "disk"
        async with AsyncConfigClient(url, **{**kept, "start_timeout_s": 0}) as client:
            client.on_change(seen.append)
            # Asked without a pause, so that no connection can have been made before.
            assert await client.get("text") == VALUES["text"]
            await eventually(lambda: len(seen) == 2)
            assert {(one.key, one.old, one.new) for one in seen} == {("text", VALUES["text"], "new"), ("pool", 5, 9)}
            assert same_value(await client.get_all(), {**VALUES, "text": "new", "pool": 9})
            await eventually(lambda: client.status.state == "live")


async def test_a_scope_that_does_not_exist_yet_is_empty_until_its_first_key() -> None:
    hub = make_hub(make_settings())
    fill(hub, 5)
    async with serving(hub) as url, AsyncConfigClient(url, tuning=FAST, **PATIENT, **SCOPE) as client:
        assert await client.get_all() == {}
        assert await client.get("a", default=1) == 1
        change(hub, stored("a", 2, 6))
        await eventually(lambda: client.status.revision == 6)
        assert await client.get("a", default=1) == 2
