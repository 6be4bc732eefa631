"""Virtual crops: geometry, determinism, symmetry."""

from dataclasses import replace

import cv2
import numpy as np
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.object_model import load_object, object_from_mesh, Symmetries
from pose_estimator.pnp import propose, settle
from pose_estimator.synthetic.backgrounds import background_bank
from pose_estimator.synthetic.crops import CropConfig, CropSampler
from pose_estimator.synthetic.distractors import body_bank, clutter
from pose_estimator.synthetic.symmetry import canonical_pose, labelings
from pose_estimator.synthetic.views import (
    appearance_views, draw_silhouette, RESTING, resting_rotations, silhouette_views, thin_out,
    view_intrinsics)
import pytest
import torch
import trimesh

CLEAN = CropConfig(size=128, mask_exact=1.0).eased(0.0)
AXIS = {'continuous': [{'axis': [0, 0, 1], 'offset': [0, 0, 0]}]}


@pytest.fixture(scope='module')
def cup():
    return object_from_mesh('builtin:cup', 'm', 'cup')


@pytest.fixture(scope='module')
def cup_views(cup):
    return appearance_views(*cup, 24, np.random.default_rng(0))


@pytest.fixture(scope='module')
def backgrounds():
    return background_bank(np.random.default_rng(0), 8, 64)


def test_same_seed_same_crops(cup, cup_views, backgrounds):
    one, same, other = [CropSampler(cup_views, cup[0], 'rgb_mask', CropConfig(), backgrounds,
                                    seed=seed).batch(8) for seed in (3, 3, 4)]
    assert torch.equal(one.rgb, same.rgb) and torch.equal(one.mask, same.mask)
    assert torch.equal(one.keypoints, same.keypoints)
    assert not torch.equal(one.rgb, other.rgb)


def test_as_many_outlines_are_exact_as_wanted_however_easy_the_crops(cup_views):
    for share in (0.0, 0.5, 1.0):
        config = CropConfig(mask_exact=share, mask_dropped=0, mask_part_lost=0).eased(0.1)
        sampler = CropSampler(cup_views, None, 'mask', config, seed=5)
        visible = torch.zeros(60, 1, 128, 128)
        visible[:, :, 30:90, 40:100] = 1
        mask = sampler._faulty_mask(visible)
        exact = (mask == visible).flatten(1).all(1).float().mean()
        assert abs(exact - share) < 0.2
        overlap = (mask * visible).sum((1, 2, 3)) / torch.maximum(mask, visible).sum((1, 2, 3))
        assert overlap.min() > 0.6 and (share == 1.0) == (overlap.mean() > 0.99)


def test_keypoints_are_the_projections_of_the_pose(cup, cup_views, backgrounds):
    model = cup[0]
    batch = CropSampler(cup_views, model, 'rgb_mask', CropConfig(), backgrounds).batch(16)
    for index in range(16):
        pose = Pose(batch.R_m2c[index].double().numpy(), batch.t_m2c[index].double().numpy())
        camera = pose.transform(model.keypoints) @ batch.K[index].double().numpy().T
        np.testing.assert_allclose(camera[:, :2] / camera[:, 2:], batch.keypoints[index, 0],
                                   atol=1e-2)
        seen = (model.keypoints, batch.keypoints[index, 0].double().numpy(), np.ones(32),
                batch.K[index].double().numpy(), 128)
        result = settle(propose(*seen)[0], *seen)
        np.testing.assert_allclose(result.pose.matrix, pose.matrix, atol=2e-3)


