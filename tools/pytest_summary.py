"""A pytest plugin for `tools/test`: what was left out, said just before pytest's last line."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A short section; nothing where there is nothing to say."""
    left_out = [line for line in os.environ.get("CONFIGSVC_TEST_LEFT_OUT", "").splitlines() if line]
    if left_out:
        terminalreporter.section("left out")
        for line in left_out:
            terminalreporter.line(line)
