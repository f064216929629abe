"""What one setting's text may be: a parser for each kind of value, and words that say what would have been right.

Pure. Environment and file share this grammar: a value is text, whichever of the two it came from. Knows no setting by
name; which settings there are, and how they go together, is `settings.py`.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from configsvc.core.model import is_name

ETCD_PORT = 2379
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# float() and int() take more than people mean: "nan", "1_000", digits of other scripts.
_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,15}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", re.ASCII)


class Wrong(ValueError):
    """A value that its kind does not take; the text says what would be right."""


class Kind(NamedTuple):
    """How a value is read, and how the reference describes it. `unit` is what a number counts, empty without one."""

    what: str
    parse: Callable[[str], Any]
    unit: str = ""


class Line(NamedTuple):
    """One setting of the file: its text, and where it stands, counted from 1."""

    text: str
    line: int


class Address(NamedTuple):
    """Where to listen. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than `localhost` may point anywhere."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def near(word: str, words: Collection[str]) -> str:
    """`; did you mean …?` where one of `words` is near, else nothing."""
    found = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def shown(text: str) -> str:
    """A value as an error message may repeat it: quoted, on one line, bounded."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def _name(text: str) -> str:
    if not is_name(text):
        raise Wrong(
            f"{shown(text)} is no name: 1 to 128 letters, digits, '.', '_' and '-', the first a letter or a digit"
        )
    return text


def _boolean(text: str) -> bool:
    if (value := _WORDS.get(text.lower())) is None:
        raise Wrong(f"{shown(text)} is neither true nor false")
    return value


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        valid = _is_ip(host, 6)
    else:
        valid = _is_host(host)
    if not colon or not valid or not _INTEGER.fullmatch(port) or int(port) > 65535:
        hint = f", such as 0.0.0.0{text}" if not host and colon else ", such as 127.0.0.1:8080 or [::1]:8080"
        raise Wrong(f"{shown(text)} is not HOST:PORT{hint}")
    return Address(host, int(port))


def _is_host(text: str) -> bool:
    """Whether a text is a host's name or IPv4 address. One that ends in a number can only be the latter."""
    return bool(_HOST.fullmatch(text)) and (not text.rpartition(".")[2].isdigit() or _is_ip(text, 4))


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _endpoints(text: str) -> tuple[str, ...]:
    """Comma separated; the port is 2379 where it is missing, the scheme is left out where it was (`with_scheme`)."""
    return tuple(dict.fromkeys(_endpoint(part.strip()) for part in text.split(",")))


def _endpoint(text: str) -> str:
    if "@" in text:
        # Not repeated: what stands before the @ may be a password.
        raise Wrong("an endpoint may not hold a user or password; use ETCD_USER and ETCD_PASSWORD_FILE")
    scheme, separator, rest = text.rpartition("://")
    address = rest.removesuffix("/")
    host, _, port = address.rpartition(":") if re.search(r":[^\]:]*$", address) else (address, "", str(ETCD_PORT))
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    valid = _is_ip(bare, 6) if bare != host else _is_host(host)
    if separator and scheme.lower() not in ("http", "https"):
        raise Wrong(f"{shown(text)}: the scheme is http or https, not {shown(scheme)}")
    if not valid or not _INTEGER.fullmatch(port) or not 0 < int(port) <= 65535:
        raise Wrong(f"{shown(text)} is no endpoint, such as http://etcd-1:2379 (several: separate them by commas)")
    return f"{scheme.lower()}{separator}{host}:{port}"


def with_scheme(endpoint: str, *, tls: bool) -> str:
    """An endpoint as a URL: one without a scheme is https where certificates are set, else http."""
    return endpoint if "://" in endpoint else f"{'https' if tls else 'http'}://{endpoint}"


NAME = Kind("a name", _name)
TEXT = Kind("text", str)
BOOLEAN = Kind("`true` or `false`", _boolean)
ADDRESS = Kind("`HOST:PORT`", _address)
ENDPOINTS = Kind("a list of `[SCHEME://]HOST[:PORT]`, comma separated", _endpoints)
PATH = Kind("a path", Path)
FOLDER = Kind("a path, or `off`", lambda text: None if text == "off" else Path(text))


def choice(*words: str) -> Kind:
    """One of `words`."""

    def parse(text: str) -> str:
        if text not in words:
            raise Wrong(f"{shown(text)} is not one of: {', '.join(words)}")
        return text

    return Kind(" or ".join(f"`{word}`" for word in words), parse)


def seconds(least: float, most: float) -> Kind:
    """A duration."""

    def parse(text: str) -> float:
        if not _DECIMAL.fullmatch(text) or not least <= float(text) <= most:
            raise Wrong(f"{shown(text)} is not a number of seconds from {least:g} to {most:g}, such as 5 or 0.5")
        return float(text)

    return Kind(f"seconds, {least:g} to {most:g}", parse, "s")


def integer(least: int, most: int, unit: str) -> Kind:
    """A whole number of something."""

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
            raise Wrong(f"{shown(text)} is not a whole number from {least} to {most}")
        return int(text)

    return Kind(f"{unit}, {least} to {most}", parse, unit)


def number(least: float, most: float) -> Kind:
    """A number of nothing in particular."""

    def parse(text: str) -> float:
        if not _DECIMAL.fullmatch(text) or not least <= float(text) <= most:
            raise Wrong(f"{shown(text)} is not a number from {least:g} to {most:g}, such as 0.5")
        return float(text)

    return Kind(f"a number, {least:g} to {most:g}", parse)
