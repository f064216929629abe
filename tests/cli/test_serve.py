"""`configsvc serve` as a process: its exit codes, and what it says with them."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import CONFIGSVC, Running, get, run

NO_ETCD = {"SERVICE_NAME": "demo", "CONFIGSVC_LISTEN": "127.0.0.1:0", "ETCD_ENDPOINTS": "127.0.0.1:1"}


def test_all_wrong_settings_are_listed_at_once(tmp_path):
    (tmp_path / "config-service.yaml").write_text("heartbeats: 3\n")
    done = run(*CONFIGSVC, "serve", cwd=tmp_path, CONFIGSVC_LISTEN="8080", ETCD_USER="u", CONFIGSVC_DRAIN_S="soon")
    assert done.returncode == 78
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(line.startswith("configsvc: ") for line in lines)
    for name in ("config-service.yaml:1:1", "CONFIGSVC_LISTEN", "ETCD_USER", "CONFIGSVC_DRAIN_S", "SERVICE_NAME"):
        assert sum(line.startswith(f"configsvc: {name}") for line in lines) == 1, name


def test_the_file_of_the_option_must_be_there(tmp_path):
    done = run(*CONFIGSVC, "serve", "--config", "nowhere.yaml", cwd=tmp_path, **NO_ETCD)
    assert done.returncode == 78
    assert "nowhere.yaml: No such file or directory" in done.stderr


def test_a_certificate_that_is_none_is_a_wrong_setting(tmp_path):
    (tmp_path / "ca.pem").write_text("garbage")
    done = run(
        *CONFIGSVC, "serve", cwd=tmp_path, **NO_ETCD | {"ETCD_ENDPOINTS": "127.0.0.1:1", "ETCD_CACERT": "ca.pem"}
    )
    assert done.returncode == 78
    assert "ca.pem" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_exit_69(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(*CONFIGSVC, "serve", cwd=tmp_path, **NO_ETCD | {"CONFIGSVC_LISTEN": address})
    assert done.returncode == 69
    assert f"cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_start_that_takes_too_long_is_exit_69(tmp_path):
    done = run(*CONFIGSVC, "serve", cwd=tmp_path, **NO_ETCD, CONFIGSVC_START_TIMEOUT_S="0.2")
    assert done.returncode == 69
    assert "nothing could be read from etcd within 0.2 s" in done.stderr
    assert "cannot connect: connection refused" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_waits_for_etcd_and_a_signal_ends_it_with_0(number, tmp_path):
    (tmp_path / "settings.yaml").write_text("service_name: demo\n")
    settings = {name: value for name, value in NO_ETCD.items() if name != "SERVICE_NAME"}
    with Running(*CONFIGSVC, "serve", "--config", "settings.yaml", cwd=tmp_path, **settings) as serve:
        url = serve.until("it listens", lambda: re.search(r"http://127\.0\.0\.1:\d+", serve.err))[0]
        assert serve.until("it answers", lambda: get(f"{url}/health/live")) == {"status": "ok"}
        assert get(f"{url}/v1/config/demo/development")["code"] == "starting"
        assert get(f"{url}/health/ready")["status"] == "unavailable"
        assert serve.stop(number) == 0
    assert "Traceback" not in serve.err


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_signal_kills_it_while_it_ends(number, workers, tmp_path):
    with Running(*CONFIGSVC, "serve", cwd=tmp_path, **NO_ETCD, CONFIGSVC_WORKERS=workers) as serve:
        serve.until("it serves", lambda: " serves " in serve.err)
        for _ in until_it_ends(serve, every_s=0.0005):
            serve.process.send_signal(number)
        assert serve.process.returncode == 0
    assert "Traceback" not in serve.err


@pytest.mark.skipif(sys.platform != "linux", reason="what a process handles is read in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nor_while_it_starts(number, tmp_path):
    def is_handled() -> bool:
        status = Path(f"/proc/{serve.process.pid}/status").read_text()
        return bool(int(re.search(r"^SigCgt:\s*(\w+)", status, re.M)[1], 16) >> (signal.SIGTERM - 1) & 1)

    for wait_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        with Running(*CONFIGSVC, "serve", cwd=tmp_path, **NO_ETCD) as serve:
            serve.until("it handles signals", is_handled)
            assert "serves" not in serve.err
            for _ in until_it_ends(serve, every_s=wait_s):
                break
            assert serve.stop(number) == 0
        assert "Traceback" not in serve.err


def until_it_ends(serve: Running, *, every_s: float) -> Iterator[None]:
    """Once in so many seconds."""
    while True:
        try:
            serve.process.wait(every_s)
        except subprocess.TimeoutExpired:
            yield
        else:
            return
