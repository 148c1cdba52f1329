"""Where tasks run beside this process: processes of this machine, and the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tidefleet import __version__
from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.run import CannotRun, Progress, Request, Spread, Task, missing_libraries, run_task

Keep = Callable[[Task, dict[str, Any]], None]

DASK_SECONDS = 10.0
"""How long a scheduler and its first worker may take to answer."""

_told: Any = None
"""In a worker process: the queue that is told how far its task is."""


def _listen(channel: Any) -> None:
    global _told  # noqa: PLW0603 - a worker process has one queue, given when it starts
    _told = channel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends its workers


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C is heard at the end; processes that are started meanwhile never hear it, not even before they listen."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def interrupts_noted() -> Iterator[Callable[[], None]]:
    """Ctrl-C is raised where it is asked for, by what this yields, and nowhere else.

    Raised within ``concurrent.futures.wait`` it may leave locks of futures taken, and the pool waits for them for ever.
    """
    noted: list[int] = []

    def heed() -> None:
        if noted:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone hears of signals
        yield heed
        return
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)


def _work(request: Request, task: Task, parts_directory: Path | None) -> dict[str, Any]:
    """One task in a worker process."""
    last = [-1.0]

    def progress(share: float, words: str) -> None:
        if _told is not None and (share >= last[0] + 0.005 or share >= 1.0):
            last[0] = share
            _told.put((task.key, share, words))

    parts = Parts.open(parts_directory, task.key)
    return run_task(request, task, progress, parts)


def in_processes(jobs: int) -> Spread:
    """Run tasks in so many processes of this machine."""

    def spread(
        request: Request, tasks: Sequence[Task], keep: Keep, progress: Progress, parts_directory: Path | None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        channel = context.Queue()
        shares = dict.fromkeys((one.key for one in tasks), 0.0)
        workers = min(jobs, len(tasks))
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_listen, initargs=(channel,)) as pool:
            with _interrupts_wait():  # processes start with the first of these
                running: dict[Future[dict[str, Any]], Task] = {
                    pool.submit(_work, request, one, parts_directory): one for one in tasks
                }
            try:
                with interrupts_noted() as heed:
                    while running:
                        heed()
                        done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                        words = ""
                        with contextlib.suppress(queue.Empty):
                            while True:
                                key, share, words = channel.get_nowait()
                                shares[key] = max(shares[key], share)
                        for one in done:
                            task = running.pop(one)
                            keep(task, _result(one, task))
                            Parts.open(parts_directory, task.key).remove()
                            shares[task.key], words = 1.0, f"{task.words}: done"
                        if words:
                            progress(sum(shares.values()) / len(shares), words)
            except BaseException:
                # Not cancelled: the pool marks what its ended processes leave, and cannot mark what is cancelled.
                for process in list(getattr(pool, "_processes", {}).values()):
                    process.terminate()
                raise

    return spread


def _result(one: Future[dict[str, Any]], task: Task) -> dict[str, Any]:
    try:
        return one.result()
    except BrokenProcessPool:
        raise CannotRun(
            f"{task.words}: its process ended without an answer (memory?); with --resume FILE what is done is kept, "
            "with --jobs 1 one runs at a time"
        ) from None


# --- Dask ------------------------------------------------------------------------------------------------------------


def _worker_version() -> str:
    """Runs on a worker."""
    return __version__


def _remote(scenario: str, traces: str | None, task: tuple[str | None, int], full: bool) -> dict[str, Any]:
    """One task on a worker; it reads the traces from its own disk.

    What the user must know comes back as ``{"error": words}``, so that the worker's log is not needed to see it.
    """
    from tidefleet.simulator.scenario import Scenario  # noqa: PLC0415 - on the worker

    where = Path(traces) if traces is not None else None
    if where is not None and not where.is_dir():
        return {"error": f"the worker has no directory {where}; expected the traces at the same path on every worker"}
    request = Request(Scenario.model_validate_json(scenario), where, (task[1],), full=full)
    try:
        return {"outcome": run_task(request, Task(*task), lambda share, words: None, Parts())}
    except CannotRun as error:
        return {"error": str(error)}


def on_dask(address: str) -> Spread:
    """Run tasks on the workers of a Dask cluster, e.g. ``tcp://10.0.0.5:8786``.

    A worker that goes away costs the tasks that it had; the scheduler gives them to others.
    """

    def spread(
        request: Request, tasks: Sequence[Task], keep: Keep, progress: Progress, parts_directory: Path | None
    ) -> None:
        del parts_directory  # parts would have to be on a disk that all workers share
        with missing_libraries(), _client(address) as client:
            from distributed import as_completed  # noqa: PLC0415 - an optional extra

            scenario = request.scenario.model_dump_json(by_alias=True)
            traces = str(request.traces.resolve()) if request.traces is not None else None
            running = {
                client.submit(
                    _remote, scenario, traces, (one.policy, one.seed), request.full, pure=False, key=_key(one, index)
                ): one
                for index, one in enumerate(tasks)
            }
            for done, future in enumerate(as_completed(list(running), loop=client.loop), 1):
                task = running[future]
                try:
                    answer = future.result()
                except Exception as error:
                    raise CannotRun(f"{task.words}: failed on the cluster: {type(error).__name__}: {error}") from error
                if "error" in answer:
                    raise CannotRun(f"{task.words}: {answer['error']}")
                keep(task, answer["outcome"])
                progress(done / len(tasks), f"{task.words}: done")

    return spread


def _key(task: Task, index: int) -> str:
    """A name that no other run on the same scheduler has."""
    return f"tidefleet-{index}-{task.key}-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client  # noqa: PLC0415 - an optional extra

    try:
        client = Client(address, timeout=DASK_SECONDS, name="tidefleet", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise CannotRun(
            f"--dask {address}: no scheduler answers: {reason}; expected an address such as tcp://127.0.0.1:8786"
        ) from None
    try:
        try:
            client.wait_for_workers(1, timeout=DASK_SECONDS)
        except TimeoutError:
            raise CannotRun(
                f"--dask {address}: the scheduler has no worker; expected at least one: dask worker {address}"
            ) from None
        try:
            versions = client.run(_worker_version)
        except Exception as error:
            raise CannotRun(
                f"--dask {address}: a worker cannot import tidefleet: {type(error).__name__}: {str(error)[:200]}; "
                "expected the same version on every worker: pip install 'tidefleet[dask]'"
            ) from None
        other = {name: one for name, one in versions.items() if one != __version__}
        if other:
            name, version = next(iter(other.items()))
            raise CannotRun(
                f"--dask {address}: worker {name} has tidefleet {version}, this is {__version__}; expected the same"
            )
        yield client
    finally:
        client.close(timeout=2)
