# Closes the firewall for everything that comes in but remoting and SSH, and what the network itself needs.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

# Core Networking: without it no address is leased. The group goes by its resource, because its name is translated.
$coreNetworking = '@FirewallAPI.dll,-25000'
Get-NetFirewallRule -Direction Inbound -Enabled True |
    Where-Object -FilterScript { $_.Group -ne $coreNetworking } |
    Disable-NetFirewallRule
foreach ($port in 22, 5986) {
    $rule = @{
        Name = 'ntproof-{0}' -f $port
        DisplayName = 'ntproof, TCP {0}' -f $port
        Direction = 'Inbound'
        Action = 'Allow'
        Protocol = 'TCP'
        LocalPort = $port
        Profile = 'Any'
    }
    New-NetFirewallRule @rule | Out-Null
}
Set-NetFirewallProfile -All -Enabled True -DefaultInboundAction Block -DefaultOutboundAction Allow

$open = Get-NetFirewallRule -Direction Inbound -Enabled True |
    Where-Object -FilterScript { $_.Group -ne $coreNetworking } |
    Sort-Object -Property Name |
    ForEach-Object -Process { $_.Name }
@{
    firewall_rules = @($open)
}
