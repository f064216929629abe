"""`configsvc get` as a process, against services that run."""

import json
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.cli.commands import CONFIGSVC, DEADLINE_S, environ, run, until
from tests.support.etcd import newest, options
from tests.support.process import Hand, ServiceProcess, sidecar

GET = (*CONFIGSVC, "get")
VALUES = {
    "database.pool_size": 10,
    "greeting": "Hello, 世界",
    "flag": None,
    "escape": "\x1b[31m\x9b31m\n",
    "nested": {"a": [1]},
}


@pytest.fixture
def service(any_etcd, tmp_path):
    """A sidecar with some values, and the hand that wrote them."""
    with sidecar(any_etcd, tmp_path / "service", VALUES) as made:
        yield made


def test_values_for_a_script(service, tmp_path):
    process, hand = service
    done = run(*GET, "--url", process.url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = dict(line.split("\t") for line in done.stdout.splitlines())
    assert {key: json.loads(value) for key, value in found.items()} == VALUES
    assert not {"\x1b", "\x9b"} & set(done.stdout), "nothing that could steer a terminal"

    url = {"CONFIGSVC_URL": process.url}
    assert run(*GET, "database.pool_size", cwd=tmp_path, **url).stdout == "10\n"
    assert run(*GET, "greeting", cwd=tmp_path, **url).stdout == '"Hello, 世界"\n'
    assert run(*GET, "greeting", "--raw", cwd=tmp_path, **url).stdout == "Hello, 世界\n"
    assert run(*GET, "nested", "--raw", cwd=tmp_path, **url, LC_ALL="C").stdout == '{"a":[1]}\n'
    whole = json.loads(run(*GET, "flag", "--json", cwd=tmp_path, **url).stdout)
    assert (whole["value"], whole["source"]) == (None, "stored")
    everything = json.loads(run(*GET, "--json", cwd=tmp_path, **url).stdout)
    assert everything["namespace"] == hand.scope.namespace
    assert everything["entries"]["greeting"]["value"] == VALUES["greeting"]


def test_what_is_not_there(service, tmp_path):
    process, hand = service
    url = {"CONFIGSVC_URL": process.url}
    done = run(*GET, "greting", cwd=tmp_path, **url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"configsvc: {hand.scope} has no key 'greting'; did you mean greeting?\n"
    done = run(*GET, "--environment", "prod", cwd=tmp_path, **url)
    assert done.returncode in (1, 77), "another environment than that of the sidecar"
    done = run(*GET, "--namespace", "others", cwd=tmp_path, **url)
    assert done.returncode == 77
    assert "this sidecar follows" in done.stderr
    assert run(*GET, "a/b", cwd=tmp_path, **url).returncode == 2


def test_the_next_address_is_asked(service, tmp_path):
    process, _ = service
    done = run(*GET, "database.pool_size", "--url", f"http://127.0.0.1:1,{process.url}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


def test_nobody_answers(tmp_path):
    done = run(*GET, "--url", "http://127.0.0.1:1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == "configsvc: http://127.0.0.1:1: cannot connect: connection refused\n"


def test_a_silent_address_ends_in_time(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = run(*GET, "--url", url, "--timeout-s", "0.3", cwd=tmp_path)
    assert done.returncode == 69
    assert done.stderr == f"configsvc: {url}: no answer in time\n"


class Other(BaseHTTPRequestHandler):
    """A web server that is none of ours."""

    seen: list[str] = []

    def do_GET(self):
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(200 if self.path == "/v1/self" else 404)
        self.end_headers()
        self.wfile.write(b"<h1>hello</h1>")

    def log_message(self, *args):
        pass


@pytest.fixture
def other():
    server = HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_answers_is_something_else(other, tmp_path):
    done = run(*GET, "--url", other, cwd=tmp_path)
    assert done.returncode == 69
    assert "what answers there is not configsvc" in done.stderr
    done = run(*GET, "--url", other, "--namespace", "a", "--environment", "b", cwd=tmp_path)
    assert done.returncode == 69
    assert "HTTP 404: it answers, but not as configsvc does" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "ftp://x"], "must look like http://host:port"),
        (["--url", "http://u:hunter2@x"], "must not hold a user or a password"),
        (["--namespace", "a b"], "namespace"),
        (["--raw"], "--raw"),
        (["k", "--raw", "--json"], "--raw"),
        (["--timeout-s", "0"], "--timeout-s"),
    ],
)
def test_wrong_arguments_are_exit_2(arguments, says, tmp_path):
    done = run(*GET, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "hunter2" not in done.stderr


def test_a_token_file_that_holds_none(tmp_path):
    for content in ("", "two words", "ü"):
        (tmp_path / "token").write_text(content)
        done = run(*GET, "--url", "http://127.0.0.1:1", "--token-file", "token", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (78, "configsvc: token file token does not hold one token\n")
    done = run(*GET, "--url", "http://127.0.0.1:1", "--token-file", "none", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (78, "configsvc: token file none: No such file or directory\n")


def test_an_answer_that_may_be_old_says_so(tmp_path):
    with LocalEtcd(options=options(newest())) as etcd:
        hand = Hand(etcd)
        hand.write({"limit": 10})
        named = {"SERVICE_NAME": hand.scope.namespace, "CONFIG_ENVIRONMENT": hand.scope.environment}
        with ServiceProcess(
            tmp_path / "service", ETCD_ENDPOINTS=etcd.url, CONFIGSVC_HEARTBEAT_S="0.2", **named
        ) as process:
            process.start()
            etcd.members[0].kill()
            # Health is degraded once etcd is not reached; an answer is old two heartbeats after the last proof.
            get = (*GET, "limit", "--url", process.url)
            until("it is stale", lambda: (done := run(*get, cwd=tmp_path)).stderr != "" or done.returncode != 0)
            done = run(*get, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "10\n")
    assert done.stderr.startswith(f"configsvc: may be out of date: {process.url} answers from its memory, last proved ")


def test_nobody_reads_on(service, tmp_path):
    process, hand = service
    hand.write({f"many.{n}": "x" * 1000 for n in range(100)})
    until("it has them", lambda: "many.99" in run(*GET, "--url", process.url, cwd=tmp_path).stdout)
    get = subprocess.Popen(
        [*GET, "--url", process.url],
        cwd=tmp_path,
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    get.stdout.readline()
    get.stdout.close()
    assert get.wait(DEADLINE_S) == 0
    assert get.stderr.read() == b""
    get.stderr.close()


def test_a_central_service_wants_a_namespace(any_etcd, tmp_path):
    hand = Hand(any_etcd)
    hand.write({"a": 1})
    with ServiceProcess(tmp_path / "service", CONFIGSVC_MODE="central", ETCD_ENDPOINTS=any_etcd.url) as process:
        process.start()
        url = {"CONFIGSVC_URL": process.url}
        done = run(*GET, "a", cwd=tmp_path, **url)
        assert done.returncode == 2
        assert "--namespace" in done.stderr
        named = {"SERVICE_NAME": hand.scope.namespace, "CONFIG_ENVIRONMENT": hand.scope.environment}
        assert run(*GET, "a", cwd=tmp_path, **url, **named).stdout == "1\n"
        done = run(*GET, "--namespace", "nobodys", "--environment", "test", cwd=tmp_path, **url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "nobodys/test" in done.stderr
