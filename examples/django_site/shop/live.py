"""The live configuration: `from shop.live import config`, wherever a value is needed."""

from configsvc_client import ConfigClient

config = ConfigClient()
