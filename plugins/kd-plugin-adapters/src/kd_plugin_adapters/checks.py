"""What the schemas of the adapters cannot say; torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint


def conv(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain of a stride or padding whose kernel is to be found from the shapes."""
    if params.get("kernel_size") is None:
        for name, neutral in (("stride", 1), ("padding", 0)):
            if params.get(name, neutral) != neutral:
                yield Complaint(f"{name} is for an explicit kernel_size; give kernel_size, or leave {name} out", name)


def resize(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain of align_corners in a mode without corners."""
    mode = params.get("mode", "nearest")
    if params.get("align_corners") and mode not in ("linear", "cubic"):
        yield Complaint(f"align_corners is for the modes linear and cubic, not for {mode}", "align_corners")
