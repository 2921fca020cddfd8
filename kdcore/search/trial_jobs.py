"""From the points of a search to the jobs of its workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdcore.config.config import Config
from kdcore.config.search_config import SearchConfig
from kdcore.config.trial import assignments
from kdcore.errors import PluginError, RunError
from kdcore.plugins import FILE_MODULE, Registry
from kdcore.search.folder import SearchFolder
from kdcore.search.job import Job
from kdcore.search.objectives import MEASURES
from kdcore.search.prelude import begin_after, common_stages, prelude_key
from kdcore.search.space import Point
from kdcore.search.trial_config import load_trial


class TrialJobs:
    """Makes the jobs of a search's trials, of the stages that they share, and of the full distillations.

    Arguments:
        config: of the search.
        search: its section.
        folder: of the search, the config saved in it.
        plugins: plugin files that the user named.
        registry: where components are looked up.
    """

    def __init__(
        self, config: Config, search: SearchConfig, folder: SearchFolder, plugins: Sequence[str], registry: Registry
    ) -> None:
        self.config = config
        self.search = search
        self.folder = folder
        self.plugins = tuple(plugins)
        self.registry = registry
        named = [*(each.metric for each in search.objectives), *(each.metric for each in search.constraints)]
        self.required = tuple(name for name in named if name.rpartition("/")[2] in MEASURES)
        self.measured = self._measured()
        self._shared: Config | None = None
        self._stages = 0
        self._check_components()

    def modules(self) -> list[str]:
        """Return the modules of the config's components, for the workers to import once."""
        factories = [part.registered.component.factory for part in self.config.parts()]
        names = [each.partition(":")[0] for each in factories if isinstance(each, str)]
        return [name for name in dict.fromkeys(names) if not name.startswith(FILE_MODULE)]

    def prelude(self) -> Job | None:
        """Return the job of the stages that no parameter reaches, None if there are none."""
        overrides = assignments(self.search.trial)
        self._shared = load_trial(self.folder.config, overrides, self.registry)
        self._stages = common_stages(self._shared, [each.path for each in self.search.space])
        if not self._stages:
            return None
        return self._job(0, self.folder.prelude, overrides, threads=_cores(), prelude=self._stages)

    def trial(self, number: int, point: Point) -> Job:
        """Return the job of a trial; stages that are trained already are put into its folder."""
        folder = self.folder.trial(number)
        self._share(folder)
        overrides = [*assignments(self.search.trial), *assignments(point)]
        return self._job(number, folder, overrides, threads=_share_of(self.search.jobs), measured=self.measured)

    def final(self, number: int, point: Point, at_once: int) -> Job:
        """Return the job of the full distillation of a trial's point."""
        folder = self.folder.final(number)
        given = self.search.final.overrides if self.search.final else {}
        overrides = [*assignments(given), *assignments(point)]
        if self._stages and self._shared is not None:
            # Without the overrides of trials, and with others, the first stages may be different ones.
            config = load_trial(self.folder.config, overrides, self.registry)
            if prelude_key(config, self._stages) == prelude_key(self._shared, self._stages):
                self._share(folder)
        job = self._job(number, folder, overrides, threads=_share_of(at_once), measured=self.measured)
        return replace(job, keep_states=True)

    def _share(self, folder: Path) -> None:
        if self._stages and self._shared is not None and folder_is_new(folder):
            begin_after(self.folder.prelude, self._shared, self._stages, folder)

    def _job(
        self,
        number: int,
        folder: Path,
        overrides: Sequence[str],
        *,
        threads: int,
        measured: tuple[tuple[str, str], ...] = (),
        prelude: int | None = None,
    ) -> Job:
        return Job(
            number=number,
            folder=str(folder),
            config=str(self.folder.config),
            overrides=tuple(overrides),
            plugins=self.plugins,
            threads=threads,
            measured=measured,
            required=self.required,
            prelude=prelude,
            output=str(folder / "output.txt"),
        )

    def _measured(self) -> tuple[tuple[str, str], ...]:
        """Return the models to measure: the searched one, and those that objectives and constraints name."""
        owners = [name.rpartition("/")[0] for name in self.required if "/" in name]
        found = [(f"{owner}/", owner) for owner in dict.fromkeys(owners)]
        searched = searched_model(self.config)
        if searched is not None:
            found.insert(0, ("", searched))
        elif any("/" not in name for name in self.required):
            trained = ", ".join(name for name in self.config.stages[-1].train if name in self.config.models)
            raise RunError(
                f"the last stage trains several models ({trained or 'none'}), so it is not clear whose parameters "
                "and the like are meant",
                place=self.search.place,
                repair="name the model, for example student/parameters",
            )
        return tuple(found)

    def _check_components(self) -> None:
        for part in self.config.parts():
            if not part.registered.provenance.version and part.registered.provenance.plugin == "python":
                raise PluginError(
                    f"{part.registered} is known to this process only, and trials run in processes of their own",
                    repair="register it in a file, and pass that: --plugin FILE, or Search(..., plugins=[FILE])",
                )


def searched_model(config: Config) -> str | None:
    """Return the model that a search is about: the one that the last stage trains, or of several the student."""
    trained = [name for name in config.stages[-1].train if name in config.models]
    if len(trained) == 1:
        return trained[0]
    return "student" if "student" in trained else None


def folder_is_new(folder: Path) -> bool:
    """Whether no run has begun in a folder."""
    return not (folder / "config.yaml").exists()


def _share_of(at_once: int) -> int:
    return max(1, _cores() // at_once)


def _cores() -> int:
    """Return how many cores this process may use; OMP_NUM_THREADS may say fewer."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(found, int(given)) if given.isdecimal() and int(given) else found
