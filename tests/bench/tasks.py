"""How good are generated tasks? Yields per gate, speed, tau2's own verdict, and how they spread beside tau2-base.

    python -m tests.bench.tasks --json

1,000 tasks on tau2's database (users that the benchmark does not use) and 1,000 on synthetic worlds pass all gates that
need no model. A sample is then conducted by tau2's own Orchestrator, with reference agent and scripted user, and
scored by tau2's own evaluator; on the same sample our verdicts on gold, do-nothing and mutants are held against tau2's.
`accepted_per_second` is CPU time of one core, generation and all gates together.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sentinel.env.check import check_env
from sentinel.env.official import Judge
from sentinel.env.overlay import WRITE_TOOLS, World
from sentinel.env.tau2 import benchmark_tasks
from sentinel.proposer.gates import Bench
from sentinel.proposer.leakage import Manifest, manifest
from sentinel.proposer.makers import open_maker
from sentinel.proposer.propose import Proposal, explore, generating, propose
from sentinel.proposer.tool import SYNTHETIC
from sentinel.records import Gate, Task
from sentinel.spec.models import Environment, ScriptedUser, SyntheticWorld, Tau2World
from tests.bench.orchestrated import conduct

SEED = (11, "bench", 0)


def made(world: World, settings: Tau2World | SyntheticWorld, count: int, held_out: Manifest) -> tuple[Proposal, float]:
    """So many tasks of the natural mix through all gates, and the CPU seconds that they took."""
    maker = open_maker(Environment(world=settings, user=ScriptedUser(type="scripted")), world)
    bench = Bench(world, held_out, talking=True)
    draw = generating(maker)
    propose([explore(3)], draw, Bench(world, held_out, talking=True), (0, "warm", 0))
    began = time.process_time()
    proposal = propose([explore(count)], draw, bench, SEED)
    return proposal, time.process_time() - began


def yields(proposal: Proposal) -> dict[str, Any]:
    """How many candidates met each gate, how many it rejected, and why."""
    met, table = proposal.tally.requested, {}
    for gate in Gate:
        reasons = Counter(v.reason for v in proposal.dropped if v.gate is gate)
        table[gate.value] = {"met": met, "rejected": reasons.total(), "reasons": dict(sorted(reasons.items()))}
        met -= reasons.total()
    return {"requested": proposal.tally.requested, "kept": proposal.tally.kept, "gates": table}


def coverage(tasks: Sequence[Task]) -> dict[str, Any]:
    """Shares of writes per task, of the write tools, and of look-ups by e-mail."""
    writes = Counter(sum(call.name in WRITE_TOOLS for call in task.gold) for task in tasks)
    tools = Counter(call.name for task in tasks for call in task.gold if call.name in WRITE_TOOLS)
    finds = Counter(call.name for task in tasks for call in task.gold if call.name.startswith("find_user"))
    return {
        "tasks": len(tasks),
        "writes_per_task": _shares(writes),
        "write_tools": _shares(tools),
        "found_by_email": round(finds["find_user_id_by_email"] / max(finds.total(), 1), 3),
        "transfers": sum(_calls(task, "transfer_to_human_agents") for task in tasks),
        "communicates": sum(bool(task.communicate) for task in tasks),
        "several_items": sum(any(len(c.arguments.get("item_ids", ())) > 1 for c in t.gold) for t in tasks),
        "mean_calls": round(sum(len(task.gold) for task in tasks) / len(tasks), 2),
    }


def _calls(task: Task, name: str) -> bool:
    return any(call.name == name for call in task.gold)


def _shares(counts: Counter[Any]) -> dict[str, float]:
    return {str(name): round(count / counts.total(), 3) for name, count in sorted(counts.items())}


def official(tasks: Sequence[Task], world: World) -> dict[str, Any]:
    """tau2's Orchestrator and evaluator on a sample, and our verdicts against tau2's on nearly right agents."""
    judge = Judge(world)
    rewards = {task.id: conduct(task, judge)[0] for task in tasks}
    report = check_env(tasks, world)
    return {
        "tasks": len(tasks),
        "conducted_success_rate": sum(rewards.values()) / len(tasks),
        "conducted_failures": [task for task, reward in rewards.items() if reward < 1.0],
        "gold_success_rate": report.gold_success / len(tasks),
        "noop_success": report.noop_success,
        "mutants": report.mutants,
        "mutant_success": report.mutant_success,
        "verdicts": report.scored,
        "agreement": report.agreement,
    }


def leaks(tasks: Sequence[Task], held_out: Manifest) -> int:
    """Generated tasks that name a user or an order of the benchmark."""
    banned = {name.lower() for name in (*held_out.users, *held_out.orders)}
    texts = (task.model_dump_json().lower() for task in tasks)
    return sum(any(f'"{name}"' in text or f" {name}" in text for name in banned) for text in texts)


def measure(count: int, sample: int) -> dict[str, Any]:
    """Both worlds."""
    held_out = manifest(benchmark_tasks("tau2-base"), World.tau2(), entities=True)
    result: dict[str, Any] = {"tau2_base": coverage(benchmark_tasks("tau2-base"))}
    worlds: dict[str, tuple[World, Tau2World | SyntheticWorld]]
    worlds = {"tau2": (World.tau2(), Tau2World(type="tau2")), "synthetic": (World.from_data({}), SYNTHETIC)}
    for name, (world, settings) in worlds.items():
        proposal, seconds = made(world, settings, count, held_out)
        tasks = proposal.tasks
        result[name] = {
            "accepted_per_second": round(len(tasks) / seconds, 1),
            "yield": yields(proposal),
            "coverage": coverage(tasks),
            "evaluation_entities": leaks(tasks, held_out),
            "official": official(tasks[:: max(1, len(tasks) // (sample // 2))][: sample // 2], world),
        }
    return result


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else (there is no other)")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks per world")
    parser.add_argument(
        "--sample", type=int, default=200, help="tasks for tau2's Orchestrator, of both worlds together"
    )
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.tasks, arguments.sample), indent=1))


if __name__ == "__main__":
    main()
