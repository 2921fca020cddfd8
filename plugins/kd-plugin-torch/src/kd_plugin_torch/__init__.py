"""The losses of torch.nn under their own names."""

from kdcore.component import Component, Input, Role
from kdcore.hookspecs import hookimpl

POSITIONS, LABELS = Role.POSITIONS, Role.LABELS


def _loss(name: str, factory: str, summary: str, *inputs: Input) -> Component:
    return Component(
        name=name,
        factory=f"kd_plugin_torch.{factory}",
        schema=f"schema.json#/$defs/{name}",
        summary=summary,
        examples="kd_plugin_torch.examples:EXAMPLES",
        inputs=inputs,
    )


def _classification(name: str, factory: str, summary: str, input: str, target: str) -> Component:
    return _loss(
        name,
        factory,
        summary,
        Input("input", role=POSITIONS, default="student", help=input),
        Input("target", role=LABELS, default="batch:target", help=target),
    )


def _comparison(name: str, factory: str, summary: str, input: str = "any shape", first: str = "input") -> Component:
    # No defaults: a forgotten target must be an error, not the labels.
    return _loss(
        name,
        factory,
        summary,
        Input(first, role=POSITIONS, help=input),
        Input("target", role=POSITIONS, help=f"of the shape of {first}"),
    )


@hookimpl
def losses() -> list[Component]:
    """Offer every loss of torch.nn that a config can describe."""
    return [*_classifications(), *_comparisons(), *_of_three()]


def _classifications() -> list[Component]:
    return [
        _classification(
            "cross_entropy",
            "class_loss:CrossEntropyLoss",
            "cross entropy of logits against class indices or probabilities",
            "logits, the classes along class_dim",
            "class indices (the shape of input without the classes), or probabilities (of its shape)",
        ),
        _classification(
            "nll",
            "class_loss:NLLLoss",
            "negative log likelihood of log-probabilities against class indices",
            "log-probabilities, the classes along class_dim",
            "class indices, of the shape of input without the classes",
        ),
        _classification(
            "multi_margin",
            "loss:MultiMarginLoss",
            "multi-class margin between the right class and the others",
            "scores (N, C)",
            "class indices (N,)",
        ),
        _classification(
            "multi_label_margin",
            "loss:MultiLabelMarginLoss",
            "multi-class margin with several right classes",
            "scores (N, C)",
            "class indices (N, C), the first -1 of a row ends it",
        ),
        _classification(
            "multi_label_soft_margin",
            "loss:MultiLabelSoftMarginLoss",
            "mean over classes of one-against-all logistic losses",
            "logits (N, C)",
            "0 or 1 (N, C)",
        ),
        _classification(
            "bce",
            "loss:BCELoss",
            "binary cross entropy of probabilities",
            "probabilities, any shape",
            "numbers in [0, 1], of the shape of input",
        ),
        _classification(
            "bce_with_logits",
            "loss:BCEWithLogitsLoss",
            "binary cross entropy of logits",
            "logits, any shape",
            "numbers in [0, 1], of the shape of input",
        ),
        _classification(
            "soft_margin",
            "loss:SoftMarginLoss",
            "logistic loss of two classes",
            "scores, any shape",
            "1 or -1, of the shape of input",
        ),
    ]


def _comparisons() -> list[Component]:
    return [
        _comparison("mse", "loss:MSELoss", "squared difference"),
        _comparison("l1", "loss:L1Loss", "absolute difference"),
        _comparison("smooth_l1", "loss:SmoothL1Loss", "squared difference below beta, absolute above"),
        _comparison("huber", "loss:HuberLoss", "squared difference below delta, absolute above, unscaled"),
        _comparison("kl_div", "loss:KLDivLoss", "pointwise KL divergence of log-probabilities", "log-probabilities"),
        _comparison(
            "poisson_nll",
            "loss:PoissonNLLLoss",
            "negative log likelihood of counts",
            "the logarithm of the expected count, or the count itself (log_input: false)",
            first="log_input",
        ),
    ]


def _of_three() -> list[Component]:
    first, second = (Input(name, role=POSITIONS, help="embeddings (..., D)") for name in ("input1", "input2"))
    return [
        _loss(
            "gaussian_nll",
            "loss:GaussianNLLLoss",
            "negative log likelihood of a Gaussian with predicted variance",
            Input("input", role=POSITIONS, help="predicted mean, any shape"),
            Input("target", role=POSITIONS, help="of the shape of input"),
            Input("var", role=POSITIONS, help="of the shape of input, or with a last dimension of 1 or none"),
        ),
        _loss(
            "cosine_embedding",
            "loss:CosineEmbeddingLoss",
            "pulls embeddings together, or apart, by their cosine",
            first,
            second,
            Input("target", required=False, role=LABELS, help="1 together, -1 apart, (...); together unless given"),
        ),
        _loss(
            "hinge_embedding",
            "loss:HingeEmbeddingLoss",
            "small distances for similar pairs, distances above a margin for others",
            Input("input", role=POSITIONS, help="distances, any shape"),
            Input("target", role=LABELS, help="1 similar, -1 not, of the shape of input"),
        ),
        _loss(
            "margin_ranking",
            "loss:MarginRankingLoss",
            "puts one score above another by a margin",
            Input("input1", role=POSITIONS, help="scores, any shape"),
            Input("input2", role=POSITIONS, help="of the shape of input1"),
            Input("target", role=LABELS, help="1 where input1 should be higher, else -1, of the shape of input1"),
        ),
        _loss(
            "triplet_margin",
            "loss:TripletMarginLoss",
            "an anchor is closer to a positive than to a negative by a margin",
            *(Input(name, role=POSITIONS, help="embeddings (..., D)") for name in ("anchor", "positive", "negative")),
        ),
        _loss(
            "ctc",
            "loss:CTCLoss",
            "connectionist temporal classification of unaligned sequences",
            Input("log_probs", help="log-probabilities (T, N, C)"),
            Input("targets", help="class indices (N, S), or all of them in a row"),
            Input("input_lengths", help="(N,)"),
            Input("target_lengths", help="(N,)"),
        ),
    ]
