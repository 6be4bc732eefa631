"""Poses mended by drawings: the drawings, the solver, the network on things it has not seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from pose_estimator.camera import PinholeCamera
from pose_estimator.cli import main
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.keypoints.hourglass import StackedHourglass
from pose_estimator.object_model import object_from_mesh
from pose_estimator.pnp import project
from pose_estimator.refinement import pairs, refiner, train
from pose_estimator.refinement.flow import away_from_pose, loss, OUTPUTS, settle, UNIT
from pose_estimator.refinement.refiner import Refiner, save_refiner
from pose_estimator.refinement.surface import draw, DRAWN, MARGIN, Surface
from pose_estimator.synthetic.render import RayCaster
import pytest
import torch

# What one round must leave of the medians of shifts and rotations, and how many more poses must
# be right, in percent; the card has 0.27, 0.36 and 33.
LEFT_SHIFT, LEFT_TURN, GAIN = 0.35, 0.45, 25
K = np.array([[400.0, 0, 63.5], [0, 400, 63.5], [0, 0, 1]])


@pytest.fixture
def quick(monkeypatch):
    """Make trainings that only have to run: few views, a small network, few measurements."""
    sampler, measure, seeds = train._sampler, train.measure, []

    def few(objects, bodies, views, seed, *_, **__):
        seeds.append(seed)
        return sampler(objects, min(bodies, 2), 3, seed, 2, 4)

    monkeypatch.setattr(train, 'BODY_VIEWS', 2)
    monkeypatch.setattr(train, '_sampler', few)
    monkeypatch.setattr(train, 'measure', lambda *given: measure(*given, batches=2))
    monkeypatch.setattr(train, 'CONFIG', replace(train.CONFIG, width=16, growth=0, modules=1))
    return seeds


@pytest.fixture(scope='module')
def cup():
    model, mesh = object_from_mesh('builtin:cup', 'm', 'cup')
    return model, mesh, Surface.of_mesh(mesh)


def drawing(surface, pose):
    points, look = (one[None] for one in surface.tensors())
    return draw(points, look, torch.from_numpy(pose.R_m2c)[None].float(),
                torch.from_numpy(pose.t_m2c)[None].float(), torch.from_numpy(K)[None].float(), 128)


@pytest.mark.parametrize('seed', range(3))
def test_drawing_looks_like_the_mesh(cup, seed):
    _, mesh, surface = cup
    pose = Pose(random_rotations(np.random.default_rng(seed), 1)[0], [0.01, 0, 0.5])
    drawn = drawing(surface, pose)
    small = K * [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]]
    small[:2, 2] = (K[:2, 2] + 0.5) / 2 - 0.5
    seen = RayCaster(mesh).render(pose, small, DRAWN, DRAWN)
    mask = drawn.pixels[0, 0].numpy() > 0.5
    assert (mask & seen.mask).sum() > 0.98 * seen.mask.sum()
    # Drawings reach half a pixel too far.
    assert (mask & ~seen.mask).sum() < 0.2 * seen.mask.sum()
    both = mask & seen.mask
    normals = drawn.pixels[0, 4:7].permute(1, 2, 0).numpy()[both]
    assert np.median((normals * seen.normal[both]).sum(1)) > 0.95
    color = drawn.pixels[0, 1:4].permute(1, 2, 0).numpy()[both] * 255
    assert np.median(np.abs(color - seen.albedo[both])) < 12
    # The points are those that face the camera, not those behind them.
    there = drawn.is_seen[0].numpy()
    depth = pose.transform(drawn.points[0].numpy()[there])[:, 2]
    nearest = np.where(seen.mask, seen.depth, np.inf).reshape(32, 2, 32, 2).min((1, 3))[there]
    assert np.median(np.abs(depth - nearest)[np.isfinite(nearest)]) < 0.004


def test_surfaces_come_back_from_files(cup):
    surface = cup[2]
    found = Surface.from_tensors({'other': torch.zeros(1), **surface.to_tensors()})
    np.testing.assert_allclose(found.points, surface.points, atol=1e-5)
    np.testing.assert_allclose(found.normals, surface.normals, atol=0.01)
    np.testing.assert_array_equal(found.colors, surface.colors)
    assert Surface.from_tensors({'other': torch.zeros(1)}) is None
    with pytest.raises(ValueError, match='lacks its normals'):
        tensors = surface.to_tensors()
        del tensors['surface.normals']
        Surface.from_tensors(tensors)
    with pytest.raises(ValueError, match='expected 3072 points'):
        Surface.from_tensors({**surface.to_tensors(),
                              'surface.colors': torch.zeros(5, 3, dtype=torch.uint8)})
    for bounds in ([[0.0, 0, 0], [1, np.nan, 1]], [[0.0, 0, 0], [1, -1, 1]], [[0.0, 0, 0]]):
        with pytest.raises(ValueError, match='expected two finite corners'):
            Surface.from_tensors({**surface.to_tensors(),
                                  'surface.bounds': torch.tensor(bounds)})


def test_pose_follows_shifts_and_not_those_in_doubt(cup):
    rng = np.random.default_rng(0)
    points = cup[0].points
    truth = Pose(random_rotations(rng, 1)[0], [0.01, -0.02, 0.5])
    start = Pose.from_rotvec([0.1, -0.05, 0.12], np.zeros(3)).compose(
        Pose(truth.R_m2c, truth.t_m2c + [0.004, 0.003, 0.03]))

    def pixels(pose):
        return project(pose.R_m2c[None], pose.t_m2c[None], points, K)[0][0]

    shift = pixels(truth) - pixels(start)
    error = np.full(len(points), 0.3)
    shift[::5] += rng.normal(0, 15, (len(shift[::5]), 2))
    error[::5] = 20
    found, normal, away = settle(start, points, shift, error, K, steps=8)
    assert np.degrees(np.linalg.norm(Pose(found.R_m2c @ truth.R_m2c.T, np.zeros(3)).rotvec)) < 0.3
    np.testing.assert_allclose(found.t_m2c, truth.t_m2c, atol=1.5e-3)
    assert np.linalg.eigvalsh(normal).min() > 0
    assert np.median(away[::5]) > 10 * np.median(np.delete(away, np.arange(0, len(away), 5)))


def test_objects_out_of_sight_are_left_as_they_are(cup):
    surface = cup[2]
    camera = PinholeCamera(np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), 640, 480)
    image, mask = np.zeros((480, 640, 3), np.uint8), np.zeros((480, 640), bool)
    poses = [Pose(np.eye(3), [0, 0, -0.5]), Pose(np.eye(3), [0, 0, -0.03]),
             Pose(np.eye(3), [0, 0, 500.0]),
             Pose(np.eye(3), [0, 0, 0.6])]
    found = Refiner.shipped().refine([surface] * 4, poses, image, [mask] * 4, camera)
    assert found[:3] == [None] * 3
    assert found[3] is not None and np.isfinite(found[3].features()).all()


def test_mended_covariance_is_in_the_cameras_axes(cup):
    """Distances are known worst, so that it is longest along the ray, wherever that points."""
    model, mesh, surface = cup
    camera = PinholeCamera(np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), 640, 480)
    for place in ((0.3, 0.15, 0.7), (-0.3, -0.15, 0.7)):
        truth = Pose(random_rotations(np.random.default_rng(5), 1)[0], place)
        seen = RayCaster(mesh).render(truth, camera.K, 640, 480)
        image = np.full((480, 640, 3), 90, np.uint8)
        light = 0.4 + 0.6 * np.clip(-seen.normal[..., 2:], 0, 1)
        image[seen.mask] = (seen.albedo * light)[seen.mask]
        found, = Refiner.shipped().refine([surface], [truth], image, [seen.mask], camera)
        longest = np.linalg.eigh(found.covariance[:3, :3])[1][:, -1]
        middle = truth.transform(surface.points.astype(float)).mean(0)
        assert abs(longest @ middle) / np.linalg.norm(middle) > 0.98


def test_poses_that_come_through_the_camera_are_dropped(cup):
    """Shifts that pull the object so near that some of it is behind the camera."""
    _, _, surface = cup
    points = surface.points.astype(float)
    pose = Pose(np.eye(3), [0, 0, 0.3])
    near = Pose(np.eye(3), -points.mean(0) + [0, 0, 0.55 * np.ptp(points[:, 2])])
    front = points[near.transform(points)[:, 2] > 0.02]
    camera = PinholeCamera(np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), 640, 480)
    crop = refiner._crop_about(points, pose, camera, 128)

    def pixels(one):
        seen = one.transform(front) @ crop.R_cam2crop.T @ crop.K.T
        return seen[:, :2] / seen[:, 2:]

    for target, is_kept in ((Pose(np.eye(3), [0, 0, 0.25]), True), (near, False)):
        shift = pixels(target) - pixels(pose)
        found = refiner._follow_shifts(pose, crop, front, shift, np.ones(len(front)), pose, points)
        assert (found is not None) == is_kept


@pytest.mark.slow
def test_shipped_refiner_mends_things_that_it_has_not_seen():
    """Random bodies of another seed, in virtual crops with all their faults."""
    shipped = Refiner.shipped()
    network = StackedHourglass(shipped.config)
    network.load_state_dict(shipped.weights)
    found = train.measure(network, train._sampler([], 24, 0, 4711, 8, 32), 8)
    assert found['samples'] > 200
    assert found['after_px'] < LEFT_SHIFT * found['before_px']
    assert found['after_deg'] < LEFT_TURN * found['before_deg']
    assert found['after_right'] > found['before_right'] + GAIN


def test_true_poses_are_those_nearest_to_the_drawn_ones():
    bottle = object_from_mesh('builtin:bottle', 'm', 'bottle', symmetries={
        'continuous': [{'axis': [0, 0, 1], 'offset': [0, 0, 0]}]})
    cup = object_from_mesh('builtin:cup', 'm', 'cup')
    objects = [(*one, Surface.of_mesh(one[1])) for one in (bottle, cup)]
    scenery = {'backgrounds': np.zeros((2, 64, 64, 3), np.uint8)}
    sampler = pairs.PairSampler(objects, [4, 4], scenery, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    true = torch.tensor(random_rotations(rng, 20)).float()
    place = torch.tensor(rng.normal(0, 0.1, (20, 3))).float()
    spin = torch.tensor([Pose.from_rotvec([0, 0, angle], np.zeros(3)).R_m2c.tolist()
                         for angle in rng.uniform(0, 6, 20)])
    which = torch.arange(20) % 2
    found, moved = sampler._nearest(true, place, which, true @ spin)
    is_bottle = which == 0
    assert (found - true @ spin)[is_bottle].abs().max() < np.radians(2.1)
    assert torch.allclose(found[~is_bottle], true[~is_bottle], atol=1e-6)
    assert torch.allclose(moved, place, atol=1e-6)


@pytest.fixture(scope='module')
def few_pairs(cup):
    scenery = {'backgrounds': np.random.default_rng(2).integers(0, 255, (4, 64, 64, 3), np.uint8)}
    sampler = pairs.PairSampler([cup], [16], scenery, np.random.default_rng(0))
    return sampler, sampler.batch(12)


def test_pairs_are_cut_out_about_what_is_drawn_as_at_work(few_pairs):
    sampler, found = few_pairs
    seen = torch.from_numpy(sampler.points(0)).float() @ found.R_drawn.mT + found.t_drawn[:, None]
    pixels = seen @ found.K.mT
    pixels = pixels[..., :2] / pixels[..., 2:]
    low, high = pixels.amin(1), pixels.amax(1)
    assert ((low + high) / 2 - 63.5).abs().max() < 2.5  # perspective shifts it a little
    assert torch.allclose((high - low).amax(1), torch.full((12,), 128 / MARGIN), rtol=0.03)
    # Points move from where they are drawn to where they are by what is to be learned.
    points = found.points.flatten(1, 2)

    def project(rotation, translation):
        seen = (points @ rotation.mT + translation[:, None]) @ found.K.mT
        return (seen[..., :2] / seen[..., 2:]).view_as(found.shift)

    moved = project(found.R_m2c, found.t_m2c) - project(found.R_drawn, found.t_drawn)
    assert (moved - found.shift)[found.is_seen].abs().max() < 1e-3
    assert found.shift[found.is_seen].norm(dim=-1).mean() > 1
    # The mask that a perfect segmenter would give is where the true pose has the object.
    inside = torch.nn.functional.grid_sample(
        found.seen, project(found.R_m2c, found.t_m2c) / 64 - 1 + 1 / 128, align_corners=False)
    there = torch.nn.functional.grid_sample(
        found.seen, project(found.R_drawn, found.t_drawn) / 64 - 1 + 1 / 128,
        align_corners=False)
    assert inside[:, 0][found.is_seen].mean() > there[:, 0][found.is_seen].mean() + 0.01


def output(shift, error=1.0):
    """Return what a network would say that sees these shifts, shape (B, h, w, 2)."""
    said = torch.zeros(len(shift), OUTPUTS, *shift.shape[1:3])
    said[:, :2] = shift.permute(0, 3, 1, 2) / UNIT
    said[:, 2] = (np.log(error) - 0.7) / 2
    return said


def test_loss_is_least_at_the_truth_and_has_a_gradient(few_pairs):
    _, found = few_pairs
    assert away_from_pose(output(found.shift), found) < 0.02
    assert away_from_pose(output(torch.zeros_like(found.shift)), found) > 0.5
    # Noise of single cells matters less to the pose than half as much that all have in common,
    # as when the object is taken for larger: shifts away from the middle.
    noise = torch.randn(found.shift.shape, generator=torch.Generator().manual_seed(0))
    axis = (torch.arange(32) - 15.5) / 15.5
    larger = torch.stack(torch.meshgrid(axis, axis, indexing='xy'), -1).expand_as(noise)
    assert (away_from_pose(output(found.shift + 2 * noise), found)
            < away_from_pose(output(found.shift + larger), found))
    said = output(found.shift + 2).requires_grad_()
    loss([said, said], found).backward()
    assert torch.isfinite(said.grad).all()
    assert (said.grad[:, :3].abs().amax(1)[found.is_seen] > 0).all()
    right, wrong = output(found.shift), output(found.shift)
    parts = torch.nn.functional.pixel_unshuffle(found.seen, 4)
    right[:, 3:], wrong[:, 3:] = 8 * (2 * parts - 1), -8 * (2 * parts - 1)
    assert loss([right], found) < loss([wrong], found) - 5


def test_loss_bears_shifts_that_fix_no_pose(few_pairs):
    _, found = few_pairs
    said = (100 * output(found.shift, 0.1)).requires_grad_()
    blind = replace(found, is_seen=torch.zeros_like(found.is_seen))
    for these in (found, blind):
        value = loss([said], these)
        assert torch.isfinite(value)
        value.backward()
        assert torch.isfinite(said.grad).all()


def test_training_writes_weights_that_load(quick, tmp_path, capsys):
    model, mesh = object_from_mesh('builtin:cup', 'm', 'cup')
    path = tmp_path / 'refiner.safetensors'
    train.train([(model, mesh)], 0.05, path, 'cpu', bodies=2, views=3)
    found = Refiner.load(path)
    assert found.training['samples'] >= train.BATCH
    assert not list(tmp_path.glob('*.resume'))
    assert 'cup and 2 random bodies' in (tmp_path / 'refiner.md').read_text()


@pytest.mark.slow
def test_training_goes_on_from_given_weights(quick, tmp_path, monkeypatch, capsys):
    objects, path = [object_from_mesh('builtin:cup', 'm', 'cup')], tmp_path / 'refiner.safetensors'
    start = Refiner.shipped()
    monkeypatch.setattr(train, 'CONFIG', start.config)
    monkeypatch.setattr(train, 'RATE', 1e-9)
    monkeypatch.setattr(train, 'MUON_RATE', 1e-9)
    train.train(objects, 0.02, path, 'cpu', bodies=2, views=3, start=start)
    found = Refiner.load(path)
    name = next(name for name in start.weights if name.endswith('weight'))
    assert torch.allclose(found.weights[name], start.weights[name], atol=1e-3)
    assert found.training['start'] == start.training
    count, facts = 0, start.training
    while facts:
        count, facts = count + facts['samples'], facts.get('start')
    assert quick[0] == train.TRAIN_SEED + count >= start.training['samples']
    card = (tmp_path / 'refiner.md').read_text()
    assert f'{start.training["samples"]} crops' in card and 'random weights' in card


def test_interrupted_training_goes_on(quick, tmp_path, monkeypatch, capsys):
    objects, path = [object_from_mesh('builtin:cup', 'm', 'cup')], tmp_path / 'refiner.safetensors'
    loss, calls = train.loss, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(*given)

    monkeypatch.setattr(train, 'loss', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(objects, 0.1, path, 'cpu', bodies=2, views=3)
    assert 'the same command goes on from here' in capsys.readouterr().out
    assert not path.exists()
    train.train(objects, 0.1, path, 'cpu', bodies=2, views=3)
    assert f'{2 * train.BATCH} samples' in capsys.readouterr().out
    assert Refiner.load(path).training['samples'] > 2 * train.BATCH


def test_views_are_rendered_by_several_processes(cup):
    scenery = {'backgrounds': np.zeros((2, 64, 64, 3), np.uint8)}
    alone, together = (pairs.PairSampler([cup, cup], [3, 2], scenery, np.random.default_rng(0),
                                         processes=count).batch(4) for count in (1, 2))
    assert torch.equal(alone.image, together.image)


def test_motions_that_change_nothing_are_noticed():
    rng = np.random.default_rng(0)
    jacobian = rng.normal(0, 1, (40, 6)) * [1, 1, 1, 1e-3, 1e-3, 1e-3]
    normal = jacobian.T @ jacobian
    np.testing.assert_allclose(refiner._inverse(normal) @ normal, np.eye(6), atol=1e-6)
    jacobian[:, 5] = jacobian[:, 4] - 2 * jacobian[:, 3]  # as of points on a line
    with pytest.raises(np.linalg.LinAlgError, match='fix no pose'):
        refiner._inverse(jacobian.T @ jacobian)


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match='got no such file; train them'):
        Refiner.load(tmp_path / 'refiner.safetensors')
    path = tmp_path / 'bad.safetensors'
    path.write_bytes(b'no weights')
    with pytest.raises(InputError, match='damaged or foreign'):
        Refiner.load(path)
    models = Path(__file__).resolve().parents[1] / 'models'
    with pytest.raises(InputError, match='not of format'):
        Refiner.load(models / 'cup.safetensors')
    save_refiner(path, replace(train.CONFIG, keypoints=5), {}, {})
    with pytest.raises(InputError, match='11 channels in and 5 out'):
        Refiner.load(path)
    save_refiner(path, train.CONFIG, {}, {})
    with pytest.raises(InputError, match='weights do not fit'):
        Refiner.load(path)
    save_refiner(path, replace(train.CONFIG, heatmap_size=16), {}, {})
    with pytest.raises(InputError, match='32 x 32 cells as drawings have, got 16'):
        Refiner.load(path)
    save_refiner(path, train.CONFIG, {'stem.bias': torch.tensor([np.nan])}, {})
    with pytest.raises(InputError, match='NaN or infinity in stem.bias'):
        Refiner.load(path)


def test_budget_must_be_positive(capsys):
    assert main(['train-refiner', 'config/objects/cup.yaml', '--minutes', '0']) == 2
    assert '--minutes: expected more than 0' in capsys.readouterr().err
