import pickle
import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kd_plugin_text.corpus import Corpus
from kd_plugin_text.dataset import TextBytes
from torch.utils.data import DataLoader

from kdcore.errors import DataError


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
        return str(path)

    return write


def valid(sample):
    count = int(sample["mask"].sum())
    return sample["input"][:count].tolist(), sample["target"][:count].tolist()


def test_a_sample_is_bytes_and_the_bytes_that_follow(write):
    dataset = TextBytes([write("a.txt", b"abcdefghij")], split_by="position", length=4)
    sample = dataset[0]
    assert {key: (tuple(value.shape), value.dtype) for key, value in sample.items()} == {
        "input": ((4,), torch.int64),
        "target": ((4,), torch.int64),
        "mask": ((4,), torch.bool),
    }
    assert bytes(sample["input"].tolist()) == b"abcd"
    assert bytes(sample["target"].tolist()) == b"bcde"
    assert sample["mask"].tolist() == [True] * 4


def test_the_last_block_is_padded(write):
    dataset = TextBytes([write("a.txt", b"abcdefghij")], split_by="position", length=4)
    assert len(dataset) == 2  # train holds the eight bytes up to h
    sample = dataset[1]
    assert sample["input"].tolist() == [*b"efg", 0]
    assert sample["target"].tolist() == [*b"fgh", -100]
    assert sample["mask"].tolist() == [True, True, True, False]


def test_blocks_never_cross_files(write):
    files = [write("a.txt", bytes(range(30))), write("b.txt", bytes(range(100, 130)))]
    dataset = TextBytes(files, split_by="position", length=5)
    for sample in dataset:
        inputs, targets = valid(sample)
        assert [byte + 1 for byte in inputs] == targets


@given(
    pieces=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    length=st.integers(1, 12),
    stride=st.integers(1, 15),
)
def test_blocks_cover_every_pair_of_bytes_once(pieces, length, stride):
    text = bytearray(byte for size in pieces for byte in range(size))
    ends = torch.tensor(pieces).cumsum(0).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Corpus, "read", classmethod(lambda cls, *_: cls(text, ends)))
        dataset = TextBytes(length=length, stride=stride)
    found = [tuple(valid(sample)[0]) for sample in dataset]
    expected = []
    for size in pieces:
        start = 0
        while start < size - 1:
            expected.append(tuple(range(size - 1)[start : start + length]))
            if start + length >= size - 1:
                break
            start += stride
    assert found == expected


def test_limit_spreads_over_the_text(write):
    files = [write(f"{name}.txt", name.encode() * 101) for name in "abcde"]
    whole = TextBytes(files, split_by="position", length=8)
    few = TextBytes(files, split_by="position", length=8, limit=5)
    assert [chr(few[index]["input"][0]) for index in range(5)] == list("abcde")
    assert len(TextBytes(files, split_by="position", length=8, limit=10**6)) == len(whole) == 50


def test_indices_are_those_of_a_sequence(write):
    dataset = TextBytes([write("a.txt", bytes(range(100)))], split_by="position", length=10)
    assert torch.equal(dataset[-1]["input"], dataset[len(dataset) - 1]["input"])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_input_and_target_share_no_memory(write):
    dataset = TextBytes([write("a.txt", bytes(range(100)))], split_by="position", length=10)
    sample = dataset[0]
    sample["input"].zero_()
    assert sample["target"].tolist() == list(range(1, 11))
    assert dataset[0]["input"].tolist() == list(range(10))


def test_position_gives_every_file_to_every_split(write):
    files = [write("a.txt", bytes(range(100))), write("b.txt", bytes(range(100, 200)))]
    text = {split: bytes(TextBytes(files, split, "position").text) for split in ("train", "val", "test")}
    assert text["train"] == bytes([*range(80), *range(100, 180)])
    assert text["val"] == bytes([*range(80, 90), *range(180, 190)])
    assert text["test"] == bytes([*range(90, 100), *range(190, 200)])


