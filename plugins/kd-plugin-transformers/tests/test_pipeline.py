import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F
from transformers import GPT2LMHeadModel, LlamaForCausalLM

import kdcore
from kdcore.errors import AddressError, ConfigError, KdcoreError, WiringError

from .conftest import GPT2, LLAMA, WORDS, save_model, tokens

INPUTS = {"input_ids": "batch:input_ids", "attention_mask": "batch:attention_mask"}
TEACHER = {"type": "hf_model", "params": {"config": {**GPT2, "n_embd": 24}}, "inputs": INPUTS, "weights": "as_built"}
STUDENT = {"type": "hf_model", "params": {"config": GPT2}, "inputs": INPUTS}
KD = {"type": "kd", "params": {"reduction": "tokens"}, "wrapper": "causal", "inputs": {"mask": "batch:attention_mask"}}
CE = {
    "type": "cross_entropy",
    "params": {"reduction": "tokens"},
    "wrapper": "causal",
    "inputs": {"input": "student", "target": "batch:labels"},
}


def batch(rows=2, length=6):
    ids = tokens(rows, length)
    mask = torch.arange(length) < torch.tensor([[length]] * (rows - 1) + [[length - 2]])
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.where(mask, -100)}


def config(losses, *, student=STUDENT, teacher=TEACHER, **more):
    stage = {"name": "distil", "train": ["student", *more.get("adapters", {})], "losses": losses}
    return {"version": 1, "models": {"student": student, "teacher": teacher}, **more, "stages": [stage]}


def objective(losses, **more):
    text = json.dumps(config(losses, **more), indent=1)
    return kdcore.build_objective(text, models={}, example_batch=batch())


def hidden(student, teacher):
    return {
        "losses": {"hidden": {"type": "mse", "inputs": {"input": "proj", "target": teacher}}},
        "adapters": {"proj": {"type": "linear", "inputs": {"x": student}, "like": teacher}},
    }


def test_logits_are_compared_where_there_is_a_next_token():
    built = objective({"ce": CE, "kd": KD})
    given = batch()
    teacher, student = (built.export_student(name) for name in ("teacher", "student"))
    built.eval()
    teacher.eval(), student.eval()
    logits = {
        name: model(given["input_ids"], attention_mask=given["attention_mask"]).logits.double()
        for name, model in (("teacher", teacher), ("student", student))
    }
    counted = given["attention_mask"][:, 1:].bool()
    p, q = (logits[name][:, :-1][counted] for name in ("teacher", "student"))
    expected = F.kl_div(F.log_softmax(q / 4, -1), F.log_softmax(p / 4, -1), log_target=True, reduction="sum") * 16
    terms = built(given).terms
    torch.testing.assert_close(terms["kd"].double(), expected / counted.sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        terms["ce"].double(), F.cross_entropy(q, given["input_ids"][:, 1:][counted]), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        student(**given).loss.double(), terms["ce"].double(), rtol=1e-5, atol=1e-6, msg="the model's own loss"
    )


@pytest.mark.parametrize(
    ("model", "student", "teacher"),
    [
        (GPT2, "student:transformer.h.1", "teacher:transformer.h.1"),
        (GPT2, "student:transformer.h.0.attn#0", "teacher:transformer.h.0.mlp"),
        (GPT2, "student:lm_head@input", "teacher:transformer.ln_f@input"),
        (LLAMA, "student:model.layers.1", "teacher:transformer.h.1"),
        (LLAMA, "student:model.layers.0.self_attn#0", "teacher:transformer.h.0.attn#0"),
        (LLAMA, "student:model.norm", "teacher:transformer.h.0.ln_1"),
    ],
)
def test_addresses_of_layers(model, student, teacher):
    built = objective(**hidden(student, teacher), student={**STUDENT, "params": {"config": model}})
    built(batch()).total.backward()
    gradients = [each.grad for _, each in built.named_trainable()]
    assert any(each is not None and each.abs().sum() > 0 for each in gradients)
    assert all(each.grad is None for each in built.export_student("teacher").parameters())


