"""Files of last-known-good snapshots: whole or refused, whatever happens to the disk; written behind, newest last."""

import asyncio
import json
import multiprocessing
import os
import resource
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from configsvc import store as store_module
from configsvc.core.model import Scope, entry_path, head_path
from configsvc.core.replica import Replica
from configsvc.store import History, Saved, Saver, Store, saved_of
from tests.support.model_etcd import ModelEtcd, entry_bytes, head_bytes, schema_bytes, window

SCOPE = Scope("shop", "prod")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_etcd(scope: Scope = SCOPE, value: object = 1) -> ModelEtcd:
    etcd = ModelEtcd()
    etcd.txn(
        {
            entry_path(scope, "a"): entry_bytes(value, version="v1", metadata={"created_by": "me"}),
            entry_path(scope, "b"): entry_bytes(None),
            head_path(scope): head_bytes(7),
            f"/config/{scope.namespace}/_meta/schema".encode(): schema_bytes(c=3),
            f"/config/{scope}/_odd".encode(): b"",
        }
    )
    return etcd


def make_replica(etcd: ModelEtcd) -> Replica:
    replica = Replica()
    etcd.relist(replica)
    return replica


def make_saved(scope: Scope = SCOPE, value: object = 1, at: datetime = NOW) -> Saved:
    saved = saved_of(make_replica(make_etcd(scope, value)), scope, at)
    assert saved is not None
    return saved


def make_store(directory: Path, now: datetime = NOW, owner: str = "") -> Store:
    return Store(directory, max_age_s=3600, owner=owner, now=lambda: now)


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


def everything(scope: Scope) -> bool:
    return True


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    etcd = make_etcd()
    replica = make_replica(etcd)
    store = make_store(tmp_path / "deep" / "cache")
    saved = saved_of(replica, SCOPE, NOW)
    assert saved is not None
    assert store.save(saved)
    [loaded] = store.load(everything)
    assert loaded == saved
    assert loaded.snapshot == replica.scopes[SCOPE].snapshot
    assert loaded.fingerprint == (2, 4)
    assert (loaded.proved, loaded.cluster_id, loaded.proved_at) == (etcd.revision, "cluster", NOW)
    head = loaded.stored_head()
    assert head is not None
    assert (head.release, head.version, head.id) == (7, "v7", "id-7")
    past = loaded.past()
    assert (past.proved, past.revisions, past.head_id) == (etcd.revision, {"a": 2, "b": 2}, "id-7")


def test_a_replica_goes_on_from_a_file_without_a_frame_unless_something_changed(tmp_path: Path) -> None:
    etcd = make_etcd()
    store = make_store(tmp_path)
    store.save(make_saved())
    [loaded] = store.load(everything)
    for change in (False, True):
        replica = Replica()
        update = replica.remember(loaded.snapshot, loaded.proved, loaded.stored_head(), tag=loaded.tag)
        assert update.baseline
        assert replica.proved(SCOPE) == loaded.proved
        if change:
            etcd.txn({entry_path(SCOPE, "a"): entry_bytes(2)})
        updates = etcd.relist(replica)
        assert [list(u.delta.set) if u.delta else None for u in updates] == ([["a"]] if change else [])


def test_modes(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    make_store(directory).save(make_saved())
    [path] = files(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_cut_or_changed_anywhere_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(make_saved())
    [path] = files(tmp_path)
    whole = path.read_bytes()
    with capture_logs() as logs:
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert store.load(everything) == []
        assert len(logs) == len(whole)
        for index in range(len(whole)):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
            assert store.load(everything) == []
        path.write_bytes(whole + b"x")
        assert store.load(everything) == []
    assert all(line["log_level"] == "warning" and line["why"] for line in logs)
    path.write_bytes(whole)
    assert len(store.load(everything)) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda line: line.replace(b" 1 scope", b" 2 scope"), "format"),
        (lambda line: b"something else\n", "no file of ours"),
        (lambda line: b"", "cut short"),
    ],
)
def test_the_log_says_why(tmp_path: Path, change: Callable[[bytes], bytes], why: str) -> None:
    store = make_store(tmp_path)
    store.save(make_saved())
    [path] = files(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with capture_logs() as logs:
        assert store.load(everything) == []
    assert why in logs[0]["why"]
    assert logs[0]["file"] == str(path)


def test_another_scopes_file_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(make_saved())
    [path] = files(tmp_path)
    os.rename(path, tmp_path / ("0" * 32 + path.suffix))
    with capture_logs() as logs:
        assert store.load(everything) == []
    assert "another scope" in logs[0]["why"]


def test_an_old_file_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path).save(make_saved())
    assert len(make_store(tmp_path, NOW + timedelta(seconds=3600)).load(everything)) == 1
    with capture_logs() as logs:
        assert make_store(tmp_path, NOW + timedelta(seconds=3601)).load(everything) == []
    assert "too old" in logs[0]["why"]


