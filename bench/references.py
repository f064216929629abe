"""The programs that this service is measured beside or with: nginx and wrk, found, or installed where that can be.

Nothing fails for lack of them: `missing` says why one is not there.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

from bench.processes import SERVICE_CORE, Process, status_of

PACKAGES = {"nginx": "nginx-light", "wrk": "wrk"}
"""By program; Debian's names."""
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def find(program: str) -> str | None:
    """Where a program is."""
    return shutil.which(program, path=_PATH)


@functools.cache
def missing(program: str) -> str:
    """Why a program cannot be used, empty where it can. Installs it first where this is Debian and we are root."""
    if find(program):
        return ""
    package = PACKAGES[program]
    if not shutil.which("apt-get"):
        return f"{program} is not installed, and there is no apt-get to install it with"
    if os.geteuid() != 0:
        return f"{program} is not installed; as root: apt-get install {package}"
    problem = _install(package)
    return "" if find(program) else f"apt-get install {package} failed: {problem}"


def _install(package: str) -> str:
    """Install without starting any service that comes with it; the last line of what was said."""
    install = ["apt-get", "install", "-y", "--no-install-recommends", package]
    # Debian asks this file whether a package may start its service: nginx must not take a port of this machine.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    said = ""
    try:
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        for command in (install, ["apt-get", "update"], install):
            env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
            said = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            if command is install and done.returncode == 0:
                break
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    finally:
        if ours:
            policy.unlink(missing_ok=True)
    return said or "no reason was given"


class Answer:
    """A constant that nginx answers: in its configuration where it is short, else as a file that it keeps open."""

    def __init__(self, path: str, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.path = path
        self.body = body
        self.status = status
        self.headers = headers or {}


class Nginx(Process):
    """One worker on one core, without a log, answering constants under their paths."""

    def __init__(self, folder: Path, port: int, answers: list[Answer]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nginx.conf"
        config.write_text(_config(folder, port, answers))
        command = [find("nginx") or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)]
        super().__init__(command, folder, cores=(SERVICE_CORE,))
        self.until("nginx answers", lambda: status_of(self.url + answers[0].path) == answers[0].status)


MAX_CONSTANT_BYTES = 3000
"""nginx refuses a longer parameter in its configuration."""


def _config(folder: Path, port: int, answers: list[Answer]) -> str:
    locations = []
    for number, one in enumerate(answers):
        lines = [f'add_header {name} "{_quoted(value)}";' for name, value in one.headers.items()]
        if one.status != 200:
            lines.append(f"return {one.status};")
        elif len(one.body) <= MAX_CONSTANT_BYTES:
            lines.append(f'return 200 "{_quoted(one.body.decode())}";')
        else:
            file = folder / f"answer-{number}"
            file.write_bytes(one.body)
            lines.append(f"alias {file};")
        locations.append(f"location = {one.path} {{ default_type application/json; {' '.join(lines)} }}")
    return f"""daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=100;
    open_file_cache_valid 600s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        {" ".join(locations)}
    }}
}}
"""


def _quoted(text: str) -> str:
    if "$" in text:
        raise ValueError(f"nginx would take a variable for it: {text}")
    return text.replace("\\", "\\\\").replace('"', '\\"')
