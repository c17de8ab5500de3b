"""Whether to trust an engine on the made-up picture: the quick comparison, and a second look at what it finds fault with.

Made-up pictures have many near ties, above all with weights that never met such pictures: objects in nearly the same place
that change rows, pixels between two classes. The quick comparison (probe.py) counts those against an engine. So when it
does, the plain engine also runs the picture moved by a part in a million, and what is unstable there is excused (compare.py).
"""

from __future__ import annotations

import numpy as np

from rayseg.predict.backends.compare import agreement
from rayseg.predict.backends.measure import moved_inputs
from rayseg.predict.backends.probe import OBJECTS_DIFFERING, deviation, probe_image
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.execute import feed
from rayseg.predict.families import finish, split_outputs
from rayseg.predict.spec import ModelSpec
from rayseg.results import Result


def distrust(spec: ModelSpec, fast: Backend, sure: Backend) -> str | None:
    """Why the results of a fast engine cannot be taken for the plain engine's, or None."""
    reason = deviation(spec, fast, sure)
    if reason is None:
        return None
    image = probe_image(spec)
    inputs = feed(spec, [image])

    def result(backend: Backend, given: dict[str, np.ndarray]) -> Result:
        (raw,) = split_outputs(spec, backend.run(given), [image])
        return finish(spec, raw, threshold=0.0)

    moved = result(sure, moved_inputs(inputs, np.random.default_rng(0)))
    seen = agreement([result(fast, inputs)], [result(sure, inputs)], [moved], threshold=0.0)
    allowed = OBJECTS_DIFFERING * seen.compared if spec.task == "instance" else 0
    understood = seen.n_excused <= seen.compared and len(seen.unexplained) <= allowed
    return None if seen.compared and understood else reason
