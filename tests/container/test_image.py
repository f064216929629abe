"""The image: what it is, and how the service behaves in it."""

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from configsvc import __version__
from tests.container.engine import LABEL, Engine
from tests.support.certificates import Authority

DRAIN_S = 10
HARDENED = (
    *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"),
    *("--memory=256m", "--pids-limit=64", "--stop-timeout=15"),
)
SIDECAR = ("--env=SERVICE_NAME=shop", "--env=CONFIG_AUTH=none", "--env=ETCD_ENDPOINTS=etcd:2379")
Run = Callable[..., str]


@pytest.fixture
def network(engine: Engine) -> Iterator[str]:
    """A network for one test."""
    name = f"configsvc-test-{uuid.uuid4().hex[:12]}"
    engine.docker("network", "create", "--label", f"{LABEL}=1", name)
    yield name
    engine.docker("network", "rm", name)


@pytest.fixture
def run(engine: Engine, network: str) -> Iterator[Run]:
    """Starts containers in that network and removes them."""
    with ExitStack() as stack:

        def start(image: str, *command: str, options: tuple[str, ...] = ()) -> str:
            name = f"configsvc-test-{uuid.uuid4().hex[:12]}"
            stack.callback(engine.docker, "rm", "--force", "--volumes", name)
            engine.docker("run", "--detach", "--name", name, "--network", network, *options, image, *command)
            return name

        yield start


def start_etcd(run: Run, image: str) -> str:
    urls = ("--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://etcd:2379")
    command = ("/usr/local/bin/etcd", *urls, "--watch-progress-notify-interval=1s")
    return run(image, *command, options=("--network-alias=etcd",))


def wait(engine: Engine, name: str, what: str, seen: Callable[[dict[str, Any]], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not seen(state := engine.inspect(name)["State"]):  # type: ignore[arg-type]
        if time.monotonic() > deadline:
            logs = engine.try_docker("logs", name)
            pytest.fail(f"not {what} in {timeout_s} s: {state}\n{logs.stdout}{logs.stderr}")
        time.sleep(0.1)


def healthy(state: dict[str, Any]) -> bool:
    return bool(state["Health"]["Status"] == "healthy")


def stop(engine: Engine, name: str) -> tuple[int, float]:
    """Stop a container as an operator does; its exit code, and how long that took."""
    began = time.monotonic()
    engine.docker("stop", "--time", "30", name)
    took = time.monotonic() - began
    return engine.inspect(name)["State"]["ExitCode"], took  # type: ignore[index]


def source(engine: Engine, name: str) -> str | None:
    """Where the service says that a value comes from, once it has that value."""
    address = engine.docker("port", name, "8080/tcp")
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/v1/config/shop/development/a", timeout=30) as answer:
                assert json.load(answer)["value"] == 1
                return answer.headers["Configsvc-Source"]
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503):
                raise
        assert time.monotonic() < deadline, "no such value"
        time.sleep(0.1)


def test_what_the_image_says_of_itself(engine: Engine, service_image: str, base: str) -> None:
    facts = engine.inspect(service_image)
    config: dict[str, Any] = facts["Config"]  # type: ignore[assignment]
    size_mb = int(str(facts["Size"])) / 1e6
    print(f"\nimage: {size_mb:.0f} MB on {base}")
    assert size_mb < 200
    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["configsvc"], ["serve"])
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert not config.get("Volumes")
    assert "CONFIGSVC_LISTEN=0.0.0.0:8080" in config["Env"]
    assert not any(name.startswith(("CONFIG_AUTH", "SERVICE_NAME")) for name in config["Env"])
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "configsvc.probe", "ready"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Labels"]["org.opencontainers.image.title"] == "configsvc"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert "org.opencontainers.image.source" in config["Labels"]
    assert __version__ in engine.docker("run", "--rm", service_image, "--version")


LOOK = """
import importlib.util, json, os, pathlib, shutil, configsvc, configsvc_client
packages = pathlib.Path(configsvc.__file__).parents[1]
print(json.dumps({
    "modules": [n for n in ("pip", "ensurepip", "setuptools", "wheel", "pytest") if importlib.util.find_spec(n)],
    "programs": [n for n in ("cc", "gcc", "g++", "make", "curl", "git") if shutil.which(n)],
    "extra": [n for n in ("tests", "tools", "docs", "examples") if (packages / n).exists()],
    "writable": [str(p) for p in (packages, "/opt/venv", "/etc/configsvc", "/") if os.access(p, os.W_OK)],
    "bytecode": [p.stem for p in packages.glob("configsvc/*.py") if not list(p.parent.glob(f"__pycache__/{p.stem}.*"))],
    "leftovers": [p.name for p in pathlib.Path("/opt/venv/bin").iterdir() if "activate" in p.name.lower()],
    "user": [os.getuid(), os.getgid(), os.getgroups()],
}))
"""


def test_nothing_in_it_builds_installs_or_is_writable(engine: Engine, service_image: str) -> None:
    found = json.loads(engine.docker("run", "--rm", "--entrypoint", "python", service_image, "-c", LOOK))
    assert found.pop("user") == [10001, 10001, [10001]]
    assert found == {"modules": [], "programs": [], "extra": [], "writable": [], "bytecode": [], "leftovers": []}


