"""The dial: ``size`` on the command line, in a file and from Python, under every other setting."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import SMALL

import egg as library
from egg.cli.train import Settings, _arguments
from egg.config import LADDER, SIZES, ModelConfig, Size, size_of
from egg.errors import EggError
from egg.ranks.distributed import ALONE
from egg.study.compare import read_comparison
from egg.training.settings import configuration, known

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_steps(monkeypatch):
    """Sizes with streams and bytes of a step that no default has."""
    monkeypatch.setitem(SIZES, "S", Size(64, 2, 8, 64))
    monkeypatch.setitem(SIZES, "L", Size(256, 2, 4, 128))


def by_flags(*flags, file=None):
    with ExitStack() as stack:
        given = [str(flag) for flag in (*flags, *(() if file is None else ("--config", file)))]
        return _arguments(given, "egg train", Settings(ALONE, stack)).trained


def shape_and_step(config):
    e = config.evolution
    return config.model.hidden_size, config.model.num_layers, getattr(e, e.readers_field), e.seq_len


@pytest.mark.parametrize("name", SIZES)
def test_every_name_is_a_model(name):
    size = size_of(name)
    assert size == size_of(name.lower()) == size_of(f" {name} ") == SIZES[name]
    assert size.parameters == ModelConfig(size.hidden_size, size.num_layers).shape.parameters


def test_sizes_grow():
    parameters = [size.parameters for size in SIZES.values()]
    assert parameters == sorted(set(parameters))


@pytest.mark.parametrize(
    ("number", "shape"),
    [
        (1, (16, 1)),
        ("30000", (16, 1)),  # 2.6 times 11,344, and 82,240 is 2.7 times as many
        ("31k", (64, 1)),
        ("500k", (64, 6)),
        ("0.6M", (256, 1)),
        ("2m", (256, 2)),
        (1_706_240, (256, 2)),
        (2.8e6, (256, 2)),
        ("1e9", (1024, 6)),
    ],
)
def test_a_number_of_parameters_is_the_nearest_shape_in_ratio(number, shape):
    size = size_of(number)
    assert (size.hidden_size, size.num_layers) == shape


def test_every_shape_of_the_ladder_is_found_by_its_own_number():
    for size in LADDER:
        assert size_of(size.parameters) == size


@pytest.mark.parametrize("size", ["", "Q", "XXL", "0", "-2M", "1.5", "M L", "nan", True, "\n"])
def test_what_is_no_size_is_told_in_one_line(size, egg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EggError, match="choose XS, S, M, L, XL, or a number of parameters"):
        library.train(size=size)
    if isinstance(size, str) and size != "\n":
        status, out, err = egg("train", f"--size={size}")
        assert (status, out) == (2, "") and err.count("\n") == 1 and "--size" in err and "such as 500k" in err
        (tmp_path / "mine.toml").write_text(f"size = {json.dumps(size)}\n")
        status, out, err = egg("train", "--config", "mine.toml")
        assert (status, out) == (2, "") and err.startswith("egg: --config mine.toml: --size")
        assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


CASES = [
    # flags, settings of a file, hidden size, layers, readers, bytes of a step
    ({"size": "S"}, {}, (64, 2, 8, 64)),
    ({"size": "s"}, {}, (64, 2, 8, 64)),
    ({"size": "10k"}, {}, (16, 1, 16, 32)),
    ({"size": "none"}, {}, (256, 2, 16, 32)),
    ({"size": "S", "hidden_size": 16, "streams": 2}, {}, (16, 2, 2, 64)),
    ({"size": "S", "num_layers": 5, "seq_len": 9}, {}, (64, 5, 8, 9)),
    ({}, {"size": "S"}, (64, 2, 8, 64)),
    ({}, {"size": "S", "hidden_size": 16}, (16, 2, 8, 64)),
    ({}, {"size": 10_000}, (16, 1, 16, 32)),
    ({"seq_len": 9}, {"size": "S"}, (64, 2, 8, 9)),
    ({"size": "L"}, {"size": "S"}, (256, 2, 4, 128)),
    ({"size": "L"}, {"hidden_size": 16, "num_layers": 6, "streams": 2, "seq_len": 7}, (256, 2, 4, 128)),
    ({"size": "S"}, {"preset": "quickstart"}, (64, 2, 8, 64)),
    ({"size": "S"}, {"preset": "paper"}, (64, 2, 262_144, 100)),
    ({}, {"size": "S", "preset": "paper"}, (64, 2, 262_144, 100)),
    ({"size": "S", "recipe": "paper"}, {}, (64, 2, 2048, 32)),
    ({"recipe": "paper"}, {"size": "S"}, (64, 2, 2048, 32)),
    ({"size": "S"}, {"recipe": "paper"}, (64, 2, 2048, 32)),
    ({"size": "S", "recipe": "egg"}, {"preset": "paper"}, (64, 2, 8, 64)),
]


@pytest.mark.parametrize(("flags", "content", "expected"), CASES)
def test_a_size_is_under_flags_and_over_presets(flags, content, expected, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in content.items()))
    given = [part for key, value in flags.items() for part in (f"--{key.replace('_', '-')}", value)]
    config = by_flags(*given, "--data", "stdlib", file=file)
    assert shape_and_step(config) == expected
    for base in (str(file), content):
        other = configuration(base, known({**flags, "data": "stdlib"}))[0].resolved()
        assert other == config


def test_a_configuration_as_a_base_is_overridden_by_a_size():
    base = configuration("quickstart", {"hidden_size": 16, "streams": 2})[0]
    assert shape_and_step(configuration(base, {"size": "S"})[0]) == (64, 2, 8, 64)


def test_the_dial_is_all_that_a_run_needs():
    config = by_flags("--size", "M", "--minutes", 60, "--data", "stdlib")
    assert shape_and_step(config) == (256, 1, 16, 32) and config.end is None
    assert config.evolution.schedule_tokens == "time" and config.evolution.step_size is not None
    same = by_flags("--hidden-size", 256, "--num-layers", 1, "--minutes", 60, "--data", "stdlib")
    assert config == same


def test_a_run_of_a_size_is_a_run_of_its_flags_and_goes_on(egg, tables, tmp_path):
    rest = [*SMALL[4:], "--data", tables, "--steps", 2]  # without hidden size and layers
    run = tmp_path / "run"
    status, out, err = egg("train", "--size", "5k", *rest, "--out", run)
    assert status == 0, err
    assert "11,344 parameters: hidden size 16, 1 layer\n" in out
    assert egg("train", *SMALL[:4], *rest, "--out", tmp_path / "same")[0] == 0
    for name in ("config.json", "checkpoints/step-00000002/state.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    assert "size" not in json.loads((run / "config.json").read_text())
    goes_on = ["train", "--resume", run, "--backend", "numpy"]
    assert egg(*goes_on, "--steps", 3)[0] == 0
    status, _, err = egg(*goes_on, "--size", "5k", "--steps", 4)  # whose streams and bytes the run does not have
    assert status == 0, err
    for flags in (["--size", "XS"], ["--hidden-size", "64"]):
        status, _, err = egg(*goes_on, *flags, "--steps", 5)
        assert status == 2 and err.count("\n") == 1 and "was started with 16 and keeps it" in err
        assert "remove --hidden-size or --size" in err
    assert [r.step for r in library.train(resume=run, size="5k", steps=5, backend="numpy")] == [5]
    with pytest.raises(EggError, match="or --size"):
        next(library.train(resume=run, size="XS", steps=6, backend="numpy"))
    config = by_flags("--size", "L", file=run / "run.toml")
    assert shape_and_step(config) == (256, 2, 4, 128)


def test_the_comparison_of_sizes_can_run():
    configurations, _ = read_comparison(ROOT / "docs/experiments/scaling.toml")
    assert len(configurations) == len({c.name for c in configurations})
    for one in configurations:
        config = configuration(None, known(one.settings))[0].resolved()
        assert one.name.startswith(f"{config.model.hidden_size}-{config.model.num_layers}-") and config.end
