"""Which evaluators are due, what they measured, and which checkpoint is the best by it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from avjax.errors import UserError
from avjax.training.evaluators import Evaluator, Interrupted
from avjax.training.state import evaluation_params


@dataclasses.dataclass
class Evaluation:
    """The evaluators of one training loop.

    Attributes:
      due: names of those that must run before the next step.
      latest: "evaluator/metric" -> value, of each evaluator's last run.
      of_this_step: the same, of what was measured at the current step only.
    """

    t: Any  # config.train
    evaluators: Sequence[Evaluator]
    due: list[str]
    latest: dict[str, float] = dataclasses.field(default_factory=dict)
    of_this_step: dict[str, float] = dataclasses.field(default_factory=dict)

    def pending(self) -> list[Evaluator]:
        return [e for e in self.evaluators if e.name in self.due]

    def after_step(self, step: int, last: bool) -> None:
        """Decides what is due at `step`."""
        self.of_this_step = {}
        self.due = [e.name for e in self.evaluators if e.every > 0
                    and (step % e.every == 0 or last)]

    def run(self, evaluator: Evaluator, state, step: int, *,
            proceed: Callable[[], bool]) -> tuple[dict[str, float], dict[str, Any]] | None:
        """(metrics, artefacts) of one evaluator that is due; None when a stop came in between."""
        evaluator.should_stop = lambda: not proceed()
        try:
            result = evaluator.run(evaluation_params(state), step)
        except Interrupted:
            return None
        metrics, artefacts = result if isinstance(result, tuple) else (result, {})
        metrics = {name: float(value) for name, value in metrics.items()}
        self.due.remove(evaluator.name)
        measured = {f"{evaluator.name}/{name}": value for name, value in metrics.items()}
        self.of_this_step |= measured
        self.latest |= measured
        return metrics, artefacts

    def rank(self) -> float | None:
        """The value of config.train.best_metric at this step, by the first evaluator that measured
        it; None where it was not measured or is not finite."""
        values = self._best_metric(self.of_this_step) if self.t.keep_best else []
        return values[0] if values and math.isfinite(values[0]) else None

    def best_metric_is_missing(self) -> bool:
        """Whether all evaluators have run and none measures the metric that picks the best."""
        names = {name.split("/", 1)[0] for name in self.latest}
        waiting = {e.name for e in self.evaluators if e.every > 0} - names
        return bool(self.t.keep_best) and not waiting and not self._best_metric(self.latest)

    def missing_best_metric(self, step: int) -> UserError:
        return UserError("no evaluator measures the metric that picks the best checkpoint",
                         where="config.train.best_metric", expected=" or ".join(self.latest),
                         found=repr(self.t.best_metric),
                         hint=f"step {step} is saved: change it and start again")

    def _best_metric(self, metrics: dict[str, float]) -> list[float]:
        """Values of config.train.best_metric: "evaluator/metric", or a bare metric."""
        return [value for name, value in metrics.items()
                if self.t.best_metric in (name, name.split("/", 1)[1])]
