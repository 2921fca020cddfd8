"""Text as bytes, and a small transformer language model."""

from kd_plugin_text.checks import check_transformer
from kdcore.component import Component
from kdcore.hookspecs import hookimpl


@hookimpl
def datasets() -> list[Component]:
    """Offer `text_bytes`."""
    return [
        Component(
            name="text_bytes",
            factory="kd_plugin_text.dataset:TextBytes",
            schema="schemas/text_bytes.json",
            summary="blocks of bytes from text files and the bytes that follow",
            examples="kd_plugin_text.examples:EXAMPLES",
        )
    ]


@hookimpl
def models() -> list[Component]:
    """Offer `text_transformer`."""
    return [
        Component(
            name="text_transformer",
            factory="kd_plugin_text.model:TextTransformer",
            schema="schemas/text_transformer.json",
            summary="a small decoder-only transformer language model",
            check=check_transformer,
            examples="kd_plugin_text.examples:EXAMPLES",
        )
    ]
