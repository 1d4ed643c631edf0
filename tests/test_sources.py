from pathlib import Path

import pytest

from zoo.recipes import ROOMS, find_recipe
from zoo.sources import ROOT, class_paths, code_hash, defining_module, source_files

CONFIG = {"model": {"class_path": "zoo.room.Net"}, "data": {"class_path": "datamodules.Points"}}
FILES = {
    "zoo/__init__.py": "",
    "zoo/cli.py": "import zoo.messages",
    "zoo/messages.py": "",
    "zoo/backbones.py": "import torch",
    "zoo/unused.py": "",
    "zoo/room/__init__.py": "from zoo.room.net import Net",
    "zoo/room/net.py": "def build():\n    from zoo.backbones import mlp",
    "zoo/room/part.py": "",
    "zoo/room/claim.py": "",
    "zoo/other/__init__.py": "",
    "zoo/other/net.py": "",
    "datamodules/__init__.py": "from .points import Points\nfrom .images import Images",
    "datamodules/points.py": "from . import root\nfrom datamodules.splits import split as cut",
    "datamodules/root.py": "",
    "datamodules/splits.py": "",
    "datamodules/images.py": "",
    "callbacks/__init__.py": "",
}
COUNTED = {
    "zoo/cli.py",
    "zoo/backbones.py",
    "zoo/room/__init__.py",
    "zoo/room/net.py",
    "zoo/room/part.py",
    "datamodules/points.py",
    "datamodules/root.py",
    "datamodules/splits.py",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def hash_of(tree):
    return code_hash(tree / "zoo/room", CONFIG, tree)


@pytest.mark.parametrize("name", FILES)
def test_the_hash_changes_with_what_a_run_imports_and_with_nothing_else(tree, name):
    before = hash_of(tree)
    (tree / name).write_text(FILES[name] + "\n# changed")
    assert (hash_of(tree) != before) == (name in COUNTED)


def test_a_file_that_comes_goes_or_is_renamed_changes_the_hash(tree):
    hashes = [hash_of(tree)]
    (tree / "zoo/room/new.py").write_text("")
    hashes.append(hash_of(tree))
    (tree / "zoo/room/new.py").rename(tree / "zoo/room/newer.py")
    hashes.append(hash_of(tree))
    (tree / "zoo/room/part.py").unlink()
    hashes.append(hash_of(tree))
    assert len(set(hashes)) == 4


def test_every_source_file_of_a_real_room_counts_except_its_claim():
    recipe = find_recipe("local_aug_gcn")
    files = source_files(recipe.path.parent, ["datamodules.PlanetoidDataModule"])
    room = {path for path in (ROOMS / "local_augmentation").rglob("*.py") if path.name != "claim.py"}
    assert room <= files
    assert ROOT / "datamodules/planetoid_raw.py" in files
    assert ROOMS / "local_augmentation/claim.py" not in files


def test_class_paths_are_found_at_any_depth():
    config = {
        "trainer": {"callbacks": [{"class_path": "callbacks.MADGap"}]},
        "model": {"init_args": {"x": 1}},
        "y": "z",
    }
    assert list(class_paths(config)) == ["callbacks.MADGap"]


def test_reexported_names_lead_to_where_they_are_defined():
    assert defining_module("zoo.local_augmentation.LAGCNClassifier") == "zoo.local_augmentation.module"
    assert defining_module("zoo.local_augmentation") == "zoo.local_augmentation"
    assert defining_module("torch.nn.Linear") == "torch.nn"
