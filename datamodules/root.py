"""Where data lies on this machine."""

import os
from pathlib import Path


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds all data: ``root``, else the variable ``ZOO_DATA``, else ``data/``.

    The folder need not exist yet, unless ``ZOO_DATA`` names it.

    Args:
        root: The user's own choice; ``None`` leaves it to the environment.

    Returns:
        The folder's path, ``~`` expanded.

    Raises:
        ValueError: If ``root`` is something else than a folder, or ``ZOO_DATA`` is not a folder.

    Example:
        >>> data_root("elsewhere").name
        'elsewhere'
    """
    variable = os.environ.get("ZOO_DATA")
    if root is not None:
        path = Path(root).expanduser()
        if path.exists() and not path.is_dir():
            raise ValueError(f"root must be a folder, got {str(root)!r}, which is not one")
    elif variable:
        path = Path(variable).expanduser()
        if not path.is_dir():
            raise ValueError(
                f"the environment variable ZOO_DATA must name a folder, got {variable!r}, which is not one"
            )
    else:
        path = Path("data")
    return path
