"""The records on the wire: their schemas, both framings, the registry, and their evolution."""
