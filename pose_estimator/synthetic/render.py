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
        self._normals = mesh.normals.astype(np.float32)

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
        # Rays through the pixels have z = 1 in the camera frame: their parameter is the depth.
        x = np.arange(origin[0], origin[0] + width, dtype=np.float32)
        y = np.arange(origin[1], origin[1] + height, dtype=np.float32)
        to_camera = np.linalg.inv(K)
        to_model = (pose.R_m2c.T @ to_camera).astype(np.float32)
        directions = x[None, :, None] * to_model[:, 0] + (y[:, None] * to_model[:, 1]
                                                          + to_model[:, 2])[:, None]
        directions = directions.reshape(-1, 3)
        start = (-pose.R_m2c.T @ pose.t_m2c * self._scale).astype(np.float32)
        hit = self._scene.run(np.broadcast_to(start, directions.shape).copy(), directions,
                              output=1)
        index = np.flatnonzero(hit['primID'] >= 0)
        face = hit['primID'][index]
        u, v = hit['u'][index], hit['v'][index]
        weights = np.stack([1 - u - v, u, v], -1).astype(np.float32)  # (n, 3)
        mask = np.zeros(height * width, bool)
        mask[index] = True
        depth = np.zeros(height * width, np.float32)
        depth[index] = hit['tfar'][index] / self._scale
        surface = np.einsum('nij,ni->nj', self._normals[face], weights)  # model frame
        surface /= np.maximum(np.sqrt(np.einsum('ni,ni->n', surface, surface)), 1e-9)[:, None]
        away = np.einsum('ni,ni->n', surface, directions[index]) > 0
        surface[away] *= -1
        normal = np.zeros((height * width, 3), np.float32)
        normal[index] = surface @ pose.R_m2c.T.astype(np.float32)
        albedo = np.zeros((height * width, 3), np.uint8)
        albedo[index] = surface_colors(self.mesh, face, weights[..., None])
        return GBuffer(mask.reshape(height, width), depth.reshape(height, width),
                       normal.reshape(height, width, 3), albedo.reshape(height, width, 3))
