"""Scores of a segmenter, confirmed by keypoint networks."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
from pose_estimator.assets import find
from pose_estimator.confirmed import ConfirmedSegmenter
from pose_estimator.demo.scene import DemoScene
from pose_estimator.errors import InputError
from pose_estimator.instance import Instance
from pose_estimator.scoring import FEATURES
from pose_estimator.segmentation.mask_rcnn import MaskRCNNSegmenter
import pytest

# Places of red and blue things, shape (x0, y0, x1, y1), and what they were taken for.
FOUND = [('cup', 0.6, (20, 20, 60, 60), 'blue'), ('cup', 0.5, (90, 20, 130, 60), 'red'),
         ('book', 0.55, (20, 80, 60, 110), 'blue'), ('cup', 0.9, (90, 80, 130, 110), 'blue')]


class Segmenter:
    """Finds FOUND."""

    labels, ignored = ('cup', 'book'), Counter(mug=2)

    def segment(self, image):
        """Return instances."""
        masks = [np.zeros(image.shape[:2], bool) for _ in FOUND]
        for mask, (_, _, (x0, y0, x1, y1), _) in zip(masks, FOUND):
            mask[y0:y1, x0:x1] = True
        return [Instance(label, score, box, mask, 7) for (label, score, box, _), mask
                in zip(FOUND, masks)]


class Predictor:
    """Is sure of all keypoints where it is shown red, unsure elsewhere; wants the mask, too."""

    size = 64

    def __init__(self, mean=0.8, scale=0.3):
        numbers = [[number] * len(FEATURES) for number in (np.nan, np.nan)]
        for row, number in zip(numbers, (mean, scale)):
            row[FEATURES.index('confidence')] = number
        self.checkpoint = SimpleNamespace(margin=1.4, calibration=dict(
            zip(('mean', 'scale'), numbers)))

    def predict(self, rgb, masks):
        """Return confidences."""
        assert rgb.shape[1:] == (64, 64, 3) and masks.shape[1:] == (64, 64)
        middle = slice(24, 40)
        red = rgb[:, middle, middle, 0].mean((1, 2)) > 200
        assert (masks[:, middle, middle] == 255).all() and not masks[:, 0, 0].any()
        return SimpleNamespace(confidence=np.where(red, 0.8, 0.2)[:, None].repeat(32, 1))


@pytest.fixture
def image():
    """Return a picture with things of the colours of FOUND."""
    picture = np.zeros((120, 160, 3), np.uint8)
    for _, _, (x0, y0, x1, y1), color in FOUND:
        picture[y0 - 1:y1 + 1, x0 - 1:x1 + 1, 'red green blue'.split().index(color)] = 255
    return picture


def test_odds_are_multiplied_by_the_networks(image):
    confirmed = ConfirmedSegmenter(Segmenter(), {'cup': Predictor()}, 0.0)
    assert confirmed.labels == ('cup', 'book') and confirmed.ignored == {'mug': 2}
    found = confirmed.segment(image)
    # Odds of 1, times 0.8 / 0.2 over 0.5 / 0.5; of 9 and of 1.5, times 0.2 / 0.8.
    expected = [('cup', 4 / 5), ('cup', 9 / 4 / (1 + 9 / 4)), ('book', 0.55),
                ('cup', 1.5 / 4 / (1 + 1.5 / 4))]
    assert [one.label for one in found] == [label for label, _ in expected]
    np.testing.assert_allclose([one.score for one in found], [score for _, score in expected])
    assert [one.id for one in found] == [1, 2, 3, 4]
    np.testing.assert_array_equal(found[0].box, FOUND[1][2])
    assert found[0].mask[40, 100] and found[0].mask.sum() == 40 * 40


def test_what_is_not_confirmed_is_dropped(image):
    found = ConfirmedSegmenter(Segmenter(), {'cup': Predictor()}).segment(image)
    assert [(one.label, one.id) for one in found] == [('cup', 1), ('cup', 2), ('book', 3)]
    # Who is never sure of anything need not be sure of this.
    modest = ConfirmedSegmenter(Segmenter(), {'cup': Predictor(0.4, 0.3)}).segment(image)
    assert len(modest) == 4


def test_certain_networks_leave_finite_odds(image):
    class Certain(Predictor):
        def predict(self, rgb, masks):
            return SimpleNamespace(confidence=np.full((len(rgb), 32), float(self.value)))

    for value, (low, high) in {0: (0, 1e-3), 1: (0.999, 1)}.items():
        predictor = Certain()
        predictor.value = value
        scores = [one.score for one in ConfirmedSegmenter(
            Segmenter(), {'cup': predictor}, 0.0).segment(image) if one.label == 'cup']
        assert len(scores) == 3 and all(low <= score <= high for score in scores)


def test_grey_images_and_no_detections():
    class Nothing(Segmenter):
        def segment(self, image):
            return []

    grey = np.zeros((120, 160), np.uint8)
    assert ConfirmedSegmenter(Nothing(), {'cup': Predictor()}).segment(grey) == []
    assert len(ConfirmedSegmenter(Segmenter(), {'cup': Predictor()}, 0.0).segment(grey)) == 4


def test_models_beside_the_weights_confirm(tmp_path):
    weights = find('models') / 'segmenter.safetensors'
    confirmed = ConfirmedSegmenter.from_checkpoint(weights)
    plain = MaskRCNNSegmenter.from_checkpoint(weights, min_score=0.3)
    frame = DemoScene(7).frame(1.0)
    before = {one.box.round(3).tobytes(): one.score for one in plain.segment(frame.image)}
    found = confirmed.segment(frame.image)
    assert {one.label for one in found} == {'book', 'bottle', 'cup'}
    assert all(one.score > 0.5 and one.box.round(3).tobytes() in before for one in found)
    assert any(before[one.box.round(3).tobytes()] != one.score for one in found)
    # What could not become sure enough is not looked at.
    for min_score, least in ((0.5, 0.3), (0.0, 0.2), (0.7, 0.5)):
        one = ConfirmedSegmenter.from_checkpoint(weights, min_score=min_score)
        assert abs(one._segmenter._network.roi_heads.score_thresh - least) < 1e-6
    # Without any model, what the segmenter says stays.
    alone = ConfirmedSegmenter.from_checkpoint(weights, tmp_path)
    assert [one.score for one in alone.segment(frame.image)] == sorted(
        (score for score in before.values() if score >= 0.5), reverse=True)


def test_damaged_models_are_refused(tmp_path):
    (tmp_path / 'cup.safetensors').write_bytes(b'nonsense')
    with pytest.raises(InputError, match='damaged'):
        ConfirmedSegmenter.from_checkpoint(find('models') / 'segmenter.safetensors', tmp_path)
