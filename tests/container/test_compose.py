"""The compose files as they are, and the one of the specification, with an application that sees a change."""

import json
import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import Build
from tests.container.engine import LABEL, ROOT, Engine, Failed, locked
from tests.docs.pages import HOWTO, fenced

COMPOSE = ROOT / "compose"
# As the specification has it, but for what no file can hold: the application's source is this project's example.
SPECIFIED = """
services:
  my-app:
    build: .
    depends_on: [config-service]

  config-service:
    image: ghcr.io/yourorg/config-service:latest
    environment:
      - ETCD_ENDPOINTS=etcd:2379
      - SERVICE_NAME=my-app
      - CONFIG_AUTH=none
    depends_on: [etcd]

  etcd:
    image: quay.io/coreos/etcd:v3.5.3
    environment:
      - ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379
      - ETCD_ADVERTISE_CLIENT_URLS=http://etcd:2379
"""
INCLUDING = """
include:
  - path: [{local}, {override}]

services:
  my-app:
    image: {app}
    depends_on:
      config-service:
        condition: service_healthy
"""
PRODUCTION = {
    "CONFIGSVC_IMAGE": "registry.example.com/configsvc:0.1.0",
    "ETCD_ENDPOINTS": "https://etcd-1:2379",
    "SERVICE_NAME": "my-app",
    "CONFIG_ENVIRONMENT": "production",
    "CONFIG_AUTH": "none",
}
STOP_S = 15


class Project:
    """One compose project of an engine."""

    def __init__(self, engine: Engine, *files: Path, **environ: str) -> None:
        self.name = name = f"configsvc-test-{uuid.uuid4().hex[:12]}"
        self._engine = engine
        self._options = [
            "compose",
            "--ansi",
            "never",
            "--project-name",
            name,
            *(part for file in files for part in ("--file", str(file))),
        ]
        self._environ = {"CONFIGSVC_HOST_PORT": "0", "ETCD_HOST_PORT": "0", "BUILDX_BUILDER": "default", **environ}

    def __call__(self, *command: str, timeout_s: float = 200) -> str:
        return self._engine.docker(*self._options, *command, timeout_s=timeout_s, **self._environ)

    def put(self, key: str, value: Any, *, namespace: str = "my-app") -> None:
        """Write a value as a person would."""
        etcdctl = ("exec", "--no-TTY", "etcd", "/usr/local/bin/etcdctl")
        self(*etcdctl, "put", f"/config/{namespace}/development/{key}", json.dumps({"value": value}))

    def wait_for(self, service: str, line: str, timeout_s: float = 60) -> None:
        """Until a container has printed a line."""
        deadline = time.monotonic() + timeout_s
        # Compose erases the line before each, also where nobody looks at a terminal.
        while line not in (said := self("logs", "--no-log-prefix", service).replace("\x1b[2K", "")).splitlines():
            assert time.monotonic() < deadline, f"{line!r} is not in\n{said}\n{self('logs')}"
            time.sleep(0.2)

    def stop(self) -> dict[str, int]:
        """Stop it as an operator does; the exit code of each service."""
        began = time.monotonic()
        self("stop")
        assert time.monotonic() - began < STOP_S
        lines = self("ps", "--all", "--format", "json").splitlines()
        return {one["Service"]: one["ExitCode"] for one in map(json.loads, lines)}


@contextmanager
def project(engine: Engine, *files: Path, **environ: str) -> Iterator[Project]:
    made = Project(engine, *files, **environ)
    try:
        yield made
    finally:
        made("down", "--volumes", "--timeout", "1")


@pytest.fixture(scope="session")
def images(build: Build, engine: Engine, service_image: str) -> dict[str, str]:
    """The images that the files name, as these tests built them."""
    return {"service": service_image, "app": build("app", "compose/app/Dockerfile")}


def images_of(folder: Path, **images: str) -> Path:
    """A second file, which puts the tests' images in place of what would be built or pulled."""
    file = folder / "images.json"
    file.write_text(json.dumps({"services": {name.replace("_", "-"): {"image": tag} for name, tag in images.items()}}))
    return file


