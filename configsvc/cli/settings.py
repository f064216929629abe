"""`configsvc settings`: what `serve` would run with, and where each value comes from."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configsvc.cli import exits
from configsvc.cli.serve import ConfigFile

if TYPE_CHECKING:
    from configsvc.settings import Setting, Settings


def settings(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this one, by variable or word of the file, explained.")
    ] = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of them, or the one, as JSON.")] = False,
) -> None:
    """Show the settings that serve would run with.

    Value, unit, and where each comes from. Secrets are never read.

    Example: configsvc settings heartbeat_s

    Exit codes: 0, 2 no such setting, 78 wrong settings (all of them listed, and marked in the table).
    """
    chosen = _chosen(name, config)
    loaded, wrong, problems, of_file = _load(config)
    from configsvc.cli import output

    if name is not None:
        # Asked about one setting, what is wrong with others is no answer; but a file that cannot be read may name it.
        problems = [*of_file, *(wrong[setting.name] for setting in chosen if setting.name in wrong)]
    for line in (*(f"warning: {one}" for one in loaded.warnings), *problems):
        exits.warn(line)
    rows = [_row(setting, loaded, wrong) for setting in chosen]
    if as_json:
        output.line(output.json_text(rows[0] if name else rows, indent=2))
    elif name:
        _explain(rows[0])
    else:
        _table(rows)
    if problems:
        raise typer.Exit(exits.CONFIG)


def _table(rows: list[dict[str, Any]]) -> None:
    from configsvc.cli import output

    if output.is_terminal():
        # Of the value and in its column: a terminal has 80 columns, and some variables have 32.
        shown = [(row["variable"], f"{_value(row)} {row['unit']}".rstrip(), _origin(row)) for row in rows]
        output.table(("setting", "value", "from"), shown)
    else:
        output.table(
            ("setting", "value", "unit", "from"),
            [(row["variable"], _value(row), row["unit"], _origin(row)) for row in rows],
        )


def _load(config: Path | None) -> "tuple[Settings, dict[str, str], list[str], list[str]]":
    """The settings, those that are wrong (with their defaults instead), every problem, and those of the file."""
    from configsvc.settings import SettingsError, load

    try:
        return load(os.environ, config), {}, [], []
    except SettingsError as error:
        if error.shown is None:
            raise
        return error.shown, error.wrong, error.problems, error.of_file


def _chosen(name: str | None, config: Path | None) -> "list[Setting]":
    from configsvc.settings import FILE_VARIABLE, TABLE, file_of
    from configsvc.settings_values import near

    if name is None:
        return list(TABLE)
    if name.upper() == FILE_VARIABLE:
        file = file_of(os.environ, config)
        there = "" if file.exists() else ", which is not there"
        exits.fail(exits.USAGE, f"{FILE_VARIABLE} is no setting, but names their file: {str(file)!a}{there}")
    words = {word: setting for setting in TABLE for word in (setting.name, setting.env, setting.key)}
    found = words.get(name) or words.get(name.upper()) or words.get(name.lower())
    if found is None:
        hint = near(name, list(words)) or near(name.upper(), list(words))
        exits.fail(exits.USAGE, f"no such setting: {ascii(name)[1:-1]}{hint}")
    return [found]


def _row(setting: "Setting", loaded: "Settings", wrong: dict[str, str]) -> dict[str, Any]:
    """One setting with its value as JSON has it. None is: not set, and no default; or wrong, and then there is why."""
    value = getattr(loaded, setting.name)
    where = loaded.origins.get(setting.name)
    if setting.name == "environment" and where:
        # A central service follows all of them, and yet this is what it tells its clients.
        value = loaded.default_environment
    return {
        "variable": setting.env,
        "key": setting.key,
        "value": None if setting.name in wrong else _plain(value),
        "unit": setting.kind.unit,
        "default": where is None,
        "origin": "default" if where is None else "environment" if where == setting.env else "file",
        "where": where,
        "problem": wrong.get(setting.name),
        "description": setting.doc,
    }


def _plain(value: Any) -> Any:
    from configsvc.settings_values import Address

    match value:
        case Address() | Path():
            return str(value)
        case tuple():
            return list(value)
        case _:
            return value


def _value(row: dict[str, Any]) -> str:
    return "(wrong)" if row["problem"] else _text(row["value"])


def _text(value: Any) -> str:
    """A value as it could be written into the variable."""
    match value:
        case None:
            return "(not set)"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case list():
            return ",".join(value)
        case _:
            return str(value)


def _origin(row: dict[str, Any]) -> str:
    if row["origin"] == "file":
        return f"file {row['where']}"
    return str(row["origin"])


def _explain(row: dict[str, Any]) -> None:
    from configsvc.cli import output

    output.line(output.printable(f"{row['variable']} = {_value(row)} {row['unit']}").rstrip())
    output.line(output.printable(f"from: {_origin(row)}"))
    output.line(f"in the file: {row['key']}")
    output.line("")
    output.line(row["description"].replace("`", ""))
