"""What etcd would refuse in a transaction, or worse, take: checked before anything is sent.

Pure. The figures are etcd's defaults; an operator who lowered them gets etcd's own answer.
"""

from configsvc.etcd.ops import Delete, Invalid, Put, Range, Txn

MAX_OPS = 128
"""Compares, and operations in each branch, of one transaction."""
MAX_TXN_BYTES = 1_572_864 - 4096
"""A whole request as protobuf (1.5 MiB), less a margin for what wraps it."""


def txn_size(txn: Txn) -> int:
    """The size of a transaction as protobuf, at most a few bytes per operation too large."""
    size = sum(_field(len(compare.key) + _value_size(compare.value)) for compare in txn.compare)
    for operation in (*txn.success, *txn.failure):
        value = len(operation.value) if isinstance(operation, Put) else len(operation.range_end)
        size += _field(len(operation.key) + value)
    return size


def check_txn(txn: Txn) -> None:
    """Raise `Invalid` for what etcd refuses: too many operations, a key twice, no key, too large.

    Refuses also a delete from a key on, which etcd takes and may lose keys over (etcd#22376).
    """
    for name, part in (("compares", txn.compare), ("success", txn.success), ("failure", txn.failure)):
        if len(part) > MAX_OPS:
            raise Invalid(f"{len(part)} operations in {name}; etcd takes {MAX_OPS}")
    for branch in (txn.success, txn.failure):
        _check_keys(branch)
    if any(not compare.key for compare in txn.compare):
        raise Invalid("a compare without a key")
    for compare in txn.compare:
        if isinstance(compare.value, bytes) != (compare.target == "VALUE"):
            raise Invalid(f"{compare.target} is compared with {type(compare.value).__name__}")
    if (size := txn_size(txn)) > MAX_TXN_BYTES:
        raise Invalid(f"the transaction has {size} bytes; etcd takes {MAX_TXN_BYTES}")


def _check_keys(branch: tuple[Put | Delete | Range, ...]) -> None:
    puts: set[bytes] = set()
    deletes = [operation for operation in branch if isinstance(operation, Delete)]
    for operation in branch:
        if not operation.key:
            raise Invalid("an operation without a key")
        if isinstance(operation, Put):
            if operation.key in puts:
                raise Invalid(f"key {operation.key!r} is put twice in one transaction")
            puts.add(operation.key)
    for delete in deletes:
        if delete.range_end == b"\0":
            raise Invalid("a delete from a key on can lose other keys (etcd#22376); give it an end")
        end = delete.range_end or delete.key + b"\0"
        if any(delete.key <= key < end for key in puts):
            raise Invalid(f"a key is put and deleted in one transaction (delete of {delete.key!r})")


def _value_size(value: int | bytes) -> int:
    return len(value) if isinstance(value, bytes) else 10


def _field(payload: int) -> int:
    """A message of two length-delimited fields and some small ones, inside two wrappers."""
    return payload + 32
