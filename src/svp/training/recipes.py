"""Settings in YAML: recipes by name, files that inherit from others, and how layers of settings are merged.

    defaults  <  recipe  <  config file  <  what is given explicitly

A recipe or config file may begin with ``inherit: NAME_OR_FILE`` and then holds only what differs; an inherited file may
inherit in turn. The recipe ``paper`` of a named data set is ``paper/<name>`` where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from svp.data import AugmentConfig
from svp.errors import InputError
from svp.tuners import Method, methods_to_dict, parse_methods

RECIPES = Path(__file__).resolve().parent.parent / "assets" / "recipes"
"""Folder of the named recipes; those in a folder of theirs are named with it, as "paper/cifar10"."""


class ConfigError(InputError):
    """A setting is unknown or out of range; the message names it and what was expected."""


def list_recipes() -> list[str]:
    """Names that ``--recipe`` takes beside files."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


def recipe_for(name: str, data: str) -> str:
    """The recipe's variant for a named data set, as "paper/cifar10"; the recipe itself if it has none.

    Args:
        name: Named recipe or file.
        data: Data set's name or folder. An existing folder comes first, as it does when the data is opened.
    """
    variant = f"{name}/{data}"
    return variant if variant in list_recipes() and not Path(data).expanduser().exists() else name


def read_recipe(name: str) -> dict[str, Any]:
    """Values of a named recipe or of a YAML file, over those it inherits.

    Raises:
        ConfigError: Neither a known name nor a file (lists the known names); a file it inherits cannot be used.
    """
    path = _find(name, Path())
    if path is None:
        raise ConfigError(f"recipe {name!r} is neither a file nor one of: {', '.join(list_recipes())}")
    values = read_settings(path)
    if "recipe" in values:
        raise ConfigError(f"recipe {name!r} holds 'recipe: {values['recipe']}': write 'inherit: {values['recipe']}' instead")
    return values


def read_settings(path: str | Path) -> dict[str, Any]:
    """Normalized values of a YAML file over those of the files it inherits from.

    Raises:
        ConfigError: A file cannot be read, does not exist, or inherits from itself in the end.
    """
    return _read_inheriting(Path(path), ())


def _read_inheriting(path: Path, heirs: Sequence[Path]) -> dict[str, Any]:
    if path.resolve() in [heir.resolve() for heir in heirs]:
        chain = " inherits ".join(str(file) for file in (*heirs, path))
        raise ConfigError(f"settings inherit from themselves: {chain}")
    values = read_yaml(path)
    parent = values.pop("inherit", None)
    values = normalized(values, f" (in {path})")
    if parent is None:
        return values
    file = _find(parent, path.parent) if isinstance(parent, str) else None
    if file is None:
        raise ConfigError(
            f"{path} inherits {parent!r}, which is neither a file ({path.parent / str(parent)}) "
            f"nor one of: {', '.join(list_recipes())}"
        )
    return merge(_read_inheriting(file, (*heirs, path)), values)


def _find(name: str, folder: Path) -> Path | None:
    """The file of a named recipe, or a file relative to `folder`."""
    if name in list_recipes():
        return RECIPES / f"{name}.yaml"
    path = folder / Path(name).expanduser()
    return path if path.is_file() else None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        ConfigError: No such file, no valid YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings: expected lines such as 'epochs: 20'")
    return values


_SECTIONS = ("augment", "inputs")
_KINDS: dict[str, tuple[Any, str]] = {
    "method": (str | Mapping, "a name, or methods with their options, as {svp: {hidden_dim: 64}}"),
    "options": (Mapping, "settings"),
    **dict.fromkeys(_SECTIONS, (Mapping, "settings")),
    "data": (str, "a folder or a name"),
    "recipe": (str | None, "a name or a file"),
}


def normalized(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Plain values; ``method`` is an ordered mapping of names to options, ``options`` refines whatever the method is.

    A method may be given as a name ("svp+lora"), as a ``Method`` or several, as a mapping {name: options}, or in the forms of
    0.1.0: options beside a ``name``, or options alone, which refine. Messages end with `where` the values stand.
    ``augment: none`` stands for no augmentation at all.

    Raises:
        ConfigError: Something else stands where a name or settings belong.
    """
    method = values.get("method")
    if isinstance(method, Method) or (isinstance(method, list | tuple) and all(isinstance(part, Method) for part in method)):
        values = {**values, "method": methods_to_dict(parse_methods(method))}
    values = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value for name, value in values.items()
    }
    if values.get("augment") == "none":
        values["augment"] = asdict(AugmentConfig.none())
    for name, (kind, expected) in _KINDS.items():
        if name in values and not isinstance(values[name], kind):
            raise ConfigError(f"{name} is {values[name]!r}, expected {expected}{where}")
    method, options = values.pop("method", None), dict(values.pop("options", {}))
    if isinstance(method, Mapping):
        joined = method.get("name")
        named = {key: value for key, value in method.items() if key != "name"}
        if "name" in method and not isinstance(joined, str):
            raise ConfigError(f"method.name is {joined!r}, expected a name{where}")
        if joined is None and named and all(isinstance(part, Mapping) for part in named.values()):
            method = named
        else:
            method, options = joined, named | options
    if isinstance(method, str):
        method = {part: {} for part in method.split("+")} if _is_distinct(method) else {method: {}}
    for name in (*values, *(method or ()), *options, *(name for section in _SECTIONS for name in values.get(section, {}))):
        if not isinstance(name, str):
            raise ConfigError(f"{name!r} is not the name of a setting{where}")
    if method is not None:
        values["method"] = with_options(method, options)
    elif options:
        values["options"] = options
    return values


def _is_distinct(name: str) -> bool:
    """Whether no method stands in a joined name twice; what is made of such a name says that it does."""
    parts = name.split("+")
    return len(set(parts)) == len(parts)


def with_options(method: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Methods with further options: those of the only method, or a mapping of options for each by its name.

    Raises:
        ConfigError: An option of several methods does not stand under the name of one of them.
    """
    by_name = {name: value for name, value in options.items() if name in method and isinstance(value, Mapping)}
    others = {name: value for name, value in options.items() if name not in by_name}
    if others and len(method) == 1:
        (only,) = method
        by_name = _merged({only: others}, by_name)
    elif others:
        option, joined = next(iter(others)), "+".join(method)
        raise ConfigError(
            f"{option} is no option of {joined!r}: of several methods, each has its options under its name, as in "
            f"--method.NAME.{option}"
        )
    return _merged(method, by_name)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` put on `base`, both normalized: sections (and those within) entry by entry, everything else as a whole.

    Raises:
        ConfigError: Options do not fit the method.
    """
    base = dict(base)
    if "method" in over and list(over["method"]) != list(base.get("method", ())):
        base.pop("method", None)  # another method: the old one's options mean nothing to it
        base.pop("options", None)
    merged = _merged(base, over)
    if "method" in merged and "options" in merged:
        merged["method"] = with_options(merged["method"], merged.pop("options"))
    return merged


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(merged.get(name), Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
