"""From image and instances to poses, with keypoints that are known to be right."""

from dataclasses import replace
import functools
from types import SimpleNamespace

import numpy as np
from pose_estimator import pipeline
from pose_estimator.camera import CropCamera, PinholeCamera
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.instance import Instance, mask_box
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.heatmaps import encode
from pose_estimator.keypoints.hourglass import HourglassConfig, StackedHourglass
from pose_estimator.keypoints.predictor import KeypointPredictor, Keypoints
from pose_estimator.object_model import object_from_mesh
from pose_estimator.pipeline import (
    find_models, gather, LOOKS, ObjectPose, PoseEstimator, SHIFTED_ALIKE, SURE_ENOUGH,
    TURNED_ALIKE)
from pose_estimator.refinement.refiner import FILE, Refined, Refiner, save_refiner
from pose_estimator.refinement.surface import Surface
from pose_estimator.scoring import (
    DISTANCE_UNSURE, FEATURES, silhouette_agreement, sure_score)
from pose_estimator.support import Standing
from pose_estimator.synthetic.render import RayCaster
import pytest
import torch

CAMERAS = {
    'rectified': PinholeCamera(np.array([[600.0, 0, 320], [0, 590, 240], [0, 0, 1]]), 640, 480),
    'plumb_bob': PinholeCamera(np.array([[600.0, 0, 320], [0, 590, 240], [0, 0, 1]]), 640, 480,
                               [-0.2, 0.05, 0.001, -0.001, 0.0], 'plumb_bob'),
    'equidistant': PinholeCamera(np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]]), 640, 480,
                                 [0.01, -0.005, 0.001, 0.0], 'equidistant')}
# A score that is 0.88 for keypoints that agree.
COUNT = len(FEATURES)
FITTED = {'mean': [0.0] * COUNT, 'scale': [1.0] * COUNT,
          'weights': [2.0] + [0.0] * (COUNT - 1), 'bias': 0.0, 'distance': {}}
CALIBRATION = {**FITTED, 'without_mask': FITTED, 'refiner': Refiner.shipped().fingerprint}


@pytest.fixture(scope='module')
def mesh():
    return object_from_mesh('builtin:cup', 'm', 'cup')


@functools.cache
def cup_surface():
    return Surface.of_mesh(object_from_mesh('builtin:cup', 'm', 'cup')[1])


def make_checkpoint(model, network_input='rgb_mask'):
    channels = {'mask': ('mask',), 'rgb_mask': ('rgb', 'mask')}[network_input]
    config = HourglassConfig(4 if 'rgb' in channels else 1, len(model.keypoints), 64, 16, 16)
    network = StackedHourglass(config)
    # It has learned nothing, and so believes in no place more than in another.
    torch.nn.init.zeros_(network.heads[-1].weight)
    torch.nn.init.zeros_(network.heads[-1].bias)
    return Checkpoint(model, network_input, channels, config, 1.4, 'cross_entropy', CALIBRATION,
                      network.state_dict(), surface=cup_surface() if 'rgb' in channels else None)


@pytest.fixture(autouse=True)
def looked_at(monkeypatch):
    """Crops that the pipeline has cut, the last one last."""
    crops, real = [], CropCamera.look_at.__func__
    monkeypatch.setattr(CropCamera, 'look_at', classmethod(
        lambda cls, *args: crops.append(real(cls, *args)) or crops[-1]))
    monkeypatch.setattr(Oracle, 'looked_at', crops)
    return crops


