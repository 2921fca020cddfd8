"""Weights from a local folder: nothing is initialised at random unless the config allows it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from kd_plugin_transformers.folder import folder_of
from kdcore.errors import WeightsError

_SHOWN = 5


@dataclass(frozen=True)
class LoadReport:
    """What became of the weights in a folder."""

    path: str
    loaded: int
    total: int
    new: list[str]
    left: list[str]

    @property
    def remarkable(self) -> bool:
        """Whether something is random or was left in the files."""
        return bool(self.new or self.left)

    def __str__(self) -> str:
        text = f"loaded {self.loaded} of {self.total} tensors from {self.path!r}"
        text += f"; initialised at random: {_listed(self.new)}" if self.new else ""
        return text + (f"; in the files, but not in the model: {_listed(self.left)}" if self.left else "")


def load_model(
    cls: Any, path: str, config: PreTrainedConfig, dtype: str, allow_new: Sequence[str]
) -> tuple[PreTrainedModel, LoadReport]:
    """Return the model in a folder and what was loaded.

    Raises:
        WeightsError: the files cannot be read, or lack weights that `allow_new` does not name, or hold them
            in another shape.
    """
    try:
        model, info = cls.from_pretrained(
            folder_of(path),
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            # It would raise without saying which; they are looked at below.
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # bytes that are no weights make the readers fail in any way
        raise WeightsError(
            f"the weights in {path!r} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}",
            repair="the files may be truncated, or of a version that the installed transformers does not read",
        ) from error
    shapes = {
        name: f"{name} is {tuple(file)} in the files and {tuple(own)} in the model"
        for name, file, own in sorted(info["mismatched_keys"])
    }
    missing = sorted(info["missing_keys"])
    new = sorted({*missing, *shapes})
    refused = [name for name in new if not any(_names(pattern, name) for pattern in allow_new)]
    if refused or info["error_msgs"]:
        texts = [shapes.get(name, f"{name} is missing") for name in refused] + list(info["error_msgs"])
        raise WeightsError(
            f"the weights in {path!r} do not fit {type(model).__name__}, and would be random: {_listed(texts, '; ')}",
            repair=_remedy(refused),
        )
    total = len(model.state_dict())
    return model, LoadReport(path, total - len(new), total, new, sorted(info["unexpected_keys"]))


def _remedy(refused: list[str]) -> str:
    modules = sorted({name.rpartition(".")[0] for name in refused} - {""})
    if len(modules) > _SHOWN:
        return "check task: and config:, which decide what the model holds and how large it is"
    return f"check task: and config:, or write allow_new: [{', '.join(modules)}] to train them from a random start"


def _names(pattern: str, name: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    every = list(names)
    return separator.join(every[:_SHOWN]) + (f"{separator}... ({len(every)} in all)" if len(every) > _SHOWN else "")
