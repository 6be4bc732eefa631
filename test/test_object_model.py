"""Object models: mesh files, units, keypoints, symmetries, and what is refused."""

import json

from mesh_example import box, coloured_box, SIZE_MM, texture, write_textured
import numpy as np
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose
from pose_estimator.mesh import load_mesh, make_mesh
from pose_estimator.object_model import load_object, object_from_mesh, ObjectModel
from pose_estimator.object_model import Symmetries
from pose_estimator.synthetic.render import RayCaster
import pytest
import trimesh
import yaml

HALF_TURN = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
SIZE = SIZE_MM / 1000


@pytest.fixture
def ply(tmp_path):
    coloured_box().export(tmp_path / 'box.ply')
    return tmp_path / 'box.ply'


def description(tmp_path, **values):
    path = tmp_path / 'thing.yaml'
    path.write_text(yaml.safe_dump({'mesh': 'box.ply', 'unit': 'mm', **values}))
    return path


@pytest.mark.parametrize('unit, scale', [('m', 1e-3), ('cm', 0.1), ('mm', 1), ('in', 1 / 25.4)])
def test_units_become_metres(tmp_path, unit, scale):
    box(scale).export(tmp_path / 'box.stl')
    model, mesh = object_from_mesh(tmp_path / 'box.stl', unit)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), SIZE, rtol=1e-6)
    np.testing.assert_allclose(np.ptp(model.bounds, axis=0), SIZE, rtol=1e-6)
    assert model.diameter == pytest.approx(np.linalg.norm(SIZE), rel=1e-6)
    np.testing.assert_allclose(model.center, 0, atol=1e-9)
    assert model.unit == unit and model.name == 'box' and model.bop_id is None


@pytest.mark.parametrize('kind', ['ply', 'obj', 'glb', 'stl', 'dae', 'off'])
def test_formats(tmp_path, kind):
    box().export(tmp_path / f'box.{kind}')
    mesh = load_mesh(tmp_path / f'box.{kind}', 0.001)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), SIZE, rtol=1e-6)
    assert len(mesh.faces) == 12 and mesh.normals.shape == (12, 3, 3)


@pytest.mark.parametrize('encoding', ['ascii', 'binary'])
def test_ply_with_vertex_colours(tmp_path, encoding):
    coloured_box().export(tmp_path / 'box.ply', encoding=encoding)
    mesh = load_mesh(tmp_path / 'box.ply')
    assert mesh.has_appearance and mesh.texture is None
    expected = np.where(mesh.vertices[:, :1] > 0, [[255, 0, 0]], [[0, 0, 255]])
    np.testing.assert_array_equal(mesh.colors, expected)


def test_glb_with_vertex_colours(tmp_path):
    coloured_box().export(tmp_path / 'box.glb')
    mesh = load_mesh(tmp_path / 'box.glb')
    expected = np.where(mesh.vertices[:, :1] > 0, [[255, 0, 0]], [[0, 0, 255]])
    np.testing.assert_array_equal(mesh.colors, expected)


@pytest.mark.parametrize('kind', ['ply', 'obj', 'glb', 'dae'])
def test_texture(tmp_path, kind):
    mesh = load_mesh(write_textured(tmp_path, kind), 0.001)
    assert mesh.has_appearance
    np.testing.assert_array_equal(mesh.texture, texture())
    assert len(mesh.uv) == len(mesh.vertices)
    np.testing.assert_allclose(
        mesh.uv, 0.05 + 0.9 * (mesh.vertices[:, :2] / SIZE[:2] + 0.5), atol=1e-5)


def test_obj_with_plain_materials(tmp_path):
    (tmp_path / 'box.mtl').write_text('newmtl red\nKd 1 0 0\nnewmtl green\nKd 0 1 0\n')
    mesh = box()
    lines = ['mtllib box.mtl', *('v {} {} {}'.format(*vertex) for vertex in mesh.vertices)]
    for name, faces in (('red', mesh.faces[:6]), ('green', mesh.faces[6:])):
        lines += [f'usemtl {name}', *('f {} {} {}'.format(*face) for face in faces + 1)]
    (tmp_path / 'box.obj').write_text('\n'.join(lines))
    mesh = load_mesh(tmp_path / 'box.obj', 0.001)
    colours = set()
    for rotation in (np.eye(3), np.diag([1, -1, -1])):
        seen = RayCaster(mesh).render(Pose(rotation, [0, 0, 0.3]),
                                      [[200, 0, 31.5], [0, 200, 31.5], [0, 0, 1]], 64, 64)
        colours |= {tuple(colour) for colour in seen.albedo[seen.mask]}
    assert colours == {(255, 0, 0), (0, 255, 0)}


