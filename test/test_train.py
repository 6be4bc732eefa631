"""The train command: a few steps, interrupted ones, several processes, bad input."""

import argparse
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from pose_estimator.cli import main
from pose_estimator.errors import InputError
from pose_estimator.keypoints import train as module
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.hourglass import HourglassConfig, StackedHourglass
from pose_estimator.keypoints.report import _origin
from pose_estimator.keypoints.train import _start, add_arguments, load_target, shipped_start
from pose_estimator.object_model import load_object, object_from_mesh
import pytest
import torch
import trimesh
import yaml

ROOT = Path(__file__).resolve().parent.parent
TINY = ['--views', '24', '--network', 'width=16', 'input_size=64', 'heatmap_size=16']
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}


def train(*args, launcher=('-m', 'pose_estimator')):
    return subprocess.run([sys.executable, *launcher, 'train', *map(str, args)], cwd=ROOT,
                          env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def test_training_writes_weights_yaml_card_and_report(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['', 'train', 'config/objects/book.yaml'])
    assert main(['train', 'config/objects/book.yaml', '--samples', '192', '--output',
                 str(tmp_path), *TINY]) == 0
    checkpoint = Checkpoint.load(tmp_path / 'book.safetensors')
    assert checkpoint.network_input == 'rgb_mask'
    assert checkpoint.channels == ('rgb', 'mask')
    assert checkpoint.training['samples'] == 192
    assert checkpoint.training['virtual_scores']['samples'] == 48
    assert checkpoint.is_calibrated
    card = (tmp_path / 'book.md').read_text()
    assert 'train config/objects/book.yaml' in card and '192 crops' in card
    assert (tmp_path / 'book.jpg').stat().st_size > 10_000
    told = capsys.readouterr().err
    assert all(word in told for word in ('samples/s', 'loss', 'rendering views', 'measuring'))
    assert not list(tmp_path.glob('*.resume*'))
    again, _ = load_object(tmp_path / 'book.yaml')
    assert again.shape_symmetries.discrete and not again.symmetries.discrete


def test_training_from_masks_alone_writes_files_of_their_own(quick, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert main(['train', 'config/objects/book.yaml', '--samples', '192', '--input', 'mask',
                 '--output', str(tmp_path), *TINY]) == 0
    checkpoint = Checkpoint.load(tmp_path / 'book.mask.safetensors')
    assert checkpoint.network_input == 'mask' and checkpoint.channels == ('mask',)
    assert '192 crops' in (tmp_path / 'book.mask.md').read_text()
    assert (tmp_path / 'book.mask.jpg').stat().st_size > 10_000
    assert not list(tmp_path.glob('*.resume*')) and (tmp_path / 'book.yaml').is_file()


def test_killed_training_goes_on_where_it_was(tmp_path):
    command = ['config/objects/cup.yaml', '--samples', '100000', '--input', 'mask', '--output',
               str(tmp_path), *TINY]
    started = subprocess.Popen([sys.executable, '-m', 'pose_estimator', 'train', *command],
                               cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    seen = ''
    while 'samples/s' not in seen and time.monotonic() < deadline:
        seen += started.stderr.read(50)
    started.send_signal(signal.SIGINT)
    started.communicate(timeout=300)
    assert started.returncode == 130
    assert (tmp_path / 'cup.mask.resume').exists()
    # Another budget is another training; the same command with the time up is not at hand,
    # so the state itself is asked.
    state = torch.load(tmp_path / 'cup.mask.resume', weights_only=True)
    assert state['samples'] > 0
    second = subprocess.Popen([sys.executable, '-m', 'pose_estimator', 'train', *command],
                              cwd=ROOT, env={**ENVIRONMENT, 'PYTHONUNBUFFERED': '1'},
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = second.stdout.readline()
    finally:
        second.kill()
        second.wait()
    assert f'{state["samples"]} samples' in line and 'going on' in line


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(tmp_path):
    quick = tmp_path / 'quick.py'
    quick.write_text("""import sys
if __name__ == '__main__':
    from pose_estimator import cli
    from pose_estimator.keypoints import report
    report.SAMPLES = 48
    sys.exit(cli.main())
""")
    done = train('config/objects/cup.yaml', '--samples', 256, '--input', 'mask', '--output',
                 tmp_path, '--device', 'cpu', *TINY,
                 launcher=('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
                           str(quick)))
    assert done.returncode == 0, done.stderr
    about = Checkpoint.load(tmp_path / 'cup.mask.safetensors').training
    assert about['samples'] == 256 and about['virtual_scores']['samples'] == 48


@pytest.mark.parametrize('network_input', ['rgb_mask', 'mask'])
def test_training_begins_with_what_the_package_ships(network_input):
    def start(model, loss='cross_entropy', **shape):
        return [Path(path).name.split('.')[0] for path in shipped_start(
            network_input, loss, HourglassConfig(**{
                'in_channels': 4 if network_input == 'rgb_mask' else 1,
                **module.NETWORKS[network_input], **shape}), model)]

    several = [f'obj_{number:06d}' for number in (1, 5, 6, 8, 10, 12)]
    book, _ = object_from_mesh('builtin:book', 'm', 'book')
    assert start(book, keypoints=11) == several
    assert start(book, loss='l2') == start(book, width=16) == []
    # Not with the object's own, so that a new object is worth as much.
    suffix = {'rgb_mask': '.safetensors', 'mask': '.mask.safetensors'}[network_input]
    driller = Checkpoint.load(ROOT / 'models' / ('obj_000008' + suffix)).model
    assert start(driller) == [name for name in several if name != 'obj_000008']


def test_weights_of_another_object_are_taken_without_its_last_layers():
    path = ROOT / 'models' / 'cup.safetensors'
    theirs = Checkpoint.load(path)
    same, other = StackedHourglass(theirs.config), StackedHourglass(theirs.config)
    before = other.heads[-1].weight.clone()
    about, knows = _start(same, [path], theirs.model)
    assert knows and about['object'] == 'cup'
    assert torch.equal(same.heads[-1].weight, theirs.weights['heads.1.weight'].float())
    book, _ = object_from_mesh('builtin:book', 'm', 'book')
    _, knows = _start(other, [path], book)
    assert knows
    assert torch.equal(other.heads[-1].weight, before)
    name, weight = next(iter(same.named_parameters()))
    assert torch.equal(dict(other.named_parameters())[name], weight)
    # What fits of a network of another shape does not know enough to do without easy crops.
    _, knows = _start(StackedHourglass(HourglassConfig()), [path], theirs.model)
    assert not knows


def test_training_begins_with_the_mean_of_several():
    paths = [ROOT / 'models' / f'obj_{number:06d}.safetensors' for number in (6, 8)]
    both = [Checkpoint.load(path) for path in paths]
    network = StackedHourglass(both[0].config)
    book, _ = object_from_mesh('builtin:book', 'm', 'book')
    about, knows = _start(network, paths, book)
    assert knows
    assert [one['object'] for one in about['mean']] == ['obj_000006', 'obj_000008']
    assert _origin(about).startswith('the mean of obj_000006, obj_000008 (rgb_mask)')
    for name in ('stem.0.0.weight', 'features.1.layers.0.0.weight'):
        mean = (both[0].weights[name].float() + both[1].weights[name].float()) / 2
        assert torch.allclose(network.state_dict()[name], mean, atol=1e-6)
    with pytest.raises(InputError, match='networks of one shape'):
        _start(network, [*paths, ROOT / 'models' / 'cup.safetensors'], book)


@pytest.mark.parametrize('start, eased', [('none', True), ('cup.mask.safetensors', False)])
def test_only_random_weights_begin_with_easy_crops(start, eased, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, '_severity', lambda *now: asked.append(now) or 1.0)
    monkeypatch.setattr(module, 'finish', lambda *args: None)
    # Of the process, which other tests share.
    monkeypatch.setattr(module, 'keep_freed_memory', lambda: None)
    path = start if start == 'none' else str(ROOT / 'models' / start)
    monkeypatch.chdir(ROOT)
    assert main(['train', 'config/objects/book.yaml', '--input', 'mask', '--samples', '64',
                 '--views', '24', '--device', 'cpu', '--output', str(tmp_path),
                 '--start', path]) == 0
    assert bool(asked) == eased


def test_crops_become_harder_with_the_training_and_in_long_ones_by_their_number():
    assert module._severity(0.3, 0) == module._severity(0.1, 60_000) == module.EASY
    assert module.EASY < module._severity(0.5, 0) < 1 == module._severity(0.8, 0)
    assert module.EASY < module._severity(0.1, 100_000) < 1 == module._severity(0.2, 200_000)


def test_colours_have_a_wider_network_than_masks(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(module, 'train', lambda model, mesh, config, *rest: asked.append(config))
    monkeypatch.chdir(ROOT)
    for arguments in ([], ['--input', 'mask'], ['--network', 'width=16']):
        assert main(['train', 'config/objects/book.yaml', '--output', str(tmp_path), '--device',
                     'cpu', '--samples', '1', *arguments]) == 0
    assert [(one.network.width, one.network.stem_blocks, len(one.start)) for one in asked] == [
        (96, 1, 6), (64, 0, 6), (16, 1, 0)]


def test_mesh_without_colours_trains_on_random_materials_and_says_so(quick, tmp_path, capsys):
    trimesh.creation.box((50, 80, 120)).export(tmp_path / 'obj_000009.stl')
    assert main(['train', '--mesh', str(tmp_path / 'obj_000009.stl'), '--unit', 'mm',
                 '--samples', '64', '--output', str(tmp_path), *TINY]) == 0
    assert 'no colours' in capsys.readouterr().out
    model = Checkpoint.load(tmp_path / 'obj_000009.safetensors').model
    assert model.bop_id == 9
    assert model.diameter == pytest.approx(0.1526, abs=1e-3)


def test_symmetries_and_number_come_from_bop_files(tmp_path):
    half_turn = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 20.0, 0, 0, 0, 1]
    trimesh.creation.box((50, 80, 120)).export(tmp_path / 'box.stl')
    trimesh.creation.box((50, 80, 120)).export(tmp_path / 'obj_000003.stl')
    (tmp_path / 'models_info.json').write_text(json.dumps(
        {'3': {'symmetries_discrete': [half_turn]},
         '7': {'symmetries_continuous': [{'axis': [0, 0, 1], 'offset': [0, 0, 0]}]}}))

    def target(*args):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return load_target(parser.parse_args([*map(str, args), '--output', str(tmp_path)]))

    info = tmp_path / 'models_info.json'
    beside, _, _ = target('--mesh', tmp_path / 'obj_000003.stl', '--unit', 'mm')
    assert beside.bop_id == 3
    assert beside.symmetries.discrete[0].t_m2c[2] == pytest.approx(0.02)
    named, _, source = target('--mesh', tmp_path / 'box.stl', '--unit', 'mm', '--bop-id', 7,
                              '--symmetries', info)
    assert named.bop_id == 7 and named.symmetries.continuous and not named.symmetries.discrete
    metres, _, _ = target('--mesh', tmp_path / 'box.stl', '--unit', 'cm', '--bop-id', 3,
                          '--symmetries', info)
    assert metres.symmetries.discrete[0].t_m2c[2] == pytest.approx(0.02)  # BOP's are in mm
    with pytest.raises(InputError, match='--symmetries: expected object 8'):
        target('--mesh', tmp_path / 'box.stl', '--unit', 'mm', '--bop-id', 8,
               '--symmetries', info)
    # The YAML that is written beside the weights says the same.
    (tmp_path / 'again.yaml').write_text(yaml.safe_dump(source))
    again, _, _ = target(tmp_path / 'again.yaml')
    assert again.to_dict() == {**named.to_dict(), 'mesh': again.mesh_path}
    with pytest.raises(InputError, match='--symmetries: expected --bop-id N'):
        target('--mesh', tmp_path / 'box.stl', '--unit', 'mm', '--symmetries', info)


@pytest.mark.parametrize('args, words', [
    (['nowhere.yaml'], 'expected an object YAML, got no such file'),
    ([], 'expected an object YAML or --mesh FILE, got neither'),
    (['--mesh', 'x.ply'], '--unit: expected the unit of the mesh'),
    (['--mesh', 'x.ply', '--unit', 'mm'], 'expected a mesh file, got no such file'),
    (['--mesh', 'x.ply', '--unit', 'feet'], 'unit: expected one of m, cm, mm, in'),
    (['config/objects/cup.yaml', '--minutes', '-1'], 'minutes, samples: expected one of them'),
    (['config/objects/cup.yaml', '--minutes', '0'], 'minutes, samples: expected one of them'),
    (['config/objects/cup.yaml', '--name', 'refiner'], "expected another one, got 'refiner'"),
    (['config/objects/cup.yaml', '--views', '0'], 'views: expected at least 1'),
    (['config/objects/cup.yaml', '--device', 'nowhere'], 'device: expected cpu or a GPU'),
    (['config/objects/cup.yaml', '--output', 'README.md/models'], 'README.md'),
    (['config/objects/cup.yaml', '--network', 'widht=3'], 'unknown key'),
    (['config/objects/cup.yaml', '--network', 'keypoints=8'], '--network: expected KEY=N'),
    (['config/objects/cup.yaml', '--unit', 'mm'], 'name the right unit'),
    (['config/objects/cup.yaml', '--symmetries', 'none.json'], 'got no such file')])
def test_bad_arguments_end_with_one_line_and_code_2(args, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(['train', *args]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith('error: ') and told.count('\n') == 1
