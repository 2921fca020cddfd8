"""Discovery, isolation of broken plugins, lookup, and registering from Python."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import kdcore
from kdcore import plugins
from kdcore.component import Component, Input, Kind
from kdcore.errors import PluginError
from kdcore.plugins import Registry

ANY_OBJECT = {"type": "object"}


def offer(kind: str, *names: str, schema: str = '{"type": "object"}') -> str:
    """Return the source of a manifest that offers components of one kind."""
    components = ", ".join(
        f'Component(name="{name}", factory="torch.nn:MSELoss", schema={schema}, summary="a test")' for name in names
    )
    return f"\n@hookimpl\ndef {kind}():\n    return [{components}]\n"


@pytest.fixture(autouse=True)
def no_fakes_left(site: Path) -> Iterator[None]:
    yield
    for name in [name for name, module in sys.modules.items() if str(site) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def broken_reason(registry: Registry, distribution: str) -> str:
    (found,) = [each for each in registry.broken if each.provenance.distribution == distribution]
    return found.reason


def test_an_installed_plugin_is_found_with_its_distribution(install: Any) -> None:
    install("kd-plugin-fa", offer("losses", "fa_one", "fa_two") + offer("adapters", "fa_one"))
    registry = Registry.discover()
    found = registry.find("loss", "fa_one")
    assert (found.provenance.distribution, found.provenance.version) == ("kd-plugin-fa", "1.2.3")
    assert found.component.summary == "a test"
    assert str(found) == "loss 'fa_one' (kd-plugin-fa 1.2.3)"
    assert registry.find(Kind.ADAPTER, "fa_one").kind is Kind.ADAPTER
    assert {"fa_one", "fa_two"} <= set(registry.names("loss"))
    assert registry.find("loss", "kd-plugin-fa:fa_two").name == "fa_two"


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_its_hook(install: Any, kind: Kind) -> None:
    install(f"kd-plugin-every-{kind.value.replace('_', '-')}", offer(kind.hook, "everything"))
    assert Registry.discover().find(kind, "everything").kind is kind


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def losses(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ZeroDivisionError", "it fails to load: ZeroDivisionError$"),
        ("@hookimpl\ndef losses():\n    raise RuntimeError('boom')", "RuntimeError: boom"),
        ("@hookimpl\ndef losses():\n    return None", "'losses' must return a list of Components, not NoneType"),
        ("@hookimpl\ndef losses():\n    return 'kd'", "'losses' must return a list of Components, not str"),
        ("@hookimpl\ndef losses():\n    return ['kd']", "'losses' must return Components, found str"),
        ("@hookimpl\ndef loss():\n    return []", "there is no hook 'loss'; did you mean 'losses'"),
        ("@hookimpl\ndef losses(banana):\n    return []", "PluginValidationError"),
        (offer("losses", "twin", "twin"), "it offers the loss 'twin' twice"),
        (
            '@hookimpl\ndef losses():\n    return [Component(name="9", factory="a:b", schema="s", summary="")]',
            "component name '9'",
        ),
    ],
)
def test_a_broken_plugin_breaks_nobody_else(install: Any, source: str, reason: str) -> None:
    install("kd-plugin-bad", source)
    install("kd-plugin-good", offer("losses", "good"))
    registry = Registry.discover()
    assert registry.find("loss", "good")
    found = broken_reason(registry, "kd-plugin-bad")
    assert re.search(reason, found), found
    # It takes no part in the life of a run either.
    assert not registry.manager.has_plugin("kd-plugin-bad:bad")
    with pytest.raises(PluginError, match=r"broken and might offer it: .*kd-plugin-bad 1\.2\.3"):
        registry.find("loss", "what_the_bad_one_offers")


def test_a_half_working_plugin_offers_nothing(install: Any) -> None:
    install("kd-plugin-half", offer("losses", "half") + "@hookimpl\ndef models():\n    raise OSError('no disk')\n")
    registry = Registry.discover()
    assert "half" not in registry.names("loss")
    assert "no disk" in broken_reason(registry, "kd-plugin-half")


def test_metadata_that_cannot_be_read_hides_nobody(install: Any, site: Path) -> None:
    install("kd-plugin-garbled", "", entry_points="[kdcore.plugins]\nno equals sign\n")
    install("kd-plugin-clear", offer("losses", "clear"))
    binary = site / "binary-1.0.dist-info"
    binary.mkdir()
    (binary / "entry_points.txt").write_bytes(b"\xff\xfe\x00kdcore.plugins")
    (binary / "METADATA").write_text("Name: binary\nVersion: 1.0\n")
    registry = Registry.discover()
    assert registry.find("loss", "clear")
    assert "'no equals sign' in its entry_points.txt is not of the form" in broken_reason(registry, "kd-plugin-garbled")
    assert "UnicodeDecodeError" in broken_reason(registry, "binary")


def test_an_entry_point_that_names_nothing_is_broken(install: Any) -> None:
    install("kd-plugin-adrift", "", entry_points="[kdcore.plugins]\nadrift = kd_plugin_adrift:missing\n")
    assert "AttributeError" in broken_reason(Registry.discover(), "kd-plugin-adrift")


def test_other_entry_point_groups_are_left_alone(install: Any) -> None:
    install("kd-plugin-other", "raise RuntimeError", entry_points="[kdcore.plugins.extra]\nx = kd_plugin_other\n")
    assert not [each for each in Registry.discover().broken if each.provenance.distribution == "kd-plugin-other"]


@pytest.mark.parametrize(
    ("schema", "files", "reason"),
    [
        ('"schema.json"', {}, "its schema cannot be read: FileNotFoundError"),
        ('"schema.json"', {"schema.json": "{not json"}, "its schema cannot be read: JSONDecodeError"),
        ('"schema.json"', {"schema.json": "[1]"}, "it is not a JSON object"),
        ('"schema.json#/$defs/a"', {"schema.json": '{"$defs": {}}'}, r"nothing at '#/\$defs/a' in schema.json"),
        (
            '"schema.json"',
            {"schema.json": '{"type": "object", "properties": 3}'},
            "not valid JSON Schema at '/properties'",
        ),
        ('"schema.json"', {"schema.json": '{"type": "string"}'}, "its schema must describe an object"),
        ('{"type": "object", "required": "a"}', {}, "not valid JSON Schema at '/required'"),
    ],
)
def test_a_schema_that_cannot_be_used(install: Any, schema: str, files: dict[str, str], reason: str) -> None:
    source = offer("losses", "shaky", schema=schema).replace("torch.nn:MSELoss", "kd_plugin_shaky.loss:Loss")
    install("kd-plugin-shaky", source, files=files)
    registry = Registry.discover()
    with pytest.raises(PluginError, match=reason):
        _ = registry.find("loss", "shaky").schema
    registry.check_schemas()
    assert "shaky" not in registry.names("loss")
    assert registry.broken[-1].name == "shaky"
    with pytest.raises(PluginError, match=rf"loss 'shaky' of kd-plugin-shaky 1\.2\.3: .*{reason}"):
        registry.find("loss", "shaky")


def test_a_part_of_a_schema_file_keeps_the_shared_definitions(install: Any) -> None:
    whole = {
        "$defs": {
            "positive": {"type": "number", "exclusiveMinimum": 0},
            "a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/positive"}}},
        }
    }
    source = offer("losses", "parted", schema='"s.json#/$defs/a"').replace(
        "torch.nn:MSELoss", "kd_plugin_parted.loss:L"
    )
    install("kd-plugin-parted", source, files={"s.json": json.dumps(whole)})
    registered = Registry.discover().find("loss", "parted")
    assert registered.schema["properties"]["x"] == {"$ref": "#/$defs/positive"}
    assert registered.schema["$defs"]["positive"]["exclusiveMinimum"] == 0


def test_a_schema_file_inside_a_namespace_package(install: Any, site: Path) -> None:
    source = offer("losses", "spaced", schema='"s.json"').replace("torch.nn:MSELoss", "acme_space.kd_spaced.loss:Loss")
    install("kd-plugin-spaced", source)
    inner = site / "acme_space" / "kd_spaced"
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text("")
    (inner / "s.json").write_text('{"type": "object", "title": "inner"}')
    assert Registry.discover().find("loss", "spaced").schema["title"] == "inner"


def test_a_factory_that_cannot_be_imported_is_named(install: Any) -> None:
    source = offer("losses", "hollow").replace("torch.nn:MSELoss", "kd_plugin_hollow.loss:Loss")
    install("kd-plugin-hollow", source)
    with pytest.raises(
        PluginError, match=r"loss 'hollow' \(kd-plugin-hollow 1.2.3\).*kd_plugin_hollow.loss:Loss.*No module"
    ):
        Registry.discover().find("loss", "hollow").factory()


def test_a_name_that_two_distributions_offer(install: Any) -> None:
    install("kd-plugin-left", offer("losses", "shared"))
    install("kd-plugin-right", offer("losses", "shared"), version="2.0")
    registry = Registry.discover()
    both = r"2 distributions offer the loss 'shared': kd-plugin-left 1\.2\.3, kd-plugin-right 2\.0"
    repair = "write kd-plugin-left:shared or kd-plugin-right:shared"
    with pytest.raises(PluginError, match=rf"(?s){both}.*{repair}"):
        registry.find("loss", "shared")
    assert registry.find("loss", "kd-plugin-right:shared").provenance.version == "2.0"
    (clash,) = registry.clashes()
    assert [each.provenance.distribution for each in clash] == ["kd-plugin-left", "kd-plugin-right"]


def test_one_distribution_whose_plugins_offer_the_same_name(install: Any) -> None:
    points = "[kdcore.plugins]\na = kd_plugin_split.a\nb = kd_plugin_split.b\n"
    manifest = "from kdcore.component import Component\nfrom kdcore.hookspecs import hookimpl\n" + offer(
        "losses", "same"
    )
    install("kd-plugin-split", "", files={"a.py": manifest, "b.py": manifest}, entry_points=points)
    with pytest.raises(
        PluginError, match=r"kd-plugin-split 1\.2\.3 offers the loss 'same' 2 times: plugins 'a' and 'b'"
    ):
        Registry.discover().find("loss", "same")


def test_the_first_of_two_copies_on_the_path_counts(install: Any, tmp_path: Path, monkeypatch: Any) -> None:
    install("kd-plugin-copied", offer("losses", "copied"))
    shadow = tmp_path / "shadow" / "kd_plugin_copied-0.1.dist-info"
    shadow.mkdir(parents=True)
    (shadow / "METADATA").write_text("Name: KD_plugin.copied\nVersion: 0.1\n")
    (shadow / "entry_points.txt").write_text("[kdcore.plugins]\ncopied = kd_plugin_copied\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(shadow.parent)])
    registry = Registry.discover()
    assert registry.find("loss", "copied").provenance.version == "1.2.3"
    assert not [each for each in registry.broken if "copied" in str(each)]


@pytest.mark.parametrize("value", ["kd-plugin-mute", "KD_Plugin_Mute", "mute", "x, mute", "*"])
def test_a_disabled_plugin_is_not_even_imported(install: Any, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    install("kd-plugin-mute", "raise SystemExit")
    monkeypatch.setenv("KDCORE_DISABLE_PLUGINS", value)
    registry = Registry.discover()
    assert [each for each in registry.disabled if each.distribution == "kd-plugin-mute"]
    assert "kd_plugin_mute" not in sys.modules
    assert not registry.broken
    with pytest.raises(PluginError, match=r"disabled by KDCORE_DISABLE_PLUGINS: .*kd-plugin-mute 1\.2\.3"):
        registry.find("loss", "mute")


def test_disabling_one_leaves_the_others(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("kd-plugin-on", offer("losses", "on"))
    install("kd-plugin-off", offer("losses", "off"))
    monkeypatch.setenv("KDCORE_DISABLE_PLUGINS", "off")
    registry = Registry.discover()
    assert registry.find("loss", "on")
    assert "off" not in registry.names("loss")


def test_an_empty_variable_disables_nothing(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("kd-plugin-kept", offer("losses", "kept"))
    monkeypatch.setenv("KDCORE_DISABLE_PLUGINS", " , ")
    assert Registry.discover().find("loss", "kept")


def test_an_unknown_name_suggests_the_nearest_and_a_package(install: Any) -> None:
    install("kd-plugin-near", offer("losses", "contrastive"))
    with pytest.raises(PluginError, match=r"(?s)unknown loss 'contrastiv'.*did you mean 'contrastive'"):
        Registry.discover().find("loss", "contrastiv")
    with pytest.raises(PluginError, match="pip install kd-plugin-far-off"):
        Registry.discover().find("loss", "far_off")


def test_a_name_of_a_package_that_is_not_installed_says_which() -> None:
    with pytest.raises(PluginError, match=r"pip install kd-plugin-outputs$"):
        Registry().find("output_extractor", "auto")


def test_a_name_of_another_kind_is_recognised(install: Any) -> None:
    install("kd-plugin-astray", offer("criteria", "astray"))
    with pytest.raises(PluginError, match=r"(?s)unknown loss 'astray'.*'astray' is a pruning criterion"):
        Registry.discover().find("loss", "astray")


def test_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(PluginError, match=r"(?s)unknown kind 'lossy'.*did you mean 'loss'"):
        Registry().find("lossy", "kd")


def test_components_are_listed_by_kind_and_name(install: Any) -> None:
    install("kd-plugin-zoo", offer("losses", "zoo_b", "zoo_a") + offer("models", "zoo_c"))
    names = [each.name for each in Registry.discover().all() if each.provenance.plugin == "zoo"]
    assert names == ["zoo_a", "zoo_b", "zoo_c"]
    assert [each.name for each in Registry.discover().all("model") if each.provenance.plugin == "zoo"] == ["zoo_c"]


# Plugin files


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


HOOKS = "from kdcore import Component, hookimpl\n"


def test_a_plugin_file_with_hooks(tmp_path: Path) -> None:
    file = write(tmp_path, HOOKS + offer("losses", "mine"))
    registry = Registry()
    registry.load_file(file)
    assert registry.find("loss", "mine").provenance.distribution == str(file)


def test_a_plugin_file_that_registers(tmp_path: Path) -> None:
    text = """
