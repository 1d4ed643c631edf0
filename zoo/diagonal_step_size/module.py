"""The sweep as a LightningModule."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.table import Table
from torch import Tensor

from zoo.console import console
from zoo.diagonal_step_size.flow import gradient_flow_limit
from zoo.diagonal_step_size.population import population_error
from zoo.diagonal_step_size.stability import critical_step_size, initial_stability_threshold, minimum_l1
from zoo.diagonal_step_size.sweep import OnDivergence, Relation, Status, StepSizeSweep
from zoo.simulation import Curve, Simulation

SMALLEST_SCALE = 1e-6  # from which the limit of gradient flow is asked for
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class StepSizeBiasModule(Simulation):
    r"""Trains diagonal linear networks at many step sizes at once, and looks where each of them ends.

    A replica is a problem of the data with an initial scale and a step size, problem by problem. Its measures are those
    of :meth:`~zoo.diagonal_step_size.sweep.StepSizeSweep.measures`, ``population_error``, and ``flow_distance``, the
    largest difference of a coordinate from gradient flow's limit. Logged are the means over all replicas, the loss as
    ``train/loss``.

    At the end of the training the console shows a line for each setting, and the run keeps the columns of
    :meth:`table` (``"table/population_error"``, over the replicas) and the :meth:`references`
    (``"reference/critical"``).

    A batch holds ``x`` of shape ``(P, N, d)``, ``y`` ``(P, N)``, the true predictors ``(P, d)`` and the mean input
    ``(d,)``; the covariance of the inputs is the identity.

    Args:
        num_problems: P.
        dim: Number of coordinates d.
        lr: One or several step sizes.
        init_scale: One or several scales of the start.
        lr_relative_to: What the step sizes are multiples of: ``"init_sharpness"``, ``"critical"`` or ``None``.
        tol: Loss below which a replica has converged.
        divergence_threshold: Loss above which a replica has diverged.
        on_divergence: ``"raise"``, or ``"record"`` to go on with the others.
        dtype: ``"float64"`` or ``"float32"``.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Nacson et al., *Implicit Bias of the Step Size in Linear Diagonal Neural Networks*, ICML 2022.
    """

    main_metric = "population_error"

    def __init__(
        self,
        num_problems: int,
        dim: int,
        lr: float | Sequence[float],
        init_scale: float | Sequence[float] = 0.1,
        lr_relative_to: Relation | None = None,
        tol: float = 1e-10,
        divergence_threshold: float = 1e8,
        on_divergence: OnDivergence = "raise",
        dtype: Literal["float64", "float32"] = "float64",
        steps_per_epoch: int = 1,
        growth: float = 1.2,
    ) -> None:
        super().__init__(steps_per_epoch, growth)
        self.save_hyperparameters()
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
        rates, scales = ([one] if isinstance(one, (int, float)) else list(one) for one in (lr, init_scale))
        self.sweep = StepSizeSweep(
            num_problems,
            dim,
            rates,
            scales,
            lr_relative_to,
            tol,
            divergence_threshold,
            on_divergence,
            DTYPES[dtype],
        )
        self._limits: Tensor | None = None

    @property
    def lr(self) -> Tensor:
        """The step size of each replica, ``(R,)``; zero until the first step."""
        return self.sweep.lr.flatten()

    @property
    def finished(self) -> bool:
        return self.sweep.finished

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), SweepTable()]

    def advance(self, batch: Any, first_step: int, num_steps: int) -> None:
        self.sweep.run(batch[0], batch[1], num_steps)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:  # type: ignore[override]
        """An epoch's steps; returns the highest losses so far and those of the start, ``(R,)``, for callbacks."""
        super().training_step(batch, batch_idx)
        first = batch[1].square().mean(-1, keepdim=True) / 2  # all start at zero
        return {"loss": self.found["peak_loss"], "first_loss": first.expand_as(self.sweep.loss).flatten()}

    def measures(self, batch: Any) -> dict[str, Tensor]:
        x, y, beta, mean = batch
        self.sweep.prepare(x, y)
        found = self.sweep.measures(x)
        found["population_error"] = population_error(self.sweep.beta, beta.unsqueeze(1), mean)
        found["flow_distance"] = (self.sweep.beta - self.flow_limits(batch)).abs().amax(-1)
        found["train/loss"] = found.pop("loss")
        return {name: value.flatten() for name, value in found.items()}

    def sharpness(self, batch: Any) -> Tensor:
        """That of each replica, ``(R,)``; see :func:`~zoo.diagonal_step_size.stability.sharpness`."""
        return self.sweep.sharpness(batch[0]).flatten()

    def flow_limits(self, batch: Any) -> Tensor:
        """Where gradient flow of each problem and setting ends, ``(P, S, d)``; found once."""
        if self._limits is None:
            x, y, *_ = batch
            scales, repeats = self.sweep.init_scale.unique_consecutive(return_counts=True)
            limits = gradient_flow_limit(x.unsqueeze(1), y.unsqueeze(1), scales)
            self._limits = limits.repeat_interleave(repeats, dim=1)
        return self._limits

    def references(self, batch: Any) -> dict[str, Tensor]:
        """What the outcomes are compared with, by name.

        Of each replica ``init_sharpness``, the step size from which on the start is unstable, ``flow``, the
        population error of gradient flow's limit, and ``effective_flow``, that of gradient flow from the median
        effective scale of the replica as it is now (from 1e-6 where that is less), ``(R,)``. Of each problem
        ``min_l2``, that of the interpolator (or least-squares solution) of smallest norm, and, where the data can be
        interpolated, ``min_l1``, that of the smallest l1 norm, and ``critical``, the critical step size, ``(P,)``.
        """
        x, y, beta, mean = batch
        effective = self.sweep.effective_init_scale().median(-1).values.clamp_min(SMALLEST_SCALE)
        shrunk = gradient_flow_limit(x.unsqueeze(1), y.unsqueeze(1), effective)
        smallest = (torch.linalg.pinv(x) @ y.unsqueeze(-1)).squeeze(-1)
        found = {
            "init_sharpness": initial_stability_threshold(x.unsqueeze(1), self.sweep.init_scale).flatten(),
            "flow": population_error(self.flow_limits(batch), beta.unsqueeze(1), mean).flatten(),
            "effective_flow": population_error(shrunk, beta.unsqueeze(1), mean).flatten(),
            "min_l2": population_error(smallest, beta, mean),
        }
        if torch.allclose((x @ smallest.unsqueeze(-1)).squeeze(-1), y):
            found["min_l1"] = population_error(minimum_l1(x, y), beta, mean)
            found["critical"] = critical_step_size(x, y)
        return found

    def table(self, batch: Any) -> list[dict[str, Any]]:
        """A row for each replica, with its setting, its status and its measures."""
        grid = self.sweep.status.shape
        found = {name.removeprefix("train/"): value.view(grid) for name, value in self.measures(batch).items()}
        return self.sweep.table(found)


