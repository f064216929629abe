"""What the page on production claims: rules that Prometheus takes, metrics and flags that exist, a backup."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from configsvc import metrics, settings
from configsvc.etcd.local import LocalEtcd, find_binary
from tests.docs.pages import HOWTO, ROOT, blocks, fenced
from tests.support import etcd as support

PAGE = HOWTO / "production.md"
PAGES = sorted(HOWTO.glob("*.md"))
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OUR_METRICS = re.compile(r"\bconfigsvc_(?!client)[a-z_]+\b")
SELECTED = re.compile(r"\b(configsvc_\w+)\{(\w+)=\"(\w+)\"\}")
NO_METRICS = {"configsvc_client"}
"""Words that look like metrics and are packages."""


def documents() -> dict[str, dict[str, object]]:
    """The page's YAML, by kind; rules have none."""
    loaded = [YAML(typ="safe").load(text) for text in fenced(PAGE, "yaml")]
    return {document.get("kind", "rules"): document for document in loaded}


def known_metrics() -> set[str]:
    return {name + suffix for name, metric in metrics.TABLE.items() for suffix in SUFFIXES[metric.kind]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    named = set(OUR_METRICS.findall(page.read_text("utf-8"))) - NO_METRICS
    assert named - known_metrics() == set()


def test_labels_that_rules_select_exist() -> None:
    for name, label, value in SELECTED.findall(PAGE.read_text("utf-8")):
        assert label in metrics.TABLE[name].labels, name
        assert value in metrics.TABLE[name].doc or name == "configsvc_etcd_breaker_state", (name, value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    ours = {setting.env for setting in settings.TABLE} | settings.CLIENT_VARIABLES | {settings.FILE_VARIABLE}
    named = set(re.findall(r"\b(?:CONFIGSVC|CONFIG|ETCD)_[A-Z_]+\b", page.read_text("utf-8")))
    wrong = {name for name in re.findall(r"not (\w+)", page.read_text("utf-8")) if name in named}
    # What the compose files ask whoever starts them for, beside settings.
    asked = {name for file in (ROOT / "compose").glob("*.yml") for name in re.findall(r"\$\{(\w+)", file.read_text())}
    assert named - ours - wrong - asked - FROM_KUBERNETES == set()


FROM_KUBERNETES = {"CONFIGSVC_PORT", "CONFIGSVC_SERVICE_HOST"}
"""Not ours, and named for that reason."""


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (part of Prometheus) is not installed")
    rules = tmp_path / "rules.yml"
    rules.write_text(next(text for text in fenced(PAGE, "yaml") if text.startswith("groups:")))
    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_rules_are_of_the_shape_that_prometheus_wants() -> None:
    groups = documents()["rules"]["groups"]
    assert isinstance(groups, list)
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 0
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "annotations"}, rule
        assert rule["annotations"]["summary"], rule
        assert rule["expr"].count("(") == rule["expr"].count(")"), rule


def test_etcd_has_the_metrics_that_rules_ask_of_it(any_etcd: LocalEtcd) -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"\betcd_(?:server|mvcc)_[a-z_]+\b", text))
    served = subprocess.run(
        ["curl", "-fsS", f"{any_etcd.url}/metrics"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    assert named
    assert [name for name in sorted(named) if f"\n{name} " not in served] == []


def test_the_network_policy_is_one() -> None:
    kubernetes_validate.validate(documents()["NetworkPolicy"], "1.32", strict=True)


def test_flags_of_etcd_exist() -> None:
    """In the newest that is there; those of 3.5 alone are named with `experimental-`."""
    binary = find_binary(support.options(support.newest()).binary)
    known = subprocess.run([binary, "--help"], capture_output=True, text=True, check=False)
    said = known.stdout + known.stderr
    named = set(re.findall(r"`(--(?!experimental)[a-z-]+)(?=`|[ =])", PAGE.read_text("utf-8")))
    assert "--quota-backend-bytes" in named
    tools = {"--keys", "--streams"}
    assert [flag for flag in sorted(named - tools) if flag not in said] == []


def test_backup_and_restore_as_written(tmp_path: Path) -> None:
    steps = {block.how: block.text for block in blocks(PAGE)}
    version = support.newest()
    tools = find_binary(support.options(version).binary).parent
    with LocalEtcd(options=support.options(version)) as etcd:
        environ = {"PATH": f"{tools}:{os.defpath}", "ETCDCTL_ENDPOINTS": etcd.url}
        run(steps["backup"], tmp_path, environ)
    if version == support.WHEEL:
        pytest.skip("etcdutl of 3.6 or later is not built; run tools/build-etcd (needs Go)")
    data = tmp_path / "data"
    run(steps["restore"].replace("/var/lib/etcd", str(data)), tmp_path, environ)
    assert (data / "member").is_dir()


def run(block: str, folder: Path, environ: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euc", block], cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
