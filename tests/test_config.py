"""Configurations: what they refuse, and their way to a file and back."""

import json
import typing
from dataclasses import replace

import pytest

from egg.config import (
    PRESET_HELP,
    PRESETS,
    Config,
    EvolutionConfig,
    ModelConfig,
    RunConfig,
    differences,
    from_json,
    model_from_json,
    preset,
    to_json,
    with_recipe,
    with_settings,
    without_stops,
)
from egg.errors import EggError
from egg.kernels.arithmetic import STATIONS
from egg.kernels.layout import HIDDEN_SIZES
from egg.optimizer import STEP_FACTORS


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (ModelConfig, {"hidden_size": 32}, "power of four"),
        (ModelConfig, {"hidden_size": 0}, "power of four"),
        (ModelConfig, {"num_layers": 0}, "layers"),
        (EvolutionConfig, {"streams": 0}, "--streams 0"),
        (EvolutionConfig, {"recipe": "paper", "seq_len": 6_000_000}, "--seq-len 6000000: at most 5,621,684"),
        (EvolutionConfig, {"streams": 8193, "seq_len": 16}, "--streams 8193 of --seq-len 16: at most 131,072"),
        (EvolutionConfig, {"population_size": 40}, "--population-size: recipe egg has none"),
        (EvolutionConfig, {"sigma_shift": 3}, "--sigma-shift: recipe egg has none"),
        (EvolutionConfig, {"population_size": 0, "recipe": "paper"}, "--population-size 0"),
        (EvolutionConfig, {"population_size": 33, "recipe": "paper"}, "even"),
        (EvolutionConfig, {"rank": 4}, "--rank: recipe egg has none"),
        (EvolutionConfig, {"group_size": 3, "recipe": "paper"}, "--group-size 3: must be an even number"),
        (EvolutionConfig, {"group_size": 20, "population_size": 32, "recipe": "paper"}, "population size, 32"),
        (EvolutionConfig, {"num_perturbations": 7, "recipe": "paper"}, "--num-perturbations 7: must be an even number"),
        (EvolutionConfig, {"num_perturbations": 34, "population_size": 32, "recipe": "paper"}, "32, at most"),
        (EvolutionConfig, {"num_perturbations": -2, "recipe": "paper"}, "--num-perturbations -2: must be 0 or more"),
        (EvolutionConfig, {"noise_reuse": -1, "recipe": "paper"}, "--noise-reuse -1: must be 0 or more"),
        (EvolutionConfig, {"alpha": 0.0, "recipe": "paper"}, "--alpha 0.0: must be"),
        (EvolutionConfig, {"alpha": 16.5, "recipe": "paper"}, "--alpha 16.5"),
        (EvolutionConfig, {"alpha_decay": 0, "recipe": "paper"}, "--alpha-decay 0: must be 1 or more"),
        (EvolutionConfig, {"use_clt": False, "recipe": "paper"}, "--no-use-clt: noise sign has nothing but signs"),
        (EvolutionConfig, {"streams": 8, "recipe": "paper"}, "--streams: recipe paper has none"),
        (EvolutionConfig, {"branches": 16, "recipe": "paper"}, "--branches"),
        (EvolutionConfig, {"credit": "stations", "recipe": "paper"}, "--credit: recipe paper has none"),
        (EvolutionConfig, {"stations": "past", "recipe": "paper"}, "--stations: recipe paper has none"),
        (EvolutionConfig, {"stations": "past"}, "--stations past: credit wire has none"),
        (EvolutionConfig, {"credit": "stations", "stations": "gate,past"}, "unknown 'gate', perhaps 'gates'"),
        (EvolutionConfig, {"credit": "stations", "stations": ""}, "unknown '': choose of gates, state, past"),
        (EvolutionConfig, {"credit": "stations", "stations": "mlp,gates"}, "mlp needs middle"),
        (EvolutionConfig, {"step_size": 1.0, "recipe": "paper"}, "--step-size"),
        (EvolutionConfig, {"seq_len": 0}, "--seq-len 0"),
        (EvolutionConfig, {"sigma_shift": -1, "recipe": "paper"}, "0 to 8"),
        (EvolutionConfig, {"sigma_shift": 9, "recipe": "paper"}, "0 to 8"),
        (EvolutionConfig, {"seed": -1}, "--seed -1"),
        (EvolutionConfig, {"seed": 2**64}, "--seed"),
        (EvolutionConfig, {"schedule_tokens": 0}, "--schedule-tokens 0"),
        (EvolutionConfig, {"step_size": 0.0}, "--step-size"),
        (EvolutionConfig, {"step_size": float("nan")}, "--step-size"),
        (EvolutionConfig, {"final_step_share": 1.1}, "--final-step-share"),
        (RunConfig, {"steps": 0}, "--steps 0"),
        (RunConfig, {"tokens": -1}, "--tokens -1"),
        (RunConfig, {"minutes": 0.0}, "--minutes"),
        (RunConfig, {"minutes": float("nan")}, "--minutes"),
        (RunConfig, {"eval_every": -1}, "--eval-every"),
        (RunConfig, {"minutes": float("inf")}, "--minutes inf"),
        (RunConfig, {"minutes": float("nan")}, "--minutes nan"),
        (RunConfig, {"log_every": 0}, "--log-every 0"),
        (RunConfig, {"sample_every": -1}, "--sample-every -1"),
        (RunConfig, {"patience": 0}, "--patience 0: must be 1 or more"),
        (RunConfig, {"patience": 3, "eval_every": 0}, "--patience 3: --eval-every 0 measures nothing on the way"),
        (RunConfig, {"eval_bytes": -1}, "--eval-bytes"),
        (RunConfig, {"checkpoint_every": -1}, "--checkpoint-every"),
        (RunConfig, {"data": ""}, "--data"),
    ],
)
def test_bad_values_are_refused_by_name(kind, values, says):
    with pytest.raises(EggError, match=says):
        kind(**values)