def test_only_wanted_scopes_are_loaded_and_names_differ_by_case(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    scopes = [Scope("SHOP", "prod"), Scope("shop", "Prod"), Scope("shop", "prod"), Scope("x" * 128, "y" * 128)]
    for value, scope in enumerate(scopes):
        store.save(make_saved(scope, value))
    assert len({path.name.lower() for path in files(tmp_path)}) == 4
    assert [saved.scope for saved in store.load(everything)] == sorted(scopes)
    assert [saved.scope for saved in store.load(lambda scope: scope.namespace == "SHOP")] == [scopes[0]]


def test_forget(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(make_saved())
    assert store.forget(SCOPE)
    assert store.forget(SCOPE)
    assert files(tmp_path) == []


def test_odd_things_in_the_directory_harm_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, datetime.now(UTC))
    store.save(make_saved(at=datetime.now(UTC)))
    (tmp_path / "README").write_text("hello")
    (tmp_path / "directory.cache").mkdir()
    os.mkfifo(tmp_path / "fifo.cache")
    (tmp_path / "fresh.tmp").write_text("another process writes")
    (tmp_path / "old.tmp").write_text("died")
    os.utime(tmp_path / "old.tmp", (1, 1))
    assert len(store.load(everything)) == 1
    assert (tmp_path / "fresh.tmp").exists()
    assert not (tmp_path / "old.tmp").exists()
    assert make_store(tmp_path / "none").load(everything) == []
    with capture_logs() as logs:
        assert make_store(tmp_path / "README").load(everything) == []
    assert len(logs) == 1


def test_a_directory_that_cannot_be_made_is_one_warning_and_shows(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = make_store(tmp_path / "file" / "cache")
    with capture_logs() as logs:
        assert not store.save(make_saved())
        assert not store.save(make_saved())
    assert [line["log_level"] for line in logs] == ["warning"]
    assert store.problem is not None
    assert str(tmp_path) in store.problem
    assert store.problem in repr(store)
    (tmp_path / "file").unlink()
    with capture_logs() as logs:
        assert store.save(make_saved())
    assert [line["log_level"] for line in logs] == ["info"]
    assert store.problem is None


def test_that_nothing_can_be_kept_shows_before_there_is_anything_to_keep(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = make_store(tmp_path / "file" / "cache")
    with capture_logs() as logs:
        assert not store.try_out()
    assert [line["log_level"] for line in logs] == ["warning"]
    assert store.problem is not None
    store = make_store(tmp_path / "new" / "cache")
    assert store.try_out()
    assert (store.problem, files(store.directory)) == (None, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(make_saved())
    tmp_path.chmod(0o500)
    try:
        assert not store.save(make_saved(value=2))
        assert not store.forget(SCOPE)
        assert "ermission" in (store.problem or "")
        assert len(store.load(everything)) == 1
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    def full() -> None:
        # Python ignores SIGXFSZ, so a write beyond the limit fails with EFBIG, as one on a full disk with ENOSPC.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        store = make_store(tmp_path)
        store.save(make_saved(value="x" * 10_000))
        os._exit(0 if store.problem else 1)

    make_store(tmp_path).save(make_saved())
    child = multiprocessing.get_context("fork").Process(target=full)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert len(files(tmp_path)) == 1
    [saved] = make_store(tmp_path).load(everything)
    assert bytes(saved.snapshot.entries["a"].value) == b"1"


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)
    store.save(make_saved())

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, call, die)
            store.save(make_saved(value=2))
        [saved] = store.load(everything)
        assert bytes(saved.snapshot.entries["a"].value) == b"1"
        assert len(files(tmp_path)) == 1


def _write_often(directory: Path, value: int) -> None:
    store = make_store(directory)
    for _ in range(30):
        store.save(make_saved(value=value))


def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_write_often, args=(tmp_path, value)) for value in (1, 2)]
    for child in children:
        child.start()
    store = make_store(tmp_path)
    with capture_logs() as logs:
        while any(child.is_alive() for child in children):
            for saved in store.load(everything):
                assert bytes(saved.snapshot.entries["a"].value) in (b"1", b"2")
    assert logs == []
    assert len(files(tmp_path)) == 1


