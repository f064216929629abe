"""From settings to a running application: etcd, hub and follower, in the order in which they need each other."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from functools import partial

from aiohttp import web

from configsvc.core.guards import Guards
from configsvc.core.model import namespace_prefix
from configsvc.core.replica import Replica
from configsvc.core.retention import Retention
from configsvc.epochs import Epochs
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.ops import Refused
from configsvc.etcd.tls import TlsFiles
from configsvc.follower import Follower
from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.settings import Settings, SettingsError
from configsvc.store import Saver, Store
from configsvc.web.app import Lifetime, create_app, running
from configsvc.web.context import follows
from configsvc.writes.janitor import Janitor
from configsvc.writes.schedule import Schedule
from configsvc.writes.writer import Writer


def build(settings: Settings, *, keeps: bool = True) -> web.Application:
    """The application that the settings describe. No connection is opened before it is started.

    Last-known-good files are read by all, and written where it `keeps` them: one process of a service is enough.
    Raises `SettingsError` where a certificate or key is there, as settings have checked, but is none.
    """
    check_certificates(settings)
    replica = Replica(settings.environment)
    store = _store(settings)
    hub = Hub(
        replica,
        heartbeat_s=settings.heartbeat_s,
        max_frames=settings.frame_log_count,
        max_bytes=settings.frame_log_bytes,
        max_streams=settings.max_streams,
    )
    metrics = Metrics(hub)
    gateway, prefix = Gateway(gateway_config(settings), observer=metrics), namespace_prefix(settings.service_name)
    follower = Follower(
        gateway,
        hub,
        prefix=prefix,
        epochs=Epochs(gateway) if settings.writes else None,
        keep=store.save_history if store and keeps else lambda history: None,
    )

    async def etcd_open(app: web.Application) -> AsyncIterator[None]:
        async with gateway, running(app, gateway.readmit(prefix), "endpoints"):
            yield

    async def following(app: web.Application) -> AsyncIterator[None]:
        async with running(app, follower.run(), "follower"):
            yield

    writer = Writer(gateway, by=_name(), guards=guards(settings), observer=metrics)

    janitor = Janitor(
        gateway,
        writer,
        namespace=settings.service_name,
        open_scopes=lambda: [scope for scope, state in replica.scopes.items() if state.hold is not None],
        retention=Retention(count=settings.history_count, age_s=settings.history_age_s),
    )

    schedule = _schedule(settings, gateway, janitor, writer)

    async def tidying(app: web.Application) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(running(app, janitor.run(), "janitor"))
            if schedule is not None:
                await stack.enter_async_context(running(app, schedule.run(), "backups"))
            yield

    # One process of a service is enough, as for the files; all services together have one janitor at work.
    tidy = [tidying] if settings.writes and keeps else []
    if tidy:
        metrics.tidied(janitor, schedule)
    return create_app(
        settings,
        hub,
        metrics=metrics,
        follower=follower,
        etcd=gateway,
        store=store,
        writer=writer,
        lifetimes=[etcd_open, *_keeping(settings, store, hub, follower, keeps=keeps), following, *tidy],
    )


def check_certificates(settings: Settings) -> None:
    """Raise `SettingsError` where etcd's certificates cannot be used."""
    try:
        TlsFiles(cacert=settings.etcd_cacert, cert=settings.etcd_cert, key=settings.etcd_key).context()
    except Refused as error:
        raise SettingsError([f"ETCD_CACERT, ETCD_CERT, ETCD_KEY: {error}"]) from error


def _keeping(settings: Settings, store: Store | None, hub: Hub, follower: Follower, *, keeps: bool) -> list[Lifetime]:
    """Start from the last-known-good snapshots, and keep them up to date, where there is a place for them."""
    if store is None:
        return []

    async def keeping(app: web.Application) -> AsyncIterator[None]:
        saver = Saver(store, hub.replica, proved_at=lambda: hub.proved_time)
        if keeps:
            store.try_out()
            hub.on_publish = saver.note
        follower.recall(store.load(partial(follows, settings)), store.load_history())
        if not keeps:
            yield
            return
        async with running(app, saver.run(), "saver"):
            yield
        saver.renew()
        await saver.flush()

    return [keeping]


def _store(settings: Settings) -> Store | None:
    if settings.cache_dir is None:
        return None
    return Store(settings.cache_dir, max_age_s=settings.cache_max_age_s, owner=settings.service_name or "")


def _schedule(settings: Settings, etcd: Gateway, janitor: Janitor, writer: Writer) -> Schedule | None:
    if settings.backup_dir is None:
        return None
    return Schedule(
        etcd,
        settings.backup_dir,
        namespace=settings.service_name,
        every_s=settings.backup_every_s,
        keep=settings.backup_keep,
        is_my_turn=lambda: janitor.is_working,
        now=writer.now,
        by="schedule",
    )


def guards(settings: Settings) -> Guards:
    """The settings that concern accidents."""
    return Guards(
        max_deleted=settings.max_deleted,
        max_growth=settings.max_growth,
        max_scope_bytes=settings.max_scope_bytes,
        max_releases_per_min=settings.max_releases_per_min,
    )


def _name() -> str:
    """This process among writers, for people."""
    return f"{socket.gethostname()}/{os.getpid()}"


def gateway_config(settings: Settings) -> GatewayConfig:
    """The settings that concern etcd.

    An endpoint that takes connections and never answers may cost half a heartbeat and no more: the one after it has to
    be watched within two.
    """
    patience_s = min(2.0, settings.heartbeat_s / 2)
    return GatewayConfig(
        read_s=patience_s,
        created_s=patience_s,
        endpoints=settings.etcd_endpoints,
        user=settings.etcd_user,
        password_file=settings.etcd_password_file,
        cacert=settings.etcd_cacert,
        cert=settings.etcd_cert,
        key=settings.etcd_key,
        breaker_failures=settings.breaker_failures,
        breaker_open_s=settings.breaker_open_s,
    )
