"""From settings to a running application: etcd, hub and follower, in the order in which they need each other."""

from collections.abc import AsyncIterator

from aiohttp import web

from configsvc.core.model import namespace_prefix
from configsvc.core.replica import Replica
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.follower import Follower
from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.settings import Settings
from configsvc.web.app import create_app, running
from configsvc.writer import Writer


def build(settings: Settings) -> web.Application:
    """The application that the settings describe. Nothing is opened before it is started."""
    hub = Hub(
        Replica(settings.environment),
        heartbeat_s=settings.heartbeat_s,
        max_frames=settings.frame_log_count,
        max_bytes=settings.frame_log_bytes,
        max_streams=settings.max_streams,
    )
    metrics = Metrics(hub)
    gateway = Gateway(gateway_config(settings), observer=metrics)
    writer = Writer(gateway) if settings.writes else None
    follower = Follower(gateway, hub, prefix=namespace_prefix(settings.service_name), writer=writer)

    async def etcd_open(app: web.Application) -> AsyncIterator[None]:
        async with gateway:
            yield

    async def following(app: web.Application) -> AsyncIterator[None]:
        async with running(app, follower.run(), "follower"):
            yield

    return create_app(settings, hub, metrics=metrics, follower=follower, etcd=gateway, lifetimes=[etcd_open, following])


def gateway_config(settings: Settings) -> GatewayConfig:
    """The settings that concern etcd."""
    return GatewayConfig(
        endpoints=settings.etcd_endpoints,
        user=settings.etcd_user,
        password_file=settings.etcd_password_file,
        cacert=settings.etcd_cacert,
        cert=settings.etcd_cert,
        key=settings.etcd_key,
        breaker_failures=settings.breaker_failures,
        breaker_open_s=settings.breaker_open_s,
    )
