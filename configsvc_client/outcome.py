"""What an event of the stream, or the answer to a poll, did to a session. Pure data."""

from typing import NamedTuple

from configsvc_client.snapshot import Snapshot


class Outcome(NamedTuple):
    """The new state where there is one to be told of, and what people should know of."""

    snapshot: Snapshot | None = None
    notice: str | None = None


NOTHING = Outcome()
