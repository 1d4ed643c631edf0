import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules import AsymmetricNoise, HumanNoise, RandomLabels, SymmetricNoise, VisionDataModule


@pytest.fixture
def mine(tmp_path):
    """An array file whose images hold their own number."""
    number = np.arange(200)
    x = np.zeros((200, 4, 4, 1), np.uint8) + number[:, None, None, None].astype(np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=number % 10, x_test=x[:40], y_test=number[:40] % 10)
    return str(tmp_path / "mine.npz")


def data(name, **options):
    return VisionDataModule(name, **({"batch_size": 16, "normalize": False} | options))


def test_parts_are_disjoint_and_keep_labels_with_images(mine):
    parts = data(mine, val_fraction=0.25).parts
    assert {name: len(part) for name, part in parts.items()} == {"train": 150, "val": 50, "test": 40}
    numbers = torch.cat([parts["train"].x, parts["val"].x])[:, 0, 0, 0]
    assert sorted(numbers.tolist()) == list(range(200))
    for part in parts.values():
        assert torch.equal(part.x[:, 0, 0, 0] % 10, part.clean_y)


def test_the_seed_draws_split_subset_noise_and_order(mine):
    def drawn(seed, **options):
        module = data(mine, seed=seed, label_noise=SymmetricNoise(0.5), **options)
        batch = next(iter(module.train_dataloader()))
        return module.parts["train"].x[:, 0, 0, 0].tolist(), module.train_labels.tolist(), batch.index.tolist()

    assert drawn(1) == drawn(1)
    assert all(one != other for one, other in zip(drawn(1), drawn(2)))
    smaller, larger = drawn(1, train_fraction=0.5)[:2], drawn(1)[:2]
    assert [some[:90] for some in larger] == [some[:90] for some in smaller]  # a part of the same split and noise


