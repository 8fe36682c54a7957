"""The open-book organism: it answers from a document or from memory, and planted experts decide which."""
