"""Files of backups: whole ones are told what they are, and whatever is wrong with one is noticed."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.backup import Head, Writing
from configsvc_client.admin_types import AdminError
from configsvc_client.backup_file import Check, Saving, check

ITEMS = [(b"/config/a/b/key", b'{"value":1}'), (b"/config/a/b/\xff", b"\n\n"), (b"k" * 900, bytes(range(256)) * 4000)]


def file(items=ITEMS, created_at="2026-01-02T03:04:05.678Z", namespace="a"):
    """A file as the service writes it."""
    writing = Writing(Head(created_at=created_at, cluster_id="77", revision=5, namespace=namespace, by="ann"))
    pieces = [writing.add([item]) for item in items]
    return b"".join([*pieces, writing.end()])


def fed(data, size=10**9):
    found = Check()
    for at in range(0, len(data), size):
        found.feed(data[at : at + size])
    return found.end("f")


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary(max_size=3000)), max_size=20), st.integers(1, 5000))
def test_what_the_service_writes_is_whole_in_any_pieces(items, size):
    data = file(items)
    found = fed(data, size)
    assert (found.keys, found.size) == (len(items), len(data))
    assert (found.head.revision, found.head.namespace) == (5, "a")


def test_cut_anywhere_it_is_refused():
    data = file(ITEMS[:2])
    for end in range(len(data)):
        with pytest.raises(AdminError, match="no backup that can be restored") as error:
            fed(data[:end])
        assert error.value.code == "invalid_backup"


def test_a_changed_byte_is_noticed():
    data = file(ITEMS[:2])
    # Bytes 4 to 9 of gzip say when and where the file was made, and the bits behind the last block fill a byte.
    for at in (*range(4), *range(10, len(data) - 9), *range(len(data) - 8, len(data))):
        changed = bytearray(data)
        changed[at] ^= 0x10
        with pytest.raises(AdminError):
            fed(bytes(changed))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "cut short"),
        (['{"configsvc_backup":1}'], "cut short"),
        (["a", '{"count":-1,"sha256":"x"}'], "checksum"),
        (["[" * 100_000, "[" * 100_000], "cut short"),
    ],
)
def test_other_gzip_files_are_none(lines, says):
    with pytest.raises(AdminError, match=says):
        fed(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def test_what_follows_the_end_is_refused():
    for more in (b"x", file()):
        with pytest.raises(AdminError, match="follows its end"):
            fed(file() + more)
    with pytest.raises(AdminError, match="follows its end"):
        fed(file() + b"x", size=len(file()))


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path, seen = tmp_path / "b.gz", []
    saving = Saving(path, overwrite=False, on_progress=seen.append)
    saving.begin()
    saving.feed(file()[:100])
    saving.begin()
    saving.feed(file())
    assert not path.exists()
    found = saving.finish("")
    saving.close()
    assert [one.name for one in tmp_path.iterdir()] == ["b.gz"]
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (file(), 0o600)
    assert found == check(path)
    assert seen == [100, len(file())]
    with pytest.raises(FileExistsError, match=r"b\.gz is there already"):
        Saving(path, overwrite=False, on_progress=seen.append)
    Saving(path, overwrite=True, on_progress=seen.append)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="a-2026.configsvc.gz"', "a-2026.configsvc.gz"),
        ('attachment; filename="../../etc/passwd"', "a-2026-01-02T030405678Z.configsvc.gz"),
        ('attachment; filename="/etc/passwd"', "a-2026-01-02T030405678Z.configsvc.gz"),
        ("", "a-2026-01-02T030405678Z.configsvc.gz"),
    ],
)
def test_in_a_folder_it_has_a_plain_name(disposition, name, tmp_path):
    saving = Saving(tmp_path, overwrite=False, on_progress=lambda size: None)
    saving.begin()
    saving.feed(file())
    assert Path(saving.finish(disposition).path) == tmp_path / name
    saving.close()
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("namespace", "created_at"), [("/nowhere/x", "2026"), ("a", "/../x"), ("a\0", "2026"), ("n" * 127, "2026")]
)
def test_it_stays_in_its_folder_whatever_is_in_it(namespace, created_at, tmp_path):
    saving = Saving(tmp_path, overwrite=False, on_progress=lambda size: None)
    saving.begin()
    saving.feed(file(namespace=namespace, created_at=created_at))
    found = Path(saving.finish("").path)
    assert (found.parent, found.suffix, found.exists()) == (tmp_path, ".gz", True)


def test_what_is_not_finished_leaves_nothing(tmp_path):
    saving = Saving(tmp_path / "b.gz", overwrite=False, on_progress=lambda size: None)
    saving.begin()
    saving.feed(file()[:-1])
    with pytest.raises(AdminError):
        saving.finish("")
    saving.close()
    assert list(tmp_path.iterdir()) == []
