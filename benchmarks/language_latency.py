"""How long does a language model take to decide?

    python benchmarks/language_latency.py            # 3 minutes
    python benchmarks/language_latency.py --quick    # a tiny model, to see that it works

Measured is :meth:`agents.language.slot.SlotPolicy.decide`, from text observations to decisions, tokenisation included,
on one thread, for 1, 10 and 64 members in the middle of PPO runs on CartPole.

First the model that comes with the package, in runs that it controls itself from random starts, shown what the agent
``hyperprompt`` shows it: no history. Then larger ones with random weights, shown everything.

- *ours*: small Llamas in C++ (``agents/language/llama.py``), slot after slot.
- *drafts*: what other models take, and these where there was no compiler: transformers, with as few passes as there are
  wrong drafts.
- *in turn*: transformers, a pass over the prompts and one more for each hyperparameter, prompts tokenised one by one.

All make the same choices, which is checked. They take turns, round after round; ratios are medians of those of the
rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from harness import RESULTS, Grid, Worker, serve, write_results
from torch import Tensor

import hpbench  # noqa: F401 - registers the ids
from agents.language import llama, prompt
from agents.language.causal import CausalModel, Prompts
from agents.language.hub import SHIPPED, locate
from agents.language.layout import SlotLayout
from agents.language.passes import additive
from agents.language.rendering import Rendering
from agents.language.slot import SlotPolicy, _rows
from hpbench.seeding import uniform

AS_SHOWN = Rendering(history=False)
"""What the agent shows the model that comes with the package."""
MEMBERS = (1, 10, 64)
SIZES = (SHIPPED, "0.8M", "5M")
SIDES = ("ours", "drafts", "in_turn")
QUICK = "tiny"
CONFIG = {"num_envs": 4, "num_steps": 128}


@dataclass(frozen=True)
class Subject:
    """What a worker measures.

    Args:
        size: of the model, or the name of the one that comes with the package.
        members: the most there will be.
    """

    size: str
    members: int


class Drafts(SlotPolicy):
    """The slot policy as it decides with other models."""

    _fill_in_turn = SlotPolicy._fill_by_drafts


class InTurn(SlotPolicy):
    """The slot policy without drafts, and with prompts that are tokenised one at a time."""

    def _prompts(self, observations: Sequence[str], layout: SlotLayout) -> Prompts:
        each = [self.model.prompts([observation], layout.longest) for observation in observations]
        longest = max(one.ids.shape[1] for one in each)
        return Prompts(
            *(
                torch.cat([torch.nn.functional.pad(part, (longest - part.shape[1], 0)) for part in parts])
                for parts in zip(*((one.ids, one.valid) for one in each), strict=True)
            )
        )

    @torch.no_grad()
    def choices(self, observations: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Choices ``[members, slots]``."""
        shown = {prompt.names_in(observation) for observation in observations}
        layout = self.layout(shown.pop())
        prompts = self._prompts(observations, layout)
        draws = uniform(torch.tensor(seeds), torch.zeros(len(seeds), dtype=torch.long), len(layout.slots)).double()
        choices = torch.zeros(draws.shape, dtype=torch.long)
        cache = self.model.model(
            input_ids=prompts.ids,
            attention_mask=prompts.valid.long(),
            position_ids=prompts.positions,
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        done = 0
        for h, slot in enumerate(layout.slots):
            tree, columns = layout.tree(choices), slice(done, slot.end)
            logits = self.model.model(
                input_ids=tree.ids[:, columns],
                attention_mask=additive(_rows(prompts, tree, columns), self.model.model.dtype),
                position_ids=prompts.lengths[:, None] + tree.positions[:, columns],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=slot.end - slot.root,
            ).logits
            done = slot.end
            scores = layout.scores(logits, slice(h, h + 1))
            choices[:, h] = self._choose(scores[:, 0].double(), draws[:, h])
        return choices


def observe(members: int, policy: SlotPolicy | None = None) -> list[str]:
    """Text observations after some decisions, one training run each, half of them one decision further.

    Args:
        members: how many.
        policy: that controls the runs, from random starts; None: the learning rate falls, from the defaults.
    """
    observations = []
    for member in range(members):
        env: Any = gym.make(
            "HPControl-Classic-v0",
            task="classic/cartpole",
            track="default" if policy is None else "random",
            observation="text",
            action="text",
            device="cpu",
            decisions=8,
            steps=8 * CONFIG["num_envs"] * CONFIG["num_steps"],
            learner_config=CONFIG,
        )
        observation, _ = env.reset(seed=member)
        for _ in range(3 + member % 2):
            action = '{"learning_rate": "x0.8"}'
            if policy is not None:
                action = policy.decide([AS_SHOWN(observation)], [member])[0].action
            observation, *_ = env.step(action)
        observations.append(observation)
        env.close()
    return observations


def answers(subject: Subject) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The worker's side: seconds of decisions of one model, each way, in turn."""
    from agents.training.architecture import make_model, make_tokenizer

    if subject.size == SHIPPED:
        model = CausalModel.load(locate(subject.size), device="cpu")
    else:
        tokenizer = make_tokenizer()
        model = CausalModel(make_model(subject.size, tokenizer), tokenizer)
    assert llama.suits(model.model), "the engine for small Llamas was not built"
    ours, drafts, in_turn = SlotPolicy(model), Drafts(model), InTurn(model)
    observations = observe(subject.members, ours if subject.size == SHIPPED else None)
    if subject.size == SHIPPED:
        observations = [AS_SHOWN(observation) for observation in observations]

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        shown = observations[: request["members"]]
        seeds, names = list(range(len(shown))), prompt.names_in(shown[0])
        times = [time.perf_counter()]
        decided = []
        for policy in (ours, drafts):
            decided.append(policy.decide(shown, seeds))
            times.append(time.perf_counter())
        expected = in_turn.choices(shown, seeds).tolist()
        times.append(time.perf_counter())
        for decisions in decided:
            assert [list(prompt.read_completion(decision.action, names)) for decision in decisions] == expected
        return {
            **dict(zip(SIDES, np.diff(times).tolist(), strict=True)),
            "prompt_tokens": max(decision.prompt_tokens for decision in decided[0]),
        }

    return answer


def measure(size: str, members: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """One result for each number of members."""
    results = []
    with Worker(__file__, asdict(Subject(size, max(members)))) as worker:
        for count in members:
            worker.ask(members=count)  # first calls
            rows = [worker.ask(members=count) for _ in range(rounds if count <= 10 else max(2, rounds // 3))]
            result: dict[str, Any] = {"size": size, "members": count, "prompt_tokens": rows[0]["prompt_tokens"]}
            for side in SIDES:
                seconds = [row[side] for row in rows]
                result[f"{side}_p50"], result[f"{side}_p95"] = (
                    round(float(np.quantile(seconds, q)), 5) for q in (0.5, 0.95)
                )
                result[f"to_{side}"] = round(statistics.median(row[side] / row["ours"] for row in rows), 3)
            results.append(result)
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model: shows that everything runs, measures nothing"
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="decisions of each kind; a third for 64 members (default 20)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for language_latency.json and .md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(1)
        serve(answers(Subject(**json.loads(options.worker))))
        return
    sizes, members, rounds = ((QUICK,), (1, 3), 2) if options.quick else (SIZES, MEMBERS, options.rounds)
    results = [result for size in sizes for result in measure(size, members, rounds)]
    columns = ["model", "members", "tokens"]
    columns += [f"{side}, {q}, ms" for side in ("ours", "drafts", "in turn") for q in ("p50", "p95")]
    columns += ["than drafts", "than in turn"]
    rows = [
        [
            result["size"],
            str(result["members"]),
            str(result["prompt_tokens"]),
            *(f"{1e3 * result[f'{side}_{q}']:.1f}" for side in SIDES for q in ("p50", "p95")),
            *(f"{result[f'to_{side}']:.2f} x" for side in SIDES[1:]),
        ]
        for result in results
    ]
    notes = (
        f"Quantiles over {rounds} decisions (64 members: {max(2, rounds // 3)}) of all members together, on one "
        f"thread, from texts to decisions. {SHIPPED}: in runs of its own, shown no history. The others have random "
        "weights. Ours: in C++, slot after slot. Drafts: by transformers, all slots behind a draft, until every draft "
        "is right. In turn: by transformers, slot after slot. The same choices."
    )
    write_results(
        options.out,
        "language_latency",
        "python benchmarks/language_latency.py",
        {"rounds": rounds, "results": results},
        [Grid("Seconds of a decision, and how much faster ours is", tuple(columns), rows)],
        notes,
    )


if __name__ == "__main__":
    main()
