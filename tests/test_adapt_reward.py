"""egg adapt --reward: scores, fitness, what members write, and rewards that go wrong."""

import dataclasses
import doctest
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from egg import rewards
from egg.evolution.reward import RewardEvolution, RewardSettings, pair_fitness, tokens_read
from egg.kernels import Adapter, Noise, Shape, get_backend
from egg.kernels.reference import cast_adapter_pair_votes
from egg.model.adapter import adapter_shape, initial_factors, read_adapter
from egg.model.continuations import continue_prompts
from egg.model.network import Network, read_model
from egg.model.parameters import initial_weights
from egg.model.sample import Sampling, generate
from egg.rewards.process import takes_prompt

BACKEND = get_backend("numpy")
SHAPE = Shape(16, 1)
WEIGHTS = initial_weights(SHAPE, 3, "paper")
NETWORK = Network(BACKEND, SHAPE, WEIGHTS)
LAYOUT = adapter_shape(SHAPE, 1, "gru,mlp,head")
SETTINGS = RewardSettings(
    steps=20, population_size=128, length=12, temperature=1.0, sigma_shift=0, step_size=8 << 16, seed=1
)
BAD = """
import os
import shutil
import signal
import time

def raises(text):
    raise KeyError("no such\\nthing")

def nan(text):
    return float("nan")

def text(text):
    return "good"

def hangs(text):
    time.sleep(100)

def ends(text):
    os._exit(3)

def exits(text):
    raise SystemExit("no more")

def own_setting(text, share=0.5, *, power=1):
    return share * len(text) ** power

calls = 0

def later(act):
    # acts once, in the first measurement after the first step
    global calls
    calls += 1
    if calls == 300:
        act()
    return calls % 7

def interrupts(text):
    return later(lambda: os.kill(os.getppid(), signal.SIGINT))

def terminates(text):
    return later(lambda: os.kill(os.getppid(), signal.SIGTERM))

def fails_later(text):
    return later(lambda: 1 / 0)

def letters(text):
    return sum(character < "A" for character in text) / 12
"""


