"""Where the operation units of a layer plan lie: on which crossbar, in which PE and tile."""

from prap_pim.mapping.layer import LayerMapping, Mode, dense_ous, map_layer
from prap_pim.mapping.network import NetworkMapping, map_network

__all__ = ["LayerMapping", "Mode", "NetworkMapping", "dense_ous", "map_layer", "map_network"]
