"""From pixels to coordinates on the ground and back: affine transforms, rotated ones too, and ground control points.

A pixel coordinate counts from the upper left corner of the scene, x right and y down, so that pixel centres lie at +0.5. Both
directions belong to one map: the way back is that map's inverse, never a second fit. Rational polynomials (RPC), which need
heights, are refused by `raster.py`; shapes are carried over by whoever holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rayseg.errors import UnsupportedImage

Gcp = tuple[float, float, float, float]
"""A ground control point: x and y in pixels, x and y on the ground."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_GOOD_FIT_PX = 0.5
_NEWTON_STEPS = 40
_CLOSE_PX = 1e-9


@dataclass(frozen=True)
class Ground:
    """Where a scene lies.

    Attributes:
        crs_wkt: the coordinate reference system; None when unknown. Then results stay in pixels.
        affine: (a, b, c, d, e, f) of X = a x + b y + c and Y = d x + e y + f. GDAL does not tell an absent transform from
            the identity, and neither do we.
        gcps: ground control points, used in place of `affine` when there are any.
    """

    crs_wkt: str | None = None
    affine: tuple[float, float, float, float, float, float] = IDENTITY
    gcps: tuple[Gcp, ...] = ()

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.affine
        if not np.isfinite(self.affine).all() or a * e == b * d:
            raise UnsupportedImage(
                f"the transform {self.affine} puts all pixels on one line; set it anew with gdal_edit.py -a_gt"
            )
        if 0 < len(self.gcps) < 3:
            raise UnsupportedImage(f"{len(self.gcps)} ground control points do not fix a transform; at least three are needed")

    @property
    def in_pixels(self) -> bool:
        """True when results can only be given in pixels: no reference system, or no transform that leads to it."""
        return self.crs_wkt is None or (self.affine == IDENTITY and not self.gcps)

    def to_ground(self, xy: np.ndarray) -> np.ndarray:
        """Pixel coordinates to coordinates on the ground.

        Args:
            xy: (..., 2), any numbers; may lie outside the scene.

        Returns:
            float64 of the same shape.
        """
        return self._map.forward(np.asarray(xy, dtype=np.float64))

    def to_pixels(self, xy: np.ndarray) -> np.ndarray:
        """Coordinates on the ground to pixel coordinates; the inverse of `to_ground`.

        Args:
            xy: (..., 2).

        Returns:
            float64 of the same shape; NaN for a point far outside a scene with ground control points that the
            polynomial does not reach.
        """
        return self._map.backward(np.asarray(xy, dtype=np.float64))

    @property
    def gcp_error_px(self) -> float:
        """By how many pixels the map misses the worst control point; 0 without any."""
        return self._map.error_px(self.gcps) if self.gcps else 0.0

    def shift(self, dx: int, dy: int) -> Ground:
        """The ground of the part of the scene that starts at pixel (dx, dy)."""
        a, b, _, d, e, _ = self.affine
        c, f = (float(v) for v in self._affine_map.forward(np.array([dx, dy], dtype=np.float64)))
        return Ground(self.crs_wkt, (a, b, c, d, e, f), tuple((x - dx, y - dy, gx, gy) for x, y, gx, gy in self.gcps))

    @cached_property
    def _affine_map(self) -> _Polynomial:
        a, b, c, d, e, f = self.affine
        return _Polynomial(1, np.zeros(2), 1.0, np.array([[c, f], [a, d], [b, e]]))

    @cached_property
    def _map(self) -> _Polynomial:
        return _fit(self.gcps) if self.gcps else self._affine_map

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


