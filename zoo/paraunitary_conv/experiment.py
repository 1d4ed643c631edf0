"""Whether layers are orthogonal, and stay so: many of them trained side by side."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from zoo.paraunitary_conv.layer import OrthogonalConv2d, OrthogonalConvTranspose2d
from zoo.simulation import Simulation, no_data

ADAM: OptimizerCallable = partial(torch.optim.Adam, lr=0.01)


class LayerExperiment(Simulation):
    """Trains orthogonal layers, each on random targets of its own, and measures how orthogonal they are.

    Logs ``orthogonality_error``, the largest distance of a singular value from 1, and ``input_norm`` and
    ``gradient_norm``, how many times as long as a random input (gradient) is what the layer makes of it on the way
    forward (back); all three are kept layer by layer from before the first step on.

    Args:
        layers: Arguments of each :class:`OrthogonalConv2d`; with ``transposed: true`` of
            :class:`OrthogonalConvTranspose2d`.
        input_size: Height and width of the inputs.
        batch_size: Inputs of each layer.
        optimizer: Makes the optimizer of all layers.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next, at least 1.

    Raises:
        ValueError: If an argument is out of range, or there is no layer.

    Source:
        The norm ratios are the form of the paper's test of exactness (Su, Byeon, Huang, ICML 2022).

    Example:
        >>> experiment = LayerExperiment([{"in_channels": 4, "out_channels": 4, "kernel_size": 3}], input_size=4)
        >>> bool(experiment.measures(None)["orthogonality_error"] < 1e-5)
        True
    """

    def __init__(
        self,
        layers: Sequence[Mapping[str, Any]],
        input_size: int = 16,
        batch_size: int = 8,
        optimizer: OptimizerCallable = ADAM,
        steps_per_epoch: int = 10,
        growth: float = 1.0,
    ) -> None:
        super().__init__(steps_per_epoch, growth)
        if not layers:
            raise ValueError("layers must name at least one layer, got none")
        for name, number in {"input_size": input_size, "batch_size": batch_size}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.save_hyperparameters(ignore="optimizer")
        self.make_optimizer = optimizer
        self.input_size = input_size
        self.layers = nn.ModuleList(map(_layer, layers))
        with torch.no_grad():
            for i, (layer, options) in enumerate(zip(self.layers, layers)):
                x = torch.randn(batch_size, options["in_channels"], input_size, input_size)
                self.register_buffer(f"x_{i}", x)
                self.register_buffer(f"target_{i}", torch.randn_like(layer(x)))

    def train_dataloader(self) -> DataLoader:
        """Inputs and targets are buffers."""
        return no_data()

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def advance(self, batch: Any, first_step: int, num_steps: int) -> None:
        optimizer: Any = self.optimizers()
        for step in range(num_steps):
            optimizer.zero_grad()
            losses = [F.mse_loss(layer(x), target) for layer, x, target in self._problems()]
            self.manual_backward(torch.stack(losses).sum())
            # Lightning's wrapper counts the last one; checkpoints are kept by this count
            (optimizer if step == num_steps - 1 else optimizer.optimizer).step()

    def measures(self, batch: Any) -> dict[str, Tensor]:
        rows = [_measure(layer, x, target, self.input_size) for layer, x, target in self._problems()]
        return dict(zip(("orthogonality_error", "input_norm", "gradient_norm"), torch.stack(rows, dim=1)))

    def _problems(self) -> list[tuple[Any, Tensor, Tensor]]:
        return [
            (layer, self.get_buffer(f"x_{i}"), self.get_buffer(f"target_{i}")) for i, layer in enumerate(self.layers)
        ]


def _layer(options: Mapping[str, Any]) -> nn.Module:
    options = dict(options)
    return (OrthogonalConvTranspose2d if options.pop("transposed", False) else OrthogonalConv2d)(**options)


@torch.enable_grad()
def _measure(layer: Any, x: Tensor, gradient: Tensor, input_size: int) -> Tensor:
    """Error, and growth of the norms of the input and of a gradient, in double precision, ``(3,)``."""
    x = x.detach().requires_grad_()
    y = layer(x)
    (back,) = torch.autograd.grad(y, x, gradient)
    with torch.no_grad():
        error = (layer.singular_values(input_size).double() - 1).abs().amax()
        x, y, back, gradient = (tensor.double().norm() for tensor in (x, y, back, gradient))
        return torch.stack([error, y / x, back / gradient])