from torch import nn
import kdcore

class Mine(nn.Module):
    "A loss of my own."
    def __init__(self, scale: float = 2.0):
        super().__init__()
        self.scale = scale
    def forward(self, student, teacher):
        return self.scale * (student - teacher).abs().mean()

kdcore.register("loss", "mine", Mine)
"""
    registry = Registry()
    registry.load_file(write(tmp_path, text))
    found = registry.find("loss", "mine")
    assert found.provenance.distribution == str(tmp_path / "mine.py")
    assert found.component.summary == "A loss of my own."
    assert found.schema["properties"] == {"scale": {"type": "number", "default": 2.0}}
    loss = found.factory()(scale=3.0)
    assert loss(torch.ones(2), torch.zeros(2)) == 3.0
    # What is registered while a file is read belongs to that registry alone.
    assert "mine" not in plugins.registry().names("loss")


def test_a_plugin_file_must_work(tmp_path: Path) -> None:
    file = write(tmp_path, "import no_such_module_at_all")
    registry = Registry()
    with pytest.raises(PluginError, match=r"(?s)plugin file .*mine.py: .*No module named.*mend .*mine.py"):
        registry.load_file(file)
    file.write_text(HOOKS + offer("losses", "mended"), encoding="utf-8")
    registry.load_file(file)
    assert registry.find("loss", "mended")
    assert not registry.broken


def test_a_plugin_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"(?s)no plugin file .*absent.py.*path of a .py file"):
        Registry().load_file(tmp_path / "absent.py")
    with pytest.raises(PluginError, match="no plugin file"):
        Registry().load_file(tmp_path)
    with pytest.raises(PluginError, match=r"'.*notes.txt' is not a .py file"):
        Registry().load_file(write(tmp_path, "", "notes.txt"))


def test_a_plugin_file_may_not_hide_an_installed_name(install: Any, tmp_path: Path) -> None:
    install("kd-plugin-first", offer("losses", "contested"))
    registry = Registry.discover()
    file = write(tmp_path, HOOKS + offer("losses", "contested"))
    registry.load_file(file)
    with pytest.raises(PluginError, match=r"kd-plugin-first:contested"):
        registry.find("loss", "contested")
    assert registry.find("loss", f"{file}:contested").provenance.distribution == str(file)


# Registering from Python


class Weighted(nn.Module):
    """Mean absolute difference, weighted.

    More words.
    """

    def __init__(
        self,
        weight: float,
        steps: int = 3,
        mode: Literal["a", "b"] = "a",
        sizes: list[int] | None = None,
        shape: tuple[int, int] = (1, 2),
        flag: bool = True,
        anything=None,  # type: ignore[no-untyped-def]
    ) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, student: Tensor, teacher: Tensor, features: list[Tensor], mask: Tensor | None = None) -> Tensor:
        return self.weight * (student - teacher).abs().mean()


def test_one_line_registers_a_loss() -> None:
    found = Registry().register("loss", "weighted", Weighted)
    assert found.component.summary == "Mean absolute difference, weighted."
    assert found.schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["weight"],
        "properties": {
            "weight": {"type": "number"},
            "steps": {"type": "integer", "default": 3},
            "mode": {"enum": ["a", "b"], "default": "a"},
            "sizes": {"anyOf": [{"type": "array"}, {"type": "null"}], "default": None},
            "shape": {"type": "array", "default": [1, 2]},
            "flag": {"type": "boolean", "default": True},
            "anything": {"default": None},
        },
    }
    assert found.component.inputs == (
        Input("student", default="student"),
        Input("teacher", default="teacher"),
        Input("features", list=True),
        Input("mask", required=False),
    )


def test_registering_again_replaces() -> None:
    registry = Registry()
    registry.register("loss", "again", Weighted)
    second = registry.register("loss", "again", Weighted, summary="the second")
    assert registry.find("loss", "again") is second
    assert registry.clashes() == []


def test_what_the_core_passes_is_no_param() -> None:
    class Wrapped(nn.Module):
        def __init__(self, make_loss: Any, keep: float = 0.5) -> None:
            super().__init__()

    class Balanced(nn.Module):
        def __init__(self, terms: dict[str, float], rate: float = 0.5) -> None:
            super().__init__()

    registry = Registry()
    assert list(registry.register("wrapper", "w", Wrapped).schema["properties"]) == ["keep"]
    assert list(registry.register("balancer", "b", Balanced).schema["properties"]) == ["rate"]


def test_classes_without_a_constructor_and_functions() -> None:
    class Plain(nn.Module):
        def forward(self, student: Tensor) -> Tensor:
            return student.mean()

    def small_net(width: int = 8) -> nn.Module:
        return nn.Linear(width, width)

    registry = Registry()
    assert registry.register("loss", "plain", Plain).schema["properties"] == {}
    assert registry.register("model", "net", small_net).schema["properties"] == {
        "width": {"type": "integer", "default": 8}
    }


def test_inputs_that_cannot_be_read_off_are_asked_for() -> None:
    def make_it(scale: float = 1.0) -> nn.Module:
        return Weighted(scale)

    class Open(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return tensors[0].mean()

    class Vague(nn.Module):
        def __init__(self, **options: float) -> None:
            super().__init__()

        def forward(self, student: Tensor) -> Tensor:
            return student.mean()

    registry = Registry()
    with pytest.raises(PluginError, match=r"(?s)'make_it': its inputs cannot be read off.*pass inputs="):
        registry.register("loss", "made", make_it)
    with pytest.raises(PluginError, match=r"(?s)Open.forward takes \*tensors.*pass inputs="):
        registry.register("loss", "open", Open)
    with pytest.raises(PluginError, match=r"(?s)Vague takes \*options.*pass schema="):
        registry.register("loss", "vague", Vague)
    with pytest.raises(PluginError, match="a factory given as text needs a schema"):
        registry.register("model", "text", "torch.nn:Linear")
    given = registry.register("loss", "made", make_it, inputs=[Input("student"), Input("teacher")])
    assert [each.name for each in given.component.inputs] == ["student", "teacher"]
    assert registry.register("loss", "vague", Vague, schema=ANY_OBJECT).schema == ANY_OBJECT


def test_the_public_function_registers_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Registry()
    monkeypatch.setattr(plugins, "registry", lambda: mine)
    kdcore.register("loss", "from_a_notebook", Weighted)
    assert mine.find("loss", "from_a_notebook").provenance.distribution == "registered in Python"
    assert mine.find("loss", "registered in Python:from_a_notebook")


def test_a_broken_schema_from_python_is_mended_in_place() -> None:
    found = Registry().register("loss", "odd", Weighted, schema={"type": "object", "properties": 1})
    with pytest.raises(PluginError, match="mend it where it is registered"):
        _ = found.schema


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a b"}, "component name 'a b' must be letters"),
        ({"factory": "package.module"}, "must be 'package.module:Name'"),
        ({"inputs": (Input("x"), Input("x"))}, "names an input twice"),
    ],
)
def test_a_component_checks_itself(arguments: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"name": "fine", "factory": "a.b:C", "schema": ANY_OBJECT, "summary": ""}
    with pytest.raises(ValueError, match=message):
        Component(**{**usual, **arguments})


def test_an_optional_input_has_no_default_address() -> None:
    with pytest.raises(ValueError, match="'target' is optional and must not have a default address"):
        Input("target", required=False, default="batch:target")


def test_a_submodule_that_hides_a_hook_is_reported(install: Any) -> None:
    source = "from kd_plugin_hidden import models\n"
    install("kd-plugin-hidden", source, files={"models.py": "x = 1\n"})
    broken = [each for each in Registry.discover().broken if each.provenance.distribution == "kd-plugin-hidden"]
    assert len(broken) == 1
    assert "its submodule 'models' has the name of a hook and hides it; rename the file" in str(broken[0])
