"""egg bench: its counts by hand, what narrows it, what it refuses, and what it prints."""

import json

import numpy as np
import pytest

from egg.bench import cases as bench
from egg.bench import check as bench_check
from egg.bench import timing as bench_time
from egg.bench.cases import Case, Job, Work, choose_cases, make_job
from egg.bench.timing import Budget, Timing, time_cases
from egg.cli import bench as cli_bench
from egg.errors import EggError
from egg.kernels import Shape, get_backend
from egg.kernels.reference import NumpyBackend
from egg.model import compress as compression

SMALL = "--hidden-size 16 --num-layers 1 --readers 4 --backend numpy --seconds 0".split()
ROW = {
    "name",
    "recipe",
    "hidden_size",
    "num_layers",
    "readers",
    "tokens_per_second",
    "gmacs",
    "fraction_of_peak",
    "spread",
    "seconds",
    "repeats",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Check and measure little."""
    monkeypatch.setattr(bench_check, "SHAPES", (Shape(16, 1),))
    monkeypatch.setattr(bench, "DOCUMENT", 8)
    monkeypatch.setattr(bench, "PAPER_LENGTH", 6)
    for module in (bench, compression):
        monkeypatch.setattr(module, "LEARNED_SEGMENT", 64)
    bench._text.cache_clear()
    yield
    bench._text.cache_clear()


def case(name, recipe="egg", readers=32, length=4, width=16):
    return Case(name, recipe, Shape(width, 1), readers, length)


def test_work_counted_by_hand():
    # one layer of width 16: four gate matrices of 16 x 16, two of 64 x 16 in the MLP; a head of 256 x 16
    read = 4 * 16 * 16 + 2 * 64 * 16 + 256 * 16
    assert read == 7168 == Shape(16, 1).multiply_accumulates
    backend = get_backend("numpy")

    def work(*arguments):
        return make_job(case(*arguments), backend).call()

    assert work("forward") == Work(128, 128 * read)
    voted = 4 * 16 * 16 + 64 * 16 + 256 * 16  # w_up has no votes
    assert work("votes") == Work(128, 128 * voted)
    assert work("update") == Work(128, 0)
    assert work("step") == Work(128, 128 * (read + 16 * 256 + voted))
    assert work("stations") == Work(128, 128 * (read + 16 * 256 + voted + 4 * 16 * 16))  # gates, state and past
    assert work("branches", "egg", 2, 4, 64) == Work(8, 8 * 64 * 256)
    directions = 16 * (read + 256 * 16)  # the embedding votes as well
    assert work("step", "paper", 32, 6) == Work(192, 192 * read + directions)
    text = bench._text(32)
    size = int(np.count_nonzero(text))
    assert np.count_nonzero(text == 0) == 32
    assert 32 * 4 <= size <= 32 * 12
    assert work("eval", "egg", 32, 8) == Work(size, size * read)
    drawn = work("generate", "egg", 32, 3)
    assert 64 < drawn.tokens <= 96
    # after one NUL for all, each sample's bytes but its last are read
    assert drawn.multiply_accumulates == (1 + drawn.tokens - 32) * read
    learned = read + 16 * 256 + voted + 16 * 16 * 16  # of all stations, and the votes of w_up
    assert work("compress", "egg", 2, 64) == Work(128, 128 * (read + learned))


def test_the_figures_of_a_row():
    timing = Timing(case("forward"), Work(1000, 2_000_000), [0.5, 0.25, 1.0])
    assert timing.rates == [2000, 1000, 4000]
    assert timing.gmacs == 0.004
    figures = cli_bench.timing_json(timing, 0.016)
    assert figures["fraction_of_peak"] == 0.25
    assert figures["spread"] == [1000, 4000]
    lost = Timing(case("votes"), Work(1000, 2_000_000), [-0.5, -0.25, 1.0])  # a difference, in noise
    assert lost.rates == [None, 1000, None]
    assert cli_bench.timing_json(lost, 0.016)["gmacs"] is None
    assert cli_bench.timing_table([lost], 0.016)[2].split("|")[5:9] == [
        " -        ",
        " 1 k to -          ",
        " -      ",
        " -       ",
    ]


def test_parts_are_added_and_taken_off(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench_time.time, "perf_counter", lambda: now[0])

    def takes(seconds):
        def call():
            now[0] += seconds

        return call

    assert bench_time._seconds(Job(takes(3.0), 2.0, ((-1.0, takes(2.0)),)), 1.0) == 4.0
    assert bench_time._seconds(Job(takes(0.25)), 1.0) == 0.25


def test_repeats_go_round_all_rows(monkeypatch):
    order = []

    def ready(case, backend):
        return Job(lambda: order.append(case.name) or Work(1, 1))

    monkeypatch.setattr(bench_time, "make_job", ready)
    cases = [case("forward"), case("eval")]
    budget = Budget(seconds=0, min_repeats=2)
    timings = time_cases(cases, lambda: None, budget=budget, before_repeat=lambda: order.append("peak"))
    round_ = ["peak", "forward", "peak", "eval"]
    assert order == ["forward", "eval", *round_, *round_]
    assert [len(timing.seconds) for timing in timings] == [2, 2]
    order.clear()
    budget = Budget(seconds=0, min_repeats=9, total=-1)  # no time left: one repeat all the same
    timings = time_cases(cases, lambda: None, budget=budget)
    assert [len(timing.seconds) for timing in timings] == [1, 1]


def test_the_default_plan():
    cases = choose_cases()
    rows = [(c.name, c.recipe, c.shape.hidden_size, c.readers) for c in cases]
    assert len(set(rows)) == len(rows)
    for name in bench.NAMES:
        sizes = {c.shape.hidden_size for c in cases if c.name == name and c.recipe == "egg"}
        assert sizes == ({64, 256} if name == "compress" else {64, 256, 1024})
    for row in (
        ("step", "egg", 64, 16),
        ("step", "egg", 256, 16),
        ("stations", "egg", 64, 16),
        ("generate", "egg", 256, 1),
        ("generate", "egg", 256, 1024),
        ("compress", "egg", 64, 8),
        ("step", "paper", 64, 1024),
        ("step", "paper", 256, 256),
    ):
        assert row in rows
    assert ("step", "paper", 1024, 64) not in rows
    # with the fewest branches, their time cannot be separated from that of the rest
    assert "branches" not in [c.name for c in choose_cases(hidden_size=16, num_layers=1)]


def test_branches_and_votes_from_what_can_be_timed():
    """With D branches at b each, v for the rest and f for forward: what the factors of the two jobs leave."""
    f, v, b = 3.0, 5.0, 0.25

    def left(name):
        job = make_job(case(name, readers=2, width=64), get_backend("numpy"))
        few, many = f + v + 16 * b, f + v + 64 * b
        first, *others = (job.factor, *(factor for factor, _ in job.others))
        return sum(np.multiply((first, *others), {"branches": (many, few), "votes": (few, many, f)}[name]))

    assert left("branches") == pytest.approx(64 * b)
    assert left("votes") == pytest.approx(v)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"only": "eval"}, {("eval", 64, 2), ("eval", 256, 2), ("eval", 1024, 2)}),
        ({"only": "forward", "hidden_size": 64}, {("forward", 64, 2)}),
        ({"only": "stations", "hidden_size": 64}, {("stations", 64, 2)}),
        ({"only": "compress"}, {("compress", 64, 2), ("compress", 256, 2), ("compress", 1024, 2)}),
        ({"only": "votes", "hidden_size": 256}, {("votes", 256, 2)}),
        ({"only": "generate", "hidden_size": 64, "num_layers": 7}, {("generate", 64, 7)}),
        ({"recipe": "paper", "hidden_size": 1024}, {("step", 1024, 2)}),
    ],
)
def test_flags_narrow_the_plan(arguments, expected):
    found = {(c.name, c.shape.hidden_size, c.shape.num_layers) for c in choose_cases(**arguments)}
    assert found == expected
    recipe = arguments.get("recipe")
    assert recipe is None or {c.recipe for c in choose_cases(**arguments)} == {recipe}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--only speed", "--only speed: choose forward, branches, votes, update, step, stations, eval, gen"),
        ("--recipe salad", "--recipe salad: choose egg, paper"),
        ("--recipe paper --only eval", "omit --recipe"),
        ("--hidden-size 16", "--num-layers"),
        ("--only branches --hidden-size 16 --num-layers 1", "timed with votes"),
        ("--hidden-size 63 --num-layers 2", "power of four"),
        ("--readers 3", "even number"),
        ("--seconds -1", "must be 0 or more"),
        ("--backend abacus", 'Choose from: "auto", "numpy", "numba", "cupy"'),
    ],
)
def test_refusals_are_one_line(egg, flags, says):
    status, out, err = egg("bench", *flags.split())
    assert status == 2
    assert out == ""
    assert err.startswith("egg: ")
    assert says in err
    assert err.count("\n") == 1


def test_json_is_one_object(egg):
    status, out, err = egg("bench", *SMALL, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert out.count("\n") == 1
    names = [(row["name"], row["recipe"]) for row in found["rows"]]
    egg_rows = [(n, "egg") for n in ("forward", "votes", "update", "step", "stations", "eval", "generate", "compress")]
    assert sorted(names) == sorted([*egg_rows, ("step", "paper")])
    for row in found["rows"]:
        assert set(row) >= ROW
        assert row["readers"] == 4
        if row["name"] != "votes":  # a difference of times
            low, high = row["spread"]
            assert 0 < low <= row["tokens_per_second"] <= high
    assert {"commit", "versions", "cpu", "command", "date", "backend"} <= set(found)
    assert found["backend"] == "numpy"
    assert found["peak_gmacs"] is None or found["peak_gmacs"] > 0.1


def test_rows_are_compared_with_an_earlier_result(egg, tmp_path):
    forward = [*SMALL, "--only", "forward", "--recipe", "egg"]
    earlier = json.loads(egg("bench", *forward, "--json")[1])
    now = earlier["rows"][0]["tokens_per_second"]
    earlier["rows"][0]["tokens_per_second"] = now / 1000
    path = tmp_path / "before.json"
    path.write_text(json.dumps(earlier))
    status, out, err = egg("bench", *forward, "--json", "--compare", path)
    assert status == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["times_as_fast"] == pytest.approx(row["tokens_per_second"] * 1000 / now, abs=0.001)
    *_, header, _, row = egg("bench", *forward, "--compare", path)[1].splitlines()
    assert header.split("|")[-2].strip() == "times as fast" and float(row.split("|")[-2]) > 10
    earlier["rows"] = []
    path.write_text(json.dumps(earlier))
    assert json.loads(egg("bench", *forward, "--json", "--compare", path)[1])["rows"][0]["times_as_fast"] is None
    for content, told in (
        (json.dumps(earlier | {"cpu": "abacus"}), "is of another machine: abacus, and this is"),
        ("{}", "give a file that egg bench --json has written"),
        ("no JSON", "give a file that egg bench --json has written"),
        (None, "give a file that egg bench --json has written"),
    ):
        path.unlink() if content is None else path.write_text(content)
        status, out, err = egg("bench", *forward, "--compare", path)
        assert (status, out) == (2, "") and told in err and err.count("\n") == 1


def test_the_table_is_markdown(egg):
    pytest.importorskip("numba")
    status, out, err = egg("bench", *SMALL, "--only", "forward", "--recipe", "egg")
    assert status == 0, err
    *heading, blank, header, rule, row = out.splitlines()
    assert "--only forward" in heading[0]
    assert "GMAC/s on one core" in heading[1]
    assert blank == ""
    assert len(header) == len(rule) == len(row)
    assert row.split("|")[1:5] == [" forward ", " egg    ", " 16/1  ", " 4, 32      "]
    assert "checking against the reference" in err


def test_numba_is_measured(egg):
    pytest.importorskip("numba")
    small = [*SMALL[:-3], "numba", *SMALL[-2:]]
    status, out, err = egg("bench", *small, "--only", "step", "--threads", "1", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["threads"] == 1
    assert found["instruction_set"]
    assert found["rows"][0]["fraction_of_peak"] is not None


@pytest.mark.parametrize(
    "call",
    ["forward", "score", "run_pairs", "cast_votes", "cast_pair_votes", "update_rows", "update_master", "update_signs"],
)
def test_no_figures_for_a_wrong_backend(egg, monkeypatch, call):
    right = getattr(NumpyBackend, call)

    def wrong(self, *arguments, **options):
        found = right(self, *arguments, **options)
        array = {"cast_votes": "votes", "score": "totals"}.get(call)
        array = getattr(found, array) if array else found
        array = array[0] if isinstance(array, tuple) else array
        array.flat[-1] ^= 1
        return found

    class Wrong(NumpyBackend):
        name = "wrong"

    monkeypatch.setattr(Wrong, call, wrong)
    monkeypatch.setattr("egg.compute.get_backend", lambda *_, **__: Wrong())
    status, out, err = egg("bench", *SMALL)
    assert status == 2
    assert out == ""
    assert f"egg: backend wrong: {call} differs from the reference at 16/1" in err


def test_the_backends_pass_the_check():
    pytest.importorskip("numba")
    bench_check.check_backend(get_backend("numba"))
    bench_check.check_backend(get_backend("numpy"))


def test_the_peak_kernel_computes_dot_products():
    pytest.importorskip("numba")
    get_backend("numba")  # chooses the instruction set
    from egg.kernels.cpu import peak

    for rows, vectors in peak.TILES:
        x, w, out = peak.operands(rows, vectors)
        peak.kernel(rows, vectors)(x, w, out, 2)
        steps, lanes = x.reshape(rows, 1, -1, 1, 4), w.reshape(1, vectors, 1, 16, 4)
        products = steps.astype(np.int32) * lanes
        np.testing.assert_array_equal(out, products.sum((2, 4)))
    assert peak.Peak(peak.TILES[:1]).measure(2, 0) > 0


def test_an_unknown_size_is_refused():
    with pytest.raises(EggError, match="hidden size 3"):
        choose_cases(hidden_size=3, num_layers=1)


def test_the_cost_of_perturbations_has_a_table_of_its_own(egg):
    status, out, err = egg("bench", *SMALL, "--only", "perturbation", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["rows"] == []
    (member,) = found["perturbations"]
    assert (member["hidden_size"], member["num_layers"], member["parameters"]) == (16, 1, 11_344)
    one, full = member["rank_1_seconds_per_member"], member["full_rank_seconds_per_member"]
    assert 0 < one < full
    assert all(member[f"{rank}_seconds_per_member"] > 0 for rank in ("rank_4", "rank_16", "gaussian"))
    assert member["full_rank_over_rank_1"] == round(full / one, 2)
    status, out, err = egg("bench", *SMALL, "--only", "perturbation")
    assert status == 0, err
    header, rule, row = out.splitlines()[-3:]
    assert header.split("|")[4].strip() == "rank 1, ms per member"
    assert row.split("|")[1].strip() == "16/1" and len(header) == len(rule) == len(row)


def test_perturbations_are_compared_over_hidden_sizes():
    sizes = [(c.recipe, c.shape.hidden_size) for c in choose_cases("perturbation")]
    assert sizes == [(rank, d) for d in (16, 64, 256, 1024) for rank in bench.RANKS]
    assert {c.seq_len for c in choose_cases("perturbation")} == {6}  # of recipe paper, here
    assert not [c for c in choose_cases(recipe="paper") if c.name == "perturbation"]


def test_members_of_full_rank_read_what_they_are_timed_for():
    read = Shape(16, 1).multiply_accumulates
    for rank in bench.RANKS:
        work = make_job(case("perturbation", rank, 32, 6), get_backend("numpy")).call()
        assert work == Work(192, 192 * read)


@pytest.mark.parametrize("call", ["add_full_rank", "cast_full_rank_votes"])
def test_no_figures_for_wrong_noise(egg, monkeypatch, call):
    class Wrong(NumpyBackend):
        name = "wrong"

        def add_full_rank(self, weights, *arguments):
            super().add_full_rank(weights, *arguments)
            if call == "add_full_rank":
                weights[-1] ^= 1

        def cast_full_rank_votes(self, *arguments):
            votes = super().cast_full_rank_votes(*arguments)
            votes[-1] ^= call == "cast_full_rank_votes"
            return votes

    monkeypatch.setattr("egg.compute.get_backend", lambda *_, **__: Wrong())
    status, out, err = egg("bench", *SMALL, "--only", "perturbation")
    assert status == 2 and not out
    assert "egg: backend wrong: full-rank noise differs from the reference at 16/1" in err


def test_no_figures_for_wrong_members_of_a_rank(egg, monkeypatch):
    class Wrong(NumpyBackend):
        name = "wrong"

        def run_pairs(self, model, tokens, states, noise, **settings):
            scores, states = super().run_pairs(model, tokens, states, noise, **settings)
            return scores + (noise.rank == 4), states

    monkeypatch.setattr("egg.compute.get_backend", lambda *_, **__: Wrong())
    status, out, err = egg("bench", *SMALL, "--only", "perturbation")
    assert status == 2 and not out
    assert "egg: backend wrong: members of rank 4 differ from the reference at 16/1" in err