class _Polynomial:
    """X and Y on the ground as polynomials of (x - centre) / span, with an inverse by Newton's method."""

    def __init__(self, order: int, centre: np.ndarray, span: float, coefficients: np.ndarray) -> None:
        """
        Args:
            order: 1, 2 or 3.
            centre: float64 (2,), pixels.
            span: pixels.
            coefficients: float64 (terms, 2), in the order of `_powers`.
        """
        self.order, self.centre, self.span = order, centre, span
        self.origin, self.coefficients = coefficients[0], coefficients[1:]  # the origin is large; adding it last keeps digits

    def forward(self, xy: np.ndarray) -> np.ndarray:
        return self.origin + self._terms((xy - self.centre) / self.span) @ self.coefficients

    def backward(self, xy: np.ndarray) -> np.ndarray:
        target = xy - self.origin
        linear = np.linalg.inv(self.coefficients[:2])
        at = target @ linear
        if self.order > 1:
            at = self._newton(at, target)
        return at * self.span + self.centre

    def error_px(self, gcps: tuple[Gcp, ...]) -> float:
        table = np.array(gcps, dtype=np.float64)
        return float(np.hypot(*(self.backward(table[:, 2:]) - table[:, :2]).T).max())

    def _newton(self, at: np.ndarray, target: np.ndarray) -> np.ndarray:
        for _ in range(_NEWTON_STEPS):
            jacobian = self._slopes(at)
            with np.errstate(all="ignore"):  # far outside it may run away; that ends as NaN below
                step = _solve(jacobian, self._terms(at) @ self.coefficients - target)
                at = at - step
            if not (np.abs(step) * self.span > _CLOSE_PX).any():
                break
        missed = ~(np.abs(step) * self.span <= 1e-6).all(axis=-1, keepdims=True)
        return np.where(missed, np.nan, at)

    def _terms(self, uv: np.ndarray) -> np.ndarray:
        """(..., terms without the constant one)."""
        return np.stack([uv[..., 0] ** i * uv[..., 1] ** j for i, j in _powers(self.order)[1:]], axis=-1)

    def _slopes(self, uv: np.ndarray) -> np.ndarray:
        """(..., 2, 2): row X or Y, column by u or v."""
        u, v = uv[..., 0], uv[..., 1]
        by_u = np.stack([i * u ** max(i - 1, 0) * v**j for i, j in _powers(self.order)[1:]], axis=-1)
        by_v = np.stack([u**i * j * v ** max(j - 1, 0) for i, j in _powers(self.order)[1:]], axis=-1)
        return np.stack([by_u @ self.coefficients, by_v @ self.coefficients], axis=-1)


def _powers(order: int) -> list[tuple[int, int]]:
    """Exponents of u and v, by rising degree."""
    return [(degree - j, j) for degree in range(order + 1) for j in range(degree + 1)]


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cramer's rule for (..., 2, 2); a singular one gives infinities instead of an error for all."""
    (a, b), (c, d) = (matrix[..., 0, 0], matrix[..., 0, 1]), (matrix[..., 1, 0], matrix[..., 1, 1])
    det = a * d - b * c
    return np.stack([(d * right[..., 0] - b * right[..., 1]) / det, (a * right[..., 1] - c * right[..., 0]) / det], axis=-1)


def _fit(gcps: tuple[Gcp, ...]) -> _Polynomial:
    """The polynomial of lowest order, up to 3, that meets all points within half a pixel; else the best of order 2 or less.

    Order n is tried with twice the points it needs. Order 3 swings where there are no points, so it must fit well to be
    taken; GDAL leaves it out for that reason.
    """
    table = np.array(gcps, dtype=np.float64)
    pixels, ground = table[:, :2], table[:, 2:]
    centre = pixels.mean(axis=0)
    span = float(np.abs(pixels - centre).max()) or 1.0
    candidates = []
    for order in (1, 2, 3):
        powers = _powers(order)
        if order > 1 and len(gcps) < 2 * len(powers):
            break
        terms = np.stack(
            [((pixels - centre) / span)[:, 0] ** i * ((pixels - centre) / span)[:, 1] ** j for i, j in powers], axis=1
        )
        offset = ground.mean(axis=0)
        coefficients, _, rank, _ = np.linalg.lstsq(terms, ground - offset, rcond=None)
        if rank < len(powers):
            break
        coefficients[0] += offset
        found = _Polynomial(order, centre, span, coefficients)
        error = found.error_px(gcps)
        if error <= _GOOD_FIT_PX:
            return found
        if order < 3 and np.isfinite(error):
            candidates.append((error, order, found))
    if not candidates:
        raise UnsupportedImage(f"the {len(gcps)} ground control points lie on one line; no transform follows from them")
    return min(candidates, key=lambda c: c[:2])[2]
