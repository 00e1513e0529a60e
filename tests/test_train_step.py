"""A step of training as one native call: PyTorch's losses and statistics, equal bits, dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.scalars import FUNCTIONS
from cnncc.ir.types import TensorType
from cnncc.passes.training import parameters
from cnncc.train.losses import SoftmaxCrossEntropy
from cnncc.train.optimizers import SGD, Adam
from cnncc.train.step import Step

Weights = Mapping[str, torch.Tensor]
BATCH = 8


class Net(Builder):
    """Layers by name; weights are He's."""

    def __init__(self, *shape: int) -> None:
        super().__init__("net")
        self.rng = np.random.default_rng(0)
        self.input("x", TensorType("f32", ("N", *shape)))

    def weight(self, name: str, *shape: int) -> str:
        fan = int(np.prod(shape[1:]))
        return self.const(name, (self.rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32))

    def conv(self, x: str, name: str, out: int, k: int, stride: int = 1, group: int = 1) -> str:
        w = self.weight(f"{name}.w", out, int(self.type(x).shape[1]) // group, k, k)
        return self.op("conv", [x, w], name, strides=(stride,) * 2, dilations=(1, 1), begin=(k // 2,) * 2,
                       end=(k // 2,) * 2, group=group)

    def norm(self, x: str, name: str) -> str:
        c = int(self.type(x).shape[1])
        vectors = [self.const(f"{name}.{v}", np.full(c, start, np.float32)) for v, start in
                   (("weight", 1), ("bias", 0), ("mean", 0), ("var", 1))]
        return self.op("batch_norm", [x, *vectors], name, epsilon=1e-5, momentum=0.9)

    def relu(self, x: str) -> str:
        return self.op("relu", [x], f"{x}.relu")

    def pool(self, x: str) -> str:
        return self.op("max_pool", [x], f"{x}.pool", kernel=(2, 2), strides=(2, 2), dilations=(1, 1),
                       begin=(0, 0), end=(0, 0))

    def head(self, x: str, classes: int = 10) -> Graph:
        x = self.op("reduce_mean", [x], "gap", axes=(2, 3), keepdims=False)
        x = self.op("linear", [x, self.weight("fc.w", classes, int(self.type(x).shape[1]))], "fc")
        x = self.op("add", [x, self.const("fc.b", np.zeros(classes, np.float32))], "logits")
        return self.graph([("y", x)])


def lenet() -> Graph:
    b = Net(1, 16, 16)
    x = b.pool(b.relu(b.conv("x", "a", 6, 5)))
    return b.head(b.relu(b.conv(x, "b", 16, 5)))


def torch_lenet(x: torch.Tensor, w: Weights) -> torch.Tensor:
    x = F.max_pool2d(F.relu(F.conv2d(x, w["a.w"], padding=2)), 2)
    x = F.relu(F.conv2d(x, w["b.w"], padding=2)).mean((2, 3))
    return F.linear(x, w["fc.w"], w["fc.b"])


def resnet() -> Graph:
    b = Net(3, 12, 12)
    first = b.relu(b.norm(b.conv("x", "a", 16, 3), "na"))
    x = b.relu(b.norm(b.conv(first, "b", 24, 3, stride=2), "nb"))
    x = b.norm(b.conv(x, "c", 24, 3), "nc")
    other = b.norm(b.conv(first, "d", 24, 1, stride=2), "nd")
    return b.head(b.relu(b.op("add", [x, other], "sum")))


def torch_norm(x: torch.Tensor, w: Weights, name: str) -> torch.Tensor:
    return F.batch_norm(x, w[f"{name}.mean"], w[f"{name}.var"], w[f"{name}.weight"], w[f"{name}.bias"], True)


def torch_resnet(x: torch.Tensor, w: Weights) -> torch.Tensor:
    first = F.relu(torch_norm(F.conv2d(x, w["a.w"], padding=1), w, "na"))
    x = F.relu(torch_norm(F.conv2d(first, w["b.w"], padding=1, stride=2), w, "nb"))
    x = torch_norm(F.conv2d(x, w["c.w"], padding=1), w, "nc")
    other = torch_norm(F.conv2d(first, w["d.w"], stride=2), w, "nd")
    return F.linear(F.relu(x + other).mean((2, 3)), w["fc.w"], w["fc.b"])


def mobile() -> Graph:
    b = Net(3, 12, 12)
    x = b.conv("x", "a", 24, 1)
    for name, stride in (("b", 2), ("c", 1)):
        x = b.norm(b.conv(x, name, 24, 3, stride, 24), f"n{name}")
        x = b.op("clip", [x], f"{name}.clip", low=0.0, high=6.0)
    return b.head(b.norm(b.conv(x, "d", 12, 1), "nd"))


def torch_mobile(x: torch.Tensor, w: Weights) -> torch.Tensor:
    x = F.conv2d(x, w["a.w"])
    for name, stride in (("b", 2), ("c", 1)):
        x = F.conv2d(x, w[f"{name}.w"], padding=1, stride=stride, groups=24)
        x = F.relu6(torch_norm(x, w, f"n{name}"))
    x = torch_norm(F.conv2d(x, w["d.w"]), w, "nd")
    return F.linear(x.mean((2, 3)), w["fc.w"], w["fc.b"])


NETS: dict[str, tuple[Callable[[], Graph], Callable[[torch.Tensor, Weights], torch.Tensor]]] = {
    "lenet": (lenet, torch_lenet), "resnet": (resnet, torch_resnet), "mobile": (mobile, torch_mobile)}


def batches(graph: Graph, count: int, seed: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shape = [int(e) for e in graph["x"].type.shape[1:]]
    return [(rng.standard_normal((BATCH, *shape)).astype(np.float32), rng.integers(0, 10, BATCH))
            for _ in range(count)]


def step_of(graph: Graph, threads: int = 1, **how: object) -> Step:
    made: Step = Step(graph, SoftmaxCrossEntropy(), SGD(lr=0.01, momentum=0.9), batch=BATCH, threads=threads,
                      **how)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("name", NETS)
def test_steps_follow_pytorch(name: str) -> None:
    graph, net = NETS[name][0](), NETS[name][1]
    step = step_of(graph)
    weights = {n: torch.tensor(a) for n, a in graph.constants.items()}
    learned = [weights[n].requires_grad_() for n in parameters(graph)]
    optimizer = torch.optim.SGD(learned, lr=0.01, momentum=0.9)
    for x, y in batches(graph, 20):
        loss, _ = step(x, y, 0.01)
        optimizer.zero_grad()
        expected = F.cross_entropy(net(torch.tensor(x), weights), torch.tensor(y))
        expected.backward()
        optimizer.step()
        assert abs(loss - expected.item()) <= 1e-4 * abs(expected.item())
    for n, w in weights.items():
        np.testing.assert_allclose(step.state[f"w:{n}"], w.detach().numpy(), rtol=2e-3, atol=2e-4, err_msg=n)


def test_bits_do_not_depend_on_the_threads() -> None:
    graph, states = resnet(), []
    step = step_of(graph)
    first = step.state
    for threads in (1, 2, 3, 4):
        step.state, step.model.threads = first, threads
        losses = [step(x, y, 0.05)[0] for x, y in batches(graph, 10)]
        states.append({**step.state, "losses": np.array(losses)})
    for other in states[1:]:
        assert all(np.array_equal(a, other[n]) for n, a in states[0].items())


def test_a_state_put_back_goes_on_with_the_same_bits() -> None:
    graph = resnet()
    step, other = (step_of(graph) for _ in range(2))
    first, second = batches(graph, 3), batches(graph, 3, seed=2)
    for x, y in first:
        step(x, y, 0.05)
    other.state = step.state
    assert [step(x, y, 0.05)[0] for x, y in second] == [other(x, y, 0.05)[0] for x, y in second]
    assert step.state["step"] == 6


def dropping(ratio: float = 0.25) -> Graph:
    b = Net(4, 8, 8)
    return b.head(b.op("dropout", [b.conv("x", "a", 16, 3)], "drop", ratio=ratio))


def test_dropout_follows_from_seed_step_and_place() -> None:
    graph = dropping()
    x, y = batches(graph, 1)[0]
    losses = [[step(x, y, 0.0)[0] for _ in range(3)] for step in
              (step_of(graph, seed=5), step_of(graph, seed=5), step_of(graph, seed=6 << 32))]
    assert losses[0] == losses[1] and len({*losses[0], *losses[2]}) == 6


def test_gradients_are_those_of_what_is_kept() -> None:
    """The reference draws the same numbers: state and loss agree with the reference's step."""
    graph = dropping(0.5)
    step = step_of(graph, seed=3)
    x, y = batches(graph, 1)[0]
    made, before = step.graph, step.model.state
    feeds = {**before, "x": x, "train.target": y, "train.rate": np.float32(0.1),
             "train.seed.low": np.int32(3), "train.seed.high": np.int32(0)}
    exact = evaluate(made, feeds, np.float64, [made.outputs[0][1], *(v for _, v in made.state)])
    loss, _ = step(x, y, 0.1)
    assert abs(loss - exact[made.outputs[0][1]]) < 1e-5
    for name, value in made.state:
        np.testing.assert_allclose(step.model.state[name], exact[value], rtol=1e-4, atol=1e-6)


def test_random_numbers_are_philox() -> None:
    """Known answers of the authors' library: Random123's kat_vectors, philox4x32 with 10 rounds."""
    random = FUNCTIONS["random"].numpy
    digits_of_pi = (0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0)
    for words, first in (((0,) * 6, 0x6627e8d5), ((0xffffffff,) * 6, 0x408f276d), (digits_of_pi, 0xd16cfe09)):
        found = random(*(np.array(w, np.uint32).view(np.int32) for w in words))
        assert float(found) == (first >> 8) * 2.0 ** -24


def test_what_is_frozen_stays() -> None:
    graph = resnet()
    step = step_of(graph, frozen=["a.w", "na.mean", "na.var"])
    for x, y in batches(graph, 2):
        step(x, y, 0.1)
    assert not {"w:a.w", "w:na.mean"} & {*step.state}
    assert "w:na.weight" in step.state and "w:nb.mean" in step.state


def test_constants_of_other_meaning_are_not_learned() -> None:
    b = Net(4, 8, 8)
    x = b.op("mul", ["x", b.const("scale", np.full((4, 1, 1), 0.5, np.float32))], "scaled")
    x = b.op("mul", [b.conv(x, "a", 8, 3), b.const("half", np.full((1,), 0.5, np.float32))], "half")
    x = b.op("add", [x, b.const("bias", np.zeros((8, 1, 1), np.float32))], "biased")
    assert parameters(b.head(x)) == ("a.w", "bias", "fc.w", "fc.b")


def test_nothing_to_learn() -> None:
    graph = lenet()
    with pytest.raises(ModelError, match="nothing to learn"):
        step_of(graph, frozen=parameters(graph))


def test_unknown_states() -> None:
    step = step_of(lenet())
    with pytest.raises(InputError, match="net has no state 'w:c'"):
        step.state = {"w:c": np.zeros(1, np.float32)}


def test_other_optimizers_keep_their_slots() -> None:
    graph = lenet()
    step = Step(graph, SoftmaxCrossEntropy(), Adam(lr=1e-3), batch=BATCH)
    for x, y in batches(graph, 3):
        step(x, y, 1e-3)
    assert {"w:a.w", "a.w/mean", "a.w/square", "step"} <= {*step.state}
