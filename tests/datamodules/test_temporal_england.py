import json

import pytest
import pytorch_lightning as pl
import torch

from datamodules import EnglandCovidDataModule
from datamodules import temporal_england as england

NUM_DAYS, NUM_REGIONS = 30, 12


def content(seed=0):
    """What the file holds: a ring with loops, and a chord on every other day."""
    generator = torch.Generator().manual_seed(seed)
    node = torch.arange(NUM_REGIONS)
    ring = torch.cat([torch.stack([node, node]), torch.stack([node, (node + 1) % NUM_REGIONS])], dim=1).t().tolist()
    edges = {str(day): ring + ([[0, 5]] if day % 2 else []) for day in range(NUM_DAYS)}
    weights = {day: (10 + 990 * torch.rand(len(listed), generator=generator)).tolist() for day, listed in edges.items()}
    cases = (torch.rand(NUM_DAYS, NUM_REGIONS, generator=generator) * torch.arange(NUM_DAYS)[:, None]).round()
    return {
        "edge_mapping": {"edge_index": edges, "edge_weight": weights},
        "time_periods": NUM_DAYS,
        "y": cases.tolist(),
    }


@pytest.fixture
def england_root(tmp_path):
    (tmp_path / england.FILE).write_text(json.dumps(content()))
    return tmp_path


def test_windows_have_the_days_before_and_the_next_day_as_target(england_root):
    data = EnglandCovidDataModule(england_root, window=5, batch_size=3)
    raw = torch.tensor(content()["y"])
    batch = next(iter(data.train_dataloader()))
    least, width = (value.item() for value in data.scale)
    for i, day in enumerate(batch.time.tolist()):
        nodes = slice(i * NUM_REGIONS, (i + 1) * NUM_REGIONS)
        torch.testing.assert_close(batch.x[nodes, :, 0] * width + least, raw[day - 5 : day].t())
        torch.testing.assert_close(data.to_raw(batch.y[nodes, 0]), raw[day])


def test_the_scale_is_that_of_the_training_part(england_root):
    data = EnglandCovidDataModule(england_root, window=5)  # cases grow: the test's are larger
    raw = torch.tensor(content()["y"])
    seen = int(data.positions["train"].max()) + 5 + 1
    assert data.target_range == (float(raw[:seen].max() - raw[:seen].min()),)
    test = next(iter(data.test_dataloader()))
    assert test.y.max() > 1
    assert next(iter(data.train_dataloader())).y.max() <= 1


def test_edges_are_scaled_by_the_days_of_training_and_padded_where_absent(england_root):
    data = EnglandCovidDataModule(england_root, window=5)
    batch = next(iter(data.train_dataloader()))
    assert (batch.edge_attr[~batch.present] == -1).all()
    assert batch.edge_attr[batch.present].min() >= 0
    assert batch.edge_attr[batch.present].max() <= 1
    chord = (batch.edge_index[0] % NUM_REGIONS == 0) & (batch.edge_index[1] % NUM_REGIONS == 5)
    assert (batch.present[chord].sum(1) < 5).all()


def test_a_split_by_nodes_shows_all_windows_and_masks_nodes(england_root):
    data = EnglandCovidDataModule(england_root, window=5, split="node", eval_batch_size=100)
    train, test = next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))
    assert len(data.positions["train"]) == len(data.positions["test"]) == NUM_DAYS - 5
    assert train.mask[:NUM_REGIONS].sum() == 9
    assert not (train.mask[:NUM_REGIONS] & test.mask[:NUM_REGIONS]).any()


def test_without_edges_only_the_nodes_are_left(england_root):
    data = EnglandCovidDataModule(england_root, window=5, keep_edges=False)
    batch = next(iter(data.train_dataloader()))
    assert batch.edge_index.shape == (2, 0)
    assert batch.edge_attr.shape == (0, 5, 1)
    assert "without its edges" in data.description


def test_the_order_is_drawn_anew_in_every_epoch_and_is_the_seeds(england_root):
    def order(seed, epoch):
        loader = EnglandCovidDataModule(england_root, window=5, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [day for batch in loader for day in batch.time.tolist()]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 0)) == sorted(order(1, 3))


def test_without_file_and_network_the_stand_in_is_named(tmp_path):
    data = EnglandCovidDataModule(tmp_path, if_unavailable="stand_in")
    with pytest.warns(UserWarning, match="TRAINING ON A STAND-IN, NOT ON ENGLAND-COVID"):
        assert data.is_stand_in
    assert data.description.startswith("STAND-IN for England-COVID")
    assert data.sequence.features.shape == (61, 129, 1)
    assert data.sequence.edges.present.any(0).all()
    assert list(tmp_path.iterdir()) == []


def test_without_file_and_network_it_is_an_error_by_default(tmp_path):
    with pytest.raises(FileNotFoundError, match="England-COVID is not available: there is no"):
        EnglandCovidDataModule(tmp_path).prepare_data()


def served(tmp_path, monkeypatch, text):
    source = tmp_path / "served.json"
    source.write_text(text)
    monkeypatch.setattr(england, "URL", source.as_uri())
    return tmp_path / "root"


def test_a_download_appears_whole(tmp_path, monkeypatch):
    root = served(tmp_path, monkeypatch, json.dumps(content()))
    EnglandCovidDataModule(root).prepare_data()
    assert [path.name for path in root.iterdir()] == [england.FILE]


def test_a_broken_download_leaves_nothing(tmp_path, monkeypatch):
    root = served(tmp_path, monkeypatch, json.dumps(content())[:1000])
    with pytest.raises(FileNotFoundError, match="is damaged"):
        EnglandCovidDataModule(root).prepare_data()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("damage", ["y", "edge_mapping"])
def test_a_damaged_file_is_named(england_root, damage):
    broken = content()
    del broken[damage]
    (england_root / england.FILE).write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"england_covid.json is damaged"):
        EnglandCovidDataModule(england_root).setup("fit")


def test_a_day_without_edges_is_taken_as_damage(england_root):
    broken = content()
    broken["edge_mapping"]["edge_index"]["7"], broken["edge_mapping"]["edge_weight"]["7"] = [], []
    (england_root / england.FILE).write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="snapshot 7 has no edge"):
        EnglandCovidDataModule(england_root).setup("fit")


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("window", 0, "window must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("split", "random", "split must be one of chronological, interleaved, node, got 'random'"),
        ("if_unavailable", "guess", "if_unavailable must be one of error, stand_in, got 'guess'"),
        ("padding_value", 0.5, r"padding_value must lie outside \[0, 1\]"),
        ("padding_value", float("nan"), r"padding_value must lie outside \[0, 1\]"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_read(argument, value, message):
    with pytest.raises(ValueError, match=message):
        EnglandCovidDataModule(**{argument: value})


def test_a_window_as_long_as_the_sequence_is_refused(england_root):
    with pytest.raises(ValueError, match=f"window must be less than the {NUM_DAYS} steps of England-COVID, got 30"):
        EnglandCovidDataModule(england_root, window=30).setup("fit")


def test_processes_share_the_windows(england_root, monkeypatch):
    seen = []
    for rank in range(2):
        data = EnglandCovidDataModule(england_root, window=5, eval_batch_size=2)
        data.trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
        monkeypatch.setattr(type(data.trainer), "world_size", 2)
        monkeypatch.setattr(type(data.trainer), "global_rank", rank)
        seen.append({day for batch in data.test_dataloader() for day in batch.time.tolist()})
        monkeypatch.undo()
    assert seen[0].isdisjoint(seen[1])
    assert seen[0] | seen[1] == {int(w) + 5 for w in data.positions["test"]}
