"""The commands ``train``, ``fit``, ``validate``, ``test`` and ``predict``, on LightningCLI."""

import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.model_helpers import is_overridden

from zoo.console import console, quiet
from zoo.environment import complain
from zoo.files import no_room, whole
from zoo.logs import loggers, new_version, read_curves
from zoo.progress import EpochProgressBar
from zoo.recipes import Recipe
from zoo.results import Result, draw_curves
from zoo.resume import RandomState, WholeCheckpoints, check_checkpoint, find_checkpoint
from zoo.usage import USER_ERRORS, Parser, check_numbers, check_trainer, check_values, given, message_of, own_options

# Arguments of a model that are taken from a property of the data, where the model has the one and the data the other.
FROM_DATA = {
    "num_features": "in_channels",
    "num_classes": "num_classes",
    "input_shape": "input_shape",
    "num_train": "num_train",
    "num_problems": "num_problems",
    "dim": "dim",
    "num_targets": "out_channels",
    "num_edge_features": "edge_channels",
    "target_range": "target_range",
    "target": "target",
}


def is_rank_zero() -> bool:
    """Whether this is the only process, or the one of several that prints and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


class Started(Callback):
    """Tells whether work has begun: errors before are the user's, errors after are ours and keep their traceback."""

    yet = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.yet = True

    on_validation_start = on_test_start = on_predict_start = on_fit_start


