import builtins

import pytest

from zoo.environment import check_environment
from zoo.recipes import main


@pytest.fixture
def fail_torchvision(monkeypatch):
    """Makes the import of torchvision fail with a message."""

    def fail(message):
        real = builtins.__import__

        def broken(name, *args, **kwargs):
            if name == "torchvision":
                raise RuntimeError(message)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", broken)

    return fail


def test_mismatched_torch_and_torchvision_are_told_in_two_lines(fail_torchvision, capsys):
    fail_torchvision("operator torchvision::nms does not exist")
    assert main(["--model", "gcn"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "torch" in first
    assert "torchvision" in first
    assert "pip install" in second


def test_a_sound_environment_is_none_to_complain_of():
    assert check_environment() is None


def test_other_failures_of_the_import_keep_their_traceback(fail_torchvision):
    fail_torchvision("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        check_environment()
