"""The commands that write and that look back, as processes, against a central service that runs."""

import json
import subprocess
import time
import urllib.request

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.cli.commands import CONFIGSVC, environ, run
from tests.cli.shell import Shell
from tests.support.etcd import newest, options
from tests.support.process import DELETED, Hand, ServiceProcess


def test_from_plan_to_release_and_back(shell):
    shell.write("v1.yaml", "database:\n  host: db1\n  pool_size: 10\nold: true\n")
    shell.write("v2.json", '{"database.pool_size": 20, "database": {"host": "db1"}, "new": [1]}')
    planned = shell("plan", "v1.yaml", "--version", "v1")
    assert "before its first release" in planned
    assert "3 keys added" in planned
    apply = planned.splitlines()[-1].split()
    assert apply[:5] == ["configsvc", "deploy", "v1.yaml", "--version", "v1"]
    assert "is at release 1 (v1)" in shell(*apply[1:])
    assert "nothing to change" in shell("deploy", "v1.yaml", "--version", "v1")

    assert shell("plan", "v2.json", "--exit-code", expect=1) == ""
    planned = shell("plan", "v2.json", "--version", "v2")
    assert planned.index("1 key DELETED\n  - old") < planned.index("1 key changed\n  ~ database.pool_size")
    assert "10 -> 20" in planned
    assert "In all: 1 deleted, 1 changed, 1 added." in planned
    shell("deploy", "v2.json", "--version", "v2", "--reason", "larger pool", "--git-commit", "abc")

    assert shell("get", "database.pool_size") == "20\n"
    assert shell("get", "database.pool_size", "--release", "v1") == "10\n"
    assert shell("get", "--release", "@1").count("\n") == 3
    assert "had no key 'new'" in shell("get", "new", "--release", "v1", expect=1)
    said = shell("get", "--release", "v9", expect=1)
    assert "has no version v9" in said
    assert "configsvc history" in said

    rows = [line.split("\t") for line in shell("history").splitlines()]
    assert [(row[0], row[1], row[4], row[5]) for row in rows] == [
        ("2 (v2)", "deploy", "3", "larger pool"),
        ("1 (v1)", "deploy", "3", ""),
    ]
    (row,) = [line.split("\t") for line in shell("history", "old").splitlines() if line.startswith("2")]
    assert row[4:6] == ["true", "(none)"]
    assert "no release that changed 'nobodys'" in shell("history", "nobodys", expect=1)
    assert [one["release"] for one in shell.json("history", "--limit", "1")["releases"]] == [2]
    for words, which in (([], ""), (["old"], " that changed 'old'")):
        for after in ("1", "0"):
            done = run(*CONFIGSVC, "history", *words, "--after", after, cwd=shell.folder, **shell.settings)
            said = f"configsvc: {shell.namespace}/staging has no release before {after}{which}\n"
            assert (done.returncode, done.stdout, done.stderr) == (0, "", said)
    assert shell.json("history", "--after", "1")["releases"] == []
    assert "no release that changed 'nobodys'" in shell("history", "nobodys", "--after", "2", expect=1)
    assert "no release\n" in shell("history", "--after", "2", expect=1, CONFIG_ENVIRONMENT="none")
    shown = shell("show", "v2")
    assert "reason: larger pool" in shown
    assert "git_commit: abc" in shown
    assert "1 key DELETED" in shown
    assert "1 deleted, 1 changed, 1 added" in shell("diff", "v1", "v2")
    assert "1 deleted, 1 changed, 1 added" in shell("diff", "v2", "v1")
    assert shell("diff", "v1", "--exit-code", expect=1) == ""
    assert "nothing changes" in shell("diff", "v2", "--exit-code")
    assert shell("diff", "v7", expect=1)

    assert "is at release 3 (v1)" in shell("rollback", "v1", "--reason", "too large")
    assert shell("get", "old") == "true\n"
    assert shell("rollback", "v7", expect=1)


