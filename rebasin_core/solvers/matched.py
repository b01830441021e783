"""Plans in closed form that every search counts as seen, so that none returns anything worse."""

from dataclasses import replace

from rebasin_core.objectives.weights import L2
from rebasin_core.solvers.activation_matching import assigned
from rebasin_core.solvers.search import Search
from rebasin_core.solvers.weight_matching import WeightMatching
from rebasin_core.symmetry.plan import Plan

__all__ = ["see_matchings"]


def see_matchings(search: Search, progress: bool = False) -> Plan:
    """Judge the plan of weight matching, and that of activation matching where it applies; return the better one."""
    problem = search.problem
    plans = [WeightMatching().solve(replace(problem, objective=L2().on(problem.graph)), progress).plan]
    similarity = problem.objective.similarity or problem.objective.hint
    scores = {} if similarity is None else similarity(problem.params_a, problem.params_b)
    if scores:
        plans.append(assigned(problem, scores))
    return min(plans, key=search.see)
