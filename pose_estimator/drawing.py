"""Annotated pictures: keypoints red, projected bounding box blue, as in the paper."""

import cv2
import numpy as np

# RGB.
RED = (255, 40, 30)
BLUE = (40, 90, 255)
GREY = (170, 170, 170)
WHITE = (255, 255, 255)
AXES = ((255, 60, 60), (60, 220, 60), (90, 140, 255))
# Corners of ObjectModel.corners that differ along one axis.
EDGES = ((0, 1), (0, 2), (0, 4), (1, 3), (1, 5), (2, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7),
         (6, 7))
FONT = cv2.FONT_HERSHEY_SIMPLEX
SHIFT = 4  # OpenCV draws at 1/16 pixel


def draw_poses(image, object_poses, camera, models):
    """
    Draw poses into a copy of an image.

    Keypoints are red (dots: those that agree with the pose, rings: the others), the bounding
    box is blue, the object's axes x, y, z are red, green, blue. An instance without a pose is a
    grey box with the reason.

    Parameters
    ----------
    image : array of uint8, shape (height, width, 3)
        RGB.
    object_poses : sequence of ObjectPose
        What the estimator said of the image.
    camera : PinholeCamera
        The one that took the image.
    models : dict
        Name -> ObjectModel.

    Returns
    -------
    picture : array of uint8, shape (height, width, 3)
        RGB.

    """
    picture = np.ascontiguousarray(image).copy()
    scale = max(1.0, picture.shape[0] / 480)
    view = _View(camera)
    labels = []
    # The nearest is drawn last; what has no pose lies underneath.
    for found in sorted(object_poses, key=_depth, reverse=True):
        if found.pose is None:
            labels.append(_draw_missing(picture, found, scale))
            continue
        model = models[found.name]
        corners = found.pose.transform(model.corners)
        lines = [view.line(corners[first], corners[second]) for first, second in EDGES]
        _draw_lines(picture, lines, BLUE, round(2 * scale))
        _draw_keypoints(picture, found, scale)
        tips = found.pose.transform(np.vstack([np.zeros(3), 0.2 * model.diameter * np.eye(3)]))
        for tip, colour in zip(tips[1:], AXES):
            _draw_lines(picture, [view.line(tips[0], tip)], colour, round(2 * scale))
        seen = [line for line in lines if line is not None]
        if seen:
            corner = np.min(np.concatenate(seen), 0)
        else:
            corner = np.asarray(found.instance.box[:2])
        labels.append((f'{found.name} {found.score:.2f}', corner, WHITE))
    taken = []
    for text, corner, colour in reversed(labels):  # the nearest get the best places
        _draw_label(picture, text, corner, colour, scale, taken)
    return picture


class _View:
    """What part of space a camera can draw."""

    def __init__(self, camera):
        self.camera = camera
        x = np.linspace(-0.5, camera.width - 0.5, 9)
        y = np.linspace(-0.5, camera.height - 0.5, 9)
        border = np.concatenate([
            np.column_stack([x, np.full(9, y[0])]), np.column_stack([x, np.full(9, y[-1])]),
            np.column_stack([np.full(9, x[0]), y]), np.column_stack([np.full(9, x[-1]), y])])
        rays = camera.rays(border)[:, :2]
        # Beyond its image a lens's polynomial is not to be trusted; a plane image may be left.
        margin = 0.0 if camera.is_distorted else 0.1
        low, high = rays.min(0), rays.max(0)
        low, high = low - margin * (high - low), high + margin * (high - low)
        # Half spaces through the camera's centre: inward normals, shape (4, 3).
        self._inward = np.array([[1, 0, -low[0]], [-1, 0, high[0]],
                                 [0, 1, -low[1]], [0, -1, high[1]]])

    def line(self, start, end):
        """
        Project the visible part of a straight line.

        Parameters
        ----------
        start, end : array, shape (3,)
            Camera frame, metres; anywhere, behind the camera too.

        Returns
        -------
        pixels : array, shape (n, 2), or None
            A polyline, curved as the lens makes it; None if nothing can be seen.

        """
        # Keep off the camera's centre, where the half spaces meet.
        inward = np.vstack([self._inward, [0, 0, 1]])
        offset = np.array([0, 0, 0, 0, 1e-3])
        first, last = inward @ start - offset, inward @ end - offset
        low, high = 0.0, 1.0
        for a, b in zip(first, last):
            if a < 0 and b < 0:
                return None
            if a < 0:
                low = max(low, a / (a - b))
            elif b < 0:
                high = min(high, a / (a - b))
        if low >= high:
            return None
        steps = np.linspace(low, high, 17 if self.camera.is_distorted else 2)[:, None]
        pixels = self.camera.project(start + steps * (end - start))
        return pixels if np.isfinite(pixels).all() else None


def _depth(found):
    return np.inf if found.pose is None else found.pose.t_m2c[2]


def _fixed(pixels):
    return np.round(np.asarray(pixels) * (1 << SHIFT)).astype(np.int32)


def _draw_lines(picture, lines, colour, thickness):
    lines = [_fixed(line)[:, None] for line in lines if line is not None]
    cv2.polylines(picture, lines, False, colour, thickness, cv2.LINE_AA, SHIFT)


def _draw_keypoints(picture, found, scale):
    height, width = picture.shape[:2]
    radius = int(round(1.8 * scale * (1 << SHIFT)))
    for pixel, inlier in zip(found.keypoints, found.inliers):
        if not (-0.5 <= pixel[0] < width and -0.5 <= pixel[1] < height):  # NaN too
            continue
        centre = tuple(map(int, _fixed(pixel)))
        if inlier:
            cv2.circle(picture, centre, radius, RED, cv2.FILLED, cv2.LINE_AA, SHIFT)
        else:
            cv2.circle(picture, centre, radius, RED, 1, cv2.LINE_AA, SHIFT)


def _draw_missing(picture, found, scale):
    x0, y0, x1, y1 = np.clip(found.instance.box, -1e4, 1e4)
    outline = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    cv2.polylines(picture, [_fixed(outline)[:, None]], True, GREY, max(1, round(scale)),
                  cv2.LINE_AA, SHIFT)
    return f'{found.name}: {found.reason or "no pose"}', np.array([x0, y0]), GREY


def _draw_label(picture, text, corner, colour, scale, taken):
    """Write text on a dark ground above `corner`, or below labels that are there already."""
    height, width = picture.shape[:2]
    size = 0.42 * scale
    (text_width, text_height), base = cv2.getTextSize(text, FONT, size, 1)
    pad = round(2 * scale)
    box_width, box_height = text_width + 2 * pad, text_height + base + 2 * pad
    x = int(np.clip(corner[0], 0, max(0, width - box_width)))
    y = int(np.clip(corner[1] - box_height, 0, max(0, height - box_height)))
    for _ in range(len(taken)):
        hit = [other for other in taken
               if x < other[2] and other[0] < x + box_width
               and y < other[3] and other[1] < y + box_height]
        if not hit or hit[0][3] + box_height > height:
            break
        y = hit[0][3]
    taken.append((x, y, x + box_width, y + box_height))
    ground = picture[y:y + box_height, x:x + box_width]
    ground[:] = ground // 4
    cv2.putText(picture, text, (x + pad, y + pad + text_height), FONT, size, colour, 1,
                cv2.LINE_AA)
