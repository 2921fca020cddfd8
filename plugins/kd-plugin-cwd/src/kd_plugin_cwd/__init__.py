"""Channel-wise distillation (Shu et al., 2021)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `cwd`."""
    return [
        Component(
            name="cwd",
            factory="kd_plugin_cwd.loss:CWDLoss",
            schema="schema.json",
            examples="kd_plugin_cwd.examples:EXAMPLES",
            summary="divergence between the softened spatial distributions of every channel",
            paper=Paper(
                "Channel-wise Knowledge Distillation for Dense Prediction", 2021, "https://arxiv.org/abs/2011.13256"
            ),
            inputs=(
                Input("student", help="feature map or dense logits (B, C, *spatial)"),
                Input("teacher", help="of the same shape"),
            ),
        )
    ]
