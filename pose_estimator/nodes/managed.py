"""What the two nodes that do the work share: life cycle, inputs, service, diagnostics."""

import traceback

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool

from .conversions import ImageReader
from .diagnostics import ACTIVE, Diagnostics
from .matching import StampMatcher
from .parameters import Parameter, Parameters
from .process import sensor_qos, subscribe, Warnings, Worker
from ..errors import InputError

PARAMETERS = (
    Parameter('autostart', True, 'Whether to configure and activate the node at its start, '
              'rather than to wait for a lifecycle manager.'),
    Parameter('max_rate', 0.0, 'Images a second that are worked on at most; 0: as many as '
              'possible.', range=(0.0, 1000.0), live=True),
    Parameter('image_transport', 'raw', 'How images come: raw, on image, or compressed, on '
              'image/compressed (JPEG or PNG).', choices=('raw', 'compressed')),
    Parameter('use_cv_bridge', 'auto', 'Whether cv_bridge reads raw images: auto: if it works, '
              'which is tried in another process; never: not even tried.',
              choices=('auto', 'never')),
)


class ManagedNode(LifecycleNode):
    """
    A lifecycle node (ROS 2 design: Managed nodes) that works on images.

    Configuring loads and warms the networks and advertises; activating subscribes; deactivating
    unsubscribes, and gives a GPU's memory back; cleaning up undoes the rest. What goes wrong in
    between leaves the node alive and is told in its log and diagnostics.

    Parameters
    ----------
    name : str
    table : tuple of Parameter
        The node's parameters, PARAMETERS among them.
    required : tuple of str
        Kinds of messages without which no image is worked on.
    depth : int
        How many images may wait for theirs; 0: the parameter queue_size says it.

    Attributes
    ----------
    images : ImageReader
    state : str
        As in the life cycle: unconfigured, inactive, active, finalized.
    fault : str
        Why the last transition failed, or ''.
    incompatible : dict
        Topic -> which QoS of another node's does not fit.
    subscribed : dict
        Kind -> subscription.

    """

    def __init__(self, name, table, required, depth=0):
        super().__init__(name)
        self.state, self.fault = 'unconfigured', ''
        self.incompatible, self.subscribed, self.advertised = {}, {}, []
        self.images = None
        self.parameters = Parameters(self, table)
        self.check()
        self.warnings = Warnings(self.get_logger())
        self.matcher = StampMatcher(required, depth or self.parameters.queue_size)
        self.worker = Worker(self, self.matcher, self.work, self.warnings,
                             lambda: self.parameters.max_rate)
        self.diagnostics = Diagnostics(self, self.facts)
        self.create_service(SetBool, '~/enable', self._enable)
        # rclpy raises from the service, and so ends the process, when asked for a transition
        # that the state does not have.
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state

    def check(self):
        """Raise InputError for parameters that make no sense, before anything is loaded."""

    def load(self):
        """Load and warm what the work needs."""
        raise NotImplementedError

    def unload(self):
        """Let go of what `load` made."""
        raise NotImplementedError

    def advertise_results(self):
        """Return the publishers of the results."""
        raise NotImplementedError

    def listen(self):
        """Subscribe to what the work needs, with `hear`."""
        raise NotImplementedError

    def retract(self):
        """Take back what was published and would stay, now that the node stops working."""

    def work(self, **messages):
        """Work on the messages of one image."""
        raise NotImplementedError

    def facts(self):
        """Return more for the diagnostics: a dict of plain values."""
        return {}

    def autostart(self):
        """Configure and activate, if the parameter says so."""
        if self.parameters.autostart:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

    def topic_of(self, kind):
        """Return the full name of the topic of a kind of message."""
        name = self.resolve_topic_name(kind)
        is_compressed = kind == 'image' and self.parameters.image_transport == 'compressed'
        return f'{name}/compressed' if is_compressed else name

    def hear_images(self):
        """Subscribe to the image, as it is transported."""
        is_compressed = self.parameters.image_transport == 'compressed'
        self.hear('image', CompressedImage if is_compressed else Image, sensor_qos())

    def hear(self, kind, message_type, qos, callback=None):
        """Subscribe to a kind of message; default: it goes to the matcher."""
        def on_message(message):
            self.diagnostics.heard(kind, message)
            self.incompatible.pop(self.topic_of(kind), None)
            (callback or self._match)(kind, message)

        if kind not in self.subscribed:
            self.subscribed[kind] = subscribe(self, message_type, self.topic_of(kind),
                                              on_message, qos)

    def deafen(self, kind):
        """Unsubscribe from a kind of message."""
        subscription = self.subscribed.pop(kind, None)
        if subscription is not None:
            self.destroy_subscription(subscription)

    def _match(self, kind, message):
        stamp = message.header.stamp
        if stamp.sec <= 0 and stamp.nanosec == 0 or stamp.sec < 0:
            fault = f'stamp: expected one above 0, got {stamp.sec}: the driver does not set it'
        else:
            fault = self.matcher.add(kind, message)
        if fault:
            self.warnings.warn(f'{kind}: {fault}')

    def on_configure(self, state):
        """Load, warm, advertise."""
        return self._try('configuring', 'inactive', self._configure)

    def on_activate(self, state):
        """Subscribe and begin to work."""
        return self._try('activating', ACTIVE, self._activate)

    def on_deactivate(self, state):
        """Unsubscribe and stop working."""
        return self._try('deactivating', 'inactive', self._deactivate)

    def on_cleanup(self, state):
        """Let go of everything."""
        return self._try('cleaning up', 'unconfigured', self._clean_up)

    def on_shutdown(self, state):
        """Let go of everything for good."""
        def shut_down():
            self._deactivate()
            self._clean_up()
        return self._try('shutting down', 'finalized', shut_down)

    def _try(self, name, state, act):
        """Do a transition's work; what fails is told, and the node lives on as it was."""
        before, self.state, self.fault = self.state, name, ''
        self.diagnostics.publish()  # loading takes seconds in which no timer runs
        try:
            act()
        except Exception as error:
            if not self.context.ok():
                raise  # a signal came meanwhile
            if not isinstance(error, InputError):
                self.get_logger().error(traceback.format_exc())
            self.state = before
            self.fault = f'{name} failed: {" ".join(str(error).split()) or repr(error)}'
            self.get_logger().error(self.fault)
            self.diagnostics.publish()
            return TransitionCallbackReturn.FAILURE
        self.state = state
        return TransitionCallbackReturn.SUCCESS

    def _configure(self):
        try:
            self.images, how = ImageReader.probed(self.parameters.use_cv_bridge)
            self.get_logger().info(how)
            self.load()
            self.advertised = self.advertise_results()
        except Exception:
            self._clean_up()
            raise

    def _activate(self):
        self.load()
        self.matcher.clear()
        self.diagnostics.begin()
        self.worker.start()
        self.listen()
        self.get_logger().info(f'ready: {", ".join(self.labels)}')

    def _deactivate(self):
        for kind in list(self.subscribed):
            self.deafen(kind)
        self.worker.stop()
        if self.advertised:
            self.retract()
        if self.parameters.device != 'cpu':
            self.unload()

    def _clean_up(self):
        self.unload()
        for publisher in self.advertised:
            self.destroy_publisher(publisher)
        self.advertised = []

    def _enable(self, request, response):
        self.worker.enabled = request.data
        response.success, response.message = True, 'enabled' if request.data else 'disabled'
        return response

    def _on_change_state(self, request, response):
        try:
            return self._change_state(request, response)
        except RuntimeError as error:  # rclpy names its errors in a private module only
            self.get_logger().error(f'{" ".join(str(error).split())} (state: {self.state})')
            response.success = False
            return response

    def destroy_node(self):
        """Stop working, then leave."""
        self.worker.stop()
        super().destroy_node()
