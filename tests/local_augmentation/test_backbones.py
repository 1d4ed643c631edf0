import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn import GATConv, GCN2Conv, GCNConv

from zoo.local_augmentation import LAGAT, LAGCN, LAGCNII, LAGRAND, mixed_order_propagation
from zoo.local_augmentation.sparse import Graph, SparseMatrix

NETWORKS = {
    "gcn": lambda **options: LAGCN(20, 16, 3, **options),
    "gat": lambda **options: LAGAT(20, 4, 3, heads=4, **options),
    "gcnii": lambda **options: LAGCNII(20, 16, 3, num_layers=3, **options),
}


@pytest.fixture
def graph(data):
    return Graph(data.edge_index, data.num_nodes)


def test_one_branch_is_the_gcn_of_pyg(data, graph):
    torch.manual_seed(0)
    net = LAGCN(20, 16, 3, num_branches=1).eval()
    first, second = GCNConv(20, 16), GCNConv(16, 3)
    with torch.no_grad():
        first.lin.weight.copy_(net.branches[0].weight[0])
        second.lin.weight.copy_(net.weight[0].t())
        for conv, bias in ((first, net.branch_bias), (second, net.bias)):
            conv.bias.copy_(bias.normal_().flatten())
    expected = second(first(data.x, data.edge_index).relu(), data.edge_index)
    torch.testing.assert_close(net([data.x], graph)[0], expected)


def test_one_branch_is_the_gat_of_pyg(data, graph):
    torch.manual_seed(0)
    net = LAGAT(20, 4, 3, num_branches=1, heads=4).eval()
    first, second = GATConv(20, 4, 4), GATConv(16, 3, 1, concat=False)
    mine = net.attentions[0].state_dict()
    first.load_state_dict(mine | {"lin.weight": net.branches[0].weight[0].detach()})
    second.load_state_dict(net.out.state_dict())
    expected = second(F.elu(first(data.x, data.edge_index)), data.edge_index)
    torch.testing.assert_close(net([data.x], graph)[0], expected)


def test_one_branch_is_the_gcnii_of_pyg(data, graph):
    torch.manual_seed(0)
    net = LAGCNII(20, 16, 3, num_branches=1, num_layers=3).eval()
    hidden = first = (data.x @ net.branches[0].weight[0].t() + net.branch_bias).relu()
    for layer, mine in enumerate(net.convs, start=1):
        conv = GCN2Conv(16, alpha=0.1, theta=0.5, layer=layer)
        conv.load_state_dict(mine.state_dict())
        hidden = conv(hidden, first, data.edge_index).relu()
    torch.testing.assert_close(net([data.x], graph)[0], net.out(hidden))


@pytest.mark.parametrize("name", NETWORKS)
def test_stacked_passes_equal_single_ones(name, data, graph):
    torch.manual_seed(0)
    net = NETWORKS[name](num_branches=2).eval()
    draws = torch.rand(3, *data.x.shape)
    together = net([draws, SparseMatrix.from_dense(data.x)], graph)
    one_by_one = torch.cat([net([draw, data.x], graph) for draw in draws])
    torch.testing.assert_close(together, one_by_one)


@pytest.mark.parametrize("name", NETWORKS)
def test_relabelling_the_nodes_relabels_the_output(name, data, graph):
    torch.manual_seed(0)
    net = NETWORKS[name](num_branches=1).eval()
    new_name = torch.randperm(data.num_nodes)
    old_name = new_name.argsort()
    renamed = net([data.x[old_name]], Graph(new_name[data.edge_index], data.num_nodes))
    torch.testing.assert_close(renamed, net([data.x], graph)[:, old_name])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_pass_has_dropout_of_its_own(name, data, graph):
    torch.manual_seed(0)
    net = NETWORKS[name](num_branches=2).train()
    first, second = net([data.x, SparseMatrix.from_dense(data.x)], graph, num_samples=2)
    assert not torch.allclose(first, second)


def test_inputs_survive_unless_in_place_is_asked_for(data, graph):
    draws = torch.rand(2, *data.x.shape)
    before = draws.clone()
    LAGCN(20, 16, 3)([draws, data.x], graph)
    assert torch.equal(draws, before)
    LAGCN(20, 16, 3, inplace=True)([draws, data.x], graph)
    assert not torch.equal(draws, before)


