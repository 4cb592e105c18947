"""``egg adapt``: a trained model for another text, by evolution of a small adapter, or of all weights."""

import json
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Parameter

from egg import data
from egg.cli.corpus import config_beside, open_measured
from egg.cli.options import (
    FULL,
    ColumnFlag,
    ComputeFlags,
    ForceFlag,
    JsonFlag,
    ModelPath,
    ShareFlag,
    parse,
    rank_of,
    say,
)
from egg.compute import Compute
from egg.config import ADAPT, TOKENS, Config, EvolutionConfig, ModelConfig, RunConfig
from egg.errors import EggError
from egg.model import checkpoint
from egg.model.adapter import ADAPTER, merge, read_adapter
from egg.model.evaluate import evaluate, sample
from egg.model.network import Network, read_model
from egg.report.curves import read_curves
from egg.report.draw import draw_or_note, draw_run
from egg.report.plots import LOSS, plot_runs
from egg.run.adaptation import ADAPTED, ALL_WEIGHTS, AdapterTrainer, Subspace, origin
from egg.run.folders import folder_for
from egg.run.origin import made_with
from egg.run.progress import Progress
from egg.run.trainer import Trainer
from egg.training.corpus import corpus_summary, measured_key, measured_texts, open_for_training
from egg.view.figures import count, duration

MEASUREMENTS = 20  # during an adaptation, by default


@dataclass(frozen=True)
class AdaptArguments:
    """Adapt a model to a text or a reward: a small integer adapter evolves beside its unchanged weights.

    Writes DIR/adapter.safetensors, which egg eval and egg sample take with --adapter, metrics.jsonl and loss.png.
    egg adapt merge CKPT --adapter FILE --out DIR folds an adapter into the weights (egg adapt merge --help).

    For example:
      egg adapt runs/nano --data letters.txt --rank 2 --out runs/letters
      egg eval runs/nano --adapter runs/letters --data letters.txt
      egg adapt runs/nano --reward egg.rewards:target_length --prompts prompts.txt --out runs/short
    """

    path: Annotated[ModelPath, Parameter(name="ckpt")]
    _: KW_ONLY
    data: str | None = None
    """Text to adapt to, as for training; or --reward."""
    reward: Annotated[str | None, Parameter(metavar="FILE.py:FUNCTION")] = None
    """Python function that scores a text, or a text and its prompt: FILE.py:FUNCTION, or MODULE:FUNCTION, such as
    egg.rewards:target_length."""
    prompts: Annotated[str | None, Parameter(metavar="FILE")] = None
    """reward: prompts that members continue, one per line."""
    length: int = 64
    """reward: bytes that a member writes."""
    temperature: float = 1.0
    """reward: temperature, as for egg sample."""
    reward_timeout: float = 60.0
    """reward: seconds that the function may take for all texts of a step."""
    rank: Annotated[str, Parameter(metavar="INT|full")] = "2"
    """Rank of the adapter's factors, 1 to 16; full: all weights evolve, as in pretraining, in a run of its own."""
    tensors: str | None = None
    """Matrices to adapt: gru, mlp, head, or names such as w_down, separated by commas; none: gru, w_down and head, and
    with a reward w_up. A text gives no votes on w_up."""
    out: str | None = None
    """Folder of the adapter; none: runs/adapt-DATE-TIME."""
    data_column: str = "text"
    """Column of tables, or key of JSONL, that holds the text."""
    validation_share: ShareFlag = RunConfig.validation_share
    validation_data: str | None = None
    """Text to measure on instead: its validation or test split if it has one, or else all of it."""
    force_text: ForceFlag = False
    tokens: Annotated[int, TOKENS] = 1_000_000
    """Bytes of text to read, each counted once for each reader (with a reward every member is one); the step size falls
    until then."""
    streams: int = EvolutionConfig.streams
    """Texts that are read side by side in a step, each by one reader."""
    seq_len: int = EvolutionConfig.seq_len
    """Bytes that each reader reads in a step."""
    branches: int | Literal["all"] = "all"
    """Members that branch off at every byte: all, or a power of two from 16 to the hidden size."""
    population_size: int = 256
    """reward: members."""
    sigma_shift: int = 1
    """reward: size of the perturbation, 0 to 8; a factor moves by 2^(4 - sigma_shift) int8 steps."""
    noise_rank: Literal[1, 4, 16] = 1
    """reward: rank of a member's perturbation of a factor: a sum of so many products, over its root."""
    step_size: float | None = None
    """Largest step of a factor, in int8 steps; none: chosen from the tokens, with a reward 4."""
    seed: int = 0
    """Seed of every random draw, 0 to 2^64 - 1; equal seeds give equal adapters, byte for byte."""
    eval_every: int | None = None
    """Steps between measurements on the validation split; none: twenty measurements in all."""
    eval_bytes: int = 262_144
    """Bytes of validation text that each measurement reads; 0: all."""
    compute: ComputeFlags = Compute()


