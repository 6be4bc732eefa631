"""The command that measures on data sets and writes the document's tables."""

import json
from types import SimpleNamespace

from bop_example import IMAGES, true_pose, write_dataset
import numpy as np
from pose_estimator import accuracy
from pose_estimator.cli import main
from pose_estimator.geometry import Pose
import pytest

DOCUMENT = 'Before.\n\n<!-- boxes -->\nold\n<!-- end -->\n\n<!-- other -->\nkept\n<!-- end -->\n'


class Oracle:
    """
    Knows the true poses of bop_example, but shifts those of the second object by 10 cm.

    Poses that are not mended are shifted all of them.
    """

    needs_image, min_score = True, 0.5
    sure_scores = {'one': 0.95, 'two': 0.1}
    models = {'one': SimpleNamespace(name='one', bop_id=1),
              'two': SimpleNamespace(name='two', bop_id=2)}

    def __init__(self, refine=True):
        self.shifted = ('two',) if refine else ('one', 'two')

    def estimate(self, image, instances, camera):
        """Return the poses of an image, known by its camera's focal length."""
        key = next(key for key, one in IMAGES.items() if one[2] == camera.K[0, 0])
        found = []
        for one in instances:
            truth = true_pose(*key, self.models[one.label].bop_id)
            shift = [0, 0, 0.1 * (one.label in self.shifted)]
            turn = Pose.from_rotvec([0, 0, 0.003], np.zeros(3)).R_m2c  # three deviations
            found.append(SimpleNamespace(
                name=one.label, score=0.9 if one.label == 'one' else 0.2, instance=one,
                pose=Pose(turn @ truth.R_m2c, truth.t_m2c + shift),
                covariance=1e-6 * np.eye(6)))
        return found


@pytest.fixture
def measured(tmp_path, monkeypatch):
    write_dataset(tmp_path / 'boxes')
    monkeypatch.setattr(accuracy, 'find_models',
                        lambda models, kind: {'one': ''} if kind == 'rgb_mask' else {})
    monkeypatch.setattr(accuracy.PoseEstimator, 'from_directory',
                        lambda *args, refine=True, **kwargs: Oracle(refine))
    document = tmp_path / 'accuracy.md'
    document.write_text(DOCUMENT)

    def run(*given):
        return main(['accuracy', *given, '--models', str(tmp_path), '--output',
                     str(document)]), document.read_text()
    return run


def test_tables_are_rewritten(measured, tmp_path):
    folder = tmp_path / 'boxes'
    code, text = measured(f'boxes={folder}={folder}/detections.json')
    assert code == 0
    assert '\nold\n' not in text and text.startswith('Before.') and '\nkept\n' in text
    rows = [line.split(' | ') for line in text.splitlines()]
    overall = next(row for row in rows if row[0] == '| `rgb_mask`, detected masks')
    assert overall[1:4] == ['5', '0', '40.0']  # two of five targets are of the first object
    bare = next(row for row in rows if row[0] == '| the same, detected masks, poses not mended '
                '(`--no-refinement`)')
    assert bare[1:4] == ['5', '0', '0.0']
    assert [row[3] for row in rows if row[0] in ('| 1', '| 2')] == ['100.0', '0.0']
    # The squared error of 9 lies between what should hold a half and what should hold 90 %.
    assert '| `rgb_mask`, detected masks | 2 | 0 % | 100 % | 100 % |' in text
    assert ['| 0.5, as shipped', '40.0 %', '0', '100.0 % |'] in rows
    assert '(0.10 to 0.95), 60.0 % of the targets and 0 others are published, 0.0 %' in text
    assert 'Lost to the segmenter: 0.0 % of the targets have no detection' in text
    assert 'Expected calibration error of the score: 0.160.' in text
    assert (tmp_path / 'accuracy' / 'boxes.png').stat().st_size > 1000


def test_poses_of_what_is_no_target_count_as_wrong(measured, tmp_path):
    folder = tmp_path / 'boxes'
    path = folder / 'test_targets_bop19.json'
    targets = json.loads(path.read_text())
    gone = next(one for one in targets if one['obj_id'] == 1)
    path.write_text(json.dumps([one for one in targets if one is not gone]))
    code, text = measured(f'boxes={folder}={folder}/detections.json')
    assert code == 0
    assert '(there are estimates for 1 such pairs' in text
    assert '| 0.5, as shipped | 25.0 % | 1 | 50.0 % |' in text


def test_peers_stand_beside(measured, tmp_path):
    folder, peer = tmp_path / 'boxes', tmp_path / 'peer.csv'
    peer.write_text('scene_id,im_id,obj_id,score,R,t,time\n')
    code, text = measured(f'boxes={folder}', '--peer', 'silent', str(peer))
    assert code == 0
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| silent')]
    assert [len(row) for row in rows] == [9, 5, 5]  # all in all, shifts, by visibility
    assert rows[0][1:4] == ['5', '5', '0.0'] and rows[1][1] == '-'
    assert any(cell.startswith('0 %') for cell in rows[2])


def test_true_masks_alone_without_detections(measured, tmp_path):
    code, text = measured(f'boxes={tmp_path / "boxes"}')
    assert code == 0
    assert 'true masks' in text and 'detected masks' not in text and 'min_score' not in text


def test_document_without_a_place_for_the_tables(measured, tmp_path, capsys):
    code, text = measured(f'spheres={tmp_path / "boxes"}')
    assert code == 2 and text == DOCUMENT
    assert 'expected lines <!-- spheres --> and <!-- end -->' in capsys.readouterr().err


def test_shift_is_split_along_and_across_the_ray(measured, tmp_path):
    _, text = measured(f'boxes={tmp_path / "boxes"}')
    row = next(line for line in text.splitlines() if ' mm | ' in line)
    places = [true_pose(*key, number).t_m2c for key, one in IMAGES.items() for number in one[3]]
    shifts = [np.array([0, 0, 100.0 * (number == 2)]) for one in IMAGES.values()
              for number in one[3]]
    along = [shift @ place / np.linalg.norm(place) for place, shift in zip(places, shifts)]
    across = [np.sqrt(shift @ shift - way ** 2) for way, shift in zip(along, shifts)]
    assert f'| {np.median(along):.0f} mm | {np.median(across):.0f} mm |' in row
    assert np.median(along) > 95
