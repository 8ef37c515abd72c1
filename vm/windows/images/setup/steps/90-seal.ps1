# Leaves nothing of the installation behind: no logon without a password, no answer file, no old events.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

$logon = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Winlogon'
foreach ($name in 'AutoAdminLogon', 'AutoLogonCount', 'DefaultPassword', 'DefaultUserName', 'DefaultDomainName') {
    Remove-ItemProperty -LiteralPath $logon -Name $name -ErrorAction SilentlyContinue
}
$answers = 'Panther\unattend.xml', 'Panther\unattend-original.xml', 'Panther\Unattend\unattend.xml',
    'System32\Sysprep\unattend.xml'
foreach ($answer in $answers) {
    $path = Join-Path -Path $env:SystemRoot -ChildPath $answer
    if (Test-Path -LiteralPath $path) {
        Remove-Item -LiteralPath $path -Force
    }
}
foreach ($log in 'Application', 'System', 'Security') {
    Invoke-Program -Name 'wevtutil.exe' -Arguments 'clear-log', $log | Out-Null
}
# Blocks that Windows no longer uses are given back to the host's disk image.
Optimize-Volume -DriveLetter C -ReTrim -ErrorAction SilentlyContinue

@{
    powershell = [string] $PSVersionTable.PSVersion
}
