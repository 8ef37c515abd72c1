"""WindowsMachine: the Machine protocol on a Windows guest in a leased domain."""
