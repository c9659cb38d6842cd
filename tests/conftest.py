"""Settings of every test: few and quiet threads, no network, uninitialized memory full of NaN."""

import functools
import gc
import itertools
import os
import signal

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # idle threads soon sleep: test machines are shared
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches beyond loopback

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.browser import Browser, open_browser
from tests.hub import Hub, serve_hub

ROOT = Path(__file__).parents[1]
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # where pytest-xdist runs tests in several processes: which one this is

if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start: workers share the machine evenly
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba"))  # what one process compiles serves all
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of what runs in a shell's background; tests interrupt themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` draws the same examples every time, `make test-all` others; how long one takes tells of the machine alone
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", settings.get_profile("repeatable"), derandomize=False, print_blob=True)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        return  # this process hands tests to workers, and saves the seconds that PyTorch takes
    import torch

    torch.set_num_threads(1 if WORKER else 2)
    if not has_gpu():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it as it is imported: its kernels then run anywhere
    # fills what `torch.empty` returns with NaN: reading it shows (`torch.use_deterministic_algorithms` would import Inductor)
    torch.set_deterministic_debug_mode("warn")


@functools.cache
def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of every later garbage collection; each run of ``svp.train`` makes one."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """And, after the tests of a file, what they have imported."""
    if nextitem is None or nextitem.path != item.path:
        pytest_collection_finish()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """For tests of what more than one thread can break, wherever they run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Empty folders, one after the other: pytest's own cost a millisecond each."""
    place = tmp_path_factory.mktemp("homes")

    def folders() -> Iterator[Path]:
        for number in itertools.count():
            folder = place / str(number)
            folder.mkdir()
            yield folder

    return folders()


@pytest.fixture(autouse=True)
def svp_home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of svp's own files, so that no test sees or changes the user's."""
    home = next(homes)
    monkeypatch.setenv("SVP_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Seed the global generators: ``torch.manual_seed`` takes milliseconds to note it for devices that are not there."""
    import torch

    (torch.manual_seed if has_gpu() else torch.default_generator.manual_seed)(0)


@pytest.fixture(scope="session", autouse=True)
def drawing() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Where runs draw their curves and write their pages: that takes longer than to train the tests' small models."""
    from svp.commands import train
    from svp.training import outcome

    places: list[tuple[Any, str]] = [(outcome, "plot_curves"), (train, "_write_page")]
    real = [getattr(module, name) for module, name in places]

    @contextmanager
    def as_ever() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for (module, name), function in zip(places, real, strict=True):
                patch.setattr(module, name, function)
            yield

    with pytest.MonkeyPatch.context() as patch:
        for module, name in places:
            patch.setattr(module, name, lambda *_: None)
        yield as_ever


@pytest.fixture
def drawn(drawing: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Runs that the test makes in this process are drawn."""
    with drawing():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module."""
    with open_browser() as found:
        yield found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hugging Face Hub on loopback, with an empty cache and the token of its user "ann" in this process's environment."""
    for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / "hf" / name.lower()))
    with serve_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        served.tokens["hf_AnnsOwnSecret"] = "ann"
        monkeypatch.setenv("HF_TOKEN", "hf_AnnsOwnSecret")
        yield served


@pytest.fixture(scope="session")
def task_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables of `tests.task_runs` and the runs ``multi`` and ``regression`` on them."""
    from tests.task_runs import train, write_tables

    folder = write_tables(tmp_path_factory.mktemp("tasks"))
    for kind in ("multi", "regression"):
        train(folder, kind)
    return folder