@dataclass(frozen=True)
class MergeArguments:
    """Fold an adapter into the int8 weights, and measure the loss of quality.

    Writes DIR/model.safetensors and config.json, a model like any other.

    For example:
      egg adapt merge runs/nano --adapter runs/letters --out letters-merged
    """

    path: Annotated[str, Parameter(name="ckpt")]
    """The model that the adapter was made for."""
    _: KW_ONLY
    adapter: Annotated[str, Parameter(metavar="FILE")]
    """adapter.safetensors, or its folder."""
    out: str
    """Folder for the merged model."""
    data: str | None = None
    """Text to measure on; none: the text that the adapter was made with, if its folder says so."""
    data_column: ColumnFlag = None
    force_text: ForceFlag = False
    eval_bytes: int = 262_144
    """Bytes of validation text to measure on; 0: all."""
    json: JsonFlag = False
    compute: ComputeFlags = Compute()


SUBCOMMANDS = {"": AdaptArguments, "merge": MergeArguments}


def main(argv: list[str], prog: str) -> int:
    """Adapt, or merge, as the arguments say; returns the exit status."""
    arguments = parse(SUBCOMMANDS, argv, prog=prog)
    if isinstance(arguments, MergeArguments):
        return _merge(arguments)
    if (arguments.data is None) == (arguments.reward is None):
        raise EggError("give either --data TEXT or --reward FILE.py:FUNCTION")
    if arguments.reward is None:
        return _adapt(arguments)
    from egg.cli.adapt_reward import adapt_to_reward

    return adapt_to_reward(arguments)


def _adapt(arguments: AdaptArguments) -> int:
    shape, weights, _ = read_model(arguments.path)
    full = arguments.rank.strip().lower() == FULL
    subspace = ALL_WEIGHTS if full else Subspace(rank_of(arguments.rank), arguments.tensors or ADAPTED)
    layout, evolved = subspace.layout(shape), subspace.parameters(shape)
    config = _config(arguments, ModelConfig(shape.hidden_size, shape.num_layers))
    out, progress = folder_for(arguments.out), Progress()
    network = Network(arguments.compute.make(progress.note), shape, weights)
    corpus, text, split = open_for_training(config.run, progress.note)
    measured, parts = measured_texts(corpus, split, config.run.eval_bytes)
    subspace.compile(config, network.backend, progress)
    before = evaluate(network, measured).bits_per_byte
    evolution = subspace.evolution(config, network, text)
    kind = Trainer if full else AdapterTrainer
    about = corpus_summary(corpus), out, progress, made_with(network.backend)
    trainer = kind(config, evolution, measured, *about, parts, measured_key(corpus, split))
    trainer.content["adapter"] = origin(arguments.path, network, layout) | {"base_bits_per_byte": before}
    what = "all weights" if full else f"rank {layout.rank}, {len(layout.matrices)} matrices"
    progress.note(
        f"{evolved:,} of {shape.parameters:,} parameters evolve: {what}\n"
        f"{corpus.name}, {count(corpus.bytes(corpus.training_split))} bytes, into {out}\n"
        f"before: {before:.4f} bits per byte"
    )
    outcome = trainer.train()

    def draw() -> list[Path]:
        if full:
            return draw_run(out, corpus.split(corpus.training_split), measured)
        plot_runs([read_curves(out)], {"before": before}, out / LOSS)
        return [out / LOSS]

    drawn = []
    if not (full and outcome.interrupted):
        drawn = draw_or_note(LOSS, draw, progress.note, "; draw it with: egg plot DIR")
    if outcome.interrupted:
        progress.note(f"stopped at step {evolution.step_number:,}, saved what there is in {out}")
        return 128 + outcome.interrupted
    after = outcome.evaluation.bits_per_byte
    saved = outcome.checkpoint if full else out / ADAPTER
    size = (saved / checkpoint.MODEL if full else saved).stat().st_size
    progress.note(
        f"after: {after:.4f} bits per byte, {before - after:+.4f} better, "
        f"{count(evolution.tokens)} tokens in {duration(outcome.seconds)}\n"
        f"{saved}, {size:,} bytes"
    )
    if drawn:
        progress.note(f"loss curve: {drawn[0]}")
    return 0


