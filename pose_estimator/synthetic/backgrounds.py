"""Procedural pictures to stand behind, or cover, what is rendered: no photographs needed."""

import cv2
import numpy as np


def background_bank(rng, count, size):
    """
    Make many varied square pictures.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same pictures.
    count : int
        How many.
    size : int
        Side in pixels.

    Returns
    -------
    pictures : array of uint8, shape (count, size, size, 3)
        RGB.

    """
    return np.stack([random_background(rng, size, size) for _ in range(count)])


def random_background(rng, height, width):
    """
    Make one picture: a surface, most often with clutter upon it.

    Returns
    -------
    picture : array of uint8, shape (height, width, 3)
        RGB.

    """
    picture = random_texture(rng, height, width)
    if rng.random() < 0.35:
        # Two surfaces that meet at an edge: table and wall, or two sheets.
        _join(rng, picture, random_texture(rng, height, width))
    if rng.random() < 0.5:
        _scatter(rng, picture, rng.integers(2, 14))
    if rng.random() < 0.45:
        _pile(rng, picture, rng.integers(2, 16))
    if rng.random() < 0.5:
        picture = _lit(rng, picture)
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 2.5))
    return picture


def random_texture(rng, height, width):
    """
    Make one picture of a flat surface: noise, stripes, checkers, wood, cloth, print.

    Returns
    -------
    texture : array of uint8, shape (height, width, 3)
        RGB.

    """
    first, second = random_color(rng), random_color(rng)
    if rng.random() < 0.5:  # real surfaces most often keep to one hue
        second = np.clip(first + rng.normal(0, 35, 3) + rng.normal(0, 25), 0, 255)
    kind = rng.choice(len(_PATTERNS), p=_PATTERN_SHARES)
    mix = _PATTERNS[kind](rng, height, width).astype(np.float32)[..., None]  # (h, w, 1)
    picture = np.float32(first) * (1 - mix) + np.float32(second) * mix
    if rng.random() < 0.6:
        grain = noise(rng, height, width, octaves=3, coarse=rng.uniform(2, 40)) - 0.5
        picture += grain[..., None] * np.float32(rng.uniform(5, 70))
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _scatter(rng, picture, rng.integers(3, 25))
    if rng.random() < 0.15:
        _write(rng, picture)
    return picture


def random_color(rng):
    """Return RGB, shape (3,), 0..255: grey or brown as often as gaudy."""
    value = rng.uniform(10, 250)
    if rng.random() < 0.4:
        return np.clip(value + rng.normal(0, 8, 3), 0, 255)
    saturation = rng.uniform(0.1, 1) ** 1.5
    hue = rng.uniform(0, 2 * np.pi)
    phases = np.array([0, -2 * np.pi / 3, 2 * np.pi / 3])
    wheel = np.clip(0.5 + np.cos(hue + phases), 0, 1)
    return value * (1 - saturation + saturation * wheel)


