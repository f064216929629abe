"""One open watch: the bytes of its answer as batches, until it is left.

Owns the answer and nothing else. Reads from the socket only when it is asked for a batch, so a slow reader pushes back
on etcd, which then serves it from its history.
"""

from collections import deque
from collections.abc import AsyncIterator

import aiohttp

from configsvc.etcd.ops import CANCELED, EtcdError, Unavailable, WatchBatch
from configsvc.etcd.reader import WatchReader
from configsvc.etcd.transport import translated


class WatchStream(AsyncIterator[WatchBatch]):
    """Batches in etcd's order. Ends after `canceled`; raises `EtcdError` when the stream breaks or ends otherwise.

    Safe to cancel: a reader that is interrupted while it waits loses nothing and may ask again.
    """

    def __init__(self, response: aiohttp.ClientResponse, reader: WatchReader, url: str) -> None:
        self._response = response
        self._reader = reader
        self._url = url
        self._items: deque[WatchBatch | EtcdError] = deque()
        self._end: EtcdError | None = None
        self._done = False

    async def __anext__(self) -> WatchBatch:
        if self._done:
            raise StopAsyncIteration
        while not self._items:
            await self._fill()
        item = self._items.popleft()
        if isinstance(item, EtcdError):
            self._items.append(item)
            raise type(item)(item.detail, endpoint=self._url, **item.fields) from item.__cause__
        self._done = item.kind == CANCELED
        return item

    def push_back(self, batch: WatchBatch) -> None:
        """Give a batch back, to be the next again."""
        self._items.appendleft(batch)
        self._done = False

    def close(self) -> None:
        """Leave: closes the connection, which ends the watch on etcd's side."""
        self._done = True
        self._response.close()

    async def _fill(self) -> None:
        try:
            with translated(is_write=False):
                data = await self._response.content.readany()
        except EtcdError as error:
            self._items.extend(self._reader.end())
            self._items.append(error)
            return
        if data:
            self._items.extend(self._reader.feed(data))
        else:
            self._items.extend(self._reader.end())
            self._items.append(Unavailable("the watch ended"))
