"""`make cluster`: members and replicas that outlive the command and can be broken and mended."""

import re
import sys
from pathlib import Path

import pytest

from tests.cli.commands import get, run, until

SCRIPT = Path(__file__).parents[2] / "tools" / "cluster.py"


@pytest.fixture
def cluster(tmp_path):
    """Runs the script's commands in a folder of its own; ends the cluster afterwards."""

    def command(*arguments, code=0):
        done = run(sys.executable, str(SCRIPT), *arguments, cwd=tmp_path)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield command
    command("down")
    assert not (tmp_path / ".configsvc" / "cluster").exists()


def states(text):
    """What the status says: name -> state."""
    return {name: state.strip() for name, state in re.findall(r"^  (?:etcd|service) (\w+) +http\S+ +(.*)$", text, re.M)}


def test_break_and_mend(cluster):
    text = cluster("up")
    assert [name for name, state in states(text).items() if state.startswith("running, ")] == [
        "1",
        "2",
        "3",
        "r1",
        "r2",
    ]
    assert text.count("leader") == 1
    replicas = re.findall(r"service r\d +(http\S+)", text)

    assert "running -> frozen" in cluster("freeze", "2")
    assert "running -> dead" in cluster("kill", "r1")
    now = states(cluster("status"))
    assert (now["2"], now["r1"]) == ("frozen", "dead")
    assert get(f"{replicas[1]}/v1/config/demo/development")["values"]["database.pool_size"] == 10

    assert "frozen -> running" in cluster("thaw", "2")
    assert "dead -> running" in cluster("start", "r1")
    until("the replica is back", lambda: (get(f"{replicas[0]}/health/ready") or {}).get("status") == "ok")

    cluster("kill", "1")
    assert all(state.startswith("running, ") for state in states(cluster("up")).values()), "up starts what is dead"


def test_without_a_cluster(cluster):
    assert "There is no cluster here" in cluster("status", code=1)
    assert "There is no cluster here" in cluster("kill", "1", code=1)
    assert "there was no cluster here" in cluster("down")


def test_an_unknown_name(cluster, tmp_path):
    folder = tmp_path / ".configsvc" / "cluster"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('[{"name": "1", "url": "http://127.0.0.1:1", "command": ["false"]}]')
    assert "There is no 4: N is one of 1" in cluster("kill", "4", code=1)
