import pytest
import torch

from zoo.paraunitary_conv import GroupSort, MaxMin


@pytest.mark.parametrize("group_size", [2, 3, 6])
def test_it_sorts_within_groups_and_keeps_norms_of_inputs_and_gradients(group_size):
    torch.manual_seed(0)
    x = torch.randn(2, 12, 3, 3, requires_grad=True)
    y = GroupSort(group_size)(x)
    members = y.unflatten(1, (group_size, -1))
    assert (members[:, :-1] >= members[:, 1:]).all()
    torch.testing.assert_close(y.flatten(1).sort().values, x.flatten(1).sort().values)
    gradient = torch.randn_like(y)
    (back,) = torch.autograd.grad(y, x, gradient)
    torch.testing.assert_close(back.norm(), gradient.norm())


def test_pairs_are_as_sorted_by_the_general_way():
    x = torch.randn(2, 6, 3)
    general = x.unflatten(1, (2, 3)).sort(dim=1, descending=True).values.flatten(1, 2)
    assert MaxMin()(x).equal(general)


def test_gradients_go_with_the_channels_also_where_these_are_equal():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxMin(), x)
    assert torch.autograd.gradgradcheck(lambda x: MaxMin()(x) ** 3, x)
    tied, gradient = torch.zeros(1, 4, requires_grad=True), torch.randn(1, 4)
    assert torch.autograd.grad(MaxMin()(tied), tied, gradient)[0].equal(gradient)
    v = torch.randn_like(x)
    y, along = torch.func.jvp(MaxMin(), (x,), (v,))
    torch.testing.assert_close(along, (MaxMin()(x + 1e-6 * v) - y) / 1e-6, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.func.vmap(MaxMin())(x[:, None])[:, 0], y)


def test_it_is_1_lipschitz():
    x, y = torch.randn(2, 100, 8)
    sort = GroupSort(4)
    assert ((sort(x) - sort(y)).norm(dim=1) <= (x - y).norm(dim=1) * (1 + 1e-6)).all()


def test_channels_must_fit():
    with pytest.raises(ValueError, match="channels must be a multiple of group_size 2, got 5"):
        MaxMin()(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="group_size must be at least 2, got 1"):
        GroupSort(1)
