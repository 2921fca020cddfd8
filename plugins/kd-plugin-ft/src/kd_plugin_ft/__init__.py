"""Factor transfer (Kim et al., 2018)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper(
    "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018, "https://arxiv.org/abs/1802.04977"
)


@hookimpl
def losses() -> list[Component]:
    """Offer `ft`."""
    return [
        Component(
            name="ft",
            factory="kd_plugin_ft.loss:FTLoss",
            schema="schemas/ft.json",
            summary="distance of the student's factors from the teacher's, both of length one",
            examples="kd_plugin_ft.examples:EXAMPLES",
            paper=PAPER,
            inputs=(
                Input("student", help="factors (B, ...): the output of a translator"),
                Input("teacher", help="factors of the same shape: the output of a paraphraser's encoder"),
            ),
            stages="two: the paraphraser learns first",
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `ft_paraphraser` and `ft_translator`."""
    maps = (Input("x", help="feature maps (B, C, H, W)"),)
    return [
        Component(
            name="ft_paraphraser",
            factory="kd_plugin_ft.factors:Paraphraser",
            schema="schemas/ft_paraphraser.json",
            summary="an autoencoder of the teacher's features; its encoder yields the factors",
            examples="kd_plugin_ft.examples:EXAMPLES",
            paper=PAPER,
            inputs=maps,
        ),
        Component(
            name="ft_translator",
            factory="kd_plugin_ft.factors:Translator",
            schema="schemas/ft_translator.json",
            summary="three convolutions from the student's features to the teacher's factors",
            examples="kd_plugin_ft.examples:EXAMPLES",
            paper=PAPER,
            inputs=maps,
        ),
    ]
