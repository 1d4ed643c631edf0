from pathlib import Path

import pytest

from datamodules.root import data_root


def test_argument_beats_variable_beats_default(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root(tmp_path / "mine") == tmp_path / "mine"


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("ZOO_DATA", "")
    assert data_root() == Path("data")


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_a_variable_that_is_no_folder_is_named_with_its_value(kind, tmp_path, monkeypatch):
    path = tmp_path / "nothing_here"
    if kind == "file":
        path.touch()
    monkeypatch.setenv("ZOO_DATA", str(path))
    with pytest.raises(ValueError, match=r"ZOO_DATA must name a folder, got '.*nothing_here'"):
        data_root()


def test_a_root_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="root must be a folder, got"):
        data_root(tmp_path / "file")
