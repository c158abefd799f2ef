"""Local programs for the demo and the tests: brokers, Postgres and a schema registry."""
