"""What must be right on the user's machine before torch is used, and how errors of the user are told."""

import sys
from importlib.metadata import version

CURE = "pip install --upgrade --force-reinstall torch torchvision    (both at once, so that pip picks a matching pair)"


def complain(problem: object) -> int:
    """Print an error of the user to stderr; returns 2, the exit status for it."""
    print(f"error: {problem}", file=sys.stderr)
    return 2


def check_environment() -> str | None:
    """Import torch and torchvision; returns what is wrong and its cure if the two were built for each other's rivals.

    A CPU-only torch beside a CUDA-built torchvision (or the reverse) fails deep inside torchvision, with a message
    about an operator that does not exist.
    """
    import torch  # noqa: F401

    try:
        import torchvision  # noqa: F401
    except (RuntimeError, ImportError, OSError) as error:
        return mismatch(error)
    return None


def mismatch(error: Exception) -> str:
    """Two lines for the user whose torchvision cannot be imported.

    Raises:
        Exception: ``error`` itself, if it is another one than that of a mismatched pair.
    """
    signs = ("torchvision::", "undefined symbol", "libcudart", "_C.so", "DLL load failed")
    if not any(sign in str(error) for sign in signs):
        raise error
    pair = f"torch {version('torch')} and torchvision {version('torchvision')}"
    return f"{pair} do not fit each other and cannot be loaded together.\nInstall a matching pair: {CURE}"
