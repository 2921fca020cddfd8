"""A small GPT-2 distilled by the Trainer of Transformers, on the source of Python's standard library.

python examples/text/hf_trainer.py
python examples/text/hf_trainer.py examples/text/hf_hidden.yaml
"""

from __future__ import annotations

import argparse
import copy
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    ByT5Tokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from kdcore import KdcoreError
from kdcore.integrations.transformers import DistillationTrainer

LENGTH = 64
Samples = list[dict[str, list[int]]]


def samples(tokenizer: ByT5Tokenizer, count: int, offset: int) -> Samples:
    """Return blocks of bytes, spread over every tenth file of the standard library that begins at `offset`."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[offset::10]
    blocks = []
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")[:20_000]
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        blocks += [tokens[start : start + LENGTH] for start in range(0, len(tokens) - 1, LENGTH)]
    return [{"input_ids": blocks[index * len(blocks) // count]} for index in range(min(count, len(blocks)))]


def model(tokenizer: ByT5Tokenizer, width: int, layers: int) -> GPT2LMHeadModel:
    """Return a GPT-2 with random weights."""
    tokens = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": LENGTH, "vocab_size": len(tokenizer)}
    # Weights as wide as these suit so narrow a model better than the default's.
    return GPT2LMHeadModel(GPT2Config(**sizes, **tokens, initializer_range=0.08, resid_pdrop=0.0, attn_pdrop=0.0))


def predicted(logits: Any, labels: Tensor) -> Tensor:
    """Return the most likely next token at every position."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the share of tokens that are predicted."""
    labels = prediction.label_ids[:, 1:]
    right = prediction.predictions[:, :-1] == labels
    return {"accuracy": right[labels != -100].mean()}


def main() -> None:
    """Train a teacher, a student alone and the same student distilled, each by a Trainer."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("config", nargs="?", default=Path(__file__).with_name("hf_trainer.yaml"), type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each training (default 400)")
    parser.add_argument("--folder", help="where checkpoints go; by default nowhere")
    options = parser.parse_args()
    set_seed(options.seed)

    tokenizer = ByT5Tokenizer(extra_ids=0)
    teacher, student = model(tokenizer, 64, 2), model(tokenizer, 24, 1)
    alone = copy.deepcopy(student)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=options.folder or scratch,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            warmup_steps=20,
            lr_scheduler_type="cosine",
            logging_steps=50,
            save_strategy="steps" if options.folder else "no",
            save_steps=100,
            seed=options.seed,
            report_to="none",
            disable_tqdm=True,
        )
        shared: dict[str, Any] = {
            "data_collator": DataCollatorForLanguageModeling(tokenizer, mlm=False),
            "eval_dataset": samples(tokenizer, 300, offset=9),
            "compute_metrics": accuracy,
            "preprocess_logits_for_metrics": predicted,
        }
        many = [sample for offset in range(8) for sample in samples(tokenizer, 500, offset)]
        few = many[::8]

        def distillation(student: GPT2LMHeadModel, teacher: GPT2LMHeadModel) -> DistillationTrainer:
            """Return the trainer of a student under a teacher, which it freezes."""
            own = {"distillation": options.config, "teacher": teacher, "train_dataset": few}
            return DistillationTrainer(student, arguments, **own, **shared)

        # Copies of untrained models, so that a mistake in the config shows before any of them has trained.
        distillation(copy.deepcopy(student), copy.deepcopy(teacher))
        trainers = {
            "teacher": Trainer(teacher, arguments, train_dataset=many, **shared),
            "student alone": Trainer(alone, arguments, train_dataset=few, **shared),
        }
        for trainer in trainers.values():
            trainer.train()
        trainers["student distilled"] = distillation(student, teacher)
        trainers["student distilled"].train()
        for name, trainer in trainers.items():
            print(f"{name:20}{100 * trainer.evaluate()['eval_accuracy']:.1f} %")


if __name__ == "__main__":
    try:
        main()
    except KdcoreError as error:
        sys.exit(str(error))
