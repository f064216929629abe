"""What `configsvc check` finds: facts about etcd, the scope and the port, judged one by one, each with what to do.

Pure: facts are gathered elsewhere (`etcd/survey.py`, `cli/gathering.py`). The readers may never have seen etcd, so a
finding says what is so in plain words, and `todo` what to do about it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from configsvc.core.model import ROOT
from configsvc.etcd.facts import Alarm, Certificate, ClusterMember, EndpointFacts, Progress, UserFacts
from configsvc.etcd.versions import advice, parse_version, too_old
from configsvc.permissions import excess, lacks_writing, needed

Level = Literal["ok", "unknown", "warning", "failure"]

EXPIRES_SOON = timedelta(days=21)
SKEW_S = 5.0
QUOTA_WARNING, QUOTA_FAILURE = 0.75, 0.95
MUCH_HISTORY = 100_000
LONG_PROGRESS_S = 8.0
"""A member waits up to a tenth longer than it was told, and its first notice may be the second tick."""
PROGRESS_FLAG = "--watch-progress-notify-interval=2s"
OLD_PROGRESS_FLAG = "--experimental-watch-progress-notify-interval=2s"
"""Of etcd before 3.6."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `check` is stable, for programs; `subject` is what it is about, where there are
    several; `todo` is empty where nothing is to be done."""

    level: Level
    check: str
    subject: str = ""
    text: str
    todo: str = ""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt to read below a prefix: how many keys there are, or why it could not be read."""

    prefix: str
    count: int = 0
    error: str | None = None
    refused: bool = False
    """Whether the error is that we may not."""


class ListenFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The address that the service listens on. `ours`: a configsvc answers there; of it the rest."""

    address: str
    state: Literal["free", "ours", "taken", "unusable"]
    reason: str = ""
    version: str = ""
    serves: str = ""
    status: str = ""
    """Its `/health`."""
    same: bool = True
    """Whether it serves what these settings say."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """As much of the settings as matters here."""

    namespace: str | None
    """A sidecar's; None for a central service."""
    environment: str
    writes: bool
    user: str | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was gathered. What needs an etcd that answers is None where none did."""

    wanted: Wanted
    endpoints: list[EndpointFacts]
    members: list[ClusterMember] | None = None
    alarms: list[Alarm] | None = None
    user: UserFacts | None = None
    data: Reading | None = None
    """All that the service has to read."""
    releases: Reading | None = None
    scope: Reading | None = None
    """A sidecar's own scope."""
    near: list[str] = []
    """Names of scopes that are there, where the own one is empty, the most alike first."""
    files: dict[str, Certificate | str] = {}
    """Certificates that settings name, by variable and path; a text where one cannot be read."""
    cache: str | None = None
    """What keeps the folder for snapshots from being written; empty where nothing does, None without a folder."""
    listen: ListenFacts
    now: datetime


def judge(facts: Facts) -> list[Finding]:
    """Every finding, in the order in which a person would look."""
    others = sum(endpoint.error is None for endpoint in facts.endpoints)
    found = [finding for endpoint in facts.endpoints for finding in _endpoint(endpoint, facts.now, answering=others)]
    found += [*_cluster(facts), *_alarms(facts), *_files(facts), *_authentication(facts)]
    found += [*_data(facts), *_scope(facts), *_cache(facts), *_listen(facts.listen)]
    return found


def verdict(found: list[Finding]) -> Level:
    """The worst level of all; `unknown` counts as a warning."""
    levels = {finding.level for finding in found}
    return "failure" if "failure" in levels else "warning" if levels & {"warning", "unknown"} else "ok"


# ---- endpoints, one by one -------------------------------------------------------------------------------------------


def _endpoint(endpoint: EndpointFacts, now: datetime, *, answering: int) -> Iterator[Finding]:
    if endpoint.error is not None:
        yield Finding(
            level="warning" if answering else "failure",
            check="endpoint",
            subject=endpoint.url,
            text=endpoint.error + ("; the service goes on with those that answer" if answering else ""),
            todo="start etcd there, or correct ETCD_ENDPOINTS",
        )
    else:
        yield Finding(
            level="ok", check="endpoint", subject=endpoint.url, text=f"answers, etcd {endpoint.version or '?'}"
        )
        yield from _version_and_clock(endpoint)
    if endpoint.certificate is not None:
        yield _certificate(endpoint.url, endpoint.certificate, now, "renew the member's certificate")
    if endpoint.cluster_id is not None:
        yield from _member(endpoint)
    if endpoint.progress is not None:
        yield _progress(endpoint, endpoint.progress)


