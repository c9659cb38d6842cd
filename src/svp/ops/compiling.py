"""How the CPU kernels are compiled, run on threads and kept on disk. Importing this module imports Numba.

A kernel is written once, as what happens to one work item; ``kernel`` makes the loop over items around it. Its machine code is
kept in a folder whose name is a digest of the sources in ``svp.ops``: Numba's own cache looks at the file of a function alone,
so that an edit in a file that it calls into would leave old code running.
"""

from __future__ import annotations

import atexit
import hashlib
import inspect
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from filelock import FileLock
from numba import prange, types
from numba.extending import intrinsic

from svp import paths
from svp.collector import collector_paused
from svp.errors import UnavailableError
from svp.ops.threads import run_kernel

try:  # private to Numba, hence the upper bound of its version
    from numba.core import cgutils as _cgutils
    from numba.core import config
    from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
except ImportError as error:
    raise ImportError(
        f"the kernels do not know the cache of Numba {numba.__version__}; see the versions in pyproject.toml"
    ) from error

_njit: Any = numba.njit  # its annotations leave out some options
cgutils: Any = _cgutils  # not annotated
_OPTIONS: dict[str, Any] = dict(nogil=True, boundscheck=False, error_model="numpy", no_cfunc_wrapper=True)

function = _njit(**_OPTIONS, no_cpython_wrapper=True)
"""A function that kernels call, compiled by itself."""

inlined = _njit(**_OPTIONS, no_cpython_wrapper=True, forceinline=True)
"""A few instructions that LLVM puts where they are called."""

part = _njit(**_OPTIONS, inline="always")
"""Part of one kernel: compiled where it is called and not by itself, which takes a quarter less time."""

_PATIENCE = 120.0  # seconds that a process waits for another one to compile; all kernels of a training step take 24
_UNUSED = 30 * 24 * 3600.0  # seconds after which a folder of other sources is removed
_PREFIX = "svp-kernels-"


class Kernel:
    """A kernel that the host calls: ``kernel(items, *arguments)`` runs ``body(item, *arguments)`` for every item.

    ``serial`` and ``parallel`` are loops over `body`, which is compiled by itself and which they find by a name, as they find
    the functions of the C library. Had they its code in them, LLVM would compile it again at each level that a parallel loop
    consists of: a first training step would take twice as long.
    """

    def __init__(self, body: Callable[..., None]) -> None:
        self._name = f"{body.__module__}.{body.__qualname__}"
        self.body = _kept(body, _OPTIONS | {"no_cpython_wrapper": True})
        self.serial = _kept(self._loop(body, "serial", "range"), _OPTIONS, self._prepare)
        self.parallel = _kept(self._loop(body, "parallel", "prange"), _OPTIONS | {"parallel": True}, self._prepare)

    def __call__(self, items: int, *arguments: Any) -> None:
        run_kernel(self.parallel, self.serial, items, *arguments)

    def _prepare(self, signature: tuple[Any, ...]) -> None:
        """Compile the body for a loop with arguments of these types, and make it known to LLVM under its name."""
        kinds = (types.intp, *signature[1:])
        self.body.compile(kinds)
        compiled = self.body.overloads[kinds]
        llvm.add_symbol(_symbol(self._name, kinds), compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))

    def _loop(self, body: Callable[..., None], form: str, range_name: str) -> Callable[..., None]:
        """A function that calls `body` for every item.

        Numba keeps a function under its file and line, so this one is compiled as if it stood at the first line of `body`. A
        closure would not be found again: what it holds is another object in every process.
        """
        _, *names = inspect.signature(body).parameters
        arguments = "".join(f"{name}, " for name in names)
        name = f"{body.__name__}_{form}"
        source = f"def {name}(items, {arguments}):\n for item in {range_name}(items):\n  call(item, ({arguments}))\n"
        code = body.__code__
        scope = {"call": _call_of(self._name), "prange": prange, "__name__": body.__module__}
        exec(compile("\n" * (code.co_firstlineno - 1) + source, code.co_filename, "exec"), scope)
        loop: Callable[..., None] = scope[name]
        return loop


def _symbol(name: str, kinds: tuple[Any, ...]) -> str:
    return f"svp.{name}.{hashlib.sha256(str(kinds).encode()).hexdigest()[:16]}"