def test_things_rest_on_a_table_below_an_upright_camera():
    mesh = trimesh.creation.box((0.05, 0.08, 0.12))
    rotations = resting_rotations(mesh, 400, np.random.default_rng(0))
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1),
                               np.broadcast_to(np.eye(3), (400, 3, 3)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    # Which of the box's axes is up: it has no part along the camera's x, and points up and
    # towards a camera above the table.
    ups = np.concatenate([rotations, -rotations], 2)  # (N, 3, 6), columns x y z -x -y -z
    is_up = (abs(ups[:, 0]) < 1e-9) & (ups[:, 1] <= 0) & (ups[:, 2] <= 0)
    assert is_up.any(1).all()
    share = is_up.mean(0)
    assert share[2] > 0.5  # z of the mesh, as it stands
    # A box falls on its large faces (x up or down) more often than on its small ones.
    assert share[0] > share[1] > 0 and share[3] > share[4] > 0
    # All directions about the vertical occur.
    around = np.arctan2(rotations[:, 0, 1], rotations[:, 0, 0])[is_up[:, 2]]
    assert np.histogram(around, 4, (-np.pi, np.pi))[0].min() > 25


def test_a_flat_mesh_stands():
    flat = trimesh.Trimesh([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], [[0, 1, 2]])
    rotations = resting_rotations(flat, 5, np.random.default_rng(0))
    assert (abs(rotations[:, 0, 2]) < 1e-9).all() and (rotations[:, 1, 2] <= 0).all()


def test_upright_cameras_roll_little_and_others_at_all(cup, cup_views, backgrounds):
    assert 0.4 < cup_views.upright.mean() < 1 and 0 < RESTING < 1
    for upright, least, most in ((True, 0.02, 0.35), (False, 1.5, 2.1)):
        kept = cup_views.upright == upright
        bank = replace(cup_views, **{name: getattr(cup_views, name)[kept] for name in (
            'R_m2c', 't_m2c', 'focal', 'upright', 'pixels')})
        batch = CropSampler(bank, cup[0], 'rgb_mask', CLEAN, backgrounds).batch(64)
        rolls = []
        for found in batch.R_m2c.double().numpy():
            # The view that it is cut from is the one that differs by the least tilt.
            turns = found @ bank.R_m2c.transpose(0, 2, 1)
            turn = turns[turns[:, 2, 2].argmax()]
            rolls.append(np.arctan2(turn[1, 0], turn[0, 0]))
        assert least < np.std(rolls) < most


@pytest.mark.parametrize('network_input', ['mask', 'rgb_mask'])
def test_mask_is_the_silhouette_at_the_pose(cup, cup_views, backgrounds, network_input):
    model, mesh = cup
    bank = cup_views
    if network_input == 'mask':
        bank = silhouette_views(model, mesh, 24, np.random.default_rng(1))
    batch = CropSampler(bank, model, network_input, CLEAN, backgrounds).batch(12)
    overlaps = []
    for index in range(12):
        drawn = np.zeros((128, 128), np.uint8)
        pose = Pose(batch.R_m2c[index].double().numpy(), batch.t_m2c[index].double().numpy())
        draw_silhouette(drawn, mesh.vertices, mesh.faces, pose, batch.K[index].double().numpy())
        mask, drawn = batch.mask[index, 0].numpy() > 0.5, drawn > 0
        overlaps.append((mask & drawn).sum() / (mask | drawn).sum())
    # The mask has passed through a segmenter's grid, which rounds the handle off.
    assert min(overlaps) > 0.85 and np.mean(overlaps) > 0.93, overlaps


def test_occlusion_truncation_and_faults_take_from_the_mask(cup, cup_views, backgrounds):
    harsh = replace(CLEAN, occluded=1, truncated=0.5, mask_eroded=0.05, mask_outline=0.3,
                    mask_wobble=0.2)
    clean = CropSampler(cup_views, cup[0], 'rgb_mask', CLEAN, backgrounds).batch(64)
    faulty = CropSampler(cup_views, cup[0], 'rgb_mask', harsh, backgrounds).batch(64)
    assert clean.visible.min() == 1
    assert 0.5 < faulty.visible.mean() < 0.95
    assert faulty.visible.min() >= harsh.min_visible - 1e-6


def test_crops_are_about_what_is_seen_or_about_what_is_asked_for(cup, cup_views, backgrounds):
    hidden = replace(CLEAN, occluded=1)
    clear, seen = (CropSampler(cup_views, cup[0], 'rgb_mask', config, backgrounds).batch(64)
                   for config in (CLEAN, hidden))
    assert ((seen.keypoints - clear.keypoints).abs().amax((1, 2, 3)) > 3).sum() > 5

    def about(view, R_m2c, t_m2c, K):
        """A box about where the origin of the object is, half as far as that is away."""
        middle = (t_m2c[:, None] @ K.mT)[:, 0]
        return middle[:, :2] / middle[:, 2:], K[:, 0, 0] / 2

    asked = CropSampler(cup_views, cup[0], 'rgb_mask', hidden, backgrounds).batch(64, about)
    assert asked.visible.min() < 0.7
    assert torch.allclose(asked.t_m2c[:, :2] / asked.t_m2c[:, 2:], torch.zeros(64, 2), atol=1e-5)
    assert torch.allclose(128 / asked.K[:, 0, 0], torch.full((64,), hidden.margin / 2), rtol=0.1)


def test_neighbours_stand_before_and_behind(cup, cup_views, backgrounds):
    bodies = body_bank(np.random.default_rng(0), 6, 48)
    assert ((bodies[..., 3] > 0).mean((1, 2)) > 0.02).all()
    config = replace(CLEAN, occluded=1)
    batch = CropSampler(cup_views, cup[0], 'rgb_mask', config, backgrounds,
                        bodies=bodies).batch(64)
    assert batch.visible.min() < 0.7 < batch.visible.median()
    # Taken for the object, they stand in its mask.
    clean, bleeding = [
        CropSampler(cup_views, cup[0], 'rgb_mask',
                    replace(CLEAN, mask_exact=0, mask_bleeding=share), backgrounds,
                    bodies=bodies).batch(64) for share in (0, 1)]
    assert torch.equal(clean.rgb, bleeding.rgb)
    assert bleeding.mask.sum() > 1.1 * clean.mask.sum()


def test_shadows_lie_most_often_below_and_fade(cup, cup_views, backgrounds):
    sampler = CropSampler(cup_views, cup[0], 'rgb_mask', CLEAN, backgrounds)
    mask = torch.zeros(64, 1, 128, 128)
    mask[:, :, 48:80, 48:80] = 1
    dark = torch.cat([sampler._cast_shadow(mask[:8]) for _ in range(8)])
    assert 0 <= dark.min() and dark.max() <= 1
    assert (dark.amax((1, 2, 3)) > 0.2).float().mean() > 0.3
    assert dark[:, :, :48].sum() < dark[:, :, 80:].sum()
    assert dark[:, :, 0].max() < 0.05


def test_clutter_covers_most_of_some_backgrounds_and_leaves_others():
    rng = np.random.default_rng(0)
    pictures = np.full((24, 64, 64, 3), 7, np.uint8)
    clutter(rng, pictures, body_bank(rng, 6, 32))
    covered = (pictures != 7).any(-1).mean((1, 2))
    assert (covered == 0).any() and (covered > 0.5).any()


def test_recoloured_objects_lose_their_colours(cup, cup_views, backgrounds):
    plain = CropSampler(cup_views, cup[0], 'rgb_mask', CLEAN, backgrounds).batch(8)
    other = CropSampler(cup_views, cup[0], 'rgb_mask', CLEAN, backgrounds, recolor=True).batch(8)
    assert torch.equal(plain.mask, other.mask)
    assert not torch.allclose(plain.rgb, other.rgb)


def test_poses_that_look_alike_get_one_label():
    symmetries = Symmetries.from_dict(AXIS)
    pose = Pose(random_rotations(np.random.default_rng(0), 1)[0], [0.1, 0, 0.8])
    for angle in (0.5, 2.0, -3.0):
        turned = pose.compose(Pose.from_rotvec([0, 0, angle], np.zeros(3)))
        np.testing.assert_allclose(canonical_pose(turned, symmetries).matrix,
                                   canonical_pose(pose, symmetries).matrix, atol=1e-9)
    axis = canonical_pose(pose, symmetries)
    np.testing.assert_allclose(axis.R_m2c[:, 2], pose.R_m2c[:, 2])  # the axis itself stays


def test_labelings_of_the_book_are_its_boxes_four(pytestconfig):
    model, _ = load_object(pytestconfig.rootpath / 'config/objects/book.yaml')
    pose = Pose(random_rotations(np.random.default_rng(0), 1)[0], [0.1, 0, 0.8])
    assert labelings(pose, model.keypoints, model.symmetries).shape == (1, 32, 3)
    points = labelings(pose, model.keypoints, model.shape_symmetries)
    assert points.shape == (4, 32, 3)
    low, high = model.bounds
    assert (points >= low - 1e-9).all() and (points <= high + 1e-9).all()


def test_round_objects_that_may_be_turned_over_have_the_same_labels_for_all_alike():
    over = np.diag([1.0, -1, -1, 1]).ravel().tolist()
    symmetries = Symmetries.from_dict({**AXIS, 'discrete': [over]})
    keypoints = np.random.default_rng(1).normal(0, 0.05, (8, 3))
    pose = Pose(random_rotations(np.random.default_rng(0), 1)[0], [0.1, 0, 0.8])

    def choices(seen):
        seen = canonical_pose(seen, symmetries)
        return seen.transform(labelings(seen, keypoints, symmetries))  # (2, 8, 3)

    turned = pose.compose(symmetries.discrete[0]).compose(
        Pose.from_rotvec([0, 0, 2.0], np.zeros(3)))
    np.testing.assert_allclose(choices(turned)[::-1], choices(pose), atol=1e-9)


def test_silhouettes_agree_with_ray_casting(cup):
    model, mesh = cup
    drawn = silhouette_views(model, mesh, 6, np.random.default_rng(5)).pixels[:, 0] > 0
    cast = appearance_views(model, mesh, 6, np.random.default_rng(5)).pixels[:, 0] > 0
    for one, other in zip(drawn, cast):
        inner, outer = (cv2.erode(other.astype(np.uint8), np.ones((3, 3))),
                        cv2.dilate(other.astype(np.uint8), np.ones((3, 3))))
        assert (one >= inner).all() and (one <= outer).all()


def test_thinned_mesh_keeps_its_outline():
    import trimesh
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.1)
    from pose_estimator.mesh import make_mesh
    mesh = make_mesh(ball.vertices, ball.faces)
    vertices, faces = thin_out(mesh)
    assert len(faces) < len(mesh.faces) / 2
    full, thin = np.zeros((128, 128), np.uint8), np.zeros((128, 128), np.uint8)
    pose, K = Pose(np.eye(3), [0, 0, 0.6]), view_intrinsics(300)
    draw_silhouette(full, mesh.vertices, mesh.faces, pose, K)
    draw_silhouette(thin, vertices, faces, pose, K)
    assert (full != thin).sum() < 0.02 * (full > 0).sum()
