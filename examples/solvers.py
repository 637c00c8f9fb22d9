"""cyad under SciPy's solvers: what each of them asks for, and where it comes from.

    python examples/solvers.py

The problem is a chain of springs that hangs between two points: its shape has the least energy. The energy is written
as people write it, in a loop that fills an array. Every solver finds the same shape; a line says how many times it
called the function.
"""
import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import LinearConstraint, NonlinearConstraint, fsolve, least_squares, minimize, root
from scipy.sparse.linalg import cg, eigsh, gmres, svds

import cyad

LINKS, STIFFNESS, WEIGHT = 12, 40.0, 0.6
START, END = np.array([0.0, 0.0]), np.array([1.0, -0.2])


def joints(x):
    """All joints of the chain, the two that are fixed included."""
    p = np.zeros((LINKS + 1, 2))
    p[0], p[-1] = START, END
    p[1:-1] = x.reshape(-1, 2)
    return p


def energy(x):
    p = joints(x)
    total = 0.0
    for i in range(LINKS):
        length = np.hypot(p[i + 1, 0] - p[i, 0], p[i + 1, 1] - p[i, 1])
        total += 0.5 * STIFFNESS * (length - 1.5 / LINKS) ** 2 + WEIGHT * p[i, 1] / LINKS
    return total


def stretches(x):
    """How much longer than at rest each link is."""
    p = joints(x)
    out = np.empty(LINKS)
    for i in range(LINKS):
        out[i] = np.hypot(*(p[i + 1] - p[i])) - 1.5 / LINKS
    return out


def forces(x):
    return cyad.grad(energy)(x)


def first_guess():
    x = np.linspace(START, END, LINKS + 1)[1:-1]
    x[:, 1] -= 0.3 * np.sin(np.linspace(0.0, np.pi, LINKS + 1)[1:-1])
    return x.ravel()


def optimisers():
    """`minimize`, with what each method can use: gradients, Hessians as matrices, products or operators."""
    x0 = first_guess()
    both = cyad.value_and_grad(energy)
    product = lambda x, v: cyad.hvp(energy, x, v)
    found = {
        "BFGS": minimize(both, x0, jac=True, method="BFGS", options={"gtol": 1e-8}),
        "L-BFGS-B": minimize(both, x0, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}),
        "CG": minimize(both, x0, jac=True, method="CG", options={"gtol": 1e-8}),
        "Newton-CG": minimize(energy, x0, jac=forces, hessp=product, method="Newton-CG", options={"xtol": 1e-10}),
        "trust-krylov": minimize(energy, x0, jac=forces, hessp=product, method="trust-krylov", options={"gtol": 1e-8}),
        "trust-ncg": minimize(energy, x0, jac=forces, hessp=product, method="trust-ncg", options={"gtol": 1e-8}),
        "trust-exact": minimize(energy, x0, jac=forces, hess=cyad.hessian(energy), method="trust-exact",
                                options={"gtol": 1e-8}),
        "trust-constr": minimize(energy, x0, jac=forces, hess=lambda x: cyad.hessian_operator(energy, x),
                                 constraints=LinearConstraint(np.eye(x0.size), -5.0, 5.0), method="trust-constr",
                                 options={"gtol": 1e-8, "xtol": 1e-12}),
    }
    near = found["trust-exact"].x + 1e-3   # where the Hessian is positive definite, which dogleg asks for
    found["dogleg"] = minimize(energy, near, jac=forces, hess=cyad.hessian(energy), method="dogleg",
                               options={"gtol": 1e-8})
    best = min(r.fun for r in found.values())
    for name, r in found.items():
        print(f"  {name:13} energy {r.fun:.10f} after {r.nfev} evaluations, {r.nit} steps")
        assert r.fun - best < 1e-6, name
    return found["trust-exact"].x


def constrained():
    """SLSQP: links that cannot stretch, as equations with their Jacobian."""
    x0 = first_guess()
    weight = lambda x: WEIGHT / LINKS * np.sum(joints(x)[:-1, 1])
    r = minimize(cyad.value_and_grad(weight), x0, jac=True, method="SLSQP", options={"ftol": 1e-12, "maxiter": 300},
                 constraints={"type": "eq", "fun": stretches, "jac": cyad.jacrev(stretches)})
    assert r.success and np.max(np.abs(stretches(r.x))) < 1e-8
    print(f"  SLSQP         a chain of stiff links: lowest joint at {joints(r.x)[:, 1].min():.4f}, {r.nit} steps")
    stiff = NonlinearConstraint(stretches, 0.0, 0.0, jac=cyad.jacfwd(stretches))
    again = minimize(weight, r.x, jac=cyad.grad(weight), hess=lambda x: np.zeros((x.size, x.size)), constraints=stiff,
                     method="trust-constr", options={"maxiter": 20})
    assert abs(again.fun - r.fun) < 1e-6


