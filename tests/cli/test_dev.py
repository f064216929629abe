"""`configsvc dev` as a process: what it prints works as printed, and nothing is left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from configsvc.cli.sample import VALUES
from configsvc.etcd.binary import find_binary
from tests.cli.commands import CONFIGSVC, DEADLINE_S, Running, environ, get, run, until

DEV = (*CONFIGSVC, "dev", "--port", "0")


def ready(dev):
    """The service's and etcd's URL, when it has said what to try."""
    dev.until("it says what to try", lambda: "Ctrl-C stops both." in dev.out)
    service = re.search(r"serves .+ on (http://\S+)", dev.out)
    etcd = re.search(r"^etcd .* on (http://127\.0\.0\.1:\d+)", dev.out, re.MULTILINE)
    return service[1], etcd[1]


def is_open(url):
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def printed_command(dev, start):
    """The line that begins so, to be run by a shell as a reader would."""
    return next(line.strip() for line in dev.out.splitlines() if start in line)


def shell(command, cwd):
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=environ(), capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pool_size(service):
    return get(f"{service}/v1/config/demo/development")["values"]["database.pool_size"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sample_data_a_change_and_a_clean_end(number, tmp_path):
    with Running(*DEV, cwd=tmp_path) as dev:
        service, etcd = ready(dev)
        scope = get(f"{service}/v1/config/demo/development")
        assert scope["values"] == VALUES
        assert (scope["release"], scope["version"]) == (1, "sample")
        entry = get(f"{service}/v1/config/demo/development/database.pool_size")
        assert (entry["value"], entry["source"]) == (10, "stored")
        assert entry["metadata"]["created_by"] == "configsvc dev"
        assert get(f"{service}/v1/self")["mode"] == "sidecar"

        assert "is at release 2" in shell(printed_command(dev, " set "), tmp_path)
        until("the change is served", lambda: pool_size(service) == 20)
        assert "10\t20" in shell(printed_command(dev, " history "), tmp_path)
        shell(printed_command(dev, " rollback "), tmp_path)
        until("the sample is served again", lambda: pool_size(service) == 10)
        shell(printed_command(dev, "etcdctl"), tmp_path)
        until("the change by hand is served", lambda: pool_size(service) == 30)

        checked = shell(printed_command(dev, " check"), tmp_path)
        assert "runs there, serves demo" in checked
        assert "failure" not in checked

        assert dev.stop(number) == 0
        assert dev.err == "", "nothing is wrong, and what to try is on stdout"
        assert not is_open(etcd)
        assert not is_open(service)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of Unix")
def test_the_end_of_its_terminal_is_a_clean_end_too(tmp_path):
    (tmp_path / "tmp").mkdir()
    with Running(*DEV, "--memory", cwd=tmp_path, TMPDIR=str(tmp_path / "tmp")) as dev:
        service, etcd = ready(dev)
        assert list((tmp_path / "tmp").iterdir())
        assert dev.stop(signal.SIGHUP) == 0
        assert not is_open(etcd)
        assert not is_open(service)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("folder", ["/etc/passwd", "/proc/x", "/etc/passwd/x"])
def test_a_folder_that_cannot_be_is_exit_69(folder, tmp_path):
    done = run(*DEV, "--data", folder, cwd=tmp_path)
    assert done.returncode == 69
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"configsvc: no data can be kept in {folder}: ")
    assert done.stderr.endswith("; choose another with --data\n")


@pytest.mark.skipif(os.name == "nt", reason="a link")
def test_the_binary_may_have_any_name(tmp_path):
    (tmp_path / "my-etcd-3.5").symlink_to(find_binary())
    with Running(*DEV, "--memory", cwd=tmp_path, CONFIGSVC_ETCD_BINARY="my-etcd-3.5") as dev:
        ready(dev)
        assert "etcdctl --endpoints=" in dev.out
        assert dev.stop(signal.SIGINT) == 0


def test_more_is_logged_where_that_is_wanted(tmp_path):
    with Running(*DEV, "--memory", cwd=tmp_path, CONFIGSVC_LOG_LEVEL="info") as dev:
        ready(dev)
        assert dev.stop(signal.SIGINT) == 0
    assert "watching etcd" in dev.err
    assert "may silently diverge" not in dev.err


def test_what_contradicts_itself_is_exit_2(tmp_path):
    for options in (["--central", "--service", "x"], ["--memory", "--data", "x"]):
        done = run(*DEV, *options, cwd=tmp_path)
        assert done.returncode == 2
        assert options[0] in done.stderr


def test_a_file_that_is_not_there_is_the_only_problem(tmp_path):
    done = run(*DEV, "--config", "nope.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (78, "configsvc: nope.yaml: No such file or directory\n")


def test_the_printed_python_works(tmp_path):
    with Running(*DEV, "--memory", cwd=tmp_path) as dev:
        ready(dev)
        lines = [line.strip() for line in dev.out.partition("Use it in Python")[2].splitlines() if line.strip()][:3]
        assert lines[2].startswith("config.get(")
        code = "\n".join([*lines[:2], f"print({lines[2]})", "config.close()"])
        done = run(sys.executable, "-c", code, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
        assert done.stdout == "10\n", done.stderr
        assert dev.stop(signal.SIGINT) == 0


def test_data_is_kept_and_the_sample_not_written_again(tmp_path):
    with Running(*DEV, "--data", "kept", cwd=tmp_path) as dev:
        ready(dev)
        put = printed_command(dev, "etcdctl")
        shell(put, tmp_path)
        shell(re.sub(r"put (\S+)\.pool_size .*", r"del \1.host", put), tmp_path)
        assert dev.stop(signal.SIGINT) == 0
    assert (tmp_path / "kept").is_dir()
    assert not (tmp_path / ".configsvc").exists()
    with Running(*DEV, "--data", "kept", cwd=tmp_path) as dev:
        service, _ = ready(dev)
        assert printed_command(dev, "etcdctl") == put, "a line from the shell's history goes on to work"
        values = get(f"{service}/v1/config/demo/development")["values"]
        assert values == {key: value for key, value in VALUES.items() if key != "database.host"} | {
            "database.pool_size": 30
        }
        assert dev.stop(signal.SIGINT) == 0


def test_data_in_use_is_exit_69(tmp_path):
    with Running(*DEV, "--data", "kept", cwd=tmp_path) as dev:
        ready(dev)
        done = run(*DEV, "--data", "kept", cwd=tmp_path)
        assert done.returncode == 69
        assert done.stderr == "configsvc: kept is in use by another configsvc dev; choose another with --data\n"
        assert dev.stop(signal.SIGINT) == 0


def test_memory_leaves_nothing(tmp_path):
    with Running(*DEV, "--memory", cwd=tmp_path, TMPDIR=str(tmp_path)) as dev:
        ready(dev)
        assert dev.stop(signal.SIGINT) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stderr", "stdout"]


@pytest.mark.parametrize(
    ("options", "settings", "scope", "mode"),
    [
        (["--service", "payments"], {}, "payments/development", "sidecar"),
        ([], {"SERVICE_NAME": "payments", "CONFIG_ENVIRONMENT": "test"}, "payments/test", "sidecar"),
        (["--central"], {"SERVICE_NAME": "payments"}, "demo/development", "central"),
        # Settings for another etcd are not for this one.
        (["--memory"], {"ETCD_ENDPOINTS": "https://10.0.0.1:2379", "ETCD_USER": "root"}, "demo/development", "sidecar"),
    ],
)
def test_which_scope_is_served(options, settings, scope, mode, tmp_path):
    with Running(*DEV, *options, cwd=tmp_path, **settings) as dev:
        service, _ = ready(dev)
        assert get(f"{service}/v1/config/{scope}")["values"] == VALUES
        assert get(f"{service}/v1/self")["mode"] == mode
        # A central service can't say which namespace is the client's.
        assert ('namespace="demo"' in dev.out) == (mode == "central")
        shell(printed_command(dev, " set "), tmp_path)
        until("the change is served", lambda: get(f"{service}/v1/config/{scope}")["release"] == 2)
        assert dev.stop(signal.SIGINT) == 0


def test_a_file_is_read_only_where_it_is_named(tmp_path):
    (tmp_path / "config-service.yaml").write_text("service_name: orders\netcd:\n  endpoints: https://10.0.0.1\n")
    with Running(*DEV, "--config", "config-service.yaml", "--memory", cwd=tmp_path) as dev:
        service, _ = ready(dev)
        assert get(f"{service}/v1/config/orders/development")["values"] == VALUES
        assert dev.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("option", ["--port", "--etcd-port"])
def test_a_port_in_use_is_exit_69_and_names_the_option(option, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(*DEV, option, port, cwd=tmp_path)
    assert done.returncode == 69
    assert len(done.stderr.splitlines()) == 1
    assert port in done.stderr
    assert option in done.stderr
    assert not (tmp_path / ".configsvc").exists(), "etcd was started before it was known that the port is taken"


def test_wrong_settings_are_exit_78_before_anything_starts(tmp_path):
    done = run(*DEV, cwd=tmp_path, CONFIGSVC_HEARTBEAT_S="often", CONFIGSVC_ETCD_BINARY="nowhere/etcd")
    assert done.returncode == 78
    assert "CONFIGSVC_HEARTBEAT_S" in done.stderr
    assert "CONFIGSVC_ETCD_BINARY: nowhere/etcd" in done.stderr
    assert not (tmp_path / ".configsvc").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find etcd's process")
def test_it_ends_when_etcd_does(tmp_path):
    with Running(*DEV, cwd=tmp_path) as dev:
        ready(dev)
        children = Path(f"/proc/{dev.process.pid}/task/{dev.process.pid}/children").read_text().split()
        assert len(children) == 1
        subprocess.run(["kill", "-9", children[0]], check=True)
        assert dev.process.wait(DEADLINE_S) == 69
    assert dev.err.splitlines()[-1] == "configsvc: etcd was killed (signal 9)"
    assert "etcdmain" not in dev.err, "what its log says of its start"
