"""Knowledge distillation meets self-supervision (Xu et al., 2020)."""

from kd_plugin_sskd import checks
from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl

PAPER = Paper("Knowledge Distillation Meets Self-Supervision", 2020, "https://arxiv.org/abs/2006.07114")
ROWS = "an image and its three rotations after one another"


@hookimpl
def losses() -> list[Component]:
    """Offer `sskd_auxiliary` and `sskd`."""
    return [
        Component(
            name="sskd_auxiliary",
            factory="kd_plugin_sskd.auxiliary:SSKDAuxiliaryLoss",
            schema="schemas/sskd_auxiliary.json",
            examples="kd_plugin_sskd.examples:EXAMPLES",
            summary="tells which image a rotated one was made from",
            paper=PAPER,
            inputs=(Input("embedding", help=f"(4 n, D), {ROWS}"),),
            stages="first of two: trains the teacher's head",
        ),
        Component(
            name="sskd",
            factory="kd_plugin_sskd.loss:SSKDLoss",
            schema="schemas/sskd.json",
            examples="kd_plugin_sskd.examples:EXAMPLES",
            check=checks.sskd,
            summary="labels, logits, and the similarities between rotated images and originals",
            paper=PAPER,
            inputs=(
                Input("student", default="student", help=f"logits (4 n, C), {ROWS}"),
                Input("teacher", default="teacher", help="logits of the same shape"),
                Input("student_embedding", help="(4 n, D), from an sskd_head"),
                Input("teacher_embedding", help="(4 n, D'), from an sskd_head that sskd_auxiliary trained"),
                Input("target", role=Role.LABELS, default="batch:target", help="(n,), one label for each image"),
            ),
            stages="second of two",
        ),
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `sskd_head`."""
    return [
        Component(
            name="sskd_head",
            factory="kd_plugin_sskd.head:SSKDHead",
            schema="schemas/sskd_head.json",
            examples="kd_plugin_sskd.examples:EXAMPLES",
            summary="two linear layers with ReLU between them, for embeddings",
            paper=PAPER,
            inputs=(Input("x", help="features (B, ...), flattened"),),
        )
    ]


@hookimpl
def datasets() -> list[Component]:
    """Offer `rotated`."""
    return [
        Component(
            name="rotated",
            factory="kd_plugin_sskd.rotated:Rotated",
            schema="schemas/rotated.json",
            examples="kd_plugin_sskd.examples:EXAMPLES",
            summary="batches of another data set, each image followed by its rotations by 90, 180 and 270 degrees",
            paper=PAPER,
        )
    ]
