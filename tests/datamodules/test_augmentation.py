import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import Normalize

from datamodules.augmentation import auto_augment, cutout, normalize, random_crop_flip


def numbered(batch=256, height=6, width=5, channels=3):
    """Images whose pixels all differ, and differ from the padding."""
    return torch.arange(1, batch * height * width * channels + 1).view(batch, height, width, channels)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_every_image_is_one_of_its_windows(padding, flip):
    torch.manual_seed(0)
    x = numbered()
    got = random_crop_flip(x, padding, flip)
    padded = F.pad(x, (0, 0, padding, padding, padding, padding))
    for image, mine in zip(padded[:40], got[:40]):
        mirrored = F.pad(image[padding : padding + 6, padding : padding + 5].flip(1), (0, 0, *[padding] * 4))
        windows = [
            one[top : top + 6, left : left + 5]
            for one in ([image, mirrored] if flip else [image])
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any(torch.equal(mine, window) for window in windows)


def test_all_offsets_and_both_directions_are_drawn_equally_often():
    torch.manual_seed(0)
    x = torch.arange(1, 10).view(1, 3, 3, 1).repeat(36000, 1, 1, 1)
    got = random_crop_flip(x, padding=1)
    kinds, counts = got.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 18
    assert (counts - 2000).abs().max() < 5 * 2000**0.5


def test_each_image_has_its_own_draw():
    torch.manual_seed(0)
    got = random_crop_flip(numbered(1).repeat(64, 1, 1, 1), padding=3)
    assert len(got.flatten(1).unique(dim=0)) > 30


def test_normalising_is_torchvisions():
    x = torch.randint(256, (4, 6, 5, 3), dtype=torch.uint8)
    mean, std = (0.49, 0.48, 0.44), (0.2, 0.19, 0.21)
    expected = Normalize(mean, std)(x.permute(0, 3, 1, 2) / 255)
    got = normalize(x, torch.tensor(mean), torch.tensor(std))
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_a_hole_is_a_square_around_a_pixel():
    torch.manual_seed(0)
    holes = cutout(torch.ones(500, 2, 9, 7), size=4) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    heights, widths = holes[:, 0].any(dim=2).sum(dim=1), holes[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(heights * widths, holes[:, 0].sum(dim=(1, 2)))
    assert set(heights.tolist()) == {2, 3, 4}  # two pixels of it remain at the border
    assert heights.float().mean() > 3


def test_auto_augment_keeps_each_image_in_its_place():
    torch.manual_seed(0)
    levels = torch.arange(64, dtype=torch.uint8) * 4
    x = levels.view(64, 1, 1, 1).expand(64, 8, 8, 3).contiguous()
    unchanged = [auto_augment(x, group_size=4)[:, 4, 4, 0] == levels for _ in range(20)]
    assert 0.1 < torch.stack(unchanged).float().mean() < 0.9  # many operations leave a uniform image as it is
    assert auto_augment(x, group_size=1).shape == x.shape