def test_several_parts_with_transforms(tmp_path):
    scene = trimesh.Scene()
    for offset in (-100, 100):
        matrix = np.eye(4)
        matrix[0, 3] = offset
        scene.add_geometry(box(), transform=matrix)
    scene.export(tmp_path / 'two.glb')
    mesh = load_mesh(tmp_path / 'two.glb', 0.001)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [0.26, 0.04, 0.02], rtol=1e-6)


@pytest.mark.parametrize('kind', ['ply', 'obj', 'glb', 'stl'])
def test_mesh_without_colours(tmp_path, kind):
    box().export(tmp_path / f'box.{kind}')
    assert not load_mesh(tmp_path / f'box.{kind}').has_appearance


@pytest.mark.parametrize('kind', ['glb', 'dae'])
def test_mesh_of_one_plain_colour(tmp_path, kind):
    mesh = box()
    mesh.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[10, 200, 30, 255]))
    mesh.export(tmp_path / f'box.{kind}')
    colors = load_mesh(tmp_path / f'box.{kind}').colors
    assert len(colors) == 8
    np.testing.assert_allclose(colors, np.tile([10, 200, 30], (8, 1)), atol=1)


@pytest.mark.parametrize('name', ['book', 'bottle', 'cup'])
def test_builtin(name):
    model, mesh = object_from_mesh(f'builtin:{name}', 'm', name)
    assert mesh.has_appearance and 0.05 < model.diameter < 0.5


def test_normals_point_outwards_and_keep_edges(ply):
    mesh = load_mesh(ply)
    middle = mesh.vertices[mesh.faces].mean(1)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1)
    assert ((mesh.normals * middle[:, None]).sum(-1) > 0).all()
    # A box has sharp edges: every corner has the normal of its own face.
    assert np.allclose(np.abs(mesh.normals).max(-1), 1)


def test_normals_of_a_ball_are_smooth():
    ball = trimesh.creation.icosphere(3)
    mesh = make_mesh(ball.vertices, ball.faces)
    np.testing.assert_allclose(mesh.normals, mesh.vertices[mesh.faces], atol=0.05)


def test_keypoints_are_spread_over_the_surface(ply):
    model, _ = object_from_mesh(ply, 'mm', keypoints=16)
    assert model.keypoints.shape == (16, 3) and len(model.keypoint_names) == 16
    on_surface = np.isclose(np.abs(model.keypoints), SIZE / 2, atol=1e-6).any(1)
    assert on_surface.all() and (np.abs(model.keypoints) <= SIZE / 2 + 1e-6).all()
    gaps = np.linalg.norm(model.keypoints[:, None] - model.keypoints[None], axis=-1)
    assert gaps[~np.eye(16, dtype=bool)].min() > 0.01
    again, _ = object_from_mesh(ply, 'mm', keypoints=16)
    np.testing.assert_array_equal(model.keypoints, again.keypoints)


def test_named_keypoints_are_in_the_meshs_unit(tmp_path, ply):
    points = {f'corner {index}': (sign * SIZE_MM / 2).tolist() for index, sign in enumerate(
        np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1], [-1, -1, -1], [1, -1, -1]]))}
    model, _ = load_object(description(tmp_path, keypoints=points))
    assert model.keypoint_names == tuple(points)
    np.testing.assert_allclose(model.keypoints[0], SIZE / 2)


def test_corners(ply):
    model, _ = object_from_mesh(ply, 'mm')
    assert len(np.unique(model.corners, axis=0)) == 8
    np.testing.assert_allclose(np.abs(model.corners), np.tile(SIZE / 2, (8, 1)), rtol=1e-6)
    np.testing.assert_array_equal(model.corners[:4, 0], model.corners[0, 0])


def test_bop_number_and_symmetries_come_from_beside_the_mesh(tmp_path):
    box().export(tmp_path / 'obj_000009.ply')
    info = {'9': {'diameter': 75, 'symmetries_discrete': [HALF_TURN[:3] + [4] + HALF_TURN[4:]],
                  'symmetries_continuous': [{'axis': [0, 0, 2], 'offset': [1, 2, 3]}]}}
    (tmp_path / 'models_info.json').write_text(json.dumps(info))
    model, _ = object_from_mesh(tmp_path / 'obj_000009.ply', 'mm')
    assert model.bop_id == 9 and model.name == 'obj_000009'
    np.testing.assert_allclose(model.symmetries.discrete[0].t_m2c, [0.004, 0, 0])
    (axis, offset), = model.symmetries.continuous
    assert axis == (0, 0, 1)
    np.testing.assert_allclose(offset, [0.001, 0.002, 0.003])
    assert model.shape_symmetries == model.symmetries
    # What is named wins over what lies there.
    model, _ = object_from_mesh(tmp_path / 'obj_000009.ply', 'mm', bop_id=3, symmetries={})
    assert model.bop_id == 3 and model.symmetries == Symmetries()


