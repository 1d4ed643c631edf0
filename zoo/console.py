"""What the command prints besides its results: the zoo's own messages and real warnings, not Lightning's chatter."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

CHATTER = (
    ".*does not have many workers.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*module.* in eval mode.*",
    "Sparse CSR tensor support is in beta state.*",
    "Sparse invariant checks are implicitly disabled.*",
    ".*torch.jit.script.* is deprecated.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    "Checkpoint directory .* exists and is not empty.*",
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
    "Experiment logs directory .* exists and is not empty.*",
    "Total length of `list` across ranks is zero.*",  # no validation, as the configuration says
    "You passed in a `val_dataloader` but have no `validation_step`.*",  # what is tested need not be validated
    "You're resuming from a checkpoint that ended before the epoch ended.*",
)
LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


def console() -> Console:
    """The console for results, as wide as the terminal; wide enough for a table where there is none."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=160)


@contextmanager
def quiet() -> Iterator[None]:
    """Show the zoo's messages and every warning in one line each on stderr, without what is no news to the user."""
    levels = {name: logging.getLogger(name).level for name in LIGHTNING}
    messages = logging.StreamHandler()
    messages.setFormatter(logging.Formatter("%(message)s"))
    own = logging.getLogger("zoo")
    own.addHandler(messages)
    own_level = own.level
    own.setLevel(logging.INFO)
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in CHATTER:
                warnings.filterwarnings("ignore", message=message)
            warnings.showwarning = _show_warning
            yield
    finally:
        own.removeHandler(messages)
        own.setLevel(own_level)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=file or sys.stderr)
