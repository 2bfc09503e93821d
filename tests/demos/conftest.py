"""Every test of the demos draws the same random numbers, on one thread."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _single_thread() -> Iterator[None]:
    # Networks this small gain nothing from threads, and threads that wait for each other made a
    # fit of 3 s take 140 s while another process kept the same two cores busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
