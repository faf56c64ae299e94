"""The field's named protocols: what exactly a published figure was measured on.

Figures are comparable within a protocol only. Two that share a data set and a number of experiences may still differ in
the split into training and test images, the order of the classes, the crop and the normalisation.
"""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pvision.datamodules.streams._protocol import Protocol
from pvision.datamodules.streams._protocol_table import TABLE
from pvision.errors import ConfigError

__all__ = ["PROTOCOLS", "Protocol", "find_protocol", "protocols_of"]

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in TABLE})


def find_protocol(name: str, *, data: str) -> Protocol:
    """Return the protocol of this name.

    Args:
        name: of the protocol.
        data: the data set that it must belong to.

    Raises:
        ConfigError: if there is none of this name, or it belongs to another data set.
    """
    protocol = PROTOCOLS.get(name)
    if protocol is not None and protocol.data == data:
        return protocol
    known = [known.name for known in protocols_of(data)]
    if protocol is not None:
        problem = f"data.protocol {name!r} belongs to the data set {protocol.data}, but this stream is {data}."
    else:
        near = difflib.get_close_matches(name, known, n=1)
        problem = f"data.protocol {name!r} is unknown.{f' Do you mean {near[0]!r}?' if near else ''}"
    raise ConfigError(f"{problem} Known for {data} are {', '.join(known) or 'none'}; or give data.scenario instead.")


def protocols_of(data: str) -> Sequence[Protocol]:
    """Return the protocols of a data set, in the order of the table."""
    return [protocol for protocol in PROTOCOLS.values() if protocol.data == data]
