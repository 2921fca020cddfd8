import copy
import json
import logging
import pickle

import pytest
import torch
from kd_plugin_transformers.model import TASKS
from transformers import GPT2LMHeadModel

from kdcore.component import Kind
from kdcore.errors import ConfigError, WeightsError, WiringError
from kdcore.plugins import registry

from .conftest import GPT2, LLAMA, WORDS, build, save_model, save_tokenizer, tokens

BERT = {
    "model_type": "bert",
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "vocab_size": 64,
}
VIT = {**BERT, "model_type": "vit", "image_size": 8, "patch_size": 4}
del VIT["vocab_size"]


@pytest.mark.parametrize(
    ("task", "config", "shape"),
    [
        ("causal_lm", GPT2, (2, 6, 64)),
        ("causal_lm", LLAMA, (2, 6, 64)),
        ("masked_lm", BERT, (2, 6, 64)),
        ("sequence_classification", {**BERT, "num_labels": 5}, (2, 5)),
        ("token_classification", {**BERT, "num_labels": 3}, (2, 6, 3)),
        ("image_classification", {**VIT, "num_labels": 4}, (2, 4)),
    ],
)
def test_a_model_by_its_config(task, config, shape):
    model = build(config=config, task=task)
    given = {"pixel_values": torch.rand(2, 3, 8, 8)} if config["model_type"] == "vit" else {"input_ids": tokens()}
    output = model(**given)
    assert output.logits.shape == shape
    assert set(output) == {"logits"}, "nothing that costs memory and was not asked for"
    assert not getattr(model.config, "use_cache", False)
    output.logits.sum().backward()


def test_base_has_no_head():
    assert build(config=BERT, task="base")(input_ids=tokens()).last_hidden_state.shape == (2, 6, 16)


def test_the_seed_decides_the_weights():
    def made():
        torch.manual_seed(3)
        return build(config=GPT2).state_dict()

    first, second = made(), made()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(
        first["transformer.h.0.attn.c_attn.weight"], build(config=GPT2).transformer.h[0].attn.c_attn.weight
    )


def test_hidden_states_attentions_and_cache():
    model = build(config=LLAMA, output_hidden_states=True, output_attentions=True, use_cache=True)
    assert model.config._attn_implementation == "eager"
    output = model(input_ids=tokens())
    assert [each.shape for each in output.hidden_states] == [(2, 6, 16)] * 3
    assert [each.shape for each in output.attentions] == [(2, 2, 6, 6)] * 2
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(2, 2, 6))
    assert output.past_key_values is not None


def test_attention_implementation_and_dtype():
    model = build(config=GPT2, attn_implementation="eager", dtype="bfloat16")
    assert (model.config._attn_implementation, model.dtype) == ("eager", torch.bfloat16)
    assert build(config=GPT2).dtype == build(config=GPT2, dtype="auto").dtype == torch.float32


def test_tied_weights_are_one_parameter():
    model = build(config=GPT2)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert build(config={**GPT2, "tie_word_embeddings": False}).lm_head.weight is not model.transformer.wte.weight


def test_a_local_folder(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = save_model(tmp_path, dtype="bfloat16")
    second = build(path=str(tmp_path))
    assert type(second) is GPT2LMHeadModel
    assert (second.dtype, build(path=str(tmp_path), dtype="auto").dtype) == (torch.float32, torch.bfloat16)
    assert all(torch.equal(value.float(), second.state_dict()[key]) for key, value in first.state_dict().items())
    assert [each.levelname for each in caplog.records if "loaded 29 of 29 tensors" in each.message] == ["INFO"] * 2


def test_keys_of_a_folders_config_can_be_changed(saved, caplog):
    model = build(path=str(saved), config={"n_layer": 1, "resid_pdrop": 0.0})
    assert len(model.transformer.h) == 1
    assert model.config.resid_pdrop == 0
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "in the files, but not in the model: transformer.h.1." in record.message


def test_a_key_that_only_the_file_has(saved):
    file = saved / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "of_its_own": 1}))
    assert build(path=str(saved), config={"of_its_own": 2}).config.of_its_own == 2
    with pytest.raises(
        WiringError, match=r"the config in '.*saved' has no key 'of_its_owns'\n *did you mean 'of_its_own'"
    ):
        build(path=str(saved), config={"of_its_owns": 2})


