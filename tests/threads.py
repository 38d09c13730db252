"""A fixture for modules that compare trainings: with another number of threads sums are rounded otherwise."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread of torch's for a whole module, as in the processes that the tests start and in a task with one CPU."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)