def test_what_a_digest_promises(shell):
    shell.write("v1.yaml", "a: 1\nb: 1\n")
    shell("deploy", "v1.yaml")
    shell.write("v2.yaml", "a: 2\nb: 1\n")
    digest = shell.json("plan", "v2.yaml")["digest"]
    shell("set", "b", "3")
    said = shell("deploy", "v2.yaml", "--digest", digest, expect=76)
    assert "changed since: b" in said
    assert "release 1, not" not in shell("deploy", "v2.yaml", "--base-release", "1", expect=76)


def test_what_a_dry_run_suggests_works_after_two_dashes_too(shell):
    planned = shell("set", "j", "--string", "--dry-run", "--", "--json")
    apply = planned.splitlines()[-1].split()
    assert apply[1:4] == ["set", "j", "--string"]
    assert apply[-2:] == ["--", "--json"]
    shell(*apply[1:])
    assert shell("get", "j") == '"--json"\n'


def test_changes_overrides_and_drift(shell):
    shell("set", "a", "1")
    assert "2 added" in shell("set", "b=true", 'c={"x": [1]}', "--reason", "first")
    shell("set", "d", "01", "--string")
    assert dict(line.split("\t") for line in shell("get").splitlines()) == {
        "a": "1",
        "b": "true",
        "c": '{"x":[1]}',
        "d": '"01"',
    }
    shell("unset", "b", "c")
    assert "nothing is stored under b" in shell("unset", "b", "a", expect=1)
    shell.write("v.yaml", "a: 1\nd: x\n")
    shell("deploy", "v.yaml")
    assert shell("drift") == ""
    shell("drift", "--exit-code")

    assert "--reason" in shell("emergency", "a", "5", expect=2)
    shell("emergency", "a", "5", "--reason", "incident 42", "--ttl", "2h")
    (row,) = [line.split("\t") for line in shell("drift").splitlines()]
    assert row[:5] == ["a", "override", "1", "5", "by anonymous in release 6: incident 42"]
    assert row[5].endswith("Z")
    shell("drift", "--exit-code", expect=1)
    shell.write("v.yaml", "a: 2\nd: x\n")
    said = shell("deploy", "v.yaml", expect=76)
    assert "a = 5, by anonymous in release 6: incident 42" in said
    assert "--overrides keep" in said
    planned = run(*CONFIGSVC, "plan", "v.yaml", cwd=shell.folder, **shell.settings)
    assert planned.returncode == 76
    assert "BLOCKED (override_pending)" in planned.stdout
    assert "configsvc deploy" not in planned.stdout
    shell("deploy", "v.yaml", "--overrides", "keep")
    assert shell("get", "a") == "5\n"
    shell("deploy", "v.yaml", "--overrides", "discard")
    assert shell("get", "a") == "2\n"
    assert "refuse, keep or discard" in shell("deploy", "v.yaml", "--overrides", "drop", expect=2)


def test_a_misspelt_key(shell):
    shell("set", "checkout.enabled", "true")
    for words in (["unset", "checkout.enabeld"], ["get", "checkout.enabeld"]):
        assert shell(*words, expect=1).count("did you mean checkout.enabled?") == 1
    words = ("emergency", "checkout.enabeld", "false", "--reason", "incident 42")
    done = run(*CONFIGSVC, *words, cwd=shell.folder, **shell.settings)
    assert done.returncode == 0
    assert "warning: checkout.enabeld was not there before; did you mean checkout.enabled?" in done.stderr


def test_changes_by_hand_are_drift(shell, any_etcd):
    from configsvc.core.model import Scope

    shell("set", "a=1", "b=1")
    Hand(any_etcd, Scope(shell.namespace, "staging")).write({"a": 2, "b": DELETED})
    rows = [line.split("\t")[:4] for line in shell("drift").splitlines()]
    assert rows == [["a", "by hand", "1", "2"], ["b", "by hand", "1", "(none)"]]
    assert dict(line.split("\t") for line in shell("status").splitlines())["by hand"] == "a, b"
    assert "is at release 2" in shell("repair", "--reason", "as it is")
    assert shell("drift") == ""


