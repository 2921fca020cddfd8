"""`Search`: a whole search from a config, or over a function of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.advice import Advice, Call
from kdcore.config.config import Config
from kdcore.config.search_config import SearchConfig
from kdcore.engine.folder import write_atomically
from kdcore.engine.interrupt import Interrupt
from kdcore.engine.lock import locked
from kdcore.engine.plugin_files import IDENTITY, describe_plugin_files
from kdcore.errors import RunError
from kdcore.launcher import process_count
from kdcore.search.base import Base, load_base
from kdcore.search.folder import SearchFolder
from kdcore.search.identity import check_unchanged
from kdcore.search.progress import SearchProgress, make_search_progress
from kdcore.search.running import Running, SearchResult

if TYPE_CHECKING:
    from kdcore.contracts import Searcher

__all__ = ["Search", "SearchResult"]

# A config has no such key.
_PLUGINS = "plugins"


class Search:
    """A search for the best points of a space.

        from kdcore import Search

        result = Search("search.yaml").run()

        def train_and_evaluate(point):  # a loop of your own
            return {"accuracy": ..., "parameters": ...}

        section = {
            "space": {"width": [4, 8, 16], "lr": {"low": 1e-3, "high": 1.0, "log": True}},
            "objectives": [{"metric": "accuracy", "goal": "maximize"}],
            "max_trials": 20,
        }
        result = Search(section, train_and_evaluate).run()

    Arguments:
        config: a config file, YAML text, a mapping or a checked Config, with a section `search:`. With a function
            of your own the section alone is enough, and its paths are names of your choice.
        train_and_evaluate: takes a point and returns its metrics. Without it each trial is a run of the config in
            a process of its own.
        overrides: assignments such as `search.max_trials=50`.
        plugins: plugin files that offer components.
        resume: the folder of a search to go on with; `config` may be None then.
        trials: how many trials to train, beyond those on record; by default as many as `max_trials` leaves.
        output_dir: where the search's folder is made, if the config does not say.
        quiet: show nothing.
        progress: the display; by default one that fits the terminal.
        advice: how users are told to go on with a search that was interrupted; by default from Python.

    Raises:
        ConfigError: with every problem of the config.
        RunError: there is no such search to go on with, or it is another one.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | Config | None,
        train_and_evaluate: Callable[[dict[str, Any]], Mapping[str, float]] | None = None,
        *,
        overrides: Sequence[str] = (),
        plugins: Sequence[str | Path] = (),
        resume: str | Path | None = None,
        trials: int | None = None,
        output_dir: str | Path | None = None,
        quiet: bool = False,
        progress: SearchProgress | None = None,
        advice: Advice | None = None,
    ) -> None:
        if trials is not None and trials < 1:
            raise RunError(f"trials must be 1 or more, found {trials}")
        self._function = train_and_evaluate
        function = "" if train_and_evaluate is None else ", train_and_evaluate"
        files = f", plugins={[str(file) for file in plugins]}" if plugins else ""
        self._advice = advice or Call(f"Search(None{function}{files}, resume={{folder}}).run()")
        self._plugins = [str(Path(file).resolve()) for file in plugins]
        self._folder = None if resume is None else SearchFolder.existing(resume)
        if config is None:
            if self._folder is None:
                raise RunError("a search needs a config", repair="give one, or resume=<folder of a search>")
            config = self._folder.config
        self._base: Base = load_base(
            config, overrides, self._plugins, own=train_and_evaluate is not None, output_dir=output_dir
        )
        self._trials = trials
        self._progress = progress
        self._quiet = quiet

    @property
    def search(self) -> SearchConfig:
        """The checked section."""
        return self._base.search

    def run(self) -> SearchResult:
        """Search to the end, or go on, and distil what was chosen in full.

        Raises:
            Interrupted: a signal ended it; its state was saved first.
            KdcoreError: no trial came to its end, or the search cannot go on.
        """
        if self._function is not None and self.search.jobs > 1:
            raise RunError(
                f"jobs is {self.search.jobs}, but your own function is called for one point at a time",
                repair="set jobs: 1",
            )
        if process_count() > 1:
            raise RunError(
                f"a launcher has started {process_count()} processes, and a search starts those of its trials itself",
                repair="start kd search alone; on several machines with storage:, see docs/search.md",
            )
        searcher = self._searcher()
        with self._progress or make_search_progress(quiet=self._quiet) as shown, Interrupt() as interrupt:
            folder = self._folder or SearchFolder.create(self._base.output_dir, self._base.name)
            with locked(folder.path):
                self._settle(folder)
                return Running(self._base, folder, shown, interrupt, self._plugins, self._advice).run(
                    searcher, self._function, self._trials
                )

    def _searcher(self) -> Searcher:
        search = self.search
        searcher: Searcher = search.searcher.build()
        given: dict[str, Any] = {} if search.storage is None else {"storage": search.storage}
        searcher.setup(search.space, search.objectives, constraints=search.constraints, **given)
        return searcher

    def _settle(self, folder: SearchFolder) -> None:
        """Check that the folder's search is this one, or make it so; save the config."""
        file = folder.path / IDENTITY
        if file.is_file():
            saved = json.loads(file.read_text(encoding="utf-8"))
            saved.pop(_PLUGINS, None)
            check_unchanged(saved, self._base.identity, str(folder.path), self.search.place)
        write_atomically(folder.config, self._base.text)
        plugins = describe_plugin_files(map(Path, self._plugins))
        write_atomically(file, json.dumps({**self._base.identity, _PLUGINS: plugins}, indent=1) + "\n")
        if not folder.state.is_file():
            folder.write_state({})
