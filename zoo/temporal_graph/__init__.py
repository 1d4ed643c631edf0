"""On the Equivalence Between Temporal and Static Equivariant Graph Representations (Gao and Ribeiro, ICML 2022).

Time-and-graph models run a graph network at every snapshot and carry a state from one to the next; time-then-graph
models encode the history of every node and edge first, and run one network on one static graph. With networks as
strong as 1-WL the second are strictly more expressive.
"""

from zoo.temporal_graph.dcrnn import DCRNN
from zoo.temporal_graph.events import TGAT, TGN
from zoo.temporal_graph.evolve_gcn import EvolveGCN
from zoo.temporal_graph.graph import Graph, Propagation
from zoo.temporal_graph.layers import ChebyshevLayer, EdgeWeight, GATLayer, GCNLayer, GraphNetwork, chebyshev, gat, gcn
from zoo.temporal_graph.metrics import OffsetMAPE, RawError
from zoo.temporal_graph.module import TemporalForecaster, TemporalGraphClassifier
from zoo.temporal_graph.naive import NaiveForecast
from zoo.temporal_graph.presets import (
    ENCODERS,
    build_encoder,
    dcrnn,
    dysat,
    evolve_gcn_h,
    evolve_gcn_o,
    gcn_gru,
    gcrn_m2,
    gru_gcn,
)
from zoo.temporal_graph.sequences import (
    DistinctSequences,
    MeanEncoder,
    RecurrentEncoder,
    SelfAttentionEncoder,
    distinct_rows,
    sequence_encoder,
)
from zoo.temporal_graph.snapshots import stack_snapshots, step_graphs
from zoo.temporal_graph.time_and_graph import TimeAndGraph
from zoo.temporal_graph.time_then_graph import TimeThenGraph
from zoo.temporal_graph.window import TemporalWindow

__all__ = [
    "DCRNN",
    "ENCODERS",
    "TGAT",
    "TGN",
    "ChebyshevLayer",
    "DistinctSequences",
    "EdgeWeight",
    "EvolveGCN",
    "GATLayer",
    "GCNLayer",
    "Graph",
    "GraphNetwork",
    "MeanEncoder",
    "NaiveForecast",
    "OffsetMAPE",
    "Propagation",
    "RawError",
    "RecurrentEncoder",
    "SelfAttentionEncoder",
    "TemporalForecaster",
    "TemporalGraphClassifier",
    "TemporalWindow",
    "TimeAndGraph",
    "TimeThenGraph",
    "build_encoder",
    "chebyshev",
    "dcrnn",
    "distinct_rows",
    "dysat",
    "evolve_gcn_h",
    "evolve_gcn_o",
    "gat",
    "gcn",
    "gcn_gru",
    "gcrn_m2",
    "gru_gcn",
    "sequence_encoder",
    "stack_snapshots",
    "step_graphs",
]
