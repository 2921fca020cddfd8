"""Good configs, and how a test makes a mistake in one of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

TWO_STAGES = """\
version: 1
name: tiny
device: cpu
output_dir: runs
data:
  train: {type: digits, params: {split: train, samples_per_class: 4}, batch_size: 16}
  val: {type: digits, params: {split: val, samples_per_class: 2}, batch_size: 32}
models:
  teacher: {type: digits_cnn, params: {width: 4, depth: 2}, weights: as_built}
  student: {type: digits_cnn, params: {width: 2, depth: 2}}
adapters:
  proj: {type: conv1x1, inputs: {x: student:block1}, like: teacher:block1}
stages:
  - name: hint
    epochs: 1
    train: [student, proj]
    losses:
      near: {type: mse, inputs: {input: proj, target: teacher:block1}}
    optimizer: {type: SGD, params: {lr: 0.1}}
  - name: distill
    epochs: 1
    train: [student]
    losses:
      ce: cross_entropy
      kd: {type: kd, params: {temperature: 4}}
    optimizer: {type: AdamW, params: {lr: 1e-3}}
    best: {metric: val/student/accuracy}
"""

ONE_STAGE = """\
version: 1
name: tiny
device: cpu
output_dir: runs
data:
  train: {type: digits, params: {split: train, samples_per_class: 4}, batch_size: 16}
models:
  teacher: {type: digits_cnn, params: {width: 4, depth: 2}, weights: as_built}
  student: {type: digits_cnn, params: {width: 2, depth: 2}}
stages:
  - name: distill
    epochs: 1
    train: [student]
    losses:
      ce: cross_entropy
      kd: {type: kd, params: {temperature: 4}}
    optimizer: {type: AdamW, params: {lr: 1e-3}}
"""

TEXT = """\
version: 1
name: text
device: cpu
output_dir: runs
data:
  train: {type: text_bytes, params: {split_by: position, length: 16, limit: 8}, batch_size: 4}
models:
  teacher: {type: text_transformer, params: {dim: 8, depth: 1, heads: 1, max_length: 16}, weights: as_built}
  student: {type: text_transformer, params: {dim: 4, depth: 1, heads: 1, max_length: 16}}
stages:
  - name: distill
    epochs: 1
    train: [student]
    losses:
      ce: cross_entropy
      kd: {type: kd, wrapper: masked, inputs: {mask: batch:mask}}
    optimizer: {type: AdamW, params: {lr: 1e-3}}
"""

MARK = "§"

Edit = tuple[str, str]


class Mistaken(NamedTuple):
    """A config with mistakes and the positions (`file:line:column`) that its messages must name."""

    file: Path
    positions: list[str]


def mistaken(file: Path, text: str, *edits: Edit) -> Mistaken:
    """Write `text` with each edit's first part, which it holds once, replaced by the second.

    A `§` in what is put in marks where a message must point; it is not written.
    """
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the config"
        text = text.replace(old, new)
    positions = []
    for line, content in enumerate(text.split("\n"), start=1):
        marks = [match.start() for match in re.finditer(MARK, content)]
        positions += [f"{file}:{line}:{column - before + 1}: " for before, column in enumerate(marks)]
    file.write_text(text.replace(MARK, ""), encoding="utf-8")
    return Mistaken(file, positions)
