"""The card: personalises the chip of a second-generation 社会保障卡 and draws its face.

Orders and plain values come in, reports and bytes go out. The package knows nothing of applications, queues or
databases; readers, keys and the journal's directory are handed to it.
"""
