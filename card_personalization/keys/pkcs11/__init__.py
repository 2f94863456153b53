"""A key store on a PKCS#11 token: masters lie in the token, sensitive and not extractable, and are used there.

One thread owns the one session; callers wait for it. python-pkcs11 initialises a module without locking and a login counts for
the whole process, so a module is open once per process, and not across a fork.

A master is a secret key labelled `zhika/NAME/VERSION`; its CKA_ID is the text `USAGE/LAST-DAY/OWNER` (`-` for no last day), and
neither can be modified. 3DES masters are stored as K1‖K2‖K1. Keys that appear while a store is open are seen at the next login.
Whoever has the PIN can make such objects: `vet` is how a store that is used refuses those that no ceremony made.

Inside the token: 密钥分散, `emv` and `visa2` (C_DeriveKey with DES3_ECB_ENCRYPT_DATA; the token may adjust the parity of what it
derives, which 3DES ignores), `kdf3` (the CMAC of the method's one-block message is an AES block of that message and the CMAC
subkey, hence AES_ECB_ENCRYPT_DATA), every MAC and the session keys. Composed outside, because tokens lack the mechanism:

- Retail MAC chains by DES3_CBC under a key K1‖K1‖K1, which is derived with the card key; for a 人社 master used without any
  factor it lies beside the master as `zhika/NAME/VERSION/first`. The last block is DES3_ECB under the whole key.
- UDKs are in process memory during `card_keys`: tokens do not wrap by DES3_ECB or AES_CBC.
- The SCP02 session keys, S-DEK too, are in process memory for the session. The static DEK of SCP03 stays in the token.

Must not know where masters come from or what cards they open.
"""

from card_personalization.keys.pkcs11.store import Pkcs11Keys

__all__ = ["Pkcs11Keys"]
