import pytest
import torch
import torch.nn.functional as F

from zoo.paraunitary_conv import conv_singular_values
from zoo.paraunitary_conv.padding import circular_fold, circular_pad


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "groups"), [
    ((4, 6), (3, 3), 1, 1, 1), ((4, 6), (3, 2), (1, 2), 1, 1), ((8,), (3,), 1, 2, 1), ((6,), (6,), 3, 1, 2),
    ((2, 2), (3, 3), 1, 1, 1),
])  # fmt: skip
def test_they_are_those_of_the_whole_matrix(size, kernel, stride, dilation, groups):
    torch.manual_seed(0)
    weight = torch.randn(4, 2, *kernel, dtype=torch.float64)
    conv = F.conv2d if len(size) == 2 else F.conv1d
    steps = (stride,) * len(size) if isinstance(stride, int) else stride
    pads = [(0, dilation * (k - 1) + 1 - step) for k, step in zip(kernel, steps)]

    def layer(x):
        return conv(circular_pad(x, pads), weight, None, stride, 0, dilation, groups)

    x = torch.zeros(1, 2 * groups, *size, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(layer, x).reshape(-1, x.numel())
    found = conv_singular_values(weight, size, stride, dilation, groups)
    torch.testing.assert_close(found, torch.linalg.svdvals(matrix), atol=1e-9, rtol=0)


def test_sizes_that_do_not_fit_are_named():
    weight = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"input_size must have 2 lengths, got \(4,\)"):
        conv_singular_values(weight, [4])
    with pytest.raises(ValueError, match=r"multiples of the stride \(2, 2\), got \(4, 5\)"):
        conv_singular_values(weight, [4, 5], stride=2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_circular_padding_is_that_of_torch_and_folding_is_its_adjoint(memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    pads = [(2, 1), (0, 3)]
    y = circular_pad(x, pads)
    torch.testing.assert_close(y, F.pad(x, (0, 3, 2, 1), mode="circular"))
    assert y.is_contiguous(memory_format=memory_format)
    other = torch.randn_like(y)
    torch.testing.assert_close((y * other).sum(), (x * circular_fold(other, pads)).sum())
    assert torch.autograd.gradcheck(lambda x: circular_pad(x, pads), x)
    assert torch.autograd.gradcheck(lambda y: circular_fold(y, pads), y.detach().requires_grad_())
    torch.testing.assert_close(torch.func.jvp(lambda y: circular_fold(y, pads), (y,), (y,))[1], circular_fold(y, pads))