def test_broken_models_info(tmp_path):
    box().export(tmp_path / 'obj_000009.ply')
    (tmp_path / 'models_info.json').write_text('[')
    with pytest.raises(InputError, match='models_info.json'):
        object_from_mesh(tmp_path / 'obj_000009.ply', 'mm')


def test_symmetries_of_shape_and_of_colours(tmp_path, ply):
    model, _ = load_object(description(tmp_path, symmetries={},
                                       shape_symmetries={'discrete': [HALF_TURN]}))
    assert model.symmetries_for('rgb_mask') == Symmetries()
    assert len(model.symmetries_for('mask').discrete) == 1


def test_symmetry_transforms_map_the_object_onto_itself():
    symmetries = Symmetries.from_dict({
        'discrete': [[1, 0, 0, 0, 0, -1, 0, 4, 0, 0, -1, 6, 0, 0, 0, 1]],
        'continuous': [{'axis': [0, 0, 1], 'offset': [1, 2, 3]}]}, 0.001)
    transforms = symmetries.transforms(8)
    assert len(transforms) == 16
    np.testing.assert_array_equal(transforms[0].matrix, np.eye(4))
    # Every point of the axis stays on it; its point in the middle stays where it is.
    for transform in transforms:
        np.testing.assert_allclose(transform.transform([0.001, 0.002, 0.003]),
                                   [0.001, 0.002, 0.003], atol=1e-12)


def test_to_dict_round_trip(tmp_path, ply):
    model, _ = load_object(description(
        tmp_path, bop_id=4, symmetries={'continuous': [{'axis': [0, 0, 1]}]},
        shape_symmetries={'discrete': [HALF_TURN]}))
    again = ObjectModel.from_dict(json.loads(json.dumps(model.to_dict())))
    for name in ('name', 'keypoint_names', 'diameter', 'bop_id', 'mesh_path', 'unit'):
        assert getattr(again, name) == getattr(model, name)
    for name in ('keypoints', 'bounds'):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    np.testing.assert_allclose(again.points, model.points, atol=1e-6)
    assert again.symmetries == model.symmetries
    np.testing.assert_array_equal(again.shape_symmetries.discrete[0].matrix,
                                  model.shape_symmetries.discrete[0].matrix)


def test_yaml(tmp_path, ply):
    model, mesh = load_object(description(tmp_path, name='brick', bop_id=7, keypoints=8))
    assert (model.name, model.bop_id, len(model.keypoints)) == ('brick', 7, 8)
    assert load_object(description(tmp_path))[0].name == 'thing'
    assert load_object(description(tmp_path), unit='cm')[0].diameter > 0.7


@pytest.mark.parametrize('values, words', [
    ({'keypoint': 16}, "unknown key 'keypoint'; expected name, mesh, unit"),
    ({'unit': 'feet'}, "unit: expected one of m, cm, mm, in, got 'feet'"),
    ({'unit': 'm'}, r'74.8 m across.*expected 0.005 to 5.0 m'),
    ({'mesh': 'none.ply'}, 'none.ply: expected a mesh file, got no such file'),
    ({'name': 'two words'}, 'name: expected letters'),
    ({'name': '9lives'}, 'name: expected letters'),
    ({'bop_id': 'nine'}, 'bop_id: expected an integer'),
    ({'bop_id': True}, 'bop_id: expected an integer'),
    ({'keypoints': 3}, 'keypoints: expected a number from 6'),
    ({'keypoints': 'many'}, 'keypoints: expected a number from 6'),
    ({'keypoints': True}, 'keypoints: expected a number from 6'),
    ({'keypoints': {'a': [0, 0, 0]}}, 'at least 6 named points'),
    ({'keypoints': {name: [0, 0] for name in 'abcdef'}}, 'at least 6 named points'),
    ({'keypoints': {name: [0, 0, float('nan')] for name in 'abcdef'}}, 'at least 6 named points'),
    ({'symmetries': {'discret': []}}, 'symmetries: expected the keys discrete and continuous'),
    ({'symmetries': [1, 2]}, 'symmetries: expected'),
    ({'symmetries': {'discrete': [[1, 2, 3]]}}, 'symmetries: expected discrete: lists of 16'),
    ({'symmetries': {'discrete': [[2.0] * 16]}}, 'symmetries: expected discrete: lists of 16'),
    ({'symmetries': {'continuous': [{'axis': [0, 0, 0]}]}}, 'symmetries: expected'),
    ({'symmetries': {'continuous': [{'axes': [0, 0, 1]}]}}, 'symmetries: expected'),
    ({'symmetries': {'continuous': [{'axis': [0, 0, 1]}, {'axis': [0, 1, 0]}]}}, 'at most one'),
    ({'shape_symmetries': {'x': 1}}, 'shape_symmetries: expected'),
])
def test_bad_yaml_values(tmp_path, ply, values, words):
    with pytest.raises(InputError, match=words):
        load_object(description(tmp_path, **values))


