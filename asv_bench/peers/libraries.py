"""One class for each library: the namespace that stands for NumPy in the sources, and derivatives.

A derivative takes the function and the point and returns a function of no arguments, which is what is timed; a library
that lacks one lacks the method. What can be made once (transformed functions, compiled graphs) is made before.
"""
import numpy as np

from peers.by_hand import BY_HAND
from peers.rewrites import REWRITES, UNABLE


class Unable(Exception):
    """The library cannot run this workload, or has no such derivative."""


class Library:
    name = ""
    package = "numpy"        # whose version is reported
    np = np

    def prepare(self, workload, problem):
        key = workload.name, self.name
        if workload.only and self.name not in workload.only:
            raise Unable("not asked")
        if key in UNABLE:
            raise Unable(UNABLE[key])
        if not hasattr(self, workload.derivative):
            raise Unable(f"has no {workload.derivative}")
        f = REWRITES[key](problem, self.np) if key in REWRITES else problem.source(self.np)
        directions = (problem.v,) if workload.derivative == "hvp" else ()
        return getattr(self, workload.derivative)(f, problem.x, *directions)


class Hand(Library):
    name = "hand"

    def prepare(self, workload, problem):
        if workload.name not in BY_HAND:
            raise Unable("not written by hand")
        return BY_HAND[workload.name](problem)


class Cyad(Library):
    name = "cyad"

    def __init__(self):
        import cyad
        self.cyad = cyad

    def gradient(self, f, x):
        cyad = self.cyad
        return lambda: cyad.gradient(cyad.Reverse, f, x)[0]

    def forward_gradient(self, f, x):
        cyad = self.cyad
        return lambda: cyad.gradient(cyad.Forward, f, x)[0]

    def jacobian_forward(self, f, x):
        cyad = self.cyad
        return lambda: cyad.jacobian(cyad.Forward, f, x)[0]

    def jacobian_reverse(self, f, x):
        cyad = self.cyad
        return lambda: cyad.jacobian(cyad.Reverse, f, x)[0]

    def hessian(self, f, x):
        return lambda: self.cyad.hessian(f, x)

    def hvp(self, f, x, v):
        return lambda: self.cyad.hvp(f, x, v)


class Autograd(Library):
    name = package = "autograd"

    def __init__(self):
        import autograd
        import autograd.numpy
        self.autograd, self.np = autograd, autograd.numpy
        self.np.asarray = np.asarray  # its own makes a node of every constant

    def gradient(self, f, x):
        g = self.autograd.grad(f)
        return lambda: g(x)

    def jacobian_forward(self, f, x):
        def run():
            push = self.autograd.make_jvp(f)(x)
            return np.stack([push(unit)[1] for unit in np.eye(x.size)], axis=-1)
        return run
    forward_gradient = jacobian_forward

    def jacobian_reverse(self, f, x):
        jacobian = self.autograd.jacobian(f)
        return lambda: jacobian(x)

    def hessian(self, f, x):
        hessian = self.autograd.hessian(f)
        return lambda: hessian(x)

    def hvp(self, f, x, v):
        return lambda: self.autograd.make_hvp(f)(x)[0](v)


class MyGrad(Library):
    name = package = "mygrad"

    def __init__(self):
        import mygrad
        self.mygrad = mygrad

        class Namespace:
            asarray = staticmethod(np.asarray)
            copy = staticmethod(lambda a: a * 1.0)  # np.copy leaves the graph
            zeros = staticmethod(lambda shape: mygrad.zeros(shape, dtype=np.float64))  # its default is float32

            def __getattr__(self, name):
                return getattr(mygrad, name)
        self.np = Namespace()

    def gradient(self, f, x):
        def run():
            t = self.mygrad.tensor(x, copy=False)
            f(t).backward()
            return t.grad
        return run

    def jacobian_reverse(self, f, x):
        def run():
            rows = []
            for i in range(x.size):
                t = self.mygrad.tensor(x, copy=False)
                f(t)[i].backward()
                rows.append(t.grad)
            return np.stack(rows)
        return run


class Torch(Library):
    name = package = "torch"

    def __init__(self):
        import torch
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        self.torch = torch

        class Namespace:
            asarray = staticmethod(torch.as_tensor)
            copy = staticmethod(torch.clone)
            max = staticmethod(lambda a, axis, keepdims: torch.amax(a, dim=axis, keepdim=keepdims))
            logaddexp = staticmethod(lambda a, b: torch.logaddexp(torch.full((), a), b))

            def __getattr__(self, name):
                return getattr(torch, name)
        self.np = Namespace()

    def gradient(self, f, x):
        def run():
            t = self.torch.tensor(x, requires_grad=True)
            f(t).backward()
            return t.grad.numpy()
        return run

    def transformed(self, transform, f, x):
        g, t = transform(f), self.torch.tensor(x)
        return lambda: g(t).detach().numpy()

    def jacobian_forward(self, f, x):
        return self.transformed(self.torch.func.jacfwd, f, x)
    forward_gradient = jacobian_forward

    def jacobian_reverse(self, f, x):
        return self.transformed(self.torch.func.jacrev, f, x)

    def hessian(self, f, x):
        return self.transformed(self.torch.func.hessian, f, x)

    def hvp(self, f, x, v):
        grad = self.torch.autograd.grad

        def run():
            t = self.torch.tensor(x, requires_grad=True)
            (g,) = grad(f(t), t, create_graph=True)
            return grad(g, t, self.torch.tensor(v))[0].numpy()
        return run