def test_limits_themselves_are_allowed():
    EvolutionConfig(seed=2**64 - 1, streams=8192, seq_len=16, final_step_share=0.0)
    EvolutionConfig(seed=0, streams=1, seq_len=131_072, step_size=127.0)
    EvolutionConfig(recipe="paper", population_size=2, sigma_shift=8)
    EvolutionConfig(recipe="paper", population_size=10**6, sigma_shift=0)
    EvolutionConfig(recipe="paper", population_size=8, group_size=8, num_perturbations=8, alpha=2**-16, noise_reuse=0)
    EvolutionConfig(recipe="paper", noise="gaussian", use_clt=False, alpha=16.0, alpha_decay=1)
    EvolutionConfig(recipe="paper", seq_len=5_621_684)
    for horizon in (1, 10**18, 10**23):
        assert Config(evolution=EvolutionConfig(schedule_tokens=horizon)).resolved().evolution.step_size > 0


@pytest.mark.parametrize("branches", [0, 8, 24, 128, -16])
def test_branches_are_all_or_a_power_of_two(branches):
    for allowed in ("all", 16, 32, 64):
        Config(model=ModelConfig(64, 1), evolution=EvolutionConfig(branches=allowed))
    with pytest.raises(EggError, match=f"--branches {branches}: must be all, or a power of two"):
        Config(model=ModelConfig(64, 1), evolution=EvolutionConfig(branches=branches))


DEFAULT = EvolutionConfig()


def resolved(evolution: EvolutionConfig = DEFAULT, **run) -> EvolutionConfig:
    return Config("x", ModelConfig(64, 2), evolution, RunConfig(**run)).resolved().evolution


def test_what_is_chosen_follows_the_stop():
    """512 tokens a step: the reference of the rule for step sizes."""
    e = resolved(tokens=1_000_000)
    assert (e.branches, e.schedule_tokens, e.schedule) == (64, 1_000_000, "linear")
    assert e.step_size == int(0.4 * 65536) / 65536
    assert resolved(e, tokens=1_000_000) == e
    assert resolved(steps=1000).schedule_tokens == 512_000
    assert resolved(steps=1000, tokens=10**9, minutes=1.0).schedule_tokens == 512_000
    longer = resolved(tokens=16_000_000)
    assert longer.step_size == int(0.1 * 65536) / 65536
    assert resolved(EvolutionConfig(schedule_tokens=16_000_000), steps=1) == longer
    assert resolved(tokens=62_500).step_size == int(0.8 * 65536) / 65536
    wider = resolved(EvolutionConfig(streams=512, seq_len=16), tokens=1_000_000)
    assert wider.step_size == int(0.8 * 65536) / 65536
    own = EvolutionConfig(step_size=0.3, branches=16, schedule_tokens=5, schedule="cosine")
    assert resolved(own, tokens=100) == own
    # By the clock, and without any end.
    timed = resolved(minutes=1.0)
    assert (timed.schedule_tokens, timed.schedule) == ("time", "linear")
    endless = resolved()
    assert (endless.schedule_tokens, endless.schedule) == (8_000_000, "constant")
    assert endless.step_size == resolved(tokens=8_000_000).step_size
    assert resolved(endless, tokens=10) == endless
    with pytest.raises(EggError, match="--schedule-tokens time"):
        resolved(EvolutionConfig(schedule_tokens="time"), steps=1)
    paper = Config(evolution=EvolutionConfig(recipe="paper"))
    assert paper.resolved() == paper


