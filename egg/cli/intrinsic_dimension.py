"""``egg intrinsic-dimension``: how small a subspace suffices to adapt a model."""

import sys
import time
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg.cli.bar import steps_bar
from egg.cli.options import ComputeFlags, ForceFlag, JsonFlag, ShareFlag, made_folder, number, parse, say
from egg.compute import Compute
from egg.config import TOKENS, EvolutionConfig, RunConfig
from egg.errors import EggError, telling
from egg.files import replace_file
from egg.model import checkpoint
from egg.model.adapter import base_hash
from egg.model.evaluate import evaluate, sample
from egg.model.network import Network, read_model, trained_for
from egg.run.adaptation import Subspace, adapt, random_subspace
from egg.run.lock import locked
from egg.study.classification import Classification
from egg.study.intrinsic_dimension import (
    FACTORS,
    Candidate,
    CheckpointDimensions,
    Records,
    Scores,
    Setting,
    Trial,
    TrialResult,
    Trials,
    alike,
    count_trials,
    dimensions_json,
    estimate_dimensions,
    plan_subspaces,
    sweep,
)
from egg.study.intrinsic_dimension_view import (
    CURVES,
    GAPS,
    PICTURE,
    plot_dimension,
    plot_gains,
    plot_gaps,
    print_measured,
)
from egg.training.corpus import open_for_training
from egg.view.figures import count, duration

SUMMARY = "d90.json"


