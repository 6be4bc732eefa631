"""Ray casting of a mesh: what a camera sees of it, before light."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..mesh import surface_colors


@dataclass(frozen=True, eq=False)
class GBuffer:
    """
    Surface seen through each pixel; zero where there is none.

    Attributes
    ----------
    mask : array of bool, shape (h, w)
    depth : array of float32, shape (h, w)
        z in the camera frame, metres.
    normal : array of float32, shape (h, w, 3)
        Unit normal in the camera frame, turned towards the camera.
    albedo : array of uint8, shape (h, w, 3)
        RGB of the mesh's colours or texture; grey 180 where it has none.

    """

    mask: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    albedo: np.ndarray


class RayCaster:
    """
    Casts rays at one mesh (Embree, through embreex).

    Parameters
    ----------
    mesh : object_model.Mesh

    """

    def __init__(self, mesh):
        try:
            from embreex import rtcore_scene
            from embreex.mesh_construction import TriangleMesh
        except ImportError as error:
            raise InputError('rendering needs the package embreex: pip install '
                             'pose_estimator[train]') from error
        self.mesh = mesh
        # Embree's rays are float32: keep the numbers near 1.
        self._scale = 1.0 / max(np.ptp(mesh.vertices, axis=0).max(), 1e-9)
        self._scene = rtcore_scene.EmbreeScene()
        triangles = (mesh.vertices[mesh.faces] * self._scale).astype(np.float32)
        self._geometry = TriangleMesh(self._scene, triangles)
        self._normals = np.ascontiguousarray(mesh.normals.transpose(1, 0, 2), np.float32)

    def render(self, pose, K, width, height, origin=(0, 0)):
        """
        Render the mesh.

        Parameters
        ----------
        pose : Pose
            Model to camera, metres.
        K : array, shape (3, 3)
            Intrinsics in pixels, no distortion.
        width, height : int
            Size of the window in pixels.
        origin : (int, int)
            x, y of the window's top left pixel in the image.

        Returns
        -------
        GBuffer

        """
        K = np.asarray(K, float)
        # A pixel's ray is linear in its column and row.
        across, down, corner = np.linalg.inv(K).T @ pose.R_m2c  # model frame
        corner = corner + origin[0] * across + origin[1] * down
        columns = (np.arange(width)[:, None] * across).astype(np.float32)
        rows = (np.arange(height)[:, None] * down + corner).astype(np.float32)
        directions = (rows[:, None] + columns).reshape(-1, 3)
        start = (-pose.R_m2c.T @ pose.t_m2c * self._scale).astype(np.float32)
        hit = self._scene.run(np.broadcast_to(start, directions.shape).copy(), directions,
                              output=1)
        index = np.flatnonzero(hit['primID'] >= 0)
        face = hit['primID'][index]
        u, v = hit['u'][index, None], hit['v'][index, None]
        mask = np.zeros(height * width, bool)
        mask[index] = True
        # Directions have z = 1 in the camera frame, so the ray's parameter is the depth.
        depth = np.zeros(height * width, np.float32)
        depth[index] = hit['tfar'][index] / self._scale
        normal = np.zeros((height * width, 3), np.float32)
        ray = directions[index] @ pose.R_m2c.T.astype(np.float32)
        first, second, third = (normals[face] for normals in self._normals)
        surface = first + u * (second - first) + v * (third - first)
        surface = surface @ pose.R_m2c.T.astype(np.float32)
        surface /= np.maximum(_lengths(surface), 1e-9)
        slant = np.einsum('ij,ij->i', surface, ray)
        surface[slant > 0] *= -1
        normal[index] = surface
        albedo = np.zeros((height * width, 3), np.uint8)
        # What is seen at a slant reaches farther in one direction; its mean is over the same area.
        slant = np.abs(slant) / _lengths(ray)[:, 0]
        reach = depth[index] / np.sqrt(np.float32(K[0, 0] * K[1, 1]) * np.maximum(slant, 0.2))
        weights = np.stack([1 - u - v, u, v], 1)
        albedo[index] = surface_colors(self.mesh, face, weights, reach)
        return GBuffer(mask.reshape(height, width), depth.reshape(height, width),
                       normal.reshape(height, width, 3), albedo.reshape(height, width, 3))


def _lengths(vectors):
    """Return the lengths (n, 1) of vectors (n, 3)."""
    return np.sqrt(np.einsum('ij,ij->i', vectors, vectors))[:, None]
