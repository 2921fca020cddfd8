import pytest
import torch
from kd_plugin_text.model import TextTransformer
from torch.nn import functional as F


def tokens(*shape, below=256):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(0))


def test_logits_and_gradients():
    model = TextTransformer(vocab_size=50, dim=16, heads=2)
    logits = model(tokens(3, 7, below=50))
    assert logits.shape == (3, 7, 50)
    F.cross_entropy(logits.flatten(0, 1), tokens(21, below=50)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_no_position_sees_a_later_one():
    torch.manual_seed(0)
    model = TextTransformer(dim=16).double().eval()
    first = tokens(1, 10)
    second = first.clone()
    second[0, 6] = (first[0, 6] + 1) % 256
    before, after = model(first), model(second)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6:] - after[:, 6:]).abs().amax(-1).min() > 1e-9


def test_attention_against_the_definition():
    torch.manual_seed(0)
    attention = TextTransformer(dim=12, heads=3).double().eval().blocks[0].attention
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    parts = (x @ attention.query_key_value.weight.T + attention.query_key_value.bias).split(12, -1)
    query, key, value = (part.view(2, 5, 3, 4) for part in parts)
    expected = torch.zeros(2, 5, 3, 4, dtype=torch.float64)
    for place in range(5):
        scores = torch.einsum("bhd,bkhd->bhk", query[:, place], key[:, : place + 1]) / 4**0.5
        expected[:, place] = torch.einsum("bhk,bkhd->bhd", scores.softmax(-1), value[:, : place + 1])
    torch.testing.assert_close(attention(x), attention.out(expected.flatten(2)))


def test_modules_have_readable_names():
    model = TextTransformer(depth=2)
    assert [name for name, _ in model.named_children()] == ["embed", "position", "dropout", "blocks", "norm", "head"]
    names = dict(model.named_modules())
    assert {"blocks.0.attention", "blocks.1.mlp", "blocks.0.attention_norm", "blocks.0.mlp_norm"} <= set(names)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_called_as_a_module(tied):
    model = TextTransformer(dim=16, tied=tied)
    seen = []
    model.head.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    logits = model(tokens(2, 3))
    ((entered, left),) = seen
    assert torch.equal(left, logits)
    torch.testing.assert_close(entered @ model.head.weight.T, logits)


def test_tied_weights_are_one_parameter():
    tied, loose = TextTransformer(dim=16), TextTransformer(dim=16, tied=False)
    assert tied.head.weight is tied.embed.weight
    assert loose.head.weight is not loose.embed.weight
    count = lambda model: sum(parameter.numel() for parameter in model.parameters())  # noqa: E731
    assert count(loose) - count(tied) == 256 * 16


@pytest.mark.parametrize("tied", [True, False])
def test_state_dict_round_trip(tied):
    first, second = TextTransformer(dim=16, tied=tied).eval(), TextTransformer(dim=16, tied=tied).eval()
    input = tokens(2, 5)
    assert not torch.equal(first(input), second(input))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(input), second(input))


def test_the_seed_decides_the_weights():
    def build():
        torch.manual_seed(3)
        return TextTransformer(dim=16).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_fresh_model_predicts_about_uniformly():
    torch.manual_seed(0)
    logits = TextTransformer()(tokens(4, 32))
    loss = F.cross_entropy(logits.flatten(0, 1), tokens(128))
    assert loss.item() == pytest.approx(torch.tensor(256.0).log().item(), rel=0.02)


def test_dropout_acts_in_training_only():
    model = TextTransformer(dim=16, dropout=0.5)
    input = tokens(2, 5)
    assert not torch.equal(model(input), model(input))
    assert torch.equal(model.eval()(input), model(input))


def test_longest_sequence_and_bfloat16():
    model = TextTransformer(dim=16, max_length=5).bfloat16()
    output = model(tokens(2, 5))
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    with pytest.raises(ValueError, match=r"input has shape \(2, 6\); tokens \(B, T\) with T up to 5 are needed"):
        model(tokens(2, 6))
    with pytest.raises(ValueError, match=r"input has shape \(5,\); tokens \(B, T\)"):
        model(tokens(5))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"dim": 10, "heads": 4}, "dim is 10 and heads is 4; dim must be a multiple of heads"),
        ({"vocab_size": 0}, "vocab_size must be 1 or more, found 0"),
        ({"heads": 0}, "heads must be 1 or more, found 0"),
        ({"depth": -1}, "depth must be 0 or more, found -1"),
        ({"dropout": 1.5}, "dropout must be at least 0 and below 1, found 1.5"),
    ],
)
def test_impossible_sizes(params, match):
    with pytest.raises(ValueError, match=match):
        TextTransformer(**params)


def test_learns_a_text_by_heart():
    torch.manual_seed(0)
    model = TextTransformer(dim=32, depth=1)
    text = torch.tensor(list(b"the quick brown fox jumps over the lazy dog"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(text[None, :-1])[0], text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
