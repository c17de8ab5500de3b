"""The cluster a job runs on, and how the job shares it out: by the default budget, or by what a sample of its units costs.

The sums are `planner.py`'s, the first budget is `budget.py`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import ray

from rayseg.config.segment import SegmentSettings
from rayseg.pipeline import planner
from rayseg.pipeline.board import new_board
from rayseg.pipeline.budget import Budget, plan_budget
from rayseg.pipeline.plan import Plan
from rayseg.pipeline.preflight import check_resources
from rayseg.pipeline.progress import Progress
from rayseg.pipeline.sample import Sampled, draw, measure
from rayseg.pipeline.stages import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """The cluster as it is now, and how a job shares it out.

    Attributes:
        resources: of all nodes, by Ray's names.
        nodes: those with CPUs.
        expected: what a sample says of this budget; None without one.
    """

    resources: dict[str, float]
    budget: Budget
    nodes: tuple[planner.Node, ...] = ()
    expected: planner.Expected | None = None

    @classmethod
    def look(cls, settings: SegmentSettings) -> Machine:
        """Ask Ray.

        Raises:
            ConfigError: what the settings ask for is not there.
        """
        cluster = ray.cluster_resources()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        able = tuple(planner.Node.of_ray(node) for node in nodes if node.get("CPU", 0) >= 1)
        smallest = min((node.cpus for node in able), default=None)
        budget = plan_budget(settings, cpus=cluster.get("CPU", 0), gpus=cluster.get("GPU", 0), node_cpus=smallest, others=cluster)
        check_resources(settings, budget, nodes)
        return cls(cluster, budget, able)

    @property
    def cpus(self) -> float:
        """Of all nodes."""
        return self.resources.get("CPU", 1)

    @property
    def parallelism(self) -> int:
        """Tasks of planning at a time."""
        return max(2, int(self.cpus) * 2)

    def sampled(self, settings: SegmentSettings, units: int) -> bool:
        """Whether a sample is run before so many units."""
        return bool(self.nodes) and planner.worth_a_sample(settings, self.budget, units)

    def shares(self, settings: SegmentSettings, units: int) -> bool:
        """Whether the sample also tries how many predictors one GPU serves best."""
        return not planner.on_cpu(self.budget) and self.sampled(settings, units)

    def fit(self, settings: SegmentSettings, sample: Sampled | None, *, units: int, chunks: int) -> Machine:
        """Shared out for the work that is left, and, where a job of it would run a sample, by what the sample costs."""
        budget = planner.enough_for(self.budget, settings, chunks)
        if sample is None or not len(sample.seconds):
            return replace(self, budget=budget)
        costs = planner.Costs.of_sample(sample.seconds)
        if self.sampled(settings, units):
            budget = planner.fitted(
                budget, settings, costs, nodes=self.nodes, resident=sample.resident, shared_rates=sample.shared_rates
            )
        return replace(self, budget=budget, expected=planner.expected(costs, budget, cpus=self.cpus, chunks=chunks))


def fit_to_work(
    context: Context, plan: Plan, stages: Any, machine: Machine, *, units: int, chunks: int, progress: Progress
) -> Machine:
    """The machine shared out for what is left, after a sample where one pays; says what is expected.

    Args:
        stages: `execute.Stages` of the job.
        units, chunks: that are left.
    """
    settings = context.settings
    if not machine.sampled(settings, units):
        return machine.fit(settings, None, units=units, chunks=chunks)
    drawn = draw(context.store, plan, planner.SAMPLE_UNITS)
    share = machine.shares(settings, units)
    sample, trouble = measure(drawn, context, stages, machine.budget, new_board(), limit_s=planner.SAMPLE_S, share=share)
    found = machine.fit(settings, sample, units=units, chunks=chunks)
    if sample is None or found.expected is None:
        log.info("no sample to plan by: %s", trouble or "none of its units could be done")
        return found
    if found.budget.threads != machine.budget.threads:  # memory holds fewer predictors: are more threads of any use to each?
        more, _ = measure(drawn, context, stages, found.budget, new_board(), limit_s=planner.SAMPLE_S)
        found = _better(found, machine.budget.threads, sample, more, chunks)
    assert found.expected is not None
    progress.say(planner.said(found.expected, found.budget, units, progress.noun))
    warning = planner.too_large(found.budget, found.nodes, sample.resident)
    if warning:
        progress.say(warning)
    return found


def _better(many: Machine, few_threads: int, by_few: Sampled, by_many: Sampled | None, chunks: int) -> Machine:
    """The pool with the threads it has, or with few, whichever is faster by a sample run with each."""
    few_budget = replace(many.budget, threads=few_threads)
    few = planner.expected(planner.Costs.of_sample(by_few.seconds), few_budget, cpus=many.cpus, chunks=chunks)
    if by_many is not None and len(by_many.seconds):
        found = planner.expected(planner.Costs.of_sample(by_many.seconds), many.budget, cpus=many.cpus, chunks=chunks)
        if found.unit_s < few.unit_s:
            return replace(many, expected=found)
    return replace(many, budget=few_budget, expected=few)
