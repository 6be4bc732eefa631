"""Poses mended by what things stand on, against planes that are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from pose_estimator import support
from pose_estimator.bop import BopDataset
from pose_estimator.cli import main
from pose_estimator.demo.scene import NAMES
from pose_estimator.evaluate import evaluate, measure, names_by_number
from pose_estimator.geometry import Pose, random_rotations, rotation_between, rotation_of
from pose_estimator.pipeline import PoseEstimator
from pose_estimator.scoring import RIGHT
from pose_estimator.support import find_plane, Shape, Thing
from pose_estimator.true_masks import TrueMasks
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Half a metre below a camera that looks down by 40 degrees.
DOWN = np.radians(40)
NORMAL, HEIGHT = np.array([0, -np.cos(DOWN), -np.sin(DOWN)]), -0.5
SPOTS = [(-0.12, 0.0), (0.1, 0.1), (0.0, -0.12), (0.15, -0.1), (-0.1, 0.15)]
# Standard deviations along the ray, across it and of turns: what a pose is unsure of.
ALONG, ACROSS, TURNED = 0.03, 0.002, 0.05


def box_points(size=(0.06, 0.1, 0.16)):
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (3000, 3))
    side = rng.integers(0, 3, 3000)
    points[np.arange(3000), side] = np.sign(points[np.arange(3000), side]) / 2
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), -1).reshape(-1, 3)
    return np.concatenate([corners, points]) * size


def cylinder_points(radius=0.035, height=0.1):
    turn = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    ring = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.zeros(100)], 1)
    return np.concatenate([ring + [0, 0, z] for z in np.linspace(0, height, 20)])


BOX = Shape.of(box_points(), 0.2)
CYLINDER = Shape.of(cylinder_points(), 0.12)


def covariance_at(origin):
    ray = origin / np.linalg.norm(origin)
    covariance = np.diag([ACROSS ** 2] * 3 + [TURNED ** 2] * 3)
    covariance[:3, :3] += ALONG ** 2 * np.outer(ray, ray)
    return covariance


def spot(place):
    across = np.array([1.0, 0, 0])
    middle = np.array([0, 0, HEIGHT / NORMAL[2]])
    return middle + place[0] * across + place[1] * np.cross(NORMAL, across)


def at_rest(shape, up, spin, place, lift=0.0):
    rotation = rotation_of(NORMAL * spin) @ rotation_between(up, NORMAL)
    low = (shape.corners @ rotation.T @ NORMAL).min()
    return Pose(rotation, spot(place) + NORMAL * (lift - low))


def seen(shape, pose, rng, number=0, score=0.8):
    """Return a Thing whose pose errs as its covariance says; no two masks are alike."""
    covariance = covariance_at(pose.t_m2c)
    error = rng.multivariate_normal(np.zeros(6), covariance)
    mask = np.zeros((40, 400), bool)
    mask[5:35, 40 * number + 5:40 * number + 35] = True
    return Thing(shape, Pose(rotation_of(error[3:]) @ pose.R_m2c, pose.t_m2c + error[:3]),
                 covariance, score, np.array([40 * number + 5, 5, 40 * number + 35, 35]), mask)


def seen_at(shape, pose):
    """Return a Thing whose pose is true."""
    return replace(seen(shape, pose, np.random.default_rng(0)), pose=pose)


def table(rng):
    """Return true poses of five things on the plane, and the Things."""
    shapes = [BOX, CYLINDER, BOX, CYLINDER, BOX]
    true = [at_rest(shape, shape.ups[rng.integers(len(shape.ups))], rng.uniform(0, 6), place)
            for shape, place in zip(shapes, SPOTS)]
    return true, [seen(shape, pose, rng, number)
                  for number, (shape, pose) in enumerate(zip(shapes, true))]


def stand(things):
    plane = find_plane(things)
    return [None] * len(things) if plane is None else support.stand(things, plane)


def off(one, true):
    return np.linalg.norm(one.pose.t_m2c - true.t_m2c)


def tilted(one, true):
    turn = one.pose.R_m2c @ true.R_m2c.T
    return np.degrees(np.arccos(np.clip(NORMAL @ turn @ NORMAL, -1, 1)))


def test_ways_to_rest():
    upright = np.abs(BOX.ups).max(1) > 0.999
    assert upright.sum() == 6 and len(BOX.ups) <= 8  # its faces, and next to nothing else
    tilt = np.degrees(np.arccos(CYLINDER.ups[:, 2]))
    lies = np.abs(tilt - 90) < 2
    assert (lies | (tilt < 1) | (tilt > 179)).all() and lies.sum() > 20
    flat = Shape.of(np.c_[np.random.default_rng(0).uniform(-1, 1, (300, 2)), np.zeros(300)], 2.0)
    assert flat.ups.tolist() == [[0, 0, 1]] and len(flat.corners) == 128


@pytest.mark.parametrize('aside, rests', [(3.0, True), (5.0, False)])
def test_what_would_fall_over_does_not_rest(aside, rests):
    # A pyramid whose base looks along -x, and whose tip, a fourth of it its middle, is aside.
    base = [[0.0, y, z] for y in (-1, 1) for z in (-1, 1)]
    shape = Shape.of([*base, [1.0, aside, 0.0]], 3.0)
    assert (shape.ups @ [1.0, 0, 0] > 0.999).any() == rests
    assert shape.ups[0].tolist() == [0, 0, 1]  # as meshes stand, whatever they are


def test_round_things_touch_a_plane_where_they_are_lowest():
    lying = next(up for up in CYLINDER.ups if abs(up[2]) < 0.1)
    placed = support._Placed(seen_at(CYLINDER, at_rest(CYLINDER, lying, 0.7, SPOTS[0])))
    assert np.abs(placed.contact(NORMAL[None], np.array([HEIGHT])).error).max() < 1e-9


def test_contact_and_how_it_changes():
    rng = np.random.default_rng(9)
    shape = Shape.of(box_points() + [0.05, -0.03, 0.02], 0.2)  # not about its origin
    pose = at_rest(shape, [0, 0, 1.0], 0.4, SPOTS[1])
    normals, heights = NORMAL[None], np.array([HEIGHT])

    def contact(pose):
        return support._Placed(seen_at(shape, pose)).contact(normals, heights)

    here = contact(pose)
    assert np.abs(here.error).max() < 1e-9 and here.rests.all()
    # In other poses and on other planes, by small steps.
    step = 1e-6
    for axis in range(6):
        change = step * np.eye(6)[axis]
        other = contact(Pose(rotation_of(change[3:]) @ pose.R_m2c, pose.t_m2c + change[:3]))
        assert np.allclose(other.error - here.error, here.by_pose[:, :, axis] * step, atol=1e-2
                           * step)
    for axis in range(3):
        tilts = step * np.eye(3)[axis]
        normal = normals + (support._basis(normals) @ tilts[:2, None])[..., 0]
        length = np.linalg.norm(normal)
        at = support._Placed(seen_at(shape, pose))
        other = at.contact(normal / length, (heights + tilts[2]) / length)
        # What a tilt of the plane makes of a thing's measured tilt is seen in the new basis.
        assert np.allclose(other.error[:, 2] - here.error[:, 2], -here.by_plane[:, 2, axis] * step,
                           atol=1e-2 * step)
    off_plane = at.contact(normals, heights + rng.uniform(0.02, 0.03, 1))
    assert at.evidence(off_plane) < at.evidence(here)


def test_things_on_a_table_tell_of_one_another():
    rng = np.random.default_rng(1)
    before, after, tilt_before, tilt_after, squared = [], [], [], [], []
    for _ in range(30):
        true, things = table(rng)
        for pose, thing, standing in zip(true, things, stand(things)):
            if standing is None:  # its pose is so wrong that it leans
                continue
            assert standing.is_on_plane
            before.append(off(thing, pose))
            after.append(off(standing, pose))
            tilt_before.append(tilted(thing, pose))
            tilt_after.append(tilted(standing, pose))
            error = np.r_[standing.pose.t_m2c - pose.t_m2c,
                          Pose(standing.pose.R_m2c @ pose.R_m2c.T, np.zeros(3)).rotvec]
            squared.append(error @ np.linalg.solve(standing.covariance, error))
    assert len(after) > 0.9 * 30 * 5
    assert np.mean(after) < 0.6 * np.mean(before)
    assert np.mean(tilt_after) < 0.8 * np.mean(tilt_before)
    # What is said of the error left is true: 6 on average, or 3, as covariances are doubled.
    assert 2 < np.mean(squared) < 4.5


def test_one_or_two_tell_of_nothing():
    true, things = table(np.random.default_rng(2))
    assert stand([]) == []
    assert stand(things[:1]) == [None]
    assert stand(things[:2]) == [None, None]  # the other one alone is not enough
    exact = [replace(one, covariance=one.covariance / 100, pose=pose)
             for one, pose in zip(things, true)]
    assert stand(exact[:2]) == [None, None] and None not in stand(exact[:3])
    doubted = [replace(one, score=0.03) for one in things]
    assert stand(doubted) == [None] * 5
    assert None not in stand([*things[:4], replace(things[4], score=0.0)])


def test_what_is_held_above_the_table_stays():
    rng = np.random.default_rng(3)
    _, things = table(rng)
    held = at_rest(BOX, [0, 0, 1], 0.3, SPOTS[4], lift=0.25)
    things[4] = seen(BOX, held, rng, 4, score=0.95)  # the surest of all
    *others, standing = stand(things)
    assert not standing.is_on_plane
    assert standing.pose is things[4].pose and standing.covariance is things[4].covariance
    assert all(one.is_on_plane for one in others)


def test_what_leans_keeps_its_tilt():
    rng = np.random.default_rng(4)
    before, after = [], []
    for _ in range(20):
        true, things = table(rng)
        leaning = rotation_of([np.radians(30), 0, 0]) @ true[2].R_m2c
        low = (BOX.corners @ leaning.T @ NORMAL).min()
        pose = Pose(leaning, spot(SPOTS[2]) - NORMAL * low)
        things[2] = seen(BOX, pose, rng, 2)
        standing = stand(things)[2]
        if standing is not None:
            assert tilted(standing, things[2].pose) < 10
            before.append(off(things[2], pose))
            after.append(off(standing, pose))
    assert len(after) > 12 and np.mean(after) < 0.9 * np.mean(before)


def test_a_heap_stays_as_it_is():
    rng = np.random.default_rng(5)
    moved = total = 0
    for _ in range(40):
        true = [Pose(turn, spot(place) - NORMAL * rng.uniform(-0.3, 0.3))
                for turn, place in zip(random_rotations(rng, 5), SPOTS)]
        things = [seen(BOX, pose, rng, number) for number, pose in enumerate(true)]
        for standing in stand(things):
            total += 1
            moved += standing is not None and standing.is_on_plane
    assert moved < 0.1 * total  # by chance


def test_two_detections_of_one_thing_are_one_witness():
    rng = np.random.default_rng(6)
    _, things = table(rng)
    twins = [things[0], replace(things[0], score=0.7), things[1]]
    assert stand(twins)[:2] == [None, None]
    others = [things[0], things[2], things[1]]
    assert None not in stand(others)


def test_a_camera_that_looks_straight_down():
    turn = rotation_between(NORMAL, [0, 0, -1.0])
    _, things = table(np.random.default_rng(7))
    turned = [replace(one, pose=one.pose.turned(turn), covariance=np.kron(np.eye(2), turn)
                      @ one.covariance @ np.kron(np.eye(2), turn).T) for one in things]
    for one, other in zip(stand(things), stand(turned)):
        assert np.allclose(other.pose.R_m2c, turn @ one.pose.R_m2c, atol=1e-5)
        assert np.allclose(other.pose.t_m2c, turn @ one.pose.t_m2c, atol=1e-5)


@pytest.mark.slow
def test_more_poses_are_right_in_virtual_scenes(tmp_path):
    """The shipped models on scenes most of which are tables, the rest flying or in heaps."""
    objects = [str(ROOT / f'config/objects/{name}.yaml') for name in NAMES]
    assert main(['virtual-dataset', *objects, '--output', str(tmp_path / 'scenes'),
                 '--images', '24', '--seed', '7']) == 0
    dataset = BopDataset(tmp_path / 'scenes')
    right = {}
    for use_support in (False, True):
        estimator = PoseEstimator.from_directory(
            ROOT / 'models', objects=NAMES, min_score=0.0, use_support=use_support)
        masks = TrueMasks(dataset, names_by_number(estimator.models, dataset))
        errors = measure(dataset, evaluate(estimator, dataset, masks.instances),
                         dataset.targets())
        right[use_support] = sum(one.add < RIGHT for one in errors)
    assert right[True] >= right[False] + 3, right
