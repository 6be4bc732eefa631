"""A bank of views: an object seen once from each of many random directions and distances."""

from dataclasses import dataclass

import cv2
import numpy as np

from .render import RayCaster
from ..geometry import Pose, random_rotations, rotation_between

# Side of a view in pixels, and how much of it the object spans.
VIEW_SIZE = 128
FILL = 0.9
# Distance over diameter; the nearer, the stronger the perspective.
DISTANCE = (1.5, 12.0)
# Share of views of things on a table before an upright camera above it. Half of them stand as
# their mesh does, z up; the others lie as chance would throw them. The rest: any orientation.
RESTING = 0.7


@dataclass(frozen=True, eq=False)
class ViewBank:
    """
    Views with their poses; crops are made of them by turning and zooming the camera.

    Turning a camera about its centre maps its image by a homography, whatever the depth, so
    one view stands for every roll, zoom and off-centre crop of it without error.

    Attributes
    ----------
    R_m2c : array, shape (V, 3, 3)
    t_m2c : array, shape (V, 3)
        Metres; the middle of the object's bounding box is on the camera's axis.
    focal : array, shape (V,)
        Focal length in pixels; the principal point is the view's middle.
    upright : array of bool, shape (V,)
        Whether the camera is upright: rolls far from that are unlikely.
    pixels : array of uint8, shape (V, C, VIEW_SIZE, VIEW_SIZE)
        C = 1: mask. C = 7: mask, albedo R G B, normal x y z as 127.5 (n + 1).

    """

    R_m2c: np.ndarray
    t_m2c: np.ndarray
    focal: np.ndarray
    upright: np.ndarray
    pixels: np.ndarray


def random_views(model, mesh, count, rng):
    """
    Return random camera placements around an object.

    Returns
    -------
    poses : list of Pose
    focal : array, shape (count,)
        Focal length in pixels at which the object spans FILL of a view.
    upright : array of bool, shape (count,)
        See ViewBank.

    """
    ratio = np.exp(rng.uniform(*np.log(DISTANCE), count))
    poses, focal = [], []
    points = np.concatenate([mesh.vertices[mesh.faces[:, 0]], model.points])
    points = points[rng.permutation(len(points))[:2000]]
    rotations = random_rotations(rng, count)
    upright = rng.random(count) < RESTING
    rotations[upright] = resting_rotations(mesh, int(upright.sum()), rng)
    for rotation, distance in zip(rotations, ratio * model.diameter):
        pose = Pose(rotation, [0, 0, distance] - rotation @ model.center)
        seen = pose.transform(points)
        extent = np.abs(seen[:, :2] / seen[:, 2:]).max()
        poses.append(pose)
        focal.append(FILL * (VIEW_SIZE / 2) / extent)
    return poses, np.array(focal), upright


def resting_rotations(mesh, count, rng):
    """
    Return R_m2c, shape (count, 3, 3), of a thing on a table, seen from above, camera upright.

    Half of them have the mesh's z axis up, the others rest on a face of the convex hull as
    often as the thing would fall on it (Goldberg et al. 1999).

    """
    ups, chances = resting_directions(mesh)
    spin, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 1, count)
    rotations = np.zeros((count, 3, 3))
    for index, which in enumerate(rng.choice(len(ups), count, p=chances)):
        # Directions to the camera are uniform on the half sphere above the table.
        sine, cosine = height[index], np.sqrt(1 - height[index] ** 2)
        table2camera = np.array([[1, 0, 0], [0, -sine, -cosine], [0, cosine, -sine]])
        turn = np.array([[np.cos(spin[index]), -np.sin(spin[index]), 0],
                         [np.sin(spin[index]), np.cos(spin[index]), 0], [0, 0, 1]])
        rotations[index] = table2camera @ turn @ rotation_between(ups[which], [0, 0, 1])
    return rotations


def resting_directions(mesh):
    """
    Return the ways in which a thing rests, as resting_rotations has them.

    Returns
    -------
    ups : array, shape (n, 3)
        Unit vector that points up, model frame.
    chances : array, shape (n,)
        How often; the sum is 1.

    """
    from scipy.spatial import QhullError
    import trimesh
    ups, chances = [[0.0, 0.0, 1.0]], [0.5]
    try:
        hull = trimesh.convex.convex_hull(mesh.vertices)
        transforms, chance = hull.compute_stable_poses(sigma=0.0, n_samples=1)
        ups += [transform[2, :3] for transform in transforms]
        chances += list(0.5 * chance / chance.sum())
    except (ValueError, IndexError, np.linalg.LinAlgError, QhullError):
        pass  # a flat mesh has no hull; it stands
    return np.array(ups), np.array(chances) / np.sum(chances)


