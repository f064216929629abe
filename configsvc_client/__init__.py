"""Live configuration for applications: read like a dictionary, without a restart, without a network call per read.

    from configsvc_client import ConfigClient

    config = ConfigClient()
    config.get("database.pool_size", default=10)

Everything public is here; the modules behind it may move.
"""

from configsvc_client.aio import AsyncConfigClient
from configsvc_client.backoff import Backoff
from configsvc_client.client import ConfigClient
from configsvc_client.errors import (
    ClientClosed,
    ConfigError,
    ConfigKeyError,
    ConfigValueError,
    InvalidOption,
    LinkFailed,
)
from configsvc_client.iterators import AsyncChangeIterator, ChangeIterator
from configsvc_client.metrics import Sample
from configsvc_client.options import Tuning
from configsvc_client.view import MISSING, ClientStatus, ConfigChange

__all__ = [
    "MISSING",
    "AsyncChangeIterator",
    "AsyncConfigClient",
    "Backoff",
    "ChangeIterator",
    "ClientClosed",
    "ClientStatus",
    "ConfigChange",
    "ConfigClient",
    "ConfigError",
    "ConfigKeyError",
    "ConfigValueError",
    "InvalidOption",
    "LinkFailed",
    "Sample",
    "Tuning",
]
