"""What `configsvc check` makes of facts: one fact changed at a time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from configsvc.checks import Facts, ListenFacts, Reading, Wanted, judge, verdict
from configsvc.checks_etcd import Finding
from configsvc.etcd.facts import Alarm, Certificate, ClusterMember, EndpointFacts, Permission, Progress, UserFacts
from configsvc.etcd.ops import prefix_end

NOW = datetime(2026, 3, 1, tzinfo=UTC)
URL = "https://etcd-1:2379"
GIB = 1024**3


def reads(prefix: str, kind: Any = "READ") -> Permission:
    return Permission(kind=kind, key=prefix.encode(), range_end=prefix_end(prefix.encode()))


def until(days: float, *, since: float = -30, common_name: bool = False) -> Certificate:
    day = timedelta(days=1)
    return Certificate(not_before=NOW + since * day, not_after=NOW + days * day, has_common_name=common_name)


ENDPOINT = EndpointFacts(
    url=URL,
    version="3.6.16",
    cluster_id="1",
    member_id="11",
    leader="11",
    revision=5,
    db_size=GIB // 4,
    db_used=GIB // 8,
    quota=GIB,
    history=100,
    skew_s=0.3,
    certificate=until(100),
    progress=Progress(state="heard", seconds=2.0),
)
FACTS = Facts(
    wanted=Wanted(namespace="payments", environment="production", writes=False, user="payments"),
    endpoints=[ENDPOINT],
    members=[ClusterMember(member_id="11", name="one", client_urls=[URL])],
    alarms=[],
    user=UserFacts(
        authentication=True,
        roles=["reader"],
        permissions=[reads("/config/payments/"), reads("/configsvc/releases/payments/")],
    ),
    data=Reading(prefix="/config/payments/", count=3),
    releases=Reading(prefix="/configsvc/releases/payments/"),
    scope=Reading(prefix="/config/payments/production/", count=2),
    files={"ETCD_CERT c.pem": until(100), "ETCD_CACERT ca.pem": until(1000)},
    cache="",
    listen=ListenFacts(address="127.0.0.1:8080", state="free"),
    now=NOW,
)


def changed(**fields: Any) -> Facts:
    return msgspec.structs.replace(FACTS, **fields)


def endpoint(**fields: Any) -> Facts:
    return changed(endpoints=[msgspec.structs.replace(ENDPOINT, **fields)])


def wanted(**fields: Any) -> Wanted:
    return msgspec.structs.replace(FACTS.wanted, **fields)


def user(*permissions: Permission, **fields: Any) -> Facts:
    granted = [*(FACTS.user.permissions or []), *permissions] if FACTS.user else []
    return changed(user=UserFacts(authentication=True, roles=["r"], permissions=granted), **fields)


def troubles(facts: Facts) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.level != "ok"]


def test_all_is_well() -> None:
    found = judge(FACTS)
    assert {finding.level for finding in found} == {"ok"}
    assert verdict(found) == "ok"
    assert {finding.check for finding in found} == {
        "endpoint", "certificate", "space", "compaction", "progress", "members", "alarm", "permission", "read",
        "scope", "cache", "listen",
    }  # fmt: skip


WRONG = [
    (endpoint(version="3.3.27"), "failure", "version", "too old"),
    (endpoint(version="3.5.1"), "warning", "version", "diverge"),
    (endpoint(version="3.6.0"), "warning", "version", "defects"),
    (endpoint(skew_s=-90.0), "warning", "clock", "90 s behind"),
    (endpoint(skew_s=7.0), "warning", "clock", "7 s ahead of"),
    (endpoint(leader="0"), "failure", "leader", "knows no leader"),
    (endpoint(learner=True), "failure", "learner", "answers no reads"),
    (endpoint(db_size=int(0.8 * GIB)), "warning", "space", "free inside"),
    (endpoint(db_size=int(0.96 * GIB), db_used=None), "failure", "space", "983 MiB of the 1.0 GiB"),
    (endpoint(quota=None), "unknown", "space", "does not tell its limit"),
    (endpoint(history=None), "unknown", "compaction", "/metrics"),
    (endpoint(history=200_000), "warning", "compaction", "200000 revisions"),
    (endpoint(progress=Progress(state="silent", seconds=6)), "warning", "progress", "for 6 s"),
    (endpoint(progress=Progress(state="heard", seconds=60)), "warning", "progress", "only after 60 s"),
    (endpoint(progress=Progress(state="busy", seconds=6)), "unknown", "progress", "cannot tell"),
    (endpoint(progress=Progress(state="failed", reason="no")), "unknown", "progress", "cannot tell"),
    (endpoint(certificate=until(-1)), "failure", "certificate", "has expired: 2026-02-28"),
    (endpoint(certificate=until(5)), "warning", "certificate", "expires in 5 days"),
    (endpoint(certificate=until(0.5)), "warning", "certificate", "expires in 12 hours"),
    (endpoint(certificate=until(9, since=2)), "failure", "certificate", "not valid yet: it begins 2026-03-03"),
    (changed(files={"ETCD_CERT c.pem": "no"}), "unknown", "certificate", "cannot tell"),
    (changed(alarms=[Alarm(member_id="11", alarm="NOSPACE")]), "failure", "alarm", "NOSPACE of member one"),
    (changed(alarms=[Alarm(member_id="12", alarm="CORRUPT")]), "failure", "alarm", "CORRUPT of member 12"),
    (changed(members=[*(FACTS.members or []), ClusterMember(member_id="12", name="two")]), "warning", "members",
     "1 of the cluster's 2 members are not named in ETCD_ENDPOINTS: two (no address)"),
    (changed(user=UserFacts(authentication=False)), "warning", "authentication", "ETCD_USER=payments is not looked at"),
    (changed(user=UserFacts(authentication=True, reason="no")), "unknown", "permission", "does not tell"),
    (changed(user=UserFacts(authentication=True, roles=["root"])), "warning", "permission", "may do everything"),
    (changed(files={"ETCD_CERT c.pem": until(99, common_name=True)}), "failure", "authentication", "common name"),
    (user(reads("/config/")), "warning", "permission", "read everything that begins with /config/"),
    (user(reads("/config/payments/", "READWRITE")), "warning", "permission", "readwrite everything that begins"),
    (user(Permission(key=b"\0", range_end=b"\0")), "warning", "permission", "read every key"),
    (user(Permission(key=b"/x")), "warning", "permission", "read the key /x"),
    (user(wanted=wanted(writes=True)), "failure", "permission", "may not write below /config/payments/"),
    (changed(data=Reading(prefix="/config/payments/", error="denied", refused=True)), "failure", "read", "denied"),
    (changed(releases=Reading(prefix="/configsvc/", error="denied", refused=True)), "warning", "read", "denied"),
    (changed(scope=Reading(prefix="/config/payments/production/"), near=["payments/prod"]), "warning", "scope",
     "there is payments/prod"),
    (changed(cache="/x: permission denied"), "failure", "cache", "/x: permission denied"),
    (changed(listen=ListenFacts(address="a:1", state="taken")), "failure", "listen", "another program"),
    (changed(listen=ListenFacts(address="a:1", state="unusable", reason="no")), "failure", "listen", "listened on: no"),
    (changed(listen=ListenFacts(address="a:1", state="ours", same=False, serves="x")), "failure", "listen", "else: x"),
    (changed(listen=ListenFacts(address="a:1", state="ours", status="degraded")), "warning", "listen", "degraded"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "level", "check", "says"), WRONG, ids=[f"{row[2]}-{row[3]}" for row in WRONG])
def test_one_thing_is_wrong(facts: Facts, level: str, check: str, says: str) -> None:
    (found,) = troubles(facts)
    assert (found.level, found.check) == (level, check)
    assert says in found.text
    assert found.todo or level == "unknown", "it says what to do"
    assert verdict([found]) == ("failure" if level == "failure" else "warning")


def test_an_endpoint_that_is_away_matters_if_it_is_the_only_one() -> None:
    away = EndpointFacts(url="http://b:2379", error="cannot connect")
    (found,) = troubles(changed(endpoints=[away]))
    assert (found.level, found.subject) == ("failure", "http://b:2379")
    (found,) = troubles(changed(endpoints=[ENDPOINT, away]))
    assert found.level == "warning"


@pytest.mark.parametrize(
    ("why", "todo"),
    [
        ("certificate verify failed: unable to get local issuer certificate", "ETCD_CACERT"),
        ("certificate verify failed: self-signed certificate in certificate chain", "ETCD_CACERT"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'a'", "ETCD_ENDPOINTS"),
        ("certificate verify failed: IP address mismatch, certificate is not valid for '127.0.0.1'", "ETCD_ENDPOINTS"),
        ("certificate verify failed: certificate has expired", "renew"),
        ("certificate verify failed: certificate is not yet valid", "clock"),
        ("certificate verify failed: CA cert does not include key usage extension", "openssl verify"),
    ],
)
def test_what_helps_against_a_certificate_that_is_not_trusted(why: str, todo: str) -> None:
    away = EndpointFacts(url=URL, error=f"its certificate is not trusted: {why}", certificate=until(100))
    found = judge(changed(endpoints=[away]))
    (bad,) = [finding for finding in found if finding.level == "failure"]
    assert todo in bad.todo
    assert ("ETCD_CACERT" in bad.todo) == (todo == "ETCD_CACERT")
    # What is fine about a certificate that is not trusted is its dates, and nothing else.
    (dates,) = [finding for finding in found if (finding.check, finding.subject) == ("certificate", URL)]
    assert dates.text.startswith("the dates of the certificate are fine")


def test_a_wrong_name_is_asked_about_before_anything_is_granted() -> None:
    denied = Reading(prefix="/config/orders/", error="denied", refused=True)
    found = troubles(changed(wanted=wanted(namespace="orders"), data=denied, releases=denied, scope=None))
    assert {finding.check for finding in found} == {"read", "permission"}
    assert all(finding.todo.startswith("is SERVICE_NAME=orders right? If it is, ") for finding in found)
    central = changed(wanted=wanted(namespace=None), data=denied, scope=None)
    assert not any("SERVICE_NAME" in finding.todo for finding in troubles(central))


def test_endpoints_of_two_clusters() -> None:
    other = msgspec.structs.replace(ENDPOINT, url="https://b:2379", cluster_id="255", member_id="12")
    (found,) = troubles(changed(endpoints=[ENDPOINT, other]))
    assert (found.level, found.check) == ("failure", "cluster")
    assert f"1: {URL}; ff: https://b:2379" in found.text


def test_one_member_under_two_names() -> None:
    again = msgspec.structs.replace(ENDPOINT, url="https://localhost:2379")
    (found,) = troubles(changed(endpoints=[ENDPOINT, again]))
    assert (found.level, found.check) == ("warning", "cluster")
    assert "the same member" in found.text


def test_etcd_wants_a_user() -> None:
    refused = EndpointFacts(url=URL, version="3.6.16", refused="user name is empty")
    user = UserFacts(authentication=True)
    (found,) = troubles(
        changed(endpoints=[refused], user=user, wanted=wanted(user=None), data=None, releases=None, scope=None)
    )
    assert (found.level, found.check) == ("failure", "authentication")
    assert "set ETCD_USER" in found.todo


def test_without_a_user_what_is_refused_is_one_finding() -> None:
    data, releases = (
        Reading(prefix=prefix, error="user name is empty", refused=True)
        for prefix in ("/config/payments/", "/configsvc/releases/payments/")
    )
    for user in (UserFacts(authentication=True), None):
        (found,) = troubles(changed(user=user, wanted=wanted(user=None), data=data, releases=releases, scope=None))
        assert (found.level, found.check) == ("failure", "authentication")
        assert found.todo == "set ETCD_USER and ETCD_PASSWORD_FILE"


def test_the_flag_is_that_of_the_version() -> None:
    silent = Progress(state="silent", seconds=1)
    for version, flag in (("3.5.35", "--experimental-watch-"), ("3.6.16", "with --watch-"), ("3.7.3", "with --watch-")):
        (found,) = troubles(endpoint(progress=silent, version=version))
        assert flag in found.todo


def test_a_central_service_reads_everything_of_ours() -> None:
    granted = [reads("/config/", "READWRITE"), reads("/configsvc/", "READWRITE")]
    central = changed(
        wanted=Wanted(namespace=None, environment="development", writes=True, user="central"),
        user=UserFacts(authentication=True, roles=["r"], permissions=granted),
        scope=None,
    )
    assert troubles(central) == []
    less = msgspec.structs.replace(central, user=UserFacts(authentication=True, permissions=[reads("/config/")]))
    assert [(found.level, found.check) for found in troubles(less)] == [("failure", "permission")]
