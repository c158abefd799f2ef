"""The local ground: a broker and a Postgres on this machine, for the demo and the tests alike."""
