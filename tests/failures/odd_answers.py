"""Scenarios of services that answer, but not as they should."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from configsvc_client.protocol import Baseline, encode
from configsvc_client.sse import encode as encode_sse
from tests.client.support import CUT, HOLD, OTHER_EPOCH, Beat, Service, answer, change, snapshot, state, status
from tests.failures.page import AFTER
from tests.failures.world import KINDS, World, scenario

Steps = Generator[None, None, None]


def until_the_end(world: World, *scripts: Any, **more: Any) -> Steps:
    """The stream goes on with the scripts, and in the end a good service is there."""
    world.serve(*scripts, **more)
    world.go()
    yield
    world.end()


@scenario("the service answers 500 or 503")
def answers_500(world: World) -> Steps:
    yield from until_the_end(world, [CUT], answer(500), answer(503))


@scenario("the service refuses with 401, 403 or 404")
def refuses(world: World) -> Steps:
    yield from until_the_end(world, [CUT], answer(401), answer(403), answer(404))


@scenario("the service redirects")
def redirects(world: World) -> Steps:
    yield from until_the_end(world, [CUT], answer(302, headers={"Location": "http://127.0.0.1:9/"}))


@scenario("one of two services freezes, the other one is well")
def one_of_two(world: World) -> Steps:
    for kind in KINDS:
        good = [snapshot({"a": 1}, 5), status(5)]
        services = Service([*good, HOLD]), Service([*good, Beat(status(5))])
        urls = [world.stack.enter_context(service.run_in_thread()).url for service in services]
        world.connect(kind, urls)
    yield


@scenario("the service has lost etcd, and says so")
def says_stale(world: World) -> Steps:
    after = [change(50, {"a": AFTER}), Beat(status(50))]
    yield from until_the_end(world, [Beat(status(5, "stale"), until=world.done), *after])


@scenario("the service shows another epoch: etcd was restored")
def another_epoch(world: World) -> Steps:
    theirs = [snapshot({"a": 2}, 2, epoch=OTHER_EPOCH), Beat(status(2, epoch=OTHER_EPOCH))]
    world.serve(theirs)
    world.go()
    yield


@scenario("the service lags behind what was shown before")
def lags(world: World) -> Steps:
    yield from until_the_end(world, [CUT], [snapshot({"a": 0}, 3), Beat(status(3))])


@scenario("the service sends what does not parse")
def garbage(world: World) -> Steps:
    broken = [b"event: change\ndata: {nonsense\n\n", HOLD], [b"event: snapshot\ndata: nonsense\n\n", HOLD]
    yield from until_the_end(world, *broken)


@scenario("the service sends another scope")
def another_scope(world: World) -> Steps:
    theirs = Baseline(namespace="orders", environment="production", epoch=OTHER_EPOCH, revision=9, entries={})
    sent = encode_sse("snapshot", encode(theirs), f"{OTHER_EPOCH}:9")
    yield from until_the_end(world, [sent, HOLD], [sent, HOLD])


@scenario("the service sends an event that is too large")
def too_large(world: World) -> Steps:
    yield from until_the_end(world, [change(6, {"a": "x" * 300_000}), HOLD], [snapshot({"a": "x" * 300_000}, 6), HOLD])


@scenario("a proxy begins to hold streams back")
def holds_back(world: World) -> Steps:
    world.serve([CUT], [HOLD], read=state({"a": 1}, 5))
    world.go()
    yield
    world.end()
    for service in world.services:
        service.state = state({"a": AFTER}, 50)


@scenario("the token file goes, and the stream ends")
def token_goes(world: World) -> Steps:
    token = world.folder / "token"
    token.write_text("secret")
    world.serve([CUT], [snapshot({"a": 2}, 6), HOLD], more=lambda _: {"token_file": token})
    token.unlink()
    world.go()
    yield
    world.end()
    token.write_text("secret")


@scenario("the token file is rotated, and the stream ends")
def token_rotates(world: World) -> Steps:
    token: Path = world.folder / "token"
    token.write_text("old")
    world.serve([CUT], [Beat(status(5))], more=lambda _: {"token_file": token})
    token.write_text("new")
    world.go()
    yield
    for service in world.services:
        assert [headers["Authorization"] for headers in service.watches] == ["Bearer old", "Bearer new"]


@scenario("a value of another type is stored")
def another_type(world: World) -> Steps:
    after = [change(50, {"a": AFTER}), Beat(status(50))]
    stored = change(6, {"a": "1"})
    yield from until_the_end(world, [stored, Beat(status(6), until=world.done), *after])
