"""What `configsvc dev` deploys into an empty store: a dozen values as an application might have them.

A release like any other, so that whatever is changed after it shows as a change, and can be taken back.
"""

from typing import Any

from configsvc.core.commands import About, Command, Deploy, View
from configsvc.core.model import ROOT, Scope, canonical
from configsvc.etcd.ops import Range, prefix_end
from configsvc.writes.applying import WriterEtcd
from configsvc.writes.txns import new_id
from configsvc.writes.writer import Writer

LABEL = "sample"
"""The release's version label."""
BY = "configsvc dev"

VALUES: dict[str, Any] = {
    "cache.nodes": ["cache-1:6379", "cache-2:6379"],
    "cache.ttl_s": 300,
    "database.host": "db.internal",
    "database.pool_size": 10,
    "database.read_only": False,
    "database.timeout_s": 2.5,
    "debug": False,
    "features.new_checkout": {"enabled": True, "percent": 25},
    "greeting": "Hello, 世界",
    "http.max_retries": 3,
    "log.level": "info",
    "maintenance.message": None,
}


async def fill(etcd: WriterEtcd, scope: Scope) -> bool:
    """Deploy the sample where the store holds no configuration at all; returns whether it did."""
    root = ROOT.encode()
    if (await etcd.range(Range(key=root, range_end=prefix_end(root), count_only=True))).count:
        return False
    writer = Writer(etcd, by=BY)

    async def prepare(view: View) -> Command:
        return Deploy(values={key: canonical(value) for key, value in VALUES.items()}, version=LABEL)

    about = About(by=BY, at=writer.now(), id=new_id(), reason="something to begin with")
    await writer.write(scope, prepare, about, label=LABEL)
    return True
