"""The plugin of lm-evaluation-harness: tasks on local files, and the same figures as egg eval."""

import json
import math
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from egg.errors import EggError
from egg.model.sample import Sampling

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'egg-lm[lm-eval]'")

DOCUMENTS = [
    "def main():\n    return 1\n",
    "Grüße, Welt!  And more text\n\nhere",
    " leading and trailing ",
    "x",
    "the quick brown fox jumps over the lazy dog. " * 20,
]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(train, tmp_path):
    train("--steps", 9, "--out", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of tasks on a local file: one of each kind of request."""
    for name in ("HF_DATASETS_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "tasks"
    folder.mkdir()
    lines = [
        {"text": text, "question": text[:9], "choices": ["one", " two", "grüße"], "answer": i % 3}
        for i, text in enumerate(DOCUMENTS)
    ]
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {path}\ntest_split: test\n"
    for name, rest in {
        "rolling": (
            'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
            "metric_list:\n"
            + "".join(f"  - metric: {m}\n" for m in ("word_perplexity", "byte_perplexity", "bits_per_byte"))
        ),
        "choice": (
            'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\n'
            'doc_to_target: answer\ntarget_delimiter: ""\nmetric_list:\n  - metric: acc\n'
        ),
        "generate": (
            'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{text}}"\n'
            'generation_kwargs:\n  until: ["e"]\n  max_gen_toks: 20\n'
            "metric_list:\n  - metric: exact_match\n"
        ),
    }.items():
        (folder / f"{name}.yaml").write_text(f"task: egg_{name}\n{common}{rest}", encoding="utf-8")
    return folder


@pytest.fixture
def model(run):
    from egg.export.lm_eval import EggLM

    return EggLM(str(run), backend="numpy")


def evaluated(model, tasks, name: str) -> dict:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(model=model, tasks=[f"egg_{name}"], task_manager=manager, bootstrap_iters=0)


def test_bits_per_byte_are_those_of_egg_eval(model, run, tasks, egg):
    results = evaluated(model, tasks, "rolling")["results"]["egg_rolling"]
    path = tasks / "documents.jsonl"
    ours = json.loads(egg("eval", run, "--data", path, "--json", "--backend", "numpy")[1])
    assert ours["documents"] == len(DOCUMENTS)
    for name in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
        assert results[f"{name},none"] == pytest.approx(ours[name], rel=1e-11), name


def test_choices_are_scored_after_their_context(model, tasks):
    samples = evaluated(model, tasks, "choice")["samples"]["egg_choice"]
    assert len(samples) == len(DOCUMENTS)
    for sample in samples:
        begin = sample["doc"]["question"].encode()
        for choice, ((found, greedy),) in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            bits = exact(model.model, begin, choice.encode())
            assert float(found) == pytest.approx(-bits * math.log(2), rel=1e-9)
            assert greedy in (False, "False")


def exact(model, begin: bytes, end: bytes) -> float:
    import numpy as np

    from egg.model.evaluate import surprises

    tokens = np.frombuffer(b"\0" + begin + end, np.uint8)
    return surprises(model.logits(tokens[:-1])[len(begin) :], tokens[1 + len(begin) :]).sum()


def test_what_is_generated_is_the_greedy_sample(model, tasks):
    samples = evaluated(model, tasks, "generate")["samples"]["egg_generate"]
    assert len(samples) == len(DOCUMENTS)
    for sample in samples:
        (text,) = model.model.generate(sample["doc"]["question"], 20, temperature=0)
        expected = text.partition(b"e")[0].decode(errors="replace")
        assert sample["resps"] == [[expected]]


def test_how_a_task_asks_for_bytes(model):
    settings = model._settings
    assert settings({}) == Sampling(256, 0.0)
    asked = {"until": "\n", "max_new_tokens": 5, "do_sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.9}
    assert settings(asked) == Sampling(5, 0.7, top_k=3, top_p=0.9, stop=(b"\n",))
    assert settings({"until": ["ü", ""], "do_sample": False, "temperature": 0.7}) == Sampling(256, 0.0, stop=("ü",))


def test_an_adapter_beside_the_model(run, tasks, egg, tmp_path):
    from egg.export.lm_eval import EggLM

    path = tasks / "documents.jsonl"
    flags = ["--data", path, "--tokens", "20k", "--step-size", 8, "--backend", "numpy", "--out", tmp_path / "adapter"]
    assert egg("adapt", run, *flags, "--validation-share", 0)[0] == 0  # egg eval measures all of it then
    model = EggLM(str(run), backend="numpy", adapter=str(tmp_path / "adapter"))
    found = evaluated(model, tasks, "rolling")["results"]["egg_rolling"]["bits_per_byte,none"]
    flags = ["--data", path, "--json", "--backend", "numpy"]
    base, adapted = (
        json.loads(egg("eval", run, *flags, *more)[1])["bits_per_byte"]
        for more in ([], ["--adapter", tmp_path / "adapter"])
    )
    assert found == pytest.approx(adapted, rel=1e-11) != base


@pytest.mark.parametrize("arguments", [{}, {"path": "a", "pretrained": "b"}])
def test_one_name_for_the_model(arguments):
    from egg.export.lm_eval import EggLM

    with pytest.raises(EggError, match="pretrained=CKPT or path=CKPT"):
        EggLM(**arguments)


def test_the_entry_point_names_the_model():
    from egg.export.lm_eval import EggLM

    found = entry_points(group="lm_eval.models", name="egg")
    if not found:
        pytest.skip("egg is not installed: pip install -e .")
    assert {e.load() for e in found} == {EggLM}


def lm_eval(*arguments) -> subprocess.CompletedProcess:
    """Runs ``egg lm-eval ARGUMENTS`` in a process of its own: the harness keeps the streams that it logs to."""
    code = "from egg.cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "lm-eval", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("name", ["pretrained", "path"])
def test_the_command_line(run, tasks, egg, tmp_path, name):
    done = lm_eval(
        *("run", "--model", "egg", "--model_args", f"{name}={run},backend=numpy"),
        *("--tasks", "egg_rolling", "--include_path", tasks, "--output_path", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]["egg_rolling"]
    text = tasks / "documents.jsonl"
    ours = json.loads(egg("eval", run, "--data", text, "--json", "--backend", "numpy")[1])
    assert results["bits_per_byte,none"] == pytest.approx(ours["bits_per_byte"], rel=1e-11)
    assert "bits_per_byte" in done.stdout


def test_help_and_exit_status_are_the_harness_s():
    done = lm_eval("--help")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: lm-eval")
    done = lm_eval("no-such-command")
    assert (done.returncode, done.stdout) == (2, "") and "no-such-command" in done.stderr