class Oracle:
    """Stands in for the predictor and knows the pose, and what was looked at last."""

    looked_at: list = []

    def __init__(self, checkpoint, camera, truth, noise=0.0):
        self.checkpoint, self.size = checkpoint, checkpoint.config.input_size
        self._camera, self._truth, self._noise = camera, truth, noise

    def predict(self, rgb, masks):
        """Return the true keypoints in the looks at the last crop."""
        crop = self.looked_at[-1]
        points = self._camera.project(
            self._truth.transform(self.checkpoint.model.keypoints))
        pixels = np.stack([crop.turned(*look).to_crop(points) for look in LOOKS])
        pixels = pixels + np.random.default_rng(0).normal(0, 1, pixels.shape) * self._noise
        heatmaps = encode(torch.from_numpy(pixels), 4 * self.checkpoint.config.heatmap_size,
                          self.size).numpy()
        return Keypoints(pixels, np.ones(pixels.shape[:2]), heatmaps)


@pytest.mark.parametrize('name', CAMERAS)
@pytest.mark.parametrize('place', [(0, 0, 0.7), (0.3, 0.2, 0.7), (-0.28, -0.2, 0.6)])
def test_pose_comes_back_wherever_the_object_is(mesh, name, place):
    camera, model = CAMERAS[name], mesh[0]
    truth = Pose(random_rotations(np.random.default_rng(1), 1)[0], place)
    checkpoint = make_checkpoint(model)
    estimator = PoseEstimator([checkpoint], refine=False)
    oracle = Oracle(checkpoint, camera, truth)
    estimator._predictors['cup'] = oracle
    pixels = camera.project(truth.transform(model.points))
    mask = np.zeros((480, 640), bool)
    columns, rows = np.round(pixels).astype(int).T
    inside = (columns >= 0) & (columns < 640) & (rows >= 0) & (rows < 480)
    mask[rows[inside], columns[inside]] = True
    box = mask_box(mask)
    image = np.zeros((480, 640, 3), np.uint8)
    found, = estimator.estimate(image, [Instance('cup', 0.9, box, mask, 1)], camera)
    # The heatmaps have cells of a pixel, and are read between them.
    turn = Pose(found.pose.R_m2c @ truth.R_m2c.T, np.zeros(3)).rotvec
    assert np.degrees(np.linalg.norm(turn)) < 0.3
    np.testing.assert_allclose(found.pose.t_m2c, truth.t_m2c, atol=2e-3)
    np.testing.assert_allclose(found.keypoints, camera.project(truth.transform(model.keypoints)),
                               atol=1e-3)
    assert found.name == 'cup' and found.reason == ''
    assert found.score == pytest.approx(1 / (1 + np.exp(-2)))
    assert np.linalg.eigvalsh(found.covariance).min() > 0


def test_covariance_is_in_the_cameras_axes(mesh):
    """Far off-axis, the uncertain direction is the viewing ray, not the camera's z."""
    camera, model = CAMERAS['rectified'], mesh[0]
    truth = Pose(random_rotations(np.random.default_rng(1), 1)[0], (0.33, 0.0, 0.7))
    checkpoint = make_checkpoint(model)
    estimator = PoseEstimator([checkpoint], refine=False)
    oracle = Oracle(checkpoint, camera, truth, noise=0.5)
    estimator._predictors['cup'] = oracle
    seen = RayCaster(mesh[1]).render(truth, camera.K, 640, 480).mask
    box = mask_box(seen)
    found, = estimator.estimate(np.zeros((480, 640, 3), np.uint8),
                                [Instance('cup', 0.9, box, seen, 1)], camera)
    longest = np.linalg.eigh(found.covariance[:3, :3])[1][:, -1]
    ray = found.pose.transform(model.center[None])[0]
    assert abs(longest @ ray) / np.linalg.norm(ray) > 0.99
    # Pixels that err independently fix a position to less than lens, mesh and mask allow.
    spread = np.sqrt(np.linalg.eigvalsh(found.covariance[:3, :3]))
    least = SHIFTED_ALIKE * np.linalg.norm(found.pose.t_m2c)
    assert (spread[:2] >= least).all() and spread[0] < 1.5 * least
    assert spread[2] >= DISTANCE_UNSURE * np.linalg.norm(found.pose.t_m2c)
    assert np.linalg.eigvalsh(found.covariance[3:, 3:])[0] >= TURNED_ALIKE ** 2


