"""The files of a cache: layouts, checksums, crashes, several processes, full disks."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcore.address import Address
from kdcore.config.config import CacheConfig
from kdcore.engine.cache import records
from kdcore.engine.cache.codec import Codec
from kdcore.engine.cache.fingerprint import Fingerprint
from kdcore.engine.cache.folder import open_folder
from kdcore.engine.cache.store import Store
from kdcore.errors import DataError, RunError, WiringError

TEACHER, HIDDEN = Address("teacher"), Address.parse("teacher:block.1@input#0")
CPU = torch.device("cpu")


def make_store(folder: Path, told: list[str] | None = None, **options: Any) -> Store:
    samples, rows = options.pop("samples", 10), options.pop("rows", 1)
    addresses = options.pop("addresses", [TEACHER, HIDDEN])
    tell = told.append if told is not None else lambda text: None
    config = CacheConfig(**options)
    return Store(folder, addresses, config, samples=samples, rows_per_sample=rows, device=CPU, tell=tell)


def values(index: Tensor, rows: int = 1, classes: int = 4) -> dict[Address, Tensor]:
    """Return values that a sample's index decides."""
    each = torch.stack([torch.full((classes,), float(i)) + torch.arange(classes) / 7 for i in index.tolist()])
    each = each.repeat_interleave(rows, 0)
    each = each + torch.arange(rows).repeat(len(index)).unsqueeze(-1) / 3
    return {TEACHER: each, HIDDEN: each.unsqueeze(1).expand(-1, 2, -1) * 3}


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(each for each in folder.glob(f"*.{suffix}") if each.name != "manifest.json")