class ZooCLI(LightningCLI):
    """LightningCLI that builds ``model``, ``datamodule`` and ``trainer`` of a recipe; the functions below run them.

    The Trainer gets loggers, checkpoints and a progress bar where the configuration has none of its own. The model's
    ``in_channels`` and ``num_classes`` are taken from the data.

    Args:
        args: Command-line arguments, the recipe's ``--config`` among them.
        verb: ``"train"``, ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        name: Name of the recipe; its runs are kept in ``logs/<name>``.
        config: The recipe, for the help; ``{}`` if there is none.
        started: Callback that is told when work begins.

    Attributes:
        checkpoint: The checkpoint to go on from or to evaluate, ``None`` for a fresh start.
        folder: The run's folder, ``None`` in a ``fast_dev_run``.
    """

    def __init__(self, args: Sequence[str], verb: str, name: str, config: dict[str, Any], started: Started) -> None:
        self.fits = verb in ("train", "fit")
        self.words = list(args)
        self.name = name
        self.recipe_config = config
        self.started = started
        self.checkpoint: Path | None = None
        self.folder: Path | None = None
        super().__init__(
            args=self.words,
            run=False,
            save_config_callback=None,  # Lightning's needs a fit, and writes into the logger's folder
            trainer_defaults={"enable_model_summary": False},
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # modules save their own hyper-parameters
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        assert isinstance(parser, Parser)
        parser.own_options = own_options(self.recipe_config) if self.recipe_config else None
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from, or to evaluate: a file; or best or last, of the newest run that has one. "
            "validate, test and predict take that of --test_checkpoint unless told otherwise.",
        )
        parser.add_argument(
            "--test_checkpoint",
            type=Literal["best", "last"],
            default="best",
            help="What is tested after the training: the checkpoint of the lowest validation loss, or the last one.",
        )
        for source, argument in FROM_DATA.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{argument}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        check_values(args)  # type: ignore[arg-type]
        self.config = parser.parse_args(args)  # type: ignore[arg-type]
        check_numbers(self.config.as_dict())
        check_trainer(self.config.trainer.as_dict(), self.config.seed_everything)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        linked = [f"model.{name}" for source, name in FROM_DATA.items() if hasattr(self.datamodule, source)]
        option = given(self.words, linked)
        if option is not None:
            raise ValueError(f"--{option}: is taken from the data and must be left out")
        config = self.config_init.trainer
        self.runs = Path(config.default_root_dir or ".") / "logs" / self.name
        first_step = self._find_checkpoint()
        callbacks: list[Callback] = [RandomState(), self.started]
        if config.enable_progress_bar is not False and not _has(config.callbacks, ProgressBar):
            callbacks.append(EpochProgressBar())
        if not config.fast_dev_run:
            self.folder = self._run_folder()
            if config.logger in (None, True):
                kwargs["logger"] = loggers(self.folder, first_step)
            if self.fits and config.enable_checkpointing is not False and not _has(config.callbacks, ModelCheckpoint):
                callbacks += self._checkpoints(self.folder / "checkpoints")
        if not _has(config.plugins, CheckpointIO) and str(config.strategy).startswith(("auto", "ddp")):
            plugins = config.plugins if isinstance(config.plugins, list) else [config.plugins]
            kwargs["plugins"] = [*(plugin for plugin in plugins if plugin is not None), WholeCheckpoints()]
        try:
            return super()._instantiate_trainer({**config, **kwargs}, callbacks)
        except TypeError as error:  # what Lightning says of some values, as of devices below 0
            self.discard_folder()
            raise ValueError(str(error)) from error
        except BaseException:
            self.discard_folder()
            raise

    def _find_checkpoint(self) -> int:
        """Set ``checkpoint`` to what the configuration asks for; returns the step that a fit goes on from."""
        asked = self.config.ckpt_path
        ckpt_path = self.config.test_checkpoint if asked is None and not self.fits else asked
        if ckpt_path is None or (self.config_init.trainer.fast_dev_run and asked is None):
            return 0
        self.checkpoint = find_checkpoint(ckpt_path, self.runs)
        content = check_checkpoint(self.checkpoint, self.model)
        if not self.fits:
            return 0
        epochs, max_epochs = content["epoch"] + 1, self.config_init.trainer.max_epochs
        if max_epochs is not None and 0 <= max_epochs <= epochs:
            raise ValueError(
                f"ckpt_path {str(self.checkpoint)!r} has been trained for {epochs} epochs; to go on, "
                f"--trainer.max_epochs must be more, got {max_epochs}; to test it, say test before --model"
            )
        return content["global_step"]

    def _run_folder(self) -> Path:
        """A new folder, or that of the run that goes on."""
        self._is_new = False
        if not is_rank_zero():
            return self.runs / "rank_zero"  # never written to: logs are rank zero's, and so is the checkpoints' folder
        if self.fits and self.checkpoint is not None:
            folder = self.checkpoint.absolute().parents[1]
            if folder.parent == self.runs.absolute():
                return self.runs / folder.name
        self._is_new = True
        return new_version(self.runs)

    def discard_folder(self) -> None:
        """Remove the run's folder, if it was made for this run."""
        if self.folder is not None and self._is_new:
            shutil.rmtree(self.folder)

    def _checkpoints(self, folder: Path) -> list[Callback]:
        """Keep ``best.ckpt``, where there is a validation, and ``last.ckpt``, renewed every epoch."""
        last = ModelCheckpoint(  # by itself it would wait for the next validation, epochs away in some recipes
            folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
        if not is_overridden("validation_step", self.model) or not getattr(self.datamodule, "validates", True):
            return [last]
        return [ModelCheckpoint(folder, filename="best", monitor="val/loss", enable_version_counter=False), last]

    @rank_zero_only
    def save_config(self) -> None:
        """Write ``config.yaml`` into the run's folder; with ``--config`` it gives the same run again."""
        assert self.folder is not None
        config = self.config.clone()
        config.ckpt_path = None
        with whole(self.folder / "config.yaml") as partial:
            self.parser.save(config, partial, skip_none=False, overwrite=True, multifile=False)


def _has(given: Any, kind: type) -> bool:
    return any(isinstance(one, kind) for one in (given if isinstance(given, list) else [given]))


def run_command(verb: str, recipe: Recipe | None, overrides: Sequence[str]) -> int:
    """Run a command for a user: print its table; errors of the user are one message.

    Args:
        verb: ``"train"`` (fit, then test), ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        recipe: The recipe; ``None`` if the configuration is among the overrides.
        overrides: Arguments of LightningCLI.

    Returns:
        The exit status: 0, 2 after an error of the user, 130 after Ctrl-C.
    """
    started = Started()
    with quiet():
        try:
            result = run(verb, recipe, overrides, started)
        except SystemExit as end:
            if started.yet:  # how Lightning ends an evaluation after Ctrl-C
                print("\nstopped", file=sys.stderr)
                return 130
            return int(end.code or 0)  # after --help and --print_config
        except KeyboardInterrupt:
            print("\nstopped before training began", file=sys.stderr)
            return 130
        except USER_ERRORS as error:
            if no_room(error):
                return complain(
                    f"the disk is full ({error}); free some of it, and the same command with --ckpt_path last goes on "
                    "after the last epoch that was saved"
                )
            if started.yet:
                raise
            return complain(message_of(error))
    if is_rank_zero():
        console().print(result.table())
        if result.stopped:
            print(how_to_go_on(result, recipe, overrides), file=sys.stderr)
    return 130 if result.stopped else 0


def how_to_go_on(result: Result, recipe: Recipe | None, overrides: Sequence[str]) -> str:
    """What to type after Ctrl-C."""
    if result.checkpoint is None:
        return "stopped before the first epoch was saved; the same command starts again"
    words = ["python", "train.py", *([] if result.verb == "train" else [result.verb])]
    words += ["--model", recipe.name] if recipe else []
    return f"stopped; to go on: {shlex.join([*words, *overrides, '--ckpt_path', 'last'])}"


def run(verb: str, recipe: Recipe | None, overrides: Sequence[str], started: Started | None = None) -> Result:
    """Run a command and keep its results in the run's folder.

    Args:
        verb: ``"train"`` (fit, then test), ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        recipe: The recipe; ``None`` if the configuration is among the overrides.
        overrides: Arguments of LightningCLI, which win over the recipe.
        started: Callback that is told when work begins.

    Returns:
        What was measured. The folder holds it as ``results.json``, with ``config.yaml``, ``metrics.csv`` and
        ``curves.png``.

    Raises:
        ValueError: If the configuration is wrong, or a checkpoint or file of it.
    """
    started = started or Started()
    args = ["--config", str(recipe.path), *overrides] if recipe else list(overrides)
    config = yaml.safe_load(recipe.path.read_text(encoding="utf-8")) if recipe else {}
    cli = ZooCLI(args, verb, recipe.name if recipe else name_of(overrides), config, started)
    result = Result(
        cli.name, verb, data=_describe(cli.datamodule), seed=cli.config.seed_everything, device=_device(cli.trainer)
    )
    begun = time.perf_counter()
    try:
        if cli.folder is not None:
            result.folder = str(cli.folder)
            cli.save_config()
            for logger in cli.trainer.loggers:
                logger.log_hyperparams({"data_description": result.data})
        if cli.fits:
            _fit(cli, result)
        if verb != "fit" and not result.stopped:
            _evaluate(cli, "test" if verb == "train" else verb, result)
    except BaseException:
        if not started.yet:
            cli.discard_folder()
        raise
    result.seconds = time.perf_counter() - begun
    if cli.folder is not None and is_rank_zero():
        _keep(cli, result)
    return result


def name_of(overrides: Sequence[str]) -> str:
    """Name of a run that has a ``--config`` and no recipe: the file's name, or the recipe whose run the file is of.

    Example:
        >>> name_of(["--config", "mine.yaml"]), name_of(["--config=logs/gcn/version_3/config.yaml"])
        ('mine', 'gcn')
    """
    words = [word for option in overrides for word in option.split("=", 1)]
    paths = [Path(value) for option, value in pairwise(words) if option in ("--config", "-c")]
    if not paths:
        return "run"
    of_a_run = paths[0].name == "config.yaml" and paths[0].parent.name.startswith("version_")
    return paths[0].absolute().parents[1].name if of_a_run else paths[0].stem


def _fit(cli: ZooCLI, result: Result) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.checkpoint)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not cli.trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, on_interrupt)
    result.stopped = cli.trainer.interrupted
    result.metrics = _floats(cli.trainer.callback_metrics)
    keepers = [callback for callback in cli.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    last = result.stopped or cli.config.test_checkpoint == "last"  # the last epoch to go on from or to test
    for keeper in keepers[-1:] if last else keepers[:1]:
        result.checkpoint = _short(keeper.best_model_path) if keeper.best_model_path else None
    for keeper in keepers:
        if keeper.monitor and keeper.best_model_score is not None:
            result.metrics[f"{keeper.monitor} (best)"] = float(keeper.best_model_score)
    _collect(cli, result)


def _evaluate(cli: ZooCLI, verb: str, result: Result) -> None:
    if verb == "test" and not is_overridden("test_step", cli.model):
        return
    path = result.checkpoint if cli.fits else cli.checkpoint
    result.checkpoint = str(path) if path else None
    if verb == "predict":
        batches = cli.trainer.predict(cli.model, datamodule=cli.datamodule, ckpt_path=path)
        if cli.folder is not None and is_rank_zero():
            with whole(cli.folder / "predictions.pt") as partial, partial.open("wb") as file:
                torch.save(batches, file)
            result.predictions = str(cli.folder / "predictions.pt")
        return
    if cli.fits:
        result.last_epoch = _floats(cli.trainer.callback_metrics)
    getattr(cli.trainer, verb)(cli.model, datamodule=cli.datamodule, ckpt_path=path, verbose=False)
    _collect(cli, result)
    kept = {name: value for name, value in result.metrics.items() if name not in result.last_epoch}
    result.metrics = _floats(cli.trainer.callback_metrics) | kept


def _collect(cli: ZooCLI, result: Result) -> None:
    """Take over what callbacks have found so far."""
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        result.metrics |= getattr(callback, "final_metrics", {})
        result.curves |= getattr(callback, "final_curves", {})


def _keep(cli: ZooCLI, result: Result) -> None:
    assert cli.folder is not None
    result.curves = read_curves(cli.folder) | result.curves
    result.save(cli.folder / "results.json")
    keeper = cli.trainer.checkpoint_callback
    best = keeper.monitor if isinstance(keeper, ModelCheckpoint) else None
    main_metric = getattr(cli.model, "main_metric", None)
    draw_curves(cli.folder, f"{cli.name}, seed {result.seed}\n{result.data}", main_metric, best)


def _describe(datamodule: Any) -> str:
    return "none" if datamodule is None else getattr(datamodule, "description", type(datamodule).__name__)


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def _floats(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _short(path: str) -> str:
    """The path from the working directory, if it lies below."""
    full = Path(path)
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else path