def test_file_gives_whole_files_by_their_names(write):
    # The numbers are the checksums of the names modulo ten: they say the split on every machine.
    names = {f"{number}.txt": number for number in range(60)}
    files = [write(name, bytes([number] * 3)) for name, number in names.items()]
    members = {split: set(TextBytes(files, split).text.tolist()) for split in ("train", "val", "test")}
    assert sorted(number for part in members.values() for number in part) == list(range(60))
    assert len(members["train"]) > 30
    assert sorted(members["val"]) == [9, 19, 30, 35, 36, 43]
    assert sorted(members["test"]) == [10, 12, 17, 20, 21, 23, 50, 53]


def test_the_folder_does_not_decide_the_split(write):
    first = [write(f"one/{number}.txt", bytes([number] * 3)) for number in range(30)]
    second = [write(f"two/{number}.txt", bytes([number] * 3)) for number in range(30)]
    assert TextBytes(first, "val").text.tolist() == TextBytes(second, "val").text.tolist()


def test_globs_are_sorted_and_leave_out_empty_files(write, tmp_path):
    for name in ("b", "a", "c"):
        write(f"{name}.txt", name.encode() * 20)
    write("empty.txt", b"")
    write("inner/d.txt", b"d" * 20)
    dataset = TextBytes([str(tmp_path / "*.txt")], split_by="position")
    assert bytes(dataset.text) == b"a" * 16 + b"b" * 16 + b"c" * 16
    deep = TextBytes([str(tmp_path / "**" / "*.txt"), str(tmp_path / "a.txt")], split_by="position")
    assert bytes(deep.text) == b"a" * 16 + b"b" * 16 + b"c" * 16 + b"d" * 16


def test_by_default_the_text_is_the_standard_library():
    splits = {split: TextBytes(split=split) for split in ("train", "val", "test")}
    folder = Path(sysconfig.get_paths()["stdlib"])
    sizes = [path.stat().st_size for path in folder.glob("*.py")]
    assert sum(len(dataset.text) for dataset in splits.values()) == sum(size for size in sizes if size > 1)
    assert len(splits["train"].text) > len(splits["val"].text) > 0
    assert len(splits["test"].text) > 0
    dataset = splits["test"]
    counts = {int(dataset[index]["mask"].sum()) for index in range(0, len(dataset), 7)}
    assert max(counts) == 64


def test_two_readings_are_equal():
    first, second = TextBytes(split="val", limit=50), TextBytes(split="val", limit=50)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_batches_and_pickling(write):
    dataset = TextBytes([write("a.txt", bytes(range(100)))], split_by="position", length=10)
    (batch,) = DataLoader(pickle.loads(pickle.dumps(dataset)), batch_size=20)
    assert batch["input"].shape == batch["target"].shape == batch["mask"].shape == (8, 10)
    assert int(batch["mask"].sum()) == 79
    assert torch.equal(batch["mask"], batch["target"] != -100)


def test_what_a_dataset_tells_the_core():
    assert TextBytes.num_classes == 256
    assert TextBytes.rows_per_sample == 1
    assert TextBytes.random is False


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no file matches '.*none.txt'\n *give the path of a text file or a glob"):
        TextBytes([str(tmp_path / "none.txt")])


def test_an_empty_file_is_an_error(write):
    good, empty = write("a.txt", b"abcdef"), write("empty.txt", b"")
    with pytest.raises(DataError, match=r"the file '.*empty.txt' has no text\n *name a file of two bytes or more"):
        TextBytes([good, empty])


def test_a_split_without_text_is_an_error(write):
    with pytest.raises(DataError, match=r"none of 1 file has text for the split 'val' .*\n *give more files"):
        TextBytes([write("a.txt", b"abcdef")], "val")
    with pytest.raises(DataError, match=r"none of 1 file has text for the split 'test' .*\n *give longer files"):
        TextBytes([write("a.txt", b"abcdef")], "test", "position")


def test_unknown_words_and_impossible_sizes():
    with pytest.raises(DataError, match=r"text_bytes has no split 'training'\n *did you mean 'train'"):
        TextBytes(split="training")
    with pytest.raises(DataError, match=r"text_bytes has no split_by 'files'\n *did you mean 'file'"):
        TextBytes(split_by="files")
    for name in ("length", "stride", "limit"):
        with pytest.raises(ValueError, match=f"{name} must be 1 or more, found 0"):
            TextBytes(**{name: 0})
