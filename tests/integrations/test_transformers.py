"""DistillationTrainer: values, accumulation, logs, evaluation, checkpoints, refusals."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, TrainingArguments

import kdcore
from kdcore.errors import WeightsError, WiringError
from kdcore.integrations.transformers import DistillationTrainer

VOCABULARY = 11
CALL = "{inputs: {input_ids: batch:input_ids, attention_mask: batch:attention_mask, use_cache: false}}"
MODELS = f"version: 1\nmodels: {{teacher: {CALL}, student: {CALL}}}\n"
CE = "ce: {type: cross_entropy, weight: 0.3, wrapper: causal, params: {reduction: tokens}, inputs: {target: batch:labels}}"
KD = "kd: {type: kd, weight: 2, wrapper: causal, params: {temperature: 2, reduction: tokens}, inputs: {mask: batch:mask}}"
LOGITS = f"{MODELS}stages:\n  - name: only\n    train: [student]\n    losses: {{{CE}, {KD}}}\n"
HINT = (
    f"{MODELS}adapters:\n"
    "  widen: {type: linear, inputs: {x: student:transformer.ln_f}, like: teacher:transformer.ln_f}\n"
    f"stages:\n  - name: only\n    train: [student, widen]\n    losses: {{{CE}, hint: {{type: mse, wrapper: masked, "
    "inputs: {input: widen, target: teacher:transformer.ln_f, mask: batch:attention_mask}}}\n"
)


def gpt2(width: int, dropout: float = 0.0) -> GPT2LMHeadModel:
    """Return a small language model."""
    torch.manual_seed(width)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=16,
            n_embd=width,
            n_layer=1,
            n_head=2,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def samples(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Return sentences of 3 to 9 tokens; the first two of each are a prompt without labels."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 10, count)
    tokens = [generator.integers(0, VOCABULARY, length).tolist() for length in lengths]
    return [{"input_ids": each, "labels": [-100, -100, *each[2:]]} for each in tokens]


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad to the longest, as Transformers' collators for language models do."""
    length = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (length - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Return arguments for a short training that writes nothing unasked."""
    usual = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(str(folder), **{**usual, **options})


def trainer(folder: Path, config: str = LOGITS, dropout: float = 0.0, **options: Any) -> DistillationTrainer:
    """Return a trainer of a small student under a small teacher."""
    own = {key: options.pop(key) for key in ("train_dataset", "eval_dataset", "compute_metrics") if key in options}
    return DistillationTrainer(
        gpt2(4, dropout),
        arguments(folder, **options),
        distillation=config,
        teacher=gpt2(8),
        data_collator=collate,
        **{"train_dataset": samples(16), "eval_dataset": samples(10, seed=1), **own},
    )


def by_hand(student: nn.Module, teacher: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return both terms of LOGITS from their definitions, position by position."""
    call = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    student, teacher = student(**call).logits, teacher(**call).logits.detach()
    ce, kd = [], []
    for row, labels in enumerate(batch["labels"].tolist()):
        for step in range(len(labels) - 1):
            if labels[step + 1] != -100:
                q, p = (each[row, step].log_softmax(-1) for each in (student, teacher))
                ce.append(-q[labels[step + 1]])
                q, p = ((each[row, step] / 2).log_softmax(-1) for each in (student, teacher))
                kd.append(4 * (p.exp() * (p - q)).sum())
    return {"ce": torch.stack(ce).mean(), "kd": torch.stack(kd).mean()}


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def logged(made: DistillationTrainer, key: str) -> list[float]:
    return [entry[key] for entry in made.state.log_history if key in entry]


def test_the_loss_is_that_of_the_definitions_with_shift_and_ignored_labels(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    batch = collate(samples(4))
    loss = made.compute_loss(made.objective, batch)
    terms = by_hand(made.model, made.objective._nodes["teacher"].module, batch)
    torch.testing.assert_close(loss, 0.3 * terms["ce"] + 2 * terms["kd"])
    torch.testing.assert_close(made.compute_loss(made.model, batch), loss)


@pytest.mark.parametrize("config", [LOGITS, HINT], ids=["logits", "hint"])
def test_accumulated_steps_equal_steps_on_big_batches(tmp_path: Path, config: str) -> None:
    config = config.replace("wrapper: masked, inputs", "inputs").replace(", mask: batch:attention_mask", "")
    together, apart = (
        trainer(
            tmp_path,
            config,
            train_dataset=even(16),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
        )
        for size, parts in ((8, 1), (2, 4))
    )
    for each in (together, apart):
        each.train()
    torch.testing.assert_close(weights(apart.objective), weights(together.objective), rtol=1e-5, atol=1e-6)
    assert logged(apart, "loss") == pytest.approx(logged(together, "loss"), rel=1e-5)
    for name in ("ce", "kd" if config.count("kd:") else "hint"):
        assert logged(apart, name) == pytest.approx(logged(together, name), rel=1e-5)
    assert not torch.allclose(weights(apart.model), weights(gpt2(4)))


def even(count: int) -> list[dict[str, list[int]]]:
    """Return sentences of one length, with uneven numbers of labels: batches of any size are padded alike."""
    generator = np.random.default_rng(3)
    tokens = generator.integers(0, VOCABULARY, (count, 8)).tolist()
    prompts = generator.integers(1, 8, count).tolist()
    return [{"input_ids": row, "labels": [-100] * n + row[n:]} for row, n in zip(tokens, prompts, strict=True)]


def test_a_mean_of_micro_batches_would_not_do(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    halves = [collate(even(8)[:4]), collate(even(8)[4:])]
    whole = made.compute_loss(made.objective, collate(even(8)))
    parts, counts = made.get_batch_samples(iter(halves), 2, torch.device("cpu"))
    exact = sum(made.compute_loss(made.objective, part, num_items_in_batch=counts) for part in parts)
    naive = sum(made.compute_loss(made.objective, part) for part in parts) / 2
    torch.testing.assert_close(exact, whole)
    assert abs(float((naive - whole).detach())) > 1e-3


def test_a_number_of_items_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    with pytest.raises(WiringError, match=r"num_items_in_batch=12(.|\n)*get_batch_samples"):
        made.compute_loss(made.objective, collate(samples(4)), num_items_in_batch=12)


def test_the_optimizer_holds_all_that_is_trained_with_the_trainers_own_decay(tmp_path: Path) -> None:
    made = trainer(tmp_path, HINT, weight_decay=0.5)
    made.train()
    decayed, plain = made.optimizer.param_groups
    held = {id(each) for group in (decayed, plain) for each in group["params"]}
    assert held == {id(each) for each in made.objective.parameters()}
    assert not held & {id(each) for each in made.objective._nodes["teacher"].module.parameters()}
    widen = made.objective.adapters["widen"]
    names = {id(each): name for name, each in widen.named_parameters()}
    assert {names[id(each)] for each in decayed["params"] if id(each) in names} == {"body.weight"}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert made.model is made.callback_handler.model


def test_evaluation_holds_the_means_of_all_positions_and_the_students_logits(tmp_path: Path) -> None:
    seen: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"hits": float((prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]).sum())}

    made = trainer(tmp_path, compute_metrics=metrics)
    found = made.evaluate()
    whole = collate(samples(10, seed=1))
    made.objective.eval()
    with torch.no_grad():
        terms = by_hand(made.model, made.objective._nodes["teacher"].module, whole)
        logits = made.model(whole["input_ids"], attention_mask=whole["attention_mask"]).logits
    assert found["eval_ce"] == pytest.approx(float(terms["ce"]), rel=1e-5)
    assert found["eval_kd"] == pytest.approx(float(terms["kd"]), rel=1e-5)
    assert found["eval_loss"] == pytest.approx(0.3 * found["eval_ce"] + 2 * found["eval_kd"], rel=1e-5)
    assert seen[0].predictions.shape == logits.shape
    real = whole["attention_mask"].bool()
    np.testing.assert_allclose(seen[0].predictions[real.numpy()], logits[real], rtol=1e-4, atol=1e-5)
    hits = (logits[:, :-1].argmax(-1) == whole["labels"][:, 1:]).sum()
    assert found["eval_hits"] == float(hits)


def test_a_pass_that_stops_early_still_gives_predictions(tmp_path: Path) -> None:
    only_hint = HINT.replace(CE + ", ", "")
    made = trainer(tmp_path, only_hint, compute_metrics=lambda prediction: {"width": prediction.predictions.shape[-1]})
    found = made.evaluate()
    assert found["eval_width"] == VOCABULARY
    assert found["eval_loss"] == pytest.approx(found["eval_hint"])


def test_prediction_needs_no_labels(tmp_path: Path) -> None:
    unlabelled = [{"input_ids": each["input_ids"]} for each in samples(5)]

    def bare(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate([{**row, "labels": row["input_ids"]} for row in rows])
        return {key: batch[key] for key in ("input_ids", "attention_mask")}

    made = trainer(tmp_path)
    made.data_collator = bare
    output = made.predict(unlabelled)
    assert output.predictions.shape[::2] == (5, VOCABULARY)
    assert output.label_ids is None
    assert "test_loss" not in output.metrics


def test_training_logs_every_term_averaged_since_the_last_log(tmp_path: Path) -> None:
    each = trainer(tmp_path, max_steps=4, logging_steps=1, learning_rate=0.0, train_dataset=even(16))
    every_second = trainer(tmp_path, max_steps=4, logging_steps=2, learning_rate=0.0, train_dataset=even(16))
    for made in (each, every_second):
        made.train()
    ones, twos = logged(each, "ce"), logged(every_second, "ce")
    assert len(ones) == 4
    rows = [even(16)[index] for index in order(16)]
    counts = [sum(label != -100 for row in rows[at : at + 4] for label in row["labels"][1:]) for at in range(0, 16, 4)]
    for index, mean in enumerate(twos):
        first, second = 2 * index, 2 * index + 1
        weighted = ones[first] * counts[first] + ones[second] * counts[second]
        assert mean == pytest.approx(weighted / (counts[first] + counts[second]), rel=1e-5)
    assert logged(each, "loss") == pytest.approx(
        [0.3 * c + 2 * k for c, k in zip(ones, logged(each, "kd"), strict=True)]
    )


def order(count: int) -> list[int]:
    """Return the order of the first epoch under the Trainer's seed."""
    from accelerate.data_loader import SeedableRandomSampler

    generator = torch.Generator().manual_seed(42)
    sampler = SeedableRandomSampler(range(count), generator=generator, data_seed=42)
    return list(sampler)


def test_checkpoints_are_plain_students_and_training_resumes_exactly(tmp_path: Path) -> None:
    options = {
        "dropout": 0.3,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "optim": "adamw_torch",
        "learning_rate": 0.01,
    }
    whole = trainer(tmp_path / "whole", HINT, **options)
    whole.train()
    folder = tmp_path / "whole" / "checkpoint-2"
    plain = GPT2LMHeadModel.from_pretrained(folder)
    assert type(plain) is GPT2LMHeadModel
    assert "teacher" not in "".join(json.loads((folder / "config.json").read_text()))
    assert set(torch.load(folder / "distillation.pt")) == {"adapters.widen.body.weight", "adapters.widen.body.bias"}
    resumed = trainer(tmp_path / "resumed", HINT, **options)
    resumed.train(resume_from_checkpoint=str(folder))
    assert torch.equal(weights(resumed.objective), weights(whole.objective))
    assert logged(resumed, "hint")[-2:] == logged(whole, "hint")[-2:]
    whole.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / "distillation.pt").exists()
    final = GPT2LMHeadModel.from_pretrained(tmp_path / "final")
    assert torch.equal(weights(final), weights(whole.model))


def test_state_that_no_checkpoint_could_give_back_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    made = trainer(tmp_path / "saving", HINT, **options)
    loss = type(made.objective.losses["hint"])
    monkeypatch.setattr(loss, "get_extra_state", lambda self: {"n": np.float64(1)}, raising=False)
    monkeypatch.setattr(loss, "set_extra_state", lambda self, state: None, raising=False)
    with pytest.raises(
        WiringError, match=r"term 'hint' \(loss 'mse' .*losses.hint._extra_state\['n'\] is of type numpy.float64"
    ):
        made.train()
    assert not made.state.log_history
    trainer(tmp_path / "not", HINT, max_steps=1).train()  # nothing is saved
    # One that was written all the same.
    monkeypatch.setattr("kdcore.integrations.rest.check_rest", lambda objective: None)
    monkeypatch.setattr("kdcore.integrations.transformers.check_rest", lambda objective: None)
    trainer(tmp_path, HINT, **options).train()
    with pytest.raises(WeightsError, match=r"distillation.pt holds what torch does not read(.|\n)*numbers, strings"):
        trainer(tmp_path, HINT, **options).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_distillation_is_refused(tmp_path: Path) -> None:
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer(tmp_path, LOGITS, **options).train()
    with pytest.raises(WeightsError, match=r"has no distillation.pt(.|\n)*adapters.widen"):
        trainer(tmp_path, HINT, **options).train(resume_from_checkpoint=True)


def test_the_best_model_comes_back_with_its_adapters(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        HINT,
        max_steps=3,
        learning_rate=0.01,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_hint",
        greater_is_better=True,
    )
    made.train()
    hints = logged(made, "eval_hint")
    assert hints[-1] < max(hints)
    assert made.evaluate()["eval_hint"] == pytest.approx(max(hints), rel=1e-5)


def test_an_entry_that_only_the_config_reads_passes_the_trainers_filter(tmp_path: Path) -> None:
    def with_goal(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {**collate(rows), "goal": torch.tensor([row["goal"] for row in rows])}

    config = HINT.replace("stages:", "  first: {type: select, inputs: {x: widen}}\nstages:")
    config = config.replace("mse, wrapper: masked, ", "mse, ").replace(", mask: batch:attention_mask", "")
    config = config.replace("{input: widen, target: teacher:transformer.ln_f}", "{input: first, target: batch:goal}")
    made = DistillationTrainer(
        gpt2(4),
        arguments(tmp_path),
        distillation=config,
        teacher=gpt2(8),
        data_collator=with_goal,
        train_dataset=[{**row, "goal": [0.5] * 8, "unread": "text"} for row in even(8)],
    )
    assert made.train().training_loss > 0
    assert "goal" in made._signature_columns


def test_a_loss_that_wants_sample_numbers_is_told_how_to_get_them(tmp_path: Path) -> None:
    config = LOGITS.replace("target: batch:labels", "target: batch:index")
    with pytest.raises(WiringError, match=r"wants batch:index(.|\n)*'input_ids'(.|\n)*column `index`"):
        trainer(tmp_path, config)


def test_an_objective_that_is_already_built_will_do(tmp_path: Path) -> None:
    student, teacher = gpt2(4), gpt2(8)
    batch = collate(samples(4))
    batch["mask"] = batch["labels"] != -100
    objective = kdcore.build_objective(LOGITS, models={"student": student, "teacher": teacher}, example_batch=batch)
    made = DistillationTrainer(
        args=arguments(tmp_path), distillation=objective, data_collator=collate, train_dataset=samples(16)
    )
    assert made.model is student
    assert made.train().training_loss > 0
    with pytest.raises(WiringError, match="not the student"):
        DistillationTrainer(gpt2(4), arguments(tmp_path), distillation=objective)


def test_any_model_with_a_head_will_do(tmp_path: Path) -> None:
    """A classifier, for which nothing is shifted."""
    config = f"{MODELS}stages:\n  - {{name: only, train: [student], losses: {{ce: {{type: cross_entropy, inputs: {{target: batch:labels}}}}, kd: kd}}}}\n"
    models = [
        GPT2ForSequenceClassification(
            GPT2Config(
                vocab_size=VOCABULARY, n_positions=16, n_embd=width, n_layer=1, n_head=2, num_labels=3, pad_token_id=0
            )
        )
        for width in (4, 8)
    ]
    rows = [{"input_ids": row["input_ids"], "labels": [0] * len(row["input_ids"])} for row in even(8)]

    def classes(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found = collate(batch)
        return {**found, "labels": found["input_ids"][:, 0] % 3}

    made = DistillationTrainer(
        models[0],
        arguments(tmp_path),
        distillation=config,
        teacher=models[1],
        data_collator=classes,
        train_dataset=rows,
        eval_dataset=rows,
    )
    made.train()
    found = made.evaluate()
    batch = classes(rows)
    logits = models[0](batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert found["eval_ce"] == pytest.approx(F.cross_entropy(logits, batch["labels"]).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported(.|\n)*label_smoothing"),
        ({"torch_compile": True}, r"torch_compile is not supported(.|\n)*student.compile\(\)"),
        ({"bf16_full_eval": True}, "bf16_full_eval is not supported(.|\n)*float32"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_options_that_would_be_passed_over_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(WiringError, match=message):
        trainer(tmp_path, **options)


def test_a_term_may_not_hide_the_trainers_own_figures(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match=r"term 'loss' would be logged over"):
        trainer(tmp_path, LOGITS.replace("ce: {type", "loss: {type"))


def test_bfloat16_keeps_the_terms_in_float32(tmp_path: Path) -> None:
    exact, half = (trainer(tmp_path, bf16=flag) for flag in (False, True))
    for made in (exact, half):
        made.train()
        made.evaluate()
    assert logged(half, "ce") == pytest.approx(logged(exact, "ce"), rel=2e-2)
    assert logged(half, "ce") != logged(exact, "ce")
    assert half.evaluate()["eval_kd"] == pytest.approx(exact.evaluate()["eval_kd"], rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_gpu_stays_close_to_float32(tmp_path: Path, precision: str) -> None:
    exact = trainer(tmp_path, HINT, use_cpu=False, learning_rate=0.01)
    half = trainer(tmp_path, HINT, use_cpu=False, learning_rate=0.01, **{precision: True})
    for made in (exact, half):
        made.train()
        made.evaluate()
    for name in ("loss", "ce", "hint", "eval_loss", "eval_hint"):
        assert logged(half, name) == pytest.approx(logged(exact, name), rel=5e-2)
    assert half.objective.adapters["widen"].body.weight.dtype is torch.float32


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "kdcore.integrations.transformers")
    with pytest.raises(ImportError, match=r"needs transformers(.|\n)*pip install kdcore\[transformers\]"):
        importlib.import_module("kdcore.integrations.transformers")


def test_the_student_never_sees_labels(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=1)
    given: list[set[str]] = []
    made.model.register_forward_pre_hook(lambda module, args, kwargs: given.append(set(kwargs)), with_kwargs=True)
    made.train()
    made.evaluate()
    assert set().union(*given) == {"input_ids", "attention_mask", "use_cache"}


def test_without_labels_every_position_counts(tmp_path: Path) -> None:
    def bare(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate([{**row, "labels": row["input_ids"]} for row in rows])
        return {key: batch[key] for key in ("input_ids", "attention_mask")}

    config = f"{MODELS}stages:\n  - {{name: only, train: [student], losses: {{kd: {{type: kd, params: {{temperature: 1}}}}}}}}\n"
    rows = [{"input_ids": row["input_ids"]} for row in even(4)]
    teacher = gpt2(8)
    made = DistillationTrainer(
        gpt2(4),
        arguments(tmp_path, max_steps=1),
        distillation=config,
        teacher=teacher,
        data_collator=bare,
        train_dataset=rows,
        eval_dataset=rows,
    )
    batch = bare(rows)
    with torch.no_grad():
        q, p = (each(**batch).logits.log_softmax(-1) for each in (made.model, teacher))
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    assert made.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    made.train()
    assert logged(made, "loss") == pytest.approx([expected], rel=1e-5)
