"""`configsvc check` as a process, against real etcds that are well, and others."""

import asyncio
import json
import socket

import pytest

from configsvc.etcd.local import LocalCluster, LocalEtcd, LocalTls
from tests.cli.commands import CONFIGSVC, run, until
from tests.support import etcd as support
from tests.support.certificates import Authority
from tests.support.process import Hand, ServiceProcess

CHECK = (*CONFIGSVC, "check")
LISTEN = {"CONFIGSVC_LISTEN": "127.0.0.1:0"}


def checked(*options, cwd, code=0, **settings):
    """The findings that are not ok, by check, and the names of those that are."""
    done = run(*CHECK, "--json", *options, cwd=cwd, **LISTEN | settings)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    found = answer["findings"]
    assert (answer["status"] == "failure") == (code == 1)
    # The first of a check is the one that matters most.
    bad = {finding["check"]: finding for finding in reversed(found) if finding["level"] != "ok"}
    return bad, {finding["check"] for finding in found if finding["level"] == "ok"}


@pytest.fixture
def hand(any_etcd):
    """A scope with a value."""
    hand = Hand(any_etcd)
    hand.write({"limit": 10})
    return hand


def test_all_is_well(any_etcd, hand, tmp_path):
    settings = {
        "SERVICE_NAME": hand.scope.namespace,
        "CONFIG_ENVIRONMENT": hand.scope.environment,
        "ETCD_ENDPOINTS": any_etcd.url,
        "CONFIGSVC_CACHE_DIR": "cache",
    }
    bad, good = checked(cwd=tmp_path, **settings)
    # A throw-away etcd has no users.
    assert bad.keys() - {"version"} == {"authentication"}
    assert bad["authentication"]["level"] == "warning"
    assert good >= {
        "endpoint",
        "space",
        "compaction",
        "progress",
        "members",
        "alarm",
        "read",
        "scope",
        "cache",
        "listen",
    }
    assert not (tmp_path / "cache").exists(), "nothing is changed"


def test_in_a_pipe_a_line_for_each(any_etcd, hand, tmp_path):
    settings = {"SERVICE_NAME": hand.scope.namespace, "ETCD_ENDPOINTS": any_etcd.url, "CONFIGSVC_HEARTBEAT": "1"}
    done = run(*CHECK, cwd=tmp_path, **LISTEN | settings)
    assert done.returncode == 0
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(line) for line in lines} == {5}
    (scope,) = [line for line in lines if line[1] == "scope"]
    assert scope[0] == "warning"
    assert f"there is {hand.scope}" in scope[3]
    assert done.stderr.startswith("configsvc: warning: CONFIGSVC_HEARTBEAT: no such setting")


def test_a_misspelt_namespace(any_etcd, hand, tmp_path):
    bad, _ = checked(cwd=tmp_path, SERVICE_NAME=hand.scope.namespace[:-1], ETCD_ENDPOINTS=any_etcd.url)
    assert bad["scope"]["level"] == "warning"
    assert "there is " in bad["scope"]["text"]


def test_the_service_runs_there_already(any_etcd, hand, tmp_path):
    settings = {"SERVICE_NAME": hand.scope.namespace, "ETCD_ENDPOINTS": any_etcd.url}
    with ServiceProcess(tmp_path / "service", **settings) as process:
        process.start()
        listen = {"CONFIGSVC_LISTEN": process.url.removeprefix("http://")}
        _, good = checked(cwd=tmp_path, **settings, **listen)
        assert "listen" in good
        central = {"CONFIGSVC_MODE": "central", "ETCD_ENDPOINTS": any_etcd.url}
        bad, _ = checked(cwd=tmp_path, code=1, **central, **listen)
        assert f"serves something else: {hand.scope.namespace}" in bad["listen"]["text"]


def test_no_etcd_there_and_the_port_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        bad, good = checked(
            "--timeout-s",
            "0.5",
            cwd=tmp_path,
            code=1,
            SERVICE_NAME="payments",
            # One refuses, the other never answers.
            ETCD_ENDPOINTS=f"127.0.0.1:1,{listen}",
            CONFIGSVC_LISTEN=listen,
        )
    assert good == set()
    assert bad.keys() == {"endpoint", "listen"}
    assert "another program" in bad["listen"]["text"]
    assert bad["endpoint"]["level"] == "failure"


def test_wrong_settings_are_those_of_serve(tmp_path):
    (tmp_path / "ca.pem").write_text("garbage")
    wrong = {"SERVICE_NAME": "", "ETCD_USER": "u"}
    done = run(*CHECK, cwd=tmp_path, **wrong)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == run(*CONFIGSVC, "serve", cwd=tmp_path, **wrong).stderr
    done = run(*CHECK, cwd=tmp_path, SERVICE_NAME="payments", ETCD_CACERT="ca.pem", **LISTEN)
    assert (done.returncode, done.stdout) == (78, "")
    assert "ca.pem" in done.stderr
    assert run(*CHECK, "--timeout-s", "soon", cwd=tmp_path, SERVICE_NAME="payments").returncode == 2


