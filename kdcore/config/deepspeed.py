"""Checks of DeepSpeed's own config, a JSON file or a mapping under `distributed:`, without DeepSpeed.

What a stage already says (batch sizes, optimizer, scheduler, clipping, precision) stands in one place: in the stage.
In DeepSpeed's config such a key is `auto`, or absent. The rest is passed on, and DeepSpeed judges its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from kdcore.config.checker import Checker
from kdcore.config.config import StageConfig
from kdcore.config.reader import read_text
from kdcore.config.training import AUTO
from kdcore.errors import ConfigError, Place, Problem, suggestion

# Each process steps its part of a flat tensor of all parameters: right only where a step treats every number by itself,
# and where the state is made at the first step, for that part.
ELEMENTWISE = frozenset({"ASGD", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"})

_OF_THE_RUN = {
    "train_batch_size": "it follows from batch_size: of the data, the stage's accumulate: and the number of processes",
    "train_micro_batch_size_per_gpu": "batch_size: of the data is that of each process",
    "gradient_accumulation_steps": "write accumulate: in the stage",
    "gradient_clipping": "write clip_grad_norm: in the stage",
    "optimizer": "write optimizer: in the stage",
    "scheduler": "write scheduler: in the stage",
}
_PRECISION = ("fp16", "bf16", "amp", "torch_autocast")
_PASSED = (
    "communication_data_type",
    "comms_logger",
    "dump_state",
    "gradient_predivide_factor",
    "log_level",
    "memory_breakdown",
    "prescale_gradients",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
)
_ZERO = "zero_optimization"
_ZERO_PASSED = (
    "allgather_bucket_size",
    "allgather_partitions",
    "contiguous_gradients",
    "elastic_checkpoint",
    "ignore_unused_parameters",
    "offload_optimizer",
    "overlap_comm",
    "reduce_bucket_size",
    "reduce_scatter",
    "round_robin_gradients",
    "use_multi_rank_bucket_allreduce",
)
# Of stage 3 alone: DeepSpeed does not look at them in the others, and files made for several stages have them.
_ZERO_IGNORED = ("offload_param", "sub_group_size")

Keys = tuple[str | int, ...]


def check_deepspeed(
    checker: Checker, node: Any, path: Keys, stages: Sequence[StageConfig | None]
) -> tuple[Any, Mapping[str, Any]]:
    """Return DeepSpeed's config as it was read, and what of it DeepSpeed is given; reports what contradicts the run.

    Arguments:
        checker: collects the problems.
        node: a file name, or the config itself.
        path: where it stands.
        stages: what is trained; a stage that could not be read is None.
    """
    if node is None:
        checker.problem(
            "strategy: deepspeed needs DeepSpeed's own config",
            path[:-1],
            "write config: with the name of its JSON file, or config: {zero_optimization: {stage: 2}}",
        )
        return None, {}

    def place(keys: Keys, *, key: bool = False) -> Place:
        return checker.source.place((*path, *keys), key=key)

    read_from: Callable[..., Place] = place
    if isinstance(node, str):
        try:
            source = _read(node, checker.source.place(path))
        except ConfigError as error:
            checker.problems.extend(error.problems)
            return node, {}
        node, read_from = source.data, source.place
    if not isinstance(node, Mapping):  # the schema says so
        return node, {}
    reader = _Reader(checker.problems, read_from)
    passed = reader.read(node)
    for stage in stages:
        if stage is not None:
            _check_stage(checker, stage, offloads=_offloads(passed))
    return dict(node), passed


class _Reader:
    """Sorts the keys of one config: what is passed on, what the run decides, and what cannot be had."""

    def __init__(self, problems: list[Problem], place: Callable[..., Place]) -> None:
        self.problems = problems
        self.place = place

    def problem(self, what: str, keys: Keys, repair: str) -> None:
        self.problems.append(Problem(what, self.place(keys, key=True), repair))

    def read(self, node: Mapping[str, Any]) -> dict[str, Any]:
        passed: dict[str, Any] = {}
        for key, value in node.items():
            if key in _OF_THE_RUN:
                if value != AUTO:
                    self.problem(
                        f"DeepSpeed's {key} is decided by the run",
                        (key,),
                        f"write auto, or remove it: {_OF_THE_RUN[key]}",
                    )
            elif key in _PRECISION:
                if not _disabled(value):
                    self.problem(
                        f"DeepSpeed's {key} would change the precision of the run",
                        (key,),
                        "remove it, and write precision: bfloat16 in the stage; float16 is not supported",
                    )
            elif key in _PASSED:
                if value != AUTO:
                    passed[key] = value
            elif key != _ZERO and not _disabled(value):
                self.problem(
                    f"DeepSpeed's {key!r} is not among the keys that a run can pass on",
                    (key,),
                    suggestion(key, [*_PASSED, *_PRECISION, *_OF_THE_RUN, _ZERO], noun="keys"),
                )
        return {**passed, _ZERO: self._zero(node.get(_ZERO))}

    def _zero(self, node: Any) -> dict[str, Any]:
        options = node if isinstance(node, Mapping) else {}
        stage = options.get("stage", 0)
        where = (_ZERO, "stage") if "stage" in options else (_ZERO,)
        if stage == 3:
            self.problem(
                "ZeRO stage 3 splits the parameters too, which are then missing where a loss looks inside a model or a "
                "forward pass ends early",
                where,
                "write stage: 2, or split parameters with strategy: fsdp",
            )
        elif isinstance(stage, bool) or stage not in (1, 2):
            found = f"stage is {stage!r}" if "stage" in options else "zero_optimization: {stage: ...} is not there"
            self.problem(
                f"{found}, and without ZeRO stage 1 or 2 DeepSpeed splits nothing",
                where,
                "write stage: 1 (the optimizer's state is split) or 2 (gradients too), or strategy: ddp",
            )
        for key, value in options.items():
            known = key in ("stage", *_ZERO_PASSED, *_ZERO_IGNORED) or key.startswith("stage3_")
            if not known and not _disabled(value):
                self.problem(
                    f"DeepSpeed's {_ZERO}.{key} is not among the keys that a run can pass on",
                    (_ZERO, key),
                    suggestion(key, ["stage", *_ZERO_PASSED], noun="keys"),
                )
        return {key: options[key] for key in ("stage", *_ZERO_PASSED) if options.get(key, AUTO) != AUTO}


def _read(file: str, place: Place) -> Any:
    """Read a JSON file by the rules of a config, with positions."""
    try:
        text = FilePath(file).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        what = f"DeepSpeed's config {file!r} cannot be read: {reason}"
        raise ConfigError([Problem(what, place, "a relative name starts from the current folder")]) from error
    # JSON is YAML but for tabs between its tokens; within its strings there are none.
    return read_text(text.replace("\t", " "), file)


def _disabled(value: Any) -> bool:
    """Whether a key or section says that it does nothing."""
    if isinstance(value, Mapping):
        return not value or _disabled(value.get("enabled", True))
    return value is None or value is False or value == AUTO


def _offloads(passed: Mapping[str, Any]) -> bool:
    offload = passed[_ZERO].get("offload_optimizer")
    return isinstance(offload, Mapping) and offload.get("device", "none") != "none"


def _check_stage(checker: Checker, stage: StageConfig, *, offloads: bool) -> None:
    path = ("stages", stage.index)
    if stage.compile:
        checker.problem(
            f"stage {stage.name!r} is compiled, which has not been tried with strategy: deepspeed",
            (*path, "compile"),
            "write compile: false, or strategy: ddp",
        )
    if stage.pruning:
        checker.problem(
            f"stage {stage.name!r} prunes, and DeepSpeed keeps a copy of the weights that knows of no mask",
            (*path, "pruning"),
            "write strategy: ddp, or remove pruning:",
        )
    if stage.find_unused:
        checker.problem(
            f"stage {stage.name!r} has parameters that some steps do not use, and DeepSpeed steps them all the same",
            (*path, "find_unused"),
            "write find_unused: false, or strategy: ddp",
        )
    if offloads and stage.on_nonfinite.action != "stop":
        checker.problem(
            f"stage {stage.name!r} drops steps that are not finite, which DeepSpeed's offload_optimizer cannot",
            (*path, "on_nonfinite"),
            "write on_nonfinite: stop, or remove offload_optimizer",
        )
    optimizer = (stage.optimizer or {}).get("type")
    if optimizer is not None and optimizer not in ELEMENTWISE:
        checker.problem(
            f"torch's {optimizer} cannot step a flat part of all parameters, as strategy: deepspeed has it do",
            (*path, "optimizer"),
            f"choose one of {', '.join(sorted(ELEMENTWISE))}, or strategy: ddp",
        )