def test_poses_are_brought_to_their_distance_before_they_are_mended(mesh):
    camera, model = CAMERAS['rectified'], mesh[0]
    truth = Pose(random_rotations(np.random.default_rng(1), 1)[0], (0.1, 0.0, 0.7))
    distance = {'mean': [0.0] * COUNT, 'scale': [1.0] * COUNT, 'weights': [0.0] * COUNT,
                'bias': np.log(0.9)}
    seen = RayCaster(mesh[1]).render(truth, camera.K, 640, 480).mask
    instance = Instance('cup', 0.9, mask_box(seen), seen, 1)
    given = []
    refiner = SimpleNamespace(refine=lambda surfaces, poses, *_: given.extend(poses) or [None])
    for calibration, factor in ((CALIBRATION, 1), ({**CALIBRATION, 'distance': distance}, 0.9)):
        oracle = Oracle(replace(make_checkpoint(model), calibration=calibration), camera, truth)
        gather(oracle, np.zeros((480, 640, 3), np.uint8), [instance], camera, refiner)
        np.testing.assert_allclose(given[-1].t_m2c, factor * truth.t_m2c, atol=2e-3)
        # Without anything that mends them, too, as poses from masks alone.
        found, = gather(oracle, np.zeros((480, 640, 3), np.uint8), [instance], camera)
        np.testing.assert_allclose(np.linalg.norm(found.result.pose.t_m2c),
                                   factor * np.linalg.norm(truth.t_m2c), atol=2e-3)
        # What is found without the mask has a distance of its own.
        calibration = {**calibration, 'distance': {}, 'without_mask': calibration}
        oracle = Oracle(replace(make_checkpoint(model), calibration=calibration), camera, truth)
        for use_masks, other in ((True, 1), (False, factor)):
            gather(oracle, np.zeros((480, 640, 3), np.uint8), [instance], camera, refiner,
                   use_masks)
            np.testing.assert_allclose(given[-1].t_m2c, other * truth.t_m2c, atol=2e-3)


def test_what_a_box_leaves_out_is_looked_at_again(mesh, looked_at):
    camera, model = CAMERAS['rectified'], mesh[0]
    truth = Pose(random_rotations(np.random.default_rng(1), 1)[0], (0.1, 0.0, 0.7))
    seen = RayCaster(mesh[1]).render(truth, camera.K, 640, 480).mask
    whole = mask_box(seen)
    oracle = Oracle(make_checkpoint(model), camera, truth)
    mends_none = SimpleNamespace(refine=lambda surfaces, *_: [None] * len(surfaces))

    def look(box, refiner=mends_none):
        looked_at.clear()
        found, = gather(oracle, np.zeros((480, 640, 3), np.uint8),
                        [Instance('cup', 0.9, box, seen, 1)], camera, refiner)
        assert found.crop is looked_at[-1]
        # Whichever crop it comes from.
        pose = Pose(found.crop.R_cam2crop.T, np.zeros(3)).compose(found.result.pose)
        np.testing.assert_allclose(pose.t_m2c, truth.t_m2c, atol=2e-3)
        np.testing.assert_allclose(found.crop.to_image(found.pixels), camera.project(
            truth.transform(model.keypoints)), atol=1e-3)
        return len(looked_at)

    height = whole[3] - whole[1]
    assert look(whole) == 1
    assert look(whole - [0, 0, 0, 0.04 * height]) == 1
    upper = whole - [0, 0, 0, 0.4 * height]
    assert look(upper) == 2
    expected = CropCamera.look_at(camera, (upper + whole) / 2, oracle.size, 1.4)
    middle = (oracle.size - 1) / 2
    np.testing.assert_allclose(looked_at[1].transfer([[middle, middle]], expected),
                               [[middle, middle]], atol=1.5)
    assert looked_at[1].K[0, 0] == pytest.approx(expected.K[0, 0], rel=0.03)
    # Poses of keypoints alone are not exact enough to say where.
    assert look(upper, refiner=None) == 1
    # A box three times as large is rather one of something else.
    assert look(whole + height * np.array([-1, -1, 1, 1])) == 1


