"""Sinkhorn to a tolerance, at any temperature: annealing, short Sinkhorn bursts and Newton steps.

The columns' potential g minimizes the convex semi-dual

    phi(g) = tau * (sum_i row_i log sum_j exp((X_ij + g_j) / tau)) - sum_j col_j g_j,

whose gradient is ``b - col`` and whose Hessian is the Laplacian of the plan over tau; rows are exact throughout. Plain
iterations descend on it: unbeatable while they converge fast, hopeless at low temperatures, where their rate tends to
one and a few Newton steps do. Newton in turn needs a good start, which the solution at twice the temperature is.

The plan is kept as ``diag(u) K diag(v)`` with ``K = exp((X + g) / t)`` frozen: rounding errors of u and v are relative,
so the marginals can be met to machine precision at any temperature. Potentials alone, rounded and then exponentiated,
cannot do that.
"""

from typing import NamedTuple, cast

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.sinkhorn_operator.kernel import Solved, apply, apply_transpose, clip, limits_of, row_sums, scale
from rebasin_core.sinkhorn_operator.laplacian import solve
from rebasin_core.sinkhorn_operator.marginals import column_errors

__all__ = ["solve_to_tolerance"]

_MAX_STAGES = 64
"""How many temperatures there are at most, each half of the one before or, where that takes more, a smaller part."""
_MAX_NEWTON_STEPS = 40
"""At one temperature."""
_MAX_ANNEALING_STEPS = 200
"""At all temperatures above the last together; 20 to 60 are usual. After that many, rounding prevents more."""
_MAX_WARM_STEPS = 10
"""Newton steps from a given start: near the solution three or four do, and elsewhere annealing is the better way."""
_MAX_BURST = 100
_MAX_ITERATIONS = 300
_INTERMEDIATE_TOLERANCE = 1e-3
_POLISH = 1e-2
_LONGEST_STEP = 5.0
_NOISE = 1e10
"""Newton steps of this size come from systems that are all rounding noise."""


class _Scaled(NamedTuple):
    """A plan ``diag(u) K diag(v)`` at temperature t, with the potential g that K has absorbed."""

    g: Array
    K: Array
    u: Array
    v: Array


class _Problem(NamedTuple):
    """What one stage of the annealing solves; t and tolerance are per item of the batch, shape (batch, 1, 1)."""

    backend: Backend
    X: Array
    row: Array
    col: Array
    t: Array
    tolerance: Array
    """Maximal column error aimed at."""
    acceptable: float
    """Maximal column error that is enough where rounding prevents more."""
    max_steps: int = _MAX_NEWTON_STEPS


