"""Requests as fast as a server takes them: how many by wrk where it is to be had, how long each took by our own."""

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bench import references
from bench.load import packed
from bench.processes import LOAD_CORE, BenchError, Child, cpu_s, environ, on_cores

CONNECTIONS = 32
_SCRIPT = """
wrk.method = "{method}"
wrk.body = {body}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nJSON {{"requests":%d,"seconds":%f,"errors":%d}}\\n', summary.requests,
    summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, sent again and again over kept connections."""

    url: str
    headers: dict[str, str] = {}
    body: str = ""

    @property
    def data(self) -> bytes:
        """As bytes."""
        address = urlsplit(self.url)
        lines = [f"{self.method} {address.path} HTTP/1.1", f"Host: {address.netloc}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body:
            lines.append(f"Content-Length: {len(self.body.encode())}")
        return ("\r\n".join(lines) + "\r\n\r\n" + self.body).encode()

    @property
    def method(self) -> str:
        """What a request with or without a body is."""
        return "POST" if self.body else "GET"


class Load:
    """Sends requests from the load's core, or from `cores`."""

    def __init__(self, folder: Path, *, connections: int = CONNECTIONS, cores: tuple[int, ...] = (LOAD_CORE,)) -> None:
        self.missing = references.missing("wrk")
        self.connections = connections
        self._folder = folder
        self._cores = cores
        folder.mkdir(parents=True, exist_ok=True)

    def measure(self, pid: int, request: Request, seconds: float) -> dict[str, float]:
        """`rate` per second, and `cpu_us` of process `pid` (its children included) per request.

        Without wrk there is no `rate`: it would be our load program's own. Raises `BenchError` where an answer was an
        error.
        """
        before = cpu_s(pid)
        seen = self._by_python(request, seconds) if self.missing else self._by_wrk(request, seconds)
        used = cpu_s(pid) - before
        _check(request, seen)
        cost = {"cpu_us": used / seen["requests"] * 1e6}
        return cost if self.missing else {"rate": seen["requests"] / seen["seconds"]} | cost

    def time(self, request: Request, seconds: float) -> dict[str, float]:
        """`p99_ms` of the answers to as many connections. Raises `BenchError` where one was an error."""
        seen = self._by_python(request, seconds)
        _check(request, seen)
        return {"p99_ms": seen["p99_us"] / 1000}

    def _by_wrk(self, request: Request, seconds: float) -> dict[str, float]:
        script = self._folder / "wrk.lua"
        script.write_text(
            _SCRIPT.format(method=request.method, body=json.dumps(request.body) if request.body else "nil")
        )
        command = [references.find("wrk") or "wrk", f"-t{len(self._cores)}", f"-c{self.connections}"]
        # wrk knows whole seconds only, so a shorter run lasts one.
        command += [f"-d{max(1, round(seconds))}s", "-s", str(script)]
        for name, value in request.headers.items():
            command += ["-H", f"{name}: {value}"]
        with on_cores(*self._cores):
            done = subprocess.run([*command, request.url], capture_output=True, text=True, env=environ(), timeout=300)
        found = next((line for line in done.stdout.splitlines() if line.startswith("JSON ")), None)
        if found is None:
            raise BenchError(f"wrk failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        seen: dict[str, float] = json.loads(found.removeprefix("JSON "))
        return seen

    def _by_python(self, request: Request, seconds: float) -> dict[str, float]:
        port = urlsplit(request.url).port
        with Child("requests", self._folder, cores=self._cores) as child:
            return child.ask(port=port, request=packed(request.data), connections=self.connections, seconds=seconds)


def _check(request: Request, seen: dict[str, float]) -> None:
    if seen["errors"] or not seen["requests"]:
        raise BenchError(f"{request.url}: {seen['errors']:.0f} of {seen['requests']:.0f} requests failed")
