import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kd_plugin_transformers import tokens as tokens_module
from kd_plugin_transformers.corpus import read_texts
from kd_plugin_transformers.text import HFText
from torch.utils.data import DataLoader

from kdcore.errors import DataError

from .conftest import WORDS

BYTES = {"type": "bytes"}


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    return written


def text_of(dataset):
    return bytes(dataset.ids.astype("uint8")).decode()


def test_a_sample(write):
    dataset = HFText(BYTES, [write("a.txt", "abcdefghij")], split="all", block_size=4)
    first, last = dataset[0], dataset[2]
    assert {key: (value.shape, value.dtype) for key, value in first.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), ((4,), torch.int64)
    )
    assert bytes(first["input_ids"].tolist()) == b"abcd" == bytes(first["labels"].tolist())
    assert last["input_ids"].tolist() == [*b"ij", 0, 0]
    assert last["attention_mask"].tolist() == [1, 1, 0, 0]
    assert last["labels"].tolist() == [*b"ij", -100, -100]
    last["input_ids"].zero_()
    assert dataset[2]["labels"].tolist() == [*b"ij", -100, -100]


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4), block=st.integers(2, 12))
def test_blocks_cover_every_text_once_and_cross_none(sizes, block):
    texts = [chr(ord("a") + number) * size for number, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd_plugin_transformers.text.read_texts", lambda *_: texts)
        if max(sizes) < 2:
            with pytest.raises(DataError, match="no text of two tokens or more"):
                HFText(BYTES, block_size=block)
            return
        dataset = HFText(BYTES, block_size=block)
    found = []
    for sample in dataset:
        ids = sample["labels"][sample["labels"] != -100].tolist()
        assert len(set(ids)) == 1
        assert len(ids) == int(sample["attention_mask"].sum()) > 1
        found.append(len(ids))
    expected = [min(block, size - start) for size in sizes if size > 1 for start in range(0, size, block)]
    assert found == [count for count in expected if count > 1]


def test_limit_spreads_over_the_text_and_indices_are_a_sequences(write):
    files = [write(f"{name}.txt", name * 100) for name in "abcde"]
    few = HFText(BYTES, files, split="all", block_size=10, limit=5)
    assert [chr(few[index]["input_ids"][0]) for index in range(5)] == list("abcde")
    assert torch.equal(few[-1]["input_ids"], few[4]["input_ids"])
    with pytest.raises(IndexError):
        few[5]


def test_files_are_split_by_their_names(write):
    # The splits follow from checksums of the names: they are the same on every machine.
    files = [write(f"{number}.txt", chr(200 + number) * 2) for number in range(60)]
    members = {
        split: {ord(each) - 200 for each in "".join(read_texts(files, split, "file"))}
        for split in ("train", "val", "test")
    }
    assert sorted(members["val"]) == [9, 19, 30, 35, 36, 43]
    assert sorted(members["test"]) == [10, 12, 17, 20, 21, 23, 50, 53]
    assert sorted(set().union(*members.values())) == list(range(60))


def test_position_gives_every_file_to_every_split(write):
    files = [write("a.txt", "a" * 80 + "b" * 10 + "c" * 10), write("b.txt", "d" * 8 + "ef")]
    splits = {split: HFText(BYTES, files, split, "position", block_size=2) for split in ("train", "val")}
    assert text_of(splits["train"]) == "a" * 80 + "d" * 8
    assert text_of(splits["val"]) == "b" * 10, "a single token predicts nothing"


def test_folders_and_globs(write, tmp_path):
    for name in ("b.txt", "a.txt", "inner/c.txt"):
        write(name, name[-5] * 3)
    write("inner/.hidden", "hhh")
    assert text_of(HFText(BYTES, [str(tmp_path)], "all")) == "aaabbbccc"
    assert text_of(HFText(BYTES, [str(tmp_path / "*.txt"), str(tmp_path / "a.txt")], "all")) == "aaabbb"


def test_byte_pairs_are_learnt_from_the_training_split(write):
    files = [write("a.txt", "low lower lowest " * 40)]
    params = {"tokenizer": {"type": "bpe", "vocab_size": 262}, "files": files, "split_by": "position", "block_size": 8}
    train, val = HFText(**params), HFText(**params, split="val")
    assert train.num_classes == val.num_classes == 262
    assert len(val.ids) < 17 * 4
    tokens_module._known.clear()
    again = HFText(**params, split="val")
    assert again.ids.tolist() == val.ids.tolist()
    assert len(HFText(**{**params, "tokenizer": {"type": "bpe", "vocab_size": 256}}).ids) == 17 * 40 * 8 // 10


def test_a_local_tokenizer(write, tokenizer):
    dataset = HFText(tokenizer, [write("a.txt", "the cat sat on a bird")], "all", block_size=8)
    words = [WORDS.index(word) for word in ["the", "cat", "sat", "on", "a"]]
    assert dataset.num_classes == len(WORDS)
    assert dataset[0]["input_ids"].tolist() == [*words, WORDS.index("[UNK]"), 0, 0]


def test_the_standard_library_is_the_default():
    dataset = HFText(BYTES, split="test", limit=7)
    assert len(dataset) == 7
    assert len(dataset.ids) > 100_000


def test_batches_workers_and_what_the_core_is_told(write):
    dataset = HFText(BYTES, [write("a.txt", "abcdefgh" * 10)], "all", block_size=10)
    loader = DataLoader(pickle.loads(pickle.dumps(dataset)), batch_size=8)
    assert next(iter(loader))["input_ids"].shape == (8, 10)
    assert (dataset.num_classes, dataset.rows_per_sample, dataset.random) == (256, 1, False)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"files": ["none.txt"]}, "no file matches 'none.txt'\n *give a text file, a folder or a glob"),
        ({"files": ["latin.txt"]}, "'latin.txt' is no UTF-8 text: byte 3 is 0xe9\n *convert it to UTF-8"),
        ({"files": ["short.txt"]}, "the split 'all' has no text of two tokens"),
        ({"files": ["plain.txt"], "split": "test"}, r"none of 1 file has text for the split 'test' \(split_by: file\)"),
        ({"tokenizer": "gpt2"}, "no folder 'gpt2' .*nothing is downloaded\n *.*hf download gpt2"),
        ({"tokenizer": "empty"}, "the folder 'empty' has no tokenizer; it is empty\n *it needs tokenizer.json"),
        ({"tokenizer": "broken"}, "the tokenizer in 'broken' cannot be loaded"),
    ],
)
def test_what_is_missing_or_unreadable(params, match, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("latin.txt", "caf\u00e9 ".encode("latin-1") + b"x")
    write("short.txt", "a")
    write("plain.txt", "a plain text")
    write("broken/tokenizer.json", "{")
    (tmp_path / "empty").mkdir()
    given = {"tokenizer": BYTES, "files": ["plain.txt"], "split": "all", **params}
    with pytest.raises(DataError, match=match):
        HFText(**given)


@pytest.mark.parametrize(("name", "least"), [("block_size", 2), ("limit", 1)])
def test_impossible_sizes(name, least):
    with pytest.raises(ValueError, match=f"{name} must be {least} or more, found 0"):
        HFText(BYTES, **{name: 0})