def test_local_an_application_reads_and_sees_a_change(
    engine: Engine, build: Build, images: dict[str, str], etcd_image: str, tmp_path: Path
) -> None:
    override = images_of(tmp_path, config_service=images["service"], example_app=images["app"], etcd=etcd_image)
    # Built as the file says; the layers are there already.
    base = tmp_path / "base.json"
    on = {"build": {"additional_contexts": build.substitutes, "labels": {LABEL: "1"}}}
    base.write_text(json.dumps({"services": {"config-service": on, "example-app": on}}))
    with project(engine, COMPOSE / "local.yml", override, base, COMPOSE_PROFILES="example") as local:
        with locked("build"):
            local("build")
        local("up", "--detach", "--wait", "--no-build")
        local.wait_for("example-app", "greeting is not set")
        local.put("greeting", "hello")
        local.wait_for("example-app", "greeting: MISSING -> hello")
        for service in ("config-service", "etcd"):
            port = {"config-service": "8080", "etcd": "2379"}[service]
            assert local("port", service, port).startswith("127.0.0.1:")
        codes = local.stop()
        assert (codes["config-service"], codes["example-app"]) == (0, 0)
        # Values outlive a restart of everything.
        local("up", "--detach", "--wait", "--no-build")
        local.wait_for("example-app", "greeting is hello")


def test_the_compose_file_of_the_specification(
    engine: Engine, images: dict[str, str], old_etcd_image: str, tmp_path: Path
) -> None:
    (tmp_path / "docker-compose.yml").write_text(SPECIFIED)
    override = images_of(tmp_path, config_service=images["service"], my_app=images["app"], etcd=old_etcd_image)
    with project(engine, tmp_path / "docker-compose.yml", override) as specified:
        specified("up", "--detach", "--no-build")
        specified.wait_for("my-app", "debug is False")
        specified.put("greeting", "hello")
        specified.wait_for("my-app", "greeting: MISSING -> hello")
        assert specified.stop()["config-service"] == 0


def test_getting_started_a_compose_file_of_your_own_includes_ours(
    engine: Engine, images: dict[str, str], etcd_image: str, tmp_path: Path
) -> None:
    """The specification's four steps, but that the file is included: a second `services:` cannot be appended."""
    override = images_of(tmp_path, config_service=images["service"], etcd=etcd_image)
    own = tmp_path / "compose.yml"
    own.write_text(INCLUDING.format(local=COMPOSE / "local.yml", override=override, app=images["app"]))
    (tmp_path / ".env").write_text("SERVICE_NAME=another-app\n")
    with project(engine, own) as started:
        assert sorted(json.loads(started("config", "--format", "json"))["services"]) == [
            "config-service",
            "etcd",
            "my-app",
        ]
        started("up", "--detach", "--wait", "--no-build")
        program = "from config_service import ConfigClient; print(ConfigClient().get('debug', default=False))"
        assert started("exec", "--no-TTY", "my-app", "python", "-c", program) == "False"
        started.put("greeting", "hello", namespace="another-app")
        started.wait_for("my-app", "greeting: MISSING -> hello")


