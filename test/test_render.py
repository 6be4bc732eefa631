"""Ray casting against the mesh's own projection."""

import cv2
from mesh_example import coloured_box, expected_colours, SIZE_MM, write_textured
import numpy as np
from pose_estimator import mesh as module
from pose_estimator.camera import PinholeCamera
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.mesh import load_mesh, make_mesh, surface_samples
from pose_estimator.synthetic.render import RayCaster
import pytest
import trimesh

K = np.array([[420, 0, 82.0], [0, 400, 57.5], [0, 0, 1]])
WIDTH, HEIGHT = 160, 120
SIZE = SIZE_MM / 1000


@pytest.fixture(scope='module')
def box():
    mesh = trimesh.creation.box(SIZE)
    return make_mesh(mesh.vertices, mesh.faces)


def poses(count):
    rng = np.random.default_rng(4)
    return [Pose(rotation, [rng.uniform(-0.02, 0.02), rng.uniform(-0.01, 0.01),
                            rng.uniform(0.25, 0.6)])
            for rotation in random_rotations(rng, count)]


def surface_points(seen, pose, origin=(0, 0)):
    """Return the points (N, 3) in the model frame that the pixels of a G-buffer show."""
    y, x = np.nonzero(seen.mask)
    rays = PinholeCamera(K, WIDTH, HEIGHT).rays(np.column_stack([x, y]) + origin)
    return pose.inverse().transform(rays * seen.depth[seen.mask][:, None])


@pytest.mark.parametrize('pose', poses(6))
def test_silhouette_is_the_hull_of_the_projected_corners(box, pose):
    seen = RayCaster(box).render(pose, K, WIDTH, HEIGHT)
    pixels = PinholeCamera(K, WIDTH, HEIGHT).project(pose.transform(box.vertices))
    hull = cv2.convexHull(pixels.astype(np.float32))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.array([cv2.pointPolygonTest(hull, (float(u), float(v)), True)
                         for u, v in zip(x.ravel(), y.ravel())]).reshape(HEIGHT, WIDTH)
    assert seen.mask[distance > 0.05].all() and not seen.mask[distance < -0.05].any()
    assert seen.mask.sum() > 200


@pytest.mark.parametrize('pose', poses(4))
def test_depth_lies_on_the_surface_that_is_nearest(box, pose):
    seen = RayCaster(box).render(pose, K, WIDTH, HEIGHT)
    points = surface_points(seen, pose)
    off = np.abs(points) - SIZE / 2
    assert np.abs(off.max(1)).max() < 1e-5  # on the box
    # The face that a point lies on looks at the camera, and its normal says so.
    face = np.argmax(off, axis=1)
    outwards = np.zeros_like(points)
    outwards[np.arange(len(points)), face] = np.sign(points[np.arange(len(points)), face])
    towards_camera = pose.inverse().t_m2c - points
    assert ((outwards * towards_camera).sum(1) > -1e-6).all()
    on_one_face = np.sort(off, axis=1)[:, 1] < -1e-4
    np.testing.assert_allclose(seen.normal[seen.mask][on_one_face],
                               (outwards @ pose.R_m2c.T)[on_one_face], atol=1e-3)
    assert not seen.depth[~seen.mask].any() and not seen.normal[~seen.mask].any()


def test_window_is_a_part_of_the_whole(box):
    pose = poses(1)[0]
    whole = RayCaster(box).render(pose, K, WIDTH, HEIGHT)
    part = RayCaster(box).render(pose, K, 50, 40, origin=(60, 30))
    np.testing.assert_array_equal(part.mask, whole.mask[30:70, 60:110])
    np.testing.assert_allclose(part.depth, whole.depth[30:70, 60:110], atol=1e-6)


def test_nothing_in_view(box):
    for translation in ([0, 0, -0.5], [5, 0, 0.5]):
        seen = RayCaster(box).render(Pose(np.eye(3), translation), K, WIDTH, HEIGHT)
        assert not seen.mask.any() and not seen.albedo.any() and not seen.depth.any()


@pytest.mark.parametrize('kind', ['ply', 'obj', 'glb', 'dae'])
@pytest.mark.parametrize('pose', poses(3))
def test_texture_is_sampled_at_the_right_place(tmp_path, kind, pose):
    mesh = load_mesh(write_textured(tmp_path, kind), 0.001)
    seen = RayCaster(mesh).render(pose, K, WIDTH, HEIGHT)
    points = 1000 * surface_points(seen, pose)
    # Off the seams between the quarters by a millimetre and what a pixel sees at a slant.
    clear = (np.abs(points[:, :2]) > 1.0 + 2200 * seen.depth.max() / K[0, 0]).all(1)
    assert clear.sum() > 200
    np.testing.assert_array_equal(seen.albedo[seen.mask][clear], expected_colours(points[clear]))
    assert not seen.albedo[~seen.mask].any()


