"""Backpropagation through egg's own integers: what its estimator would learn if it left nothing out.

    pip install torch                                    # no dependency of egg
    python docs/experiments/straight_through.py --check  # its forward pass equals egg's, integer for integer
    python docs/experiments/straight_through.py --tokens 1e6 [--rule adam --lr 0.3]

The model is that of docs/arithmetic.md, floors, clips and int8 weights, in float32, which holds every sum exactly up to
hidden size 256. A floor and a weight's rounding pass the gradient, a clip passes it where nothing is cut off. Rule
`row` is recipe egg's: a row's gradient over the root of its running mean square. Steps fall linearly to a twentieth.

Bits per byte of stdlib's validation split (CPython 3.11.7) at 64/2 after as many M tokens, seed 1, one horizon a row:

    horizon rule, streams, length, lr | 0.125 0.25  0.5   1     1.5   2     3     4      CPU seconds
    0.2M    row, 16, 16, 0.7          | 2.460 at the end                                 16
    0.3M    row, 16, 16, 0.7          | 2.354 at the end                                 23
    0.5M    row, 16, 16, 0.6          | 2.747 2.491 2.244                                38
    0.62M   row, 16, 16, 0.6          | 2.199 at the end                                 48
    1M      row, 16, 16, 0.5          | 2.724 2.518 2.317 2.102                          77
    1M      adam, 16, 16, 0.7         | 2.130 at the end                                 70
    4M      row, 32, 16, 0.5          | 2.788 2.530 2.394 2.235 2.152 2.077 1.983 1.903  189

So 2.6 is passed before 0.2M tokens, 2.4 before 0.3M, and 2.2 is met at 0.62M. The seconds are those of an emulation.
Tried at 0.25M, when the last norm's gains began at 48 and the window was 64 steps (streams of 16 bytes, lr): row, 32:
2.539 at 0.4, 2.438 at 0.7, 2.446 at 1; 16: 2.503 at 0.3, 2.410 at 0.6; 8: 2.423 at 0.4. Adam, 32: 2.691 at 0.25, 2.493
at 0.7; 16: 2.443 at 0.7.
"""

import math
import tempfile
from pathlib import Path

import numpy as np
from backprop import LANES, TURNS, Streams, bits_per_byte, functional, nn, options_of, splits, torch, train

import egg
from egg.kernels import Shape
from egg.kernels.arithmetic import LIMIT, SIXTEENTHS, WINDOW, product_shift
from egg.model import checkpoint
from egg.model.parameters import initial_weights

BIT = math.log(2) / SIXTEENTHS  # nats in a logit's unit
LAST_STEP = 0.05


class Floor(torch.autograd.Function):
    """v rounded down; the gradient passes."""

    @staticmethod
    def forward(ctx, v):
        """v, of any shape."""
        return v.floor()

    @staticmethod
    def backward(ctx, gradient):
        """As it came."""
        return gradient


def floor(v):
    """v rounded down."""
    return Floor.apply(v)


def clip8(v):
    """Limited to [-127, 127]; the gradient passes within."""
    return v.clamp(-LIMIT, LIMIT)


def product(x, w):
    """clip8((W . x) >> shift): the sum is exact in float32 for 1,024 inputs or fewer."""
    return clip8(floor(functional.linear(x, w) / 2 ** product_shift(w.shape[1])))


def norm(x, gain):
    """clip8((x * g) // max(1, sum|x| // D))."""
    mean = floor(x.abs().mean(-1, keepdim=True)).clamp(min=1)
    return clip8(floor(x * gain / mean))


