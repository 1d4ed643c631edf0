import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from zoo.paraunitary_conv import (
    CircularConv2d,
    OrthogonalConv1d,
    OrthogonalConv2d,
    OrthogonalConvTranspose1d,
    OrthogonalConvTranspose2d,
    OrthogonalLinear,
    SeparableParaunitary,
)

LAYERS = [OrthogonalConv1d, OrthogonalConv2d, OrthogonalConvTranspose1d, OrthogonalConvTranspose2d]
CHANNELS = [(8, 8), (4, 16), (16, 4)]
KINDS = [
    *({"kernel_size": taps} for taps in (1, 2, 3, 4, 5)),
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "dilation": 4},
    {"kernel_size": 3, "groups": 4},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2},
    {"kernel_size": 6, "stride": 2, "groups": 2},
    {"kernel_size": 4, "stride": 4},
    {"kernel_size": 3, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "rank": 1},
    {"kernel_size": 3, "parametrization": "exp"},
]


def trained(layer, size, steps=100, lr=0.05):
    """The layer after some steps that take it far from its start."""
    torch.manual_seed(1)
    x = torch.randn(2, layer.in_channels, *[size] * layer.num_axes, dtype=layer.weight.dtype)
    with torch.no_grad():
        goal = torch.randn_like(layer(x))
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(layer(x), goal).backward()
        optimizer.step()
    return layer


def error(layer, size):
    return (layer.singular_values(size) - 1).abs().max().item()


def ratios(x, layer):
    """Norm of the output over that of the input, and of gradients on the way back."""
    x.requires_grad_()
    y = layer(x)
    gradient = torch.randn_like(y)
    (back,) = torch.autograd.grad(y, x, gradient)
    return (y.norm() / x.norm()).item(), (back.norm() / gradient.norm()).item()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("make", [OrthogonalConv2d, OrthogonalConvTranspose2d])
def test_all_singular_values_are_one_after_a_hundred_steps(make, kind):
    torch.manual_seed(0)
    assert error(trained(make(8, 8, **kind), 8), 8) < 1e-5


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_singular_values_are_one_to_the_last_digits_in_double_precision(kind):
    torch.manual_seed(0)
    layer = OrthogonalConv2d(8, 8, **kind).double()  # the base was drawn in float32
    assert error(trained(layer, 8), 8) < 1e-10


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", KINDS[1:11], ids=str)
def test_norms_are_kept_where_the_layer_says_so(make, channels, kind):
    torch.manual_seed(0)
    layer = make(*channels, **kind).double()
    x = torch.randn(3, channels[0], *[8] * layer.num_axes, dtype=torch.float64)
    forward, backward = ratios(x, layer)
    inputs, outputs = x.numel(), layer(x).numel()
    assert layer.preserves == ("both" if inputs == outputs else "inputs" if inputs < outputs else "gradients")
    if layer.preserves != "gradients":
        assert forward == pytest.approx(1, abs=1e-10)
        torch.testing.assert_close(layer.inverse(layer(x)), x)
    if layer.preserves != "inputs":
        assert backward == pytest.approx(1, abs=1e-10)
    assert max(forward, backward) < 1 + 1e-10


def test_the_transposed_layer_is_the_adjoint_of_the_same_kernel():
    torch.manual_seed(0)
    conv, adjoint = OrthogonalConv2d(4, 6, 6, stride=2), OrthogonalConvTranspose2d(6, 4, 6, stride=2)
    adjoint.load_state_dict(conv.state_dict())
    x, y = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)
    torch.testing.assert_close((conv(x) * y).sum(), (x * adjoint(y)).sum())


def test_groups_are_layers_of_their_own():
    torch.manual_seed(0)
    both = OrthogonalConv2d(4, 8, 3, groups=2, bias=False)
    x = torch.randn(2, 4, 5, 5)
    parts = [F.conv2d(F.pad(x[:, 2 * i : 2 * i + 2], (1, 1, 1, 1), mode="circular"), both.weight[4 * i : 4 * i + 4])
             for i in range(2)]  # fmt: skip
    torch.testing.assert_close(both(x), torch.cat(parts, 1))


@pytest.mark.parametrize("init", ["permutation", "identity", "reverse", "torus"])
def test_centred_starts_have_one_matrix_in_the_middle_tap(init):
    torch.manual_seed(0)
    weight = OrthogonalConv2d(6, 6, 5, init=init).weight
    middle = weight[:, :, 2, 2]
    torch.testing.assert_close(weight.square().sum(), middle.square().sum())
    torch.testing.assert_close(middle @ middle.T, torch.eye(6), atol=1e-5, rtol=0)
    if init != "torus":
        assert (middle.round() - middle).abs().max() < 1e-5
    if init in ("identity", "reverse"):
        expected = torch.eye(6) if init == "identity" else torch.eye(6).flip(0)
        torch.testing.assert_close(middle, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [OrthogonalConv2d, OrthogonalConvTranspose2d])
