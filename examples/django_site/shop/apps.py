import logging

from django.apps import AppConfig

from configsvc_client import ConfigChange

from .live import config

logger = logging.getLogger(__name__)


def on_change(change: ConfigChange) -> None:
    logger.info("%s: %s -> %s", change.key, change.old, change.new)


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self) -> None:
        config.on_change(on_change)
