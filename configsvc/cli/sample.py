"""What `configsvc dev` writes into an empty store: a dozen values as an application might have them.

Plain entries as anybody could put them with etcdctl, in one transaction. No release and no head: nothing was
deployed.
"""

from datetime import datetime
from typing import Any

import msgspec

from configsvc.core.model import ROOT, Scope, entry_path, head_path
from configsvc.etcd.ops import Compare, Etcd, Put, Range, Txn, prefix_end
from configsvc_client.protocol import format_time

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


def sample(scope: Scope, now: datetime) -> Txn:
    """Put the values into a scope that has none of them; changes nothing otherwise."""
    metadata = {"created_by": "configsvc dev", "created_at": format_time(now)}
    paths = {entry_path(scope, key): value for key, value in VALUES.items()}
    return Txn(
        compare=tuple(Compare(key=path, target="CREATE", value=0) for path in (head_path(scope), *paths)),
        success=tuple(
            Put(key=path, value=msgspec.json.encode({"value": value, "metadata": metadata}))
            for path, value in paths.items()
        ),
    )


async def fill(etcd: Etcd, scope: Scope, now: datetime) -> bool:
    """Write the sample into a store that holds no configuration at all; returns whether it did."""
    root = ROOT.encode()
    there = await etcd.range(Range(key=root, range_end=prefix_end(root), count_only=True))
    return not there.count and (await etcd.txn(sample(scope, now))).succeeded