def test_zero_padding_never_stretches(make):
    torch.manual_seed(0)
    layer = make(4, 4, 4, stride=2, padding_mode="zeros").double()
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(layer, x).reshape(-1, x.numel())
    largest = torch.linalg.matrix_norm(jacobian, 2)
    assert 0.9 < largest < 1 + 1e-10
    shape = layer(x).shape[-1]
    assert shape == (3 if make is OrthogonalConv2d else 12)


def test_inputs_shorter_than_the_kernel_wrap_around_and_keep_their_norm():
    torch.manual_seed(0)
    layer, x = OrthogonalConv2d(3, 12, 6, stride=2), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(x).norm(), x.norm())
    assert error(layer, 4) < 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 4, 3), (4, 1, 3), (2, 2, 1)])
def test_single_channels_and_taps_are_no_exception(shape):
    torch.manual_seed(0)
    layer = OrthogonalConv2d(*shape)
    assert error(layer, 5) < 1e-5
    if shape == (1, 1, 3):
        assert sorted(layer.weight.abs().flatten().tolist()) == [0.0] * 8 + [1.0]


PLAIN = [
    {"kernel_size": 3},
    {"kernel_size": 4, "bias": True},
    {"kernel_size": 6, "stride": 3},
    {"kernel_size": 3, "dilation": 2, "groups": 2},
    {"kernel_size": 2, "padding_mode": "zeros"},
]


@pytest.mark.parametrize("make", [OrthogonalConv1d, OrthogonalConv2d])
@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_a_plain_convolution_computes_the_same(make, kind):
    torch.manual_seed(0)
    layer = make(4, 6, **kind)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    plain = layer.materialize()
    x = torch.randn(2, 4, *[12] * layer.num_axes)
    torch.testing.assert_close(plain(x), layer(x))
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    layer.parametrizations.weight.original0.data.add_(1)
    assert not torch.allclose(plain(x), layer(x))  # it has its own


@pytest.mark.parametrize(("sizes"), [(6, 3), (3, 6), (5, 5), (1, 4)])
@pytest.mark.parametrize("parametrization", ["cayley", "exp"])
def test_linear_layers_have_orthonormal_rows_or_columns(sizes, parametrization):
    torch.manual_seed(0)
    layer = OrthogonalLinear(*sizes, parametrization=parametrization)
    nn.init.normal_(layer.parametrizations.weight.original0)
    assert layer.weight.shape == (sizes[1], sizes[0])
    torch.testing.assert_close(layer.singular_values(), torch.ones(min(sizes)), atol=1e-5, rtol=0)


def test_the_weight_is_computed_in_full_precision_under_autocast():
    torch.manual_seed(0)
    layer = OrthogonalConv2d(16, 16, 3)
    nn.init.normal_(layer.parametrizations.weight.original0, std=0.3)
    weight = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.weight.equal(weight)
        y = layer(torch.randn(1, 16, 4, 4))
        assert error(layer, 4) < 1e-5
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_a_layer_that_was_in_half_precision_is_orthogonal_again():
    torch.manual_seed(0)
    layer = OrthogonalConv2d(16, 16, 3).bfloat16()
    assert layer.weight.dtype == torch.bfloat16
    assert error(layer.float(), 4) < 1e-5  # parameters and base were rounded, and what they make is polished


def test_second_derivatives_are_those_of_finite_differences():
    torch.manual_seed(0)
    layer = OrthogonalConv1d(2, 2, 4, stride=2, bias=True).double()
    x = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    free, subspaces = (parameter.detach().clone().requires_grad_() for parameter in layer.parametrizations.parameters())

    def call(x, free, subspaces):
        values = {"parametrizations.weight.original0": free, "parametrizations.weight.original1": subspaces}
        return torch.func.functional_call(layer, values, x)

    assert torch.autograd.gradcheck(lambda x: call(x, free, subspaces), x)
    assert torch.autograd.gradgradcheck(lambda x: call(x, free, subspaces).square(), x)
    # polishing passes gradients as they are, which is exact where it has nothing to do: up to its error
    assert torch.autograd.gradcheck(call, (x, free, subspaces), atol=1e-4)
    assert torch.autograd.gradgradcheck(call, (x, free, subspaces), atol=1e-4)


