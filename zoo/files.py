"""Files that are whole or not there."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A disk, a quota or ``ulimit -f`` that leaves no room.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all; its folder is made if need be.

    Args:
        path: The file, replaced if it exists.

    Yields:
        The file to write: beside the other one, so that renaming it is one step; gone if the block fails.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(Path(folder) / "figure.png") as partial:
        ...         _ = partial.write_bytes(b"...")
        ...     [path.name for path in Path(folder).iterdir()]
        ['figure.png']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: The file, replaced if it exists.
        text: Its content.
    """
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def no_room(error: BaseException) -> bool:
    """Whether an error says that the disk is full.

    Example:
        >>> no_room(OSError(errno.ENOSPC, "No space left on device")), no_room(OSError(errno.ENOENT, "No such file"))
        (True, False)
    """
    return isinstance(error, OSError) and error.errno in NO_ROOM
