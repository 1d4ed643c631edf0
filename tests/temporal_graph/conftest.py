import pytest
import torch

from datamodules.temporal_dyncsl import skip_link_window
from datamodules.temporal_windows import WindowList, temporal_window


def random_window(num_nodes=20, num_steps=5, num_features=2, num_edge_features=1, seed=0, allow_empty=False, empty=()):
    """Directed snapshots with weights in [0, 1], some loops among them, and at least one edge into every node."""
    generator = torch.Generator().manual_seed(seed)
    indices, attrs = [], []
    for step in range(num_steps):
        ring = torch.arange(num_nodes) * num_nodes + (torch.arange(num_nodes) + 1) % num_nodes
        pairs = torch.cat([ring, torch.randint(num_nodes**2, (3 * num_nodes,), generator=generator)]).unique()
        pairs = pairs[:0] if step in empty else pairs[torch.randperm(len(pairs), generator=generator)]
        indices.append(torch.stack([pairs // num_nodes, pairs % num_nodes]))
        attrs.append(torch.rand(len(pairs), num_edge_features, generator=generator))
    x = torch.rand(num_nodes, num_steps, num_features, generator=generator)
    y = torch.rand(num_nodes, 1, generator=generator)
    return temporal_window(x, indices, attrs, y, allow_empty=allow_empty)


def batched(*windows):
    """The windows side by side; those of WindowList have one target each, so the nodes' own are put back."""
    singles = [one._replace(y=torch.zeros(1)) for one in windows]
    batch = WindowList(singles)[torch.arange(len(windows))]
    return batch._replace(y=torch.cat([one.y for one in windows]))


def renamed(window, order):
    """The window with node ``i`` called ``order[i]``."""
    edge_index = order[window.edge_index]
    rank = (edge_index[1] * len(order) + edge_index[0]).argsort()
    old = order.argsort()
    return window._replace(
        x=window.x[old],
        edge_index=edge_index[:, rank],
        edge_attr=window.edge_attr[rank],
        present=window.present[rank],
        y=window.y[old],
    )


@pytest.fixture
def window():
    return random_window()


@pytest.fixture
def contrast():
    """One skip at all steps, and two in turn."""
    return skip_link_window(19, [2] * 8, 0), skip_link_window(19, [2, 3] * 4, 0)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
