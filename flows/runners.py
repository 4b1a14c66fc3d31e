"""Where the work is done: processes of this machine, or the workers of a Ray or a Dask cluster.

One task per shard, whichever runner: locally a task is a thread that waits for a process of a pool, since conversion is
Python at full load; on a cluster it converts in the worker's own process.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from prefect import Task, get_run_logger
from prefect.futures import PrefectFuture
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.retries import RETRIES, lost_worker, waits
from pipeline import storage
from pipeline.config import ConfigError
from pipeline.convert import ConvertConfig, Converter, ShardResult, convert_in_worker, convert_shard, start_worker
from pipeline.errors import PipelineError
from pipeline.manifest import remove_temporaries
from pipeline.stages.convert import RunShards, Shard

if TYPE_CHECKING:
    from synth.shards import Asked as SynthAsked
    from synth.shards import RunShards as AskShards
    from synth.shards import Shard as SynthShard
    from synth.shards import Tell, Work

T = TypeVar("T")

RunnerName = Literal["local", "ray", "dask"]

#: Converts a shard: units, number, directory.
ConvertOne = Callable[[Path, int, Path], ShardResult]

#: The task that converts one shard, with what does it.
ConvertTask = Task[[ConvertOne, int, Path, Path], ShardResult]

CHECKOUT = Path(__file__).resolve().parents[1]

#: Seconds that a cluster's address has to answer.
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run's work is done.

    ``address``: of the cluster; None: Ray or Dask on this machine, for the time of a stage. ``workers``: processes; on a
    cluster how many shards are out at once; 0: one per core, on a cluster two per core. ``gpus``: what Ray is asked for
    by each stage that loads a model; 0: such stages run in the flow's own process.
    """

    runner: RunnerName = "local"
    address: str | None = None
    workers: int = 0
    gpus: int = 0

    def check(self) -> None:
        """Raises ConfigError where the parameters do not fit each other, or this environment."""
        if self.runner == "local" and self.address:
            raise ConfigError(f"address {self.address!r} is that of a cluster: add runner: ray or runner: dask")
        if self.gpus and self.runner != "ray":
            raise ConfigError("gpus is what Ray is asked for: add runner: ray, or leave it out")
        if self.runner == "local":
            return
        if importlib.util.find_spec(f"prefect_{self.runner}") is None:
            raise ConfigError(f"runner: {self.runner} needs its packages: pip install 'multistream[{self.runner}]'")
        if not get_current_settings().api.url:
            raise ConfigError(
                f"runner: {self.runner} needs one Prefect server that all workers reach, and PREFECT_API_URL names none: "
                "start one with `prefect server start --host 0.0.0.0` and `export PREFECT_API_URL=http://HOST:4200/api`"
            )


@dataclass(frozen=True, slots=True)
class Here:
    """Converts in the process that calls it; goes to the workers of a cluster with the task.

    ``alone``: that process has the machine for itself; else tokenizer and tables keep to one thread, as others work beside.
    """

    config: ConvertConfig
    mounted: tuple[storage.Mount, ...]
    alone: bool

    def __call__(self, units: Path, number: int, directory: Path) -> ShardResult:
        if not self.alone:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            pa.set_cpu_count(1)
        storage.mount(*self.mounted)
        return convert_shard(units, number, directory, converter_of(self.config))


_kept = threading.local()


def converter_of(config: ConvertConfig) -> Converter:
    """This thread's converter, kept from one shard to the next of the same configuration."""
    if getattr(_kept, "config", None) != config:
        _kept.config, _kept.converter = config, Converter(config)
    converter: Converter = _kept.converter
    return converter


class Pool:
    """Processes of this machine that convert. Where one is killed, the shards under way raise BrokenProcessPool, and the
    next one gets new processes."""

    def __init__(self, config: ConvertConfig, processes: int) -> None:
        self._config, self._processes = config, processes
        self._lock = threading.Lock()
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        given = (self._config, storage.mounts())
        return ProcessPoolExecutor(self._processes, get_context("spawn"), start_worker, given)

    def __call__(self, units: Path, number: int, directory: Path) -> ShardResult:
        with self._lock:
            pool = self._pool
        try:
            return pool.submit(convert_in_worker, units, number, directory).result()
        except BrokenProcessPool:
            with self._lock:
                if self._pool is pool:
                    self._pool = self._started()
            raise

    def close(self) -> None:
        """Ends the processes, once they are done with their shards."""
        with self._lock:
            self._pool.shutdown(cancel_futures=True)


def shards_in(place: Place, task: ConvertTask) -> RunShards:
    """``pipeline.stages.convert.RunShards`` with a task per shard, in a place."""

    def run_shards(
        todo: Sequence[Shard], directory: Path, config: ConvertConfig, _workers: int
    ) -> Iterator[tuple[int, str, ShardResult]]:
        if not todo:
            return
        with ExitStack() as stack:
            convert: ConvertOne = Here(config, storage.mounts(), alone=place.runner == "local")
            if place.runner == "local":
                processes = min(place.workers or os.cpu_count() or 1, len(todo))
                if processes > 1:
                    pool = Pool(config, processes)
                    stack.callback(pool.close)
                    convert = pool
                runner: TaskRunner[Any] = stack.enter_context(ThreadPoolTaskRunner(processes))
            else:
                runner = stack.enter_context(cluster(place))

            def submit(shard: Shard) -> PrefectFuture[ShardResult]:
                number, units, _ = shard
                given = {"convert": convert, "number": number, "units": units, "directory": directory}
                options: dict[str, Any] = {"retry_delay_seconds": waits()}
                future: PrefectFuture[ShardResult] = runner.submit(task.with_options(**options), given)
                return future

            for (number, _, key), result in each(todo, submit, lambda: room(runner, place)):
                yield number, key, result
        remove_temporaries(directory)  # what workers left that were killed

    return run_shards