def _version_and_clock(endpoint: EndpointFacts) -> Iterator[Finding]:
    version, skew_s = endpoint.version, endpoint.skew_s
    if version and (known := advice(version)):
        yield Finding(
            level="failure" if too_old(version) else "warning",
            check="version",
            subject=endpoint.url,
            text=known,
            todo="update etcd, one member after the other",
        )
    if skew_s is not None and abs(skew_s) > SKEW_S:
        side = "ahead of" if skew_s > 0 else "behind"
        yield Finding(
            level="warning",
            check="clock",
            subject=endpoint.url,
            text=f"its clock is about {abs(skew_s):.0f} s {side} the one here; "
            "tokens, certificates and the times of changes go by clocks",
            todo="synchronise the clocks (NTP)",
        )


def _member(endpoint: EndpointFacts) -> Iterator[Finding]:
    url = endpoint.url
    if endpoint.leader in ("", "0"):
        yield Finding(
            level="failure",
            check="leader",
            subject=url,
            text="knows no leader: more than half of the cluster's members are away from it",
            todo="start the other members; look at the network between them",
        )
    if endpoint.learner:
        yield Finding(
            level="failure",
            check="learner",
            subject=url,
            text="is a learner: a member that still copies the data and answers no reads",
            todo="promote it (etcdctl member promote), or take it off ETCD_ENDPOINTS",
        )
    yield _space(endpoint)
    yield _compaction(endpoint)


def _space(endpoint: EndpointFacts) -> Finding:
    size, quota, used = endpoint.db_size, endpoint.quota, endpoint.db_used
    about = {"check": "space", "subject": endpoint.url}
    if quota is None:
        return Finding(level="unknown", text=f"data takes {_bytes(size)}; it does not tell its limit", **about)
    text = f"data takes {_bytes(size)} of the {_bytes(quota)} that it may (--quota-backend-bytes)"
    if size < QUOTA_WARNING * quota:
        return Finding(level="ok", text=text, **about)
    level: Level = "failure" if size >= QUOTA_FAILURE * quota else "warning"
    freed = f"; {_bytes(size - used)} of it are free inside" if used is not None and used < size else ""
    return Finding(
        level=level,
        text=f"{text}{freed}; at the limit it takes no changes any more",
        todo="compact its history and run etcdctl defrag on each member, or raise the limit",
        **about,
    )


def _compaction(endpoint: EndpointFacts) -> Finding:
    about = {"check": "compaction", "subject": endpoint.url}
    if endpoint.history is None:
        return Finding(
            level="unknown", text="cannot tell how much history it keeps: its /metrics is not served here", **about
        )
    if endpoint.history <= MUCH_HISTORY:
        return Finding(level="ok", text=f"keeps {endpoint.history} revisions of history", **about)
    return Finding(
        level="warning",
        text=f"keeps {endpoint.history} revisions of history; without compaction its data grows until it is full",
        todo="set --auto-compaction-mode=periodic --auto-compaction-retention=1h",
        **about,
    )


def _progress(endpoint: EndpointFacts, heard: Progress) -> Finding:
    version = parse_version(endpoint.version or "")
    flag = OLD_PROGRESS_FLAG if version and version < (3, 6) else PROGRESS_FLAG
    level, text = _heard(heard.state, heard.seconds, heard.reason)
    todo = "" if level in ("ok", "unknown") else f"start etcd with {flag}"
    return Finding(level=level, check="progress", subject=endpoint.url, text=text, todo=todo)


def _heard(state: str, seconds: float, reason: str) -> tuple[Level, str]:
    match state:
        case "heard" if seconds > LONG_PROGRESS_S:
            return (
                "warning",
                f"tells idle watches only after {seconds:.0f} s that nothing has happened; 1 to 5 s are good",
            )
        case "heard":
            return "ok", f"tells idle watches that nothing has happened (heard after {seconds:.1f} s)"
        case "silent":
            return "warning", (
                f"said nothing on an idle watch for {seconds:.0f} s: its progress interval is not set (then it is 10 "
                "minutes) or longer than that; the service works, and asks once per heartbeat instead"
            )
        case "busy":
            return "unknown", (
                f"cannot tell whether its progress interval is set: there were changes during the {seconds:.0f} s; "
                "try again, or with a longer --timeout-s"
            )
        case _:
            return "unknown", f"cannot tell whether its progress interval is set: {reason}"


# ---- the cluster -----------------------------------------------------------------------------------------------------


