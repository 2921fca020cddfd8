"""Write schemas/optimizers.json and schemas/schedulers.json from the installed torch.

Names and defaults are read off torch's signatures; ranges and descriptions, which no signature
holds, stand here. Run by hand after an update of torch: `python scripts/torch_schemas.py`.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler

Schema = dict[str, Any]

FOLDER = Path(__file__).resolve().parent.parent / "schemas"

# What the engine passes or keeps itself.
NOT_CONFIGURABLE = {"self", "params", "optimizer", "last_epoch", "verbose"}

REFUSED = {
    "LBFGS": "it evaluates the model several times per step through a closure; a stage evaluates it once",
    "LambdaLR": "it is defined by a Python function, which a config cannot hold",
    "MultiplicativeLR": "it is defined by a Python function, which a config cannot hold",
}

# Schedules that are made to move on after each step; all others move on after each epoch.
PER_STEP = ("CyclicLR", "OneCycleLR")


def number(description: str, **limits: Any) -> Schema:
    """Return the schema of a number."""
    return {"type": "number", **limits, "description": description}


def integer(description: str, **limits: Any) -> Schema:
    """Return the schema of a whole number."""
    return {"type": "integer", **limits, "description": description}


def switch(description: str) -> Schema:
    """Return the schema of true or false."""
    return {"type": "boolean", "description": description}


def choice(description: str, *values: Any) -> Schema:
    """Return the schema of one of `values`."""
    return {"enum": list(values), "description": description}


def tuple_of(description: str, *items: Schema) -> Schema:
    """Return the schema of a list with one entry per item."""
    alike = all(item == items[0] for item in items)
    return {
        "type": "array",
        **({"items": items[0]} if alike else {"prefixItems": list(items)}),
        "minItems": len(items),
        "maxItems": len(items),
        "description": description,
    }


def per_group(description: str, **limits: Any) -> Schema:
    """Return the schema of a number, or of a list with one number per parameter group."""
    return {
        "type": ["number", "array"],
        **limits,
        "items": {"type": "number", **limits},
        "minItems": 1,
        "description": f"{description}; a list gives one per parameter group",
    }


def total(description: str) -> Schema:
    """Return the schema of a count that the engine can fill in."""
    return {
        "anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}],
        "description": f"{description}; auto takes what the stage makes of it",
    }


def nullable(schema: Schema) -> Schema:
    """Return `schema`, null allowed."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def only(value: Any, description: str) -> Schema:
    """Return the schema of a parameter that has one permitted value."""
    return {"const": value, "description": description}


BETA = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
NOT_NEGATIVE = {"type": "number", "minimum": 0}
POSITIVE = {"type": "number", "exclusiveMinimum": 0}

OPTIMIZER_PARAMS: dict[str, Schema] = {
    "lr": number("learning rate", minimum=0),
    "weight_decay": number("pull towards zero, per step", minimum=0),
    "momentum": number("share of the previous update that is kept", minimum=0),
    "dampening": number("share of the gradient that momentum leaves out"),
    "nesterov": switch("look ahead along the momentum"),
    "betas": tuple_of("decay of the running means of the gradient and of its square", BETA, BETA),
    "eps": number("added to denominators", minimum=0),
    "amsgrad": switch("use the largest second moment seen so far"),
    "decoupled_weight_decay": switch("decay the weights themselves, as AdamW does, instead of the gradient"),
    "momentum_decay": number("how fast the momentum schedule rises", minimum=0),
    "alpha": number("smoothing of the running mean of squares", minimum=0, maximum=1),
    "centered": switch("divide by an estimate of the variance instead of the second moment"),
    "rho": number("decay of the running mean of squared gradients", minimum=0, maximum=1),
    "lr_decay": number("how fast the learning rate falls with the steps", minimum=0),
    "initial_accumulator_value": number("start of the sum of squared gradients", minimum=0),
    "lambd": number("decay term", minimum=0),
    "t0": number("step at which averaging begins", minimum=0),
    "beta2_decay": number("exponent of the second moment's decay", maximum=0),
    "d": number("bound of the update's root mean square", minimum=1),
    "etas": tuple_of(
        "factors by which a step size shrinks and grows",
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "exclusiveMinimum": 1},
    ),
    "step_sizes": tuple_of("smallest and largest step size", POSITIVE, POSITIVE),
    "ns_coefficients": tuple_of("coefficients of the Newton-Schulz polynomial", *[{"type": "number"}] * 3),
    "ns_steps": integer("Newton-Schulz iterations", minimum=1, maximum=99),
    "adjust_lr_fn": choice("how the learning rate follows a matrix's shape", None, "original", "match_rms_adamw"),
    "maximize": switch("climb instead of descend"),
    "foreach": nullable(switch("update many tensors per call; null lets torch decide")),
    "fused": nullable(switch("use the fused kernel; null lets torch decide")),
    "capturable": switch("keep the step counts on the device, as CUDA graphs need"),
    "differentiable": only(False, "always false: no stage differentiates through an update"),
}

