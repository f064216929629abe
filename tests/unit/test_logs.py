"""Logs: one line per event, in one format, whoever speaks."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from configsvc import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_ours_and_the_libraries_lines_are_alike() -> None:
    stream = io.StringIO()
    logs.configure("auto", "info", stream)
    structlog.get_logger().info("listening", address="http://x")
    logging.getLogger("aiohttp.server").warning("odd %s", "thing")
    logging.getLogger("aiohttp.server").info("chatter")
    ours, theirs = lines(stream)
    assert (ours["event"], ours["address"], ours["level"]) == ("listening", "http://x", "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("odd thing", "aiohttp.server", "warning")
    assert str(ours["timestamp"]).endswith("Z")


def test_the_level_holds() -> None:
    stream = io.StringIO()
    logs.configure("json", "warning", stream)
    structlog.get_logger().info("no")
    structlog.get_logger().warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_an_exception_stays_on_one_line() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    try:
        raise RuntimeError("why")
    except RuntimeError:
        structlog.get_logger().exception("failed")
    (line,) = lines(stream)
    assert "RuntimeError: why" in str(line["exception"])


@pytest.mark.parametrize(("log_format", "terminal"), [("auto", True), ("console", True), ("console", False)])
def test_people_get_readable_lines(log_format: logs.Format, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    logs.configure(log_format, "info", stream)
    structlog.get_logger().info("listening")
    assert "listening" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_configuring_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("json", "info", first)
    logs.configure("json", "info", second)
    structlog.get_logger().info("once")
    assert (len(lines(first)), len(lines(second))) == (0, 1)
