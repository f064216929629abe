"""Last-known-good files on a real disk: what is refused, what is written, and what many and dying processes leave."""

import errno
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from configsvc_client import disk, keeper, lastgood
from configsvc_client.disk import Files
from configsvc_client.doubt import Proof
from configsvc_client.keeper import Keeper
from configsvc_client.options import CacheFolder, resolve
from configsvc_client.protocol import Entry, EventId
from configsvc_client.snapshot import Snapshot
from configsvc_client.sse import MAX_EVENT_BYTES
from tests.client.support import EPOCH, FAST, OTHER_EPOCH, SCOPE, eventually_sync

needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away")


def proof(
    value: Any = 1, revision: int = 5, *, epoch: str = EPOCH, age_s: float = 0.0, version: str | None = None
) -> Proof:
    entries = {"a": Entry(value=value)}
    snapshot = Snapshot(**SCOPE, epoch=epoch, revision=revision, version=version, entries=entries)
    return Proof(snapshot, EventId(epoch, revision), age_s)


def files(folder: Path | str, **more: Any) -> Files:
    now = more.pop("now", lambda: datetime.now(UTC))
    options = resolve({}, cache_dir=folder, **{**SCOPE, **more})
    assert options.cache is not None
    return Files(options.cache, options, now=now)


def value_in(folder: Path) -> Any:
    kept = files(folder).load()
    return kept and kept.snapshot.entries["a"].value


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file that can be believed."""
    assert files(tmp_path / "cache").save(proof())
    (found,) = (tmp_path / "cache").iterdir()
    return found


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_file_and_its_folders_are_the_users_own_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        # As root also an unusable umask makes folders that can be written.
        saved = files(tmp_path / "a" / "b").save(proof()) if os.geteuid() == 0 else None
    finally:
        os.umask(old)
    if saved is None:
        saved = files(tmp_path / "a" / "b").save(proof())
    assert saved
    (found,) = (tmp_path / "a" / "b").iterdir()
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_nothing_there_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "file" / "below"):
        assert files(folder).load() is None
    assert not caplog.records


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def replace_by_link(path: Path) -> None:
    other = path.with_suffix(".moved")
    path.rename(other)
    path.symlink_to(other)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (flip, "damaged"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "cut short"),
        (lambda path: os.truncate(path, 0), "empty"),
        (lambda path: os.truncate(path, MAX_EVENT_BYTES + 70_000), "tuning.max_event_bytes"),
        (lambda path: path.write_text("{}"), "no last-known-good file"),
        (lambda path: path.chmod(0o620), "others may write to it .mode 0620.*; remove it"),
        (lambda path: path.chmod(0o606), "others may write to it"),
        pytest.param(lambda path: os.chown(path, 65534, 0), "belongs to the user 65534", marks=needs_root),
        (replace_by_link, "symbolic link"),
        (replace_by_pipe, "no regular file"),
        (replace_by_folder, "no regular file"),
    ],
)
def test_a_file_that_cannot_be_believed_is_refused_with_one_line(
    kept: Path, caplog: pytest.LogCaptureFixture, spoil: Any, why: str
) -> None:
    spoil(kept)
    assert files(kept.parent).load() is None
    (warning,) = warnings_in(caplog)
    assert re.search(why, warning)
    assert str(kept) in warning
    if not kept.is_dir():
        # The next state is written over it, and over what a link points to it is not.
        fresh = files(kept.parent)
        assert fresh.load() is None
        assert fresh.save(proof(2))
        assert kept.is_file()
        assert not kept.is_symlink()
        assert value_in(kept.parent) == 2


def test_an_old_file_is_refused_and_its_age_is_that_of_the_proof(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    def later(**more: float) -> Any:
        return lambda: datetime.now(UTC) + timedelta(**more)

    read = files(kept.parent, now=later(days=6)).load()
    assert read is not None
    assert read.age_s == pytest.approx(6 * 86_400, abs=60)
    assert not caplog.records
    assert files(kept.parent, now=later(days=8)).load() is None
    assert files(kept.parent, now=later(minutes=2), cache_max_age_s=60).load() is None
    assert files(kept.parent, now=later(days=3650)).load() is None
    assert files(kept.parent, now=later(days=-3650)).load() is None
    assert len(warnings_in(caplog)) == 4
    # A clock that was wrong is put right by whoever is connected.
    assert files(kept.parent, now=later(days=-3650)).save(proof(2))
    assert value_in(kept.parent) is None
    assert files(kept.parent).save(proof(3))
    assert value_in(kept.parent) == 3


@needs_root
def test_another_users_process_is_refused_and_not_stopped() -> None:
    # The test's own folder is below one that nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        assert files(folder).save(proof())
        code = (
            "import os, logging; logging.basicConfig(); "
            "from tests.client.test_disk import files, proof; os.setgid(65534); os.setuid(65534); "
            f"one = files({folder!r}); assert one.load() is None; assert not one.save(proof(2)); "
            "assert not one.save(proof(2)); print(one.problem)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "Permission denied", done.stderr
        assert done.stderr.count("refused: it cannot be read (Permission denied)") == 1
        assert done.stderr.count("no last-known-good file can be kept") == 1
        assert value_in(Path(folder)) == 1


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, "v" * 100_000])
def test_a_process_that_lags_does_not_undo_what_another_has_written(tmp_path: Path, version: str | None) -> None:
    ahead, behind = files(tmp_path), files(tmp_path)
    assert ahead.save(proof("new", 9, version=version))
    assert behind.save(proof("old", 8))
    assert value_in(tmp_path) == "new"
    assert behind.save(proof("other", 3, epoch=OTHER_EPOCH))
    assert value_in(tmp_path) == "other"
    assert behind.save(proof("restored", 2, epoch=OTHER_EPOCH), stepped_back=True)
    assert value_in(tmp_path) == "restored"


def test_a_state_that_is_too_large_to_be_read_again_is_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = files(tmp_path, tuning=msgspec.structs.replace(FAST, max_event_bytes=1000))
    assert not small.save(proof("x" * 70_000))
    assert small.problem is not None
    assert "max_event_bytes" in small.problem
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_warning_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    one = files(tmp_path / "file" / "cache")
    assert not one.save(proof())
    assert not one.save(proof())
    (warning,) = warnings_in(caplog)
    assert "Not a directory" in warning
    assert "CONFIGSVC_CACHE_DIR" in warning
    (tmp_path / "file").unlink()
    assert one.save(proof())
    assert "kept in" in caplog.records[-1].getMessage()
    # Removed while it is in use.
    for path in (tmp_path / "file" / "cache").iterdir():
        path.unlink()
    (tmp_path / "file" / "cache").rmdir()
    assert one.save(proof())
    assert value_in(tmp_path / "file" / "cache") == 1


def test_a_home_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    home = tmp_path / "nobody"
    options = resolve({"HOME": str(home)}, **SCOPE)
    assert options.cache == CacheFolder(path=f"{home}/.cache/configsvc/client", named=False, below=str(home))
    one = Files(options.cache, options)
    assert not one.save(proof())
    assert not home.exists()
    home.mkdir()
    assert one.save(proof())
    assert (home / ".cache/configsvc/client").is_dir()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    target = tmp_path / "disk"
    target.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(target)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("may not mount")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def test_a_full_disk_keeps_the_old_file_and_is_told_once(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = files(small_disk)
    assert one.save(proof("old", 1))
    for revision in (2, 3):
        assert not one.save(proof("x" * 300_000, revision))
        assert len(list(small_disk.iterdir())) == 1
    assert one.problem == os.strerror(errno.ENOSPC)
    assert len(warnings_in(caplog)) == 1
    assert value_in(small_disk) == "old"
    assert one.save(proof("new", 4))
    assert value_in(small_disk) == "new"


def test_a_read_only_disk_is_told_once(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert files(small_disk).save(proof("old", 1))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    one = files(small_disk)
    assert one.load() is not None
    assert not one.save(proof("new", 2))
    assert not one.save(proof("new", 2))
    assert one.problem == os.strerror(errno.EROFS)
    assert len(warnings_in(caplog)) == 1
    assert value_in(small_disk) == "old"


def test_a_limit_on_the_size_of_files_is_no_end_of_the_process(tmp_path: Path) -> None:
    code = (
        "import resource; from tests.client.test_disk import files, proof; "
        f"one = files({str(tmp_path)!r}); assert one.save(proof('old')); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); "
        "assert not one.save(proof('x' * 100_000, 9)); print(one.problem)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == os.strerror(errno.EFBIG), done.stderr
    assert value_in(tmp_path) == "old"
    assert len(list(tmp_path.iterdir())) == 1


# ---- processes -------------------------------------------------------------------------------------------------------

SAVE_FOR_EVER = """
import itertools, sys
from tests.client.test_disk import files, proof
one, size = files(sys.argv[1]), int(sys.argv[2])
for revision in itertools.count(int(sys.argv[3]), int(sys.argv[4])):
    assert one.save(proof([revision] * size, revision)), one.problem
    print(revision, flush=True)