def asking_in(place: Place, task: Task[..., SynthAsked]) -> AskShards:
    """``synth.shards.RunShards`` with a task per shard on a cluster; on Ray each with ``place.gpus`` GPUs of its own."""

    def run_shards(shards: Sequence[SynthShard], directory: Path, work: Work, tell: Tell) -> Iterator[SynthAsked]:
        with ExitStack() as stack:
            runner = stack.enter_context(cluster(place))
            if place.gpus:
                from prefect_ray.context import remote_options

                stack.enter_context(remote_options(num_gpus=place.gpus))

            def submit(shard: SynthShard) -> PrefectFuture[SynthAsked]:
                given = {"shard": shard, "directory": directory, "work": work}
                options: dict[str, Any] = {"retry_delay_seconds": waits()}
                future: PrefectFuture[SynthAsked] = runner.submit(task.with_options(**options), given)
                return future

            for shard, asked in each(shards, submit, lambda: len(shards)):
                tell(shard.number, asked.usage)
                yield asked

    return run_shards


def each(
    items: Sequence[T], submit: Callable[[T], PrefectFuture[Any]], most: Callable[[], int]
) -> Iterator[tuple[T, Any]]:
    """Submits items, at ``most`` so many at once, and yields each with its result as it is done.

    An item whose worker was lost with its node is submitted again. Raises the first error of another kind, and
    PipelineError where the workers of one item are lost again and again.
    """
    left, under_way = deque(items), dict[PrefectFuture[Any], T]()
    done: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    lost: Counter[int] = Counter()
    while left or under_way:
        room = most()
        while left and len(under_way) < room:
            item = left.popleft()
            future = submit(item)
            under_way[future] = item
            future.add_done_callback(done.put)
        future = done.get()
        item = under_way.pop(future)
        try:
            result = future.result()
        except lost_worker() as error:
            tries = lost[id(item)] = lost[id(item)] + 1
            if tries > RETRIES:
                raise PipelineError(
                    f"workers were lost {tries} times over the same work ({_line(error)}): what is finished is kept; see to "
                    "the nodes and their memory, then run again"
                ) from error
            wait = waits()[tries - 1]
            get_run_logger().warning("a worker was lost (%s): trying again in %.1f s", _line(error), wait)
            time.sleep(wait)
            left.appendleft(item)
            continue
        yield item, result


def room(runner: TaskRunner[Any], place: Place) -> int:
    """How many shards may be out at once, now: clusters grow and shrink."""
    if place.runner == "local":
        return 2 * (place.workers or os.cpu_count() or 1)
    if place.workers:
        return place.workers
    if place.runner == "ray":
        return max(2, 2 * int(_resources().get("CPU", 1)))
    client: Any = runner.client  # type: ignore[attr-defined]
    threads: dict[str, int] = client.nthreads()
    return max(2, 2 * sum(threads.values()))


def _resources() -> dict[str, float]:
    """What the nodes of the connected Ray cluster have in all."""
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


@contextmanager
def cluster(place: Place) -> Iterator[TaskRunner[Any]]:
    """The task runner of a cluster, connected. Raises PipelineError where it does not answer."""
    _check_answers(place)
    try:
        runner = _ray(place) if place.runner == "ray" else _dask(place)
        runner.__enter__()
        if place.runner == "dask":
            _ = runner.client
    except (OSError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"no {place.runner} cluster at {place.address or 'this machine'}: {_line(error)}"
        ) from error
    with ExitStack() as stack:
        stack.push(runner.__exit__)
        yield runner


def _ray(place: Place) -> Any:
    from prefect_ray.task_runners import RayTaskRunner

    paths = [str(CHECKOUT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PYTHONPATH": os.pathsep.join(paths),
        "TOKENIZERS_PARALLELISM": "false",
    }
    options: dict[str, Any] = {"runtime_env": {"env_vars": environment}, "log_to_driver": False}
    if place.address == "auto":
        return RayTaskRunner(init_kwargs={**options, "address": "auto"})
    if place.address is None:
        options["include_dashboard"] = False
    return RayTaskRunner(place.address, init_kwargs=options)


def _dask(place: Place) -> Any:
    from prefect_dask.task_runners import DaskTaskRunner

    if place.address is not None:
        return DaskTaskRunner(address=place.address)
    processes = place.workers or os.cpu_count() or 1
    return DaskTaskRunner(cluster_kwargs={"n_workers": processes, "threads_per_worker": 1, "dashboard_address": None})


def _check_answers(place: Place) -> None:
    """Raises PipelineError in seconds where the client libraries would wait for minutes."""
    if place.address is None or place.address == "auto":
        return
    parts = urlsplit(place.address if "://" in place.address else f"//{place.address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise ConfigError(
            f"address {place.address!r} is none: write HOST:PORT, ray://HOST:PORT, tcp://HOST:PORT or auto"
        )
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise PipelineError(
            f"no {place.runner} cluster answers at {place.address} ({_line(error)}): is its head running?"
        ) from error


def on_a_gpu(place: Place, task: Task[..., T], parameters: dict[str, Any]) -> T:
    """One task on a node of a Ray cluster that has ``place.gpus`` free ones; waits for it. Raises as the task does."""
    from prefect_ray.context import remote_options

    with cluster(place) as runner, remote_options(num_gpus=place.gpus):
        if (there := _resources().get("GPU", 0.0)) < place.gpus:
            get_run_logger().warning("the cluster has %g GPUs, %d are asked for: waiting for a node", there, place.gpus)
        [(_, result)] = each([task], lambda one: runner.submit(one, parameters), lambda: 1)
    made: T = result
    return made


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