def _config(arguments: AdaptArguments, model: ModelConfig) -> Config:
    a = arguments
    if a.tokens < 1:
        raise EggError(f"--tokens {a.tokens}: must be 1 or more")
    evolution = EvolutionConfig(
        schedule_tokens=a.tokens,
        step_size=a.step_size,
        seed=a.seed,
        streams=a.streams,
        seq_len=a.seq_len,
        branches=a.branches,
    )
    steps = a.tokens // evolution.tokens_per_step
    every = max(1, steps // MEASUREMENTS) if a.eval_every is None else a.eval_every
    run = RunConfig(
        data=data.absolute(a.data),
        data_column=a.data_column,
        validation_share=a.validation_share,
        force_text=a.force_text,
        validation_data=None if a.validation_data is None else data.absolute(a.validation_data),
        tokens=a.tokens,
        eval_every=every,
        eval_bytes=a.eval_bytes,
    )
    return Config(ADAPT, model, evolution, run).resolved()


def _merge(arguments: MergeArguments) -> int:
    shape, weights, config = read_model(arguments.path)
    adapter = read_adapter(arguments.adapter, shape, weights)
    if arguments.eval_bytes < 0:
        raise EggError(f"--eval-bytes {arguments.eval_bytes}: must be 0 or more")
    out = Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise EggError(f"--out {out} is a file: give a folder")
    for name in (checkpoint.MODEL, checkpoint.CONFIG, checkpoint.STATE, checkpoint.CHECKPOINTS):
        if (out / name).exists():
            raise EggError(f"--out {out} holds a {name} already: give another folder")
    merged = merge(weights, adapter)
    measured = _text(arguments)
    figures = {}
    if measured is not None:
        base = Network(arguments.compute.make(say), shape, weights)
        networks = {"base": base, "adapter": base.with_adapter(adapter), "merged": Network(base.backend, shape, merged)}
        figures = {name: evaluate(network, measured) for name, network in networks.items()}
    figures = {f"{name}_bits_per_byte": e.bits_per_byte for name, e in figures.items()}
    if figures:
        figures["cost_bits_per_byte"] = figures["merged_bits_per_byte"] - figures["adapter_bits_per_byte"]
    checkpoint.write_model(out, config, shape, merged)
    if arguments.json:
        print(json.dumps({"out": str(out)} | figures))
        return 0
    print(f"{out}: {int(np.count_nonzero(merged != weights)):,} of {weights.size:,} weights changed")
    for name, bits in figures.items():
        print(f"  {name.split('_')[0]:8}{bits:8.4f} bits per byte")
    return 0


def _text(arguments: MergeArguments) -> np.ndarray | None:
    """Validation text to measure on; None, with a notice, if neither the arguments nor the adapter's folder name it."""
    config, force = config_beside(arguments.adapter), arguments.force_text
    if (opened := open_measured(config, arguments.data, arguments.data_column, force_text=force)) is None:
        say(f"{arguments.adapter} does not say what the adapter was made with: not measured, give --data")
        return None
    corpus, split = opened
    return sample(corpus.split(split), arguments.eval_bytes)
