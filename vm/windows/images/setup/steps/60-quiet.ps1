# Stops what would change the guest, or use it, while tests run.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

if (-not $Data.updates) {
    $update = 'HKLM:\SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate'
    Set-RegistryValue -Key ($update + '\AU') -Name 'NoAutoUpdate' -Value 1
    Set-RegistryValue -Key $update -Name 'DoNotConnectToWindowsUpdateInternetLocations' -Value 1
    Set-RegistryValue -Key 'HKLM:\SOFTWARE\Policies\Microsoft\WindowsStore' -Name 'AutoDownload' -Value 2
    Set-Service -Name 'wuauserv' -StartupType Disabled
}
if (-not $Data.defender -and (Get-Command -Name 'Set-MpPreference' -ErrorAction SilentlyContinue)) {
    # Tamper Protection may keep Defender on; the facts below say what it is in the end.
    $preference = @{
        DisableRealtimeMonitoring = $true
        MAPSReporting = 'Disabled'
        SubmitSamplesConsent = 'NeverSend'
        ErrorAction = 'SilentlyContinue'
    }
    Set-MpPreference @preference
}
# Server Manager opens at every logon, and Windows asks about each new network.
Set-RegistryValue -Key 'HKLM:\SOFTWARE\Microsoft\ServerManager' -Name 'DoNotOpenServerManagerAtLogon' -Value 1
$network = 'HKLM:\SYSTEM\CurrentControlSet\Control\Network\NewNetworkWindowOff'
if (-not (Test-Path -LiteralPath $network)) {
    New-Item -Path $network -Force | Out-Null
}
$idle = '\Microsoft\Windows\Defrag\', '\Microsoft\Windows\Application Experience\'
foreach ($folder in $idle) {
    # Newer builds keep some of them to themselves.
    Get-ScheduledTask -TaskPath $folder -ErrorAction SilentlyContinue |
        Disable-ScheduledTask -ErrorAction SilentlyContinue |
        Out-Null
}

$watching = $false
if (Get-Command -Name 'Get-MpComputerStatus' -ErrorAction SilentlyContinue) {
    $status = Get-MpComputerStatus -ErrorAction SilentlyContinue
    $watching = $null -ne $status -and $status.RealTimeProtectionEnabled
}
@{
    defender = [bool] $watching
}
