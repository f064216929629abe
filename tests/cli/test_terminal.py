"""The same commands on a terminal: tables for people, everything in them."""

import re

from tests.cli.commands import CONFIGSVC, at_terminal
from tests.support.process import Hand, ServiceProcess

ENDPOINTS = ",".join(f"http://etcd-{n}.databases.example:2379" for n in range(1, 6))


def on_terminal(*command, cwd, **settings):
    """Exit code and text of a command whose stdout is a terminal, 80 columns wide."""
    code, seen = at_terminal(*command, cwd=cwd, errors=False, **settings)
    return code, re.sub(r"\x1b\[[0-9;]*m", "", seen).replace("\r\n", "\n")


def test_settings_are_a_table(tmp_path):
    code, text = on_terminal(*CONFIGSVC, "settings", cwd=tmp_path, SERVICE_NAME="payments", ETCD_ENDPOINTS=ENDPOINTS)
    assert code == 0
    assert re.search(r"^setting +value +from", text.lstrip(), re.MULTILINE)
    assert re.search(r"^CONFIGSVC_HEARTBEAT_S +5 s +default", text, re.MULTILINE)
    assert all(len(line) <= 80 for line in text.splitlines())
    # Folded, not cut.
    assert "etcd-5" in re.sub(r"\s", "", text)


def test_values_are_a_table(any_etcd, tmp_path):
    hand = Hand(any_etcd)
    hand.write({"limit": 10, "long": "x" * 200, "bell": "\a\x9b"})
    scope = {"SERVICE_NAME": hand.scope.namespace, "CONFIG_ENVIRONMENT": hand.scope.environment}
    with ServiceProcess(tmp_path / "service", ETCD_ENDPOINTS=any_etcd.url, **scope) as process:
        process.start()
        code, text = on_terminal(*CONFIGSVC, "get", "--url", process.url, cwd=tmp_path)
        assert code == 0
        assert re.search(r"^key +value", text.lstrip(), re.MULTILINE)
        assert re.search(r"^limit +10 *$", text, re.MULTILINE)
        assert text.count("x") == 200
        assert "\\u0007\\u009b" in text


def test_findings_are_grouped_and_counted(any_etcd, tmp_path):
    settings = {"SERVICE_NAME": "payments", "ETCD_ENDPOINTS": f"{any_etcd.url},http://127.0.0.1:1"}
    code, text = on_terminal(*CONFIGSVC, "check", cwd=tmp_path, **settings, CONFIGSVC_LISTEN="127.0.0.1:0")
    assert code == 0
    assert text.count(f"\n{any_etcd.url}\n") + text.startswith(any_etcd.url) == 1
    assert re.search(r"^  warning  cannot connect: connection refused", text, re.MULTILINE)
    assert re.search(r"^           -> start etcd there", text, re.MULTILINE)
    assert re.search(r"^\d+ ok, \d+ warning", text.splitlines()[-1])
