"""The records on the wire: their Avro schemas, the two framings, the registry, and how schemas may change."""
