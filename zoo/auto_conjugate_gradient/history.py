"""What an evaluation leaves for drawing: success over iterations, and search paths in the plane."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

Curve = tuple[list[float], list[float]]


class AttackHistory(Callback):
    """Keeps the curves of an :class:`~zoo.auto_conjugate_gradient.evaluation.AttackEvaluation` after its test.

    ``final_curves`` has ``success/<attack>``, the share of the attacked images that is broken after each number of
    iterations; and, where traces are recorded, ``path/<attack>/<i>``, the first run on the i-th of the first attacked
    images: the two coordinates of its search points in a plane that is common to all attacks, in units of ``eps``.

    Args:
        num_paths: Of how many images paths are kept.
    """

    def __init__(self, num_paths: int) -> None:
        self.num_paths = num_paths
        self.final_curves: dict[str, Curve] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.final_curves = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0 and outputs["traces"]:
            self.final_curves |= paths(outputs["traces"], self.num_paths)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, curve in pl_module.curves.items():  # type: ignore[operator, union-attr]
            values = curve.tolist()
            self.final_curves[f"success/{name}"] = ([float(k) for k in range(len(values))], values)


def paths(traces: Mapping[str, Any], num_paths: int) -> dict[str, Curve]:
    """Search paths of the first images in the planes of their points' two main directions.

    Args:
        traces: :class:`~zoo.auto_conjugate_gradient.result.Trace` of each attack, by name.
        num_paths: How many images.
    """
    found: dict[str, Curve] = {}
    for i in range(min(num_paths, min(trace.points.shape[1] for trace in traces.values()))):
        points = {name: trace.points[0, i].flatten(1) / trace.eps for name, trace in traces.items()}
        for name, path in zip(
            points, main_plane(torch.cat(list(points.values()))).split([len(p) for p in points.values()])
        ):
            found[f"path/{name}/{i}"] = (path[:, 0].tolist(), path[:, 1].tolist())
    return found


def main_plane(points: Tensor) -> Tensor:
    """Coordinates along the two directions in which points ``(n, D)`` spread most, from the first point, ``(n, 2)``.

    Example:
        >>> main_plane(torch.tensor([[1.0, 1.0, 1.0], [1.0, 3.0, 1.0], [1.0, -1.0, 1.0]])).abs()[:, 0]
        tensor([0., 2., 2.])
    """
    _, _, directions = torch.linalg.svd(points - points.mean(dim=0), full_matrices=False)
    return (points - points[0]) @ directions[:2].t()
