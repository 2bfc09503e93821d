"""Shared set-up: one thread, no network, no state left over."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("alike", derandomize=True, database=None, deadline=None)
settings.load_profile("alike")  # the same examples at each run


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small models on a shared machine are fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
