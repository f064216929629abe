"""`set`, `unset`, `emergency`, `freeze`, `unfreeze`, `own-keys`: some keys of a scope, and what deploys may do."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from configsvc.cli.options import Say, Ttl, Where, says, seconds, writes

String = Annotated[bool, typer.Option("--string", help="Values are text as they stand, not JSON.")]


@writes
def set_(
    where: Where,
    say: Say,
    pairs: Annotated[
        list[str],
        typer.Argument(metavar="KEY VALUE | KEY=VALUE...", help="VALUE is JSON: 20, true, '\"text\"', '[1]'."),
    ],
    string: String = False,
    ttl: Ttl = None,
) -> None:
    """Set some keys in one release.

    In a scope that was deployed to they are overrides: the next deploy says whether they stay.

    Example: configsvc set database.pool_size=20 database.debug=true --reason "load test"

    Exit codes: 0, 65 invalid values, 75 try again, 76 a conflict, 77 not allowed.
    """
    values = {key: _value(key, text, string=string) for key, text in _pairs(pairs)}
    ttl_s = None if ttl is None else seconds(ttl, "--ttl")
    from configsvc.cli.remote import call
    from configsvc.cli.writing import write

    call(write(where, say, lambda remote, options: remote.change(values, ttl_s=ttl_s, **options), "change"))


@writes
def unset(
    where: Where,
    say: Say,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="The keys to delete; each has to be there.")],
    ttl: Ttl = None,
) -> None:
    """Delete some keys in one release.

    Example: configsvc unset features.old_checkout --reason "gone since v40"

    Exit codes: as those of set; 1 a key is not there.
    """
    ttl_s = None if ttl is None else seconds(ttl, "--ttl")
    from configsvc.cli.remote import call
    from configsvc.cli.writing import write

    call(write(where, say, lambda remote, options: remote.change(delete=keys, ttl_s=ttl_s, **options), "change"))


@writes
def emergency(
    where: Where,
    say: Say,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="JSON, or with --string text.")],
    string: String = False,
    ttl: Ttl = None,
) -> None:
    """Set one key at once, past review; needs a --reason.

    With --ttl what was there before, or was deployed since, comes back by itself.

    Example: configsvc emergency features.new_checkout false --reason "incident 42" --ttl 2h

    Exit codes: as those of set.
    """
    if not say.reason:
        raise typer.BadParameter("--reason is needed: say why this is an emergency")
    sent = _value(key, value, string=string)
    ttl_s = None if ttl is None else seconds(ttl, "--ttl")
    from configsvc.cli.remote import call
    from configsvc.cli.writing import write

    call(write(where, say, lambda remote, options: remote.emergency(key, sent, ttl_s=ttl_s, **options), "emergency"))


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """`KEY VALUE`, or any number of `KEY=VALUE`."""
    if len(words) == 2 and "=" not in words[0]:
        return [(words[0], words[1])]
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{word!a} is no KEY=VALUE; one key may also be set by KEY VALUE")
        found.append((key, value))
    twice = {key for key, _ in found if [one for one, _ in found].count(key) > 1}
    if twice:
        raise typer.BadParameter(f"{', '.join(sorted(twice))} is given twice")
    return found


def _value(key: str, text: str, *, string: bool) -> Any:
    import msgspec

    if string:
        return text
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise typer.BadParameter(
            f"the value of {key} is no JSON ({error}); text goes in quotes of its own, '\"text\"', or with --string"
        ) from None
    # As it was typed: the service sees duplicate names and large numbers, and says what is wrong with them.
    return msgspec.Raw(text.encode())


@says("reason", "yes", "confirm")
def freeze(
    where: Where,
    say: Say,
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 90 (seconds), 15m, 2h, 1d.")],
) -> None:
    """Refuse deploys and promotions for a time; needs a --reason.

    Example: configsvc freeze --for 2h --reason "rolled back v42, fix under way"

    Exit codes: 0, 1 nothing is stored there, 69 no service answers, 77 not allowed.
    """
    if not say.reason:
        raise typer.BadParameter("--reason is needed: say why deploys are refused")
    reason, ttl_s = say.reason, seconds(duration, "--for")
    from configsvc.cli.past import freezing
    from configsvc.cli.remote import call

    call(
        freezing(
            where, say, lambda remote: remote.freeze(reason=reason, ttl_s=ttl_s), "Refuse deploys to {} from now on"
        )
    )


@says("yes", "confirm")
def unfreeze(where: Where, say: Say) -> None:
    """Take deploys again.

    Example: configsvc unfreeze

    Exit codes: as those of freeze.
    """
    from configsvc.cli.past import freezing
    from configsvc.cli.remote import call

    call(freezing(where, say, lambda remote: remote.unfreeze(), "Take deploys to {} again"))


@says("yes", "confirm")
def own_keys(
    where: Where,
    say: Say,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN...]", help="The new list, in place of the old; * and ? are wild cards."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Make the list empty.")] = False,
) -> None:
    """Show, or name, the keys that differ by environment on purpose: a promotion leaves them as they are.

    Example: configsvc own-keys database.host "*.url" --environment production

    Exit codes: 0, 69 no service answers, 77 not allowed.
    """
    if patterns and clear:
        raise typer.BadParameter("name patterns, or say --clear for none")
    from configsvc.cli.past import own_keys
    from configsvc.cli.remote import call

    call(own_keys(where, say, [] if clear else patterns or None))
