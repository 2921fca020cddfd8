"""Distillation with the Trainer of Hugging Face Transformers."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.errors import AddressError, WiringError
from kdcore.integrations.library import missing
from kdcore.integrations.means import TermMeans
from kdcore.integrations.outputs import as_mapping, outputs_of
from kdcore.integrations.refusals import refuse_names, refuse_options, refuse_sharding
from kdcore.integrations.rest import check_rest, load_rest, save_rest
from kdcore.pipeline.build import build_objective
from kdcore.pipeline.objective import Objective, Share
from kdcore.pipeline.randomness import forked_generators
from kdcore.pipeline.step_counts import StepCounts, batch_rows

try:
    from transformers import Trainer, TrainingArguments
except ImportError as error:
    raise missing("transformers", "transformers 5 and accelerate", "transformers") from error

IGNORED = -100


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is the Objective that a config describes.

        trainer = DistillationTrainer(student, args, distillation="kd.yaml", teacher=teacher, train_dataset=...)

    `trainer.model` is the student, a plain model: it is what is saved, evaluated and handed to callbacks. What
    trains is `trainer.objective`, so adapters and losses with parameters are in the optimizer, under the
    Trainer's own rules for weight decay, and the teacher is not. Checkpoints keep what else was trained in
    distillation.pt. Gradient accumulation and several processes (torchrun) give the gradients of one big batch,
    whatever terms count; logs and evaluation hold the mean of each term beside the total.

    A batch is what the collator returns: `batch:input_ids`, `batch:labels`. `batch:mask` is true where the
    labels are not -100, if the collator returns no mask of its own.

    Arguments:
        model: the student, which the config names `student`; None if `distillation` is an Objective.
        args: as for Trainer.
        distillation: a config, as for `build_objective`, or an Objective that is already built.
        teacher: the model that the config names `teacher`; it may give it a type and weights instead.
        models: further models by name.
        stage: which stage of the config.
        overrides: assignments to the config.
        options: everything else that Trainer takes.

    Raises:
        ConfigError: the config is wrong.
        WiringError, AddressError: models, data and config do not fit together, or an option of the
            Trainer has no meaning here; from `train`, a frozen model is not the same in every process.
    """

    # The total is that of the whole step already.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        distillation: str | Path | Config | Objective,
        teacher: nn.Module | None = None,
        models: Mapping[str, nn.Module] | None = None,
        stage: str | None = None,
        overrides: Sequence[str] = (),
        **options: Any,
    ) -> None:
        refuse_options(args, options)
        given = {**({"teacher": teacher} if teacher is not None else {}), **(models or {})}
        student = _student(model, distillation, given)
        super().__init__(student, args, **options)
        refuse_sharding(self)
        self._wrapped: nn.Module | None = None
        self._prepared = False
        # Older releases of transformers look here whether the loss is scaled.
        self.model_accepts_loss_kwargs = True
        if isinstance(distillation, Objective):
            self.objective = distillation.to(self.args.device)
        else:
            external = {"student": student, **given}
            config = distillation
            if not isinstance(config, Config):
                config = load_config(config, overrides=overrides, external_models=external)
            self.objective = self._build(config, external, stage)
        self.objective.train()
        self._read = self.objective.entries
        self._signature_columns: list[str] | None = None
        self._trained = TermMeans()
        self._evaluated = TermMeans()
        refuse_names(self.objective)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], StepCounts | None]:
        """Return the batches of one optimizer step and, in place of the number of items, all that they count."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        epoch = int(self.state.epoch or 0)
        self.objective.progress(self.state.global_step, self.state.max_steps, epoch)
        if not batches:
            return batches, None
        return batches, StepCounts.of(self.objective, [self._batch(each) for each in batches], across=self._across)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: StepCounts | None = None,
    ) -> Any:
        """Return the total of a batch as a part of its step, and the student's outputs if they are wanted."""
        batch = self._batch(inputs)
        share = self._share(batch, num_items_in_batch)
        with outputs_of(self.model, wanted=return_outputs) as outputs:
            out = (self.objective if model is self.model else model)(batch, share)
        means = self._trained if self.objective.training else self._evaluated
        means.add(out.terms, batch_rows(batch), self.objective.counts)
        if not return_outputs:
            return out.total
        # A pass that needs no more than a hidden layer stops there.
        return out.total, as_mapping(outputs[-1] if outputs else self._predict(inputs))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Return the total, the student's outputs and the labels; without labels that the terms need, outputs alone."""
        inputs = self._prepare_inputs(inputs)
        labels: Any = tuple(inputs.get(name) for name in self.label_names)
        labelled = bool(labels) and all(each is not None for each in labels)
        total, outputs = None, None
        with torch.no_grad(), self.compute_loss_context_manager():
            if labelled or self.objective.entries <= self._batch(inputs).keys():
                wanted = not prediction_loss_only
                result = self.compute_loss(model, inputs, return_outputs=wanted)
                total, outputs = result if wanted else (result, None)
            elif not prediction_loss_only:
                outputs = as_mapping(self._predict(inputs))
        if prediction_loss_only or outputs is None:
            return total, None, None
        if ignore_keys is None:
            config = getattr(self.model, "config", None)
            ignore_keys = getattr(config, "keys_to_ignore_at_inference", ["past_key_values"])
        logits = tuple(value for key, value in outputs.items() if key not in {*ignore_keys, "loss"})
        if not labelled:
            labels = None
        elif len(labels) == 1:
            labels = labels[0]
        return total, logits[0] if len(logits) == 1 else logits, labels

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Evaluate as Trainer does, and add the mean of each term; the loss is the total of these means."""
        self._evaluated = TermMeans()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        means = self._evaluated.compute(self._across)
        if means:
            terms = {name: torch.tensor(value, device=self.args.device) for name, value in means.items()}
            with torch.no_grad():
                output.metrics[f"{metric_key_prefix}_loss"] = self.objective.balance(terms).item()
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what Trainer does; beside the training loss stands the mean of each term since the last time."""
        if "loss" in logs:
            logs = {**logs, **self._trained.compute(self._across)}
            self._trained = TermMeans()
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer for everything that the Objective trains."""
        return super().create_optimizer(self.objective if model is None else model)  # type: ignore[no-any-return]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the plain student; a checkpoint also keeps what else was trained."""
        super().save_model(output_dir, _internal_call)
        if _internal_call and self.args.should_save:
            save_rest(self.objective, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_rest(self.objective, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        load_rest(self.objective, Path(self.state.best_model_checkpoint))

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """Return what trains in the student's place: the Objective, for gradients of several processes wrapped."""
        if training and self._wrapped is None:
            self.objective.check_agreement()
            if self.args.save_strategy != "no":
                check_rest(self.objective)
            self._wrapped = self.accelerator.prepare_model(self.objective)
        elif not training and self._wrapped is None and not self._prepared:
            self.accelerator.prepare_model(self.objective, evaluation_mode=True)
            self._prepared = True
        return self._wrapped if training and self._wrapped is not None else self.objective

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            # Terms may read what the student's forward does not take.
            columns = [*(self._signature_columns or ()), *sorted(self._read)]
            self._signature_columns = list(dict.fromkeys(columns))

    def _build(self, config: Config, models: Mapping[str, nn.Module], stage: str | None) -> Objective:
        addresses = [each for model in config.models.values() for each in model.addresses]
        addresses += [each for adapter in config.adapters.values() for each in adapter.addresses]
        addresses += [each for part in config.stages for term in part.terms for each in term.addresses]
        self._read = {address.path for address in addresses if address.is_batch}
        for module in models.values():
            if self.place_model_on_device:
                self._move_model_to_device(module, self.args.device)
        dataset = self.train_dataset if hasattr(self.train_dataset, "__len__") else None
        batch = self._prepare_inputs(self._batch(self._example()))
        try:
            return build_objective(config, models=models, example_batch=batch, stage=stage, dataset=dataset)
        except AddressError as error:
            if error.address != "batch:index":
                raise
            raise WiringError(
                "a loss or model wants batch:index, the number of each sample in the data set, but the collator's "
                f"batches hold {', '.join(map(repr, batch))}",
                place=error.problem.place,
                repair="add a column `index` to the data set that counts its samples",
            ) from error

    def _example(self) -> Mapping[str, Any]:
        """Return a batch of the first samples, collated as training will."""
        dataset, size = self.train_dataset, self.args.per_device_train_batch_size
        if dataset is None:
            dataset = (
                next(iter(self.eval_dataset.values())) if isinstance(self.eval_dataset, dict) else self.eval_dataset
            )
        if dataset is None:
            raise WiringError(
                "there is no data set to take an example batch from",
                repair="pass train_dataset or eval_dataset, or an Objective from build_objective as distillation",
            )
        collate = self._get_collator_with_removed_columns(self.data_collator)
        size = self.args.per_device_train_batch_size
        with forked_generators(self.args.seed):
            if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
                return collate(list(itertools.islice(dataset, size)))  # type: ignore[no-any-return]
            return collate([dataset[index] for index in range(min(size, len(dataset)))])  # type: ignore[no-any-return]

    def _batch(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        batch = dict(inputs)
        if "mask" in self._read and "mask" not in batch and isinstance(batch.get("labels"), Tensor):
            batch["mask"] = batch["labels"] != IGNORED
        return batch

    def _share(self, batch: Mapping[str, Any], counts: Any) -> Share | None:
        if counts is None:
            return None
        if not isinstance(counts, StepCounts):
            raise WiringError(
                f"compute_loss was given num_items_in_batch={counts!r}; a number of items cannot tell what each term "
                "counts",
                repair="pass on what get_batch_samples returned, or nothing for a batch that stands alone",
            )
        return counts.share(batch)

    def _predict(self, inputs: Mapping[str, Any]) -> Any:
        taken = inspect.signature(self.model.forward).parameters
        with self.accelerator.autocast():
            return self.model(**{name: value for name, value in inputs.items() if name in taken})

    @property
    def _across(self) -> Any:
        return self.accelerator.reduce if self.accelerator.num_processes > 1 else None


def _student(model: nn.Module | None, distillation: Any, given: Mapping[str, nn.Module]) -> nn.Module:
    if not isinstance(distillation, Objective):
        if model is None:
            raise WiringError("DistillationTrainer needs the student as model", repair="pass model=student")
        return model
    if given:
        raise WiringError("an Objective has its models already", repair="leave out teacher and models")
    if "student" not in distillation.models:
        raise WiringError("the Objective does not train a model named 'student'", repair="name it so in the config")
    if model is not None and model is not distillation.models["student"]:
        raise WiringError("model is not the student of the Objective", repair="leave out model")
    return distillation.models["student"]
