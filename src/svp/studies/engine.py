"""Run the jobs of a study: in this process, in several on this machine, or on a Ray cluster.

Every job is an independent, resumable run that writes to a directory of its own. A finished one is not repeated, one that was
killed goes on from its last epoch, one that fails is reported and stops no other.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from svp.errors import UnavailableError
from svp.limits import usable_cpus
from svp.paths import write_atomically
from svp.process import prepare
from svp.runs import EpochRow
from svp.runs.on_ray import join_ray
from svp.studies.study import Job
from svp.training import Workshop, train

T = TypeVar("T")
R = TypeVar("R")

Outcome = tuple[Job, str | None]
"""A job that ended, and why it failed if it did."""

PATIENCE = 300.0
"""Seconds that a Ray cluster may be without any CPU, as one that is growing is, before a study gives it up."""


def run_jobs(jobs: Sequence[Job], workers: int = 1, ray: str | None = None) -> Iterator[Outcome]:
    """Run jobs and yield each as it ends.

    Args:
        jobs: Jobs with different directories.
        workers: Processes. A single one is this process; several share its threads and the GPUs evenly, and each runs many
            jobs, as a process that starts takes seconds to load what it needs.
        ray: Address of a Ray cluster to run on instead ("auto": the one on this machine; "local": one of this call's own).
            Every run takes one CPU, and one GPU where the cluster has any. All machines must see the jobs' directories and
            the data under the same paths.

    Raises:
        UnavailableError: Ray is not installed, or all machines of its cluster are gone.
        ConnectionError: There is no cluster at the address.
    """
    if not jobs:
        return iter(())
    if ray is not None:
        return _on_ray(jobs, ray)
    if workers == 1:
        workshop = Workshop()
        return ((job, execute(job, workshop)) for job in jobs)
    return _in_processes(jobs, workers)


def execute(job: Job, workshop: Workshop) -> str | None:
    """Train in this process, with everything printed going to the job's log; returns why it failed, None if it did not."""

    def after_epoch(row: EpochRow) -> None:
        if row.epoch + 1 == job.until:
            raise _StoppedError

    with logged(job):
        try:
            train(config=job.config, after_epoch=after_epoch, workshop=workshop)
        except _StoppedError:
            print(f"stopped after {job.until} epochs, to be compared with the other learning rates")
        except Exception as error:  # whatever it is, the other runs go on
            traceback.print_exc()
            return _failed(job, f"{type(error).__name__}: {' '.join(str(error).split())}")
    job.failure_file.unlink(missing_ok=True)
    return None


@cache
def kept_workshop(workers: int) -> Workshop:
    """What all runs of a worker share, for as long as it lives; one of so many on this machine."""
    return Workshop(workers)


def _execute_in_worker(job: Job, workers: int | None = None) -> str | None:
    return execute(job, kept_workshop(workers or usable_cpus()))


class _StoppedError(Exception):
    """Ends a run that has as many epochs as were asked for."""


@contextmanager
def logged(job: Job) -> Iterator[None]:
    """Everything that is printed goes to the job's log."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8", errors="backslashreplace") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _failed(job: Job, reason: str) -> str:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(job.failure_file, lambda path: path.write_text(reason, encoding="utf-8"))
    return job.failure or reason


# several processes --------------------------------------------------------------------------------------------------------


def _in_processes(jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    """One pool of a single process per worker, so that a process that dies takes down its own job and no other."""
    waiting = list(reversed(jobs))
    died: set[Path] = set()
    running: dict[Future[str | None], tuple[int, Job]] = {}
    pools = [start_worker(number, workers) for number in range(min(workers, len(jobs)))]

    def give(number: int) -> None:
        if waiting:
            job = waiting.pop()
            running[pools[number].submit(_execute_in_worker, job, workers)] = (number, job)

    try:
        for number in range(len(pools)):
            give(number)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, job = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    pools[number].shutdown()
                    pools[number] = start_worker(number, workers)
                    if job.directory not in died:  # once more: it may have been killed from outside, and goes on where it was
                        died.add(job.directory)
                        waiting.append(job)
                        give(number)
                        continue
                    outcome = _failed(job, "its process died twice (killed, or out of memory)")
                give(number)
                yield job, outcome
    except BaseException:
        terminate(pools)
        raise
    finally:
        for pool in pools:
            pool.shutdown()


def terminate(pools: Sequence[ProcessPoolExecutor]) -> None:
    """End the processes in the middle of what they do; of runs nothing is lost but the epochs that were begun."""
    for pool in pools:
        for process in list((pool._processes or {}).values()):
            process.terminate()


def start_worker(number: int, workers: int) -> ProcessPoolExecutor:
    """A pool of one process, the `number`-th of `workers`, with its share of threads and GPUs; it ends when this one does."""
    threads = max(1, torch.get_num_threads() // workers)
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_prepare_worker, initargs=(threads, _gpu(number))
    )


def _gpu(number: int) -> str | None:
    """The GPU of a worker, by turns, as ``CUDA_VISIBLE_DEVICES`` names it; None if there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return names[number % len(names)] if names else None


def _prepare_worker(threads: int, gpu: str | None) -> None:
    prepare()
    torch.set_num_threads(threads)  # svp's kernels follow
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # or a killed study would leave runs that write beside those of its successor

    threading.Thread(target=end_with_parent, daemon=True).start()


# Ray ----------------------------------------------------------------------------------------------------------------------


def call_on_ray(function: Callable[[T], R], arguments: Iterable[T], address: str) -> Iterator[tuple[T, R | Exception]]:
    """``function(argument)`` for each, as tasks of a Ray cluster; yields argument and outcome as they end.

    A task takes one CPU, and one GPU where the cluster has any. Ray starts one whose process or machine died once more, three
    times at most; then its outcome is the error.

    Raises:
        UnavailableError: Ray is not installed, or the cluster has had no CPU for longer than `PATIENCE`: all its machines are
            gone, and Ray would wait for new ones forever.
        ConnectionError: There is no cluster at the address.
    """
    ray = join_ray(address)
    resources: dict[str, float] = ray.cluster_resources()

    def run(argument: T) -> R:
        prepare()
        torch.set_num_threads(1)
        return function(argument)

    gpus = 1 if resources.get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(run).options(name=function.__name__)
    running = {task.remote(argument): argument for argument in arguments}
    last_seen = time.monotonic()
    while running:
        ended, _ = ray.wait(list(running), num_returns=1, timeout=min(PATIENCE, 10.0))
        for done in ended:
            argument = running.pop(done)
            try:
                yield argument, ray.get(done)
            except ray.exceptions.RayError as error:
                yield argument, error
        if ended or ray.cluster_resources().get("CPU"):
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > PATIENCE:
            raise UnavailableError(
                f"the Ray cluster at {address} has had no CPU for {PATIENCE:.0f} s: all its machines are gone, "
                f"{len(running)} runs have not ended. The same command goes on from here on a cluster that works"
            )


def _on_ray(jobs: Sequence[Job], address: str) -> Iterator[Outcome]:
    for job, outcome in call_on_ray(_execute_in_worker, [_with_absolute_path(job) for job in jobs], address):
        if isinstance(outcome, Exception):
            outcome = _failed(job, f"{type(outcome).__name__}: {' '.join(str(outcome).split())}")
        yield job, outcome


def _with_absolute_path(job: Job) -> Job:
    return replace(job, config=replace(job.config, out=str(job.directory.resolve())))
