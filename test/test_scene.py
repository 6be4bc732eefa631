"""Virtual scenes and the demo's moving one."""

import cv2
import numpy as np
from pose_estimator.camera import PinholeCamera
from pose_estimator.demo.meshes import builtin_mesh
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose
from pose_estimator.synthetic.backgrounds import background_bank
import pytest

pytest.importorskip('embreex')

from pose_estimator.demo.scene import DemoScene, NAMES  # noqa: E402, I100
from pose_estimator.synthetic.distractors import (  # noqa: E402
    body_bank, random_body, strew, warped)
from pose_estimator.synthetic.render import RayCaster  # noqa: E402
from pose_estimator.synthetic.scene import (  # noqa: E402
    dressed, Light, random_paint, render_scene, SceneMaker)

CAMERA = PinholeCamera(np.array([[150, 0, 80], [0, 150, 60], [0, 0, 1.0]]), 160, 120)
LIGHT = Light(np.full(3, 0.5), np.array([[0, 0, -1.0]]), np.full((1, 3), 0.5))
BLACK = np.zeros((120, 160, 3), np.uint8)


def at(x, y, z):
    return Pose(np.eye(3), np.array([x, y, z], float))


def test_backgrounds_vary_and_repeat_with_the_seed():
    bank = background_bank(np.random.default_rng(3), 6, 64)
    assert bank.shape == (6, 64, 64, 3) and bank.dtype == np.uint8
    assert np.array_equal(bank, background_bank(np.random.default_rng(3), 6, 64))
    assert len({picture.tobytes() for picture in bank}) == 6


def test_nearest_surface_wins_and_visible_share_counts_it():
    book = RayCaster(builtin_mesh('book'))
    alone = render_scene([(book, at(0, 0, 1))], CAMERA, LIGHT, BLACK)
    assert alone.visible[0] == pytest.approx(1)
    assert (alone.image[alone.ids == 1] > 0).any()
    assert not alone.image[alone.ids == 0].any()
    seen = alone.depth[alone.ids == 1]
    assert 0.96 < seen.min() and seen.max() < 1.04
    both = render_scene([(book, at(0, 0, 1)), (book, at(0.05, 0, 0.6))], CAMERA, LIGHT, BLACK)
    assert both.visible[1] == pytest.approx(1)
    assert both.visible[0] < 0.5
    covered = render_scene([(book, at(0, 0, 1))], CAMERA, LIGHT, BLACK, [(book, at(0, 0, 0.5))])
    assert covered.visible[0] == 0 and not covered.ids.any()


def test_truncated_and_hidden_objects():
    cup = RayCaster(builtin_mesh('cup'))
    # The image's left border cuts it in two.
    cut = render_scene([(cup, at(-0.44, 0, 0.8)), (cup, at(0, 0, -1))], CAMERA,
                       LIGHT, BLACK)
    assert 0.3 < cut.visible[0] < 0.8
    assert cut.visible[1] == 0


def test_scene_maker_is_repeatable_and_varied():
    meshes = {name: builtin_mesh(name) for name in NAMES}
    first = SceneMaker(meshes, np.random.default_rng(5), 96, 72)
    second = SceneMaker(meshes, np.random.default_rng(5), 96, 72)
    counts = set()
    for _ in range(8):
        scene, names = first.scene()
        again, _ = second.scene()
        assert np.array_equal(scene.image, again.image)
        assert scene.image.shape == (72, 96, 3) and scene.ids.shape == (72, 96)
        assert scene.ids.max() <= len(names) == len(scene.visible)
        counts.add(len(names))
    assert len(counts) > 2


def test_scenes_before_photographs(tmp_path):
    path = tmp_path / 'green.png'
    cv2.imwrite(str(path), np.full((50, 90, 3), (0, 250, 0), np.uint8))
    maker = SceneMaker({'cup': builtin_mesh('cup')}, np.random.default_rng(5), 96, 72,
                       backgrounds=[str(path)])
    pictures = [maker._background() for _ in range(10)]
    green = [np.all(one == (0, 250, 0)) for one in pictures]
    assert 0 < sum(green) < 10 and {one.shape for one in pictures} == {(72, 96, 3)}
    path.write_text('no picture')
    with pytest.raises(InputError, match='picture'):
        for _ in range(10):
            maker._background()


def test_crowded_and_empty_scenes():
    meshes = {name: builtin_mesh(name) for name in NAMES}
    maker = SceneMaker(meshes, np.random.default_rng(3), 96, 72, empty=0.0)
    drawn = [maker.scene() for _ in range(12)]
    hidden = np.concatenate([scene.visible for scene, _ in drawn])
    assert (hidden < 0.5).any() and (hidden > 0.9).any()
    empty = SceneMaker(meshes, np.random.default_rng(3), 96, 72, empty=1.0)
    assert all(not names and not scene.ids.any() for scene, names in
               (empty.scene() for _ in range(3)))


