"""Models that `kd export` has made smaller."""

from kdcore.component import Component
from kdcore.hookspecs import hookimpl


@hookimpl
def models() -> list[Component]:
    """Offer `compact`."""
    return [
        Component(
            name="compact",
            factory="kd_plugin_compact.model:compact",
            schema="schemas/compact.json",
            summary="a smaller model that kd export wrote, with its weights",
            examples="kd_plugin_compact.examples:EXAMPLES",
        )
    ]
