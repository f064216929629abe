"""A pytest plugin for `tools/test`: what was left out, and what failed, kept for the end of all its runs.

A whole run is several of pytest, and the words of the first are far above when the last has ended.
"""

import os
from pathlib import Path

import pytest

_LAST_LINES = 40


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A short section of what was left out; nothing where there is nothing to say."""
    left_out = [line for line in os.environ.get("CONFIGSVC_TEST_LEFT_OUT", "").splitlines() if line]
    if left_out:
        terminalreporter.section("left out")
        for line in left_out:
            terminalreporter.line(line)
    # A worker of xdist reports to the process that has the terminal.
    if (kept := os.environ.get("CONFIGSVC_TEST_RED")) and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(kept).open("a", encoding="utf-8") as red:
            for report in (*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")):
                red.write(f"{report.nodeid}\n")
                red.writelines(f"    {line}\n" for line in report.longreprtext.splitlines()[-_LAST_LINES:])