"""


def saving(folder: Path, size: int, first: int = 1, step: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER, str(folder), str(size), str(first), str(step)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file_and_no_other(tmp_path: Path) -> None:
    for attempt in range(4):
        process = saving(tmp_path, 200_000, 1 + attempt * 1000)
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            time.sleep(0.011 * attempt)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        values = value_in(tmp_path)
        assert len(values) == 200_000
        assert len(set(values)) == 1
    files(tmp_path).sweep()
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    one = files(tmp_path)
    assert one.save(proof())
    (kept,) = tmp_path.iterdir()
    descriptor, living = disk._make_temporary(str(kept))
    try:
        dead = tmp_path / f"{kept.name}.1.0123456789abcdef.tmp"
        foreign = tmp_path / "notes.tmp"
        dead.touch()
        foreign.touch()
        one.sweep()
        assert sorted(tmp_path.iterdir()) == sorted([kept, Path(living), foreign])
    finally:
        os.close(descriptor)
        disk._writing.discard(descriptor)
    one.sweep()
    assert sorted(tmp_path.iterdir()) == sorted([kept, foreign])


def test_many_processes_share_a_folder_and_the_file_is_whole_at_every_moment(tmp_path: Path) -> None:
    processes = [saving(tmp_path, 20_000, first, 3) for first in (1, 2, 3)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline()
        seen: list[int] = []
        while len(set(seen)) < 20:
            values = value_in(tmp_path)
            assert len(values) == 20_000
            assert len(set(values)) == 1
            seen.append(values[0])
            files(tmp_path).sweep()
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
    files(tmp_path).sweep()
    assert len(list(tmp_path.iterdir())) == 1


# ---- the keeper ------------------------------------------------------------------------------------------------------


class Kept:
    """A keeper that runs, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.loaded: list[Proof | None] = []
        self.ended: list[None] = []
        self.keeper = Keeper(files(folder))
        self.keeper.start(self.loaded.append, lambda: self.ended.append(None))

    def stop(self) -> None:
        self.keeper.stop()
        eventually_sync(lambda: self.ended)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WRITE_EVERY_S", 0.02),
        ("SPREAD_S", 0),
        ("IDLE_SHARE", 0.0),
        ("CPU_SHARE", 1.0),
        ("RETRY_S", 0.02),
        ("REFRESH_S", 0.05),
    ):
        monkeypatch.setattr(keeper, name, value)
    monkeypatch.setattr(lastgood, "REFRESH_S", 0.05)