def test_poses_in_doubt_are_looked_for_without_the_mask_too(mesh, monkeypatch):
    camera, model = CAMERAS['rectified'], mesh[0]
    truth = Pose(random_rotations(np.random.default_rng(1), 1)[0], (0.1, 0.0, 0.7))
    seen = RayCaster(mesh[1]).render(truth, camera.K, 640, 480).mask
    instance = Instance('cup', 0.9, mask_box(seen), seen, 1)
    image = np.zeros((480, 640, 3), np.uint8)
    shown = []

    class Watched(Oracle):
        def predict(self, rgb, masks):
            shown.append(('keypoints', masks.any()))
            return super().predict(rgb, masks)

    def mend(surfaces, poses, image, masks, camera):
        shown.extend(('refiner', mask.any()) for mask in masks)
        return [Refined(pose, np.eye(6) * 1e-6, 1.0, 1.0, 1.0, 1.0) for pose in poses]

    def look(with_mask, without, refine=True):
        calibration = {**CALIBRATION, 'bias': with_mask,
                       'without_mask': {**FITTED, 'bias': without, 'covariance_scale': 4.0}}
        checkpoint = replace(make_checkpoint(model), calibration=calibration)
        estimator = PoseEstimator([checkpoint], min_score=0.0, refine=refine)
        estimator._predictors['cup'] = Watched(checkpoint, camera, truth)
        if refine:
            monkeypatch.setattr(estimator._refiner, 'refine', mend)
        shown.clear()
        found, = estimator.estimate(image, [instance], camera)
        np.testing.assert_allclose(found.pose.t_m2c, truth.t_m2c, atol=2e-3)
        return found

    def chance(bias):
        return pytest.approx(1 / (1 + np.exp(-2 - bias)))

    with_mask = [('keypoints', True), ('refiner', True)]
    without = [('keypoints', False), ('refiner', False)]
    sure = look(-2.0, 5.0)
    assert SURE_ENOUGH < sure.score == chance(-2) and shown == with_mask
    doubted = look(-3.0, 1.0)
    assert doubted.score == chance(1) and shown == with_mask + without
    # Each way has a calibration of its own.
    np.testing.assert_allclose(doubted.covariance - sure.covariance, 3e-6 * np.eye(6), atol=1e-9)
    assert look(-3.0, -2.5).score == chance(-3) and shown == with_mask + without
    # Scores tell nothing of poses that are not mended.
    assert look(-3.0, 1.0, refine=False).score == chance(-3) and shown == with_mask[:1]
    # What is not shown is compared with the pose all the same.
    oracle = Watched(make_checkpoint(model), camera, truth)
    found, = gather(oracle, image, [instance], camera, use_masks=False)
    assert not shown.pop()[1] and found.mask.any()
    # Another one of its kind may stand where there is no mask.
    beside = np.zeros_like(seen)
    beside[:, :int(instance.box[0])] = True
    instance = replace(instance, mask=beside)
    assert look(-3.0, 1.0).score == chance(-3) and shown == with_mask + without


