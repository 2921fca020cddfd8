"""Train every point of benchmarks/search.yaml once, and write what came out to search_table.json.

The trainings are real and short: one thread, about two seconds each, so ten minutes or so in all. What is
there already is kept, so it may be interrupted.

    python benchmarks/search_table.py
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdcore import load_config, run
from kdcore.config.config import Config
from kdcore.config.reader import read_config
from kdcore.config.source import Source
from kdcore.config.trial import assignments, without_search
from kdcore.engine.cost import count_parameters
from kdcore.search.space import point_key

CONFIG = Path(__file__).with_name("search.yaml")
TABLE = Path(__file__).with_name("search_table.json")


def part(source: Source, stage: str, more: Mapping[str, Any]) -> Config:
    """Return the config of one stage alone, with `more` set."""
    stages = [each for each in source.data["stages"] if each["name"] == stage]
    return load_config(replace(source, data={**source.data, "stages": stages}), overrides=assignments(more))


def trained(source: Source, point: Mapping[str, Any], teacher: Path, folder: Path) -> dict[str, float]:
    """Train the student of one point and return its metrics."""
    given = {"models.teacher.weights": str(teacher), "output_dir": str(folder)}
    config = part(source, "distill", {**given, **point})
    written = run(config, quiet=True) / "metrics.jsonl"
    last = json.loads(written.read_text(encoding="utf-8").splitlines()[-1])
    name = "val/student/accuracy"
    return {name: last["metrics"][name], **costs(config)}


def costs(config: Config) -> dict[str, float]:
    """Return what the student costs, for one image."""
    part = config.models["student"].part
    assert part is not None
    model: nn.Module = part.build()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 1, 8, 8))
    return {"parameters": count_parameters(model), "flops": counter.get_total_flops()}


def main() -> None:
    torch.set_num_threads(1)
    config = load_config(CONFIG)
    assert config.search is not None
    source = without_search(read_config(CONFIG))
    rows = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else []
    done = {point_key(row["point"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        teacher = run(part(source, "teacher", {"output_dir": folder}), quiet=True) / "teacher.safetensors"
        for point in config.search.space.enumerate():
            if point_key(point) in done:
                continue
            start = time.perf_counter()
            rows.append({"point": point, "metrics": trained(source, point, teacher, Path(folder))})
            lines = ",\n".join(json.dumps(row) for row in rows)
            TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            print(f"{len(rows)}: {rows[-1]} {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