def test_status(shell):
    found = dict(line.split("\t") for line in shell("status").splitlines())
    assert (found["release"], found["overrides"], found["reads"]) == ("none yet", "none", "nothing to read")
    shell.write("v.yaml", "a: 1\n")
    shell("deploy", "v.yaml", "--version", "v1", "--reason", "first")
    shell("freeze", "--for", "1h", "--reason", "wait")
    shell("set", "a", "2")
    found = dict(line.split("\t") for line in shell("status").splitlines())
    assert found["release"] == "2, change"
    assert "by anonymous" in found["made"]
    assert found["overrides"] == "a: 2 by anonymous in release 2"
    assert found["frozen"].endswith("by anonymous: wait")
    assert found["reads"] == "live"
    whole = shell.json("status")
    assert (whole["newest"]["release"], whole["source"], whole["service"]["mode"]) == (2, "live", "central")
    assert whole["overrides"][0]["key"] == "a"


def test_status_tells_ends(shell):
    shell.write("v.yaml", "a: 1\nb: 1\n")
    shell("deploy", "v.yaml")
    shell("freeze", "--for", "1", "--reason", "wait")
    shell("emergency", "a", "5", "--reason", "incident 42", "--ttl", "2h")
    shell("set", "b", "5")
    ends = shell.json("drift")["overrides"][0]["expires_at"]
    time.sleep(2.1)
    found = dict(line.split("\t") for line in shell("status").splitlines())
    first, second = found["overrides"].split("; ")
    assert first == f"a: 5 until {ends} by anonymous in release 2: incident 42"
    assert second == "b: 5 by anonymous in release 3"
    assert found["frozen"] == "no"


def test_status_while_etcd_is_away(tmp_path):
    with (
        LocalEtcd(options=options(newest())) as etcd,
        ServiceProcess(
            tmp_path / "service", CONFIGSVC_MODE="central", ETCD_ENDPOINTS=etcd.url, CONFIGSVC_HEARTBEAT_S="0.5"
        ) as process,
    ):
        process.start()
        shell = Shell(process.url, tmp_path)

        def said(*words):
            return run(*CONFIGSVC, *words, cwd=tmp_path, **shell.settings)

        shell("set", "a", "1")
        assert shell("get", "a") == "1\n"
        before = shell.json("status")
        etcd.members[0].kill()
        process.running.until("it is stale", lambda: "may be out of date" in said("get", "a").stderr)
        table, whole = said("status"), said("status", "--json")
    assert table.returncode == whole.returncode == 69
    found = dict(line.split("\t") for line in table.stdout.splitlines())
    assert (found["scope"], found["release"]) == (f"{shell.namespace}/staging", "not known")
    assert found["reads"].startswith("memory, proved ")
    assert int(found["revision"]) >= before["revision"]
    assert "etcd" in table.stderr
    told = json.loads(whole.stdout)
    assert told["problem"]["code"] == "store_unavailable"
    assert (told["source"], told["service"].keys()) == ("memory", before["service"].keys())


def test_status_names_some_keys_of_many(shell, any_etcd):
    from configsvc.core.model import Scope

    shell("set", "a", "1")
    Hand(any_etcd, Scope(shell.namespace, "staging")).write({f"k{n:03}": 1 for n in range(120)})
    found = dict(line.split("\t") for line in shell("status").splitlines())
    assert found["by hand"] == ", ".join(f"k{n:03}" for n in range(10)) + " and 110 more"


def test_keys_of_its_own(shell):
    assert shell("own-keys") == ""
    assert shell("own-keys", "b", "*.url", "b") == "b\n*.url\n"
    assert shell("own-keys") == "b\n*.url\n"
    assert shell.json("own-keys")["patterns"] == ["b", "*.url"]
    shell.write("v.yaml", "a: 1\nb: 1\n")
    shell("deploy", "v.yaml", "--environment", "source")
    assert "set it first" in shell("promote", "--from", "source", "--force", "new", expect=65)
    assert "--clear" in shell("own-keys", "b", "--clear", expect=2)
    assert shell("own-keys", "--clear") == ""
    shell("promote", "--from", "source", "--force", "new")
    assert shell("get", "b") == "1\n"
    code, seen = shell.at_terminal("own-keys")
    assert code == 0
    assert "has no keys of its own" in seen