@pytest.mark.parametrize(
    ("student", "match"),
    [
        ("student:transformer.h.1#0", r"'#0' looks into a tensor of shape \(2, 6, 16\)"),
        ("student:transformer.h.2", "has no module 'transformer.h.2'\n *did you mean .*'transformer.h.1'"),
    ],
)
def test_wrong_addresses(student, match):
    with pytest.raises(KdcoreError, match=match):
        objective(**hidden(student, "teacher:transformer.h.1"))


def test_attention_weights_of_one_layer():
    student = {**STUDENT, "params": {"config": GPT2, "attn_implementation": "eager"}}
    teacher = {**TEACHER, "params": {"config": GPT2, "attn_implementation": "eager"}}
    inputs = {"input": "student:transformer.h.0.attn#1", "target": "teacher:transformer.h.1.attn#1"}
    built = objective({"attention": {"type": "mse", "inputs": inputs}}, student=student, teacher=teacher)
    assert built(batch()).terms["attention"] > 0


def test_named_outputs():
    params = {"output_hidden_states": True, "output_attentions": True}
    both = {
        "student": {**STUDENT, "params": {**STUDENT["params"], **params}},
        "teacher": {**TEACHER, "params": {**TEACHER["params"], **params}},
    }
    losses = {
        "attention": {"type": "mse", "inputs": {"input": "student#attentions#1", "target": "teacher#attentions#0"}},
        "hidden": {"type": "mse", "inputs": {"input": "proj", "target": "teacher#hidden_states#2"}},
    }
    proj = {"type": "linear", "inputs": {"x": "student#hidden_states#0"}, "like": "teacher#hidden_states#2"}
    built = objective(losses, adapters={"proj": proj}, **both)
    out = built(batch())
    assert all(value > 0 for value in out.terms.values())
    out.total.backward()


def test_the_models_own_loss_becomes_a_term():
    student = {**STUDENT, "inputs": {**INPUTS, "labels": "batch:labels"}, "output": "model_losses"}
    built = objective({"kd": KD}, student=student)
    assert set(built(batch()).terms) == {"kd", "student.loss"}


def test_a_frozen_teacher_in_bfloat16():
    teacher = {**TEACHER, "params": {**TEACHER["params"], "dtype": "bfloat16"}}
    pair = hidden("student:transformer.h.1", "teacher:transformer.h.1")
    built = objective({"kd": KD, **pair["losses"]}, adapters=pair["adapters"], teacher=teacher)
    whole = objective({"kd": KD, **pair["losses"]}, adapters=pair["adapters"])
    built.eval(), whole.eval()
    given = batch()
    out, expected = built(given), whole(given)
    assert {value.dtype for value in out.terms.values()} == {torch.float32}
    torch.testing.assert_close(out.terms["kd"], expected.terms["kd"], rtol=0.05, atol=1e-3)
    built.train()(given).total.backward()


def test_a_base_model_and_its_last_hidden_state():
    bases = {
        name: {
            **model,
            "params": {**model["params"], "task": "base"},
            "output": {"type": "item", "params": {"key": "last_hidden_state"}},
        }
        for name, model in (("student", STUDENT), ("teacher", {**TEACHER, **STUDENT, "weights": "as_built"}))
    }
    built = objective({"hidden": {"type": "mse", "inputs": {"input": "student", "target": "teacher"}}}, **bases)
    assert built(batch()).terms["hidden"] > 0


