"""The page about scripts is run as it stands, against a service."""

import json
import re
import subprocess
import uuid
from pathlib import Path

import pytest

import configsvc_client
from configsvc.etcd.local import LocalEtcd
from configsvc_client import backup_file
from configsvc_client.admin import AdminClient, AdminError
from tests.cli.commands import CONFIGSVC, environ, run
from tests.docs.pages import HOWTO, fenced
from tests.support.process import ServiceProcess

PAGE = HOWTO / "manage-from-scripts.md"


@pytest.fixture
def url(any_etcd: LocalEtcd, tmp_path: Path):
    with ServiceProcess(tmp_path / "service", CONFIGSVC_MODE="central", ETCD_ENDPOINTS=any_etcd.url) as process:
        process.start()
        yield process.url


def test_the_python_of_the_page(url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONFIGSVC_URL", url)
    Path("values.yaml").write_text("pool: 20\n")
    namespace = f"ns-{uuid.uuid4().hex[:12]}"
    first, second = (code.replace("payments", namespace) for code in fenced(PAGE, "python"))
    names: dict[str, object] = {}
    exec(first, names)
    assert capsys.readouterr().out.splitlines()[0] == "set pool MISSING 20"
    admin = AdminClient(namespace=namespace, environment="staging")
    assert admin.release("v42").reason == "larger pool"
    admin.change({"pool": 30})
    Path("values.yaml").write_text("pool: 40\n")
    names["text"] = "pool: 40\n"
    with pytest.raises(AdminError):
        exec(second.replace("v42", "v43"), names)
    assert "pool was set by anonymous" in capsys.readouterr().out


def test_every_call_of_the_page_exists():
    table = PAGE.read_text("utf-8").partition("| to | call |")[2].partition("\n\n")[0]
    calls = {word.partition("(")[0] for word in table.split("`") if "(" in word and word.endswith(")")}
    assert len(calls) > 20
    assert [one for one in calls if not callable(getattr(AdminClient, one, None))] == []


def test_every_code_that_the_client_makes_is_explained():
    sources = "".join(one.read_text("utf-8") for one in Path(configsvc_client.__file__).parent.glob("admin*.py"))
    sources += Path(backup_file.__file__).read_text("utf-8")
    # That of a HEAD, whose answer has no body, reaches nobody.
    codes = set(re.findall(r'AdminError\(\s*"(\w+)"', sources)) - {"refused"}
    assert len(codes) > 4
    listed = (PAGE.parent.parent / "reference" / "errors.md").read_text("utf-8").partition("<!-- end -->")[2]
    assert [one for one in codes if f"| `{one}` |" not in listed] == []


def test_the_pipeline_of_the_page(url, tmp_path):
    settings = {"CONFIGSVC_URL": url, "SERVICE_NAME": f"ns-{uuid.uuid4().hex[:12]}", "CONFIG_ENVIRONMENT": "production"}
    (tmp_path / "values.yaml").write_text("pool: 20\n")
    (lines,) = fenced(PAGE, "sh")
    digest = 'digest=$(python -c \'import json; print(json.load(open("plan.json"))["digest"])\')'
    script = lines.replace("$(jq -r .digest plan.json)", "$digest").replace(
        "\nconfigsvc deploy", f"\n{digest}\nconfigsvc deploy"
    )
    script = script.replace("python", CONFIGSVC[0]).replace("configsvc ", f"{' '.join(CONFIGSVC)} ")
    env = environ(**settings, TAG="v1")
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is at release 1 (v1)" in done.stdout
    assert json.loads(run(*CONFIGSVC, "get", "pool", "--json", cwd=tmp_path, **settings).stdout)["value"] == 20
