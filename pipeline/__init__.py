"""The domain and its engine: values, rules, stages, services. Reads no settings; only `gateways` and `store` touch the world."""
