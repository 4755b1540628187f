"""Assertions of the shared checks say what they saw, and a test that fails shows what the processes said."""

from collections.abc import Generator

import pytest

pytest.register_assert_rewrite("tests.api", "tests.fault.checks", "tests.fault.load")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cluster = item.funcargs.get("cluster")
    if report.failed and cluster is not None:
        report.sections += cluster.last_words()
    return report