def solve_to_tolerance(
    backend: Backend,
    X: Array,
    tau: Array,
    row: Array,
    col: Array,
    tolerance: float,
    start: Array | None = None,
    with_potentials: bool = False,
) -> Solved:
    """Plan whose maximal marginal error is at most `tolerance`, or as small as rounding and the cap on steps allow.

    `X` has shape (batch, m, n), `tau` is a scalar, `row` (of mean 1) and `col` are rows; `start` is the row v of an
    earlier solution.
    """
    limits = limits_of(backend, X)
    batch, _, n = backend.shape(X)
    highest = backend.max(X, axis=(-2, -1), keepdims=True)
    lowest = backend.min(X, axis=(-2, -1), keepdims=True)
    # The plan depends on X / tau alone: divide both by a power of two where sums of them could overflow.
    size = backend.maximum(backend.maximum(highest, -lowest), tau)
    factor = backend.where(size > limits.large, limits.shrink, backend.full((batch, 1, 1), 1.0, X))
    X = backend.cond(backend.any(size > limits.large), lambda X: X * factor, lambda X: X, X)
    tau = backend.maximum(tau * factor, limits.smallest)
    # Newton steps converge quadratically: two digits more than asked for cost one step at most, and make the gradient,
    # which amplifies the error of the marginals, about as accurate as the marginals were asked to be.
    target = max(_POLISH * tolerance, limits.eps)
    goal = _Goal(backend, X, row, col, tau, target, max(tolerance, 4.0 * limits.eps))
    # Thirty-two nats of range are easy for plain iterations; above that temperature nothing is gained by annealing.
    t_first = backend.maximum((highest * factor) / 32.0 - (lowest * factor) / 32.0, tau)
    zeros = backend.full((batch, 1, n), 0.0, X)
    if start is None:
        plan, count = _anneal(goal, t_first, zeros, _MAX_NEWTON_STEPS)
    else:
        v = start - backend.max(start, axis=-1, keepdims=True)
        plan, count = _anneal(goal, tau, clip(backend, tau * v, limits.large), _MAX_WARM_STEPS)
        maximal, _ = column_errors(backend, plan.v * apply_transpose(backend, plan.K, plan.u), col)

        def again(state: tuple[_Scaled, Array | int]) -> tuple[_Scaled, Array | int]:
            plan, more = _anneal(goal, t_first, zeros, _MAX_NEWTON_STEPS)
            return plan, state[1] + more

        missed = backend.any(~(maximal <= goal.acceptable))
        plan, count = backend.cond(missed, again, lambda state: state, (plan, count))
    # A plain iteration removes the noise that Newton's systems leave in the last digits.
    u, v = _plain_iteration(backend, plan, plan.v * apply_transpose(backend, plan.K, plan.u), row, col)
    P = scale(backend, plan.K, u, v)
    if not with_potentials:
        return Solved(P)
    # The potential has taken in the scalings that the last stage ended with. Rows are exact: u follows from v.
    g = plan.g + tau * backend.log(backend.maximum(v / plan.v, limits.smallest))
    L = X + g
    row_max = backend.max(L, axis=-1, keepdims=True)
    row_mass = row_sums(backend, backend.exp((L - row_max) / tau))
    log_u = backend.log(row / row_mass) - backend.matrix_transpose(row_max) / tau
    log_v = g / tau
    return Solved(P, (log_u, log_v), (backend.asarray(count, like=P),))


class _Goal(NamedTuple):
    """What the annealing ends with."""

    backend: Backend
    X: Array
    row: Array
    col: Array
    tau: Array
    """Per item of the batch, shape (batch, 1, 1)."""
    target: float
    acceptable: float


class _Annealing(NamedTuple):
    """State of the annealing; flags and temperatures have shape (batch, 1, 1)."""

    stages: int
    steps: int
    """Newton steps made."""
    made: int
    """Plain iterations and Newton steps together."""
    is_first: Array
    t: Array
    plan: _Scaled


def _anneal(goal: _Goal, t_first: Array, g: Array, max_steps: int) -> tuple[_Scaled, Array | int]:
    """Solve at `t_first`, from the potential g, and at ever lower temperatures down to tau; also count iterations."""
    backend, tau = goal.backend, goal.tau
    batch, m, n = backend.shape(goal.X)
    last = backend.full((batch, 1, 1), goal.target, g)
    log_ratio = (backend.log(t_first) - backend.log(tau)) / _MAX_STAGES
    step = backend.exp(backend.maximum(log_ratio, 0.0))
    step = backend.where(step > 2.0, step, 2.0)

    def stage(state: _Annealing) -> _Annealing:
        t = backend.where(state.is_first, state.t, backend.maximum(state.t / step, tau))
        t = backend.cond(state.steps >= _MAX_ANNEALING_STEPS, lambda t: tau, lambda t: t, t)
        stage_tolerance = backend.where(t <= tau, last, max(goal.target, _INTERMEDIATE_TOLERANCE))
        problem = _Problem(backend, goal.X, goal.row, goal.col, t, stage_tolerance, goal.acceptable, max_steps)
        steps, made, solved, *_ = _solve_stage(problem, _build(problem, state.plan.g))
        g = solved.g + t * backend.log(backend.maximum(solved.v, limits_of(backend, t).smallest))
        solved = solved._replace(g=g - backend.sum(g, axis=-1, keepdims=True) / n)
        return _Annealing(state.stages + 1, state.steps + steps, state.made + made, last < 0.0, t, solved)

    def is_unfinished(state: _Annealing) -> Array:
        return (state.stages < 2 * _MAX_STAGES) & backend.any(state.is_first | (state.t > tau))

    # The first stage overwrites all of this but g; it has the right shapes and dtypes.
    nothing = _Scaled(g, goal.X, backend.full((batch, 1, m), 1.0, g), g)
    end = backend.while_loop(is_unfinished, stage, _Annealing(0, 0, 0, last > 0.0, t_first, nothing))
    return end.plan, end.made