SCHEDULER_PARAMS: dict[str, Schema] = {
    "gamma": number("factor of each decay", exclusiveMinimum=0),
    "step_size": integer("intervals between two decays", minimum=1),
    "milestones": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1},
        "description": "intervals after which the rate decays, or the next scheduler takes over",
    },
    "factor": number("factor of the learning rate until total_iters", exclusiveMinimum=0, maximum=1),
    "start_factor": number("factor of the learning rate at the start", exclusiveMinimum=0, maximum=1),
    "end_factor": number("factor of the learning rate at the end", minimum=0, maximum=1),
    "total_iters": total("intervals that the change takes"),
    "power": number("exponent of the polynomial", minimum=0),
    "T_max": total("intervals from the highest to the lowest rate"),
    "T_0": integer("intervals until the first restart", minimum=1),
    "T_mult": integer("growth of that number after each restart", minimum=1),
    "eta_min": number("lowest learning rate", minimum=0),
    "base_lr": per_group("lowest learning rate", minimum=0),
    "max_lr": per_group("highest learning rate", exclusiveMinimum=0),
    "step_size_up": integer("intervals of the rising half of a cycle", minimum=1),
    "step_size_down": nullable(integer("intervals of the falling half; null for as many", minimum=1)),
    "scale_fn": only(None, "always null: it would be a Python function, which a config cannot hold"),
    "scale_mode": choice("what the amplitude is a function of", "cycle", "iterations"),
    "cycle_momentum": switch("move the momentum (or beta1) against the learning rate"),
    "base_momentum": per_group("lowest momentum", minimum=0, maximum=1),
    "max_momentum": per_group("highest momentum", minimum=0, maximum=1),
    "total_steps": nullable(total("steps of the whole cycle")),
    "epochs": nullable(total("epochs of the whole cycle, with steps_per_epoch")),
    "steps_per_epoch": nullable(total("steps in an epoch, with epochs")),
    # At 1 torch divides by zero after the last step.
    "pct_start": number("share of the cycle in which the rate rises", minimum=0, exclusiveMaximum=1),
    "anneal_strategy": choice("shape of the curve", "cos", "linear"),
    "div_factor": number("highest rate divided by the first", exclusiveMinimum=0),
    "final_div_factor": number("first rate divided by the last", exclusiveMinimum=0),
    "three_phase": switch("a third phase for the final descent"),
    "patience": integer("intervals without improvement that are tolerated", minimum=0),
    "threshold": number("least change that counts as improvement", minimum=0),
    "threshold_mode": choice("whether threshold is relative or absolute", "rel", "abs"),
    "cooldown": integer("intervals of rest after a reduction", minimum=0),
    "min_lr": per_group("lowest learning rate", minimum=0),
    "eps": number("smaller changes of the rate are not made", minimum=0),
    "schedulers": {
        "type": "array",
        "minItems": 1,
        "items": {"type": ["object", "string"]},
        "description": "the schedulers, each a type or {type, params}",
    },
}

# Where a class means something else by a name than the tables above.
SPECIAL: dict[tuple[str, str], Schema] = {
    ("SparseAdam", "lr"): number("learning rate", exclusiveMinimum=0),
    ("SparseAdam", "eps"): number("added to denominators", exclusiveMinimum=0),
    ("ASGD", "alpha"): number("exponent of the learning rate's decay", minimum=0),
    ("Adafactor", "eps"): tuple_of(
        "lower bounds of the squared gradient (null: the type's precision) and of the parameters' size",
        nullable(NOT_NEGATIVE),
        NOT_NEGATIVE,
    ),
    ("CyclicLR", "mode"): choice("shape of the cycles", "triangular", "triangular2", "exp_range"),
    ("CyclicLR", "gamma"): number("decay of the amplitude in exp_range", exclusiveMinimum=0),
    ("ReduceLROnPlateau", "mode"): choice("whether the metric should fall or rise", "min", "max"),
    ("ReduceLROnPlateau", "factor"): number("factor of each reduction", exclusiveMinimum=0, exclusiveMaximum=1),
}