def test_weights_are_never_random_unless_allowed(saved, caplog):
    with pytest.raises(WeightsError, match=r"would be random: score.weight is missing\n .*allow_new: \[score\]"):
        build(path=str(saved), task="sequence_classification")
    build(path=str(saved), task="sequence_classification", allow_new=["score"])
    assert "loaded 28 of 29 tensors" in caplog.text
    assert "initialised at random: score.weight" in caplog.text


def test_a_head_of_another_shape(tmp_path):
    config = {**GPT2, "num_labels": 3, "pad_token_id": 0}
    first = save_model(tmp_path, task="sequence_classification", config=config)
    params = {"path": str(tmp_path), "task": "sequence_classification", "config": {"num_labels": 7}}
    with pytest.raises(WeightsError, match=r"score.weight is \(3, 16\) in the files and \(7, 16\) in the model"):
        build(**params)
    second = build(**params, allow_new=["sco*"])
    assert second.score.weight.shape == (7, 16)
    assert second.score.weight.std() > 0
    assert torch.equal(first.transformer.wte.weight, second.transformer.wte.weight)


def test_a_width_that_the_weights_do_not_have(saved):
    with pytest.raises(WeightsError, match=r"do not fit GPT2LMHeadModel.*\(28 in all\)\n *check task: and config:"):
        build(path=str(saved), config={"n_embd": 32})


def test_a_truncated_file(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"weights in '.*saved' cannot be loaded: .*\n *the files may be truncated"):
        build(path=str(saved))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({}, "it needs a path: to a local folder, or a config: with a model_type"),
        ({"config": {"n_layer": 2}}, "it needs a path: to a local folder, or a config: with a model_type"),
        ({"config": {"model_type": "gpt3"}}, "transformers has no model_type 'gpt3'\n *did you mean .*'gpt2'"),
        ({"config": {**GPT2, "n_layers": 2}}, "config of 'gpt2' has no key 'n_layers'\n *did you mean 'n_layer'"),
        ({"config": {**GPT2, "torch_dtype": "float16"}}, "has no key 'torch_dtype'"),
        ({"config": {**GPT2, "use_cache": False}}, "use_cache is a param of its own: write it beside config:"),
        ({"config": VIT, "task": "causal_lm"}, "no causal_lm for the model_type 'vit'\n *it has base, image_class"),
        ({"config": GPT2, "allow_new": ["score"]}, "allow_new is for weights that a path: lacks"),
        (
            {"config": GPT2, "output_attentions": True, "attn_implementation": "sdpa"},
            "attentions exist as tensors only where attn_implementation is eager, found 'sdpa'",
        ),
        (
            {"config": GPT2, "tokenizer": {"type": "bytes"}},
            r"makes ids up to 255, but the model has rows for 0 to 63 \(vocab_size 64\): it needs a vocab_size of 256",
        ),
        ({"path": "gpt2"}, "no folder 'gpt2' .*nothing is downloaded; .*hf download gpt2 --local-dir models/gpt2"),
        ({"path": "openai/gpt2"}, "hf download openai/gpt2 --local-dir models/gpt2, then write models/gpt2"),
    ],
)
def test_params_that_cannot_be(params, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WiringError, match=match):
        build(**params)


def test_a_default_vocabulary_counts_too():
    config = {key: value for key, value in LLAMA.items() if key != "vocab_size"}
    with pytest.raises(ConfigError, match="vocab_size"):
        build(config=config, tokenizer={"type": "bpe"})
    assert build(config=config, tokenizer={"type": "bytes"}).config.vocab_size == 32000


def test_unknown_keys_of_an_inner_config():
    text = {key: value for key, value in GPT2.items() if key != "model_type"}
    with pytest.raises(WiringError, match="text_config of the config of 'clip' has no key 'n_layer'"):
        build(config={"model_type": "clip", "text_config": text}, task="base")