@pytest.mark.parametrize(
    ("took_s", "cpu_s", "rest_s"),
    [(0.002, 0.001, 1.0), (0.1, 0.001, 5.0), (60.0, 0.001, 300.0), (0.2, 0.15, 15.0), (20.0, 10.0, 1000.0)],
)
def test_large_states_and_slow_disks_are_written_more_seldom(took_s: float, cpu_s: float, rest_s: float) -> None:
    assert keeper.rest_s(took_s, cpu_s) == pytest.approx(rest_s)


def test_the_first_state_is_written_at_once_the_next_ones_seldom_and_the_last_one_at_the_end(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.keeper.note(None)
    kept.keeper.note(proof(1, 1))
    eventually_sync(lambda: value_in(tmp_path) == 1)
    for revision in range(2, 50):
        kept.keeper.note(proof(revision, revision))
    # Not before `WRITE_EVERY_S`; a machine on which this takes so long sees one in between.
    assert value_in(tmp_path) in (1, 49)
    kept.stop()
    assert value_in(tmp_path) == 49
    assert kept.loaded == [None]
    assert kept.ended == [None]


@pytest.mark.usefixtures("quick")
def test_states_that_come_while_the_disk_is_written_are_written_too(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    try:
        for revision in range(1, 30):
            kept.keeper.note(proof(revision, revision))
            time.sleep(0.002)
        eventually_sync(lambda: value_in(tmp_path) == 29)
    finally:
        kept.stop()


@pytest.mark.usefixtures("quick")
def test_a_quiet_scope_grows_no_old_file(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    try:
        same = proof(1, 1)
        kept.keeper.note(same)
        eventually_sync(lambda: value_in(tmp_path) == 1)
        (path,) = tmp_path.iterdir()
        first = lastgood.decode_head(path.read_bytes()).proved_at

        def is_renewed() -> bool:
            kept.keeper.note(same)
            return lastgood.decode_head(path.read_bytes()).proved_at > first

        eventually_sync(is_renewed)
    finally:
        kept.stop()


@pytest.mark.usefixtures("quick")
def test_a_quiet_scope_that_nobody_proves_any_more_is_not_made_younger(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.keeper.note(proof(1, 1, age_s=100))
    eventually_sync(lambda: value_in(tmp_path) == 1)
    (path,) = tmp_path.iterdir()
    kept.stop()
    age = datetime.now(UTC) - lastgood.decode_head(path.read_bytes()).proved_at
    assert age.total_seconds() > 99


@pytest.mark.usefixtures("quick")
def test_what_could_not_be_written_is_written_as_soon_as_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    folder.touch()
    kept = Kept(folder)
    try:
        kept.keeper.note(proof())
        eventually_sync(lambda: kept.keeper.files.problem)
        folder.unlink()
        eventually_sync(lambda: value_in(folder) == 1)
        assert len(warnings_in(caplog)) == 1
    finally:
        kept.stop()


@pytest.mark.usefixtures("quick")
def test_an_older_state_that_was_believed_is_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    try:
        kept.keeper.note(proof("new", 9))
        eventually_sync(lambda: value_in(tmp_path) == "new")
        kept.keeper.note(proof("restored", 3))
        eventually_sync(lambda: value_in(tmp_path) == "restored")
    finally:
        kept.stop()
