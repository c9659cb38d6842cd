"""The kernels split their work among threads: here there are two unless a test sets another number."""

import pytest


@pytest.fixture(autouse=True)
def _split(two_threads: None) -> None:
    pass