def test_private_histories_are_kept_apart_by_owner(tmp_path: Path) -> None:
    one, other = make_store(tmp_path, owner="shop"), make_store(tmp_path)
    assert one.load_history() is None
    history = History(cluster_id="c", salt="pepper", epochs={"shop": b"\xff\0", "other": b""})
    assert one.save_history(history)
    assert one.load_history() == history
    assert other.load_history() is None
    assert one.load(everything) == []
    [path] = files(tmp_path)
    whole = path.read_bytes()
    with capture_logs() as logs:
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert one.load_history() is None
    assert len(logs) == len(whole)
    path.unlink()
    make_store(tmp_path).save_history(history)
    [path] = files(tmp_path)
    path.rename(tmp_path / store_module._file_name("history shop"))
    with capture_logs() as logs:
        assert one.load_history() is None
    assert "name" in logs[0]["why"]


def test_a_salt_survives_a_restart(tmp_path: Path) -> None:
    etcd, store = make_etcd(), make_store(tmp_path)
    replica = make_replica(etcd)
    plain = replica.epoch("shop")
    replica.begin_history("pepper", {"shop": b"old"})
    assert replica.epoch("shop") == plain
    replica.begin_history("pepper", etcd.listing().epochs)
    salted = replica.epoch("shop")
    assert salted != plain
    store.save_history(History(cluster_id=replica.cluster_id, salt=replica.salt, epochs=replica.salted))
    kept = store.load_history()
    assert kept is not None
    again = Replica()
    again.begin_history(kept.salt, kept.epochs)
    etcd.relist(again)
    assert again.epoch("shop") == salted


# ---- behind the hub --------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_saver(directory: Path, replica: Replica, proved: list[datetime], clock: Clock | None = None) -> Saver:
    clock = clock or Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds
        await asyncio.sleep(0)

    return Saver(
        make_store(directory), replica, proved_at=lambda: proved[-1] if proved else None, clock=clock, sleep=sleep
    )


def loaded(directory: Path) -> dict[Scope, Saved]:
    return {saved.scope: saved for saved in make_store(directory).load(everything)}


async def test_the_newest_state_is_written_once_for_many_changes(tmp_path: Path) -> None:
    etcd, replica = make_etcd(), Replica()
    proved = [NOW]
    saver = make_saver(tmp_path, replica, proved)
    saver.note(etcd.relist(replica))
    for value in range(5):
        etcd.txn({entry_path(SCOPE, "a"): entry_bytes(value)})
        saver.note(replica.apply(etcd.revision, etcd.events[etcd.revision]))
    await saver.flush()
    assert bytes(loaded(tmp_path)[SCOPE].snapshot.entries["a"].value) == b"4"
    assert "0 to write, 1 written" in repr(saver)


async def test_a_held_scope_keeps_the_file_from_before_its_window(tmp_path: Path) -> None:
    etcd, replica = make_etcd(), Replica()
    saver = make_saver(tmp_path, replica, [NOW])
    saver.note(etcd.relist(replica))
    await saver.flush()
    etcd.txn({head_path(SCOPE): head_bytes(7, applying=window("w")), entry_path(SCOPE, "a"): entry_bytes(9)})
    saver.note(replica.apply(etcd.revision, etcd.events[etcd.revision]))
    await saver.flush()
    assert loaded(tmp_path)[SCOPE].proved == etcd.revision - 1
    etcd.txn({head_path(SCOPE): head_bytes(8)})
    saver.note(replica.apply(etcd.revision, etcd.events[etcd.revision]))
    await saver.flush()
    saved = loaded(tmp_path)[SCOPE]
    assert (saved.snapshot.release, saved.proved) == (8, etcd.revision)


