"""What a transaction may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.etcd.limits import MAX_OPS, MAX_TXN_BYTES, check_txn, txn_size
from configsvc.etcd.ops import Compare, Delete, Invalid, Put, Range, Txn

PUT = Put(key=b"k", value=b"v")


@pytest.mark.parametrize(
    ("txn", "words"),
    [
        (Txn(success=(PUT, PUT)), "put twice"),
        (Txn(failure=(PUT, Delete(key=b"k"))), "put and deleted"),
        (Txn(success=(Delete(key=b"a", range_end=b"z"), PUT)), "put and deleted"),
        (Txn(success=(Delete(key=b"a", range_end=b"\0"),)), "etcd#22376"),
        (Txn(success=(Put(key=b"", value=b"v"),)), "without a key"),
        (Txn(success=(Range(key=b""),)), "without a key"),
        (Txn(compare=(Compare(key=b"", target="MOD", value=0),)), "compare without a key"),
        (Txn(compare=(Compare(key=b"k", target="MOD", value=b"0"),)), "MOD is compared with bytes"),
        (Txn(compare=(Compare(key=b"k", target="VALUE", value=0),)), "VALUE is compared with int"),
        (Txn(compare=(Compare(key=b"k", target="MOD", value=0),) * (MAX_OPS + 1)), "129 operations in compares"),
        (Txn(success=tuple(Delete(key=b"%d" % n) for n in range(MAX_OPS + 1))), "129 operations in success"),
        (Txn(failure=(Range(key=b"k"),) * (MAX_OPS + 1)), "129 operations in failure"),
        (Txn(success=(Put(key=b"k", value=b"v" * MAX_TXN_BYTES),)), "bytes; etcd takes"),
    ],
)
def test_refused(txn: Txn, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        check_txn(txn)


def test_taken() -> None:
    check_txn(Txn())
    check_txn(Txn(success=(PUT,), failure=(PUT,)))
    check_txn(Txn(success=(PUT, Delete(key=b"a", range_end=b"k"), Delete(key=b"k\0"))))
    check_txn(Txn(success=(Delete(key=b"k"), Delete(key=b"k"), Range(key=b"k"))))
    check_txn(Txn(compare=(Compare(key=b"k", target="VALUE", value=b""),)))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=40_000)), max_size=40))
def test_size_is_no_less_than_etcds_and_not_much_more(pairs: list[tuple[bytes, bytes]]) -> None:
    size = txn_size(Txn(success=tuple(Put(key=key, value=value) for key, value in pairs)))
    exact = sum(_message(_message(_bytes(key) + _bytes(value))) for key, value in pairs)
    assert exact <= size <= exact + 32 * len(pairs)


def _bytes(data: bytes) -> int:
    return 1 + _varint(len(data)) + len(data) if data else 0


def _message(size: int) -> int:
    return 1 + _varint(size) + size


def _varint(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)
