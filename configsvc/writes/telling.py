"""etcd's errors, as a caller of the service is told them: what they mean for the write, and what to do."""

from configsvc.errors import InvalidRequest, OutcomeUnknown, Unavailable
from configsvc.etcd.ops import Ambiguous, EtcdError, Invalid, NoSpace, Refused


class told:  # noqa: N801  # reads as a statement
    """etcd's errors, as a caller of the service is told them.

    `sent` says whether anything that is sent inside changes what the caller asked to change.
    """

    def __init__(self, *, sent: bool = True) -> None:
        self._sent = sent

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case Ambiguous() if self._sent:
                raise OutcomeUnknown(
                    "etcd did not answer, and whether the write took place is not known: send it again with the same "
                    "Idempotency-Key, or look at the versions"
                ) from error
            case NoSpace():
                raise Unavailable(
                    "etcd's space is used up: its operator has to compact and defragment it; nothing was changed",
                    code="store_full",
                    retry_after_s=30,
                ) from error
            case Refused():
                raise Unavailable(
                    "etcd does not let this service write here; nothing was changed", code="store_unavailable"
                ) from error
            case Invalid():
                raise InvalidRequest(
                    f"etcd cannot take this write: {error.detail}; nothing was changed", code="invalid_values"
                ) from error
            case EtcdError():
                raise Unavailable(
                    "etcd does not answer; nothing was changed", code="store_unavailable", retry_after_s=2
                ) from error