def test_a_frozen_scope(shell):
    shell.write("v.yaml", "a: 1\n")
    for duration in ("0", "367d"):
        said = shell("freeze", "--for", duration, "--reason", "x", expect=2)
        assert "--for" in said
        assert "from 1 second to 366 days" in said
    assert "--reason" in shell("freeze", "--for", "1h", expect=2)
    assert "no time" in shell("freeze", "--for", "soon", "--reason", "x", expect=2)
    shell("deploy", "v.yaml")
    assert "is frozen until" in shell("freeze", "--for", "1h30m", "--reason", "fix under way")
    said = shell("deploy", "v.yaml", expect=76)
    assert "fix under way" in said
    assert "configsvc unfreeze" in said
    shell("unfreeze")
    shell("deploy", "v.yaml")


def test_a_scope_that_is_not_there(shell):
    """What makes nothing is refused there; what may come before the first key is warned of."""
    nothing = f"nothing is stored in {shell.namespace}/stagin"
    wrong = {"CONFIG_ENVIRONMENT": "stagin"}

    def warned(*words, **settings):
        done = run(*CONFIGSVC, *words, cwd=shell.folder, **(shell.settings | settings))
        assert done.returncode == 0
        return done.stderr

    refused = (["freeze", "--for", "1h", "--reason", "x"], ["unfreeze"], ["repair"], ["drift"], ["drift", "--json"])
    for words in refused:
        assert shell(*words, expect=1, **wrong) == f"configsvc: {nothing}\n"
    assert warned("status", **wrong) == f"configsvc: warning: {nothing}\n"
    shell("set", "a", "1")
    hint = f"; did you mean {shell.namespace}/staging?\n"
    for words in refused:
        assert shell(*words, expect=1, **wrong) == f"configsvc: {nothing}{hint}"
    for words in (["status"], ["status", "--json"], ["own-keys", "b"]):
        assert warned(*words, **wrong) == f"configsvc: warning: {nothing}{hint}"
    # By now something is.
    assert warned("own-keys", "c", **wrong) == ""
    said = shell("promote", "--from", "stagin", "--environment", "other", expect=1)
    assert "configsvc: did you mean staging?" in said
    shell("history", expect=1, **wrong)


def test_scopes_that_have_but_little(shell, any_etcd):
    """Keys and no release, a release and no keys, a freeze alone."""
    from configsvc.core.model import Scope

    hand = Hand(any_etcd, Scope(shell.namespace, "hand"))
    hand.write({"a": 1})
    shell("set", "a", "1", CONFIG_ENVIRONMENT="bare")
    shell("unset", "a", "--force", "all of it", CONFIG_ENVIRONMENT="bare")
    api = f"{shell.settings['CONFIGSVC_URL']}/v1/freeze/{shell.namespace}/frozen?reason=x&ttl_s=600"
    urllib.request.urlopen(urllib.request.Request(api, method="PUT"), timeout=5).close()
    for name in ("hand", "bare", "frozen"):
        there = {"CONFIG_ENVIRONMENT": name}
        done = run(*CONFIGSVC, "status", cwd=shell.folder, **(shell.settings | there))
        assert (done.returncode, done.stderr) == (0, ""), name
        shell("drift", **there)
        shell("freeze", "--for", "1h", "--reason", "x", **there)
        shell("unfreeze", **there)
        if name != "frozen":
            shell("repair", **there)


