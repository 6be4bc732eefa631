"""Light, and the colours that surfaces have in it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Light:
    """
    Light without a place: ambient, a few directions, and the gloss of what it falls on.

    Attributes
    ----------
    ambient : array, shape (3,)
        RGB, 1 shows the albedo as it is.
    directions : array, shape (n, 3)
        Unit vectors in the camera frame from the surface towards each lamp.
    colors : array, shape (n, 3)
        RGB of each lamp.
    gloss : float
        Strength of highlights, 0 for none.
    shininess : float
        Exponent of highlights: large means small and sharp.

    """

    ambient: np.ndarray
    directions: np.ndarray
    colors: np.ndarray
    gloss: float = 0.0
    shininess: float = 20.0

    @classmethod
    def random(cls, rng):
        """Return one or two lamps from the camera's side or above, at random strengths."""
        count = int(rng.integers(1, 3))
        directions = rng.normal(0, 1, (count, 3)) + (0, -0.7, -0.8)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        strengths = rng.uniform(0.25, 0.9, (count, 1)) / count ** 0.5
        tints = 1 + rng.normal(0, 0.06, (count, 3))
        return cls(rng.uniform(0.3, 0.75) * (1 + rng.normal(0, 0.05, 3)), directions,
                   strengths * tints, rng.uniform(0, 0.6) * (rng.random() < 0.7),
                   np.exp(rng.uniform(np.log(5), np.log(80))))

    def shade(self, normal, albedo):
        """
        Return the colours of lit surface points.

        Parameters
        ----------
        normal : array, shape (N, 3)
            Unit normals, camera frame.
        albedo : array, shape (N, 3)
            RGB 0..255.

        Returns
        -------
        colors : array of float32, shape (N, 3)
            RGB, 0..255 and beyond where it is glaring.

        """
        normal = np.asarray(normal, np.float32)
        lamps, colors = (np.asarray(one, np.float32) for one in (self.directions, self.colors))
        light = np.maximum(normal @ lamps.T, 0) @ colors + np.asarray(self.ambient, np.float32)
        lit = albedo * light
        if self.gloss:
            half = lamps - np.array([0, 0, 1], np.float32)  # between the lamp and the camera
            half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-9)
            shine = np.maximum(normal @ half.T, 0) ** np.float32(self.shininess)
            lit += shine @ (colors * np.float32(self.gloss * 255))
        return lit
