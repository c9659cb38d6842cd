"""The names that users rely on."""

from __future__ import annotations

import ast
import inspect
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import svp
from svp.tuners import get_methods
from tests.models.small import small_vim


def test_every_public_name_is_there() -> None:
    for name in svp.__all__:
        assert getattr(svp, name) is not None, name
    assert set(dir(svp)) == set(svp.__all__)


def test_signatures_that_are_fixed() -> None:
    def parameters(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]

    assert parameters(svp.create_model) == ["name", "pretrained", "num_classes", "img_size", "overrides"]
    assert parameters(svp.tune) == ["model", "method", "images", "options"]
    assert parameters(svp.load_adapter) == ["directory", "backbone"]
    assert parameters(svp.load_official) == ["model", "path_or_state_dict"]
    assert parameters(svp.ops.selective_scan) == (
        ["x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state", "reverse", "return_last_state", "backend"]
    )
    assert parameters(svp.inspection.gates) == ["model", "images", "attention"]
    assert parameters(svp.ops.causal_conv1d) == ["x", "weight", "bias", "activation", "reverse", "backend"]
    fixed = ["img_size", "patch_size", "stride", "in_chans", "embed_dim", "depth", "d_state", "num_classes", "drop_path_rate"]
    assert set(fixed) <= set(parameters(svp.models.VisionMamba))
    options = ["shared_layers", "hidden_dim", "cross", "inner", "cross_prompt", "dropout", "simam"]
    assert set(options) <= set(parameters(svp.tuners.SVP))


def test_names_come_from_the_lists() -> None:
    assert {"svp", "linear", "full"} <= set(svp.list_methods())
    assert {"vim_tiny_patch16_224", "vim_nano_patch4_32"} <= set(svp.list_models())
    assert "digits" in svp.list_datasets()


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(svp, "nothing")


GROUND = {
    "bands",
    "collector",
    "errors",
    "hub",
    "inputs",
    "limits",
    "pages",
    "paths",
    "plotting",
    "process",
    "resizing",
    "tasks",
    "settings",
    "terminal",
    "versions",
}
"""Modules that everything stands on; they import nothing but each other."""
MAY_IMPORT = {
    "ops": {"ops"},
    "models": {"ops", "models"},
    "tuners": {"ops", "models", "tuners"},
    "data": {"ops", "data"},
    "runs": {"models", "tuners", "data", "runs"},
    "training": {"models", "tuners", "data", "runs", "training"},
    "export": {"ops", "models", "tuners", "data", "runs", "training", "export"},
    "bench": {"bench", "ops", "models", "tuners", "runs", "training", "export"},
    "inspection": {"models", "tuners", "data", "runs", "training", "inspection"},
    "app": {"models", "tuners", "data", "runs", "training", "inspection", "app"},
    "studies": {"models", "tuners", "data", "runs", "training", "studies"},
}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    """ops <- models <- tuners <- runs <- training <- inspection; data stands beside."""
    for file in sorted((Path(svp.__file__).parent / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                if parts[0] != "svp":
                    continue
                if len(parts) == 1:
                    imported = [alias.name for alias in node.names]
                    assert set(imported) <= {"__version__"} | GROUND, f"{file} imports the package's face"
                else:
                    assert parts[1] in MAY_IMPORT[folder] | GROUND, f"{file} imports {name}"


def test_models_and_inspection_name_no_method() -> None:
    """Neither by its classes nor by what it adds to a model: all they know is the contract."""
    methods = [get_methods(name)[0] for name in svp.list_methods()]
    files = {Path(inspect.getfile(method)) for method in methods}
    defined = {
        node.name
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    added = set()
    for method in methods:
        plain = dict(small_vim().named_children())
        model = small_vim()
        svp.tune(model, method(shared_layers=2) if method is svp.tuners.SVP else method())
        added |= dict(model.named_children()).keys() - plain.keys()
    assert {"svp", "affix", "additional_scan"} <= added
    root = Path(svp.__file__).parent
    for file in sorted([*(root / "models").rglob("*.py"), *(root / "inspection").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not any(node.module == f"svp.tuners.{method.stem}" for method in files), f"{file} imports {node.module}"
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.Name):
                names = {node.id}
            elif isinstance(node, ast.Attribute):
                names = {node.attr, *({f".{node.attr}"} if node.attr in added else ())}
            elif isinstance(node, ast.Constant) and node.value in added:
                names = {f".{node.value}"}
            else:
                continue
            # A and D are the scan's too
            found = names & ({name for name in defined if len(name) > 1} | {f".{name}" for name in added})
            assert not found, f"{file} names {found}"


def test_no_file_imports_another_in_a_circle() -> None:
    """Imports inside of functions and those for types alone count too."""
    root = Path(svp.__file__).parent
    files = {".".join(("svp", *path.relative_to(root).with_suffix("").parts)): path for path in root.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}

    def imported(name: str) -> set[str]:
        found = set()
        for node in ast.walk(ast.parse(files[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= parts & set(files) or {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        return (found & set(files)) - {name, "svp"}

    edges = {name: imported(name) for name in files if name != "svp"}
    TopologicalSorter(edges).prepare()  # raises CycleError, which names the circle
