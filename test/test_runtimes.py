"""Networks of convolutions in every runtime, against torch's own."""

import sys

import pytest

torch = pytest.importorskip('torch')

from pose_estimator import devices, runtimes  # noqa: E402, I100
from pose_estimator.keypoints.hourglass import (  # noqa: E402
    fold_batch_norms, HourglassConfig, StackedHourglass)
from pose_estimator.runtimes import fastest, missing_packages, RUNTIMES  # noqa: E402
from pose_estimator.segmentation.mask_rcnn import (  # noqa: E402
    build_network, DensePart, MaskRCNNConfig, VARIANTS)
from torch import nn  # noqa: E402
from torchvision.models import resnet18  # noqa: E402
from torchvision.models.detection import maskrcnn_resnet50_fpn  # noqa: E402
from torchvision.ops import FrozenBatchNorm2d  # noqa: E402


class Listed(nn.Module):
    """The maps of a network as a list, which is what runtimes want."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        """Return a list of one."""
        return [self.network(x)]


def there(name):
    return not missing_packages(name) and name != 'compiled'  # which takes a minute: make bench


@pytest.mark.parametrize('name', [name for name in RUNTIMES if there(name)])
@pytest.mark.parametrize('growth, stem', [(0, 32), (16, 16), (8, 8)])
def test_hourglasses_give_the_same(name, growth, stem):
    torch.manual_seed(0)
    network = fold_batch_norms(StackedHourglass(HourglassConfig(
        3, 5, 64, stem, width=16, growth=growth, modules=2)))
    run = RUNTIMES[name](network)
    with torch.inference_mode():
        for count in (1, 3, 2):
            images = torch.randn(count, 3, 64, 64)
            for found, expected in zip(run(images), network(images), strict=True):
                assert found.dtype == torch.float32
                atol = 0.05 if name in ('bfloat16', 'openvino') else 1e-4
                torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def test_what_came_last_stays_as_it_is():
    network = fold_batch_norms(StackedHourglass(HourglassConfig(3, 5, 64, 16, width=16)))
    run = RUNTIMES[fastest('cpu')](network)
    with torch.inference_mode():
        first = run(torch.zeros(1, 3, 64, 64))[-1]
        kept = first.clone()
        run(torch.randn(1, 3, 64, 64))
    assert torch.equal(first, kept)


@pytest.mark.skipif(not there('openvino'), reason='openvino is not installed')
def test_openvino_knows_layers_of_torchvision():
    torch.manual_seed(0)
    network = resnet18(weights=None).eval()
    for norm in (nn.BatchNorm2d, FrozenBatchNorm2d):
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 2, dilation=2), norm(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6()).eval()
        for _, value in [*body.named_buffers(), *body.named_parameters()]:
            if value.is_floating_point():
                value.data.uniform_(0.2, 1)
        run = RUNTIMES['openvino float32'](Listed(body))
        images = torch.randn(2, 3, 50, 42)
        with torch.inference_mode():
            torch.testing.assert_close(run(images)[0], body(images), atol=1e-4, rtol=0)
    layer = RUNTIMES['openvino float32'](Listed(network.layer2))
    images = torch.randn(1, 64, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(layer(images)[0], network.layer2(images), atol=1e-3, rtol=0)


@pytest.mark.skipif(not there('openvino'), reason='openvino is not installed')
@pytest.mark.parametrize('layer', [
    nn.Conv2d(3, 4, 3, padding=1, padding_mode='reflect'), nn.MaxPool2d(2, dilation=2),
    nn.ConvTranspose2d(3, 4, 2, 2, 1), nn.Sigmoid(), nn.Upsample(scale_factor=3)])
def test_openvino_refuses_what_it_would_do_wrongly(layer):
    with pytest.raises(NotImplementedError, match='no conversion to OpenVINO'):
        runtimes.openvino_model(Listed(nn.Sequential(nn.Conv2d(3, 3, 1), layer)))


@pytest.mark.skipif(not there('openvino'), reason='openvino is not installed')
def test_openvino_runs_without_its_own_conversion(monkeypatch):
    """Which tells its makers over the internet that it was used."""
    import openvino

    def refuse(*_, **__):
        raise AssertionError('convert_model was called')

    monkeypatch.setattr(openvino, 'convert_model', refuse)
    monkeypatch.setitem(sys.modules, 'openvino.tools.ovc.convert', None)
    run = RUNTIMES['openvino'](Listed(nn.Conv2d(3, 4, 1)))
    assert run(torch.zeros(1, 3, 8, 8))[0].shape == (1, 4, 8, 8)


@pytest.mark.skipif(not there('openvino'), reason='openvino is not installed')
def test_all_openvino_networks_share_one_core(monkeypatch):
    """With the last core its libraries go, and with them, later, the process."""
    import openvino
    made = []
    make = openvino.Core
    monkeypatch.setattr(openvino, 'Core', lambda: made.append(make()) or made[-1])
    runtimes._core.cache_clear()
    for _ in range(3):
        RUNTIMES['openvino'](Listed(nn.Conv2d(3, 4, 1)))
    assert len(made) == 1 and runtimes._core() is made[0]


@pytest.mark.skipif(not there('openvino'), reason='openvino is not installed')
@pytest.mark.parametrize('variant', [*VARIANTS, 'coco'])
def test_openvino_runs_every_segmenter(variant):
    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None) if variant == 'coco' \
        else build_network(MaskRCNNConfig(('book', 'cup'), variant=variant))
    dense, images = DensePart(network.eval()), torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        for found, expected in zip(RUNTIMES['openvino float32'](dense)(images), dense(images),
                                   strict=True):
            atol = 1e-4 * float(expected.abs().max())
            torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize('name, flags, expected', [
    ('AMD EPYC 9R14', {'avx512_bf16'}, True), ('AMD EPYC', set(), False),
    ('Intel(R) Xeon(R) Processor', {'avx512_bf16'}, False),
    ('Intel(R) Xeon(R) Processor', {'avx512_bf16', 'amx_tile'}, True)])
def test_bfloat16_is_for_processors_that_are_faster_with_it(monkeypatch, name, flags, expected):
    monkeypatch.setattr(devices, 'processor_name', lambda: name)
    for flag in ('avx512_bf16', 'amx_tile'):
        monkeypatch.setattr(torch.cpu, f'_is_{flag}_supported', lambda flag=flag: flag in flags,
                            raising=False)
    assert devices.has_fast_bfloat16('cpu') == expected
