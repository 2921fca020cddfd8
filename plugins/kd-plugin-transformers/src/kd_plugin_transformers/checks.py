"""What the schemas cannot say; free of torch and transformers, and used by the factories too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kd_plugin_transformers.folder import CONFIG, folder_of, model_problem, read_json, tokenizer_problem
from kd_plugin_transformers.vocabulary import Vocabulary
from kdcore.component import CheckContext, Complaint
from kdcore.errors import Problem

_ALONE = CheckContext()
# The data sets of this package, and the entry of their batches that holds the tokens.
DATA = ("hf_text", "hf_text_classification")
IDS = "input_ids"
# Keys of a config of transformers that are params here.
OWN = ("attn_implementation", "dtype", "output_attentions", "output_hidden_states", "use_cache")


def check_model(params: Mapping[str, Any], context: CheckContext = _ALONE) -> Iterable[Complaint]:
    """Complain of params that exclude each other, missing files and vocabularies that do not fit."""
    path, config = params["path"], params["config"] or {}
    yield from _check_config(path, config)
    implementation = params["attn_implementation"]
    if params["output_attentions"] and implementation not in (None, "eager"):
        yield Complaint(
            f"attentions exist as tensors only where attn_implementation is eager, found {implementation!r}: "
            "fused kernels never make them; write eager, or leave it out",
            "attn_implementation",
        )
    if params["allow_new"] and path is None:
        yield Complaint(
            "allow_new is for weights that a path: lacks; a model built from config: is all new", "allow_new"
        )
    problem = None if path is None else model_problem(path)
    if problem is not None:
        yield _complaint(problem, "path")
    else:
        yield from _check_tokens(params)
        yield from _check_data(params, context)


def check_tokenizer(params: Mapping[str, Any], context: CheckContext = _ALONE) -> Iterable[Complaint]:
    """Complain of a tokenizer that is not there."""
    if isinstance(params.get("tokenizer"), str):
        problem = tokenizer_problem(params["tokenizer"])
        if problem is not None:
            yield _complaint(problem, "tokenizer")


def size_problem(vocabulary: Vocabulary, rows: int) -> str:
    """Return what is wrong where a model has fewer rows than a tokenizer has ids; more (padding) are fine."""
    if vocabulary.size <= rows:
        return ""
    return (
        f"{vocabulary.source} makes ids up to {vocabulary.size - 1}, but the model has rows for 0 to {rows - 1} "
        f"(vocab_size {rows}): it needs a vocab_size of {vocabulary.size} or more"
    )


def _check_config(path: str | None, config: Mapping[str, Any]) -> Iterator[Complaint]:
    if path is None and "model_type" not in config:
        yield Complaint(
            "it needs a path: to a local folder, or a config: with a model_type, "
            "such as {model_type: gpt2, n_layer: 2}",
            "config" if config else None,
        )
    if path is not None and "model_type" in config:
        yield Complaint("the folder of path: says the model_type; remove it from config:", "config")
    for key in OWN:
        if key in config:
            yield Complaint(f"{key} is a param of its own: write it beside config:, not inside", "config")


def _check_tokens(params: Mapping[str, Any]) -> Iterator[Complaint]:
    path, declared = params["path"], params["tokenizer"]
    unfit = list(check_tokenizer(params))
    if unfit:
        yield from unfit
        return
    own = Vocabulary.in_folder(path) if path is not None else None
    read = Vocabulary.declared(declared) if declared is not None else own
    if own is not None and declared is not None and (read is None or own.digest != read.digest):
        source, difference = ("byte pairs learnt anew", "") if read is None else (read.source, read.difference(own))
        yield Complaint(
            f"the model is to read ids of {source}, but was made for {own.source}{difference and ': ' + difference}; "
            "the same text must have the same ids for all models of a run",
            "tokenizer",
        )
    rows = (params["config"] or {}).get("vocab_size", _rows_in(path))
    if read is not None and isinstance(rows, int) and (problem := size_problem(read, rows)):
        yield Complaint(problem, "config" if path is None else "path")


def _check_data(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain of data whose tokens are not those that the model reads."""
    path, declared = params["path"], params["tokenizer"]
    read = Vocabulary.declared(declared) if declared is not None else path and Vocabulary.in_folder(path)
    if not read or f"batch:{IDS}" not in context.inputs.values():
        return
    others: dict[str, list[str]] = {}
    for name, data in context.data.items():
        tokenizer = (data.get("params") or {}).get("tokenizer") if data.get("type") in DATA else None
        made = Vocabulary.declared(tokenizer) if isinstance(tokenizer, (str, dict)) else None
        if made is not None and made.digest != read.digest:
            mistake = f"ids of {made.source}, but the model reads those of {read.source}: {made.difference(read)}"
            others.setdefault(mistake, []).append(repr(name))
    for mistake, names in others.items():
        who = f"data {names[0]} makes" if len(names) == 1 else f"data {', '.join(names[:-1])} and {names[-1]} make"
        yield Complaint(f"{who} {mistake}", "path" if declared is None else "tokenizer")


def _rows_in(path: str | None) -> Any:
    config = read_json(folder_of(path) / CONFIG) if path is not None else {}
    return config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))


def _complaint(problem: Problem, param: str) -> Complaint:
    return Complaint(f"{problem.what}; {problem.repair}", param)
