"""The model ``egg`` of lm-evaluation-harness: ``egg lm-eval run --model egg --model_args pretrained=CKPT --tasks ...``.

The model reads texts as UTF-8; a token is a byte. Every text begins a document, after a NUL, as in ``egg eval``, so
that equal texts have equal bits per byte.
"""

import math
from collections import defaultdict

from lm_eval.api.model import LM
from tqdm import tqdm

from egg.errors import EggError
from egg.model.continuations import continuations
from egg.model.endings import score_endings
from egg.model.network import load
from egg.model.sample import Sampling

GENERATED = 256  # largest number of bytes to generate, where a task sets none
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class EggLM(LM):
    """A trained model behind the interface of lm-evaluation-harness."""

    def __init__(
        self,
        path: str | None = None,
        backend: str = "auto",
        threads: int | None = None,
        seed: int = 0,
        max_gen_toks: int = GENERATED,
        batch_size=None,
        max_batch_size=None,
        device=None,
        pretrained: str | None = None,
        adapter: str | None = None,
    ) -> None:
        """Load a model.

        path : a run, RUN/best, a checkpoint, a folder with a model, OWNER/NAME on the Hub, or pretrained
        pretrained : the same, under the name that the harness's own models use; exactly one of the two is given
        adapter : adapter.safetensors of ``egg adapt``, or its folder
        backend, threads : as for ``egg.load``; results do not depend on them
        seed : seed of the draws, where a task asks for sampling
        max_gen_toks : largest number of bytes to generate, where a task sets none
        batch_size, max_batch_size, device : accepted and ignored
        Raises EggError unless exactly one of path and pretrained is given, and for what ``egg.load`` cannot read.
        """
        super().__init__()
        if (path is None) == (pretrained is None):
            raise EggError("the model egg: give either pretrained=CKPT or path=CKPT in --model_args")
        name = path if pretrained is None else pretrained
        self.model = load(str(name), backend, None if threads is None else int(threads), adapter=adapter)
        self.seed, self.max_gen_toks = int(seed), int(max_gen_toks)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name, as it appears in names of caches."""
        return "utf-8-bytes"

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The natural logarithm of the probability of each continuation, and whether it is the greedy one."""
        texts = [(_bytes(context), _bytes(end)) for context, end in (r.args for r in requests)]
        results = [(-e.bits * math.log(2), e.greedy) for e in self._endings(texts, disable_tqdm)]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """The natural logarithm of the probability of each text, read whole: no window."""
        texts = [(b"", _bytes(request.args[0])) for request in requests]
        results = [-e.bits * math.log(2) for e in self._endings(texts, disable_tqdm)]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return results

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context, up to a stop, a length, or the end of the document."""
        groups, results = defaultdict(list), [""] * len(requests)
        for i, request in enumerate(requests):
            groups[self._settings(request.args[1])].append(i)
        with tqdm(total=len(requests), desc="egg: generating", disable=disable_tqdm) as bar:
            for sampling, numbers in groups.items():
                contexts = [_bytes(requests[i].args[0]) for i in numbers]
                texts = continuations(self.model, contexts, sampling, done=bar.update)
                for i, text in zip(numbers, texts, strict=True):
                    results[i] = text.decode(errors="replace")
                    self.cache_hook.add_partial("generate_until", requests[i].args, results[i])
        return results

    def _endings(self, texts, disable_tqdm: bool):
        with tqdm(total=len(texts), desc="egg: reading", disable=disable_tqdm) as bar:
            return score_endings(self.model, texts, read=bar.update)

    def _settings(self, options: dict) -> Sampling:
        """A task's sampling and stops; greedy unless it sets do_sample or a temperature."""
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else until
        length = next((options[name] for name in _LENGTHS if options.get(name) is not None), None)
        temperature = float(options.get("temperature") or 0.0)
        if options.get("do_sample") is False:
            temperature = 0.0
        return Sampling(
            length=self.max_gen_toks if length is None else int(length),
            temperature=temperature,
            top_k=int(options.get("top_k") or 0),
            top_p=float(options.get("top_p") or 1.0),
            stop=tuple(_bytes(stop) for stop in until if stop),
            seed=self.seed,
        )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
