"""Machines with real Windows: virtual machines on libvirt, reached over PowerShell Remoting."""