def _call_of(name: str) -> Any:
    """The call of a body by its name, for the code of a loop."""

    @intrinsic
    def call(typing: Any, item: Any, arguments: Any) -> Any:
        kinds = (types.intp, *arguments.types)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = [args[0], *cgutils.unpack_tuple(builder, args[1])]
            function_type = context.call_conv.get_function_type(types.none, kinds)
            callee = cgutils.get_or_insert_function(builder.module, function_type, _symbol(name, kinds))
            status, _ = context.call_conv.call_function(builder, callee, types.none, kinds, values)
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value()

        return types.none(types.intp, arguments), generate

    return call


def kernel(body: Callable[..., None]) -> Kernel:
    """Decorate what a kernel does to one work item; its first parameter is the number of the item."""
    return Kernel(body)


def compiled_for(signature: str) -> Callable[[Callable[..., None]], Any]:
    """Decorate a function that the host calls with arguments of these types alone: compiled at once, and kept like kernels."""

    def decorate(py_function: Callable[..., None]) -> Any:
        dispatcher = _kept(py_function, _OPTIONS)
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher

    return decorate


# the cache --------------------------------------------------------------------------------------------------------------


class _Locator(_CacheLocator):
    """Where the machine code of a function is, as Numba asks for it."""

    def __init__(self, py_func: Callable[..., None], py_file: str) -> None:
        self._py_file = py_file  # Numba names it in warnings
        self._line = py_func.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Callable[..., None], py_file: str) -> _Locator:
        return cls(py_func, py_file)

    def get_cache_path(self) -> str:
        folder = Path(self._py_file).resolve().parent
        return str(cache_folder() / f"{folder.name}-{hashlib.sha256(bytes(folder)).hexdigest()[:8]}")

    def get_source_stamp(self) -> str:
        return hashlib.sha256(Path(self._py_file).read_bytes()).hexdigest()

    def get_disambiguator(self) -> str:
        return str(self._line)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):
    _impl_class = _CacheImpl

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # a full disk: the next process compiles again
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def _kept(
    py_function: Callable[..., None], options: dict[str, Any], prepare: Callable[[Any], None] = lambda signature: None
) -> Any:
    """``numba.njit`` with the cache of this module, compiled by one process after the other.

    Numba's cache has no lock. Of processes that meet an empty one, each would compile for itself, and two that write different
    signatures of a function in the same moment may leave its index naming the wrong machine code. In turns, the second reads
    what the first has written; one that has waited two minutes compiles all the same. `prepare` is called first with the types
    of the arguments.
    """
    dispatcher = _njit(**options)(py_function)
    dispatcher._cache = _Cache(py_function)  # type: ignore[no-untyped-call]
    compile_now = dispatcher.compile

    def compile_in_turn(signature: Any) -> Any:
        with _turn(Path(dispatcher.stats.cache_path), py_function.__name__), collector_paused():
            prepare(signature)
            return compile_now(signature)

    dispatcher.compile = compile_in_turn
    return dispatcher


@contextmanager
def _turn(folder: Path, name: str) -> Iterator[None]:
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        lock.acquire(timeout=_PATIENCE)
    # a folder that cannot be written, a file system without locks, or a turn that does not end (Timeout is an OSError)
    except (OSError, NotImplementedError):
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


@cache
def cache_folder() -> Path:
    """The folder of the machine code of these sources and this version of Numba; folders long unused are removed beside it.

    It is below ``$NUMBA_CACHE_DIR`` if that is set, beside the sources, or below svp's home: the first that can be written.
    With none, a temporary folder serves this process, and a warning says so.
    """
    places = [Path(__file__).parent / "__pycache__"]
    with suppress(UnavailableError):
        places.append(paths.home() / "kernels")
    if chosen := getattr(config, "CACHE_DIR", ""):
        places.insert(0, Path(chosen))
    refusals = []
    for place in places:
        folder = place / (_PREFIX + _digest(Path(__file__).parent))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            os.utime(folder)  # in use
        except OSError as error:
            refusals.append(f"{place}: {error.strerror or error}")
            continue
        _remove_unused(place, folder)
        return folder
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    warnings.warn(
        "there is no place to keep compiled kernels, so every process compiles them anew "
        f"({'; '.join(refusals)}); set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=2,
    )
    return folder


def _digest(sources: Path) -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvm.llvm_version_info}".encode())
    for file in sorted(sources.rglob("*.py")):
        digest.update(file.relative_to(sources).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _remove_unused(place: Path, used: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder != used and time.time() - folder.stat().st_mtime > _UNUSED:
                shutil.rmtree(folder, ignore_errors=True)