def test_those_in_doubt_are_told_from_the_others(mesh, monkeypatch):
    estimator = PoseEstimator([make_checkpoint(mesh[0])])
    mask = np.zeros((480, 640), bool)
    mask[100:200, 100:200] = True
    instances = [Instance('cup', 0.9, [100, 100, 200, 200], mask & (number != 2), number)
                 for number in range(5)]
    chances = {True: {0: 0.9, 1: 0.1, 3: 0.2, 4: 0.004}, False: {1: 0.25, 3: 0.6}}

    def find(name, image, given, camera, sightings, use_masks=True):
        assert [one.id for one in given] == sightings == list(chances[use_masks])
        yield from ()
        return [SimpleNamespace(instance=one, score=chances[use_masks][one.id], pose=None)
                for one in given]

    monkeypatch.setattr(estimator, '_find', find)
    monkeypatch.setattr(pipeline, 'sight', lambda checkpoint, image, given, camera:
                        [one.id for one in given])
    found = estimator.estimate(np.zeros((480, 640, 3), np.uint8), instances,
                               CAMERAS['rectified'])
    assert [one.instance.id for one in found] == list(range(5))
    assert [one.score for one in found] == [0.9, 0.1, 0.0, 0.6, 0.004]
    assert found[2].reason.startswith('the mask has 0 pixels')


def test_poses_follow_what_they_stand_on(mesh, monkeypatch):
    estimator = PoseEstimator([make_checkpoint(mesh[0])])
    mask = np.zeros((480, 640), bool)
    mask[100:200, 100:200] = True
    instances = [Instance('cup', 0.9, [100, 100, 200, 200], mask, number) for number in range(6)]
    start, there, mended, end = (Pose(np.eye(3), [0, 0, 1 + step / 10]) for step in range(4))
    surer = ObjectPose('cup', instances[0], start, 0.75, np.eye(6), *[None] * 4)
    # Moved; known by its print; not on the plane; unsure; told nothing of; by how much unknown.
    found = [surer, replace(surer, landmarks=12), replace(surer, score=0.8),
             replace(surer, score=0.1), replace(surer, score=0.72),
             replace(surer, covariance=np.full((6, 6), np.nan))]
    found = [replace(one, instance=own) for one, own in zip(found, instances)]

    def find(name, image, given, camera, sightings, use_masks=True):
        yield from ()
        return found if use_masks else [found[one.id] for one in given]

    def standing(pose, squared=0.5):
        return Standing(pose, 2 * np.eye(6), squared)

    def stand(things, plane):
        assert plane == 'plane'
        poses = [one.pose for one in things]
        if not asked:
            assert poses == [start] * 5
            return [standing(there), standing(there), standing(start, 50.0), standing(there), None]
        # One could not be mended again: it stays where it was brought, and is heard as it was.
        assert poses == [mended] + [start] * 4
        return [standing(end)] * 5

    class Mender:
        def refine(self, surfaces, poses, image, masks, camera, rounds):
            asked.append((poses, rounds))
            return [SimpleNamespace(pose=mended, covariance=np.eye(6)), None]

    asked = []
    monkeypatch.setattr(estimator, '_find', find)
    monkeypatch.setattr(estimator, '_refiner', Mender())
    monkeypatch.setattr(pipeline, 'sight', lambda checkpoint, image, given, camera: given)
    monkeypatch.setattr(pipeline, 'find_plane', lambda things: 'plane')
    monkeypatch.setattr(pipeline, 'stand', stand)
    got = estimator.estimate(np.zeros((480, 640, 3), np.uint8), instances, CAMERAS['rectified'])
    assert asked == [([there, there], 1)]
    assert [one.pose for one in got] == [end, start, start, None, start, start]
    assert [one.score for one in got] == [one.score for one in found]
    assert got[3].reason == 'score 0.10 is below 0.70'
    assert (got[0].covariance == 2 * np.eye(6)).all()
    alone = PoseEstimator([make_checkpoint(mesh[0])], use_support=False)
    monkeypatch.setattr(alone, '_find', find)
    got = alone.estimate(np.zeros((480, 640, 3), np.uint8), instances, CAMERAS['rectified'])
    assert [one.pose for one in got] == [start, start, start, None, start, start]
    assert len(asked) == 1


