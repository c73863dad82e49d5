"""Metrics of solids: is each one of its kind, do all of them follow the law, how near are two
sets."""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ddiff.data.shapes import UNION, Shapes
from ddiff.data.spheres import Spheres
from ddiff.metrics.by_pairs import packed
from ddiff.metrics.case import Case
from ddiff.metrics.figures import Figure, mean_figure, median_figure, share_figure
from ddiff.metrics.laws import centred, drawn, same_law, uniform_test
from ddiff.metrics.neighbours import (
    coverage,
    minimum_matching_distance,
    one_nearest_neighbour_accuracy,
)
from ddiff.metrics.occupancy import chamfer_distances, iou_distances, surface_points
from ddiff.metrics.solids import best_solid
from ddiff.metrics.spheres import Sphere, best_sphere, radius_interval
from ddiff.metrics.stack import Stack
from ddiff.metrics.topology import topology
from ddiff.system.bounds import At, Count, Share
from ddiff.system.random import generator


class SphereLaw:
    """Validity (IoU with the best-fitting sphere at least `threshold`), and the laws of radius and
    centre of the valid ones against the data's, by Kolmogorov and Smirnov: D and p."""

    def __init__(self, threshold: Share = 0.9) -> None:
        self.threshold = threshold

    def obstacle(self, case: Case) -> str | None:
        return None if isinstance(case.data, Spheres) else "needs spheres as data"

    def __call__(self, case: Case) -> list[Figure]:
        assert isinstance(case.data, Spheres)
        size, (low, high) = case.data.size, case.data.radius_range
        middle = np.full(3, (size - 1) / 2)
        fits: list[Sphere] = []
        intervals = []
        for x, _ in case.samples.chunks():
            for solid in (x[:, 0] > 0).numpy():
                fit = best_sphere(solid)
                fits.append(fit)
                # where the centre is known, the radius is best known about it
                about = best_sphere(solid, middle) if case.data.centre == "fixed" else fit
                intervals.append(radius_interval(solid.shape, about.centre, about.radius))
        iou = np.array([fit.iou for fit in fits])
        valid = iou >= self.threshold
        how = {"fit": "best sphere of any centre", "threshold": self.threshold}
        figures = [
            share_figure("validity", valid, how, "higher"),
            median_figure("sphere_iou", iou, how, "higher", case.seed),
        ]
        if not valid.any():
            return figures
        law = {"of": f"{self.threshold:g} valid", "law": f"uniform {low:g}..{high:g}"}
        radius = drawn(np.array(intervals)[valid], low, high, case.seed)
        d, p = uniform_test(radius, low, high)
        n = int(valid.sum())
        figures += [Figure("radius_d", d, n, law, better="lower"), Figure("radius_p", p, n, law)]
        centre = np.stack([fit.centre for fit in fits])[valid]
        if case.data.centre == "fixed":
            off = np.linalg.norm(centre - middle, axis=1)
            about = {"of": law["of"], "unit": "voxels"}
            return [*figures, mean_figure("centre_offset", off, about, "lower", case.seed)]
        places = centred(centre, radius, size)
        tests = [uniform_test(places[:, axis], -1, 1) for axis in range(3)]
        law = {"of": law["of"], "law": "uniform in the room, worst axis, p times 3"}
        return [
            *figures,
            Figure("centre_d", max(d for d, _ in tests), n, law, better="lower"),
            Figure("centre_p", min(1.0, 3 * min(p for _, p in tests)), n, law),
        ]