def test_replicas_are_the_networks_they_would_be_alone(data, graph):
    torch.manual_seed(0)
    net = LAGCN(20, 16, 3, num_replicas=2).eval()
    shared = torch.rand(4, *data.x.shape)
    together = net([shared, data.x], graph)
    own = net([shared.expand(2, -1, -1, -1), data.x], graph)  # the same draws, given to each replica
    torch.testing.assert_close(together, own)
    for i in range(2):
        alone = LAGCN(20, 16, 3).eval()
        alone.load_state_dict({name: value[i : i + 1] for name, value in net.state_dict().items()})
        torch.testing.assert_close(alone([shared, data.x], graph), together[i])


def test_replicas_share_the_noise_of_the_features_or_not(data, graph):
    for share_noise in (True, False):
        net = LAGCN(20, 16, 3, num_branches=1, num_replicas=2, share_noise=share_noise, dropout=0.9)
        with torch.no_grad():
            net.branches[0].weight[1] = net.branches[0].weight[0]
        first, second = net.branches[0](SparseMatrix.from_dense(data.x), num_samples=3)
        assert torch.equal(first, second) == share_noise


def test_shifted_normal_has_mean_minus_s_and_deviation_s():
    torch.manual_seed(0)
    net = LAGCN(5000, 16, 3, init="shifted_normal")
    weight = net.branches[0].weight
    assert weight.mean().item() == pytest.approx(-(8**-0.5), abs=0.01)
    assert weight.std().item() == pytest.approx(8**-0.5, abs=0.01)
    assert not torch.equal(net.bias, torch.zeros_like(net.bias))


def test_mixed_order_propagation_is_the_mean_of_powers(data, graph):
    power, total = data.x, data.x.clone()
    dense = graph.propagation.to_dense()
    for _ in range(4):
        power = dense @ power
        total += power
    torch.testing.assert_close(mixed_order_propagation(data.x, graph.propagation, 4), total / 5)


def test_grand_drops_nodes_in_training_and_scales_them_in_evaluation(data, graph):
    torch.manual_seed(0)
    net = LAGRAND(20, 8, 3, dropnode=0.4, order=2, input_dropout=0.0, hidden_dropout=0.0)
    views = net([data.x, data.x], graph, num_samples=3)
    assert views.shape == (6, data.num_nodes, 3)
    assert not torch.allclose(views[0], views[1])
    propagated = mixed_order_propagation(data.x * 0.6, graph.propagation, 2)
    expected = net.out(net.hidden(propagated).relu())
    torch.testing.assert_close(net.eval()([torch.zeros_like(data.x), data.x], graph)[0], expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LAGCN(20, 15, 3, num_branches=2), "hidden_channels must be a multiple of 2, the number of branches"),
        (lambda: LAGCN(20, 2, 3, num_branches=4), "hidden_channels must be a multiple of 4"),
        (lambda: LAGCN(20, 16, 3, num_branches=0), "num_branches must be at least 1"),
        (lambda: LAGCN(20, 16, 3, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: LAGCN(20, 16, 3, num_replicas=0), "num_replicas must be at least 1"),
        (lambda: LAGCN(20, 16, 3, init="zeros"), "init must be 'glorot' or 'shifted_normal', got 'zeros'"),
        (lambda: LAGAT(20, 8, 3, heads=3), "heads must be a multiple of 2"),
        (lambda: LAGAT(20, 0, 3), "hidden_channels and out_heads must be at least 1"),
        (lambda: LAGCNII(20, 16, 3, num_layers=0), "num_layers must be at least 1"),
        (lambda: LAGCNII(20, 16, 3, alpha=2.0), r"alpha must be in \[0, 1\]"),
        (lambda: LAGCNII(20, 16, 3, theta=0.0), "theta must be > 0"),
        (lambda: LAGRAND(20, 16, 3, order=-1), "order must be at least 0"),
        (lambda: LAGRAND(20, 16, 3, dropnode=-0.1), r"dropnode must be in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
