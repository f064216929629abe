"""`configsvc settings` as a process: values, origins, and nothing that is secret."""

import json
import os

import pytest

from configsvc.settings import TABLE
from tests.cli.commands import CONFIGSVC, run

SETTINGS = (*CONFIGSVC, "settings")


def rows(done):
    assert done.returncode == 0, done.stderr
    return {row["variable"]: row for row in json.loads(done.stdout)}


def test_every_setting_with_its_origin(tmp_path):
    (tmp_path / "config-service.yaml").write_text("service_name: payments\nstream:\n  max: 7\n")
    found = rows(run(*SETTINGS, "--json", cwd=tmp_path, CONFIGSVC_HEARTBEAT_S="2.5", CONFIGSVC_DRAIN_S="10"))
    assert list(found) == [setting.env for setting in TABLE]
    name = found["SERVICE_NAME"]
    assert (name["value"], name["origin"], name["where"]) == ("payments", "file", "config-service.yaml:1: service_name")
    heartbeat = found["CONFIGSVC_HEARTBEAT_S"]
    assert (heartbeat["value"], heartbeat["unit"], heartbeat["origin"]) == (2.5, "s", "environment")
    assert found["CONFIGSVC_MAX_STREAMS"]["where"] == "config-service.yaml:3: stream.max"
    # Set to what is the default anyway: still set.
    assert found["CONFIGSVC_DRAIN_S"]["default"] is False
    assert found["CONFIGSVC_LISTEN"] | {"description": ""} == {
        "variable": "CONFIGSVC_LISTEN",
        "key": "listen",
        "value": "127.0.0.1:8080",
        "unit": "",
        "default": True,
        "origin": "default",
        "where": None,
        "problem": None,
        "description": "",
    }
    assert found["CONFIGSVC_MODE"]["value"] == "sidecar", "the effective value, where a rule decides"
    assert found["CONFIG_ENVIRONMENT"]["value"] is None


def test_a_central_service_has_an_environment_for_its_clients(tmp_path):
    found = rows(run(*SETTINGS, "--json", cwd=tmp_path, CONFIGSVC_MODE="central", CONFIG_ENVIRONMENT="production"))
    assert found["CONFIG_ENVIRONMENT"]["value"] == "production"


def test_in_a_pipe_a_line_for_each(tmp_path):
    done = run(*SETTINGS, cwd=tmp_path, SERVICE_NAME="payments", ETCD_ENDPOINTS="a,b:1")
    assert done.returncode == 0
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [setting.env for setting in TABLE]
    assert ["SERVICE_NAME", "payments", "", "environment"] in lines
    assert ["ETCD_ENDPOINTS", "http://a:2379,http://b:1", "", "environment"] in lines
    assert ["CONFIGSVC_DRAIN_S", "10", "s", "default"] in lines
    assert ["CONFIGSVC_CACHE_DIR", "(not set)", "", "default"] in lines


@pytest.mark.parametrize("name", ["heartbeat_s", "CONFIGSVC_HEARTBEAT_S", "configsvc_heartbeat_s"])
def test_one_is_explained(name, tmp_path):
    done = run(*SETTINGS, name, cwd=tmp_path, SERVICE_NAME="payments")
    assert done.stdout.startswith("CONFIGSVC_HEARTBEAT_S = 5 s\nfrom: default\nin the file: heartbeat_s\n\nHow often ")
    one = json.loads(run(*SETTINGS, name, "--json", cwd=tmp_path, SERVICE_NAME="payments").stdout)
    assert one["value"] == 5.0


def test_an_unknown_name_is_exit_2_with_a_near_one(tmp_path):
    done = run(*SETTINGS, "hartbeat_s", cwd=tmp_path, SERVICE_NAME="payments")
    assert done.returncode == 2
    assert done.stderr == "configsvc: no such setting: hartbeat_s; did you mean heartbeat_s?\n"


def test_secrets_are_not_shown(tmp_path):
    (tmp_path / "password").write_text("hunter2")
    done = run(
        *SETTINGS,
        cwd=tmp_path,
        SERVICE_NAME="payments",
        ETCD_USER="payments",
        ETCD_PASSWORD_FILE="password",
        ETCD_PASSWORD="hunter2",
        CONFIGSVC_HEARTBEAT="3",
    )
    assert done.returncode == 0
    assert "ETCD_PASSWORD_FILE\tpassword\t" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        "configsvc: warning: CONFIGSVC_HEARTBEAT: no such setting; did you mean CONFIGSVC_HEARTBEAT_S?",
        "configsvc: warning: ETCD_PASSWORD: no such setting; did you mean ETCD_PASSWORD_FILE?",
    ]


def test_wrong_settings_are_those_of_serve(tmp_path):
    wrong = {"ETCD_ENDPOINTS": "http://u:hunter2@etcd:2379", "CONFIGSVC_DRAIN_S": "soon"}
    done = run(*SETTINGS, cwd=tmp_path, **wrong)
    assert done.returncode == 78
    assert done.stderr == run(*CONFIGSVC, "serve", cwd=tmp_path, **wrong).stderr
    assert len(done.stderr.splitlines()) == 3
    assert "hunter2" not in done.stdout + done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [setting.env for setting in TABLE]
    assert ["CONFIGSVC_DRAIN_S", "(wrong)", "s", "environment"] in lines
    assert ["CONFIGSVC_HEARTBEAT_S", "5", "s", "default"] in lines
    done = run(*SETTINGS, "--json", cwd=tmp_path, **wrong)
    row = {row["variable"]: row for row in json.loads(done.stdout)}["CONFIGSVC_DRAIN_S"]
    assert (done.returncode, row["value"], row["origin"]) == (78, None, "environment")
    assert row["problem"].startswith("CONFIGSVC_DRAIN_S: 'soon' is not a number of seconds from 0 to 3600")


