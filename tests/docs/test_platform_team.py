"""The page for platform teams, run as it stands: its cluster, its users, and what etcd then refuses."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from configsvc.etcd.local import find_binary, free_ports
from tests.cli.commands import DEADLINE_S, environ, get
from tests.docs.pages import HOWTO, blocks
from tests.support import etcd as support
from tests.support.certificates import Authority
from tests.support.process import ServiceProcess

PAGE = HOWTO / "platform-team.md"
MEMBERS = ("etcd-1", "etcd-2", "etcd-3")


class Site:
    """The page's three machines on this one: its hosts become ports, its folders lie below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tools = find_binary(support.options(support.newest()).binary).parent
        self._ports = dict(zip(MEMBERS, free_ports(len(MEMBERS)), strict=True))
        self._env = folder / "env"
        self._env.touch()
        (folder / "etcd").mkdir()
        authority = Authority(folder / "etcd", "ca")
        member = authority.issue("member")
        assert (member.cert.name, member.key.name) == ("member.pem", "member.key")

    def here(self, text: str) -> str:
        """A command of the page with this machine's addresses and folders."""
        for name, (client, peer) in self._ports.items():
            text = text.replace(f"{name}:2379", f"127.0.0.1:{client}").replace(f"{name}:2380", f"127.0.0.1:{peer}")
        return text.replace("/etc/etcd/", f"{self.folder}/etcd/").replace(
            "configsvc check", f"{sys.executable} -m configsvc check"
        )

    def start(self, name: str, block: str) -> "subprocess.Popen[bytes]":
        """A member, by the page's command."""
        client, peer = self._ports[name]
        text = block.replace("name=etcd-1 ", f"name={name} ").replace("$name:", f"{name}:")
        text = text.replace("/var/lib/etcd", f"{self.folder}/{name}")
        text = text.replace("0.0.0.0:2379", f"127.0.0.1:{client}").replace("0.0.0.0:2380", f"127.0.0.1:{peer}")
        if "3.5" in (version := support.newest()) or version == support.WHEEL:
            text = text.replace("--watch-progress", "--experimental-watch-progress")
        text = self.here(text).rstrip() + " --bcrypt-cost=4 --unsafe-no-fsync\n"
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                ["bash", "-euc", text], env={"PATH": f"{self._tools}:{os.defpath}"}, stdout=log, stderr=log
            )

    def run(self, block: str, *, team: str | None = None) -> subprocess.CompletedProcess[str]:
        """A block, with all variables that those before it have set."""
        text = self.here(block)
        if team:
            text = text.replace("team=payments", f"team={team}")
        script = f"set -a; . {shlex.quote(str(self._env))}; {text}\nexport -p > {shlex.quote(str(self._env))}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=environ() | {"PATH": f"{self._tools}:{os.defpath}"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def works(self, block: str, *, team: str | None = None) -> str:
        """Run a block that has to work; what it printed."""
        done = self.run(block, team=team)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def sidecar(self, namespace: str, user: str) -> ServiceProcess:
        """A sidecar that logs in to all three members."""
        endpoints = ",".join(f"https://127.0.0.1:{client}" for client, _ in self._ports.values())
        return ServiceProcess(
            self.folder / f"{namespace}-as-{user}",
            SERVICE_NAME=namespace,
            CONFIG_ENVIRONMENT="production",
            ETCD_ENDPOINTS=endpoints,
            ETCD_CACERT=str(self.folder / "etcd" / "ca.pem"),
            ETCD_USER=user,
            ETCD_PASSWORD_FILE=str(self.folder / "secrets" / user),
            CONFIGSVC_HEARTBEAT_S="1",
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if not (shutil.which("openssl") and shutil.which("bash")):
        pytest.skip("needs bash and openssl")
    site = Site(tmp_path)
    member, *_ = blocks(PAGE)
    assert member.how == "member"
    with ExitStack() as stack:
        for name in MEMBERS:
            process = site.start(name, member.text)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield site


def test_the_page_as_it_stands(site: Site) -> None:
    """Two teams are taken in, each reads its own and is refused the other's, passwords change, one goes."""
    _, ready, *rest = blocks(PAGE)
    until_it_works(site, ready.text)
    end = next(index for index, block in enumerate(rest) if ".new" in block.text)
    for block in rest[:end]:
        if block.how == "refused":
            done = site.run(block.text)
            assert done.returncode != 0
            assert "permission denied" in done.stderr
        elif block.how == "check":
            found = site.works(block.text)
            assert "failure" not in found, found
            assert "etcd user payments may do nothing beyond what this service needs" in found
        else:
            site.works(block.text)
    for block in rest[:end]:
        if block.how == "team":
            site.works(block.text, team="orders")
    site.works("team=payments")
    change, leave, show = rest[end:]
    with site.sidecar("payments", "payments") as own, site.sidecar("orders", "payments") as foreign:
        own.start()
        foreign.start(ready=False)
        reads_its_own(own)
        is_refused(foreign)
        site.works(change.text)
        # Both at once: the new password is in use, and a change arrives.
        writer = next(block.text for block in rest if "etcdctl put" in block.text)
        site.works(writer.replace("20", "21"))
        own.running.until("the change is there", lambda: value(own) == 21)
        assert own.stop() == 0
        assert "exception" not in own.running.err
    site.works(show.text)
    assert "/config/payments/production/database.pool_size" in site.works(leave.text)
    assert "/config/" not in site.works("etcdctl get --prefix --keys-only /config/payments/")
    assert "/config/orders/" in site.works("etcdctl get --prefix --keys-only /config/orders/"), "the other is left"


def until_it_works(site: Site, block: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (done := site.run(block)).returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


def value(service: ServiceProcess) -> object:
    return get(f"{service.url}/v1/config/payments/production/database.pool_size").get("value")


def reads_its_own(service: ServiceProcess) -> None:
    assert value(service) == 20
    assert get(f"{service.url}/v1/config/orders/production")["code"] == "outside_sidecar"
    service.running.until("all is well", lambda: service.health()["status"] == "ok")
    known = {"authentication is off"}
    warnings = [line for line in service.log() if line["level"] in ("warning", "error")]
    assert [line for line in warnings if not any(text in line["event"] for text in known)] == []


def is_refused(service: ServiceProcess) -> None:
    """Etcd itself refuses, whatever the sidecar is told to serve; health says what to do."""

    def said() -> bool:
        detail = service.health()["checks"].get("etcd", {}).get("detail", "")
        return "the etcd user may not read /config/orders/" in detail

    service.running.until("health says why", said)
    assert service.health("/health/ready")["status"] == "unavailable"
    assert get(f"{service.url}/v1/config/orders/production")["code"] == "starting"
