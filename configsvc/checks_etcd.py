"""What `configsvc check` says of etcd's members, certificates and cluster. Pure; beside it `checks.py` for the rest.

The readers may never have seen etcd: a finding says what is so in plain words, and `todo` what to do about it.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from configsvc.etcd.facts import Alarm, Certificate, ClusterMember, EndpointFacts, Progress
from configsvc.etcd.versions import advice, parse_version, too_old

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


# ---- endpoints, one by one -------------------------------------------------------------------------------------------


def judge_endpoint(endpoint: EndpointFacts, now: datetime, *, answering: int) -> Iterator[Finding]:
    """One endpoint; `answering` is how many of all do."""
    if endpoint.error is not None:
        yield Finding(
            level="warning" if answering else "failure",
            check="endpoint",
            subject=endpoint.url,
            text=endpoint.error + ("; the service goes on with those that answer" if answering else ""),
            todo=_how_to_reach(endpoint, endpoint.error),
        )
    else:
        yield Finding(
            level="ok", check="endpoint", subject=endpoint.url, text=f"answers, etcd {endpoint.version or '?'}"
        )
        yield from _version_and_clock(endpoint)
    if endpoint.certificate is not None:
        yield judge_certificate(endpoint.url, endpoint.certificate, now, "renew the member's certificate")
    if endpoint.cluster_id is not None:
        yield from _member(endpoint)
    if endpoint.progress is not None:
        yield _progress(endpoint, endpoint.progress)


_UNTRUSTED = {
    "mismatch": "name etcd in ETCD_ENDPOINTS by a name or address that is in its certificate (subjectAltName)",
    "expired": "renew the certificate that has expired: the member's, or the authority's",
    "not yet valid": "look at the clocks of this machine and of who issued the certificate",
    "issuer": "name the authority that signed etcd's certificate in ETCD_CACERT",
    "self-signed": "name the authority that signed etcd's certificate in ETCD_CACERT",
    "self signed": "name the authority that signed etcd's certificate in ETCD_CACERT",
}
"""What helps, by OpenSSL's words for why a certificate is not trusted."""
_UNTRUSTED_OTHERWISE = "look at both certificates with openssl verify -CAfile, and issue the one that is not right anew"


def _how_to_reach(endpoint: EndpointFacts, error: str) -> str:
    if endpoint.other_scheme:
        other = "http" if endpoint.url.startswith("https:") else "https"
        return f"it answers by {other}: write {other}:// in ETCD_ENDPOINTS" + (
            ", and name its authority in ETCD_CACERT" if other == "https" else ""
        )
    if "not trusted" in error:
        return next((todo for words, todo in _UNTRUSTED.items() if words in error.lower()), _UNTRUSTED_OTHERWISE)
    if "alert" in error.lower() and "certificate" in error.lower():
        return "etcd asks for a client certificate: set ETCD_CERT and ETCD_KEY to one that it knows"
    if "does not answer like etcd" in error:
        return "name etcd's client URL in ETCD_ENDPOINTS (usually port 2379; 2380 is for its members)"
    return "start etcd there, or correct ETCD_ENDPOINTS"


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
        return Finding(
            level="ok",
            text=f"keeps {endpoint.history} revision{'' if endpoint.history == 1 else 's'} of history",
            **about,
        )
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
                "try again, or with a longer --progress-s"
            )
        case _:
            return "unknown", f"cannot tell whether its progress interval is set: {reason}"


# ---- the cluster -----------------------------------------------------------------------------------------------------


def judge_cluster(endpoints: list[EndpointFacts], members: list[ClusterMember] | None) -> Iterator[Finding]:
    """Whether the endpoints are the members of one cluster; `members` is None where it did not list them."""
    told = [endpoint for endpoint in endpoints if endpoint.cluster_id is not None]
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
    if members is not None:
        yield _membership(by_member, members, silent=len(told) < len(endpoints))


def _membership(by_member: dict[str, list[str]], members: list[ClusterMember], *, silent: bool) -> Finding:
    missing = [member for member in members if member.member_id not in by_member]
    total = len(members)
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


def judge_alarms(alarms: list[Alarm] | None, members: Iterable[ClusterMember]) -> Iterator[Finding]:
    """Each alarm, or that there is none; nothing where the cluster did not tell."""
    names = {member.member_id: member.name for member in members}
    for alarm in alarms or ():
        who = names.get(alarm.member_id) or alarm.member_id
        if alarm.alarm == "NOSPACE":
            text = f"alarm NOSPACE of member {who}: its space is used up, and the cluster takes no changes any more"
            todo = "compact, run etcdctl defrag on each member, then etcdctl alarm disarm"
        else:
            text = f"alarm {alarm.alarm} of member {who}" + (": its data is damaged" * (alarm.alarm == "CORRUPT"))
            todo = "take that member out of the cluster, and add it again empty"
        yield Finding(level="failure", check="alarm", text=text, todo=todo)
    if alarms == []:
        yield Finding(level="ok", check="alarm", text="the cluster has raised no alarm")


# ---- certificates ----------------------------------------------------------------------------------------------------


def judge_certificate(subject: str, certificate: Certificate, now: datetime, todo: str) -> Finding:
    """Whether a certificate is valid, and for long enough; `todo` where it is not."""
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
    return Finding(level="ok", text=f"the dates of the certificate are fine: it is valid until {until}", **about)


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
