"""Examples on which the conformance checks run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

CLASSES = 5
SIZE = 3

Draw = Callable[[Generator, int], Tensor]
Inputs = Callable[[Generator, int], dict[str, Tensor]]


def _normal(generator: Generator, batch: int) -> Tensor:
    return torch.randn(batch, CLASSES, generator=generator)


def _positive(generator: Generator, batch: int) -> Tensor:
    return torch.rand(batch, CLASSES, generator=generator) + 0.5


def _probabilities(generator: Generator, batch: int) -> Tensor:
    return torch.rand(batch, CLASSES, generator=generator)


def _distributions(generator: Generator, batch: int) -> Tensor:
    return _normal(generator, batch).softmax(-1)


def _log_distributions(generator: Generator, batch: int) -> Tensor:
    return _normal(generator, batch).log_softmax(-1)


def _same(generator: Generator, batch: int) -> dict[str, Tensor]:
    target = _normal(generator, batch)
    return {"input": target.clone(), "target": target}


def _same_distributions(generator: Generator, batch: int) -> dict[str, Tensor]:
    target = _distributions(generator, batch)
    return {"input": target.log(), "target": target}


def _classes(generator: Generator, batch: int) -> Tensor:
    return torch.randint(CLASSES, (batch,), generator=generator)


def _signs(generator: Generator, batch: int) -> Tensor:
    return 2.0 * torch.randint(2, (batch, CLASSES), generator=generator) - 1


def _sign_of_rows(generator: Generator, batch: int) -> Tensor:
    return torch.ones(batch) - 2 * (torch.arange(batch) % 2)


def _sets_of_classes(generator: Generator, batch: int) -> Tensor:
    # The first -1 of a row ends it.
    return torch.tensor([3, 0, -1, 1, 2]).repeat(batch, 1)


def _labelled_positions(generator: Generator, batch: int) -> dict[str, Tensor]:
    target = torch.randint(CLASSES, (batch, SIZE), generator=generator)
    target[:, 1] = torch.where(torch.arange(batch) % 2 == 0, -100, target[:, 1])
    return {"input": torch.randn(batch, SIZE, CLASSES, generator=generator), "target": target}


def _sequences(generator: Generator, batch: int) -> dict[str, Tensor]:
    return {
        "log_probs": torch.randn(6, batch, CLASSES, generator=generator).log_softmax(-1),
        "targets": torch.randint(1, CLASSES, (batch, SIZE), generator=generator),
        "input_lengths": torch.full((batch,), 6),
        "target_lengths": 1 + torch.arange(batch) % SIZE,
    }


def _example(
    learns: tuple[str, ...] = ("input",),
    skip: dict[str, str] | None = None,
    equal: Inputs | None = None,
    **draws: Draw,
) -> Example:
    return Example(
        inputs=lambda generator, batch: {name: draw(generator, batch) for name, draw in draws.items()},
        learns=learns,
        equal=equal,
        skip=skip or {},
    )


BY_HAND = {"bounds_refused": "torch's own constructors take any number; a config and create(...) do not"}
EXAMPLES = {
    "cross_entropy": [
        _example(input=_normal, target=_classes),
        Example(
            name="tokens",
            inputs=_labelled_positions,
            params={"reduction": "tokens", "weight": [1, 2, 1, 0.5, 1], "label_smoothing": 0.1},
        ),
        Example(
            name="probabilities",
            inputs=lambda generator, batch: {
                "input": _normal(generator, batch),
                "target": _distributions(generator, batch),
            },
        ),
    ],
    "nll": [
        _example(input=_log_distributions, target=_classes),
        Example(name="tokens", inputs=_labelled_positions, params={"reduction": "tokens"}),
    ],
    "multi_margin": [_example(input=_normal, target=_classes)],
    "multi_label_margin": [_example(input=_normal, target=_sets_of_classes)],
    "multi_label_soft_margin": [_example(input=_normal, target=_probabilities)],
    "bce": [
        _example(
            input=_probabilities,
            target=_probabilities,
            skip={"gradient_bounded": "torch takes the logarithm of 0 for -100, with a gradient of 1e12"},
        )
    ],
    "bce_with_logits": [_example(input=_normal, target=_probabilities)],
    "soft_margin": [_example(input=_normal, target=_signs)],
    "mse": [_example(input=_normal, target=_normal, equal=_same)],
    "l1": [_example(input=_normal, target=_normal, equal=_same)],
    "smooth_l1": [_example(input=_normal, target=_normal, equal=_same, skip=BY_HAND)],
    "huber": [_example(input=_normal, target=_normal, equal=_same, skip=BY_HAND)],
    "kl_div": [
        Example(
            inputs=lambda generator, batch: {
                "input": _log_distributions(generator, batch),
                "target": _distributions(generator, batch),
            },
            equal=_same_distributions,
            skip={"equal_gradient": "it takes log-probabilities as they come, also such that sum to more than one"},
        )
    ],
    "poisson_nll": [
        _example(
            ("log_input",),
            {**BY_HAND, "bounds_work": "without log_input the inputs are rates, and these are logarithms"},
            log_input=_normal,
            target=_positive,
        )
    ],
    "gaussian_nll": [
        _example(
            ("input", "var"),
            {
                **BY_HAND,
                "gradient_bounded": "torch takes a variance of 0 for eps, which is 1e-6",
                "other_device": "torch looks for negative variances",
            },
            input=_normal,
            target=_normal,
            var=_positive,
        )
    ],
    "cosine_embedding": [
        _example(
            ("input1", "input2"),
            {**BY_HAND, "gradient_bounded": "torch adds 1e-12 to the square of a length and divides by its root"},
            input1=_normal,
            input2=_normal,
            target=_sign_of_rows,
        ),
    ],
    "hinge_embedding": [_example(input=_positive, target=_signs)],
    "margin_ranking": [_example(("input1", "input2"), input1=_normal, input2=_normal, target=_signs)],
    "triplet_margin": [
        _example(("anchor", "positive", "negative"), BY_HAND, anchor=_normal, positive=_normal, negative=_normal),
    ],
    "ctc": [
        Example(
            inputs=_sequences,
            batch_dims={"log_probs": 1},
            no_effect={"zero_infinity": "it counts where targets are longer than their inputs, and the loss infinite"},
            skip={
                **BY_HAND,
                "gradients": "torch gives the gradient of the logits before log_softmax, which sums to 0",
            },
        )
    ],
}