def _plain_iteration(backend: Backend, plan: _Scaled, sums: Array, row: Array, col: Array) -> tuple[Array, Array]:
    """Scalings after the columns, whose sums so far are given, and then the rows are normalized."""
    # A column almost without mass grows by 1e4 at once: with more, a few iterations and a Newton step overflow.
    v = plan.v * col / backend.maximum(sums, 1e-4 * col)
    return row / backend.maximum(apply(backend, plan.K, v), limits_of(backend, v).tiny), v


def _build(problem: _Problem, g: Array) -> _Scaled:
    """Exponentiate: K has 1 as the largest entry of each row, v is 1, u makes the rows exact."""
    backend, limits = problem.backend, limits_of(problem.backend, problem.X)
    # Large logits lose digits in X + g that matter once divided by t: keep what is lost (Knuth's two-sum), and add it
    # once the maximum of the row has been subtracted.
    L = problem.X + g
    g_rounded = L - problem.X
    lost = (problem.X - (L - g_rounded)) + (g - g_rounded)
    L = (L - backend.max(L, axis=-1, keepdims=True)) + lost
    L = (L - backend.max(L, axis=-1, keepdims=True)) / problem.t
    K = backend.exp(backend.maximum(L, -limits.floor))
    v = backend.full(backend.shape(g), 1.0, g)
    return _Scaled(g, K, problem.row / apply(backend, K, v), v)


class _Iterate(NamedTuple):
    """State of a stage; errors and flags have shape (batch, 1, 1)."""

    step: int
    made: int
    """Plain iterations and Newton steps together."""
    plan: _Scaled
    error: Array
    """Maximal column error at the start of the last Newton step."""
    active: Array


def _solve_stage(problem: _Problem, plan: _Scaled) -> _Iterate:
    """Alternate Sinkhorn bursts and Newton steps until the columns are met."""
    backend = problem.backend

    def alternate(state: _Iterate) -> _Iterate:
        plan, error, active, made = _burst(problem, state.plan, state.active)
        # Near the floor of rounding errors Newton steps no longer help: do not polish once one has failed to.
        stalled = (error <= problem.acceptable) & (error > 0.5 * state.error)
        active = active & ~stalled
        plan, steps = backend.cond(
            backend.any(active),
            lambda operand: (_absorb(problem, _newton(problem, operand, error, active)), 1),
            lambda operand: (operand, 0),
            plan,
        )
        return _Iterate(state.step + 1, state.made + made + steps, plan, error, active)

    batch = backend.shape(plan.g)[0]
    unknown = backend.full((batch, 1, 1), 1e30, plan.g)
    start = _Iterate(0, 0, plan, unknown, unknown > 0.0)
    end = backend.while_loop(
        lambda state: (state.step < problem.max_steps) & backend.any(state.active), alternate, start
    )
    return cast(_Iterate, end)


def _column_state(problem: _Problem, plan: _Scaled) -> tuple[Array, Array, Array]:
    """Column sums, their maximal error, and whether it is met (to the tolerance or to rounding)."""
    backend = problem.backend
    sums = plan.v * apply_transpose(backend, plan.K, plan.u)
    maximal, mean = column_errors(backend, sums, problem.col)
    met = (maximal <= problem.tolerance) | (mean <= 4.0 * limits_of(backend, problem.X).eps)
    return sums, maximal, met


