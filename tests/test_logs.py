import csv

import pytest
from pytorch_lightning.loggers import TensorBoardLogger

from zoo.logs import ContinuedCSVLogger, loggers, new_version, read_curve, read_curves, read_rows


def log_epochs(folder, epochs, first_step=0):
    logger = ContinuedCSVLogger(folder, first_step)
    for epoch in epochs:
        logger.log_metrics({"val/loss": 1 / (epoch + 1), "epoch": epoch}, step=epoch)
        logger.save()


def test_versions_count_up_and_keep_what_is_there(tmp_path):
    assert [new_version(tmp_path / "gcn").name for _ in range(3)] == ["version_0", "version_1", "version_2"]


def test_a_curve_is_read_as_it_was_logged(tmp_path):
    folder = new_version(tmp_path / "gcn")
    log_epochs(folder, range(3))
    assert read_curve(folder, "val/loss") == ([0, 1, 2], pytest.approx([1, 1 / 2, 1 / 3]))
    assert read_curve(folder, "val/acc") == ([], [])


def test_all_curves_are_read_without_single_values(tmp_path):
    folder = new_version(tmp_path / "gcn")
    logger = ContinuedCSVLogger(folder)
    for epoch in range(3):
        logger.log_metrics({"val/loss": 1.0 - epoch, "epoch": epoch}, step=epoch)
    logger.log_metrics({"test/acc": 0.5, "epoch": 3}, step=3)
    logger.save()
    assert read_curves(folder) == {"val/loss": ([0, 1, 2], [1.0, 0.0, -1.0])}


def test_a_resumed_log_keeps_earlier_rows_and_replaces_later_ones(tmp_path):
    folder = new_version(tmp_path / "gcn")
    log_epochs(folder, range(5))
    log_epochs(folder, [3], first_step=3)
    assert read_curve(folder, "val/loss")[0] == [0, 1, 2, 3]


def test_a_resumed_log_takes_new_columns(tmp_path):
    folder = new_version(tmp_path / "gcn")
    log_epochs(folder, range(2))
    logger = ContinuedCSVLogger(folder, first_step=2)
    logger.log_metrics({"test/acc": 0.8}, step=2)
    logger.save()
    rows = read_rows(folder)
    assert rows[0]["test/acc"] == ""
    assert float(rows[-1]["test/acc"]) == 0.8
    with (folder / "metrics.csv").open() as file:
        assert len(list(csv.reader(file))) == 4


def test_both_loggers_share_the_folder(tmp_path):
    folder = new_version(tmp_path / "gcn")
    tensorboard, table = loggers(folder)
    assert isinstance(tensorboard, TensorBoardLogger)
    assert tensorboard.log_dir == table.log_dir == str(folder)
