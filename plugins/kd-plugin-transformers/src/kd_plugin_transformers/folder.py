"""What lies in the local folder of a model or a tokenizer, and what to say where something is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kdcore.errors import Problem, suggestion

CONFIG = "config.json"
_INDEX = ".index.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# One or two parts of letters, digits, '.', '-' and '_': the form of a repository's name on the hub.
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def folder_of(path: str) -> Path:
    """Return the folder that `path` means."""
    return Path(path).expanduser()


def model_problem(path: str) -> Problem | None:
    """Return what keeps a model from being loaded from `path`: no folder, no config, no or not all weights."""
    folder = folder_of(path)
    problem = _missing(path, folder)
    if problem is not None:
        return problem
    if not (folder / CONFIG).is_file():
        if (folder / "adapter_config.json").is_file():
            what = f"the folder {path!r} holds an adapter (PEFT), not a whole model"
            return Problem(what, repair="merge it into its base model first (merge_and_unload, save_pretrained)")
        return Problem(
            f"the folder {path!r} has no {CONFIG}; {_found(folder)}", repair="name a folder of save_pretrained"
        )
    absent = _absent_weights(folder)
    if absent:
        what = f"the folder {path!r} lacks weights: there is no {absent}; {_found(folder)}"
        return Problem(what, repair="copy or download the folder again, completely")
    return None


def tokenizer_problem(path: str) -> Problem | None:
    """Return what keeps a tokenizer from being loaded from `path`."""
    folder = folder_of(path)
    problem = _missing(path, folder)
    if problem is None and not has_tokenizer(path):
        what = f"the folder {path!r} has no tokenizer; {_found(folder)}"
        return Problem(what, repair=f"it needs {_TOKENIZERS[0]}, as the tokenizer's save_pretrained writes it")
    return problem


def has_tokenizer(path: str) -> bool:
    """Whether a folder holds files of a tokenizer."""
    return any((folder_of(path) / name).is_file() for name in _TOKENIZERS)


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is no such file or no object in it."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _missing(path: str, folder: Path) -> Problem | None:
    if folder.is_dir():
        return None
    if folder.exists():
        return Problem(f"{path!r} is a file", repair="name the folder that holds it")
    what = f"there is no folder {path!r} (looked for {str(folder.absolute())!r})"
    if _HUB_NAME.fullmatch(path) and ("/" not in path or not folder.parent.is_dir()):
        name = path.rsplit("/", maxsplit=1)[-1]
        return Problem(
            f"{what}, and nothing is downloaded",
            repair=f"if this is a name on the Hugging Face hub, download it before: hf download {path} "
            f"--local-dir models/{name}, then write models/{name}",
        )
    siblings = [each.name for each in folder.parent.iterdir() if each.is_dir()] if folder.parent.is_dir() else []
    return Problem(what, repair=suggestion(folder.name, siblings, noun="folders there"))


def _absent_weights(folder: Path) -> str:
    """Return the name of a file of weights that is needed and not there; nothing if all are."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return ""
        index = read_json(folder / (name + _INDEX))
        if index:
            shards = sorted(set(index.get("weight_map", {}).values()))
            return next((shard for shard in shards if not (folder / shard).is_file()), "")
    return " or ".join(_WEIGHTS)


def _found(folder: Path) -> str:
    names = sorted(each.name for each in folder.iterdir())
    return f"it holds {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}" if names else "it is empty"
