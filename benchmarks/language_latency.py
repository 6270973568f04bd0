"""How long does a language model take to decide?

    python benchmarks/language_latency.py            # 3 minutes
    python benchmarks/language_latency.py --quick    # a tiny model, to see that it works

Measured is :meth:`agents.language.slot.SlotPolicy.decide`, from text observations to decisions, tokenisation included,
with small Llamas on one thread, for 1, 10 and 64 members in the middle of PPO runs on CartPole.

First the model that comes with the package, in runs that it controls itself from random starts, shown what the agent
``hyperprompt`` shows it: no history. Then models with random weights, shown everything: how many passes a decision
takes depends on how often drafts are right. The first keeps everything.

- *right*: all members keep everything. A gate that no probability reaches makes a model do so.
- *edits*: the most likely choices of random weights, nearly all of them edits. They hang little on the choices before
  them, so the second draft is often right.
- *chaos*: the same with weights ten times as large. Every choice hangs on all those before it, and hardly any draft is
  ever right: this is the worst.

*Before* is slot after slot: a pass over the prompts and one more for each hyperparameter, with the same model and
tokenizer, prompts tokenised one by one. Both make the same choices, which is checked. They are measured in turn, round
after round; the ratio is the median of those of the rounds.
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
from agents.language import prompt
from agents.language.causal import CausalModel, Prompts
from agents.language.hub import SHIPPED, locate
from agents.language.layout import SlotLayout
from agents.language.passes import additive
from agents.language.rendering import Rendering
from agents.language.slot import SlotOptions, SlotPolicy, _rows
from hpbench.seeding import uniform

TRAINED = "trained"
AS_SHOWN = Rendering(history=False)
"""What the agent shows the model that comes with the package."""
CASES = {"right": (SlotOptions(gate=1.0), 1.0), "edits": (SlotOptions(), 1.0), "chaos": (SlotOptions(), 10.0)}
"""How to decide, and the factor of the matrices' weights, if these are random."""
MEMBERS = (1, 10, 64)
SIZES = ("0.4M", "0.8M")
QUICK = "tiny"
CONFIG = {"num_envs": 4, "num_steps": 128}


@dataclass(frozen=True)
class Subject:
    """What a worker measures.

    Args:
        size: of the model, or the name of the one that comes with the package.
        case: of :data:`CASES`, or :data:`TRAINED`.
        members: the most there will be.
    """

    size: str
    case: str
    members: int


class SlotAfterSlot(SlotPolicy):
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
    """The worker's side: seconds of decisions of one model, both ways, in turn."""
    from agents.training.architecture import make_model, make_tokenizer

    if subject.case == TRAINED:
        model, options = CausalModel.load(locate(subject.size), device="cpu"), SlotOptions()
    else:
        tokenizer = make_tokenizer()
        model = CausalModel(make_model(subject.size, tokenizer), tokenizer)
        options, factor = CASES[subject.case]
        with torch.no_grad():
            for weight in model.model.parameters():
                weight.mul_(factor if weight.ndim > 1 else 1.0)
    after, before = (kind(model, options) for kind in (SlotPolicy, SlotAfterSlot))
    observations = observe(subject.members, after if subject.case == TRAINED else None)
    if subject.case == TRAINED:
        observations = [AS_SHOWN(observation) for observation in observations]

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        shown = observations[: request["members"]]
        seeds = list(range(len(shown)))
        passes = []
        # The head is asked by every pass but that over the prompts.
        hook = model.model.lm_head.register_forward_pre_hook(lambda *_: passes.append(None))
        begin = time.perf_counter()
        decisions = after.decide(shown, seeds)
        middle = time.perf_counter()
        hook.remove()
        again = time.perf_counter()
        expected = before.choices(shown, seeds).tolist()
        end = time.perf_counter()
        names = prompt.names_in(shown[0])
        assert [list(prompt.read_completion(decision.action, names)) for decision in decisions] == expected
        return {
            "after": middle - begin,
            "before": end - again,
            "passes": 1 + len(passes),
            "prompt_tokens": max(decision.prompt_tokens for decision in decisions),
        }

    return answer


def measure(size: str, case: str, members: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """One result for each number of members."""
    results = []
    with Worker(__file__, asdict(Subject(size, case, max(members)))) as worker:
        for count in members:
            worker.ask(members=count)  # first calls
            rows = [worker.ask(members=count) for _ in range(rounds if count <= 10 else max(2, rounds // 3))]
            result: dict[str, Any] = {"size": size, "case": case, "members": count}
            result |= {key: rows[0][key] for key in ("passes", "prompt_tokens")}
            for side in ("after", "before"):
                seconds = [row[side] for row in rows]
                result[f"{side}_p50"], result[f"{side}_p95"] = (
                    round(float(np.quantile(seconds, q)), 5) for q in (0.5, 0.95)
                )
            result["speedup"] = round(statistics.median(row["before"] / row["after"] for row in rows), 3)
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
    subjects = [(SHIPPED, TRAINED), *((size, case) for size in sizes for case in CASES)]
    results = [result for size, case in subjects for result in measure(size, case, members, rounds)]
    columns = (
        "model",
        "members",
        "case",
        "passes",
        "p50, ms",
        "p95, ms",
        "before, p50, ms",
        "before, p95, ms",
        "faster",
    )
    rows = [
        [
            result["size"],
            str(result["members"]),
            result["case"],
            str(result["passes"]),
            *(f"{1e3 * result[f'{side}_{q}']:.1f}" for side in ("after", "before") for q in ("p50", "p95")),
            f"{result['speedup']:.2f} x",
        ]
        for result in results
    ]
    notes = (
        f"Quantiles over {rounds} decisions (64 members: {max(2, rounds // 3)}) of all members together, on one "
        "thread, from texts to decisions. Prompts "
        f"of up to {max(result['prompt_tokens'] for result in results)} tokens. Trained: the model that "
        "comes with the package, in runs of its own. The others have random weights. Right: members keep "
        "everything, as the first draft does. Edits: the most likely choices, nearly all of them edits. Chaos: "
        "weights so large that every choice hangs on all before it. Passes: one over the prompts, and those over the "
        "slots until every draft is right. Before: slot after slot, ten passes of the model as transformers runs it; "
        "the same choices."
    )
    write_results(
        options.out,
        "language_latency",
        "python benchmarks/language_latency.py",
        {"rounds": rounds, "results": results},
        [Grid("Seconds of a decision", columns, rows)],
        notes,
    )


if __name__ == "__main__":
    main()