@dataclass(frozen=True)
class IntrinsicDimensionArguments:
    """Find d90: how many parameters must move for 90 % of the gain, on another text, of moving all parameters.

    Each checkpoint is adapted to the text within random subspaces of several dimensions, beside matrices (adapters),
    and in whole tensors, at equal tokens, with several seeds. Checkpoints of one size and as many tokens count as seeds
    of one model. Each result is saved at once: started again after an interruption, it continues. Writes d90.png,
    gains.png, gaps.png and d90.json.

    For example:
      egg intrinsic-dimension runs/nano/checkpoints/* --data letters.txt
      egg intrinsic-dimension runs/small runs/large --data letters.txt --ranks 1,2,4 --tensors "gru,mlp,head;head"
    """

    checkpoints: Annotated[tuple[str, ...], Parameter(name="ckpt")]
    """Runs (their newest checkpoints), RUN/best, checkpoints, pretrained, or OWNER/NAME on the Hub; of one size or
    several."""
    _: KW_ONLY
    data: str
    """Text to adapt to, as for training; unlike the pretraining text, or little is to gain."""
    data_column: str = "text"
    """Column of tables, or key of JSONL, that holds the text."""
    validation_share: ShareFlag = RunConfig.validation_share
    force_text: ForceFlag = False
    dimensions: str | None = "4,16,64,256,1024,4096,16384"
    """Dimensions of random subspaces, powers of two, separated by commas; none: no random subspaces. Those that a model
    is too small for are left out."""
    ranks: str | None = "2,16"
    """Ranks of adapters, 1 to 16, separated by commas; none: no adapters."""
    tensors: str = "gru,w_down,head;w_down,head;head"
    """Subsets of matrices that adapters of each rank adapt, separated by semicolons."""
    whole: str | None = "vectors;head;vectors,embedding,head;vectors,embedding,head,w_h,u_h;vectors,embedding,head,gru"
    """Subsets of tensors that evolve without adapters (vectors: norm gains and biases); all tensors are always one."""
    tokens: Annotated[int, TOKENS] = 200_000
    """Bytes of text that every adaptation reads, each counted once for each reader."""
    seeds: int = 3
    """Adaptations within each subspace, with seeds 0, 1, ..."""
    step_factors: str = "0.5,1,2"
    """Multiples of the default step size; the first seed finds each subspace's best, beyond these if an end is best."""
    streams: int = EvolutionConfig.streams
    """Readers in a step, each with its own text."""
    eval_bytes: int = 131_072
    """Bytes of validation text, and of the text that is adapted to, that each adaptation is measured on; 0: all."""
    classify: bool = False
    """Measure accuracy too: the first line of every document is its class, and the class is found that makes the rest
    likeliest."""
    out: str = "runs/intrinsic-dimension"
    """Folder for the results; trials whose results it holds are not measured again."""
    json: JsonFlag = False
    quiet: bool = False
    """Print errors and results, nothing else."""
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Measure as the arguments say; returns the exit status."""
    a = parse(IntrinsicDimensionArguments, argv, prog=prog)
    per_step = a.streams * EvolutionConfig.seq_len
    if a.seeds < 1:
        raise EggError(f"--seeds {a.seeds}: must be at least 1")
    if a.eval_bytes < 0:
        raise EggError(f"--eval-bytes {a.eval_bytes}: must be at least 0")
    EvolutionConfig(streams=a.streams)
    if a.tokens < per_step:
        raise EggError(f"--tokens {a.tokens}: a step takes {per_step:,}")
    factors = _factors(a.step_factors)
    models = [(path, *read_model(path)) for path in a.checkpoints]
    for _, shape, _, _ in models:
        if len(plan_subspaces(_subspaces(a, shape), shape)) < 2:  # which refuses what a model does not have
            raise EggError("no subspace but all weights: give --dimensions, --ranks or --whole")
    out = made_folder(a.out)
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        measured, name = _measure(a, models, factors, Records(out))
        return _report(a, out, measured, name)


def _measure(a: IntrinsicDimensionArguments, models, factors, records):
    """Measure all checkpoints, one after another; returns their results, and the name of the text."""
    notify = (lambda line: None) if a.quiet else say
    backend = a.compute.make(notify)
    corpus, text, split = open_for_training(
        RunConfig(data=a.data, data_column=a.data_column, validation_share=a.validation_share, force_text=a.force_text),
        notify,
        bar=not a.quiet,
    )
    validation = sample(corpus.split(split), a.eval_bytes)
    training = sample(corpus.split(corpus.training_split), a.eval_bytes)
    documents = Classification(validation) if a.classify else None
    setting = Setting(corpus.fingerprint, a.tokens, a.eval_bytes, a.streams, a.classify)

    def scores(network: Network, bits: float) -> Scores:
        accuracy = documents.accuracy(network) if documents else None
        return Scores(bits, evaluate(network, training).bits_per_byte, accuracy)

    per_step = a.streams * EvolutionConfig.seq_len
    tokens_per_trial = a.tokens // per_step * per_step
    seeds = list(range(a.seeds))
    candidates = []
    for path, shape, weights, config in models:
        network = Network(backend, shape, weights)
        before = scores(network, evaluate(network, validation).bits_per_byte)
        candidates.append(Candidate(path, network, base_hash(shape, weights), trained_for(path, config), before))
    groups = [
        (group, plan_subspaces(_subspaces(a, group[0].network.shape), group[0].network.shape))
        for group in alike(candidates)
    ]
    planned = [count_trials(len(s), len(factors), len(seeds) * len(group)) for group, s in groups]
    trials = Trials(planned, [group[0].network.shape for group, _ in groups])

    def run(candidate: Candidate, subspace: Subspace, trial: Trial) -> TrialResult:
        shape = candidate.network.shape
        more = trial.step_factor not in factors and first == (trial.base, trial.seed)
        trials.begin(shape, more)
        done(0, tokens_per_trial if more else 0, f"adaptation {trials.number} of {trials.total}")
        if trial in records.known:
            done(tokens_per_trial)
            return records.known[trial]
        began = time.perf_counter()
        found = adapt(
            candidate.network,
            text,
            validation,
            rank=subspace.rank,
            tensors=subspace.tensors,
            dimensions=subspace.dimensions,
            tokens=trial.tokens,
            step_factor=trial.step_factor,
            measurements=1,
            seed=trial.seed,
            streams=trial.streams,
            stepped=lambda report: done(per_step),
        )
        after = scores(found.network, found.after)
        seconds = round(time.perf_counter() - began, 2)
        trials.spend(shape, seconds)
        result = TrialResult(trial, subspace.parameters(shape), after, seconds)
        records.add(result)
        if not sys.stderr.isatty():
            gain = candidate.before.bits_per_byte - after.bits_per_byte
            notify(
                f"{trials.number} of {trials.total}, about {duration(trials.seconds_left)} left: "
                f"{candidate.path}: {subspace.name} ({result.parameters:,} parameters), step x{trial.step_factor:g}, "
                f"seed {trial.seed}: {gain:+.4f} bits per byte, {seconds:.0f} s"
            )
        return result

    measured = []
    with steps_bar(tokens_per_trial * trials.total, "adapting", "tokens", quiet=a.quiet) as done:
        for group, subspaces in groups:
            first = group[0].base, seeds[0]
            gains = list(sweep(group, subspaces, setting, factors, seeds, run))
            measured.append(estimate_dimensions(group, gains))
    return measured, corpus.name


def _report(a: IntrinsicDimensionArguments, out: Path, measured: list[CheckpointDimensions], name: str) -> int:
    from egg.view.screen import console, print_json

    notify = (lambda line: None) if a.quiet else say
    pictures = [out / PICTURE, out / CURVES, out / GAPS]
    content = {
        "data": name,
        "tokens": a.tokens,
        "seeds": a.seeds,
        "checkpoints": dimensions_json(measured),
        "pictures": [str(path) for path in pictures],
    }
    with telling(f"cannot write {out}"):
        plot_dimension(measured, pictures[0])
        plot_gains(measured, pictures[1])
        plot_gaps(measured, pictures[2])
        replace_file(out / SUMMARY, checkpoint.json_bytes(content))
    if a.json:
        print_json(content)
    else:
        print_measured(measured, console())
        trials = sum(len(m.gains) for m in measured)
        notify(f"{trials} subspaces, {count(a.tokens)} tokens an adaptation, {a.seeds} seeds")
    notify(f"wrote {', '.join(str(p) for p in (*pictures, out / SUMMARY))}")
    return 0


def _subspaces(a: IntrinsicDimensionArguments, shape) -> list[Subspace]:
    """Random ones, adapters of every rank for every subset, and the subsets without adapters; raises EggError."""
    found = [random_subspace(d) for d in _integers("--dimensions", a.dimensions)]
    for rank in _integers("--ranks", a.ranks):
        found += [Subspace(rank, tensors.strip()) for tensors in a.tensors.split(";")]
    if a.whole:
        found += [Subspace(None, tensors.strip()) for tensors in a.whole.split(";")]
    return found


def _integers(flag: str, text: str | None) -> list[int]:
    found = []
    for word in text.split(",") if text else ():
        try:
            found.append(int(word))
        except ValueError:
            raise EggError(f"{flag} {text}: {word!r} is no integer") from None
    return found


def _factors(text: str) -> list[float]:
    try:
        factors = [number(word) for word in text.split(",")]
    except ValueError as error:
        raise EggError(f"--step-factors {text}: {error}") from None
    least, most = FACTORS
    if not all(least <= factor <= most for factor in factors):
        raise EggError(f"--step-factors {text}: must be {least:g} to {most:g}")
    return list(dict.fromkeys(factors))
