"""The page about smaller models says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_example_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "kdcore.compact(" in each]
    exec(compile(code, "export.md", "exec"), {})
    outputs, difference = capsys.readouterr().out.split()
    assert outputs == "14"
    assert float(difference) < 1e-6
