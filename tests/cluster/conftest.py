"""Clusters that tests break: started by a thread that lives as long as they do, healthy again before each test."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from configsvc.etcd.local import LocalCluster, LocalEtcd, LocalMember
from tests.support import etcd as support

PROGRESS_S = 0.4
EARLY_SNAPSHOTS = ("--snapshot-count=300", "--snapshot-catchup-entries=300")
Act = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="session")
def hands() -> Iterator[ThreadPoolExecutor]:
    """The one thread that starts and ends members: on Linux they die with the thread that started them."""
    with ThreadPoolExecutor(1, thread_name_prefix="etcd") as executor:
        yield executor


@pytest.fixture
def act(hands: ThreadPoolExecutor) -> Act:
    """Call a blocking function of a cluster while the event loop goes on."""

    async def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(hands, function, *arguments)

    return call


def require(version: str) -> str:
    """The version, or a skip (a failure where all are required) that says how to get it."""
    if reason := support.missing(version):
        if support.required():
            pytest.fail(reason)
        pytest.skip(reason)
    return version


@pytest.fixture(scope="session", params=support.current_versions())
def shared_cluster(request: pytest.FixtureRequest, hands: ThreadPoolExecutor) -> Iterator[LocalCluster]:
    """Three members of each current etcd."""
    with started(request.param, hands) as cluster:
        yield cluster


@pytest.fixture(params=support.current_versions())
def forgetful_cluster(request: pytest.FixtureRequest, hands: ThreadPoolExecutor) -> Iterator[LocalCluster]:
    """Three members of this test alone that keep a short log: who misses some of it gets a raft snapshot.

    Alone, because a member of 3.7.3 that has had one does not always start again after a SIGKILL (its WAL begins
    behind the snapshot).
    """
    with started(request.param, hands, *EARLY_SNAPSHOTS) as cluster:
        yield cluster


@contextmanager
def started(version: str, hands: ThreadPoolExecutor, *extra: str) -> Iterator[LocalCluster]:
    """Three members of a version."""
    options = support.options(require(version), progress_s=PROGRESS_S, extra=extra)
    cluster = LocalCluster(3, options=options)
    hands.submit(cluster.start).result()
    try:
        yield cluster
    finally:
        hands.submit(cluster.stop).result()


@pytest.fixture
def cluster(shared_cluster: LocalCluster, hands: ThreadPoolExecutor) -> LocalCluster:
    """Three members, all of them well, whatever the test before did."""
    hands.submit(heal, shared_cluster).result()
    return shared_cluster


def heal(cluster: LocalCluster) -> None:
    """Let everything go on and run again."""
    for member in cluster.members:
        member.thaw()
    cluster.start_members()


@pytest.fixture(params=[support.WHEEL, *support.current_versions()])
def single(request: pytest.FixtureRequest, hands: ThreadPoolExecutor) -> Iterator[LocalEtcd]:
    """One member of each version, of this test alone: its history may be broken."""
    version = require(request.param)
    etcd = LocalEtcd(options=support.options(version, progress_s=PROGRESS_S))
    hands.submit(etcd.start).result()
    try:
        yield etcd
    finally:
        hands.submit(etcd.stop).result()


def freeze(member: LocalMember) -> None:
    """Freeze a member, and return when it stands still: with many threads that takes a moment."""
    member.freeze()
    assert member.process
    os.waitid(os.P_PID, member.process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What a failure shows are the follower's lines, not one per request."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()