@pytest.mark.parametrize("user", ["10001:10001", "123456:0"], ids=["its own", "any of group 0"])
def test_the_folder_for_snapshots_can_be_written(engine: Engine, service_image: str, user: str) -> None:
    look = "import tempfile; tempfile.TemporaryFile(dir='/var/cache/configsvc')"
    engine.docker("run", "--rm", "--user", user, "--entrypoint", "python", service_image, "-c", look)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--env=SERVICE_NAME=", "--env=CONFIG_AUTH=none"], "SERVICE_NAME: is set but empty"),
        (["--env=CONFIG_AUTH=none"], "SERVICE_NAME: is not set"),
        (["--env=SERVICE_NAME=shop"], "CONFIG_AUTH"),
    ],
)
def test_wrong_settings_end_it_with_78_and_a_line(
    engine: Engine, service_image: str, options: list[str], named: str
) -> None:
    done = engine.try_docker("run", "--rm", *options, service_image)
    assert done.returncode == 78
    assert named in done.stderr


def test_hardened_it_serves_and_ends_in_time_with_an_open_stream(
    engine: Engine, service_image: str, etcd_image: str, run: Run
) -> None:
    etcd = start_etcd(run, etcd_image)
    service = run(service_image, options=(*HARDENED, *SIDECAR, "--publish=127.0.0.1::8080"))
    wait(engine, service, "healthy", healthy)
    engine.docker("exec", etcd, "/usr/local/bin/etcdctl", "put", "/config/shop/development/a", '{"value": 1}')
    address = engine.docker("port", service, "8080/tcp")
    with urllib.request.urlopen(f"http://{address}/v1/watch/shop/development", timeout=30) as stream:
        assert b"event: snapshot" in stream.readline() + stream.readline()
        code, took = stop(engine, service)
        assert b"draining" in stream.read()
    print(f"\nstopped in {took:.1f} s")
    assert code == 0
    assert took < DRAIN_S + 2
    # A container with a read-only root shows no change but the mount points that the engine makes.
    assert [line for line in engine.docker("diff", service).splitlines() if line.startswith("A")] == []


def test_it_trusts_an_authority_without_key_usage(
    engine: Engine, service_image: str, etcd_image: str, run: Run, tmp_path: Path
) -> None:
    """The image's Python is stricter by default than the one that most tests run on."""
    server = Authority(tmp_path).issue("server", host="etcd")
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    tmp_path.chmod(0o755)
    tls = ("--listen-client-urls=https://0.0.0.0:2379", "--advertise-client-urls=https://etcd:2379")
    files = (f"--cert-file=/tls/{server.cert.name}", f"--key-file=/tls/{server.key.name}")
    mount = f"--volume={tmp_path}:/tls:ro"
    run(etcd_image, "/usr/local/bin/etcd", *tls, *files, options=("--network-alias=etcd", mount))
    service = run(service_image, options=(*HARDENED, *SIDECAR, mount, "--env=ETCD_CACERT=/tls/authority.pem"))
    wait(engine, service, "healthy", healthy)


def test_without_etcd_it_is_alive_and_not_ready_and_ends_as_well(engine: Engine, service_image: str, run: Run) -> None:
    service = run(service_image, options=(*HARDENED, *SIDECAR))
    wait(engine, service, "asked", lambda state: bool(state["Health"]["Log"]))
    assert not healthy(engine.inspect(service)["State"])  # type: ignore[arg-type]
    probe = ("exec", service, "python", "-m", "configsvc.probe")
    deadline = time.monotonic() + 30
    while (alive := engine.try_docker(*probe, "live")).returncode and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive.stdout.startswith("live: HTTP/1.1 200"), alive
    ready = engine.try_docker(*probe)
    assert (ready.returncode, ready.stdout[:20]) == (1, "ready: HTTP/1.1 503 ")
    code, took = stop(engine, service)
    assert (code, took < DRAIN_S + 2) == (0, True)


def test_a_restart_while_etcd_is_away_serves_what_was_known_last(
    engine: Engine, service_image: str, etcd_image: str, run: Run, network: str
) -> None:
    etcd = start_etcd(run, etcd_image)
    engine.docker("volume", "create", "--label", f"{LABEL}=1", network)
    cache = (f"--volume={network}:/var/cache/configsvc", "--env=CONFIGSVC_CACHE_DIR=/var/cache/configsvc")
    try:
        service = run(service_image, options=(*HARDENED, *SIDECAR, *cache, "--publish=127.0.0.1::8080"))
        wait(engine, service, "healthy", healthy)
        engine.docker("exec", etcd, "/usr/local/bin/etcdctl", "put", "/config/shop/development/a", '{"value": 1}')
        assert source(engine, service) == "live"
        assert stop(engine, service)[0] == 0
        engine.docker("stop", "--time", "10", etcd)
        engine.docker("start", service)
        wait(engine, service, "healthy", healthy)
        assert source(engine, service) == "disk"
        assert stop(engine, service)[0] == 0
        engine.docker("rm", "--force", service)
    finally:
        engine.try_docker("volume", "rm", "--force", network)
