"""Contrastive fine-tuning: loss, cached gradients, schedule, checkpoints, the loop."""
