"""The guide for application developers is run as it stands, and the frameworks' page shows the examples as they are."""

import re
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from configsvc_client.testing import ConfigServer
from tests.cli.commands import run
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


def test_the_reference_page_of_testing_is_a_test_that_passes(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "client.md").read_text("utf-8")
    section = page.partition("\n## Testing\n")[2].partition("\n## ")[0]
    use = """
def test_the_application(server, monkeypatch):
    monkeypatch.setenv("CONFIGSVC_CACHE_DIR", "off")
    with ConfigClient() as config:
        assert page_size(config) == 50
"""
    code = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "test_page.py").write_text("\n".join([*code, use]))
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    done = run(*pytest_run, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_frameworks_page_shows_the_examples() -> None:
    shown = dict(
        re.findall(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", FRAMEWORKS.read_text(), re.DOTALL | re.MULTILINE)
    )
    assert shown == {name: (ROOT / name).read_text() for name in shown}
    apps = {path.relative_to(ROOT).as_posix() for path in Path(ROOT / "examples").glob("*.py")}
    assert apps <= set(shown)
    assert {f"examples/django_site/shop/{name}.py" for name in ("live", "apps", "views")} <= set(shown)
