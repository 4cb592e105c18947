"""Configurations: what they refuse, and their way to a file and back."""

import json
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
    without_stops,
)
from egg.errors import EggError


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (ModelConfig, {"hidden_size": 32}, "power of four"),
        (ModelConfig, {"hidden_size": 0}, "power of four"),
        (ModelConfig, {"num_layers": 0}, "layers"),
        (EvolutionConfig, {"population_size": 0}, "--population-size 0"),
        (EvolutionConfig, {"population_size": 40}, "multiple of the group size 16"),
        (EvolutionConfig, {"population_size": 33, "recipe": "paper"}, "even"),
        (EvolutionConfig, {"group_size": 6, "population_size": 60}, "--group-size 6"),
        (EvolutionConfig, {"group_size": 128}, "--group-size 128"),
        (EvolutionConfig, {"group_size": 0}, "--group-size 0"),
        (EvolutionConfig, {"seq_len": 0}, "--seq-len 0"),
        (EvolutionConfig, {"sigma_shift": -1}, "0 to 8"),
        (EvolutionConfig, {"sigma_shift": 9}, "0 to 8"),
        (EvolutionConfig, {"seed": -1}, "--seed -1"),
        (EvolutionConfig, {"seed": 2**64}, "--seed"),
        (EvolutionConfig, {"schedule_tokens": 0}, "--schedule-tokens 0"),
        (EvolutionConfig, {"step_size": 0.0}, "--step-size"),
        (EvolutionConfig, {"step_size": float("nan")}, "--step-size"),
        (EvolutionConfig, {"final_step_share": 1.1}, "--final-step-share"),
        (EvolutionConfig, {"recipe": "paper", "perturbation": "input"}, "--perturbation"),
        (RunConfig, {"steps": 0}, "--steps 0"),
        (RunConfig, {"member_tokens": -1}, "--member-tokens -1"),
        (RunConfig, {"minutes": 0.0}, "--minutes"),
        (RunConfig, {"minutes": float("nan")}, "--minutes"),
        (RunConfig, {"eval_every": -1}, "--eval-every"),
        (RunConfig, {"eval_bytes": -1}, "--eval-bytes"),
        (RunConfig, {"checkpoint_every": -1}, "--checkpoint-every"),
        (RunConfig, {"data": ""}, "--data"),
    ],
)
def test_bad_values_are_refused_by_name(kind, values, says):
    with pytest.raises(EggError, match=says):
        kind(**values)


def test_limits_themselves_are_allowed():
    EvolutionConfig(seed=2**64 - 1, sigma_shift=8, group_size=64, final_step_share=0.0)
    EvolutionConfig(seed=0, sigma_shift=0, group_size=4, population_size=4)
    EvolutionConfig(recipe="paper", population_size=2, group_size=7)  # no groups in that recipe


def test_wide_groups_of_a_wide_model_are_refused():
    wide = EvolutionConfig(group_size=64)
    Config(model=ModelConfig(hidden_size=256), evolution=wide)
    with pytest.raises(EggError, match="at most 32"):
        Config(model=ModelConfig(hidden_size=1024), evolution=wide)


def test_presets():
    assert list(PRESETS) == ["quickstart", "nano", "base", "paper"] == list(PRESET_HELP)
    for name, config in PRESETS.items():
        assert config.preset == name == preset(name).preset
        assert any(v is not None for v in (config.run.steps, config.run.member_tokens))
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
    config = replace(PRESETS[name], run=RunConfig(minutes=1.5, steps=7))
    content = json.loads(json.dumps(to_json(config) | {"new": {}}))
    content["evolution"]["new"] = 1
    content["model"]["new"] = 1
    assert content["model"]["vocab_size"] == 256
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
        (lambda c: c.update(format=2), "format 2"),
        (lambda c: c.pop("format"), "format None"),
        (lambda c: c["evolution"].update(seed="7"), "seed is '7'"),
        (lambda c: c["evolution"].update(seed=True), "seed is True"),
        (lambda c: c["evolution"].update(recipe="other"), "recipe is 'other'"),
        (lambda c: c["evolution"].update(group_size=1.5), "group_size is 1.5"),
        (lambda c: c["evolution"].update(sigma_shift=99), "--sigma-shift 99"),
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
    assert without_stops(b).run == replace(b.run, steps=None, member_tokens=None, minutes=None)
