"""Papers of ICML 2022 as PyTorch Lightning modules, each with its data, its recipe and its proof."""
