"""PRAP-PIM: pattern pruning and reuse on ReRAM processing-in-memory, from a trained network to cost and proof."""
