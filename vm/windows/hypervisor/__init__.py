"""Windows machines on libvirt: domains, accelerators, leases, resets and crashes."""