class SolidFit:
    """Validity of labelled solids: IoU with the best-fitting solid of the kind asked for. Unions
    are left out."""

    def __init__(self, threshold: Share = 0.85, most: Count = 100) -> None:
        self.threshold, self.most = threshold, most

    def obstacle(self, case: Case) -> str | None:
        if not isinstance(case.data, Shapes):
            return "needs shapes as data"
        if case.y is None or bool((case.y == UNION).all()):
            return "needs samples with labels other than union"
        return None

    def __call__(self, case: Case) -> list[Figure]:
        assert case.y is not None
        rows = (case.y != UNION).nonzero()[:, 0]
        rows = rows[torch.linspace(0, len(rows) - 1, min(self.most, len(rows))).round().long()]
        iou = []
        for row in rows.split(1):
            x, _ = case.samples.source.batch(row)
            iou.append(best_solid((x[0, 0] > 0).numpy(), int(case.y[row]), case.seed))
        how = {"fit": "best solid of the label's kind, without unions", "threshold": self.threshold}
        valid = np.array(iou) >= self.threshold
        return [
            share_figure("validity", valid, how, "higher"),
            median_figure("solid_iou", np.array(iou), how, "higher", case.seed),
        ]


class Sets:
    """Minimum matching distance, coverage and 1-NN accuracy (0.5 is best) of equally many samples
    and held-out volumes, by 1 - IoU and by the Chamfer distance of points on the surface."""

    def __init__(self, most: Annotated[int, At(least=2)] = 500, points: Count = 256) -> None:
        self.most, self.points = most, points

    def obstacle(self, case: Case) -> str | None:
        if not case.volumes:
            return "needs volumes"
        n, m = len(case.samples), len(case.held_out)
        return None if min(n, m) > 1 else f"needs two volumes or more, not {min(n, m)}"

    def __call__(self, case: Case) -> list[Figure]:
        n = min(self.most, len(case.samples), len(case.held_out))
        solids = [packed(stack, n) for stack in (case.samples, case.held_out)]
        clouds = [self._clouds(stack, n, case.seed) for stack in (case.samples, case.held_out)]
        figures = []
        for name, distance, (ours, real) in (
            ("iou", iou_distances, solids),
            ("chamfer", chamfer_distances, clouds),
        ):
            oo, ro, rr = (
                distance(a, b).numpy() for a, b in ((ours, ours), (real, ours), (real, real))
            )
            how = {"reference": f"{n} of {case.held_out}"}
            how |= {"points": self.points} if name == "chamfer" else {}
            nearest = one_nearest_neighbour_accuracy(oo, ro.T, rr)
            figures += [
                mean_figure(f"mmd_{name}", minimum_matching_distance(ro), how, "lower", case.seed),
                share_figure(f"coverage_{name}", coverage(ro), how, "higher"),
                share_figure(f"one_nn_{name}", nearest, how, None),
            ]
        return figures

    def _clouds(self, stack: Stack, n: int, seed: int) -> Tensor:
        """[n, points, 3]; drawn alike from each, so that equal volumes have distance 0."""
        volumes = (volume for x, _ in stack.chunks(n) for volume in x[:, 0])
        return torch.stack(
            [surface_points(v, self.points, generator("cpu", seed, "surface")) for v in volumes]
        )


class Pieces:
    """How many samples are one piece; volume and surface against the held-out ones' law."""

    def __init__(self, most: Count = 1000) -> None:
        self.most = most

    def obstacle(self, case: Case) -> str | None:
        return None if case.volumes else "needs volumes"

    def __call__(self, case: Case) -> list[Figure]:
        ours, real = (
            [topology(s) for x, _ in stack.chunks(self.most) for s in (x[:, 0] > 0).numpy()]
            for stack in (case.samples, case.held_out)
        )
        one = np.array([found.components == 1 for found in ours])
        figures = [share_figure("one_piece", one, {"connected": "26"}, "higher")]
        how = {"reference": str(case.held_out), "law": "two-sample"}
        for name in ("volume", "surface"):
            d, p = same_law(*(np.array([getattr(t, name) for t in many]) for many in (ours, real)))
            figures += [
                Figure(f"{name}_d", d, len(ours), how, better="lower"),
                Figure(f"{name}_p", p, len(ours), how),
            ]
        return figures