def test_production_runs_locked_down_on_an_etcd_of_others(
    engine: Engine, images: dict[str, str], etcd_image: str, tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    urls = ["--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://etcd:2379"]
    others = tmp_path / "others.json"
    others.write_text(
        json.dumps({"services": {"etcd": {"image": etcd_image, "command": ["/usr/local/bin/etcd", *urls]}}})
    )
    given = PRODUCTION | {"CONFIGSVC_IMAGE": images["service"], "ETCD_ENDPOINTS": "http://etcd:2379"}
    with project(
        engine, COMPOSE / "production.yml", others, CONFIG_SECRETS=str(tmp_path / "secrets"), **given
    ) as production:
        production("up", "--detach", "--wait", "config-service", "etcd")
        look = "import pathlib, tempfile; pathlib.Path('/var/cache/configsvc/x').touch(); tempfile.gettempdir()"
        with pytest.raises(Failed, match="No usable temporary directory"):
            production("exec", "--no-TTY", "config-service", "python", "-c", look)
        assert production.stop()["config-service"] == 0


def test_the_image_by_itself_as_the_page_has_it(
    engine: Engine, images: dict[str, str], etcd_image: str, tmp_path: Path
) -> None:
    """But for the names of image and project and the port, which are the test's own."""
    (block,) = [text for text in fenced(HOWTO / "docker.md", "sh") if "docker run" in text]
    command = shlex.split(block[block.index("docker run") :].replace("\\\n", " "))
    override = images_of(tmp_path, config_service=images["service"], etcd=etcd_image)
    with project(engine, COMPOSE / "local.yml", override) as local:
        local("up", "--detach", "--wait", "--no-build", "etcd")
        own = {"configsvc-local_default": f"{local.name}_default", "127.0.0.1:8080:8080": "127.0.0.1::8080"}
        assert command[-1] == "configsvc"
        assert own.keys() < set(command)
        options = [own.get(part, part) for part in command[2:-1]]
        container = engine.docker("run", "--detach", *options, images["service"])
        try:
            deadline = time.monotonic() + 60
            probe = ("exec", container, "python", "-m", "configsvc.probe", "ready")
            while engine.try_docker(*probe).returncode:
                assert time.monotonic() < deadline, engine.try_docker("logs", container)
                time.sleep(0.2)
            assert engine.docker("port", container, "8080/tcp").startswith("127.0.0.1:")
        finally:
            engine.docker("rm", "--force", container)


def test_a_folder_with_secrets_that_is_not_there_is_an_error(
    engine: Engine, images: dict[str, str], tmp_path: Path
) -> None:
    given = PRODUCTION | {"CONFIGSVC_IMAGE": images["service"], "CONFIG_SECRETS": str(tmp_path / "secrets")}
    with project(engine, COMPOSE / "production.yml", **given) as production:
        with pytest.raises(Failed, match="secrets"):
            production("up", "--detach")
        assert not (tmp_path / "secrets").exists()


def check(name: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """What compose says of a file as it is; no engine is asked."""
    command = ["docker", "compose", "--file", COMPOSE / name, "--profile", "*", "config", "--quiet"]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "environ"), [("local.yml", {}), ("production.yml", PRODUCTION)])
def test_the_files_are_valid(compose: None, name: str, environ: dict[str, str]) -> None:
    checked = check(name, **environ)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_command_in_its_head_starts_production(compose: None, tmp_path: Path) -> None:
    """All variables that it needs are in it, by names that the file has."""
    head = [
        line.removeprefix("#   ")
        for line in (COMPOSE / "production.yml").read_text().splitlines()
        if line[:4] == "#   "
    ]
    *exports, start = head
    assert all(line.startswith("export ") for line in exports)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CONFIG", "ETCD_", "SERVICE_"))}
    script = "\n".join([*exports, start.replace("up --detach --wait", "config --format json")])
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    service = json.loads(done.stdout)["services"]["config-service"]
    assert not [name for name, value in service["environment"].items() if not value]


def test_a_file_of_your_own_includes_ours_with_an_override(compose: None, tmp_path: Path) -> None:
    """As the page has it; the project is then the including file's."""
    shown = fenced(HOWTO / "docker.md", "yaml")
    (include,) = [text for text in shown if "configsvc.override.yml]" in text]
    (override,) = [text for text in shown if text.startswith("# configsvc.override.yml")]
    (tmp_path / "compose.yml").write_text(
        include.replace("../configsvc/compose", str(COMPOSE)) + "services:\n  my-app:\n    image: my-app\n"
    )
    (tmp_path / "configsvc.override.yml").write_text(override)
    command = ["docker", "compose", "--project-directory", tmp_path, "config", "--format", "json"]
    environ = os.environ | {"CONFIG_ENVIRONMENT": "staging"}
    made = json.loads(subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, check=True).stdout)
    assert made["name"] not in ("configsvc-local", "configsvc-production")
    assert made["services"].keys() == {"config-service", "etcd", "my-app"}
    given = made["services"]["config-service"]["environment"]
    assert (given["CONFIGSVC_HEARTBEAT_S"], given["CONFIG_ENVIRONMENT"]) == ("1", "staging")


@pytest.mark.parametrize("missing", PRODUCTION)
def test_production_names_what_is_missing(compose: None, missing: str) -> None:
    refused = check("production.yml", **{**PRODUCTION, missing: ""})
    assert refused.returncode != 0
    assert missing in refused.stderr
