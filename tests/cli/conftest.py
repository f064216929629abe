"""A central service, and a shell beside it."""

import pytest

from tests.cli.shell import Shell
from tests.support.etcd import newest
from tests.support.process import ServiceProcess


@pytest.fixture(scope="module")
def url(start_etcd, tmp_path_factory):
    """A central service."""
    folder = tmp_path_factory.mktemp("service")
    with ServiceProcess(
        folder, CONFIGSVC_MODE="central", ETCD_ENDPOINTS=start_etcd(newest()).url, CONFIGSVC_HEARTBEAT_S="0.5"
    ) as process:
        process.start()
        yield process.url


@pytest.fixture
def shell(url, tmp_path):
    return Shell(url, tmp_path)
