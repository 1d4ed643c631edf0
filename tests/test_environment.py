import builtins

import pytest

from zoo.environment import check_environment
from zoo.recipes import main


@pytest.fixture
def mismatched(monkeypatch):
    """An environment whose torchvision was built for another torch."""
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)


def test_mismatched_torch_and_torchvision_are_told_in_two_lines(mismatched, capsys):
    assert main(["--model", "gcn"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "torch" in first
    assert "torchvision" in first
    assert "pip install" in second


def test_a_sound_environment_is_none_to_complain_of():
    assert check_environment() is None


def test_other_failures_of_the_import_keep_their_traceback(monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "torchvision":
            raise RuntimeError("out of memory")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        check_environment()
