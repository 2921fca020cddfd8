"""Configs of transformers, made from a mapping or read from a folder, with every key checked."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kd_plugin_transformers.checks import OWN
from kd_plugin_transformers.folder import CONFIG, folder_of
from kdcore.errors import WiringError, suggestion

# Keys that every config takes though its class does not list them.
_COMMON = ("num_labels", "partial_rotary_factor", "rope_scaling", "rope_theta")


def made_config(keys: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the config that `keys` describe, `model_type` among them; raises WiringError for an unknown one."""
    model_type, others = keys["model_type"], {key: value for key, value in keys.items() if key != "model_type"}
    if model_type not in CONFIG_MAPPING:
        raise WiringError(
            f"transformers has no model_type {model_type!r}",
            repair=suggestion(str(model_type), CONFIG_MAPPING, noun="model types"),
        )
    check_keys(CONFIG_MAPPING[model_type], others, f"the config of {model_type!r}")
    return AutoConfig.for_model(model_type, **others)


def read_config(path: str, keys: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the config in a folder with `keys` changed; raises WiringError where it cannot be used."""
    folder = folder_of(path)
    try:
        # Without an answer to trust_remote_code it asks on the terminal: a folder's own code never runs here.
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise WiringError(
            f"{str(folder / CONFIG)!r} cannot be used: {str(error).splitlines()[0]}",
            repair="models must be among those of the installed transformers; code in their folder is never run",
        ) from error
    # A folder may have keys of its own, which a model of the same type may use.
    check_keys(type(config), keys, f"the config in {path!r}", extra=vars(config))
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **keys)


def check_keys(cls: type[PreTrainedConfig], keys: Mapping[str, Any], where: str, extra: Iterable[str] = ()) -> None:
    """Raise WiringError for a key that a config would keep and never use."""
    own = (*inspect.signature(cls).parameters, *inspect.signature(PreTrainedConfig).parameters)
    known = {*own, *cls.attribute_map, *_COMMON, *extra} - set(OWN)
    for key, value in keys.items():
        if key not in known:
            raise WiringError(f"{where} has no key {key!r}", repair=suggestion(key, known, noun="keys"))
        inner = cls.sub_configs.get(key)
        if isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, PreTrainedConfig):
            check_keys(inner, {each: value[each] for each in value if each != "model_type"}, f"{key} of {where}")