def test_a_teacher_stops_at_its_last_address():
    built = objective(**hidden("student:transformer.h.0", "teacher:transformer.h.0"))
    teacher, ran = built.export_student("teacher"), []
    for name, module in built._nodes["teacher"].module.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    built(batch())
    assert "transformer.h.0.mlp" in ran
    assert {"transformer.h.1", "transformer.ln_f", "lm_head"} & set(ran) == set()
    # What transformers keeps during a pass is cleared when it stops, so the next whole pass is as any other.
    whole = built._nodes["teacher"].module(**batch(), output_hidden_states=True)
    torch.testing.assert_close(whole.logits, teacher.eval()(**batch()).logits)
    assert len(whole.hidden_states) == 3


def test_a_stop_inside_recorded_outputs():
    params = {"config": LLAMA, "output_hidden_states": True, "output_attentions": True}
    teacher = {**TEACHER, "params": params}
    built = objective(**hidden("student:transformer.h.0", "teacher:model.layers.0"), teacher=teacher)
    first = built(batch()).total
    module = built._nodes["teacher"].module
    assert len(module(**batch()).hidden_states) == 3
    torch.testing.assert_close(built.eval()(batch()).total, built(batch()).total)
    assert first.isfinite()


def test_attentions_of_fused_kernels_are_an_error():
    with pytest.raises(AddressError, match="attentions"):
        objective({"a": {"type": "mse", "inputs": {"input": "student#attentions#0", "target": "teacher#attentions#0"}}})


def test_vocabularies_of_two_sizes_are_a_shape_error():
    teacher = {**TEACHER, "params": {"config": {**GPT2, "vocab_size": 70}}}
    with pytest.raises(WiringError, match="both models need the same classes or vocabulary"):
        objective({"kd": KD}, teacher=teacher)


def test_vocabularies_of_one_size_but_other_tokens_are_refused(tmp_path):
    save_model(tmp_path / "student")
    save_model(tmp_path / "teacher", [*WORDS[:2], *reversed(WORDS[2:])])
    models = {
        name: {**model, "params": {"path": str(tmp_path / name)}}
        for name, model in (("student", STUDENT), ("teacher", TEACHER))
    }
    with pytest.raises(WiringError, match="two models read the same ids as different tokens"):
        objective({"kd": KD}, **models)


def test_every_problem_of_a_folder_is_found_without_torch(tmp_path):
    data = config({"kd": KD}, teacher={**TEACHER, "params": {"path": "openai/gpt2"}})
    with pytest.raises(ConfigError, match=r"models.teacher.params.path.*nothing is downloaded; .*hf download"):
        kdcore.load_config(write(tmp_path, data))


def test_an_exported_student_is_the_plain_class():
    built = objective({"ce": CE, "kd": KD})
    student = built.export_student()
    assert type(student) is GPT2LMHeadModel
    assert student.lm_head.weight is student.transformer.wte.weight
    assert not [
        hook
        for module in student.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


def write(folder, data):
    file = folder / "config.yaml"
    file.write_text(json.dumps(data))
    return file


@pytest.mark.parametrize(
    ("model", "cls"), [(GPT2, GPT2LMHeadModel), ({**LLAMA, "tie_word_embeddings": True}, LlamaForCausalLM)]
)
def test_a_run_with_tied_weights(tmp_path, model, cls):
    (tmp_path / "a.txt").write_text("the cat sat on the mat and then the dog ran " * 40)
    text = {
        "type": "hf_text",
        "params": {
            "tokenizer": {"type": "bytes"},
            "files": [str(tmp_path / "a.txt")],
            "split_by": "position",
            "block_size": 16,
        },
    }
    student = {**STUDENT, "params": {"config": {**model, "vocab_size": 256}, "tokenizer": {"type": "bytes"}}}
    data = config({"ce": CE, "kd": KD}, student=student, teacher={**student, "weights": "as_built"}, seed=0)
    data |= {
        "data": {
            split: {**text, "params": {**text["params"], "split": split}, "batch_size": 8} for split in ("train", "val")
        }
    }
    data |= {"output_dir": str(tmp_path / "runs"), "device": "cpu"}
    data["stages"][0] |= {
        "epochs": 2,
        "steps_per_epoch": 3,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.01}},
        "metrics": {"target": "batch:labels"},
        "best": {"metric": "val/student/accuracy"},
    }
    loaded = kdcore.load_config(write(tmp_path, data))
    first, second = (kdcore.run(loaded, quiet=True) / "student.safetensors" for _ in range(2))
    assert first.read_bytes() == second.read_bytes()
    weights = safetensors.torch.load_file(first)
    plain = cls(
        cls.config_class(**{key: value for key, value in student["params"]["config"].items() if key != "model_type"})
    )
    plain.load_state_dict(weights, strict=True)
    embedding = plain.get_input_embeddings().weight
    assert plain.lm_head.weight is embedding
    assert torch.equal(weights["lm_head.weight"], embedding)
    again = {**student, "weights": str(first)}
    reloaded = kdcore.load_config(write(tmp_path, {**data, "models": {"student": again, "teacher": again}}))
    batches = batch()
    built = kdcore.build_objective(reloaded, models={}, example_batch=batches)
    torch.testing.assert_close(built.eval()(batches).terms["kd"], torch.tensor(0.0), atol=1e-6, rtol=0)