def test_paint_changes_colours_within_bounds():
    rng = np.random.default_rng(0)
    albedo = rng.integers(0, 256, (50, 3), dtype=np.uint8)
    painted = [random_paint(rng)(albedo) for _ in range(5)]
    assert all(one.shape == (50, 3) and one.min() >= 0 and one.max() <= 255 for one in painted)
    assert all(np.abs(one - albedo).mean() > 1 for one in painted)


@pytest.mark.parametrize('share, least, most', [(0.0, 0, 12), (1.0, 20, 45)])
def test_dyed_objects_have_other_hues(monkeypatch, share, least, most):
    monkeypatch.setattr('pose_estimator.synthetic.scene.DYED', share)
    rng = np.random.default_rng(0)
    red = np.array([[200, 60, 60]], np.uint8)
    painted = np.array([random_paint(rng)(red)[0] for _ in range(60)], float)
    r, g, b = painted.T
    assert least < np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)).std() < most


def test_dressed_bodies_have_the_given_colours_and_keep_light_and_dark():
    rng = np.random.default_rng(0)
    body = random_body(rng)
    colors = np.array([[250, 240, 245], [20, 30, 10], [120, 20, 20], [130, 120, 140]], np.uint8)
    texture = dressed(body, colors).texture
    assert texture.shape == body.texture.shape
    found, counts = np.unique(texture.reshape(-1, 3), axis=0, return_counts=True)
    assert {tuple(color) for color in found} == {tuple(color) for color in colors}
    assert counts.max() - counts.min() <= 1
    before, after = body.texture.mean(-1).ravel(), texture.mean(-1).ravel()
    assert before[after > 200].min() >= before[after < 30].max()


def test_random_bodies_are_closed_in_size():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mesh = random_body(rng, most_parts=5)
        assert np.isfinite(mesh.normals).all() and np.isfinite(mesh.uv).all()
        assert 0.029 < np.ptp(mesh.vertices, axis=0).max() < 0.301


def test_warped_meshes_keep_their_skin_and_lose_their_shape():
    rng = np.random.default_rng(0)
    cup = builtin_mesh('cup')
    points = cup.vertices - cup.vertices.mean(0)
    for _ in range(20):
        mesh = warped(cup, rng)
        assert mesh.texture is cup.texture and np.array_equal(mesh.faces, cup.faces)
        assert np.isfinite(mesh.normals).all()
        size = np.ptp(mesh.vertices, axis=0).max() / np.ptp(cup.vertices, axis=0).max()
        assert 0.5 < size < 2
        # The nearest that the cup, turned, mirrored and scaled, comes to it (Procrustes).
        moved = mesh.vertices - mesh.vertices.mean(0)
        u, strengths, v = np.linalg.svd(points.T @ moved)
        nearest = points @ u @ v * (strengths.sum() / (points ** 2).sum())
        assert np.linalg.norm(nearest - moved) > 0.15 * np.linalg.norm(moved)


def test_strewn_bodies_lie_in_the_picture_and_vary():
    rng = np.random.default_rng(0)
    bank = body_bank(rng, 5, 32)
    assert all((picture[..., 3] > 0).mean() > 0.02 for picture in bank)
    picture = np.full((60, 90, 3), 7, np.uint8)
    strew(rng, picture, bank, 0, 0.1, 0.3)
    assert (picture == 7).all()
    strew(rng, picture, bank, 30, 0.1, 0.3)
    assert 0.2 < (picture != 7).any(-1).mean() < 0.98
    # Opaque where a body is, unchanged where it is not, also across the border.
    bank[..., :3], bank[..., 3] = 200, 255
    strew(rng, picture, bank, 400, 0.2, 0.3)
    assert picture.std(-1).max() <= 1


def test_demo_scene():
    scene = DemoScene(4)
    frame = scene.frame(6.5)
    assert frame.image.shape == (480, 640, 3) and frame.image.dtype == np.uint8
    assert set(frame.poses) == set(frame.visible) == set(NAMES)
    assert np.array_equal(frame.image, DemoScene(4).frame(6.5).image)
    assert 'seed 4' in scene.describe()
    moved = scene.frame(6.7)
    for name in NAMES:
        assert 0.45 < frame.poses[name].t_m2c[2] < 1.15
        step = np.linalg.norm(moved.poses[name].t_m2c - frame.poses[name].t_m2c)
        assert step < 0.1, 'smooth'
    # After its duration it begins anew.
    assert np.allclose(scene.frame(6.5 + scene.duration).poses['cup'].matrix,
                       frame.poses['cup'].matrix)


def test_demo_cover_hides_objects_now_and_then_and_the_handle_counts():
    scene = DemoScene(4)
    frames = [scene.frame(time_s) for time_s in (1.2, 2.5, 7, 15, 17.5, 19, 23)]
    shares = [frame.visible['cup'] for frame in frames]
    assert min(shares) < 0.2 and max(shares) > 0.9
    for frame in frames:
        assert frame.cup_handle_visible == 0 or frame.visible['cup'] > 0
    assert max(frame.cup_handle_visible for frame in frames) > 50
