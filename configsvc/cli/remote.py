"""A running service as commands see it: the management client, its errors as lines and exit codes.

Owns what an error means for the exit code, and how it is told; knows no command.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

from configsvc.cli import exits
from configsvc.cli.options import Where
from configsvc.cli.output import json_text, printable
from configsvc_client.admin import AdminError, AsyncAdminClient
from configsvc_client.admin_link import Answer, Call
from configsvc_client.errors import InvalidOption

T = TypeVar("T")

_STATUS_EXIT = {
    400: exits.USAGE,
    401: exits.REFUSED,
    403: exits.REFUSED,
    404: exits.FAILED,
    409: exits.CONFLICT,
    412: exits.CONFLICT,
    413: exits.DATA,
    415: exits.DATA,
    422: exits.DATA,
}
_CODE_EXIT = {
    "invalid_backup": exits.DATA,
    "invalid_body": exits.DATA,
    "invalid_values": exits.DATA,
    "outcome_unknown": exits.TRY_AGAIN,
    "route_not_found": exits.UNAVAILABLE,
    "scope_not_found": exits.FAILED,
    "token": exits.CONFIG,
    "unknown_scope": exits.USAGE,
    "write_conflict": exits.TRY_AGAIN,
}
LIFTS = {
    "override_pending": "--overrides keep leaves them, --overrides discard replaces them",
    "blast_radius": "--force 'why it is meant'",
    "source_unfit": "--force 'why it is meant'; but a key that differs by environment has to be set first",
    "scope_frozen": "wait, or configsvc unfreeze where that is agreed",
    "version_exists": "choose another --version",
    "base_moved": "look at the new state, and plan again",
    "plan_changed": "plan again, and look at the new plan",
    "read_only": "name a central service with --url",
    "release_not_found": "configsvc history lists the releases of a scope",
    "route_not_found": "look at --url or CONFIGSVC_URL: http://host:port, as a rule without a path",
}
"""What to do about a refusal, in words of the command line."""
_OF_FILE = frozenset({"invalid_backup", "invalid_body", "invalid_values", "body_too_large"})


class Scope(NamedTuple):
    """Which configuration is meant."""

    namespace: str
    environment: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.environment}"


class Remote(AsyncAdminClient):
    """The service that options and environment name; remembers what it answered, for those who want all of it."""

    def __init__(self, where: Where) -> None:
        try:
            super().__init__(
                where.url,
                namespace=where.namespace,
                environment=where.environment,
                token_file=where.token_file,
                timeout_s=where.timeout_s,
            )
        except InvalidOption as error:
            exits.fail(exits.USAGE, str(error))
        self.answers: list[Answer] = []

    async def _ask(self, call: Call) -> Answer:
        self.answers.append(await super()._ask(call))
        return self.answers[-1]

    @property
    def environment(self) -> str | None:
        """The environment that options and variables name; the service is not asked."""
        return self._environment

    async def is_unknown(self) -> bool:
        """Whether nothing is read in the scope; False where that cannot be told. The answer has no body."""
        try:
            await super()._ask(Call(method="HEAD", path=await self._path("config")))
        except AdminError as error:
            return error.status == 404
        return False

    @property
    def last(self) -> Answer:
        """The last answer."""
        return self.answers[-1]

    @property
    def stale(self) -> str | None:
        """A line for people where the last answer is not proved to be the newest."""
        source, staleness = (self.last.headers.get(f"Configsvc-{name}", "") for name in ("Source", "Staleness"))
        if source in ("", "live"):
            return None
        return (
            f"may be out of date: {self.last.url} answers from its {printable(source)}, "
            f"last proved {printable(staleness)} s ago"
        )


def exit_code(code: str, status: int | None) -> int:
    """The exit code for a refusal by the service, or for the lack of an answer."""
    return _CODE_EXIT.get(code) or _STATUS_EXIT.get(status or 0, exits.UNAVAILABLE)


def lines_of(error: AdminError, file: str = "") -> Iterator[str]:
    """An error for people: all that is wrong, each with its place in `file`, and what to do about it."""
    of_file = f"{file}: " if file and error.code in _OF_FILE else ""
    if exit_code(error.code, error.status) == exits.UNAVAILABLE and error.reasons:
        yield from (printable(line) for line in error.reasons)
    elif error.code == "unknown_scope":
        name, variable = (
            ("namespace", "SERVICE_NAME") if "namespace" in error.detail else ("environment", "CONFIG_ENVIRONMENT")
        )
        yield f"which {name}? Name it with --{name}, or set {variable}"
        return
    elif any("line" in one for one in error.problems) or len(error.problems) > 3:
        for one in error.problems:
            place = ":".join(str(one[name]) for name in ("line", "column") if name in one)
            where = f"{file}:{place}: " if place and file else f"line {place}: " if place else of_file
            key = f"{one['key']!a} " if "key" in one else ""
            yield printable(f"{where}{key}{one.get('detail', '')}")
        total = error.fields.get("problems_total", 0)
        if isinstance(total, int) and total > len(error.problems):
            yield f"and {total - len(error.problems)} more"
    else:
        yield printable(of_file + _with_option(error))
    near = error.fields.get("near")
    if (
        error.code in ("key_not_found", "release_not_found")
        and isinstance(near, list)
        and near
        and "did you mean" not in error.detail
    ):
        yield f"did you mean {', '.join(printable(str(one)) for one in near)}?"
    for one in _listed(error, "overrides"):
        value = f" = {json_text(one['value'])[:200]}" if "value" in one else " (deleted or unreadable)"
        by = f"by {one.get('by')} in release {one['release']}" if one.get("release") else "changed by hand"
        reason = f": {one['reason']}" if one.get("reason") else ""
        yield printable(f"  {one.get('key')}{value}, {by}{reason}")
    if changes := _listed(error, "changes"):
        yield f"changed since: {', '.join(printable(str(one.get('key'))) for one in changes[:20])}" + (
            f" and {len(changes) - 20} more" if len(changes) > 20 else ""
        )
    if error.code in LIFTS:
        yield f"-> {LIFTS[error.code]}"


def _with_option(error: AdminError) -> str:
    """What is wrong, with the option that was typed in place of the parameter that it became."""
    name = error.fields.get("parameter")
    if error.code != "invalid_query" or not isinstance(name, str):
        return error.detail
    return error.detail.replace(f"query parameter '{name}'", f"--{name.replace('_', '-')}")


def _listed(error: AdminError, name: str) -> list[dict[str, Any]]:
    found = error.fields.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def call(coroutine: Coroutine[Any, Any, T], file: str = "") -> T:
    """Run a command's coroutine; an error becomes its lines and exit code. `file` is what was sent, for its places."""
    try:
        return asyncio.run(coroutine)
    except AdminError as error:
        exits.fail(exit_code(error.code, error.status), *lines_of(error, file))
    except InvalidOption as error:
        exits.fail(exits.USAGE, str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
