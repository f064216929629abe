"""The guide for application developers is run as it stands, and the frameworks' page shows the examples as they are."""

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from configsvc_client.testing import ConfigServer
from tests.docs.pages import HOWTO, ROOT, fenced

FRAMEWORKS = HOWTO / "frameworks.md"


def test_the_guide_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"greeting": "hi", "database.pool_size": 20, "database.host": "db", "debug": "yes"}
    with ConfigServer(values) as server:
        monkeypatch.setenv("CONFIGSVC_URL", server.url)
        names: dict[str, object] = {}
        try:
            for code in fenced(HOWTO / "client-guide.md", "python"):
                exec(code, names)
        finally:
            for collector in list(REGISTRY._collector_to_names):
                if type(collector).__module__ == "configsvc_client.prometheus":
                    REGISTRY.unregister(collector)
    assert names["greeting"] == "hi"
    assert names["pool_size"] == 20
    assert names["timeout_s"] == 2.0
    assert names["debug"] is False
    assert names["fresh"] is True
    assert repr(names["database"]) == "Database(host='db', pool_size=20)"


def test_the_frameworks_page_shows_the_examples() -> None:
    shown = dict(
        re.findall(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", FRAMEWORKS.read_text(), re.DOTALL | re.MULTILINE)
    )
    assert shown == {name: (ROOT / name).read_text() for name in shown}
    apps = {path.relative_to(ROOT).as_posix() for path in Path(ROOT / "examples").glob("*.py")}
    assert apps <= set(shown)
