"""What all models have in common."""

import copy
import pickle

import pytest
import torch
from torch_geometric.data import Batch, Data

from datamodules.temporal_windows import SlidingWindows, temporal_window
from zoo.temporal_graph import ENCODERS, build_encoder

from .conftest import batched, random_window, renamed

NAMES = list(ENCODERS)
TIME_AND_GRAPH = [name for name in NAMES if name not in ("gru_gcn", "tgat", "tgn")]


def encoder_of(name, window, hidden=16, **encoder_args):
    edge_channels = window.edge_attr.shape[-1]
    return build_encoder(name, window.x.shape[2], edge_channels, hidden, "tanh", encoder_args).eval()


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_renaming_nodes_renames_their_representations(name, window):
    encoder, order = encoder_of(name, window), torch.randperm(20)
    close(encoder(renamed(window, order))[order], encoder(window))


@pytest.mark.parametrize("name", NAMES)
def test_windows_of_a_batch_do_not_see_each_other(name):
    sizes = (20, 20, 20) if name == "evolve_gcn_h" else (20, 17, 23)
    windows = [random_window(num_nodes=size, seed=seed) for seed, size in enumerate(sizes)]
    encoder = encoder_of(name, windows[0])
    close(encoder(batched(*windows)), torch.cat([encoder(window) for window in windows]))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_pyg_serves_as_well(name):
    windows = [random_window(seed=seed) for seed in range(2)]
    fields = ("x", "edge_index", "edge_attr", "present")
    batch = Batch.from_data_list([Data(**{field: getattr(one, field) for field in fields}) for one in windows])
    encoder = encoder_of(name, windows[0])
    close(encoder(batch), encoder(batched(*windows)))


@pytest.mark.parametrize("name", NAMES)
def test_edges_matter(name, window):  # public copies of the authors' code slice those of GCN-GRU and DySAT away
    bare = window._replace(
        edge_index=window.edge_index[:, :0], edge_attr=window.edge_attr[:0], present=window.present[:0]
    )
    encoder = encoder_of(name, window)
    assert (encoder(window) - encoder(bare)).abs().max() > 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "evolve_gcn_o"])
def test_every_snapshot_matters(name, window):
    if name == "tgat":  # knows of a node's past what its neighbours' events tell
        window = random_window(seed=3)
    encoder = encoder_of(name, window)
    changed = window.x.clone()
    changed[:, 0] += 1
    assert (encoder(window) - encoder(window._replace(x=changed))).abs().max() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_several_features_of_an_edge_are_taken(name):
    window = random_window(num_edge_features=3)
    encoder = encoder_of(name, window)
    encoder(window).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    changed = window.edge_attr.clone()
    changed[..., 2] += window.present
    assert (encoder(window) - encoder(window._replace(edge_attr=changed))).abs().max() > 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("empty", [(0,), (4,), (0, 1, 2, 3, 4)])
def test_a_snapshot_without_edges_is_borne(name, empty):
    window = random_window(allow_empty=True, empty=empty)
    z = encoder_of(name, window)(window)
    assert z.isfinite().all()
    assert len(z) == 20


@pytest.mark.parametrize("name", NAMES)
def test_a_node_without_any_edge_is_what_its_own_history_says(name):
    ring = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    x = torch.rand(18, 3, 1)
    window = temporal_window(x, [ring] * 3, [torch.rand(4, 1) for _ in range(3)], torch.zeros(18, 1))
    encoder = encoder_of(name, window)
    changed = x.clone()
    changed[:4] += 1
    if name != "evolve_gcn_h":  # whose weights have seen all nodes
        close(encoder(window)[4:], encoder(window._replace(x=changed))[4:])
    assert encoder(window).isfinite().all()


def one_sequence(static):
    """Windows 0, 1, 1 and 3 of a sequence, which share snapshots."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(9, 20, 2, generator=generator)
    whole = random_window(num_steps=9, seed=5)
    if static:
        edges = whole.edge_index, torch.rand(whole.edge_index.shape[1], 1, generator=generator)
    else:
        from datamodules.temporal_windows import EdgeHistories

        edges = EdgeHistories(whole.edge_index, whole.edge_attr, whole.present)
    windows = SlidingWindows(features, edges, 4, 1, torch.ones(20, dtype=torch.bool))
    return windows[torch.tensor([0, 1, 1, 3])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("static", [False, True])
def test_a_snapshot_that_windows_share_is_the_same_as_one_of_their_own(name, static):
    batch = one_sequence(static)
    encoder = encoder_of(name, batch)
    close(encoder(batch), encoder(batch._replace(snapshot_id=None)))


@pytest.mark.parametrize("name", [*TIME_AND_GRAPH, "tgat", "tgn"])
def test_a_graph_that_stays_is_one_that_is_there_at_all_steps(name):
    static = one_sequence(static=True)
    steps = static.x.shape[1]
    changing = static._replace(
        edge_attr=static.edge_attr[:, None].expand(-1, steps, -1).contiguous(),
        present=torch.ones(len(static.edge_attr), steps, dtype=torch.bool),
    )
    encoder = encoder_of(name, static)
    close(encoder(static), encoder(changing))


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_that_stays_may_be_met_first_in_inference_mode_and_then_trained_on(name):
    batch = one_sequence(static=True)
    encoder = encoder_of(name, batch)
    with torch.inference_mode():
        before = encoder(batch)
    after = encoder(batch)
    after.sum().backward()
    close(after.detach(), before.clone())


@pytest.mark.parametrize("name", NAMES)
def test_another_graph_of_the_same_size_is_not_taken_for_the_remembered_one(name):
    batch = one_sequence(static=True)
    encoder = encoder_of(name, batch)
    other = batch._replace(edge_attr=batch.edge_attr.flip(0).contiguous())
    _ = encoder(batch)
    close(encoder(other), copy.deepcopy(encoder)(other))


@pytest.mark.parametrize("name", ["gru_gcn", "gcn_gru"])
def test_models_are_copied_and_pickled_after_use(name):
    batch = one_sequence(static=True)
    encoder = encoder_of(name, batch)
    z = encoder(batch)
    close(copy.deepcopy(encoder)(batch), z)
    close(pickle.loads(pickle.dumps(encoder))(batch), z)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_under_autocast_is_near(name, window):
    encoder = encoder_of(name, window)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(window)
    torch.testing.assert_close(half.float(), encoder(window), atol=0.1, rtol=0.1)


def test_unknown_models_and_arguments_are_named():
    with pytest.raises(ValueError, match=r"encoder must be one of gru_gcn, .*, got 'stgcn'"):
        build_encoder("stgcn", 1, 1)
    with pytest.raises(ValueError, match=r"encoder_args do not fit gru_gcn: .*depth"):
        build_encoder("gru_gcn", 1, 1, encoder_args={"depth": 3})
    with pytest.raises(ValueError, match="hidden_channels must be at least 1, got 0"):
        build_encoder("dcrnn", 1, 1, 0)
    with pytest.raises(ValueError, match="activation must be one of softplus, tanh, relu, identity, got 'gelu'"):
        build_encoder("dcrnn", 1, 1, 4, "gelu")
