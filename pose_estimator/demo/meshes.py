"""The paper's three objects, book, bottle and cup, made of numbers."""

import cv2
import numpy as np

from ..errors import InputError
from ..mesh import make_mesh

# Outer radius of the cup's body about its z axis; what lies beyond is the handle.
CUP_RADIUS = 0.040

# RGB
_NAVY, _CREAM, _RED, _TEAL, _YELLOW = ((24, 42, 92), (238, 228, 202), (196, 44, 40),
                                       (20, 130, 128), (240, 190, 40))


def builtin_mesh(name):
    """
    Return the mesh of a demo object.

    Parameters
    ----------
    name : str
        'book', 'bottle' or 'cup'. All stand or lie on z = 0; bottle and cup have z as their
        axis, the cup's handle points along x, the book's title is on its top (z up).

    Returns
    -------
    Mesh
        Metres.

    """
    if name not in _MAKERS:
        raise InputError(f'builtin mesh: expected one of {", ".join(_MAKERS)}, got {name!r}')
    return _MAKERS[name]()


def _book():
    """Return a lying book: title on top, blurb below, spine at x low, pages elsewhere."""
    size = np.array([0.14, 0.20, 0.032])
    texture = np.zeros((1024, 1024, 3), np.uint8)
    top, bottom = texture[:640, :448], texture[:640, 448:896]
    spine, pages = texture[:640, 896:1024], texture[640:768, :640]
    top[:], bottom[:], spine[:] = _NAVY, _TEAL, _RED
    cv2.rectangle(top, (24, 24), (423, 615), _CREAM, 6)
    for row, word in enumerate(('SIX', 'DEGREES', 'OF', 'FREEDOM')):
        cv2.putText(top, word, (50, 120 + 70 * row), cv2.FONT_HERSHEY_DUPLEX, 2.0, _CREAM, 5,
                    cv2.LINE_AA)
    cv2.circle(top, (300, 480), 90, _YELLOW, -1, cv2.LINE_AA)
    cv2.fillPoly(top, [np.array([[60, 580], [170, 400], [280, 580]], np.int32)], _RED)
    for row in range(14):
        width = 330 - 37 * (row % 3)
        cv2.line(bottom, (50, 70 + 28 * row), (50 + width, 70 + 28 * row), _CREAM, 7)
    cv2.rectangle(bottom, (250, 500), (400, 590), (250, 250, 250), -1)
    for bar in range(18):
        cv2.line(bottom, (260 + 7 * bar, 510), (260 + 7 * bar, 580), (10, 10, 10), 1 + bar % 4)
    cv2.rectangle(spine, (14, 60), (113, 200), _CREAM, -1)
    cv2.rectangle(spine, (14, 420), (113, 580), _YELLOW, -1)
    pages[:] = np.linspace(200, 240, 8).repeat(16)[:, None, None]
    # Corners counter-clockwise as seen from outside: x right, y up on the face.
    low, high = -size / 2 * [1, 1, 0], size / 2 * [1, 1, 2]
    (x0, y0, z0), (x1, y1, z1) = low, high
    sides = [
        ([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], (0, 0, 448, 640)),
        ([(x1, y0, z0), (x0, y0, z0), (x0, y1, z0), (x1, y1, z0)], (448, 0, 896, 640)),
        ([(x0, y1, z0), (x0, y0, z0), (x0, y0, z1), (x0, y1, z1)], None),
        ([(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)], (0, 640, 640, 768)),
        ([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], (0, 640, 448, 768)),
        ([(x1, y1, z0), (x0, y1, z0), (x0, y1, z1), (x1, y1, z1)], (0, 640, 448, 768)),
    ]
    vertices, uv, faces = [], [], []
    for corners, area in sides:
        if area is None:  # the spine's picture stands upright
            pixels = [(897, 1), (897, 639), (1023, 639), (1023, 1)]
        else:
            u0, v0, u1, v1 = np.array(area) + [1, 1, -1, -1]
            pixels = [(u0, v1), (u1, v1), (u1, v0), (u0, v0)]
        faces += [np.array([0, 1, 2]) + len(vertices), np.array([0, 2, 3]) + len(vertices)]
        vertices += corners
        uv += [(u / 1024, 1 - v / 1024) for u, v in pixels]
    return make_mesh(vertices, faces, uv=np.array(uv), texture=texture)


