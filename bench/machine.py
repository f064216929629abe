"""What the machine is, so that a figure can be read."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.processes import CORES, LOAD_CORE, SERVICE_CORE
from bench.results import Machine

PACKAGES = ("configsvc", "aiohttp", "msgspec", "uvloop")


def look(programs: dict[str, list[str]], load_before: float) -> Machine:
    """This machine; `programs` are commands that print a version, by name."""
    info = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    found = {name: _package(name) for name in PACKAGES}
    found |= {name: _program(command) for name, command in programs.items()}
    return Machine(
        cpu=model[1].strip() if model else platform.machine(),
        cores=len(CORES),
        memory_gib=round(int(memory[1]) / 2**20, 1) if memory else 0.0,
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions={name: text for name, text in found.items() if text},
        service_core=SERVICE_CORE,
        load_core=LOAD_CORE,
        load_before=round(load_before, 2),
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _program(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={"PATH": os.defpath})
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else ""
