"""Cameras: projection and rays for each distortion model, and the crop's virtual camera."""

import cv2
import numpy as np
from pose_estimator.camera import CropCamera, PinholeCamera
from pose_estimator.errors import InputError
import pytest

K = np.array([[520, 0, 310], [0, 540, 250], [0, 0, 1]], float)
CAMERAS = {
    'plane': PinholeCamera(K, 640, 480),
    'plumb_bob': PinholeCamera(K, 640, 480, [-0.28, 0.09, 1e-3, -5e-4, -0.01], 'plumb_bob'),
    'plumb_bob, 4': PinholeCamera(K, 640, 480, [0.1, -0.2, 1e-3, 2e-3], 'plumb_bob'),
    'plumb_bob, zero': PinholeCamera(K, 640, 480, np.zeros(5), 'plumb_bob'),
    'rational': PinholeCamera(K, 640, 480, [0.3, 0.1, 1e-4, -2e-4, 0.01, 0.6, 0.2, 0.02],
                              'rational_polynomial'),
    'rational, 12': PinholeCamera(
        K, 640, 480, [0.3, 0.1, 1e-4, -2e-4, 0.01, 0.6, 0.2, 0.02, 1e-3, 1e-3, -1e-3, 1e-3],
        'rational_polynomial'),
    'rational, 14': PinholeCamera(
        K, 640, 480, [0.3, 0.1, 1e-4, -2e-4, 0.01, 0.6, 0.2, 0.02, 1e-3, 1e-3, -1e-3, 1e-3,
                      0.01, -0.02], 'rational_polynomial'),
    'equidistant': PinholeCamera(K, 640, 480, [0.05, -0.01, 5e-3, -1e-3], 'equidistant'),
    'equidistant, zero': PinholeCamera(K, 640, 480, np.zeros(4), 'equidistant'),
}
BOXES = {'middle': (280, 200, 360, 290), 'corner': (-20, -10, 70, 60),
         'right': (570, 200, 660, 320), 'wide': (100, 300, 420, 360), 'all': (0, 0, 640, 480)}


def pixel_grid(width=640, height=480, count=9):
    x, y = np.meshgrid(np.linspace(-0.5, width - 0.5, count),
                       np.linspace(-0.5, height - 0.5, count))
    return np.column_stack([x.ravel(), y.ravel()])


@pytest.fixture(params=list(CAMERAS), ids=list(CAMERAS))
def camera(request):
    return CAMERAS[request.param]


def test_rays_then_project_is_the_pixel(camera):
    pixels = pixel_grid()
    rays = camera.rays(pixels)
    assert rays.shape == (81, 3)
    np.testing.assert_allclose(rays[:, 2], 1)
    np.testing.assert_allclose(camera.project(rays), pixels, atol=1e-3)
    # Distance along the ray does not matter.
    np.testing.assert_allclose(camera.project(rays * 3.7), camera.project(rays), atol=1e-6)


def test_project_then_rays_is_the_direction(camera):
    points = np.random.default_rng(0).uniform([-0.4, -0.3, 0.8], [0.4, 0.3, 1.2], (50, 3))
    rays = camera.rays(camera.project(points))
    np.testing.assert_allclose(rays, points / points[:, 2:], atol=1e-6)


def test_projection_without_distortion():
    np.testing.assert_allclose(CAMERAS['plane'].project([[0.1, -0.2, 2.0]]),
                               [[310 + 26, 250 - 54]])
    np.testing.assert_allclose(CAMERAS['plumb_bob, zero'].project([[0.1, -0.2, 2.0]]),
                               [[310 + 26, 250 - 54]])


def test_equidistant_pixels_grow_with_the_angle():
    camera = CAMERAS['equidistant, zero']
    angles = np.array([0.1, 0.4, 0.8])
    points = np.column_stack([np.sin(angles), np.zeros(3), np.cos(angles)])
    np.testing.assert_allclose(camera.project(points)[:, 0], 310 + 520 * angles, atol=1e-6)
    assert camera.is_distorted


