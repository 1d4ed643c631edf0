import pytest
import torch

from zoo.paraunitary_conv.circular_conv import CONV, adjoint_kernel, circular_conv, swapped
from zoo.paraunitary_conv.padding import circular_pad

CASES = {
    "1d": ([(1, 1)], [1], 1),
    "1d, even, dilated, grouped": ([(2, 1)], [3], 2),
    "2d": ([(1, 1), (1, 1)], [1, 1], 1),
    "2d, even, dilated, grouped": ([(0, 1), (2, 2)], [1, 2], 2),
}


def problem(case, dtype=torch.float64):
    torch.manual_seed(0)
    pads, dilation, groups = CASES[case]
    kernel = [sum(pad) // apart + 1 for pad, apart in zip(pads, dilation)]
    x = torch.randn(2, 4, *[6] * len(pads), dtype=dtype, requires_grad=True)
    weight = torch.randn(6, 4 // groups, *kernel, dtype=dtype, requires_grad=True)
    bias = torch.randn(6, dtype=dtype, requires_grad=True)
    return (x, weight, bias), (pads, dilation, groups)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_convolution_of_the_padded_input_with_its_gradients(case):
    tensors, (pads, dilation, groups) = problem(case)
    x, weight, bias = tensors
    y = circular_conv(*tensors, pads, dilation, groups)
    plain = CONV[len(pads)](circular_pad(x, pads), weight, bias, 1, 0, dilation, groups)
    torch.testing.assert_close(y, plain)
    direction = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, tensors, direction), torch.autograd.grad(plain, tensors, direction)
    )


@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_all_kinds_are_those_of_finite_differences(case):
    tensors, options = problem(case)
    assert torch.autograd.gradcheck(lambda *t: circular_conv(*t, *options), tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *t: circular_conv(*t, *options), tensors)


@pytest.mark.parametrize("position", range(3))
def test_a_derivative_along_a_single_argument_is_linear_in_it(position):
    tensors, options = problem("2d")
    direction = torch.randn_like(tensors[position])

    def of_one(tensor):
        return circular_conv(*tensors[:position], tensor, *tensors[position + 1 :], *options)

    y, along = torch.func.jvp(of_one, (tensors[position],), (direction,))
    torch.testing.assert_close(along, of_one(tensors[position] + direction) - y)


@pytest.mark.parametrize("case", CASES)
def test_the_adjoint_kernel_makes_the_adjoint(case):
    (x, weight, _), (pads, dilation, groups) = problem(case)
    y = circular_conv(x, weight, None, pads, dilation, groups)
    other = torch.randn_like(y)
    back = circular_conv(other, adjoint_kernel(weight, groups), None, swapped(pads), dilation, groups)
    torch.testing.assert_close((y * other).sum(), (x * back).sum())


def test_many_inputs_or_weights_are_taken_at_once():
    (x, weight, bias), options = problem("2d")
    xs, weights = torch.stack([x, 2 * x]), torch.stack([weight, -weight])
    over_x = torch.func.vmap(lambda x: circular_conv(x, weight, bias, *options))(xs)
    over_weight = torch.func.vmap(lambda weight: circular_conv(x, weight, bias, *options))(weights)
    torch.testing.assert_close(over_x[1], circular_conv(2 * x, weight, bias, *options))
    torch.testing.assert_close(over_weight[1], circular_conv(x, -weight, bias, *options))


def test_autocast_casts_it_as_it_casts_a_plain_convolution():
    tensors, options = problem("2d", torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = circular_conv(*tensors, *options)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().square().sum(), tensors)
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 3
    exact = torch.autograd.grad(circular_conv(*tensors, *options).square().sum(), tensors)
    for gradient, other in zip(gradients, exact):
        assert (gradient - other).norm() < 0.02 * other.norm()