def _cluster(facts: Facts) -> Iterator[Finding]:
    told = [endpoint for endpoint in facts.endpoints if endpoint.cluster_id is not None]
    if not told:
        return
    clusters = sorted({endpoint.cluster_id or "" for endpoint in told})
    if len(clusters) > 1:
        groups = "; ".join(
            f"{int(cluster):x}: {', '.join(e.url for e in told if e.cluster_id == cluster)}" for cluster in clusters
        )
        yield Finding(
            level="failure",
            check="cluster",
            text=f"the endpoints belong to {len(clusters)} different clusters ({groups}), each with data of its own",
            todo="name the members of one cluster in ETCD_ENDPOINTS",
        )
        return
    by_member: dict[str, list[str]] = {}
    for endpoint in told:
        by_member.setdefault(endpoint.member_id or "", []).append(endpoint.url)
    for urls in by_member.values():
        if len(urls) > 1:
            yield Finding(
                level="warning",
                check="cluster",
                text=f"{' and '.join(urls)} are the same member, so the second is no help when the first is away",
                todo="name each member once, and all of them",
            )
    if facts.members is not None:
        yield _membership(facts, by_member, facts.members)


def _membership(facts: Facts, by_member: dict[str, list[str]], members: list[ClusterMember]) -> Finding:
    missing = [member for member in members if member.member_id not in by_member]
    total = len(members)
    silent = any(endpoint.cluster_id is None for endpoint in facts.endpoints)
    if not missing:
        how = "one member, none to take over when it is away" if total == 1 else f"all {total} members answer"
        return Finding(level="ok", check="members", text=how)
    names = ", ".join(f"{m.name or m.member_id} ({', '.join(m.client_urls) or 'no address'})" for m in missing)
    why = "do not answer or are not named" if silent else "are not named in ETCD_ENDPOINTS"
    return Finding(
        level="warning",
        check="members",
        text=f"{len(missing)} of the cluster's {total} members {why}: {names}",
        todo="name all members in ETCD_ENDPOINTS, each by an address that can be reached from here",
    )


def _alarms(facts: Facts) -> Iterator[Finding]:
    names = {member.member_id: member.name for member in facts.members or ()}
    for alarm in facts.alarms or ():
        who = names.get(alarm.member_id) or alarm.member_id
        if alarm.alarm == "NOSPACE":
            text = f"alarm NOSPACE of member {who}: its space is used up, and the cluster takes no changes any more"
            todo = "compact, run etcdctl defrag on each member, then etcdctl alarm disarm"
        else:
            text = f"alarm {alarm.alarm} of member {who}" + (": its data is damaged" * (alarm.alarm == "CORRUPT"))
            todo = "take that member out of the cluster, and add it again empty"
        yield Finding(level="failure", check="alarm", text=text, todo=todo)
    if facts.alarms == []:
        yield Finding(level="ok", check="alarm", text="the cluster has raised no alarm")


# ---- certificates, users ---------------------------------------------------------------------------------------------


def _files(facts: Facts) -> Iterator[Finding]:
    for name, read in facts.files.items():
        if isinstance(read, str):
            yield Finding(level="unknown", check="certificate", subject=name, text=f"cannot tell its dates: {read}")
        else:
            yield _certificate(name, read, facts.now, "renew it; the service reads it when it starts")


def _certificate(subject: str, certificate: Certificate, now: datetime, todo: str) -> Finding:
    about = {"check": "certificate", "subject": subject}
    until = f"{certificate.not_after.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if now >= certificate.not_after:
        return Finding(level="failure", text=f"the certificate has expired: {until}", todo=todo, **about)
    if now < certificate.not_before:
        begins = f"{certificate.not_before.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return Finding(
            level="failure",
            text=f"the certificate is not valid yet: it begins {begins}",
            todo="look at the clock of this machine, then at who issued it",
            **about,
        )
    left = certificate.not_after - now
    if left < EXPIRES_SOON:
        in_words = f"{left.days} days" if left.days > 1 else f"{left.total_seconds() / 3600:.0f} hours"
        return Finding(level="warning", text=f"the certificate expires in {in_words}: {until}", todo=todo, **about)
    return Finding(level="ok", text=f"the certificate is valid until {until}", **about)


def _authentication(facts: Facts) -> Iterator[Finding]:
    wanted, user = facts.wanted, facts.user
    for reason in sorted({endpoint.refused for endpoint in facts.endpoints if endpoint.refused}):
        yield Finding(
            level="failure",
            check="authentication",
            text=f"etcd refuses us: {reason}",
            todo="look at ETCD_USER and at the password in ETCD_PASSWORD_FILE"
            if wanted.user
            else "make a user for this service, and set ETCD_USER and ETCD_PASSWORD_FILE",
        )
    if user is None:
        return
    if user.authentication is False:
        ignored = f"; ETCD_USER={wanted.user} is not looked at" if wanted.user else ""
        yield Finding(
            level="warning",
            check="authentication",
            text=f"etcd asks for no user: whoever reaches it can read and change everything{ignored}",
            todo="where others can reach it, make users and run etcdctl auth enable",
        )
    elif user.authentication and any(
        isinstance(read, Certificate) and read.has_common_name and name.startswith("ETCD_CERT ")
        for name, read in facts.files.items()
    ):
        yield Finding(
            level="failure",
            check="authentication",
            text="the client certificate has a common name: etcd's JSON gateway refuses those where it asks for users",
            todo="use a certificate without a common name, and ETCD_USER with ETCD_PASSWORD_FILE",
        )
    elif user.authentication and wanted.user and not any(endpoint.refused for endpoint in facts.endpoints):
        yield from _permissions(wanted, user)