def square(texture, uv=None):
    """Return a square of 10 cm before the camera with a texture."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    return make_mesh(np.column_stack([0.1 * corners - 0.05, np.zeros(4)]),
                     [[0, 1, 2], [0, 2, 3]], uv=corners if uv is None else uv, texture=texture)


def test_a_pixel_sees_the_mean_of_the_texels_in_it():
    fine = np.repeat((255 * (np.indices((512, 512)).sum(0) % 2)).astype(np.uint8)[..., None], 3, 2)
    caster = RayCaster(square(fine))

    def spread(distance):
        seen = caster.render(Pose(np.diag([1, -1, -1]), [0, 0, distance]), K, WIDTH, HEIGHT)
        values = seen.albedo[seen.mask].astype(float)
        assert len(values) > 100
        return values.std(), values.mean()

    (near, _), (far, mean) = spread(0.02), spread(0.8)
    assert near > 30 and far < 3 and abs(mean - 127.5) < 3
    # So does a point that stands for all about it; one that stands for little sees one texel.
    few, many = (surface_samples(square(fine), 200, apart=apart)[2] for apart in (1, 2e-5))
    assert few.std() < 3 and many.std() > 30


def test_what_is_between_the_parts_of_an_atlas_is_never_seen():
    # A red part in a green atlas, none of whose lines are those of the smaller textures.
    texture = np.full((300, 300, 3), (0, 255, 0), np.uint8)
    texture[95:206, 95:206] = (255, 0, 0)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) / 3 + 1 / 3
    caster = RayCaster(square(texture, corners))
    for distance in (0.2, 0.5, 1, 2, 4):
        seen = caster.render(Pose(np.diag([1, -1, -1]), [0, 0, distance]), K, WIDTH, HEIGHT)
        red, green, _ = seen.albedo[seen.mask].astype(int).T
        assert len(red) > 5 and red.min() > 250 and green.max() < 5, distance


def test_large_textures_are_made_smaller(tmp_path, monkeypatch):
    path = write_textured(tmp_path, 'obj')
    whole = load_mesh(path, 0.001)
    monkeypatch.setattr(module, 'MOST_TEXELS', max(whole.texture.shape) // 2)
    half = load_mesh(path, 0.001)
    assert half.texture.shape[0] == whole.texture.shape[0] // 2
    pose = Pose(np.diag([1, -1, -1]), [0, 0, 0.4])
    first, second = (RayCaster(one).render(pose, K, WIDTH, HEIGHT).albedo.astype(int)
                     for one in (whole, half))
    assert np.abs(first - second).mean() < 3


def test_a_bent_mesh_keeps_its_colours():
    texture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    flat = square(texture)
    moved = flat.bent(2 * flat.vertices)
    assert moved.pyramid is flat.pyramid and moved.uv is flat.uv
    np.testing.assert_allclose(moved.texel, 2 * flat.texel)


def test_vertex_colours_are_interpolated(tmp_path):
    coloured_box().export(tmp_path / 'box.ply')
    mesh = load_mesh(tmp_path / 'box.ply', 0.001)
    pose = Pose(np.diag([1, -1, -1]), [0, 0, 0.3])
    seen = RayCaster(mesh).render(pose, K, WIDTH, HEIGHT)
    x = surface_points(seen, pose)[:, 0]
    red, _, blue = seen.albedo[seen.mask].astype(int).T
    # Red at x = 30 mm, blue at x <= 0, in between a straight blend.
    np.testing.assert_allclose(red, 255 * np.clip(x / 0.03, 0, 1), atol=2)
    np.testing.assert_allclose(blue, 255 - red, atol=1)


def test_mesh_without_colours_is_grey(box):
    seen = RayCaster(box).render(Pose(np.eye(3), [0, 0, 0.4]), K, WIDTH, HEIGHT)
    assert (seen.albedo[seen.mask] == 180).all()


@pytest.mark.parametrize('size', [0.001, 1, 1000])
def test_scale_does_not_matter(size):
    ball = trimesh.creation.icosphere(3, radius=size)
    mesh = make_mesh(ball.vertices, ball.faces)
    seen = RayCaster(mesh).render(Pose(np.eye(3), [0, 0, 5 * size]), K, WIDTH, HEIGHT)
    assert seen.depth[seen.mask].min() == pytest.approx(4 * size, rel=1e-3)
