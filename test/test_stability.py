"""The virtual video and what is said of poses in it."""

from pathlib import Path

import numpy as np
from pose_estimator import stability
from pose_estimator.cli import main
from pose_estimator.geometry import Pose
from pose_estimator.object_model import object_from_mesh
from pose_estimator.synthetic.render import RayCaster
import pytest

CUP = str(Path(__file__).resolve().parents[1] / 'config' / 'objects' / 'cup.yaml')


@pytest.fixture(scope='module')
def frames():
    model, mesh = object_from_mesh('builtin:cup', 'm', 'cup')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stability, 'FRAMES', 12)
        return mesh, list(stability.video(model, mesh))


def test_masks_of_the_video_wobble_about_the_true_silhouette(frames):
    mesh, video = frames
    camera, caster = stability.video_camera(), RayCaster(mesh)
    for frame in video:
        true = caster.render(frame.pose, camera.K, 640, 480).mask
        mask = frame.instance.mask
        assert 0.8 < (mask & true).sum() / (mask | true).sum() < 1
    assert len({frame.instance.mask.sum() for frame in video}) > 6


def test_true_poses_do_not_jitter_and_a_constant_error_does_not_either(frames):
    _, video = frames
    true = [frame.pose for frame in video]
    rotation, jitter = stability._errors(true, video, None)
    np.testing.assert_allclose(rotation, 0, atol=1e-5)
    np.testing.assert_allclose(jitter, 0, atol=1e-5)
    turn = Pose.from_rotvec([0.3, 0, 0], [0, 0, 0.0])
    turned = [pose.compose(turn) for pose in true]
    rotation, jitter = stability._errors(turned, video, None)
    np.testing.assert_allclose(rotation, np.degrees(0.3), atol=1e-4)
    np.testing.assert_allclose(jitter[:, 0], 0, atol=1e-4)


def test_flips_and_missing_poses_are_counted(frames):
    _, video = frames
    flip = Pose.from_rotvec([0, 0, np.pi], np.zeros(3))
    poses = [frame.pose for frame in video]
    poses[4] = poses[4].compose(flip)
    poses[9] = None
    row = stability._row('x', *stability._errors(poses, video, None))
    # Two of nine changes between frames with poses are flips: there and back.
    assert '| 222 |' in row and row.endswith('| 8 % |')


def test_command_prints_a_row_and_draws(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(stability, 'FRAMES', 3)
    assert main(['stability', CUP, '--output',
                 str(tmp_path / 'plot.png')]) == 0
    assert '| `rgb_mask` |' in capsys.readouterr().out
    assert (tmp_path / 'plot.png').stat().st_size > 1000
    assert main(['stability', CUP, '--models', str(tmp_path)]) == 2
    assert 'expected a model of cup, got none' in capsys.readouterr().err
