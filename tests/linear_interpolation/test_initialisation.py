"""The parts that need no Trainer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.linear_interpolation import fit_random_labels, highest_above_line, interpolated, losses_between, redrawn
from zoo.linear_interpolation.initialisation import check_fit_arguments, matching


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 4))


def test_random_labels_are_met_and_say_nothing_of_the_real_ones():
    x, net = torch.randn(200, 20, generator=torch.Generator().manual_seed(1)), mlp()
    met = fit_random_labels(net, x, 4, epochs=150, batch_size=20, generator=torch.Generator().manual_seed(2))
    assert met == 1.0
    real = x[:, :4].argmax(dim=1)
    assert abs((net(x).argmax(dim=1) == real).float().mean() - 0.25) < 0.12
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_generator_decides_labels_and_order():
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(1))
    nets = [mlp() for _ in range(3)]
    for net, seed in zip(nets, (5, 5, 6)):
        fit_random_labels(net, x, 4, epochs=2, batch_size=16, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(nets[0][0].weight, nets[1][0].weight)
    assert not torch.equal(nets[0][0].weight, nets[2][0].weight)


def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one():
    counts = []
    net = mlp()
    net.register_forward_hook(lambda module, args, output: counts.append(len(output)))
    fit_random_labels(net, torch.randn(50, 20), 4, epochs=1, batch_size=20)
    fit_random_labels(net, torch.randn(7, 20), 4, epochs=1, batch_size=20)
    assert counts == [20, 20, 7]


def test_losses_between_two_states_are_those_of_the_loaded_states():
    net, other = mlp(), nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 4))
    a, b = (copy.deepcopy(one.state_dict()) for one in (net, other))
    x, y = torch.randn(30, 20), torch.randint(4, (30,))
    losses = losses_between(net, a, b, x, y, [0.0, 0.3, 1.0])
    for alpha, loss in zip([0.0, 0.3, 1.0], losses):
        state = {name: (1 - alpha) * a[name] + alpha * b[name] for name in a}
        other.load_state_dict(state)
        torch.testing.assert_close(loss, F.cross_entropy(other(x), y).detach())
    assert all(torch.equal(value, a[name]) for name, value in net.state_dict().items())


def test_integers_are_not_interpolated():
    a, b = {"steps": torch.tensor(0)}, {"steps": torch.tensor(9)}
    assert interpolated(a, b, 0.5)["steps"] == 9


def test_the_barrier_is_where_the_loss_lies_highest_above_the_line():
    assert highest_above_line(torch.tensor([4.0, 3.5, 3.0, 0.5, 0.0])) == 2  # not where it is highest
    assert highest_above_line(torch.tensor([4.0, 1.0, 0.5, 0.2, 0.0])) == 0


def test_a_redraw_has_the_law_of_the_first_draw_and_other_values():
    state = mlp().state_dict() | {"norm.running_var": torch.ones(3), "norm.num_batches_tracked": torch.tensor(0)}
    drawn = redrawn(state, ["0", "norm"], torch.Generator().manual_seed(0))
    assert set(drawn) == {"0.weight", "0.bias", "norm.running_var", "norm.num_batches_tracked"}
    assert not torch.equal(drawn["0.weight"], state["0.weight"])
    assert torch.equal(drawn["0.weight"].flatten().sort()[0], state["0.weight"].flatten().sort()[0])
    assert torch.equal(drawn["norm.running_var"], state["norm.running_var"])
    correlation = torch.corrcoef(torch.stack([drawn["0.weight"].flatten(), state["0.weight"].flatten()]))[0, 1]
    assert abs(correlation) < 0.1
    with pytest.raises(ValueError, match=r"groups must name modules of the model, got '7'; it has 0, 2, norm"):
        redrawn(state, ["7"])


def test_torchvisions_names_match_and_other_shapes_do_not():
    state = {f"net.{name}": torch.zeros(2) for name in ("conv1.weight", "head.bias", "layer1.0.bn1.weight")}
    source = {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(2), "layer1.0.bn1.weight": torch.ones(2)}
    assert set(matching(state, source)) == {"net.head.bias", "net.layer1.0.bn1.weight"}
    assert set(matching(state, state)) == set(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 0.1, 0.9), "epochs must be at least 1, got 0"),
        ((1, 0, 0.1, 0.9), "batch_size must be at least 1, got 0"),
        ((1, 1, float("nan"), 0.9), "lr must be > 0 and finite, got nan"),
        ((1, 1, 0.1, 1.0), r"momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_fit_arguments(*arguments)