@pytest.fixture
def model(tmp_path):
    from egg.model import checkpoint

    config = {"model": {"hidden_size": 16, "num_layers": 1, "vocab_size": 256}}
    checkpoint.write_model(tmp_path / "model", config, SHAPE, WEIGHTS)
    (tmp_path / "prompts.txt").write_text("one\ntwo [\n")
    return tmp_path / "model"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of rewards, good and bad, that can be imported by its name."""
    (tmp_path / "own_rewards.py").write_text(BAD)
    monkeypatch.syspath_prepend(str(tmp_path))


def adapt(egg, model, reward, *more):
    return egg(
        "adapt",
        model,
        "--reward",
        reward,
        "--prompts",
        model.parent / "prompts.txt",
        "--out",
        model.parent / "out",
        "--backend",
        "numpy",
        "--length",
        12,
        "--rank",
        1,
        "--population-size",
        32,
        "--tokens",
        4 * 32 * 12,
        *more,
    )


def test_the_rewards_that_come_with_it():
    assert rewards.balanced_brackets("a)", "(") == 1
    assert rewards.balanced_brackets("([)]", "") == 0.5
    assert rewards.balanced_brackets("(]{}", "") == 0.5
    assert rewards.balanced_brackets("none", "") == 0
    assert rewards.target_length("x" * 20 + "\nand more") == 1
    assert rewards.target_length("x" * 15) == 0.75
    assert rewards.target_length("x" * 100) == 0
    assert doctest.testmod(rewards).failed == 0


@pytest.mark.parametrize(
    "answer",
    [
        "3+8+0",
        "(0+3)+8\nand more",
        "8 + 3/1 + 0",
        "3-8-0",
        "8/0+3",
        "-3+8+0",
        "3**8**0",
        "3//8+0",
        "3 8+0",
        "3(8)+0",
        "3_8_0",
    ]
    + [
        "3+8+0#",
        "0x3+8",
        "3.8+0",
        "03+8+0",
        "3+8",
        "3+8+0+0",
        "(" * 3000 + "3+8+0",
        "３+8+0",
        "3+8+0\0",
        "",
        "9**9**9",
    ],
)
def test_an_answer_is_right_only_as_an_expression_of_the_numbers(answer):
    right = answer in ("3+8+0", "(0+3)+8\nand more")
    wrong = answer in ("3-8-0", "8/0+3")
    assert rewards.countdown(answer, "0 3 8>11=") == (1 if right else 0.1 if wrong else 0)


def test_fitness_is_half_the_difference_of_ranks():
    assert pair_fitness(np.array([0.1, 9.0, 3.0, 2.0])).tolist() == [-127, 42]
    assert pair_fitness(np.array([1.0, 1.0, 1.0, 1.0])).tolist() == [0, 0]
    assert abs(pair_fitness(np.arange(600.0) ** 3)).max() <= 127


def test_members_write_what_sampling_writes():
    """Members with factors as they are write the samples of egg sample, whatever stands beside them."""
    prompts, numbers = [b"one", b"longer prompt", b""], np.array([4, 0, 7])
    states, sampling = NETWORK.zero_states(3), Sampling(length=12, seed=1)
    texts = continue_prompts(NETWORK.forward, NETWORK.write, states, prompts, numbers, sampling, whole=True)
    for prompt, number, text in zip(prompts, numbers.tolist(), texts, strict=True):
        sampling = Sampling(length=12, seed=1, count=number + 1)
        assert generate(NETWORK, prompt, sampling)[number] == text
    drawn = [min(len(text) + 1, 12) for text in texts]  # a NUL ends the shorter ones
    assert tokens_read(prompts, texts, 12) == sum(1 + len(p) + d - 1 for p, d in zip(prompts, drawn, strict=True))


def test_pair_votes_are_sums_of_outer_products():
    from egg.kernels import philox

    fitness = np.array([3, 0, -127])
    votes = LAYOUT.views(cast_adapter_pair_votes(LAYOUT, fitness, Noise(5, 9, 3)))
    strings = philox.words(5, philox.ADAPTER_SIGNS, np.arange(3), 9, LAYOUT.sign_words)
    for name, t in LAYOUT.tensors.items():
        a, b = philox.signs(strings, t.a, t.shape[0]), philox.signs(strings, t.b, t.shape[1])
        expected = sum(int(f) * np.outer(a[i].astype(int), b[i].astype(int)) for i, f in enumerate(fitness))
        np.testing.assert_array_equal(votes[name], expected)


@pytest.mark.parametrize(("noise_rank", "gain"), [(1, 0.3), (4, 0.15)])
def test_a_reward_rises(noise_rank, gain):
    def early(prompts, texts):
        return [sum(c < "A" for c in text) / 12 for text in texts]

    settings = dataclasses.replace(SETTINGS, noise_rank=noise_rank)
    evolution = RewardEvolution(NETWORK, LAYOUT, [b"one", b"two"], early, settings)
    before = evolution.measure()
    for _ in range(SETTINGS.steps):
        evolution.step()
    assert evolution.measure() > before + gain
    assert isinstance(evolution.network.adapter, Adapter) and (evolution.network.weights == WEIGHTS).all()


def test_a_folder_of_an_adapter_to_a_reward(egg, model, module):
    status, _, err = adapt(egg, model, "own_rewards:letters")
    assert status == 0, err
    out = model.parent / "out"
    assert {p.name for p in out.iterdir()} == {"adapter.safetensors", "config.json", "metrics.jsonl", "reward.png"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert json.loads((out / "config.json").read_text())["adapter"]["reward"] == "own_rewards:letters"
    assert egg("sample", model, "--adapter", out, "--length", 5, "--backend", "numpy")[0] == 0
    assert read_model(model)[1].tobytes() == WEIGHTS.tobytes()


def test_the_rank_of_the_noise_is_the_one_asked_for(egg, model, module):
    def letters(prompts, texts):
        return [sum(character < "A" for character in text) / 12 for text in texts]

    settings = RewardSettings(4, 32, 12, 1.0, 1, 4 << 16, 0, noise_rank=4)
    evolution = RewardEvolution(NETWORK, LAYOUT, [b"one", b"two ["], letters, settings)
    for _ in range(4):
        evolution.step()
    status, _, err = adapt(egg, model, "own_rewards:letters", "--noise-rank", 4)
    assert status == 0, err
    found = read_adapter(model.parent / "out", SHAPE, WEIGHTS)
    assert (found.factors == evolution.weights).all()


def test_a_function_of_a_file(egg, model, module, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "scores.py").write_text(
        "from beside import weight\n\ndef length(text): return weight * len(text)"
    )
    (tmp_path / "elsewhere" / "beside.py").write_text("weight = 2")
    monkeypatch.chdir(tmp_path)
    for reward in ("elsewhere/scores.py:length", f"{tmp_path}/elsewhere/scores.py:length"):
        status, _, err = adapt(egg, model, reward, "--eval-every", 0)
        assert status == 0 and "before: reward 2" in err, err
        shutil.rmtree(model.parent / "out")
    status, _, err = adapt(egg, model, "elsewhere/scores.py:width")
    assert status == 2 and "--reward elsewhere/scores.py:width cannot be loaded: AttributeError" in err


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("own_rewards:raises", "KeyError"),
        ("own_rewards:nan", "returned nan"),
        ("own_rewards:text", "ValueError"),
        ("own_rewards:hangs", "took more than 0.5 s"),
        ("own_rewards:ends", "its process has ended"),
        ("own_rewards:exits", "SystemExit: no more"),
        ("own_rewards:missing", "AttributeError"),
        ("no_such_module:f", "ModuleNotFoundError"),
        ("own_rewards", "MODULE:FUNCTION"),
        ("no/such.py:f", "FileNotFoundError"),
    ],
)
def test_a_reward_that_goes_wrong_is_named_in_one_line(egg, model, module, reward, says):
    status, out, err = adapt(egg, model, reward, "--reward-timeout", 0.5)
    assert status == 2 and not out
    assert f"--reward {reward}" in err and says in err
    assert "Traceback" not in err and err.splitlines()[-1].startswith("egg: ")
    assert not (model.parent / "out").exists()


def test_the_experiment_asks_for_what_it_has_not_shown(tmp_path):
    script = runpy.run_path(str(Path(__file__).parent.parent / "docs/experiments/countdown.py"))
    script["make"].__globals__["DOCUMENTS"] = 500
    script["make"](tmp_path / "out")
    lines = {name: (tmp_path / "out" / name).read_text().splitlines() for name in ("train.txt", "held.txt")}
    assert not set(lines["train.txt"]) & set(lines["held.txt"]) and len(lines["held.txt"]) == 879
    texts = [json.loads(line)["text"] for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    asked, answers = zip(*((text.partition("=")[0] + "=", text.partition("=")[2]) for text in texts), strict=True)
    scores = [rewards.countdown(*both) for both in zip(answers, asked, strict=True)]
    assert set(asked) <= set(lines["train.txt"]) and set(scores) == {1, 0.1}
    assert all(score == 1 or answer.count("+") == 2 for score, answer in zip(scores, answers, strict=True))
    assert 0.5 < np.mean(np.array(scores) == 1) < 0.7


@pytest.mark.parametrize("reward", ["addition", "countdown"])
def test_a_prompt_that_asks_nothing_is_named(egg, model, reward):
    status, _, err = adapt(egg, model, f"egg.rewards:{reward}")
    assert status == 2 and "failed: ValueError: the prompt 'one' asks nothing: it must be like" in err


def test_a_prompt_is_given_to_who_asks_for_it(egg, model, module):
    def plain(text): ...
    def both(text, before): ...
    def named(text, prompt=""): ...
    def own(text, target=20): ...
    def keyword(text, *, weight): ...

    takes = [takes_prompt(f) for f in (plain, both, named, own, keyword, len)]
    assert takes == [False, True, True, False, False, False]
    status, _, err = adapt(egg, model, "own_rewards:own_setting", "--eval-every", 0)
    assert status == 0, err
    lines = (model.parent / "out" / "metrics.jsonl").read_text().splitlines()
    assert ["reward" in json.loads(line) for line in lines] == [False, False, False, True]


@pytest.mark.parametrize(("reward", "status"), [("interrupts", 130), ("terminates", 143)])
def test_a_signal_finishes_the_step_and_saves(egg, model, module, reward, status):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    got, _, err = adapt(egg, model, f"own_rewards:{reward}")
    assert got == status and "stopped at step 1, saved" in err
    assert_one_step(model)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
def test_no_child_outlives_the_command(tmp_path):
    """After SIGKILL the process that computes rewards ends too, whatever it is doing."""
    code = f"""
