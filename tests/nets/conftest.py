import pytest
import torch


@pytest.fixture(autouse=True)
def _small_and_repeatable():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these tensors are too small to share
    yield
    torch.set_num_threads(threads)
