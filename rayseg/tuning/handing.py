"""Which trial comes next, as Ray Tune asks it: those listed, then those that a searcher that learns comes up with.

Optuna is told of every trial that has ended, in this run or an earlier one, from the records; it keeps nothing on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from rayseg.config.search import Dimension
from rayseg.errors import ConfigError
from rayseg.tuning.points import Parameters, Point, Space, name_of, plain_value
from rayseg.tuning.records import begun, write_record


class Learner(Protocol):
    """Comes up with parameters, the better the more it was told."""

    def ask(self) -> Parameters:
        """Another point of the stage's own settings."""

    def tell(self, parameters: Mapping[str, Any], score: float | None) -> None:
        """How one did; None: it failed."""


class Handing(Searcher):
    """Hands points to Ray Tune, each written down before it runs.

    Args:
        waiting: to be handed out first.
        more: how many the learner adds.
        learner: None where all is listed.
        stage, chosen, number: of the points that the learner adds: their stage, what earlier stages found, and the number of
            the first.
    """

    def __init__(
        self,
        out: Path,
        waiting: Sequence[Point],
        *,
        more: int = 0,
        learner: Learner | None = None,
        stage: int = 1,
        chosen: Mapping[str, Any] | None = None,
        number: int = 1,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._out, self._waiting, self._more, self._learner = out, list(waiting), more, learner
        self._stage, self._chosen, self._number = stage, dict(chosen or {}), number
        self._running: dict[str, Point] = {}

    @property
    def total(self) -> int:
        """Points that are handed out, over all."""
        return len(self._waiting) + self._more

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Ray tells what it was told; the metric is always `score`."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config."""
        if self._waiting:
            point = self._waiting.pop(0)
        elif self._more and self._learner is not None:
            point = Point(name_of(self._stage, self._number), self._stage, {**self._chosen, **self._learner.ask()})
            self._more, self._number = self._more - 1, self._number + 1
        else:
            return str(Searcher.FINISHED)
        write_record(self._out, begun(self._out, point))
        self._running[trial_id] = point
        return {"id": point.id, "stage": point.stage, "parameters": point.parameters}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Passed on to the learner."""
        point = self._running.pop(trial_id, None)
        if point is not None and self._learner is not None:
            own = {key: value for key, value in point.parameters.items() if key not in self._chosen}
            self._learner.tell(own, None if error else (result or {}).get("best"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing that Ray keeps is read again."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class OptunaLearner:
    """Optuna's default searcher over a stage's settings.

    Raises:
        ConfigError: Optuna is not installed.
    """

    def __init__(self, space: Space, *, mode: str, seed: int, told: int = 0) -> None:
        """`told`: trials that have ended before, so that a search that goes on does not draw its first points again."""
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                "Search.searcher optuna needs Optuna, which is not installed: pip install 'rayseg[optuna]' on every machine, or "
                "use `searcher: random`"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space = optuna, dict(space)
        self._kinds = {key: self._distribution(dimension) for key, dimension in space.items()}
        direction = "maximize" if mode == "max" else "minimize"
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed + told), direction=direction)
        self._asked: list[tuple[Any, Parameters]] = []

    def ask(self) -> Parameters:
        """Another point."""
        trial = self._study.ask(self._kinds)
        found = {key: self._value(key, inner) for key, inner in trial.params.items()}
        self._asked.append((trial, found))
        return found

    def tell(self, parameters: Mapping[str, Any], score: float | None) -> None:
        """How one did, whether it was asked for here or in an earlier run."""
        failed = self._optuna.trial.TrialState.FAIL
        for place, (trial, found) in enumerate(self._asked):
            if found == dict(parameters):
                del self._asked[place]
                self._study.tell(trial, score, state=failed if score is None else None)
                return
        if score is not None:
            inner = {key: self._inner(key, value) for key, value in parameters.items()}
            self._study.add_trial(self._optuna.trial.create_trial(params=inner, distributions=self._kinds, value=score))

    def _distribution(self, dimension: Dimension) -> Any:
        """Values of a choice go by their place: Optuna takes no lists."""
        kinds = self._optuna.distributions
        if dimension.kind == "choice":
            return kinds.CategoricalDistribution(list(range(len(dimension.values))))
        low, high = dimension.values
        if dimension.kind == "randint":
            return kinds.IntDistribution(low, high - 1)
        return kinds.FloatDistribution(float(low), float(high), log=dimension.kind == "loguniform")

    def _value(self, key: str, inner: Any) -> Any:
        dimension = self._space[key]
        return plain_value(dimension.values[inner]) if dimension.kind == "choice" else inner

    def _inner(self, key: str, value: Any) -> Any:
        dimension = self._space[key]
        return [plain_value(v) for v in dimension.values].index(value) if dimension.kind == "choice" else value
