"""GlobalPlatform on the host's side: secure channels as pure state, commands as values, and the processor that secures a channel."""
