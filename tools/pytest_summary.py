"""A pytest plugin for `tools/test`: what was left out and how much is covered, said just before pytest's last line."""

import io
import os

import coverage
import pytest

PACKAGES = ("configsvc", "configsvc_client")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Two short sections; nothing where there is nothing to say."""
    left_out = [line for line in os.environ.get("CONFIGSVC_TEST_LEFT_OUT", "").splitlines() if line]
    if left_out:
        terminalreporter.section("left out")
        for line in left_out:
            terminalreporter.line(line)
    if config.pluginmanager.hasplugin("_cov"):
        terminalreporter.section("coverage (lines and branches)")
        for package in PACKAGES:
            terminalreporter.line(f"{package:17} {covered(package)}")


def covered(package: str) -> str:
    """The share of a package that ran, as text."""
    data = coverage.Coverage(config_file="setup.cfg")
    data.load()
    try:
        return f"{data.report(include=[f'{package}/*'], file=io.StringIO()):.1f} %"
    except coverage.CoverageException as error:
        return f"unknown: {error}"
