"""Compiled loops of the bit-true crossbars."""