def test_a_run_by_the_clock_has_the_step_of_the_tokens_of_a_nominal_machine():
    """150e9 multiply-accumulates a second, whatever machine this is; a token of 64/2 has 212,992."""
    for minutes in (0.02, 1.0, 60.0):
        tokens = int(minutes * 60_000) * 150_000_000 // 212_992
        assert resolved(minutes=minutes).step_size == resolved(tokens=tokens).step_size
    timed = EvolutionConfig(schedule_tokens="time")
    assert resolved(timed, minutes=60.0, tokens=1_000_000).step_size == resolved(tokens=1_000_000).step_size
    assert resolved(minutes=1e-9).step_size == 1.0 and resolved(minutes=1e308).step_size == 1 / 65536
    larger = Config(model=ModelConfig(1024, 1), run=RunConfig(minutes=60.0)).resolved()
    assert larger.evolution.step_size > resolved(minutes=60.0).step_size  # as it reads less in that time


@pytest.mark.parametrize("credit", STEP_FACTORS)
def test_the_step_size_has_a_factor_for_every_shape_and_credit(credit, monkeypatch):
    def step(hidden_size, layers):
        own = EvolutionConfig(credit=credit, schedule_tokens=1_000_000)
        return Config(model=ModelConfig(hidden_size, layers), evolution=own).resolved().evolution.step_size

    for hidden_size in HIDDEN_SIZES:
        assert step(hidden_size, 1) > 0
        monkeypatch.setitem(STEP_FACTORS[credit], hidden_size, (16, 8, 4))
        reference = int(0.4 * 65536)
        assert [step(hidden_size, layers) * 65536 for layers in (1, 2, 3, 6)] == [
            reference,
            reference // 2,
            reference // 4,
            reference // 4,
        ]
    assert set(STEP_FACTORS) == set(typing.get_args(typing.get_type_hints(EvolutionConfig)["credit"]))


def test_multiply_accumulates_of_a_token():
    def count(hidden_size=64, layers=2, **settings):
        return Config(
            model=ModelConfig(hidden_size, layers), evolution=EvolutionConfig(**settings)
        ).multiply_accumulates

    assert count() == 20 * 64**2 * 2 + 768 * 64 == 212_992
    assert count(256) == 2_818_048
    assert count(256, branches=16) == 2_818_048 - 256 * 240
    assert count(recipe="paper") == 12 * 64**2 * 2 + 256 * 64
    assert count(credit="stations", stations="all") == 212_992 + 16 * 64**2 * 2
    assert count(credit="stations") == 212_992 + 4 * 64**2 * 2
    assert count(credit="stations", stations="past,gates") == 212_992 + 3 * 64**2 * 2


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ("gates", "state", "past")),
        ("all", STATIONS),
        (" past, Gates,past", ("gates", "past")),
        ("mlp,middle", ("middle", "mlp")),
    ],
)
def test_stations_are_named_in_their_order(given, names):
    own = EvolutionConfig(credit="stations", stations=given)
    assert own.station_names == names and EvolutionConfig().station_names == ()
    config = Config(evolution=own).resolved()
    assert config.evolution.stations == ",".join(names)
    assert config.resolved() == config == from_json(to_json(config), "here")


def test_the_wire_drops_the_stations_of_a_file():
    own = Config(evolution=EvolutionConfig(credit="stations", stations="past"))
    assert with_settings(own, {"credit": "wire"}).evolution == EvolutionConfig()
    with pytest.raises(EggError, match="--stations past: credit wire has none"):
        with_settings(own, {"credit": "wire", "stations": "past"})


@pytest.mark.parametrize(("given", "rank"), [("4", 4), (" 16 ", 16), (1, 1), (4.0, 4)])
def test_a_rank_is_one_of_few_numbers(given, rank):
    assert with_settings(preset("paper"), {"rank": given}).evolution.rank == rank
    with pytest.raises(EggError, match="--rank '2': choose 1, 4, 16"):
        with_settings(preset("paper"), {"rank": "2"})


