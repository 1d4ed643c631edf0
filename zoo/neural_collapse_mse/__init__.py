"""On the Optimization Landscape of Neural Collapse under MSE Loss (Zhou et al., ICML 2022).

At the end of training the features of a class become one point, and the class means and the rows of the last layer a
simplex equiangular tight frame (ETF). With features as free parameters and weight decay, such solutions are the only
minima of the squared error, and every other critical point is a strict saddle. So the last layer may be a fixed ETF.
"""

from zoo.neural_collapse_mse.etf import ETFLinear, simplex_etf
from zoo.neural_collapse_mse.loss import RescaledMSELoss
from zoo.neural_collapse_mse.module import ETFClassifier
from zoo.neural_collapse_mse.network import NarrowResNet

__all__ = ["ETFClassifier", "ETFLinear", "NarrowResNet", "RescaledMSELoss", "simplex_etf"]
