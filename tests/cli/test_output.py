"""Commands whose output cannot be written, or is not wanted any more, and arguments that are no text."""

import os
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.commands import CONFIGSVC, DEADLINE_S, environ, run

SETTINGS = (*CONFIGSVC, "settings", "--json")
SCOPE = {"SERVICE_NAME": "demo", "CONFIG_ENVIRONMENT": "development"}


def ended(*command, cwd, **more):
    """The exit code, and what came on stderr."""
    process = subprocess.Popen(command, cwd=cwd, env=environ(**SCOPE), stderr=subprocess.PIPE, text=True, **more)
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_exit_74_and_a_line(tmp_path):
    with open("/dev/full", "wb") as full:
        code, err = ended(*SETTINGS, cwd=tmp_path, stdout=full)
    assert (code, err) == (74, "configsvc: cannot write to stdout: No space left on device\n")


@pytest.mark.parametrize(
    "command", [SETTINGS, (*CONFIGSVC, "settings"), (*CONFIGSVC, "watch", "--url", "http://127.0.0.1:1")]
)
def test_no_stdout_is_too(command, tmp_path):
    code, err = ended("sh", "-c", 'exec "$@" >&-', "sh", *command, cwd=tmp_path)
    assert (code, err) == (74, "configsvc: cannot write to stdout: Bad file descriptor\n")


def test_nobody_reads_is_exit_0(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ended(*SETTINGS, cwd=tmp_path, stdout=writer) == (0, "")
    finally:
        os.close(writer)


@pytest.mark.parametrize("command", ["get", "watch"])
def test_a_key_that_is_no_utf_8_is_exit_2(command, tmp_path):
    code, err = ended(*CONFIGSVC, command, b"a\xff", "--url", "http://127.0.0.1:1", cwd=tmp_path)
    assert code == 2
    assert err.startswith("configsvc: 'a\\udcff' is no")
    assert err.count("\n") == 1


# ---- answers of something else ---------------------------------------------------------------------------------------

DEEP = b"[" * 5000 + b"]" * 5000
ODD = {
    "a page": (b"<html>hi</html>", "text/html"),
    "nothing": (b"", ""),
    "an object": (b"{}", "application/json"),
    "a list": (b"[1]", "application/json"),
    "null": (b"null", "application/json"),
    "no text": (b'{"value":"\xff"}', "application/json"),
    "nested": (b'{"value":' + DEEP + b"}", "application/json"),
}


@pytest.fixture
def answering(request):
    body, kind = ODD[request.param]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("answering", ODD, indirect=True)
def test_a_200_that_is_not_ours_is_exit_69_and_a_line(answering, tmp_path):
    for arguments in (["k"], []):
        done = run(*CONFIGSVC, "get", *arguments, "--url", answering, cwd=tmp_path, **SCOPE)
        assert (done.returncode, done.stdout) == (69, "")
        assert done.stderr.startswith(f"configsvc: {answering}: ")
        assert done.stderr.count("\n") == 1