def test_a_folder_with_something_missing(saved, tmp_path):
    with pytest.raises(WiringError, match=r"there is no folder '.*saved2' .*did you mean 'saved'"):
        build(path=f"{saved}2")
    with pytest.raises(WiringError, match=r"model.safetensors' is a file; name the folder"):
        build(path=str(saved / "model.safetensors"))
    (saved / "model.safetensors").rename(saved / "other.safetensors")
    with pytest.raises(
        WiringError, match=r"lacks weights: there is no model.safetensors or pytorch_model.bin; it holds"
    ):
        build(path=str(saved))
    (saved / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "other.safetensors", "b": "b.safetensors"}}'
    )
    with pytest.raises(WiringError, match=r"lacks weights: there is no b.safetensors"):
        build(path=str(saved))
    (saved / "config.json").rename(saved / "adapter_config.json")
    with pytest.raises(WiringError, match=r"holds an adapter \(PEFT\), not a whole model"):
        build(path=str(saved))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WiringError, match=r"has no config.json; it is empty"):
        build(path=str(tmp_path / "empty"))


def test_code_in_a_folder_is_never_run(saved):
    config = {
        **json.loads((saved / "config.json").read_text()),
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own"},
    }
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(WiringError, match=r"config.json' cannot be used.*\n.*code in their folder is never run"):
        build(path=str(saved))


def test_a_shuffled_vocabulary_is_refused(saved, tmp_path):
    other = save_tokenizer(tmp_path / "other", [*WORDS[:2], *reversed(WORDS[2:])])
    with pytest.raises(WiringError, match=r"10 tokens have other ids \('then' is 2 and 11, .*must have the same ids"):
        build(path=str(saved), tokenizer=other)
    more = save_tokenizer(tmp_path / "more", [*WORDS, "bird"])
    with pytest.raises(WiringError, match=r"1 are only in the tokenizer in '.*more' \('bird'\)"):
        build(path=str(saved), tokenizer=more)
    with pytest.raises(
        WiringError, match="is to read ids of byte pairs learnt anew, but was made for the tokenizer in"
    ):
        build(path=str(saved), tokenizer={"type": "bpe", "vocab_size": 256})
    (tmp_path / "none").mkdir()
    with pytest.raises(WiringError, match="has no tokenizer; it is empty"):
        build(path=str(saved), tokenizer=str(tmp_path / "none"))


def test_a_padded_vocabulary_is_fine_and_a_short_one_is_not(tmp_path):
    save_model(tmp_path / "padded")
    build(path=str(tmp_path / "padded"), tokenizer=save_tokenizer(tmp_path / "same"))
    save_model(tmp_path / "short", config={**GPT2, "vocab_size": 8})
    with pytest.raises(WiringError, match=r"makes ids up to 11, but the model has rows for 0 to 7"):
        build(path=str(tmp_path / "short"))


def test_two_models_must_read_the_same_tokens(tmp_path):
    save_model(tmp_path / "one")
    save_model(tmp_path / "two", [*WORDS[:2], *reversed(WORDS[2:])])
    one, same, two = (build(path=str(tmp_path / name)) for name in ("one", "one", "two"))
    ids = tokens()
    one(input_ids=ids)
    same(ids)
    with pytest.raises(WiringError, match=r"read the same ids as different tokens: .*two' and .*one' do not agree: 10"):
        two(input_ids=ids)
    two(input_ids=ids.clone())
    copy.deepcopy(two)(input_ids=ids)
    assert len(pickle.dumps(copy.deepcopy(two)._forward_pre_hooks)) < 500


def test_a_model_without_a_tokenizer_reads_anything(tmp_path):
    save_model(tmp_path, words=None)
    assert not build(path=str(tmp_path))._forward_pre_hooks
    assert not build(config=GPT2)._forward_pre_hooks


def test_the_schema_lists_the_tasks():
    schema = registry().find(Kind.MODEL, "hf_model").schema
    assert schema["properties"]["task"]["enum"] == list(TASKS)