def test_what_is_mended_together_goes_back_to_who_asked():
    asked = []

    class Doubler:
        def refine(self, surfaces, poses, image, masks, camera):
            asked.append(list(zip(surfaces, poses, masks)))
            return [2 * one for one in poses]

    def work(name, *rounds):
        answers = []
        for numbers in rounds:
            answers.append((yield [name] * len(numbers), numbers, ['m' + name] * len(numbers)))
        return answers

    works = [work('a', [1, 2], []), work('b'), work('c', [3], [4], [5, 6])]
    assert pipeline._side_by_side(works, Doubler(), None, None) == [
        [[2, 4], []], [], [[6], [8], [10, 12]]]
    assert asked == [[('a', 1, 'ma'), ('a', 2, 'ma'), ('c', 3, 'mc')], [('c', 4, 'mc')],
                     [('c', 5, 'mc'), ('c', 6, 'mc')]]


def test_scores_of_another_version_are_refused(mesh):
    checkpoint = make_checkpoint(mesh[0])
    for calibration in ({**CALIBRATION, 'weights': [0.0] * 3},
                        *({key: CALIBRATION[key] for key in CALIBRATION if key != missing}
                          for missing in ('distance', 'without_mask'))):
        with pytest.raises(InputError, match='cup: expected a score fitted by this version'):
            PoseEstimator([checkpoint, replace(checkpoint, calibration=calibration)])


def test_models_go_with_the_refiner_that_their_scores_were_fitted_to(mesh, tmp_path):
    checkpoint = make_checkpoint(mesh[0])
    checkpoint.save(tmp_path / 'cup.safetensors')
    assert list(PoseEstimator.from_directory(tmp_path).models) == ['cup']
    shipped = Refiner.shipped()
    weights = {name: tensor.clone() for name, tensor in shipped.weights.items()}
    weights['heads.0.bias'] += 1
    save_refiner(tmp_path / FILE, shipped.config, weights, {})
    other = Refiner.beside(tmp_path)
    assert other.fingerprint != shipped.fingerprint
    with pytest.raises(InputError, match=f'{other.fingerprint}.* mends them, got .*'
                                         f'{shipped.fingerprint}: fit it with'):
        PoseEstimator.from_directory(tmp_path)
    PoseEstimator.from_directory(tmp_path, refine=False)
    fitted = replace(checkpoint, calibration={**CALIBRATION, 'refiner': other.fingerprint})
    PoseEstimator([fitted], refine=other)
    with pytest.raises(InputError, match='cup: expected a score fitted to poses as'):
        PoseEstimator([fitted])
    unknown = {key: value for key, value in CALIBRATION.items() if key != 'refiner'}
    with pytest.raises(InputError, match='those of another one'):
        PoseEstimator([replace(checkpoint, calibration=unknown)])


@pytest.mark.parametrize('network_input', ['rgb_mask', 'mask'])
def test_warming_up_reaches_every_stage(mesh, monkeypatch, network_input):
    estimator = PoseEstimator([make_checkpoint(mesh[0], network_input)])
    called = []
    for where, name in ((KeypointPredictor, 'predict'), (Refiner, 'refine')):
        def spy(self, *given, _real=getattr(where, name), _name=name):
            found = _real(self, *given)
            called.append((_name, found))
            return found
        monkeypatch.setattr(where, name, spy)
    estimator.warm_up()
    stages = [name for name, _ in called]
    assert 'predict' in stages and ('refine' in stages) == (network_input == 'rgb_mask')
    # The drawing was there to be compared.
    assert all(found[0] is not None for name, found in called[-1:] if name == 'refine')


def test_silhouettes_are_compared_with_masks():
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 32:96] = 255
    square = np.stack(np.meshgrid(np.arange(32, 96, 3.0), np.arange(32, 96, 3.0)), -1)
    square = square.reshape(-1, 2)
    np.testing.assert_allclose(silhouette_agreement(mask, square), [1, 1], atol=0.02)
    half = silhouette_agreement(mask, square + [32, 0])
    np.testing.assert_allclose(half, [0.5, 0.5], atol=0.05)
    part = silhouette_agreement(mask, square[square[:, 0] < 64])
    np.testing.assert_allclose(part, [0.5, 1], atol=0.08)
    np.testing.assert_allclose(silhouette_agreement(mask, square + 500), [0, 0])