# ---- users, certificates, an etcd that was never set up --------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """An etcd with TLS, users, and its own idea of when to send progress notices; settings to reach it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    server = authority.issue("server")
    tls = LocalTls(cacert=authority.cacert, cert=server.cert, key=server.key)
    (folder / "password").write_text("s3cret\n")
    (folder / "wrong").write_text("guess")
    with LocalEtcd(options=support.options(support.newest(), tls=tls, progress_s=600)) as etcd:
        hand = Hand(etcd)
        hand.write({"limit": 10})
        yield (
            etcd,
            hand,
            folder,
            {
                "SERVICE_NAME": hand.scope.namespace,
                "CONFIG_ENVIRONMENT": hand.scope.environment,
                "ETCD_ENDPOINTS": etcd.url,
                "ETCD_CACERT": str(authority.cacert),
            },
        )


@pytest.fixture(scope="module")
def users(guarded):
    """The same with users: `exact` may read what it needs, `wide` all of /config/, `other` another namespace."""
    etcd, hand, folder, settings = guarded
    asyncio.run(_add_users(etcd, hand.scope.namespace))
    return settings | {"ETCD_PASSWORD_FILE": str(folder / "password")}, hand, folder


async def _add_users(etcd, namespace):
    mine = (f"/config/{namespace}/", f"/configsvc/releases/{namespace}/")
    for name, prefixes in {"exact": mine, "wide": ("/config/",), "other": ("/config/other/",)}.items():
        await support.call(etcd, "/v3/auth/user/add", {"name": name, "password": "s3cret"})
        await support.call(etcd, "/v3/auth/role/add", {"name": name})
        await support.call(etcd, "/v3/auth/user/grant", {"user": name, "role": name})
        for prefix in map(str.encode, prefixes):
            permission = {"key": support.encoded(prefix), "range_end": support.encoded(support.prefix_end(prefix))}
            await support.call(etcd, "/v3/auth/role/grant", {"name": name, "perm": {"permType": "READ"} | permission})
    await support.enable_auth(etcd, user="admin", password="s3cret", prefix=b"/")


FAST = ("--progress-s", "0.3")


def test_a_user_with_what_it_needs(users, tmp_path):
    settings, _, _ = users
    bad, good = checked(*FAST, cwd=tmp_path, ETCD_USER="exact", **settings)
    assert good >= {"permission", "read", "scope", "members", "space"}
    assert bad.keys() - {"version"} == {"progress", "certificate"}
    assert "said nothing on an idle watch" in bad["progress"]["text"]
    assert "watch-progress-notify-interval" in bad["progress"]["todo"]
    assert "expires in" in bad["certificate"]["text"], "they are made for a day"


def test_no_user_where_etcd_wants_one(users, tmp_path):
    settings, _, _ = users
    told = {name: value for name, value in settings.items() if name != "ETCD_PASSWORD_FILE"}
    bad, _ = checked(*FAST, cwd=tmp_path, code=1, **told)
    # Some versions refuse to tell even their status, others only what is stored.
    assert "set ETCD_USER and ETCD_PASSWORD_FILE" in bad["authentication"]["todo"]
    assert "read" not in bad


def test_an_empty_password_file(users, tmp_path):
    settings, _, _ = users
    (tmp_path / "empty").write_text("\n")
    done = run(*CHECK, *FAST, cwd=tmp_path, **LISTEN | settings | {"ETCD_USER": "exact", "ETCD_PASSWORD_FILE": "empty"})
    assert done.returncode in (1, 78)
    assert "password file empty is empty" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("user", "code", "check", "says"),
    [
        ("wide", 0, "permission", "read everything that begins with /config/"),
        ("wide", 0, "read", "permission denied"),
        ("other", 1, "read", "permission denied"),
        ("other", 1, "permission", "read everything that begins with /config/other/"),
        ("root", 0, "permission", "may do everything"),
    ],
)
def test_users_with_more_or_less(user, code, check, says, users, tmp_path):
    settings, _, folder = users
    if user == "root":
        (folder / "root").write_text(support.ROOT_PASSWORD)
        settings = settings | {"ETCD_PASSWORD_FILE": str(folder / "root")}
    bad, _ = checked(*FAST, cwd=tmp_path, code=code, ETCD_USER=user, **settings)
    assert says in bad[check]["text"]


def test_nobody_and_a_wrong_password(users, tmp_path):
    settings, _, folder = users
    bad, _ = checked(
        *FAST, cwd=tmp_path, code=1, ETCD_USER="exact", **settings | {"ETCD_PASSWORD_FILE": str(folder / "wrong")}
    )
    assert "etcd refuses us: user 'exact'" in bad["authentication"]["text"]
    assert "ETCD_PASSWORD_FILE" in bad["authentication"]["todo"]
    nobody = {name: value for name, value in settings.items() if name != "ETCD_PASSWORD_FILE"}
    bad, _ = checked(*FAST, cwd=tmp_path, code=1, **nobody)
    assert "make a user for this service" in bad["authentication"]["todo"]