async def test_the_file_of_a_scope_that_is_gone_is_removed(tmp_path: Path) -> None:
    etcd, replica = make_etcd(), Replica()
    saver = make_saver(tmp_path, replica, [NOW])
    saver.note(etcd.relist(replica))
    await saver.flush()
    etcd.txn(dict.fromkeys(etcd.live))
    saver.note(replica.apply(etcd.revision, etcd.events[etcd.revision]))
    replica.unwant(SCOPE)
    await saver.flush()
    assert files(tmp_path) == []


async def test_nothing_is_written_before_a_proof_or_while_a_listing_is_due(tmp_path: Path) -> None:
    etcd, replica = make_etcd(), Replica()
    proved: list[datetime] = []
    saver = make_saver(tmp_path, replica, proved)
    saver.note(etcd.relist(replica))
    await saver.flush()
    proved.append(NOW)
    replica.broken = True
    await saver.flush()
    assert files(tmp_path) == []
    replica.broken = False
    await saver.flush()
    assert SCOPE in loaded(tmp_path)


async def test_what_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    etcd, replica = make_etcd(), Replica()
    saver = make_saver(tmp_path / "cache", replica, [NOW])
    saver.note(etcd.relist(replica))
    await saver.flush()
    assert saver.store.problem
    (tmp_path / "cache").unlink()
    await saver.flush()
    assert saver.store.problem is None
    assert SCOPE in loaded(tmp_path / "cache")


async def test_files_of_quiet_scopes_are_renewed_while_etcd_proves_them(tmp_path: Path) -> None:
    etcd, replica, clock = make_etcd(), Replica(), Clock()
    proved = [NOW]
    saver = make_saver(tmp_path, replica, proved, clock)
    # Nothing was noted: a replica that started from files without a difference has no update to note.
    etcd.relist(replica)
    saver.renew()
    await saver.flush()
    assert loaded(tmp_path)[SCOPE].proved_at == NOW
    saver.renew()
    assert "0 to write" in repr(saver)
    later = NOW + timedelta(seconds=90)
    proved.append(later)
    replica.prove(50)
    saver.renew()
    await saver.flush()
    assert (loaded(tmp_path)[SCOPE].proved_at, loaded(tmp_path)[SCOPE].proved) == (later, 50)


async def test_run_writes_behind_and_a_flush_after_it_loses_nothing(tmp_path: Path) -> None:
    etcd, replica, clock = make_etcd(), Replica(), Clock()
    saver = make_saver(tmp_path, replica, [NOW], clock)
    running = asyncio.create_task(saver.run())
    saver.note(etcd.relist(replica))
    async with asyncio.timeout(10):
        while SCOPE not in loaded(tmp_path):
            await asyncio.sleep(0.005)
    clock.now += 1000
    for value in range(20):
        etcd.txn({entry_path(SCOPE, "a"): entry_bytes(value)})
        saver.note(replica.apply(etcd.revision, etcd.events[etcd.revision]))
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await saver.flush()
    assert bytes(loaded(tmp_path)[SCOPE].snapshot.entries["a"].value) == b"19"


async def test_what_costs_much_is_written_seldom(tmp_path: Path) -> None:
    etcd, replica, pauses = make_etcd(), Replica(), []
    cpu = iter(index * 0.05 for index in range(1000))

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    saver = Saver(make_store(tmp_path), replica, proved_at=lambda: NOW, cpu=lambda: next(cpu), sleep=sleep)
    saver.note(etcd.relist(replica))
    running = asyncio.create_task(saver.run())
    async with asyncio.timeout(10):
        while not pauses:
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert pauses == [pytest.approx(5.0)]


async def test_run_ends_when_it_is_cancelled_together_with_a_note(tmp_path: Path) -> None:
    etcd, replica = make_etcd(), Replica()
    saver = make_saver(tmp_path, replica, [NOW])
    running = asyncio.create_task(saver.run())
    await asyncio.sleep(0)
    saver.note(etcd.relist(replica))
    await asyncio.sleep(0)
    running.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(running, return_exceptions=True)


async def test_a_cancelled_write_lands_before_a_later_one(tmp_path: Path) -> None:
    etcd, replica = make_etcd(), Replica()
    saver = make_saver(tmp_path, replica, [NOW])
    for value in range(20):
        etcd.txn({entry_path(SCOPE, "a"): entry_bytes(value)})
        saver.note(etcd.relist(replica))
        task = asyncio.create_task(saver.flush())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await saver.flush()
        assert json.loads(bytes(loaded(tmp_path)[SCOPE].snapshot.entries["a"].value)) == value
