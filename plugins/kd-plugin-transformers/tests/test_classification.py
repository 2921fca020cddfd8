import csv
import json

import pytest
import torch
from kd_plugin_transformers.classification import HFTextClassification
from torch.utils.data import DataLoader

from kdcore.errors import DataError

from .conftest import GPT2, WORDS, build

BYTES = {"type": "bytes"}
ROWS = [("the cat sat", "cat"), ("a dog ran", "dog"), ("the dog", "dog"), ('a "cat", and\na mat', "cat")]


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return written


@pytest.fixture
def lines(write):
    return write("rows.jsonl", "\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS) + "\n\n")


def test_samples_and_batches(lines):
    dataset = HFTextClassification(BYTES, lines)
    assert (dataset.class_names, dataset.num_classes, dataset.targets) == (["cat", "dog"], 2, [0, 1, 1, 0])
    assert bytes(dataset[2]["input_ids"].tolist()) == b"the dog"
    assert dataset[2]["labels"].shape == ()
    (batch,) = DataLoader(dataset, batch_size=4, collate_fn=dataset.collate)
    lengths = [len(text) for text, _ in ROWS]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (4, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert bytes(batch["input_ids"][1].tolist()) == b"a dog ran" + b"\0" * (max(lengths) - 9)
    assert batch["labels"].tolist() == [0, 1, 1, 0]
    assert {value.dtype for value in batch.values()} == {torch.int64}


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_tables_mean_what_json_lines_mean(lines, tmp_path, ending, delimiter):
    file = tmp_path / f"rows.{ending}"
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(
            [("kind", "sentence", "more"), *((b, a, "x") for a, b in ROWS)]
        )
    table, other = HFTextClassification(BYTES, str(file), "sentence", "kind"), HFTextClassification(BYTES, lines)
    assert table.targets == other.targets
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(table, other, strict=True))


def test_numbers_are_sorted_as_numbers_and_classes_can_be_given(write):
    file = write("a.csv", "text,label\nx,10\ny,9\nz,2\n")
    assert HFTextClassification(BYTES, file).class_names == ["2", "9", "10"]
    assert HFTextClassification(BYTES, file, classes=[10, 9, 2, 1]).targets == [0, 1, 2]
    mixed = write("b.jsonl", '{"text": "x", "label": true}\n{"text": "y", "label": false}\n{"text": "z", "label": 1}')
    assert HFTextClassification(BYTES, mixed).targets == [1, 0, 1]


def test_splits_follow_the_text(write):
    rows = [(f"text {number}", number % 2) for number in range(200)]
    file = write("a.csv", "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    sizes = {split: len(HFTextClassification(BYTES, file, split=split)) for split in ("train", "val", "test", "all")}
    assert sizes["train"] + sizes["val"] + sizes["test"] == sizes["all"] == 200
    assert sizes["train"] > 140
    shuffled = write("b.csv", "text,label\n" + "".join(f"{text},{label}\n" for text, label in reversed(rows)))
    texts = [
        {bytes(each["input_ids"].tolist()) for each in HFTextClassification(BYTES, name, split="val")}
        for name in (file, shuffled)
    ]
    assert texts[0] == texts[1]
    few = HFTextClassification(BYTES, file, limit=4)
    assert [bytes(each["input_ids"].tolist()).decode() for each in few] == ["text 0", "text 50", "text 100", "text 150"]


def test_a_local_tokenizer_and_the_longest_text(lines, tokenizer):
    dataset = HFTextClassification(tokenizer, lines, max_length=2)
    assert dataset[0]["input_ids"].tolist() == [WORDS.index("the"), WORDS.index("cat")]
    assert len(HFTextClassification({"type": "bpe", "vocab_size": 260}, lines)[0]["input_ids"]) < len(ROWS[0][0])


def test_a_model_reads_a_batch_whatever_its_padding(lines):
    torch.manual_seed(0)
    config = {**GPT2, "vocab_size": 256, "num_labels": 2, "pad_token_id": 0}
    model = build(config=config, task="sequence_classification", tokenizer=BYTES).eval()
    dataset = HFTextClassification(BYTES, lines)
    batch = dataset.collate(list(dataset))
    together = model(**batch)
    assert together.loss.isfinite()
    for index, sample in enumerate(dataset):
        alone = model(**{key: value[None] for key, value in sample.items()}).logits[0]
        torch.testing.assert_close(together.logits[index], alone)


@pytest.mark.parametrize(
    ("name", "content", "params", "match"),
    [
        ("none.csv", None, {}, "there is no file '.*none.csv' .*\n *did you mean 'one.csv'"),
        ("a.parquet", "x", {}, r"has the ending '.parquet'\n *a table ends in .csv, .tsv, .jsonl"),
        ("a.csv", "text,label\n", {}, "a.csv' has no rows"),
        ("a.csv", "text,labels\nx,1\n", {}, r"a.csv:2: there is no 'label'\n *did you mean 'labels'"),
        ("a.csv", "text,label\nx,1\ny\n", {}, "a.csv:3: 'label' holds nothing"),
        ("a.csv", 'text,label\n"x,1\n', {}, "a.csv' cannot be read: unexpected end of data"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text"\n', {}, "a.jsonl:2: no JSON: "),
        ("a.jsonl", "[1]\n", {}, "a.jsonl:1: a list, not an object"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', {}, "a.jsonl:1: 'label' holds 0.5, a float"),
        ("a.csv", "text,label\nx,1\ny,1\n", {}, "a.csv' has one class only, '1'"),
        (
            "a.csv",
            "text,label\nx,good\n",
            {"classes": ["bad", "godo"]},
            "has the class 'good'.*\n *did you mean 'godo'",
        ),
        ("a.csv", "text,label\na,1\nb,2\n", {"split": "val"}, "none of 2 rows of '.*' is in the split 'val'"),
    ],
)
def test_what_is_wrong_with_a_file(name, content, params, match, write, tmp_path):
    write("one.csv", "")
    file = str(tmp_path / name) if content is None else write(name, content)
    with pytest.raises(DataError, match=match):
        HFTextClassification(BYTES, file, **params)


def test_impossible_sizes(lines):
    with pytest.raises(ValueError, match="max_length must be 1 or more, found 0"):
        HFTextClassification(BYTES, lines, max_length=0)
