"""Sampling: the definition in plain integers, equal bytes everywhere, and the command."""

import io
import os
import signal
import subprocess
import sys
import time
from functools import cache
from math import isqrt
from pathlib import Path

import numpy as np
import pytest

from egg.cli.sample import Screen
from egg.errors import EggError
from egg.kernels import BackendError, Shape, get_backend, philox
from egg.kernels.arithmetic import sampling_table, sampling_weights
from egg.kernels.reference import choose, draws, inverse
from egg.model import sample as module
from egg.model.network import Network, load
from egg.model.sample import Sampling, in_order

ROOT = Path(__file__).parent.parent
SHAPE = Shape(16, 1)
NUMPY = get_backend("numpy")
TEMPERATURES = (1, 3, 64, 205, 256, 257, 1000, 2**20)  # in 1/256


def model(backend=NUMPY, shape=SHAPE, seed=1, scale=24) -> Network:
    noise = np.random.default_rng(seed).standard_normal(shape.parameters) * scale
    return Network(backend, shape, np.clip(noise, -127, 127).astype(np.int8))


def logit_rows(n=200) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = rng.integers(-127, 128, (n, 256)).astype(np.int8)
    rows[n // 2 :] = rng.integers(-3, 4, (n - n // 2, 256))  # many equal ones
    rows[0], rows[1], rows[2] = -127, 127, 0
    rows[3], rows[3, 200] = -127, 127
    rows[4], rows[4, 200] = 127, -127
    return rows


# The definition again, in Python's integers


@cache
def plain_weight(below: int, temperature_256: int) -> int:
    exponent = (-below * 16 * 256) // temperature_256
    power = 1 << (32 * 256 + exponent % 256)  # its 256th root is 2^(32 + fraction / 256)
    for _ in range(8):
        power = isqrt(power)
    return power >> -(exponent // 256)


def plain_choice(logits: list[int], u: int, temperature_256: int, top_k: int, top_p: int = 65536) -> int:
    order = sorted(range(256), key=lambda v: (-logits[v], v))
    if temperature_256 == 0:
        return order[0]
    kept = set(order[: top_k or 256])
    weight = [plain_weight(max(logits) - logits[v], temperature_256) if v in kept else 0 for v in range(256)]
    share, taken = top_p * sum(weight), 0
    for v in order:
        taken += weight[v]
        if 65536 * (taken - weight[v]) >= share:
            weight[v] = 0
    r, total = u * sum(weight) >> 64, 0
    for v in range(256):
        total += weight[v]
        if total > r:
            return v
    raise AssertionError("r is below the total")


def plain_draw(seed: int, number: int, position: int) -> int:
    counter = np.array([0, 4, number, position], np.uint32)
    w = philox.philox(counter, (seed % 2**32, seed >> 32)).tolist()
    return w[0] + (w[1] << 32)


def check_sample(m: Network, prompt: bytes, sampling: Sampling, number: int, text: bytes) -> None:
    """Every byte of a sample, and its end, from what the model says to all that is before."""
    logits = m.logits(np.frombuffer(b"\0" + prompt + text, np.uint8))[len(prompt) :].tolist()
    assert 0 not in text and len(text) <= sampling.length
    ending = [] if len(text) == sampling.length else [0]
    for position, byte in enumerate([*text, *ending]):
        u = plain_draw(sampling.seed, number, position)
        temperature = round(256 * sampling.temperature)
        top_p = round(65536 * sampling.top_p)
        assert byte == plain_choice(logits[position], u, temperature, sampling.top_k, top_p)


def test_the_table_is_the_floor_of_powers_of_two():
    table = sampling_table().tolist()
    assert table[0] == 2**32 and len(table) == 256
    for j, v in enumerate(table):
        assert v**256 <= 2 ** (32 * 256 + j) < (v + 1) ** 256


@pytest.mark.parametrize("temperature_256", TEMPERATURES)
def test_weights_are_those_of_the_definition(temperature_256):
    expected = [plain_weight(d, temperature_256) for d in range(255)]
    np.testing.assert_array_equal(sampling_weights(temperature_256), expected)


def test_weights_are_powers_of_two_of_the_logits():
    weights = sampling_weights(256).tolist()
    assert weights[:64:16] == [2**32, 2**31, 2**30, 2**29]  # 16 sixteenths of a bit
    assert sampling_weights(128).tolist()[8] == 2**31  # half the temperature, twice as steep
    assert sampling_weights(2**20).tolist() == [2**32] + [sampling_table()[255] >> 1] * 254


@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [*((k, 65536) for k in (0, 1, 2, 7, 255, 256)), *((0, p) for p in (1, 9000, 32768, 65535)), (7, 60000), (2, 1)],
)
@pytest.mark.parametrize("temperature_256", [0, *TEMPERATURES])
def test_choices_are_those_of_the_definition(temperature_256, top_k, top_p):
    rows = logit_rows(60)
    drawn = np.random.default_rng(4).integers(0, 2**64, 60, np.uint64)
    drawn[:10:2], drawn[1:10:2] = 0, 2**64 - 1
    weights = sampling_weights(temperature_256) if temperature_256 else None
    expected = [
        plain_choice(row, u, temperature_256, top_k, top_p)
        for row, u in zip(rows.tolist(), drawn.tolist(), strict=True)
    ]
    got = choose(rows, drawn, weights, top_k, top_p)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_temperature_0_and_top_k_1_take_the_lowest_of_the_likeliest():
    rows = logit_rows()
    drawn = np.random.default_rng(5).integers(0, 2**64, len(rows), np.uint64)
    first = [row.index(max(row)) for row in rows.tolist()]
    np.testing.assert_array_equal(choose(rows, drawn, None, 0), first)
    for top_k in (1, 0):
        weights = sampling_weights(256 if top_k else 1)
        if top_k:
            np.testing.assert_array_equal(choose(rows, drawn, weights, top_k), first)
    m = model()
    greedy = m.generate("ab", 40, temperature=0, count=2)
    assert greedy == m.generate("ab", 40, top_k=1, seed=9, count=2) and greedy[0] == greedy[1]


def test_the_inverse_gives_each_byte_exactly_its_share():
    """Every r below small totals, from the smallest and the largest u that map to it."""
    rng = np.random.default_rng(6)
    for total in (1, 2, 3, 7, 64, 255, 1000):
        weight = np.bincount(rng.integers(0, 256, total), minlength=256)
        if total == 64:
            weight = np.eye(1, 256, 255, dtype=np.int64)[0] * 64  # all of it in the last byte
        expected = np.repeat(np.arange(256), weight)  # of r = 0 .. total - 1
        cumulative = np.tile(weight.cumsum().astype(np.uint64), (total, 1))
        lowest = [-(-(r << 64) // total) for r in range(total)]
        highest = [v - 1 for v in [*lowest[1:], 1 << 64]]
        for drawn in (lowest, highest):
            got = inverse(cumulative, np.array(drawn, np.uint64))
            np.testing.assert_array_equal(got, expected)


def test_the_inverse_is_exact_at_the_largest_total():
    cumulative = (np.arange(1, 257, dtype=np.uint64) << np.uint64(32))[None]  # 2^40 in all
    for byte in (0, 1, 127, 255):
        low, high = byte << 56, (byte + 1 << 56) - 1
        for u in (low, high):
            assert inverse(cumulative, np.array([u], np.uint64)) == byte


def test_draws_are_words_0_and_1_of_stream_4():
    numbers = np.array([0, 3, 2**32 - 1])
    for seed in (0, 2**40 + 7, 2**64 - 1):
        got = draws(seed, numbers, range(5, 9))
        expected = [[plain_draw(seed, int(n), p) for p in range(5, 9)] for n in numbers]
        np.testing.assert_array_equal(got, np.array(expected, np.uint64))
        w = philox.words(seed, philox.SAMPLING, numbers, 6, 2).astype(np.uint64)
        np.testing.assert_array_equal(got[:, 1], w[:, 0] + (w[:, 1] << np.uint64(32)))


# Samples


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(40, count=5),
        Sampling(35, temperature=0.7, top_k=12, seed=2**63 + 5, count=4),
        Sampling(40, temperature=5.0, seed=1, count=20),
        Sampling(40, temperature=1.5, top_p=0.7, seed=1, count=4),
        Sampling(40, top_k=20, top_p=0.9, count=4),
    ],
)
def test_samples_are_those_of_the_definition(sampling):
    m, prompt = model(), b"The \xffend"
    texts = module.generate(m, prompt, sampling)
    assert len(texts) == sampling.count
    for number, text in enumerate(texts):
        check_sample(m, prompt, sampling, number, text)


def test_samples_are_equal_on_numpy_and_numba():
    try:
        numba = get_backend("numba", threads=2)
    except BackendError as error:
        pytest.skip(str(error))
    for shape in (SHAPE, Shape(64, 2)):
        for arguments in (
            {"temperature": 0},
            {"count": 20},
            {"temperature": 0.6, "top_k": 9, "top_p": 0.8, "count": 3},
        ):
            of = [model(b, shape).generate("naïve", 40, **arguments) for b in (NUMPY, numba)]
            assert of[0] == of[1]


def test_a_sample_depends_on_its_number_and_seed_alone(monkeypatch):
    m = model()
    many = m.generate(b"x", 60, count=9)
    assert len(set(many)) == 9
    for count in (1, 2, 8):
        assert m.generate(b"x", 60, count=count) == many[:count]
    assert m.generate(b"x", 60, count=9) == many
    assert m.generate(b"x", 60, seed=1) != many[:1]
    assert [t[:23] for t in many] == m.generate(b"x", 23, count=9)
    for name, value in (("SIDE_BY_SIDE", 4), ("WRITTEN_AT_ONCE", 1), ("PIECE", 1)):
        monkeypatch.setattr(module, name, value)
        assert m.generate(b"x", 60, count=9) == many, name


def test_a_nul_ends_a_sample():
    m = model()
    texts = m.generate("", 300, temperature=50, count=12)  # nearly uniform: a NUL in 256 bytes
    sizes = [len(t) for t in texts]
    assert min(sizes) < 300 == max(sizes)
    assert all(0 not in t for t in texts)
    weights = np.zeros(SHAPE.parameters, np.int8)  # all logits equal: the lowest byte is the NUL
    assert Network(NUMPY, SHAPE, weights).generate("x", 5, temperature=0, count=2) == [b"", b""]


def test_the_fewest_likeliest_bytes_with_the_share_are_drawn():
    rows = np.full((4, 256), -127, np.int8)
    rows[:, [7, 9, 200]] = 100, 84, 84  # 1/2, 1/4 and 1/4 of the probability, up to 2^-10
    drawn = np.array([0, 2**63 - 2**56, 2**63 + 2**56, 2**64 - 1], np.uint64)
    weights = sampling_weights(256)
    for share, expected in ((0.49, [7] * 4), (0.74, [7, 7, 7, 9]), (0.9, [7, 7, 9, 200])):
        np.testing.assert_array_equal(choose(rows, drawn, weights, 0, round(share * 65536)), expected)


def test_a_stop_ends_a_sample_and_is_left_out():
    m = model()
    for number, text in enumerate(m.generate("x", 60, temperature=0.5, count=6)):
        stops = [text[20:23], text[30:31], text[19:23], b"never there at all"]
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        at = max(len(stop) for stop in stops if text[: min(ends)].endswith(stop))
        got = m.generate("x", 60, temperature=0.5, count=6, stop=stops)[number]
        assert got == text[: min(ends) - at] and len(got) < 21
    (text,) = m.generate("x", 60, temperature=0.5)
    assert m.generate("x", 20, temperature=0.5, stop=text[19:20].decode("utf-8", "surrogateescape")) == [
        text[: text.index(text[19])]
    ]


def test_turns_write_one_document():
    m, sampling = model(), Sampling(30, temperature=0.5, seed=4)
    conversation, document = module.Conversation(m, sampling), b""
    for number, line in enumerate((b"one", b"", b"\nthree\xff")):
        document += line
        expected = m.generate(document, 30, temperature=0.5, seed=4, count=number + 1)[number]
        assert b"".join(conversation.turn(line)) == expected
        document += expected
    (text,) = m.generate("a", 30, temperature=0.5)
    conversation = module.Conversation(m, Sampling(30, temperature=0.5, stop=(text[8:10],)))
    begun = text[: text.find(text[8:10])]
    assert b"".join(conversation.turn(b"a")) == begun
    # The next turn continues without the stop, as if it had not been written.
    following = m.generate(b"a" + begun + b"b", 30, temperature=0.5, count=2, stop=text[8:10])[1]
    assert b"".join(conversation.turn(b"b")) == following


def test_the_prompt_is_the_beginning_of_a_document():
    m = model()
    for same in (b"caf\xc3\xa9", bytearray(b"caf\xc3\xa9"), b"another document\0caf\xc3\xa9"):
        assert m.generate(same, 30) == m.generate("café", 30)
    assert m.generate("\udcff", 30) == m.generate(b"\xff", 30)  # as Python passes it from argv
    assert m.generate("", 30) == m.generate(b"\0", 30) != m.generate(" ", 30)


@pytest.mark.parametrize(
    ("temperature", "in_256"),
    [(0, 0), (0.001, 0), (1 / 512, 1), (0.7, 179), (1, 256), (1.0, 256), (1e9, 2**20), (1e308, 2**20)],
)
def test_temperatures_are_rounded_half_up(temperature, in_256):
    assert Sampling(temperature=temperature).temperature_256 == in_256


def test_temperatures_beyond_the_bound_have_its_weights():
    assert [plain_weight(d, 256 * 10**9) for d in range(255)] == sampling_weights(2**20).tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.5),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1"),
        ("temperature", None),
        ("top_k", -1),
        ("top_k", 257),
        ("top_k", 2.5),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_p", float("nan")),
        ("top_p", "1"),
        ("stop", ""),
        ("stop", ["a", b""]),
        ("stop", [7]),
        ("stop", "\ud800"),
        ("length", 0),
        ("length", -3),
        ("length", 2**32 + 1),
        ("length", "9"),
        ("count", 0),
        ("count", 2**33),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 0.0),
    ],
)
def test_bad_arguments_are_refused(name, value):
    with pytest.raises(EggError, match=name.replace("_", "-")) as refused:
        model().generate("x", **{"length": 5, name: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("prompt", [7, None, ["x"], "\ud800"])
def test_bad_prompts_are_refused(prompt):
    with pytest.raises(EggError, match="prompt"):
        model().generate(prompt, 5)


def test_pieces_come_in_order_and_early():
    def steps():  # three samples of at most 4 bytes: 0 and 1 are ended by a NUL, 2 by its length
        for numbers, text in (([0, 1, 2], b"adg"), ([0, 1, 2], b"b\0h"), ([0, 2], b"\0i"), ([2], b"j")):
            seen.append("step")
            yield np.array(numbers), np.frombuffer(text, np.uint8)

    seen = []
    for piece in in_order(steps(), Sampling(4, count=3)):
        seen.append(piece)
    assert seen == [
        "step",
        (0, b"a"),
        "step",
        (0, b"b"),
        "step",
        (0, b"\0"),
        (1, b"d\0"),
        (2, b"ghi"),
        "step",
        (2, b"j"),
    ]


# The command


class Out(io.TextIOWrapper):
    """Standard output with a terminal behind it, or none."""

    def __init__(self, terminal: bool):
        super().__init__(io.BytesIO(), encoding="ascii")
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def test_characters_are_shown_whole_and_at_once():
    out = Out(terminal=False)
    screen = Screen(out)
    shown = []
    for byte in "aé€😀".encode() + b"\xffb\xe2\x82":
        screen.write(bytes([byte]))
        shown.append(out.buffer.getvalue().decode())
    assert shown == [
        "a",
        "a",
        "aé",
        "aé",
        "aé",
        "aé€",
        "aé€",
        "aé€",
        "aé€",
        "aé€😀",
        "aé€😀\ufffd",
        "aé€😀\ufffdb",
        "aé€😀\ufffdb",
        "aé€😀\ufffdb",
    ]
    screen.end()
    assert out.buffer.getvalue().decode() == "aé€😀\ufffdb\ufffd\n".replace("\n", os.linesep)


@pytest.mark.parametrize(("terminal", "shown"), [(True, "a\ufffd[2J\t\ufffd\n"), (False, "a\x1b[2J\t\x9b\n")])
def test_a_terminal_is_spared_control_characters(terminal, shown):
    out = Out(terminal)
    screen = Screen(out)
    screen.write("a\x1b[2J\t\x9b".encode())
    screen.end()
    assert out.buffer.getvalue().decode().replace(os.linesep, "\n") == shown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a model in it."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("model")
    save_file(SHAPE.views(model().weights), folder / "model.safetensors")
    (folder / "config.json").write_text('{"model": {"hidden_size": 16, "num_layers": 1}}')
    return folder


def text_of(*samples: bytes) -> list[str]:
    return [s.decode(errors="replace") for s in samples]


def test_the_command_prints_the_prompt_and_the_sample(egg, run):
    prompt = "naïve "
    arguments = "--length 40 --temperature 0.8 --top-k 30 --seed 3 --backend numpy".split()
    (expected,) = load(run, "numpy").generate(prompt, 40, temperature=0.8, top_k=30, seed=3)
    status, out, err = egg("sample", run, "--prompt", prompt, *arguments)
    assert status == 0, err
    (text,) = text_of(prompt.encode() + expected)
    assert out == text.removesuffix("\n") + "\n"
    assert "numpy" in err and f"{len(expected)} bytes in 1 sample" in err


def test_the_command_prints_many_samples_in_order(egg, run):
    samples = load(run, "numpy").generate("ab", 30, temperature=3.0, count=12)
    status, out, _ = egg("sample", run, *"--prompt ab --length 30 --temperature 3 --count 12 --backend numpy".split())
    assert status == 0
    assert out == "".join(
        f"--- {i} of 12 ---\n" + text.removesuffix("\n") + "\n"
        for i, text in enumerate(text_of(*(b"ab" + s for s in samples)), 1)
    )


def test_the_command_holds_back_what_may_become_a_stop(egg, run):
    flags = ["--prompt", "ab", "--length", 40, "--temperature", 0.5, "--count", 3, "--backend", "numpy"]
    samples = load(run, "numpy").generate("ab", 40, temperature=0.5, count=3)
    stop = next(s for i in range(20) if (s := samples[0][i : i + 2]).isascii())
    ended = load(run, "numpy").generate("ab", 40, temperature=0.5, count=3, stop=[stop, stop + b"!"])
    status, out, err = egg(
        "sample", run, *flags, "--stop", stop.decode(), f"--stop={stop.decode()}!", "--stop", "-none"
    )
    assert status == 0 and len(ended[0]) < len(samples[0])
    assert out == "".join(
        f"--- {i} of 3 ---\n" + text.removesuffix("\n") + "\n"
        for i, text in enumerate(text_of(*(b"ab" + s for s in ended)), 1)
    )
    assert f"{sum(len(s) < 40 for s in ended)} ended by the model or a stop" in err


def test_lines_are_continued_in_turns(egg, run, monkeypatch):
    m, flags = load(run, "numpy"), ["--length", 20, "--temperature", 0.5, "--backend", "numpy", "--interactive"]
    document, expected = b"", []
    for number, line in enumerate((b"start", b"two \xff", b"")):
        document += b"\n" + line if line and document else line  # what the model writes here ends with no newline
        document += m.generate(document, 20, temperature=0.5, count=number + 1)[number]
        assert document[-1:] != b"\n"
    expected = document.decode(errors="replace") + "\n"
    for arguments, lines in (([], b"start\ntwo \xff\n\n"), (["--prompt", "start"], b"two \xff\n\n")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
        status, out, _ = egg("sample", run, *flags, *arguments)
        assert (status, out) == (0, expected)


def test_a_document_that_ends_in_a_turn(egg, run, tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    weights = np.zeros(SHAPE.parameters, np.int8)  # all logits equal: the likeliest byte is the NUL
    save_file(SHAPE.views(weights), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo"), encoding="utf-8"))
    status, out, err = egg("sample", tmp_path, "--interactive", "--temperature", 0, "--backend", "numpy")
    assert (status, out) == (0, "onetwo\n") and err.count("the model has ended the document") == 2


def test_a_closed_standard_input_is_one_line(egg, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after <&-
    for arguments in (["--interactive"], ["--prompt-file", "-"]):
        status, out, err = egg("sample", run, *arguments)
        assert (status, out) == (2, "") and err.startswith("egg: standard input is closed") and err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
def test_lines_in_a_terminal(run):
    import pty

    code = "from egg.cli.main import main; raise SystemExit(main())"
    flags = "--interactive --length 10 --temperature 0 --backend numpy".split()
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-c", code, "sample", run, *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE)
    os.close(terminal)
    shown = b""
    for keys in (b"one\n", b"\n", b"\x04"):
        while not shown.endswith(b"> "):
            shown += os.read(keyboard, 1000)
        os.write(keyboard, keys)
        shown += b"|"
    assert process.wait(30) == 0 and b"Ctrl-D ends" in process.stderr.read()
    process.stderr.close()
    os.close(keyboard)
    assert shown.startswith(b"> |") and shown.count(b"> |") == 3 and b"one" in shown


def test_the_prompt_comes_from_a_file_or_standard_input(egg, run, tmp_path, monkeypatch):
    (tmp_path / "prompt").write_bytes(b"caf\xc3\xa9\n")
    flags = ["--length", 20, "--backend", "numpy"]
    expected = egg("sample", run, "--prompt", "café\n", *flags)[1]
    assert egg("sample", run, "--prompt-file", tmp_path / "prompt", *flags)[1] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xc3\xa9\n")))
    assert egg("sample", run, "--prompt-file", "-", *flags)[1] == expected
    assert egg("sample", run, "--prompt", "- item", *flags)[1].startswith("- item")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--temperature=-1", "--temperature -1"),
        ("--temperature nan", "--temperature nan"),
        ("--temperature warm", "--temperature"),
        ("--top-k 257", "0 to 256"),
        ("--top-k=-1", "--top-k"),
        ("--length 0", "--length"),
        ("--top-p 0", "--top-p 0"),
        ("--top-p 90", "above 0, at most 1"),
        ("--top-p most", "--top-p"),
        ("--stop=", "--stop"),
        ("--interactive --count 2", "--count"),
        ("--interactive --prompt-file -", "--prompt-file"),
        ("--count 0", "--count"),
        ("--seed=-1", "--seed"),
        ("--seed 18446744073709551616", "--seed"),
        ("--backend tpu", "tpu"),
        ("--threads 0", "threads"),
        ("--prompt-file no/such/file", "no/such/file"),
        ("--prompt-file .", "--prompt-file"),
        ("--prompt a --prompt-file b", "give one"),
        ("--promt x", "--prompt"),
    ],
)
def test_bad_calls_get_one_line(egg, run, arguments, says):
    status, out, err = egg("sample", run, *arguments.split())
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("egg: ") and says in err, err


def test_no_model_gets_one_line(egg, tmp_path):
    for arguments in ([], [tmp_path], [tmp_path / "nothing"]):
        status, out, err = egg("sample", *arguments)
        assert (status, out) == (2, "") and err.count("\n") == 1


def test_help_says_where_a_sample_ends(egg):
    status, out, _ = egg("sample", "--help")
    assert status == 0 and "NUL" in out and "--top-k" in out and "[default: 500]" in out


def started(run, *arguments) -> subprocess.Popen:
    # A process in the background may have inherited that interrupts are ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from egg.cli.main import main; sys.exit(main())"
    )
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "sample",
            run,
            "--backend",
            "numpy",
            "--top-k",
            "40",
            "--temperature",
            "0.5",
            "--length",
            "100000000",
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_a_closed_pipe_and_an_interrupt_end_quietly(run):
    process = started(run)
    assert process.stdout.read(20)  # it streams: the sample would take an hour
    process.stdout.close()
    assert process.wait(30) == 1
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process = started(run)
    assert process.stdout.read(20)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out.endswith(b"\n")
    assert err.splitlines()[-1] == b"egg: interrupted" and b"Traceback" not in err


def test_importing_the_command_loads_no_slow_library():
    code = "import sys, egg.cli.sample; print('numba' in sys.modules or 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
