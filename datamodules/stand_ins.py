"""Generated data that stands in where the real data is out of reach."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from datamodules.splits import random_split


@dataclass(frozen=True)
class CitationStatistics:
    """What a stand-in takes over from a citation dataset.

    Attributes:
        class_sizes: Nodes of each class.
        num_edges: Undirected edges.
        homophily: Share of the edges that join two nodes of one class.
        num_words: Features, one a word.
        words_per_node: Mean number of nonzero features of a node.
        topic_strength: How far the classes' word frequencies lie apart. Set so that a two-layer GCN reaches about
            80 % test accuracy; not a figure of the dataset.
        binary: Whether features are 0 or 1, else reals in [0, 1].
    """

    class_sizes: tuple[int, ...]
    num_edges: int
    homophily: float
    num_words: int
    words_per_node: float
    topic_strength: float
    binary: bool = True


STATISTICS = {
    "cora": CitationStatistics((351, 217, 418, 818, 426, 298, 180), 5278, 0.81, 1433, 18.2, 0.41),
    "citeseer": CitationStatistics((264, 590, 668, 701, 596, 508), 4552, 0.74, 3703, 31.6, 0.57),
    "pubmed": CitationStatistics((4103, 7739, 7875), 44324, 0.80, 500, 50.1, 0.21, binary=False),
}


def citation_graph(name: str) -> Data:
    """A stochastic-block-model graph with the size, degree, homophily and split of a citation dataset.

    Classes are the blocks. Every node draws words, with frequencies that fall as one over the word's rank and differ a
    little from class to class, so that neither words nor edges alone give the class away.
    It is the same graph at every call, and neither reads nor moves the global random state.

    PyG's ``stochastic_blockmodel_graph`` looks at every pair of nodes (194 million in PubMed's size); here each edge
    is drawn by itself.

    Args:
        name: ``"cora"``, ``"citeseer"`` or ``"pubmed"``.

    Returns:
        The graph: ``x`` ``(N, F)``, ``edge_index`` ``(2, E)``, ``y`` ``(N,)`` and ``train_mask`` (20 nodes a class),
        ``val_mask`` (500), ``test_mask`` (1,000), each ``(N,)``.

    Example:
        >>> citation_graph("cora").num_nodes
        2708
    """
    statistics = STATISTICS[name]
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(statistics.class_sizes)
    y = torch.arange(len(sizes)).repeat_interleave(sizes)
    train_mask, val_mask, test_mask = random_split(y, 20, num_val=500, num_test=1000, generator=generator)
    return Data(
        x=_words(y, statistics, generator),
        edge_index=_edges(y, sizes, statistics, generator),
        y=y,
        train_mask=train_mask,
        val_mask=val_mask,
        test_mask=test_mask,
        labeled_mask=torch.ones(len(y), dtype=torch.bool),
    )


def _edges(y: Tensor, sizes: Tensor, statistics: CitationStatistics, generator: torch.Generator) -> Tensor:
    """Draw edges one by one; nodes are in class order, so a class and its complement are runs of a ring of nodes."""
    num_nodes, num_edges = len(y), statistics.num_edges
    source = torch.randint(num_nodes, (num_edges,), generator=generator)
    position = torch.rand(num_edges, generator=generator)
    within = torch.rand(num_edges, generator=generator) < statistics.homophily
    size, start = sizes[y[source]], (sizes.cumsum(0) - sizes)[y[source]]
    mate = start + (source - start + 1 + (position * (size - 1)).long()) % size
    stranger = (start + size + (position * (num_nodes - size)).long()) % num_nodes
    return to_undirected(torch.stack([source, torch.where(within, mate, stranger)]), num_nodes=num_nodes)


def _words(y: Tensor, statistics: CitationStatistics, generator: torch.Generator) -> Tensor:
    """Draw each node's words by themselves, from the word frequencies of its class."""
    rank = torch.arange(statistics.num_words) + 20.0
    tilt = torch.randn(len(statistics.class_sizes), statistics.num_words, generator=generator)
    frequency = (statistics.topic_strength * tilt).exp() / rank
    probability = (statistics.words_per_node * frequency / frequency.sum(dim=1, keepdim=True)).clamp(max=1.0)
    x = torch.bernoulli(probability[y], generator=generator)
    return x if statistics.binary else x * torch.rand(x.shape, generator=generator)