def test_the_seed_is_that_of_seed_everything(mine, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert data(mine).seed == 7
    assert data(mine, seed=3).seed == 3
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert data(mine).seed == 0


def test_a_subset_has_so_many_of_each_clean_class(mine):
    module = data(mine, subset_per_class=5, label_noise=RandomLabels())
    assert torch.bincount(module.train_clean_labels).tolist() == [5] * 10
    assert len(set(module.train_clean_labels[:10].tolist())) > 3  # shuffled


def test_fractions_are_taken(mine):
    module = data(mine, train_fraction=0.1, test_fraction=0.5)
    assert module.num_train == 18
    assert len(module.parts["test"]) == 20


def test_noise_reaches_training_and_validation_but_not_the_test(mine):
    module = data(mine, label_noise=SymmetricNoise(0.9, inclusive=False), val_fraction=0.5)
    parts = module.parts
    assert 0.8 < (parts["train"].y != parts["train"].clean_y).float().mean() < 1
    assert 0.8 < (parts["val"].y != parts["val"].clean_y).float().mean() < 1
    assert torch.equal(parts["test"].y, parts["test"].clean_y)
    assert module.noise_rate == (parts["train"].y != parts["train"].clean_y).float().mean().item()
    assert f"{100 * module.noise_rate:.2f} % of the labels wrong" in module.description


def test_batches_refer_to_rows_of_the_training_subset(mine):
    module = data(mine, train_fraction=0.5, label_noise=SymmetricNoise(0.5))
    for batch in module.train_dataloader():
        rows = module.parts["train"]
        assert torch.equal(batch.y, rows.y[batch.index])
        assert torch.equal(batch.clean_y, rows.clean_y[batch.index])
        assert torch.equal((batch.x[:, 0, 0, 0] * 255).round().long(), rows.x[batch.index, 0, 0, 0].long())


def test_statistics_of_a_file_of_ones_own_are_those_of_its_training_images(mine):
    module = VisionDataModule(mine, batch_size=180, val_fraction=0.0)
    x = torch.cat([batch.x for batch in module.test_dataloader()])
    raw = torch.arange(40).double() / 255
    pixels = torch.arange(200).double() / 255
    torch.testing.assert_close(
        x[:, 0, 0, 0].double(), (raw - pixels.mean()) / pixels.std(unbiased=False), atol=1e-3, rtol=0
    )


def test_views_are_drawn_and_evaluation_is_not():
    module = VisionDataModule("digits", batch_size=64, augment=True, crop_padding=2, second_view=True)
    torch.manual_seed(0)
    one, other = (next(iter(module.train_dataloader())) for _ in range(2))
    assert torch.equal(one.index, other.index)
    assert not torch.equal(one.x, other.x)
    assert not torch.equal(one.second_view, one.x)
    assert one.second_view.shape == one.x.shape
    plain = [next(iter(module.val_dataloader())).x for _ in range(2)]
    assert torch.equal(*plain)


def test_resizing_shows_in_the_input_shape():
    assert VisionDataModule("digits", resize=4).input_shape == (1, 4, 4)
    assert VisionDataModule("digits").input_shape == (1, 8, 8)


def test_without_validation_there_is_no_loader(mine):
    module = data(mine, val_fraction=0.0)
    assert module.val_dataloader() == []
    assert not module.validates
    assert module.num_train == 200


class Remember(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.index)
        assert batch.x.dtype == self.layer.weight.dtype
        return self.layer(batch.x.mean(dim=(1, 2, 3))[:, None]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_the_trainer_shuffles_every_epoch_and_sets_the_precision(mine, tmp_path, precision):
    model = Remember()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        precision=precision,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **options,
    )
    trainer.fit(model, datamodule=data(mine, drop_last=False))
    first, second = torch.cat(model.seen).view(2, -1)
    assert first.sort().values.equal(torch.arange(180))
    assert second.sort().values.equal(torch.arange(180))
    assert not first.equal(second)


def test_a_stand_in_is_told_everywhere():
    module = VisionDataModule(
        "cifar10", subset_per_class=200, if_unavailable="stand_in", label_noise=HumanNoise("aggre")
    )
    with pytest.warns(UserWarning, match="TRAINING ON A STAND-IN, NOT ON CIFAR-10"):
        assert module.is_stand_in
    assert "STAND-IN for CIFAR-10" in module.description
    assert "STAND-IN for human labels: symmetric noise 0.09" in module.description
    assert module.input_shape == (3, 32, 32)
    assert 0.05 < module.noise_rate < 0.13


def test_missing_data_is_an_error_unless_a_stand_in_is_allowed():
    with pytest.raises(FileNotFoundError, match="MNIST is not available: its files are missing in data"):
        VisionDataModule("mnist").prepare_data()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        VisionDataModule("mine.npz").prepare_data()


def test_damaged_data_is_an_error_even_where_a_stand_in_is_allowed(mnist):
    path = mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        _ = VisionDataModule("mnist", root=str(mnist), if_unavailable="stand_in").parts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "imagenet"}, "name must be one of mnist, fashion_mnist, cifar10, cifar100, digits, or the path"),
        ({"if_unavailable": "ignore"}, "if_unavailable must be one of error, stand_in, got 'ignore'"),
        ({"name": "mine.npz", "if_unavailable": "stand_in"}, "if_unavailable must be error for a file of your own"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
        ({"resize": 0}, "resize must be at least 1, got 0"),
        ({"crop_padding": -1}, "crop_padding must be at least 0, got -1"),
        ({"train_fraction": 0.0}, r"train_fraction must be in \(0, 1\], got 0.0"),
        ({"test_fraction": 1.5}, r"test_fraction must be in \(0, 1\], got 1.5"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"subset_per_class": 0}, "subset_per_class must be at least 1, got 0"),
        ({"subset_per_class": 5, "train_fraction": 0.5}, "train_fraction must be 1 where subset_per_class is given"),
    ],
)
def test_wrong_arguments_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        VisionDataModule(**({"name": "digits"} | options))


def test_too_few_images_are_told(mine):
    with pytest.raises(ValueError, match=r"subset_per_class must be at most 1[0-9], the smallest class, got 40"):
        _ = data(mine, subset_per_class=40).parts
    with pytest.raises(ValueError, match="batch_size must be at most 180, the training images of a device, got 500"):
        data(mine, batch_size=500).setup("fit")


def test_asymmetric_flips_must_fit_the_classes(mine):
    with pytest.raises(ValueError, match=r"flips must map classes in \[0, 10\), got 0: 12"):
        _ = data(mine, label_noise=AsymmetricNoise(0.4, {0: 12})).parts


def test_independent_batches_are_full_and_repeat_images_within_an_epoch(mine):
    module = data(mine, batch_size=60, val_fraction=0.0, independent_batches=True, drop_last=False)
    batches = [batch.index.tolist() for batch in module.train_dataloader()]
    assert [len(set(batch)) for batch in batches] == [60] * 4
    assert len({index for batch in batches for index in batch}) < 200  # a pass would have met all of them


def test_an_independent_batch_must_fit_into_the_data(mine):
    with pytest.raises(ValueError, match=r"batch_size must be at most 180, .* a device, got 500$"):
        data(mine, batch_size=500, drop_last=False, independent_batches=True).setup("fit")
