"""One comparison: contestants in turns, their memory, and how many times as fast one is as the best of others."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xconv.measure.contestants import Entrant
from xconv.measure.machine import about
from xconv.measure.memory import added_mb
from xconv.measure.referee import Referee, Say, compete

TASKS = {"step": ("train", "infer"), "fit": ("fit",), "book": ("book",)}  # what each contestant does in a round
MEMORY = "memory"
MEMORY_RUNS = 3  # fresh processes for each contestant, of which the least counts


@dataclass(frozen=True)
class Demand:
    """A ratio to be told: how many times as fast `faster` is as the best of `slower`; `targets` by task."""

    what: str
    slower: tuple[str, ...]
    faster: str
    targets: Mapping[str, float] = field(default_factory=dict)


def demands(ours: Sequence[str], theirs: Sequence[str], of: str) -> list[Demand]:
    """Each of ours over the best of theirs, with no targets."""
    return [Demand(f"{name} over {of}'s best", tuple(theirs), name) for name in ours]


def ratio(results: Mapping[str, Any], task: str, slower: Sequence[str], faster: str) -> dict[str, float] | None:
    """How many times as fast, by round: the median with least and most; by the best turn of each, and in all."""
    slower = [name for name in slower if results.get(name, {}).get(task)]
    if not results.get(faster, {}).get(task) or not slower:
        return None
    # The better of several peers is chosen by its median over the whole run, not anew in each round.
    peer = min(slower, key=lambda name: statistics.median(results[name][task]))
    theirs, ours = results[peer][task], results[faster][task]
    by_round = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        "median": statistics.median(by_round),
        "least": min(by_round),
        "most": max(by_round),
        "best_turns": min(theirs) / min(ours),
        "in_all": sum(theirs) / sum(ours),
    }


def memory_ratio(results: Mapping[str, Any], slower: Sequence[str], faster: str) -> dict[str, float] | None:
    """The least memory of the peers over ours; measured once, so there is no range."""
    theirs = [mb for name in slower if (mb := results.get(name, {}).get("step_mb"))]
    ours = results.get(faster, {}).get("step_mb")
    return {"median": min(theirs) / ours} if theirs and ours else None


def ratios(results: Mapping[str, Any], asked: Sequence[Demand], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Each demand with what was measured; what did not run is not in it."""
    found = []
    for task in (*tasks, MEMORY):
        for demand in asked:
            if task == MEMORY:
                measured = memory_ratio(results, demand.slower, demand.faster)
            else:
                measured = ratio(results, task, demand.slower, demand.faster)
            if measured is not None:
                found.append(
                    {"what": demand.what, "task": task, "target": demand.targets.get(task), "measured": measured}
                )
    return found


def compare(
    entrants: Mapping[str, Entrant],
    asked: Sequence[Demand],
    *,
    task: str,
    rounds: int,
    seconds: float = 0.3,
    patience: float = 60.0,
    say: Say,
    **facts: Any,
) -> dict[str, Any]:
    """Everything of one comparison, as JSON has it. `facts`: the model, its batch size, and what else is to be told.

    A turn of whole epochs is not repeated where others disturbed it, since the next would be another epoch.
    """
    machine = about()
    referee = Referee(patience)
    tasks = TASKS[task]
    results = compete(entrants, tasks, rounds, seconds, machine["threads"], referee, say, task == "step")
    if task == "step":
        say("the memory of a training step, in fresh processes")
        for name, row in results.items():
            if "error" not in row:
                row["step_mb"] = added_mb(entrants[name], machine["threads"], say, MEMORY_RUNS)
    return {
        **machine,
        **facts,
        "task": task,
        "tasks": list(tasks),
        "rounds": rounds,
        "turns": referee.turns,
        "disturbed_turns": referee.disturbed,
        "contestants": results,
        "ratios": ratios(results, asked, tasks),
    }