def test_one_is_explained_whatever_is_wrong_with_others(tmp_path):
    done = run(*SETTINGS, "heartbeat_s", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CONFIGSVC_HEARTBEAT_S = 5 s\n")
    done = run(*SETTINGS, "drain_s", cwd=tmp_path, CONFIGSVC_DRAIN_S="soon")
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout.startswith("CONFIGSVC_DRAIN_S = (wrong) s\nfrom: environment\n")
    done = run(*SETTINGS, "hartbeat_s", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("name", "environ", "says"),
    [
        ("etcd_cert", {"ETCD_CERT": "/nope", "ETCD_KEY": "/nope"}, "ETCD_CERT: /nope: No such file or directory"),
        ("listen", {"CONFIGSVC_LISTEN": "0.0.0.0:1"}, "CONFIGSVC_LISTEN: 0.0.0.0 may be reached from other machines"),
        ("etcd_user", {"ETCD_USER": "u"}, "ETCD_USER: needs ETCD_PASSWORD_FILE as well"),
        ("etcd_endpoints", {"ETCD_CACERT": os.devnull, "ETCD_ENDPOINTS": "http://a"}, "ETCD_CACERT: certificates are "),
        ("service_name", {"SERVICE_NAME": None}, "SERVICE_NAME: is not set"),
        ("mode", {"CONFIGSVC_MODE": "central"}, "SERVICE_NAME: a central service serves every namespace"),
        ("service_name", {"CONFIGSVC_MODE": "central"}, "SERVICE_NAME: a central service serves every namespace"),
    ],
)
def test_one_is_wrong_by_its_file_or_beside_others(name, environ, says, tmp_path):
    environ = {"SERVICE_NAME": "x", **environ}
    environ = {variable: value for variable, value in environ.items() if value is not None}
    done = run(*SETTINGS, name, "--json", cwd=tmp_path, **environ)
    assert done.returncode == 78
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"configsvc: {says}")
    row = json.loads(done.stdout)
    assert (row["value"], f"configsvc: {row['problem']}") == (None, line)


@pytest.mark.parametrize(
    ("file", "environ", "says"),
    [
        ("nope", {}, "nope: No such file or directory"),
        (None, {"CONFIGSVC_CONFIG_FILE": "nope"}, "CONFIGSVC_CONFIG_FILE: nope: No such file or directory"),
        (None, {"CONFIGSVC_CONFIG_FILE": ""}, "CONFIGSVC_CONFIG_FILE: is set but empty"),
        ("no.yaml", {}, "no.yaml:1:5: not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_may_name_the_one_that_is_asked_for(file, environ, says, tmp_path):
    (tmp_path / "no.yaml").write_text("a: b: c")
    option = ["--config", file] if file else []
    done = run(*SETTINGS, "heartbeat_s", *option, cwd=tmp_path, SERVICE_NAME="x", **environ)
    assert done.returncode == 78
    assert done.stderr.startswith(f"configsvc: {says}")
    assert len(done.stderr.splitlines()) == 1


def test_the_variable_of_the_file_is_no_setting(tmp_path):
    done = run(*SETTINGS, "CONFIGSVC_CONFIG_FILE", cwd=tmp_path)
    assert done.returncode == 2
    says = "configsvc: CONFIGSVC_CONFIG_FILE is no setting, but names their file: "
    assert done.stderr == says + "'config-service.yaml', which is not there\n"
    (tmp_path / "a.yaml").touch()
    done = run(*SETTINGS, "configsvc_config_file", cwd=tmp_path, CONFIGSVC_CONFIG_FILE="a.yaml")
    assert done.stderr == says + "'a.yaml'\n"


def test_a_misspelt_variable_is_told_beside_what_is_missing_because_of_it(tmp_path):
    done = run(*CONFIGSVC, "serve", cwd=tmp_path, CONFIGSVC_SERVICE_NAME="payments")
    assert done.returncode == 78
    first, second = done.stderr.splitlines()
    assert first == "configsvc: warning: CONFIGSVC_SERVICE_NAME: no such setting; did you mean SERVICE_NAME?"
    assert second.startswith("configsvc: SERVICE_NAME: is not set; ")


def test_the_file_of_the_option(tmp_path):
    (tmp_path / "other.yaml").write_text("service_name: orders\n")
    found = rows(run(*SETTINGS, "--json", "--config", "other.yaml", cwd=tmp_path))
    assert found["SERVICE_NAME"]["where"] == "other.yaml:1: service_name"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe of Unix")
@pytest.mark.parametrize("command", ["settings", "serve"])
def test_a_file_that_is_a_pipe_is_refused_and_not_waited_for(command, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    done = run(*CONFIGSVC, command, "--config", "pipe.yaml", cwd=tmp_path, SERVICE_NAME="demo")
    assert done.returncode == 78
    assert "pipe.yaml: not a regular file" in done.stderr
    done = run(*CONFIGSVC, "settings", "--config", os.devnull, cwd=tmp_path, SERVICE_NAME="demo")
    assert done.returncode == 0
