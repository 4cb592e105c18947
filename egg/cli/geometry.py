"""``egg geometry``: the shape of hidden states, over layers and over training."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from cyclopts import Parameter

from egg.cli.bar import steps_bar
from egg.cli.corpus import open_measured
from egg.cli.options import ColumnFlag, ComputeFlags, ForceFlag, JsonFlag, made_folder, one_of, parse, say
from egg.compute import Compute
from egg.data import SPLITS
from egg.errors import EggError, telling
from egg.files import replace_file
from egg.model import checkpoint
from egg.model.network import Network, read_model, trained_for
from egg.study.geometry import NEIGHBORS

GEOMETRY = "geometry.json"


@dataclass(frozen=True)
class GeometryArguments:
    """Measure the shape of a model's hidden states on a text: anisotropy and local intrinsic dimension of each layer.

    The states are those of the integer kernels; the analysis is float64. Writes geometry-layers.png,
    geometry-training.png and geometry.json. Needs pip install 'egg-lm[geometry]'.

    For example:
      egg geometry runs/quickstart/checkpoints/*
      egg geometry runs/small runs/large --data letters.txt --out shapes --json
      egg geometry --manifolds
    """

    checkpoints: Annotated[tuple[str, ...], Parameter(name="ckpt")] = ()
    """Runs (their newest checkpoints), RUN/best, checkpoints, pretrained, or OWNER/NAME on the Hub; of one size or
    several."""
    _: KW_ONLY
    data: str | None = None
    """Text to read, as for training; none: the text that the first model was trained on."""
    data_column: ColumnFlag = None
    force_text: ForceFlag = False
    split: Annotated[str | None, one_of(*SPLITS, "all", "none")] = None
    """Split of the text; none: validation, or all of an undivided text."""
    points: int = 4096
    """Most states to keep of each layer."""
    stride: int = 16
    """Bytes between kept states, as states close in time are alike."""
    neighbors: int = NEIGHBORS
    """Neighbours of a point, for the maximum-likelihood estimator."""
    manifolds: bool = False
    """Check the estimators on clouds of known dimension instead, as large as --points."""
    out: str = "."
    """Folder for geometry.json and the two pictures."""
    json: JsonFlag = False
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Measure as the arguments say; returns the exit status."""
    from egg.study.geometry import require_estimators

    arguments = parse(GeometryArguments, argv, prog=prog)
    for name, least in (("points", 64), ("stride", 1), ("neighbors", 2)):
        if getattr(arguments, name) < least:
            raise EggError(f"--{name} {getattr(arguments, name)}: must be {least} or more")
    require_estimators()
    if arguments.manifolds:
        return _manifolds(arguments)
    if not arguments.checkpoints:
        raise EggError(f"no model: give a run or checkpoints ({prog} --help)")
    return _measure(arguments)


def _measure(arguments: GeometryArguments) -> int:
    from egg.study.geometry import CheckpointGeometry, LayerGeometry, geometry_json, measure_cloud, print_geometry
    from egg.study.geometry_plot import LAYERS, TRAINING, plot_layers, plot_training
    from egg.study.states import hidden_states
    from egg.view.screen import console, print_json

    models = [(path, *read_model(path)) for path in arguments.checkpoints]
    opened = open_measured(
        models[0][3], arguments.data, arguments.data_column, arguments.split, force_text=arguments.force_text
    )
    if opened is None:
        raise EggError(f"{models[0][0]} names no text to read: give --data, such as --data stdlib")
    backend, (corpus, split) = arguments.compute.make(say), opened
    text = corpus.split(split)
    out, measured = made_folder(arguments.out), []
    with steps_bar(sum(2 * shape.num_layers for _, shape, *_ in models), "measuring", "clouds") as done:
        for path, shape, weights, config in models:
            states = hidden_states(Network(backend, shape, weights), text, arguments.points, arguments.stride)
            layers = []
            for (layer, kind), cloud in states.items():
                layers.append(LayerGeometry(layer, kind, measure_cloud(cloud, arguments.neighbors)))
                done(1)
            measured.append(CheckpointGeometry(path, shape, trained_for(path, config), layers))
    pictures = [out / LAYERS, out / TRAINING]
    content = {
        "data": corpus.name,
        "split": split,
        "points": len(next(iter(states.values()))),
        "stride": arguments.stride,
        "neighbors": arguments.neighbors,
        "checkpoints": geometry_json(measured),
        "pictures": [str(path) for path in pictures],
    }
    with telling(f"cannot write {out}", "; give --out"):
        plot_layers(measured, pictures[0])
        plot_training(measured, pictures[1])
        replace_file(out / GEOMETRY, checkpoint.json_bytes(content))
    if arguments.json:
        print_json(content)
    else:
        print_geometry(measured, console())
    say(f"wrote {', '.join(str(p) for p in (*pictures, out / GEOMETRY))}")
    return 0


def _manifolds(arguments: GeometryArguments) -> int:
    from dataclasses import asdict

    from egg.study.manifolds import MANIFOLDS, estimate_manifolds, print_manifolds
    from egg.view.screen import console, print_json

    if arguments.checkpoints:
        raise EggError("--manifolds checks only the estimators: omit the checkpoints")
    with steps_bar(len(MANIFOLDS), "checking", "manifolds") as done:
        found = estimate_manifolds(arguments.points, arguments.neighbors, done)
    if arguments.json:
        print_json({"points": arguments.points, "manifolds": [asdict(c) for c in found]})
    else:
        print_manifolds(found, arguments.points, console())
    return 0
