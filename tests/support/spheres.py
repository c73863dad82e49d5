"""Is a volume a sphere? Intersection over union with the sphere that fits it best."""

import numpy as np


def ball(size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    z, y, x = np.ogrid[:size, :size, :size]
    squared = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
    return squared <= radius**2


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def best_sphere(volume: np.ndarray) -> tuple[float, np.ndarray, float]:
    """IoU, centre and radius of the sphere that fits `volume` [D, H, W] > 0 best.

    Starts at the centre of mass with the radius of equal volume, then descends coordinate by
    coordinate with halving steps.
    """
    solid = volume > 0
    if not solid.any():
        return 0.0, np.zeros(3), 0.0
    size = len(solid)
    radius = min(size / 2, (solid.sum() * 3 / (4 * np.pi)) ** (1 / 3))
    guess = np.append(np.argwhere(solid).mean(0), radius)
    best = iou(solid, ball(size, guess[:3], guess[3]))
    for step in (1.0, 0.5, 0.25):
        improved = True
        while improved:
            improved = False
            for axis in range(4):
                for sign in (step, -step):
                    trial = guess.copy()
                    trial[axis] += sign
                    if trial[3] > size / 2:  # a full volume is no sphere
                        continue
                    score = iou(solid, ball(size, trial[:3], trial[3]))
                    if score > best:
                        guess, best, improved = trial, score, True
    return float(best), guess[:3], float(guess[3])


def valid_share(volumes: np.ndarray, threshold: float = 0.9) -> float:
    """Share of volumes [N, 1, D, H, W] that are spheres."""
    return float(np.mean([best_sphere(v[0])[0] >= threshold for v in volumes]))
