"""Commands whose output cannot be written, or is not wanted any more, and arguments that are no text."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import CONFIGSVC, DEADLINE_S, environ

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
