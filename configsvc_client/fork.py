"""What a forked process inherits, and how it lets go of it without its parent noticing.

A fork copies memory and descriptors, but no threads. What stands behind a descriptor is shared: to take a socket out of
the inherited epoll, or to end its TLS, would end the parent's stream. So a child never runs, closes or collects the
loop it inherited; it closes the descriptors alone, and begins anew. This module owns that rule and the hooks. What
beginning anew means, each client knows.
"""

import asyncio
import contextlib
import logging
import os
import selectors
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import AddrInfoType

Member = TypeVar("Member")

logger = logging.getLogger("configsvc_client")


class Sockets:
    """The sockets of one link, whatever they are being used for."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def open(self, address: AddrInfoType) -> socket.socket:
        """Make a socket for an address; what aiohttp calls for each connection."""
        family, kind, protocol, _, _ = address
        with _Whole():
            opened = socket.socket(family, kind, protocol)
            self._open.add(opened)
        return opened

    def abandon(self) -> None:
        """In a child: close all descriptors, and nothing else. The parent's connections stay as they are."""
        for opened in list(self._open):
            _close_raw(opened)
        self._open = weakref.WeakSet()


class Loop:
    """An event loop that a child can abandon."""

    def __init__(self) -> None:
        with _Whole():
            # Whatever policy the application has set: of another kind of loop we would not know what it holds.
            self._selector = selectors.DefaultSelector()
            self.loop = asyncio.SelectorEventLoop(self._selector)

    def abandon(self) -> None:
        """In a child: close the loop's own descriptors. It never runs again, and is kept so that nothing ends it."""
        _kept.append(self.loop)
        if self.loop.is_closed():
            return
        # Closes the descriptor only: what is registered in the epoll stays so, and is the parent's.
        self._selector.close()
        for name in ("_ssock", "_csock"):
            pair = getattr(self.loop, name, None)
            if isinstance(pair, socket.socket):
                _close_raw(pair)


def _close_raw(opened: socket.socket) -> None:
    """Close a descriptor such that its object, whenever it is collected, closes no other one of the same number."""
    descriptor = opened.detach()
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def keep(*inherited: Any) -> None:
    """In a child: never collect these. Tasks and transports would say good-bye, over what is the parent's."""
    _kept.extend(inherited)


def register(member: Member, begin_anew: Callable[[Member], None]) -> None:
    """Call `begin_anew(member)` in each child, which has one thread then, for as long as the member lives."""
    _members[member] = begin_anew


def check() -> None:
    """For slow paths: find out that this is a child of a fork that told nobody, as a foreign server's fork may."""
    if os.getpid() != _pid:
        _in_child()


class _Whole:
    """A step that no fork may divide: what is opened in it is also noted in it."""

    def __enter__(self) -> None:
        _guard.acquire()

    def __exit__(self, *_: object) -> None:
        # In a child that was forked in the middle, by this thread, the lock is another one.
        with contextlib.suppress(RuntimeError):
            _guard.release()


def _before() -> None:
    _guard.acquire()


def _in_parent() -> None:
    _guard.release()


def _in_child() -> None:
    global _guard, _pid
    _guard = threading.RLock()
    if _pid == os.getpid():
        return
    _pid = os.getpid()
    for member, begin_anew in list(_members.items()):
        try:
            begin_anew(member)
        except Exception:
            logger.exception("%r does not survive the fork", member)


_kept: list[Any] = []
_members: "weakref.WeakKeyDictionary[Any, Callable[[Any], None]]" = weakref.WeakKeyDictionary()
_guard = threading.RLock()
_pid = os.getpid()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

if (_uwsgi := sys.modules.get("uwsgi")) is not None:
    # uWSGI forks without Python's hooks. Its decorators keep a list of its own, and refuse to load without a master.
    try:
        from uwsgidecorators import postfork  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except Exception:
        _uwsgi.post_fork_hook = _in_child  # type: ignore[attr-defined]
    else:
        postfork(_in_child)
