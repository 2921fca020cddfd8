"""Caches in 8 bits: the layout of a record, the bound of an error, and what comes back exactly."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.address import Address
from kdcore.config.config import CacheConfig
from kdcore.engine.cache.codec import Codec
from kdcore.engine.cache.quantizer import Quantizer, group_length
from kdcore.engine.cache.store import Store
from kdcore.errors import WiringError

TEACHER = Address("teacher")
INF = math.inf


def normal(*shape: int, scale: float = 4.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def coded(value: Tensor, rows: int = 1, top_k: int = 0) -> tuple[Codec, Tensor]:
    """Return the layout for a value, read back from its manifest, and the bytes."""
    codec = Codec.from_data(Codec.of(value, rows, "int8", top_k).as_data())
    return codec, torch.from_numpy(codec.encode(value))


def there_and_back(value: Tensor, top_k: int = 0) -> Tensor:
    codec, lines = coded(value, top_k=top_k)
    found = codec.decode(lines)
    assert (found.shape, found.dtype) == (value.shape, value.dtype)
    return found


def test_a_record_holds_the_ends_of_its_groups_and_then_a_byte_for_each_value() -> None:
    logits = torch.tensor([[0.0, 254.0, 1.0, 127.0, -INF, 100.4]])
    codec, lines = coded(logits)
    assert lines.numpy().tobytes().hex(" ") == "00 00 00 00 00 00 7e 43 81 7f 82 00 80 e5"
    assert codec.as_data() == {
        "rows": 1, "shape": [6], "dtype": "float32", "stored": "int8", "top_k": 0, "group": 6
    }  # fmt: skip
    expected = torch.tensor([[0, 254, 1, 127, -INF, 100]])
    torch.testing.assert_close(codec.decode(lines), expected, rtol=1e-6, atol=0)


def test_channels_of_a_map_and_rows_of_a_sample_follow_each_other() -> None:
    one = torch.tensor([[[0.0, 127, 254], [2, 3, 4]], [[1, 1, 1], [1, 1, 1]]])
    other = torch.tensor([[[-4.0, -4, -258], [-131, -4, -4]], [[0, 2, 254], [0, 0, 0]]])
    maps = torch.stack([one, other]).half()
    codec, lines = coded(maps, rows=2)
    assert lines.shape == (1, 2 * 2 * (2 * 2 + 6))
    assert lines.numpy().tobytes().hex(" ") == " ".join([
        "00 00 f0 5b", "00 3c 00 3c", "08 dc 00 c4", "00 00 f0 5b",
        "81 00 7f 83 84 85", "81 81 81 81 81 81", "7f 7f 81 00 7f 7f", "81 83 7f 81 81 81",
    ])  # fmt: skip
    assert torch.equal(codec.decode(lines), maps)


@pytest.mark.parametrize(
    ("shape", "length"),
    [
        ((100,), 100),
        ((512, 131_072), 131_072),  # positions, classes
        ((40, 9), 9),  # positions, classes
        ((64, 7, 7), 49),  # channels of a map
        ((64, 112, 112), 112),  # lines of a large map
        ((16, 4, 8, 8), 64),  # channels of frames
        ((12, 197, 197), 197),  # attention, a query's keys
        ((12, 20, 20), 400),  # attention of a few positions, a head's
        ((14, 14, 96), 96),  # channels last
        ((2048, 1, 1), 2048),  # pooled
        ((1, 7, 7), 49),
        ((1,), 1),
        ((), 1),
    ],
)
def test_what_shares_a_grid(shape: tuple[int, ...], length: int) -> None:
    assert group_length(shape) == length


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
NUMBERS = st.one_of(
    st.floats(-30, 30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.integers(-(2**23), 2**23).map(lambda steps: steps * 2.0**-149),
    st.integers(-300, 300).map(lambda steps: steps * 2.0**-149),
    st.integers(-300, 300).map(lambda steps: 1e6 + steps / 16),
    st.sampled_from([0.0, -0.0, 1.0, 3.4028234663852886e38, -3.4028234663852886e38, 65504.0, 5e-324]),
)
GROUPS = st.integers(1, 9).flatmap(
    lambda length: st.lists(st.lists(NUMBERS, min_size=length, max_size=length), min_size=1, max_size=3)
)


def overflows(value: Tensor) -> bool:
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    return bool((wide.amax(-1) - wide.amin(-1)).mul(1 + 2**-21).isinf().any())


@settings(deadline=None, max_examples=150)
@given(numbers=GROUPS, dtype=st.sampled_from(DTYPES))
@example(numbers=[[0.0, 5e-324, 1e-323, 0.0, 0.0, 0.0, 5e-324]], dtype=torch.float64)
@example(numbers=[[2.0**-149 * steps for steps in (0, 3, 2**20 + 1, 2**23 - 1, 7, 5, 1)]], dtype=torch.float32)
@example(numbers=[[1e6, 1e6 + 0.0625, 1e6 + 0.125, 1e6, 1e6, 1e6, 1e6]], dtype=torch.float32)
@example(numbers=[[-3e38, 3e38, 0.0, 1.0, 2.0, 3.0, 4.0]], dtype=torch.float32)
def test_no_error_exceeds_half_a_step_and_the_ends_are_exact(numbers: list[list[float]], dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    value = torch.tensor(numbers, dtype=torch.float64).clamp(-largest, largest).to(dtype)
    quantizer = Quantizer(dtype, value.shape[1])
    if overflows(value):
        with pytest.raises(WiringError, match=r"values from \S+ to \S+ are too far apart for int8(.|\n)*dtype: as_is"):
            quantizer.quantize(value)
        return
    ends, codes = quantizer.quantize(value)
    found = quantizer.dequantize(ends, codes)
    assert torch.equal(found.amin(-1), value.amin(-1))
    assert torch.equal(found.amax(-1), value.amax(-1))
    for one, other in zip(value, found, strict=True):
        assert (other[one.argsort()].diff() >= 0).all(), "the order is kept"
        assert_within_half_a_step(one, other)
    again_ends, again_codes = quantizer.quantize(found)
    assert torch.equal(again_ends, ends)
    assert torch.equal(again_codes, codes)
    alone = [quantizer.dequantize(ends[i : i + 1], codes[i : i + 1]) for i in range(len(codes))]
    assert torch.equal(torch.cat(alone).view(torch.uint8), found.view(torch.uint8)), "the same bits in every batch"


def assert_within_half_a_step(value: Tensor, found: Tensor) -> None:
    exact, approximate = ([Fraction(each) for each in row.double().tolist()] for row in (value, found))
    span = max(exact) - min(exact)
    info = torch.finfo(value.dtype)
    rounding = max(max(map(abs, exact)) * Fraction(info.eps), Fraction(info.smallest_normal) * Fraction(info.eps))
    bound = span / 508 + span / 2**20 + rounding
    assert all(abs(one - other) <= bound for one, other in zip(exact, approximate, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [0.0, -7.25, 1e-41, 6e4])
def test_equal_values_come_back_exactly(number: float, dtype: torch.dtype) -> None:
    value = torch.full((3, 10), number, dtype=torch.float64).to(dtype)
    assert torch.equal(there_and_back(value), value)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2), (6, 5, 2), (6, 5, 1, 2)])
def test_groups_too_short_to_save_anything_are_kept_as_they_are(shape: tuple[int, ...]) -> None:
    value = normal(*shape)
    codec, lines = coded(value)
    assert codec.stored is torch.float32
    assert lines.shape[1] == value[0].nbytes
    assert torch.equal(codec.decode(lines), value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 3), (6, 100), (6, 5, 40), (6, 3, 7, 7), (6, 2048, 1, 1), (1, 11), (6, 4)])
def test_a_record_is_never_longer_than_as_it_is(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value = normal(*shape).to(dtype)
    codec, lines = coded(value)
    assert codec.size == lines.shape[1] <= value[0].nbytes
    groups = there_and_back(value).double().reshape(-1, group_length(shape[1:]))
    exact = value.double().reshape(groups.shape)
    span = exact.amax(-1, keepdim=True) - exact.amin(-1, keepdim=True)
    assert ((groups - exact).abs() <= span / 507 + 16 * torch.finfo(dtype).eps).all()


def test_minus_infinity_is_kept_and_has_no_part_in_the_ends() -> None:
    value = normal(5, 12)
    value[0, 3:] = -INF
    value[1, :] = -INF
    value[2, 1:] = -INF
    found = there_and_back(value)
    assert torch.equal(found.isinf(), value.isinf())
    assert torch.equal(found[2], value[2])
    assert (found[0, :3] - value[0, :3]).abs().max() <= (value[0, :3].max() - value[0, :3].min()) / 507
    assert torch.equal(found[3:], there_and_back(value[3:]))


@pytest.mark.parametrize("name", ["nan", "inf"])
def test_what_has_no_place_on_a_grid_is_an_error_that_names_the_address(name: str, tmp_path: Path) -> None:
    value = normal(2, 5)
    value[1, 2] = float(name)
    with pytest.raises(WiringError, match=rf"a value of {name} cannot be stored as int8 \(at teacher\)(.|\n)*dtype: as_is"):  # fmt: skip
        make_store(tmp_path, 2).store(torch.arange(2), {TEACHER: value})


def make_store(folder: Path, samples: int, top_k: int = 0) -> Store:
    config = CacheConfig(dtype="int8", top_k=top_k)
    return Store(folder, [TEACHER], config, samples=samples, rows_per_sample=1, device=torch.device("cpu"), tell=print)


def test_a_hundred_logits_take_less_than_a_tenth_of_a_file_of_their_own(tmp_path: Path) -> None:
    logits, index = normal(64, 100), torch.arange(64)
    store = make_store(tmp_path, 64)
    stored = store.store(index, {TEACHER: logits})[TEACHER]
    read = make_store(tmp_path, 64).read(index.flip(0))
    assert read is not None
    assert torch.equal(read[TEACHER].flip(0), stored), "what was just computed is seen as it is read later"
    assert store.nbytes == 64 * (100 + 2 * 4 + 8)
    file = io.BytesIO()
    torch.save(logits[0].clone(), file)
    assert 10 * store.nbytes < 64 * len(file.getvalue())
    half_a_step = (logits.amax(-1) - logits.amin(-1)).max() / 507
    assert 0 < (stored - logits).abs().max() <= half_a_step
    assert (stored.gather(1, logits.argmax(1, keepdim=True)) == stored.amax(1, keepdim=True)).all()


def test_whole_numbers_are_kept_as_they_are(tmp_path: Path) -> None:
    labels = torch.arange(40).reshape(10, 4) * 2**40
    assert torch.equal(make_store(tmp_path, 10).store(torch.arange(10), {TEACHER: labels})[TEACHER], labels)


@pytest.mark.parametrize("shape", [(6, 50), (1, 40_000), (2, 3, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_k_largest_may_be_quantised_too(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value = normal(*shape).to(dtype)
    found, top = there_and_back(value, top_k=7), value.topk(7, dim=-1)
    kept = found.gather(-1, top.indices)
    assert torch.equal(kept[..., 0], top.values[..., 0])
    assert torch.equal(kept[..., -1], top.values[..., -1])
    span = (top.values[..., :1] - top.values[..., -1:]).float()
    assert ((kept - top.values).float().abs() <= span / 507 + 16 * torch.finfo(dtype).eps).all()
    exact = Codec.of(value, 1, "as_is", 7)
    others = exact.decode(torch.from_numpy(exact.encode(value))).scatter(-1, top.indices, 0)
    assert torch.equal(found.scatter(-1, top.indices, 0), others)


@pytest.mark.parametrize("dtype", ["as_is", "float16", "int8"])
@pytest.mark.parametrize("top_k", [0, 5, 6])
@pytest.mark.parametrize("classes", [11, 40_000])
def test_the_only_sample_of_a_batch_is_read_as_in_any_other(classes: int, top_k: int, dtype: str) -> None:
    value = normal(3, classes)
    codec = Codec.of(value, 1, dtype, top_k)
    lines = torch.from_numpy(codec.encode(value))
    assert torch.equal(codec.decode(lines[1:2].clone()), codec.decode(lines)[1:2])


@pytest.mark.gpu
def test_on_a_gpu_the_bits_are_the_same() -> None:
    value = torch.cat([normal(4, 3, 70), normal(4, 3, 70, scale=1e-40), normal(4, 3, 70, scale=1e30)])
    value[0, 0, 5:9] = -INF
    codec, lines = coded(value)
    assert torch.equal(torch.from_numpy(codec.encode(value.cuda())), lines)
    assert torch.equal(codec.decode(lines.cuda()).cpu(), codec.decode(lines))


def test_values_that_outliers_leave_nothing_of_are_refused() -> None:
    hidden = torch.arange(50) % 3 == 0
    scores = normal(6, 50)
    for mask in (-1e4, -1e9):
        masked = scores + mask * hidden
        with pytest.raises(
            WiringError, match=r"int8 leaves next to nothing of float32\[6, 50\](.|\n)*mask with -inf(.|\n)*bfloat16"
        ):
            Codec.of(masked, 1, "int8", 0).check(masked)


@pytest.mark.parametrize(
    "value",
    [
        normal(6, 50).masked_fill(torch.arange(50) % 3 == 0, -INF),
        normal(6, 50, scale=30).softmax(-1),
        (normal(6, 50, scale=100)).tanh(),
        normal(6, 4, 9, 9).relu() * 1e4,
        torch.zeros(6, 50).index_fill(1, torch.tensor(3), -1e6),
        normal(6, 50) * 1e3,
    ],
    ids=["masked by -inf", "attention", "saturated", "sparse maps", "one and zeros", "large"],
)
def test_sound_values_are_not(value: Tensor) -> None:
    Codec.of(value, 1, "int8", 0).check(value)
