"""PPO on Procgen with a GPU: the simulator alone, the network alone, and the whole.

    python -m benchmarks.procgen_gpu --output benchmarks/results/procgen_gpu.json
    python -m benchmarks.procgen_gpu --quick --device cpu --output quick.json       # tiny sizes, to see that it works

What the parts say: ``simulator`` steps copies spread over processes; ``inference`` is one batch of observations that
are on the GPU already; ``training`` is forward and backward on a minibatch, which PPO does ``update_epochs`` times per
step. Each is measured in the ways that the network can be run: as it is written, recorded as a CUDA graph, compiled,
and both. The bound of the whole is one after the other, ``1 / (1 / simulator + 1 / inference + 3 / training)``, or with
the simulator and inference side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpbench.learners.encoded_graphs import record_graph
from hpbench.learners.encoders import ENCODERS, EncodedActorCritic
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.tasks.procgen import PUBLISHED, TASKS
from hpbench.tasks.procgen_simulator import ACTIONS

EPOCHS = int(PUBLISHED.values["update_epochs"])
WAYS = ("written", "graph", "compiled", "compiled graph", "benchmark graph", "tuned graph")
"""How the network is run; ``benchmark``: cuDNN measures its algorithms; ``tuned``: the compiler measures kernels."""


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rate(work: Callable[[], int], seconds: float, device: str) -> float:
    """Units of work per second, after two times that do not count."""
    work()
    work()
    synchronise(device)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += work()
        if done % 16 == 0:
            synchronise(device)
    synchronise(device)
    return done / (time.perf_counter() - start)


def simulator(processes: int, each: int, halves: bool, seconds: float) -> dict[str, Any]:
    """Random actions in all copies, as fast as the pool takes them."""
    pool = SimulatorPool(processes)
    task, envs = TASKS["coinrun"], processes * each
    assert task.simulator is not None
    parts = 2 if halves else 1
    running = [pool.make(task.simulator, envs // parts) for _ in range(parts)]
    for one in running:
        one.reset(range(envs // parts), range(envs // parts))
    random = np.random.Generator(np.random.PCG64(0))
    actions = random.integers(ACTIONS, size=(64, envs // parts))
    step = 0

    def work() -> int:
        nonlocal step
        step += 1
        for one in running:
            one.reward  # noqa: B018 - waits for the step before
            one.step(actions[step % 64])
        return envs

    result = rate(work, seconds, "cpu")
    pool.close()
    return {"processes": processes, "copies_each": each, "halves": halves, "steps_per_second": round(result)}


@contextlib.contextmanager
def cudnn(benchmark: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def network(encoder: str, batch: int, way: str, train: bool, seconds: float, device: str) -> dict[str, Any]:
    """Forward, or forward and backward, of the actor and critic on a batch of observations on the device."""
    networks = EncodedActorCritic.build(ENCODERS.load(encoder), ACTIONS, True)
    row = networks.initial(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)).to(device)
    random = torch.Generator().manual_seed(0)
    seen = torch.randint(256, (1, batch, networks.encoder.observation_size), dtype=torch.uint8, generator=random)
    seen = seen.to(device)
    results: dict[str, Tensor] = {}
    outputs: Any = networks.outputs
    if way.startswith(("compiled", "tuned")):
        mode = "max-autotune-no-cudagraphs" if way.startswith("tuned") else None
        outputs = torch.compile(networks.outputs, dynamic=False, mode=mode)

    def once() -> None:
        if not train:
            with torch.no_grad():
                results["all"] = outputs(row, seen)[0]
            return
        leaf = row.detach().requires_grad_()
        output, value, _ = outputs(leaf, seen)
        loss = output.square().mean() + value.square().mean()
        results["all"] = torch.autograd.grad(loss, leaf)[0]

    started = time.perf_counter()
    with cudnn(way.startswith("benchmark")):
        work = record_graph(once) if way.endswith("graph") else once
        work()
        synchronise(device)
        prepared = time.perf_counter() - started
        first = results["all"].clone()
        same = True
        for _ in range(5):
            work()
            same &= bool(torch.equal(first, results["all"]))

        def count() -> int:
            work()
            return batch

        measured = rate(count, seconds, device)
    result = {"encoder": encoder, "batch": batch, "way": way, "per_second": round(measured), "repeats_exactly": same}
    if device == "cuda":
        result["gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        torch.cuda.reset_peak_memory_stats()
    return {**result, "prepared_seconds": round(prepared, 1)}


def transfers(device: str, seconds: float) -> dict[str, Any]:
    """Bytes per second of observations to the device, from pinned and from other memory."""
    result = {}
    for pinned in (False, True):
        source = torch.empty(512 * 12288, dtype=torch.uint8, pin_memory=pinned and device == "cuda")
        target = source.to(device)

        def work(source: Tensor = source, target: Tensor = target) -> int:
            target.copy_(source, non_blocking=True)
            return source.numel()

        result["pinned" if pinned else "pageable"] = round(rate(work, seconds, device))
    return result


def whole(
    encoder: str, envs: int, steps: int, seconds: float, device: str, profile: Path | None, compiled: bool
) -> dict[str, Any]:
    """PPO at the published values; ``profile``: where a table of what took time goes."""
    config = PPOConfig(num_envs=envs, num_steps=steps, normalize_reward=True, encoder=encoder, compile=compiled)
    started = time.perf_counter()
    print(f"whole {encoder} {envs} x {steps}", flush=True)
    population = PPO(TASKS["coinrun"], [0], config, dict(PUBLISHED.values), device=device)
    made = time.perf_counter() - started
    population.train(1)
    synchronise(device)
    warm = time.perf_counter() - started - made
    parts = {"collect": 0.0, "update": 0.0}
    methods = {"collect": population._collect, "update": population._update}

    def timed(name: str) -> Callable[[Tensor], None]:
        def work(totals: Tensor) -> None:
            synchronise(device)
            start = time.perf_counter()
            methods[name](totals)
            synchronise(device)
            parts[name] += time.perf_counter() - start

        return work

    for name in methods:
        setattr(population, f"_{name}", timed(name))
    start, rollouts = time.perf_counter(), 0
    while rollouts == 0 or time.perf_counter() - start < seconds:
        population.train(1)
        synchronise(device)
        rollouts += 1
    spent = time.perf_counter() - start
    result = {
        "encoder": encoder,
        "envs": envs,
        "steps": steps,
        "steps_per_second": round(rollouts * population.steps_per_rollout / spent),
        "made_seconds": round(made, 1),
        "first_seconds": round(warm, 1),
        "seconds_of_parts_per_rollout": {name: round(value / rollouts, 4) for name, value in parts.items()},
    }
    print("whole", result, flush=True)
    if profile is not None:
        activity = torch.profiler.ProfilerActivity
        kinds = [activity.CUDA if device == "cuda" else activity.CPU]  # both would take minutes to put together
        with torch.profiler.profile(activities=kinds) as profiler:
            population.train(1)
            synchronise(device)
        averages = profiler.key_averages()
        by = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
        profile.write_text(averages.table(sort_by=by, row_limit=40))
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=max(1, len(os.sched_getaffinity(0)) - 1))
    parser.add_argument("--seconds", type=float, default=1.5, help="of one measurement of a part")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds after which nothing more is begun")
    parser.add_argument("--parts", nargs="+", default=["simulator", "transfers", "training", "inference", "whole"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS[:4]), choices=WAYS)
    parser.add_argument("--encoders", nargs="+", default=["impala", "impala-small"])
    parser.add_argument("--batches", nargs="+", type=int, default=[2048, 8192])
    parser.add_argument("--shapes", nargs="+", default=["1024x64", "64x256"], help="environments x steps of the whole")
    parser.add_argument("--compile", action="store_true", help="the network of the whole")
    parser.add_argument("--profile", type=Path, help="folder for profiler tables of the whole")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/procgen_gpu.json"))
    arguments = parser.parse_args()
    sides: list[tuple[int, bool]] = [(64, False), (64, True), (4, False), (4, True)]
    if arguments.quick:
        arguments.processes, arguments.seconds, arguments.batches, arguments.shapes = 1, 0.01, [8], ["4x8"]
        arguments.ways = ["written", "graph"] if arguments.device == "cuda" else ["written"]
        arguments.encoders, sides = ["impala-small"], sides[2:]
    torch.set_num_threads(1)
    device, began = arguments.device, time.perf_counter()
    cuda = device == "cuda"
    machine = {"gpu": torch.cuda.get_device_name() if cuda else None, "cores": len(os.sched_getaffinity(0))}
    document: dict[str, Any] = {"machine": machine | {"torch": torch.__version__, "python": platform.python_version()}}

    def measure(part: str, work: Callable[[], dict[str, Any]]) -> None:
        if part not in arguments.parts or time.perf_counter() - began > arguments.deadline:
            return
        try:
            row = work()
        except Exception:  # noqa: BLE001 - the others are still worth measuring
            row = {"error": traceback.format_exc()[-2000:]}
        document.setdefault(part, []).append(row)
        document["seconds"] = round(time.perf_counter() - began, 1)
        print(part, row, flush=True)
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")

    count, seconds = arguments.processes, arguments.seconds
    for each, halves in sides:
        measure("simulator", lambda e=each, h=halves: simulator(count, e, h, seconds))
    measure("transfers", lambda: transfers(device, seconds))
    for shape in arguments.shapes:
        envs, steps = map(int, shape.split("x"))
        for encoder in arguments.encoders:
            table = None if arguments.profile is None else arguments.profile / f"profile_{encoder}_{shape}.txt"
            given = (encoder, envs, steps, 4 * seconds, device, table, arguments.compile)
            measure("whole", lambda given=given: whole(*given))
    for way in arguments.ways:
        for encoder in arguments.encoders:
            for batch in arguments.batches:
                measure("training", lambda e=encoder, b=batch, w=way: network(e, b, w, True, seconds, device))
            measure("inference", lambda e=encoder, w=way: network(e, 512, w, False, seconds, device))
    document["done"] = True
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
