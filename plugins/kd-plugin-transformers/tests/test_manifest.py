import json
import subprocess
import sys

import jsonschema_rs
import pytest
from kd_plugin_transformers import datasets, models
from kd_plugin_transformers.vocabulary import Vocabulary

from kdcore.component import Kind
from kdcore.plugins import registry

from .conftest import WORDS, save_tokenizer

TOKENIZER = {"tokenizer": {"type": "bytes"}}


def test_what_is_offered():
    assert [each.name for each in (*models(), *datasets())] == ["hf_model", "hf_text", "hf_text_classification"]


def test_listing_and_checking_import_neither_torch_nor_transformers(tmp_path):
    folder = save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 8}))
    (tmp_path / "model.safetensors").touch()
    params = {
        "path": folder,
        "config": None,
        "tokenizer": {"type": "bytes"},
        "attn_implementation": None,
        "output_attentions": False,
        "allow_new": [],
    }
    code = (
        "import sys, kd_plugin_transformers as plugin\n"
        "from kdcore.component import CheckContext\n"
        "(model,), sets = plugin.models(), plugin.datasets()\n"
        f"assert len(list(model.check({params}, CheckContext()))) == 2\n"
        "assert all(list(each.check({'tokenizer': 'gpt2'}, CheckContext())) for each in sets)\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("kind", "name", "params", "valid"),
    [
        (Kind.MODEL, "hf_model", {"path": "here", "task": "base"}, True),
        (Kind.MODEL, "hf_model", {"task": "banana"}, False),
        (Kind.MODEL, "hf_model", {"dtype": "float8"}, False),
        (Kind.MODEL, "hf_model", {"tokenizer": {"type": "bpe"}}, False),
        (Kind.DATASET, "hf_text", TOKENIZER, True),
        (Kind.DATASET, "hf_text", {"tokenizer": {"type": "bpe", "vocab_size": 300}}, True),
        (Kind.DATASET, "hf_text", {"tokenizer": {"type": "bpe", "vocab_size": 255}}, False),
        (Kind.DATASET, "hf_text", {}, False),
        (Kind.DATASET, "hf_text", {**TOKENIZER, "block_size": 1}, False),
        (Kind.DATASET, "hf_text_classification", TOKENIZER, False),
        (Kind.DATASET, "hf_text_classification", {**TOKENIZER, "file": "a.csv", "classes": ["one"]}, False),
        (Kind.DATASET, "hf_text_classification", {**TOKENIZER, "file": "a.csv", "classes": ["one", 2]}, True),
    ],
)
def test_schemas(kind, name, params, valid):
    assert jsonschema_rs.is_valid(registry().find(kind, name).schema, params) is valid


def ids(folder):
    found = Vocabulary.in_folder(str(folder))
    return found and found.ids


def test_vocabularies_are_read_from_every_usual_file(tmp_path):
    whole = {word: number for number, word in enumerate(WORDS)}
    assert ids(save_tokenizer(tmp_path / "json")) == whole
    unigram = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": [{"id": 2, "content": "<s>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(unigram))
    assert ids(tmp_path) == {"a": 0, "b": 1, "<s>": 2}
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("x\ny\n")
    assert ids(tmp_path) == {"x": 0, "y": 1}
    (tmp_path / "vocab.json").write_text('{"z": 0}')
    (tmp_path / "added_tokens.json").write_text('{"<s>": 5}')
    assert ids(tmp_path) == {"z": 0, "<s>": 5}
    assert Vocabulary.in_folder(str(tmp_path)).size == 6
    assert ids(tmp_path / "none") is None


def test_what_differs_between_vocabularies():
    one, two = Vocabulary("one", {"a": 0, "b": 1, "c": 2}), Vocabulary("two", {"b": 0, "a": 1, "d": 2})
    assert (
        one.difference(two)
        == "2 tokens have other ids ('a' is 0 and 1, 'b' is 1 and 0); 1 are only in one ('c'); 1 are only in two ('d')"
    )
    assert one.digest != two.digest
    assert one.difference(one) == ""
    assert one.digest == Vocabulary("three", {"c": 2, "b": 1, "a": 0}).digest
