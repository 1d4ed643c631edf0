"""Generators for which the answers are known."""

import pytest
import torch
from torch import Tensor, nn

from zoo.sgilo import ConvDecoder, SplitGenerator


class LinearGenerator(SplitGenerator):
    """Two linear maps without biases, z to a latent to an image of one row."""

    num_splits = 1

    def __init__(self, latent_dim: int = 2, middle: int = 4, pixels: int = 6) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.latent_dim = latent_dim
        self.first = nn.Parameter(torch.randn(latent_dim, middle, generator=draw, dtype=torch.float64) / 2)
        self.second = nn.Parameter(torch.randn(middle, pixels, generator=draw, dtype=torch.float64) / 2)

    def latent_shape(self, split: int) -> tuple[int, ...]:
        return (len(self.second),)

    def prefix(self, z: Tensor, split: int) -> Tensor:
        return z @ self.first

    def suffix(self, state: Tensor, split: int) -> Tensor:
        return (state @ self.second).unflatten(1, (1, 1, -1))


@pytest.fixture
def linear() -> LinearGenerator:
    return LinearGenerator()


@pytest.fixture
def decoder() -> ConvDecoder:
    """A small decoder of images of 8 x 8, with weights large enough for differences to show."""
    torch.manual_seed(0)
    decoder = ConvDecoder(latent_dim=3, input_shape=(1, 8, 8), hidden_dim=16, channels=(2, 4, 4)).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2)
    return decoder


@pytest.fixture
def flat() -> nn.Module:
    """The operator that measures every pixel."""
    return nn.Flatten()
