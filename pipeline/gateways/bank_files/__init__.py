"""A bank that exchanges batch files: codecs, what a returned file means for ours, the exchange by directory, and the adapter."""
