"""A new plugin package, made from templates."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import importlib_metadata

from kdcore.component import Kind
from kdcore.errors import PluginError
from kdcore.plugins import catalogue

if TYPE_CHECKING:
    from kdcore.plugins import Registry

TEMPLATES = Path(__file__).with_name("templates")
SUFFIX = ".j2"
PREFIX = "kd-plugin-"
PLACEHOLDER = "package"

# Words that readers of YAML take for null or for a truth value. No name is a number: it begins with a letter.
YAML_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
# What the example of a new loss calls the loss of the labels, which stands beside it.
LABELS_TERM = "ce"


@dataclass(frozen=True)
class Sample:
    """What the templates of a kind make: the module and class that hold it, and what it does."""

    module: str
    ending: str
    summary: str


SAMPLES = {
    Kind.LOSS: Sample(
        "loss", "Loss", "squared distance between the softened class distributions of student and teacher"
    ),
    Kind.WRAPPER: Sample("wrapper", "Wrapper", "raises a loss slowly at the beginning of a stage"),
    Kind.BALANCER: Sample("balancer", "Balancer", "the p-norm of the terms, to which the largest contributes most"),
    Kind.ADAPTER: Sample("adapter", "Adapter", "a linear map along the last dimension, with dropout"),
    Kind.OUTPUT_EXTRACTOR: Sample("extractor", "Extractor", "the last tensor of a tuple"),
    Kind.MODEL: Sample("model", "Model", "a network with one hidden layer for images of 8 x 8"),
    Kind.DATASET: Sample("dataset", "Dataset", "images of 8 x 8 with a bright square in one of four corners"),
}


@dataclass(frozen=True)
class Package:
    """A plugin package that does not exist yet.

    Arguments:
        name: the part after `kd-plugin-`, words with hyphens between them.
        kind: what it offers.
    """

    name: str
    kind: Kind

    @classmethod
    def named(cls, name: str, kind: Kind) -> Package:
        """Return the package for a name in any of the usual spellings; raises PluginError for any other."""
        plain = re.sub(r"[-_.]+", "-", name).lower().removeprefix(PREFIX)
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", plain):
            raise PluginError(
                f"{name!r} cannot name a package",
                repair="use letters, digits and hyphens, a letter first, for example my-loss",
            )
        if plain in YAML_WORDS:
            raise PluginError(
                f"{plain!r} is a word of YAML: unless a config quotes it, null or a truth value is read instead of "
                f"the {kind.title}'s name",
                repair=f"choose another name, for example {plain}-{str(kind).replace('_', '-')}",
            )
        return cls(plain, kind)

    @property
    def distribution(self) -> str:
        """What users install."""
        return PREFIX + self.name

    @property
    def component(self) -> str:
        """What a config writes after `type:`."""
        return self.name.replace("-", "_")

    @property
    def module(self) -> str:
        """The name that Python imports."""
        return self.distribution.replace("-", "_")

    def check_free(self, registry: Registry) -> None:
        """Raise PluginError where the package's or the component's name is taken, by what is installed or released."""
        self._check_distribution()
        self._check_component(registry)

    def _check_distribution(self) -> None:
        another = f"choose another name, for example my-{self.name}"
        if self.distribution in {package for names in catalogue().values() for package in names.values()}:
            raise PluginError(
                f"{self.distribution} is a package that is released with kdcore: installing another of that name "
                "would replace it, and all it offers",
                repair=another,
            )
        if (version := installed_version(self.distribution)) is not None:
            raise PluginError(
                f"{self.distribution} {version} is installed already: installing another of that name would replace it",
                repair=f"{another}; if it is yours, go on in its own folder",
            )

    def _check_component(self, registry: Registry) -> None:
        another = "choose another name, so that users need not write both packages' names"
        if self.kind is Kind.LOSS and self.component == LABELS_TERM:
            raise PluginError(
                f"{LABELS_TERM!r} is what the examples call the term of cross_entropy, which stands beside the loss",
                repair=f"choose another name, for example my-{self.name}",
            )
        for each in registry.all(self.kind):
            if each.name == self.component:
                raise PluginError(
                    f"{each.provenance} offers a {self.kind.title} called {self.component!r} already", repair=another
                )
        if package := catalogue().get(self.kind, {}).get(self.component):
            raise PluginError(
                f"{package}, which is released with kdcore, offers a {self.kind.title} called {self.component!r}",
                repair=another,
            )

    def write(self, into: Path) -> Path:
        """Write the package into a folder of its own and return that; raises PluginError if it exists."""
        folder = into / self.distribution
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise PluginError(
                f"{folder} exists already", repair="choose another name or --into another folder"
            ) from None
        except OSError as error:
            raise PluginError(
                f"{folder} cannot be made: {error.strerror}", repair="choose another folder with --into"
            ) from error
        for name, text in self.files().items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return folder

    def files(self) -> dict[str, str]:
        """Return the text of each file by its path in the package's folder."""
        import jinja2

        # Other marks than jinja's own, which workflow files use themselves.
        environment = jinja2.Environment(  # noqa: S701 - it writes code, no web page
            loader=jinja2.FileSystemLoader(TEMPLATES),
            block_start_string="<%",
            block_end_string="%>",
            variable_start_string="<<",
            variable_end_string=">>",
            comment_start_string="<#",
            comment_end_string="#>",
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
        )
        made = {}
        for root in ("common", str(self.kind)):
            for file in sorted((TEMPLATES / root).rglob(f"*{SUFFIX}")):
                path = file.relative_to(TEMPLATES / root).as_posix().removesuffix(SUFFIX)
                text = environment.get_template(file.relative_to(TEMPLATES).as_posix()).render(self._words())
                made[path.replace(f"src/{PLACEHOLDER}/", f"src/{self.module}/")] = text
        return made

    def _words(self) -> dict[str, str]:
        sample = SAMPLES[self.kind]
        camel = "".join(word.capitalize() for word in self.name.split("-"))
        return {
            "name": self.name,
            "distribution": self.distribution,
            "package": self.module,
            "component": self.component,
            "class_name": camel if camel.endswith(sample.ending) else camel + sample.ending,
            "module": sample.module,
            "kind": str(self.kind),
            "title": self.kind.title,
            "hook": self.kind.hook,
            "summary": sample.summary,
            "year": str(datetime.datetime.now(tz=datetime.UTC).year),
        }


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    try:
        return importlib_metadata.version(distribution)
    except importlib_metadata.PackageNotFoundError:
        return None
