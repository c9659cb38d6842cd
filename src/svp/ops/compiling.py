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
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from svp import paths
from svp.collector import collector_paused
from svp.errors import UnavailableError
from svp.ops.threads import kernel_threads, raise_late, team_address

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

    `body` is compiled by itself; `loop`, which shares the items out to the threads, finds it by a name, as it finds the
    functions of the C library. Were one compiled into the other, LLVM would optimize the body twice.
    """

    def __init__(self, body: Callable[..., None]) -> None:
        self._name = f"{body.__module__}.{body.__qualname__}"
        self.body = _kept(body, _OPTIONS | {"no_cpython_wrapper": True})
        self.loop = _kept(self._loop(body), _OPTIONS, self._prepare)

    def __call__(self, items: int, *arguments: Any) -> None:
        self.loop(items, kernel_threads() if items > 1 else 1, *arguments)
        raise_late()

    def _prepare(self, signature: tuple[Any, ...]) -> None:
        """Compile the body for a loop with arguments of these types, and make it known to LLVM under its name."""
        kinds = (types.intp, *signature[2:])
        self.body.compile(kinds)
        compiled = self.body.overloads[kinds]
        llvm.add_symbol(_symbol(self._name, kinds), compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
        llvm.add_symbol(_TEAM, team_address())

    def _loop(self, body: Callable[..., None]) -> Callable[..., None]:
        """A function that calls `body` for every item.

        Numba keeps a function under its file and line, so this one is compiled as if it stood at the first line of `body`. A
        closure would not be found again: what it holds is another object in every process.
        """
        _, *names = inspect.signature(body).parameters
        arguments = "".join(f"{name}, " for name in names)
        name = f"{body.__name__}_loop"
        source = f"def {name}(items, threads, {arguments}):\n call(items, threads, ({arguments}))\n"
        code = body.__code__
        scope = {"call": _call_of(self._name), "__name__": body.__module__}
        exec(compile("\n" * (code.co_firstlineno - 1) + source, code.co_filename, "exec"), scope)
        loop: Callable[..., None] = scope[name]
        return loop


def _symbol(name: str, kinds: tuple[Any, ...]) -> str:
    return f"svp.{name}.{hashlib.sha256(str(kinds).encode()).hexdigest()[:16]}"


_TEAM = "svp.team"  # what runs a function on several threads, as LLVM finds it
_LLVM_COUNT, _LLVM_STATUS, _LLVM_INT = ir.IntType(64), ir.IntType(32), ir.IntType(32)
_LLVM_ADDRESS = ir.IntType(8).as_pointer()
_NEXT, _ITEMS, _STATUS, _EXCEPTION, _ARGUMENTS = range(5)  # fields of what a team shares


def _call_of(name: str) -> Any:
    """The calls of a body by its name, for the code of a loop: threads take one item after the other until none is left.

    What they share lies on the stack of the caller: the next item, the number of items, how a body failed, its arguments.
    """

    @intrinsic
    def call(typing: Any, items: Any, threads: Any, arguments: Any) -> Any:
        kinds = (types.intp, *arguments.types)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            body_type = context.call_conv.get_function_type(types.none, kinds)
            values = context.get_arg_packer(kinds[1:]).as_arguments(builder, cgutils.unpack_tuple(builder, args[2]))
            exception = builder.function.args[1]  # where the caller's own exception goes, by Numba's calling convention
            shared_type = ir.LiteralStructType(
                [_LLVM_COUNT, _LLVM_COUNT, _LLVM_STATUS, exception.type, *(value.type for value in values)]
            )
            shared = cgutils.alloca_once(builder, shared_type)
            fields = [_LLVM_COUNT(0), args[0], _LLVM_STATUS(0), exception, *values]
            for number, value in enumerate(fields):
                builder.store(value, cgutils.gep_inbounds(builder, shared, 0, number))
            worker = _worker(builder.module, _symbol(name, kinds), body_type, shared_type)
            address = builder.bitcast(shared, _LLVM_ADDRESS)
            with builder.if_else(builder.icmp_signed(">", args[1], args[1].type(1))) as (many, one):
                with many:
                    team_type = ir.FunctionType(ir.VoidType(), [worker.type, _LLVM_ADDRESS, _LLVM_INT, _LLVM_INT])
                    team = cgutils.get_or_insert_function(builder.module, team_type, _TEAM)
                    builder.call(team, [worker, address, builder.trunc(args[1], _LLVM_INT), _LLVM_INT(0)])
                with one:
                    builder.call(worker, [address])
            status = builder.load(cgutils.gep_inbounds(builder, shared, 0, _STATUS))
            with cgutils.if_unlikely(builder, builder.icmp_signed("!=", status, _LLVM_STATUS(0))):
                builder.ret(status)
            return context.get_dummy_value()

        return types.none(types.intp, types.intp, arguments), generate

    return call


def _worker(module: Any, name: str, body_type: Any, shared_type: Any) -> Any:
    """What every thread of a team runs: a function of the address of what they share."""
    worker = ir.Function(module, ir.FunctionType(ir.VoidType(), [_LLVM_ADDRESS]), f"{name}.worker")
    worker.linkage = "internal"
    body = cgutils.get_or_insert_function(module, body_type, name)
    builder = ir.IRBuilder(worker.append_basic_block())
    shared = builder.bitcast(worker.args[0], shared_type.as_pointer())
    fields = [cgutils.gep_inbounds(builder, shared, 0, number) for number in range(len(shared_type.elements))]
    items, exception = builder.load(fields[_ITEMS]), builder.load(fields[_EXCEPTION])
    values = [builder.load(field) for field in fields[_ARGUMENTS:]]
    result = builder.alloca(body_type.args[0].pointee)
    take, run, failed, done = (worker.append_basic_block() for _ in range(4))
    builder.branch(take)
    builder.position_at_end(take)
    item = builder.atomic_rmw("add", fields[_NEXT], _LLVM_COUNT(1), "monotonic")
    builder.cbranch(builder.icmp_signed("<", item, items), run, done)
    builder.position_at_end(run)
    status = builder.call(body, [result, exception, item, *values])
    builder.cbranch(builder.icmp_signed("==", status, _LLVM_STATUS(0)), take, failed)
    builder.position_at_end(failed)
    builder.store(status, fields[_STATUS])
    builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()
    return worker


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