class Model(nn.Module):
    """Float32 masters of a model's tensors, read as int8.

    weights : (parameters,) int8 to begin with
    """

    def __init__(self, shape, weights):
        super().__init__()
        self.layers = shape.num_layers
        self.masters = nn.ParameterDict(
            {
                name.replace(".", "_"): torch.from_numpy(view.astype(np.float32))
                for name, view in shape.views(weights).items()
            }
        )

    def logits(self, tokens, states):
        """Tokens (T, B) int64, states (L, B, D) -> logits (T, B, 256) in sixteenths of a bit, states after."""
        w = {name: floor(master + 0.5) for name, master in self.masters.items()}
        x, after = functional.embedding(tokens, w["embedding_weight"]), []
        keep = (tokens != 0)[..., None].float()
        for i, h in enumerate(states.unbind()):
            ln1, ln2 = (w[f"layers_{i}_{n}_weight"] for n in ("ln1", "ln2"))
            w_f, u_f, b_f, w_h, u_h, b_h = (
                w[f"layers_{i}_gru_{n}"] for n in ("w_f", "u_f", "b_f", "w_h", "u_h", "b_h")
            )
            up, down = (w[f"layers_{i}_mlp_{n}"] for n in ("w_up", "w_down"))
            u, states_out = norm(x, ln1), []
            # The bias may be added first: three integers, one clip.
            f_in, c_in = product(u, w_f) + b_f, product(u, w_h) + b_h
            for f, c, k in zip(f_in.unbind(), c_in.unbind(), keep.unbind(), strict=True):
                h = h * k
                gate = clip8(f + product(h, u_f)) + LIMIT
                past = floor(gate * h / 256)
                h = h + floor(gate * (clip8(c + product(past, u_h)) - h) / 256)
                states_out.append(h)
            after.append(h)
            x = clip8(x + torch.stack(states_out))
            x = clip8(x + product(product(norm(x, ln2), up), down))
        return product(norm(x, w["ln_out_weight"]), w["head_weight"]), torch.stack(after)

    def forward(self, tokens, states):
        """The same with logits in nats."""
        logits, states = self.logits(tokens, states)
        return logits * BIT, states


class Rows:
    """Recipe egg's step: a row over the root of its running mean square."""

    def __init__(self, masters):
        self.masters, self.steps = masters, 0
        self.squares = [torch.zeros(1) for _ in masters]

    @torch.no_grad()
    def step(self, lr):
        """lr : in int8 steps"""
        self.steps += 1
        share = 1 / min(WINDOW, self.steps)
        for i, master in enumerate(self.masters):
            mean = master.grad.square().mean(-1, keepdim=True)
            self.squares[i] = self.squares[i] + share * (mean - self.squares[i])
            master -= lr * master.grad / (self.squares[i].sqrt() + 1e-20)


class Adam:
    """Adam with steps in int8 steps."""

    def __init__(self, masters):
        self.adam = torch.optim.Adam(masters, betas=(0.9, 0.99), eps=1e-10, fused=True)

    def step(self, lr):
        """lr : in int8 steps"""
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()


def check():
    """Random models, some of whose weights and sums are at their limits, against egg.load(...).logits."""
    rng = np.random.default_rng(0)
    for size, layers, scale in ((16, 3, 16), (64, 2, 16), (64, 2, 60), (256, 1, 30)):
        shape = Shape(size, layers)
        drawn = np.round(rng.normal(size=shape.parameters) * scale)
        weights = np.clip(drawn, -LIMIT, LIMIT).astype(np.int8)
        text = rng.integers(0, 256, 300).astype(np.uint8)
        text[::50] = 0
        with tempfile.TemporaryDirectory() as folder:
            config = {"model": {"hidden_size": size, "num_layers": layers, "vocab_size": 256}}
            checkpoint.write_model(Path(folder), config, shape, weights)
            expected = egg.load(folder, backend="numpy").logits(text)
        with torch.no_grad():
            tokens = torch.from_numpy(text.astype(np.int64))[:, None]
            logits, _ = Model(shape, weights).logits(tokens, torch.zeros(layers, 1, size))
        if not np.array_equal(logits[:, 0].numpy(), expected):
            raise SystemExit(f"{size}/{layers}: logits differ from egg's")
        print(f"{size}/{layers}, weights of {scale}: {expected.size} logits equal egg's", flush=True)


def main():
    """Train, and print a line of JSON at every point and at the end."""
    parser = options_of(__doc__.splitlines()[0])
    parser.set_defaults(streams=32, length=16, lr=0.4)
    parser.add_argument("--rule", choices=("row", "adam"), default="row")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        return check()
    if options.threads:
        torch.set_num_threads(options.threads)
    text, validation = splits(options.data)
    shape = Shape(options.hidden_size, options.num_layers)
    model = Model(shape, initial_weights(shape, options.seed, "egg"))
    steps = max(2, int(options.tokens) // (options.streams * options.length))
    masters = list(model.parameters())
    rule = (Adam if options.rule == "adam" else Rows)(masters)

    def update(step, inputs, targets, states):
        logits, states = model(inputs, states)
        model.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        rule.step(options.lr * (1 - (1 - LAST_STEP) * step / steps))
        with torch.no_grad():
            for master in masters:
                master.clamp_(-LIMIT, LIMIT)
        return states.detach()

    def zeros(count):
        return torch.zeros(options.num_layers, count, options.hidden_size)

    turns = (options.turns or TURNS) // options.streams * options.streams
    streams = Streams(text, turns, zeros(turns), options.seed)
    train(options, update, steps, streams, lambda: bits_per_byte(model, zeros(LANES), validation))
    return None


if __name__ == "__main__":
    main()
