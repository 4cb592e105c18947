"""Properties that hold for whatever comes: tokens, streams, checkpoints, readers, command lines."""

import json

import numpy as np
import pytest
from conftest import forge
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from egg.config import EvolutionConfig
from egg.data import DataError, open_corpus, read_chunks
from egg.data.source import Contents, Source
from egg.data.tokens import prepare
from egg.errors import EggError
from egg.evolution.branches import BranchEvolution
from egg.kernels import Shape
from egg.model import checkpoint
from egg.model.state import Form, check_state
from egg.ranks.distributed import Ranks
from egg.run.trainer import Trainer

# The fixtures give folders and caches, which examples may share.
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPE = Shape(16, 1)


class Cut(Exception):
    """An interruption."""


@FEW
@given(
    documents=st.lists(st.lists(st.binary(max_size=40), max_size=4), min_size=1, max_size=12), cut=st.integers(0, 12)
)
def test_tokens_are_the_documents_each_after_a_nul(tmp_path_factory, documents, cut):
    left = [b"".join(blocks).replace(b"\0", b"") for blocks in documents]
    folder = tmp_path_factory.mktemp("tokens") / "corpus"

    def source(stop: int | None):
        def read(skip: int):
            for number, blocks in enumerate(documents[skip:], skip):
                if number == stop:
                    raise Cut
                yield iter(blocks)

        return Source("some", "some", {"kind": "test"}, lambda: Contents({"all": read}))

    quiet = {"progress": False, "notify": lambda line: None}
    if cut < len(documents):
        with pytest.raises(Cut):
            prepare(source(cut), folder, **quiet)
    if not any(left):
        with pytest.raises(DataError, match="no text"):
            prepare(source(None), folder, **quiet)
        return
    prepare(source(None), folder, **quiet)
    assert (folder / "all.bin").read_bytes() == b"".join(b"\0" + d for d in left if d)
    figures = json.loads((folder / "manifest.json").read_bytes())["splits"]["all"]
    assert figures["documents"] == sum(map(bool, left))
    assert figures["nuls_removed"] == sum(b"".join(d).count(b"\0") for d in documents)


@FEW
@given(
    tokens=st.binary(min_size=1, max_size=50),
    starts=st.lists(st.integers(-(2**62), 2**62), max_size=6),
    length=st.integers(0, 120),
)
def test_streams_read_on_and_wrap_round(tokens, starts, length):
    read = read_chunks(np.frombuffer(tokens, np.uint8), np.array(starts, np.int64), length)
    expected = [[tokens[(start + i) % len(tokens)] for i in range(length)] for start in starts]
    assert read.tolist() == expected


@FEW
@given(items=st.integers(0, 2**40), size=st.integers(1, 5000))
def test_ranks_share_everything_once_and_evenly(items, size):
    end = 0
    for rank in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
        ranks = object.__new__(Ranks)
        ranks.rank, ranks.size = rank, size
        share = ranks.share(items)
        assert items // size <= share.stop - share.start <= -(-items // size)
        ranks.rank = rank + 1
        assert rank + 1 == size or ranks.share(items).start == share.stop
        end = max(end, share.stop)
    assert end == items


