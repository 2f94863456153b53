"""Key check values of keys that everybody knows: test keys of vendors, standards and examples.

Outside a demonstration a key on this list stops the start; in a demonstration only keys on it are taken, so that test
and real keys never meet. The check value of a 3DES key is the left 3 bytes of eight zero bytes enciphered with it.
"""

PUBLISHED_KCVS = frozenset(
    map(
        bytes.fromhex,
        (
            "8BAF47",  # 404142..4F
            "E2573C",  # GEMXPRESSOSAMPLE
            "08D7B4",
            "D5D44F",  # 012345..
            "8CA64D",  # zeros
            "82E136",  # 1111..
            "CAAAAF",  # FFFF..
            "DDADA1",  # 000102..0F
            "FB0975",  # 001122..FF
            "FE8A09",
            "DF928E",
            "A4B7D6",
        ),
    )
)
