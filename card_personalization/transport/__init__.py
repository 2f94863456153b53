"""Ways to reach a card; every one offers the port of `transport.base`."""