def test_a_scope_whose_name_is_nearly_that_of_another(shell):
    shell.write("v.yaml", "a: 1\n")
    shell("deploy", "v.yaml")
    done = run(*CONFIGSVC, "plan", "v.yaml", "--environment", "stagin", cwd=shell.folder, **shell.settings)
    assert done.returncode == 0
    assert f"{shell.namespace}/stagin would be a new scope; did you mean {shell.namespace}/staging?" in done.stderr
    assert shell.json("plan", "v.yaml", "--environment", "stagin")["changes"]
    done = run(*CONFIGSVC, "plan", "v.yaml", "--environment", "other", cwd=shell.folder, **shell.settings)
    assert (done.returncode, done.stderr) == (0, "")
    for words, name in ((["set", "a=1"], "stagin"), (["deploy", "v.yaml"], "stagingg")):
        there = [*words, "--yes", "--environment"]
        done = run(*CONFIGSVC, *there, name, cwd=shell.folder, **shell.settings)
        assert done.returncode == 0
        hint = f"{shell.namespace}/{name} is a new scope; did you mean {shell.namespace}/staging"
        assert done.stderr.startswith(f"configsvc: warning: {hint}")
        for known in (name, f"{words[0]}-other"):
            done = run(*CONFIGSVC, *there, known, cwd=shell.folder, **shell.settings)
            assert (done.returncode, done.stderr) == (0, "")


def test_promotion(shell):
    shell.write("v.yaml", "a: 1\n")
    shell("deploy", "v.yaml", "--version", "v1")
    production = {"CONFIG_ENVIRONMENT": "production"}
    planned = shell("promote", "--from", "staging", "--version", "v1", "--dry-run", **production)
    assert "1 key added" in planned
    apply = planned.splitlines()[-1].split()
    assert "is at release 1 (v1)" in shell(*apply[1:], "--yes", **production)
    assert "from: staging" in shell("show", "v1", **production)
    assert "itself" in shell("promote", "--from", "production", "--dry-run", expect=2, **production)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("v.yaml", "a: 1\nb:\n  c: 1\na: 2\n", ["v.yaml:4:1: 'a' is given twice"]),
        (
            "v.yaml",
            'a: .nan\n_b: 1\n"d/e": 2\nc: 99999999999999999999\n',
            [
                "v.yaml:1:4: 'a' holds '.nan', which is no JSON value",
                ":2:1: '_b' starts",
                ":3:1: 'd/e' ",
                ":4:1: 'c' holds",
            ],
        ),
        ("v.yaml", "a: [1\n", ["v.yaml:2:1: not YAML"]),
        ("v.yaml", "_b: 1\nc: 99999999999999999999\n", ["v.yaml:1:1: '_b' starts with '_'", "v.yaml:2:1: 'c' holds"]),
        ("v.json", '{"a": 1,\n "b"}', ["v.json:2:"]),
        ("v.yaml", "- a\n", ["v.yaml: the document is a list"]),
        ("v.yaml", "", ["v.yaml: the body is empty"]),
        ("v.json", '{"a": NaN}', ["v.json: ", "is no JSON value"]),
    ],
)
def test_files_that_cannot_be_deployed(shell, name, text, says):
    shell.write(name, text)
    for command in ("plan", "deploy"):
        said = shell(command, name, expect=65)
        assert [one for one in says if one not in said] == [], said
    shell("history", expect=1)


def test_values_that_begin_with_a_dash(shell):
    hint = "a value that begins with - is written as KEY=-5, or comes after --"
    assert f"Error: No such option: -5; {hint}" in shell("set", "j", "-5", expect=2)
    assert "-0; a value that begins with - comes after --\n" in shell(
        "emergency", "j", "-0.5", "--reason", "x", expect=2
    )
    for words in (["set", "j", "-5", "--strng"], ["unset", "-5"]):
        assert shell(*words, expect=2).count("a value that begins") == (words[0] == "set")
    assert "a value that begins" not in shell("set", "j", "--strng", expect=2)
    shell("set", "j=-5", "k=-0.5")
    shell("set", "l", "--", "-5")
    shell("emergency", "m", "--reason", "x", "--", "-5")
    assert [line.split("\t")[1] for line in shell("get").splitlines()] == ["-5", "-0.5", "-5", "-5"]