def noise(rng, height, width, octaves=5, coarse=None, stretch=1.0):
    """
    Return smooth noise of several octaves.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    height, width : int
        Pixels.
    octaves : int
        Each is twice as fine as the one before.
    coarse : float
        Blobs across the picture at the coarsest octave; default 1.5 to 8, at random.
    stretch : float
        How many times longer than high a blob is.

    Returns
    -------
    noise : array of float32, shape (height, width)
        0..1.

    """
    coarse = rng.uniform(1.5, 8) if coarse is None else coarse
    fade = rng.uniform(0.35, 0.75)
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    for octave in range(octaves):
        cells = coarse * 2 ** octave
        rows = int(np.clip(cells, 2, height))
        columns = int(np.clip(cells / stretch, 2, width))
        grid = rng.random((rows, columns), np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight *= fade
        if rows == height and columns == width:
            break
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def _plane(rng, height, width):
    """Return x, y (h, w) in units of the longer side, turned at random about a random point."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.arange(width, dtype=np.float32)[None] / max(height, width) - np.float32(rng.random())
    y = np.arange(height, dtype=np.float32)[:, None] / max(height, width) - np.float32(
        rng.random())
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x * cosine + y * sine, y * cosine - x * sine
    if rng.random() < 0.3:  # seen at a slant
        slant = 1 / np.maximum(1.2 + rng.uniform(0, 0.9) * v, 0.1)
        u, v = u * slant, v * slant
    return u, v


def _clouds(rng, height, width):
    clouds = noise(rng, height, width)
    if rng.random() < 0.3:  # blotches with an edge
        return np.clip((clouds - rng.uniform(0.3, 0.7)) * rng.uniform(3, 30) + 0.5, 0, 1)
    return clouds


def _gradient(rng, height, width):
    u, v = _plane(rng, height, width)
    if rng.random() < 0.4:
        u = np.hypot(u, v)
    return np.clip(u * rng.uniform(0.3, 1.5) + 0.3, 0, 1)


def _stripes(rng, height, width):
    u, _ = _plane(rng, height, width)
    if rng.random() < 0.3:
        u = u + (noise(rng, height, width, 3) - 0.5) * rng.uniform(0.02, 0.4)
    wave = np.sin(u * (2 * np.pi * rng.uniform(2, 40)))
    return np.clip(0.5 + wave * rng.choice([0.5, 1, 10]), 0, 1)


def _checkers(rng, height, width):
    u, v = _plane(rng, height, width)
    cells = rng.uniform(2, 25)
    odd = (np.floor(u * cells) + np.floor(v * cells * rng.choice([1, 1, 0.5, 3]))) % 2
    return odd


def _tiles(rng, height, width):
    u, v = _plane(rng, height, width)
    cells, joint = rng.uniform(2, 14), rng.uniform(0.02, 0.15)
    row = np.floor(v * cells)
    shift = 0.5 * (row % 2) if rng.random() < 0.5 else 0
    across = u * cells * rng.choice([1, 0.5]) + shift
    is_joint = ((across % 1) < joint) | ((v * cells % 1) < joint)
    shade = (np.sin(np.floor(across) * 12.9 + row * 78.2) * 43758.5) % 1
    return np.where(is_joint, 1.0, 0.5 * shade)


def _wood(rng, height, width):
    upright = rng.random() < 0.5
    shape = (width, height) if upright else (height, width)
    grain = noise(rng, *shape, 6, rng.uniform(4, 30), rng.uniform(8, 30))
    rings = np.sin(grain * rng.uniform(3, 30))
    mix = 0.5 + 0.5 * rings * rng.uniform(0.3, 1)
    return np.ascontiguousarray(mix.T) if upright else mix


def _cloth(rng, height, width):
    u, v = _plane(rng, height, width)
    threads = rng.uniform(20, 90)
    weave = 0.25 * (np.sin(u * threads * 2 * np.pi) + np.sin(v * threads * 2 * np.pi))
    folds = noise(rng, height, width, 3, rng.uniform(1.5, 4), rng.uniform(0.3, 3))
    return np.clip(0.5 + weave * rng.uniform(0.1, 1) + (folds - 0.5) * rng.uniform(0, 1), 0, 1)


def _speckle(rng, height, width):
    dots = noise(rng, height, width, 2, rng.uniform(30, 150))
    return (dots > rng.uniform(0.45, 0.75)).astype(np.float32)


def _plain(rng, height, width):
    return np.full((height, width), rng.random(), np.float32)


_PATTERNS = (_clouds, _gradient, _stripes, _checkers, _tiles, _wood, _cloth, _speckle, _plain)
_PATTERN_SHARES = (0.2, 0.13, 0.1, 0.06, 0.08, 0.14, 0.11, 0.06, 0.12)


def _join(rng, picture, other):
    """Cover one side of a random straight edge of `picture` with `other`."""
    height, width = picture.shape[:2]
    u, _ = _plane(rng, height, width)
    side = u > rng.uniform(-0.2, 0.2)
    picture[side] = other[side]


def _lit(rng, picture):
    """Return the picture under uneven light, now and then with the edge of a shadow."""
    height, width = picture.shape[:2]
    u, v = _plane(rng, height, width)
    light = 1 + rng.uniform(-0.7, 0.7) * u
    if rng.random() < 0.4:
        edge = np.clip(v * rng.uniform(3, 60) + 0.5, 0, 1)
        light = light * (1 - rng.uniform(0.15, 0.6) * edge)
    return np.clip(picture * np.maximum(light, 0.1)[..., None], 0, 255).astype(np.uint8)


def _scatter(rng, picture, count):
    """Draw random polygons, ellipses, lines and curves upon a picture."""
    height, width = picture.shape[:2]
    side = max(height, width)
    for _ in range(count):
        color = random_color(rng).tolist()
        center = rng.random(2) * (width, height)
        extent = side * rng.uniform(0.02, 0.3)
        kind = rng.integers(4)
        if kind == 0:
            angles = np.sort(rng.random(rng.integers(3, 8))) * 2 * np.pi
            spokes = np.stack([np.cos(angles), np.sin(angles)], -1) * extent
            corners = (center + spokes * rng.uniform(0.4, 1, (len(angles), 1))).astype(np.int32)
            cv2.fillPoly(picture, [corners], color, cv2.LINE_AA)
        elif kind == 1:
            axes = np.maximum(extent * rng.uniform(0.2, 1, 2), 1).astype(int).tolist()
            cv2.ellipse(picture, center.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360,
                        color, int(rng.choice([-1, -1, 1, 3])), cv2.LINE_AA)
        elif kind == 2:
            end = rng.random(2) * (width, height)
            cv2.line(picture, center.astype(int).tolist(), end.astype(int).tolist(), color,
                     int(rng.integers(1, max(2, side // 40))), cv2.LINE_AA)
        else:
            steps = rng.normal(0, extent / 6, (20, 2)).cumsum(0).cumsum(0) / 3
            cv2.polylines(picture, [(center + steps).astype(np.int32)], False, color,
                          int(rng.integers(1, max(2, side // 50))), cv2.LINE_AA)


def _write(rng, picture):
    """Draw rows of short strokes, which look like print from afar."""
    height, width = picture.shape[:2]
    color = random_color(rng).tolist()
    line = max(4, int(height * rng.uniform(0.02, 0.08)))
    thickness = max(1, line // 8)
    left, right = np.sort(rng.random(2)) * width
    for y in range(int(rng.uniform(0, height / 2)), height, line):
        x = left
        while x < right:
            letter = line * rng.uniform(0.2, 0.5)
            if rng.random() < 0.82:
                ends = rng.random((2, 2)) * (letter, line * 0.6) + (x, y)
                cv2.line(picture, ends[0].astype(int).tolist(), ends[1].astype(int).tolist(),
                         color, thickness, cv2.LINE_AA)
                cv2.line(picture, ends[1].astype(int).tolist(),
                         (int(x), int(y + line * 0.5)), color, thickness, cv2.LINE_AA)
            x += letter


def _pile(rng, picture, count):
    """Draw shaded boxes and cylinders upon a picture, with soft shadows."""
    height, width = picture.shape[:2]
    side = max(height, width)
    light = rng.normal(0, 1, 3)
    light /= np.linalg.norm(light)
    for _ in range(count):
        center = rng.random(2) * (width, height)
        extent = side * rng.uniform(0.04, 0.25)
        color = random_color(rng)
        if rng.random() < 0.6:
            _box(rng, picture, center, extent, color, light)
        else:
            _cylinder(rng, picture, center, extent, color, light)


def _shade(rng, picture, corners):
    """Darken the picture near a body's outline, as if it stood there."""
    shadow = np.zeros(picture.shape[:2], np.uint8)
    shifted = corners + rng.normal(0, np.ptp(corners) * 0.05, 2)
    cv2.fillConvexPoly(shadow, cv2.convexHull(shifted.astype(np.int32)), 255)
    blur = max(3, int(np.ptp(corners) * 0.15) | 1)
    low = np.maximum(shifted.min(0).astype(int) - blur, 0)
    high = np.maximum(shifted.max(0).astype(int) + blur, 0)
    window = np.s_[low[1]:high[1], low[0]:high[0]]
    if not shadow[window].size:
        return
    soft = cv2.blur(shadow[window], (blur, blur))[..., None] * (rng.uniform(0.1, 0.6) / 255)
    picture[window] = picture[window] * (1 - soft)


def _box(rng, picture, center, extent, color, light):
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    half = extent * rng.uniform(0.15, 0.6, 3)
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    corners = center + (signs * half @ rotation.T)[:, :2]
    _shade(rng, picture, corners)
    faces = []
    for axis in range(3):
        outward = -np.sign(rotation[2, axis]) or 1.0  # the side that faces the camera
        face = corners[signs[:, axis] == outward][[0, 1, 3, 2]]
        brightness = 0.55 + 0.45 * (outward * rotation[:, axis] @ light)
        faces.append((face, brightness))
    paint = color if rng.random() < 0.8 else None
    for face, brightness in faces:
        shown = (random_color(rng) if paint is None else paint) * brightness
        cv2.fillConvexPoly(picture, face.astype(np.int32), shown.tolist(), cv2.LINE_AA)
        if rng.random() < 0.3:  # a label
            middle = face.mean(0)
            label = (middle + (face - middle) * rng.uniform(0.3, 0.8)).astype(np.int32)
            cv2.fillConvexPoly(picture, label, (random_color(rng) * brightness).tolist(),
                               cv2.LINE_AA)


def _cylinder(rng, picture, center, extent, color, light):
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    radius, length = extent * rng.uniform(0.1, 0.4), extent * rng.uniform(0.3, 1)
    flat = radius * rng.uniform(0.1, 0.9)
    base, top = center - along * length / 2, center + along * length / 2
    _shade(rng, picture, np.array([base - across * radius, base + across * radius,
                                   top + across * radius, top - across * radius]))
    degrees = np.degrees(angle)
    axes = [max(1, int(flat)), max(1, int(radius))]
    turn = np.array([across[0], across[1], 0])
    cv2.ellipse(picture, base.astype(int).tolist(), axes, degrees, 0, 360,
                (color * 0.5).tolist(), -1, cv2.LINE_AA)
    strips = 12
    edges = np.cos(np.linspace(0, np.pi, strips + 1)) * radius
    for index in range(strips):
        middle = np.pi * (index + 0.5) / strips
        normal = turn * np.cos(middle) + np.array([0, 0, -1]) * np.sin(middle)
        brightness = 0.55 + 0.45 * normal @ light
        quad = np.array([base + across * edges[index], base + across * edges[index + 1],
                         top + across * edges[index + 1], top + across * edges[index]])
        cv2.fillConvexPoly(picture, quad.round().astype(np.int32), (color * brightness).tolist())
    cv2.ellipse(picture, top.astype(int).tolist(), axes, degrees, 0, 360,
                (color * rng.uniform(0.5, 1)).tolist(), -1, cv2.LINE_AA)