import multiprocessing, sys
sys.path.insert(0, {str(tmp_path)!r})
from egg.rewards.process import Reward
if __name__ == "__main__":
    Reward("busy:forever", 600)([""], [""])
"""
    (tmp_path / "main.py").write_text(code)
    (tmp_path / "busy.py").write_text(
        "import os\ndef forever(text):\n    print(os.getpid(), flush=True)\n    while True: pass\n"
    )
    command = [sys.executable, tmp_path / "main.py"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        child = int(process.stdout.readline())
        os.kill(child, 0)
        process.kill()
    deadline = time.monotonic() + 10
    while running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(process: int) -> bool:
    """Whether a process is there, and is no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_function_that_fails_on_the_way_loses_no_step(egg, model, module):
    status, _, err = adapt(egg, model, "own_rewards:fails_later")
    assert status == 2
    assert err.splitlines()[-1].startswith("egg: --reward own_rewards:fails_later failed: ZeroDiv")
    assert "Traceback" not in err
    assert_one_step(model)


def assert_one_step(model):
    """What a run of one step leaves."""
    out = model.parent / "out"
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    assert (out / "reward.png").stat().st_size > 1000
    found = read_adapter(out, SHAPE, WEIGHTS)
    assert (found.factors != initial_factors(found.shape, 0)).any()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--population-size", 3], "even"),
        (["--reward-timeout", "inf"], "--reward-timeout inf"),
        (["--reward-timeout", "0"], "--reward-timeout 0"),
        (["--rank", "full"], "--rank full"),
        (["--prompts", "nowhere.txt"], "--prompts nowhere.txt"),
        (["--member-tokens", 5], "--tokens 5"),
        (["--data", "x"], "give either --data"),
        (["--eval-every", -1], "--eval-every -1"),
        (["--noise-rank", 2], "--noise-rank"),
    ],
)
def test_what_cannot_be_asked(egg, model, more, says):
    status, out, err = adapt(egg, model, "egg.rewards:target_length", *more)
    assert status == 2 and says in err and err.count("\n") == 1