def test_words_that_cannot_be_right(shell):
    shell.write("v.yaml", "a: 1\n")
    for words, says in (
        (["deploy", "none.yaml"], "none.yaml: No such file"),
        (["set", "a"], "no KEY=VALUE"),
        (["set", "a", "text"], "--string"),
        (["set", "a=1", "a=2"], "twice"),
        (["set", "a", "1", "--ttl", "soon"], "--ttl"),
        (["set", "a", "1", "--namespace", "a/b"], "namespace"),
        (["plan", "v.yaml", "--version", "v 1"], "--version is 'v 1'"),
        (["rollback", "v1", "--digest", ""], "--digest is empty"),
        (["set", "a", "1", "--ttl", "0"], "--ttl '0' is out of bounds"),
        (["backup", "b.gz", "--environment", "staging"], "No such option"),
        (["restore", "b.gz", "--environment", "staging"], "No such option"),
        (["deploy"], "FILE"),
    ):
        assert says in shell(*words, expect=2)
    assert "may not hold '/'" in shell("set", "a/b", "1", expect=65)
    for words in (["set", "", "1"], ["unset", ""]):
        assert shell(*words, expect=65) == "configsvc: a key is empty\n"
    assert "configsvc: a pattern is empty; it is a text of 1 to " in shell("own-keys", "", expect=65)
    assert shell("get", expect=1)


def test_guards_say_what_lifts_them(shell):
    shell.write("v.yaml", "".join(f"k{n}: 1\n" for n in range(10)))
    shell("deploy", "v.yaml")
    shell.write("w.yaml", "k0: 1\n")
    said = shell("deploy", "w.yaml", expect=65)
    assert "9 of 10 keys would be deleted" in said
    assert "--force" in said
    shell("deploy", "w.yaml", "--force", "they are not used")
    assert "force: they are not used" in shell("show", "@2")