def test_derivatives_along_a_direction_and_over_many_inputs_at_once():
    torch.manual_seed(0)
    layer = OrthogonalConv2d(2, 2, 3).double()
    x, v = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    y, along = torch.func.jvp(layer, (x,), (v,))
    torch.testing.assert_close(along, layer(v))  # it is linear
    torch.testing.assert_close(torch.func.vmap(layer)(x[:, None])[:, 0], y)


def test_copies_and_state_dicts_compute_the_same():
    torch.manual_seed(0)
    layer = trained(OrthogonalConv2d(4, 8, 6, stride=2, groups=2, bias=True), 8, steps=3)
    other = OrthogonalConv2d(4, 8, 6, stride=2, groups=2, bias=True)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 8, 8)
    assert copy.deepcopy(layer)(x).equal(layer(x))
    assert other(x).equal(layer(x))


def test_the_parametrization_serves_a_plain_layer_and_is_cached_by_torch():
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 4, 3)
    parametrize.register_parametrization(conv, "weight", SeparableParaunitary(4, 4, (3,)))
    with parametrize.cached():
        assert conv.weight is conv.weight
    parametrize.remove_parametrizations(conv, "weight")
    assert isinstance(conv.weight, nn.Parameter)


def test_a_weight_cannot_be_assigned_to():
    layer = OrthogonalConv2d(4, 4, 3)
    with pytest.raises(ValueError, match="weight cannot be assigned to"):
        layer.weight = torch.zeros(4, 4, 3, 3)


WRONG = [
    ({"groups": 3}, r"out_channels must be a multiple of groups 3, got 8"),
    ({"groups": 8}, r"in_channels must be a multiple of groups 8, got 4"),
    ({"groups": 0}, "groups must be at least 1, got 0"),
    ({"kernel_size": 3, "stride": 2}, r"kernel_size must be a multiple of the stride \(2, 2\), got \(3, 3\)"),
    ({"kernel_size": 0}, "kernel_size must be at least 1"),
    ({"kernel_size": (3, 3, 3)}, "kernel_size must be at least 1, for each of 2 axes"),
    ({"stride": 0}, "stride must be at least 1"),
    ({"kernel_size": 4, "stride": 2, "dilation": 2}, r"dilation must be 1 where stride is more, got \(2, 2\)"),
    ({"kernel_size": 4, "init": "permutation"}, r"init must be uniform unless kernel_size / stride is odd"),
    ({"init": "zeros"}, "init must be one of uniform, permutation, identity, reverse, torus, got 'zeros'"),
    ({"padding_mode": "reflect"}, "padding_mode must be one of circular, zeros, got 'reflect'"),
    ({"parametrization": "qr"}, "parametrization must be one of cayley, exp, got 'qr'"),
    ({"rank": 0}, r"rank must be in \[1, 7\], got 0"),
    ({"rank": 8}, r"rank must be in \[1, 7\], got 8"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_wrong_arguments_are_named_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        OrthogonalConv2d(4, 8, **{"kernel_size": 3, **options})


@pytest.mark.parametrize(("layer", "size", "message"), [
    (OrthogonalConv2d(4, 4, 4, stride=2), (6, 5), r"multiples of the stride \(2, 2\), got \(6, 5\)"),
    (OrthogonalConv2d(4, 4, 5), (8, 1), r"at least the circular padding .* kernel of \(5, 5\) .*, got \(8, 1\)"),
    (OrthogonalConv1d(4, 4, 3, dilation=4), (3,), r"at least the circular padding .* dilation \(4,\), got \(3,\)"),
    (OrthogonalConvTranspose2d(4, 4, 9), (2, 2), r"at least the circular padding .*, got \(2, 2\)"),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(layer, size, message):
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(1, 4, *size))


def test_what_cannot_be_inverted_or_measured_says_so():
    with pytest.raises(ValueError, match="inverse needs a layer that preserves its inputs"):
        OrthogonalConv2d(8, 4, 3).inverse(torch.zeros(1, 4, 4, 4))
    for method in ("inverse", "singular_values"):
        with pytest.raises(ValueError, match=f"{method} needs padding_mode circular, got 'zeros'"):
            getattr(OrthogonalConv2d(4, 4, 3, padding_mode="zeros"), method)(4)


def test_the_plain_layer_is_that_of_torch_and_says_when_it_cannot_be():
    torch.manual_seed(0)
    conv, x = CircularConv2d(2, 3, 4, stride=2), torch.randn(1, 2, 4, 4)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(conv(x), expected)
    jacobian = torch.autograd.functional.jacobian(conv, x).reshape(12, 32)
    torch.testing.assert_close(conv.singular_values(4), torch.linalg.svdvals(jacobian), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="kernel_size - stride must be even, got 4 and 1"):
        CircularConv2d(2, 2, 4)
