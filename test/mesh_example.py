"""A box 60 x 40 x 20 mm in several mesh formats, coloured or textured."""

import numpy as np
from PIL import Image
import trimesh

SIZE_MM = np.array([60.0, 40.0, 20.0])
# One colour per quarter of the texture: lower left, lower right, upper left, upper right.
QUARTERS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]], np.uint8)


COLLADA = """<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><up_axis>Z_UP</up_axis></asset>
<library_images><image id="picture"><init_from>colours.png</init_from></image></library_images>
<library_effects><effect id="paper-effect"><profile_COMMON>
<newparam sid="surface"><surface type="2D"><init_from>picture</init_from></surface></newparam>
<newparam sid="sampler"><sampler2D><source>surface</source></sampler2D></newparam>
<technique sid="common"><lambert>
<diffuse><texture texture="sampler" texcoord="UV"/></diffuse>
</lambert></technique></profile_COMMON></effect></library_effects>
<library_materials><material id="paper"><instance_effect url="#paper-effect"/></material>
</library_materials>
<library_geometries><geometry id="box"><mesh>
<source id="positions">
<float_array id="positions-array" count="{vertices}">{positions}</float_array>
<technique_common><accessor source="#positions-array" count="{vertices}" stride="3">
<param name="X" type="float"/><param name="Y" type="float"/><param name="Z" type="float"/>
</accessor></technique_common></source>
<source id="uv"><float_array id="uv-array" count="{vertices}">{uv}</float_array>
<technique_common><accessor source="#uv-array" count="{vertices}" stride="2">
<param name="S" type="float"/><param name="T" type="float"/></accessor></technique_common></source>
<vertices id="vertices"><input semantic="POSITION" source="#positions"/></vertices>
<triangles count="{faces}" material="paper">
<input semantic="VERTEX" source="#vertices" offset="0"/>
<input semantic="TEXCOORD" source="#uv" offset="0" set="0"/>
<p>{indices}</p></triangles></mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="scene"><node id="node"><instance_geometry url="#box">
<bind_material><technique_common><instance_material symbol="paper" target="#paper">
<bind_vertex_input semantic="UV" input_semantic="TEXCOORD" input_set="0"/>
</instance_material></technique_common></bind_material></instance_geometry></node></visual_scene>
</library_visual_scenes><scene><instance_visual_scene url="#scene"/></scene></COLLADA>
"""


def texture():
    """Return a texture of four plain quarters, its first row on top."""
    image = np.zeros((64, 128, 3), np.uint8)
    image[32:, :64], image[32:, 64:], image[:32, :64], image[:32, 64:] = QUARTERS
    return image


def box(scale=1.0):
    """Return a box of 8 vertices."""
    return trimesh.creation.box(SIZE_MM * scale)


def coloured_box():
    """Return a box whose vertices are red where x > 0, else blue."""
    mesh = box().subdivide()
    mesh.visual.vertex_colors = np.where(mesh.vertices[:, :1] > 0, [[255, 0, 0, 255]],
                                         [[0, 0, 255, 255]]).astype(np.uint8)
    return mesh


def texture_coordinates(vertices):
    """Lay the texture over the box as seen from +z: u along x, v along y, from 0.05 to 0.95."""
    return 0.05 + 0.9 * (vertices[:, :2] / SIZE_MM[:2] + 0.5)


def expected_colours(points_mm):
    """Return the texture's colours (N, 3) at points of the surface."""
    right, upper = points_mm[:, 0] > 0, points_mm[:, 1] > 0
    return QUARTERS[right + 2 * upper]


def textured_box(material=None):
    """Return a box with the texture as trimesh holds it."""
    mesh = box()
    image = Image.fromarray(texture())
    material = material or trimesh.visual.material.SimpleMaterial(image=image)
    mesh.visual = trimesh.visual.TextureVisuals(uv=texture_coordinates(mesh.vertices),
                                                material=material)
    return mesh


def write_textured(folder, kind):
    """Write the textured box as box.ply, .obj (with .mtl), .glb or .dae; return the path."""
    path = folder / f'box.{kind}'
    mesh = textured_box()
    if kind == 'glb':
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.fromarray(texture()))
        textured_box(material).export(path)
        return path
    Image.fromarray(texture()).save(folder / 'colours.png')
    uv = texture_coordinates(mesh.vertices)
    if kind == 'dae':
        path.write_text(COLLADA.format(
            positions=' '.join(map(str, mesh.vertices.ravel())), vertices=len(mesh.vertices),
            uv=' '.join(map(str, uv.ravel())), faces=len(mesh.faces),
            indices=' '.join(map(str, mesh.faces.ravel()))))
        return path
    if kind == 'obj':
        (folder / 'box.mtl').write_text('newmtl paper\nKd 1 1 1\nmap_Kd colours.png\n')
        lines = ['mtllib box.mtl', 'usemtl paper']
        lines += ['v {} {} {}'.format(*vertex) for vertex in mesh.vertices]
        lines += ['vt {} {}'.format(*pair) for pair in uv]
        lines += ['f ' + ' '.join(f'{one + 1}/{one + 1}' for one in face) for face in mesh.faces]
    else:
        # As BOP has it: texture_u and texture_v at the vertices.
        lines = ['ply', 'format ascii 1.0', 'comment TextureFile colours.png',
                 f'element vertex {len(mesh.vertices)}',
                 *(f'property float {name}' for name in ('x', 'y', 'z', 'texture_u',
                                                         'texture_v')),
                 f'element face {len(mesh.faces)}',
                 'property list uchar int vertex_indices', 'end_header']
        lines += ['{} {} {} {} {}'.format(*vertex, *pair)
                  for vertex, pair in zip(mesh.vertices, uv)]
        lines += ['3 {} {} {}'.format(*face) for face in mesh.faces]
    path.write_text('\n'.join(lines) + '\n')
    return path
