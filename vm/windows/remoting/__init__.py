"""Everything that crosses the line to a Windows guest: PowerShell Remoting, SSH, and the module that runs there."""
