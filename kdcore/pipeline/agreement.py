"""Frozen parts, which have to be the same in every process: their weights are exchanged by nothing that trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from kdcore import collective
from kdcore.digest import digest_of
from kdcore.errors import Place, WiringError

Gather = Callable[[str], list[str]]

_SHOWN = 3
_REPAIR = (
    "each process would distil towards another one: load the same weights in each, seed the generators before the "
    "model is built (torch.manual_seed(0)), or send those of process 0: "
    "for tensor in {name}.state_dict().values(): torch.distributed.broadcast(tensor, 0)"
)


def check_agreement(
    parts: Mapping[str, nn.Module],
    places: Mapping[str, Place],
    *,
    gather: Gather | None = None,
    repair: str = _REPAIR,
) -> None:
    """Compare the weights and persistent buffers of frozen parts over all processes, by one digest of all of them.

    Every process calls it with the same parts. Buffers that are not persistent, often caches of what a model
    has seen, are not compared, nor are tensors that are split among the processes or lie on no device.

    Arguments:
        parts: the parts by name.
        places: where the config names them.
        gather: returns every process's text, in their order; by default over the default process group.
        repair: what to do about it, with the braces `{name}` where a part's name belongs.

    Raises:
        WiringError: in every process, if a part is not the same in all of them; names the part, the processes
            and the tensors.
    """
    if gather is None:
        if collective.process_count() == 1:
            return
        gather = _gathered(parts.values())
    digests = gather(digest_of({name: _tensors(part) for name, part in parts.items()}))
    if len(set(digests)) == 1:
        return
    own = {name: {key: digest_of(each) for key, each in _tensors(part).items()} for name, part in parts.items()}
    every = [json.loads(text) for text in gather(json.dumps(own))]
    found = {name: _difference(name, every) for each in every for name in each}
    found = {name: what for name, what in found.items() if what}
    first = next(iter(found))
    raise WiringError("; ".join(found.values()), place=places.get(first, Place()), repair=repair.format(name=first))


def _difference(name: str, every: list[dict[str, dict[str, str]]]) -> str:
    """Return which processes have another part of this name than the first, and in what; nothing if none has."""
    first, *others = [each.get(name) for each in every]
    ranks = [rank for rank, other in enumerate(others, start=1) if other != first]
    if not ranks:
        return ""
    start = f"{name!r} is frozen and not the same in every process: {_listed('process', 'processes', ranks)}"
    verb = "differs" if len(ranks) == 1 else "differ"
    present = [each or {} for each in (first, *(others[rank - 1] for rank in ranks))]
    keys = list(dict.fromkeys(key for each in present for key in each))
    unlike = [key for key in keys if len({each.get(key) for each in present}) > 1]
    tensors = f"{len(unlike)} of {len(keys)} tensors" if keys else "whether there is one"
    return f"{start} {verb} from process 0 in {tensors} ({_shown(unlike)})"


def _listed(one: str, many: str, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{one} {numbers[0]}"
    return f"{many} {_shown([str(each) for each in numbers])}"


def _shown(words: list[str]) -> str:
    more = f", ... ({len(words)} in all)" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    """Return what has to be equal: the tensors of a part's state that are whole, and here."""
    return {
        name: value
        for name, value in part.state_dict().items()
        if isinstance(value, Tensor)
        # A part of a tensor is this process's alone; what is kept elsewhere until it is used has no value here.
        and not (hasattr(value, "to_local") or value.is_meta)
        # What a module says about itself, in a form that is its own.
        and not name.endswith("_extra_state")
    }


def _gathered(parts: Iterable[nn.Module]) -> Gather:
    """Return how texts travel over the default process group: as bytes, from the device that the parts are on."""
    tensors = (tensor for part in parts for tensor in _tensors(part).values())
    device = next((each.device for each in tensors), torch.device("cpu"))

    def gather(text: str) -> list[str]:
        sent = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8).to(device)
        return bytes(collective.gather(sent).tolist()).decode().splitlines()

    return gather
