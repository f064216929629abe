"""Other people's clients follow a scope over cut connections and a restart: nothing is lost and nothing comes twice."""

import asyncio
import re
from collections.abc import Callable

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.interop.readers import SSE_READERS, WEBSOCKET_READERS, Reader, parse_stream, program
from tests.interop.transcript import Transcript
from tests.support.process import DELETED, Hand, ServiceProcess
from tests.support.proxy import TcpProxy

AWKWARD = {
    "text.unicode": "Grüße, 世界 \u2028 \U0001f600",
    "text.lines": "one\ntwo\r\nthree\n\ndata: four\n\n",
    "text.empty": "",
    "text.long": "x" * 100_000,
    "json.null": None,
    "json.nested": {"list": [1, 2.5, {"deep": [True, None]}], "empty": {}},
    "ключ with spaces": 1,
}


@pytest.fixture
def service(any_etcd: LocalEtcd, hand: Hand, tmp_path):
    settings = {"SERVICE_NAME": hand.scope.namespace, "ETCD_ENDPOINTS": any_etcd.url, "CONFIGSVC_HEARTBEAT_S": "0.5"}
    with ServiceProcess(tmp_path, **settings) as service:
        service.start()
        yield service


@pytest.fixture
def hand(any_etcd: LocalEtcd) -> Hand:
    hand = Hand(any_etcd)
    hand.write({"counter": 0, "left": 0, "right": 0} | AWKWARD)
    return hand


async def caught_up(seen: Transcript, hand: Hand) -> None:
    """Wait until a reader has the scope as it is."""
    try:
        async with asyncio.timeout(40):
            while seen.values != hand.values:
                await asyncio.sleep(0.02)
    except TimeoutError:
        wrong = {key for key in seen.values.keys() | hand.values.keys() if seen.values.get(key) != hand.values.get(key)}
        raise AssertionError(f"never caught up with {hand.revisions[-20:]} in {wrong}: {seen}") from None


def step(hand: Hand, number: int) -> None:
    """One write of several keys: a pair, a new key, and one that goes."""
    gone = f"key-{number - 3}"
    hand.write(
        {"counter": number, "left": number, "right": number, f"key-{number}": {"n": number}}
        | ({gone: DELETED} if gone in hand.values else {})
    )


async def follow_over_faults(read: Reader, path: str, hand: Hand, service: ServiceProcess) -> None:
    seen, numbers = Transcript(), iter(range(1, 1000))
    async with TcpProxy(service.url) as proxy, read(proxy.url, f"{path}/{hand.scope}", seen):
        await caught_up(seen, hand)
        assert len(seen.snapshots) == 1

        known = len(hand.revisions)
        step(hand, next(numbers))
        await caught_up(seen, hand)
        # Cut in the middle of whatever passes next.
        proxy.cut_after = 100
        for _ in range(5):
            step(hand, next(numbers))
        await caught_up(seen, hand)
        # Cut, with changes while nobody can connect.
        accepted = proxy.accepted
        await proxy.refuse()
        for _ in range(5):
            step(hand, next(numbers))
        await proxy.listen()
        await caught_up(seen, hand)
        assert proxy.accepted > accepted
        step(hand, next(numbers))
        await caught_up(seen, hand)
        # Only a reader that says where it was gets the changes since then instead of another snapshot.
        assert len(seen.snapshots) == 1, seen
        assert seen.revisions == hand.revisions[known:]

        # A restart: the new process knows no past, so the reader gets the state, and changes from there on.
        assert await asyncio.to_thread(service.stop) == 0
        assert "draining" in seen.states
        for _ in range(5):
            step(hand, next(numbers))
        await asyncio.to_thread(service.start)
        await caught_up(seen, hand)
        assert len(seen.snapshots) == 2
        known = len(seen.revisions)
        at = len(hand.revisions)
        for _ in range(5):
            step(hand, next(numbers))
        await caught_up(seen, hand)
        assert seen.revisions[known:] == hand.revisions[at:]
        assert len(seen.snapshots) == 2, seen


@pytest.mark.parametrize("read", SSE_READERS.values(), ids=SSE_READERS.keys())
async def test_server_sent_events(read: Reader, hand: Hand, service: ServiceProcess):
    await follow_over_faults(read, "/v1/watch", hand, service)


@pytest.mark.parametrize("read", WEBSOCKET_READERS.values(), ids=WEBSOCKET_READERS.keys())
async def test_websocket(read: Reader, hand: Hand, service: ServiceProcess):
    await follow_over_faults(read, "/v1/ws", hand, service)


async def raw(url: str, ends: Callable[[bytes], bool], *headers: str) -> bytes:
    """What `curl -N` prints, until that is enough."""
    arguments = [argument for header in headers for argument in ("-H", header)]
    process = await asyncio.create_subprocess_exec(
        program("curl"), "--noproxy", "*", "-sN", *arguments, url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    seen = b""
    try:
        async with asyncio.timeout(20):
            while not ends(seen):
                data = await process.stdout.read(2**16)
                assert data, f"the stream ended after {seen[-500:]!r}"
                seen += data
    finally:
        process.kill()
        await process.wait()
    return seen


def two_beats(seen: bytes) -> bool:
    return seen.count(b"event: status") >= 2 and seen.endswith(b"\n\n")


async def test_the_bytes_that_curl_prints(hand: Hand, service: ServiceProcess):
    url = f"{service.url}/v1/watch/{hand.scope}"
    first = await raw(url, two_beats)
    # Lines end with LF alone, there is no BOM, and each event is these lines in this order.
    id, data = rb"id: [0-9a-f]{12}:[0-9]+\n", rb"data: \{.*\}\n\n"
    grammar = rb"%bevent: snapshot\nretry: [0-9]+\n%b(%bevent: status\n%b)+" % (id, data, id, data)
    assert re.fullmatch(grammar, first), first[:2000]
    assert b"\r" not in first
    *_, (_, last_id, _) = parse_stream(first)[0]

    quiet = await raw(url, two_beats, f"Last-Event-ID: {last_id}")
    assert {event for event, _, _ in parse_stream(quiet)[0]} == {"status"}, "nothing has changed"

    revisions = [hand.write({"counter": 1}), hand.write({"counter": 2}), hand.delete(["counter"])]
    missed = await raw(url, lambda seen: b'"deleted":["counter"]}\n\n' in seen, f"Last-Event-ID: {last_id}")
    changes = parse_stream(missed)[0][:3]
    assert [(event, id.partition(":")[2]) for event, id, _ in changes] == [("change", str(r)) for r in revisions]

    for nonsense in (
        "",
        "x",
        "0:0",
        f"{last_id} ",
        "ffffffffffff:5",
        last_id.partition(":")[0] + ":99999999999999999999",
    ):
        answer = await raw(url, lambda seen: b"\n\n" in seen, f"Last-Event-ID: {nonsense}" if nonsense else "X: y")
        expected = "change" if nonsense.strip() == last_id else "snapshot"
        assert parse_stream(answer)[0][0][0] == expected, nonsense
