"""Search settings on validation images with Optuna: TPE proposes, hopeless runs are stopped early, machines share one journal.

The journal is a file in the search's folder. Whoever starts the same search on the same folder takes part: several processes
here, other machines that see the folder. Trials are ordinary runs of `svp train`. Those that reach the end read the test
images as every run does, but what they score there takes no part in the search and is not shown.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from svp.errors import InputError, SvpError, UnavailableError
from svp.limits import usable_cpus
from svp.models.factory import fetch_weights, recorded_name, tagged
from svp.runs import EpochRow, RunDirectory
from svp.studies.engine import call_on_ray, kept_workshop, logged, start_worker, terminate
from svp.studies.study import Cell, Job, check_classes
from svp.studies.study_file import make_study
from svp.studies.variants import method_name, point_settings
from svp.training import ConfigError, Workshop, make_config, train
from svp.training.nonfinite import NonFiniteLossError
from svp.training.recipes import merge, normalized

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones if both are; drawn evenly in the logarithm if `log`."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Range | tuple[Any, ...]]
"""Option of the method ("METHOD.OPTION" of several), or setting -> its range or its values."""


@dataclass(frozen=True)
class Search:
    """What to search.

    Args:
        name: Title, and the folder's name below runs/.
        data: Label of the data set.
        base: All settings that stay, in the form of a run's config.yaml.
        space: Where to search.
        trials: Runs, those stopped early among them; processes that work together may end up to one each above it.
        seed: Seeds every run and the first proposals.
        methods: Methods with their options, of which a point says which are used; empty if `base` holds the method.
    """

    name: str
    data: str
    base: Mapping[str, Any]
    space: Space
    trials: int
    seed: int = 0
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def chosen(self, point: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """The methods that a point of a search over sets uses, with their options; the head alone if it uses none."""
        return {name: self.methods[name] for name, used in point.items() if used} or {"linear": {}}

    def describe(self, point: Mapping[str, Any]) -> str:
        """A point in words: "lr 0.00312, hidden_dim 16"; "lora+ssf" of a search over sets."""
        return "+".join(self.chosen(point)) if self.methods else describe(point)

    def check(self) -> None:
        """Raise ``ConfigError`` if the space has no valid point; tries the first of every range."""
        self.job(Path(), 0, {name: part.low if isinstance(part, Range) else part[0] for name, part in self.space.items()})

    def job(self, folder: Path, number: int, point: Mapping[str, Any]) -> Job:
        """The run of the trial with this number, at a point of the space; no two trials share a directory.

        Raises:
            ConfigError: The point is no valid setting.
        """
        if self.methods:
            settings: dict[str, Any] = {"method": self.chosen(point)}
        else:
            settings = point_settings(point, "+".join(self.base["method"]))
        config = make_config(merge(self.base, normalized(settings)))
        cell = Cell(self.data, self.describe(point), config, (config.rate,))
        job = cell.job(folder, cell.candidates[0], self.seed, tuning=True)
        directory = job.directory.with_name(f"trial{number:04d}-{job.directory.name}")
        return replace(job, config=replace(job.config, out=str(directory)))


@dataclass(frozen=True)
class Trial:
    """A run of a search.

    Args:
        point: What was proposed.
        state: "complete", "pruned" (stopped early), "fail" (diverged, or an error: see the log) or "running".
        top1: Best top-1 on validation images so far, 0..1; None if no epoch was finished.
        epochs: Finished epochs.
        directory: The run's.
    """

    point: Mapping[str, Any]
    state: str
    top1: float | None
    epochs: int
    directory: Path


def describe(point: Mapping[str, Any]) -> str:
    """A point in words: "lr 0.00312, hidden_dim 16"."""
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in point.items())


def make_search(values: Mapping[str, Any]) -> Search:
    """A checked search from what a YAML file holds: name, settings, data (one), space, trials, seed.

    Raises:
        ConfigError: A section is missing or unknown, or a setting is wrong; names the section.
    """
    known = ("name", "settings", "data", "space", "trials", "seed")
    for section in values:
        if section not in known:
            raise ConfigError(f"a search has no section {section!r}; known: {', '.join(known)}")
    trials, seed = values.get("trials"), values.get("seed", 0)
    if type(trials) is not int or trials < 1:
        raise ConfigError(f"trials is {trials!r}, expected a number of runs such as 30")
    method = method_name(values)
    part = {name: values[name] for name in ("name", "settings", "data") if name in values}
    study = make_study({**part, "methods": [method], "seeds": [seed]})
    if len(study.data) != 1:
        raise ConfigError(f"data has {len(study.data)} data sets, a search expects one")
    ((label, data),) = study.data.items()
    base: dict[str, Any] = {}
    for layer in (study.settings, data, study.methods[method]):
        base = merge(base, normalized(layer))
    search = Search(study.name, label, base, read_space(values.get("space")), trials, seed)
    search.check()
    return search


def read_space(values: Any) -> dict[str, Range | tuple[Any, ...]]:
    """Where to search, from what a YAML file holds.

    Raises:
        ConfigError: A part is neither a range nor a list of values; names it.
    """
    form = "{lr: {low: 0.001, high: 0.1, log: true}, hidden_dim: [16, 32, 64]}"
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(f"space is {values!r}, expected options with ranges or values: {form}")
    space: dict[str, Range | tuple[Any, ...]] = {}
    for name, part in values.items():
        if isinstance(part, list) and part:
            space[name] = tuple(part)
        elif isinstance(part, Mapping) and {"low", "high"} <= set(part) <= {"low", "high", "log"}:
            whole = all(type(part[end]) is int for end in ("low", "high"))
            try:
                low, high = (part[end] if whole else float(part[end]) for end in ("low", "high"))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"space.{name} is {part!r}, expected numbers: {form}") from error
            if not low < high or (part.get("log") and low <= 0):
                raise ConfigError(f"space.{name} is {part!r}, expected low < high, and above 0 with log")
            space[name] = Range(low, high, bool(part.get("log", False)))
        else:
            raise ConfigError(f"space.{name} is {part!r}, expected a range or a list of values: {form}")
    return space


def run_search(search: Search, folder: str | Path, workers: int = 1, ray: str | None = None) -> list[Trial]:
    """Run trials until the folder's journal holds as many as asked for; returns all of it, the best first.

    A line is printed per trial. A search that was killed goes on, but for the trials that were running. Trials that failed
    before do not count, as what was missing may be there now; those whose loss diverged, or whose options do not fit, do.

    Args:
        search: What to search.
        folder: Folder of the journal and the trials.
        workers: Processes that take part.
        ray: Address of a Ray cluster whose CPUs or GPUs take part instead, see ``run_jobs``.

    Raises:
        ConfigError: The data are of several labels or of numbers.
        WeightsError: Published weights are not here and cannot be downloaded; a cluster has its own.
        RuntimeError: Optuna, or Ray, is not installed.
        ConnectionError: There is no cluster at the address.
    """
    config = make_config(search.base)
    check_classes(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    study = _open_journal(search, folder, seed=search.seed)
    search = _with_own_weights(search, study)
    failed = sum(trial.user_attrs.get(_AGAIN, False) for trial in study.get_trials(deepcopy=False))
    search = replace(search, trials=search.trials + failed)
    if (missing := search.trials - _ended(study)) > 0:
        if ray is None and config.weights == "published":
            fetch_weights(config.model)
        if ray is not None:
            turns = [_Turn(search, folder.resolve(), first=i == 0 and missing == search.trials) for i in range(missing)]
            for _, outcome in call_on_ray(_take_turn, turns, ray):
                print(f"a trial was lost: {outcome}" if isinstance(outcome, Exception) else outcome, flush=True)
        elif workers == 1:
            _take_part(search, folder, 0, 1)
        else:
            pools = [start_worker(number, workers) for number in range(workers)]
            try:
                parts = [pool.submit(_take_part, search, folder, number, workers) for number, pool in enumerate(pools)]
                for part in wait(parts, return_when=FIRST_EXCEPTION).done:
                    part.result()
            except BaseException:
                terminate(pools)
                raise
            finally:
                for pool in pools:
                    pool.shutdown()
    trials = [_as_trial(search, folder, trial) for trial in study.get_trials(deepcopy=False) if trial.params]
    return sorted(trials, key=lambda trial: (trial.state == "complete", trial.top1 or 0.0), reverse=True)


def _open_journal(search: Search, folder: Path, seed: int | None) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UnavailableError("Optuna is not installed: pip install 'vim-svp[study]'") from error

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of a trial that fails, `_line` gives the reason
    return optuna.create_study(
        study_name=search.name,
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        direction="maximize",
        load_if_exists=True,
    )


def _with_own_weights(search: Search, study: optuna.Study) -> Search:
    """The search with the published weights that the name of its model meant when it began."""
    model = make_config(search.base).model
    if _MODEL not in study.user_attrs:
        study.set_user_attr(_MODEL, recorded_name(model) if study.get_trials(deepcopy=False) else tagged(model))
    began: str = study.user_attrs[_MODEL]
    return replace(search, base={**search.base, "model": began}) if began.partition(".")[0] == model else search


def _take_part(search: Search, folder: Path, number: int, workers: int) -> None:
    """Run trials in this process, one of so many, until there are enough in all."""
    workshop = Workshop(workers)
    study = _open_journal(search, folder, seed=None)
    if number == 0 and not study.get_trials(deepcopy=False):
        study = _open_journal(search, folder, seed=search.seed)  # the others must not propose the same

    def report(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        print(_line(search, folder, study, trial), flush=True)
        if _ended(study) >= search.trials:
            study.stop()

    study.optimize(lambda trial: _objective(trial, search, folder, workshop), callbacks=[report], catch=(Exception,))


@dataclass(frozen=True)
class _Turn:
    """To run one trial; the `first` of a search proposes by its seed, the others must not propose the same."""

    search: Search
    folder: Path
    first: bool


def _take_turn(turn: _Turn) -> str:
    study = _open_journal(turn.search, turn.folder, seed=turn.search.seed if turn.first else None)
    lines: list[str] = []

    def report(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        lines.append(_line(turn.search, turn.folder, study, trial))

    workshop = kept_workshop(usable_cpus())
    study.optimize(
        lambda trial: _objective(trial, turn.search, turn.folder, workshop), n_trials=1, callbacks=[report], catch=(Exception,)
    )
    return lines[0]


def _line(search: Search, folder: Path, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> str:
    done = _as_trial(search, folder, trial)
    score = "" if done.top1 is None else f" validation top-1 {done.top1:.2%},"
    reason = f": {trial.user_attrs.get(_REASON, 'see its log')}" if done.state == "fail" else ""
    return f"[{_ended(study)}/{search.trials}] {search.describe(done.point)}:{score} {done.state}{reason}"


def _objective(trial: optuna.Trial, search: Search, folder: Path, workshop: Workshop) -> float:
    point = {name: _suggest(trial, name, part) for name, part in search.space.items()}
    job = search.job(folder, trial.number, point)
    if not search.methods:
        return _run_trial(trial, job, workshop)
    with _claimed(folder / "claims" / "".join(str(int(used)) for used in point.values())):
        if (same := _tried(trial)) is None:
            return _run_trial(trial, job, workshop)
    trial.set_user_attr(_SAME_AS, same.number)
    assert same.value is not None
    return same.value


@contextmanager
def _claimed(file: Path) -> Iterator[None]:
    """Inside, no other process is with the same file; one that was killed is not either."""
    file.parent.mkdir(exist_ok=True)
    lock = FileLock(file)
    with suppress(OSError, NotImplementedError):  # a file system without locks: a set may be run by two
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _run_trial(trial: optuna.Trial, job: Job, workshop: Workshop) -> float:
    import optuna

    def after_epoch(row: EpochRow) -> None:
        trial.report(row.merit[0], row.epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    with logged(job):
        try:
            run = train(config=job.config, after_epoch=after_epoch, workshop=workshop)
            return max(row.merit[0] for row in RunDirectory(run.directory).read_metrics())
        except Exception as error:
            traceback.print_exc()
            said = " ".join(str(error).split())
            trial.set_user_attr(_REASON, said if isinstance(error, SvpError) else f"{type(error).__name__}: {said}")
            answered = isinstance(error, NonFiniteLossError | optuna.TrialPruned) or type(error) in (InputError, ConfigError)
            trial.set_user_attr(_AGAIN, not answered)
            raise


_MODEL = "model"
"""Attribute of a journal: the model, with the tag of its weights."""

_REASON = "reason"
"""Attribute of a trial that failed: why, in one line; its log has more."""

_AGAIN = "again"
"""Attribute of a trial that ended early: whether the same command may bring another outcome."""

_SAME_AS = "same_as"
"""Attribute of a trial that was not run: the number of the one that was, with the same point."""


def _tried(trial: optuna.Trial) -> optuna.trial.FrozenTrial | None:
    """A trial with the same point that has reached the end: the same seed would bring the same."""
    trials = trial.study.get_trials(deepcopy=False)
    same = (t for t in trials if t.params == trial.params and t.state.name == "COMPLETE" and _SAME_AS not in t.user_attrs)
    return next(same, None)


def _suggest(trial: optuna.Trial, name: str, part: Range | tuple[Any, ...]) -> Any:
    if isinstance(part, tuple):
        return trial.suggest_categorical(name, part)
    if isinstance(part.low, int) and isinstance(part.high, int):
        return trial.suggest_int(name, part.low, part.high, log=part.log)
    return trial.suggest_float(name, part.low, part.high, log=part.log)


def _ended(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _as_trial(search: Search, folder: Path, trial: optuna.trial.FrozenTrial) -> Trial:
    seen = trial.intermediate_values
    point = {name: trial.params[name] for name in search.space if name in trial.params}
    best = trial.value if trial.state.name == "COMPLETE" else max(seen.values(), default=None)
    number = trial.user_attrs.get(_SAME_AS, trial.number)
    return Trial(point, trial.state.name.lower(), best, len(seen), search.job(folder, number, point).directory)
