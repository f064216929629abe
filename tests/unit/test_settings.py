"""The service's settings: where each comes from, what is refused and with which words, and all of it at once."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc import settings as settings_module
from configsvc.settings import TABLE, Settings, SettingsError, load, parse
from configsvc.settings_values import Address

SIDECAR = {"SERVICE_NAME": "payments"}


def problems(environ: dict[str, str], text: str | None = None, **more: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(environ, text, **more)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def test_a_sidecar_by_name_alone() -> None:
    settings = parse(SIDECAR)
    assert (settings.mode, settings.service_name, settings.auth) == ("sidecar", "payments", "none")
    assert (settings.environment, settings.default_environment) == (None, "development")
    assert settings.etcd_endpoints == ("http://127.0.0.1:2379",)
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.heartbeat_s == 5.0
    assert not settings.writes
    assert settings.warnings == ()


def test_a_central_service_has_to_be_said() -> None:
    settings = parse({"CONFIGSVC_MODE": "central", "CONFIG_ENVIRONMENT": "staging"})
    assert (settings.mode, settings.service_name, settings.writes) == ("central", None, True)
    assert (settings.environment, settings.default_environment) == (None, "staging")
    assert not parse({"CONFIGSVC_MODE": "central", "CONFIGSVC_WRITES": "no"}).writes
    for environ in ({}, {"CONFIGSVC_MODE": "sidecar"}):
        [problem] = problems(environ)
        assert "SERVICE_NAME" in problem
        assert "CONFIGSVC_MODE=central" in problem
    [problem] = problems({"SERVICE_NAME": "a", "CONFIGSVC_MODE": "central"})
    assert problem.startswith("SERVICE_NAME: ")


def test_a_sidecar_may_follow_one_environment_and_write() -> None:
    settings = parse({**SIDECAR, "CONFIG_ENVIRONMENT": "prod", "CONFIGSVC_WRITES": "true"})
    assert (settings.environment, settings.default_environment, settings.writes) == ("prod", "prod", True)


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.env)
@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_a_variable_that_is_set_but_empty_is_refused(setting: settings_module.Setting, empty: str) -> None:
    found = problems({**SIDECAR, setting.env: empty})
    assert f"{setting.env}: is set but empty; give it a value or do not set it" in found


def test_the_files_variable_may_not_be_empty_either() -> None:
    assert "CONFIGSVC_CONFIG_FILE: is set but empty; give it a value or do not set it" in problems(
        {**SIDECAR, "CONFIGSVC_CONFIG_FILE": ""}
    )


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        {
            "SERVICE_NAME": "no/name",
            "CONFIGSVC_LISTEN": ":8080",
            "CONFIGSVC_HEARTBEAT_S": "soon",
            "ETCD_USER": "me",
            "ETCD_CERT": "/cert.pem",
            "ETCD_ENDPOINTS": "http://etcd:2379",
            "CONFIGSVC_LOG_LEVEL": "loud",
        },
        "hartbeat_s: 5\nstream:\n  max: many\n",
    )
    starts = {problem.split(" ")[0] for problem in found}
    assert starts == {
        "SERVICE_NAME:",
        "CONFIGSVC_LISTEN:",
        "CONFIGSVC_HEARTBEAT_S:",
        "ETCD_USER:",
        "ETCD_CERT:",
        "CONFIGSVC_LOG_LEVEL:",
        "config-service.yaml:1:1:",
        "config-service.yaml:3:",
    }
    assert len(found) == 9
    assert any("did you mean heartbeat_s?" in problem for problem in found)
    assert any("such as 0.0.0.0:8080" in problem for problem in found)


def test_the_environment_wins_over_the_file() -> None:
    text = "service_name: from-file\nheartbeat_s: 2\netcd:\n  endpoints: [http://a:1, b]\n"
    settings = parse({}, text)
    assert (settings.service_name, settings.heartbeat_s) == ("from-file", 2.0)
    assert settings.etcd_endpoints == ("http://a:1", "http://b:2379")
    settings = parse({"SERVICE_NAME": "from-environment"}, text)
    assert (settings.service_name, settings.heartbeat_s) == ("from-environment", 2.0)
    # A wrong value of the file does not count where the environment says otherwise.
    assert parse({**SIDECAR, "CONFIGSVC_HEARTBEAT_S": "3"}, "heartbeat_s: x").heartbeat_s == 3.0


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("service_name: a\nservice_name: b", "f.yaml:2:1: service_name is there twice, first in line 1"),
        ("service_nam: a", "f.yaml:1:1: unknown word service_nam; did you mean service_name?"),
        ("a: 1\nzzzzzz: 1", "f.yaml:2:1: unknown word zzzzzz"),
        ("etcd:\n  endpoint: x", "f.yaml:2:3: unknown word etcd.endpoint; did you mean etcd.endpoints?"),
        ("etcd: x", "f.yaml:1:7: etcd is a section with the words: "),
        ("heartbeat_s: {a: 1}", "f.yaml:1:14: heartbeat_s is a single value, not a mapping"),
        ("heartbeat_s:", "f.yaml:1: heartbeat_s: is set but empty"),
        ("- a", "f.yaml:1:1: a mapping of settings is expected"),
        ("a: [", "f.yaml:1:"),
        ("a:\n\tb: 1", "f.yaml:2:1: not valid YAML"),
        ("a: \0", "f.yaml: not valid YAML"),
        ("[" * 5000, "f.yaml: not valid YAML"),
        ("? [a]\n: b", "f.yaml:1:3: a word is expected"),
        ("a: \x00", "f.yaml:"),
        ("listen: nowhere", "f.yaml:1: listen: 'nowhere' is not HOST:PORT"),
    ],
)
def test_problems_of_the_file_name_the_line(text: str, start: str) -> None:
    found = problems(SIDECAR, text, file_name="f.yaml")
    assert any(problem.startswith(start) for problem in found), found


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null"])
def test_an_empty_file_is_none(text: str) -> None:
    assert parse(SIDECAR, text) == parse(SIDECAR)


@pytest.mark.parametrize(
    ("listen", "shown", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080", True),
        ("127.9.9.9:0", "127.9.9.9:0", True),
        ("localhost:1", "localhost:1", True),
        ("[::1]:8080", "[::1]:8080", True),
        ("0.0.0.0:8080", "0.0.0.0:8080", False),
        ("[::]:8080", "[::]:8080", False),
        ("host.example:80", "host.example:80", False),
    ],
)
def test_beyond_loopback_authentication_has_to_be_said(listen: str, shown: str, loopback: bool) -> None:
    environ = {**SIDECAR, "CONFIGSVC_LISTEN": listen}
    if loopback:
        assert str(parse(environ).listen) == shown
    else:
        [problem] = problems(environ)
        assert problem.startswith("CONFIGSVC_LISTEN: ")
        assert "CONFIG_AUTH" in problem
    settings = parse({**environ, "CONFIG_AUTH": "none", "ETCD_ENDPOINTS": "etcd"})
    assert str(settings.listen) == shown
    assert bool(settings.warnings) != loopback
    assert all("authentication is off" in warning for warning in settings.warnings)


@pytest.mark.parametrize(
    "listen", ["8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "::1:80", "[x]:1", "a b:1", ":"]
)
def test_no_addresses(listen: str) -> None:
    [problem] = problems({**SIDECAR, "CONFIGSVC_LISTEN": listen})
    assert "is not HOST:PORT" in problem


def test_authentication_that_does_not_exist_is_one_problem() -> None:
    found = problems({**SIDECAR, "CONFIG_AUTH": "jwt"})
    assert [problem.split(":")[0] for problem in found] == ["CONFIG_AUTH"]
    assert "none" in found[0]


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("etcd", ("http://etcd:2379",)),
        ("etcd:1,HTTP://b:2/ , etcd:1", ("http://etcd:1", "http://b:2")),
        ("https://a", ("https://a:2379",)),
        ("[::1],[fe80::1]:9", ("http://[::1]:2379", "http://[fe80::1]:9")),
        ("10.0.0.1:2379,http://10.0.0.1:2379", ("http://10.0.0.1:2379",)),
    ],
)
def test_endpoints(text: str, urls: tuple[str, ...]) -> None:
    assert parse({**SIDECAR, "ETCD_ENDPOINTS": text}).etcd_endpoints == urls


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a,,b",
        "a:0",
        "a:x",
        "a:99999",
        "ftp://a",
        "http://",
        "http://a/b",
        "a?b",
        "[a]:1",
        "[::1",
        "::1",
        "a b",
        "3",
        "http://3:1",
        "1.2.3",
        "a.5",
    ],
)
def test_no_endpoints(text: str) -> None:
    [problem] = problems({**SIDECAR, "ETCD_ENDPOINTS": text})
    assert problem.startswith("ETCD_ENDPOINTS: ")


def test_a_password_in_an_endpoint_is_refused_and_not_repeated() -> None:
    [problem] = problems({**SIDECAR, "ETCD_ENDPOINTS": "http://user:hunter2@etcd:2379"})
    assert "hunter2" not in problem
    assert "ETCD_PASSWORD_FILE" in problem


def test_certificates_and_schemes_go_together() -> None:
    cert = {"ETCD_CERT": "/c", "ETCD_KEY": "/k"}
    assert parse({**SIDECAR, **cert, "ETCD_ENDPOINTS": "a"}).etcd_endpoints == ("https://a:2379",)
    [problem] = problems({**SIDECAR, **cert, "ETCD_ENDPOINTS": "http://a"})
    assert "http://a:2379 is not https" in problem
    [problem] = problems({**SIDECAR, "ETCD_KEY": "/k"})
    assert problem == "ETCD_KEY: needs ETCD_CERT as well"


def test_certificates_without_endpoints_mean_https_at_the_default() -> None:
    assert parse({**SIDECAR, "ETCD_CACERT": "/c"}).etcd_endpoints == ("https://127.0.0.1:2379",)


def test_misspelt_variables_are_warnings_with_a_near_name() -> None:
    settings = parse({**SIDECAR, "CONFIGSVC_HEARTBEAT": "3", "ETCD_ENDPOINT": "x", "ETCD_DATA_DIR": "/x"})
    assert settings.warnings == (
        "CONFIGSVC_HEARTBEAT: no such setting; did you mean CONFIGSVC_HEARTBEAT_S?",
        "ETCD_ENDPOINT: no such setting; did you mean ETCD_ENDPOINTS?",
    )


def test_variables_of_kubernetes_and_of_the_client_are_no_reason_to_warn() -> None:
    environ = {
        "CONFIGSVC_PORT": "tcp://10.0.0.1:8080",
        "CONFIGSVC_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "CONFIGSVC_PORT_8080_TCP_ADDR": "10.0.0.1",
        "CONFIGSVC_SERVICE_HOST": "10.0.0.1",
        "CONFIGSVC_SERVICE_PORT": "8080",
        "CONFIGSVC_SERVICE_PORT_HTTP": "8080",
        "CONFIGSVC_URL": "http://x",
    }
    assert parse({**SIDECAR, **environ}).warnings == ()
    assert parse({**SIDECAR, **environ}).listen.port == 8080
    assert len(parse({**SIDECAR, "CONFIGSVC_PORT": "8080"}).warnings) == 1


def test_endpoints_of_both_schemes_are_a_warning() -> None:
    for endpoints, warned in (("https://a,http://b", True), ("a,http://b", False), ("https://a,https://b", False)):
        warnings = parse({**SIDECAR, "ETCD_ENDPOINTS": endpoints}).warnings
        assert any("some are https and some http" in line for line in warnings) is warned, endpoints


def test_in_a_container_an_etcd_that_is_not_named_is_a_warning() -> None:
    container = {**SIDECAR, "CONFIGSVC_LISTEN": "0.0.0.0:8080", "CONFIG_AUTH": "none"}
    assert any(line.startswith("ETCD_ENDPOINTS: is not set") for line in parse(container).warnings)
    assert not any("ETCD_" in line for line in parse({**container, "ETCD_ENDPOINTS": "etcd"}).warnings)
    assert not any("ETCD_" in line for line in parse(SIDECAR).warnings)


def test_a_token_file_without_authentication_is_a_warning() -> None:
    [warning] = parse({**SIDECAR, "CONFIG_TOKEN_FILE": "/t"}).warnings
    assert warning.startswith("CONFIG_TOKEN_FILE: is not used")


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e3", "1_0", "٣", "0", "0.01", "3601", ".5", "5s"])
def test_durations_are_plain_numbers_within_bounds(text: str) -> None:
    assert len(problems({**SIDECAR, "CONFIGSVC_HEARTBEAT_S": text})) == 1


@pytest.mark.parametrize(("text", "value"), [("0.05", 0.05), ("3600", 3600.0), (" 7 ", 7.0)])
def test_durations(text: str, value: float) -> None:
    assert parse({**SIDECAR, "CONFIGSVC_HEARTBEAT_S": text}).heartbeat_s == value


@pytest.mark.parametrize(("text", "value"), [("TRUE", True), ("on", True), ("1", True), ("no", False), ("0", False)])
def test_booleans_in_environment_and_file(text: str, value: bool) -> None:
    assert parse({**SIDECAR, "CONFIGSVC_WRITES": text}).writes is value
    assert parse(SIDECAR, f"writes: {text}").writes is value
    assert problems({**SIDECAR, "CONFIGSVC_WRITES": "maybe"})


def test_files_are_read_by_name_or_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(SIDECAR).heartbeat_s == 5.0
    (tmp_path / "config-service.yaml").write_text("heartbeat_s: 1")
    (tmp_path / "variable.yaml").write_text("heartbeat_s: 2")
    (tmp_path / "option.yaml").write_text("heartbeat_s: 3")
    assert load(SIDECAR).heartbeat_s == 1.0
    environ = {**SIDECAR, "CONFIGSVC_CONFIG_FILE": "variable.yaml"}
    assert load(environ).heartbeat_s == 2.0
    assert load(environ, tmp_path / "option.yaml").heartbeat_s == 3.0


def test_files_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"service_name: \xff")
    for environ, path, expected in (
        ({"CONFIGSVC_CONFIG_FILE": "none.yaml"}, None, "CONFIGSVC_CONFIG_FILE: none.yaml: No such file or directory"),
        ({}, Path("none.yaml"), "none.yaml: No such file or directory"),
        ({}, Path("latin.yaml"), "latin.yaml: not UTF-8 (byte 14)"),
        ({"CONFIG_TOKEN_FILE": "token"}, None, "CONFIG_TOKEN_FILE: token: No such file or directory"),
    ):
        with pytest.raises(SettingsError) as caught:
            load({**SIDECAR, **environ}, path)
        assert caught.value.problems == [expected]
        if path or "CONFIGSVC_CONFIG_FILE" in environ:
            # What such a file holds may be just what is missing.
            with pytest.raises(SettingsError) as caught:
                load(environ, path)
            assert caught.value.problems == [expected]
    (tmp_path / "token").write_text("x")
    assert load({**SIDECAR, "CONFIG_TOKEN_FILE": "token"}).token_file == Path("token")


def test_the_table_is_complete() -> None:
    fields = set(Settings.__struct_fields__)
    assert fields - {setting.name for setting in TABLE} == {"default_environment", "origins", "warnings"}
    assert len({setting.env for setting in TABLE}) == len({setting.key for setting in TABLE}) == len(TABLE)
    assert all(setting.doc.endswith(".") for setting in TABLE)


def outcome(environ: dict[str, str], text: str | None = None) -> list[str]:
    """The problems, or none."""
    try:
        parse(environ, text)
    except SettingsError as error:
        return error.problems
    return []


@given(st.dictionaries(st.sampled_from([setting.env for setting in TABLE]), st.text(max_size=20), max_size=5))
def test_whatever_the_environment_says_it_is_settings_or_problems(environ: dict[str, str]) -> None:
    assert all(problem.isprintable() for problem in outcome(environ))


@given(st.text(max_size=60))
def test_whatever_the_file_says_it_is_settings_or_problems(text: str) -> None:
    assert all("\n" not in problem for problem in outcome(SIDECAR, text))
