"""Models of transformers, with random weights by their config or with those in a local folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from kd_plugin_transformers.checks import check_model, size_problem
from kd_plugin_transformers.configuration import made_config, read_config
from kd_plugin_transformers.loading import load_model
from kd_plugin_transformers.quiet import quietly
from kd_plugin_transformers.reading import TokenReader
from kd_plugin_transformers.vocabulary import Vocabulary
from kdcore.errors import WiringError

TASKS = {
    "base": modeling_auto.AutoModel,
    "causal_lm": modeling_auto.AutoModelForCausalLM,
    "masked_lm": modeling_auto.AutoModelForMaskedLM,
    "seq2seq_lm": modeling_auto.AutoModelForSeq2SeqLM,
    "sequence_classification": modeling_auto.AutoModelForSequenceClassification,
    "token_classification": modeling_auto.AutoModelForTokenClassification,
    "image_classification": modeling_auto.AutoModelForImageClassification,
    "audio_classification": modeling_auto.AutoModelForAudioClassification,
}

_log = logging.getLogger(__name__)


def hf_model(
    path: str | None = None,
    config: Mapping[str, Any] | None = None,
    task: str = "causal_lm",
    *,
    tokenizer: str | Mapping[str, Any] | None = None,
    attn_implementation: str | None = None,
    dtype: str = "float32",
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    use_cache: bool = False,
    allow_new: Sequence[str] = (),
) -> PreTrainedModel:
    """Return a model of transformers, from a local folder or with random weights; nothing is downloaded.

    Arguments:
        path: a folder with config.json and weights.
        config: without `path`, `model_type` and keys of its config; with it, keys to change.
        task: which head stands on the model; `base` has none.
        tokenizer: whose ids the model reads; by default that in `path`, if there is one.
        attn_implementation: by default eager with `output_attentions`, else what transformers chooses.
        dtype: of the weights; `auto` keeps that of the files.
        output_hidden_states: whether the output holds what enters each layer and leaves the last.
        output_attentions: whether the output holds the attention weights.
        use_cache: whether the output holds keys and values for generation.
        allow_new: modules whose weights `path` may lack or hold in another shape.

    Raises:
        WiringError: params that do not fit together, an unknown model_type or key of a config, or a tokenizer
            with more ids than the model has rows.
        WeightsError: weights that the model needs are missing or have another shape.
    """
    params = dict(locals())
    complaints = [each.message for each in check_model(params)]
    if complaints:
        raise WiringError("; ".join(complaints))
    with quietly():
        made = made_config(config or {}) if path is None else read_config(path, config or {})
        _check_task(made, task)
        _set_outputs(made, attn_implementation, output_hidden_states, output_attentions, use_cache)
        if path is None:
            chosen = made.dtype or "float32" if dtype == "auto" else dtype
            model = TASKS[task].from_config(made, dtype=chosen, trust_remote_code=False)
        else:
            model, report = load_model(TASKS[task], path, made, dtype, allow_new)
            _log.log(logging.WARNING if report.remarkable else logging.INFO, "%s", report)
    _attach_reader(model, path, tokenizer)
    return model


def _check_task(config: PreTrainedConfig, task: str) -> None:
    has = [name for name, cls in TASKS.items() if type(config) in cls._model_mapping]
    if task not in has:
        raise WiringError(
            f"transformers has no {task} for the model_type {config.model_type!r}",
            repair=f"it has {', '.join(has)}" if has else "choose another model_type",
        )


def _set_outputs(
    config: PreTrainedConfig, attention: str | None, hidden_states: bool, attentions: bool, cache: bool
) -> None:
    if attention is not None or attentions:
        config._attn_implementation = attention or "eager"
    config.output_hidden_states = hidden_states
    config.output_attentions = attentions
    for each in (config, config.get_text_config()):
        if hasattr(each, "use_cache"):
            each.use_cache = cache


def _attach_reader(model: PreTrainedModel, path: str | None, tokenizer: str | Mapping[str, Any] | None) -> None:
    """Let a model that has a tokenizer notice ids that were made for another."""
    if tokenizer is None and path is None:
        return
    vocabulary = Vocabulary.declared(tokenizer) if tokenizer is not None else Vocabulary.in_folder(path or "")
    if vocabulary is None:
        return
    embedding = getattr(model.get_input_embeddings(), "num_embeddings", None)
    problem = size_problem(vocabulary, embedding) if embedding is not None else ""
    if problem:
        raise WiringError(problem)
    model.register_forward_pre_hook(TokenReader(vocabulary), with_kwargs=True)