def _burst(problem: _Problem, plan: _Scaled, active: Array) -> tuple[_Scaled, Array, Array, Array | int]:
    """Plain iterations: three, then more while they promise to finish within eight."""
    backend, limits = problem.backend, limits_of(problem.backend, problem.X)

    def iteration(
        state: tuple[int, _Scaled, Array, Array, Array, Array],
    ) -> tuple[int, _Scaled, Array, Array, Array, Array]:
        count, plan, sums, error, active, going = state
        u, v = _plain_iteration(backend, plan, sums, problem.row, problem.col)
        plan = plan._replace(u=backend.where(going, u, plan.u), v=backend.where(going, v, plan.v))
        sums, error_next, met = _column_state(problem, plan)
        active = active & ~met
        rate = backend.maximum(error_next, limits.tiny) / backend.maximum(error, limits.tiny)
        to_go = backend.log(problem.tolerance / backend.maximum(error_next, limits.tiny))
        # log(tolerance / error) / log(rate) < 8, both logarithms being negative.
        fast = (rate < 0.9) & (to_go > 8.0 * backend.log(rate))
        return (
            count + 1,
            plan,
            sums,
            error_next,
            active,
            active & going & (count + 1 < _MAX_BURST) & (fast | (count < 2)),
        )

    sums, error, met = _column_state(problem, plan)
    active = active & ~met
    start = (0, plan, sums, error, active, active)
    count, plan, _, error, active, _ = backend.while_loop(lambda state: backend.any(state[5]), iteration, start)
    return plan, error, active, count


def _newton(problem: _Problem, plan: _Scaled, error: Array, active: Array) -> _Scaled:
    """One damped Newton step on log v for the active items; the rows are exact again afterwards.

    The full step, clipped to a factor of e^5, is taken where it decreases the semi-dual. Where it does not, it is
    shortened to ``log(1 + w) / w`` of its length, w its range: a step that provably decreases a function whose third
    derivative is bounded by its second the way this one's is (generalized self-concordance), so no search is needed.
    """
    backend, limits = problem.backend, limits_of(problem.backend, problem.X)
    n = backend.shape(plan.g)[-1]
    P = scale(backend, plan.K, plan.u, plan.v)
    rhs = problem.col - backend.sum(P, axis=-2, keepdims=True)
    # Inexact Newton: no more digits than this step can turn into accuracy.
    relative_tolerance = backend.maximum(
        backend.minimum(error, 0.1), 0.1 * problem.tolerance / backend.maximum(error, limits.tiny)
    )
    # Columns joined to the others by less than rounding noise get steps of noise over almost nothing: a ridge of the
    # size of that noise keeps them short. Real errors are larger than it, and still move such columns.
    d = solve(backend, P, rhs, relative_tolerance, _MAX_ITERATIONS, ridge=4.0 * limits.eps * problem.col)
    d = clip(backend, backend.where(active & backend.isfinite(d), d, 0.0), _NOISE)
    d = d - backend.sum(d, axis=-1, keepdims=True) / n
    clipped = clip(backend, d, _LONGEST_STEP)
    v = plan.v * backend.exp(clipped)
    ratio = plan.u * apply(backend, plan.K, v) / problem.row
    change = backend.sum(problem.row * backend.log(backend.maximum(ratio, limits.tiny)), axis=-1, keepdims=True)
    change = change - backend.sum(problem.col * clipped, axis=-1, keepdims=True)
    width = backend.max(d, axis=-1, keepdims=True) + backend.max(-d, axis=-1, keepdims=True)
    longest = backend.minimum(backend.log(1.0 + width), 2.0 * _LONGEST_STEP)
    shorter = plan.v * backend.exp(d * (longest / backend.maximum(width, limits.eps)))
    mass = backend.sum(problem.row, axis=-1, keepdims=True)
    v = backend.where(change > 50.0 * limits.eps * mass, shorter, v)
    u = problem.row / backend.maximum(apply(backend, plan.K, v), limits.tiny)
    return plan._replace(u=backend.where(active, u, plan.u), v=backend.where(active, v, plan.v))


def _absorb(problem: _Problem, plan: _Scaled) -> _Scaled:
    """Move the scalings into the potential, and exponentiate again, before they overflow."""
    backend, limits = problem.backend, limits_of(problem.backend, problem.X)
    log_v = backend.log(plan.v)
    large = backend.any(backend.abs(log_v) > limits.absorb) | backend.any(
        backend.abs(backend.log(plan.u / problem.row)) > limits.absorb
    )
    rebuilt = backend.cond(large, lambda p: _build(problem, p.g + problem.t * log_v), lambda p: p, plan)
    return cast(_Scaled, rebuilt)
