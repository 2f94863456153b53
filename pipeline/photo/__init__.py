"""From any upload to the picture on the card: bytes in; bytes, measurements and findings out.

Knows no file, network, database, clock or person. `profile` holds the numbers, `findings` the words, `sniff` looks at the bytes
before any pixel exists, `decode` makes an upright RGB image of them, `layout` cuts the card's frame, `encode` writes the file,
`normalise` runs them in order. Only `decode`, `layout` and `encode` know Pillow.
"""