def _permissions(wanted: Wanted, user: UserFacts) -> Iterator[Finding]:
    need = needed(wanted.namespace, writes=wanted.writes)
    who = f"etcd user {wanted.user}"
    narrow = f"give it a role that may exactly: {', '.join(map(str, need))}"
    if "root" in user.roles:
        yield Finding(level="warning", check="permission", text=f"{who} may do everything (role root)", todo=narrow)
        return
    if user.permissions is None:
        text = f"{who}: etcd does not tell what it may do: {user.reason}"
        yield Finding(level="unknown", check="permission", text=text)
        return
    # That it may read is tried, see `_data`; whether it may write cannot be.
    more, less = excess(user.permissions, need), lacks_writing(user.permissions, need[0])
    if less:
        text = f"{who} may not write below {need[0].prefix}, which a service with CONFIGSVC_WRITES=true does"
        yield Finding(level="failure", check="permission", text=text, todo=f"{narrow}, or set CONFIGSVC_WRITES=false")
    if more:
        text = f"{who} may do more than this service needs: {', '.join(more)}"
        yield Finding(level="warning", check="permission", text=text, todo=narrow)
    if not less and not more:
        yield Finding(level="ok", check="permission", text=f"{who} may do nothing beyond what this service needs")


# ---- what is to be served, and where ---------------------------------------------------------------------------------


def _data(facts: Facts) -> Iterator[Finding]:
    for reading in (facts.data, facts.releases):
        if reading is not None and reading.error is not None and not any(e.refused for e in facts.endpoints):
            level: Level = "warning" if reading is facts.releases else "failure"
            yield Finding(
                level=level,
                check="read",
                subject=reading.prefix,
                text=f"cannot be read: {reading.error}",
                todo=f"grant-permission --prefix=true read {reading.prefix}" if reading.refused else "",
            )
    if facts.data is not None and facts.data.error is None:
        yield Finding(
            level="ok", check="read", subject=facts.data.prefix, text=f"{_keys(facts.data.count)} can be read"
        )


def _scope(facts: Facts) -> Iterator[Finding]:
    if facts.scope is None or facts.scope.error is not None:
        return
    name = facts.scope.prefix.removeprefix(ROOT).removesuffix("/")
    if facts.scope.count:
        yield Finding(level="ok", check="scope", subject=name, text=f"has {_keys(facts.scope.count)}")
        return
    near = f"; there is {', '.join(facts.near)}" if facts.near else ""
    yield Finding(
        level="warning",
        check="scope",
        subject=name,
        text=f"is empty: nothing is stored below {facts.scope.prefix}{near}",
        todo="look at SERVICE_NAME and CONFIG_ENVIRONMENT, or store the first value",
    )


def _cache(facts: Facts) -> Iterator[Finding]:
    if facts.cache:
        yield Finding(
            level="failure",
            check="cache",
            text=f"snapshots cannot be kept: {facts.cache}",
            todo="make the folder of CONFIGSVC_CACHE_DIR writable for this user",
        )
    elif facts.cache is not None:
        yield Finding(level="ok", check="cache", text="the folder for snapshots can be written")


def _listen(listen: ListenFacts) -> Iterator[Finding]:
    about = {"check": "listen", "subject": listen.address}
    match listen.state:
        case "free":
            yield Finding(level="ok", text="is free for the service to listen on", **about)
        case "ours" if listen.same:
            well = listen.status in ("ok", "")
            yield Finding(
                level="ok" if well else "warning",
                text=f"configsvc {listen.version} runs there, serves {listen.serves}"
                + ("" if well else f", and says of itself: {listen.status}"),
                todo="" if well else f"look at http://{listen.address}/health",
                **about,
            )
        case "ours":
            yield Finding(
                level="failure",
                text=f"a configsvc runs there that serves something else: {listen.serves}",
                todo="choose another address with CONFIGSVC_LISTEN, or stop that one",
                **about,
            )
        case "taken":
            yield Finding(
                level="failure",
                text=f"is in use by another program{listen.reason}",
                todo="choose another address with CONFIGSVC_LISTEN, or stop that program",
                **about,
            )
        case _:
            yield Finding(
                level="failure",
                text=f"cannot be listened on: {listen.reason}",
                todo="correct CONFIGSVC_LISTEN",
                **about,
            )


def _keys(count: int) -> str:
    return f"{count} key{'' if count == 1 else 's'}"


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
