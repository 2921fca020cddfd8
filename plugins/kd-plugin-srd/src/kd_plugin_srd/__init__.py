"""A projector and a logarithm: a simple recipe (Miles and Mikolajczyk, 2024)."""

from kd_plugin_srd import checks
from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl

PAPER = Paper(
    "Understanding the Role of the Projector in Knowledge Distillation", 2024, "https://arxiv.org/abs/2303.11098"
)


@hookimpl
def losses() -> list[Component]:
    """Offer `srd`."""
    return [
        Component(
            name="srd",
            factory="kd_plugin_srd.loss:SRDLoss",
            schema="schema.json#/$defs/srd",
            examples="kd_plugin_srd.examples:EXAMPLES",
            summary="logarithm of the summed powers of feature differences, and the divergence of the logits",
            paper=PAPER,
            inputs=(
                Input("student", role=Role.POSITIONS, default="student", help="logits (B, ..., C)"),
                Input("teacher", role=Role.POSITIONS, default="teacher", help="logits of the same shape"),
                Input("student_feature", help="projected features (B, ...), of an srd_projector"),
                Input("teacher_feature", help="features of the same shape, of an srd_projector with linear: false"),
            ),
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `srd_projector`."""
    return [
        Component(
            name="srd_projector",
            factory="kd_plugin_srd.projector:SRDProjector",
            schema="schema.json#/$defs/srd_projector",
            examples="kd_plugin_srd.examples:EXAMPLES",
            summary="mean over positions, a linear layer, and standardisation over the batch",
            paper=PAPER,
            inputs=(Input("x", help="features (B, D) or feature map (B, D, *spatial)"),),
            check=checks.srd_projector,
        )
    ]
