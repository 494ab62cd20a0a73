"""What a user would pick instead, and cerebsim itself, behind one interface.

Every peer gets the same `Case` and answers six calls, each with a dict of tensors that
`Case.errors` checks: granule, granule_gradient, circuit, circuit_gradient (forward and gradient to
the input), pgd (one step) and learn (`Case.steps` training steps, as in an epoch). What does not
change from call to call is made before the first one.
"""

import warnings
from functools import cache, cached_property

import torch
import torch.nn.functional as F
from cases import ALPHA, DECAY, EPS, LTD_DECAY, RATE, RMS_EPS, Case, c, d
from torch import Tensor

from cerebsim import ops
from cerebsim.config import LearningConfig

FLOAT = 4  # bytes


class Peer:
    """Forward by `h`; gradients by autograd; learning by autograd and torch.optim.RMSprop."""

    name: str
    backend = "auto"
    """With which of cerebsim's backends."""

    def __init__(self, case: Case):
        self.case = case

    @staticmethod
    def need(case: Case, operation: str) -> int:
        """Bytes beyond the inputs that an operation needs at its peak."""
        raise NotImplementedError

    @staticmethod
    def work(B: int, m: int, k: int) -> int:
        """What the time grows with, for sizes of more than one picture."""
        return B * m * k

    def h(self, x: Tensor) -> Tensor:
        """relu(J^T x), (B, m)."""
        raise NotImplementedError

    def y(self, x: Tensor) -> Tensor:
        return F.linear(self.h(x), self.case.W, self.case.bias)

    def granule(self) -> dict:
        with torch.no_grad():
            return {"h": self.h(self.case.x)}

    def granule_gradient(self) -> dict:
        x = self.case.x.detach().requires_grad_()
        h = self.h(x)
        return {"h": h, "grad_x": torch.autograd.grad(h, x, self.case.grad_h)[0]}

    def circuit(self) -> dict:
        with torch.no_grad():
            return {"y": self.y(self.case.x)}

    def circuit_gradient(self) -> dict:
        y, grad_x = self.y_and_gradient(self.case.x, lambda y: self.case.grad_y)
        return {"y": y, "grad_x": grad_x}

    def y_and_gradient(self, x: Tensor, output_gradient) -> tuple[Tensor, Tensor]:
        """y (B, c) and the gradient to x, given dL/dy as a function of y."""
        x = x.detach().requires_grad_()
        y = self.y(x)
        return y, torch.autograd.grad(y, x, output_gradient(y.detach()))[0]

    def pgd(self) -> dict:
        case = self.case
        _, gradient = self.y_and_gradient(case.start, lambda y: y - case.t)
        moved = case.start + ALPHA * gradient.sign()
        return {"x_next": moved.clamp(case.x - EPS, case.x + EPS).clamp(0, 1)}

    @cached_property
    def learned(self) -> tuple[torch.nn.Parameter, Tensor, torch.optim.Optimizer]:
        """W, mu and the optimiser, which `learn` changes."""
        W = torch.nn.Parameter(self.case.W.clone())
        rate = RATE / self.case.m
        optimiser = torch.optim.RMSprop([W], lr=rate, alpha=DECAY, eps=RMS_EPS)
        square_avg = self.case.square_avg.clone()
        optimiser.state[W] = {"step": torch.tensor(0.0), "square_avg": square_avg}
        return W, self.case.mu.clone(), optimiser

    def learn(self) -> dict:
        W, mu, optimiser = self.learned
        for x, t in self.case.batches():
            with torch.no_grad():
                z = self.h(x)
                mu.mul_(LTD_DECAY).add_(z.mean(0), alpha=1 - LTD_DECAY)
                z.sub_(mu)
            y = F.linear(z, W)
            optimiser.zero_grad()
            F.mse_loss(y, t).backward()
            optimiser.step()
        return {"y": y, "mu": mu, "W": W}


