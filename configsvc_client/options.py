"""What a client was told to do: arguments and environment variables, checked once and put together.

Owns the names of the variables, the default addresses, the rule about where a token may go, and which folder keeps the
last-known-good files. Pure: the environment is handed in, and no file is opened.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from os import PathLike, fspath
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from configsvc_client.backoff import Backoff
from configsvc_client.errors import InvalidOption
from configsvc_client.sse import MAX_EVENT_BYTES

DEFAULT_URLS = ("http://127.0.0.1:8080", "http://config-service:8080")
"""Where a sidecar is without any setting: beside the process, else as the service of a compose file."""

MAX_AGE_S = 7 * 86_400.0
"""How long ago a last-known-good file may have been proved: a week outlasts weekends and most holidays."""

NO_CACHE = "off"
"""The word that stands for no folder at all."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the link is. The defaults are for production; tests of an application may want shorter ones."""

    backoff: Backoff = Backoff()
    """Between attempts, after the kinds of failure that pass by themselves."""
    slow_backoff: Backoff = Backoff(base_s=5.0, cap_s=60.0)
    """Once every address refuses for a reason that a person must remove (no permission, no such route)."""
    connect_timeout_s: float = 10.0
    """From opening the connection to the answer's head."""
    first_poll_after_s: float = 1.0
    """How long the first stream may bring nothing before the state is asked for beside it."""
    stream_retry: Backoff = Backoff(base_s=30.0, cap_s=600.0)
    """Between streams where a proxy holds them back and polls are the link."""
    believe_after_s: float = 30.0
    """How long better replicas are looked for before an older state, or a history that was left, is believed."""
    max_event_bytes: int = MAX_EVENT_BYTES
    """The largest event that is accepted; a snapshot is one event."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One address of the service. `configured` means that somebody named it, so that it may be sent the token."""

    url: str
    configured: bool

    @property
    def is_loopback(self) -> bool:
        """Whether the address cannot leave this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def watch_url(self, namespace: str, environment: str) -> str:
        """The address of a scope's stream."""
        return f"{self.url}/v1/watch/{quote(namespace, safe='')}/{quote(environment, safe='')}"

    def state_url(self, namespace: str, environment: str) -> str:
        """The address of a scope's state."""
        return f"{self.url}/v1/config/{quote(namespace, safe='')}/{quote(environment, safe='')}?view=entries"

    @property
    def self_url(self) -> str:
        """Where the service says what it is."""
        return f"{self.url}/v1/self"


