"""In continuous integration (CNNCC_CI=1) a test that is skipped because a package is missing is a failure.

Reports pass through these hooks in the main process, with pytest-xdist too; its workers make the same
check on their own reports, which does no harm.
"""

from __future__ import annotations

import os
import re

import pytest

_MISSING_PACKAGE = re.compile(r"could not import|cannot import|no module named|not installed", re.IGNORECASE)
_in_ci = os.environ.get("CNNCC_CI") == "1"
_skipped_for_a_package: dict[str, str] = {}


def _look_at(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if _MISSING_PACKAGE.search(reason):
            _skipped_for_a_package[report.nodeid] = reason


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _look_at(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _look_at(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _in_ci and _skipped_for_a_package and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _in_ci and _skipped_for_a_package:
        terminalreporter.section("skipped for a missing package: a failure here", red=True)
        for test, reason in _skipped_for_a_package.items():
            terminalreporter.line(f"{test}: {reason}")
