"""A test that fails shows what the processes said."""

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cluster = item.funcargs.get("cluster")
    if report.failed and cluster is not None:
        report.sections += cluster.last_words()
    return report