def test_a_file_from_before_its_options_is_of_the_plain_recipe_paper():
    content = json.loads(json.dumps(to_json(preset("paper"))))
    for name in ("group_size", "rank", "noise", "num_perturbations", "noise_reuse", "fitness", "use_clt", "alpha"):
        del content["evolution"][name]
    assert from_json(content, "config.json") == preset("paper")


def test_a_file_from_before_stations_is_of_the_wire():
    content = to_json(Config().resolved())
    assert content["evolution"].pop("credit") == "wire" and "stations" not in content["evolution"]
    assert from_json(content, "here") == Config().resolved()


def test_a_preset_in_the_other_recipe():
    for name, recipe in (("paper", "egg"), ("nano", "paper"), ("base", "egg")):
        config = with_recipe(preset(name), recipe)
        assert config.evolution.recipe == recipe
        assert config.evolution.seq_len == preset(name).evolution.seq_len
    assert with_recipe(preset("paper"), "cake") == preset("paper")


def test_presets():
    assert list(PRESETS) == ["quickstart", "nano", "base", "paper"] == list(PRESET_HELP)
    for name, config in PRESETS.items():
        assert config.preset == name == preset(name).preset
        assert any(v is not None for v in (config.run.steps, config.run.tokens))
    assert preset("quickstart").run.data == "stdlib"
    for name in ("nano", "base", "paper"):
        assert preset(name).run.data == "minipile"
    assert preset("paper").evolution.population_size == 262_144
    assert preset("paper").evolution.seq_len == 100
    with pytest.raises(EggError, match="quickstart, nano, base, paper"):
        preset("huge")


def test_preset_help_has_the_right_sizes():
    for name, line in PRESET_HELP.items():
        assert f"{PRESETS[name].model.shape.parameters:,} parameters" in line


@pytest.mark.parametrize("name", PRESETS)
def test_json_and_back(name):
    config = replace(PRESETS[name], run=RunConfig(minutes=1.5, steps=7)).resolved()
    content = json.loads(json.dumps(to_json(config) | {"new": {}}))
    content["evolution"]["new"] = 1
    content["model"]["new"] = 1
    assert content["model"]["vocab_size"] == 256
    assert None not in content["evolution"].values()
    assert ("streams" in content["evolution"]) != ("population_size" in content["evolution"])
    assert from_json(content, "here") == config


def test_json_may_hold_an_integer_for_a_real_number():
    content = to_json(Config(run=RunConfig(minutes=2.0)))
    content["run"]["minutes"] = 2
    assert isinstance(from_json(content, "here").run.minutes, float)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("model"), "model"),
        (lambda c: c.pop("evolution"), "evolution.recipe"),
        (lambda c: c["evolution"].pop("seed"), "evolution.seed"),
        (lambda c: c.update(run=[]), "run.data"),
        (lambda c: c.update(format=1), "older version"),
        (lambda c: c.update(format=3), "format 3"),
        (lambda c: c.pop("format"), "format None"),
        (lambda c: c["evolution"].update(seed="7"), "seed is '7'"),
        (lambda c: c["evolution"].update(seed=True), "seed is True"),
        (lambda c: c["evolution"].update(recipe="other"), "recipe is 'other'"),
        (lambda c: c["evolution"].update(streams=1.5), "streams is 1.5"),
        (lambda c: c["evolution"].update(step_size=99999), "--step-size 99999"),
        (lambda c: c["model"].update(vocab_size=512), "vocab_size 512"),
        (lambda c: c["model"].update(hidden_size=None), "hidden_size is None"),
        (lambda c: c["model"].update(hidden_size=48), "power of four"),
    ],
)
def test_foreign_json_is_refused_by_name(change, says):
    content = to_json(Config())
    change(content)
    with pytest.raises(EggError, match=says) as caught:
        from_json(content, "where/config.json")
    assert "where/config.json" in str(caught.value)


@pytest.mark.parametrize("content", [[], None, {}, {"model": 3}, {"model": {"hidden_size": 16}}])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(EggError, match="here"):
        model_from_json(content, "here")


def test_a_model_alone_is_enough_to_load_one():
    content = {"model": {"hidden_size": 16, "num_layers": 3, "vocab_size": 256, "x": 0}, "y": 1}
    assert model_from_json(content, "here") == ModelConfig(16, 3)


def test_differences_and_stops():
    a = preset("nano")
    b = replace(a, evolution=replace(a.evolution, seed=5), run=replace(a.run, steps=3))
    assert differences(a, b) == ["seed", "steps"]
    assert differences(a, a) == []
    assert without_stops(b).run == replace(b.run, steps=None, tokens=None, minutes=None)