# Params that only kdcore has, and defaults where torch has none.
ADDED: dict[str, dict[str, Schema]] = {
    "ReduceLROnPlateau": {
        "monitor": {"type": "string", "minLength": 1, "description": "full name of the metric, for example val/loss"}
    }
}
OWN_DEFAULTS: dict[tuple[str, str], Any] = {("CosineAnnealingLR", "T_max"): "auto"}


def definition(cls: type, table: dict[str, Schema]) -> Schema:
    """Return the schema of one class's params; an argument that no table knows is an error."""
    if cls.__name__ in REFUSED:
        return {"not": {}, "description": REFUSED[cls.__name__]}
    properties: dict[str, Schema] = {}
    required = []
    for name, parameter in inspect.signature(cls.__init__).parameters.items():  # type: ignore[misc]
        if name in NOT_CONFIGURABLE:
            continue
        key = (cls.__name__, name)
        if key not in SPECIAL and name not in table:
            raise SystemExit(f"{cls.__name__}({name}=...) is new: describe it in {Path(__file__).name}")
        properties[name] = dict(SPECIAL.get(key) or table[name])
        default = OWN_DEFAULTS.get(key, parameter.default)
        if default is inspect.Parameter.empty:
            required.append(name)
        else:
            properties[name]["default"] = list(default) if isinstance(default, tuple) else default
    added = ADDED.get(cls.__name__, {})
    return {
        "title": cls.__name__,
        "type": "object",
        "additionalProperties": False,
        **({"required": [*added, *required]} if added or required else {}),
        **({"x-interval": "step"} if cls.__name__ in PER_STEP else {}),
        "properties": {**added, **properties},
    }


def optimizers() -> Schema:
    """Return the schema of `optimizer:`."""
    found = {name: each for name, each in vars(torch.optim).items() if inspect.isclass(each)}
    classes = [each for each in found.values() if issubclass(each, Optimizer) and each is not Optimizer]
    group = {
        "type": "object",
        "additionalProperties": False,
        "required": ["pattern"],
        "properties": {
            "pattern": {
                "type": ["string", "array"],
                "minLength": 1,
                "minItems": 1,
                "items": {"type": "string", "minLength": 1},
                "description": "full names of parameters, * and ? allowed, for example '*.bias'; or a list of them",
            },
            "params": {"type": "object", "default": {}, "description": "params that differ for them"},
        },
    }
    groups = {
        "type": "array",
        "items": group,
        "default": [],
        "description": "parameters with params of their own; the first group that matches takes a parameter",
    }
    return _file("optimizer", classes, OPTIMIZER_PARAMS, {"groups": groups})


def schedulers() -> Schema:
    """Return the schema of `scheduler:`."""
    classes = [getattr(lr_scheduler, name) for name in lr_scheduler.__all__ if name != "LRScheduler"]
    per_step = " and ".join(PER_STEP)
    interval = {
        "enum": ["epoch", "step"],
        "description": f"when the schedule moves on; by default after each epoch, for {per_step} after each step",
    }
    return _file("scheduler", classes, SCHEDULER_PARAMS, {"interval": interval})


def _file(noun: str, classes: list[type], table: dict[str, Schema], keys: Schema) -> Schema:
    release = ".".join(torch.__version__.split(".")[:2])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"torch {release}",
        "title": noun,
        "description": f"What `{noun}:` takes; each type's params are in $defs. Generated by scripts/torch_schemas.py.",
        "type": "object",
        "additionalProperties": False,
        "required": ["type"],
        "properties": {
            "type": {"type": "string", "minLength": 1, "description": f"the {noun}'s class in torch"},
            "params": {"type": "object", "default": {}, "description": "its arguments"},
            **keys,
        },
        "$defs": {cls.__name__: definition(cls, table) for cls in sorted(classes, key=lambda each: each.__name__)},
    }


def text(value: Any, indent: str = "", room: int = 120) -> str:
    """Return a schema as it stands in its file: what fits on a line stands on one."""
    flat = json.dumps(value)
    if len(flat) <= room or not isinstance(value, dict):
        return flat
    deeper = indent + "  "
    lines = [f'{deeper}"{key}": {text(each, deeper, 120 - len(deeper) - len(key) - 5)}' for key, each in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


if __name__ == "__main__":
    for name, schema in {"optimizers": optimizers(), "schedulers": schedulers()}.items():
        (FOLDER / f"{name}.json").write_text(text(schema) + "\n", encoding="utf-8")
