"""Structured exceptions and unwinding, as x64 Windows does them."""