class Jax(Library):
    name = package = "jax"
    compiled = False

    def __init__(self):
        import jax
        jax.config.update("jax_enable_x64", True)
        self.jax, self.np = jax, jax.numpy

    def transformed(self, g, *args):
        g = self.jax.jit(g) if self.compiled else g
        args = [self.np.asarray(a) for a in args]
        return lambda: np.asarray(g(*args))

    def gradient(self, f, x):
        return self.transformed(self.jax.grad(f), x)

    def jacobian_forward(self, f, x):
        return self.transformed(self.jax.jacfwd(f), x)
    forward_gradient = jacobian_forward

    def jacobian_reverse(self, f, x):
        return self.transformed(self.jax.jacrev(f), x)

    def hessian(self, f, x):
        return self.transformed(self.jax.hessian(f), x)

    def hvp(self, f, x, v):
        return self.transformed(lambda x, v: self.jax.jvp(self.jax.grad(f), (x,), (v,))[1], x, v)


class JaxJit(Jax):
    name = "jax jit"
    compiled = True


class Casadi(Library):
    """Graphs of scalars (SX) up to a thousand inputs, of arrays (MX) beyond, and where products are large."""
    name = package = "casadi"

    def __init__(self):
        import casadi
        self.casadi = casadi

        class Namespace:
            asarray = staticmethod(casadi.DM)
            zeros = staticmethod(casadi.SX.zeros)
            matmul = staticmethod(casadi.mtimes)
            sum = staticmethod(casadi.sum1)      # of columns
            mean = staticmethod(lambda a: casadi.sum1(a) / a.numel())
            concatenate = staticmethod(lambda parts: casadi.vertcat(*parts))
            reshape = staticmethod(lambda a, shape: casadi.reshape(a, shape[1], shape[0]).T)
            logaddexp = staticmethod(
                lambda a, b: casadi.fmax(a, b) + casadi.log1p(casadi.exp(-casadi.fabs(a - b))))

            def __getattr__(self, name):
                return getattr(casadi, name)
        self.np = Namespace()

    def prepare(self, workload, problem):
        self.kind = self.casadi.MX if problem.x.size > 1000 or workload.name.startswith("logreg") else self.casadi.SX
        return super().prepare(workload, problem)

    def graph(self, derivative, f, x):
        symbol = self.kind.sym("x", x.size)
        g = self.casadi.Function("g", [symbol], [derivative(f(symbol), symbol)])
        flat = 1 in g.size_out(0)
        return lambda: g(x).full().ravel() if flat else g(x).full()

    def gradient(self, f, x):
        return self.graph(self.casadi.gradient, f, x)

    def forward_gradient(self, f, x):
        eye = self.casadi.DM.eye(x.size)
        return self.graph(lambda y, s: self.casadi.jtimes(y, s, eye), f, x)

    def jacobian_forward(self, f, x):
        return self.graph(self.casadi.jacobian, f, x)
    jacobian_reverse = jacobian_forward

    def hessian(self, f, x):
        return self.graph(lambda y, s: self.casadi.hessian(y, s)[0], f, x)

    def hvp(self, f, x, v):
        jtimes, gradient, direction = self.casadi.jtimes, self.casadi.gradient, self.casadi.DM(v)
        return self.graph(lambda y, s: jtimes(gradient(y, s), s, direction), f, x)


class Xad(Library):
    """A tape of numbers in C++: functions see lists of them."""
    name = package = "xad"

    def __init__(self):
        import xad.adj_1st
        import xad.fwd_1st
        import xad.math
        self.adjoint, self.forward = xad.adj_1st, xad.fwd_1st

        class Namespace:
            sin = staticmethod(xad.math.sin)
            zeros = staticmethod(lambda n: [0.0] * n)
            sum = staticmethod(sum)
        self.np = Namespace()

    def record(self, tape, f, x):
        inputs = [self.adjoint.Real(value) for value in x.tolist()]
        for number in inputs:
            tape.registerInput(number)
        tape.newRecording()
        return inputs, f(inputs)

    def sweep(self, tape, output, inputs):
        output.setDerivative(1.0)
        tape.computeAdjoints()
        return [number.getDerivative() for number in inputs]

    def gradient(self, f, x):
        def run():
            with self.adjoint.Tape() as tape:
                inputs, output = self.record(tape, f, x)
                tape.registerOutput(output)
                return np.array(self.sweep(tape, output, inputs))
        return run

    def jacobian_reverse(self, f, x):
        def run():
            with self.adjoint.Tape() as tape:
                inputs, outputs = self.record(tape, f, x)
                rows = []
                for output in outputs:
                    tape.registerOutput(output)
                for output in outputs:
                    tape.clearDerivatives()
                    rows.append(self.sweep(tape, output, inputs))
                return np.array(rows)
        return run

    def forward_gradient(self, f, x):
        def run():
            slopes = []
            for i in range(x.size):
                inputs = [self.forward.Real(value) for value in x.tolist()]
                inputs[i].setDerivative(1.0)
                slopes.append(f(inputs).getDerivative())
            return np.array(slopes)
        return run


LIBRARIES = {c.name: c for c in (Hand, Cyad, Autograd, MyGrad, Torch, Jax, JaxJit, Casadi, Xad)}
