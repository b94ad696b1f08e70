"""Differentially private training of heads on frozen towers: docs/finetuning.md."""
