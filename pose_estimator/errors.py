"""The one exception that means: the input is at fault, and here is what to do."""


class InputError(ValueError):
    """
    Input that cannot be used; the message says expected, got, and what to do.

    Command line tools print the message as one line and exit with code 2; nodes warn and go on.

    """
