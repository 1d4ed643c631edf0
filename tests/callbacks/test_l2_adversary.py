import pytest
import torch
import torch.nn.functional as F
from torch import nn

from callbacks import EmpiricalLipschitz, L2Adversary, pgd_l2, stretching_pairs
from callbacks.adversary import frozen, margin


def test_an_attack_on_a_linear_classifier_goes_the_shortest_way():
    torch.manual_seed(0)
    weight = torch.randn(2, 20)
    x, y = torch.randn(30, 20), torch.randint(2, (30,))
    attacked = pgd_l2(lambda x: x @ weight.T, x, y, eps=0.3, steps=20, generator=torch.Generator().manual_seed(0))
    sign = 1 - 2 * y[:, None].float()
    expected = x + 0.3 * sign * F.normalize(weight[1] - weight[0], dim=0)
    torch.testing.assert_close(attacked, expected, atol=1e-2, rtol=0)
    assert ((attacked - x).norm(dim=1) <= 0.3 * (1 + 1e-5)).all()


def test_an_attack_never_leaves_a_larger_margin_and_more_of_it_a_smaller_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 4))
    x, y = torch.randn(40, 6), torch.randint(4, (40,))
    margins = [margin(net(x), y)]
    for steps, restarts in ((1, 1), (10, 1), (10, 5)):
        generator = torch.Generator().manual_seed(0)
        margins.append(margin(net(pgd_l2(net, x, y, 0.5, steps, None, restarts, generator)), y))
        assert (margins[-1] <= margins[0]).all()
    means = [values.mean() for values in margins]
    assert means[0] > means[1] > means[2] >= means[3]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_attack_is_as_random_as_its_generator():
    net = nn.Linear(3, 2)
    x, y = torch.randn(5, 3), torch.zeros(5, dtype=torch.long)
    one, two = (pgd_l2(net, x, y, 0.1, 1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1))
    assert one.equal(two)


@pytest.mark.parametrize(("options", "message"), [
    ({"eps": 0.0}, "eps must be > 0, got 0.0"), ({"eps": float("nan")}, "eps must be > 0, got nan"),
    ({"steps": 0}, "steps must be at least 1, got 0"), ({"restarts": 0}, "restarts must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_arguments_of_attacks_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        pgd_l2(nn.Linear(1, 2), torch.zeros(1, 1), torch.zeros(1, dtype=torch.long), **{"eps": 1.0, **options})
    with pytest.raises(ValueError, match=message):
        L2Adversary(**options)


def test_pairs_are_torn_apart_as_far_as_the_largest_singular_value():
    torch.manual_seed(0)
    weight = torch.randn(6, 8)
    x = torch.randn(4, 8)
    start = x + 0.1 * torch.randn(4, 8)
    partner = stretching_pairs(lambda x: x @ weight.T, x, start, steps=100)
    lipschitz = EmpiricalLipschitz()
    lipschitz.update(x, partner, x @ weight.T, partner @ weight.T)
    assert lipschitz.compute().item() == pytest.approx(torch.linalg.matrix_norm(weight, 2).item(), rel=1e-3)
    torch.testing.assert_close((partner - x).norm(dim=1), (start - x).norm(dim=1), rtol=1e-4, atol=0)


def test_equal_inputs_have_no_ratio_and_the_largest_counts():
    lipschitz = EmpiricalLipschitz()
    x = torch.zeros(2, 1)
    lipschitz.update(x, x, torch.zeros(2, 1), torch.ones(2, 1))
    assert lipschitz.compute() == 0
    lipschitz.update(x, x + 2, torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]))
    lipschitz.update(x, x + 2, torch.zeros(2, 1), torch.zeros(2, 1))
    assert lipschitz.compute() == 1.5


def test_wrong_numbers_of_steps_are_named():
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        stretching_pairs(nn.Identity(), torch.zeros(1, 1), torch.ones(1, 1), steps=-1)
    for options, message in (({"power_steps": -1}, "power_steps must be >= 0, got -1"),
                             ({"power_images": 0}, "power_images must be at least 1, got 0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            L2Adversary(**options)


def test_freezing_is_undone_even_after_an_error():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)

    def fail():
        with frozen(net):
            assert not net.weight.requires_grad
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert net.weight.requires_grad
    assert not net.bias.requires_grad