def test_a_file_on_stdin(shell):
    command = (*CONFIGSVC, "deploy", "-")
    env = environ(**shell.settings)
    done = subprocess.run(command, cwd=shell.folder, env=env, input=b'{"a": 1}', capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shell("get", "a") == "1\n"


def test_backup_and_restore(shell):
    shell("set", "a=1", "b=2")
    shell.write("v.yaml", "a: 1\nb: 2\n")
    shell("deploy", "v.yaml", "--yes", CONFIG_ENVIRONMENT="production")
    only = ("--only", shell.namespace)
    assert "checksum right" in shell("backup", "b.gz", *only)
    assert "--overwrite" in shell("backup", "b.gz", *only, expect=1)
    found = shell.json("backup", "b.gz", "--overwrite", *only)
    assert found["head"]["namespace"] == shell.namespace
    shell("backup", ".", *only)
    (named,) = shell.folder.glob(f"{shell.namespace}-*.configsvc.gz")
    assert oct(named.stat().st_mode & 0o777) == "0o600"
    assert not list(shell.folder.glob(".*.part"))

    shell("set", "a", "5")
    shell("set", "b", "5", "--yes", CONFIG_ENVIRONMENT="production")
    planned = shell("restore", "b.gz", "--dry-run")
    assert f"{shell.namespace}/production\twould be release 3\t1" in planned
    assert f"{shell.namespace}/staging\twould be release 3\t1" in planned
    assert "say --yes" in shell("restore", "b.gz", expect=2)
    assert f"{shell.namespace}/staging\trelease 3\t1" in shell("restore", "b.gz", "--yes", "--reason", "test")
    assert shell("get", "a") == "1\n"
    assert shell("get", "b", CONFIG_ENVIRONMENT="production") == "2\n"

    # The option's usual name is not passed over in silence: that would be a backup, or a restore, of everything.
    assert shell.json("backup", "n.gz", "--namespace", shell.namespace)["head"]["namespace"] == shell.namespace
    assert "no scope of another" in shell("restore", "b.gz", "--namespace", "another", "--yes", expect=65)

    whole = named.read_bytes()
    shell.folder.joinpath("cut.gz").write_bytes(whole[:-20])
    assert "cut.gz: this is no backup that can be restored: it is cut short" in shell(
        "restore", "cut.gz", "--yes", expect=65
    )
    assert "no gzip file" in shell("restore", "v.yaml", expect=65)
    assert "No such file" in shell("restore", "none", expect=1)
    assert shell("backup", "no/such/folder", *only, expect=1) == (
        "configsvc: no/such/folder: No such file or directory\n"
    )


def test_a_backup_of_a_namespace_that_is_not_there(shell):
    shell("set", "a", "1")
    shell.write("good.gz", "the one of yesterday")
    wrong = shell.namespace[:-1]
    for words in (["b.gz"], ["d/"], ["good.gz", "--overwrite"]):
        said = shell("backup", *words, "--only", wrong, expect=1)
        assert said == f"configsvc: nothing is stored in namespace {wrong}; did you mean {shell.namespace}?\n"
    said = shell("backup", "b.gz", "--only", "nobodys", expect=1)
    assert said == "configsvc: nothing is stored in namespace nobodys\n"
    assert [one.name for one in shell.folder.iterdir()] == ["good.gz"]
    assert (shell.folder / "good.gz").read_text() == "the one of yesterday"


def test_a_backup_into_a_folder_that_is_made(shell):
    shell("set", "a", "1")
    only = ("--only", shell.namespace)
    for _ in range(2):
        shell("backup", "nightly/", *only)
    assert len(list((shell.folder / "nightly").glob(f"{shell.namespace}-*.configsvc.gz"))) == 2
    assert shell("backup", "no/such/", *only, expect=1) == "configsvc: no/such/: No such file or directory\n"
    shell.write("file", "mine")
    assert "Not a directory" in shell("backup", "file/", "--overwrite", *only, expect=1)
    assert (shell.folder / "file").read_text() == "mine"


def test_a_service_that_answers_no_writes(any_etcd, tmp_path):
    hand = Hand(any_etcd)
    hand.write({"a": 1})
    named = {"SERVICE_NAME": hand.scope.namespace, "CONFIG_ENVIRONMENT": "staging"}
    with ServiceProcess(tmp_path / "service", ETCD_ENDPOINTS=any_etcd.url, **named) as process:
        process.start()
        done = run(*CONFIGSVC, "set", "a", "2", "--url", process.url, cwd=tmp_path, **named)
    assert done.returncode == 77
    assert "--url" in done.stderr


def test_a_scope_that_only_the_service_names(any_etcd, tmp_path):
    hand = Hand(any_etcd)
    hand.write({"a": 1})
    named = {"SERVICE_NAME": hand.scope.namespace, "CONFIG_ENVIRONMENT": hand.scope.environment}
    with ServiceProcess(tmp_path / "service", ETCD_ENDPOINTS=any_etcd.url, CONFIGSVC_WRITES="true", **named) as process:
        process.start()
        done = run(*CONFIGSVC, "set", "a", "2", "--yes", "--url", process.url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        done = run(*CONFIGSVC, "status", "--json", "--url", process.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["environment"], found["newest"]["release"]) == (hand.scope.environment, 1)
    assert (found["source"], found["service"]["mode"]) == ("live", "sidecar")


def test_nobody_answers(tmp_path):
    named = {"SERVICE_NAME": "a", "CONFIG_ENVIRONMENT": "b", "CONFIGSVC_URL": "http://127.0.0.1:1"}
    for words in (["set", "a", "1"], ["history"], ["status"], ["backup", "f"], ["backup", "d/"], ["unfreeze"]):
        done = run(*CONFIGSVC, *words, cwd=tmp_path, **named)
        assert (done.returncode, done.stderr) == (
            69,
            "configsvc: http://127.0.0.1:1: cannot connect: connection refused\n",
        )
    assert list(tmp_path.iterdir()) == []
