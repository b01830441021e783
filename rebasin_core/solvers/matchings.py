"""Plans in closed form that every search counts as seen, so that none returns anything worse."""

from dataclasses import replace

from rebasin_core.objectives.weights import L2
from rebasin_core.solvers.activation_matching import assign_groups
from rebasin_core.solvers.search import Search
from rebasin_core.solvers.weight_matching import WeightMatching
from rebasin_core.symmetry.plan import Plan

__all__ = ["see_matchings"]


def see_matchings(search: Search, progress: bool) -> Plan:
    """Judge the plan of weight matching, and that of activation matching where it applies; return the better one."""
    problem = search.problem
    # A search of its own, of another objective, whose steps are nothing that the user asked to be told.
    on_weights = replace(problem, objective=L2().on(problem.graph), callback=None)
    plans = [WeightMatching().solve(on_weights, progress).plan]
    search.see(plans[0])
    search.check()
    similarity = problem.objective.similarity or problem.objective.hint
    scores = {} if similarity is None else similarity(problem.params_a, problem.params_b)
    if scores:
        plans.append(assign_groups(problem, scores, False))
    return min(plans, key=search.see)
