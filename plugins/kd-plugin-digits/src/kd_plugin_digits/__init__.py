"""The digits of scikit-learn, and small models for them."""

from kdcore.component import Component, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def datasets() -> list[Component]:
    """Offer `digits`."""
    return [
        Component(
            name="digits",
            factory="kd_plugin_digits.dataset:Digits",
            schema="schemas/digits.json",
            summary="1,797 handwritten digits of 8 x 8 pixels",
            examples="kd_plugin_digits.examples:EXAMPLES",
            paper=Paper(
                "Optical Recognition of Handwritten Digits (UCI Machine Learning Repository)",
                1998,
                "https://doi.org/10.24432/C50P49",
            ),
        )
    ]


@hookimpl
def models() -> list[Component]:
    """Offer `digits_cnn` and `digits_mlp`."""
    return [
        Component(
            name="digits_cnn",
            factory="kd_plugin_digits.networks:DigitsCNN",
            schema="schemas/digits_cnn.json",
            summary="a small convolutional network for images of 8 x 8",
            examples="kd_plugin_digits.examples:EXAMPLES",
        ),
        Component(
            name="digits_mlp",
            factory="kd_plugin_digits.networks:DigitsMLP",
            schema="schemas/digits_mlp.json",
            summary="a small network of linear layers for images of 8 x 8",
            examples="kd_plugin_digits.examples:EXAMPLES",
        ),
    ]