def test_a_certificate_that_is_not_trusted(users, tmp_path):
    settings, _, _ = users
    stranger = Authority(tmp_path, "stranger")
    bad, _ = checked(*FAST, cwd=tmp_path, code=1, ETCD_USER="exact", **settings | {"ETCD_CACERT": str(stranger.cacert)})
    assert "certificate is not trusted" in bad["endpoint"]["text"]
    assert "certificate" in bad, "its dates are told all the same"


def test_http_where_it_is_https_and_the_reverse(any_etcd, users, tmp_path):
    settings, _, _ = users
    wrong = {"SERVICE_NAME": "payments", "ETCD_ENDPOINTS": settings["ETCD_ENDPOINTS"].replace("https", "http")}
    bad, _ = checked(*FAST, cwd=tmp_path, code=1, **wrong)
    assert "write https:// in ETCD_ENDPOINTS" in bad["endpoint"]["todo"]
    wrong["ETCD_ENDPOINTS"] = any_etcd.url.replace("http", "https")
    bad, _ = checked(*FAST, cwd=tmp_path, code=1, **wrong)
    assert "write http:// in ETCD_ENDPOINTS" in bad["endpoint"]["todo"]
    wrong["ETCD_ENDPOINTS"] = any_etcd.members[0].peer_url
    bad, _ = checked(*FAST, cwd=tmp_path, code=1, **wrong)
    assert "client URL" in bad["endpoint"]["todo"]


def test_client_certificates(tmp_path):
    authority = Authority(tmp_path)
    server, named = authority.issue("server"), authority.issue("named", common_name="payments")
    tls = LocalTls(cacert=authority.cacert, cert=server.cert, key=server.key, client_auth=True)
    (tmp_path / "password").write_text("s3cret")
    with LocalEtcd(options=support.options(support.newest(), tls=tls)) as etcd:
        asyncio.run(support.enable_auth(etcd, user="payments", password="s3cret", prefix=b"/config/payments/"))
        settings = {
            "SERVICE_NAME": "payments",
            "ETCD_ENDPOINTS": etcd.url,
            "ETCD_CACERT": str(authority.cacert),
            "ETCD_USER": "payments",
            "ETCD_PASSWORD_FILE": "password",
        }
        bad, _ = checked(*FAST, cwd=tmp_path, code=1, **settings)
        assert "set ETCD_CERT and ETCD_KEY" in bad["endpoint"]["todo"]
        with_name = {"ETCD_CERT": str(named.cert), "ETCD_KEY": str(named.key)}
        bad, _ = checked(*FAST, cwd=tmp_path, code=1, **settings, **with_name)
        assert "common name" in bad["authentication"]["text"]


# ---- clusters that are not as they should be -------------------------------------------------------------------------


def test_two_clusters_and_one_member_twice(any_etcd, tmp_path):
    with LocalEtcd(options=support.options(support.newest())) as other:
        port = other.url.rpartition(":")[2]
        bad, _ = checked(
            *FAST, cwd=tmp_path, code=1, SERVICE_NAME="payments", ETCD_ENDPOINTS=f"{any_etcd.url},{other.url}"
        )
        assert "2 different clusters" in bad["cluster"]["text"]
        bad, _ = checked(
            *FAST, cwd=tmp_path, SERVICE_NAME="payments", ETCD_ENDPOINTS=f"{other.url},http://localhost:{port}"
        )
        assert "the same member" in bad["cluster"]["text"]
        member = {"memberID": other.members[0].ask("/v3/maintenance/status", {})["header"]["member_id"]}
        other.members[0].ask("/v3/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"} | member)
        bad, _ = checked(*FAST, cwd=tmp_path, code=1, SERVICE_NAME="payments", ETCD_ENDPOINTS=other.url)
        assert "alarm NOSPACE of member" in bad["alarm"]["text"]


def test_a_member_that_lost_the_others(tmp_path):
    with LocalCluster(3, options=support.options(support.newest())) as cluster:
        one, two, three = cluster.members
        bad, good = checked(cwd=tmp_path, SERVICE_NAME="payments", ETCD_ENDPOINTS=one.url)
        assert "2 of the cluster's 3 members are not named in ETCD_ENDPOINTS" in bad["members"]["text"]
        assert two.url in bad["members"]["text"]
        two.kill()
        three.kill()
        until("it knows no leader", lambda: one.ask("/v3/maintenance/status", {}).get("leader", "0") == "0")
        bad, good = checked(*FAST, cwd=tmp_path, code=1, SERVICE_NAME="payments", ETCD_ENDPOINTS=one.url)
        assert "knows no leader" in bad["leader"]["text"]
        assert "endpoint" in good
        assert bad["read"]["level"] == "failure"
