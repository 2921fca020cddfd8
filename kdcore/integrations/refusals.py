"""What of Transformers' Trainer has no meaning for an Objective, or would change it unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcore.errors import WiringError
from kdcore.pipeline.objective import Objective

_OPTIONS = {
    "compute_loss_func": "write its losses in the config",
    "model_init": "build a trainer per trial: an Objective is wired to one student",
}
_ARGUMENTS = {
    "label_smoothing_factor": "give cross_entropy the param label_smoothing",
    "torch_compile": "compile the models before: student.compile(), teacher.compile()",
    "use_liger_kernel": "apply the kernels to the student before, and keep its logits",
    "fp16_full_eval": "use fp16 or bf16, which leave the losses in float32",
    "bf16_full_eval": "use fp16 or bf16, which leave the losses in float32",
    "auto_find_batch_size": "choose a batch size, and gradient_accumulation_steps for larger ones",
}
_LOGGED = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "step", "runtime"})


def refuse_options(arguments: Any, options: Mapping[str, Any]) -> None:
    """Raise WiringError for options that would be passed over, or change what is trained."""
    for name, repair in _OPTIONS.items():
        if options.get(name) is not None:
            raise WiringError(f"DistillationTrainer does not take {name}", repair=repair)
    for name, repair in _ARGUMENTS.items():
        if arguments is not None and getattr(arguments, name, None):
            raise WiringError(f"TrainingArguments.{name} is not supported with an Objective", repair=repair)


def refuse_sharding(trainer: Any) -> None:
    """Raise WiringError for every way of parallel training but replicas."""
    ways = {
        "FSDP": trainer.is_fsdp_enabled,
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "DataParallel": trainer.args.n_gpu > 1,
        "a parallelism_config": getattr(trainer.args, "parallelism_config", None) is not None,
    }
    for way, used in ways.items():
        if used:
            raise WiringError(
                f"DistillationTrainer does not support {way}: the Objective holds more than the student",
                repair="start one process per device with torchrun, which replicates it",
            )


def refuse_names(objective: Objective) -> None:
    """Raise WiringError for a term that would be logged over a figure of the Trainer's own."""
    for term in objective.terms:
        if term.name in _LOGGED:
            raise WiringError(
                f"the term {term.name!r} would be logged over the Trainer's own {term.name!r}",
                place=term.config.place,
                repair="give the term another name",
            )