@FEW
@given(
    step=st.integers(1, 2**31),
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["config.json", "model.safetensors", "state.safetensors"]),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_checkpoint_is_read_back_and_any_change_is_found(tmp_path_factory, step, seed, name, at, bit):
    run = tmp_path_factory.mktemp("run")
    drawn = np.random.default_rng(seed)
    weights = drawn.integers(-127, 128, SHAPE.parameters).astype(np.int8)
    state = {
        "step": np.array([step]),
        "states": drawn.integers(-127, 128, (3, 1, 16)).astype(np.int8),
        "master": drawn.integers(-32512, 32513, SHAPE.parameters).astype(np.int32),
    }
    layout = {key: Form(array.shape, array.dtype, 0, 0) for key, array in state.items()}
    folder = checkpoint.save_checkpoint(run, step, {"a": seed}, SHAPE, weights, state)
    assert checkpoint.newest_complete(run) == (folder, [])
    assert checkpoint.read_config(folder) == {"a": seed}
    np.testing.assert_array_equal(checkpoint.read_weights(folder, SHAPE), weights)
    read = checkpoint.read_state(folder, layout)
    for key, array in state.items():
        np.testing.assert_array_equal(read[key], array, strict=True)
    content = bytearray((folder / name).read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    assert name in checkpoint.damage_of(folder)
    forge(folder)  # with a manifest to match it is still read without harm
    for call in (
        lambda: checkpoint.read_config(folder),
        lambda: checkpoint.read_weights(folder, SHAPE),
        lambda: checkpoint.read_state(folder, layout),
    ):
        try:
            call()
        except EggError as error:
            assert "\n" not in str(error)


@FEW
@given(
    step=st.integers(-(2**63), 2**63 - 1),
    state=st.integers(-128, 127),
    master=st.integers(-(2**31), 2**31 - 1),
    square=st.integers(-(2**63), 2**63 - 1),
    shift=st.integers(-(2**63), 2**63 - 1),
)
@example(step=0, state=-127, master=127 << 16, square=0, shift=31)
@example(step=2**32 - 1, state=127, master=-127 << 16, square=1 << 50, shift=0)
@example(step=0, state=0, master=0, square=(1 << 50) + 1, shift=0)
@example(step=0, state=0, master=0, square=0, shift=32)
def test_a_state_is_taken_where_training_can_have_left_it(step, state, master, square, shift):
    layout = BranchEvolution.state_layout(SHAPE, EvolutionConfig(), 100)
    parts = {name: np.zeros(form.shape, form.dtype) for name, form in layout.items()}
    parts["step"][0], parts["squares"][7], parts["shifts"][2] = step, square, shift
    parts["states"].flat[3], parts["master"].flat[5] = state, master
    possible = 0 <= step < 2**32 and state >= -127 and abs(master) <= 127 << 16
    possible = possible and 0 <= square <= 1 << 50 and 0 <= shift <= 31
    try:
        check_state(parts, layout)
        assert possible
    except EggError:
        assert not possible


@FEW
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda text: json.dumps({"text": text}).encode()),
        st.binary(max_size=60).map(lambda raw: b'{"text": "' + raw + b'"}'),
    ),
    suffix=st.sampled_from([".txt", ".jsonl", ".parquet", ".gz", ".zst", ".jsonl.gz", ".jsonl.zst"]),
)
@example(content=b"[" * 200_000, suffix=".jsonl")
@example(content=b'{"text": "\\ud800 \xff"}', suffix=".jsonl")
@example(content=b"\xff\xfe\0\0\xc3", suffix=".txt")
def test_a_file_is_read_or_refused_in_one_line(tmp_path_factory, content, suffix):
    folder = tmp_path_factory.mktemp("file")
    (folder / f"some{suffix}").write_bytes(content)
    try:
        corpus = open_corpus(str(folder / f"some{suffix}"), cache=folder / "cache")
    except DataError as error:
        assert "\n" not in str(error).strip()
        return
    prepared = corpus.split("all").tobytes()
    assert prepared.startswith(b"\0") and corpus.bytes("all") == len(prepared) - corpus.documents("all")
    if suffix == ".txt":
        assert prepared == b"\0" + content.replace(b"\0", b"")


FLAGS = (
    "steps minutes tokens member-tokens population-size streams branches credit stations seq-len hidden-size "
    "num-layers seed sigma-shift step-size schedule schedule-tokens final-step-share recipe log-every preset keep "
    "eval-every eval-bytes checkpoint-every data-column threads backend resume config none-such"
).split()
NUMBERS = st.one_of(
    st.integers(-3, 300).map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from("0 1 16 64 1e9 10M 1e999999999 0x10 1_6 ½ ٣ none all time egg paper nano stations past".split()),
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=8),
)


@FEW
@given(
    command=st.sampled_from(["train", "train", "train", "eval", "sample", "nothing"]),
    flags=st.lists(st.tuples(st.sampled_from(FLAGS), NUMBERS, st.booleans()), min_size=1, max_size=4),
)
def test_any_command_line_is_heeded_or_refused_in_one_line(egg, tables, tmp_path, monkeypatch, command, flags):
    monkeypatch.setattr(Trainer, "finished", property(lambda self: True))
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", tables, "--backend", "numpy", "--out", tmp_path / "run"]
    for name, value, joined in flags:
        arguments += [f"--{name}={value}"] if joined else [f"--{name}", value]
    status, _, err = egg(command, *(arguments if command == "train" else arguments[6:]))
    assert status in (0, 2)
    assert len([line for line in err.splitlines() if line.startswith("egg: ")]) == (status == 2)
    assert "Traceback" not in err and not (tmp_path / "run").exists()
