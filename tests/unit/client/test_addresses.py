"""Which reason is told where several addresses failed, and whether waiting for one of them makes sense."""

from random import Random

import pytest

from configsvc_client.addresses import Addresses
from configsvc_client.errors import LinkError
from tests.client.support import snapshot, status
from tests.unit.client.test_session import TUNING, Link, options

REFUSED = LinkError("status", "HTTP 403: this sidecar follows demo/*", status=403, is_final=True)
NOT_OURS = LinkError("status", "HTTP 404", status=404)
UNREACHABLE = LinkError("unreachable", "cannot connect")
SILENT = LinkError("timeout", "no answer within 10 s")
TOKEN = LinkError("token", "token file: not there")


def tried(*errors: LinkError, rounds: int = 1) -> Addresses:
    addresses = Addresses(options(len(errors)).endpoints, TUNING, Random(1))
    for _ in range(rounds):
        for error in errors:
            addresses.note(error)
            addresses.lost(error, worked=False, is_start=True)
    return addresses


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([UNREACHABLE], "http://a: cannot connect"),
        ([REFUSED, UNREACHABLE], "http://a: HTTP 403: this sidecar follows demo/*"),
        ([UNREACHABLE, REFUSED], "http://b: HTTP 403: this sidecar follows demo/*"),
        ([SILENT, NOT_OURS], "http://b: HTTP 404"),
        ([TOKEN, UNREACHABLE], "http://a: token file: not there"),
        ([UNREACHABLE, SILENT], "http://a: cannot connect; http://b: no answer within 10 s"),
        ([REFUSED, NOT_OURS], "http://a: HTTP 403: this sidecar follows demo/*; http://b: HTTP 404"),
    ],
)
@pytest.mark.parametrize("rounds", [1, 2])
def test_an_answer_tells_more_than_no_connection_and_else_every_address_is_told(
    errors: list[LinkError], told: str, rounds: int
) -> None:
    assert tried(*errors, rounds=rounds).reason == told


@pytest.mark.parametrize(
    ("errors", "nobody", "refused"),
    [
        ([UNREACHABLE], True, False),
        ([UNREACHABLE, SILENT], True, False),
        ([REFUSED], False, True),
        ([REFUSED, UNREACHABLE], False, True),
        ([UNREACHABLE, REFUSED], False, True),
        ([REFUSED, NOT_OURS], False, False),
        ([TOKEN], False, False),
        ([NOT_OURS, UNREACHABLE], False, False),
    ],
)
def test_only_a_service_that_says_no_makes_waiting_useless(
    errors: list[LinkError], nobody: bool, refused: bool
) -> None:
    addresses = tried(*errors)
    assert (addresses.is_nobody_there, addresses.is_refused) == (nobody, refused)


def test_nothing_is_decided_before_every_address_was_tried() -> None:
    addresses = Addresses(options(2).endpoints, TUNING, Random(1))
    addresses.note(REFUSED)
    addresses.lost(REFUSED, worked=False, is_start=True)
    assert not addresses.is_refused


def test_an_address_that_is_gone_says_nothing_any_more() -> None:
    addresses = tried(REFUSED, UNREACHABLE)
    addresses.note(UNREACHABLE)
    assert addresses.reason == "http://a: cannot connect; http://b: cannot connect"
    assert addresses.is_nobody_there


def test_no_reason_is_left_once_the_link_is_live() -> None:
    link = Link(2)
    link.session.lost(UNREACHABLE, link.now)
    assert link.session.last_error == "http://a: cannot connect"
    link.event(snapshot({}, 1))
    assert link.session.last_error is None
    link.event(status(1, "stale"))
    assert "the service is stale" in (link.session.last_error or "")
    link.event(status(1))
    assert link.session.last_error is None
    link.session.lost(UNREACHABLE, link.now)
    assert link.session.last_error == "http://b: cannot connect"


def test_many_reasons_fit_a_log_line() -> None:
    told = tried(*[LinkError("status", "x" * 400, status=500)] * 3).reason
    assert told is not None
    assert told.isprintable()
    assert len(told) < 1000
