"""What every part of the check shares: the problems found so far, components and addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kdcore.address import Address
from kdcore.component import CheckContext, Input, Kind
from kdcore.config.config import Binding, Part, Path, WeightsConfig
from kdcore.config.source import Source
from kdcore.config.validation import check_params
from kdcore.errors import AddressError, PluginError, Problem, suggestion
from kdcore.plugins import Registry

CRITERION_REPAIR = "losses go under losses:; a criterion scores weights for pruning:"


class Checker:
    """Collects every problem of one config; `names` are its models and adapters."""

    def __init__(self, source: Source, registry: Registry, names: Iterable[str]) -> None:
        self.source = source
        self.registry = registry
        self.names = frozenset(names)
        self.problems: list[Problem] = []
        self.misfits: list[Part] = []

    def problem(self, what: str, path: Path, repair: str = "", *, key: bool = False) -> None:
        """Note one thing that is wrong at `path` (at its key, with `key`)."""
        self.problems.append(Problem(what, self.source.place(path, key=key), repair))

    def part(self, kind: Kind, node: Any, path: Path) -> Part | None:
        """Look up the component that `node` names and check its params; fills them in `node`."""
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            return None
        place = self.source.place(path)
        params = node.get("params") or {}
        if not isinstance(params, dict):
            return None
        try:
            registered = self.registry.find(kind, node["type"])
            filled, problems = check_params(registered, params, source=self.source, base=(*path, "params"))
        except PluginError as error:
            self.problem(error.problem.what, (*path, "type"), error.problem.repair)
            return None
        self.problems.extend(problems)
        node["params"] = filled
        part = Part(registered, filled, place)
        if problems:
            self.misfits.append(part)
        return part

    def component_check(self, part: Part, context: CheckContext, path: Path) -> None:
        """Run the component's own check, which may know more than its schema."""
        check = part.registered.component.check
        if check is None:
            return
        try:
            complaints = list(check(part.params, context))
        except Exception as error:  # a plugin's check may fail in any way; it is reported as the plugin's fault
            # Unless it was given params that its schema forbids, which is reported already.
            if any(each is part for each in self.misfits):
                return
            self.problem(f"the check of {part.registered} failed: {type(error).__name__}: {error}", path)
            return
        for complaint in complaints:
            where: Path = (*path, "params", complaint.param) if complaint.param else path
            self.problem(f"{part.registered}: {complaint.message}", where)

    def address(self, text: Any, path: Path) -> Address | None:
        """Parse an address and check that its name is a model, an adapter or the batch."""
        if not isinstance(text, str):
            return None
        try:
            address = Address.parse(text)
        except AddressError as error:
            self.problem(error.problem.what, path, error.problem.repair)
            return None
        if not address.is_batch and address.name not in self.names:
            repair = suggestion(address.name, [*self.names, "batch"], noun="models and adapters")
            self.problem(f"address {text!r}: there is no model or adapter {address.name!r}", path, repair)
            return None
        return address

    def binding(self, node: Any, path: Path) -> Binding | None:
        """Check one bound input: an address or a list of them."""
        if isinstance(node, list):
            found = [self.address(item, (*path, index)) for index, item in enumerate(node)]
            return [address for address in found if address is not None] if None not in found else None
        return self.address(node, path)

    def bindings(
        self,
        inputs: Iterable[Input],
        node: Any,
        path: Path,
        owner: str,
        *,
        lists: bool = False,
        offer: Callable[[str], str] = lambda name: "",
    ) -> dict[str, Binding]:
        """Check what a component's inputs are bound to and add the defaults of those left out.

        `offer` says of the name of an unknown input what would give the component one, or nothing.
        """
        node = node if isinstance(node, dict) else {}
        known = {each.name: each for each in inputs}
        bound: dict[str, Binding] = {}
        for name, value in node.items():
            where = (*path, "inputs", name)
            if name not in known:
                repairs = (offer(name), suggestion(name, known, noun="inputs"))
                self.problem(f"{owner} has no input {name!r}", where, "; ".join(filter(None, repairs)), key=True)
                continue
            binding = self.binding(value, where)
            if isinstance(binding, list) and not lists and not known[name].list:
                self.problem(
                    f"input {name!r} of {owner} takes one address, not a list", where, "wrapper: pairs takes lists"
                )
            if binding is not None:
                bound[name] = binding
        for each in known.values():
            if each.required and each.name not in node:
                default = self._default(each, path, owner)
                if default is not None:
                    bound[each.name] = default
        return bound

    def weights(self, node: Any, path: Path) -> WeightsConfig | None:
        """Read `weights:`, a file name, a mapping or as_built."""
        place = self.source.place((*path, "weights"))
        if isinstance(node, str):
            return WeightsConfig(None if node == "as_built" else node, place=place)
        if isinstance(node, dict):
            return WeightsConfig(
                node.get("file"), node.get("key"), node.get("strip_prefix"), bool(node.get("strict", True)), place
            )
        return None

    def _default(self, each: Input, path: Path, owner: str) -> Address | None:
        if each.default is None:
            self.problem(
                f"input {each.name!r} of {owner} is bound to nothing",
                path,
                f"write inputs: {{{each.name}: <address>}}" + (f" ({each.help})" if each.help else ""),
            )
            return None
        address = Address.parse(each.default)
        if not address.is_batch and address.name not in self.names:
            self.problem(
                f"input {each.name!r} of {owner} is {each.default!r} by default, but no model or adapter is so named",
                path,
                f"write inputs: {{{each.name}: <address>}}; models and adapters: {', '.join(sorted(self.names))}",
            )
            return None
        return address


def expand(node: Mapping[str, Any] | list[Any], key: Any) -> Any:
    """Write the short form `type` of a component out as `{type: ...}`, in place, and return it."""
    value = node[key]
    if isinstance(value, str):
        node[key] = value = {"type": value}  # type: ignore[index]
    return value
