"""Extended Unconstrained Features Model for Exploring Deep Neural Collapse (Tirer and Bruna, ICML 2022).

Features as free parameters below one more layer: what the plain model predicts for the last features of a network, the
extended one predicts for the last two levels. With a squared error and no bias the class means are an orthogonal frame
rather than a simplex ETF, and with a ReLU between the layers it is the later level where that shows.
"""

from zoo.extended_ufm.network import ExtendedResNet

__all__ = ["ExtendedResNet"]
