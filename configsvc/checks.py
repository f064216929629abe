"""What `configsvc check` finds: facts about etcd, the scope and the port, judged one by one, each with what to do.

Pure: facts are gathered elsewhere (`etcd/survey.py`, `cli/gathering.py`); of etcd's members judges `checks_etcd.py`.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import msgspec

from configsvc.checks_etcd import Finding, Level, judge_alarms, judge_certificate, judge_cluster, judge_endpoint
from configsvc.core.model import ROOT
from configsvc.etcd.facts import Alarm, Certificate, ClusterMember, EndpointFacts, UserFacts
from configsvc.permissions import excess, lacks_writing, needed


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
    found = [
        finding for endpoint in facts.endpoints for finding in judge_endpoint(endpoint, facts.now, answering=others)
    ]
    found += [
        *judge_cluster(facts.endpoints, facts.members),
        *judge_alarms(facts.alarms, facts.members or ()),
        *_files(facts),
        *_authentication(facts),
    ]
    found += [*_data(facts), *_scope(facts), *_cache(facts), *_listen(facts.listen)]
    return found


def verdict(found: list[Finding]) -> Level:
    """The worst level of all; `unknown` counts as a warning."""
    levels = {finding.level for finding in found}
    return "failure" if "failure" in levels else "warning" if levels & {"warning", "unknown"} else "ok"


# ---- certificates, users ---------------------------------------------------------------------------------------------


def _files(facts: Facts) -> Iterator[Finding]:
    for name, read in facts.files.items():
        if isinstance(read, str):
            yield Finding(level="unknown", check="certificate", subject=name, text=f"cannot tell its dates: {read}")
        else:
            yield judge_certificate(name, read, facts.now, "renew it; the service reads it when it starts")


def _authentication(facts: Facts) -> Iterator[Finding]:
    wanted, user = facts.wanted, facts.user
    refusals = sorted({endpoint.refused for endpoint in facts.endpoints if endpoint.refused})
    named = any(
        isinstance(read, Certificate) and read.has_common_name and name.startswith("ETCD_CERT ")
        for name, read in facts.files.items()
    )
    if user is not None and user.authentication and named:
        yield Finding(
            level="failure",
            check="authentication",
            text="the client certificate has a common name: etcd's JSON gateway refuses those where it asks for users",
            todo="use a certificate without a common name, and ETCD_USER with ETCD_PASSWORD_FILE",
        )
        return
    for reason in refusals:
        known, unknown = "look at ETCD_USER and at the password in ETCD_PASSWORD_FILE", "make a user for this service"
        yield Finding(
            level="failure",
            check="authentication",
            text=f"etcd refuses us: {reason}",
            todo=known if wanted.user else f"{unknown}, and set ETCD_USER and ETCD_PASSWORD_FILE",
        )
    if _lacks_user(facts) and not refusals:
        yield Finding(
            level="failure",
            check="authentication",
            text="etcd's authentication is on, and no user is set here",
            todo="set ETCD_USER and ETCD_PASSWORD_FILE",
        )
    if user is not None and user.authentication is False:
        ignored = f"; ETCD_USER={wanted.user} is not looked at" if wanted.user else ""
        yield Finding(
            level="warning",
            check="authentication",
            text=f"etcd asks for no user: whoever reaches it can read and change everything{ignored}",
            todo="where others can reach it, make users and run etcdctl auth enable",
        )
    elif user is not None and user.authentication and wanted.user and not refusals:
        yield from _permissions(facts, user)


def _lacks_user(facts: Facts) -> bool:
    """Whether what we may not is only because we say nothing of who we are."""
    refused = any(reading is not None and reading.refused for reading in (facts.data, facts.releases))
    return refused and not facts.wanted.user


def _name_first(facts: Facts) -> str:
    """A question to answer before anything is granted: a wrong name must not end in access to another team's data."""
    refused = facts.data is not None and facts.data.refused
    return f"is SERVICE_NAME={facts.wanted.namespace} right? If it is, " if refused and facts.wanted.namespace else ""


def _permissions(facts: Facts, user: UserFacts) -> Iterator[Finding]:
    wanted = facts.wanted
    need = needed(wanted.namespace, writes=wanted.writes)
    who = f"etcd user {wanted.user}"
    narrow = f"{_name_first(facts)}give it a role that may exactly: {', '.join(map(str, need))}"
    if "root" in user.roles:
        yield Finding(level="warning", check="permission", text=f"{who} may do everything (role root)", todo=narrow)
        return
    if user.permissions is None:
        text = f"{who}: etcd does not tell what it may do: {user.reason}"
        yield Finding(level="unknown", check="permission", text=text)
        return
    # That it may read is tried, see `_data`; whether it may write cannot be.
    more = excess(user.permissions, need)
    less = [one.prefix for one in need if lacks_writing(user.permissions, one)]
    if less:
        text = f"{who} may not write below {', '.join(less)}, which a service with CONFIGSVC_WRITES=true does"
        yield Finding(level="failure", check="permission", text=text, todo=f"{narrow}, or set CONFIGSVC_WRITES=false")
    if more:
        text = f"{who} may do more than this service needs: {', '.join(more)}"
        yield Finding(level="warning", check="permission", text=text, todo=narrow)
    if not less and not more:
        yield Finding(level="ok", check="permission", text=f"{who} may do nothing beyond what this service needs")


# ---- what is to be served, and where ---------------------------------------------------------------------------------


def _is_told(facts: Facts) -> bool:
    """Whether why nothing can be read was said of the user."""
    return _lacks_user(facts) or any(endpoint.refused for endpoint in facts.endpoints)


def _data(facts: Facts) -> Iterator[Finding]:
    for reading in (facts.data, facts.releases):
        if reading is not None and reading.error is not None and not _is_told(facts):
            level: Level = "warning" if reading is facts.releases else "failure"
            yield Finding(
                level=level,
                check="read",
                subject=reading.prefix,
                text=f"cannot be read: {reading.error}",
                todo=f"{_name_first(facts)}etcdctl role grant-permission ROLE --prefix=true read {reading.prefix}"
                if reading.refused
                else "",
            )
    if facts.data is not None and facts.data.error is None:
        yield Finding(
            level="ok",
            check="read",
            subject=facts.data.prefix,
            text=f"{_keys(facts.data.count)} can be read: all environments, and configsvc's own below _meta",
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
