"""What a stage has come to: its summary, and a row of the table for each model that was judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdcore.config.config import Config, StageConfig
from kdcore.config.stages import metric_name
from kdcore.engine.cost import count_parameters, measure_latency
from kdcore.engine.folder import write_atomically
from kdcore.engine.loader import Loader
from kdcore.engine.metrics import Judge
from kdcore.engine.selection import Selection
from kdcore.errors import RunError
from kdcore.pipeline.assembly import Assembly

Evaluate = Callable[[str, Sequence[str]], tuple[dict[str, float], dict[str, Judge]]]


@dataclass
class StageResult:
    """What results.json says about a stage, and the digests of the weights that it ended with."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Save it; from then on the stage is complete."""
        write_atomically(file, json.dumps(asdict(self)) + "\n")

    def covers(self, stage: StageConfig) -> bool:
        """Whether the stage has nothing left to do: it may have been given more epochs since."""
        return (stage.epochs or 0) <= (self.summary["planned_epochs"] or 0)

    @classmethod
    def read(cls, file: Path) -> StageResult | None:
        """Return what was saved, or None if the stage was not completed; raises RunError if it cannot be read."""
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{str(file)!r} is damaged: {error}") from error
        try:
            result = cls(**saved)
            int(result.summary["planned_epochs"] or 0)
        except (TypeError, ValueError, LookupError) as error:
            raise RunError(f"{str(file)!r} is damaged: it holds no result of a stage") from error
        return result


def summarize(stage: StageConfig, best: Selection | None, epochs: int) -> dict[str, Any]:
    """Return what was planned, and how it went."""
    return {
        "name": stage.name,
        "title": stage.title,
        "epochs": epochs,
        "planned_epochs": stage.epochs,
        "best_epoch": best.best_epoch if best else None,
        "selected_by": best.metric if best else None,
        "losses": {term.name: {"type": term.loss.registered.name, "weight": term.weight} for term in stage.terms},
    }


def test_rows(
    config: Config,
    stage: StageConfig,
    assembly: Assembly,
    loader: Loader,
    batch: Mapping[str, Any],
    evaluate: Evaluate,
    titles: Mapping[str, str],
    latency: bool,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Look at the test split, once; returns its metrics, losses by term too, and a row for each model in `titles`.

    Without `latency` nothing is timed: the processes of a run would disturb each other.
    """
    metrics, judges = evaluate("test", list(titles))
    names = getattr(loader.dataset, "class_names", None)
    rows = []
    for name, title in titles.items():
        accuracy, counts = judges[name].per_class()
        labels = list(names) if names is not None and len(names) == len(counts) else list(map(str, range(len(counts))))
        kinds = [metric_name(kind) for kind in stage.metrics.kinds]
        rows.append(
            {
                "stage": stage.name,
                "title": title,
                "model": name,
                "split": "test",
                "metrics": {kind: metrics[f"test/{name}/{kind}"] for kind in kinds},
                "parameters": count_parameters(assembly.models[name]),
                "latency_ms": measure_latency(assembly.models[name], config.models[name], dict(batch))
                if latency
                else None,
                "latency_batch": 1,
                "per_class": {"names": labels, "accuracy": accuracy, "count": counts},
            }
        )
    return metrics, rows
