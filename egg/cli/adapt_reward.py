"""``egg adapt --reward``: adaptation to a reward that a Python function computes."""

import json
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

from egg.cli.options import FULL, rank_of, say
from egg.errors import EggError, telling
from egg.evolution.reward import RewardEvolution, RewardSettings
from egg.files import read_file, replace_file, save_figure
from egg.kernels import Backend
from egg.model import checkpoint
from egg.model.adapter import ADAPTER, KINDS, file_bytes
from egg.model.network import Network, read_model
from egg.model.sample import Sampling
from egg.optimizer import STEP_BITS
from egg.report.draw import draw_or_note
from egg.rewards.process import Reward, check_timeout
from egg.run.adaptation import Subspace, origin, small_network
from egg.run.compiling import CALLS, compile_kernels
from egg.run.folders import folder_for
from egg.run.log import METRICS
from egg.run.origin import made_with
from egg.run.progress import Progress
from egg.run.signals import catch_signals

STEP_SIZE = 4.0  # int8 steps
MEASUREMENTS = 20  # during an adaptation, by default
CURVE = "reward.png"


def adapt_to_reward(arguments) -> int:
    """Adapt as ``egg.cli.adapt.AdaptArguments`` say; returns the exit status."""
    if arguments.rank.strip().lower() == FULL:
        raise EggError("--rank full: with --reward only an adapter evolves, give 1 to 16")
    shape, weights, _ = read_model(arguments.path)
    layout = Subspace(rank_of(arguments.rank), arguments.tensors or ",".join(KINDS)).layout(shape)
    settings = _settings(arguments)
    prompts = _prompts(arguments.prompts)
    out = folder_for(arguments.out)
    base = Network(arguments.compute.make(say), shape, weights)
    every = arguments.eval_every
    if every is None:
        every = max(1, settings.steps // MEASUREMENTS)
    with closing(Reward(arguments.reward, arguments.reward_timeout)) as score:
        _compile(base.backend, settings.noise_rank)
        evolution = RewardEvolution(base, layout, prompts, score, settings)
        before = evolution.measure()  # a function that fails does so before anything is written
        say(f"before: reward {before:.4f}; {settings.steps:,} steps, into {out}")
        about = origin(arguments.path, base, layout) | {"reward": arguments.reward, "reward_before": before}
        with telling(f"cannot write {out}"):
            out.mkdir(parents=True, exist_ok=True)
            replace_file(
                out / checkpoint.CONFIG, checkpoint.json_bytes({"made_with": made_with(base.backend), "adapter": about})
            )
            rows: list[dict] = []
            drawn: list[Path] = []
            try:
                interrupted = _run(evolution, out, every, rows)
            finally:  # a function that fails on the way leaves what was found before
                if rows:
                    content = file_bytes(evolution.network.adapter, about["base"])
                    replace_file(out / ADAPTER, content)
                    drawn = draw_or_note(CURVE, lambda: _draw(out, before, rows), say, "; the adapter is saved")
    if interrupted:
        say(f"stopped at step {len(rows):,}, saved what there is in {out}")
        return 128 + interrupted
    after = rows[-1]["reward"]
    say(f"after: reward {after:.4f}, {after - before:+.4f}\n{out / ADAPTER}")
    if drawn:
        say(f"reward curve: {drawn[0]}")
    return 0


def _compile(backend: Backend, noise_rank: int) -> None:
    """Compile what a step and a measurement need, and show that on standard error."""
    small = {"population_size": 2, "length": 2, "noise_rank": noise_rank}
    settings = RewardSettings(1, **small, temperature=1.0, sigma_shift=1, step_size=1, seed=0)

    def work() -> None:
        base = small_network(backend)
        layout = Subspace(1, ",".join(KINDS)).layout(base.shape)
        evolution = RewardEvolution(base, layout, [b"a"], lambda prompts, texts: [0.0] * len(texts), settings)
        evolution.step()
        evolution.measure()

    compile_kernels(
        backend, Progress(sys.stderr), CALLS["reward"], {"stations"}, work, {"noise"} if noise_rank > 1 else ()
    )


def _run(evolution: RewardEvolution, out: Path, every: int, rows: list[dict]) -> int | None:
    """Take all steps, and add each to metrics.jsonl and ``rows``; returns the signal that ended them early, or None."""
    began, steps, signals = time.perf_counter(), evolution.settings.steps, []
    restore = catch_signals(signals.append)
    with ExitStack() as stack, open(out / METRICS, "x", encoding="utf-8") as log:
        stack.callback(restore)
        for step in range(1, steps + 1):
            if signals:
                return signals[0]
            row = {"step": step, "members_reward": evolution.step()}
            rows.append(row)
            try:
                if step == steps or (every and step % every == 0):
                    row["reward"] = evolution.measure()
                    say(f"step {step:,} | members {row['members_reward']:.4f} | reward {row['reward']:.4f}")
            finally:  # the step is done, even if its measurement fails
                row["tokens"] = evolution.tokens
                row["seconds"] = round(time.perf_counter() - began, 4)
                log.write(json.dumps(row) + "\n")
                log.flush()
    return None


def _settings(arguments) -> RewardSettings:
    population, sigma_shift = arguments.population_size, arguments.sigma_shift
    if population < 2 or population % 2:
        raise EggError(f"--population-size {population}: must be an even number, 2 or more")
    if arguments.eval_every is not None and arguments.eval_every < 0:
        raise EggError(f"--eval-every {arguments.eval_every}: must be 0 or more")
    check_timeout(arguments.reward_timeout)
    if not 0 <= sigma_shift <= 8:
        raise EggError(f"--sigma-shift {sigma_shift}: must be 0 to 8")
    Sampling(length=arguments.length, temperature=arguments.temperature, seed=arguments.seed)
    steps = arguments.tokens // (population * arguments.length)
    if steps < 1:
        raise EggError(f"--tokens {arguments.tokens}: a step takes up to {population * arguments.length:,}")
    size = STEP_SIZE if arguments.step_size is None else arguments.step_size
    if not 0 < size <= 127:
        raise EggError(f"--step-size {size}: must be more than 0, 127 at most")
    return RewardSettings(
        steps,
        population,
        arguments.length,
        arguments.temperature,
        sigma_shift,
        round(size * (1 << STEP_BITS)),
        arguments.seed,
        arguments.noise_rank,
    )


def _prompts(path: str | None) -> list[bytes]:
    if path is None:
        raise EggError("--reward needs --prompts FILE, a text with one prompt per line")
    with telling(f"--prompts {path}", "; give a text file"):
        lines = read_file(path).splitlines()
    if not lines:
        raise EggError(f"--prompts {path}: the file is empty")
    return lines


def _draw(out: Path, before: float, rows: list[dict]) -> list[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    panel = figure.subplots()
    panel.plot(
        [r["step"] for r in rows], [r["members_reward"] for r in rows], alpha=0.45, linewidth=1, label="members, mean"
    )
    measured = [(0, before)] + [(r["step"], r["reward"]) for r in rows if "reward" in r]
    panel.plot(*zip(*measured, strict=True), "o-", color="C3", markersize=3, label="the adapter")
    panel.set_xlabel("steps")
    panel.set_ylabel("reward")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    save_figure(figure, out / CURVE)
    return [out / CURVE]
