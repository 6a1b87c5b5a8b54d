"""Makers of dialogs (§4.3): code, mathematics, tools, long context, languages; each checks what it makes."""
