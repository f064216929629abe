"""A Docker engine for tests: the one that answers on this machine, else one of our own for the time of the tests.

Our own runs on a private socket and keeps its images in the cache, so that a second run builds nothing. All workers and
all runs of this machine share it: the first that comes starts it, the last that goes stops it and takes back what it
changed in the machine's network. Needs root, and what `tools/install-docker` installs.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(
    os.environ.get("CONFIGSVC_TOOLS_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "configsvc"
)
HOME = CACHE / "docker"
# A socket's path is bounded to 107 characters, the cache's is not.
RUN = Path("/run") / f"configsvc-docker-{hashlib.sha256(str(HOME).encode()).hexdigest()[:8]}"
START_S = 60.0
LABEL = "configsvc.test"
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class Failed(AssertionError):
    """A command that should have worked; the text has its output."""


class Engine:
    """Docker commands to one engine. `own`: nobody but these tests uses it, so images may get any name there."""

    def __init__(self, *, own: bool) -> None:
        self.own = own
        self.environ = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        if own:
            self.environ["DOCKER_HOST"] = f"unix://{RUN / 'sock'}"

    def try_docker(
        self, *command: str | Path, stdin: bytes = b"", timeout_s: float = 300, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker …`, and leave it to the caller whether it should have worked."""
        done = subprocess.run(
            ["docker", *command], input=stdin, capture_output=True, timeout=timeout_s, env=self.environ | environ
        )
        out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def docker(self, *command: str | Path, stdin: bytes = b"", timeout_s: float = 300, **environ: str) -> str:
        """Run `docker …`; what it printed. Raises `Failed` where it fails."""
        done = self.try_docker(*command, stdin=stdin, timeout_s=timeout_s, **environ)
        if done.returncode:
            said = f"{done.stdout[-2000:]}{done.stderr[-6000:]}"
            raise Failed(f"docker {' '.join(map(str, command))}: exit {done.returncode}\n{said}")
        return done.stdout.strip()

    def inspect(self, what: str) -> dict[str, object]:
        """What the engine knows of an image or a container."""
        (facts,) = json.loads(self.docker("inspect", what))
        return dict(facts)

    def has_image(self, name: str) -> bool:
        """Whether an image is there already."""
        return self.try_docker("image", "inspect", name).returncode == 0


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One process of this machine at a time."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """The engine to use. Raises `Failed` where our own does not start."""
    host = Engine(own=False)
    if host.try_docker("info").returncode == 0:
        yield host
        return
    own = Engine(own=True)
    HOME.mkdir(parents=True, exist_ok=True)
    # Whoever uses the engine holds `users` in common; who can have it alone was the last.
    with (HOME / "users.lock").open("w") as users:
        with locked("engine"):
            fcntl.flock(users, fcntl.LOCK_SH)
            if own.try_docker("info").returncode:
                _start(own)
        try:
            yield own
        finally:
            with locked("engine"), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop(own)


def _start(engine: Engine) -> None:
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    _kill()
    (RUN / "daemon.json").write_text(json.dumps({"builder": {"gc": {"enabled": True, "defaultKeepStorage": "2GB"}}}))
    # What the daemon will change, as far as it was not so before: to be taken back.
    mine = [] if Path("/sys/class/net/docker0").exists() else ["bridge"]
    if FORWARD.read_text().strip() == "0":
        # Before the daemon does it: one that turns forwarding on by itself also forbids all of it but its own.
        FORWARD.write_text("1")
        mine.append("forward")
    (RUN / "mine").write_text(" ".join(mine))
    paths = {"--data-root": HOME / "data", "--exec-root": RUN / "exec", "--pidfile": RUN / "pid"}
    options = [*(f"{name}={path}" for name, path in paths.items()), f"--config-file={RUN / 'daemon.json'}"]
    with (HOME / "log").open("w") as log:
        daemon = subprocess.Popen(
            ["dockerd", *options, f"--host=unix://{RUN / 'sock'}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_S
    while engine.try_docker("info").returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            _kill()
            raise Failed(f"dockerd does not start; the end of its log:\n{(HOME / 'log').read_text()[-2000:]}")
        time.sleep(0.1)


def _stop(engine: Engine) -> None:
    for what in (["container"], ["network"], ["volume"], ["image", "--all", f"--filter=label={LABEL}"]):
        engine.try_docker(what[0], "prune", "--force", *what[1:])
    _kill()
    mine = (RUN / "mine").read_text().split()
    if "forward" in mine:
        FORWARD.write_text("0")
    if "bridge" in mine:
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True)
        rules = subprocess.run(["iptables-save"], capture_output=True, text=True).stdout.splitlines(keepends=True)
        kept = "".join(rule for rule in rules if "docker" not in rule.lower())
        subprocess.run(["iptables-restore"], input=kept, text=True, capture_output=True)


def _kill() -> None:
    """End the daemon that left its process id, if it still runs and still is a dockerd."""
    try:
        number = int((RUN / "pid").read_text())
        ours = b"dockerd" in Path(f"/proc/{number}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if not ours:
        return
    deadline = time.monotonic() + START_S
    os.kill(number, signal.SIGTERM)
    while _runs(number):
        if time.monotonic() > deadline:
            os.kill(number, signal.SIGKILL)
        time.sleep(0.05)


def _runs(number: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(number, os.WNOHANG)
    try:
        # A zombie has ended; who started it may be gone without having looked.
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
