"""Options: precedence, defaults, and what is refused before anything is connected."""

from pathlib import Path
from typing import Any

import pytest

from configsvc_client.errors import ConfigKeyError, InvalidOption
from configsvc_client.options import CacheFolder, Endpoint, resolve


def test_nothing_said_means_the_places_where_a_sidecar_is_and_no_trust_in_them() -> None:
    options = resolve({})
    assert [(e.url, e.configured) for e in options.endpoints] == [
        ("http://127.0.0.1:8080", False),
        ("http://config-service:8080", False),
    ]
    assert (options.namespace, options.environment, options.token_file) == (None, None, None)


def test_the_environment_says_what_arguments_do_not() -> None:
    environ = {
        "CONFIGSVC_URL": "http://a:1, https://b/x/ ",
        "SERVICE_NAME": "payments",
        "CONFIG_ENVIRONMENT": "staging",
        "CONFIG_TOKEN_FILE": "/t",
    }
    options = resolve(environ, environment="production")
    assert [(e.url, e.configured) for e in options.endpoints] == [("http://a:1", True), ("https://b/x", True)]
    assert (options.namespace, options.environment, options.token_file) == ("payments", "production", "/t")


def test_an_empty_variable_is_none() -> None:
    options = resolve({"CONFIGSVC_URL": " ", "SERVICE_NAME": "", "CONFIG_ENVIRONMENT": "", "CONFIG_TOKEN_FILE": ""})
    assert not options.endpoints[0].configured
    assert (options.namespace, options.environment, options.token_file) == (None, None, None)


@pytest.mark.parametrize(
    "url", ["http://a:1,http://b:2", ["http://a:1", "http://b:2"], ("http://a:1/", "http://b:2", "http://a:1")]
)
def test_urls_come_as_text_or_sequence_without_repetition(url: Any) -> None:
    assert [e.url for e in resolve({}, url=url).endpoints] == ["http://a:1", "http://b:2"]


def test_a_token_file_may_be_a_path() -> None:
    assert resolve({}, token_file=Path("/x")).token_file == str(Path("/x"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": ""},
        {"url": []},
        {"url": "localhost:8080"},
        {"url": "ftp://a"},
        {"url": "http://"},
        {"url": "http://a:99999"},
        {"url": "http://a:x"},
        {"url": "http://[::1"},
        {"url": "http://u:p@a"},
        {"url": "http://a?x=1"},
        {"url": "http://a#x"},
        {"url": "http://a?"},
        {"url": "http://a#"},
        {"url": "http://a/b c"},
        {"namespace": ""},
        {"namespace": "../x"},
        {"namespace": "a/b"},
        {"environment": "-x"},
        {"start_timeout_s": -1},
        {"start_timeout_s": float("nan")},
        {"max_staleness_s": 0},
        {"heartbeat_s": float("inf")},
        {"cache_max_age_s": 0},
        {"cache_max_age_s": float("nan")},
        {"token_file": ""},
        {"token_file": Path("")},
        {"cache_dir": ""},
        {"cache_dir": " "},
        {"cache_dir": "a\0b"},
        {"cache_dir": "~/cache"},
    ],
)
def test_what_cannot_be_right_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(wrong))) as caught:
        resolve({}, **wrong)
    assert isinstance(caught.value, ValueError)
    assert "p@" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONFIGSVC_URL", "x"),
        ("CONFIGSVC_URL", ","),
        ("CONFIGSVC_URL", "http://u:p@a"),
        ("CONFIGSVC_URL", "http://a:x"),
        ("CONFIGSVC_URL", "http://a?x"),
        ("SERVICE_NAME", "a/b"),
        ("CONFIG_ENVIRONMENT", "a b"),
        ("CONFIGSVC_CACHE_DIR", "~a/b"),
    ],
)
def test_a_variable_that_cannot_be_right_is_named_as_such(variable: str, value: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{variable} "):
        resolve({variable: value})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:80", True),
        ("http://localhost:1", True),
        ("http://LOCALHOST:1", True),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://config-service:8080", False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback_is_what_cannot_leave_the_machine(url: str, expected: bool) -> None:
    assert Endpoint(url=url, configured=False).is_loopback is expected


def test_path_parts_are_percent_encoded() -> None:
    endpoint = Endpoint(url="http://a/prefix", configured=True)
    assert endpoint.watch_url("a b", "c/d") == "http://a/prefix/v1/watch/a%20b/c%2Fd"


def test_a_key_error_names_near_keys_and_survives_pickling() -> None:
    import pickle

    error = ConfigKeyError("database.pool_sise", ["database.pool_size", "x"])
    assert isinstance(error, KeyError)
    assert error.near == ["database.pool_size"]
    again = pickle.loads(pickle.dumps(error))
    assert (again.key, str(again)) == (error.key, str(error))
    assert "near: database.pool_size" in str(error)


@pytest.mark.parametrize(
    ("environ", "argument", "expected"),
    [
        ({}, None, None),
        ({"HOME": "/h"}, None, CacheFolder(path="/h/.cache/configsvc/client", named=False, below="/h")),
        ({"HOME": "/h/"}, None, CacheFolder(path="/h/.cache/configsvc/client", named=False, below="/h/")),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, None, CacheFolder(path="/x/configsvc/client", named=False)),
        # Relative: to be ignored, says the specification.
        (
            {"HOME": "/h", "XDG_CACHE_HOME": "x"},
            None,
            CacheFolder(path="/h/.cache/configsvc/client", named=False, below="/h"),
        ),
        # Containers with a random uid.
        ({"HOME": ""}, None, None),
        ({"HOME": "/"}, None, None),
        ({"HOME": "//"}, None, None),
        ({"HOME": "h"}, None, None),
        ({"LOCALAPPDATA": "C:/l"}, None, CacheFolder(path="C:/l/configsvc/client", named=False, below="C:/l")),
        ({"HOME": "/h", "CONFIGSVC_CACHE_DIR": "/c"}, None, CacheFolder(path="/c", named=True)),
        ({"HOME": "/h", "CONFIGSVC_CACHE_DIR": "~/c"}, None, CacheFolder(path="/h/c", named=True)),
        ({"HOME": "/h", "CONFIGSVC_CACHE_DIR": "off"}, None, None),
        (
            {"HOME": "/h", "CONFIGSVC_CACHE_DIR": " "},
            None,
            CacheFolder(path="/h/.cache/configsvc/client", named=False, below="/h"),
        ),
        ({"CONFIGSVC_CACHE_DIR": "off"}, "/c", CacheFolder(path="/c", named=True)),
        ({"CONFIGSVC_CACHE_DIR": "/c"}, "off", None),
        ({}, Path("/c"), CacheFolder(path="/c", named=True)),
    ],
)
def test_the_folder_of_the_files(environ: dict[str, str], argument: Any, expected: CacheFolder | None) -> None:
    assert resolve(environ, cache_dir=argument).cache == expected
