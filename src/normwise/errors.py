"""The one family of errors that normwise raises."""


class NormError(ValueError):
    """Something was asked of normwise that it cannot do.

    The text says what was asked, what arrived, and what to write instead.
    Whatever was handed in is as it was before the call.
    """
