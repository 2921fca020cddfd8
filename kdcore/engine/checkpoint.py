"""One checkpoint: the Objective's tensors in safetensors, the rest of the training state beside them."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kdcore.engine.disk import disk_errors, flush
from kdcore.errors import RunError
from kdcore.pipeline.readable import ALLOWED, MEND, unreadable

TENSORS = "objective.safetensors"
STATE = "state.pt"
MANIFEST = "manifest.json"
FORMAT = 1

_CHUNK = 2**20


class DamagedCheckpointError(RunError):
    """A checkpoint lacks a file, or a file is not what was written."""


class UnreadableCheckpointError(RunError):
    """A checkpoint is what was written, and holds what torch does not read without running code."""


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write named tensors atomically; tied tensors are written once per name, so any class can load them."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if pointer in seen or value.untyped_storage().nbytes() != value.nbytes else value
        seen.add(pointer)
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    with disk_errors(file), _removed_on_error(partial):
        file.parent.mkdir(parents=True, exist_ok=True)
        # The library makes files that only their owner can read; weights are to be shared as any other file is.
        partial.touch()
        mode = partial.stat().st_mode
        safetensors.torch.save_file(plain, partial)
        partial.chmod(mode)
        flush(partial)
        partial.replace(file)
        flush(file.parent)


def save_checkpoint(folder: Path, whole: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder`, by renaming a complete new one over it; `whole` is a module's state_dict.

    Raises:
        RunError: it could not be written, or could not be read back; what was there is untouched.
    """
    _check_readable(folder, whole, state)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(folder), _removed_on_error(partial):
        _write(partial, whole, state)
        if folder.exists():
            folder.replace(old)
        partial.replace(folder)
        flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, objective: nn.Module) -> dict[str, Any]:
    """Load the tensors of `folder` into the Objective and return the rest of the state.

    Raises:
        DamagedCheckpointError: it is not what was written.
        RunError: it belongs to an Objective with other tensors.
    """
    return read_checkpoint(folder).load_into(objective)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: the Objective's tensors and other state, and the rest of the state of training."""

    folder: Path
    whole: dict[str, Any]
    state: dict[str, Any]

    def load_into(self, objective: nn.Module) -> dict[str, Any]:
        """Load the Objective and return the rest of the state; raises RunError if it is another Objective's."""
        try:
            objective.load_state_dict(self.whole)
        except RuntimeError as error:
            raise RunError(
                f"the checkpoint {str(self.folder)!r} does not fit the models, adapters and losses of this config: "
                f"{error}",
                repair="resume with the config, plugins and versions that the run was started with",
            ) from error
        return self.state


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, after checking it."""
    state = read_state(folder)
    return Checkpoint(folder, {**safetensors.torch.load_file(folder / TENSORS), **state.pop("extra")}, state)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state in a checkpoint, after checking it, and load nothing.

    Raises:
        DamagedCheckpointError: it is not what was written.
        UnreadableCheckpointError: what was written cannot be read.
    """
    check_checkpoint(folder)
    file = folder / STATE
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpointError(
            f"the checkpoint {str(folder)!r} cannot be read, though it is whole: {_refused(error)} in its {STATE}",
            repair=f"{ALLOWED} can be read; {MEND}, and start a new run, or remove {str(folder.parent)!r} to train its "
            "stage anew",
        ) from error
    return state


def check_checkpoint(folder: Path) -> None:
    """Raise DamagedCheckpointError unless every file of `folder` is complete and as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): (int(entry["bytes"]), int(entry["crc32"])) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _damaged(folder, f"its {MANIFEST} cannot be read") from error
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"the checkpoint {str(folder)!r} has format {manifest.get('format')!r}, this version reads {FORMAT}",
            repair="resume with the version of kdcore that wrote it",
        )
    for name in {TENSORS, STATE} - files.keys():
        raise _damaged(folder, f"its {MANIFEST} does not list {name}")
    for name, written in files.items():
        try:
            found = _measured(folder / name)
        except OSError as error:
            raise _damaged(folder, f"{name} cannot be read: {error.strerror}") from error
        if found != written:
            size = f"{found[0]} of {written[0]} bytes" if found[0] != written[0] else "other bytes than were written"
            raise _damaged(folder, f"{name} has {size}")


def _check_readable(folder: Path, whole: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise RunError for what could be written and not be read, such as a number of NumPy."""
    parts = [(key, value) for key, value in whole.items() if not isinstance(value, Tensor)]
    for key, value in (*parts, *state.items()):
        for where, found in unreadable(value, key):
            raise RunError(
                f"the checkpoint {str(folder)!r} is not written, because it could not be read back: {where} is of type "
                f"{found}, and {ALLOWED} are allowed",
                repair=f"{MEND}; what was saved before is untouched",
            )


def _write(folder: Path, whole: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    save_tensors({key: value for key, value in whole.items() if isinstance(value, Tensor)}, folder / TENSORS)
    extra = {key: value for key, value in whole.items() if not isinstance(value, Tensor)}
    # Through a file of Python's, whose errors say what is wrong: torch's own writer does not.
    with (folder / STATE).open("wb") as file:
        try:
            torch.save({**state, "extra": extra}, file)
        except RuntimeError as error:
            raise _cause(error) from error
    flush(folder / STATE)
    files = {name: dict(zip(("bytes", "crc32"), _measured(folder / name), strict=True)) for name in (TENSORS, STATE)}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}) + "\n", encoding="utf-8")
    flush(folder / MANIFEST)
    flush(folder)


def _refused(error: pickle.UnpicklingError) -> str:
    """Return what torch refuses to read, without its advice to read it in a way that runs code."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"torch refuses {found[1]}" if found else "torch refuses an object"


def _cause(error: BaseException) -> BaseException:
    """Return the disk's own error where torch's writer stumbled over it later."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return found or error


def _measured(file: Path) -> tuple[int, int]:
    """Return the size and the CRC-32 of a file."""
    size = crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


def _damaged(folder: Path, what: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"the checkpoint {str(folder)!r} is damaged: {what}", repair="resume from an earlier one, or run again"
    )
