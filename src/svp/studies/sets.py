"""Search over sets of methods in two steps: which of them are used together, then with which options.

    1. every method of a list is in the set or not; those that are have the options that stand in the list;
    2. options and settings of the best set are searched.

Both are searches by TPE on validation images, each with a folder and a journal of its own, so both go on where they were and
share their trials over processes and machines as any search does. The empty set trains the head alone. A set is run once:
whoever is proposed it once more takes the score of that run, and waits for it where another process is at it.

Source: the hybrid search of MambaPEFT, Yoshimura et al., ICLR 2025, arXiv:2411.03855. There the first step takes every method
at its smallest, which a list with options does here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svp.errors import InputError
from svp.studies.search import Search, Space, Trial, make_search, read_space, run_search
from svp.training.config import SETTINGS
from svp.training.recipes import ConfigError, merge, normalized
from svp.tuners import parse_methods


@dataclass(frozen=True)
class SetSearch:
    """Two searches, the second of which follows from the first.

    Args:
        sets: The search of the set; its space holds the methods, each True or False.
        space: Options as "METHOD.OPTION", and settings -> range or values, of the second search.
        trials: Runs of the second search.
    """

    sets: Search
    space: Space
    trials: int

    @property
    def name(self) -> str:
        return self.sets.name

    def options(self, best: Trial) -> Search | None:
        """The search of the options of the best set; None if the space has none of it."""
        methods = self.sets.chosen(best.point)
        space = {name: part for name, part in self.space.items() if "." not in name or name.split(".")[0] in methods}
        if not space:
            return None
        base = {**self.sets.base, "method": methods}
        return Search(f"{self.name}, options", self.sets.data, base, space, self.trials, self.sets.seed)


def make_set_search(values: Mapping[str, Any]) -> SetSearch:
    """A checked search over sets from what a YAML file holds: name, settings, data (one), methods, space, trials (two), seed.

    Raises:
        ConfigError: A section is missing or unknown, or a setting is wrong; names the section.
    """
    known = ("name", "settings", "data", "methods", "space", "trials", "seed")
    for section in values:
        if section not in known:
            raise ConfigError(f"a search over sets has no section {section!r}; known: {', '.join(known)}")
    if "method" in (values.get("settings") or {}):
        raise ConfigError("settings name a method, and a search over sets finds it: list it under methods")
    methods, trials = _methods(values.get("methods")), values.get("trials")
    if not isinstance(trials, list) or len(trials) != 2 or not all(type(number) is int and number > 0 for number in trials):
        raise ConfigError(f"trials is {trials!r}, expected two numbers of runs: [of sets, of options], such as [30, 20]")
    space: dict[str, Any] = {}
    for name, part in _mapping(values.get("space")).items():
        if name in SETTINGS:
            space[name] = part
        elif name in methods and isinstance(part, Mapping):
            space |= {f"{name}.{option}": value for option, value in part.items()}
        else:
            raise ConfigError(
                f"space.{name} is {part!r}, expected a setting such as lr, or a method of the list with its options: "
                "{lora: {rank: [4, 16, 64]}}"
            )
    common = {name: values[name] for name in ("name", "settings", "data", "seed") if name in values}
    plain = make_search({**common, "space": {"lr": [0.001]}, "trials": trials[0]})  # checks the rest
    base = {name: value for name, value in plain.base.items() if name != "method"}
    choice: Space = dict.fromkeys(methods, (False, True))
    sets = Search(plain.name, plain.data, base, choice, trials[0], plain.seed, methods)
    made = SetSearch(sets, read_space(space) if space else {}, trials[1])
    everything = Trial(dict.fromkeys(methods, True), "complete", None, 0, Path())
    if (options := made.options(everything)) is not None:
        options.check()
    return made


def run_set_search(
    search: SetSearch,
    folder: str | Path,
    workers: int = 1,
    ray: str | None = None,
    run: Callable[[Search, Path, int, str | None], list[Trial]] = run_search,
) -> list[Trial]:
    """Run both steps, or what is missing of them; returns the trials of the last one, the best first.

    Args:
        search: What to search.
        folder: Gets a folder of each step: sets, and options with one of the best set in it, which more trials may change.
        workers: Processes that take part.
        ray: Address of a Ray cluster whose CPUs or GPUs take part instead, see ``run_jobs``.
        run: Runs a step.

    Raises:
        ConfigError, RuntimeError, ConnectionError: The same as of ``run_search``.
    """
    trials = run(search.sets, Path(folder) / "sets", workers, ray)
    if not trials or trials[0].state != "complete" or (options := search.options(trials[0])) is None:
        return trials
    return run(options, Path(folder) / "options" / search.sets.describe(trials[0].point), workers, ray)


def _methods(values: Any) -> dict[str, dict[str, Any]]:
    """Name -> options, from a list of names or from names with options."""
    if isinstance(values, list) and values and all(isinstance(name, str) for name in values):
        values = dict.fromkeys(values)
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(f"methods is {values!r}, expected a list of names, or names with options: {{lora: {{rank: 4}}}}")
    methods: dict[str, dict[str, Any]] = {}
    for name, options in values.items():
        part = merge({}, normalized({"method": {name: dict(options or {})}}, f" (methods.{name})"))["method"]
        try:
            parse_methods(name, **part[name])
        except InputError as error:
            raise ConfigError(f"methods.{name}: {error}") from error
        methods[name] = part[name]
    return methods


def _mapping(values: Any) -> Mapping[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"space is {values!r}, expected options of methods, and settings, with ranges or values")
    return values