class SweepTable(Callback):
    """Keeps the table and the references of a :class:`StepSizeBiasModule`, and shows a line for each setting."""

    SHOWN = ("population_error", "l1", "loss", "sharpness_ratio", "bound_ratio", "effective_init_scale")

    def __init__(self) -> None:
        self.final_curves: dict[str, Curve] = {}
        self.batch: Any = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batch = batch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StepSizeBiasModule)
        if self.batch is None:
            return
        rows = pl_module.table(self.batch)
        codes = {status.name.lower(): float(status) for status in Status}
        columns = {name: [float(codes.get(row[name], row[name])) for row in rows] for name in rows[0]}
        curves = {f"table/{name}": values for name, values in columns.items()}
        references = pl_module.references(self.batch)
        curves |= {f"reference/{name}": value.tolist() for name, value in references.items()}
        self.final_curves = {name: ([float(i) for i in range(len(values))], values) for name, values in curves.items()}
        if trainer.is_global_zero:
            console().print(summary(rows, self.SHOWN))


def summary(rows: Sequence[dict[str, Any]], measures: Sequence[str]) -> Table:
    """A line for each setting of a sweep: how many replicas converged and diverged, and means of the rest.

    Args:
        rows: Of :meth:`StepSizeBiasModule.table`.
        measures: Which columns to show; mean ± standard deviation over the problems that have not diverged.
    """
    table = Table("init_scale", "lr", "converged", "diverged", *measures, title="by step size", title_justify="left")
    settings = dict.fromkeys((row["init_scale"], row["relative_lr"]) for row in rows)
    for scale, lr in settings:
        chosen = [row for row in rows if (row["init_scale"], row["relative_lr"]) == (scale, lr)]
        counts = [str(sum(row["status"] == status for row in chosen)) for status in ("converged", "diverged")]
        left = [row for row in chosen if row["status"] != "diverged"]
        table.add_row(f"{scale:g}", f"{lr:g}", *counts, *(_spread([row[name] for row in left]) for name in measures))
    return table


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    numbers = torch.tensor(values, dtype=torch.float64)
    return f"{numbers.mean():.3g}" + (f" ± {numbers.std():.1g}" if len(values) > 1 else "")
