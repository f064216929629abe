"""Arguments of a wrong kind: the error names the argument and what would be right, before anything runs."""

import asyncio
import functools
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from configsvc.core.model import key_problem
from configsvc_client import AsyncConfigClient, ConfigClient, ConfigValueError, InvalidOption
from configsvc_client.testing import AsyncStaticConfig, ConfigServer, StaticConfig


class Pool(msgspec.Struct):
    size: int = 10


class Database(msgspec.Struct):
    url: str


@dataclass
class Page:
    size: int = 20


# ---- constructors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"url": 3}, "url must be a text or a list of texts, not 3"),
        ({"url": b"http://a"}, "url must be a text or a list of texts, not b'http://a'"),
        ({"url": ["http://a", None]}, "url must be a text or a list of texts, not ['http://a', None]"),
        ({"namespace": 3}, "namespace 3 must be letters"),
        ({"environment": b"x"}, "environment b'x' must be letters"),
        ({"cache_dir": 3}, "cache_dir must be a path, not 3"),
        ({"cache_dir": b"x"}, "cache_dir must be a path, not b'x'"),
        ({"token_file": 1.5}, "token_file must be a path, not 1.5"),
        ({"start_timeout_s": "5"}, "start_timeout_s must be a number of seconds from 0, not '5'"),
        ({"start_timeout_s": None}, "start_timeout_s must be a number of seconds from 0, not None"),
        ({"start_timeout_s": True}, "start_timeout_s must be a number of seconds from 0, not True"),
        ({"heartbeat_s": "5"}, "heartbeat_s must be a number of seconds above 0, not '5'"),
        ({"max_staleness_s": [5]}, "max_staleness_s must be a number of seconds above 0, not [5]"),
        ({"cache_max_age_s": None}, "cache_max_age_s must be a number of seconds above 0, not None"),
        ({"tuning": {"x": 1}}, "tuning must be a Tuning(…), not {'x': 1}"),
        ({"tuning": 0}, "tuning must be a Tuning(…), not 0"),
    ],
)
@pytest.mark.parametrize("kind", [ConfigClient, AsyncConfigClient])
def test_an_argument_of_a_wrong_kind_is_named(kind: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        kind(**arguments)
    assert str(caught.value).startswith(told)


# ---- reads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, 3, b"a", ("a",), [], {}])
@pytest.mark.parametrize("default", [{}, {"default": 1}])
def test_a_key_is_a_string(key: Any, default: dict[str, Any]) -> None:
    config = StaticConfig({"a": 1})
    for read in (config.get, config.get_str, config.get_int, config.get_float, config.get_bool, config.get_json):
        with pytest.raises(TypeError, match="a key is a string, not ") as caught:
            read(key, **default)
        assert str(caught.value) == f"a key is a string, not {key!r}"


@pytest.mark.parametrize("key", ["", "/", "/state", "a/b", "_meta"])
def test_what_can_be_no_key_is_not_there(key: str) -> None:
    config = StaticConfig({"a": 1})
    assert [config.get(key, default=3), config.get_int(key, default=3), config.get_json(key, default=3)] == [3, 3, 3]
    with pytest.raises(KeyError):
        config.get(key)


async def test_the_asyncio_client_says_so_too() -> None:
    config = AsyncStaticConfig({"a": 1})
    for key in (None, []):
        for read in (config.get, config.get_str):
            with pytest.raises(TypeError, match="a key is a string, not "):
                await read(key)  # type: ignore[operator]


@pytest.mark.parametrize("bounds", [{"min_val": "1"}, {"max_val": "1"}, {"min_val": [1]}, {"max_val": True}])
@pytest.mark.parametrize("key", ["a", "nothing"])
def test_a_bound_is_a_number(key: str, bounds: dict[str, Any]) -> None:
    config = StaticConfig({"a": 5})
    ((name, bound),) = bounds.items()
    for read in (config.get_int, config.get_float):
        with pytest.raises(InvalidOption) as caught:
            read(key, 7, **bounds)
        assert str(caught.value) == f"{name} must be a number, not {bound!r}"


@pytest.mark.parametrize("wanted", [Pool(), Page(), int, 3, "Pool", None])
def test_a_struct_is_made_of_a_class(wanted: Any) -> None:
    with pytest.raises(TypeError) as caught:
        StaticConfig({"size": 5}).as_struct(wanted)
    assert str(caught.value) == f"as_struct makes a msgspec.Struct or a dataclass: type is one, not {wanted!r}"


def test_the_prefix_of_a_struct_is_a_string() -> None:
    with pytest.raises(TypeError, match="a prefix is a string, not None"):
        StaticConfig({"size": 5}).as_struct(Pool, None)  # type: ignore[arg-type]


# ---- a prefix that nothing lies below --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["databse.pool", "databse.pool."])
def test_a_misspelt_prefix_is_said_once(caplog: pytest.LogCaptureFixture, prefix: str) -> None:
    config = StaticConfig({"database.pool.size": 5, "page.size": 20})
    for _ in range(3):
        assert config.as_struct(Pool, prefix) == Pool()
    (line,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert line == (
        "nothing is stored at or below 'databse.pool', though below 'database.pool': all of Pool are defaults"
    )
    with pytest.raises(ConfigValueError) as caught:
        config.as_struct(Database, "databse")
    assert str(caught.value) == (
        "'databse.url': missing; wanted str (nothing is stored at or below 'databse', though below 'database')"
    )


def test_a_prefix_with_something_below_it_and_an_empty_scope_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert StaticConfig({"pool.other": 5}).as_struct(Pool, "pool") == Pool()
    assert StaticConfig({"other": 5}).as_struct(Pool) == Pool()
    assert StaticConfig().as_struct(Pool, "pool") == Pool()
    assert caplog.records == []


# ---- callbacks -------------------------------------------------------------------------------------------------------


async def hear(_: Any) -> None: ...


class Hearing:
    async def __call__(self, _: Any) -> None: ...


@pytest.mark.parametrize("callback", [None, 3, "print"])
def test_a_callback_can_be_called(callback: Any) -> None:
    for config in (StaticConfig(), AsyncStaticConfig()):
        for register in (config.on_change, config.on_status):
            with pytest.raises(TypeError) as caught:
                register(callback)
            assert str(caught.value) == f"a callback is a function of one argument, not {callback!r}"


@pytest.mark.parametrize("key", [5, b"a", []])
def test_the_key_that_changes_are_of_is_a_string(key: Any) -> None:
    for config in (StaticConfig(), AsyncStaticConfig()):
        for register in (functools.partial(config.on_change, print), config.changes):
            with pytest.raises(TypeError) as caught:
                register(key)
            assert str(caught.value) == f"a key is a string, not {key!r}"


@pytest.mark.parametrize("callback", [hear, functools.partial(hear), Hearing()])
async def test_coroutine_functions_are_for_the_asyncio_client(callback: Any) -> None:
    config = StaticConfig()
    for register in (config.on_change, config.on_status):
        with pytest.raises(TypeError, match="is a coroutine function, which only AsyncConfigClient awaits"):
            register(callback)
    heard = []

    async def told(change: Any) -> None:
        await asyncio.sleep(0)
        heard.append(change.new)

    twin = AsyncStaticConfig({"a": 1})
    twin.on_change(told)
    await twin.set("a", 2)
    assert heard == [2]


# ---- the helpers for tests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["-a", "ключ", "a" * 1024, " a b ", "a.", "..a", "\u2028"])
def test_the_helpers_take_what_a_service_serves(key: str) -> None:
    assert key_problem(key) is None
    assert StaticConfig({key: 1}).get(key) == 1


@pytest.mark.parametrize("key", ["a/b", "", "_meta", ".", "..", "é" * 513, "a\n", "\x80"])
def test_the_helpers_refuse_what_a_service_would_refuse(key: str) -> None:
    assert key_problem(key) is not None
    for make in (StaticConfig, AsyncStaticConfig, ConfigServer):
        with pytest.raises(ValueError, match="is no key: ") as caught:
            make({key: 1})
        assert repr(key) in str(caught.value)
    config = StaticConfig({"a": 1})
    with pytest.raises(ValueError, match="is no key: "):
        config.set(key, 2)
    with pytest.raises(ValueError, match="is no key: "):
        config.update({"a": 2, key: 2})
    assert config.get_all() == {"a": 1}


@pytest.mark.parametrize("values", [[1], 3, "a", {1: 2}, {None: 2}])
def test_values_are_a_mapping_of_keys(values: Any) -> None:
    for make in (StaticConfig, AsyncStaticConfig, ConfigServer):
        with pytest.raises(TypeError, match=r"values are a mapping of keys to values, not |a key is a string, not "):
            make(values)


def test_to_delete_what_is_not_there_is_an_error() -> None:
    config = StaticConfig({"a": 1})
    with pytest.raises(KeyError, match="'nope'"):
        config.delete("nope")
    assert config.get_all() == {"a": 1}


# ---- what is not installed -------------------------------------------------------------------------------------------


def test_the_collector_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; import configsvc_client.prometheus"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: configsvc_client.prometheus needs the package prometheus-client: pip install prometheus-client"
    )
