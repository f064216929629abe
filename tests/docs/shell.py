"""Runs the blocks of a page as a reader would type them: in one shell, on a terminal, against `configsvc dev`.

The page says `http://127.0.0.1:8080`; the service of a test has another port, which is put in and taken out again.
"""

import contextlib
import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from configsvc.etcd.local import find_binary
from tests.cli.commands import CONFIGSVC, DEADLINE_S, Running, environ

if sys.platform != "win32":
    import fcntl
    import pty
    import struct
    import termios

PRINTED_URL = "http://127.0.0.1:8080"
COLUMNS = 120
_PARTS = re.compile(r"\x1b\[\??[\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")
ASKED = b"[y/N] "
_VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:?\d\d:?\d\d\.?\d{3}Z"), "(time)"),
    (re.compile(r"\b(\d+)-[0-9a-f]{32}\b"), r"\1-(digest)"),
    (re.compile(r'\b(revision"?:?\s*)\d+'), r"\1(number)"),
    (re.compile(r'"epoch":"[0-9a-f]{12}"'), '"epoch":"(epoch)"'),
    (re.compile(r"[\d,]+ bytes"), "(size) bytes"),
)
"""What differs from run to run, and what stands for it in a comparison."""


class Done(NamedTuple):
    """How a block ended, and all that was shown."""

    code: int
    shown: str


class Shell:
    """A shell whose variables stay from block to block; whoever asks for a yes gets one."""

    def __init__(self, folder: Path, url: str, etcd: str) -> None:
        self.folder = folder
        self._url = url
        self._bin = folder / "bin"
        self._bin.mkdir()
        command = self._bin / "configsvc"
        command.write_text(f'#!/bin/sh\nexec {shlex.join(CONFIGSVC)} "$@"\n')
        command.chmod(0o755)
        self._env = folder / "env"
        self._env.touch()
        (folder / "work").mkdir()
        self._environ = environ(
            TERM="xterm",
            COLUMNS=str(COLUMNS),
            LC_ALL="C.UTF-8",
            CONFIGSVC_URL=url,
            ETCDCTL_ENDPOINTS=etcd,
            PATH=f"{self._bin}:{find_binary().parent}:{os.defpath}",
        )

    def run(self, block: str) -> Done:
        """Run a block; it ends at its first command that fails."""
        text = block.replace(PRINTED_URL, self._url)
        kept = shlex.quote(str(self._env))
        code, shown = self._on_a_terminal(f". {kept}; trap 'export -p > {kept}' EXIT; set -eo pipefail\n{text}")
        return Done(code, shown.replace(self._url, PRINTED_URL))

    def _on_a_terminal(self, script: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder / "work",
            env=self._environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown = b""
        deadline = time.monotonic() + DEADLINE_S
        try:
            while piece := _piece(ours, deadline, shown):
                shown += piece
                if shown.endswith(ASKED):
                    os.write(ours, b"y\n")
            return process.wait(DEADLINE_S), _left(shown.decode())
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def _piece(terminal: int, deadline: float, shown: bytes) -> bytes:
    """What is shown next; nothing at the end."""
    if not select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        raise AssertionError(f"goes on after {DEADLINE_S} s, having shown:\n{shown.decode()}")
    # Linux says so where nobody has the other end any more.
    with contextlib.suppress(OSError):
        return os.read(terminal, 65536)
    return b""


def _left(shown: str) -> str:
    """What is left on the terminal: without colours, and without progress bars that were wiped away."""
    lines, row, column = [""], 0, 0
    for part in _PARTS.findall(shown):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif part.startswith("\x1b"):
            if part.endswith("A"):
                row = max(0, row - int(part[2:-1] or 1))
            elif part.endswith("K"):
                lines[row] = ""
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return "\n".join(lines)


def shows(expected: str, shown: str) -> bool:
    """Whether what is shown is what a page says: `…` stands for anything on a line, alone on one for any lines."""
    lines = _constant(expected).splitlines()
    wanted = (r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in lines)
    return re.fullmatch("".join(wanted), _constant(shown)) is not None


def _constant(text: str) -> str:
    """A text without what varies, and without white space at the ends of its lines."""
    text = "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())
    for found, word in _VARIES:
        text = found.sub(word, text)
    return text


@contextlib.contextmanager
def shell_beside_dev(folder: Path) -> Iterator[Shell]:
    """A shell, and a `configsvc dev` without a default environment of its own."""
    place = folder / "dev"
    place.mkdir()
    with Running(*CONFIGSVC, "dev", "--memory", "--port", "0", cwd=place, CONFIGSVC_HEARTBEAT_S="1") as dev:
        dev.until("it says what to try", lambda: "Ctrl-C stops both." in dev.out)
        service = re.search(r"serves .+ on (http://\S+)", dev.out)
        etcd = re.search(r"^etcd .* on (http://127\.0\.0\.1:\d+)", dev.out, re.MULTILINE)
        assert service
        assert etcd
        yield Shell(folder, service[1], etcd[1])
