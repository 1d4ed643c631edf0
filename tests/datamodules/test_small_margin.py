import math

import pytest
import torch

from datamodules import SmallMarginVisionDataModule, VisionDataModule
from datamodules.small_margin import weaken

DIGITS = {"name": "digits", "val_fraction": 0.0, "batch_size": 16, "seed": 0}


def test_a_weakened_image_keeps_its_contrast_times_kappa_under_the_noise():
    x = torch.randint(100, 156, (200, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([128.0]), torch.tensor([10.0])
    weak = weaken(x, 0.25, mean, std, torch.Generator().manual_seed(1)).float()
    slope = ((x - mean) * (weak - mean)).mean() / (x - mean).square().mean()
    assert slope.item() == pytest.approx(0.25, abs=0.01)
    assert (weak - mean - 0.25 * (x - mean)).std().item() == pytest.approx(10.0, rel=0.03)


def test_weakened_images_stay_within_bytes():
    x = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    weak = weaken(x, 1.0, torch.zeros(3), torch.full((3,), 100.0), torch.Generator().manual_seed(0))
    assert weak.dtype == torch.uint8
    assert (weak == 255).float().mean() > 0.4  # what the noise takes above


def test_two_classes_are_left_and_labelled_in_the_given_order():
    data = SmallMarginVisionDataModule(classes=(7, 3), small_margin_fraction=0.0, **DIGITS)
    plain = VisionDataModule(**DIGITS)
    part, whole = data.parts["train"], plain.parts["train"]
    chosen = (whole.y == 7) | (whole.y == 3)
    assert torch.equal(part.x, whole.x[chosen])
    assert torch.equal(part.y, (whole.y[chosen] == 3).long())
    assert (data.num_classes, data.num_train) == (2, int(chosen.sum()))


def test_only_weak_images_are_altered_and_as_many_as_asked_for():
    data = SmallMarginVisionDataModule(classes=(0, 1), small_margin_fraction=0.2, **DIGITS)
    for part, share in (("train", 0.2), ("test", 0.5)):
        weak = data.groups[part].bool()
        assert weak.sum() == round(share * len(weak))
        changed = (data.parts[part].x != data.pairs[part].x).flatten(1).any(1)
        assert torch.equal(changed, weak)


def test_the_noise_of_an_image_is_the_same_in_every_epoch_and_that_of_the_seed():
    one, again, other = (SmallMarginVisionDataModule(classes=(0, 1), **{**DIGITS, "seed": seed}) for seed in (0, 0, 1))
    loader = one.train_dataloader()
    epochs = [torch.cat([batch.x[batch.index.argsort()] for batch in [next(iter(loader))]]) for _ in range(2)]
    assert torch.equal(*epochs)
    assert torch.equal(one.parts["test"].x, again.parts["test"].x)
    assert not torch.equal(one.groups["test"], other.groups["test"])


def test_a_batch_tells_positions_in_the_groups():
    data = SmallMarginVisionDataModule(classes=(0, 1), **DIGITS)
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch.index, torch.arange(len(batch.index)))
    assert data.groups["test"][batch.index].float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_description_tells_classes_and_contrast():
    text = SmallMarginVisionDataModule(classes=(0, 1), **DIGITS).description
    assert text.endswith("; classes 0 and 1, 10 % of the training images weakened to a contrast of 0.15)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": (3, 3)}, r"classes must be two different classes from 0 on, got \[3, 3\]"),
        ({"classes": (3,)}, "classes must be two different classes"),
        ({"contrast": 1.5}, r"contrast must be in \[0, 1\], got 1.5"),
        ({"small_margin_fraction": math.nan}, r"small_margin_fraction must be in \[0, 1\], got nan"),
        ({"test_small_fraction": -1.0}, r"test_small_fraction must be in \[0, 1\], got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SmallMarginVisionDataModule(**options, **DIGITS)


def test_a_class_that_the_data_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"classes must be in \[0, 10\), got \[0, 12\]"):
        _ = SmallMarginVisionDataModule(classes=(0, 12), **DIGITS).parts