def equations(shape):
    """`root`, `fsolve` and `least_squares`, for the forces to vanish and for measured joints to be met."""
    r = root(forces, shape + 0.02, jac=cyad.hessian(energy), method="hybr", tol=1e-12)
    assert r.success and np.max(np.abs(r.fun)) < 1e-9, np.max(np.abs(r.fun))
    print(f"  root          forces up to {np.max(np.abs(r.fun)):.0e}, {r.nfev} evaluations, {r.njev} Jacobians")
    x, info, found, why = fsolve(forces, shape + 0.02, fprime=cyad.hessian(energy), xtol=1e-12, full_output=True)
    assert found == 1, why
    print(f"  fsolve        forces up to {np.max(np.abs(forces(x))):.0e}, {info['nfev']} evaluations, "
          f"{info['njev']} Jacobians")

    measured = shape + 1e-3 * np.random.default_rng(0).normal(size=shape.size)
    residuals = lambda x: np.concatenate([x - measured, 0.1 * forces(x)])
    dense = least_squares(residuals, first_guess(), jac=cyad.jacfwd(residuals), xtol=1e-14, ftol=1e-14, gtol=1e-12)
    sparse = least_squares(residuals, first_guess(), jac=lambda x: cyad.jacobian_operator(residuals, x),
                           tr_solver="lsmr", xtol=1e-14, ftol=1e-14, gtol=1e-12)
    print(f"  least_squares residual {dense.cost:.3e} by a dense Jacobian, {sparse.cost:.3e} by products with it")
    assert abs(dense.cost - sparse.cost) < 1e-10


def newton(name, solve):
    """Newton's method that never makes a matrix: a solver takes H p = -g by products with H."""
    x = first_guess()
    for _ in range(50):
        g = forces(x)
        if np.max(np.abs(g)) < 1e-10:
            break
        H = cyad.hessian_operator(energy, x)
        p, _ = solve(H, -g)
        if p @ g > 0.0:   # away from the minimum H may be indefinite
            p = -g
        t = 1.0
        while energy(x + t * p) > energy(x) + 1e-4 * t * (g @ p) and t > 1e-10:
            t *= 0.5
        x = x + t * p
    print(f"  {name:13} forces up to {np.max(np.abs(forces(x))):.0e} by Newton's method without a matrix")
    assert np.max(np.abs(forces(x))) < 1e-8


def spectra(shape):
    """`eigsh` and `svds`, by products: the softest motion of the chain, the link lengths that a motion changes most."""
    softest = eigsh(cyad.hessian_operator(energy, shape), k=1, which="SA", return_eigenvectors=False)[0]
    strongest = svds(cyad.jacobian_operator(stretches, shape), k=1, return_singular_vectors=False)[0]
    print(f"  eigsh, svds   softest motion {softest:.6f}, largest stretch by a motion {strongest:.6f}")
    assert abs(softest - np.linalg.eigvalsh(cyad.hessian(energy, shape))[0]) < 1e-8
    assert abs(strongest - np.linalg.norm(cyad.jacfwd(stretches)(shape), 2)) < 1e-8


def motion(shape):
    """`solve_ivp` with its stiff methods: the chain swings, heavily damped, into its shape."""
    def right_hand_side(t, y):
        x, v = y[:y.size // 2], y[y.size // 2:]
        dy = np.empty_like(y)
        dy[:y.size // 2] = v
        dy[y.size // 2:] = -LINKS * forces(x) - 6.0 * v
        return dy

    start = np.concatenate([first_guess(), np.zeros(shape.size)])
    jacobian = cyad.jacfwd(right_hand_side, argnums=1)
    for method in ("Radau", "BDF", "LSODA"):
        r = solve_ivp(right_hand_side, (0.0, 60.0), start, method=method, jac=jacobian, rtol=1e-6, atol=1e-8)
        assert r.success
        last = r.y[:shape.size, -1]
        print(f"  {method:13} at rest to {np.max(np.abs(last - shape)):.0e} at t = 60, {r.nfev} evaluations, "
              f"{r.njev} Jacobians")
        assert np.max(np.abs(last - shape)) < 1e-4


def main():
    print("a chain of springs, by SciPy's solvers with derivatives by cyad")
    shape = optimisers()
    constrained()
    equations(shape)
    newton("cg", lambda H, b: cg(H, b, rtol=1e-8, maxiter=200))
    newton("gmres", lambda H, b: gmres(H, b, rtol=1e-8, restart=b.size, maxiter=1))
    spectra(shape)
    motion(shape)


if __name__ == "__main__":
    main()