def test_data_with_more_tokens_than_a_model_is_refused_before_training(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat " * 60)
    text = {
        "type": "hf_text",
        "params": {"tokenizer": {"type": "bytes"}, "files": [str(tmp_path / "a.txt")], "split_by": "position"},
    }
    student = {**STUDENT, "params": {"config": {**GPT2, "n_positions": 128, "vocab_size": 130}}}
    data = config({"ce": CE}, student=student, output_dir=str(tmp_path), device="cpu", data={"train": text})
    del data["models"]["teacher"]
    data["stages"][0] |= {
        "epochs": 1,
        "optimizer": {"type": "SGD", "params": {"lr": 0.1}},
        "metrics": {"target": "batch:labels"},
    }
    with pytest.raises(WiringError, match="'student' has 130 outputs, but the data set has 256 classes"):
        kdcore.run(kdcore.load_config(write(tmp_path, data)), quiet=True)


def test_the_config_of_the_documentation_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "transformers.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(version: .*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "models" / "gpt2", config={**GPT2, "n_layer": 12, "n_positions": 128})
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number}.txt").write_text("the cat sat on the mat " * 8)
    (tmp_path / "config.yaml").write_text(text)
    short = ["stages.0.epochs=1", "stages.0.steps_per_epoch=1", "device=cpu"]
    short += [f"models.student.params.config.{each}" for each in ("n_embd=16", "vocab_size=64")]
    folder = kdcore.run(kdcore.load_config(tmp_path / "config.yaml", overrides=short), quiet=True)
    assert (folder / "student.safetensors").is_file()


def test_data_of_another_tokenizer_is_refused_without_torch(tmp_path, saved):
    data = config({"ce": CE}, teacher={**TEACHER, "params": {"path": str(saved)}})
    data["data"] = {"train": {"type": "hf_text", "params": {"tokenizer": {"type": "bytes"}}}}
    with pytest.raises(ConfigError) as caught:
        kdcore.load_config(write(tmp_path, data))
    (told,) = [str(each) for each in caught.value.problems if "makes ids of" in str(each)]
    assert "models.teacher.params.path" in told
    assert (
        "data 'train' makes ids of the tokenizer {type: bytes}, but the model reads those of the tokenizer in" in told
    )
    assert "are only in" in told
    data["data"]["val"] = data["data"]["test"] = data["data"]["train"]
    with pytest.raises(ConfigError, match="data 'train', 'val' and 'test' make ids of the tokenizer") as caught:
        kdcore.load_config(write(tmp_path, data))
    assert len([each for each in caught.value.problems if "ids of" in str(each)]) == 1
    data["data"]["train"]["params"]["tokenizer"] = str(saved)
    kdcore.load_config(write(tmp_path, data), external_models=())
