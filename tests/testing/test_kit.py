"""The kit itself: guessed examples, randomness, and the class that plugins inherit."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.component import Input, Kind, Role
from kdcore.errors import PluginError
from kdcore.plugins import Registry
from kdcore.testing import ComponentTests
from kdcore.testing.conformance import examples_of
from kdcore.testing.randomness import seeded
from kdcore.testing.reimport import afresh
from kdcore.testing.subject import Subject
from tests.testing.wrong import losses, parts

TEACHER = Input("teacher", default="teacher")


def shapes(*inputs: Input) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of the inputs that are made up for a loss, None if none are."""
    registered = Registry().register("loss", "test", losses.Right, inputs=inputs)
    examples = examples_of(registered)
    return (
        {name: tuple(each.shape) for name, each in Subject(registered, examples[0]).inputs().items()}
        if examples
        else None
    )


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([Input("student", default="student"), TEACHER], {"student": (4, 5), "teacher": (4, 5)}),
        ([TEACHER, Input("target", role=Role.LABELS, default="batch:target")], {"teacher": (4, 5), "target": (4,)}),
        ([TEACHER, Input("index", default="batch:index")], {"teacher": (4, 5), "index": (4,)}),
        ([Input("student", help="feature map (B, C, *spatial)")], {"student": (4, 6, 4, 4)}),
        ([Input("student", help="map (B, C, H, W)"), Input("teacher", help="of the same shape")],
         {"student": (4, 6, 4, 4), "teacher": (4, 6, 4, 4)}),
        ([Input("student", help="embeddings (B, D) of length one")], {"student": (4, 5)}),
        ([TEACHER, Input("mask", required=False, role=Role.LABELS)], {"teacher": (4, 5)}),
        ([Input("student", help="anything")], None),
        ([TEACHER, Input("head", role=Role.MODULE)], None),
        ([TEACHER, Input("layers", list=True, help="(B, C)")], None),
    ],
)  # fmt: skip
def test_examples_that_are_made_up(inputs: list[Input], expected: dict[str, tuple[int, ...]] | None) -> None:
    assert shapes(*inputs) == expected


@pytest.mark.parametrize(
    ("inputs", "learns", "fixed"),
    [
        ((Input("student", help="(B, C)"), Input("teacher", help="(B, C)")), ("student",), ("teacher",)),
        ((Input("pulled", default="student"), Input("at", default="teacher")), ("pulled",), ("at",)),
        ((Input("input", help="(B, C)"), Input("target", help="(B, C)")), ("input",), ()),
        ((Input("student_a", help="(B, C)"), Input("student_b", help="(B, C)")), ("student_a", "student_b"), ()),
    ],
)
def test_which_inputs_learn(inputs: tuple[Input, ...], learns: tuple[str, ...], fixed: tuple[str, ...]) -> None:
    registered = Registry().register("loss", "test", losses.Right, inputs=inputs)
    (example,) = examples_of(registered)
    subject = Subject(registered, example)
    assert (subject.learns, subject.fixed) == (learns, fixed)


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_every_generator_is_seeded_and_put_back() -> None:
    with seeded(3):
        expected = drawn()
        with seeded(4):
            assert drawn() != expected
        following = drawn()
    with seeded(3):
        assert drawn() == expected
        assert drawn() == following


@pytest.mark.parametrize("fails", [False, True])
def test_a_package_is_imported_a_second_time_and_put_back(
    install: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    name = f"doubled{fails}".lower()
    module = f"kd_plugin_{name}.loss"
    once = "import random\nif hasattr(random, 'taken'):\n    raise RuntimeError('twice')\nrandom.taken = True\n"
    install(f"kd-plugin-{name}", "", files={"loss.py": (once if fails else "") + "class Loss:\n    pass\n"})
    monkeypatch.setattr(random, "taken", True, raising=False)
    monkeypatch.delattr(random, "taken")
    first = importlib.import_module(module)
    subject = Subject(Registry().register("loss", "test", first.Loss, schema={"type": "object"}, inputs=()))
    with afresh(subject) as second:
        factory = second.registered.factory()
        assert factory.__name__ == "Loss"
        assert (factory is first.Loss) is fails
    assert sys.modules[module] is first
    assert subject.registered.factory() is first.Loss
    vars(random).pop("taken", None)


def test_the_kit_needs_no_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import kdcore.testing; print(len(kdcore.testing.CHECKS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 30


def test_a_distribution_that_is_not_there() -> None:
    class Absent(ComponentTests):
        distribution = "kd-plugin-torhc"

    with pytest.raises(
        PluginError, match=r"(?s)offers nothing here: it is not installed.*did you mean 'kd-plugin-torch'"
    ):
        list(Absent.trials())


def test_one_component_of_a_distribution() -> None:
    class One(ComponentTests):
        component = "loss/mse"

    trials = list(One.trials())
    assert {trial.conformance.registered.name for trial in trials} == {"mse"}
    assert "loss-mse-finite" in {trial.title for trial in trials}
    assert {trial.check.name for trial in trials if trial.check.slow} == {"processes"}


SUITE = """
from kdcore.testing import ComponentTests
class TestWrong(ComponentTests):
    distribution = "kd-plugin-suited"
"""


@pytest.mark.slow
def test_a_failing_check_is_a_failing_test_that_says_why(site: Path, install: Any, tmp_path: Path) -> None:
    schema = '{"type": "object", "properties": {}}'
    manifest = (
        f"\n@hookimpl\ndef losses():\n    return [Component(name='suited', factory='torch.nn:MSELoss', schema={schema},"
        " summary='a loss', inputs=(Input('input', help='(B, C)'), Input('target', help='(B, C)')))]\n"
    )
    install("kd-plugin-suited", manifest)
    (tmp_path / "test_suited.py").write_text(SUITE)
    code = (
        f"import sys, pytest; sys.path.insert(0, {str(site)!r}); sys.exit(pytest.main(['-q', '-rf', 'test_suited.py']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED test_suited.py::TestWrong::test_conforms[loss-suited-schema_strict]" in done.stdout
    assert "the schema accepts unknown keys" in done.stdout


def test_what_cannot_be_pickled_is_looked_at_too() -> None:
    class Thing(parts.Criterion):
        """A thing."""

    registered = Registry().register(Kind.CRITERION, "thing", Thing, summary="a thing")
    from kdcore.testing import Conformance

    results = {result.check: str(result.outcome) for result in Conformance(registered).run()}
    assert results["schema_strict"] == results["builds"] == "passed"
    assert results["copies"] == "failed"  # a local class cannot be pickled