def test_sure_score_is_the_least_with_so_many_right():
    scores = np.array([0.9, 0.2, 0.8, 0.7, 0.6])
    right = np.array([True, False, True, False, True])
    assert sure_score(scores, right, 0.75) == 0.6
    assert sure_score(scores, right, 0.95) == 0.8
    assert sure_score(scores, np.zeros(5, bool)) == 1.0


def test_masks_that_say_nothing_give_no_pose_but_a_reason(mesh):
    estimator = PoseEstimator([make_checkpoint(mesh[0])])
    camera, image = CAMERAS['rectified'], np.zeros((480, 640, 3), np.uint8)
    empty, one, border = (np.zeros((480, 640), bool) for _ in range(3))
    one[10, 10] = True
    border[:60, :40] = True
    instances = [Instance('cup', 0.9, [10, 10, 50, 50], empty, 1),
                 Instance('cup', 0.9, [9.5, 9.5, 10.5, 10.5], one, 2),
                 Instance('cup', 0.9, mask_box(border), border, 3),
                 Instance('cup', 0.9, [5, 5, 7, 400], border, 4)]
    found = estimator.estimate(image, instances, camera)
    assert [one.instance.id for one in found] == [1, 2, 3, 4]
    assert found[0].reason == 'the mask has 0 pixels, 30 are needed'
    assert found[1].reason == 'the mask has 1 pixels, 30 are needed'
    assert found[3].reason == 'the box is 2 x 395 pixels, 4 x 4 are needed'
    assert all(one.pose is None and one.score < 0.9 for one in found)


def test_poses_of_rgb_models_are_mended(mesh):
    """In a clear picture, a pose a few degrees and 3 % off comes out nearer to the truth."""
    camera, (model, surface) = CAMERAS['rectified'], mesh
    truth = Pose(random_rotations(np.random.default_rng(5), 1)[0], (0.05, -0.03, 0.45))
    wrong = Pose.from_rotvec([0.06, -0.04, 0.05], np.zeros(3)).compose(
        Pose(truth.R_m2c, truth.t_m2c * 1.03))
    seen = RayCaster(surface).render(truth, camera.K, 640, 480)
    image = np.full((480, 640, 3), 90, np.uint8)
    light = 0.4 + 0.6 * np.clip(-seen.normal[..., 2:], 0, 1)
    image[seen.mask] = (seen.albedo * light)[seen.mask]
    errors = []
    for refine in (False, True):
        checkpoint = make_checkpoint(model)
        estimator = PoseEstimator([checkpoint], refine=refine)
        oracle = Oracle(checkpoint, camera, wrong)
        box = mask_box(seen.mask)
        estimator._predictors['cup'] = oracle
        found, = estimator.estimate(image, [Instance('cup', 0.9, box, seen.mask, 1)],
                                    camera)
        errors.append(np.linalg.norm(found.pose.transform(model.points)
                                     - truth.transform(model.points), axis=1).mean())
        assert np.linalg.eigvalsh(found.covariance).min() > 0
    assert errors[1] < 0.5 * errors[0]


def test_poses_that_cannot_be_mended_are_withheld(mesh, monkeypatch):
    checkpoint, camera = make_checkpoint(mesh[0]), CAMERAS['rectified']
    estimator = PoseEstimator([checkpoint], min_score=0.0)
    monkeypatch.setattr(estimator._refiner, 'refine', lambda surfaces, *_: [None] * len(surfaces))
    oracle = Oracle(checkpoint, camera, Pose(np.eye(3), [0, 0, 0.5]))
    box = np.array([270, 190, 370, 290.0])
    estimator._predictors['cup'] = oracle
    mask = np.zeros((480, 640), bool)
    mask[190:290, 270:370] = True
    found, = estimator.estimate(np.zeros((480, 640, 3), np.uint8),
                                [Instance('cup', 0.9, box, mask, 1)], camera)
    assert found.pose is None and found.score == 0
    assert found.reason == 'the pose cannot be compared with the image'


