"""Where the operation units of a layer plan lie: on which crossbar, in which PE and tile; how often it is built."""

from prap_pim.mapping.copies import Builds, share_out
from prap_pim.mapping.layer import LayerMapping, Mode, fewest_crossbars, map_layer
from prap_pim.mapping.network import NetworkMapping, map_network, replicate

__all__ = [
    "Builds",
    "LayerMapping",
    "Mode",
    "NetworkMapping",
    "fewest_crossbars",
    "map_layer",
    "map_network",
    "replicate",
    "share_out",
]
