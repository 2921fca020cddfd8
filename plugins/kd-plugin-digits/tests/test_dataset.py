import pickle

import pytest
import torch
from kd_plugin_digits.dataset import Digits
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from kdcore.errors import DataError

SIZES = {"train": 1078, "val": 360, "test": 359}


@pytest.fixture(scope="module")
def scans():
    return load_digits()


@pytest.mark.parametrize("split", SIZES)
def test_a_sample_is_an_image_and_its_label(split):
    dataset = Digits(split)
    assert len(dataset) == len(dataset.targets) == SIZES[split]
    for index in (0, len(dataset) - 1):
        sample = dataset[index]
        assert set(sample) == {"input", "target"}
        assert sample["input"].shape == (1, 8, 8)
        assert sample["input"].dtype == torch.float32
        assert sample["target"].shape == ()
        assert sample["target"].dtype == torch.int64
        assert sample["target"] == dataset.targets[index]
    assert dataset.images.min() == 0
    assert dataset.images.max() == 1


def test_the_splits_are_the_whole_once(scans):
    found = torch.cat([Digits(split).images.flatten(1) for split in SIZES])
    labels = torch.cat([Digits(split).targets for split in SIZES])
    rows = sorted((*row, label) for row, label in zip((found * 16).int().tolist(), labels.tolist(), strict=True))
    expected = sorted((*row, label) for row, label in zip(scans.data.astype(int).tolist(), scans.target, strict=True))
    assert rows == expected


@pytest.mark.parametrize(("split", "share"), [("train", 0.6), ("val", 0.2), ("test", 0.2)])
def test_every_class_is_split_alike(split, share, scans):
    whole = torch.from_numpy(scans.target).bincount(minlength=10)
    counts = Digits(split).targets.bincount(minlength=10)
    assert ((counts - share * whole).abs() <= 1).all()


def test_no_seed_changes_the_split():
    torch.manual_seed(1)
    first = Digits("val")
    torch.manual_seed(2)
    second = Digits("val")
    assert torch.equal(first.images, second.images)
    # Written down, so that another version of a library cannot move the split unseen.
    assert first.targets[:12].tolist() == [0, 1, 4, 0, 1, 7, 5, 5, 8, 4, 5, 2]
    assert int((first.images * 16).sum()) == 113193


def test_samples_per_class_keeps_subsets():
    whole = {tuple(image) for image in Digits("train").images.flatten(1).tolist()}
    larger = {tuple(image) for image in Digits("train", samples_per_class=20).images.flatten(1).tolist()}
    few = Digits("train", samples_per_class=5)
    smaller = {tuple(image) for image in few.images.flatten(1).tolist()}
    assert smaller < larger < whole
    assert few.targets.bincount().tolist() == [5] * 10


@pytest.mark.parametrize("number", [0, 105])
def test_impossible_samples_per_class(number):
    match = (
        f"samples_per_class is {number}, but the smallest class of split 'train' has 104\n *give a number from 1 to 104"
    )
    with pytest.raises(DataError, match=match):
        Digits("train", samples_per_class=number)


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(DataError, match=r"digits has no split 'training'\n *did you mean 'train'"):
        Digits("training")


def test_what_a_dataset_tells_the_core():
    dataset = Digits()
    assert dataset.num_classes == len(dataset.class_names) == 10
    assert dataset.rows_per_sample == 1
    assert dataset.random is False
    assert Digits(augment=True).random is True


def test_augmented_images_are_shifts_by_up_to_one_pixel():
    plain, moved = Digits(), Digits(augment=True)
    margin = torch.nn.functional.pad(plain.images[3], (1, 1, 1, 1))
    shifts = {margin[:, y : y + 8, x : x + 8].numpy().tobytes() for y in range(3) for x in range(3)}
    torch.manual_seed(0)
    seen = {moved[3]["input"].numpy().tobytes() for _ in range(100)}
    assert seen == shifts
    assert moved[3]["input"].shape == (1, 8, 8)


def test_augmentation_follows_the_global_generator():
    moved = Digits(augment=True)

    def draw(seed):
        torch.manual_seed(seed)
        return torch.stack([moved[index]["input"] for index in range(20)])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_without_augmentation_no_random_number_is_drawn():
    dataset = Digits()
    before = torch.get_rng_state()
    _ = dataset[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_indices_are_those_of_a_sequence():
    dataset = Digits(samples_per_class=1)
    assert torch.equal(dataset[-1]["input"], dataset[9]["input"])
    with pytest.raises(IndexError):
        dataset[10]


def test_batches_and_pickling():
    dataset = pickle.loads(pickle.dumps(Digits(samples_per_class=2)))
    (batch,) = DataLoader(dataset, batch_size=20)
    assert batch["input"].shape == (20, 1, 8, 8)
    assert torch.equal(batch["target"], dataset.targets)