def test_plumb_bob_by_hand():
    camera = PinholeCamera(K, 640, 480, [0.1, 0.02, 0, 0, 0], 'plumb_bob')
    r2 = 0.25 ** 2
    np.testing.assert_allclose(camera.project([[0.25, 0, 1.0]]),
                               [[310 + 520 * 0.25 * (1 + 0.1 * r2 + 0.02 * r2 ** 2), 250]])


def test_no_points(camera):
    assert camera.project(np.zeros((0, 3))).shape == (0, 2)
    assert camera.rays(np.zeros((0, 2))).shape == (0, 3)


@pytest.mark.parametrize('box', list(BOXES.values()), ids=list(BOXES))
def test_crop_camera_is_exact_for_points_in_space(camera, box):
    crop = CropCamera.look_at(camera, box, 128, 1.3)
    # Points seen within the crop, at several distances.
    pixels = np.random.default_rng(1).uniform(20, 108, (40, 2))
    rays = np.column_stack([pixels, np.ones(40)]) @ np.linalg.inv(crop.K).T
    points = rays @ crop.R_cam2crop * np.linspace(0.3, 3, 40)[:, None]
    in_crop = points @ crop.R_cam2crop.T @ crop.K.T
    np.testing.assert_allclose(in_crop[:, :2] / in_crop[:, 2:], pixels, atol=1e-9)
    seen = camera.project(points)
    np.testing.assert_allclose(crop.to_crop(seen), pixels, atol=0.02)
    np.testing.assert_allclose(crop.to_image(pixels), seen, atol=1e-6)


@pytest.mark.parametrize('box', list(BOXES.values()), ids=list(BOXES))
def test_crop_looks_at_the_middle_of_the_box_and_holds_it(camera, box):
    size, margin = 96, 1.25
    crop = CropCamera.look_at(camera, box, size, margin)
    middle = crop.to_crop([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]])
    np.testing.assert_allclose(middle, [[47.5, 47.5]], atol=1e-3)
    x0, y0, x1, y1 = box
    sides = crop.to_crop([[x0, (y0 + y1) / 2], [x1, (y0 + y1) / 2],
                          [(x0 + x1) / 2, y0], [(x0 + x1) / 2, y1]])
    extent = max(sides[1, 0] - sides[0, 0], sides[3, 1] - sides[2, 1])
    assert extent == pytest.approx(size / margin, rel=1e-6)


@pytest.mark.parametrize('box', list(BOXES.values()), ids=list(BOXES))
def test_crop_shows_what_the_image_shows_there(camera, box):
    # An image whose grey values are its coordinates.
    y, x = np.mgrid[:480, :640].astype(np.float32)
    image = np.dstack([x, y])
    crop = CropCamera.look_at(camera, box, 64, 1.2)
    shown = crop.crop(image)
    assert shown.shape == (64, 64, 2)
    v, u = np.mgrid[:64, :64]
    expected = crop.to_image(np.column_stack([u.ravel(), v.ravel()])).reshape(64, 64, 2)
    # A pixel is the mean of what it covers, so those on the image's edge show less of it.
    reach = max(np.abs(np.diff(expected, axis=axis)).max() for axis in (0, 1))
    inside = ((expected >= reach) & (expected <= [639 - reach, 479 - reach])).all(-1)
    outside = ((expected < -reach) | (expected > [639 + reach, 479 + reach])).any(-1)
    assert inside.sum() > 500
    # OpenCV interpolates at 1/32 pixel.
    np.testing.assert_allclose(shown[inside], expected[inside], atol=0.05)
    assert not shown[outside].any()


@pytest.mark.parametrize('times', [3, 4, 7, 16])
def test_cameras_of_more_pixels_show_the_same(times):
    # Noise is what aliases most: nothing of a pixel is seen in the one beside it.
    rng = np.random.default_rng(3)
    large = rng.integers(0, 256, (times * 240, times * 320, 3), np.uint8)
    small = cv2.resize(large, (320, 240), interpolation=cv2.INTER_AREA)
    K = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
    fine = np.diag([times, times, 1.0]) @ K
    fine[:2, 2] += (times - 1) / 2
    box = np.array([100.0, 60, 200, 160])
    seen = [CropCamera.look_at(PinholeCamera(matrix, *image.shape[1::-1]),
                               zoom * (box + 0.5) - 0.5, 128, 1.4).crop(image).astype(float)
            for image, matrix, zoom in ((small, K, 1), (large, fine, times))]
    # Looked up once a pixel, it would have `times` of this over 1.5, however many that are.
    assert seen[1].std() < 1.5 * 256 / np.sqrt(12) / times
    assert np.corrcoef(seen[0].ravel(), seen[1].ravel())[0, 1] > 0.45