def test_what_is_stored_is_read_back_and_by_the_next_process_too(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    index = torch.tensor([7, 2, 5])
    assert store.read(index) is None
    stored, expected = store.store(index, values(index)), values(index)
    for found in (stored, store.read(index), make_store(tmp_path).read(index)):
        assert found is not None
        assert all(torch.equal(found[address], expected[address]) for address in expected)
    assert store.read(torch.tensor([7, 3])) is None
    assert (store.marked, store.complete()) == (3, False)
    rest = torch.tensor([0, 1, 3, 4, 6, 8, 9])
    store.store(rest, values(rest))
    assert make_store(tmp_path).complete()


def test_a_stored_value_is_never_replaced(tmp_path: Path) -> None:
    store, index = make_store(tmp_path), torch.tensor([1, 2])
    store.store(index, values(index))
    other = {address: value + 100 for address, value in values(torch.tensor([2, 3, 3])).items()}
    found = store.store(torch.tensor([2, 3, 3]), other)
    assert torch.equal(found[TEACHER][0], values(index)[TEACHER][1])
    assert torch.equal(found[TEACHER][1], other[TEACHER][1])
    assert torch.equal(found[TEACHER][2], other[TEACHER][1]), "a sample that is twice in a batch has one value"


def test_another_stage_adds_addresses_and_keeps_the_others(tmp_path: Path) -> None:
    index = torch.arange(10)
    first = make_store(tmp_path, addresses=[HIDDEN])
    first.store(index, values(index))
    both = make_store(tmp_path)
    assert (both.marked, both.read(index)) == (0, None)
    kept = files(tmp_path, "data")[0].stat().st_mtime_ns
    changed = {address: value + 1 for address, value in values(index).items()}
    found = both.store(index, changed)
    assert torch.equal(found[HIDDEN], values(index)[HIDDEN])
    assert torch.equal(found[TEACHER], changed[TEACHER])
    assert kept in [file.stat().st_mtime_ns for file in files(tmp_path, "data")]


def test_several_rows_per_sample(tmp_path: Path) -> None:
    store, index = make_store(tmp_path, rows=4), torch.tensor([3, 0])
    store.store(index, values(index, rows=4))
    swapped = store.read(torch.tensor([0, 3]))
    assert swapped is not None
    assert torch.equal(swapped[HIDDEN], values(torch.tensor([0, 3]), rows=4)[HIDDEN])


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_stored_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    index = torch.arange(10)
    value = (torch.randn(10, 3, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    found = make_store(tmp_path, addresses=[TEACHER]).store(index, {TEACHER: value})[TEACHER]
    assert found.dtype is dtype
    assert torch.equal(found, value)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_a_smaller_dtype_rounds_once_and_comes_back_in_the_models_own(name: str, tmp_path: Path) -> None:
    index = torch.arange(10)
    value = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    store = make_store(tmp_path, addresses=[TEACHER], dtype=name)
    found = store.store(index, {TEACHER: value})[TEACHER]
    assert found.dtype is torch.float32
    assert torch.equal(found, value.to(getattr(torch, name)).float())
    assert store.nbytes == 10 * (5 * getattr(torch, name).itemsize + 8)
    labels = make_store(tmp_path, addresses=[HIDDEN], dtype=name).store(index, {HIDDEN: index * 2**40})
    assert torch.equal(labels[HIDDEN], index * 2**40), "whole numbers are no matter of precision"


def test_a_value_too_large_for_float16_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path, addresses=[TEACHER], dtype="float16")
    with pytest.raises(WiringError, match=r"1e\+06 is too large for float16 \(at teacher\)(.|\n)*bfloat16"):
        store.store(torch.tensor([0]), {TEACHER: torch.full((1, 3), 1e6)})
    found = store.store(torch.tensor([0]), {TEACHER: torch.tensor([[1.0, -torch.inf, 2.0]])})
    assert found[TEACHER][0, 1] == -torch.inf


def logits(shape: tuple[int, ...], scale: float = 4.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(6, 50), (6, 3, 40_000)])
def test_top_k_is_exact_on_the_largest_and_spreads_the_rest_evenly(shape: tuple[int, ...]) -> None:
    value = logits(shape)
    codec = Codec.of(value, 1, "as_is", 5)
    lines = torch.from_numpy(codec.encode(value))
    found = codec.decode(lines)
    assert (found.shape, found.dtype) == (value.shape, value.dtype)
    top = value.topk(5, dim=-1).indices
    assert torch.equal(found.gather(-1, top), value.gather(-1, top))
    exact, approximate = (each.double().softmax(-1) for each in (value, found))
    torch.testing.assert_close(approximate.gather(-1, top), exact.gather(-1, top), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(approximate.sum(-1), torch.ones(shape[:-1]).double())
    others = approximate.scatter(-1, top, 0).flatten(0, -2)
    mass = exact.scatter(-1, top, 0).flatten(0, -2).sum(-1)
    torch.testing.assert_close(others.sum(-1), mass, rtol=1e-4, atol=1e-9)
    kept = others[0][others[0] > 0]
    assert len(kept) == shape[-1] - 5
    assert (kept.max() - kept.min()) <= 1e-9
    assert codec.size == lines.shape[1] < value[0].nbytes


def test_top_k_at_a_higher_temperature_never_overstates_the_largest() -> None:
    value = logits((8, 100))
    codec = Codec.of(value, 1, "as_is", 10)
    found = codec.decode(torch.from_numpy(codec.encode(value)))
    top = value.topk(10, dim=-1).indices
    for temperature, sign in ((4.0, 1.0), (0.5, -1.0)):
        exact, approximate = ((each.double() / temperature).softmax(-1).gather(-1, top) for each in (value, found))
        assert (sign * (exact - approximate) >= -1e-7).all()
        ratio = approximate / exact
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-5, atol=0)


def test_top_k_leaves_other_addresses_whole_and_survives_masked_classes(tmp_path: Path) -> None:
    index = torch.arange(10)
    value = logits((10, 6))
    value[:, 3:] = -torch.inf
    store = make_store(tmp_path, top_k=3)
    found = store.store(index, {TEACHER: value, HIDDEN: value})
    assert torch.equal(found[HIDDEN], value)
    assert torch.equal(found[TEACHER], value)
    with pytest.raises(WiringError, match=r"top_k: 6 leaves nothing out of float32\[10, 6\]"):
        Codec.of(value, 1, "as_is", 6)


def test_a_changing_shape_is_an_error_that_names_the_address(tmp_path: Path) -> None:
    store = make_store(tmp_path, addresses=[HIDDEN])
    store.store(torch.tensor([0]), {HIDDEN: torch.zeros(1, 7, 2)})
    with pytest.raises(DataError, match=r"teacher:block.1@input#0 cannot be cached: it yields float32\[9, 2\] per row here and float32\[7, 2\]"):  # fmt: skip
        store.store(torch.tensor([1]), {HIDDEN: torch.zeros(1, 9, 2)})


def damage_data(folder: Path) -> None:
    with files(folder, "data")[0].open("r+b") as file:
        file.seek(3 * 16 + 5)
        file.write(b"\xff\xfe")


def cut_data(folder: Path) -> None:
    with files(folder, "data")[0].open("r+b") as file:
        file.truncate(4 * 16 + 3)


def cut_marks(folder: Path) -> None:
    with files(folder, "marks")[0].open("r+b") as file:
        file.truncate(5 * 8 + 3)


def lose_data(folder: Path) -> None:
    """As after a loss of power: the marks reached the disk, some pages of the data did not."""
    with files(folder, "data")[0].open("r+b") as file:
        file.write(bytes(64))


def spoil_manifest(folder: Path) -> None:
    files(folder, "json")[0].write_text('{"address": ')


def move_record(folder: Path) -> None:
    """A record and its mark in the place of another's."""
    for suffix, size in (("data", 16), ("marks", 8)):
        with files(folder, suffix)[0].open("r+b") as file:
            record = file.read(size)
            file.seek(size)
            file.write(record)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_data, "is damaged at 1 sample so far, computed again"),
        (cut_data, "lacks 93 bytes; what is lost is computed again"),
        (cut_marks, "lacks 37 bytes; what is lost is computed again"),
        (lose_data, "is damaged at 4 samples so far"),
        (spoil_manifest, "is damaged; what it describes is computed again"),
        (move_record, "is damaged at 1 sample so far"),
    ],
)
def test_damage_is_noticed_said_and_repaired(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    index, told = torch.arange(10), []
    make_store(tmp_path, addresses=[TEACHER]).store(index, values(index))
    damage(tmp_path)
    store = make_store(tmp_path, told, addresses=[TEACHER])
    assert not store.complete()
    store.store(index, values(index))
    assert any(message in each for each in told), told
    for each in (store, make_store(tmp_path, addresses=[TEACHER])):
        found = each.read(index)
        assert found is not None
        assert torch.equal(found[TEACHER], values(index)[TEACHER])


def test_damage_leaves_the_other_samples_alone(tmp_path: Path) -> None:
    index = torch.arange(10)
    make_store(tmp_path, addresses=[TEACHER]).store(index, values(index))
    cut_data(tmp_path)
    store = make_store(tmp_path, addresses=[TEACHER])
    assert store.read(torch.arange(4)) is not None
    assert store.read(torch.tensor([4])) is None


@pytest.mark.parametrize("broken", ["data", "marks"])
def test_an_interrupt_while_writing_leaves_records_whole_or_missing(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, seen = records._write, []

    def interrupted(file: FileIO, data: bytes, offset: int) -> None:
        if str(file.name).endswith(broken):
            seen.append(offset)
            if len(seen) == 4:
                write(file, data[: len(data) // 2], offset)
                raise KeyboardInterrupt
        write(file, data, offset)

    index = torch.arange(10)
    monkeypatch.setattr(records, "_write", interrupted)
    store = make_store(tmp_path, addresses=[TEACHER])
    with pytest.raises(KeyboardInterrupt):
        store.store(index, values(index))
    monkeypatch.undo()
    expected = 0 if broken == "data" else 3
    for each in (store, make_store(tmp_path, addresses=[TEACHER])):
        there = [i for i in range(10) if each.read(torch.tensor([i])) is not None]
        assert len(there) == expected
        assert all(torch.equal(each.read(torch.tensor([i]))[TEACHER], values(torch.tensor([i]))[TEACHER]) for i in there)  # type: ignore[index]  # fmt: skip
    assert torch.equal(store.store(index, values(index))[TEACHER], values(index)[TEACHER])


def test_a_full_disk_is_an_error_that_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, addresses=[TEACHER])
    store.store(torch.arange(3), values(torch.arange(3)))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "_write", full)
    with pytest.raises(RunError, match=r"cannot be used: No space left on device(.|\n)*what was written stays of use"):
        store.store(torch.arange(5), values(torch.arange(5)))
    assert store.read(torch.arange(3)) is not None


@pytest.mark.parametrize(("dtype", "needed"), [("as_is", 240), ("float16", 160), ("int8", 200)])
def test_a_cache_that_does_not_fit_is_refused_at_once(
    dtype: str, needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(RunError, match=rf"the cache of teacher needs {needed} bytes in .*, where 100 bytes are free"):
        make_store(tmp_path, addresses=[TEACHER], dtype=dtype).store(torch.arange(3), values(torch.arange(3)))
    assert not files(tmp_path, "data")


def test_keys_of_any_spelling_have_files_of_their_own(tmp_path: Path) -> None:
    addresses = [Address("teacher", keys=(key,)) for key in ("a/b", "a_b", "a:b", "../x", "A" * 300)]
    store, index = make_store(tmp_path, addresses=addresses), torch.arange(2)
    stored = store.store(index, {each: torch.full((2, 1), float(i)) for i, each in enumerate(addresses)})
    assert [float(stored[each][0]) for each in addresses] == [0, 1, 2, 3, 4]
    assert len(files(tmp_path, "data")) == 5
    named = {json.loads(file.read_text())["address"] for file in files(tmp_path, "json")}
    assert named == set(map(str, addresses))


FILLER = """
    import sys
    from pathlib import Path
    import numpy as np, torch
    from kdcore.address import Address
    from kdcore.config.config import CacheConfig
    from kdcore.engine.cache.store import Store

    folder, shift, order, samples = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    teacher = Address("teacher")
    store = Store(folder, [teacher], CacheConfig(), samples=samples, rows_per_sample=1,
                  device=torch.device("cpu"), tell=print)
    used = np.zeros((samples, 3), np.float32)
    print("ready", flush=True)
    sys.stdin.readline()
    for index in torch.arange(samples).flip(0).split(16) if order else torch.arange(samples).split(16):
        values = store.read(index)
        if values is None:
            values = store.store(index, {teacher: index.float().unsqueeze(1).expand(-1, 3) + shift})
        used[index.numpy()] = values[teacher].numpy()
        print("batch", flush=True)
    np.save(sys.argv[5], used)
"""


def filler(folder: Path, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(FILLER), str(folder), *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")


@pytest.mark.slow
def test_a_killed_process_leaves_only_right_entries(tmp_path: Path) -> None:
    samples = 200_000
    process = filler(tmp_path, 0.25, 0, samples, tmp_path / "used.npy")
    assert process.stdout is not None
    process.stdout.readline()
    start(process)
    for _ in range(39):
        process.stdout.readline()
    process.kill()
    process.communicate()
    store = make_store(tmp_path, samples=samples, addresses=[TEACHER])
    marked = store.marked
    assert 38 * 16 <= marked < samples
    there = torch.arange(marked)
    found = store.read(there)
    assert found is not None, "in the order of writing nothing is missing, and every mark fits"
    assert torch.equal(found[TEACHER][:, 0], there.float() + 0.25)
    more = torch.tensor([samples - 1])
    assert store.store(more, {TEACHER: torch.ones(1, 3)})[TEACHER].sum() == 3, "the lock died with its holder"


@pytest.mark.slow
def test_two_processes_that_fill_one_cache_use_the_same_values(tmp_path: Path) -> None:
    samples = 4_000
    processes = [filler(tmp_path, shift, order, samples, tmp_path / f"{order}.npy") for shift, order in ((0, 0), (0.5, 1))]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        start(process)
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    one, two = (np.load(tmp_path / f"{order}.npy") for order in (0, 1))
    assert np.array_equal(one, two)
    assert set(np.unique(one - np.arange(samples)[:, None])) <= {0.0, 0.5}
    assert make_store(tmp_path, samples=samples, addresses=[TEACHER]).complete()


def forbid(monkeypatch: pytest.MonkeyPatch, number: int, what: str, *, reading: bool) -> None:
    """Refuse every way to write a file, and to read one, as a read-only disk or another user's folder does."""

    def refuse(path: Any, *args: object, **options: object) -> None:
        raise OSError(number, what, str(path))

    for name in ("touch", "write_text", "write_bytes", "mkdir", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    opened = Path.open

    def opens(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return opened(path, mode, *args, **options) if mode in ("r", "rb") else refuse(path)

    monkeypatch.setattr(Path, "open", opens)
    if reading:
        monkeypatch.setattr(Path, "read_text", refuse)
        monkeypatch.setattr(np, "memmap", refuse)


def test_a_complete_cache_is_read_where_nobody_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = torch.arange(10)
    make_store(tmp_path).store(index, values(index))
    forbid(monkeypatch, errno.EROFS, "Read-only file system", reading=False)
    store = make_store(tmp_path)
    assert store.marked == 10
    assert store.complete()
    found = store.read(index)
    assert found is not None
    assert torch.equal(found[TEACHER], values(index)[TEACHER])


def test_a_cache_that_is_shorter_than_it_was_is_an_error_where_nobody_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = torch.arange(10)
    make_store(tmp_path).store(index, values(index))
    cut_data(tmp_path)
    forbid(monkeypatch, errno.EROFS, "Read-only file system", reading=False)
    with pytest.raises(
        RunError,
        match=r"cannot be used: Read-only file system \(.*data\)\n.*let this user read and write it \(reading is enough once",
    ):
        make_store(tmp_path).read(index)


@pytest.mark.parametrize("use", [lambda store: store.marked, Store.complete, lambda store: store.read(torch.arange(2))])
def test_a_cache_of_another_user_is_an_error_that_says_so(
    use: Callable[[Store], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path).store(torch.arange(10), values(torch.arange(10)))
    forbid(monkeypatch, errno.EACCES, "Permission denied", reading=True)
    with pytest.raises(RunError, match=r"the cache in '.*' cannot be used: Permission denied(.|\n)*let this user read"):
        use(make_store(tmp_path))


def test_a_folder_that_cannot_be_looked_at_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(RunError, match=r"the cache folder '.*' cannot be made or read: Permission denied\n.*choose"):
        open_folder(tmp_path, "teacher", "train", Fingerprint({}), CacheConfig(), lambda text: None)


def test_a_folder_without_a_manifest_names_no_output_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcore.engine.cache.folder.write_atomically", _full)
    with pytest.raises(RunError, match=r"cannot be made or read: there is no room") as caught:
        open_folder(tmp_path, "teacher", "train", Fingerprint({}), CacheConfig(), lambda text: None)
    assert "output_dir" not in str(caught.value)


def _full(path: Path, text: str) -> None:
    raise RunError("there is no room", repair="choose another output_dir")