def view_intrinsics(focal):
    """Return K, shape (3, 3), of a view."""
    middle = (VIEW_SIZE - 1) / 2
    return np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])


def appearance_views(model, mesh, count, rng, progress=iter):
    """
    Return a ViewBank with colours and normals, ray cast.

    Parameters
    ----------
    model : ObjectModel
        The object.
    mesh : Mesh
        Its mesh.
    count : int
        Number of views.
    rng : numpy.random.Generator
        Where the randomness comes from.
    progress : callable
        Wraps the iterable of views, to draw a bar.

    """
    caster = RayCaster(mesh)
    poses, focal, upright = random_views(model, mesh, count, rng)
    pixels = np.zeros((count, 7, VIEW_SIZE, VIEW_SIZE), np.uint8)
    for index in progress(range(count)):
        seen = caster.render(poses[index], view_intrinsics(focal[index]), VIEW_SIZE, VIEW_SIZE)
        pixels[index, 0] = seen.mask * np.uint8(255)
        pixels[index, 1:4] = seen.albedo.transpose(2, 0, 1)
        pixels[index, 4:7] = (127.5 * (seen.normal.transpose(2, 0, 1) + 1)).round()
    return _bank(poses, focal, upright, pixels)


def silhouette_views(model, mesh, count, rng, progress=iter):
    """Return a ViewBank of silhouettes, projected and drawn with OpenCV; see appearance_views."""
    vertices, faces = thin_out(mesh)
    poses, focal, upright = random_views(model, mesh, count, rng)
    pixels = np.zeros((count, 1, VIEW_SIZE, VIEW_SIZE), np.uint8)
    for index in progress(range(count)):
        draw_silhouette(pixels[index, 0], vertices, faces, poses[index],
                        view_intrinsics(focal[index]))
    return _bank(poses, focal, upright, pixels)


def _bank(poses, focal, upright, pixels):
    return ViewBank(np.stack([pose.R_m2c for pose in poses]),
                    np.stack([pose.t_m2c for pose in poses]), focal, upright, pixels)


def draw_silhouette(image, vertices, faces, pose, K):
    """
    Draw the silhouette of a mesh into an image, as the paper does it.

    Parameters
    ----------
    image : array of uint8, shape (h, w)
        Is set to 255 where the object is.
    vertices : array, shape (V, 3)
        Model frame, metres.
    faces : array of int, shape (F, 3)
        Indices of vertices.
    pose : Pose
        Model to camera.
    K : array, shape (3, 3)
        Intrinsics in pixels.

    """
    pixels, _ = cv2.projectPoints(vertices, pose.rotvec, pose.t_m2c, K, None)
    # Fixed point with 4 bits, as OpenCV's drawing takes it.
    corners = np.round(pixels.reshape(-1, 2)[faces] * 16).astype(np.int32)  # (F, 3, 2)
    side_a, side_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = (side_a[:, 0].astype(np.int64) * side_b[:, 1]
            - side_a[:, 1].astype(np.int64) * side_b[:, 0])
    for triangle in corners[area != 0]:
        cv2.fillConvexPoly(image, triangle, 255, shift=4)


def thin_out(mesh, cells=28):
    """
    Return vertices and faces of a coarse mesh with the same outline to about 1 %.

    Vertices in one cell of a grid are merged into their mean (vertex clustering, Rossignac &
    Borrel 1993) and faces that vanish are dropped; small meshes come back as they are.

    """
    if len(mesh.faces) <= 3000:
        return mesh.vertices, mesh.faces
    low = mesh.vertices.min(0)
    cell = np.ptp(mesh.vertices, axis=0).max() / cells
    _, group = np.unique(np.floor((mesh.vertices - low) / cell).astype(int), axis=0,
                         return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    vertices = np.stack([np.bincount(group, mesh.vertices[:, axis]) / count
                         for axis in range(3)], 1)
    faces = group[mesh.faces]
    kept = ((faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2])
            & (faces[:, 2] != faces[:, 0]))
    return vertices, np.unique(np.sort(faces[kept], axis=1), axis=0)