def gather(x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """h the authors' way."""
    return torch.relu((x[:, indices] * weights).sum(-1))


class Gather(Peer):
    name = "eager gather"

    @staticmethod
    def need(case, operation):
        return FLOAT * case.B * case.m * (2 * case.k + 1)

    def h(self, x):
        return gather(x, self.case.indices, self.case.weights)


class Compiled(Peer):
    """The same, compiled for each size; learning by hand, so that all of it is one graph."""

    name = "torch.compile"

    @staticmethod
    def need(case, operation):
        return FLOAT * case.B * case.m * 3

    def __init__(self, case):
        super().__init__(case)
        torch._dynamo.reset()  # forget other sizes, or it compiles for any size, and slower

    def h(self, x):
        return compiled(gather)(x, self.case.indices, self.case.weights)

    def y(self, x):
        case = self.case
        return compiled(gather_circuit)(x, case.indices, case.weights, case.W, case.bias)

    @cached_property
    def learned(self):
        case = self.case
        return case.W.clone(), case.mu.clone(), case.square_avg.clone()

    def learn(self):
        case, (W, mu, square_avg) = self.case, self.learned
        with torch.no_grad():
            for x, t in case.batches():
                y = compiled(gather_learn)(x, t, case.indices, case.weights, W, mu, square_avg)
        return {"y": y, "mu": mu, "W": W}


@cache
def compiled(function):
    return torch.compile(function, dynamic=False, fullgraph=True)


def gather_circuit(x, indices, weights, W, bias):
    return F.linear(gather(x, indices, weights), W, bias)


def gather_learn(x, t, indices, weights, W, mu, square_avg):
    h = gather(x, indices, weights)
    mu.mul_(LTD_DECAY).add_(h.mean(0), alpha=1 - LTD_DECAY)
    z = h - mu
    y = F.linear(z, W)
    dW = ((y - t) * (2 / y.numel())).T @ z
    square_avg.mul_(DECAY).addcmul_(dW, dW, value=1 - DECAY)
    W.addcdiv_(dW, square_avg.sqrt() + RMS_EPS, value=-RATE / W.shape[1])
    return y


class EmbeddingBag(Peer):
    """A mossy fibre is a word, its activity in every picture the word's vector, a cell a bag."""

    name = "embedding_bag"

    @staticmethod
    def need(case, operation):
        return FLOAT * case.m * (3 * case.B + 6 * case.k)

    def h(self, x):
        bags = F.embedding_bag(
            self.case.indices, x.T.contiguous(), per_sample_weights=self.case.weights, mode="sum"
        )
        return bags.relu_().T


class ByHand(Peer):
    """J as a sparse matrix and as its transpose, gradients by hand."""

    @staticmethod
    def need(case, operation):
        return FLOAT * case.m * (3 * case.B + 5 * case.k)

    def forward(self, xT: Tensor) -> Tensor:
        """J^T x, (m, B)."""
        raise NotImplementedError

    def backward(self, gradient: Tensor) -> Tensor:
        """J times a gradient (m, B), (d, B)."""
        raise NotImplementedError

    def h(self, x):
        return self.forward(x.T.contiguous()).relu_().T

    def granule_gradient(self):
        h = self.h(self.case.x)
        return {"h": h, "grad_x": self.backward((self.case.grad_h * (h > 0)).T.contiguous()).T}

    def y_and_gradient(self, x, output_gradient):
        h = self.h(x)
        y = F.linear(h, self.case.W, self.case.bias)
        gradient = self.case.W.T @ output_gradient(y).T
        return y, self.backward(gradient.mul_(h.T > 0)).T


class TorchCSR(ByHand):
    name = "torch CSR"

    @cached_property
    def matrices(self) -> tuple[Tensor, Tensor]:
        JT = self.case.matrix("float32")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return tuple(
                torch.sparse_csr_tensor(
                    *map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data)),
                    size=matrix.shape,
                    check_invariants=True,
                ).to(self.case.x.device)
                for matrix in (JT, JT.T.tocsr())
            )

    def forward(self, xT):
        return self.matrices[0] @ xT

    def backward(self, gradient):
        return self.matrices[1] @ gradient


class ScipyCSR(ByHand):
    """Scipy's product has one thread; the rest has torch's."""

    name = "scipy CSR"

    @cached_property
    def matrices(self) -> tuple:
        JT = self.case.matrix("float32")
        return JT, JT.T.tocsr()

    def forward(self, xT):
        return torch.from_numpy(self.matrices[0] @ xT.numpy())

    def backward(self, gradient):
        return torch.from_numpy(self.matrices[1] @ gradient.numpy())


class Dense(Peer):
    name = "dense"

    @staticmethod
    def need(case, operation):
        return FLOAT * case.m * (d + 3 * case.B)

    @staticmethod
    def work(B, m, k):
        return B * m

    @cached_property
    def matrix(self) -> Tensor:
        """J (d, m)."""
        J = torch.zeros(d, self.case.m, device=self.case.x.device)
        return J.scatter_add_(0, self.case.indices.T, self.case.weights.T)

    def h(self, x):
        return torch.relu(x @ self.matrix)


class Cerebsim(Peer):
    """The operations as `Cerebellum` calls them: a PGD step builds no graph."""

    name = "cerebsim"

    @staticmethod
    def need(case, operation):
        return FLOAT * case.m * (case.B if operation.startswith("granule") else 0)

    def h(self, x):
        return ops.granule(x, self.case.wiring)

    def y(self, x):
        return ops.circuit(x, self.case.wiring, self.case.W, self.case.mu)

    def circuit_gradient(self):
        y, grad_x = super().y_and_gradient(self.case.x, lambda y: self.case.grad_y)
        return {"y": y, "grad_x": grad_x}

    def y_and_gradient(self, x, output_gradient):
        wiring, W = self.case.wiring, self.case.W
        y, fired = ops.circuit_fired(x, wiring, W, self.case.mu)
        return y, ops.circuit_backward_x(output_gradient(y), x, wiring, W, fired)

    @cached_property
    def learned(self):
        case = self.case
        rule = ops.Rule.of(LearningConfig(), case.m, c)
        return case.W.clone(), case.mu.clone(), case.square_avg.clone(), rule

    def learn(self):
        case, (W, mu, square_avg, rule) = self.case, self.learned
        y = ops.learn_(case.lesson, case.lesson_t, case.wiring, W, mu, square_avg, rule, case.B)
        y = y[-case.B :]
        return {"y": y, "mu": mu, "W": W}


class CerebsimTriton(Cerebsim):
    """The same with the Triton kernels, where "auto" takes CUDA's."""

    name = "cerebsim, triton"
    backend = "triton"


PEERS = {
    "cpu": (Cerebsim, Gather, Compiled, EmbeddingBag, TorchCSR, ScipyCSR, Dense),
    "cuda": (Cerebsim, CerebsimTriton, Gather, Compiled, EmbeddingBag, TorchCSR, Dense),
}
