"""Turns of contestants that live in processes of their own, so that no thread pool disturbs another's.

A contestant sleeps on a pipe while others run. In each round each takes one turn of every task.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from xconv.measure.contestants import Entrant

PAUSE = 0.5  # seconds before a disturbed turn is repeated
DISTURBED = 0.1  # a turn is disturbed when other programs took more than this share of the machine
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "XCONV_NUM_THREADS")
MOST_OF_AN_ERROR = 300  # characters
Say = Callable[[str], None]


def in_short(error: Exception) -> str:
    """An error as one line; what torch.compile raises names its cause only further down."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words if len(words) <= MOST_OF_AN_ERROR else words[:MOST_OF_AN_ERROR] + ' ...'}"


def serve(pipe: Connection, entrant: Entrant) -> None:
    """A contestant's process: make it, then answer each (task, seconds) with a turn, and "end" with what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the referee
    try:
        contestant = entrant()
        pipe.send(contestant.ready())
    except Exception as error:
        pipe.send({"error": in_short(error)})
        return
    with suppress(EOFError):  # the referee has gone
        while True:
            task, seconds = pipe.recv()
            if task == "end":
                pipe.send(contestant.last())
                return
            pipe.send(contestant.turn(task, seconds))


@contextmanager
def threads_of_children(threads: int) -> Iterator[None]:
    """Processes started within use so many threads, whatever computes in them."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def start(stack: ExitStack, work: Callable[..., None], argument: Any, threads: int) -> tuple[Connection, Any]:
    """`work(pipe, argument)` in a fresh process that ends with the stack; the other end of its pipe, and its first
    word, or {"error"} where it had none.
    """
    spawn = multiprocessing.get_context("spawn")
    pipe, far = spawn.Pipe()
    process = spawn.Process(target=work, args=(far, argument), daemon=True)
    with threads_of_children(threads):
        process.start()
    far.close()

    def end() -> None:
        pipe.close()
        process.join(2)
        if process.is_alive():
            process.terminate()
            process.join()

    stack.callback(end)
    try:
        return pipe, pipe.recv()
    except EOFError:
        return pipe, {"error": "its process ended without a word"}


def busy_seconds() -> float | None:
    """Processor seconds used by everyone since the machine started; None where the system (not Linux) hides them."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _idle, _wait, *rest = (int(word) for word in file.readline().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


class Referee:
    """Asks for turns, and has a turn repeated that other programs disturbed, while `patience` (seconds) lasts."""

    def __init__(self, patience: float) -> None:
        self.patience, self.turns, self.disturbed = patience, 0, 0

    def quiet(self) -> None:
        """Wait until no other program takes more than its share, while patience lasts: for turns that come once."""
        while self.patience > 0:
            start, before, used = time.perf_counter(), busy_seconds(), time.process_time()
            time.sleep(PAUSE)
            took, after, used = time.perf_counter() - start, busy_seconds(), time.process_time() - used
            if before is None or after is None or (after - before - used) / took / (os.cpu_count() or 1) <= DISTURBED:
                return
            self.patience -= took

    def once(self, pipe: Any, task: str) -> float:
        """Seconds of a turn that cannot be repeated, such as the next epoch; it waits for a quiet moment to begin."""
        self.quiet()
        patience, self.patience = self.patience, 0.0
        try:
            return self.turn(pipe, task, 0.0)
        finally:
            self.patience = patience

    def turn(self, pipe: Any, task: str, seconds: float) -> float:
        """Seconds of the task."""
        while True:
            start, before = time.perf_counter(), busy_seconds()
            pipe.send((task, seconds))
            median, used = pipe.recv()
            took, after = time.perf_counter() - start, busy_seconds()
            share = 0.0 if before is None or after is None else (after - before - used) / took / (os.cpu_count() or 1)
            if share <= DISTURBED or self.patience <= 0:
                self.turns += 1
                self.disturbed += share > DISTURBED
                return median
            time.sleep(PAUSE)
            self.patience -= took + PAUSE


def compete(
    entrants: Mapping[str, Entrant],
    tasks: Sequence[str],
    rounds: int,
    seconds: float,
    threads: int,
    referee: Referee,
    say: Say,
    repeatable: bool = True,
) -> dict[str, Any]:
    """{contestant: {about, task: [seconds, by round], ..., last_loss}}, or {error} if it failed."""
    results: dict[str, Any] = {}
    pipes: dict[str, Connection] = {}
    with ExitStack() as stack:
        for name, entrant in entrants.items():  # one after the other: they would only disturb one another
            pipe, told = start(stack, serve, entrant, entrant.threads or threads)
            if "error" in told:
                results[name] = told
                say(f"{name} cannot compete: {told['error']}")
                continue
            pipes[name] = pipe
            results[name] = {"about": told, **{task: [] for task in tasks}}
        for number in range(rounds if pipes else 0):
            say(f"round {number + 1} of {rounds}")
            order = list(pipes)
            shift = number % len(order)  # nobody always follows the same neighbour out of a cold start
            for name in order[shift:] + order[:shift]:
                try:
                    for task in tasks:
                        pipe = pipes[name]
                        took = referee.turn(pipe, task, seconds) if repeatable else referee.once(pipe, task)
                        results[name][task].append(took)
                except (EOFError, ConnectionError):  # such as a process that the system killed for its memory
                    results[name] = {"error": f"its process ended in round {number + 1}"}
                    say(f"{name}: {results[name]['error']}")
                    del pipes[name]
        for name, pipe in pipes.items():
            pipe.send(("end", 0.0))
            results[name].update(pipe.recv())
    return results
