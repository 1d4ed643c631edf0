"""The module whose test solves inverse problems."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.priors import LatentPrior
from zoo.sgilo.score_module import inner_options
from zoo.sgilo.score_training import ScoreTraining
from zoo.sgilo.solver import Reconstruction, Solver, solve_all


class InverseEvaluation(LightningModule):
    """Solves inverse problems in its test, by one solver or by several on the same measurements.

    The generator is one of your own, or is trained before the first epoch as ``training`` says, with the priors that
    the solvers ask for by name; once, and kept in the cache. The fit has no more to do: it should be one epoch of one
    step, for the sake of its checkpoint, which holds everything that was trained.

    A batch of the test has ``x``, the images ``(B, C, H, W)``; ``y``, their measurements ``(B, m)``; and ``operator``,
    which measures. The test logs ``test/seconds/<solver>``, for an image, the solvers that it begins with included:
    processor time on a CPU, else wall time. It returns the reconstructions, from which a callback makes figures
    (:class:`callbacks.ReconstructionMonitor`). The Trainer needs ``inference_mode=False``, as solvers differentiate.

    Args:
        solvers: By name. Their order is that of the tables.
        input_shape: Channels, height and width of an image.
        generator: One that needs no training.
        priors: Those that the solvers may ask for by name, beside a ``generator`` of your own.
        training: How generator and priors are trained, where ``generator`` is ``None``.
        seed: Of the solvers' randomness; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range, or both or neither of ``generator`` and ``training`` are given.

    Example:
        >>> from zoo.sgilo import CSGM, ConvDecoder, ILO
        >>> solvers = {"csgm": CSGM(num_steps=2), "ilo": ILO(CSGM(num_steps=2), num_steps=2)}
        >>> module = InverseEvaluation(solvers, generator=ConvDecoder())
        >>> found = module.solve(torch.nn.Flatten(), torch.rand(3, 784))
        >>> found["ilo"].x.shape
        torch.Size([3, 1, 28, 28])
    """

    main_metric = None

    def __init__(
        self,
        solvers: dict[str, Solver],
        input_shape: tuple[int, int, int] = (1, 28, 28),
        generator: SplitGenerator | None = None,
        priors: Mapping[str, LatentPrior] | None = None,
        training: ScoreTraining | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not solvers:
            raise ValueError("solvers must name at least one solver, got none")
        for name in solvers:
            if not name.isidentifier():
                raise ValueError(f"solvers must have names of letters, digits and underscores, got {name!r}")
        if (generator is None) == (training is None):
            raise ValueError(
                f"one of generator and training must be given, got {'none' if generator is None else 'both'}"
            )
        if priors and training:
            raise ValueError(f"priors must be left out where training is given, got {', '.join(priors)}")
        self.save_hyperparameters("input_shape")
        self.automatic_optimization = False
        self.solvers, self.plan = solvers, training
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.ready = training is None
        if training is None:
            assert generator is not None
            self.generator = generator.requires_grad_(False)
            self.given_priors = dict(priors or {})
        else:
            self.models = training.models(input_shape)

    def solve(self, operator: Any, y: Tensor, seed: int | None = None) -> dict[str, Reconstruction]:
        """The outcome of every solver, by name.

        Args:
            operator: Images ``(N, C, H, W)`` to measurements ``(N, m)``, for N the number of images or a multiple.
            y: Measurements, ``(B, m)``.
            seed: Of the solvers' randomness; the module's if ``None``.
        """
        generator = self.generator if self.plan is None else self.models.generator
        priors = self.given_priors if self.plan is None else self.models.priors()
        generator.eval()
        with torch.autocast(y.device.type, enabled=False):  # small steps need all digits
            return solve_all(self.solvers, generator, operator, y, priors, self.seed if seed is None else seed)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ready = True

    def on_fit_start(self) -> None:
        self.prepare()

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def prepare(self) -> None:
        """Train generator and priors, or take them from the cache, if they are not there yet."""
        if self.ready:
            return
        assert self.plan is not None
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, LightningDataModule):
            raise MisconfigurationException("The generator's training needs a datamodule, got none")
        shape, options = tuple(self.hparams["input_shape"]), inner_options(self.trainer)
        with torch.inference_mode(False), torch.enable_grad():
            if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                weights = self.plan.fit(data, shape, self.device, **options)
            else:
                weights = self.plan.obtain(data, shape, self.device, self.asks_for_priors, **options)
            self.models.load_state_dict(weights, strict=self.asks_for_priors)
        self.ready = True

    @property
    def asks_for_priors(self) -> bool:
        """Whether a solver, or one that it begins with, names a prior."""
        waiting: list[Solver | None] = list(self.solvers.values())
        while waiting:
            solver = waiting.pop()
            if solver is not None:
                if isinstance(getattr(solver, "prior", None), str):
                    return True
                waiting.append(solver.first)
        return False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> Optimizer:
        """A counter: Lightning keeps checkpoints only where it counts."""
        return torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.0)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        if torch.is_inference_mode_enabled():
            raise MisconfigurationException(
                "InverseEvaluation differentiates in its test: the Trainer's inference_mode must be false, got true"
            )
        found = self.solve(batch.operator, batch.y, self.seed + batch_idx)
        seconds = {f"test/seconds/{name}": one.seconds / len(batch.y) for name, one in found.items()}
        self.log_dict(seconds, batch_size=len(batch.y), sync_dist=True)
        return {
            "reconstructions": {name: one.x for name, one in found.items()},
            "chains": {name: one.chains for name, one in found.items() if one.chains is not None},
        }

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The reconstructions by every solver, by name."""
        return {name: one.x for name, one in self.solve(batch.operator, batch.y, self.seed + batch_idx).items()}