@pytest.mark.parametrize('content, words', [
    (None, 'no such file'),
    (b'', 'expected keys'),
    (b'- 1\n- 2\n', 'got list'),
    (b'mesh: [', 'expected an object YAML'),
    (b'\xff\xfe\x00', 'expected an object YAML'),
    (b'unit: mm\n', "expected the key 'mesh'"),
    (b'mesh: box.ply\n', "expected the key 'unit'"),
])
def test_bad_yaml_file(tmp_path, content, words):
    if content is not None:
        (tmp_path / 'thing.yaml').write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_object(tmp_path / 'thing.yaml')
    assert '\n' not in str(caught.value)


def test_unknown_builtin():
    with pytest.raises(InputError, match='spoon'):
        object_from_mesh('builtin:spoon', 'm', 'spoon')


@pytest.mark.parametrize('name, content, words', [
    ('empty.ply', b'', 'got an empty file'),
    ('text.ply', b'this is no mesh\n', 'expected a mesh'),
    ('points.ply', b'ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\n'
     b'property float y\nproperty float z\nend_header\n0 0 0\n', 'expected triangles, got none'),
    ('empty.obj', b'# nothing\n', 'expected'),
    ('thing.xyzzy', b'what is this', 'expected a mesh'),
    ('text.glb', b'what is this', 'expected a mesh'),
    ('text.stl', b'what is this', 'expected'),
])
def test_bad_mesh_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_mesh(tmp_path / name)
    assert '\n' not in str(caught.value)


def test_truncated_mesh(tmp_path, ply):
    coloured_box().export(tmp_path / 'short.ply')
    content = (tmp_path / 'short.ply').read_bytes()
    (tmp_path / 'short.ply').write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError, match='short.ply'):
        load_mesh(tmp_path / 'short.ply')


def test_missing_texture(tmp_path):
    for kind in ('obj', 'ply'):
        path = write_textured(tmp_path, kind)
        (tmp_path / 'colours.png').unlink()
        with pytest.raises(InputError, match=rf'box.{kind}: its colours are in colours.png'):
            load_mesh(path)
    (tmp_path / 'box.mtl').unlink()
    with pytest.raises(InputError, match='box.obj: its colours are in box.mtl'):
        load_mesh(tmp_path / 'box.obj')


def test_texture_with_a_space_in_its_name(tmp_path):
    path = write_textured(tmp_path, 'obj')
    (tmp_path / 'colours.png').rename(tmp_path / 'my colours.png')
    (tmp_path / 'box.mtl').write_text('newmtl paper\nmap_Kd my colours.png\n')
    np.testing.assert_array_equal(load_mesh(path).texture, texture())


def test_texture_coordinates_without_material(tmp_path):
    path = write_textured(tmp_path, 'obj')
    path.write_text(path.read_text().replace('mtllib box.mtl\nusemtl paper\n', ''))
    assert not load_mesh(path).has_appearance


@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_mesh_that_is_not_finite(tmp_path, value):
    (tmp_path / 'bad.obj').write_text(f'v 0 0 0\nv 1 0 0\nv 0 1 0\nv {value} 0 1\n'
                                      'f 1 2 3\nf 2 3 4\n')
    with pytest.raises(InputError, match='finite'):
        load_mesh(tmp_path / 'bad.obj')


def test_mesh_whose_faces_name_no_vertex(tmp_path):
    (tmp_path / 'bad.ply').write_text(
        'ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n'
        'property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n'
        '0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n')
    with pytest.raises(InputError, match='bad.ply'):
        load_mesh(tmp_path / 'bad.ply')


def test_mesh_without_area(tmp_path):
    (tmp_path / 'line.obj').write_text('v 0 0 0\nv 100 0 0\nv 200 0 0\nf 1 2 3\n')
    with pytest.raises(InputError, match='area'):
        object_from_mesh(tmp_path / 'line.obj', 'mm')


def test_folder_instead_of_mesh(tmp_path):
    with pytest.raises(InputError, match='expected a mesh file'):
        load_mesh(tmp_path)
