"""Loading weights: what fits is reported, what does not is an error that says what."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from kdcore.config.config import WeightsConfig
from kdcore.errors import WeightsError
from kdcore.pipeline.weights import load_weights


def model(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


def load(file: Path, into: nn.Module | None = None, **options: object) -> str:
    return load_weights("student", into or model(), WeightsConfig(str(file), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_round_trip(tmp_path: Path, suffix: str) -> None:
    source, target = model(), model()
    file = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(source.state_dict(), file)
    else:
        safetensors.torch.save_file(source.state_dict(), file)
    assert load(file, target) == f"student: loaded 7 of 7 tensors from {file}"
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "teacher.pt")
    with pytest.raises(WeightsError, match=r"no weights file(.|\n)*did you mean 'teacher.pt'"):
        load(tmp_path / "techer.pt")


def test_a_truncated_file_is_said_to_be_truncated(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pt"):
        file = tmp_path / name
        if name.endswith("pt"):
            torch.save(model().state_dict(), file)
        else:
            safetensors.torch.save_file(model().state_dict(), file)
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(WeightsError, match=r"cannot be read as weights|no weights file at all"):
            load(file)


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(model(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load(tmp_path / "w.pt")


def test_shapes_that_differ_are_listed(tmp_path: Path) -> None:
    torch.save(model(5).state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match=r"0.bias is \(5,\) in the file and \(4,\) in the model(.|\n)*params must be those"
    ):
        load(tmp_path / "w.pt")


def test_a_prefix_is_noticed_and_can_be_stripped(tmp_path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in model().state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"write strip_prefix: module\."):
        load(tmp_path / "w.pt")
    assert "7 of 7" in load(tmp_path / "w.pt", strip_prefix="module.")


def test_a_nested_state_dict_is_found_by_key(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state": model().state_dict()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="key: state"):
        load(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"no entry 'stat'(.|\n)*did you mean 'state'"):
        load(tmp_path / "w.pt", key="stat")
    assert "7 of 7" in load(tmp_path / "w.pt", key="state")


def test_strict_false_accepts_and_reports_the_difference(tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(4, 3), "extra": torch.ones(1)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"missing in the file: 0.bias(.|\n)*unknown to the model: extra"):
        load(tmp_path / "w.pt")
    told = load(tmp_path / "w.pt", strict=False)
    assert "loaded 1 of 7" in told
    assert "kept as built: 0.bias" in told
    assert "ignored: extra" in told


def test_strict_false_never_accepts_that_nothing_fits(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="do not fit"):
        load(tmp_path / "w.pt", strict=False)


def test_names_that_a_file_leaves_out_because_they_are_tied_are_filled_in(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    source, target = Tied(), Tied()
    safetensors.torch.save_model(source, str(tmp_path / "w.safetensors"))
    assert "loaded 2 of 2" in load(tmp_path / "w.safetensors", target)
    assert torch.equal(target.embed.weight, source.embed.weight)
