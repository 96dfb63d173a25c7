"""A controller per test, and JD Cloud's SDK pointed at it."""

import pytest

import controllers


@pytest.fixture
def start():
    """Starts controllers with given settings; they end with the test."""
    running = []

    def start(**settings):
        running.append(controllers.start(**settings))
        return running[-1]

    yield start
    for sandbox in running:
        sandbox.stop()


@pytest.fixture
def sandbox(start):
    """A controller with default settings."""
    return start()


@pytest.fixture
def one(sandbox):
    """The first account."""
    return sandbox.tenants[0]


@pytest.fixture
def two(sandbox):
    """The second account."""
    return sandbox.tenants[1]
