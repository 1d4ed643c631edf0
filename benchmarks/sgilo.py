"""Solvers of inverse problems: all images and restarts in one batch, beside one image and one restart at a time.

``python benchmarks/sgilo.py`` (or ``make bench BENCH=sgilo``). Both sides are the same solvers with the same settings
on the same measurements, 80 random projections of images of 28 x 28 pixels; the decoder and the score network have the
sizes of the recipe and are not trained. The sides take turns in one run; figures are medians with their range, for all
images. A stage is 20 steps here, not the recipe's 150 and 100: the time of a step is the same. ILO and SGILO are given
their start, CSGM has two restarts. As a check the largest difference of the images of ILO on both sides is told.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor

from datamodules.inverse_operators import GaussianSensing
from zoo.console import console
from zoo.sgilo import CSGM, ILO, SGILO, ConvDecoder, LatentDenoiser, Reconstruction, ScorePrior, Solver

SHAPE = (1, 28, 28)


def sides(
    solver: Solver, decoder: ConvDecoder, operator: GaussianSensing, y: Tensor, priors: dict[str, ScorePrior]
) -> dict[str, Callable[[], Tensor]]:
    """One batch, and one image and one restart at a time; each gives the images that it finds."""
    latents = decoder.prefix(torch.zeros(len(y), decoder.latent_dim), 1).detach()

    def start(rows: slice) -> Reconstruction | None:
        if solver.first is None:
            return None
        latent = latents[rows]
        return Reconstruction(decoder.suffix(latent, 1).detach(), latent, 1, torch.zeros(len(latent)))

    def solved(solver: Solver, rows: slice) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return solver.solve(decoder, operator, y[rows], priors, start(rows), rng).x

    single = replace(solver, num_restarts=1) if isinstance(solver, CSGM) else solver
    num_restarts = solver.num_restarts if isinstance(solver, CSGM) else 1

    def one_by_one() -> Tensor:
        rows = [slice(i, i + 1) for i in range(len(y))]
        found = [solved(single, row) for row in rows for _ in range(num_restarts)]
        return torch.cat(found[::num_restarts])

    return {"batch": lambda: solved(solver, slice(None)), "one by one": one_by_one}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=3, help="how often each side is timed")
    parser.add_argument("--num_images", type=positive, default=64)
    parser.add_argument("--num_steps", type=positive, default=20, help="of a stage")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    decoder = ConvDecoder(latent_dim=6).eval().requires_grad_(False)
    denoiser = LatentDenoiser(decoder.latent_shape(1)).fit(torch.randn(1000, *decoder.latent_shape(1))).eval()
    operator = GaussianSensing(SHAPE, 80, torch.Generator().manual_seed(0))
    y = operator(torch.rand(args.num_images, *SHAPE))
    csgm = CSGM(num_restarts=2, num_steps=args.num_steps)
    solvers: dict[str, Solver] = {
        "CSGM": csgm,
        "ILO": ILO(csgm, num_steps=args.num_steps),
        "SGILO": SGILO(csgm, num_steps=args.num_steps),
    }
    title = f"{args.num_images} images, {args.num_steps} steps\n{machine()}"
    table = Table("", "one batch", "one image, one restart at a time", "faster by", title=title, title_justify="left")
    for name, solver in solvers.items():
        both = sides(solver, decoder, operator, y, {"score": ScorePrior(denoiser)})
        if name == "ILO":
            difference = (both["batch"]() - both["one by one"]()).abs().max().item()
        seconds = take_turns(both, args.rounds)
        ratio = statistics.median(seconds["one by one"]) / statistics.median(seconds["batch"])
        table.add_row(name, in_words(seconds["batch"]), in_words(seconds["one by one"]), f"{ratio:.1f}x")
    console().print(table)
    console().print(f"largest difference of a pixel between the two sides, ILO: {difference:.1e}")


if __name__ == "__main__":
    main()
