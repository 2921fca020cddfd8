"""Contrastive representation distillation (Tian et al., 2020)."""

from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl

PAPER = Paper("Contrastive Representation Distillation", 2020, "https://arxiv.org/abs/1910.10699")


@hookimpl
def losses() -> list[Component]:
    """Offer `crd`."""
    return [
        Component(
            name="crd",
            factory="kd_plugin_crd.loss:CRDLoss",
            schema="schemas/crd.json",
            examples="kd_plugin_crd.examples:EXAMPLES",
            summary="tells a sample's embedding in the other network from those of other samples, kept in two banks",
            paper=PAPER,
            inputs=(
                Input("student", help="embeddings (B, D) of length one, as crd_head makes them"),
                Input("teacher", help="embeddings (B, D) of length one; what made them may be trained too"),
                Input("index", role=Role.LABELS, default="batch:index", help="(B,), the samples' places in the banks"),
                Input("target", required=False, role=Role.LABELS, help="(B,), labels instead of the data set's"),
                Input("contrast_index", required=False, help="(B, K + 1), the positive first, instead of drawing"),
            ),
        )
    ]


@hookimpl
def datasets() -> list[Component]:
    """Offer `contrasted`."""
    return [
        Component(
            name="contrasted",
            factory="kd_plugin_crd.contrasted:Contrasted",
            schema="schemas/contrasted.json",
            examples="kd_plugin_crd.examples:EXAMPLES",
            summary="another data set, each of whose samples names the samples it is contrasted with",
            paper=PAPER,
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `crd_head`."""
    return [
        Component(
            name="crd_head",
            factory="kd_plugin_crd.head:CRDHead",
            schema="schemas/crd_head.json",
            examples="kd_plugin_crd.examples:EXAMPLES",
            summary="a linear map to embeddings of length one",
            paper=PAPER,
            inputs=(Input("x", help="features (B, ...), flattened"),),
        )
    ]
