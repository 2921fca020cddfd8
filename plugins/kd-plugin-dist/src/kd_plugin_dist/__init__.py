"""DIST and DIST+: relations instead of values (Huang et al., 2022 and 2025)."""

from kd_plugin_dist import checks
from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl

LOGITS = (
    Input("student", role=Role.POSITIONS, default="student", help="logits (B, ..., C)"),
    Input("teacher", role=Role.POSITIONS, default="teacher", help="logits of the same shape"),
)


@hookimpl
def losses() -> list[Component]:
    """Offer `dist` and `dist_plus`."""
    return [
        Component(
            name="dist",
            factory="kd_plugin_dist.loss:DISTLoss",
            schema="schema.json#/$defs/dist",
            examples="kd_plugin_dist.examples:EXAMPLES",
            check=checks.dist,
            summary="correlation of class probabilities, over the classes of a sample and the samples of a class",
            paper=Paper("Knowledge Distillation from A Stronger Teacher", 2022, "https://arxiv.org/abs/2205.10536"),
            inputs=LOGITS,
        ),
        Component(
            name="dist_plus",
            factory="kd_plugin_dist.plus:DISTPlusLoss",
            schema="schema.json#/$defs/dist_plus",
            examples="kd_plugin_dist.examples:EXAMPLES",
            check=checks.dist_plus,
            summary="DIST, and the correlation of feature maps over channels and over samples",
            paper=Paper(
                "DIST+: Knowledge Distillation from A Stronger Adaptive Teacher",
                2025,
                "https://doi.org/10.1109/TPAMI.2025.3554235",
            ),
            inputs=(
                *LOGITS,
                Input("student_feature", help="feature map (B, D, *spatial)"),
                Input("teacher_feature", help="feature map of the same shape"),
            ),
        ),
    ]