def test_low_scores_are_withheld(mesh):
    checkpoint = make_checkpoint(mesh[0])
    sceptic = replace(checkpoint, calibration={**CALIBRATION, 'bias': -9.0})
    estimator = PoseEstimator([sceptic], min_score=0.5, refine=False)
    camera = CAMERAS['rectified']
    truth = Pose(np.eye(3), [0, 0, 0.5])
    oracle = Oracle(sceptic, camera, truth)
    box = np.array([270, 190, 370, 290.0])
    estimator._predictors['cup'] = oracle
    mask = np.ones((480, 640), bool)
    found, = estimator.estimate(np.zeros((480, 640, 3), np.uint8),
                                [Instance('cup', 0.9, box, mask, 1)], camera)
    assert found.pose is None
    assert found.reason == 'score 0.00 is below 0.50'


def test_labels_without_a_model_are_left_out_and_counted(mesh):
    estimator = PoseEstimator([make_checkpoint(mesh[0])])
    mask = np.ones((480, 640), bool)
    found = estimator.estimate(np.zeros((480, 640, 3), np.uint8),
                               [Instance('teapot', 1, [0, 0, 9, 9], mask, 1)] * 2,
                               CAMERAS['rectified'])
    assert found == []
    assert estimator.without_model == {'teapot': 2}


def test_mask_networks_need_no_image(mesh):
    estimator = PoseEstimator([make_checkpoint(mesh[0], 'mask')])
    mask = np.zeros((480, 640), bool)
    mask[200:300, 200:300] = True
    assert not estimator.needs_image
    found = estimator.estimate(None, [Instance('cup', 1, mask_box(mask), mask, 1)],
                               CAMERAS['rectified'])
    assert len(found) == 1


def test_inputs_that_do_not_fit_are_refused(mesh):
    estimator = PoseEstimator([make_checkpoint(mesh[0])])
    camera = CAMERAS['rectified']
    instance = Instance('cup', 1, [0, 0, 9, 9], np.ones((240, 320), bool), 1)
    with pytest.raises(InputError, match='image: expected one, for input rgb_mask'):
        estimator.estimate(None, [], camera)
    with pytest.raises(InputError, match=r'image: expected uint8 RGB of shape \(480, 640, 3\)'):
        estimator.estimate(np.zeros((240, 320, 3), np.uint8), [], camera)
    with pytest.raises(InputError, match=r'mask of cup: expected shape \(480, 640\)'):
        estimator.estimate(np.zeros((480, 640, 3), np.uint8), [instance], camera)


def test_models_are_found_by_their_input(mesh, tmp_path):
    make_checkpoint(mesh[0]).save(tmp_path / 'cup.safetensors')
    make_checkpoint(mesh[0], 'mask').save(tmp_path / 'cup.mask.safetensors')
    for other in ('segmenter', 'refiner'):
        (tmp_path / f'{other}.safetensors').write_bytes(b'')
    assert list(find_models(tmp_path)) == ['cup']
    assert find_models(tmp_path, 'mask')['cup'].name == 'cup.mask.safetensors'
    assert PoseEstimator.from_directory(tmp_path, 'mask').network_input == 'mask'
    with pytest.raises(InputError, match='expected models of teapot for input mask, got cup'):
        PoseEstimator.from_directory(tmp_path, 'mask', objects=['teapot'])
    with pytest.raises(InputError, match='expected a directory of models'):
        PoseEstimator.from_directory(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='input: expected one of rgb_mask, mask'):
        PoseEstimator.from_directory(tmp_path, 'depth')
    with pytest.raises(InputError, match='min_score: expected 0 to 1'):
        PoseEstimator.from_directory(tmp_path, 'mask', min_score=2)
