"""
Ways to run a Mask R-CNN's convolutions over the whole image: there nearly all of its time goes.

A runtime is a function that takes a DensePart and returns a function from images (1, 3, H, W) to
what DensePart.forward returns, in float32. RUNTIMES names them; `make bench` compares them.
"""

import copy
import importlib.util
import sys
import tempfile
import warnings

import torch
from torch import nn

from ..devices import has_fast_bfloat16

# Names of torchvision's pyramid maps at strides 4 to 64.
LEVELS = ('0', '1', '2', '3', 'pool')
# Compiled for so many image sizes at a time, where a runtime compiles for each.
MOST_SIZES = 4
# What the set-up does not bring.
_PACKAGES = {'onnxruntime': ('onnx', 'onnxruntime'), 'openvino': ('openvino',),
             'openvino float32': ('openvino',)}


class DensePart(nn.Module):
    """Backbone, feature pyramid and the convolutions of the proposals, of a MaskRCNN."""

    def __init__(self, network):
        super().__init__()
        self.backbone = network.backbone
        self.head = network.rpn.head

    def forward(self, images):
        """Return a tuple of feature maps, objectness and box changes, one each per level."""
        maps = self.backbone(images)
        features = [maps[level] for level in LEVELS]
        objectness, changes = self.head(features)
        return (*features, *objectness, *changes)


def eager(dense):
    """Run as it is."""
    return dense


def bfloat16(dense):
    """Run in bfloat16, for which some processors have instructions."""
    half = copy.deepcopy(dense).to(torch.bfloat16)
    return lambda images: [one.float() for one in half(images.bfloat16())]


def compiled(dense):
    """Run what torch.compile makes of it; needs a C++ compiler."""
    return torch.compile(copy.deepcopy(dense))


def onnxruntime(dense):
    """Run in ONNX Runtime (packages onnx and onnxruntime)."""
    import onnxruntime as runtime
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    def compile_for(images):
        with tempfile.NamedTemporaryFile(suffix='.onnx') as file:
            torch.onnx.export(_frozen(dense), (images.clone(),), file.name, dynamo=False,
                              opset_version=17)
            session = runtime.InferenceSession(file.name, options,
                                               providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        return lambda images: [torch.from_numpy(one) for one
                               in session.run(None, {name: images.numpy()})]
    return _by_size(compile_for)


def openvino(dense, fast=None):
    """
    Run in OpenVINO (package openvino).

    Parameters
    ----------
    dense : DensePart
        What to run.
    fast : bool
        Whether in bfloat16; default: where the processor has instructions for it.

    """
    import openvino as runtime
    fast = has_fast_bfloat16('cpu') if fast is None else fast
    core = runtime.Core()
    options = {'INFERENCE_NUM_THREADS': torch.get_num_threads(), 'PERFORMANCE_HINT': 'LATENCY',
               'INFERENCE_PRECISION_HINT': 'bf16' if fast else 'f32'}

    def compile_for(images):
        with torch.no_grad():
            model = runtime.convert_model(_frozen(dense), example_input=images.clone(),
                                          input=list(images.shape))
        request = core.compile_model(model, 'CPU', options).create_infer_request()

        def infer(images):
            found = request.infer({0: images.numpy()})
            return [torch.from_numpy(found[index]) for index in range(len(found))]
        return infer
    return _by_size(compile_for)


RUNTIMES = {
    'eager': eager, 'bfloat16': bfloat16, 'compiled': compiled, 'onnxruntime': onnxruntime,
    'openvino float32': lambda dense: openvino(dense, False), 'openvino': openvino}


def missing_packages(name):
    """Return the packages that a runtime needs and that are not installed."""
    return [package for package in _PACKAGES.get(name, ())
            if importlib.util.find_spec(package) is None]


def fastest(device):
    """Return the name of the runtime that is the fastest of those that are there."""
    if torch.device(device).type != 'cpu':
        return 'eager'
    if not missing_packages('openvino'):
        return 'openvino'
    return 'bfloat16' if has_fast_bfloat16('cpu') else 'eager'


def _frozen(dense):
    return copy.deepcopy(dense).eval().requires_grad_(False)


def _by_size(compile_for):
    """Return a function of images that compiles at the first of each size, and says so."""
    ready = {}

    def run(images):
        size = tuple(images.shape)
        if size not in ready:
            print(f'compiling the segmenter for images of {size[3]} x {size[2]}, which takes '
                  'seconds', file=sys.stderr, flush=True)
            while len(ready) >= MOST_SIZES:
                del ready[next(iter(ready))]
            with torch.inference_mode(False), warnings.catch_warnings():
                warnings.simplefilter('ignore')  # of tracing, which is what both packages read
                ready[size] = compile_for(images)
        return ready[size](images)
    return run
