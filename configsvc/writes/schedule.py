"""Backups to a folder at intervals, by the one janitor that works; the newest few are kept.

A file appears under its name when it is complete and on disk. What else lies in the folder is left alone.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import time

import structlog

from configsvc.core.backup import SUFFIX
from configsvc.etcd.ops import Etcd, EtcdError
from configsvc.writes import backup

LOOK_S = 5.0
"""How often it is looked whether a backup is due and whose turn it is."""
RETRY_S = 60.0
"""How soon one that failed is tried again."""

log = structlog.get_logger()


def name_of(namespace: str | None, at: str) -> str:
    """A backup's file name; names of one namespace sort as their times do."""
    return f"{namespace or 'all'}-{at.replace(':', '').replace('.', '')}{SUFFIX}"


def kept_here(folder: Path, namespace: str | None) -> list[Path]:
    """The backups of a namespace in a folder, oldest first."""
    own = re.compile(re.escape(namespace or "all") + r"-\d{4}-\d\d-\d\dT\d{9}Z" + re.escape(SUFFIX), re.ASCII)
    return sorted(path for path in folder.iterdir() if own.fullmatch(path.name))


class Schedule:
    """Backups of `namespace`, or of everything, every `every_s` seconds while `is_my_turn`."""

    def __init__(
        self,
        etcd: Etcd,
        folder: Path,
        *,
        namespace: str | None,
        every_s: float,
        keep: int,
        is_my_turn: Callable[[], bool],
        now: Callable[[], str],
        by: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._etcd = etcd
        self._folder = folder
        self._namespace = namespace
        self._every_s = every_s
        self._keep = keep
        self._is_my_turn = is_my_turn
        self._now = now
        self._by = by
        self._sleep = sleep
        self.last_error: str | None = None
        self.failures = 0
        self.saved_at = 0.0
        """When the newest backup was made, as a Unix time; 0 where there is none."""

    async def run(self) -> None:
        """Make backups, for ever. One that fails is logged and tried again after a minute."""
        clock = asyncio.get_running_loop().time
        due = clock() + min(self._every_s, await asyncio.to_thread(self._left_s))
        while True:
            await self._sleep(min(LOOK_S, max(0.05, due - clock())))
            if clock() < due or not self._is_my_turn():
                continue
            try:
                path = await self.save()
            except (EtcdError, OSError) as error:
                self.last_error = str(error)
                self.failures += 1
                again_in_s = min(RETRY_S, self._every_s)
                log.error("a backup failed", folder=str(self._folder), error=str(error), again_in_s=again_in_s)
                due = clock() + again_in_s
            else:
                self.last_error, self.saved_at = None, time()
                log.info("backup written", path=str(path), bytes=path.stat().st_size)
                due = clock() + self._every_s

    async def save(self) -> Path:
        """Make one backup now, and remove those that are too many. Raises `EtcdError` kinds and `OSError`."""
        at = self._now()
        pieces = backup.file(self._etcd, namespace=self._namespace, by=self._by, at=at)
        path = self._folder / name_of(self._namespace, at)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Values may be secret: the file is its owner's alone, as temporary files are.
        with NamedTemporaryFile(dir=self._folder, prefix=".", suffix=".part", delete=False) as file:
            try:
                async for piece in pieces:
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(_finish, file.fileno(), file.flush)
                os.replace(file.name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(file.name)
                raise
        for old in kept_here(self._folder, self._namespace)[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def _left_s(self) -> float:
        """How long until the next one is due, by the newest that is there: a restart makes no extra one."""
        try:
            newest = kept_here(self._folder, self._namespace)[-1:]
            self.saved_at = newest[0].stat().st_mtime if newest else 0.0
            age_s = max(0.0, time() - self.saved_at) if newest else self._every_s
        except OSError:
            age_s = self._every_s
        return max(0.0, self._every_s - age_s)


def _finish(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)
