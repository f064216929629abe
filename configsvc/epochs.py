"""The keys that tell histories of a namespace apart: made where there is none, replaced after a fork.

Every write is a transaction under a compare, so that a write that etcd applies late, after its answer was given up,
changes nothing. Which writes are wanted is the follower's to say; releases are written by `writes/`.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import structlog

from configsvc.core.model import FORMAT, epoch_path
from configsvc.etcd.ops import Compare, Delete, Etcd, Put, Range, Txn, prefix_end

FORKS = b"/configsvc/forks/"
EPOCHS_PER_TXN = 100
"""etcd takes 128 operations at most."""

log = structlog.get_logger()


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """A fork whose namespaces are being given new epochs: each with the epoch key's value that must go."""

    format: int = FORMAT
    since: str
    epochs: dict[str, bytes]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Fork)


class Epochs:
    """Writes epoch keys under compares. Losing a race is no error: the winner's value is as good."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd

    async def create_epochs(self, namespaces: Iterable[str]) -> None:
        """Give each namespace an epoch key where it has none. Raises `EtcdError` kinds."""
        await self._replace_epochs(dict.fromkeys(namespaces, b""))

    async def _replace_epochs(self, epochs: Mapping[str, bytes]) -> None:
        """A new value for each key that still has the given one (empty: absent); many in one transaction."""
        names = sorted(epochs)
        while names:
            batch, names = names[:EPOCHS_PER_TXN], names[EPOCHS_PER_TXN:]
            if await self._replace(batch, epochs) or len(batch) == 1:
                continue
            # Somebody else was there first for some of them.
            for name in batch:
                await self._replace([name], epochs)

    async def _replace(self, names: Sequence[str], epochs: Mapping[str, bytes]) -> bool:
        compare = tuple(_still(epoch_path(name), epochs[name]) for name in names)
        puts = tuple(Put(key=epoch_path(name), value=_new_epoch()) for name in names)
        return (await self._etcd.txn(Txn(compare=compare, success=puts))).succeeded

    async def rotate_epochs(self, epochs: Mapping[str, bytes]) -> None:
        """Replace the epoch key of each namespace whose value is still the given one (empty: absent).

        A record of the intent comes first and goes last, so that a writer that dies in between leaves work that
        `finish` does. Raises `EtcdError` kinds; what was not rotated then still has its record.
        """
        if not epochs:
            return
        fork = Fork(since=datetime.now(UTC).isoformat(timespec="seconds"), epochs=dict(epochs))
        marker = FORKS + secrets.token_hex(8).encode()
        absent = Compare(key=marker, target="CREATE", value=0)
        await self._etcd.txn(Txn(compare=(absent,), success=(Put(key=marker, value=_encoder.encode(fork)),)))
        await self._rotate(marker, fork)

    async def finish(self) -> None:
        """Finish what a writer began and did not live to end. Raises `EtcdError` kinds."""
        begun = await self._etcd.range(Range(key=FORKS, range_end=prefix_end(FORKS)))
        for kv in begun.kvs:
            try:
                fork = _decoder.decode(kv.value)
            except msgspec.MsgspecError as error:
                log.warning(
                    "the record of a fork is unreadable and was left alone", key=kv.key.decode(), error=str(error)
                )
                continue
            log.info("finishing the new epochs of a fork", since=fork.since, namespaces=len(fork.epochs))
            await self._rotate(kv.key, fork)

    async def _rotate(self, marker: bytes, fork: Fork) -> None:
        await self._replace_epochs(fork.epochs)
        there = Compare(key=marker, target="CREATE", value=0, result="GREATER")
        await self._etcd.txn(Txn(compare=(there,), success=(Delete(key=marker),)))


def _still(key: bytes, value: bytes) -> Compare:
    return Compare(key=key, target="VALUE", value=value) if value else Compare(key=key, target="CREATE", value=0)


def _new_epoch() -> bytes:
    return secrets.token_hex(16).encode()