class CacheFolder(msgspec.Struct, frozen=True, kw_only=True):
    """Where last-known-good files are kept. `named` means that somebody chose it for this application.

    `below`, if set, has to exist: a home that is not there is not made.
    """

    path: str
    named: bool
    below: str | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a client was told. A missing namespace or environment is what the service says of itself."""

    endpoints: tuple[Endpoint, ...]
    namespace: str | None = None
    environment: str | None = None
    token_file: str | None = None
    cache: CacheFolder | None = None
    cache_max_age_s: float = MAX_AGE_S
    start_timeout_s: float = 5.0
    max_staleness_s: float | None = None
    heartbeat_s: float = 5.0
    tuning: Tuning = Tuning()


def resolve(
    environ: Mapping[str, str],
    *,
    url: str | Sequence[str] | None = None,
    namespace: str | None = None,
    environment: str | None = None,
    token_file: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    cache_max_age_s: float = MAX_AGE_S,
    start_timeout_s: float = 5.0,
    max_staleness_s: float | None = None,
    heartbeat_s: float | None = None,
    tuning: Tuning | None = None,
) -> Options:
    """Put arguments over environment variables over defaults; raises `InvalidOption`.

    A variable that is set but empty counts as unset: compose files pass on `${NAME}` whether or not it has a value.
    """
    if not isinstance(tuning, Tuning | None):
        raise InvalidOption(f"tuning must be a Tuning(…), not {tuning!r}")
    return Options(
        endpoints=_endpoints(*_said(environ, "url", url, "CONFIGSVC_URL")),
        namespace=_name(*_said(environ, "namespace", namespace, "SERVICE_NAME")),
        environment=_name(*_said(environ, "environment", environment, "CONFIG_ENVIRONMENT")),
        token_file=_file(*_said(environ, "token_file", token_file, "CONFIG_TOKEN_FILE")),
        cache=_cache(environ, *_said(environ, "cache_dir", cache_dir, "CONFIGSVC_CACHE_DIR")),
        cache_max_age_s=_seconds("cache_max_age_s", cache_max_age_s),
        start_timeout_s=_seconds("start_timeout_s", start_timeout_s, allow_zero=True),
        max_staleness_s=None if max_staleness_s is None else _seconds("max_staleness_s", max_staleness_s),
        heartbeat_s=5.0 if heartbeat_s is None else _seconds("heartbeat_s", heartbeat_s),
        tuning=tuning or Tuning(),
    )


def _said(environ: Mapping[str, str], option: str, argument: Any, variable: str) -> tuple[str, Any]:
    """What was said, and where, as an error names it: the argument, else the variable; None where neither was."""
    if argument is not None:
        return option, argument
    return variable, environ.get(variable, "").strip() or None


def _endpoints(option: str, url: Any) -> tuple[Endpoint, ...]:
    if url is None:
        return tuple(Endpoint(url=default, configured=False) for default in DEFAULT_URLS)
    urls = url.split(",") if isinstance(url, str) else list(url) if isinstance(url, Iterable) else [url]
    if not all(isinstance(text, str) for text in urls):
        raise InvalidOption(f"{option} must be a text or a list of texts, not {url!r}")
    checked = dict.fromkeys(_url(option, text.strip()) for text in urls if text.strip())
    if not checked:
        raise InvalidOption(f"{option} names no address")
    return tuple(Endpoint(url=text, configured=True) for text in checked)


def _url(option: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        # Reading the port is what checks it.
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise InvalidOption(f"{option} {text!r}: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidOption(f"{option} must not hold a user or a password; tokens come from token_file")
    if parts.scheme not in ("http", "https") or not has_host:
        raise InvalidOption(f"{option} {text!r} must look like http://host:port")
    if "?" in text or "#" in text or any(char.isspace() for char in text):
        raise InvalidOption(f"{option} {text!r} must end with its path: no query, no fragment, no white space")
    return text.rstrip("/")


def _path(option: str, path: Any) -> str | None:
    text = fspath(path) if isinstance(path, PathLike) else path
    if not isinstance(text, str | None):
        raise InvalidOption(f"{option} must be a path, not {path!r}")
    return text


def _file(option: str, path: Any) -> str | None:
    text = _path(option, path)
    # An empty `Path` is a dot.
    if text in ("", "."):
        raise InvalidOption(f"{option} {text!r} must name a file")
    return text


def _cache(environ: Mapping[str, str], option: str, path: Any) -> CacheFolder | None:
    text = argument = _path(option, path)
    if text is None:
        return _default_cache(environ)
    if text == NO_CACHE:
        return None
    home = environ.get("HOME", "")
    if text.startswith("~/") and home:
        text = home + text[1:]
    if not text.strip() or "\0" in text or text.startswith("~"):
        raise InvalidOption(f"{option} {argument!r} must be a folder, or {NO_CACHE!r}")
    return CacheFolder(path=text, named=True)


def _default_cache(environ: Mapping[str, str]) -> CacheFolder | None:
    """The user's cache folder; None where there is no user to speak of (a container with a random uid has HOME=/)."""
    xdg, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    # Relative paths are to be ignored, says the XDG specification.
    if xdg.startswith("/") and "\0" not in xdg:
        return CacheFolder(path=f"{xdg.rstrip('/')}/configsvc/client", named=False)
    if home.startswith("/") and home.strip("/") and "\0" not in home:
        return CacheFolder(path=f"{home.rstrip('/')}/.cache/configsvc/client", named=False, below=home)
    local = environ.get("LOCALAPPDATA", "")
    return CacheFolder(path=f"{local}/configsvc/client", named=False, below=local) if local else None


def _name(option: str, name: Any) -> str | None:
    if name is not None and not (isinstance(name, str) and is_name(name)):
        raise InvalidOption(
            f"{option} {name!r} must be letters, digits, '.', '_' and '-', and begin with one of the first"
        )
    return name


def is_name(text: str) -> bool:
    """Whether a text can be a namespace or an environment."""
    return _NAME.fullmatch(text) is not None


def _seconds(option: str, value: Any, *, allow_zero: bool = False) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not allow_zero):
        raise InvalidOption(
            f"{option} must be a number of seconds {'from' if allow_zero else 'above'} 0, not {value!r}"
        )
    return float(value)