def _bottle():
    """Return a round bottle of green glass with a ringed label and a red cap."""
    green, dark = (36, 120, 60), (18, 74, 36)
    # Height, radius and the colour from there upwards.
    profile = [
        (0.000, 0.000, dark), (0.000, 0.028, dark), (0.004, 0.033, green),
        (0.050, 0.033, _CREAM), (0.062, 0.0332, _RED), (0.074, 0.0332, _CREAM),
        (0.110, 0.0332, _NAVY), (0.124, 0.0332, _CREAM), (0.136, 0.0332, green),
        (0.150, 0.033, green), (0.164, 0.029, green), (0.178, 0.020, green),
        (0.190, 0.0145, dark), (0.222, 0.0135, _RED), (0.224, 0.0155, _RED),
        (0.240, 0.0155, _RED), (0.240, 0.000, _RED)]
    vertices, faces, colors = [], [], []
    for (z0, r0, color), (z1, r1, _) in zip(profile[:-1], profile[1:]):
        ring_vertices, ring_faces = _ring((r0, z0), (r1, z1), 64)
        faces.append(ring_faces + len(vertices))
        vertices += ring_vertices.tolist()
        colors += [color] * len(ring_vertices)
    return make_mesh(vertices, np.concatenate(faces), colors=colors)


def _cup():
    """Return a cup with a handle along x and a print that differs all around."""
    height, wall, around = 0.090, 0.004, 96
    texture = np.full((256, 1024, 3), _CREAM, np.uint8)
    body = texture[:224]
    body[180:] = _TEAL
    body[:14] = _NAVY
    # Columns run around the body from the handle (angle 0) and back to it.
    cv2.circle(body, (512, 100), 62, _RED, -1, cv2.LINE_AA)
    cv2.putText(body, 'POSE', (436, 116), cv2.FONT_HERSHEY_DUPLEX, 1.7, (255, 255, 255), 4,
                cv2.LINE_AA)
    cv2.fillPoly(body, [np.array([[190, 168], [250, 40], [310, 168]], np.int32)], _NAVY)
    for step in range(5):
        cv2.rectangle(body, (700 + 34 * step, 40), (716 + 34 * step, 160), _YELLOW, -1)
    cv2.rectangle(body, (60, 60), (120, 160), _TEAL, -1)
    cv2.circle(body, (940, 60), 26, _NAVY, -1, cv2.LINE_AA)
    texture[224:240], texture[240:] = (246, 242, 232), _NAVY
    inside, navy = 1 - 232 / 256, 1 - 248 / 256
    radius = CUP_RADIUS
    # Radius and height from the foot's middle over the outside to the inside's middle.
    parts = [((0, 0), (radius - 0.004, 0), inside), ((radius - 0.004, 0), (radius, 0.006), None),
             ((radius, 0.006), (radius, height), None),
             ((radius, height), (radius - wall, height), navy),
             ((radius - wall, height), (radius - wall, wall), inside),
             ((radius - wall, wall), (0, wall), inside)]
    vertices, uv, faces = [], [], []
    for (r0, z0), (r1, z1), flat in parts:
        ring_vertices, ring_faces = _ring((r0, z0), (r1, z1), around)
        faces.append(ring_faces + len(vertices))
        turn = np.tile(np.arange(around + 1) / around, 2)
        if flat is None:
            low, high = (np.array([z0, z1]) / height * (222 / 256) + 33 / 256).repeat(around + 1) \
                .reshape(2, -1)
            uv += np.column_stack([turn * 0.998 + 0.001, np.r_[low, high]]).tolist()
        else:
            uv += np.column_stack([0 * turn + 0.5, 0 * turn + flat]).tolist()
        vertices += ring_vertices.tolist()
    # The handle: a tube of elliptic section along half an ellipse in the x-z plane.
    bends, section = 24, 12
    angle = np.linspace(-np.pi / 2, np.pi / 2, bends + 1)
    middle = np.column_stack([radius - 0.002 + 0.026 * np.cos(angle), 0 * angle,
                              0.047 + 0.028 * np.sin(angle)])
    outward = np.column_stack([np.cos(angle), 0 * angle, np.sin(angle)])
    tube = np.linspace(0, 2 * np.pi, section + 1)[:-1]
    rings = (middle[:, None] + 0.0045 * np.cos(tube)[None, :, None] * outward[:, None]
             + 0.0065 * np.sin(tube)[None, :, None] * np.array([0, 1, 0]))  # (B, S, 3)
    start = len(vertices)
    for bend in range(bends):
        for side in range(section):
            a, b = start + bend * section + side, start + bend * section + (side + 1) % section
            faces.append(np.array([[a, b, a + section], [b, b + section, a + section]]))
    vertices += rings.reshape(-1, 3).tolist()
    uv += [(0.5, navy)] * (len(rings) * section)
    return make_mesh(vertices, np.concatenate(faces), uv=np.array(uv), texture=texture)


def _ring(low, high, around):
    """Return vertices and faces of a band about z between two points (radius, height)."""
    angle = np.arange(around + 1) * 2 * np.pi / around
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    vertices = np.concatenate([np.column_stack([circle * radius, np.full(around + 1, height)])
                               for radius, height in (low, high)])
    a = np.arange(around)
    b, c, d = a + 1, a + around + 1, a + around + 2
    return vertices, np.concatenate([np.column_stack([a, b, d]), np.column_stack([a, d, c])])


_MAKERS = {'book': _book, 'bottle': _bottle, 'cup': _cup}
