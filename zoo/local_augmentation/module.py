"""Node classifiers with local augmentation, one for each backbone."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch_geometric.data import Data
from torchmetrics.functional.classification import multiclass_accuracy

from zoo.local_augmentation.augmentation import FitBuffers, LocalAugmentation
from zoo.local_augmentation.backbones import LAGAT, LAGCN, LAGCNII, LAGRAND, Init
from zoo.local_augmentation.consistency import SharpenedConsistencyLoss
from zoo.local_augmentation.pretraining import GeneratorPretraining
from zoo.local_augmentation.sparse import Features, Graph, as_features


class PreparedGraph:
    """What every step needs of a batch and never changes: computed when the batch is first seen."""

    def __init__(self, batch: Data) -> None:
        self.batch = batch
        self.graph = Graph(batch.edge_index, batch.num_nodes)
        self.x = as_features(batch.x)
        self.nodes = {part: batch[f"{part}_mask"].nonzero().flatten() for part in ("train", "val", "test")}
        self.y = {part: batch.y[nodes] for part, nodes in self.nodes.items()}


class LocalAugmentedNodeClassifier(LightningModule):
    r"""Full-batch node classification with K stochastic passes, generated features and a consistency loss.

    .. math:: L = \tfrac1K \sum_k \mathrm{NLL}\big(Z^{(k)}_\text{train}\big)
              + \beta \, L_\text{consistency}\big(Z^{(1)}, \dots, Z^{(K)}\big)

    A batch is a whole graph: a PyG ``Data`` with ``x`` (row-normalised), ``raw_x``, ``edge_index``, ``y``,
    ``train_mask``, ``val_mask`` and ``test_mask``; the datamodule has it as ``data`` too. The generator is trained
    once, before the first epoch (:class:`~zoo.local_augmentation.pretraining.GeneratorPretraining`). Every epoch
    validates a fresh draw; the best one is kept, in the checkpoint too, and used in test and prediction. The test
    reports the generator's loss in the first and the last epoch of its training as well.

    A subclass sets ``backbone``, which is called as those of :mod:`zoo.local_augmentation.backbones` are.

    Args:
        in_channels: Number of node features F.
        num_classes: Number of classes C.
        generator: Configuration of the generator; ``None`` puts the nodes' own features in its place (the control).
        num_generated: Generated matrices G beside the nodes' own features; 0 gives the plain backbone.
        mode: ``"concat"``, one branch for each matrix, or ``"average"``, one input that is their mean.
        pool_size: See :class:`~zoo.local_augmentation.augmentation.LocalAugmentation`.
        num_samples: Passes K in a step.
        consistency_weight: Weight beta of the consistency loss.
        temperature: Of its sharpening.
        keep_validated_features: Test with the draw that validated best; else with a fresh one.
        lr: Adam's step size.
        weight_decay: Adam's weight decay, on all parameters.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Liu et al., ICML 2022, algorithm 1.
    """

    main_metric = "val/acc"
    backbone: nn.Module
    generator_ready: Tensor
    generator_loss: Tensor
    validated_latents: Tensor
    best_loss: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        generator: GeneratorPretraining | None = None,
        num_generated: int = 1,
        mode: Literal["concat", "average"] = "concat",
        pool_size: int = 0,
        num_samples: int = 4,
        consistency_weight: float = 1.0,
        temperature: float = 0.5,
        keep_validated_features: bool = True,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__()
        if isinstance(generator, Mapping):  # as hyper-parameters come back from a checkpoint
            generator = GeneratorPretraining(**generator)
        self.save_hyperparameters(ignore=["generator"])
        self.save_hyperparameters({"generator": asdict(generator) if generator else None})
        check_training(num_generated, mode, num_samples, consistency_weight, lr, weight_decay)
        self.consistency = SharpenedConsistencyLoss(temperature)
        if pool_size < 0:
            raise ValueError(f"pool_size must be 0 (no pool) or more, got {pool_size}")
        self.pretraining = generator if num_generated > 0 else None
        self.augmentation: LocalAugmentation | None = None
        if self.pretraining:
            decoder = self.pretraining.decoder(in_channels)
            self.augmentation = LocalAugmentation(decoder, num_generated, mode, pool_size)
        self.num_branches = 1 if mode == "average" else num_generated + 1
        self.register_buffer("generator_ready", torch.tensor(False))
        self.register_buffer("generator_loss", torch.full((2,), torch.nan))  # of its first and of its last epoch
        self.register_buffer("validated_latents", torch.empty(0))  # (1, G, N, L); the nodes are not known yet
        self.register_buffer("best_loss", torch.full((1,), torch.inf))
        self.register_load_state_dict_pre_hook(FitBuffers("validated_latents"))
        self._prepared: PreparedGraph | None = None
        self._workspace = torch.empty(0)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer.datamodule, "data", None)  # type: ignore[attr-defined]
        in_channels = self.hparams["in_channels"]
        if data is not None and data.x.shape[1] != in_channels:
            raise ValueError(f"in_channels must be the data's number of features, {data.x.shape[1]}, got {in_channels}")
        if self.pretraining and stage == "fit":
            if data is None:
                raise MisconfigurationException("The generator needs a datamodule whose `data` is the graph, got none")
            self.pretraining.check(data)

    def on_fit_start(self) -> None:
        if self.augmentation is None or self.generator_ready:
            return
        assert self.pretraining is not None
        data = self.trainer.datamodule.data  # type: ignore[attr-defined]
        bar = self.trainer.progress_bar_callback
        options: dict[str, Any] = {"callbacks": [type(bar)()]} if bar else {"enable_progress_bar": False}
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            weights = self.pretraining.fit(data, self.device, fast_dev_run=True, **options).state_dict()
        else:
            weights = self.pretraining.obtain(data, self.device, **options)
            losses = self.pretraining.losses(data)
            if losses:
                self.generator_loss.copy_(torch.tensor([losses[0], losses[-1]]))
        decoder = self.augmentation.generator
        decoder.load_state_dict({name: weights[name] for name in decoder.state_dict()})
        self.generator_ready.fill_(True)

    def prepared(self, batch: Data) -> PreparedGraph:
        """What is precomputed of the batch; the datamodule gives the same object in every epoch."""
        if self._prepared is None or self._prepared.batch is not batch:
            self._prepared = PreparedGraph(batch)
        return self._prepared

    @property
    def num_draws(self) -> int:
        """Independent draws of features in each pass: one, unless replicas have their own."""
        return 1

    def training_inputs(self, batch: Data) -> list[Features]:
        """The backbone's inputs in a training step: K fresh draws and the nodes' own features."""
        x = self.prepared(batch).x
        if self.augmentation is None:
            return [x] * self.num_branches
        num_samples = self.hparams["num_samples"]
        size = (self.num_draws * num_samples, self.augmentation.num_generated, *batch.raw_x.shape)
        if self._workspace.shape != size or self._workspace.device != batch.raw_x.device:
            self._workspace = torch.empty(size, device=batch.raw_x.device, dtype=batch.raw_x.dtype)
        generated = self.augmentation.draw(batch.raw_x, len(self._workspace), out=self._workspace)
        if self.num_draws > 1:
            generated = generated.unflatten(0, (self.num_draws, num_samples))
        return self.augmentation.combine(x, generated)

    def evaluation_inputs(self, batch: Data, latents: Tensor | None) -> list[Features]:
        """The backbone's inputs for latents ``(draws, G, N, L)``, or fresh ones if ``None``."""
        x = self.prepared(batch).x
        if self.augmentation is None:
            return [x] * self.num_branches
        if latents is None:
            latents = self.augmentation.sample(batch.num_nodes, self.num_draws)
        generated = self.augmentation.decode(latents, batch.raw_x)
        return self.augmentation.combine(x, generated[:, None] if len(latents) > 1 else generated)

    def forward(self, batch: Data) -> Tensor:
        """Logits ``(N, C)`` of the whole graph with the kept features; with replicas ``(S, N, C)``."""
        kept = self.hparams["keep_validated_features"] and len(self.validated_latents) > 0
        return self._logits(self.tested_backbone, batch, self.validated_latents if kept else None)

    @property
    def tested_backbone(self) -> nn.Module:
        """The network that test and prediction use."""
        return self.backbone

    def _logits(self, backbone: nn.Module, batch: Data, latents: Tensor | None) -> Tensor:
        inputs = self.evaluation_inputs(batch, latents)
        return backbone(inputs, self.prepared(batch).graph, num_samples=1).squeeze(-3)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        prepared = self.prepared(batch)
        logits = self.backbone(self.training_inputs(batch), prepared.graph, num_samples=self.hparams["num_samples"])
        log_probs = logits.float().log_softmax(dim=-1)
        supervised = nll(log_probs[..., prepared.nodes["train"], :], prepared.y["train"]).mean(dim=-1)
        loss = supervised
        if self.hparams["consistency_weight"] > 0:
            consistency = self.consistency(log_probs)
            loss = supervised + self.hparams["consistency_weight"] * consistency
            self._log({"train/supervised": supervised.mean(), "train/consistency": consistency.mean()})
        self._log({"train/loss": loss.mean()}, prog_bar=True)
        return loss.sum()  # over replicas, whose parameters are disjoint

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        latents = None
        if fitting and self.augmentation is not None:
            latents = self.augmentation.sample(batch.num_nodes, self.num_draws)
        logits = self._logits(self.backbone, batch, latents) if fitting else self(batch)
        loss, acc = self._measures(batch, logits, "val")
        if fitting and not self.trainer.sanity_checking:
            self.keep_best(loss, latents)
        self._log({"val/loss": self.validation_loss(loss), "val/acc": acc.mean()}, prog_bar=True)

    def keep_best(self, loss: Tensor, latents: Tensor | None) -> Tensor:
        """Keep the draw if its loss is the lowest so far; returns whether it is, one answer for each replica."""
        improved = loss < self.best_loss
        self.best_loss = torch.where(improved, loss, self.best_loss)
        if latents is not None:
            if len(self.validated_latents) == 0:
                self.validated_latents = latents.expand(len(loss), -1, -1, -1).clone()
            chosen = improved[:, None, None, None]
            self.validated_latents = torch.where(chosen, latents, self.validated_latents)
        return improved

    def validation_loss(self, loss: Tensor) -> Tensor:
        """The loss to select the checkpoint by, given that of every replica."""
        return loss.mean()

    def test_step(self, batch: Data, batch_idx: int) -> None:
        loss, acc = self._measures(batch, self(batch), "test")
        self._log({"test/loss": loss.mean(), "test/acc": acc.mean()})
        if self.generator_loss.isfinite().all():
            self._log({"generator/loss_first": self.generator_loss[0], "generator/loss_last": self.generator_loss[1]})
        if len(acc) > 1:
            self._log({"test/acc_std": acc.std(), **{f"test/acc_{i}": one for i, one in enumerate(acc)}})

    def predict_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self(batch)

    def _measures(self, batch: Data, logits: Tensor, part: str) -> tuple[Tensor, Tensor]:
        """Loss and accuracy on a part of the nodes, each ``(S,)``."""
        prepared = self.prepared(batch)
        y = prepared.y[part]
        log_probs = logits.float().log_softmax(dim=-1).reshape(-1, *logits.shape[-2:])[:, prepared.nodes[part]]
        acc = multiclass_accuracy(
            log_probs.argmax(dim=-1),
            y.expand(len(log_probs), -1),
            self.hparams["num_classes"],
            average="micro",
            multidim_average="samplewise",
        )
        return nll(log_probs, y), acc

    def _log(self, values: dict[str, Tensor], prog_bar: bool = False) -> None:
        self.log_dict(values, prog_bar=prog_bar, on_step=False, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameter_groups(), lr=self.hparams["lr"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, with its weight decay; the generator is not."""
        return [{"params": list(self.backbone.parameters()), "weight_decay": self.hparams["weight_decay"]}]


def nll(log_probs: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood over the nodes, ``(*)``, of log-probabilities ``(*, N, C)`` and labels ``(N,)``."""
    return -log_probs.gather(-1, y.expand(log_probs.shape[:-1])[..., None]).mean(dim=(-2, -1))


def check_training(
    num_generated: int, mode: str, num_samples: int, consistency_weight: float, lr: float, weight_decay: float
) -> None:
    """Raise a ``ValueError`` that names the first argument of the training that is out of range."""
    if num_generated < 0:
        raise ValueError(f"num_generated must be 0 (plain backbone) or more, got {num_generated}")
    if mode not in ("concat", "average"):
        raise ValueError(f"mode must be 'concat' or 'average', got {mode!r}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if not consistency_weight >= 0:
        raise ValueError(f"consistency_weight must be 0 (off) or more, got {consistency_weight}")
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")
    if num_samples == 1 and consistency_weight > 0:
        rank_zero_warn("With num_samples=1 there is nothing to agree on: the consistency loss only sharpens.")


class LAGCNClassifier(LocalAugmentedNodeClassifier):
    """:class:`LocalAugmentedNodeClassifier` with :class:`~zoo.local_augmentation.backbones.LAGCN`.

    Several seeds can be trained at once as replicas. Each has its own best epoch: its weights and draw of that epoch
    are kept in the checkpoint, ``val/loss`` is the mean of the best losses so far, and the test reports the mean, the
    standard deviation and every replica.

    Args:
        in_channels: Number of node features F.
        num_classes: Number of classes C.
        hidden_channels: Width of the hidden layer, all branches together.
        dropout: Rate on features and hidden layer.
        init: ``"glorot"``, or ``"shifted_normal"`` as in the authors' code.
        num_replicas: Seeds trained side by side.
        share_noise: The replicas share draws and the features' dropout: much faster, but no longer independent.
        **classifier: Arguments of :class:`LocalAugmentedNodeClassifier`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        hidden_channels: int = 16,
        dropout: float = 0.5,
        init: Init = "glorot",
        num_replicas: int = 1,
        share_noise: bool = True,
        **classifier: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **classifier)
        self.backbone = LAGCN(
            in_channels,
            hidden_channels,
            num_classes,
            self.num_branches,
            dropout,
            init,
            num_replicas,
            share_noise,
            inplace=True,
        )
        self.best_loss = self.best_loss.repeat(num_replicas)
        self.best = copy.deepcopy(self.backbone).requires_grad_(False) if num_replicas > 1 else None

    @property
    def num_draws(self) -> int:
        return 1 if self.hparams["share_noise"] else self.hparams["num_replicas"]

    @property
    def tested_backbone(self) -> nn.Module:
        return self.backbone if self.best is None else self.best

    @torch.no_grad()
    def keep_best(self, loss: Tensor, latents: Tensor | None) -> Tensor:
        improved = super().keep_best(loss, latents)
        if self.best is not None:
            for best, current in zip(self.best.parameters(), self.backbone.parameters()):
                best.copy_(torch.where(improved.view(-1, *[1] * (best.dim() - 1)), current, best))
        return improved

    def validation_loss(self, loss: Tensor) -> Tensor:
        return loss.mean() if self.best is None else self.best_loss.mean()


class LAGATClassifier(LocalAugmentedNodeClassifier):
    """:class:`LocalAugmentedNodeClassifier` with :class:`~zoo.local_augmentation.backbones.LAGAT`.

    Args:
        in_channels: Number of node features F.
        num_classes: Number of classes C.
        hidden_channels: Width of one head.
        heads: Heads of the first layer, all branches together.
        out_heads: Heads of the second layer.
        dropout: Rate on features, hidden layer and attention.
        elu_alpha: The ELU's alpha.
        **classifier: Arguments of :class:`LocalAugmentedNodeClassifier`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        hidden_channels: int = 8,
        heads: int = 8,
        out_heads: int = 1,
        dropout: float = 0.6,
        elu_alpha: float = 1.0,
        **classifier: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **classifier)
        self.backbone = LAGAT(
            in_channels,
            hidden_channels,
            num_classes,
            self.num_branches,
            heads,
            out_heads,
            dropout,
            elu_alpha,
            inplace=True,
        )


class LAGCNIIClassifier(LocalAugmentedNodeClassifier):
    """:class:`LocalAugmentedNodeClassifier` with :class:`~zoo.local_augmentation.backbones.LAGCNII`.

    Args:
        in_channels: Number of node features F.
        num_classes: Number of classes C.
        hidden_channels: Width of every layer, all branches together.
        num_layers: Number of graph convolutions.
        alpha: Share of the input layer in every convolution.
        theta: How much of the weight the convolutions keep with depth.
        dropout: Rate on features and every layer.
        conv_weight_decay: Weight decay of the convolutions; ``weight_decay`` is that of the dense layers.
        **classifier: Arguments of :class:`LocalAugmentedNodeClassifier`.
    """

    backbone: LAGCNII

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        hidden_channels: int = 64,
        num_layers: int = 64,
        alpha: float = 0.1,
        theta: float = 0.5,
        dropout: float = 0.6,
        conv_weight_decay: float = 0.01,
        **classifier: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **classifier)
        if not conv_weight_decay >= 0:
            raise ValueError(f"conv_weight_decay must be 0 or more, got {conv_weight_decay}")
        self.backbone = LAGCNII(
            in_channels,
            hidden_channels,
            num_classes,
            self.num_branches,
            num_layers,
            alpha,
            theta,
            dropout,
            inplace=True,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        convolutions = list(self.backbone.convs.parameters())
        conv_ids = {id(parameter) for parameter in convolutions}
        dense = [parameter for parameter in self.backbone.parameters() if id(parameter) not in conv_ids]
        return [
            {"params": convolutions, "weight_decay": self.hparams["conv_weight_decay"]},
            {"params": dense, "weight_decay": self.hparams["weight_decay"]},
        ]


class LAGRANDClassifier(LocalAugmentedNodeClassifier):
    """:class:`LocalAugmentedNodeClassifier` with :class:`~zoo.local_augmentation.backbones.LAGRAND`.

    As in the authors' code, one draw of generated features serves the whole run, ``num_samples`` counts the views of
    each matrix, and evaluation uses the nodes' own features alone.

    Args:
        in_channels: Number of node features F.
        num_classes: Number of classes C.
        hidden_channels: Width of the perceptron's hidden layer.
        dropnode: Rate at which nodes are dropped.
        order: Highest power of the propagation.
        input_dropout: Rate on the propagated features.
        hidden_dropout: Rate on the hidden layer.
        batch_norm: Batch normalisation before both layers.
        **classifier: Arguments of :class:`LocalAugmentedNodeClassifier`.

    Raises:
        ValueError: If ``mode`` is ``"average"`` or there is a pool: with one draw neither means anything.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        hidden_channels: int = 32,
        dropnode: float = 0.5,
        order: int = 8,
        input_dropout: float = 0.5,
        hidden_dropout: float = 0.5,
        batch_norm: bool = False,
        **classifier: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **classifier)
        if self.hparams["mode"] != "concat" or self.hparams["pool_size"] > 0:
            raise ValueError(
                "mode must be 'concat' and pool_size 0 for GRAND, which keeps one draw for the whole run; got "
                f"{self.hparams['mode']!r} and {self.hparams['pool_size']}"
            )
        self.backbone = LAGRAND(
            in_channels, hidden_channels, num_classes, dropnode, order, input_dropout, hidden_dropout, batch_norm
        )
        self._fixed: list[Features] | None = None

    def training_inputs(self, batch: Data) -> list[Features]:
        if self._fixed is None:
            if self.augmentation is not None and len(self.validated_latents) == 0:
                self.validated_latents = self.augmentation.sample(batch.num_nodes)
            x = self.prepared(batch).batch.x
            generated: list[Features] = [x] * self.hparams["num_generated"]
            if self.augmentation is not None:
                generated = list(self.augmentation.decode(self.validated_latents, batch.raw_x)[0])
            self._fixed = [*generated, x]
        return self._fixed

    def evaluation_inputs(self, batch: Data, latents: Tensor | None) -> list[Features]:
        return [batch.x]

    def keep_best(self, loss: Tensor, latents: Tensor | None) -> Tensor:
        return super().keep_best(loss, None)