def test_crop_of_masks_colours_and_nearest(camera):
    crop = CropCamera.look_at(camera, (280, 200, 360, 290), 64, 1.2)
    mask = np.zeros((480, 640), bool)
    mask[200:290, 280:360] = True
    assert 0.5 < crop.crop(mask).mean() < 0.75
    assert crop.crop(np.zeros((480, 640, 3), np.uint8)).shape == (64, 64, 3)
    labels = np.where(mask, 1000, 7).astype(np.uint16)
    assert set(np.unique(crop.crop(labels, cv2.INTER_NEAREST))) == {7, 1000}


@pytest.mark.parametrize('changes, words', [
    ({'K': np.eye(4)}, 'shape'),
    ({'K': np.full((3, 3), np.nan)}, 'finite'),
    ({'K': np.zeros((3, 3))}, r'K\[0\] = 0.*uncalibrated'),
    ({'K': np.diag([-500, 500, 1])}, 'above 0'),
    ({'K': np.diag([500, 0, 1])}, 'above 0'),
    ({'K': np.diag([1e300, 500, 1])}, 'expected rows fx 0 cx'),
    ({'K': np.diag([1e-300, 500, 1])}, 'expected rows fx 0 cx'),
    ({'K': np.diag([500, 500, 0])}, 'expected rows fx 0 cx'),
    ({'K': np.array([[500, 0, 320], [500, 500, 240], [0, 1e-3, 1]])}, 'expected rows fx 0 cx'),
    ({'K': np.array([[500, 0, 1e9], [0, 500, 240], [0, 0, 1]])}, 'expected rows fx 0 cx'),
    ({'width': 0}, 'image size'),
    ({'distortion': [0.1] * 5, 'distortion_model': 'thin_prism'}, "got 'thin_prism'"),
    ({'distortion': [0.1] * 5}, 'no model expects 0'),
    ({'distortion': [0.1] * 3, 'distortion_model': 'plumb_bob'}, 'expects 0 or 4 or 5'),
    ({'distortion': [0.1] * 5, 'distortion_model': 'equidistant'}, 'expects 4'),
    ({'distortion': [np.nan] * 4, 'distortion_model': 'equidistant'}, 'finite'),
    ({'distortion': [1e300] + [0] * 4, 'distortion_model': 'plumb_bob'}, 'below 10000'),
])
def test_bad_camera(changes, words):
    with pytest.raises(InputError, match=words):
        PinholeCamera(**{'K': K, 'width': 640, 'height': 480, **changes})


@pytest.mark.parametrize('box', [(5, 5, 5, 9), (5, 9, 9, 5), (5, np.nan, 9, 10)])
def test_crop_of_an_empty_box(box):
    with pytest.raises(InputError, match='box: expected x0 < x1'):
        CropCamera.look_at(CAMERAS['plane'], box, 64, 1.2)


def test_turned_crops_show_the_same_elsewhere():
    camera = PinholeCamera(np.array([[600.0, 0, 320], [0, 590, 240], [0, 0, 1]]), 640, 480)
    crop = CropCamera.look_at(camera, [400, 100, 480, 200], 128, 1.4)
    turned = crop.turned(90, 1.25)
    pixels = np.array([[63.5, 63.5], [83.5, 63.5], [10.0, 100.0]])
    moved = crop.transfer(pixels, turned)
    # A camera rolled clockwise by a quarter sees what lay to the right above.
    np.testing.assert_allclose(moved[:2], [[63.5, 63.5], [63.5, 63.5 - 25]], atol=1e-9)
    np.testing.assert_allclose(turned.to_crop(crop.to_image(pixels)), moved, atol=1e-6)
    np.testing.assert_allclose(turned.transfer(moved, crop), pixels, atol=1e-9)
